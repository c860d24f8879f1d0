"""FUTURERELEASE: submitted now, to leave later (RFC 4865)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import (
    NOW,
    SUBMISSION_FOR_ALL,
    Clock,
    converse,
    mail,
    offers,
    open_session,
    settings,
)

from ironpost.model.parameters import HoldUntil, moment_text
from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.extensions.future_release import release_time
from ironpost.protocol.settings import Settings

DAY = 24 * 3600


def submission(clock: Clock | None = None, **options: object) -> Settings:
    return settings(clock, dialect=SUBMISSION_FOR_ALL, max_hold=DAY, **options)


def test_it_exists_on_submission_only_claimed_and_with_a_clock() -> None:  # RFC 4865 §4.2 (2)
    assert "FUTURERELEASE 86400 2025-11-26T07:00:00Z" in offers(open_session(submission()))
    lmtp = settings(dialect=LMTP._replace(hello=frozenset({"EHLO"})))
    clockless = Settings(dialect=SUBMISSION_FOR_ALL, claims=frozenset({"FUTURERELEASE"}))
    for without in (settings(), lmtp, clockless, submission(claims=frozenset())):
        session = open_session(without)
        assert not any(line.startswith("FUTURERELEASE") for line in offers(session))
        assert mail(session, "HOLDFOR=60").startswith("555 5.5.4")


def test_the_latest_moment_moves_with_the_hours_and_is_always_taken() -> None:
    clock = Clock()
    session = open_session(submission(clock))
    shown = set()
    for _ in range(100):
        (line,) = [line for line in offers(session) if line.startswith("FUTURERELEASE")]
        latest = line.split(" ")[2]
        shown.add(latest)
        assert mail(session, f"HOLDUNTIL={latest}").startswith("250")
        clock.time += 1800
    assert len(shown) == 50
    assert len(session.settings._ehlo_replies) <= 16


def test_an_interval_becomes_a_moment_and_stands_beside_it() -> None:
    clock = Clock()
    clock.time = NOW + 0.5
    session = open_session(submission(clock))
    assert mail(session, "HOLDFOR=86400").startswith("250")
    assert session.transaction is not None
    parameters = session.transaction.parameters
    assert parameters == {"HOLDFOR": DAY, "HOLDUNTIL": HoldUntil(int(NOW) + 1 + DAY)}  # never earlier than asked
    assert release_time(parameters) == NOW + 1 + DAY


def test_a_moment_is_kept_as_it_is() -> None:
    session = open_session(submission())
    assert mail(session, "HOLDUNTIL=2025-11-25T12:00:00Z").startswith("250")
    assert session.transaction is not None
    assert moment_text(release_time(session.transaction.parameters) or 0) == "2025-11-25T12:00:00Z"


def test_a_moment_that_is_over_is_no_error() -> None:
    assert mail(open_session(submission()), "HOLDUNTIL=2020-01-01T00:00:00Z").startswith("250")
    assert release_time({}) is None


@pytest.mark.parametrize(
    "parameters",
    [
        "HOLDFOR",
        "HOLDFOR=0",
        "HOLDFOR=86401",
        "HOLDUNTIL",
        "HOLDUNTIL=2025-11-26T07:10:01Z",
        "HOLDUNTIL=2025-11-25T12:00:00+01:00",
        "HOLDUNTIL=tomorrow",
        "HOLDFOR=60 HOLDUNTIL=2025-11-25T12:00:00Z",
        "HOLDUNTIL=2025-11-25T12:00:00Z HOLDFOR=60",
        "HOLDFOR=60 HOLDFOR=60",
        # RFC 4865 §5.2.2: released when it should have been delivered
        "HOLDFOR=600 BY=300;R",
        "BY=300;N HOLDFOR=600",
        "BY=300;R HOLDUNTIL=2025-11-25T12:00:00Z",
    ],
)
def test_what_cannot_be_kept_is_501(parameters: str) -> None:  # RFC 4865 §4.2 (7) to (11)
    session = open_session(submission())
    assert mail(session, parameters).startswith("501 5.5.4")
    assert session.transaction is None
    assert mail(session, "HOLDFOR=600 BY=600;R").startswith("250")


def test_our_client_hands_a_moment_to_a_server_that_waits_for_it() -> None:
    hold = HoldUntil(int(NOW) + 3600)
    outcomes, kept, said = converse(submission(), {"HOLDUNTIL": hold, "HOLDFOR": 3600})
    assert outcomes[0].code == 250
    assert " HOLDUNTIL=2025-11-25T08:10:00Z" in said
    assert "HOLDFOR" not in said
    assert kept.envelopes[0][0]["HOLDUNTIL"] == hold


@pytest.mark.parametrize(
    ("chosen", "until"), [(settings(), NOW + 60), (submission(), NOW + 2 * DAY)], ids=["no extension", "too long"]
)
def test_a_server_that_would_not_wait_does_not_get_it(chosen: Settings, until: float) -> None:  # RFC 4865 §4.1
    outcomes, _, said = converse(chosen, {"HOLDUNTIL": HoldUntil(int(until))})
    assert outcomes == [replies.PEER_LACKS_FUTURERELEASE]
    assert "MAIL" not in said


@pytest.mark.parametrize("chosen", [settings(), submission()])
def test_a_moment_that_has_come_is_nobodys_business(chosen: Settings) -> None:
    outcomes, _, said = converse(chosen, {"HOLDUNTIL": HoldUntil(int(NOW)), "HOLDFOR": 60})
    assert outcomes[0].code == 250
    assert "HOLD" not in said
