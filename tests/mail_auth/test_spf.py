"""SPF: macros, limits, failures of DNS, and what a hostile domain can publish."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.mail_auth import Records, RecordType, ResolverError, SpfAnswer, SpfResult, check_spf, spf
from ironpost.mail_auth.names import NAME_LIMIT, is_name
from ironpost.mail_auth.spf import EXPLANATION_LIMIT, LOOKUP_LIMIT, RECORDS_LIMIT
from ironpost.mail_auth.spf_macros import SpfError, parse_domain_spec, parse_explanation
from ironpost.mail_auth.spf_record import RECORD_LIMIT, parse_record
from ironpost.testing.resolver import StaticResolver

IP = "192.0.2.1"
NOW = 1_700_000_000.0


def check(
    resolver: Any,
    *,
    ip: str = IP,
    helo: str = "mx.example",
    sender: str = "jo@a.example",
    receiver: str = "us.example",
) -> SpfAnswer:
    return asyncio.run(check_spf(ip=ip, helo=helo, sender=sender, resolver=resolver, now=NOW, receiver=receiver))


def published(record: str, **tables: Any) -> StaticResolver:
    """A resolver in which a.example publishes a record."""
    return StaticResolver(txt={"a.example": [record.encode()], **tables.pop("txt", {})}, **tables)


# -- macros -----------------------------------------------------------------------------------------------------------

VALUES = {
    "s": "strong-bad@email.example.com",
    "l": "strong-bad",
    "o": "email.example.com",
    "d": "email.example.com",
    "i": "192.0.2.3",
    "v": "in-addr",
}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [  # RFC 7208 §7.4
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("%{d127}", "email.example.com"),
        ("%{d99999999999999999999}", "email.example.com"),
        ("a%%b%_c%-d.%{d}", "a%b c%20d.email.example.com"),
    ],
)
def test_macros_expand_as_in_the_examples_of_the_rfc(text: str, expanded: str) -> None:
    assert parse_domain_spec(text).expand(VALUES, NAME_LIMIT) == expanded


@pytest.mark.parametrize(
    "text",
    ["%", "%{", "%{d", "%{}", "%{x}", "%{d0}", "%{d-r}", "%(d).example", "%{c}", "%{t}", "a", ".1", "a.-b", "a.b-", ""],
)
def test_an_invalid_domain_spec_is_refused(text: str) -> None:
    with pytest.raises(SpfError) as caught:
        parse_domain_spec(text)
    assert str(caught.value).isascii()


def test_r51_a_name_is_shortened_from_its_left_to_253_characters() -> None:
    name = parse_domain_spec("%{l}.%{d}").expand_name({"l": ".".join(["x" * 60] * 5), "d": "a.example"})
    assert len(name) <= NAME_LIMIT
    assert name == ".".join(["x" * 60] * 4 + ["a.example"])


def literally(name: str) -> str:
    """Shortened in the words of RFC 7208 §7.3: successive labels, each with its dot, are removed from the left."""
    while len(name) > NAME_LIMIT and "." in name:
        name = name.partition(".")[2]
    return name


@given(values=st.lists(st.text("a.", max_size=300), min_size=1, max_size=3), last=st.sampled_from(["", ".a", ".a."]))
def test_r51_a_name_is_shortened_as_the_rfc_says(values: list[str], last: str) -> None:
    named = dict(zip("lho", values, strict=False))
    text = "".join(f"%{{{letter}}}" for letter in named) + last
    expected = literally(("".join(values) + last).removesuffix("."))
    name = parse_domain_spec(text).expand_name(named)
    assert name == expected or not (is_name(name) or is_name(expected))


class Read(dict[str, str]):
    """Counts how often a value was read."""

    count = 0

    def __getitem__(self, letter: str) -> str:
        self.count += 1
        return super().__getitem__(letter)


@pytest.mark.parametrize(("value", "count"), [("a." * 126 + "a", 2), ("a", NAME_LIMIT + 2)])
def test_r23_r51_expansion_stops_when_the_name_is_long_enough(value: str, count: int) -> None:
    values = Read(h=value)
    parse_domain_spec("%{h}" * 2000).expand_name(values)
    assert values.count == count


def test_r23_expansion_stops_when_the_explanation_is_long_enough() -> None:
    values = Read(h="mx.example")
    assert parse_explanation("%{h}" * 16_000).expand(values, EXPLANATION_LIMIT) == "mx.example" * 40
    assert values.count == 40


def test_r23_a_delimiter_that_is_repeated_counts_once() -> None:
    assert parse_domain_spec(f"%{{l2{'-+' * 4000}}}") == parse_domain_spec("%{l2-+}")


def test_r51_a_label_of_a_local_part_that_is_too_long_matches_nothing() -> None:
    resolver = published("v=spf1 exists:%{l}.a.example -all")
    answer = check(resolver, sender=f"{'x' * 64}@a.example")
    assert (answer.result, answer.queries) == (SpfResult.FAIL, 1)


def test_a_local_part_that_is_not_ascii_matches_nothing() -> None:
    resolver = published("v=spf1 include:%{l}.a.example exists:%{s}.a.example ?all")
    assert check(resolver, sender="jö@a.example").result is SpfResult.NEUTRAL


@pytest.mark.parametrize("octet", [chr(0xDCFF), chr(0xD800)])
def test_r22_an_octet_that_is_not_utf8_has_a_result(octet: str) -> None:
    resolver = published("v=spf1 exists:%{L}.a.example exists:%{l}.a.example ?all")
    assert check(resolver, sender=f"{octet}@a.example").result is SpfResult.NEUTRAL
    assert check(resolver, sender=f"jo@{octet}.example").result is SpfResult.NONE
    assert check(published("v=spf1 a:%{H} a:%{h} -all"), helo=octet).result is SpfResult.FAIL
    explaining = published("v=spf1 -all exp=why.example", txt={"why.example": [b"%{R} %{H} %{L}"]})
    answer = check(explaining, sender=f"{octet}@a.example", helo=octet, receiver=octet)
    assert answer.explanation == " ".join([quote(octet, errors="surrogatepass")] * 3)


def test_a_domain_is_checked_by_its_a_labels() -> None:
    resolver = StaticResolver(txt={"xn--bcher-kva.example": [b"v=spf1 ip4:192.0.2.1 -all"]})
    answer = check(resolver, sender="jo@bücher.example")
    assert (answer.result, answer.domain) == (SpfResult.PASS, "xn--bcher-kva.example")


def test_kumomta_a_domain_with_a_space_of_no_width_has_a_result() -> None:
    answer = check(StaticResolver(), sender="jo@a\u200b.example", helo="m\u200bx.example")
    assert answer.result is SpfResult.NONE
    assert answer.reason.isascii()


# -- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 ip4:192.0.2.0/24 -all", SpfResult.PASS),
        ("v=spf1 -all", SpfResult.FAIL),
        ("v=spf1 ~all", SpfResult.SOFTFAIL),
        ("v=spf1 ?all", SpfResult.NEUTRAL),
        ("v=spf1", SpfResult.NEUTRAL),
        ("v=spf1 ip4:192.0.2.256 -all", SpfResult.PERMERROR),
        ("v=spf1 ip4:192.0.2.0/33 -all", SpfResult.PERMERROR),
        ("v=spf1 ip6:192.0.2.1 -all", SpfResult.PERMERROR),
        ("v=spf1 all:x -all", SpfResult.PERMERROR),
        ("v=spf1 redirect=b.example redirect=b.example", SpfResult.PERMERROR),
        ("v=spf1 include -all", SpfResult.PERMERROR),
        ("v=spf1 -all oops", SpfResult.PERMERROR),
        ("v=spf1 -all\t", SpfResult.PERMERROR),
        ("v=spf1 é -all", SpfResult.PERMERROR),
        ("v=spf2.0/pra -all", SpfResult.NONE),
    ],
)
def test_a_record_decides_and_the_answer_says_why(record: str, result: SpfResult) -> None:
    answer = check(published(record))
    assert answer.result is result
    assert "a.example" in answer.reason
    assert answer.reason.isascii()


def test_a_null_reverse_path_is_checked_as_postmaster_of_helo() -> None:
    resolver = StaticResolver(
        txt={"mx.example": [b"v=spf1 exists:%{l}.%{d} -all"]}, addresses={"postmaster.mx.example": [IP]}
    )
    answer = check(resolver, sender="")
    assert (answer.result, answer.identity, answer.domain) == (SpfResult.PASS, "helo", "mx.example")


@pytest.mark.parametrize("helo", ["[192.0.2.1]", "localhost", "", "a..example", "x" * 64 + ".example"])
def test_what_is_not_a_domain_has_no_result(helo: str) -> None:
    answer = check(StaticResolver(), helo=helo, sender="")
    assert answer.result is SpfResult.NONE
    assert answer.reason


@pytest.mark.parametrize(("ip", "network"), [("::ffff:192.0.2.1", "ip4:192.0.2.1"), ("fe80::1%eth0", "ip6:fe80::1")])
def test_a_mapped_address_and_a_zone_make_no_difference(ip: str, network: str) -> None:
    assert check(published(f"v=spf1 {network} -all"), ip=ip).result is SpfResult.PASS


def test_what_is_not_an_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        check(StaticResolver(), ip="mx.example")


def test_r27_a_query_that_fails_is_a_temporary_error_at_any_depth() -> None:
    resolver = published(
        "v=spf1 include:b.example -all", txt={"b.example": [b"v=spf1 a:c.example"]}, failing=["c.example"]
    )
    answer = check(resolver)
    assert answer.result is SpfResult.TEMPERROR
    assert "c.example" in answer.reason
    assert check(StaticResolver(failing=["a.example"])).result is SpfResult.TEMPERROR


# -- explanations -----------------------------------------------------------------------------------------------------


def explained(text: bytes) -> str:
    return check(published("v=spf1 -all exp=why.%{d}", txt={"why.a.example": [text]})).explanation


def test_a_fail_is_explained_in_the_words_of_the_domain() -> None:
    text = b"%{c} may not send for %{o}, says %{r} at %{t}"
    assert explained(text) == f"{IP} may not send for a.example, says us.example at {int(NOW)}"


@pytest.mark.parametrize("text", ["nö".encode(), b"a\r\nb", b"%{x}", b"%", b"\0"])
def test_an_explanation_that_is_not_text_is_ignored(text: bytes) -> None:
    assert explained(text) == ""


def test_an_explanation_fits_into_a_reply() -> None:
    assert len(explained(b"%{s}" * 16_000)) == EXPLANATION_LIMIT


def test_only_the_record_that_decides_explains() -> None:
    tables = {
        "b.example": [b"v=spf1 -all exp=b.why.example"],
        "a.why.example": [b"a"],
        "b.why.example": [b"b"],
    }
    included = published("v=spf1 include:b.example -all exp=a.why.example", txt=tables)
    redirected = published("v=spf1 redirect=b.example exp=a.why.example", txt=tables)
    assert [check(each).explanation for each in (included, redirected)] == ["a", "b"]


# -- limits -----------------------------------------------------------------------------------------------------------


class Counting(StaticResolver):
    """Counts the queries."""

    count = 0

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        self.count += 1
        return await super().resolve(name, kind)


def test_r23_a_query_that_fails_is_sent_once_too() -> None:
    resolver = Counting(txt={"a.example": [b"v=spf1 ptr ptr ptr -all"]}, failing=[IP])
    assert check(resolver).result is SpfResult.FAIL
    assert resolver.count == 2


def test_r23_at_most_ten_terms_need_dns() -> None:
    hosts = {f"h{number}.example": ["192.0.2.9"] for number in range(11)}
    terms = [f"a:{host}" for host in hosts]
    ten = published(f"v=spf1 {' '.join(terms[:10])} ip4:{IP} -all", addresses=hosts)
    eleven = published(f"v=spf1 {' '.join(terms)} ip4:{IP} -all", addresses=hosts)
    assert check(ten).result is SpfResult.PASS
    assert (check(ten).lookups, check(ten).queries) == (LOOKUP_LIMIT, 11)
    assert check(eleven).result is SpfResult.PERMERROR


@pytest.mark.parametrize("record", ["v=spf1 include:a.example", "v=spf1 redirect=a.example", "v=spf1 include:%{d} a"])
def test_r23_a_record_that_refers_to_itself_ends(record: str) -> None:
    answer = check(published(record))
    assert (answer.result, answer.lookups) == (SpfResult.PERMERROR, LOOKUP_LIMIT)


def test_r23_at_most_two_queries_of_terms_may_have_no_answer() -> None:
    assert check(published("v=spf1 a:x.example mx:y.example ?all")).result is SpfResult.NEUTRAL
    assert check(published("v=spf1 a:x.example mx:y.example exists:z.example ?all")).result is SpfResult.PERMERROR


def test_r23_at_most_ten_exchangers_are_looked_at() -> None:
    exchangers = [(number, f"h{number}.example") for number in range(11)]
    addresses = {host: ["192.0.2.9"] for _, host in exchangers}
    eleven = published("v=spf1 mx -all", mx={"a.example": exchangers}, addresses=addresses)
    ten = published("v=spf1 mx -all", mx={"a.example": exchangers[:10]}, addresses=addresses)
    assert check(eleven).result is SpfResult.PERMERROR
    assert check(ten).result is SpfResult.FAIL


def test_r23_at_most_ten_names_of_the_client_are_looked_at() -> None:
    hosts = [f"h{number}.a.example" for number in range(40)]
    tables = {"txt": {"a.example": [b"v=spf1 ptr -all"]}, "addresses": {host: ["192.0.2.9"] for host in hosts}}
    resolver = Counting(names={IP: hosts}, **tables)
    assert check(resolver).result is SpfResult.FAIL
    assert resolver.count == 12
    assert (
        check(Counting(names={IP: ["x.a.example"]}, txt=tables["txt"], addresses={"x.a.example": [IP]})).result
        is SpfResult.PASS
    )


@pytest.mark.parametrize("term", ["mx/{}", "ptr:b.example", "exists:%{{p}}.x{}.example"])
def test_r23_an_address_is_parsed_once(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = f"v=spf1 {' '.join(map(term.format, range(20, 30)))} -all"
    hosts = [f"h{number}.example" for number in range(10)]
    resolver = published(
        record,
        mx={"a.example": [(0, host) for host in hosts]},
        names={IP: hosts},
        addresses={host: ["198.51.100.1", "198.51.100.2"] for host in hosts},
    )
    parsed: list[str] = []
    monkeypatch.setattr(spf, "ip_address", lambda text: (parsed.append(text), ip_address(text))[1])
    check(resolver)
    assert len(parsed) == 20


def test_r23_a_record_that_is_too_long_is_refused() -> None:
    assert check(published("v=spf1 " + " " * RECORD_LIMIT + "-all")).result is SpfResult.PERMERROR


# -- hostile domains --------------------------------------------------------------------------------------------------

TERMS = ["all", "a", "mx", "ptr", "ip4:", "ip6:", "exists:", "include:", "redirect=", "exp=", "%{d}", "%{ir}", "%{p}"]
UPPER = ["exists:%{L}.a.example", "a:%{S}", "exp=%{H}.a.example", "%{L} %{H} %{R}", "%{h} %{r}"]
VALUES_OF_TERMS = ["v=spf1", "a.example", "b.example", "192.0.2.1", "::1", "/24", "//64", "x" * 70, "\0", "\r\n", "ü"]
FRAGMENTS = st.sampled_from([*"%{}/:=+-~?.@\\ ;\"'()", *TERMS, *UPPER, *VALUES_OF_TERMS])
RECORD = st.one_of(
    st.lists(FRAGMENTS, max_size=12).map("".join),
    st.lists(FRAGMENTS, max_size=8).map(" ".join),
    st.text(max_size=40),
).map(lambda text: f"v=spf1 {text}".encode())


ANY_TEXT = st.text(st.characters(), max_size=80)
"""Also with surrogates, which `st.text` leaves out."""


class Hostile:
    """Publishes one record at every name, and fails for some of them."""

    def __init__(self, record: bytes, failing: str) -> None:
        self._record = record
        self._failing = failing
        self.count = 0

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        assert 0 < len(name) <= NAME_LIMIT
        assert name.isascii()
        assert all(0 < len(label) <= 63 for label in name.split("."))
        self.count += 1
        if self._failing and self._failing in name:
            raise ResolverError(f"{name} {kind}: timeout")
        return Records(True, (self._record,)) if kind is RecordType.TXT else Records(False)


@given(
    record=RECORD,
    failing=st.sampled_from(["", "b.example"]),
    sender=ANY_TEXT,
    helo=ANY_TEXT,
    receiver=ANY_TEXT,
)
def test_r22_any_record_gives_a_result_within_the_limits(
    record: bytes, failing: str, sender: str, helo: str, receiver: str
) -> None:
    resolver = Hostile(record, failing)
    for each in ("jo@a.example", f"{sender}@a.example", sender):
        resolver.count = 0
        answer = check(resolver, sender=each, helo=helo, receiver=receiver)
        assert answer.result in set(SpfResult)
        assert answer.reason.isascii()
        assert answer.explanation.isascii()
        assert answer.lookups <= LOOKUP_LIMIT
        assert resolver.count <= 40


@given(text=st.one_of(st.lists(FRAGMENTS, max_size=12).map("".join), st.text(max_size=60)))
def test_r22_any_text_is_an_explanation_or_an_error(text: str) -> None:
    with contextlib.suppress(SpfError):
        assert len(parse_explanation(text).expand(dict.fromkeys("slodiphvcrt", "x.y"), 9)) <= 9


def test_a_record_is_parsed_once() -> None:
    assert parse_record(b"v=spf1 -all") is parse_record(b"v=spf1 -all")


def test_the_answer_has_the_records_that_were_read() -> None:
    txt = {"b.example": [b"other", b"v=spf1 -all"], "why.example": [b"no"], "c.example": [b"v=spf1 nonsense"]}
    resolver = published("v=spf1 include:b.example -all exp=why.example", txt=txt)
    main = ("a.example", b"v=spf1 include:b.example -all exp=why.example")
    assert check(resolver).records == (main, ("b.example", b"v=spf1 -all"))
    assert check(resolver, sender="jo@c.example").records == (("c.example", b"v=spf1 nonsense"),)
    assert check(resolver, sender="jo@d.example").records == ()


def test_r23_few_records_of_a_name_that_has_many_are_kept() -> None:
    answer = check(StaticResolver(txt={"a.example": [b"v=spf1 %d" % number for number in range(3000)]}))
    assert answer.result is SpfResult.PERMERROR
    assert answer.records == tuple(("a.example", b"v=spf1 %d" % number) for number in range(RECORDS_LIMIT))
