"""A small server with faults that can be switched on: the suite must detect each of them, and nothing without them.

It shares no code with the package, so that a mistake common to our server and our suite is noticed. Each name in
`FLAWS` is one fault; what ends content and commands can be set as well.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import re

FLAWS = frozenset(
    {
        "LF ends a command",
        "takes a command from each read",
        "looks for the end of content in each read",
        "takes bare line ends",
        "answers 250 to everything",
        "executes what stands after STARTTLS",
        "offers STARTTLS again",
        "takes STARTTLS again",
        "keeps EHLO under TLS",
        "keeps the transaction under TLS",
        "has no handshake",
        "answers unencrypted after STARTTLS",
        "ends at a failed handshake",
        "continues unencrypted when TLS ends",
        "offers AUTH unencrypted",
        "offers REQUIRETLS unencrypted",
        "offers no STARTTLS",
        "forgets RSET",
        "EHLO keeps the transaction",
        "RCPT needs no MAIL",
        "closes at the first error",
        "never tires of errors",
        "knows every parameter",
        "reads chunks as commands when it refuses them",
        "scans chunks for dots",
        "unstuffs chunks",
        "loses the last octet of chunks",
        "keeps chunks at RSET",
        "one reply for all recipients",
        "answers EHLO in LMTP",
        "says 535 to the star",
        "takes bad base64",
        "challenges in plain text",
        "lets everybody in",
        "answers NOOP with 999",
        "answers NOOP without a code",
        "code without text of its class",
        "ends replies with LF",
        "answers QUIT twice",
        "keeps QUIT open",
        "listens after QUIT",
        "takes any size",
        "is case-sensitive",
        "accepts cut content",
        "delivers cut content",
        "takes ten recipients",
        "loses pipelined commands",
        "executes NOOP that is too long",
        "offers nonsense",
        "RSET delivers",
        "takes twenty recipients and forgets them",
        "an enhanced code after 354",
        "dots stay stuffed",
        "loses what it accepts",
        "writes no Received",
        "writes no Return-Path",
        "writes Return-Path twice",
        "counts no hops",
        "writes no Message-ID",
        "writes no Date",
        "replaces Date",
        "refolds fields",
        "takes the dots from the ends of lines",
        "removes empty lines",
        "removes white space at the ends of lines",
        "quotes From",
        "removes verbs",
        "cuts lines",
        "removes control octets",
        "loses every tenth line",
        "cuts the eighth bit",
    }
)
ALTERED = {
    "refolds fields": lambda octets: re.sub(rb"\r\n[ \t]+", b" ", octets),
    "takes the dots from the ends of lines": lambda octets: octets.replace(b".\r\n", b"\r\n"),
    "removes empty lines": lambda octets: re.sub(rb"(?:\r\n){3,}", b"\r\n\r\n", octets),
    "removes white space at the ends of lines": lambda octets: re.sub(rb"[ \t]+\r\n", b"\r\n", octets),
    "quotes From": lambda octets: re.sub(rb"(?m)^From ", b">From ", octets),
    "removes verbs": lambda octets: re.sub(rb"(?m)^(?:QUIT|DATA|RSET)\r\n", b"", octets),
    "cuts lines": lambda octets: re.sub(rb"(?m)^([^\r\n]{512})[^\r\n]+", rb"\1", octets),
    "removes control octets": lambda octets: re.sub(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", b"", octets),
    "loses every tenth line": lambda octets: re.sub(rb"((?:[^\n]*\n){9})[^\n]*\n", rb"\1", octets),
    "cuts the eighth bit": lambda octets: bytes(octet & 127 for octet in octets),
    "writes no Message-ID": lambda octets: re.sub(rb"(?m)^Message-ID:.*\n", b"", octets),
    "writes no Date": lambda octets: re.sub(rb"(?m)^Date:.*\n", b"", octets),
    "replaces Date": lambda octets: re.sub(rb"(?m)^Date:.*\n", b"Date: Tue, 06 Jan 2026 10:00:00 +0000\r\n", octets),
}
"""What a stored message becomes."""
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
"""A CR or LF that is not part of CRLF."""
NUMBERS = itertools.count()
NAME = re.compile(r'<(?:@[^:"]*:)?("(?:[^"\\]|\\.)*"@[^<>]*|[^<>]*)>(.*)')
ADDRESS = re.compile(r"[^\s@<>()]+@(?:[\w-]+(?:\.[\w-]+)*|\[[\w:.]+\])|postmaster|", re.I)
MOST = 100_000
"""Octets of the largest message."""
MECHANISMS = (
    "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS", "XOAUTH2", "OAUTHBEARER",
    "EXTERNAL",
)  # fmt: skip
"""None of which lets anybody in."""


class Scripted(asyncio.Protocol):
    """One connection.

    `flaws` is shared by the server's connections. With `context` there is STARTTLS, with `auth` AUTH and the tasks of
    submission. `offers` is `some`, `none` or `many` extensions. What is accepted goes into `folder`. `ends` are
    patterns that end content besides CRLF.CRLF, and `line_ends` octets that end a command besides CRLF. `server` is
    what the connections of one server have in common: whether it has `ended`.
    """

    def __init__(
        self, flaws=frozenset(), *, lmtp=False, context=None, auth=False, folder=None, offers="some", ends=(),
        line_ends=(), server=None,
    ):  # fmt: skip
        self.wrong = flaws
        self.lmtp = lmtp
        self.context = context
        self.auth = auth
        self.folder = folder
        self.offers = offers
        self.most = 10 * MOST if offers == "many" else MOST
        self.ends = [re.compile(rb"\r\n\.\r\n"), *map(re.compile, ends)]
        self.line_ends = [b"\r\n", *line_ends, *([b"\n"] if "LF ends a command" in flaws else [])]
        self.server = {"ended": False} if server is None else server
        self.buffer = b""
        self.mode = "command"
        self.secure = False
        self.greeted = False
        self.sender = None
        self.recipients = []
        self.chunks = []
        self.upgrading = False
        self.dead = False
        self.errors = 0
        self.transport = None

    # transport

    def connection_made(self, transport):
        again, self.transport = self.transport is not None, transport
        if self.server["ended"]:
            self.end()
        elif not again:
            self.say("220 scripted.example ready")

    def data_received(self, data):
        if "looks for the end of content in each read" in self.wrong and self.mode == "data" and len(self.buffer) > 2:
            self.buffer += b"\0"
        self.buffer += data
        self.work()
        if "takes a command from each read" in self.wrong and self.mode == "command" and self.buffer:
            line, self.buffer = self.buffer, b""
            self.command(line.rstrip(b"\r\n"))

    def eof_received(self):
        if self.mode == "data" and "delivers cut content" in self.wrong:
            self.store(self.buffer.removeprefix(b"\r\n"))
        if self.mode == "chunk" and "delivers cut content" in self.wrong:
            self.store(b"".join(self.chunks) + self.buffer)
        if "accepts cut content" in self.wrong and self.mode == "data":
            self.say("250 2.0.0 taken")
        if "continues unencrypted when TLS ends" in self.wrong and self.secure:
            asyncio.get_running_loop().create_task(self.unencrypted(self.transport.get_extra_info("socket").dup()))
        self.transport.close()

    async def unencrypted(self, socket):
        """Continue on the connection without TLS."""
        self.secure = False
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self, socket)

    def say(self, *lines):
        end = "\n" if "ends replies with LF" in self.wrong else "\r\n"
        for index, line in enumerate(lines):
            text = line if index == len(lines) - 1 else line[:3] + "-" + line[4:]
            self.transport.write((text + end).encode())

    def refuse(self, line):
        if "answers 250 to everything" in self.wrong:
            return self.say("250 2.0.0 fine")
        if "code without text of its class" in self.wrong:
            line = re.sub(r" 5\.", " 2.", line)
        self.errors += 1
        if self.errors > 30 and "never tires of errors" not in self.wrong:
            self.say("421 4.7.0 too many errors")
            return self.end()
        self.say(line)
        if "closes at the first error" in self.wrong:
            self.end()
        return None

    def end(self):
        self.dead = True
        self.transport.close()

    # reading

    def work(self):
        while not self.dead and not self.upgrading:
            if self.mode == "data":
                if not self.content():
                    return
            elif self.mode == "chunk":
                if len(self.buffer) < self.size:
                    return
                octets, self.buffer = self.buffer[: self.size], self.buffer[self.size :]
                self.chunk(octets)
            else:
                found = [(self.buffer.find(end), -len(end)) for end in self.line_ends if end in self.buffer]
                if not found:
                    return
                at, length = min(found)
                line, self.buffer = self.buffer[:at], self.buffer[at - length :]
                if self.mode == "command":
                    self.command(line)
                else:
                    self.mode = "command"
                    self.response(line)

    def content(self):
        found = [match.span() for end in self.ends if (match := end.search(self.buffer, self.scanned))]
        if not found:
            self.scanned = max(0, len(self.buffer) - 32)  # longer than any end
            return False
        at, rest = min(found)
        content = self.buffer[:at].removeprefix(b"\r\n") + b"\r\n"
        self.buffer = self.buffer[rest:]
        self.mode = "command"
        bare = BARE.search(content) and not self.auth and "takes bare line ends" not in self.wrong
        if "dots stay stuffed" not in self.wrong:
            content = re.sub(rb"(?m)(^|\r\n)\.", rb"\1", content)
        self.deliver(content, "550 5.6.11 bare line ends" if bare else "")
        return True

    def deliver(self, content, refusal=""):
        count = len(self.recipients) if self.lmtp and "one reply for all recipients" not in self.wrong else 1
        if len(content) > self.most:
            refusal = "552 5.3.4 too large"
        elif content.lower().count(b"\nreceived:") > 100 and "counts no hops" not in self.wrong:
            refusal = "554 5.4.6 loop"
        if not refusal and "loses what it accepts" not in self.wrong:
            self.store(content)
        self.reset()
        for _ in range(count):
            self.say(refusal or "250 2.0.0 taken")

    def store(self, content):
        """Writes a message with its trace fields into the folder."""
        if self.folder is None:
            return
        head = content.lower().partition(b"\r\n\r\n")[0]
        if self.auth and b"message-id:" not in head:
            content = b"Message-ID: <1@scripted.example>\r\n" + content
        if self.auth and b"date:" not in head:
            content = b"Date: Mon, 05 Jan 2026 10:00:00 +0000\r\n" + content
        for flaw in self.wrong & ALTERED.keys():
            content = ALTERED[flaw](content)
        if "writes no Received" not in self.wrong:
            content = b"Received: by scripted.example; Mon, 05 Jan 2026 10:00:00 +0000\r\n" + content
        if "writes no Return-Path" not in self.wrong:
            paths = 2 if "writes Return-Path twice" in self.wrong else 1
            content = b"Return-Path: <%s>\r\n" % (self.sender or "").encode() * paths + content
        (self.folder / str(next(NUMBERS))).write_bytes(content)

    def reset(self):
        self.sender = None
        self.recipients = []
        self.chunks = []

    # commands

    def command(self, line):
        if len(line) > 2048:
            if "executes NOOP that is too long" in self.wrong:
                self.say("250 2.0.0 OK")
            return self.refuse("500 5.5.2 too long")
        if any(octet < 32 or octet == 127 for octet in line):
            return self.refuse("500 5.5.2 odd octets")
        if not line.isascii() and not (self.offers == "many" and line[:4].upper() in {b"MAIL", b"RCPT"}):
            known = {b"MAIL": "553 5.6.7 not ASCII", b"RCPT": "553 5.6.7 not ASCII", b"AUTH": "501 5.5.2 no base64"}
            if not (line[:4].upper() == b"AUTH" and "takes bad base64" in self.wrong):
                return self.refuse(known.get(line[:4].upper(), "500 5.5.2 not ASCII"))
        text = line.decode("utf-8", "replace").rstrip(" ")
        verb, _, argument = text.partition(" ")
        if "is case-sensitive" not in self.wrong:
            verb = verb.upper()
        known = {"EHLO", "HELO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY", "HELP"}
        if self.offers != "none":
            known.add("BDAT")
        if self.offers == "many":
            known.add("ETRN")
        if self.context is not None:
            known.add("STARTTLS")
        if self.auth:
            known.add("AUTH")
        if self.lmtp:
            known = known - {"EHLO", "HELO"} | {"LHLO"}
            if "answers EHLO in LMTP" in self.wrong:
                known |= {"EHLO"}
        if verb not in known:
            return self.refuse("500 5.5.2 unknown")
        if verb in {"RSET", "DATA", "QUIT", "STARTTLS"} and argument:
            return self.refuse("501 5.5.4 no argument")
        return getattr(self, f"do_{verb.lower()}")(argument)

    def do_helo(self, argument):
        if not argument:
            return self.refuse("501 5.5.4 say a name")
        self.greeted = True
        self.reset()
        return self.say("250 scripted.example")

    def do_ehlo(self, argument):
        if not argument:
            return self.refuse("501 5.5.4 say a name")
        self.greeted = True
        if "EHLO keeps the transaction" not in self.wrong:
            self.reset()
        lines = ["250 scripted.example"]
        if self.offers != "none":
            lines += ["250 PIPELINING", f"250 SIZE {self.most}", "250 8BITMIME", "250 CHUNKING"]
            lines += ["250 ENHANCEDSTATUSCODES"]
        if self.offers == "many":
            lines += ["250 BINARYMIME", "250 SMTPUTF8", "250 DELIVERBY 240", "250 ETRN", "250 DSN"]
            lines += ["250 NO-SOLICITING net.example:ADV"]
            if self.secure or "offers REQUIRETLS unencrypted" in self.wrong:
                lines.append("250 REQUIRETLS")
        if "offers nonsense" in self.wrong:
            lines[2] = "250 SIZE much"
            lines += ["250 FUTURERELEASE soon", "250 DELIVERBY never", "250 LIMITS? x", "250 BINARYMIME none"]
        there = self.context is not None and "offers no STARTTLS" not in self.wrong
        if there and (not self.secure or "offers STARTTLS again" in self.wrong):
            lines.append("250 STARTTLS")
        if self.auth and (self.context is None or self.secure or "offers AUTH unencrypted" in self.wrong):
            lines.append(f"250 AUTH {' '.join(MECHANISMS)}")
        return self.say(*lines)

    do_lhlo = do_ehlo

    def do_noop(self, argument):
        if "answers NOOP without a code" in self.wrong:
            self.transport.write(b"250-2.0.0 OK\r\nOK\r\n")
        else:
            self.say("999 2.0.0 OK" if "answers NOOP with 999" in self.wrong else "250 2.0.0 OK")

    def do_etrn(self, argument):
        self.say("250 2.0.0 queue started") if argument else self.refuse("501 5.5.4 whose?")

    def do_vrfy(self, argument):
        self.say("252 2.5.2 perhaps") if argument else self.refuse("501 5.5.4 whom?")

    def do_help(self, argument):
        self.say("214 2.0.0 read RFC 5321")

    def do_rset(self, argument):
        if "RSET delivers" in self.wrong and self.chunks:
            self.store(b"".join(self.chunks))
        chunks = self.chunks if "keeps chunks at RSET" in self.wrong else []
        if "forgets RSET" not in self.wrong:
            self.reset()
            self.chunks = chunks
        self.say("250 2.0.0 OK")

    def do_quit(self, argument):
        self.say("221 2.0.0 bye")
        if "answers QUIT twice" in self.wrong:
            self.say("221 2.0.0 bye")
        if "listens after QUIT" not in self.wrong and "keeps QUIT open" not in self.wrong:
            self.end()
        if "keeps QUIT open" in self.wrong:
            self.buffer = b""

    def path(self, verb, argument):
        """The address, or None when it was refused."""
        keyword = {"MAIL": "FROM:", "RCPT": "TO:"}[verb]
        match = NAME.fullmatch(argument[len(keyword) :]) if argument.upper().startswith(keyword) else None
        if match is None:
            return self.refuse("501 5.5.4 malformed")
        address, rest = match.groups()
        if '"' not in address and (
            not ADDRESS.fullmatch(address)
            or ".." in address
            or address.startswith(".")
            or ".@" in address
            or "@-" in address
        ):
            return self.refuse("501 5.1.3 malformed address")
        if len(address) > 254:
            return self.refuse("501 5.1.3 long address")
        if rest and not rest.startswith(" "):
            return self.refuse("501 5.5.4 text after the path")
        seen = set()
        for parameter in rest.split():
            name, _, value = parameter.partition("=")
            if name.upper() in seen:
                return self.refuse("501 5.5.4 twice")
            seen.add(name.upper())
            if name.upper() == "AUTH" and self.auth and verb == "MAIL":
                if re.search(r"\+(?![0-9A-F]{2})", value):
                    return self.refuse("501 5.5.4 no xtext")
                continue
            if name.upper() not in self.parameters(verb):
                if "knows every parameter" in self.wrong:
                    continue
                return self.refuse("555 5.5.4 unknown parameter")
            if name.upper() == "SIZE":
                if not re.fullmatch(r"\d{1,20}", value):
                    return self.refuse("501 5.5.4 no size")
                if int(value) > self.most and "takes any size" not in self.wrong:
                    return self.refuse("552 5.3.4 too large")
            if name.upper() == "BODY":
                if value.upper() not in {"7BIT", "8BITMIME"} | ({"BINARYMIME"} if self.offers == "many" else set()):
                    return self.refuse("501 5.5.4 no body")
                self.binary = value.upper() == "BINARYMIME"
            if name.upper() == "REQUIRETLS" and "=" in parameter:
                return self.refuse("501 5.5.4 no value")
            if name.upper() == "BY":
                match = re.fullmatch(r"([+-]?\d{1,9});([NR])T?", value, re.I)
                if not match:
                    return self.refuse("501 5.5.4 no deadline")
                if match[2].upper() == "R" and int(match[1]) < 240:
                    return self.refuse("501 5.5.4 no time" if int(match[1]) <= 0 else "555 5.5.4 too early")
        return address

    def parameters(self, verb):
        """The parameters that are known."""
        if verb == "RCPT" or self.offers == "none":
            return set()
        many = {"SMTPUTF8", "BY"} | ({"REQUIRETLS"} if self.secure else set())
        return {"SIZE", "BODY"} | (many if self.offers == "many" else set())

    def do_mail(self, argument):
        if not self.greeted:
            return self.refuse("503 5.5.1 EHLO first")
        if self.sender is not None:
            return self.refuse("503 5.5.1 nested")
        self.binary = False
        address = self.path("MAIL", argument)
        if address is None:
            return None
        self.sender = address
        return self.say("250 2.1.0 OK")

    def do_rcpt(self, argument):
        if self.sender is None and "RCPT needs no MAIL" not in self.wrong:
            return self.refuse("503 5.5.1 MAIL first")
        address = self.path("RCPT", argument)
        if address is None:
            return None
        if not address or not (address.lower().endswith("@localhost") or address.lower() == "postmaster"):
            return self.refuse("550 5.1.1 not here")
        if "takes ten recipients" in self.wrong and len(self.recipients) >= 10:
            return self.refuse("550 5.5.3 enough")
        if "takes twenty recipients and forgets them" in self.wrong and len(self.recipients) >= 20:
            self.reset()
            return self.refuse("452 4.5.3 enough")
        if len(self.recipients) >= 150:
            return self.say("452 4.5.3 enough")
        self.recipients.append(address)
        if "loses pipelined commands" in self.wrong:
            self.buffer = b""
        return self.say("250 2.1.5 OK")

    def do_data(self, argument):
        if not self.recipients or self.chunks or self.binary:
            return self.refuse("503 5.5.1 no recipients")
        self.mode = "data"
        self.buffer = b"\r\n" + self.buffer  # a dot in the first line ends content too
        self.scanned = 0
        return self.say("354 3.0.0 go on" if "an enhanced code after 354" in self.wrong else "354 go on")

    def do_bdat(self, argument):
        match = re.fullmatch(r"(\d{1,18})( LAST)?", argument, re.I)
        if match is None:
            self.refuse("501 5.5.4 no chunk")
            return self.end()
        self.size = int(match[1])
        self.last = bool(match[2])
        self.right = bool(self.recipients)
        if not self.right and "reads chunks as commands when it refuses them" in self.wrong:
            return self.refuse("503 5.5.1 no recipients")
        self.mode = "chunk"
        return None

    def chunk(self, octets):
        self.mode = "command"
        if not self.right:
            return self.refuse("503 5.5.1 no recipients")
        if "scans chunks for dots" in self.wrong and b"\r\n.\r\n" in octets:
            octets, _, rest = octets.partition(b"\r\n.\r\n")
            self.buffer = rest + self.buffer
            self.last = True
        if "unstuffs chunks" in self.wrong:
            octets = re.sub(rb"(?m)^\.", b"", octets)
        if "loses the last octet of chunks" in self.wrong:
            octets = octets[:-1]
        self.chunks.append(octets)
        if self.last:
            return self.deliver(b"".join(self.chunks))
        return self.say("250 2.0.0 chunk")

    def do_starttls(self, argument):
        if self.secure and "takes STARTTLS again" not in self.wrong:
            return self.refuse("503 5.5.1 already")
        self.say("220 2.0.0 go on")
        if self.secure:
            return None
        if self.buffer and "executes what stands after STARTTLS" not in self.wrong:
            return self.end()
        if "answers unencrypted after STARTTLS" in self.wrong:
            return None
        if "has no handshake" in self.wrong:
            return self.end()
        kept, self.buffer = self.buffer, b""
        self.upgrading = True
        if "keeps EHLO under TLS" not in self.wrong:
            self.greeted = False
        if "keeps the transaction under TLS" not in self.wrong:
            self.reset()

        async def upgrade():
            loop = asyncio.get_running_loop()
            try:
                self.transport = await loop.start_tls(self.transport, self, self.context, server_side=True)
            except OSError:
                self.server["ended"] = "ends at a failed handshake" in self.wrong
                return
            self.secure = True
            self.upgrading = False
            self.buffer = kept + self.buffer
            self.work()

        self.task = asyncio.ensure_future(upgrade())
        return None

    # AUTH

    def do_auth(self, argument):
        mechanism, _, initial = argument.partition(" ")
        if not mechanism or " " in initial:
            return self.refuse("501 5.5.4 malformed")
        if mechanism.upper() not in MECHANISMS:
            return self.refuse("504 5.5.4 unknown mechanism")
        if self.sender is not None:
            return self.refuse("503 5.5.1 in a transaction")
        self.mechanism = mechanism.upper()
        self.steps = 2 if self.mechanism == "LOGIN" else 1
        if initial and self.mechanism == "CRAM-MD5":
            return self.refuse("501 5.5.4 the server begins")
        if initial:
            return self.response(b"" if initial == "=" else initial.encode())
        self.mode = "response"
        if "challenges in plain text" in self.wrong:
            return self.say("334 Username:")
        return self.say("334 VXNlcm5hbWU6" if self.mechanism == "LOGIN" else "334 ")

    def response(self, line):
        if line == b"*":
            return self.refuse("535 5.7.8 no" if "says 535 to the star" in self.wrong else "501 5.7.0 cancelled")
        if len(line) > 20_000:
            return self.refuse("500 5.5.6 long")
        try:
            base64.b64decode(line, validate=True)
        except ValueError:
            if "takes bad base64" not in self.wrong:
                return self.refuse("501 5.5.2 no base64")
        self.steps -= 1
        if self.steps:
            self.mode = "response"
            return self.say("334 UGFzc3dvcmQ6")
        if "lets everybody in" in self.wrong:
            return self.say("235 2.7.0 welcome")
        return self.refuse("535 5.7.8 no")
