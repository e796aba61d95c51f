"""Where a server is asked for: an address that is checked before anything is sent there."""

import ipaddress
import os
import re
from dataclasses import dataclass

from engine.errors import ConfigError

_FORM = "give HOST:PORT or unix:/path/of/socket"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)
_HOST_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
_MAX_SOCKET_PATH_BYTES = 107
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Those that gRPC heeds, in its order."""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    """What gRPC calls it."""
    host: str
    """Empty for a socket's path."""
    is_local: bool

    @property
    def options(self) -> list[tuple[str, int]]:
        """Give the options of a channel: answers of any size, and no proxy on this machine."""
        options = [("grpc.max_receive_message_length", -1)]
        return [*options, ("grpc.enable_http_proxy", 0)] if self.is_local else options

    @property
    def proxy_variable(self) -> str | None:
        """Name the environment variable whose proxy gRPC calls it through, but for no_proxy."""
        if self.is_local:
            return None
        return next((name for name in _PROXY_VARIABLES if os.environ.get(name)), None)


def parse_target(address: str) -> Target:
    """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.

    Raises:
        ConfigError: it is none of them.
    """
    if address.startswith("unix:"):
        return _parse_socket(address)
    _require_plain(address)
    host, port = _split(address)
    if not port:
        raise _refuse(address, f"it has no port, such as {host or '127.0.0.1'}:50051")
    if not (port.isascii() and port.isdigit()):
        raise _refuse(address, f"its port {port!r} is no number")
    if port.strip("0") == "":
        raise _refuse(address, "port 0 stands for any; `serve` prints which one it took")
    if len(port.lstrip("0")) > 5 or int(port) >= 2**16:
        raise _refuse(address, f"its port {port} is not between 1 and 65535")
    if not host:
        raise _refuse(address, f"it has no host, such as 127.0.0.1:{port}")
    if not host.startswith("[") and not _HOST_NAME.fullmatch(host):
        raise _refuse(address, f"{host!r} is no name of a host (a-z, digits, dots, hyphens)")
    return Target(f"{host}:{int(port)}", host, _is_local(host.strip("[]")))


def _parse_socket(address: str) -> Target:
    path = address.removeprefix("unix:")
    if not path.strip("/"):
        raise _refuse(address, "it names no socket")
    if "\0" in path:
        raise _refuse(address, "its path holds a zero byte")
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise _refuse(address, f"its path is longer than {_MAX_SOCKET_PATH_BYTES} bytes")
    return Target(address, "", is_local=True)


def _require_plain(address: str) -> None:
    """Refuse what is no `HOST:PORT` in a way that can be named."""
    if not address.strip():
        raise _refuse(address, "it is empty")
    if not address.isprintable() or " " in address:
        raise _refuse(address, "it holds a space or an invisible character")
    if scheme := _SCHEME.match(address):
        raise _refuse(address, f"it has a scheme; leave out {scheme[0]!r}")
    if "/" in address:
        raise _refuse(address, f"it has a path; leave out {address[address.index('/') :]!r}")


def _split(address: str) -> tuple[str, str]:
    """Give host, in brackets where it is of IPv6, and port; what is missing is empty."""
    if address.startswith("["):
        host, closed, rest = address[1:].partition("]")
        if not closed or not _is_ipv6(host) or (rest and not rest.startswith(":")):
            raise _refuse(address, "what begins with a bracket is to be [IPV6]:PORT")
        return f"[{host}]", rest[1:]
    host, colon, port = address.rpartition(":")
    if _is_ipv6(address) or _is_ipv6(host):
        example = f"[{host}]:{port}" if _is_ipv6(host) else f"[{address}]:50051"
        raise _refuse(address, f"an IPv6 address stands in brackets, such as {example}")
    if ":" in host:
        raise _refuse(address, "it has more than one colon")
    if colon:
        return host, port
    return ("", address) if address.isdigit() else (address, "")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_local(host: str) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".") == "localhost"
    return ip.is_loopback or ip.is_unspecified  # to call the latter is to call this machine


def _refuse(address: str, problem: str) -> ConfigError:
    return ConfigError(f"{address!r} is no address of a server: {problem}; {_FORM}")
