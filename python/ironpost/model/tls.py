"""TLS of outgoing connections: levels, verifiers, published policies, and the results for logs and reports.

Promises: levels are ordered, so a requirement is checked by comparison. A `Verifier` is a value: equal verifiers reach
equal decisions, so connections verified by equal verifiers may be shared. Nothing here does I/O; `client.tls` does the
handshake.
Standards: RFC 3207 §4.1 (whether to continue is decided by the level), RFC 7435 §1.2 (opportunistic security), RFC 8460
§4.3 and §4.4 (result types and policies of reports).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class TlsLevel(IntEnum):
    """The protection of a connection; higher is stronger."""

    NONE = 0
    """The connection is unencrypted."""
    ENCRYPTED = 1
    """TLS with an unauthenticated peer: protects from passive eavesdropping only."""
    AUTHENTICATED = 2
    """TLS with a peer that proved to be the intended host."""

    def __str__(self) -> str:
        return self.name.lower()


class TlsFailure(StrEnum):
    """A category of failures; the values are the result types of RFC 8460 §4.3."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION_FAILURE = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


class Verification(NamedTuple):
    """The result of a `Verifier`, or of an attempt to start TLS."""

    level: TlsLevel
    """The level of the connection; a verifier returns ENCRYPTED or AUTHENTICATED."""
    reason: str
    """Why the connection has this level, for logs and reports."""
    failure: TlsFailure | None = None
    """The category of the failure, if the level is lower than it would be with a peer without faults."""


class Verifier(Protocol):
    """Decides the level of a connection from the peer's certificates. Hashable; part of the connection pool's key."""

    @property
    def uses_authorities(self) -> bool:
        """Whether the handshake must fail unless a trusted authority signed a certificate for the peer's name."""
        ...

    def verify(self, chain: Sequence[bytes]) -> Verification:
        """Decide the level of a connection whose handshake has succeeded.

        Args:
            chain: the certificates that the peer sent, in DER, leaf first.
        """
        ...


@dataclass(frozen=True, slots=True)
class Unauthenticated:
    """The verifier of opportunistic TLS: any certificate is accepted, since the alternative is to send unencrypted."""

    @property
    def uses_authorities(self) -> bool:
        """See `Verifier`."""
        return False

    def verify(self, chain: Sequence[bytes]) -> Verification:  # noqa: ARG002 - the protocol's
        """Return ENCRYPTED."""
        return Verification(TlsLevel.ENCRYPTED, "the certificate was not verified")


@dataclass(frozen=True, slots=True)
class ByAuthorities:
    """The verifier of the public PKI: certificate and name are verified during the handshake (RFC 6125)."""

    @property
    def uses_authorities(self) -> bool:
        """See `Verifier`."""
        return True

    def verify(self, chain: Sequence[bytes]) -> Verification:  # noqa: ARG002 - the protocol's
        """Return AUTHENTICATED, because the handshake fails with an invalid certificate."""
        return Verification(TlsLevel.AUTHENTICATED, "the certificate is valid for the host name")


UNAUTHENTICATED: Final = Unauthenticated()
BY_AUTHORITIES: Final = ByAuthorities()


@dataclass(frozen=True, slots=True)
class TlsResult:
    """The TLS of one connection to one host, for logs and reports (RFC 8460)."""

    host: str
    """The host's name, or its address if it has none."""
    level: TlsLevel
    """The level that the connection reached."""
    required: TlsLevel
    """The lowest level at which the message may be sent."""
    reason: str
    """Why the connection has this level."""
    failure: TlsFailure | None = None
    """The category of the failure, if TLS or a verification failed, even if the message could be sent."""


class PolicyType(StrEnum):
    """The kind of policy that a domain publishes; the values are the policy types of RFC 8460 §4.4."""

    TLSA = "tlsa"
    STS = "sts"
    NONE = "no-policy-found"


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """The policy of a domain, as reports describe it (RFC 8460 §4.4)."""

    type: PolicyType
    domain: str
    """The policy domain: the recipient's domain in A-labels, or with DANE the TLSA base domain (RFC 8460 §1.1)."""
    strings: tuple[str, ...] = ()
    """The lines of an MTA-STS policy, or the TLSA records in presentation format (RFC 6698 §2.2)."""
    mx: tuple[str, ...] = ()
    """The host name patterns of an MTA-STS policy."""


@dataclass(frozen=True, slots=True)
class TlsOutcome:
    """The result of applying a published policy, or none, to one new connection or one host; or of fetching it."""

    policy: PublishedPolicy
    failure: TlsFailure | None = None
    """None: the connection has TLS as the policy demands."""
    detail: str = ""
    """The reason of the failure."""
    host: str = ""
    """The host name from the MX record; empty if fetching the policy failed."""
    host_ip: str = ""
    """The address of the host."""
    our_ip: str = ""
    """The address from which the host was contacted; empty if it was not."""
    domain: str = ""
    """The recipient's domain, in lower case; empty if it is that of the policy."""


class TlsRecorder(Protocol):
    """The port to reports about TLS (RFC 8460). It is called once for each new connection, so it must be cheap."""

    def __call__(self, outcome: TlsOutcome) -> None:
        """Record an outcome."""
        ...
