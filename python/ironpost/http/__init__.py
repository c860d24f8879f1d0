"""HTTP: one client for everything that is fetched or posted (SECURITY R45), and the server of a few resources.

`HttpClient` makes requests, `HttpError` says why one failed. `server` answers requests, with the handlers that
`exchange` describes; it is imported from there. The package needs aiohttp, from the extra `mta`; the client imports it
with the first request.
"""

from __future__ import annotations

from ironpost.http.client import HttpClient, HttpLimits, HttpResponse
from ironpost.http.errors import HttpError, HttpFailure

__all__ = ["HttpClient", "HttpError", "HttpFailure", "HttpLimits", "HttpResponse"]
