"""The list of extensions in the reply to EHLO (RFC 5321 §2.2, §4.1.1.1) and the parameters of each keyword."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.conform.case import ANY, LMTP, MX, SMTP, SUBMISSION, Level, Profile, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("extensions", "The list of extensions")

_KEYWORD: Final = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*=?")
_PARAMETER: Final = re.compile(rb"[!-~]+")


def _listed(talk: Talk) -> list[bytes]:
    return list(talk.last_hello.lines[1:]) if talk.last_hello is not None else []


@TOPIC.case("rfc5321-4.1.1.1-keywords", Level.MUST, "Each line begins with a keyword of letters, digits and hyphens.")
async def _keywords(talk: Talk) -> None:
    for line in _listed(talk):
        if not _KEYWORD.fullmatch(line.split(b" ")[0]) and not line.upper().startswith(b"AUTH="):
            talk.fail(f"not a valid keyword: {line.decode('ascii', 'replace')}")


@TOPIC.case(
    "rfc5321-4.1.1.1-parameters", Level.MUST, "The parameters of a keyword are printable words, separated by one space."
)
async def _parameters(talk: Talk) -> None:
    for line in _listed(talk):
        if any(not _PARAMETER.fullmatch(word) for word in line.rstrip(b" ").split(b" ")):
            talk.fail(f"malformed: {line.decode('ascii', 'replace')!r}")


@TOPIC.case("rfc5321-4.1.1.1-once", Level.ROBUST, "No keyword is listed twice.")
async def _once(talk: Talk) -> None:
    words = [line.split(b" ")[0].upper() for line in _listed(talk)]
    if twice := {word.decode("ascii", "replace") for word in words if words.count(word) > 1}:
        talk.fail(f"listed twice: {', '.join(sorted(twice))}")


def _form(section: str, keyword: str, pattern: str, does: str, profiles: frozenset[Profile] = ANY) -> None:
    @TOPIC.case(f"{section}-{keyword.lower()}-line", Level.MUST, does, needs=(keyword,), profiles=profiles)
    async def _(talk: Talk) -> None:
        said = talk.survey.offers.get(keyword, "")
        if not re.fullmatch(pattern, said):
            talk.fail(f"the parameters of {keyword} are {said!r}")


for _section, _keyword in (
    ("rfc2920-2", "PIPELINING"),
    ("rfc6152-2", "8BITMIME"),
    ("rfc3030-2", "CHUNKING"),
    ("rfc3030-3", "BINARYMIME"),
    ("rfc2034-3", "ENHANCEDSTATUSCODES"),
    ("rfc3461-3", "DSN"),
    ("rfc6531-3.1", "SMTPUTF8"),
    ("rfc8689-2", "REQUIRETLS"),
    ("rfc1985-5", "ETRN"),
    ("rfc7293-3", "RRVS"),
):
    _form(_section, _keyword, "", f"{_keyword} has no parameter.")
_form("rfc1870-4", "SIZE", r"\d{0,20}", "SIZE has at most one number of up to 20 digits.")
_form("rfc2852-2", "DELIVERBY", r"\d{0,9}", "DELIVERBY has at most one number of up to 9 digits.")
_form(
    "rfc4865-3", "FUTURERELEASE", r"[1-9]\d{0,8} \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:Z|[+-]\d\d:\d\d)",
    "FUTURERELEASE has an interval and a date-time as parameters.",
)  # fmt: skip
_form("rfc6710-3", "MT-PRIORITY", r"[A-Za-z0-9.-]*", "MT-PRIORITY has at most the name of one policy.")
_form(
    "rfc4954-3",
    "AUTH",
    r"[A-Z0-9_-]{1,20}(?: [A-Z0-9_-]{1,20})*",
    "AUTH has mechanism names as parameters (RFC 4422 §3.1).",
)
_form("rfc3865-2", "NO-SOLICITING", r"\S*", "NO-SOLICITING has at most one list of classes.")


def _pair(name: str, keyword: str, other: str, does: str) -> None:
    @TOPIC.case(name, Level.MUST, does, needs=(keyword,))
    async def _(talk: Talk) -> None:
        if other not in talk.survey.offers:
            talk.fail(f"{keyword} is offered without {other}")


_pair("rfc3030-3-binarymime-with-chunking", "BINARYMIME", "CHUNKING", "BINARYMIME is offered with CHUNKING only.")
_pair("rfc6531-3.1-smtputf8-with-8bitmime", "SMTPUTF8", "8BITMIME", "SMTPUTF8 is offered with 8BITMIME only.")


def _never(name: str, keyword: str, does: str, profiles: frozenset[Profile], *, unencrypted: bool = False) -> None:
    @TOPIC.case(name, Level.MUST, does, profiles=profiles, wants=("unencrypted connection",) if unencrypted else ())
    async def _(talk: Talk) -> None:
        offers = talk.survey.unencrypted if unencrypted else talk.survey.offers
        if keyword in offers:
            talk.fail(f"{keyword} is offered")


_never(
    "rfc8689-2-not-without-tls",
    "REQUIRETLS",
    "REQUIRETLS is not offered on an unencrypted connection.",
    ANY,
    unencrypted=True,
)
_never("rfc4865-4.2-not-for-relay", "FUTURERELEASE", "FUTURERELEASE is offered by submission only.", MX | LMTP)
_never("rfc6409-7-no-etrn", "ETRN", "ETRN is not offered by submission.", SUBMISSION)
_never("rfc6409-7-no-atrn", "ATRN", "ATRN is not offered by submission.", SUBMISSION)


@TOPIC.case("rfc5321-4.2.4-listed-is-implemented", Level.MUST, "No verb that is listed is answered 500 or 502.")
async def _implemented(talk: Talk) -> None:
    verbs = {"VRFY": b"VRFY conform", "EXPN": b"EXPN conform", "HELP": b"HELP", "ETRN": b"ETRN conform.example"}
    asked = [line for keyword, line in verbs.items() if keyword in talk.survey.offers]
    if not asked:
        talk.skip("no verb is listed that could be tried")
    for line in asked:
        await talk.send(line + b"\r\n")
        reply = await talk.reply()
        if reply.code in {500, 502}:
            talk.fail(f"{line.split()[0].decode()} is listed and answered {reply.code}")
    await talk.in_step()


for _keyword, _section, _line in (
    ("STARTTLS", "rfc3207-4", b"STARTTLS"),
    ("AUTH", "rfc4954-4", b"AUTH PLAIN AGEAYg=="),
    ("CHUNKING", "rfc3030-2", b"BDAT 0 LAST"),
    ("ETRN", "rfc1985-5", b"ETRN client.example"),
    ("ATRN", "rfc2645-4", b"ATRN client.example"),
    ("EXPN", "rfc5321-3.5.3", b"EXPN conform"),
):
    TOPIC.row(
        f"{_section}-{_keyword.lower()}-not-offered", Level.ROBUST,
        f"{_line.split()[0].decode()} where {_keyword} is not offered is refused as an unknown command.",
        say(_line + b"\r\n", "500 501 502 503 504 530 538 550 4xx ~5xx ~252"), needs=(f"!{_keyword}",),
        wants=("unencrypted",) if _keyword == "STARTTLS" else (),
    )  # fmt: skip
TOPIC.row(
    "rfc5321-2.2.2-x-client", Level.ROBUST, "XCLIENT from an untrusted client is refused (SECURITY R14).",
    say(b"XCLIENT ADDR=192.0.2.1 NAME=trusted.example\r\n", "5xx close"), needs=("!XCLIENT",), quits=False,
)  # fmt: skip
TOPIC.row(
    "rfc5321-2.2.2-x-forward", Level.ROBUST, "XFORWARD from an untrusted client is refused (SECURITY R14).",
    say(b"XFORWARD ADDR=192.0.2.1\r\n", "5xx close"), needs=("!XFORWARD",), quits=False,
)  # fmt: skip
for _name, _octets in (
    ("v1", b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 25\r\n"),
    ("v2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x9c\x40\x00\x19"),
):

    def _proxy(name: str, octets: bytes) -> None:
        @TOPIC.case(
            f"rfc5321-3.1-proxy-{name}", Level.ROBUST,
            f"A PROXY {name} header from an untrusted client is not honoured: an error, or the connection "
            "closes (SECURITY R14).",
            start=Start.CONNECTED, wants=("unencrypted connection",), profiles=SMTP,
        )  # fmt: skip
        async def _(talk: Talk) -> None:
            await talk.send(octets)
            greeting = await talk.expect("220 4xx 5xx close")
            if greeting is None or greeting.code != 220:
                return
            await talk.expect("5xx 4xx close")

    _proxy(_name, _octets)
