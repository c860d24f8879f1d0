"""Commands and paths that must be accepted, and that must be refused (RFC 5321 §2.4, §3.6.1, §4.1.1, §4.1.2, §4.2.4,
§4.5.1)."""

from __future__ import annotations

from ironpost.conform.case import ANY, MX, SMTP, Level, Start, Topic, say

TOPIC = Topic("syntax", "Commands, paths, addresses")

UNDERSTOOD = "250 251 252 4xx 521 550 551 552 553 554 556"
"""A well-formed path may be refused for its address, but not as a syntax error or unknown parameter."""

# ---------------------------------------------------------------------------------------------------------------------
# Verbs

for _verb, _start, _line, _spec in (
    ("ehlo", Start.GREETED, b"eHlO {name}", "250"),
    ("mail", Start.HELLO, b"mail from:<{from}>", "250"),
    ("mail-mixed", Start.HELLO, b"MaIl FrOm:<{from}>", "250"),
    ("rcpt", Start.MAIL, b"rcpt to:<{to}>", "250 251"),
    ("rcpt-mixed", Start.MAIL, b"rCpT tO:<{to}>", "250 251"),
    ("data", Start.RCPT, b"dAtA", "354"),
    ("rset", Start.HELLO, b"rset", "250"),
    ("noop", Start.HELLO, b"nOop", "250"),
    ("quit", Start.HELLO, b"quit", "221"),
):
    TOPIC.row(
        f"rfc5321-2.4-{_verb}-in-any-case", Level.MUST, "A verb is understood in any mixture of cases.",
        say(_line + b"\r\n", _spec), start=_start, quits=_verb not in {"quit", "data"},
        profiles=SMTP if _verb == "ehlo" else ANY,
    )  # fmt: skip
for _verb, _start, _line, _spec in (
    ("ehlo", Start.GREETED, b"{ehlo} {name}", "250"),
    ("mail", Start.HELLO, b"MAIL FROM:<{from}>", "250"),
    ("rcpt", Start.MAIL, b"RCPT TO:<{to}>", "250 251"),
    ("data", Start.RCPT, b"DATA", "354"),
    ("rset", Start.HELLO, b"RSET", "250"),
    ("noop", Start.HELLO, b"NOOP", "250"),
    ("quit", Start.HELLO, b"QUIT", "221"),
):
    TOPIC.row(
        f"rfc5321-4.1.1-{_verb}-trailing-space", Level.SHOULD, "White space before the CRLF is tolerated.",
        say(_line + b" \r\n", _spec), start=_start, quits=_verb not in {"quit", "data"},
    )  # fmt: skip
TOPIC.row(
    "rfc5321-4.2.4-unknown-verb", Level.MUST, "An unknown verb is refused with 500.",
    say(b"XYZZY\r\n", "500 ~5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.2.4-unknown-verb-with-argument", Level.MUST, "An unknown verb with an argument is refused.",
    say(b"FROBNICATE all of it\r\n", "500 ~5xx"),
)  # fmt: skip
TOPIC.row("rfc5321-4.1.1-empty-line", Level.ROBUST, "An empty line is refused.", say(b"\r\n", "500 501 ~5xx"))
TOPIC.row("rfc5321-4.1.1-spaces-only", Level.ROBUST, "A line of spaces is refused.", say(b"   \r\n", "500 501 ~5xx"))
TOPIC.row(
    "rfc5321-4.1.1-leading-space",
    Level.ROBUST,
    "A verb after a leading space is refused.",
    say(b" NOOP\r\n", "500 501 ~5xx"),
)
TOPIC.row(
    "rfc5321-4.1.1-verb-runs-on", Level.MUST, "NOOPX is not NOOP.", say(b"NOOPX\r\n", "5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1-verb-cut-short", Level.ROBUST, "NOO is not NOOP.", say(b"NOO\r\n", "500 ~5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.2-tab-after-the-verb", Level.ROBUST, "MAIL and FROM with a tab between them: one reply.",
    say(b"MAIL\tFROM:<{from}>\r\n", "250 5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-F.1-turn", Level.SHOULD, "TURN is refused.", say(b"TURN\r\n", "500 502 ~5xx"), profiles=SMTP,
)  # fmt: skip
for _verb in ("SEND", "SOML", "SAML"):
    TOPIC.row(
        f"rfc5321-F.6-{_verb.lower()}", Level.SHOULD, f"{_verb}, deprecated, is refused as not implemented.",
        say(_verb.encode() + b" FROM:<{from}>\r\n", "500 502 ~5xx"), profiles=SMTP,
    )  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Reverse-path


def _mail(name: str, path: bytes, does: str, spec: str, level: Level, section: str = "4.1.2") -> None:
    TOPIC.row(f"rfc5321-{section}-mail-{name}", level, does, say(b"MAIL FROM:" + path + b"\r\n", spec))


_mail("null-path", b"<>", "The null reverse-path is accepted.", "250", Level.MUST, "4.5.5")
for _name, _path in (
    ("quoted-local-part", b'<"conform"@client.example>'),
    ("quoted-space", b'<"con form"@client.example>'),
    ("quoted-at", b'<"con@form"@client.example>'),
    ("quoted-backslash", rb'<"con\"form"@client.example>'),
    ("quoted-angle", b'<"con>form"@client.example>'),
    ("quoted-dots", b'<"..con..form.."@client.example>'),
    ("atom-specials", b"<!#$%&'*+-/=?^_`{|}~@client.example>"),
    ("dots", b"<c.o.n.form@client.example>"),
    ("plus", b"<conform+tag@client.example>"),
    ("digits-domain", b"<conform@1.2.example>"),
    ("upper-case-domain", b"<conform@CLIENT.EXAMPLE>"),
    ("long-domain", b"<conform@" + b".".join([b"a" * 60] * 4) + b">"),
):
    _mail(_name, _path, f"MAIL FROM:{_path[:44].decode()} is not a syntax error.", UNDERSTOOD, Level.MUST)
for _kind, _line, _start in (("mail", b"MAIL FROM", Start.HELLO), ("rcpt", b"RCPT TO", Start.MAIL)):
    # RFC 1123 requires parsing of IPv4 literals; no RFC requires it for IPv6.
    for _name, _literal, _level in (
        ("rfc1123-5.2.17-{}-ipv4-literal", b"[192.0.2.1]", Level.MUST),
        ("rfc5321-4.1.3-{}-ipv6-literal", b"[IPv6:2001:db8::1]", Level.SHOULD),
    ):
        TOPIC.row(
            _name.format(_kind), _level, f"{_line.decode()}:<conform@{_literal.decode()}> is not a syntax error.",
            say(_line + b":<conform@" + _literal + b">\r\n", UNDERSTOOD), start=_start,
        )  # fmt: skip
_mail(
    "source-route", b"<@a.example,@b.example:conform@client.example>",
    "A source route in the reverse-path is recognised: no syntax error.", UNDERSTOOD, Level.MUST, "4.1.1.3",
)  # fmt: skip
for _name, _path, _does in (
    ("without-path", b"", "MAIL FROM: without a path is refused."),
    ("without-domain", b"<conform@>", "A path with an empty domain is refused."),
    ("without-local-part", b"<@client.example>", "A path with an empty local part is refused."),
    ("unclosed", b"<conform@client.example", "A path without its closing bracket is refused."),
    ("two-ats", b"<con@form@client.example>", "A path with two unquoted @ is refused."),
    ("text-after", b"<conform@client.example>text", "Text immediately after the path is refused."),
    ("unclosed-quote", b'<"conform@client.example>', "A quoted local part without its closing quote is refused."),
    ("unclosed-literal", b"<conform@[192.0.2.1>", "An address literal without its closing bracket is refused."),
    ("space-in-local-part", b"<con form@client.example>", "A space in an unquoted local part is refused."),
    ("two-paths", b"<conform@client.example> <conform@client.example>", "Two paths are refused."),
):
    _mail(_name, _path, _does, "501 550 553 555 ~5xx", Level.SHOULD)
for _name, _path, _does in (
    ("bare-address", b"conform@client.example", "A path without brackets is refused."),
    ("space-before-path", b" <conform@client.example>", "A space after the colon is refused."),
    ("leading-dot", b"<.conform@client.example>", "A local part that begins with a dot is refused."),
    ("trailing-dot", b"<conform.@client.example>", "A local part that ends with a dot is refused."),
    ("two-dots", b"<con..form@client.example>", "A local part with two dots in a row is refused."),
    ("domain-leading-dot", b"<conform@.client.example>", "A domain that begins with a dot is refused."),
    ("domain-two-dots", b"<conform@client..example>", "A domain with two dots in a row is refused."),
    ("domain-leading-hyphen", b"<conform@-client.example>", "A domain label that begins with a hyphen is refused."),
    ("bad-ipv4-literal", b"<conform@[999.0.2.1]>", "An invalid IPv4 address literal is refused."),
    ("bad-ipv6-literal", b"<conform@[IPv6:xyz]>", "An invalid IPv6 address literal is refused."),
    ("parentheses", b"<conform(text)@client.example>", "A comment in a path is refused."),
    ("display-name", b"Conform <conform@client.example>", "A display name before the path is refused."),
):
    _mail(_name, _path, _does, "501 550 553 555 ~5xx ~4xx", Level.ROBUST)
TOPIC.row("rfc5321-4.1.1.2-mail-alone", Level.MUST, "MAIL without FROM: is refused.", say(b"MAIL\r\n", "500 501 ~5xx"))
TOPIC.row("rfc5321-4.1.1.2-mail-to", Level.MUST, "MAIL TO: is refused.", say(b"MAIL TO:<{from}>\r\n", "500 501 ~5xx"))

# ---------------------------------------------------------------------------------------------------------------------
# Forward-path


def _rcpt(name: str, path: bytes, does: str, spec: str, level: Level, section: str = "4.1.2") -> None:
    TOPIC.row(f"rfc5321-{section}-rcpt-{name}", level, does, say(b"RCPT TO:" + path + b"\r\n", spec), start=Start.MAIL)


for _name, _path in (
    ("quoted-local-part", b'<"conform"@client.example>'),
    ("quoted-space", b'<"con form"@client.example>'),
    ("quoted-at", b'<"con@form"@client.example>'),
    ("quoted-backslash", rb'<"con\\form"@client.example>'),
    ("atom-specials", b"<!#$%&'*+-/=?^_`{|}~@client.example>"),
):
    # The domain is foreign, so a refusal is expected; it must not be a syntax error.
    _rcpt(_name, _path, f"RCPT TO:{_path.decode()} is not a syntax error.", UNDERSTOOD, Level.MUST)
_rcpt(
    "source-route", b"<@a.example,@b.example:{to}>",
    "A source route in the forward-path is recognised: accepted, or refused as a route.", UNDERSTOOD, Level.MUST,
    "4.1.1.3",
)  # fmt: skip
for _name, _path in (("postmaster", b"<postmaster>"), ("postmaster-upper", b"<POSTMASTER>")):
    TOPIC.row(
        f"rfc5321-4.5.1-rcpt-{_name}", Level.MUST, f"RCPT TO:{_path.decode()}, without a domain, is accepted.",
        say(b"RCPT TO:" + _path + b"\r\n", "250 251"), start=Start.MAIL, profiles=MX,
    )  # fmt: skip
for _name, _path, _does in (
    ("null-path", b"<>", "RCPT with the null path is refused."),
    ("without-path", b"", "RCPT TO: without a path is refused."),
    ("without-domain", b"<conform@>", "A path with an empty domain is refused."),
    ("without-local-part", b"<@client.example>", "A path with an empty local part is refused."),
    ("text-after", b"<{to}>text", "Text immediately after the path is refused."),
    ("two-paths", b"<{to}> <{to}>", "Two paths are refused."),
    ("comma", b"<{to}>,<{to}>", "A list of paths is refused."),
):
    _rcpt(_name, _path, _does, "501 550 551 553 554 555 ~5xx", Level.SHOULD)
_rcpt("bare-address", b"{to}", "A path without brackets is refused.", "501 550 553 555 ~5xx", Level.ROBUST)
_rcpt("space-before-path", b" <{to}>", "A space after the colon is refused.", "501 550 553 ~5xx", Level.ROBUST)
_rcpt(
    "percent-route", b"<a%client.example@b.example>", "The percent hack is not a syntax error.",
    UNDERSTOOD, Level.ROBUST, "3.6.1",
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.3-rcpt-alone", Level.MUST, "RCPT without TO: is refused.", say(b"RCPT\r\n", "500 501 ~5xx"),
    start=Start.MAIL,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.3-rcpt-from", Level.MUST, "RCPT FROM: is refused.", say(b"RCPT FROM:<{to}>\r\n", "500 501 ~5xx"),
    start=Start.MAIL,
)  # fmt: skip
TOPIC.row(
    "rfc5321-2.4-rcpt-domain-in-any-case", Level.MUST, "The domain of a recipient is case-insensitive.",
    say(b"RCPT TO:<{to-upper-domain}>\r\n", "250 251"), start=Start.MAIL,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.3-rcpt-rejected", Level.MUST, "A recipient is refused at RCPT, with 4yz or 5yz.",
    say(b"RCPT TO:<{rejected}>\r\n", "550 551 553 554 4xx ~5xx"), start=Start.MAIL, wants=("rejected",),
)  # fmt: skip
