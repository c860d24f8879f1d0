"""A reply of the server."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("SMTPResponse",)


class SMTPResponse(NamedTuple):
    """A reply: its code, and the text of its lines with LF between them."""

    code: int
    message: str

    def __str__(self) -> str:
        return f"{self.code} {self.message}"
