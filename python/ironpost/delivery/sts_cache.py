"""Finds, fetches and keeps the MTA-STS policies of domains: implements `routing.tls.mta_sts.StsPolicies`.

Promises: a policy is kept as keyed state until its `max_age`, so all workers share it, a restart keeps it, and neither
a missing record nor a failed fetch removes it (SECURITY R37). It is fetched again when the id in DNS changes, and once
a day by `refresh`, so that an attacker who hides the new id cannot keep an old policy in force. A failed lookup or
fetch is not repeated for `RETRY_SECONDS`; concurrent deliveries to a domain share one fetch, and a delivery waits for
it at most `FETCH_SECONDS`.
Refuses: redirects, responses other than 200, other media types than text/plain, more than `MAX_POLICY` octets; policies
with more hosts than fit into an entry, a hundred or so, after compression.
Limitations: a policy with a shorter `max_age` is kept for `LEAST_AGE` seconds, so that it is not fetched for each
message.
Standards: RFC 8461 §3.3 (fetching), §5.1 (control flow), §10.2 (refresh); RFC 8460 §4.3.2.2 (result types).
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.http import HttpError, HttpFailure, HttpLimits
from ironpost.mail_auth.names import last_labels
from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.model.keyed_state import KEY_OCTETS, Namespace
from ironpost.model.ports import Uncounted
from ironpost.model.text import escape
from ironpost.model.tls import PolicyType, PublishedPolicy, TlsFailure, TlsOutcome
from ironpost.model.url import HTTPS_PORT
from ironpost.routing.tls.mta_sts import (
    MAX_AGE,
    MAX_ID,
    POLICY_PATH,
    StsMode,
    StsPolicy,
    StsSyntaxError,
    parse_policy,
    parse_record,
    policy_host,
    record_name,
)
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from ironpost.http import HttpClient
    from ironpost.model.dns import Resolver
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Metrics
    from ironpost.model.tls import TlsRecorder

FETCH_SECONDS: Final = 60.0
"""Seconds for one fetch (RFC 8461 §3.3)."""
MAX_POLICY: Final = 65_536
"""Maximum octets of a policy (RFC 8461 §3.3)."""
RETRY_SECONDS: Final = 300.0
"""Seconds from a failed lookup or fetch to the next one (RFC 8461 §3.3)."""
LEAST_AGE: Final = 300.0
"""Seconds for which any policy is kept."""
REFRESH_SECONDS: Final = 86_400.0
"""Age in seconds at which a policy is refreshed; a policy with less than twice this lifetime is refreshed at half of
it."""
REFRESHES: Final = 10
"""Policies that are refreshed at a time."""
SHARE: Final = 500
"""Policies of domains with the same last two labels that are not evicted before those of others."""

_DOMAINS: Final = 20_000
_VALUE: Final = 1_400
_LINES: Final = 16_384
"""Octets of the lines of a policy that can be kept."""


def _last_labels(domain: bytes) -> bytes:
    return last_labels(domain.decode()).encode()


POLICIES: Final = Namespace(
    "mta-sts", _DOMAINS, _VALUE, _DOMAINS * (KEY_OCTETS + _VALUE), MAX_AGE, _last_labels, SHARE
)  # fmt: skip
"""By domain: the id of the record, and the lines of the policy, compressed. The limit of entries is always
reached before that of octets, so a large policy evicts no more domains than a small one."""
FAILURES: Final = Namespace(
    "mta-sts-failed", _DOMAINS, 32, _DOMAINS * (KEY_OCTETS + 32), RETRY_SECONDS, _last_labels, SHARE
)  # fmt: skip
"""By domain: the id of the record whose policy could not be fetched; empty if the record could not be looked up."""

log = logging.getLogger("ironpost.delivery")


class StsError(Exception):
    """A policy cannot be fetched now, or is invalid; the text says why."""

    def __init__(self, failure: TlsFailure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        """The category for reports."""


class Stored(NamedTuple):
    """A policy in the cache."""

    identifier: str
    policy: StsPolicy
    ttl: float = 0.0
    """Seconds until it expires, if it is from the cache."""

    @property
    def lifetime(self) -> float:
        """Seconds from the fetch to the expiry."""
        return max(float(self.policy.max_age), LEAST_AGE)

    def encode(self) -> bytes:
        """The value in keyed state."""
        return b"\n".join((self.identifier.encode(), zlib.compress(_lines(self.policy))))


def _lines(policy: StsPolicy) -> bytes:
    return "\n".join(policy.lines).encode()


@lru_cache(256)  # a policy takes up to about 200 KB
def _decode(value: bytes) -> Stored:
    """Read a value in keyed state.

    Raises:
        ValueError: `Stored.encode` did not write it.
    """
    identifier, _, compressed = value.partition(b"\n")
    unzip = zlib.decompressobj()
    try:
        lines = unzip.decompress(compressed, _LINES + 1)
    except zlib.error as error:
        raise ValueError("not a compressed policy") from error
    if not unzip.eof or len(lines) > _LINES:
        raise ValueError("a policy of the wrong length")
    return Stored(identifier.decode(), parse_policy(lines))


async def look_up(domain: str, resolver: Resolver) -> str | None:
    """Return the id of the policy that the record of a domain announces; None if there is no record.

    Raises:
        ResolverError: the query failed.
        StsSyntaxError: the record is invalid.
    """
    return parse_record((await dns.txt(resolver, record_name(domain))).data)


async def fetch(domain: str, http: HttpClient, port: int = HTTPS_PORT) -> StsPolicy:
    """Fetch the policy of a domain (RFC 8461 §3.3).

    Raises:
        StsError: there is no valid policy.
    """
    host = policy_host(domain) if port == HTTPS_PORT else f"{policy_host(domain)}:{port}"
    url = f"https://{host}{POLICY_PATH}"
    try:
        response = await http.get(url, limits=HttpLimits(MAX_POLICY, FETCH_SECONDS, redirects=0))
    except HttpError as error:
        webpki = error.failure is HttpFailure.CERTIFICATE
        failure = TlsFailure.STS_WEBPKI_INVALID if webpki else TlsFailure.STS_POLICY_FETCH_ERROR
        raise StsError(failure, str(error)) from None
    except (ImportError, OSError) as error:  # aiohttp is missing, or the file of the authorities
        raise StsError(TlsFailure.STS_POLICY_FETCH_ERROR, f"{url}: {error}") from None
    if response.status != 200:
        raise StsError(TlsFailure.STS_POLICY_FETCH_ERROR, f"{url}: status {response.status}, not 200")
    if response.media_type != "text/plain":
        found = escape(response.media_type[:80], ascii_only=True) or "missing"
        detail = f"{url}: media type {found}, not text/plain"
        raise StsError(TlsFailure.STS_POLICY_INVALID, detail)
    try:
        policy = parse_policy(response.body)
    except StsSyntaxError as error:
        raise StsError(TlsFailure.STS_POLICY_INVALID, f"{url}: {error}") from None
    if len(_lines(policy)) > _LINES or len(Stored("", policy).encode()) > _VALUE - MAX_ID:
        raise StsError(TlsFailure.STS_POLICY_INVALID, f"{url}: the policy lists too many hosts to be kept")
    return policy


class StsCache:
    """The policies that a server knows."""

    def __init__(
        self,
        resolver: Resolver,
        http: HttpClient,
        state: KeyedState,
        *,
        recorder: TlsRecorder | None = None,
        metrics: Metrics | None = None,
        port: int = HTTPS_PORT,
    ) -> None:
        """Use the namespaces `POLICIES` and `FAILURES`.

        Args:
            resolver: DNS.
            http: fetches policies.
            state: where they are kept.
            recorder: records failed fetches for reports; nothing if None.
            metrics: counts fetches; nothing if None.
            port: the port of policy hosts.
        """
        self._resolver = resolver
        self._http = http
        self._state = state
        self._recorder = recorder
        self._metrics = Uncounted() if metrics is None else metrics
        self._port = port
        self._fetching: dict[str, asyncio.Task[Stored | None]] = {}

    async def find(self, domain: str) -> StsPolicy | None:
        """Return the valid policy of a domain; see `routing.tls.mta_sts.StsPolicies.find`.

        Args:
            domain: in A-labels and lower case, see `routing.tls.mta_sts.policy_domain`.
        """
        known = self._known(domain)
        failed = self._state.get(FAILURES, domain.encode())
        if failed is None or failed.value:
            identifier = await self._announced(domain)
            if (
                identifier is not None
                and (known is None or known.identifier != identifier)
                and (failed is None or failed.value != identifier.encode())
            ):
                known = await self._shared_fetch(domain, identifier) or known
        return None if known is None else known.policy

    async def refresh(self) -> tuple[int, int]:
        """Fetch again the policies that are old enough; return how many were fetched, and how many fetches failed.

        The record need not exist for that (RFC 8461 §10.2). Policies with mode `none` are left to expire.
        """
        due = [domain for key in self._state.keys(POLICIES) if self._needs_refresh(domain := key.decode())]
        fetched = 0
        for at in range(0, len(due), REFRESHES):
            results = await asyncio.gather(*map(self._refreshed, due[at : at + REFRESHES]))
            fetched += sum(results)
        return fetched, len(due) - fetched

    async def close(self) -> None:
        """End running fetches; deliveries that wait for one continue without it."""
        running = list(self._fetching.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # -- parts

    def _known(self, domain: str) -> Stored | None:
        """The policy in the cache."""
        key = domain.encode()
        entry = self._state.get(POLICIES, key)
        if entry is None:
            return None
        try:
            return _decode(entry.value)._replace(ttl=entry.ttl)
        except ValueError:  # not written by this version
            self._state.remove(POLICIES, key)
            return None

    async def _announced(self, domain: str) -> str | None:
        """The id in the record of a domain; None if there is no usable record."""
        try:
            return await look_up(domain, self._resolver)
        except ResolverError:
            self._state.put(FAILURES, domain.encode(), b"", RETRY_SECONDS)
        except StsSyntaxError:
            pass  # RFC 8461 §3.1: as if there were no record
        return None

    async def _shared_fetch(self, domain: str, identifier: str) -> Stored | None:
        """Fetch a policy, or join a fetch for the same domain that is running; None if it fails."""
        task = self._fetching.get(domain)
        if task is None:
            task = self._fetching[domain] = asyncio.create_task(self._fetch(domain, identifier))
            task.add_done_callback(lambda _: self._fetching.pop(domain, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not _cancelled():
                return None  # by `close`
            raise

    async def _fetch(self, domain: str, identifier: str) -> Stored | None:
        key = domain.encode()
        try:
            policy = await fetch(domain, self._http, self._port)
        except StsError as error:
            self._state.put(FAILURES, key, identifier.encode(), RETRY_SECONDS)
            self._failed(domain, error)
            return None
        stored = Stored(identifier, policy)
        self._state.put(POLICIES, key, stored.encode(), stored.lifetime)
        self._state.remove(FAILURES, key)
        self._metrics.count("sts_fetches", "ok")
        record(
            log, "mta-sts-policy", domain=domain, policy_id=identifier, mode=policy.mode.value, max_age=policy.max_age
        )
        return stored

    def _failed(self, domain: str, error: StsError) -> None:
        """Report a failed fetch, unless the policy in the cache announces the end of MTA-STS (RFC 8461 §10.2)."""
        self._metrics.count("sts_fetches", error.failure.value)
        known = self._known(domain)
        if known is not None and known.policy.mode is StsMode.NONE:
            return
        kept = 0 if known is None else round(known.ttl)
        record(log, "mta-sts-fetch-failed", logging.WARNING, domain=domain, detail=str(error), kept_seconds=kept)
        if self._recorder is not None:
            lines, mx = ((), ()) if known is None else (known.policy.lines, known.policy.mx)
            self._recorder(TlsOutcome(PublishedPolicy(PolicyType.STS, domain, lines, mx), error.failure, str(error)))

    def _needs_refresh(self, domain: str) -> bool:
        known = self._known(domain)
        if known is None or known.policy.mode is StsMode.NONE:
            return False
        return known.lifetime - known.ttl >= min(REFRESH_SECONDS, known.lifetime / 2)

    async def _refreshed(self, domain: str) -> bool:
        known = self._known(domain)
        try:
            identifier = await self._announced(domain)
            if identifier is None:
                identifier = "" if known is None else known.identifier
            return await self._shared_fetch(domain, identifier) is not None
        except Exception:  # the policies of other domains are fetched (R25)
            log.exception("the MTA-STS policy of %s cannot be fetched", domain)
            return False


def _cancelled() -> bool:
    """Whether the current task is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
