"""Unknown and malformed parameters of MAIL and RCPT (RFC 5321 §4.1.1.11, §4.1.2)."""

from __future__ import annotations

from ironpost.conform.case import SMTP, Level, Start, Topic, say

TOPIC = Topic("parameters", "Parameters of MAIL and RCPT")

UNKNOWN = "555 ~5xx ~4xx"


def _mail(name: str, parameters: bytes, does: str, spec: str, level: Level = Level.MUST, section: str = "4.1.1.11",
          needs: tuple[str, ...] = ()) -> None:  # fmt: skip
    TOPIC.row(
        f"rfc5321-{section}-mail-{name}", level, does, say(b"MAIL FROM:<{from}> " + parameters + b"\r\n", spec),
        needs=needs,
    )  # fmt: skip


_mail("unknown", b"FROBNICATE=1", "An unknown parameter of MAIL is refused with 555.", UNKNOWN)
_mail("unknown-bare", b"FROBNICATE", "An unknown keyword without a value is refused.", UNKNOWN)
_mail("unknown-after-known", b"SIZE=1 FROBNICATE=1", "An unknown parameter after a known one is refused.", UNKNOWN,
      needs=("SIZE",))  # fmt: skip
_mail("unknown-before-known", b"FROBNICATE=1 SIZE=1", "An unknown parameter before a known one is refused.", UNKNOWN,
      needs=("SIZE",))  # fmt: skip
_mail("of-rcpt", b"NOTIFY=NEVER", "A parameter of RCPT is refused in MAIL.", "555 501 ~5xx")
_mail("empty-keyword", b"=1", "A parameter without a keyword is refused.", "501 555 ~5xx", Level.SHOULD, "4.1.2")
_mail(
    "leading-hyphen", b"-X=1", "A keyword that begins with a hyphen is refused.", "501 555 ~5xx", Level.SHOULD, "4.1.2"
)
_mail(
    "empty-value", b"FROBNICATE=", "A parameter with an empty value is refused.", "501 555 ~5xx", Level.SHOULD, "4.1.2"
)
_mail("eight-bit", b"FROBNICATE=\xff", "A value with an octet outside ASCII is refused.", "500 501 555 ~5xx",
      Level.SHOULD, "4.1.2")  # fmt: skip
_mail("keyword-in-any-case", b"size=1", "Keywords are understood in any case.", "250", section="2.4", needs=("SIZE",))
_mail(
    "mixed-case", b"SiZe=1", "Keywords are understood in any mixture of cases.", "250", section="2.4", needs=("SIZE",)
)
_mail("twice", b"SIZE=1 SIZE=1", "A parameter given twice is refused.", "501 ~5xx", Level.ROBUST, "4.1.2",
      ("SIZE",))  # fmt: skip
for _keyword, _value, _does in (
    ("SIZE", b"SIZE=1", "SIZE"),
    ("8BITMIME", b"BODY=8BITMIME", "BODY"),
    ("SMTPUTF8", b"SMTPUTF8", "SMTPUTF8"),
    ("DSN", b"RET=HDRS", "RET"),
    ("DSN", b"ENVID=x", "ENVID"),
    ("BINARYMIME", b"BODY=BINARYMIME", "BODY=BINARYMIME"),
    ("REQUIRETLS", b"REQUIRETLS", "REQUIRETLS"),
    ("DELIVERBY", b"BY=600;N", "BY"),
    ("FUTURERELEASE", b"HOLDFOR=60", "HOLDFOR"),
    ("MT-PRIORITY", b"MT-PRIORITY=0", "MT-PRIORITY"),
    ("AUTH", b"AUTH=<>", "AUTH"),
):
    _mail(
        f"{_does.lower().replace('=', '-')}-not-offered", _value,
        f"{_does} is refused if {_keyword} is not offered.",
        "555 501 ~5xx ~4xx" if "=" in _does else "555 530 ~5xx ~4xx", Level.ROBUST, needs=(f"!{_keyword}",),
    )  # fmt: skip

TOPIC.row(
    "rfc5321-4.1.1.11-refused-parameter-opens-nothing", Level.MUST,
    "MAIL with a refused parameter does not begin a transaction.",
    say(b"MAIL FROM:<{from}> FROBNICATE=1\r\n", "5xx 4xx"), say(b"RCPT TO:<{to}>\r\n", "503 ~5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.11-good-mail-after-a-refused-one", Level.MUST, "MAIL without the parameter is then accepted.",
    say(b"MAIL FROM:<{from}> FROBNICATE=1\r\n", "5xx 4xx"), say(b"MAIL FROM:<{from}>\r\n", "250"),
)  # fmt: skip
for _name, _parameters, _does in (
    ("unknown", b"FROBNICATE=1", "An unknown parameter of RCPT is refused with 555."),
    ("unknown-bare", b"FROBNICATE", "An unknown keyword without a value is refused."),
    ("of-mail", b"SIZE=1", "A parameter of MAIL is refused in RCPT."),
    ("body", b"BODY=8BITMIME", "BODY is refused in RCPT."),
):
    TOPIC.row(
        f"rfc5321-4.1.1.11-rcpt-{_name}", Level.MUST, _does, say(b"RCPT TO:<{to}> " + _parameters + b"\r\n", UNKNOWN),
        start=Start.MAIL,
    )  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.11-rcpt-refused-parameter-adds-nothing", Level.MUST,
    "RCPT with a refused parameter does not add a recipient.",
    say(b"RCPT TO:<{to}> FROBNICATE=1\r\n", "5xx 4xx"), say(b"DATA\r\n", "503 554 ~5xx"), start=Start.MAIL,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.11-rcpt-notify-not-offered", Level.ROBUST, "NOTIFY is refused where DSN is not offered.",
    say(b"RCPT TO:<{to}> NOTIFY=NEVER\r\n", UNKNOWN), start=Start.MAIL, needs=("!DSN",),
)  # fmt: skip
TOPIC.row(
    "rfc5321-2.2.1-helo-knows-no-parameters", Level.ROBUST, "No extension is in use after HELO: SIZE= is refused.",
    say(b"HELO {name}\r\n", "250"), say(b"MAIL FROM:<{from}> SIZE=1\r\n", "555 ~5xx"), start=Start.GREETED,
    profiles=SMTP, wants=("unencrypted",),
)  # fmt: skip
