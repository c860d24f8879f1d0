"""The port of outbound TLS policies, and how their answers are combined.

A policy is consulted once for each domain and message, and once for each host before it is contacted. It answers with
a `Requirement`, with nothing if the domain or host does not concern it, or, for a host, with a `Refusal`: the reason
why this host must not be used.

Promises: the combined requirement is at least as strong as every answer; if no policy answers, TLS is opportunistic. A
requirement is a value: connections may be shared by messages with equal requirements, and by no others (SECURITY R39).
A policy that needs I/O returns an awaitable; the others cost no iteration of the event loop.

What the recipient's domain publishes (`TlsPolicy.published`) is ignored if the message has `TLS-Required: No`, or if a
local rule says so. Otherwise the first published policy that authenticates the host is the last to be consulted: DANE
precedes MTA-STS (SECURITY R36).
Standards: RFC 7435 §3 (opportunistic security), RFC 8461 §2 and §5 (DANE first; failures are transient), RFC 8689 §3
and §4.2 (TLS-Required; failures of REQUIRETLS are permanent).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from inspect import isawaitable
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, TypeAlias

from ironpost.model import Reply
from ironpost.model.tls import BY_AUTHORITIES, UNAUTHENTICATED, PolicyType
from ironpost.protocol import replies
from ironpost.routing.tls.levels import MxLevel, TlsUse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from ironpost.model import Envelope
    from ironpost.model.tls import PublishedPolicy, TlsFailure, TlsLevel, Verifier


class Dnssec(NamedTuple):
    """What was validated with DNSSEC about a host, and the names that its aliases lead to."""

    addresses: bool = False
    """The address records of the host were."""
    canonical: str = ""
    """The name at the end of the host's CNAME chain, in lower case; empty if unknown."""
    domain: str = ""
    """The name at the end of the CNAME chain of the recipient's domain, in lower case; empty if unknown."""


class MxHost(NamedTuple):
    """A host that may be contacted for a domain."""

    domain: str
    """The recipient's domain in lower case, or the name of a smart host."""
    name: str
    """The name that the certificate must have."""
    level: MxLevel
    """How far `name` can be trusted."""
    port: int = 25
    dnssec: Dnssec = Dnssec()


@dataclass(frozen=True, slots=True)
class Requirement:
    """Properties that a connection needs to carry a message."""

    use: TlsUse = TlsUse.MAY
    verifier: Verifier = UNAUTHENTICATED
    """Decides the level of the connection. That of the strongest answer counts."""
    mx: MxLevel = MxLevel.UNVERIFIED
    """The least level of the host name."""
    permanent: bool = False
    """If no host fulfils this, the message fails; otherwise it is deferred."""
    proves: MxLevel = MxLevel.UNVERIFIED
    """The level of the host name that the policy itself establishes; for answers about a host."""
    server_name: str = ""
    """The name that the host is asked for (SNI), and that authorities must certify; empty for the host's own."""
    own_verifier: bool = False
    """Preferred to equally strong answers: the host itself says how it is verified (RFC 7672 §3.2). Only this answer's
    `trial`, `violation` and `policy` count then."""
    ignores_published: bool = False
    """What the recipient's domain publishes is ignored; for answers about a domain."""
    trial: Verifier | None = None
    """Tried first, to record whether it would succeed; if it fails, `verifier` decides (RFC 8461 §5, "testing")."""
    violation: str = field(default="", compare=False)
    """Why the host violates a policy in testing mode, for reports; empty if it does not."""
    policy: PublishedPolicy | None = field(default=None, compare=False)
    """The published policy that is applied, for reports. That of the first answer that has one counts."""
    reasons: tuple[str, ...] = field(default=(), compare=False)

    @property
    def level(self) -> TlsLevel:
        """The least level of the connection."""
        return self.use.level

    @property
    def attempts(self) -> tuple[tuple[TlsUse, Verifier], ...]:
        """The ways to connect to a host, in order; each is used only if the handshake of the one before fails."""
        useless = self.trial in (None, self.verifier) or self.use is TlsUse.NONE
        first = () if useless else ((self.use, self.trial),)
        last = ((TlsUse.NONE, self.verifier),) if self.use is TlsUse.MAY else ()
        return (*first, (self.use, self.verifier), *last)

    def refusal(self, reply: Reply) -> Reply:
        """The reply of a host that does not fulfil the requirement, permanent or transient as the requirement is."""
        if self.permanent:
            return Reply(550, "5.7.10", reply.text, reply.detail)  # RFC 8689 §4.2.1
        text = reply.text
        if self.policy is not None:
            text = (f"{' '.join(text)} ({_NAMES[self.policy.type]} of {self.policy.domain})",)
        return Reply(451, f"4{(reply.enhanced or _NOT_SUPPORTED)[1:]}", text, reply.detail)

    def __str__(self) -> str:
        return str(self.use) if self.mx is MxLevel.UNVERIFIED else f"{self.use}, with a host name from {self.mx}"


_NAMES: Final = {PolicyType.STS: "MTA-STS policy", PolicyType.TLSA: "TLSA records"}
_NOT_SUPPORTED: Final = "4.7.4"
"""Security features not supported (RFC 3463 §3.8)."""
OPPORTUNISTIC: Final = Requirement(reasons=("no policy requires TLS",))
"""The requirement if no policy has one."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer that a host must not be used."""

    reply: Reply
    """The recipients' outcome if no other host can be used."""
    failure: TlsFailure | None = None
    """The category for reports; None if the refusal concerns only this message."""
    policy: PublishedPolicy | None = None
    """The published policy that refuses the host."""


DomainAnswer: TypeAlias = Requirement | None
HostAnswer: TypeAlias = Requirement | Refusal | None


class TlsPolicy:
    """One policy; a subclass overrides the methods for which it has an answer."""

    published: ClassVar[bool] = False
    """The recipient's domain publishes it, so that senders and local rules may ignore it."""

    def for_domain(
        self,
        domain: str,  # noqa: ARG002 - for overrides
        envelope: Envelope,  # noqa: ARG002
    ) -> DomainAnswer | Awaitable[DomainAnswer]:
        """Return the requirement of a message to a domain, for any host.

        Args:
            domain: the recipient's domain in lower case, or the name of a smart host.
            envelope: of the message.
        """
        return None

    def for_host(
        self,
        host: MxHost,  # noqa: ARG002 - for overrides
        envelope: Envelope,  # noqa: ARG002
    ) -> HostAnswer | Awaitable[HostAnswer]:
        """Return the requirement at one host; called before each attempt at it, and before a connection is reused."""
        return None


class TlsPolicies:
    """The policies of one configuration."""

    __slots__ = ("_for_domain", "_for_host")

    def __init__(self, policies: Iterable[TlsPolicy]) -> None:
        """Combine policies; their order is that of consultation, and the first of equally strong verifiers is used."""
        members = tuple(policies)
        self._for_domain = [each for each in members if type(each).for_domain is not TlsPolicy.for_domain]
        self._for_host = [each for each in members if type(each).for_host is not TlsPolicy.for_host]

    async def for_domain(self, domain: str, envelope: Envelope, least: Requirement | None = None) -> Requirement:
        """Return the combined requirement of a message to a domain, at least `least`. See `TlsPolicy.for_domain`."""
        answers = [] if least is None else [least]
        ignored = envelope.tls_optional
        for policy in self._for_domain:
            if ignored and policy.published:
                continue
            answer = policy.for_domain(domain, envelope)
            if isawaitable(answer):
                answer = await answer
            if answer is not None:
                answers.append(answer)
                ignored = ignored or answer.ignores_published
        found = _combined(answers) if answers else OPPORTUNISTIC
        if envelope.tls_optional:
            return replace(found, ignores_published=True, reasons=(*found.reasons, _OPTIONAL))
        return found

    async def for_host(self, host: MxHost, envelope: Envelope, requirement: Requirement) -> Requirement | Refusal:
        """Return the combined requirement at one host, given that of the domain, or the refusal of the host."""
        if self._for_host:
            answers = [requirement]
            ignored = requirement.ignores_published
            for policy in self._for_host:
                if ignored and policy.published:
                    continue
                answer = policy.for_host(host, envelope)
                if isawaitable(answer):
                    answer = await answer
                if isinstance(answer, Refusal):
                    return answer
                if answer is not None:
                    answers.append(answer)
                    ignored = ignored or (policy.published and answer.use is TlsUse.VERIFY)
            requirement = _combined(answers)
        if max(host.level, requirement.proves) < requirement.mx:
            return Refusal(requirement.refusal(replies.PEER_NAME_NOT_VERIFIED))
        return requirement


_OPTIONAL: Final = "the message has TLS-Required: No, so what the domain publishes is ignored"


@lru_cache(256)
def of_use(use: TlsUse, reason: str, *, ignores_published: bool = False) -> Requirement:
    """The requirement of the operator that TLS is used in this way: `VERIFY` is by authorities."""
    verifier = BY_AUTHORITIES if use is TlsUse.VERIFY else UNAUTHENTICATED
    return Requirement(use, verifier, ignores_published=ignores_published, reasons=(reason,))


def _combined(answers: Sequence[Requirement]) -> Requirement:
    """Combine one or more requirements into one that fulfils all of them."""
    if len(answers) == 1:
        return answers[0]
    strongest = max(answers, key=lambda answer: (answer.use, answer.own_verifier))
    published = (strongest,) if strongest.own_verifier else answers
    return Requirement(
        strongest.use,
        strongest.verifier,
        mx=max(answer.mx for answer in answers),
        permanent=any(answer.permanent for answer in answers),
        proves=max(answer.proves for answer in answers),
        server_name=strongest.server_name,
        own_verifier=strongest.own_verifier,
        ignores_published=any(answer.ignores_published for answer in answers),
        trial=next((answer.trial for answer in published if answer.trial is not None), None),
        violation=next((answer.violation for answer in published if answer.violation), ""),
        policy=next((answer.policy for answer in published if answer.policy is not None), None),
        reasons=tuple(reason for answer in answers for reason in answer.reasons),
    )
