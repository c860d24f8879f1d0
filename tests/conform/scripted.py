"""A small server of its own kind, right unless it is told to be wrong: the suite must tell the two apart.

It shares no code with the package, so that a mistake that our server and our suite have in common is seen. Each name in
`FLAWS` is one way to be wrong.
"""

from __future__ import annotations

import asyncio
import base64
import re

FLAWS = frozenset(
    {
        "LF.LF ends content",
        "CRLF.LF ends content",
        "LF ends a command",
        "dots stay stuffed",
        "answers 250 to everything",
        "executes what stands behind STARTTLS",
        "offers STARTTLS again",
        "forgets RSET",
        "EHLO keeps the transaction",
        "RCPT needs no MAIL",
        "closes at the first error",
        "knows every parameter",
        "reads chunks as commands when it refuses them",
        "scans chunks for dots",
        "one reply for all recipients",
        "answers EHLO in LMTP",
        "says 535 to the star",
        "takes bad base64",
        "lets everybody in",
        "code without text of its class",
        "ends replies with LF",
        "answers QUIT twice",
        "keeps QUIT open",
        "listens behind QUIT",
        "takes any size",
        "is case-sensitive",
        "accepts cut content",
        "takes ten recipients",
        "loses pipelined commands",
        "executes NOOP that is too long",
        "offers nonsense",
        "RSET delivers",
        "takes twenty recipients and forgets them",
        "an enhanced code behind 354",
    }
)
NAME = re.compile(r'<(?:@[^:"]*:)?("(?:[^"\\]|\\.)*"@[^<>]*|[^<>]*)>(.*)')
ADDRESS = re.compile(r"[^\s@<>()]+@(?:[\w-]+(?:\.[\w-]+)*|\[[\w:.]+\])|postmaster|", re.I)
PARAMETERS = {"MAIL": {"SIZE", "BODY"}, "RCPT": set()}


class Scripted(asyncio.Protocol):
    """One connection. `flaws` is shared by the server's connections; `messages` is where content goes."""

    def __init__(self, flaws=frozenset(), *, lmtp=False, context=None, auth=False, messages=None):
        self.wrong = flaws
        self.lmtp = lmtp
        self.context = context
        self.auth = auth
        self.messages = [] if messages is None else messages
        self.buffer = b""
        self.mode = "command"
        self.secure = False
        self.greeted = False
        self.sender = None
        self.recipients = []
        self.chunks = []
        self.upgrading = False
        self.dead = False

    # transport

    def connection_made(self, transport):
        self.transport = transport
        if self.secure:
            return
        self.say("220 scripted.example ready")

    def data_received(self, data):
        self.buffer += data
        self.work()

    def eof_received(self):
        if "accepts cut content" in self.wrong and self.mode == "data":
            self.say("250 2.0.0 taken")
        self.transport.close()

    def say(self, *lines):
        end = "\n" if "ends replies with LF" in self.wrong else "\r\n"
        for index, line in enumerate(lines):
            text = line if index == len(lines) - 1 else line[:3] + "-" + line[4:]
            self.transport.write((text + end).encode())

    def refuse(self, line):
        if "answers 250 to everything" in self.wrong:
            self.say("250 2.0.0 fine")
            return
        if "code without text of its class" in self.wrong:
            line = re.sub(r" 5\.", " 2.", line)
        self.say(line)
        if "closes at the first error" in self.wrong:
            self.end()

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
                end = b"\n" if "LF ends a command" in self.wrong else b"\r\n"
                if end not in self.buffer:
                    return
                line, self.buffer = self.buffer.split(end, 1)
                line = line.rstrip(b"\r") if end == b"\n" else line
                if self.mode == "command":
                    self.command(line)
                else:
                    self.mode = "command"
                    self.response(line)

    def content(self):
        ends = [b"\r\n.\r\n"]
        if "LF.LF ends content" in self.wrong:
            ends.append(b"\n.\n")
        if "CRLF.LF ends content" in self.wrong:
            ends.append(b"\r\n.\n")
        whole = b"\r\n" + self.buffer if self.fresh else self.buffer
        found = [(whole.find(end), end) for end in ends if end in whole]
        if not found:
            return False
        at, end = min(found)
        content = whole[:at].removeprefix(b"\r\n") + b"\r\n"
        self.buffer = whole[at + len(end) :]
        if "dots stay stuffed" not in self.wrong:
            content = re.sub(rb"(?m)(^|\r\n)\.", rb"\1", content)
        self.mode = "command"
        self.deliver(content)
        return True

    def deliver(self, content):
        count = len(self.recipients) if self.lmtp and "one reply for all recipients" not in self.wrong else 1
        self.reset()
        if len(content) <= 100_000:
            self.messages.append(content)
        for _ in range(count):
            self.say("250 2.0.0 taken" if len(content) <= 100_000 else "552 5.3.4 too large")

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
        if any(octet < 32 or octet > 126 for octet in line):
            return self.refuse("500 5.5.2 odd octets")
        text = line.decode().rstrip(" ")
        verb, _, argument = text.partition(" ")
        if "is case-sensitive" not in self.wrong:
            verb = verb.upper()
        known = {"EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "HELP"}
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
        lines = ["250 scripted.example", "250 PIPELINING", "250 SIZE 100000", "250 8BITMIME", "250 CHUNKING"]
        lines.append("250 ENHANCEDSTATUSCODES")
        if "offers nonsense" in self.wrong:
            lines[2] = "250 SIZE much"
            lines += ["250 FUTURERELEASE soon", "250 DELIVERBY never", "250 LIMITS? x", "250 BINARYMIME none"]
        if self.context is not None and (not self.secure or "offers STARTTLS again" in self.wrong):
            lines.append("250 STARTTLS")
        if self.auth:
            lines.append("250 AUTH PLAIN LOGIN")
        return self.say(*lines)

    do_lhlo = do_ehlo

    def do_noop(self, argument):
        self.say("250 2.0.0 OK")

    def do_vrfy(self, argument):
        self.say("252 2.5.2 perhaps") if argument else self.refuse("501 5.5.4 whom?")

    def do_help(self, argument):
        self.say("214 2.0.0 read RFC 5321")

    def do_rset(self, argument):
        if "RSET delivers" in self.wrong and self.chunks:
            self.messages.append(b"".join(self.chunks))
        if "forgets RSET" not in self.wrong:
            self.reset()
        self.say("250 2.0.0 OK")

    def do_quit(self, argument):
        self.say("221 2.0.0 bye")
        if "answers QUIT twice" in self.wrong:
            self.say("221 2.0.0 bye")
        if "listens behind QUIT" not in self.wrong and "keeps QUIT open" not in self.wrong:
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
            return self.refuse("501 5.5.4 text behind the path")
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
            if name.upper() not in PARAMETERS[verb]:
                if "knows every parameter" in self.wrong:
                    continue
                return self.refuse("555 5.5.4 unknown parameter")
            if name.upper() == "SIZE":
                if not re.fullmatch(r"\d{1,20}", value):
                    return self.refuse("501 5.5.4 no size")
                if int(value) > 100_000 and "takes any size" not in self.wrong:
                    return self.refuse("552 5.3.4 too large")
            if name.upper() == "BODY" and value.upper() not in {"7BIT", "8BITMIME"}:
                return self.refuse("501 5.5.4 no body")
        return address

    def do_mail(self, argument):
        if not self.greeted:
            return self.refuse("503 5.5.1 EHLO first")
        if self.sender is not None:
            return self.refuse("503 5.5.1 nested")
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
        self.recipients.append(address)
        if "loses pipelined commands" in self.wrong:
            self.buffer = b""
        return self.say("250 2.1.5 OK")

    def do_data(self, argument):
        if not self.recipients or self.chunks:
            return self.refuse("503 5.5.1 no recipients")
        self.mode = "data"
        self.fresh = True
        return self.say("354 3.0.0 go on" if "an enhanced code behind 354" in self.wrong else "354 go on")

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
        self.chunks.append(octets)
        if self.last:
            return self.deliver(b"".join(self.chunks))
        return self.say("250 2.0.0 chunk")

    def do_starttls(self, argument):
        if self.secure:
            return self.refuse("503 5.5.1 already")
        self.say("220 2.0.0 go on")
        if self.buffer and "executes what stands behind STARTTLS" not in self.wrong:
            return self.end()
        kept = self.buffer
        self.buffer = b""
        self.upgrading = True
        self.greeted = False
        self.reset()

        async def upgrade():
            loop = asyncio.get_running_loop()
            self.secure = True
            try:
                self.transport = await loop.start_tls(self.transport, self, self.context, server_side=True)
            except OSError:
                return
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
        if mechanism.upper() not in {"PLAIN", "LOGIN"}:
            return self.refuse("504 5.5.4 unknown mechanism")
        if self.sender is not None:
            return self.refuse("503 5.5.1 in a transaction")
        self.mechanism = mechanism.upper()
        self.steps = 1 if self.mechanism == "PLAIN" else 2
        if initial:
            return self.response(b"" if initial == "=" else initial.encode())
        self.mode = "response"
        return self.say("334 " if self.mechanism == "PLAIN" else "334 VXNlcm5hbWU6")

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
