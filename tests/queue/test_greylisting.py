"""Which replies are greylisting. The texts are those that common implementations send."""

from __future__ import annotations

import pytest

from ironpost.queue.greylisting import greylisted


@pytest.mark.parametrize(
    "reply",
    [
        "450 4.2.0 <to@b.example>: Recipient address rejected: Greylisted, see http://postgrey.example/help/b.example.html",
        "450 4.7.1 <to@b.example>: Recipient address rejected: Greylisting in effect, please come back later",
        "451 4.7.1 Greylisting in action, please come back in 00:05:00",
        "451 4.7.1 Try again later",
        "450 4.7.1 Please try again in 300 seconds",
        "451 Graylisted - please try again later",
        "421 4.7.0 Grey-listed, please try again later",
    ],
)
def test_greylisting_is_recognised(reply: str) -> None:
    assert greylisted(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "250 2.0.0 Greylisting passed",
        "550 5.7.1 Greylisted permanently",
        "451 4.3.0 Try again later",
        "452 4.2.2 Mailbox full",
        "451 4.7.1 Rejected by policy",
        "421 4.3.2 Service not available, try again later",
    ],
)
def test_other_replies_are_not_greylisting(reply: str) -> None:
    assert not greylisted(reply)
