"""Requests and responses as the handler of an HTTP server sees them; aiohttp is not needed for these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from http import HTTPStatus

PLAIN: Final = "text/plain; charset=us-ascii"
"""The media type of text, also of a policy (RFC 8461 §3.2)."""


class Response(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""
    media_type: str = PLAIN
    headers: tuple[tuple[str, str], ...] = ()
    """Further header fields."""

    @classmethod
    def of(cls, status: HTTPStatus, detail: str = "", *headers: tuple[str, str]) -> Response:
        """A response whose body is the phrase of its status, and a detail in ASCII."""
        text = f"{status.phrase}: {detail}" if detail else status.phrase
        return cls(status, f"{text}\n".encode("ascii", "backslashreplace"), headers=headers)


class HttpRefusal(Exception):
    """A request is refused with a response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.body)
        self.response = response


class Request(NamedTuple):
    """A request whose head was received."""

    method: str
    host: str
    """The name in Host or in the URL, in lower case without port; empty if there is none."""
    path: str
    """As sent, without the query."""
    media_type: str
    """Of the body, in lower case without parameters."""
    ip: str
    """The client's address; empty for a Unix socket."""
    read: Callable[[int], Awaitable[bytes]]
    """Reads the body up to a limit of octets, or raises `HttpRefusal`."""


class HttpHandler(Protocol):
    """Answers requests."""

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request. It is not cancelled when the client disconnects.

        Raises:
            HttpRefusal: the answer is its response.
        """
        ...
