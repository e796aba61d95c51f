"""Where a server listens: reads an address, and looks before loading whether it can be had."""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from engine.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
"""Source: unix(7), whose addresses hold 108 bytes with the closing zero."""

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path


def require_free(listen: str) -> None:
    """Look whether a server could listen there now.

    Raises:
        ConfigError: it is no address, its host is unknown, or one of its addresses cannot be had.
    """
    match parse_listen(listen):
        case UnixAddress(path):
            _require_free_path(listen, path)
        case TcpAddress(host, port):
            for address, _ in _resolve(listen, host):
                _require_free_port(listen, address, port)


def listen_on(server: grpc.aio.Server, listen: str) -> str:
    """Let a server listen on every address of `listen`, and give that with the real port.

    Raises:
        ConfigError: as `require_free`.
    """
    require_free(listen)
    parsed = parse_listen(listen)
    if isinstance(parsed, UnixAddress):
        _add(server, listen, f"unix:{parsed.path}")
        return f"unix:{parsed.path}"
    port = parsed.port
    for _, host in _resolve(listen, parsed.host):
        port = _add(server, listen, f"{host}:{port}")
    host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    return f"{host}:{port}"


def parse_listen(listen: str) -> TcpAddress | UnixAddress:
    """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.

    Raises:
        ConfigError: it is none of them; the text says what to write.
    """
    if listen.startswith("unix:"):
        return _parse_unix(listen)
    scheme, separator, _ = listen.partition("://")
    if separator:
        raise _refuse(listen, f"leave out {scheme}://, and give HOST:PORT or unix:PATH")
    host, colon, port = listen.rpartition(":")
    if not colon or listen.endswith("]"):
        raise _refuse(listen, f"the port is missing; give HOST:PORT, such as {listen}:50051")
    if not host:
        hosts = f"127.0.0.1:{port} for this machine alone or 0.0.0.0:{port} for every one"
        raise _refuse(listen, f"the host is missing; give {hosts}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _refuse(listen, f"write an IPv6 address in brackets, such as [{host}]:{port}")
    return TcpAddress(host, _parse_port(listen, port))


def _parse_unix(listen: str) -> UnixAddress:
    path = listen.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]
    if not path or path.endswith("/") or "\0" in path:
        raise _refuse(listen, "name the socket's file, such as unix:/run/llmsrec.sock")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise _refuse(listen, f"the path has more than {MAX_SOCKET_PATH_BYTES} bytes")
    return UnixAddress(Path(path))


def _parse_port(listen: str, port: str) -> int:
    if not (port.isascii() and port.isdigit()):
        raise _refuse(listen, f"the port {port!r} is no number; give HOST:PORT")
    if len(port) > len("65535") or int(port) > 65_535:
        raise _refuse(listen, f"the port {port} is not between 0 and 65535")
    return int(port)


def _resolve(listen: str, host: str) -> Iterator[tuple[tuple[socket.AddressFamily, str], str]]:
    """Give each address of a host, but IPv6's own loopback where IPv6 is off, and as gRPC has it.

    gRPC would be content with one of them, and another program could hold the rest.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise _refuse(listen, f"the host {host!r} is unknown ({error.strerror})") from error
    except ValueError as error:  # no host name at all, such as one with an empty label
        raise _refuse(listen, f"the host {host!r} is none ({error})") from error
    for family, *_, sockaddr in dict.fromkeys(found):
        numeric, _ = socket.getnameinfo(sockaddr, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        if numeric == "::1" and _has_no_ipv6():
            continue
        yield (family, numeric), f"[{numeric}]" if family == socket.AF_INET6 else numeric


def _has_no_ipv6() -> bool:
    try:
        _bind((socket.AF_INET6, "::1"), 0)
    except OSError as error:
        return error.errno in _NO_IPV6
    return False


def _require_free_port(listen: str, address: tuple[socket.AddressFamily, str], port: int) -> None:
    try:
        _bind(address, port)
    except OSError as error:
        where = f"{address[1]} port {port}"
        match error.errno:
            case errno.EADDRINUSE:
                problem = f"{where} is in use; stop what listens there, or choose another port"
            case errno.EADDRNOTAVAIL:
                problem = f"{address[1]} is no address of this machine; 0.0.0.0 is every one"
            case errno.EACCES:
                problem = f"{where} is not for this user; choose a port from 1024 on"
            case _:
                problem = f"{where}: {error.strerror}"
        raise _refuse(listen, problem) from error


def _bind(address: tuple[socket.AddressFamily, str], port: int) -> None:
    family, host = address
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _require_free_path(listen: str, path: Path) -> None:
    """Refuse a path whose socket a server holds; one that a killed server left is taken over."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _refuse(listen, f"{path.parent} is no folder that this user may write to")
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise _refuse(listen, f"{path} exists and is no socket; remove it or name another")
    except OSError:
        return  # nothing is there
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise _refuse(listen, f"{path} is in use; stop the server that listens there")


def _add(server: grpc.aio.Server, listen: str, address: str) -> int:
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise _refuse(listen, f"gRPC cannot have {address}") from error


def _refuse(listen: str, problem: str) -> ConfigError:
    return ConfigError(f"cannot listen on {listen!r} (--listen or server.listen): {problem}")
