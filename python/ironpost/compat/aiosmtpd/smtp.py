"""aiosmtpd's class `SMTP`: the protocol of one client, for `loop.create_server(partial(SMTP, handler, ...))`.

Promises: hooks of the handler (`handle_*`, `process_message`, `auth_*`), methods of subclasses (`smtp_*`), attributes
and replies are aiosmtpd's. A command that no code of the program takes part in costs no task.
Refuses: what the native session refuses before it is a command: a line that does not end in CRLF or starts with no verb
("500 Error: bad syntax"), and content with NUL.
Standards: RFC 5321 §4.1; RFC 3207; RFC 4954.
"""

from __future__ import annotations

import asyncio
import collections
import inspect
import logging
import socket
import ssl
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from ironpost.compat.aiosmtpd import __version__, _get_or_new_eventloop
from ironpost.compat.aiosmtpd.auth import Authentication, _AuthMechAttr
from ironpost.compat.aiosmtpd.commands import Commands
from ironpost.compat.aiosmtpd.connection import REPLIED, Connection
from ironpost.compat.aiosmtpd.input import NOT_ASCII
from ironpost.compat.aiosmtpd.proxy_protocol import get_proxy
from ironpost.compat.aiosmtpd.transactions import Transactions
from ironpost.compat.aiosmtpd.values import (
    CLIENT_AUTH_B,
    MISSING,
    AuthResult,
    Envelope,
    LoginPassword,
    Session,
    auth_mechanism,
    log,
    sanitize,
    sanitized_log,
    syntax,
)
from ironpost.server.connection import peer_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ironpost.model import Reply
    from ironpost.protocol.server.session import ServerSession
    from ironpost.server.tls_transport import TlsTransport
    from ironpost.wire import Command

__all__ = [
    "CLIENT_AUTH_B",
    "MISSING",
    "SMTP",
    "AuthCallbackType",
    "AuthMechanismType",
    "AuthResult",
    "Envelope",
    "LoginPassword",
    "Session",
    "TLSSetupException",
    "__version__",
    "auth_mechanism",
    "sanitize",
    "sanitized_log",
    "syntax",
]

AuthCallbackType: TypeAlias = "Callable[[str, bytes, bytes], bool]"
AuthenticatorType: TypeAlias = "Callable[[SMTP, Session, Envelope, str, Any], AuthResult]"
ReplyNow: TypeAlias = "Callable[[SMTP, Command, str | None], str]"
AuthMechanismType: TypeAlias = "Callable[[SMTP, list[str]], Awaitable[Any]]"

__ident__ = f"Python SMTP {__version__}"

BOGUS_LIMIT: Final = 5
"""Unknown commands after which the session ends."""
CALL_LIMIT_DEFAULT: Final = 20
DATA_SIZE_DEFAULT: Final = 2**25
ALLOWED_BEFORE_STARTTLS: Final = {"NOOP", "EHLO", "STARTTLS", "QUIT"}
"""RFC 3207 §4."""
LINE_TOO_LONG: Final = "500 Command line too long"
BAD_SYNTAX: Final = "500 Error: bad syntax"

_HELPERS: Final = ("push", "check_helo_needed", "check_auth_needed", "_call_handler_hook", "_getaddr")
"""Methods that the commands call: if a class overrides one, each command costs a task again."""
_NO_TASK: Final = frozenset(
    {"HELO", "EHLO", "MAIL", "RCPT", "DATA", "RSET", "NOOP", "QUIT", "VRFY", "HELP", "EXPN", "STARTTLS"}
)
"""Commands that call no code of the program unless it has the hook, or overrides the method."""
_REPLY_NOW: Final[dict[str, ReplyNow]] = {
    "MAIL": Transactions._mail_now,
    "RCPT": Transactions._rcpt_now,
    "DATA": Transactions._data_now,
}
"""Functions that return the reply to a command that calls no code of the program; `handle_DATA` is called later."""
_WITH_INPUT: Final = frozenset({"DATA", "AUTH"})
"""Commands that read more input."""


class TLSSetupException(Exception):
    """The TLS handshake failed."""


def make_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this thread."""
    return _get_or_new_eventloop()


def login_always_fail(mechanism: str, login: bytes, password: bytes) -> bool:  # noqa: ARG001 - a hook
    """The default of `auth_callback`."""
    return False


class _Stream:
    """What programs use of aiosmtpd's reader and writer."""

    def __init__(self, smtp: SMTP) -> None:
        self._smtp = smtp
        self._current: asyncio.Transport = cast("asyncio.Transport", smtp.transport)

    @property
    def transport(self) -> asyncio.Transport:
        """The transport, also after the connection has ended."""
        return self._current

    @property
    def _transport(self) -> asyncio.Transport:
        """The transport; a program that has started TLS itself sets it."""
        return self._current

    @_transport.setter
    def _transport(self, transport: asyncio.Transport) -> None:
        self._current = transport
        self._smtp._use(transport)

    def write(self, data: bytes) -> None:
        """Queue octets."""
        self._smtp._connection.session.write(data)

    async def drain(self) -> None:
        """Send what is queued."""
        await self._smtp._connection.session.flush()

    def close(self) -> None:
        """Close the connection."""
        self._current.close()


class SMTP(Transactions, Authentication, Commands, asyncio.BufferedProtocol, asyncio.Protocol):
    """The protocol of one client; see aiosmtpd's documentation."""

    def __init__(
        self,
        handler: Any,
        *,
        data_size_limit: int | None = DATA_SIZE_DEFAULT,
        enable_SMTPUTF8: bool = False,  # noqa: N803 - aiosmtpd's name
        decode_data: bool = False,
        hostname: str | None = None,
        ident: str | None = None,
        tls_context: ssl.SSLContext | None = None,
        require_starttls: bool = False,
        timeout: float = 300,
        auth_required: bool = False,
        auth_require_tls: bool = True,
        auth_exclude_mechanism: Iterable[str] | None = None,
        auth_callback: AuthCallbackType | None = None,
        command_call_limit: int | dict[str, int] | None = None,
        authenticator: AuthenticatorType | None = None,
        proxy_protocol_timeout: float | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """See aiosmtpd's documentation; `timeout` and `proxy_protocol_timeout` are seconds, sizes octets.

        Raises:
            TypeError: a value of `command_call_limit` is not an int.
            ValueError: `proxy_protocol_timeout` is not positive.
            RuntimeError: `handle_EHLO` has neither 4 nor 5 parameters.
        """
        self.__ident__ = ident or __ident__
        self.loop = loop or make_loop()
        self.event_handler = handler
        assert data_size_limit is None or isinstance(data_size_limit, int)
        self.data_size_limit = data_size_limit
        self.enable_SMTPUTF8 = enable_SMTPUTF8
        self._decode_data = decode_data
        self.command_size_limits: dict[str, int] = collections.defaultdict(lambda: self.command_size_limit)
        self.hostname = hostname or _own_name()
        self.tls_context = tls_context
        if tls_context is not None:
            _warn_about(tls_context)
        self.require_starttls = tls_context is not None and require_starttls
        self._timeout_duration = timeout
        self._timeout_handle: asyncio.TimerHandle | None = None
        self._logs = False
        """Whether the log took records about commands when the latest one arrived."""
        self._tls_handshake_okay = True
        self._tls_protocol: TlsTransport | None = None
        self.session: Session = None  # type: ignore[assignment] # until `connection_made`
        self.envelope: Envelope = None  # type: ignore[assignment] # until `connection_made`
        self.transport: asyncio.Transport | None = None
        if not auth_require_tls and auth_required:
            warnings.warn("Requiring AUTH while not requiring TLS can lead to security vulnerabilities!", stacklevel=2)
            log.warning("auth_required == True but auth_require_tls == False")
        self._auth_require_tls = auth_require_tls
        if proxy_protocol_timeout is not None:
            if proxy_protocol_timeout <= 0:
                raise ValueError("proxy_protocol_timeout must be > 0")
            if proxy_protocol_timeout < 3.0:
                log.warning("proxy_protocol_timeout < 3.0")
        self._proxy_timeout = proxy_protocol_timeout
        self._proxy_reader: asyncio.StreamReader | None = None
        self._authenticator = authenticator
        self._auth_callback = None if authenticator is not None else auth_callback or login_always_fail
        self._auth_required = auth_required
        self._find_mechanisms(auth_exclude_mechanism or ())
        self._handle_hooks: dict[str, Callable[..., Any]] = {
            name.removeprefix("handle_"): getattr(handler, name) for name in dir(handler) if name.startswith("handle_")
        }
        self._has_verdict = "DATA" in self._handle_hooks or hasattr(handler, "process_message")
        self._ehlo_hook_ver = self._ehlo_hook_version()
        cls: Any = type(self)  # mypy takes it for unhashable
        self._smtp_methods: dict[str, Any] = {verb: getattr(self, f"smtp_{verb}") for verb in _verbs(cls)}
        self._without_task = _unchanged(cls).difference(self._handle_hooks.keys() - {"DATA"})
        if hasattr(self, "ehlo_hook") or hasattr(self, "rset_hook"):
            self._without_task -= {"EHLO", "RSET"}
        self._reply_now = {verb: reply_to for verb, reply_to in _REPLY_NOW.items() if verb in self._without_task}
        self._set_call_limit(command_call_limit)
        self._bogus_budget = BOGUS_LIMIT
        self._connection = Connection(self)
        self._input = self._connection.host.read_buffer

    def _find_mechanisms(self, excluded: Iterable[str]) -> None:
        self._auth_methods = {
            getattr(method, "__auth_mechanism_name__", name.removeprefix("auth_").replace("__", "-")): _AuthMechAttr(
                method, owner is self
            )
            for owner in (self, self.event_handler)
            for name in dir(owner if owner is not self else type(self))
            if name.startswith("auth_") and (method := getattr(owner, name)) is not None
        }
        for name in excluded:
            self._auth_methods.pop(name, None)
        if log.isEnabledFor(logging.INFO):
            names = (name + "(builtin)" * each.is_builtin for name, each in sorted(self._auth_methods.items()))
            log.info("Available AUTH mechanisms: %s", " ".join(names))

    def _ehlo_hook_version(self) -> str | None:
        hook = self._handle_hooks.get("EHLO")
        if hook is None:
            return None
        count = len(inspect.signature(hook).parameters)
        if count == 4:
            warnings.warn(
                "Use the 5-argument handle_EHLO() hook instead of the 4-argument handle_EHLO() hook; support for the "
                "4-argument handle_EHLO() hook will be removed in version 2.0",
                DeprecationWarning,
                stacklevel=3,
            )
            return "old"
        if count != 5:
            raise RuntimeError("Unsupported EHLO Hook")
        return "new"

    def _set_call_limit(self, limit: int | dict[str, int] | None) -> None:
        self._enforce_call_limit = limit is not None
        self._call_limit_default = CALL_LIMIT_DEFAULT
        limits: dict[str, int] = {}
        if isinstance(limit, dict):
            if not all(isinstance(value, int) for value in limit.values()):
                raise TypeError("All command_call_limit values must be int")
            limits = limit
            self._call_limit_default = limit.get("*", CALL_LIMIT_DEFAULT)
        elif isinstance(limit, int):
            self._call_limit_default = limit
        elif limit is not None:
            raise TypeError("command_call_limit must be int or Dict[str, int]")
        self._call_limit = collections.defaultdict(lambda: self._call_limit_default, limits)

    @property
    def max_command_size_limit(self) -> int:
        """The largest of `command_size_limits`."""
        return max(self.command_size_limits.values(), default=self.command_size_limit)

    @property
    def _greeting(self) -> bytes:
        return self._encoded(f"220 {self.hostname} {self.__ident__}")

    def _encoded(self, status: str | bytes) -> bytes:
        if isinstance(status, bytes):
            return status
        return status.encode("utf-8" if self.enable_SMTPUTF8 else "ascii")

    def _create_session(self) -> Session:
        return Session(self.loop)

    def _create_envelope(self) -> Envelope:
        return Envelope()

    async def _call_handler_hook(self, command: str, *args: Any) -> Any:
        hook = self._handle_hooks.get(command)
        if hook is None:
            return MISSING
        return await hook(self, self.session, self.envelope, *args)

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, after its PROXY header if one is expected."""
        transport = cast("asyncio.Transport", transport)
        self._new_session(transport)
        self.transport = transport
        self._reader = self._writer = _Stream(self)
        self._handler_coroutine = self.loop.create_future()
        log.info("Peer: %r", self.session.peer)
        self._reset_timeout(self._proxy_timeout)
        if self._proxy_timeout is None:
            self._connection.connection_made(transport)
        else:
            self._proxy_reader = asyncio.StreamReader(loop=self.loop)
            self._proxy_reader.set_transport(transport)
            self._proxy_task = self.loop.create_task(self._read_proxy(self._proxy_reader))

    def _new_session(self, transport: asyncio.Transport) -> None:
        self._set_rset_state()
        self.session = self._create_session()
        self.session.peer = transport.get_extra_info("peername")
        self.session.ssl = _tls_facts(transport)

    def _use(self, transport: asyncio.Transport) -> None:
        """Use another transport for the same session."""
        self.transport = self._connection.transport = transport
        self.session.ssl = _tls_facts(transport)

    async def _read_proxy(self, reader: asyncio.StreamReader) -> None:
        assert self.transport is not None
        session = self.session
        log.debug("%r waiting PROXY handshake", session.peer)
        session.proxy_data = await get_proxy(reader)
        status: Any = False
        if session.proxy_data:
            log.info("%r valid PROXY handshake", session.peer)
            status = await self._call_handler_hook("PROXY", session.proxy_data)
            log.debug("%r handle_PROXY returned %r", session.peer, status)
        else:
            log.warning("%r invalid PROXY handshake", session.peer)
        if status is MISSING or not status:
            log.info("%r rejected by handle_PROXY", session.peer)
            self.transport.close()
            return
        self._reset_timeout()
        self._proxy_reader = None
        self.transport.resume_reading()  # the reader may have paused it
        received = bytes(reader._buffer)  # type: ignore[attr-defined]
        self._connection.begin(self.transport, peer_of(self.transport), "", None, received)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where the transport reads to; for `data_received` asyncio would allocate 256 KiB for each read."""
        return self._input

    def buffer_updated(self, nbytes: int) -> None:
        """Handle input that is in the buffer."""
        self.data_received(self._input[:nbytes].tobytes())

    def data_received(self, data: bytes) -> None:
        """Handle input."""
        if self._proxy_reader is not None:
            self._proxy_reader.feed_data(data)
        else:
            self._connection.data_received(data)

    def eof_received(self) -> bool | None:
        """Handle the end of the client's input; the commands before it get their replies."""
        log.info("%r EOF received", self.session.peer)
        if self._proxy_reader is not None:
            self._proxy_task.cancel()
            return False
        return self._connection.eof_received() and not self._secure

    def connection_lost(self, error: Exception | None) -> None:
        """Handle the end of the connection."""
        log.info("%r connection lost", self.session.peer)
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
            self._timeout_handle = None
        if self._proxy_reader is not None:
            self._proxy_task.cancel()
        else:
            self._connection.end(error)
        self._writer.close()
        self._handler_coroutine.cancel()
        self.transport = None

    def pause_writing(self) -> None:
        """Handle a full write buffer."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Handle a write buffer that has room again."""
        self._connection.resume_writing()

    def _tls_started(self, transport: TlsTransport) -> None:
        """Forget everything learned before TLS (RFC 3207 §4.2)."""
        self._tls_protocol = transport
        self._new_session(transport)
        self._writer._transport = transport
        self._reset_timeout()
        hook = self._handle_hooks.get("STARTTLS")
        self._tls_handshake_okay = True if hook is None else hook(self, self.session, self.envelope)

    def _tls_failed(self, reason: str) -> None:
        self._tls_task = self.loop.create_task(self._report(TLSSetupException(reason)))

    def _reset_timeout(self, duration: float | None = None) -> None:
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        self._active = self.loop.time()
        self._progress = 0
        self._timeout_handle = self.loop.call_later(duration or self._timeout_duration, self._timeout_cb)

    def _timeout_cb(self) -> None:
        """Close an idle connection. Commands only record their time: to restart the timer for each would cost more."""
        if self.transport is None:
            return
        octets = 0 if self._proxy_reader is not None else self._connection.session.octets
        rest = self._active + self._timeout_duration - self.loop.time()
        if octets > self._progress:
            self._progress, rest = octets, self._timeout_duration
        if rest > 0 and self._proxy_reader is None:
            self._timeout_handle = self.loop.call_later(rest, self._timeout_cb)
            return
        log.info("%r connection timeout", self.session.peer)
        self.transport.close()

    # -----------------------------------------------------------------------------------------------------------------
    # Commands

    def _command(self, session: ServerSession, command: Command) -> Awaitable[Reply] | None:
        """Handle one command: the override of the native session for all of them."""
        verb, octets = command.verb, command.argument
        size = len(verb) + (len(octets) + 1 if octets else 0)
        self._logs = log.isEnabledFor(logging.INFO)
        if self._logs:
            line = sanitize(b" ".join([verb.encode(), octets]) if octets else verb.encode())
            log.debug("_handle_client readline: %r", line + b"\r\n")
            log.info("%r >> %r", self.session.peer, line)
        refusal = None
        argument = None
        if not verb:
            fault = command.fault
            refusal = LINE_TOO_LONG if fault is not None and fault.id == "line-too-long" else BAD_SYNTAX
        else:
            if octets:
                try:
                    argument = self._decoded(octets.strip())
                except UnicodeDecodeError:
                    refusal = NOT_ASCII
            refusal = refusal or self._refusal(verb, size)
        if refusal is not None:
            session.write(refusal.encode() + b"\r\n")
            return None
        method = self._smtp_methods.get(verb)
        if method is None:
            self._unknown(session, verb)
            return None
        self._active = self.loop.time()
        reply_to = self._reply_now.get(verb)
        if reply_to is not None:
            return self._reply_at_once(session, reply_to, command, argument)
        if verb in self._without_task:
            return self._run_now(method, argument)
        if verb in _WITH_INPUT:
            return self._connection.run(self._execute(method, argument))
        return self._execute(method, argument)

    def _decoded(self, argument: bytes) -> str:
        if self.enable_SMTPUTF8:
            return argument.decode("utf-8", "surrogateescape")
        return argument.decode("ascii")

    def _refusal(self, verb: str, size: int) -> str | None:
        """The refusal of a command in this state of the session; None to execute it."""
        limit = self.command_size_limits[verb] if self.session.extended_smtp else self.command_size_limit
        if size > limit:
            return LINE_TOO_LONG
        if not self._tls_handshake_okay and verb != "QUIT":
            return "554 Command refused due to lack of security"
        if self.require_starttls and not self._secure and verb not in ALLOWED_BEFORE_STARTTLS:
            return "530 Must issue a STARTTLS command first"
        if self._enforce_call_limit:
            if self._call_limit[verb] < 1:
                log.warning("%r over limit for %s", self.session.peer, verb)
                self._close()
                return f"421 4.7.0 {verb} sent too many times"
            self._call_limit[verb] -= 1
        return None

    def _unknown(self, session: ServerSession, verb: str) -> None:
        log.warning("%r unrecognised: %s", self.session.peer, verb)
        self._bogus_budget -= 1
        if self._bogus_budget < 1:
            log.warning("%r too many bogus commands", self.session.peer)
            session.write(b"502 5.5.1 Too many unrecognized commands, goodbye.\r\n")
            self._close()
        else:
            session.write(f'500 Error: command "{verb}" not recognized\r\n'.encode())

    def _close(self) -> None:
        """Close the connection when the replies are written."""
        session = self._connection.session
        session.close()
        session.input_drained = True
        self._handler_coroutine.cancel()

    def _reply_at_once(
        self, session: ServerSession, reply_to: ReplyNow, command: Command, argument: str | None
    ) -> Awaitable[Reply] | None:
        """Reply to MAIL, RCPT or DATA, of which there are many, without a coroutine."""
        if session.queued:  # each reply is written by itself, as in aiosmtpd
            session.flush()
        try:
            self._queue(self._premature(command.verb) or reply_to(self, command, argument))
        except Exception as error:  # noqa: BLE001 - as `_execute`
            return self._report(error)
        return None

    def _run_now(self, method: Any, argument: str | None) -> Awaitable[Reply] | None:
        """Run a command without a task."""
        try:
            self._connection.run_now(method(argument))
        except Exception as error:  # noqa: BLE001 - as `_execute`
            return self._report(error)
        return None

    async def _execute(self, method: Any, *arguments: str | None) -> Reply:
        try:
            await method(*arguments)
        except ConnectionResetError:
            log.info("%r Connection lost during _handle_client()", self.session.peer)
            self._writer.close()
        except Exception as error:  # noqa: BLE001 - whatever a hook raises
            return await self._report(error)
        return REPLIED

    async def _report(self, error: Exception) -> Reply:
        """Reply to an exception in a command; after a failed handshake, for which there is no reply, close."""
        try:
            status = await self.handle_exception(error)
        except Exception as inner:  # noqa: BLE001 - whatever a hook raises
            try:
                log.exception("%r Exception in handle_exception()", self.session.peer)
                status = f"500 Error: ({type(inner).__name__}) {inner}"
            except Exception:  # noqa: BLE001 - its text raised
                status = "500 Error: Cannot describe error"
        if isinstance(error, TLSSetupException):
            self._writer.close()
        else:
            await self.push(status)
        return REPLIED

    async def handle_exception(self, error: Exception) -> str:
        """Return the reply to an exception: the handler's, or 500 with its text."""
        if hasattr(self.event_handler, "handle_exception"):
            status: str = await self.event_handler.handle_exception(error)
            return status
        log.error("%r SMTP session exception", self.session.peer, exc_info=error)
        return f"500 Error: ({type(error).__name__}) {error}"

    async def push(self, status: str | bytes) -> None:
        """Send a reply, given without its last CRLF, at once."""
        self._queue(status)
        sent = self._connection.session.flush()
        if not self._connection.immediate:
            await sent

    def _queue(self, status: str | bytes) -> None:
        """Queue a reply, given without its last CRLF."""
        octets = self._encoded(status)
        if self._logs:
            log.debug("%r << %r", self.session.peer, octets)
        self._connection.session.write(octets + b"\r\n")

    async def check_helo_needed(self, helo: str = "HELO") -> bool:
        """Refuse a command before HELO; return whether it was refused."""
        refusal = self._helo_needed(helo)
        if refusal is not None:
            await self.push(refusal)
        return refusal is not None

    def _helo_needed(self, helo: str = "HELO") -> str | None:
        return None if self.session.host_name else f"503 Error: send {helo} first"

    async def check_auth_needed(self, caller_method: str) -> bool:
        """Refuse a command before AUTH if that is required; return whether it was refused."""
        refusal = self._auth_needed(caller_method)
        if refusal is not None:
            await self.push(refusal)
        return refusal is not None

    def _premature(self, verb: str) -> str | None:
        """The refusal of a command before HELO, or before AUTH if that is required."""
        if self.session.host_name and not self._auth_required:
            return None
        return self._helo_needed() or self._auth_needed(verb)

    def _auth_needed(self, verb: str) -> str | None:
        if not self._auth_required or self.session.authenticated:
            return None
        log.info("%s: Authentication required", verb)
        return "530 5.7.0 Authentication required"

    def _set_post_data_state(self) -> None:
        self.envelope = self._create_envelope()

    def _set_rset_state(self) -> None:
        self._set_post_data_state()


@cache
def _own_name() -> str:
    """The name of this machine; it may take DNS queries to find it."""
    return socket.getfqdn()


@cache
def _verbs(cls: type[SMTP]) -> tuple[str, ...]:
    """The commands of a class."""
    return tuple(name.removeprefix("smtp_") for name in dir(cls) if name.startswith("smtp_"))


@cache
def _unchanged(cls: type[SMTP]) -> frozenset[str]:
    """The commands of `_NO_TASK` of which a class overrides nothing."""
    if any(getattr(cls, name) is not getattr(SMTP, name) for name in _HELPERS):
        return frozenset()
    return frozenset(verb for verb in _NO_TASK if getattr(cls, f"smtp_{verb}") is getattr(SMTP, f"smtp_{verb}"))


def _tls_facts(transport: asyncio.Transport) -> dict[str, Any] | None:
    """The value of `Session.ssl`."""
    tls = transport.get_extra_info("ssl_object")
    if not isinstance(tls, ssl.SSLObject):
        return None
    return {
        "ssl_object": tls,
        "sslcontext": tls.context,
        "peercert": tls.getpeercert(),
        "cipher": tls.cipher(),
        "compression": tls.compression(),
    }


def _warn_about(context: ssl.SSLContext) -> None:
    if context.verify_mode not in {ssl.CERT_NONE, ssl.CERT_OPTIONAL}:
        log.warning(
            "tls_context.verify_mode not in {CERT_NONE, CERT_OPTIONAL}; this might cause client connection problems"
        )
    elif context.check_hostname:
        log.warning("tls_context.check_hostname == True; this might cause client connection problems")
