"""Mailboxes and aliases that a web server of the operator knows, asked by HTTPS.

    GET https://people.example/v1/ada%40mail.example
    200 {"targets": ["jo@other.example"], "keep": true}

Promises: the key is percent-encoded, so it is never syntax of the URL (SECURITY R42). Only 404 means that an address
is unknown: every other status than 200, a redirect, and a body that is not a record are a `DirectoryError`. Requests
go through the HTTP client, which contacts only addresses that are public or in `http.allow` (SECURITY R45).
Refuses: a URL without the placeholder, or with one in its host.
Standards: RFC 3986 (percent-encoding), RFC 6750 (access tokens), RFC 8259 (JSON), RFC 9110 §15.5.5 (404).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote, urlsplit

from ironpost.accounts.records_fields import record_of
from ironpost.delivery.secrets import SecretError, read_token
from ironpost.model.options import https_url
from ironpost.model.text import error_text
from ironpost.routing.directory import DirectoryError
from ironpost.routing.profile import SecretSource  # noqa: TC001 - `config.declared` reads annotations

if TYPE_CHECKING:
    from ironpost.accounts.record_sources import SourceContext
    from ironpost.http import HttpClient, HttpResponse
    from ironpost.routing.records import Record

KEY: Final = "{key}"
"""The placeholder of the key."""
RESPONSE_OCTETS: Final = 512 * 1024
"""Octets of a response; an alias with the most targets needs half of it."""


def _url(text: str) -> str:
    parts = urlsplit(https_url(text))
    if KEY in parts.netloc or not (KEY in parts.path or KEY in parts.query):
        raise ValueError(f'it has no {KEY} in its path or query, like "https://people.example/{KEY}"')
    return text


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """`[[directory.http]]`: mailboxes and aliases that a web server knows."""

    url: Annotated[str, _url]
    """In `[[directory.http]]` ([Directory sources](#directory-sources)): the `https` URL of a record. `{key}` in its
    path or query is replaced by the address, percent-encoded."""
    token: SecretSource | None = None
    """An access token that the server requires (`Authorization: Bearer`), `file:PATH` or `env:NAME`."""

    def open(self, context: SourceContext, /) -> HttpRecords:
        """See `accounts.record_sources.SourceOptions`; nothing is requested."""
        if find_spec("aiohttp") is None:
            raise ValueError("HTTP needs the package aiohttp, from pip install 'ironpost[mta]'")
        try:
            return HttpRecords(self, context.http, None if self.token is None else read_token(self.token))
        except SecretError as error:
            raise ValueError(f"token: {error}") from None

    def __str__(self) -> str:
        return self.url.partition("?")[0]  # the query may contain a secret


class HttpRecords:
    """Implements `routing.records.RecordSource`."""

    def __init__(self, options: HttpOptions, client: HttpClient | None, token: str | None) -> None:
        """Describe the source.

        Args:
            options: its options.
            client: the HTTP client; None if nothing is looked up.
            token: the access token that the options name.
        """
        self._url = options.url
        self._where = str(options)
        self._client = client
        self._headers = {"Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    async def lookup(self, key: str, /) -> Record | None:
        """See `RecordSource.lookup`."""
        from ironpost.http import HttpError, HttpLimits  # slow to load; not needed to read a configuration

        assert self._client is not None
        url = self._url.replace(KEY, quote(key, safe=""))
        try:
            response = await self._client.get(url, headers=self._headers, limits=HttpLimits(size=RESPONSE_OCTETS))
        except HttpError as error:
            raise DirectoryError(str(error)) from error
        except OSError as error:  # the file of the authorities
            raise DirectoryError(f"{self._where}: {error_text(error)}") from error
        return self._record(response)

    def _record(self, response: HttpResponse) -> Record | None:
        if response.status == 404:
            return None
        if response.status != 200:
            raise DirectoryError(f"{self._where}: HTTP status {response.status}; expected 200, or 404 for no record")
        try:
            fields = json.loads(response.body)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise DirectoryError(f"{self._where}: the response is not a JSON object")
        return record_of([fields], self._where)
