"""Delivery by HTTP POST (a webhook), one signed request for each recipient.

Promises: the body is the message (message/rfc822) below Return-Path (RFC 5321 §4.4), Delivered-To (RFC 9228), and
X-Original-To if an alias was used; the envelope is in header fields, percent-encoded. The signature covers time, id,
envelope and body, so that a receiver can refuse what is forged or old; the id is the same in each attempt, so it can
refuse repetitions. Redirects are not followed. A message is held in memory while it is sent, so larger ones than
`LARGEST` fail, and `REQUESTS` are made at a time. When a receiver asks to wait, the next attempt is made then.
Standards: RFC 9110 §15 (status codes), §10.2.3 (Retry-After); RFC 2104 (HMAC).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote

from ironpost.delivery import NextHops, concurrently, misconfigured, unreadable
from ironpost.delivery.secrets import SecretError, read_secret
from ironpost.message.trace import FinalContent, delivery_fields
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.options import Seconds, at_least_a_second, https_url
from ironpost.model.text import error_text
from ironpost.routing.profile import SecretSource  # noqa: TC001 - `config.declared` reads annotations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.http import HttpClient, HttpResponse
    from ironpost.model import Address
    from ironpost.model.ports import Clock
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

TIMEOUT: Final = Seconds(60.0)
LARGEST: Final = 64 << 20
"""Octets of the largest message that is posted."""
REQUESTS: Final = 4
"""Requests at a time."""
RESPONSE_OCTETS: Final = 16 * 1024
"""Octets of a response, which is not used."""
TRANSIENT: Final = frozenset({408, 425, 429})
"""Statuses 4xx after which another attempt may succeed: Request Timeout, Too Early, Too Many Requests."""
SHORTEST_WAIT: Final = 60.0
LONGEST_WAIT: Final = 24 * 60 * 60.0
"""Seconds between which a wait is kept that a receiver asks for."""

_SECONDS: Final = re.compile(r"[0-9]{1,12}")


@dataclass(frozen=True, slots=True)
class PostOptions:
    """`[[local.delivery]] post = { ... }`: post the mail to a web server."""

    url: Annotated[str, https_url]
    """In `[local.delivery.post]` ([Delivery by HTTP](#delivery-by-http)): the `https` URL that the mail is
    posted to."""
    secret: SecretSource
    """The key of the signature, which the receiver knows too: `file:PATH` or `env:NAME`."""
    timeout: Annotated[Seconds, at_least_a_second] = TIMEOUT
    """Time for a request, from its start to the end of the response."""

    def verify(self) -> None:
        """Refuse what cannot work on this system. Blocks.

        Raises:
            ValueError: the text names the key and the reason.
        """
        try:
            read_secret(self.secret)
        except SecretError as error:
            raise ValueError(f"secret: {error}") from None
        if find_spec("aiohttp") is None:
            raise ValueError("url: aiohttp is not installed, which HTTP needs")

    def __str__(self) -> str:
        return self.url.partition("?")[0]  # the query may contain a secret


class Post:
    """Implements `ironpost.delivery.RouteAgent`; the options are those of the route."""

    def __init__(self, client: HttpClient | None, clock: Clock, host: str) -> None:
        """`host` is our host name."""
        self._client = client
        self._clock = clock
        self._host = host
        self._turns = asyncio.Semaphore(REQUESTS)

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        """Make one request for each of `recipients`."""
        options = route.options
        assert isinstance(options, PostOptions)
        try:
            key = await asyncio.to_thread(read_secret, options.secret)
        except SecretError as error:
            outcome = misconfigured(f"secret: {error}")
            return [(each.number, outcome) for each in recipients]
        outcomes = await concurrently(self._one(message, each, options, key) for each in recipients)
        return [(each.number, outcome) for each, outcome in zip(recipients, outcomes, strict=True)]

    async def preview(self, address: Address, route: Route) -> NextHops:  # noqa: ARG002 - the agent port's
        """The URL, whatever the address."""
        return NextHops(str(route.options))

    def close(self) -> None:
        """Nothing to release."""

    async def _one(self, message: QueuedMessage, recipient: QueuedRecipient, options: PostOptions, key: str) -> Outcome:
        from ironpost.http import HttpError, HttpLimits  # slow to load; not needed to read a configuration

        assert self._client is not None
        if message.body.size > LARGEST:
            return _failed("5.3.4", f"The message has more than {LARGEST} octets")
        async with self._turns:
            try:
                body = await self._body(message, recipient)
            except OSError as error:
                return unreadable(error)
            headers = self._headers(message, recipient, key, body)
            limits = HttpLimits(size=RESPONSE_OCTETS, seconds=options.timeout)
            try:
                response = await self._client.post(options.url, body, headers=headers, limits=limits)
            except HttpError as error:
                return _deferred(str(error))
            except OSError as error:  # the file of the authorities
                return misconfigured(error_text(error))
            except ImportError as error:
                return misconfigured(str(error))
        return _outcome(response, str(options), self._clock.now())

    async def _body(self, message: QueuedMessage, recipient: QueuedRecipient) -> bytes:
        final = FinalContent(delivery_fields(message.envelope.reverse_path, recipient.recipient, self._host))
        pieces = [final.feed(piece) async for piece in message.body.pieces()]
        return b"".join((*pieces, final.finish()))

    def _headers(self, message: QueuedMessage, recipient: QueuedRecipient, key: str, body: bytes) -> dict[str, str]:
        address = recipient.recipient.address
        signed = {
            "Ironpost-Timestamp": str(int(self._clock.now())),
            "Ironpost-Id": f"{message.id}-{recipient.number}",
            "Ironpost-Sender": _encoded(message.envelope.reverse_path),
            "Ironpost-Recipient": _encoded(address),
            "Ironpost-Original-Recipient": _encoded(recipient.recipient.original or address),
        }
        signature = hmac.new(key.encode(), "".join(f"{value}\n" for value in signed.values()).encode(), hashlib.sha256)
        signature.update(body)
        return {"Content-Type": "message/rfc822", **signed, "Ironpost-Signature": f"sha256={signature.hexdigest()}"}


def _encoded(address: Address) -> str:
    return quote(str(address), safe="@")


def _outcome(response: HttpResponse, url: str, now: float) -> Outcome:
    """The outcome of a response that was received at `now`, in seconds since 1970."""
    status = response.status
    detail = f"{url}: HTTP status {status}"
    if 200 <= status < 300:
        return Outcome(Disposition.DELIVERED, Reply(250, "2.0.0", ("Delivered by HTTP",), detail))
    if 300 <= status < 400:
        return misconfigured(f"{detail}: redirects are not followed; change the URL")
    if 400 <= status < 500 and status not in TRANSIENT:
        return _failed("5.3.0", f"The receiver refused the message with HTTP status {status}")
    return _deferred(detail, _wait(response.headers.get("retry-after", ""), now))


def _wait(retry_after: str, now: float) -> float | None:
    """The wait that a Retry-After field asks for (RFC 9110 §10.2.3), in seconds; None if it is absent or invalid."""
    text = retry_after.strip()
    if _SECONDS.fullmatch(text):
        wait = float(text)
    else:
        try:
            wait = parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(wait, SHORTEST_WAIT), LONGEST_WAIT)


def _failed(enhanced: str, text: str) -> Outcome:
    return Outcome(Disposition.FAILED, Reply(554, enhanced, (text,)))


def _deferred(why: str, wait: float | None = None) -> Outcome:
    reply = Reply(451, "4.3.0", ("The message could not be delivered by HTTP",), why)
    return Outcome(Disposition.DEFERRED, reply, wait=wait)
