"""MT-PRIORITY: how urgent a message is (RFC 6710)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import converse, mail, offers, open_session, settings

from ironpost.protocol.settings import Settings
from ironpost.protocol.transaction import Identity


def test_it_exists_where_it_is_claimed_and_names_its_policy() -> None:
    assert "MT-PRIORITY" in offers(open_session())
    assert "MT-PRIORITY MIXER" in offers(open_session(settings(priority_policy="MIXER")))
    assert mail(open_session(settings(claims=frozenset())), "MT-PRIORITY=1").startswith("555 5.5.4")
    with pytest.raises(ValueError, match="priority_policy"):
        Settings(priority_policy="two words")


@pytest.mark.parametrize("value", ["MT-PRIORITY", "MT-PRIORITY=10", "MT-PRIORITY=+3", "MT-PRIORITY=1 MT-PRIORITY=2"])
def test_a_bad_value_is_501(value: str) -> None:  # RFC 6710 §4.1
    assert mail(open_session(), value).startswith("501 5.5.4")


@pytest.mark.parametrize(("asked", "anonymous"), [("9", 0), ("1", 0), ("0", 0), ("-3", -3), ("-9", -9)])
def test_who_does_not_say_who_they_are_is_not_urgent(asked: str, anonymous: int) -> None:  # RFC 6710 §4.1
    session = open_session()
    assert mail(session, f"MT-PRIORITY={asked}").startswith("250")
    assert session.transaction is not None
    assert session.transaction.parameters == {"MT-PRIORITY": anonymous}
    session.identity = Identity("ada", "PLAIN")
    assert mail(session, f"MT-PRIORITY={asked}").startswith("250")
    assert session.transaction.parameters == {"MT-PRIORITY": int(asked)}


def test_it_is_handed_on_where_it_is_known_and_dropped_where_it_is_not() -> None:  # RFC 6710 §4.2, §4.3
    _, kept, said = converse(settings(), {"MT-PRIORITY": -3})
    assert " MT-PRIORITY=-3" in said
    assert kept.envelopes[0][0]["MT-PRIORITY"] == -3
    outcomes, _, said = converse(settings(claims=frozenset()), {"MT-PRIORITY": -3})
    assert outcomes[0].code == 250
    assert "MT-PRIORITY" not in said
