"""`SMTPStatus` under its older address."""

from .typing import SMTPStatus

__all__ = ("SMTPStatus",)
