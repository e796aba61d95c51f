"""An address is read, refused in its own words, and looked at before a server loads."""

import socket
from pathlib import Path

import grpc
import pytest

from engine.errors import ConfigError
from engine.rpc.address import Address, TcpAddress, UnixAddress, parse_address
from engine.rpc.listening import listen_on, require_free


@pytest.mark.parametrize(
    ("listen", "parsed"),
    [
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("[::]:1", TcpAddress("::", 1)),
        ("unix:/run/a.sock", UnixAddress("/run/a.sock")),
        ("unix:///run/a.sock", UnixAddress("/run/a.sock")),
        ("unix:a.sock", UnixAddress("a.sock")),
    ],
)
def test_address_is_read(listen: str, parsed: Address) -> None:
    assert parse_address(listen) == parsed


@pytest.mark.parametrize("listen", ["localhost", "50051", "http://localhost:1", "a:99999", "unix:"])
def test_what_is_no_address_is_refused_with_flag_and_setting(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"--listen or server\.listen.*; give HOST:PORT or unix"):
        require_free(listen)


@pytest.mark.parametrize("host", ["host.invalid", "a..b"])
def test_unknown_host_is_named(host: str) -> None:
    with pytest.raises(ConfigError, match=r"the host .* is (unknown|none)"):
        require_free(f"{host}:1")


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is no address of this machine"):
        require_free("192.0.2.1:0")


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make `localhost` a host of two addresses, as it is where IPv6 is on."""
    addresses = ["127.0.0.1", "127.0.0.2"]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    return addresses


@pytest.mark.parametrize("place", [0, 1])
def test_host_is_refused_where_one_of_its_addresses_is_taken(
    two_addresses: list[str], place: int
) -> None:
    with socket.create_server((two_addresses[place], 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"{two_addresses[place]} port {port} is in use"):
            require_free(f"localhost:{port}")


@pytest.fixture
async def server() -> grpc.aio.Server:
    return grpc.aio.server(options=[("grpc.so_reuseport", 0)])


async def test_every_address_of_a_host_is_bound_to_the_same_port(
    server: grpc.aio.Server, two_addresses: list[str]
) -> None:
    host, port = listen_on(server, "localhost:0").split(":")
    assert host == "localhost"
    await server.start()
    for address in two_addresses:
        with socket.socket() as client:
            client.connect((address, int(port)))
    await server.stop(None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.sock"


async def test_socket_that_a_killed_server_left_is_taken_over(
    server: grpc.aio.Server, path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert listen_on(server, f"unix:{path}") == f"unix:{path}"
    await server.start()
    with pytest.raises(ConfigError, match=f"{path} is in use"):
        require_free(f"unix:{path}")
    await server.stop(None)
    assert not path.exists()


def test_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigError, match=f"{path} exists and is no socket"):
        require_free(f"unix:{path}")
    assert path.read_text() == "precious"


def test_link_is_no_socket(path: Path) -> None:
    path.symlink_to("nowhere")
    with pytest.raises(ConfigError, match=f"{path} is a link"):
        require_free(f"unix:{path}")


def test_every_address_of_ipv6_is_one_of_ipv4_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f":: port {port} is in use"):
            require_free(f"[::]:{port}")


def test_socket_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent is no folder that this user may write to"):
        require_free(f"unix:{tmp_path}/absent/a.sock")
