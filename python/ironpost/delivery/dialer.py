"""Opens connections to next hops with the TLS that is required.

Promises: after a failed handshake the same host is contacted again only in the ways that the requirement allows
(`Requirement.attempts`): opportunistic TLS is followed by one unencrypted connection; a trial never decides whether the
message is sent. The result says what was reached and why. A rejected token is renewed once. TLS sessions are resumed
where `client.tls_sessions` allows it; if such a handshake fails after STARTTLS, a full one is tried next.
Standards: RFC 3207 §4 and §4.1 (decisions of the client), RFC 7435 §3 (opportunistic security), RFC 8461 §5 (testing),
RFC 8314 §3.3 (implicit TLS).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ironpost.client.connection import connect
from ironpost.client.reach import plain_host
from ironpost.client.tls import encrypting, verifying
from ironpost.client.tls_sessions import TlsSessions
from ironpost.delivery.settings import CONNECT_TIMEOUT
from ironpost.model.ports import Uncounted
from ironpost.model.tls import TlsFailure, TlsLevel, TlsResult, Verification
from ironpost.protocol import replies
from ironpost.protocol.client.session import TIMEOUTS, ClientStep, Ending, Security, check_hostname
from ironpost.protocol.client.tolerance import TOLERANCES
from ironpost.protocol.dialect import SMTP
from ironpost.routing.tls import TlsUse

if TYPE_CHECKING:
    import ssl
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ironpost.client.connection import Connection
    from ironpost.delivery.access import Access, Login
    from ironpost.delivery.next_hop import HostAddress
    from ironpost.model import Reply
    from ironpost.model.ports import Metrics
    from ironpost.model.tls import Verifier
    from ironpost.protocol.client.session import ClientSession
    from ironpost.protocol.client.tolerance import Tolerance
    from ironpost.protocol.dialect import Dialect
    from ironpost.routing.tls import Requirement

SECURITY: Final[Mapping[TlsUse, Security]] = {
    TlsUse.NONE: Security("never"),
    TlsUse.MAY: Security("may"),
    TlsUse.ENCRYPT: Security("must", level=TlsUse.ENCRYPT.level),
    TlsUse.VERIFY: Security("must", level=TlsUse.VERIFY.level),
}
"""How a session uses STARTTLS."""


class Dialer:
    """Opens the connections of one delivery agent."""

    def __init__(
        self,
        *,
        local_hostname: str | None = None,
        timeouts: Mapping[ClientStep, float] = TIMEOUTS,
        connect_timeout: float = CONNECT_TIMEOUT,
        dialect: Dialect = SMTP,
        chunking: bool = True,
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
        authorities: Path | None = None,
        tls_sessions: TlsSessions | None = None,
    ) -> None:
        """Describe the connections; see `client.connection.connect`.

        Args:
            local_hostname: our name in EHLO; None for the address literal of each connection.
            timeouts: seconds by step (RFC 5321 §4.5.3.2).
            connect_timeout: seconds to wait for TCP at each address.
            dialect: SMTP or LMTP.
            chunking: use BDAT for small content if the peer offers it.
            tolerances: protocol errors of a peer that are tolerated.
            metrics: counts handshakes, and the tolerances used.
            authorities: PEM file of the authorities that verify hosts; the system's if None.
            tls_sessions: those that may be resumed; none yet if None.

        Raises:
            OSError: `authorities` cannot be read, or contains no certificates.
            wire.WireFault: `local_hostname` is neither a domain nor an address literal.
        """
        if local_hostname is not None:
            check_hostname(local_hostname)
        self._local_hostname = local_hostname
        self._timeouts = timeouts
        self._connect_timeout = connect_timeout
        self._dialect = dialect
        self._chunking = chunking
        self._tolerances = tolerances
        self._metrics = metrics or Uncounted()
        self._tls_sessions = TlsSessions() if tls_sessions is None else tls_sessions
        self._encrypting = encrypting()
        self._verifying = verifying(str(authorities), common_name=False) if authorities is not None else None

    async def dial(
        self, target: HostAddress, requirement: Requirement, *, chunking: bool, access: Access | None = None
    ) -> tuple[Connection, TlsResult]:
        """A connection that fulfils the requirement, or whose session is CLOSED and says why not; and its TLS.

        Args:
            target: where to.
            requirement: the TLS that a message needs there.
            chunking: False for a host that is known to reject BDAT.
            access: of the route's profile, if it has one.

        Raises:
            OSError: no TCP connection; ssl.SSLError: TLS from the first octet failed.
            NoLoginError: the profile has a login that cannot be used now.
        """
        login = None if access is None else await access.login(target.host, target.port)
        name = plain_host(requirement.server_name or target.host)
        failed: Verification | None = None
        for use, verifier in requirement.attempts:
            connection = await self._connect(target, name, use, verifier, chunking, access, login)
            session = connection.session
            if not _tls_failed(session):
                break
            if failed is None:
                failed = _failure(session)
        rejection = login_rejected(session)
        if access is not None and login is not None and rejection is not None and access.rejected(login, rejection):
            login = await access.login(target.host, target.port)
            connection = await self._connect(target, name, use, verifier, chunking, access, login)
            session = connection.session
            rejection = login_rejected(session)
            if login is not None and rejection is not None:
                access.rejected(login._replace(new_token=True), rejection)  # another connection may have renewed it
        if access is not None and session.authenticated:
            access.accepted()
        level, reason, failure = session.tls
        if failed is not None and not _tls_failed(session):
            reason = failed.reason if level is TlsLevel.NONE else f"{reason}; before that, {failed.reason}"
            failure = failed.failure
        elif level is not TlsLevel.NONE and level < requirement.level:
            failure = failure or TlsFailure.VALIDATION_FAILURE
        return connection, TlsResult(target.host, level, requirement.level, reason, failure)

    async def _connect(
        self,
        target: HostAddress,
        name: str,
        use: TlsUse,
        verifier: Verifier,
        chunking: bool,
        access: Access | None,
        login: Login | None,
    ) -> Connection:
        """One connection, after another one if resuming a TLS session may be why the handshake of that one failed."""
        security = SECURITY[use]
        profile = None if access is None else access.profile
        if login is not None:
            security = replace(security, credentials=login.credentials, mechanisms=login.mechanisms)
        for tls_sessions in (self._tls_sessions, None):
            connection = await connect(
                target.ip,
                target.port,
                (profile and profile.hello) or self._local_hostname,
                path=target.path,
                remote=str(target),
                timeouts=self._timeouts,
                connect_timeout=self._connect_timeout,
                dialect=self._dialect,
                chunking=chunking and self._chunking,
                security=security,
                tls=(access and access.context(verifier)) or self._context(verifier),
                verifier=verifier,
                implicit_tls=profile is not None and profile.implicit_tls,
                server_name=name,
                tls_sessions=tls_sessions,
                source=None if profile is None else profile.source(target.ip),
                tolerances=self._tolerances,
                metrics=self._metrics,
            )
            resumption = connection.resumption
            if resumption is None or resumption.session is None or not _tls_failed(connection.session):
                break
        if connection.session.secure:
            resumed = resumption is not None and resumption.resumed
            self._metrics.count("outgoing_handshakes", "resumed" if resumed else "full")
        return connection

    def _context(self, verifier: Verifier) -> ssl.SSLContext:
        """The context with which a verifier can be used, shared by all connections (RFC 8461 §4.2: no common names)."""
        if not verifier.uses_authorities:
            return self._encrypting
        if self._verifying is None:
            # Reads the system's authorities, so only when they are needed.
            self._verifying = verifying(common_name=False)
        return self._verifying


def login_rejected(session: ClientSession) -> Reply | None:
    """The reply with which the peer rejected the credentials, not only for now (RFC 4954 §6); None if it did not."""
    if session.ended_at is not ClientStep.AUTH or session.ending is not Ending.REFUSED:
        return None
    reply = session.reason
    return reply if reply is not None and reply.code in _CREDENTIALS_REJECTED else None


def _tls_failed(session: ClientSession) -> bool:
    """Whether a session ended between STARTTLS and the end of the handshake, but not by a violation of the protocol.

    A 421 is a refusal of service, and octets before the handshake may be an attack (SECURITY R10): neither is a reason
    to continue unencrypted.
    """
    return session.ended_at in _HANDSHAKE and session.ending in _FAILURES


def _failure(session: ClientSession) -> Verification:
    """Why TLS failed. A connection that was lost or timed out has no category (RFC 8460 §4.3.4)."""
    if session.tls.failure is not None:
        return session.tls
    failure = session.reason or replies.HANDSHAKE_FAILED
    return Verification(TlsLevel.NONE, f"TLS failed: {failure.detail or failure}")


_CREDENTIALS_REJECTED: Final = frozenset({534, 535})
"""534: large providers also use it for accounts that must use another kind of password. Other codes refuse AUTH or the
mechanism, which says nothing about the credentials."""
_HANDSHAKE: Final = frozenset({ClientStep.STARTTLS, ClientStep.TLS})
_FAILURES: Final = frozenset({Ending.INSECURE, Ending.LOST, Ending.EXPIRED})
