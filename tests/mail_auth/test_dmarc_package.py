"""DMARC against another implementation: the package `dmarc` reads the same records, and comes to the same result.

It knows neither the tree walk nor the tags `np` and `psd`, and refuses records that RFC 9989 wants read as far as
possible. So what is compared has an organizational domain that is known, and records without errors. RFC 9989 §4.7 made
the tag `t` of what was `pct=0`; the package has it too.
"""

from __future__ import annotations

import asyncio
from typing import Final

import dmarc
from hypothesis import given
from hypothesis import strategies as st
from tests.mail_auth.test_dmarc import Signed, Zones

from ironpost.mail_auth import Records, RecordType, SpfAnswer, SpfResult, evaluate_dmarc
from ironpost.mail_auth.dmarc_record import parse_record

ORGANIZATION: Final = "example.org"
DOMAINS: Final = st.sampled_from([ORGANIZATION, "a.example.org", "b.example.org", "x.a.example.org", "example.net"])
AUTHORS: Final = st.sampled_from([ORGANIZATION, "a.example.org", "x.a.example.org"])
POLICIES: Final = ["none", "quarantine", "reject", "Reject"]
SPACES: Final = st.sampled_from(["", " ", "\t", "  "])


@st.composite
def records(draw: st.DrawFn) -> str:
    """A record without errors, with white space where it is allowed."""
    tags = {"p": draw(st.sampled_from(POLICIES))}
    for name, values in {"sp": POLICIES, "adkim": ["r", "s", "S"], "aspf": ["r", "s"], "t": ["y", "n"]}.items():
        if draw(st.booleans()):
            tags[name] = draw(st.sampled_from(values))
    if draw(st.booleans()):
        tags["rua"] = "mailto:a@example.org,mailto:b@example.net"
    if draw(st.booleans()):
        tags["x"] = "unknown"
    order = draw(st.permutations(list(tags)))
    space = draw(SPACES)
    parts = [
        f"{space}{draw(SPACES)}{name.upper() if draw(st.booleans()) else name}{space}={space}{tags[name]}"
        for name in order
    ]
    return f"v=DMARC1{space};{';'.join(parts)}{draw(st.sampled_from(['', ';', ' ;', '; ']))}"


class Organizations:
    """What the package asks for organizational domains: those of two labels."""

    def get_public_suffix(self, domain: str) -> str:
        return ".".join(domain.split(".")[-2:])


class Existing(Zones):
    """Every name exists, so the tag `np` does not matter."""

    async def resolve(self, name: str, kind: RecordType, /) -> Records[object]:
        found = await super().resolve(name, kind)
        return Records(True, found.data)


@given(records())
def test_the_package_reads_the_same_from_a_record(text: str) -> None:
    ours = parse_record(text.encode())
    theirs = dmarc.DMARC().parse_record(text, ORGANIZATION)
    assert ours.problems == ()
    assert ours.policy == theirs.p.value
    assert ours.subdomains == (theirs.sp.value or theirs.p.value)
    assert ours.strict_dkim == (theirs.adkim is dmarc.DMARCAlignment.STRICT)
    assert ours.strict_spf == (theirs.aspf is dmarc.DMARCAlignment.STRICT)
    assert ours.testing == (theirs.t is dmarc.DMARCTesting.Y)
    assert list(ours.aggregate) == theirs.rua


@given(
    text=records(),
    author=AUTHORS,
    spf=st.tuples(DOMAINS, st.sampled_from(["pass", "fail", "softfail", "none", "permerror"])),
    dkim=st.lists(st.tuples(DOMAINS, st.sampled_from(["pass", "fail", "policy", "permerror"])), max_size=3),
)
def test_the_package_comes_to_the_same_result(
    text: str, author: str, spf: tuple[str, str], dkim: list[tuple[str, str]]
) -> None:
    judge = dmarc.DMARC(Organizations())
    policy = judge.parse_record(text, author, ORGANIZATION if author != ORGANIZATION else None)
    results = dmarc.AuthResults(
        dmarc.SPFAuthResult(spf[0], dmarc.SPFResult(spf[1])),
        [dmarc.DKIMAuthResult(domain, dmarc.DKIMResult(result)) for domain, result in dkim],
    )
    theirs = judge.get_result(policy, auth_results=results, allow_policy_test_mode=True)
    answer = asyncio.run(
        evaluate_dmarc(
            f"From: jo@{author}\r\n\r\n".encode(),
            spf=SpfAnswer(SpfResult(spf[1]), "", spf[0], "mailfrom"),
            dkim=[Signed(domain, result) for domain, result in dkim],
            resolver=Existing({ORGANIZATION: text}),
        )
    )
    assert answer.result == theirs.result.value
    assert answer.policy == theirs.disposition.value
    methods = {each.method for each in answer.alignment}
    assert methods == {name for name in ("spf", "dkim") if getattr(theirs, name) is dmarc.DMARCResult.PASS}
