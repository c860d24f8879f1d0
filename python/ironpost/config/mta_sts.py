"""`[[mta_sts]]`: the MTA-STS policies of our own domains, which a listener with the role `http` serves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from ironpost.config.quantities import duration
from ironpost.config.values import Domain, Duration, Section, least
from ironpost.model.options import not_empty
from ironpost.routing.tls.mta_sts import MAX_AGE, mx_pattern, policy_domain


def _policy_domain(name: str) -> str:
    domain = policy_domain(name)
    if domain is None:
        raise ValueError(f"{name}: a policy needs a domain with a dot, of at most 240 octets")
    return domain


def _at_most_a_year(seconds: float) -> float:
    if seconds > MAX_AGE:
        raise ValueError("maximum: 365d (RFC 8461 §3.2)")
    return seconds


class MtaStsSection(Section):
    """`[[mta_sts]]`: the policy of some domains about the hosts that receive their mail (RFC 8461)."""

    domains: Annotated[tuple[Annotated[Domain, AfterValidator(_policy_domain)], ...], AfterValidator(not_empty)]
    """The domains."""
    mode: Literal["enforce", "testing", "none"] = "testing"
    """Whether others send mail only to these hosts and only with TLS (`enforce`), send it in any case and report what
    would have failed (`testing`), or forget an earlier policy (`none`)."""
    mx: tuple[Annotated[str, AfterValidator(mx_pattern)], ...] = ()
    """The names in the MX records, or `*.mail.example` for all names with one more label; default: `hostname`."""
    max_age: Annotated[Duration, least(duration, "1h"), AfterValidator(_at_most_a_year)] = 7 * 86400.0
    """How long others keep the policy."""
