"""`[[route]]`: what it accepts, and the routes and connection profiles it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironpost.compose.delivery import route_of, routes
from ironpost.config import ConfigError, parse
from ironpost.model import NULL, Address
from ironpost.routing.profile import (
    ClientCertificate,
    ConnectionProfile,
    LoginProfile,
    SecretSource,
    TokenCommand,
)
from ironpost.routing.route import Host, Kind, Route
from ironpost.routing.tls import TlsUse


def profile(text: str) -> ConnectionProfile | None:
    return parse(f'[[route]]\nsmart_host = ["relay.example:587"]\n{text}').route[0].profile()


@pytest.mark.parametrize("name", ["a@b", "[1:2]", "a/b", "<x>", "..", "-", "a..b", "xn--zzzzz-", "x" * 64])
def test_a_smart_host_is_a_host(name: str) -> None:
    """Otherwise the error would come with the first message."""
    with pytest.raises(ConfigError, match=r"route\[1\]\.smart_host\[1\]: (invalid next hop|an endpoint is)"):
        parse(f'[[route]]\nsmart_host = ["{name}:25"]')


@pytest.mark.parametrize("name", ["localhost", "smtp.example.", "a_b.example", "127.0.0.1", "[::1]", "bücher.example"])
def test_every_form_of_a_host_is_a_smart_host(name: str) -> None:
    (route,) = parse(f'[[route]]\nsmart_host = ["{name}:25"]').route
    assert str(route_of(route).hosts[0]) == f"{name}:25"


def test_hosts_from_dns_have_no_implicit_tls() -> None:
    with pytest.raises(ConfigError, match='tls: "implicit" needs smart_host'):
        parse('[[route]]\ntls = "implicit"')


def test_a_list_of_other_things_is_not_a_route() -> None:
    with pytest.raises(ConfigError, match=r"route\[1\]: expected a table: write its keys under \[\[route\]\]"):
        parse('route = ["relay.example"]')


def test_a_route_without_connection_keys_has_no_profile() -> None:
    assert profile("") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('tls = "may"', ConnectionProfile(tls=TlsUse.MAY)),
        ('tls = "implicit"', ConnectionProfile(tls=TlsUse.VERIFY, implicit_tls=True)),
        ('ca = "provider.pem"', ConnectionProfile(authorities=Path("provider.pem"))),
        ('source = ["::ffff:192.0.2.1"]', ConnectionProfile(sources=("192.0.2.1",))),
        ('hello = "Out.example"', ConnectionProfile(hello="out.example")),
        ('source = ["192.0.2.1", "2001:DB8::1"]', ConnectionProfile(sources=("192.0.2.1", "2001:db8::1"))),
        (
            'certificate = "c.pem"\nkey = "file:c.key"',
            ConnectionProfile(certificate=ClientCertificate(Path("c.pem"), Path("c.key"))),
        ),
        (
            '[route.auth]\nuser = "jo"\npassword = "env:RELAY"',
            ConnectionProfile(tls=TlsUse.VERIFY, login=LoginProfile("jo", SecretSource("env", "RELAY"))),
        ),
        (
            'tls = "encrypt"\n[route.auth]\nuser = "jo"\npassword = "file:relay"\nmechanisms = ["PLAIN"]',
            ConnectionProfile(
                tls=TlsUse.ENCRYPT, login=LoginProfile("jo", SecretSource("file", "relay"), mechanisms=("PLAIN",))
            ),
        ),
        (
            '[route.auth]\ntoken_command = ["/bin/token", "x"]\ntoken_environment = ["HOME"]\ntoken_timeout = "5s"',
            ConnectionProfile(
                tls=TlsUse.VERIFY, login=LoginProfile(token=TokenCommand(("/bin/token", "x"), ("HOME",), 5.0))
            ),
        ),
    ],
)
def test_what_a_route_says_about_connections(text: str, expected: ConnectionProfile) -> None:
    assert profile(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('tls = "none"\n[route.auth]\nuser = "jo"\npassword = "env:P"', 'a login requires TLS, but tls is "none"'),
        ('tls = "may"\n[route.auth]\nuser = "jo"\npassword = "env:P"', 'a login requires TLS, but tls is "may"'),
        ('[route.auth]\nuser = "jo"', "expected password, token or token_command"),
        ('[route.auth]\npassword = "env:P"', "a password needs the name of its account"),
        ('[route.auth]\nuser = "jo"\npassword = "env:P"\ntoken = "env:T"', "password and token exclude each other"),
        ('[route.auth]\nuser = "jo"\npassword = "hunter2"', 'like "file:secrets/relay" or "env:RELAY"'),
        ('[route.auth]\nuser = "jo"\npassword = "env:A=B"', 'like "file:secrets/relay" or "env:RELAY"'),
        ('[route.auth]\nuser = "jo"\npassword = "file:"', 'like "file:secrets/relay" or "env:RELAY"'),
        ('[route.auth]\nuser = "jo"\npassword = 5', 'like "file:secrets/relay" or "env:RELAY"'),
        ('[route.auth]\ntoken_command = ["token"]', "expected the absolute path of a program"),
        ("[route.auth]\ntoken_command = []", "the list is empty"),
        ('[route.auth]\ntoken_command = "/bin/token"', "expected a list in brackets"),
        ('[route.auth]\nuser = "jo"\npassword = "env:P"\nmechanisms = ["NTLM"]', "is not a known mechanism"),
        (
            '[route.auth]\nuser = "jo"\npassword = "env:P"\nmechanisms = ["XOAUTH2"]',
            "auth.mechanisms: none of them can be",
        ),
        ('[route.auth]\ntoken = "env:T"\nmechanisms = ["XOAUTH2", "PLAIN"]', "auth.mechanisms: none of them can be"),
        (
            'certificate = "c.pem"\nkey = "file:k.pem"\n[route.auth]\nmechanisms = ["PLAIN"]',
            "auth.mechanisms: none of them can be",
        ),
        ('[[route.auth]]\nuser = "jo"', "route[1].auth: expected a table: write its keys under [route.auth]"),
        ('certificate = "c.pem"', "certificate and key are needed together: key is missing"),
        ('key = "file:c.key"', "certificate and key are needed together: certificate is missing"),
        ('source = ["192.0.2.1", "192.0.2.2"]', "at most one source address for each of IPv4 and IPv6"),
        ('source = ["0.0.0.0"]', "is not an address of a host"),
        ('source = ["out.example"]', "is not an address of a host"),
        ('hello = "out host"', "is not a valid domain"),
        ('logins = ["submission"]', "is also the name of a listener"),
        ('senders = ["<jo@mail.example>"]', "is neither an address"),
        ("senders = []", "the list is empty"),
    ],
)
def test_r13_what_cannot_be_a_route_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        profile(text)
    assert sentence in str(caught.value)


def test_r13_a_login_is_not_sent_to_hosts_from_dns() -> None:
    with pytest.raises(ConfigError, match="a login needs smart_host"):
        parse('[[route]]\n[route.auth]\nuser = "jo"\npassword = "env:P"')


def test_a_configuration_shows_where_secrets_are_and_not_what_they_are() -> None:
    found = parse(
        '[[route]]\nsmart_host = ["relay.example:587"]\nsenders = ["<>"]\n'
        '[route.auth]\nuser = "jo"\npassword = "file:secrets/relay"'
    )
    shown = found.model_dump(mode="json")["route"][0]
    assert shown["auth"]["password"] == "file:secrets/relay"
    assert shown["senders"] == ["<>"]


def test_the_routes_of_a_configuration() -> None:
    table = routes(
        parse("""
        [[route]]
        domains = ["direct.example"]

        [[route]]
        senders = ["bulk.example"]
        source = ["192.0.2.7"]

        [[route]]
        smart_host = ["relay.example:587"]
        """)
    )

    def decide(recipient: str, sender: Address) -> Route:
        return table.decide(Address.parse(recipient), sender).route

    ada, bulk = Address.parse("ada@mail.example"), Address.parse("news@bulk.example")
    assert decide("x@direct.example", bulk) == Route.mx()
    assert decide("x@other.example", bulk) == Route.mx(ConnectionProfile(sources=("192.0.2.7",)))
    for sender in (ada, NULL):
        found = decide("x@other.example", sender)
        assert (found.kind, found.hosts) == (Kind.SMART_HOST, (Host("relay.example", 587),))
