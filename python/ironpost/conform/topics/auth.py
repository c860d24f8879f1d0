"""AUTH (RFC 4954) and the protocol errors of each mechanism; with --user and --password also successful logins.

Of the credential checks, only the refusal of wrong credentials is tested.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.conform.case import Level, Start, Topic, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.conform.talk import Talk

    Exchange: TypeAlias = Callable[[Talk, bytes, bytes], Awaitable[None]]

TOPIC = Topic("auth", "AUTH", wants=())
NEEDS: Final = ("AUTH",)
MECHANISMS: Final = (
    "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "XOAUTH2", "OAUTHBEARER",
    "EXTERNAL",
)  # fmt: skip
REFUSED: Final = "535 454 501 500 504 534 538 ~5xx ~4xx"


def b64(octets: bytes) -> bytes:
    """Return octets in base64."""
    return base64.b64encode(octets)


def _offered(talk: Talk, mechanism: str) -> None:
    if mechanism not in talk.survey.before_login.get("AUTH", "").upper().split():
        talk.skip(f"AUTH {mechanism} is not offered")


async def _unauthenticated(talk: Talk) -> None:
    """A session in which AUTH is offered and was not used."""
    await talk.hello()
    if talk.target.starttls:
        await talk.start_tls()
        await talk.hello()
    if not talk.survey.before_login.get("AUTH"):
        talk.skip("AUTH is not offered")


def _row(name: str, level: Level, does: str, line: bytes, spec: str, mechanism: str = "", section: str = "4") -> None:
    @TOPIC.case(f"rfc4954-{section}-{name}", level, does, start=Start.GREETED)
    async def _(talk: Talk) -> None:
        await _unauthenticated(talk)
        if mechanism:
            _offered(talk, mechanism)
        await talk.say(line + b"\r\n", spec)
        await talk.in_step()


_row("without-mechanism", Level.MUST, "AUTH without a mechanism is refused.", b"AUTH", "501 ~5xx")
_row("unknown-mechanism", Level.MUST, "An unknown mechanism is refused 504.", b"AUTH FROBNICATE", "504 ~5xx")
_row(
    "unknown-mechanism-with-response",
    Level.MUST,
    "An unknown mechanism with an initial response is refused 504.",
    b"AUTH FROBNICATE AAAA",
    "504 ~5xx",
)
_row("three-arguments", Level.SHOULD, "AUTH with a third argument is refused.", b"AUTH PLAIN AGEAYg== x", "501 ~5xx",
     "PLAIN")  # fmt: skip
_row("verb-in-any-case", Level.MUST, "auth PLAIN is understood in any case.", b"auth PLAIN " + b64(b"\0nobody\0wrong"),
     "535 454 ~5xx ~4xx", "PLAIN")  # fmt: skip
_row("mechanism-in-any-case", Level.ROBUST, "AUTH plain is treated as PLAIN.", b"AUTH plain " + b64(b"\0nobody\0wrong"),
     "535 454", "PLAIN")  # fmt: skip
_row("wrong-password", Level.MUST, "Wrong credentials are refused with 535.",
     b"AUTH PLAIN " + b64(b"\0nobody\0wrong"), "535 454 ~5xx ~4xx", "PLAIN")  # fmt: skip
for _name, _response in (
    ("star", b"A*AA"),
    ("space-escape", b"AA-_"),
    ("one-character", b"A"),
    ("pad-in-the-middle", b"AAA=BBB="),
    ("pad-first", b"=AAA"),
    ("three-pads", b"A==="),
    ("eight-bit", b"\xc3\xa4AA"),
):
    _row(
        f"plain-bad-base64-{_name}", Level.MUST, "An initial response that is not valid base64 is refused 501.",
        b"AUTH PLAIN " + _response, "501 ~5xx", "PLAIN",
    )  # fmt: skip
for _name, _octets in (
    ("no-nul", b"nobody"),
    ("one-nul", b"nobody\0wrong"),
    ("three-nul", b"\0no\0bo\0dy"),
    ("empty-login", b"\0\0wrong"),
    ("no-utf8", b"\0\xff\xfe\0wrong"),
    ("only-nul", b"\0\0"),
):
    _row(
        f"plain-malformed-{_name}", Level.MUST, "A malformed PLAIN message is refused (RFC 4616 §2).",
        b"AUTH PLAIN " + b64(_octets), REFUSED, "PLAIN",
    )  # fmt: skip
_row("plain-empty", Level.MUST, "AUTH PLAIN = is an empty message: refused.", b"AUTH PLAIN =", REFUSED, "PLAIN")
_row("cram-md5-initial-response", Level.MUST,
     "An initial response to a server-first mechanism is refused 501.", b"AUTH CRAM-MD5 AAAA", "501 ~5xx",
     "CRAM-MD5")  # fmt: skip

for _mechanism in MECHANISMS:

    def _errors(mechanism: str) -> None:
        slug = mechanism.lower()
        begin = b"AUTH " + mechanism.encode() + b"\r\n"

        async def opened(talk: Talk) -> None:
            await _unauthenticated(talk)
            _offered(talk, mechanism)
            reply = await talk.say(begin, "334 504 535 538 ~5xx")
            if reply is not None and reply.code != 334:
                talk.skip(f"AUTH {mechanism} is refused at once: {reply.code}")

        @TOPIC.case(
            f"rfc4954-4-{slug}-cancelled", Level.MUST, f"AUTH {mechanism} cancelled with * is answered 501.",
            start=Start.GREETED,
        )  # fmt: skip
        async def _cancelled(talk: Talk) -> None:
            await opened(talk)
            await talk.say(b"*\r\n", "501 ~5xx")
            await talk.say(b"NOOP\r\n", "250")
            await talk.in_step()

        @TOPIC.case(
            f"rfc4954-4-{slug}-bad-base64", Level.MUST,
            f"A response to AUTH {mechanism} that is not valid base64 is refused 501.", start=Start.GREETED,
        )  # fmt: skip
        async def _bad(talk: Talk) -> None:
            await opened(talk)
            await talk.say(b"not!base64\r\n", "501 ~5xx")
            await talk.in_step()

        @TOPIC.case(
            f"rfc4954-4-{slug}-garbage", Level.MUST,
            f"Responses to AUTH {mechanism} that decode to garbage end in a refusal.", start=Start.GREETED,
        )  # fmt: skip
        async def _garbage(talk: Talk) -> None:
            await opened(talk)
            for _ in range(4):
                reply = await talk.say(b64(b"\xff\x01garbage\x7f") + b"\r\n", f"334 {REFUSED} close")
                if reply is None:
                    return
                if reply.code != 334:
                    await talk.in_step()
                    return
            talk.fail("the server still sends challenges after four responses")

        @TOPIC.case(
            f"rfc4954-4-{slug}-challenge-is-base64", Level.MUST,
            f"The first challenge of AUTH {mechanism} is base64 and nothing else.", start=Start.GREETED,
        )  # fmt: skip
        async def _challenge(talk: Talk) -> None:
            await _unauthenticated(talk)
            _offered(talk, mechanism)
            reply = await talk.say(begin, "334 504 535 538 ~5xx")
            if reply is None or reply.code != 334:
                talk.skip(f"AUTH {mechanism} is refused at once")
            try:
                base64.b64decode(b"".join(reply.lines).strip(), validate=True)
            except ValueError:
                talk.fail(f"334 is followed by {b' '.join(reply.lines)!r}")

    _errors(_mechanism)


@TOPIC.case(
    "rfc4954-4-long-line", Level.MUST,
    "A response of 12,000 octets is read completely: the credentials are refused and the session continues.",
    start=Start.GREETED,
)  # fmt: skip
async def _long(talk: Talk) -> None:
    await _unauthenticated(talk)
    _offered(talk, "PLAIN")
    await talk.say(b"AUTH PLAIN\r\n", "334")
    await talk.say(b64(b"\0nobody\0" + b"x" * 8900) + b"\r\n", "535 500 ~5xx ~4xx")
    await talk.in_step()


@TOPIC.case(
    "rfc4954-4-endless-line", Level.MUST, "A response of 100,000 octets gets one reply, or the connection closes.",
    start=Start.GREETED,
)  # fmt: skip
async def _endless(talk: Talk) -> None:
    await _unauthenticated(talk)
    _offered(talk, "PLAIN")
    await talk.say(b"AUTH PLAIN\r\n", "334")
    if await talk.say(b"A" * 100_000 + b"\r\n", "500 535 501 ~5xx 421 close") is not None:
        await talk.send(b"QUIT\r\n")
        await talk.expect("221 421 close")


@TOPIC.case(
    "rfc4954-4-in-a-transaction", Level.MUST, "AUTH inside a transaction is refused 503.", start=Start.GREETED,
    wants=("no login",),
)  # fmt: skip
async def _transaction(talk: Talk) -> None:
    await _unauthenticated(talk)
    reply = await talk.say(b"MAIL FROM:<{from}>\r\n", "xxx")
    if reply is None or reply.code != 250:
        talk.skip("MAIL is refused before AUTH")
    await talk.say(b"AUTH PLAIN " + b64(b"\0nobody\0wrong") + b"\r\n", "503 ~5xx")
    await talk.in_step()


@TOPIC.case("rfc4954-4-before-ehlo", Level.ROBUST, "AUTH before EHLO is refused.", start=Start.GREETED, needs=NEEDS)
async def _before(talk: Talk) -> None:
    await talk.say(b"AUTH PLAIN " + b64(b"\0nobody\0wrong") + b"\r\n", "5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc4954-4-a-refusal-is-no-login", Level.MUST, "After a refused AUTH the client is not authenticated.",
    start=Start.GREETED,
)  # fmt: skip
async def _no_login(talk: Talk) -> None:
    await _unauthenticated(talk)
    before = await talk.say(b"MAIL FROM:<{from}>\r\n", "xxx")
    if before is None or before.code // 100 == 2:
        talk.skip("MAIL is accepted without AUTH")
    _offered(talk, "PLAIN")
    await talk.say(b"AUTH PLAIN " + b64(b"\0nobody\0wrong") + b"\r\n", REFUSED)
    await talk.say(b"MAIL FROM:<{from}>\r\n", "530 ~5xx")
    await talk.in_step()


# ---------------------------------------------------------------------------------------------------------------------
# With an account


def _login(name: str, level: Level, does: str, mechanism: str) -> Callable[[Exchange], Exchange]:
    def add(run: Exchange) -> Exchange:
        @TOPIC.case(f"rfc4954-4-{name}", level, does, start=Start.GREETED, wants=("login",))
        async def _(talk: Talk) -> None:
            await _unauthenticated(talk)
            _offered(talk, mechanism)
            await run(talk, talk.target.user.encode(), talk.target.password.encode())
            await talk.in_step()

        return run

    return add


@_login("plain-succeeds", Level.MUST, "AUTH PLAIN with an initial response succeeds with 235.", "PLAIN")
async def _plain(talk: Talk, user: bytes, password: bytes) -> None:
    await talk.say(b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password) + b"\r\n", "235")


@_login("plain-without-initial-response", Level.MUST, "AUTH PLAIN with its message sent after 334 succeeds.", "PLAIN")
async def _plain_later(talk: Talk, user: bytes, password: bytes) -> None:
    reply = await talk.say(b"AUTH PLAIN\r\n", "334")
    if reply is not None and b"".join(reply.lines).strip():
        talk.fail("the empty challenge is not empty")
    await talk.say(b64(b"\0" + user + b"\0" + password) + b"\r\n", "235")


@_login(
    "plain-wrong-password-for-the-account", Level.MUST, "The account with a wrong password is refused 535.", "PLAIN"
)
async def _plain_wrong(talk: Talk, user: bytes, password: bytes) -> None:
    await talk.say(b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password + b"x") + b"\r\n", "535 454 ~5xx ~4xx")


@_login("plain-other-identity", Level.MUST, "Another authorization identity is refused.", "PLAIN")
async def _plain_other(talk: Talk, user: bytes, password: bytes) -> None:
    await talk.say(b"AUTH PLAIN " + b64(b"other\0" + user + b"\0" + password) + b"\r\n", "535 454 ~5xx ~4xx")


@_login("not-twice", Level.MUST, "AUTH after AUTH is refused 503.", "PLAIN")
async def _again(talk: Talk, user: bytes, password: bytes) -> None:
    line = b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password) + b"\r\n"
    await talk.say(line, "235")
    await talk.say(line, "503 ~5xx")


@_login("after-a-refused-one", Level.MUST, "After a refused AUTH a second one succeeds.", "PLAIN")
async def _retry(talk: Talk, user: bytes, password: bytes) -> None:
    await talk.say(b"AUTH FROBNICATE\r\n", "504 ~5xx")
    await talk.say(b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password) + b"\r\n", "235")


@_login("kept-by-rset-and-ehlo", Level.ROBUST, "RSET and EHLO do not end the authentication.", "PLAIN")
async def _kept(talk: Talk, user: bytes, password: bytes) -> None:
    await talk.say(b"AUTH PLAIN " + b64(b"\0" + user + b"\0" + password) + b"\r\n", "235")
    await talk.say(b"RSET\r\n", "250")
    await talk.hello()
    await talk.say(b"MAIL FROM:<{from}>\r\n", "250")


@_login("login-succeeds", Level.MUST, "AUTH LOGIN succeeds with 235.", "LOGIN")
async def _login_works(talk: Talk, user: bytes, password: bytes) -> None:
    await talk.say(b"AUTH LOGIN\r\n", "334")
    await talk.say(b64(user) + b"\r\n", "334")
    await talk.say(b64(password) + b"\r\n", "235")


@_login(
    "login-with-initial-response", Level.ROBUST, "AUTH LOGIN with the user name as initial response succeeds.", "LOGIN"
)
async def _login_initial(talk: Talk, user: bytes, password: bytes) -> None:
    await talk.say(b"AUTH LOGIN " + b64(user) + b"\r\n", "334")
    await talk.say(b64(password) + b"\r\n", "235")


@_login("login-cancelled-at-the-password", Level.MUST, "AUTH LOGIN cancelled at the password is answered 501.", "LOGIN")
async def _login_cancelled(talk: Talk, user: bytes, password: bytes) -> None:  # noqa: ARG001 - an Exchange
    await talk.say(b"AUTH LOGIN\r\n", "334")
    await talk.say(b64(user) + b"\r\n", "334")
    await talk.say(b"*\r\n", "501 ~5xx")


async def _scram(talk: Talk, user: bytes, password: bytes, *, nonce: bytes = b"", proof: bytes = b"") -> None:
    """Run SCRAM-SHA-256 (RFC 5802 §3); `nonce` or `proof` replaces the correct value with a wrong one."""
    name = user.replace(b"=", b"=3D").replace(b",", b"=2C")
    bare = b"n=" + name + b",r=" + secrets.token_hex(12).encode()
    reply = await talk.say(b"AUTH SCRAM-SHA-256 " + b64(b"n,," + bare) + b"\r\n", "334")
    first = base64.b64decode(b"".join(reply.lines)) if reply is not None else b""
    fields = dict(part.split(b"=", 1) for part in first.split(b",") if b"=" in part)
    if not {b"r", b"s", b"i"} <= fields.keys() or not fields[b"r"].startswith(bare.partition(b",r=")[2]):
        talk.fail(f"the first challenge lacks nonce, salt or count: {first!r}")
    salted = hashlib.pbkdf2_hmac("sha256", password, base64.b64decode(fields[b"s"]), int(fields[b"i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    final = b"c=biws,r=" + (nonce or fields[b"r"])
    signed = bare + b"," + first + b"," + final
    signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
    right = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    await talk.send(b64(final + b",p=" + b64(proof or right)) + b"\r\n")
    if nonce or proof:
        await talk.expect(REFUSED)
        return
    reply = await talk.expect("334")
    said = base64.b64decode(b"".join(reply.lines)) if reply is not None else b""
    expected = b64(hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256"))
    if said != b"v=" + expected:
        talk.fail("the server did not prove that it knows the password")
    await talk.say(b"\r\n", "235")


@_login(
    "scram-sha-256-succeeds",
    Level.MUST,
    "AUTH SCRAM-SHA-256 succeeds, and the server sends its signature.",
    "SCRAM-SHA-256",
)
async def _scram_works(talk: Talk, user: bytes, password: bytes) -> None:
    await _scram(talk, user, password)


@_login(
    "scram-sha-256-wrong-nonce", Level.MUST, "SCRAM with another nonce is refused (RFC 5802 §5.1).", "SCRAM-SHA-256"
)
async def _scram_nonce(talk: Talk, user: bytes, password: bytes) -> None:
    await _scram(talk, user, password, nonce=b"another")


@_login("scram-sha-256-wrong-proof", Level.MUST, "SCRAM with a wrong proof is refused.", "SCRAM-SHA-256")
async def _scram_proof(talk: Talk, user: bytes, password: bytes) -> None:
    await _scram(talk, user, password, proof=b"\0" * 32)


@_login("cram-md5-succeeds", Level.MUST, "AUTH CRAM-MD5 succeeds (RFC 2195 §2).", "CRAM-MD5")
async def _cram(talk: Talk, user: bytes, password: bytes) -> None:
    reply = await talk.say(b"AUTH CRAM-MD5\r\n", "334")
    challenge = base64.b64decode(b"".join(reply.lines)) if reply is not None else b""
    digest = hmac.new(password, challenge, hashlib.md5).hexdigest().encode()
    await talk.say(b64(user + b" " + digest) + b"\r\n", "235")


# ---------------------------------------------------------------------------------------------------------------------
# AUTH= in MAIL

for _name, _value, _spec in (
    ("unknown-submitter", b"<>", "250"),
    ("submitter", b"conform@client.example", "250"),
    ("submitter-xtext", b"e+3Dmc2@client.example", "250"),
    ("malformed-xtext", b"a+zz@client.example", "501 ~5xx"),
):
    TOPIC.row(
        f"rfc4954-5-{_name}", Level.SHOULD if "malformed" in _name else Level.MUST,
        f"MAIL with AUTH={_value.decode()} is {'refused' if 'malformed' in _name else 'accepted'}.",
        say(b"MAIL FROM:<{from}> AUTH=" + _value + b"\r\n", _spec), needs=NEEDS,
    )  # fmt: skip
