"""The parameters that request delivery status notifications (RFC 3461 §4)."""

from __future__ import annotations

from ironpost.conform.case import Level, Start, Topic, say

TOPIC = Topic("dsn", "DSN", needs=("DSN",))


def _mail(name: str, parameters: bytes, does: str, spec: str, level: Level, section: str) -> None:
    TOPIC.row(f"rfc3461-{section}-{name}", level, does, say(b"MAIL FROM:<{from}> " + parameters + b"\r\n", spec))


def _rcpt(name: str, parameters: bytes, does: str, spec: str, level: Level, section: str) -> None:
    TOPIC.row(
        f"rfc3461-{section}-{name}", level, does, say(b"RCPT TO:<{to}> " + parameters + b"\r\n", spec), start=Start.MAIL
    )


BAD = "501 555 ~5xx"
for _name, _parameters in (
    ("ret-full", b"RET=FULL"),
    ("ret-hdrs", b"RET=HDRS"),
    ("ret-in-any-case", b"ret=hdrs"),
):
    _mail(_name, _parameters, f"{_parameters.decode()} is accepted.", "250", Level.MUST, "4.3")
_mail("ret-unknown", b"RET=SOME", "RET with an unknown value is refused.", BAD, Level.SHOULD, "4.3")
_mail("ret-empty", b"RET=", "RET= is refused.", BAD, Level.SHOULD, "4.3")
_mail("ret-bare", b"RET", "RET without a value is refused.", BAD, Level.SHOULD, "4.3")
_mail("ret-twice", b"RET=FULL RET=HDRS", "RET given twice is refused 501.", "501 ~5xx", Level.SHOULD, "4.5")
for _name, _parameters in (
    ("envid", b"ENVID=QQ314159"),
    ("envid-xtext", b"ENVID=a+2Bb+3Dc"),
    ("envid-of-100", b"ENVID=" + b"x" * 100),
    ("envid-punctuation", b"ENVID=<a@b>;c/d"),
    ("envid-in-any-case", b"envid=x"),
):
    _mail(_name, _parameters, f"{_parameters.decode()[:24]} is accepted.", "250", Level.MUST, "4.4")
_mail("envid-empty-xtext", b"ENVID=+", "ENVID with a broken escape is refused.", BAD, Level.SHOULD, "4.4")
_mail("envid-lower-hex", b"ENVID=a+2b", "ENVID with a lower-case escape is refused.", BAD, Level.ROBUST, "4")
_mail("envid-bare", b"ENVID", "ENVID without a value is refused.", BAD, Level.SHOULD, "4.4")
_mail("envid-twice", b"ENVID=a ENVID=b", "ENVID given twice is refused 501.", "501 ~5xx", Level.SHOULD, "4.5")
_mail("envid-of-300", b"ENVID=" + b"x" * 300, "ENVID of more than 100 characters: an ordinary reply.", "250 5xx",
      Level.ROBUST, "4.4")  # fmt: skip
_mail("envid-control", b"ENVID=a+0D+0Ab", "ENVID that hides CR LF is refused: a report would carry them.", BAD,
      Level.ROBUST, "4.4")  # fmt: skip
_mail("ret-and-envid", b"RET=FULL ENVID=x", "RET and ENVID together.", "250", Level.MUST, "4")
for _name, _parameters in (
    ("notify-never", b"NOTIFY=NEVER"),
    ("notify-success", b"NOTIFY=SUCCESS"),
    ("notify-failure", b"NOTIFY=FAILURE"),
    ("notify-delay", b"NOTIFY=DELAY"),
    ("notify-all", b"NOTIFY=SUCCESS,FAILURE,DELAY"),
    ("notify-in-any-case", b"notify=Success,failure"),
):
    _rcpt(_name, _parameters, f"{_parameters.decode()} is accepted.", "250 251", Level.MUST, "4.1")
_rcpt("notify-never-and-more", b"NOTIFY=NEVER,SUCCESS", "NEVER cannot be combined.", BAD, Level.SHOULD, "4.1")
_rcpt("notify-unknown", b"NOTIFY=MAYBE", "NOTIFY with an unknown value is refused.", BAD, Level.SHOULD, "4.1")
_rcpt("notify-empty", b"NOTIFY=", "NOTIFY= is refused.", BAD, Level.SHOULD, "4.1")
_rcpt("notify-bare", b"NOTIFY", "NOTIFY without a value is refused.", BAD, Level.SHOULD, "4.1")
_rcpt("notify-twice", b"NOTIFY=DELAY NOTIFY=FAILURE", "NOTIFY given twice is refused 501.", "501 ~5xx", Level.SHOULD,
      "4.5")  # fmt: skip
for _name, _parameters in (
    ("orcpt", b"ORCPT=rfc822;{to}"),
    ("orcpt-xtext", b"ORCPT=rfc822;a+2Bb@client.example"),
    ("orcpt-other-type", b"ORCPT=x400;/C=DE/"),
    ("orcpt-in-any-case", b"orcpt=RFC822;{to}"),
    ("orcpt-and-notify", b"NOTIFY=FAILURE ORCPT=rfc822;{to}"),
):
    _rcpt(_name, _parameters.replace(b"/C=DE/", b"/C+3DDE/"), f"{_parameters.decode()} is accepted.", "250 251",
          Level.MUST, "4.2")  # fmt: skip
_rcpt("orcpt-without-type", b"ORCPT=conform", "ORCPT without a type is refused.", BAD, Level.SHOULD, "4.2")
_rcpt("orcpt-bare", b"ORCPT", "ORCPT without a value is refused.", BAD, Level.SHOULD, "4.2")
_rcpt("orcpt-broken-xtext", b"ORCPT=rfc822;a+zzb@client.example", "ORCPT with a broken escape is refused.", BAD,
      Level.SHOULD, "4.2")  # fmt: skip
_rcpt("orcpt-twice", b"ORCPT=rfc822;a@b.example ORCPT=rfc822;a@b.example", "ORCPT given twice is refused 501.",
      "501 ~5xx", Level.SHOULD, "4.5")  # fmt: skip
_rcpt("orcpt-control", b"ORCPT=rfc822;a+0D+0Ab", "ORCPT that hides CR LF is refused: a report would carry them.", BAD,
      Level.ROBUST, "4.2")  # fmt: skip
TOPIC.row(
    "rfc3461-4-ret-in-rcpt", Level.MUST, "RET in RCPT is refused.", say(b"RCPT TO:<{to}> RET=FULL\r\n", BAD),
    start=Start.MAIL,
)  # fmt: skip
TOPIC.row(
    "rfc3461-4-a-complete-transaction", Level.MUST, "A message with all four parameters is accepted.",
    say(b"MAIL FROM:<{from}> RET=HDRS ENVID=x\r\n", "250"),
    say(b"RCPT TO:<{to}> NOTIFY=NEVER ORCPT=rfc822;{to}\r\n", "250 251"), say(b"DATA\r\n", "354"),
    say(b"{message}.\r\n", "250"),
)  # fmt: skip
