"""Where a server listens: reads an address, and looks before loading whether it can be had."""

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc

from engine.errors import ConfigError
from engine.rpc.address import Address, TcpAddress, UnixAddress, parse_address

_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def require_free(listen: str) -> None:
    """Look whether a server could listen there now.

    Raises:
        ConfigError: it is no address, its host is unknown, or one of its addresses cannot be had.
    """
    match _parse(listen):
        case UnixAddress(path):
            _require_free_path(listen, Path(path))
        case TcpAddress(host, port):
            for address in _resolve(listen, host):
                _require_free_port(listen, address, port)


def listen_on(server: grpc.aio.Server, listen: str) -> str:
    """Let a server listen on every address of `listen`, and give that with the real port.

    Raises:
        ConfigError: as `require_free`.
    """
    require_free(listen)
    address = _parse(listen)
    if isinstance(address, UnixAddress):
        _add(server, listen, str(address))
        return str(address)
    port = address.port
    for _, host in _resolve(listen, address.host):
        port = _add(server, listen, str(TcpAddress(host, port)))
    return str(TcpAddress(address.host, port))


def _parse(listen: str) -> Address:
    try:
        return parse_address(listen)
    except ConfigError as error:
        raise _refuse(listen, f"{error}; give HOST:PORT or unix:PATH") from error


def _resolve(listen: str, host: str) -> Iterator[tuple[socket.AddressFamily, str]]:
    """Give each address of a host, but IPv6's own loopback where IPv6 is off.

    gRPC would be content with one of them, and another program could hold the rest. A number is
    not looked up.
    """
    if (numeric_family := _family_of_number(host)) is not None:
        yield numeric_family, host
        return
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
        yield family, numeric


def _family_of_number(host: str) -> socket.AddressFamily | None:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return socket.AF_INET6 if version == 6 else socket.AF_INET


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
        if family == socket.AF_INET6:  # as gRPC does: "every address" is of IPv4, too
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def _require_free_path(listen: str, path: Path) -> None:
    """Refuse a path whose socket a server holds; one that a killed server left is taken over."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _refuse(listen, f"{path.parent} is no folder that this user may write to")
    if path.is_symlink():
        raise _refuse(listen, f"{path} is a link; name the socket itself")
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
