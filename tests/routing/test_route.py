"""Which way an address takes, and the reasons given."""

from __future__ import annotations

import pytest

from ironpost.model import NULL, Address
from ironpost.routing.route import Host, Kind, Route, Routes, Rule

ONE = Route.smart(["one.example"])
TWO = Route.smart(["two.example:2525", "[2001:db8::1]:26"])


def decide(routes: Routes, text: str) -> Route:
    return routes.decide(Address.parse(text)).route


def test_local_domains_stay_here_whatever_their_case_and_whatever_the_rules_say() -> None:
    routes = Routes(["Localhost", "a.example"], [Rule(("*",), ONE)])
    assert decide(routes, "x@A.EXAMPLE").kind is Kind.LOCAL
    assert decide(routes, "x@localhost").kind is Kind.LOCAL
    assert decide(routes, "x@b.a.example") == ONE


def test_f60_with_a_star_every_domain_is_local() -> None:
    routes = Routes(["*"])
    for text in (
        "x@a.example",
        "x@B.a.EXAMPLE",
        "x@[192.0.2.1]",
        "x@[IPv6:2001:db8::1]",
        "x@bücher.example",
        "postmaster",
    ):
        assert decide(routes, text).kind is Kind.LOCAL
    assert routes.decide(Address.parse("x@a.example")).reasons == ("a.example is a local domain by *",)


def test_f60_a_local_wildcard_is_what_lies_below() -> None:
    routes = Routes(["*.a.example"])
    assert decide(routes, "x@b.A.example").kind is Kind.LOCAL
    assert decide(routes, "x@a.example").kind is Kind.MX


def test_postmaster_without_a_domain_is_local() -> None:  # RFC 5321 §4.5.1
    decision = Routes(["a.example"]).decide(Address.parse("Postmaster"))
    assert decision.route.kind is Kind.LOCAL
    assert decision.reasons == ("<postmaster> without a domain is local",)


def test_the_null_reverse_path_has_no_route() -> None:
    with pytest.raises(ValueError, match="null reverse-path"):
        Routes([]).decide(NULL)


def test_first_match_wins() -> None:
    routes = Routes([], [Rule(("b.example",), ONE), Rule(("*.example",), TWO), Rule(("b.example", "c.test"), ONE)])
    assert decide(routes, "x@b.example") == ONE
    assert decide(routes, "x@z.b.example") == TWO
    assert decide(routes, "x@c.test") == ONE
    assert decide(routes, "x@d.test") == Route.mx()


def test_a_wildcard_is_what_lies_below_not_the_domain_itself() -> None:
    routes = Routes([], [Rule(("*.b.example",), ONE)])
    assert decide(routes, "x@b.example").kind is Kind.MX
    assert decide(routes, "x@xb.example").kind is Kind.MX
    assert decide(routes, "x@y.B.example") == ONE


def test_every_decision_tells_its_reasons_in_order() -> None:
    routes = Routes(["a.example"], [Rule(("*.b.example",), TWO, name="to-b")])
    assert routes.decide(Address.parse("x@a.example")).reasons == ("a.example is a local domain",)
    assert routes.decide(Address.parse("x@y.b.example")).reasons == (
        "y.b.example is not a local domain",
        "rule to-b matches by *.b.example: smart host two.example:2525, [2001:db8::1]:26",
    )
    assert routes.decide(Address.parse("x@c.example")).reasons == (
        "c.example is not a local domain",
        "none of 1 rules matches",
        "default: mx",
    )


def test_the_default_can_be_a_smart_host() -> None:
    assert decide(Routes([], default=ONE), "x@c.example") == ONE


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("mx.example", "mx.example", 25),
        ("mx.example:587", "mx.example", 587),
        ("192.0.2.1:2525", "192.0.2.1", 2525),
        ("[2001:db8::1]", "2001:db8::1", 25),
        ("[IPv6:2001:db8::1]:26", "2001:db8::1", 26),
        ("[192.0.2.1]:26", "192.0.2.1", 26),
    ],
)
def test_smart_hosts_as_people_write_them(text: str, name: str, port: int) -> None:
    assert Host.parse(text) == Host(name, port)
    assert Host.parse(str(Host(name, port))) == Host(name, port)


@pytest.mark.parametrize(
    "text",
    ["", ":25", "mx.example:", "mx.example:x", "mx.example:0", "mx.example:65536", "2001:db8::1", "[::1", "[::1]25",
     "[::g]:25", "a b:25", "u@mx.example", "mx.example:٢٥"],
)  # fmt: skip
def test_a_malformed_smart_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Host.parse(text)


def test_a_smart_host_route_needs_a_host() -> None:
    with pytest.raises(ValueError, match="at least one host"):
        Route.smart([])


@pytest.mark.parametrize("pattern", ["", "*.", "*a.example", "a*.example", ".a.example", "x@a.example", "a.*"])
def test_a_malformed_domain_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="domain pattern"):
        Rule((pattern,), ONE)
