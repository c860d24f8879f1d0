"""FUTURERELEASE: submitted now, sent later (RFC 4865)."""

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
from ironpost.protocol.extensions import not_before, with_options
from ironpost.protocol.extensions.future_release import FutureRelease
from ironpost.protocol.server.settings import ServerSettings

DAY = 24 * 3600


def submission(clock: Clock | None = None, **options: object) -> ServerSettings:
    return settings(clock, dialect=SUBMISSION_FOR_ALL, extensions=with_options(FutureRelease(DAY)), **options)


def test_it_is_offered_on_submission_if_claimed_and_with_a_clock() -> None:  # RFC 4865 §4.2 (2)
    assert "FUTURERELEASE 86400 2025-11-26T07:00:00Z" in offers(open_session(submission()))
    lmtp = settings(dialect=LMTP._replace(hello=frozenset({"EHLO"})))
    clockless = ServerSettings(dialect=SUBMISSION_FOR_ALL, claims=frozenset({"FUTURERELEASE"}))
    for without in (settings(), lmtp, clockless, submission(claims=frozenset())):
        session = open_session(without)
        assert not any(line.startswith("FUTURERELEASE") for line in offers(session))
        assert mail(session, "HOLDFOR=60").startswith("555 5.5.4")


def test_the_announced_maximum_moves_hourly_and_is_always_accepted() -> None:
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


def test_an_interval_is_stored_with_its_point_in_time() -> None:
    clock = Clock()
    clock.time = NOW + 0.5
    session = open_session(submission(clock))
    assert mail(session, "HOLDFOR=86400").startswith("250")
    assert session.transaction is not None
    parameters = session.transaction.parameters
    assert parameters == {"HOLDFOR": DAY, "HOLDUNTIL": HoldUntil(int(NOW) + 1 + DAY)}  # never earlier than requested
    assert not_before(parameters) == NOW + 1 + DAY


def test_a_point_in_time_is_stored_unchanged() -> None:
    session = open_session(submission())
    assert mail(session, "HOLDUNTIL=2025-11-25T12:00:00Z").startswith("250")
    assert session.transaction is not None
    assert moment_text(not_before(session.transaction.parameters) or 0) == "2025-11-25T12:00:00Z"


def test_a_time_in_the_past_is_not_an_error() -> None:
    assert mail(open_session(submission()), "HOLDUNTIL=2020-01-01T00:00:00Z").startswith("250")
    assert not_before({}) is None


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
def test_an_invalid_or_unacceptable_time_is_501(parameters: str) -> None:  # RFC 4865 §4.2 (7) to (11)
    session = open_session(submission())
    assert mail(session, parameters).startswith("501 5.5.4")
    assert session.transaction is None
    assert mail(session, "HOLDFOR=600 BY=600;R").startswith("250")


def test_our_client_sends_the_time_to_a_server_with_the_extension() -> None:
    hold = HoldUntil(int(NOW) + 3600)
    outcomes, kept, said = converse(submission(), {"HOLDUNTIL": hold, "HOLDFOR": 3600})
    assert outcomes[0].code == 250
    assert " HOLDUNTIL=2025-11-25T08:10:00Z" in said
    assert "HOLDFOR" not in said
    assert kept.envelopes[0][0]["HOLDUNTIL"] == hold


@pytest.mark.parametrize(
    ("chosen", "until"), [(settings(), NOW + 60), (submission(), NOW + 2 * DAY)], ids=["no extension", "too long"]
)
def test_the_message_is_not_sent_to_a_server_that_would_not_hold_it(
    chosen: ServerSettings, until: float
) -> None:  # RFC 4865 §4.1
    outcomes, _, said = converse(chosen, {"HOLDUNTIL": HoldUntil(int(until))})
    assert outcomes == [replies.PEER_LACKS_FUTURERELEASE]
    assert "MAIL" not in said


@pytest.mark.parametrize("chosen", [settings(), submission()])
def test_a_time_in_the_past_is_not_sent(chosen: ServerSettings) -> None:
    outcomes, _, said = converse(chosen, {"HOLDUNTIL": HoldUntil(int(NOW)), "HOLDFOR": 60})
    assert outcomes[0].code == 250
    assert "HOLD" not in said
