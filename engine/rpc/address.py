"""Reads the address of a server: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`."""

import ipaddress
import os
import re
from dataclasses import dataclass

from engine.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
"""Source: unix(7), whose addresses hold 108 bytes with the closing zero."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)
_LIKE_A_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)\.?", re.ASCII | re.IGNORECASE)
"""What the last part of says that it is no name: `127.1`, `0x7f000001`, `256.0.0.1`."""
_NOT_IN_PATHS = re.compile(r"[\0%?#]")
_HOST_NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    """A name or an IP address, of IPv6 without brackets."""
    port: int

    def __str__(self) -> str:
        return f"{bracketed(self.host)}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Read an address, port 0 included.

    Raises:
        ConfigError: it is none; the text says what is wrong, not of which setting.
    """
    if text.startswith("unix:"):
        return _parse_socket(text.removeprefix("unix:"))
    _require_plain(text)
    host, port = _split(text)
    if not port:
        raise ConfigError(f"it has no port, such as {bracketed(host) or '127.0.0.1'}:50051")
    if not (port.isascii() and port.isdigit()):
        raise ConfigError(f"its port {port!r} is no number")
    if len(port.lstrip("0")) > len("65535") or int(port) >= 2**16:
        raise ConfigError(f"its port {port} is not between 0 and 65535")
    if not host:
        raise ConfigError(f"it has no host, such as 127.0.0.1:{port}")
    if (mapped := _mapped_ipv4(host)) is not None:
        raise ConfigError(f"write it as {mapped}:{port}")
    if _LIKE_A_NUMBER.fullmatch(host) and not _is_ipv4(host):
        raise ConfigError(f"{host!r} is no IPv4 address of four numbers, such as 127.0.0.1")
    if not _is_ipv6(host) and not _HOST_NAME.fullmatch(host):
        raise ConfigError(f"{host!r} is no name of a host (a-z, digits, dots, hyphens)")
    return TcpAddress(host, int(port))


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _parse_socket(path: str) -> UnixAddress:
    if path.startswith("//"):
        path = path[2:]
    if not path or path.endswith("/"):
        raise ConfigError("it names no socket, such as unix:/run/llmsrec.sock")
    if found := _NOT_IN_PATHS.search(path):
        raise ConfigError(f"its path holds {found[0]!r}, which gRPC does not take as it stands")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"its path is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    return UnixAddress(path)


def _require_plain(text: str) -> None:
    """Refuse what is no `HOST:PORT` in a way that can be named."""
    if not text.strip():
        raise ConfigError("it is empty")
    if not text.isprintable() or " " in text:
        raise ConfigError("it holds a space or an invisible character")
    if scheme := _SCHEME.match(text):
        raise ConfigError(f"it has a scheme; leave out {scheme[0]!r}")
    if "/" in text:
        raise ConfigError(f"it has a path; leave out {text[text.index('/') :]!r}")


def _split(text: str) -> tuple[str, str]:
    """Give host and port; what is missing is empty."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or not _is_ipv6(host) or (rest and not rest.startswith(":")):
            raise ConfigError("what begins with a bracket is to be [IPV6]:PORT")
        return host, rest[1:]
    host, colon, port = text.rpartition(":")
    if _is_ipv6(text) or _is_ipv6(host):
        example = f"[{host}]:{port}" if _is_ipv6(host) else f"[{text}]:50051"
        raise ConfigError(f"an IPv6 address stands in brackets, such as {example}")
    if ":" in host:
        raise ConfigError("it has more than one colon")
    if colon:
        return host, port
    return ("", text) if text.isdigit() else (text, "")


def _mapped_ipv4(host: str) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv6Address(host).ipv4_mapped if _is_ipv6(host) else None


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
