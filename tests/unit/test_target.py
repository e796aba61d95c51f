"""Addresses of servers: taken, or refused with what is wrong about them before any call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.rpc.target import parse_target

NO_PROXY = ("grpc.enable_http_proxy", 0)


@pytest.mark.parametrize(
    ("address", "name", "is_local"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051", True),
        ("127.9.9.9:1", "127.9.9.9:1", True),
        ("localhost:00080", "localhost:80", True),
        ("LocalHost:65535", "LocalHost:65535", True),
        ("0.0.0.0:50051", "0.0.0.0:50051", True),
        ("[::1]:50051", "[::1]:50051", True),
        ("unix:/run/engine.sock", "unix:/run/engine.sock", True),
        ("unix:engine.sock", "unix:engine.sock", True),
        ("10.0.0.7:50051", "10.0.0.7:50051", False),
        ("[2001:db8::7]:50051", "[2001:db8::7]:50051", False),
        ("localhost.example.com:1", "localhost.example.com:1", False),
        ("127.example.com:1", "127.example.com:1", False),
        ("my_service-1.internal:50051", "my_service-1.internal:50051", False),
    ],
)
def test_a_proxy_is_for_other_machines_alone(address: str, name: str, is_local: bool) -> None:
    target = parse_target(address)
    assert target.name == name
    assert target.is_local == is_local
    assert (NO_PROXY in target.options) == is_local


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        pytest.param("", "it is empty", id="empty"),
        pytest.param("  ", "it is empty", id="blank"),
        pytest.param("localhost", "it has no port, such as localhost:50051", id="host alone"),
        pytest.param(
            "127.0.0.1:", "it has no port, such as 127.0.0.1:50051", id="colon at the end"
        ),
        pytest.param(":50051", "it has no host, such as 127.0.0.1:50051", id="colon and port"),
        pytest.param("50051", "it has no host, such as 127.0.0.1:50051", id="port alone"),
        pytest.param(":", "it has no port, such as 127.0.0.1:50051", id="colon alone"),
        pytest.param("localhost:0", "port 0 stands for any", id="port 0"),
        pytest.param("localhost:70000", "70000 is not between 0 and 65535", id="port too high"),
        pytest.param("localhost:" + "9" * 5000, "is not between 0 and 65535", id="endless port"),
        pytest.param("localhost:-1", "its port '-1' is no number", id="negative port"),
        pytest.param("localhost:http", "its port 'http' is no number", id="service name"),
        pytest.param("localhost:٣", "its port '٣' is no number", id="Arabic digit"),
        pytest.param("http://localhost:50051", "leave out 'http://'", id="http"),
        pytest.param("https://localhost:50051/", "leave out 'https://'", id="https"),
        pytest.param("dns:///localhost:50051", "leave out 'dns://'", id="gRPC's own scheme"),
        pytest.param("localhost:50051/v1", "leave out '/v1'", id="path"),
        pytest.param("local host:50051", "holds a space", id="space inside"),
        pytest.param("localhost:50051 ", "holds a space", id="space after"),
        pytest.param("localhost:50051\n", "holds a space or an invisible", id="line break"),
        pytest.param("me@localhost:50051", "'me@localhost' is no name of a host", id="user"),
        pytest.param("a:1,b:2", "more than one colon", id="list"),
        pytest.param("::1:50051", "in brackets, such as [::1]:50051", id="bare IPv6 and port"),
        pytest.param("2001:db8::7", "in brackets, such as [2001:db8::7]:50051", id="bare IPv6"),
        pytest.param("[::1]", "it has no port, such as [::1]:50051", id="IPv6 without port"),
        pytest.param("[::1:50051", "is to be [IPV6]:PORT", id="bracket left open"),
        pytest.param("[localhost]:50051", "is to be [IPV6]:PORT", id="name in brackets"),
        pytest.param("127.1:50051", "no IPv4 address of four numbers", id="short IPv4"),
        pytest.param("0x7f000001:1", "no IPv4 address of four numbers", id="hexadecimal IPv4"),
        pytest.param("256.0.0.1:1", "no IPv4 address of four numbers", id="number beyond IPv4"),
        pytest.param("[::ffff:127.0.0.1]:1", "write it as 127.0.0.1:1", id="IPv4 within IPv6"),
        pytest.param("unix:/a%20b", "its path holds '%'", id="sign in a path"),
        pytest.param("unix:", "it names no socket", id="no socket"),
        pytest.param("unix:///", "it names no socket", id="root as socket"),
        pytest.param("unix:/" + "x" * 107, "longer than 107 bytes", id="long socket"),
    ],
)
def test_what_is_no_address_is_refused_in_its_own_words(address: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(address)
    message = str(caught.value)
    assert message.startswith(f"{address!r} is no address of a server: ")
    assert problem in message
    assert message.endswith("; give HOST:PORT or unix:/path/of/socket")


@given(st.text(max_size=12) | st.text("[]:1a./ @%", max_size=12))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        target = parse_target(text)
    except ConfigError:
        return
    assert parse_target(target.name) == target
