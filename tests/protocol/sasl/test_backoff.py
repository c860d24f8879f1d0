"""Back-off after failed logins, by account and network; owners are not locked out (SECURITY R53)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ironpost.model.keyed_state import Change, MemoryState
from ironpost.protocol.sasl.backoff import NAMESPACES, REMEMBERED, BackoffPolicy, LoginBackoff

HOME, AWAY = "192.0.2.1", "203.0.113.9"
ACCOUNT = BackoffPolicy(free=2, first=1.0, longest=8.0, forget=100.0)
NETWORK = BackoffPolicy(free=4, first=1.0, longest=8.0, forget=100.0)


class Clock:
    """A clock that moves only when it is set."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time


def backoff(clock: Clock, state: MemoryState | None = None) -> LoginBackoff:
    state = state or MemoryState(NAMESPACES, clock.now)
    return LoginBackoff(state, account=ACCOUNT, network=NETWORK)


def guess(limit: LoginBackoff, account: str, ip: str) -> float:
    """Try a wrong password; return the seconds to wait if it was not admitted."""
    wait = limit.admit(account, ip)
    if wait == 0.0:
        limit.failed(account, ip)
    return wait


def test_r53_the_delay_of_an_account_doubles_whatever_the_network() -> None:
    clock = Clock()
    limit = backoff(clock)
    for number in range(2):
        assert guess(limit, "ada", f"198.51.100.{number}") == 0.0
    waits = []
    for number in range(2, 8):
        assert guess(limit, "ada", f"198.51.100.{number}") == 0.0
        waits.append(limit.admit("ada", HOME))
        clock.time += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert limit.admit("bob", HOME) == 0.0


def test_r53_the_delay_of_a_network_grows_whatever_the_accounts() -> None:
    clock = Clock()
    limit = backoff(clock)
    waits = [guess(limit, f"user{number}", AWAY) for number in range(6)]
    assert waits == [0.0] * 5 + [1.0]
    assert limit.admit("ada", HOME) == 0.0
    assert limit.admit("ada", "") == 0.0  # a Unix socket has no network


def test_r53_concurrent_attempts_count_like_consecutive_ones() -> None:
    clock = Clock()
    limit = backoff(clock)
    for _ in range(3):
        guess(limit, "ada", AWAY)
    clock.time += 1.0
    assert limit.admit("ada", "198.51.100.1") == 0.0
    assert limit.admit("ada", "198.51.100.2") == 2.0, "as if the attempt that is pending had failed"


def test_r53_failures_elsewhere_do_not_lock_out_the_owner() -> None:
    clock = Clock()
    limit = backoff(clock)
    limit.succeeded("ada", HOME)
    for number in range(20):
        guess(limit, "ada", f"198.51.100.{number}")
    assert limit.admit("ada", "198.51.100.99") > 0.0
    assert limit.admit("ada", HOME) == 0.0
    # Failures from the owner's network are delayed, too.
    assert [guess(limit, "ada", HOME) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_a_success_clears_the_failures_of_the_account_only() -> None:
    clock = Clock()
    limit = backoff(clock)
    for _ in range(3):
        guess(limit, "ada", AWAY)
        clock.time += 1.0
    assert limit.admit("ada", AWAY) == 0.0
    limit.succeeded("ada", AWAY)
    assert limit.admit("ada", AWAY) == 0.0
    assert [guess(limit, f"user{number}", AWAY) for number in range(3)] == [0.0, 0.0, 1.0]


def test_old_failures_are_forgotten() -> None:
    clock = Clock()
    limit = backoff(clock)
    for _ in range(3):
        guess(limit, "ada", AWAY)
    clock.time += 101.0
    assert [guess(limit, "ada", AWAY) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_r53_the_number_of_entries_is_bounded() -> None:
    assert {each.max_entries for each in NAMESPACES} == {REMEMBERED}
    state = MemoryState([replace(each, max_entries=10) for each in NAMESPACES], Clock().now)
    limit = backoff(Clock(), state)
    for number in range(1000):
        limit.failed(f"user{number}", f"2001:db8:{number:x}::1")
        limit.succeeded(f"user{number}", f"2001:db8:{number:x}::1")
        for _ in range(3):
            limit.failed(f"eve{number}", f"2001:db8:{number:x}::1")
    assert [each.entries for each in state.usage()] == [10] * 4


def test_r53_the_state_holds_no_names_or_addresses() -> None:
    changes: list[Change] = []
    limit = backoff(Clock(), MemoryState(NAMESPACES, Clock().now, changed=lambda change, _: changes.append(change)))
    for _ in range(3):
        guess(limit, "ada", AWAY)
    limit.succeeded("ada", AWAY)
    assert {each.namespace for each in changes} == {"login-accounts", "login-networks", "login-delays", "login-owners"}
    assert all(len(each.key) == 16 for each in changes)
    assert not any(word in repr(changes) for word in ("ada", AWAY))


@pytest.mark.parametrize("other", ["::ffff:192.0.2.1", "192.0.2.1"])
def test_an_ipv4_client_is_one_client_in_both_notations(other: str) -> None:
    limit = backoff(Clock())
    for number in range(NETWORK.free + 1):
        guess(limit, f"user{number}", "192.0.2.1")
    assert limit.admit("someone", other) > 0.0
    assert limit.admit("someone", "192.0.2.2") == 0.0
