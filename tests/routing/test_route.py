"""Route decisions and their reasons."""

from __future__ import annotations

import pytest

from ironpost.model import NULL, Address
from ironpost.model.patterns import AddressPattern
from ironpost.routing.profile import ConnectionProfile
from ironpost.routing.route import Host, Kind, Route, Routes, Rule, SenderNeeded, destination_label
from ironpost.testing.directory import local

ONE = Route.smart(["one.example"])
TWO = Route.smart(["two.example:2525", "[2001:db8::1]:26"])


def decide(routes: Routes, text: str) -> Route:
    return routes.decide(Address.parse(text)).route


def test_local_domains_ignore_case_and_rules() -> None:
    routes = Routes(local(["Localhost", "a.example"]), [Rule(("*",), ONE)])
    assert decide(routes, "x@A.EXAMPLE").kind is Kind.LOCAL
    assert decide(routes, "x@localhost").kind is Kind.LOCAL
    assert decide(routes, "x@b.a.example") == ONE


def test_f60_with_a_star_every_domain_is_local() -> None:
    routes = Routes(local(["*"]))
    for text in (
        "x@a.example",
        "x@B.a.EXAMPLE",
        "x@[192.0.2.1]",
        "x@[IPv6:2001:db8::1]",
        "x@bücher.example",
        "postmaster",
    ):
        assert decide(routes, text).kind is Kind.LOCAL
    assert routes.decide(Address.parse("x@a.example")).reasons == ("a.example is local by *",)


def test_f60_a_local_wildcard_matches_subdomains_only() -> None:
    routes = Routes(local(["*.a.example"]))
    assert decide(routes, "x@b.A.example").kind is Kind.LOCAL
    assert decide(routes, "x@a.example").kind is Kind.MX


def test_postmaster_without_a_domain_is_local() -> None:  # RFC 5321 §4.5.1
    decision = Routes(local(["a.example"])).decide(Address.parse("Postmaster"))
    assert decision.route.kind is Kind.LOCAL
    assert decision.reasons == ("<postmaster> without a domain is local",)


def test_the_null_reverse_path_has_no_route() -> None:
    with pytest.raises(ValueError, match="null reverse-path"):
        Routes(local([])).decide(NULL)


def test_first_match_wins() -> None:
    routes = Routes(
        local([]), [Rule(("b.example",), ONE), Rule(("*.example",), TWO), Rule(("b.example", "c.test"), ONE)]
    )
    assert decide(routes, "x@b.example") == ONE
    assert decide(routes, "x@z.b.example") == TWO
    assert decide(routes, "x@c.test") == ONE
    assert decide(routes, "x@d.test") == Route.mx()


def test_a_wildcard_matches_subdomains_only() -> None:
    routes = Routes(local([]), [Rule(("*.b.example",), ONE)])
    assert decide(routes, "x@b.example").kind is Kind.MX
    assert decide(routes, "x@xb.example").kind is Kind.MX
    assert decide(routes, "x@y.B.example") == ONE


def test_every_decision_carries_its_reasons_in_order() -> None:
    routes = Routes(local(["a.example"]), [Rule(("*.b.example",), TWO, name="to-b")])
    assert routes.decide(Address.parse("x@a.example")).reasons == ("a.example is local",)
    assert routes.decide(Address.parse("x@y.b.example")).reasons == (
        "y.b.example is not local",
        "to-b matches by *.b.example: smart host two.example:2525, [2001:db8::1]:26",
    )
    assert routes.decide(Address.parse("x@c.example")).reasons == (
        "c.example is not local",
        "none of 1 rules matches",
        "default: mx",
    )


def test_the_default_can_be_a_smart_host() -> None:
    assert decide(Routes(local([]), default=ONE), "x@c.example") == ONE


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
def test_forms_of_a_smart_host(text: str, name: str, port: int) -> None:
    assert Host.parse(text) == Host(name, port)
    assert Host.parse(str(Host(name, port))) == Host(name, port)


@pytest.mark.parametrize(
    "text",
    ["", ":25", "mx.example:", "mx.example:x", "mx.example:0", "mx.example:65536", "2001:db8::1", "[::1", "[::1]25",
     "[::g]:25", "a b:25", "u@mx.example", "mx.example:٢٥"],
)  # fmt: skip
def test_an_invalid_smart_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Host.parse(text)


def test_a_smart_host_route_needs_a_host() -> None:
    with pytest.raises(ValueError, match="at least one host"):
        Route.smart([])


@pytest.mark.parametrize("pattern", ["", "*.", "*a.example", "a*.example", ".a.example", "x@a.example", "a.*"])
def test_an_invalid_domain_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="domain pattern"):
        Rule((pattern,), ONE)


# -- conditions other than the domain ---------------------------------------------------------------------------------

JO = Address.parse("jo@a.example")
BY_SENDER = Rule(("*",), ONE, senders=(AddressPattern("a.example"), AddressPattern("x@b.example")))


@pytest.mark.parametrize(
    ("sender", "expected"),
    [("jo@A.example", ONE), ("x@b.example", ONE), ("y@b.example", Route.mx()), ("jo@sub.a.example", Route.mx())],
)
def test_a_rule_may_match_the_sender(sender: str, expected: Route) -> None:
    routes = Routes(local([]), [BY_SENDER])
    assert routes.decide(Address.parse("x@other.example"), Address.parse(sender)).route == expected


def test_only_its_own_pattern_matches_the_null_reverse_path() -> None:
    every = Rule(("*",), ONE, senders=(AddressPattern("*"),))
    bounces = Rule(("*",), TWO, senders=(None,))
    for rules, expected in (([every], Route.mx()), ([every, bounces], TWO)):
        assert Routes(local([]), rules).decide(Address.parse("x@other.example"), NULL).route == expected


def test_a_rule_may_match_the_login() -> None:
    routes = Routes(local([]), [Rule(("*",), ONE, logins=frozenset({"ada"}))])
    assert routes.decide(Address.parse("x@other.example"), None, "ada").route == ONE
    assert routes.decide(Address.parse("x@other.example"), None, "grace").route == Route.mx()
    assert routes.decide(Address.parse("x@other.example"), JO, "").route == Route.mx()


def test_all_conditions_must_hold_and_the_reason_names_them() -> None:
    rule = Rule(("*.example",), ONE, senders=BY_SENDER.senders, logins=frozenset({"ada"}))
    routes = Routes(local([]), [rule])
    decision = routes.decide(Address.parse("x@other.example"), JO, "ada")
    assert decision.reasons[-1] == (
        "rule 1 matches by *.example, login ada, sender a.example: smart host one.example:25"
    )
    assert routes.decide(Address.parse("x@other.test"), JO, "ada").route == Route.mx()


def test_a_route_that_depends_on_an_unknown_sender_is_not_guessed() -> None:
    routes = Routes(local(["here.example"]), [Rule(("first.example",), TWO), BY_SENDER])
    with pytest.raises(SenderNeeded):
        routes.decide(Address.parse("x@other.example"))
    assert routes.decide(Address.parse("x@here.example")).route.kind is Kind.LOCAL
    assert routes.decide(Address.parse("x@first.example")).route == TWO


def test_r39_routes_with_different_profiles_are_different_destinations() -> None:
    profiles = [None, ConnectionProfile(hello="a.example"), ConnectionProfile(sources=("192.0.2.1",))]
    for make in (Route.mx, lambda profile: Route.smart(["one.example"], profile)):
        made = [make(profile) for profile in profiles]
        assert len(set(made)) == len({str(route) for route in made}) == 3
        assert len({destination_label(route, "a.example") for route in made}) == 3
        assert make(ConnectionProfile(hello="a.example")) == made[1]
