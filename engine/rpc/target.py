"""Where a server is asked for: an address that is checked before anything is sent there."""

import ipaddress
import os
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.rpc.address import Address, TcpAddress, parse_address

_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Those that gRPC heeds, in its order."""


@dataclass(frozen=True, slots=True)
class Target:
    address: Address

    @property
    def name(self) -> str:
        """What gRPC calls it."""
        return str(self.address)

    @property
    def host(self) -> str:
        """Empty for a socket's path."""
        return self.address.host if isinstance(self.address, TcpAddress) else ""

    @property
    def is_local(self) -> bool:
        """Whether it is of this machine, as far as its name tells."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            return self.host.lower().rstrip(".") in ("", "localhost")
        return ip.is_loopback or ip.is_unspecified  # to call the latter is to call this machine

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
    try:
        parsed = parse_address(address)
    except ConfigError as error:
        raise _refuse(address, str(error)) from error
    if isinstance(parsed, TcpAddress) and parsed.port == 0:
        raise _refuse(address, "port 0 stands for any; `serve` prints which one it took")
    return Target(parsed)


def _refuse(address: str, problem: str) -> ConfigError:
    return ConfigError(
        f"{address!r} is no address of a server: {problem}; give HOST:PORT or unix:/path/of/socket"
    )
