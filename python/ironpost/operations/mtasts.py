"""MTA-STS: a check of what a domain publishes, and the policies that are configured here (RFC 8461).

Promises: for the check the record is looked up and the policy fetched now, as a server would, whatever is in its cache;
nothing is sent or changed. Every fault is listed, not only the first. The policy of a domain that is configured here is
compared with that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.delivery.sts_cache import StsError, fetch
from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.model.text import counted
from ironpost.operations.explain import given_domain
from ironpost.operations.operation import EmptyRequest, Operation, OperationError, Reason, Scope
from ironpost.routing.tls.mta_sts import (
    StsMode,
    StsPolicy,
    StsSyntaxError,
    parse_record,
    policy_domain,
    policy_host,
    record_name,
)

if TYPE_CHECKING:
    from ironpost.model.dns import Resolver
    from ironpost.operations.context import DataDirectory


class StsResult(Enum):
    """The result for the domain."""

    GOOD = "good"
    """There is a policy, and mail can be sent under it as far as names are concerned."""
    ABSENT = "no policy"
    """The domain announces none."""
    FAULTY = "faulty"
    UNKNOWN = "unknown"
    """DNS does not answer now."""


@dataclass(frozen=True, slots=True)
class StsHost:
    """One host that receives mail for the domain."""

    host: str
    preference: int | None
    """None if the domain has no MX records, and is its own host."""
    pattern: str | None
    """The first pattern of the policy that matches; None if there is none, or no policy."""


@dataclass(frozen=True, slots=True)
class StsCheck:
    """What was found, and what is wrong with it."""

    domain: str
    """In A-labels."""
    result: StsResult
    records: tuple[str, ...]
    """The TXT records at `_mta-sts.DOMAIN`, with other octets than printable ASCII escaped."""
    policy_id: str
    """Empty without a valid record."""
    policy: tuple[str, ...]
    """The lines of the policy; empty if it is not valid."""
    hosts: tuple[StsHost, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StsCheckRequest:
    """The domain to check."""

    domain: str


async def _check(data: DataDirectory, request: StsCheckRequest) -> StsCheck:
    domain = policy_domain(given_domain(request.domain))
    if domain is None:
        raise OperationError(Reason.INVALID, f"invalid domain {request.domain}: it cannot have an MTA-STS policy")
    resolver = data.resolver()
    problems: list[str] = []
    records: tuple[bytes, ...] = ()
    identifier = policy = None
    unknown = False
    try:
        records = (await dns.txt(resolver, record_name(domain))).data
        identifier = parse_record(records)
        if identifier is None:
            problems += dns.without_version(record_name(domain), records, "v=STSv1;")
    except ResolverError as error:
        unknown = True
        problems.append(f"DNS lookup failed: {error}")
    except StsSyntaxError as error:
        problems.append(str(error))
    if identifier is not None:
        try:
            policy = await fetch(domain, data.http(resolver))
        except StsError as error:
            problems.append(str(error))
    hosts: tuple[StsHost, ...] = ()
    try:
        hosts = await _hosts(domain, policy, resolver)
        if not hosts:
            problems.append(f"{domain} does not exist")
    except ResolverError as error:
        unknown = True
        problems.append(f"DNS lookup failed: {error}")
    if policy is not None:
        problems += _faults(policy, hosts)
    if (configured := data.sts_policies.get(domain)) is not None:
        problems += _differences(configured, identifier, policy)
    result = StsResult.GOOD
    if unknown:
        result = StsResult.UNKNOWN
    elif problems:
        result = StsResult.FAULTY
    elif identifier is None:
        result = StsResult.ABSENT
    lines = () if policy is None else policy.lines
    shown = tuple(each.decode("ascii", "backslashreplace") for each in records)
    return StsCheck(domain, result, shown, identifier or "", lines, hosts, tuple(problems))


async def _hosts(domain: str, policy: StsPolicy | None, resolver: Resolver) -> tuple[StsHost, ...]:
    """The hosts of a domain, the most preferred first; none if it does not exist."""
    answer = await dns.mx(resolver, domain)
    if not answer.exists:
        return ()
    found: list[tuple[int | None, str]] = [(None, domain)]  # RFC 5321 §5.1: without MX records
    if answer.data:
        found = [(each.preference, each.host) for each in sorted(answer.data, key=lambda each: each.preference)]
    return tuple(
        StsHost(host, preference, None if policy is None else policy.matches(host.lower()))
        for preference, host in found
    )


def _faults(policy: StsPolicy, hosts: tuple[StsHost, ...]) -> list[str]:
    if policy.mode is StsMode.NONE:
        return []
    missing = [each.host or "the null MX" for each in hosts if each.pattern is None]
    faults = [f"the policy does not list {host}" for host in missing]
    if len(missing) == len(hosts) and policy.mode is StsMode.ENFORCE:
        faults.append(f"{counted(len(hosts), 'host')}, and none is in the policy: all mail is deferred")
    return faults


def _differences(configured: StsPolicy, identifier: str | None, policy: StsPolicy | None) -> list[str]:
    """How what is published differs from what is configured here."""
    found = []
    if identifier != configured.id:
        found.append(f"the published record is missing or differs; publish: {configured.record}")
    if policy is not None and policy != configured:
        found.append("the policy is not the configured one: was the server reloaded?")
    return found


CHECK: Final = Operation("mtasts.check", StsCheckRequest, StsCheck, Scope.LOCAL, _check)


@dataclass(frozen=True, slots=True)
class ConfiguredPolicy:
    """The policy of one of our domains, and the record that announces it."""

    domain: str
    """In A-labels."""
    host: str
    """The policy host: a name that must lead to the listener."""
    name: str
    """The name of the TXT record."""
    record: str
    policy: tuple[str, ...]
    """The lines of the policy."""


@dataclass(frozen=True, slots=True)
class ConfiguredPolicies:
    """The policies of `[[mta_sts]]`."""

    policies: tuple[ConfiguredPolicy, ...]


async def _show(data: DataDirectory, _request: EmptyRequest) -> ConfiguredPolicies:
    return ConfiguredPolicies(
        tuple(
            ConfiguredPolicy(domain, policy_host(domain), record_name(domain), policy.record, policy.lines)
            for domain, policy in data.sts_policies.items()
        )
    )


SHOW: Final = Operation("mtasts.show", EmptyRequest, ConfiguredPolicies, Scope.LOCAL, _show)
