"""MT-PRIORITY: how urgent a message is (RFC 6710)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import converse, mail, offers, open_session, settings

from ironpost.protocol.extensions import with_options
from ironpost.protocol.extensions.mt_priority import MtPriority
from ironpost.protocol.server.transaction import Identity


def test_it_is_offered_if_claimed_and_names_its_policy() -> None:
    assert "MT-PRIORITY" in offers(open_session())
    assert "MT-PRIORITY MIXER" in offers(open_session(settings(extensions=with_options(MtPriority("MIXER")))))
    assert mail(open_session(settings(claims=frozenset())), "MT-PRIORITY=1").startswith("555 5.5.4")
    with pytest.raises(ValueError, match=r"MtPriority\.policy"):
        MtPriority("two words")


@pytest.mark.parametrize("value", ["MT-PRIORITY", "MT-PRIORITY=10", "MT-PRIORITY=+3", "MT-PRIORITY=1 MT-PRIORITY=2"])
def test_an_invalid_value_is_501(value: str) -> None:  # RFC 6710 §4.1
    assert mail(open_session(), value).startswith("501 5.5.4")


@pytest.mark.parametrize(("asked", "anonymous"), [("9", 0), ("1", 0), ("0", 0), ("-3", -3), ("-9", -9)])
def test_a_priority_above_0_requires_authentication(asked: str, anonymous: int) -> None:  # RFC 6710 §4.1
    session = open_session()
    assert mail(session, f"MT-PRIORITY={asked}").startswith("250")
    assert session.transaction is not None
    assert session.transaction.parameters == {"MT-PRIORITY": anonymous}
    session.identity = Identity("ada", "PLAIN")
    assert mail(session, f"MT-PRIORITY={asked}").startswith("250")
    assert session.transaction.parameters == {"MT-PRIORITY": int(asked)}


def test_it_is_sent_to_a_next_hop_with_the_extension_only() -> None:  # RFC 6710 §4.2, §4.3
    _, kept, said = converse(settings(), {"MT-PRIORITY": -3})
    assert " MT-PRIORITY=-3" in said
    assert kept.envelopes[0][0]["MT-PRIORITY"] == -3
    outcomes, _, said = converse(settings(claims=frozenset()), {"MT-PRIORITY": -3})
    assert outcomes[0].code == 250
    assert "MT-PRIORITY" not in said
