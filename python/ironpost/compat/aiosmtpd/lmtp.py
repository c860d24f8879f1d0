"""aiosmtpd's LMTP server. Unlike aiosmtpd's it sends a reply for each recipient after the content (RFC 2033 §4.2)."""

from __future__ import annotations

from ironpost.compat.aiosmtpd.smtp import SMTP, syntax

__all__ = ["LMTP"]


class LMTP(SMTP):
    """The protocol of one LMTP client; see `SMTP`."""

    show_smtp_greeting = False
    replies_per_recipient = True

    @syntax("LHLO hostname")
    async def smtp_LHLO(self, arg: str | None) -> None:
        """Greet, in place of HELO and EHLO."""
        await super().smtp_EHLO(arg)

    async def smtp_HELO(self, arg: str | None) -> None:  # noqa: ARG002 - a hook
        """Refuse HELO (RFC 2033 §4.1)."""
        await self.push('500 Error: command "HELO" not recognized')

    async def smtp_EHLO(self, arg: str | None) -> None:  # noqa: ARG002 - a hook
        """Refuse EHLO (RFC 2033 §4.1)."""
        await self.push('500 Error: command "EHLO" not recognized')
