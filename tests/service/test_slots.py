"""Slots: who may be attempted, and who is next."""

from __future__ import annotations

from types import SimpleNamespace

from ironpost.routing.route import Route
from ironpost.service.slots import Slots, destination

HERE = destination(Route.local(), "local.example")
MX = Route.mx()


def message(name, size=10):
    return SimpleNamespace(id=name, body=SimpleNamespace(size=size))


def keys(*domains):
    return frozenset(destination(MX, domain) for domain in domains)


def names(found):
    return [each.id for each, _ in found]


def test_a_destination_has_its_share_and_all_together_have_theirs():
    slots = Slots(3, 2)
    assert [slots.take(keys("a")) for _ in range(3)] == [True, True, False]
    assert slots.take(keys("b"))
    assert not slots.take(keys("c")), "three leave already"
    assert all(slots.take(frozenset({HERE})) for _ in range(3))
    assert not slots.take(frozenset({HERE}))


def test_those_who_wait_get_the_slot_in_their_order():
    slots = Slots(10, 1)
    assert slots.take(keys("a"))
    for name in ("m1", "m2", "m3"):
        slots.wait(message(name), keys("a"))
    assert (slots.waiting, slots.octets) == (3, 30)
    assert names(slots.free(keys("a"))) == ["m1"]
    assert names(slots.free(keys("a"))) == ["m2"]
    assert (slots.waiting, slots.octets) == (1, 10)
    assert [each.id for each in slots.clear()] == ["m3"]
    assert (slots.waiting, slots.octets) == (0, 0)


def test_one_that_needs_two_destinations_waits_for_both():
    slots = Slots(10, 1)
    assert slots.take(keys("a"))
    assert slots.take(keys("b"))
    slots.wait(message("both"), keys("a", "b"))
    assert names(slots.free(keys("a"))) == []
    assert names(slots.free(keys("b"))) == ["both"]
    assert not slots.take(keys("a"))
    assert slots.free(keys("a", "b")) == []
    assert slots.take(keys("a", "b"))


def test_a_smart_host_is_one_destination_whatever_the_domain():
    hub = Route.smart(["hub.example"])
    assert destination(hub, "a.example") == destination(hub, "b.example")
    assert destination(MX, "a.example") != destination(MX, "b.example")
    assert destination(Route.on_demand(), "a.example") == HERE
