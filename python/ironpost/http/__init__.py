"""HTTPS requests to other systems: one client for everything that is fetched or posted (SECURITY R45).

`HttpClient` makes requests, `HttpError` says why one failed. The package needs aiohttp, from the extra `mta`; it is
imported with the first request.
"""

from __future__ import annotations

from ironpost.http.client import HttpClient, HttpLimits, HttpResponse
from ironpost.http.errors import HttpError, HttpFailure

__all__ = ["HttpClient", "HttpError", "HttpFailure", "HttpLimits", "HttpResponse"]
