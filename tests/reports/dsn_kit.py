"""Reading of delivery status notifications."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from email.message import Message


def read(content: bytes) -> EmailMessage:
    """Strictly: a defect anywhere is an error."""
    report = message_from_bytes(content, policy=policy.SMTP)
    assert isinstance(report, EmailMessage)
    for part in report.walk():
        assert part.defects == []
    return report


def parts(content: bytes) -> tuple[Message, Message, Message]:
    words, status, returned = read(content).get_payload()  # type: ignore[misc]
    return words, status, returned  # type: ignore[return-value]


def groups(content: bytes) -> list[Message]:
    """The groups of fields of the second part: about the message, then one for each recipient."""
    return parts(content)[1].get_payload()  # type: ignore[return-value]
