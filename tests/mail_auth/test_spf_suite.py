"""SPF against judges: the public test suite of RFC 7208, and pyspf on records that were made at random."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.mail_auth import pyspf

from ironpost.mail_auth import check_spf

DEFAULT = "DEFAULT"
"""The explanation that the suite expects where a domain gives none."""


def test_all_vectors_of_the_public_suite_of_rfc_7208() -> None:
    wrong = []
    count = 0
    for scenario in pyspf.scenarios():
        resolver = pyspf.ZoneResolver(scenario["zonedata"])
        for name, case in scenario["tests"].items():
            count += 1
            answer = asyncio.run(
                check_spf(
                    ip=case["host"], helo=case["helo"], sender=case.get("mailfrom") or "", resolver=resolver, now=0.0
                )
            )
            allowed = [case["result"]] if isinstance(case["result"], str) else case["result"]
            explained = case.get("explanation") in {None, answer.explanation or DEFAULT}
            if answer.result not in allowed or not explained:
                wrong.append((name, case["result"], case.get("explanation"), answer))
    assert wrong == []
    assert count == 203


TARGETS = ["", ":a.example", ":b.example", ":c.example", ":%{d}", ":%{ir}.b.example", ":none.example", ":error.example"]
QUALIFIERS = st.sampled_from(["", "+", "-", "~", "?"])


def records(*included: str) -> st.SearchStrategy[str]:
    """Records that include only these names: pyspf refuses one that includes itself, even if it is never evaluated."""
    term = st.one_of(
        st.sampled_from(["all", "-all", "ip4:192.0.2.0/24", "ip4:192.0.2.1", "ip4:192.0.2.300", "ip6:2001:db8::/32"]),
        st.sampled_from(["redirect=b.example", "redirect=c.example", "exp=a.example", "wrong"]),
        st.tuples(
            QUALIFIERS, st.sampled_from(["a", "mx", "ptr"]), st.sampled_from(TARGETS), st.sampled_from(["", "/24"])
        ),
        st.tuples(QUALIFIERS, st.just("exists"), st.sampled_from(TARGETS[1:])),
        st.tuples(QUALIFIERS, st.just("include:"), st.sampled_from([*included, "none.example", "error.example"])),
    ).map("".join)
    return st.lists(term, max_size=4).map(lambda terms: " ".join(["v=spf1", *terms]))


@settings(deadline=None)
@given(
    a=records("b.example", "c.example"),
    b=records("a.example", "c.example"),
    c=records(),
    ip=st.sampled_from(["192.0.2.1", "198.51.100.1", "2001:db8::1"]),
)
def test_pyspf_gives_the_same_results(a: str, b: str, c: str, ip: str) -> None:
    zone = {
        "a.example": [{"TXT": a}, {"A": "192.0.2.1"}, {"MX": [10, "b.example"]}],
        "b.example": [{"TXT": b}, {"A": "198.51.100.1"}, {"AAAA": "2001:db8::1"}],
        "c.example": [{"TXT": c}, {"MX": [10, "a.example"]}, {"MX": [20, "c.example"]}, {"A": "203.0.113.1"}],
        "1.2.0.192.b.example": [{"A": "127.0.0.2"}],
        "1.2.0.192.in-addr.arpa": [{"PTR": "a.example"}, {"PTR": "b.example"}],
        "1.100.51.198.in-addr.arpa": [{"PTR": "b.example"}],
        "error.example": ["TIMEOUT"],
    }
    resolver = pyspf.ZoneResolver(zone)
    answer = asyncio.run(check_spf(ip=ip, helo="mx.example", sender="jo@a.example", resolver=resolver, now=0.0))
    assert answer.result == pyspf.judge(zone, ip, "mx.example", "jo@a.example"), answer
