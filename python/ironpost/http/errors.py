"""The error of a request, with its category."""

from __future__ import annotations

from enum import Enum


class HttpFailure(Enum):
    """Why a request failed; the values are for logs."""

    URL = "invalid URL"
    """It is not an HTTPS URL, or its host name cannot exist."""
    LOOKUP = "DNS lookup failed"
    """The name does not exist, has no address, or the query failed."""
    ADDRESS = "address refused"
    """None of the host's addresses may be contacted."""
    CONNECT = "cannot connect"
    """No TCP connection."""
    CERTIFICATE = "certificate not accepted"
    TLS = "TLS failed"
    """The handshake failed for another reason."""
    PROTOCOL = "invalid response"
    """The response violates HTTP, or the connection was lost."""
    SIZE = "response too large"
    TIME = "timed out"
    REDIRECTS = "too many redirects"


class HttpError(Exception):
    """A request without a response. The text says what failed, where and why, without query and credentials."""

    def __init__(self, failure: HttpFailure, url: str, detail: str = "") -> None:
        super().__init__(f"{url}: {failure.value}{': ' if detail else ''}{detail}")
        self.failure = failure
        self.url = url
        """The URL that was requested last, without its query, which may contain a secret."""
        self.detail = detail
