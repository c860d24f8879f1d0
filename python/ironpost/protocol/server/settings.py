"""The settings that all sessions of a server share: names, limits, extensions.

Promises: immutable. Derived values (EHLO reply, line limits, command and parameter tables) are computed once for each
server, not for each session. Refuses: limits below the minima of RFC 5321 §4.5.3.1, with ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from ironpost.model.network import within
from ironpost.model.options import Unit, option
from ironpost.protocol.dialect import SMTP, Dialect
from ironpost.protocol.extensions import EXTENSIONS, Offer
from ironpost.protocol.replies import AUTHENTICATION_FIRST, BAD_SEQUENCE, NOT_IMPLEMENTED, TLS_FIRST, reply
from ironpost.protocol.server.commands import UNSUPPORTED, core_verbs
from ironpost.protocol.server.extension_state import ContentSource
from ironpost.protocol.server.states import CommandTable
from ironpost.wire.interface import DEFAULT_LIMITS, Limits, NewlinePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.model import Reply
    from ironpost.model.network import Network
    from ironpost.protocol.extensions import Extension, Parse
    from ironpost.protocol.sasl import Authenticator
    from ironpost.protocol.sasl.backoff import LoginLimit
    from ironpost.protocol.server.handler import Handler

COMMAND_LINE: Final = 512
"""Maximum octets of a command line with its CRLF, without the additions of extensions (RFC 5321 §4.5.3.1.4)."""
RECIPIENTS: Final = 1000
"""Maximum recipients of one transaction, by default (RFC 5321 §4.5.3.1.8)."""
RECIPIENTS_MINIMUM: Final = 100
"""The minimum of that limit (RFC 5321 §4.5.3.1.8)."""
MESSAGE_SIZE: Final = 32 * 1024 * 1024
"""Maximum octets of one message, by default (RFC 5321 §4.5.3.1.7)."""
MESSAGE_SIZE_MINIMUM: Final = 64 * 1024
"""The minimum of that limit (RFC 5321 §4.5.3.1.7)."""
EXCESS: Final = 8 * 1024 * 1024
"""Octets beyond `max_size` that are at least read of any content, so that a client whose message is only somewhat too
large keeps its session; see `ServerSettings.max_read`."""
BODY_LINE: Final = 1024 * 1024
"""Maximum octets of one line of content without CRLF, by default (RFC 5321 §4.5.3.1.6)."""
BODY_LINE_MINIMUM: Final = 998
"""The minimum of that limit (RFC 5321 §4.5.3.1.6)."""

EHLO_REPLIES: Final = 16
"""Maximum number of rendered EHLO replies that are cached, if they change every hour."""


@dataclass(frozen=True)
class ServerSettings:
    """One server's settings; sizes in octets."""

    hostname: str = "localhost"
    """The server's name in the greeting and in the EHLO reply: a domain or an address literal."""
    max_size: int = MESSAGE_SIZE
    """Maximum octets of one message."""
    max_recipients: int = RECIPIENTS
    """Maximum recipients of one transaction, not counting refused ones."""
    max_errors: int = option(20, "errors", Unit.COUNT)
    """Permanent errors in a session since its last accepted message. The last is replied to with 421, which closes it
    (SECURITY R23)."""
    max_commands: int = option(100_000, "commands", Unit.COUNT)
    """Commands in a session. The next is replied to with 421, which closes it (SECURITY R23)."""
    max_body_line: int = BODY_LINE
    """Maximum octets of one line of content without CRLF; see `long_lines`."""
    long_lines: Literal["reject", "accept"] = "reject"
    """How content with a line longer than `max_body_line` is handled."""
    newlines: NewlinePolicy = "reject"
    """How a bare CR or LF in content is handled. `normalise` applies to DATA only; in BDAT they are refused unless
    `accept` is set, because RFC 3030 §2 requires clients to send text with CRLF."""
    lenient: tuple[Network, ...] = ()
    """Networks of clients for which `newlines` is `normalise` even if it is `reject` for others (SECURITY R2)."""
    eight_bit: Literal["accept", "reject"] = "accept"
    """How octets above 127 are handled in content declared with neither BODY=8BITMIME nor SMTPUTF8 (RFC 6152 §3)."""
    hello: Literal["strict", "lenient"] = "strict"
    """How an EHLO name that is neither a domain nor an address literal is handled: `strict` refuses it with 501;
    `lenient` accepts it unchanged, and Received shows it as a comment."""
    addresses: Literal["strict", "lenient"] = "lenient"
    """How addresses in MAIL and RCPT with an underscore in the domain, or stray dots in an unquoted local part, are
    handled (`wire.TOLERATED`): `strict` refuses them with 501; `lenient` accepts them."""
    dialect: Dialect = SMTP
    """SMTP, submission or LMTP."""
    starttls: bool = False
    """The server has a certificate, so that STARTTLS is offered on unencrypted connections."""
    authenticator: Authenticator | None = None
    """Checks credentials. None: AUTH is not offered."""
    auth_without_tls: bool = False
    """Offer AUTH without TLS too, with all its mechanisms (contrary to RFC 4954 §4)."""
    login_limit: LoginLimit | None = None
    """The back-off after failed logins; None for no delays."""
    nonce: Callable[[], str] | None = None
    """Returns a fresh, unpredictable string of printable ASCII without a comma, for SCRAM and CRAM-MD5. None: these are
    not offered. `Server` supplies one."""
    claims: frozenset[str] = frozenset()
    """Keywords of the extensions that queue and delivery will honour (`Extension.claimed`)."""
    front_ends: tuple[Network, ...] = ()
    """Networks of trusted front ends, which may name the clients that they forward (SECURITY R14)."""
    now: Callable[[], float] | None = None
    """Returns the time in seconds since 1970. None: extensions that need the time are not offered."""
    max_transactions: int | None = None
    """Maximum MAIL commands in one session; the next one ends it with 421. None for no limit."""
    extensions: tuple[Extension, ...] = EXTENSIONS
    """The extensions with their options; see `protocol.extensions.with_options`."""

    def __post_init__(self) -> None:
        for name, minimum in (
            ("max_recipients", RECIPIENTS_MINIMUM),
            ("max_size", MESSAGE_SIZE_MINIMUM),
            ("max_body_line", BODY_LINE_MINIMUM),
            ("max_errors", 1),
            ("max_commands", 1),
        ):
            if getattr(self, name) < minimum:
                raise ValueError(f"ServerSettings.{name} is {getattr(self, name)}; the minimum is {minimum}")
        if self.max_transactions is not None and self.max_transactions < 1:
            raise ValueError(f"ServerSettings.max_transactions is {self.max_transactions}; the minimum is 1")

    @cached_property
    def greeting(self) -> bytes:
        """The 220 line (RFC 5321 §4.2)."""
        return reply(220, None, f"{self.hostname} {self.dialect.service} ironpost").octets

    @cached_property
    def helo_reply(self) -> bytes:
        """The reply to HELO."""
        return reply(250, None, self.hostname).octets

    def ehlo_reply(
        self, *, secure: bool, authenticated: bool, trusted: bool, bound: bool = False, certified: bool = False
    ) -> bytes:
        """Render the reply to EHLO or LHLO, with a line for each extension that can be used now (RFC 5321 §4.1.1.1).

        See `Offer` for the arguments.
        """
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
        """Return the start of the current hour, in seconds since 1970; 0 without a clock."""
        return self.now() // 3600 * 3600 if self.now is not None else 0.0

    @cached_property
    def available(self) -> tuple[Extension, ...]:
        """The extensions that a server with these settings has."""
        return tuple(extension for extension in self.extensions if extension.available(self))

    @cached_property
    def login_secret(self) -> bytes:
        """The key from which SCRAM salts for unknown users are derived: the authenticator's `decoy_key`, which survives
        a restart and is shared by processes; else a random key of these settings."""
        key: bytes | None = getattr(self.authenticator, "decoy_key", None)
        if key is None:
            return b"" if self.nonce is None else self.nonce().encode()
        return key

    @cached_property
    def keywords(self) -> frozenset[str]:
        """The keywords of the extensions in `available`, whether or not EHLO lists them now."""
        return frozenset(extension.keyword for extension in self.available)

    @cached_property
    def limits(self) -> Limits:
        """The framer's limits: a command line has 512 octets plus the most that extensions add to any one verb."""
        extra: dict[str, int] = {}
        for extension in self.available:
            for verb, octets in extension.extra_octets.items():
                extra[verb] = extra.get(verb, 0) + octets
        return Limits(command_line=COMMAND_LINE + max(extra.values(), default=0), content=self.max_read)

    @cached_property
    def max_read(self) -> int:
        """Maximum octets of one message that are read: twice `max_size`, or `max_size` plus `EXCESS` if that is more.
        Beyond it the session ends with 552 and 421 before the end of the content (SECURITY R23)."""
        return min(self.max_size + max(self.max_size, EXCESS), DEFAULT_LIMITS.content)

    @cached_property
    def mail_parameters(self) -> Mapping[str, Parse]:
        """The parameters of MAIL: keyword to the parser of the extension that owns it."""
        return {key: parse for extension in self.available for key, parse in extension.mail_parameters.items()}

    @cached_property
    def rcpt_parameters(self) -> Mapping[str, Parse]:
        """The parameters of RCPT: keyword to the parser of the extension that owns it."""
        return {key: parse for extension in self.available for key, parse in extension.rcpt_parameters.items()}

    def serving(self, handler: Handler) -> ServerSettings:
        """Return these settings with the extensions that a handler supports: those it claims or has the hook of."""
        by_hook = [extension for extension in self.extensions if extension.claimed and extension.hook]
        claims = (self.claims | handler.claims).difference(extension.keyword for extension in by_hook)
        present = {each.keyword for each in by_hook if callable(getattr(handler, each.hook, None))}
        return replace(self, claims=claims | present)

    def command_table(self, *, secure: bool, authenticated: bool) -> CommandTable:
        """Return the command table of a session, which is restricted while TLS or authentication is still required."""
        if self.dialect.encrypt and not secure:
            return self._table_before_tls
        if self.dialect.authenticate and not authenticated:
            return self._table_before_auth
        return self._table

    @cached_property
    def _table(self) -> CommandTable:
        verbs = {name: verb for extension in self.available for name, verb in extension.verbs.items()}
        return CommandTable({**core_verbs(self.dialect), **verbs})

    @cached_property
    def _table_before_tls(self) -> CommandTable:
        return self._table.only(lambda _, verb: verb.before_tls, TLS_FIRST)

    @cached_property
    def _table_before_auth(self) -> CommandTable:
        return self._table.only(lambda _, verb: verb.before_auth, AUTHENTICATION_FIRST)

    @cached_property
    def table_after_refusal(self) -> CommandTable:
        """The command table after the greeting 554: 503 to every verb except QUIT (RFC 5321 §3.1)."""
        return self._table.only(lambda name, _: name == "QUIT", BAD_SEQUENCE)

    @cached_property
    def unsupported(self) -> Mapping[str, Reply]:
        """Replies to known verbs that this server does not offer; other verbs are unknown."""
        extensions = {verb for extension in (*EXTENSIONS, *self.extensions) for verb in extension.verbs}
        return {**dict.fromkeys(extensions, NOT_IMPLEMENTED), **UNSUPPORTED}

    @cached_property
    def content_source(self) -> type[ContentSource] | None:
        """The state class of the extension that supplies content from another source; None if there is none."""
        states = (extension.state for extension in self.available)
        return next((state for state in states if state is not None and issubclass(state, ContentSource)), None)

    def trusts(self, ip: str) -> bool:
        """Whether the client at this address is a trusted front end (`front_ends`)."""
        return within(ip, self.front_ends) is not None

    @property
    def framed_newlines(self) -> NewlinePolicy:
        """The framer's policy: it normalises for all clients if some may send bare newlines; see `accepts_bare`."""
        return "normalise" if self.newlines == "reject" and self.lenient else self.newlines

    def accepts_bare(self, ip: str, *, by_data: bool) -> bool:
        """Whether a client at this address may send content with a bare CR or LF, by DATA or in chunks.

        This is decided only at the true end. Chunks are counted octets and never normalised (SECURITY R2, R4).
        """
        if self.newlines == "reject":
            return by_data and within(ip, self.lenient) is not None
        return self.newlines == "accept" or by_data
