"""MTA-STS: the policy that a domain publishes over HTTPS about the hosts that receive its mail (RFC 8461).

Promises: records and policies are parsed as the grammar says, with unknown fields ignored; in `enforce` mode a message
is sent only to a host that matches the policy and has a certificate for its name, otherwise it is deferred; `testing`
mode never prevents a delivery, but what would have failed is recorded. Where policies come from is the port
`StsPolicies`; `delivery.sts_cache` implements it.
Refuses: a record or policy with an invalid field, as a whole, with `StsSyntaxError`. Empty lines in a policy are
accepted.
Standards: RFC 8461 §3.1 (record), §3.2 (policy), §4.1 (matching), §5 (modes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol

from ironpost.model.idna import a_labels
from ironpost.model.tls import BY_AUTHORITIES, PolicyType, PublishedPolicy, TlsFailure
from ironpost.protocol import replies
from ironpost.routing.tls.levels import MxLevel, TlsUse
from ironpost.routing.tls.policy import Refusal, Requirement, TlsPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ironpost.model import Envelope
    from ironpost.routing.tls.policy import HostAnswer, MxHost

VERSION: Final = "STSv1"
MAX_AGE: Final = 31_557_600
"""The maximum lifetime of a policy in seconds; a longer one counts as this (RFC 8461 §3.2)."""
MAX_ID: Final = 32
"""Maximum octets of the id of a policy (RFC 8461 §3.1)."""
MAX_NAME: Final = 255
"""Maximum octets of a pattern of host names."""
POLICY_PATH: Final = "/.well-known/mta-sts.txt"
"""The path of a policy at its policy host (RFC 8461 §3.2)."""

_RECORD: Final = re.compile(rb"v=STSv1[ \t]*;")
_RECORD_FIELD: Final = re.compile(rb"([A-Za-z0-9][A-Za-z0-9_.-]{0,31})=([\x21-\x3a\x3c\x3e-\x7e]+)")
_ID: Final = re.compile(rb"[A-Za-z0-9]{1,%d}" % MAX_ID)
_POLICY_FIELD: Final = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*([^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?)"
)
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MX: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_AGE: Final = re.compile(r"[0-9]{1,10}")


class StsSyntaxError(ValueError):
    """A record or policy is invalid; the text says what is wrong, in ASCII."""


class StsMode(StrEnum):
    """What happens if the policy is not fulfilled (RFC 8461 §5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"
    """The domain no longer has a policy."""


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A policy (RFC 8461 §3.2)."""

    mode: StsMode
    mx: tuple[str, ...]
    """Patterns of host names, in lower case: a name, or `*.` before a name for one label more."""
    max_age: int
    """Seconds for which it may be kept."""

    def matches(self, host: str) -> str | None:
        """Return the first pattern that matches the name of a host, in lower case; None if there is none (§4.1)."""
        name = host.removesuffix(".")
        wildcard = "*." + name.partition(".")[2]
        return next((pattern for pattern in self.mx if pattern in (name, wildcard)), None)

    @property
    def lines(self) -> tuple[str, ...]:
        """The fields of the policy as text, without unknown ones."""
        patterns = (f"mx: {pattern}" for pattern in self.mx)
        return (f"version: {VERSION}", f"mode: {self.mode}", *patterns, f"max_age: {self.max_age}")

    @property
    def text(self) -> bytes:
        """The policy as it is published."""
        return "".join(f"{line}\r\n" for line in self.lines).encode("ascii")

    @property
    def id(self) -> str:
        """An id for the record that announces the policy: a digest, so it changes whenever the policy does."""
        return sha256(self.text).hexdigest()[:MAX_ID]

    @property
    def record(self) -> str:
        """The record that announces the policy, at `record_name` (RFC 8461 §3.1)."""
        return f"v={VERSION}; id={self.id};"


def parse_record(records: Sequence[bytes]) -> str | None:
    """Return the id of the policy from the TXT records of `_mta-sts.DOMAIN`; None if the domain has no such record.

    Raises:
        StsSyntaxError: there are several records, or the record is invalid; the domain is treated as having none.
    """
    found = [record for record in records if _RECORD.match(record)]
    if not found:
        return None
    if len(found) > 1:
        raise StsSyntaxError(f"{len(found)} MTA-STS records; only one is allowed")
    _, *fields = found[0].split(b";")
    if not fields[-1].strip(b" \t"):
        fields.pop()
    identifier: bytes | None = None
    for each in fields:
        field = each.strip(b" \t")
        parsed = _RECORD_FIELD.fullmatch(field)
        if parsed is None or (parsed[1] == b"id" and not _ID.fullmatch(parsed[2])):
            raise StsSyntaxError(f"invalid field in the MTA-STS record: {field.decode('latin-1')!a}")
        if parsed[1] == b"id" and identifier is None:
            identifier = parsed[2]
    if identifier is None:
        raise StsSyntaxError("the MTA-STS record has no id")
    return identifier.decode()


def parse_policy(body: bytes) -> StsPolicy:
    """Parse a policy, as it was fetched.

    Raises:
        StsSyntaxError: it is not valid.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise StsSyntaxError("the policy is not UTF-8") from None
    found: dict[str, str] = {}
    mx: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        stripped = line.rstrip(" \t")
        if not stripped:
            continue
        parsed = _POLICY_FIELD.fullmatch(stripped)
        if parsed is None:
            raise StsSyntaxError(f"invalid line in the policy: {stripped[:80]!a}")
        name, value = parsed.groups()
        if name != "mx":
            found.setdefault(name, value)
        elif _MX.fullmatch(value) and len(value) <= MAX_NAME:
            mx.append(value.lower())
        else:
            raise StsSyntaxError(f"invalid mx in the policy: {value[:80]!a}")
    for name in ("version", "mode", "max_age"):
        if name not in found:
            raise StsSyntaxError(f"the policy has no {name}")
    if found["version"] != VERSION:
        raise StsSyntaxError(f"unknown version of the policy: {found['version'][:80]!a}")
    if found["mode"] not in set(StsMode):
        raise StsSyntaxError(f"unknown mode of the policy: {found['mode'][:80]!a}")
    if not _AGE.fullmatch(found["max_age"]):
        raise StsSyntaxError(f"invalid max_age of the policy: {found['max_age'][:80]!a}")
    mode = StsMode(found["mode"])
    if not mx and mode is not StsMode.NONE:
        raise StsSyntaxError("the policy has no mx")
    return StsPolicy(mode, tuple(dict.fromkeys(mx)), min(int(found["max_age"]), MAX_AGE))


@lru_cache(4096)  # called for each message
def policy_domain(name: str) -> str | None:
    """Return the domain whose policy applies to a recipient's domain or a smart host, in A-labels (RFC 8461 §3.4).

    Returns:
        None for an address, an address literal and a name that DNS cannot hold: they have no policy.
    """
    try:
        domain = a_labels(name).removesuffix(".")
    except ValueError:
        return None
    if domain.startswith("[") or "." not in domain or len(domain) > 240:  # `_mta-sts.` must fit too
        return None
    try:
        ip_address(domain)
    except ValueError:
        return domain
    return None


def record_name(domain: str) -> str:
    """Return the name of the record that announces the policy of a domain (RFC 8461 §3.1)."""
    return f"_mta-sts.{domain}"


def policy_host(domain: str) -> str:
    """Return the name of the HTTPS server of a domain's policy (RFC 8461 §3.2)."""
    return f"mta-sts.{domain}"


def mx_pattern(text: str) -> str:
    """Return a pattern of host names as it is in a policy: in A-labels and lower case.

    Raises:
        ValueError: it is not a host name, or `*.` before one.
    """
    pattern = a_labels(text).lower()
    if not _MX.fullmatch(pattern) or len(pattern) > MAX_NAME:
        raise ValueError(f"{text!a} is neither the name of a host, nor *. before one")
    return pattern


class StsPolicies(Protocol):
    """The port to the policies of domains."""

    def find(self, domain: str) -> Awaitable[StsPolicy | None]:
        """Return the valid policy of a policy domain, fetched or from the cache; None if it has none."""
        ...


class MtaSts(TlsPolicy):
    """See the module."""

    published = True

    def __init__(self, policies: StsPolicies) -> None:
        """Use the policies of this source."""
        self._policies = policies

    def for_host(self, host: MxHost, envelope: Envelope) -> Awaitable[HostAnswer] | None:  # noqa: ARG002
        """Apply the policy of the domain to one of its hosts."""
        domain = policy_domain(host.domain)
        return None if domain is None else self._answer(domain, host)

    async def _answer(self, domain: str, host: MxHost) -> HostAnswer:
        policy = await self._policies.find(domain)
        if policy is None or policy.mode is StsMode.NONE:
            return None
        return _answer(domain, policy, host.name)


@lru_cache(256)  # asked for every message, and for each idle connection that it might use
def _answer(domain: str, policy: StsPolicy, host: str) -> HostAnswer:
    """The answer of a policy, which is not `none`, about a host."""
    published = PublishedPolicy(PolicyType.STS, domain, policy.lines, policy.mx)
    pattern = policy.matches(host)
    reason = f"the MTA-STS policy of {domain} ({policy.mode}) "
    reason += f"does not list {host}" if pattern is None else f"lists {pattern}"
    if policy.mode is StsMode.TESTING:  # requires nothing, not even that TLS is tried
        if pattern is None:
            return Requirement(TlsUse.NONE, violation=reason, policy=published, reasons=(reason,))
        return Requirement(TlsUse.NONE, trial=BY_AUTHORITIES, policy=published, reasons=(reason,))
    if pattern is None:
        reply = replies.PEER_NOT_IN_STS_POLICY.because(reason)
        return Refusal(reply, TlsFailure.VALIDATION_FAILURE, published)
    return Requirement(
        TlsUse.VERIFY,
        BY_AUTHORITIES,
        mx=MxLevel.MTA_STS,
        proves=MxLevel.MTA_STS,
        policy=published,
        reasons=(reason,),
    )
