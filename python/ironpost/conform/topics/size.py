"""SIZE (RFC 1870)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.conform.case import Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("size", "SIZE", needs=("SIZE",))

TRANSFER: Final = 64 * 1024 * 1024
"""Size in octets of the largest message that the suite sends to exceed an announced maximum."""


def _mail(name: str, value: bytes, does: str, spec: str, level: Level = Level.MUST, section: str = "6.1") -> None:
    TOPIC.row(f"rfc1870-{section}-{name}", level, does, say(b"MAIL FROM:<{from}> SIZE=" + value + b"\r\n", spec))


_mail("declared", b"1000", "SIZE=1000 is accepted.", "250")
_mail("zero", b"0", "SIZE=0 is accepted.", "250")
_mail("leading-zeros", b"0001000", "Leading zeros are digits.", "250", section="3")
_mail("20-digits", b"00000000000000001000", "Twenty digits are within the grammar.", "250", section="3")
_mail("empty", b"", "SIZE= without a number is refused.", "501 555 ~5xx", Level.SHOULD, "3")
_mail("word", b"big", "SIZE with a word is refused.", "501 555 ~5xx", Level.SHOULD, "3")
_mail("negative", b"-1", "SIZE with a negative number is refused.", "501 555 ~5xx", Level.SHOULD, "3")
_mail("hex", b"0x100", "SIZE in hexadecimal is refused.", "501 555 ~5xx", Level.SHOULD, "3")
_mail("unit", b"10k", "SIZE with a unit is refused.", "501 555 ~5xx", Level.SHOULD, "3")
_mail("21-digits", b"100000000000000000000", "Twenty-one digits are beyond the grammar.", "501 552 555 ~5xx ~4xx",
      Level.SHOULD, "3")  # fmt: skip
TOPIC.row(
    "rfc1870-3-bare", Level.SHOULD, "SIZE without a value is refused.",
    say(b"MAIL FROM:<{from}> SIZE\r\n", "501 555 ~5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc1870-6.1-null-path", Level.MUST, "SIZE with the null reverse-path.", say(b"MAIL FROM:<> SIZE=1000\r\n", "250")
)
TOPIC.row(
    "rfc1870-6.1-declared-and-sent", Level.MUST, "A message smaller than it was declared is accepted.",
    say(b"MAIL FROM:<{from}> SIZE=100000\r\n", "250"), say(b"RCPT TO:<{to}>\r\n", "250 251"), say(b"DATA\r\n", "354"),
    say(b"{message}.\r\n", "250"),
)  # fmt: skip
TOPIC.row(
    "rfc1870-6.1-declared-too-small", Level.ROBUST, "A message larger than it was declared: one reply, at its end.",
    say(b"MAIL FROM:<{from}> SIZE=1\r\n", "250"), say(b"RCPT TO:<{to}>\r\n", "250 251"), say(b"DATA\r\n", "354"),
    say(b"{message}.\r\n", "250 552 ~5xx ~4xx"),
)  # fmt: skip


def _maximum(talk: Talk) -> int:
    """Return the announced maximum; without one the case does not apply."""
    said = talk.survey.offers["SIZE"]
    if not said.isdigit() or int(said) == 0:
        talk.skip("no maximum is announced")
    return int(said)


@TOPIC.case("rfc1870-6.1-beyond-the-maximum", Level.SHOULD, "SIZE beyond the announced maximum is refused with 552.")
async def _beyond(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<{from}> SIZE=%d\r\n" % (_maximum(talk) * 2), "552 ~5xx")
    await talk.say(b"RCPT TO:<{to}>\r\n", "503 ~5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc1870-6.1-the-maximum", Level.MUST, "SIZE of exactly the announced maximum is accepted, if there is space."
)
async def _exactly(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<{from}> SIZE=%d\r\n" % _maximum(talk), "250 452")
    await talk.in_step()


@TOPIC.case(
    "rfc1870-6.3-too-large-content", Level.SHOULD,
    "Content beyond the announced maximum is refused with 552 at its end, and nothing of it is executed.",
    start=Start.DATA,
)  # fmt: skip
async def _content(talk: Talk) -> None:
    maximum = _maximum(talk)
    if maximum > TRANSFER:
        talk.skip(f"the announced maximum is more than {TRANSFER} octets")
    line = b"RSET" + b"x" * 66 + b"\r\n"
    piece = line * 3640
    await talk.send(b"{message}")
    sent = 0
    while sent <= maximum * 1.05:
        await talk.send(piece)
        sent += len(piece)
    await talk.send(b".\r\n")
    if await talk.expect("552 ~5xx close") is not None:
        await talk.send(b"QUIT\r\n")
        await talk.expect("221 421 close")
