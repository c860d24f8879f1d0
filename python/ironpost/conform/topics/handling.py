"""Parameters that control how a message is handled: FUTURERELEASE (RFC 4865), DELIVERBY (RFC 2852), MT-PRIORITY
(RFC 6710), REQUIRETLS (RFC 8689), RRVS (RFC 7293)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("handling", "FUTURERELEASE, DELIVERBY, MT-PRIORITY, REQUIRETLS, RRVS")

BAD = "501 ~5xx"


def _mail(name: str, keyword: str, parameters: bytes, does: str, spec: str, level: Level = Level.MUST,
          wants: tuple[str, ...] = ()) -> None:  # fmt: skip
    TOPIC.row(
        name, level, does, say(b"MAIL FROM:<{from}> " + parameters + b"\r\n", spec), needs=(keyword,), wants=wants
    )


# FUTURERELEASE
_mail("rfc4865-4.2-holdfor", "FUTURERELEASE", b"HOLDFOR=60", "HOLDFOR=60 is accepted.", "250")
_mail("rfc4865-4.2-holdfor-in-any-case", "FUTURERELEASE", b"holdfor=60", "holdfor is understood in any case.", "250")
for _name, _value in (("word", b"soon"), ("negative", b"-1"), ("empty", b""), ("ten-digits", b"9999999999")):
    _mail(
        f"rfc4865-4.2-holdfor-{_name}",
        "FUTURERELEASE",
        b"HOLDFOR=" + _value,
        "HOLDFOR with an invalid interval is refused.",
        BAD,
    )
_mail("rfc4865-4.2-holdfor-bare", "FUTURERELEASE", b"HOLDFOR", "HOLDFOR without a value is refused.", BAD)
_mail(
    "rfc4865-4.2-holduntil-word",
    "FUTURERELEASE",
    b"HOLDUNTIL=tomorrow",
    "HOLDUNTIL with an invalid date-time is refused.",
    BAD,
)
_mail("rfc4865-4.2-holduntil-no-zone", "FUTURERELEASE", b"HOLDUNTIL=2026-12-01T10:00:00",
      "HOLDUNTIL without a time zone is refused.", BAD)  # fmt: skip
_mail("rfc4865-4.2-holduntil-no-day", "FUTURERELEASE", b"HOLDUNTIL=2026-02-31T10:00:00Z",
      "HOLDUNTIL with a day that does not exist is refused.", BAD)  # fmt: skip
_mail(
    "rfc4865-4.2-both",
    "FUTURERELEASE",
    b"HOLDFOR=60 HOLDUNTIL=2026-12-01T10:00:00Z",
    "HOLDFOR and HOLDUNTIL together are refused.",
    BAD,
)
_mail("rfc4865-4.2-twice", "FUTURERELEASE", b"HOLDFOR=60 HOLDFOR=60", "HOLDFOR given twice is refused.", BAD)


@TOPIC.case("rfc4865-4.2-beyond-the-maximum", Level.MUST, "HOLDFOR beyond the announced maximum is refused.",
            needs=("FUTURERELEASE",))  # fmt: skip
async def _beyond(talk: Talk) -> None:
    maximum = int(talk.survey.offers["FUTURERELEASE"].split()[0])
    if maximum >= 999_999_999:
        talk.skip("the announced maximum is the largest interval that the syntax allows")
    await talk.say(b"MAIL FROM:<{from}> HOLDFOR=%d\r\n" % (maximum + 1), BAD)
    await talk.in_step()


@TOPIC.case("rfc4865-4.2-until-the-maximum", Level.MUST, "HOLDUNTIL beyond the announced date is refused.",
            needs=("FUTURERELEASE",))  # fmt: skip
async def _until(talk: Talk) -> None:
    if int(talk.survey.offers["FUTURERELEASE"].split()[1][:4]) >= 9999:
        talk.skip("the announced date is the latest that the syntax allows")
    await talk.say(b"MAIL FROM:<{from}> HOLDUNTIL=9999-12-31T23:59:59Z\r\n", BAD)
    await talk.in_step()


# DELIVERBY
for _name, _value in (("notify", b"120000;N"), ("return", b"120000;R"), ("trace", b"120000;NT"), ("plus", b"+120000;R"),
                      ("negative-notify", b"-60;N"), ("zero-notify", b"0;N")):  # fmt: skip
    _mail(f"rfc2852-4-{_name}", "DELIVERBY", b"BY=" + _value, f"BY={_value.decode()} is accepted.", "250 4xx ~555")
for _name, _value in (("zero-return", b"0;R"), ("negative-return", b"-60;R"), ("no-mode", b"600"), ("no-time", b";N"),
                      ("other-mode", b"600;X"), ("ten-digits", b"1000000000;N"), ("other-trace", b"600;NX"),
                      ("word", b"soon;N")):  # fmt: skip
    _mail(f"rfc2852-4-{_name}", "DELIVERBY", b"BY=" + _value, f"BY={_value.decode()} is refused.", BAD, Level.SHOULD)
_mail("rfc2852-4-bare", "DELIVERBY", b"BY", "BY without a value is refused.", BAD, Level.SHOULD)


@TOPIC.case("rfc2852-3-below-the-minimum", Level.MUST, "BY with R below the announced minimum is refused with 55z.",
            needs=("DELIVERBY",))  # fmt: skip
async def _minimum(talk: Talk) -> None:
    said = talk.survey.offers["DELIVERBY"]
    if not said.isdigit() or int(said) < 2:
        talk.skip("no minimum is announced")
    await talk.say(b"MAIL FROM:<{from}> BY=%d;R\r\n" % (int(said) - 1), "55x ~5xx")
    await talk.in_step()


# MT-PRIORITY
for _value in (b"0", b"-9", b"9", b"4"):
    _mail(f"rfc6710-3-{_value.decode().replace('-', 'minus-')}", "MT-PRIORITY", b"MT-PRIORITY=" + _value,
          f"MT-PRIORITY={_value.decode()} is accepted, or refused as not permitted.", "250 450 550")  # fmt: skip
for _name, _value in (("10", b"10"), ("minus-10", b"-10"), ("word", b"high"), ("empty", b""), ("plus", b"+3"),
                      ("leading-zero", b"03")):  # fmt: skip
    _mail(f"rfc6710-4.1-malformed-{_name}", "MT-PRIORITY", b"MT-PRIORITY=" + _value,
          f"MT-PRIORITY={_value.decode()} is refused.", BAD)  # fmt: skip
_mail("rfc6710-4.1-twice", "MT-PRIORITY", b"MT-PRIORITY=1 MT-PRIORITY=1", "MT-PRIORITY given twice is refused.", BAD)

# REQUIRETLS
_mail("rfc8689-2-requiretls", "REQUIRETLS", b"REQUIRETLS", "REQUIRETLS is accepted under TLS.", "250")
_mail("rfc8689-2-in-any-case", "REQUIRETLS", b"requiretls", "requiretls is understood in any case.", "250")
_mail(
    "rfc8689-2-with-value",
    "REQUIRETLS",
    b"REQUIRETLS=yes",
    "REQUIRETLS with a value is refused.",
    "501 ~5xx",
    Level.SHOULD,
)


@TOPIC.case("rfc8689-2-without-tls", Level.MUST, "Without TLS, REQUIRETLS is refused.", start=Start.GREETED,
            wants=("unencrypted connection",))  # fmt: skip
async def _without_tls(talk: Talk) -> None:
    await talk.hello()
    await talk.say(b"MAIL FROM:<{from}> REQUIRETLS\r\n", "555 530 ~5xx")
    await talk.in_step()


# RRVS
TOPIC.row(
    "rfc7293-3.1-rrvs", Level.MUST, "RRVS with a date-time is not refused as a syntax error.",
    say(b"RCPT TO:<{to}> RRVS=2026-01-05T10:00:00Z\r\n", "250 251 4xx 550"), start=Start.MAIL, needs=("RRVS",),
)  # fmt: skip
TOPIC.row(
    "rfc7293-3.1-rrvs-and-action", Level.MUST, "RRVS with an action is not refused as a syntax error.",
    say(b"RCPT TO:<{to}> RRVS=2026-01-05T10:00:00Z;C\r\n", "250 251 4xx 550"), start=Start.MAIL, needs=("RRVS",),
)  # fmt: skip
TOPIC.row(
    "rfc7293-3.1-rrvs-malformed", Level.SHOULD, "RRVS without a date-time is refused.",
    say(b"RCPT TO:<{to}> RRVS=yesterday\r\n", BAD), start=Start.MAIL, needs=("RRVS",),
)  # fmt: skip
