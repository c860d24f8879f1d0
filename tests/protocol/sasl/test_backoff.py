"""Guessing gets slower, for the account and for the network, and owners are not locked out (SECURITY R53)."""

from __future__ import annotations

import pytest

from ironpost.protocol.sasl.backoff import Law, LoginBackoff, network_of

HOME, AWAY = "192.0.2.1", "203.0.113.9"
ACCOUNT = Law(free=2, first=1.0, longest=8.0, forget=100.0)
NETWORK = Law(free=4, first=1.0, longest=8.0, forget=100.0)


class Clock:
    """Time that stands still until it is set."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def backoff(clock: Clock, remembered: int = 100) -> LoginBackoff:
    return LoginBackoff(clock, account=ACCOUNT, network=NETWORK, remembered=remembered)


def guess(limit: LoginBackoff, account: str, ip: str) -> float:
    """One wrong password, if it may be tried; the seconds to wait otherwise."""
    wait = limit.admit(account, ip)
    if wait == 0.0:
        limit.failed(account, ip)
    return wait


def test_r53_the_wait_for_an_account_doubles_wherever_the_guesses_come_from() -> None:
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


def test_r53_the_wait_for_a_network_grows_whatever_the_accounts() -> None:
    clock = Clock()
    limit = backoff(clock)
    waits = [guess(limit, f"user{number}", AWAY) for number in range(6)]
    assert waits == [0.0] * 5 + [1.0]
    assert limit.admit("ada", HOME) == 0.0
    assert limit.admit("ada", "") == 0.0  # a Unix socket has no network


def test_r53_attempts_beside_one_another_count_as_one_after_the_other() -> None:
    clock = Clock()
    limit = backoff(clock)
    for _ in range(3):
        guess(limit, "ada", AWAY)
    clock.time += 1.0
    assert limit.admit("ada", "198.51.100.1") == 0.0
    assert limit.admit("ada", "198.51.100.2") == 1.0


def test_r53_the_owner_is_not_locked_out_by_the_guesses_of_others() -> None:
    clock = Clock()
    limit = backoff(clock)
    limit.succeeded("ada", HOME)
    for number in range(20):
        guess(limit, "ada", f"198.51.100.{number}")
    assert limit.admit("ada", "198.51.100.99") > 0.0
    assert limit.admit("ada", HOME) == 0.0
    # Nor is a guess from the owner's own network free.
    assert [guess(limit, "ada", HOME) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_a_success_forgets_the_account_but_not_the_network() -> None:
    clock = Clock()
    limit = backoff(clock)
    for _ in range(3):
        guess(limit, "ada", AWAY)
        clock.time += 1.0
    assert limit.admit("ada", AWAY) == 0.0
    limit.succeeded("ada", AWAY)
    assert limit.admit("ada", AWAY) == 0.0
    assert [guess(limit, f"user{number}", AWAY) for number in range(3)] == [0.0, 0.0, 1.0]


def test_what_was_long_ago_is_forgotten() -> None:
    clock = Clock()
    limit = backoff(clock)
    for _ in range(3):
        guess(limit, "ada", AWAY)
    clock.time += 101.0
    assert [guess(limit, "ada", AWAY) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_r53_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    limit = backoff(clock, remembered=10)
    for number in range(1000):
        limit.failed(f"user{number}", f"2001:db8:{number:x}::1")
        limit.succeeded(f"user{number}", f"2001:db8:{number:x}::1")
        limit.failed(f"eve{number}", f"2001:db8:{number:x}::1")
    sizes = [len(limit._accounts._entries), len(limit._networks._entries), len(limit._owners)]
    assert max(sizes) <= 10


def test_several_processes_share_what_they_see() -> None:
    clock = Clock()
    other = backoff(clock)

    def tell(account: str, ip: str, good: bool) -> None:
        (other.succeeded if good else other.failed)(account, ip, told=True)

    here = LoginBackoff(clock, account=ACCOUNT, network=NETWORK, tell=tell)
    for _ in range(3):
        guess(here, "ada", AWAY)
    assert other.admit("ada", HOME) == 1.0
    clock.time += 1.0
    here.succeeded("ada", HOME)
    assert other.admit("ada", HOME) == 0.0


@pytest.mark.parametrize(
    ("ip", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_what_counts_as_one_client(ip: str, network: str) -> None:
    assert network_of(ip) == network
