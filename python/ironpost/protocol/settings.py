"""What one server's sessions have in common: names, limits, extensions.

Promises: immutable; what is derived from it (EHLO reply, line limits, parameter tables) is computed once a server, not
once a session. Refuses: limits below what RFC 5321 §4.5.3.1 makes a server support, with ValueError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ironpost.model.parameters import LONGEST, Solicitation
from ironpost.protocol.commands import BEFORE_AUTHENTICATION, BEFORE_TLS, Dialogue
from ironpost.protocol.dialect import SMTP, Dialect
from ironpost.protocol.extensions import EXTENSIONS, Offer
from ironpost.protocol.replies import AUTHENTICATION_FIRST, BAD_SEQUENCE, TLS_FIRST, reply
from ironpost.wire.interface import Limits, NewlinePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.protocol.extensions import Extension, Handling, Parse
    from ironpost.protocol.sasl import Authenticator
    from ironpost.protocol.sasl.backoff import LoginLimit

COMMAND_LINE: Final = 512
"""Octets of a command line with its CRLF, before extensions add to it (RFC 5321 §4.5.3.1.4)."""
RECIPIENTS: Final = 1000
"""Recipients of one transaction; RFC 5321 §4.5.3.1.8 asks for at least `RECIPIENTS_MINIMUM`."""
RECIPIENTS_MINIMUM: Final = 100
MESSAGE_SIZE: Final = 32 * 1024 * 1024
"""Octets of one message; RFC 5321 §4.5.3.1.7 asks for at least `MESSAGE_SIZE_MINIMUM`."""
MESSAGE_SIZE_MINIMUM: Final = 64 * 1024
BODY_LINE: Final = 1024 * 1024
"""Octets of one line of content without CRLF; RFC 5321 §4.5.3.1.6 asks for at least 998."""
BODY_LINE_MINIMUM: Final = 998
ERRORS: Final = 20
"""Negative replies (a count) since the last accepted message, before the session is closed with 421
(SECURITY R23)."""
COMMANDS: Final = 100_000
"""Commands (a count) in one session, before it is closed with 421 (SECURITY R23)."""

HOLD: Final = 30 * 24 * 3600
"""Seconds for which a message may be held for its release, unless told otherwise."""
EHLO_REPLIES: Final = 16
"""Replies to EHLO that are kept made, where they change with the hours."""
_POLICY: Final = re.compile(r"[A-Za-z0-9._-]{1,20}")  # RFC 6710 §7

Networks: TypeAlias = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True)
class Settings:
    """One server's settings; sizes in octets."""

    hostname: str = "localhost"
    """What the server calls itself in the greeting and in the EHLO reply: a domain or an address literal."""
    max_size: int = MESSAGE_SIZE
    max_recipients: int = RECIPIENTS
    max_errors: int = ERRORS
    max_commands: int = COMMANDS
    max_body_line: int = BODY_LINE
    long_lines: Literal["reject", "accept"] = "reject"
    """What content with a line longer than `max_body_line` meets."""
    newlines: NewlinePolicy = "reject"
    """What a bare CR or LF in content meets. `normalise` concerns DATA; in BDAT it is refused unless `accept` is set,
    because RFC 3030 §2 makes the client send text with CRLF."""
    lenient: Networks = ()
    """Networks whose clients get `normalise` where `newlines` is `reject` (SECURITY R2)."""
    eight_bit: Literal["accept", "reject"] = "accept"
    """What octets above 127 meet in content that was declared with neither BODY=8BITMIME nor SMTPUTF8 (RFC 6152 §3)."""
    hello: Literal["strict", "lenient"] = "strict"
    """What EHLO meets whose name is neither a domain nor an address literal: 501, or nothing: the name is taken as it
    stands, and is a comment in Received."""
    dialect: Dialect = SMTP
    starttls: bool = False
    """The server has a certificate, so STARTTLS is offered on connections in clear."""
    authenticator: Authenticator | None = None
    """Who knows the users; None: AUTH does not exist."""
    auth_in_clear: bool = False
    """AUTH is offered without TLS too, with all its mechanisms (against RFC 4954 §4)."""
    login_limit: LoginLimit | None = None
    """Who has to wait before the next login."""
    nonce: Callable[[], str] | None = None
    """Makes a fresh text of printable ASCII, without a comma, that nobody can guess: chance, for SCRAM and CRAM-MD5,
    which are not offered without it. `Server` brings one."""
    claims: frozenset[str] = frozenset()
    """Extensions that the handler, and whoever takes the messages from it, promises to honour (`Extension.claimed`)."""
    xclient: Networks = ()
    """Networks of front ends of our own, which may say by XCLIENT and XFORWARD whom they speak for (SECURITY R14)."""
    now: Callable[[], float] | None = None
    """Seconds since 1970, for extensions that count time; without a clock there are none of those."""
    max_hold: int = HOLD
    """Seconds for which a message may be held for its release (RFC 4865 §3), from 1 to 999999999."""
    deliver_by_minimum: int = 0
    """Seconds that a client must leave for delivery in mode R (RFC 2852 §3); 0 for no such limit."""
    priority_policy: str = ""
    """The name of the Priority Assignment Policy (RFC 6710 §9.2), if it is to be known."""
    no_soliciting: tuple[str, ...] | None = None
    """Classes of solicitation that are refused (RFC 3865 §2.2); None: there is no NO-SOLICITING at all."""
    burl: tuple[str, ...] = ("imap",)
    """What BURL can do, for those who may use it (RFC 4468 §3.3)."""
    max_transactions: int | None = None
    """MAIL commands in one session, before it is closed with 421."""
    extensions: tuple[Extension, ...] = EXTENSIONS

    def __post_init__(self) -> None:
        for name, least in (
            ("max_recipients", RECIPIENTS_MINIMUM),
            ("max_size", MESSAGE_SIZE_MINIMUM),
            ("max_body_line", BODY_LINE_MINIMUM),
            ("max_errors", 1),
            ("max_commands", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"Settings.{name} is {getattr(self, name)}; the least allowed is {least}")
        if not 1 <= self.max_hold <= LONGEST:
            raise ValueError(f"Settings.max_hold is {self.max_hold}; it is from 1 to {LONGEST} seconds")
        if not 0 <= self.deliver_by_minimum <= LONGEST:
            raise ValueError(f"Settings.deliver_by_minimum is {self.deliver_by_minimum}; it is from 0 to {LONGEST}")
        if self.max_transactions is not None and self.max_transactions < 1:
            raise ValueError(f"Settings.max_transactions is {self.max_transactions}; the least allowed is 1")
        if self.priority_policy and _POLICY.fullmatch(self.priority_policy) is None:
            raise ValueError(f"Settings.priority_policy is {self.priority_policy!r}, not 1 to 20 letters and digits")
        if self.no_soliciting:
            Solicitation(self.no_soliciting)

    @cached_property
    def greeting(self) -> bytes:
        """The 220 line (RFC 5321 §4.2)."""
        return reply(220, None, f"{self.hostname} {self.dialect.service} ironpost").octets

    @cached_property
    def helo_reply(self) -> bytes:
        """The answer to HELO."""
        return reply(250, None, self.hostname).octets

    def ehlo_reply(
        self, *, secure: bool, authenticated: bool, trusted: bool, bound: bool = False, certified: bool = False
    ) -> bytes:
        """The answer to EHLO or LHLO: one line an extension that can be honoured now (RFC 5321 §4.1.1.1)."""
        key = secure, authenticated, trusted, bound, certified
        hour = self.hour() if self._timed else 0.0
        octets = self._ehlo_replies.get((*key, hour))
        if octets is None:
            if self._timed and len(self._ehlo_replies) >= EHLO_REPLIES:
                self._ehlo_replies.clear()
            offer = Offer(self, *key)
            lines = (extension.advertise(offer) for extension in self.available)
            octets = reply(250, None, self.hostname, *(line for line in lines if line is not None)).octets
            self._ehlo_replies[(*key, hour)] = octets
        return octets

    @cached_property
    def _ehlo_replies(self) -> dict[tuple[float, ...], bytes]:
        return {}

    @cached_property
    def _timed(self) -> bool:
        return any(extension.timed for extension in self.available)

    def hour(self) -> float:
        """Seconds since 1970 when the present hour began; 0 without a clock."""
        return self.now() // 3600 * 3600 if self.now is not None else 0.0

    @cached_property
    def available(self) -> tuple[Extension, ...]:
        """The extensions that such a server has."""
        return tuple(extension for extension in self.extensions if extension.available(self))

    @cached_property
    def login_secret(self) -> bytes:
        """Keys the salts that unknown users are shown: the authenticator's `decoy_key`, so that it outlives a restart
        and is the same in several processes; else one that lasts as long as these settings."""
        key: bytes | None = getattr(self.authenticator, "decoy_key", None)
        if key is None:
            return b"" if self.nonce is None else self.nonce().encode()
        return key

    @cached_property
    def keywords(self) -> frozenset[str]:
        """Theirs, whether EHLO shows them now or not."""
        return frozenset(extension.keyword for extension in self.available)

    @cached_property
    def limits(self) -> Limits:
        """The framer's limits: the command line is 512 octets plus the most that extensions add to one verb."""
        extra: dict[str, int] = {}
        for extension in self.available:
            for verb, octets in extension.extra_octets.items():
                extra[verb] = extra.get(verb, 0) + octets
        return Limits(command_line=COMMAND_LINE + max(extra.values(), default=0), content=self.max_size)

    @cached_property
    def mail_parameters(self) -> Mapping[str, Parse]:
        """The parameters of MAIL that the extensions own."""
        return {key: parse for extension in self.available for key, parse in extension.mail_parameters.items()}

    @cached_property
    def rcpt_parameters(self) -> Mapping[str, Parse]:
        """The parameters of RCPT that the extensions own."""
        return {key: parse for extension in self.available for key, parse in extension.rcpt_parameters.items()}

    def dialogue(self, *, secure: bool, authenticated: bool) -> Dialogue:
        """The table of commands for a session that is so far: a dialect that demands TLS or AUTH does little before."""
        if self.dialect.encrypt and not secure:
            return self._dialogue_before_tls
        if self.dialect.authenticate and not authenticated:
            return self._dialogue_before_authentication
        return self._dialogue

    @cached_property
    def _dialogue(self) -> Dialogue:
        return Dialogue(self.dialect.hello, self._verbs)

    @cached_property
    def _dialogue_before_tls(self) -> Dialogue:
        return self._dialogue.only(BEFORE_TLS, TLS_FIRST)

    @cached_property
    def _dialogue_before_authentication(self) -> Dialogue:
        return self._dialogue.only(BEFORE_AUTHENTICATION, AUTHENTICATION_FIRST)

    @cached_property
    def dialogue_of_the_refused(self) -> Dialogue:
        """For a client that was greeted with 554: 503 to everything but QUIT (RFC 5321 §3.1)."""
        return self._dialogue.only(frozenset({"QUIT"}), BAD_SEQUENCE)

    @property
    def _verbs(self) -> Mapping[str, Handling]:
        return {verb: handling for extension in self.available for verb, handling in extension.verbs.items()}

    def trusts(self, ip: str) -> bool:
        """Whether the client at this address is a front end of our own (`xclient`)."""
        return _among(ip, self.xclient)

    @property
    def framed_newlines(self) -> NewlinePolicy:
        """What the framer does: it mends for everybody where some may send what is bare, and `takes_bare` judges."""
        return "normalise" if self.newlines == "reject" and self.lenient else self.newlines

    def takes_bare(self, ip: str, *, by_data: bool) -> bool:
        """Whether a client at this address may send content with a bare CR or LF, by DATA or in chunks. This alone
        decides, at the true end; chunks are counted octets and are never mended (SECURITY R2, R4)."""
        if self.newlines == "reject":
            return by_data and _among(ip, self.lenient)
        return self.newlines == "accept" or by_data


def _among(ip: str, networks: Networks) -> bool:
    if not networks or not ip:
        return False
    address = ip_address(ip.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address  # as sockets for both families show IPv4
    return any(address in network for network in networks)
