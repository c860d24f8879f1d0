"""The TLS policies of outbound mail, consulted for each recipient domain and each host.

To add a policy: a module with a subclass of `TlsPolicy`, and one line in `tls_policies`. `policy.py` has the interface
and how answers are combined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.routing.tls.dane import Dane
from ironpost.routing.tls.levels import MxLevel, TlsUse
from ironpost.routing.tls.local import LocalRules, TlsRule
from ironpost.routing.tls.mta_sts import MtaSts
from ironpost.routing.tls.policy import Dnssec, MxHost, Refusal, Requirement, TlsPolicies, TlsPolicy
from ironpost.routing.tls.requiretls import RequireTls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.routing.tls.mta_sts import StsPolicies

__all__ = [
    "Dane",
    "Dnssec",
    "MxHost",
    "MxLevel",
    "Refusal",
    "Requirement",
    "TlsPolicies",
    "TlsPolicy",
    "TlsRule",
    "TlsUse",
    "tls_policies",
]


def tls_policies(
    rules: Sequence[TlsRule] = (), *, dane: Dane | None = None, sts: StsPolicies | None = None
) -> TlsPolicies:
    """The registry: every policy, in the order of consultation. DANE precedes MTA-STS (SECURITY R36).

    Args:
        rules: local rules; the first that matches a domain decides.
        dane: looks TLSA records up; None if DANE is not used.
        sts: finds MTA-STS policies; None if MTA-STS is not used.
    """
    return TlsPolicies(
        policy
        for policy in (
            LocalRules(rules),
            RequireTls(),
            dane,
            None if sts is None else MtaSts(sts),
        )
        if policy is not None
    )
