"""The order of exchangers (RFC 5321 §5.1, RFC 7505 §3)."""

from __future__ import annotations

from ironpost.model.dns import MX
from ironpost.routing.mx import order


class Reversing:
    """A `Random` whose shuffle is known."""

    def uniform(self, low: float, high: float) -> float:
        return low

    def shuffle(self, items: list[str]) -> None:
        items.reverse()

    def token(self) -> str:
        return "t"


def test_lower_preference_first_and_equal_ones_shuffled() -> None:
    records = [MX(20, "c.example"), MX(10, "a.example"), MX(10, "b.example"), MX(5, "z.example")]
    assert order(records, Reversing()).hosts == ("z.example", "b.example", "a.example", "c.example")


def test_the_null_mx() -> None:
    found = order([MX(0, "")], Reversing())
    assert found.null
    assert found.hosts == ()
    assert not found.loop


def test_a_null_mx_next_to_others_is_ignored() -> None:
    found = order([MX(0, ""), MX(10, "a.example")], Reversing())
    assert found.hosts == ("a.example",)
    assert not found.null
    assert found.reasons == ("ignored a null MX next to other records",)


def test_exchangers_from_our_own_preference_on_are_omitted() -> None:
    records = [MX(10, "a.example"), MX(20, "b.example"), MX(20, "Us.example"), MX(30, "c.example")]
    found = order(records, Reversing(), {"us.example"})
    assert found.hosts == ("a.example",)
    assert not found.loop
    assert "Us.example (preference 20) is this system" in found.reasons[0]


def test_being_the_best_exchanger_is_a_loop() -> None:
    found = order([MX(10, "us.example"), MX(20, "b.example")], Reversing(), {"us.example"})
    assert found.loop
    assert found.hosts == ()


def test_a_host_named_twice_is_tried_once() -> None:
    assert order([MX(10, "a.example"), MX(20, "a.example")], Reversing()).hosts == ("a.example",)
