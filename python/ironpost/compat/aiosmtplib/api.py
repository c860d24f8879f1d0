"""Send one message on its own connection."""

from __future__ import annotations

from email.message import Message
from typing import TYPE_CHECKING, Any

from .connection import DEFAULT_TIMEOUT
from .smtp import SMTP

if TYPE_CHECKING:
    from collections.abc import Sequence
    from email.message import EmailMessage
    from typing import Unpack

    from ironpost.compat.content import RawMessage

    from .connection import Settings
    from .response import SMTPResponse

__all__ = ("send",)


async def send(
    message: EmailMessage | Message[Any, Any] | RawMessage,
    /,
    *,
    sender: str | None = None,
    recipients: str | Sequence[str] | None = None,
    mail_options: Sequence[str] | None = None,
    rcpt_options: Sequence[str] | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,  # noqa: ASYNC109 - aiosmtplib's argument
    **settings: Unpack[Settings],
) -> tuple[dict[str, SMTPResponse], str]:
    """Connect, send a message and disconnect; the arguments are those of `SMTP` and of its `send_message`.

    Raises:
        ValueError: text, octets or a file without sender or recipients, or settings that exclude each other.
        SMTPException: the message was not sent.
    """
    settings.setdefault("hostname", "localhost")  # which STARTTLS needs to verify the server
    options: dict[str, Any] = {"mail_options": mail_options, "rcpt_options": rcpt_options}
    if not isinstance(message, Message):
        if not recipients:
            raise ValueError("Recipients must be provided with raw messages.")
        if not sender:
            raise ValueError("Sender must be provided with raw messages.")
        async with SMTP(timeout=timeout, **settings) as client:
            return await client.sendmail(sender, recipients, message, **options)
    async with SMTP(timeout=timeout, **settings) as client:
        return await client.send_message(message, sender=sender, recipients=recipients, **options)
