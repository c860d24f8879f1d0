"""The ledger of deliveries detects each kind of violation, and accepts what the documented windows allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

GOOD, BAD = "accepted.m1@mixed.example", "refused.m1@mixed.example"


@pytest.fixture
def ledger(accounts: ModuleType, deliveries: ModuleType) -> Any:
    """One message for two recipients: one was delivered by process 0, the other bounced."""
    made = deliveries.DeliveryLedger(ended=[100.0])
    made.sent["m1"] = accounts.Sent("m1", "digest", accounts.ACCEPTED, recipients=(GOOD, BAD))
    made.asks[GOOD] = [deliveries.Ask(0, 0, 10.0)]
    made.asks[BAD] = [deliveries.Ask(0, 0, 10.0)]
    made.copies[GOOD] = [accounts.Copy("digest", 0, 5, at=11.0)]
    made.bounces[BAD] = [deliveries.Bounce("<1@mx.example>", "77", 11.0)]
    made.events[GOOD] = [deliveries.Event("delivered", 12.0, 1)]
    made.events[BAD] = [deliveries.Event("failed", 12.0, 1)]
    made.logged = [deliveries.Logged(GOOD, "delivered", 9, 12.1)]
    return made


def found(ledger: Any, **options: Any) -> dict[str, list[str]]:
    return {kind: names for kind, names in ledger.violations(**options).items() if names}


def test_a_run_without_faults_has_no_violations(ledger: Any) -> None:
    assert found(ledger) == {}
    counts = ledger.counts()
    assert (counts["recipients"], counts["delivered"], counts["bounced"], counts["requests"]) == (2, 1, 1, 2)
    assert counts["in progress at an end"] == 0


def test_a_recipient_without_copy_or_bounce_is_lost(ledger: Any, accounts: ModuleType) -> None:
    ledger.bounces.clear()
    assert found(ledger) == {"lost": [BAD]}
    ledger.queued.add(BAD)
    assert found(ledger) == {}
    ledger.queued.clear()
    ledger.sent["m1"].reply = accounts.SILENT
    assert found(ledger) == {}


def test_a_refused_message_must_not_reach_a_remote_host(ledger: Any, accounts: ModuleType) -> None:
    ledger.sent["m1"].reply = accounts.REFUSED
    assert found(ledger) == {"refused and delivered": [GOOD, BAD]}


def test_altered_content_and_files_that_are_not_bounces_are_detected(ledger: Any, accounts: ModuleType) -> None:
    ledger.copies[GOOD] = [accounts.Copy("another", 0, 5, at=11.0)]
    ledger.unreadable.append("1700000000.M1P1R1.mx.example")
    assert found(ledger) == {"altered": ["1700000000.M1P1R1.mx.example", GOOD]}


def test_two_bounces_for_a_recipient_are_detected_and_two_copies_of_one_are_counted(
    ledger: Any, deliveries: ModuleType
) -> None:
    ledger.bounces[BAD].append(deliveries.Bounce("<1@mx.example>", "78", 12.0))
    assert found(ledger) == {}
    assert ledger.counts()["second copies of bounces"] == 1
    ledger.bounces[BAD][1] = deliveries.Bounce("<1@mx.example>", "77", 12.0)
    assert found(ledger) == {"bounced twice": [BAD]}, "by one process"
    ledger.bounces[BAD][1] = deliveries.Bounce("<1@mx.example>", "77", 101.0)
    assert found(ledger) == {}, "another worker ended before it recorded the first"
    ledger.bounces[BAD][1] = deliveries.Bounce("<2@mx.example>", "78", 12.0)
    assert found(ledger) == {"bounced twice": [BAD]}, "two different ones"


def test_a_bounce_for_a_recipient_that_was_delivered_or_never_refused_is_detected(
    ledger: Any, deliveries: ModuleType
) -> None:
    ledger.bounces[GOOD] = [deliveries.Bounce("<2@mx.example>", "77", 11.0)]
    ledger.events[GOOD].append(deliveries.Event("failed", 13.0, 1))
    assert found(ledger) == {
        "delivered and bounced": [GOOD], "bounced without a reason": [GOOD], "final twice": [GOOD],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answered", "second_epoch", "recorded_at", "window"),
    [
        (True, 1, 110.0, "kill"),
        (True, 1, 12.0, "unexplained"),  # the first process had recorded it
        (True, 0, 110.0, "unexplained"),  # the process had not ended
        (False, 0, 12.0, "lost reply"),
        (False, 1, 110.0, "lost reply"),
    ],
)
def test_a_second_copy_is_counted_by_its_window(
    ledger: Any, accounts: ModuleType, deliveries: ModuleType,
    answered: bool, second_epoch: int, recorded_at: float, window: str,
) -> None:  # fmt: skip
    ledger.copies[GOOD] = [
        accounts.Copy("digest", 0, 5, answered, at=11.0),
        accounts.Copy("digest", second_epoch, 9, at=105.0),
    ]
    ledger.events[GOOD] = [deliveries.Event("delivered", recorded_at, 1)]
    ledger.logged.clear()
    assert {name: names for name, names in ledger.duplicates().items() if names} == {window: [GOOD]}
    assert found(ledger) == ({"second copy without a reason": [GOOD]} if window == "unexplained" else {})
    assert ledger.counts()["second copies: kill"] <= ledger.counts()["in progress at an end"]
    assert not any(ledger.duplicates(since=2).values())


def test_an_attempt_counts_only_if_a_host_was_asked(ledger: Any, deliveries: ModuleType) -> None:
    ledger.events[GOOD] = [deliveries.Event("deferred", 11.0, 1), deliveries.Event("delivered", 12.0, 2)]
    assert found(ledger) == {"attempt without a request": [GOOD]}


def test_a_result_that_was_logged_must_be_in_the_database(ledger: Any, deliveries: ModuleType) -> None:
    ledger.events[GOOD] = [deliveries.Event("delivered", 50.0, 1)]  # of a later process
    assert found(ledger) == {"logged and not recorded": [GOOD]}
    assert found(ledger, until=8) == {}, "logged after the power cut"


def test_bounces_are_read_from_a_maildir(ledger: Any, tmp_path: Any) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1700000000.M000001P77R1.mx.example").write_text(
        "Return-Path: <>\nMessage-ID: <a@mx.example>\n\nFinal-Recipient: rfc822; refused.m2@mixed.example\n"
        "Action: failed\n\nFinal-Recipient: rfc822; late-refused.m2@late.example\nAction: failed\n"
    )
    ledger.read_maildir(tmp_path)
    (tmp_path / "new" / "1700000000.M000002P77R2.mx.example").write_text("")
    ledger.read_maildir(tmp_path)
    assert [len(ledger.bounces[f"{name}.m2@{name_of}"]) for name, name_of in
            (("refused", "mixed.example"), ("late-refused", "late.example"))] == [1, 1]  # fmt: skip
    assert ledger.unreadable == ["1700000000.M000002P77R2.mx.example"]
