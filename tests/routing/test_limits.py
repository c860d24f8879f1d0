"""Which limits hold for which destinations."""

from __future__ import annotations

from ironpost.queue.concurrency import DestinationLimits
from ironpost.routing.limits import DeliveryLimits, LimitRule
from ironpost.routing.route import Route

LIMITS = DeliveryLimits(
    20,
    [
        LimitRule(("slow.example",), 1, 60.0),
        LimitRule(("*.example",), 5),
        LimitRule(("hub.invalid",), interval=2.0),
    ],
)


def test_the_first_rule_that_matches_the_domain_decides():
    assert LIMITS.of(Route.mx(), "slow.example") == DestinationLimits(1, 60.0)
    assert LIMITS.of(Route.mx(), "other.example") == DestinationLimits(5)
    assert LIMITS.of(Route.mx(), "elsewhere.test") == DestinationLimits(20)


def test_a_smart_host_is_limited_by_the_name_of_any_of_its_hosts():
    assert LIMITS.of(Route.smart(["hub.invalid"]), "") == DestinationLimits(20, 2.0)
    assert LIMITS.of(Route.smart(["first.test", "HUB.invalid:26"]), "") == DestinationLimits(20, 2.0)
    assert LIMITS.of(Route.smart(["first.test"]), "") == DestinationLimits(20)
