"""The suite sees what is wrong: a server that is right passes every MUST, and for each way of being wrong the cases
fail that are about it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ironpost.conform import Outcome, Profile, Target, Unusable, exit_code

if TYPE_CHECKING:
    from pathlib import Path

MX = Target("127.0.0.1", 1, timeout=2.0)
LMTP = Target("127.0.0.1", 1, Profile.LMTP, timeout=2.0)
TLS = Target("localhost", 1, insecure=True, timeout=2.0)
SUBMISSION = Target("127.0.0.1", 1, Profile.SUBMISSION, timeout=2.0)


def wrong(results):
    """What fails, warns or does not come to its question, with the reason."""
    return {
        name: result.why
        for name, result in results.items()
        if result.outcome in {Outcome.FAIL, Outcome.ERROR, Outcome.WARN}
    }


@pytest.mark.parametrize("target", [MX, LMTP], ids=["mx", "lmtp"])
def test_a_right_server_passes(against_scripted, target):
    results = against_scripted(target, lmtp=target is LMTP)
    broken = {name: result.why for name, result in results.items() if result.wrong}
    assert broken == {}
    assert exit_code(results.values()) == 0
    assert sum(result.outcome is Outcome.PASS for result in results.values()) > 350


def test_a_right_server_passes_with_tls_and_auth(against_scripted, context):
    results = against_scripted(TLS, patterns=["starttls", "auth"], context=context, auth=True)
    assert {name: result.why for name, result in results.items() if result.wrong} == {}
    assert sum(result.outcome is Outcome.PASS for result in results.values()) > 50


SEEN = {
    "LF.LF ends content": (MX, ["framing"], ["rfc5321-4.1.1.4-lf.lf-is-no-end", "rfc5321-4.1.1.4-lf.lf-is-no-end-cut"]),
    "CRLF.LF ends content": (MX, ["framing"], ["rfc5321-4.1.1.4-crlf.lf-is-no-end"]),
    "LF ends a command": (
        MX,
        ["framing"],
        [
            "rfc5321-2.3.8-lf-ends-no-command",
            "rfc5321-2.3.8-lone-lf-is-not-answered",
            "rfc5321-2.3.8-lf-in-a-path-adds-no-recipient",
        ],
    ),
    "answers 250 to everything": (
        MX,
        ["syntax", "sequence", "parameters"],
        [
            "rfc5321-4.2.4-unknown-verb",
            "rfc5321-3.3-rcpt-without-mail",
            "rfc5321-3.3-data-without-rcpt",
            "rfc5321-4.1.1.11-mail-unknown",
            "rfc5321-4.1.1.11-rcpt-unknown",
        ],
    ),
    "forgets RSET": (
        MX,
        ["sequence", "bdat"],
        ["rfc5321-4.1.1.5-rset-forgets-the-sender", "rfc5321-4.1.1.5-rset-forgets-the-recipients"],
    ),
    "EHLO keeps the transaction": (MX, ["sequence"], ["rfc5321-4.1.4-ehlo-forgets-the-sender"]),
    "RCPT needs no MAIL": (
        MX,
        ["sequence"],
        ["rfc5321-3.3-rcpt-without-mail", "rfc5321-4.1.1.4-data-ends-the-transaction"],
    ),
    "closes at the first error": (MX, ["session"], ["rfc5321-4.1.1.10-open-after-an-error"]),
    "knows every parameter": (
        MX,
        ["parameters"],
        [
            "rfc5321-4.1.1.11-mail-unknown",
            "rfc5321-4.1.1.11-rcpt-unknown",
            "rfc5321-4.1.1.11-mail-smtputf8-not-offered",
        ],
    ),
    "reads chunks as commands when it refuses them": (
        MX,
        ["bdat"],
        ["rfc3030-2-chunk-before-mail-is-consumed", "rfc3030-2-chunk-before-rcpt-is-consumed"],
    ),
    "scans chunks for dots": (MX, ["bdat"], ["rfc3030-2-verbs-in-a-chunk", "rfc3030-2-dot-line"]),
    "one reply for all recipients": (LMTP, ["lmtp"], ["rfc2033-4.2-two-recipients", "rfc2033-4.3-bdat-last"]),
    "answers EHLO in LMTP": (LMTP, ["lmtp"], ["rfc2033-4.1-ehlo"]),
    "code without text of its class": (MX, ["replies"], ["rfc2034-4-unknown-verb", "rfc2034-4-bad-sequence"]),
    "ends replies with LF": (MX, ["session"], []),
    "answers QUIT twice": (MX, ["session"], ["rfc5321-4.1.1.10-quit-after-ehlo"]),
    "keeps QUIT open": (MX, ["rfc5321-4.1.1.10-quit-after-rcpt"], ["rfc5321-4.1.1.10-quit-after-rcpt"]),
    "listens behind QUIT": (MX, ["nothing-behind-quit"], ["rfc5321-4.1.1.10-nothing-behind-quit"]),
    "takes any size": (MX, ["size"], ["rfc1870-6.1-beyond-the-maximum"]),
    "is case-sensitive": (MX, ["syntax", "bdat"], ["rfc5321-2.4-mail-in-any-case", "rfc3030-2-any-case"]),
    "accepts cut content": (MX, ["framing"], ["rfc5321-4.1.1.10-end-of-stream-in-content"]),
    "takes ten recipients": (MX, ["limits"], ["rfc5321-4.5.3.1.8-100-recipients"]),
    "loses pipelined commands": (
        MX,
        ["rfc2920-3.1"],
        ["rfc2920-3.1-envelope-and-data", "rfc2920-3.1-quit-at-the-end"],
    ),
    "executes NOOP that is too long": (MX, ["limits"], ["rfc5321-4.5.3.1.9-one-answer-to-a-long-line"]),
    "says 535 to the star": (SUBMISSION, ["auth"], ["rfc4954-4-plain-cancelled", "rfc4954-4-login-cancelled"]),
    "takes bad base64": (
        SUBMISSION,
        ["auth"],
        ["rfc4954-4-plain-bad-base64-star", "rfc4954-4-plain-bad-base64-pad-first", "rfc4954-4-login-bad-base64"],
    ),
    "lets everybody in": (SUBMISSION, ["auth"], ["rfc4954-4-wrong-password", "rfc4954-4-plain-malformed-no-nul"]),
    "executes what stands behind STARTTLS": (
        TLS,
        ["starttls"],
        ["rfc3207-6-injected-noop", "rfc3207-6-injected-mail", "rfc3207-6-injected-half-is-not-prepended"],
    ),
    "offers nonsense": (
        MX,
        ["extensions", "handling", "size", "bdat"],
        [
            "rfc5321-4.1.1.1-keywords",
            "rfc1870-4-size-line",
            "rfc4865-3-futurerelease-line",
            "rfc2852-2-deliverby-line",
            "rfc4865-4.2-not-for-relay",
            "rfc4865-4.2-holdfor",
        ],
    ),
    "an enhanced code behind 354": (MX, ["replies"], ["rfc2034-4-data"]),
    "takes twenty recipients and forgets them": (MX, ["limits"], ["rfc5321-4.5.3.1.10-too-many-recipients"]),
    "offers STARTTLS again": (TLS, ["starttls"], ["rfc3207-4.2-not-offered-again"]),
}


@pytest.mark.parametrize("flaw", sorted(set(SEEN) - {"ends replies with LF"}))
def test_a_flaw_is_seen(against_scripted, context, flaw):
    target, patterns, expected = SEEN[flaw]
    options = {"lmtp": target is LMTP, "auth": target is SUBMISSION, "context": context if target is TLS else None}
    results = against_scripted(target, {flaw}, patterns, **options)
    seen = wrong(results)
    assert set(expected) <= set(seen), seen
    without = wrong(against_scripted(target, (), patterns, **options))
    assert set(expected).isdisjoint(without), without


def test_replies_that_end_with_lf_leave_nothing_to_test(against_scripted):
    with pytest.raises(Unusable, match="no session"):
        against_scripted(MX, {"ends replies with LF"}, ["session"])


def test_a_certificate_that_is_not_trusted_makes_no_judgement(against_scripted, context):
    flaw = {"executes what stands behind STARTTLS"}
    results = against_scripted(
        replace(TLS, insecure=False), flaw, ["rfc3207-6-*", "rfc3207-4-handshake"], context=context
    )
    assert {result.outcome for result in results.values()} == {Outcome.NOT_APPLICABLE}
    assert "--insecure" in results["rfc3207-4-handshake"].why
    with pytest.raises(Unusable, match="--insecure"):
        against_scripted(replace(TLS, insecure=False, starttls=True), (), ["session"], context=context)


def test_dots_that_stay_are_seen_where_messages_can_be_read(against_scripted, tmp_path: Path):
    class Folder(list):
        def append(self, content):
            super().append(content)
            (tmp_path / str(len(self))).write_bytes(content)

    target = Target("127.0.0.1", 1, maildir=tmp_path, timeout=1.0)
    patterns = ["stuffed", "three-dots"]
    seen = wrong(against_scripted(target, {"dots stay stuffed"}, patterns, messages=Folder()))
    assert {"rfc5321-4.5.2-stuffed-dot", "rfc5321-4.5.2-three-dots"} <= set(seen)
    assert wrong(against_scripted(target, (), patterns, messages=Folder())) == {}


def test_f80_a_message_that_rset_delivers_is_seen(against_scripted, tmp_path: Path):
    class Folder(list):
        def append(self, content):
            super().append(content)
            (tmp_path / str(len(self))).write_bytes(content)

    target = Target("127.0.0.1", 1, maildir=tmp_path, timeout=1.0)
    seen = wrong(against_scripted(target, {"RSET delivers"}, ["rset-delivers-nothing"], messages=Folder()))
    assert set(seen) == {"rfc5321-4.1.1.5-rset-delivers-nothing"}
    assert wrong(against_scripted(target, (), ["rset-delivers-nothing"], messages=Folder())) == {}


def test_every_flaw_is_tried(flaws):
    assert flaws == set(SEEN) | {"dots stay stuffed", "RSET delivers"}
