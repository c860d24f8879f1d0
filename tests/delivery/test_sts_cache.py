"""The cache of MTA-STS policies: lookup, fetch, expiry, refresh; against an HTTPS server on loopback."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import DAY, Certificate, issue
from tests.http.https_kit import HttpsServer, Request, always, https_server, response, serving

from ironpost.compose.keyed_state import NAMESPACES
from ironpost.delivery import sts_cache
from ironpost.delivery.sts_cache import (
    FAILURES,
    LEAST_AGE,
    POLICIES,
    RETRY_SECONDS,
    SHARE,
    Stored,
    StsCache,
    StsError,
    fetch,
)  # fmt: skip
from ironpost.http import HttpClient, HttpError, HttpFailure, HttpLimits
from ironpost.model.keyed_state import KEY_OCTETS, MemoryState
from ironpost.model.network import LOOPBACK
from ironpost.model.tls import PolicyType, TlsFailure, TlsOutcome
from ironpost.routing.tls.mta_sts import StsMode, StsPolicy
from ironpost.telemetry.metrics import Counters
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from tests.http.https_kit import Respond

HOST = "mta-sts.a.example"
ADDRESSES = {HOST: ["127.0.0.1"], "mta-sts.b.example": ["127.0.0.1"]}


def resolver(identifier: str | None = "1", **more: Any) -> StaticResolver:
    """DNS in which `a.example` and `b.example` announce a policy; None: they do not."""
    record = [] if identifier is None else [f"v=STSv1; id={identifier};".encode()]
    txt = {"_mta-sts.a.example": record, "_mta-sts.b.example": record}
    return StaticResolver(addresses=ADDRESSES, txt=txt, **more)


def policy(mode: str = "enforce", max_age: int = 7 * 86_400) -> bytes:
    return f"version: STSv1\r\nmode: {mode}\r\nmx: *.a.example\r\nmax_age: {max_age}\r\n".encode()


def served(body: bytes, **headers: str) -> Respond:
    return always(response(200, body, **{"Content_Type": "text/plain", **headers}))


ENFORCE = StsPolicy(StsMode.ENFORCE, ("*.a.example",), 7 * 86_400)


class World:
    """A cache, its policy host, and what both depend on; the test changes it."""

    def __init__(self, server: HttpsServer, trusted: Path) -> None:
        self.server = server
        self.time = 1_700_000_000.0
        self.state = MemoryState(NAMESPACES, lambda: self.time)
        self.metrics = Counters()
        self.outcomes: list[TlsOutcome] = []
        self._trusted = trusted
        self.cache = self.restarted(resolver())

    def restarted(self, dns: StaticResolver) -> StsCache:
        """Replace the cache by a new one, with other answers of DNS, over the same state."""
        http = HttpClient(dns, authorities=self._trusted, allowed=LOOPBACK)
        recorder = self.outcomes.append
        self.cache = StsCache(dns, http, self.state, recorder=recorder, metrics=self.metrics, port=self.server.port)
        return self.cache

    @property
    def fetches(self) -> int:
        """Connections to the policy host whose handshake succeeded."""
        return self.server.connections

    @property
    def tried(self) -> float:
        """Fetches, whatever their result."""
        return sum(self.metrics.snapshot()["sts_fetches"].values())


@pytest.fixture(scope="module")
def authority() -> Certificate:
    return issue(common_name="Test authority", authority=True)


@pytest.fixture(scope="module")
def trusted(authority: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    path.write_bytes(authority.pem)
    return path


@pytest.fixture
def world(authority: Certificate, trusted: Path, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(respond: Respond, *names: str, **certificate: Any) -> AsyncIterator[World]:
        made = issue(*(names or (HOST, "mta-sts.b.example")), **{"by": authority, **certificate})
        async with https_server(serving(made, tmp_path), respond) as server:
            here = World(server, trusted)
            yield here
            await here.cache.close()

    return make


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


# -- finding ----------------------------------------------------------------------------------------------------------


def test_a_policy_is_fetched_once_and_kept(world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            for _ in range(3):
                assert await here.cache.find("a.example") == ENFORCE
            assert here.fetches == 1
            (request,) = here.server.requests
            assert request.line == "GET /.well-known/mta-sts.txt HTTP/1.1"
            assert request.headers["host"].partition(":")[0] == HOST
            assert here.metrics.snapshot()["sts_fetches"] == {"ok": 1}
            assert not here.outcomes

    run(main())


def test_without_a_record_nothing_is_fetched(world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            for dns in (resolver(None), StaticResolver(), StaticResolver(txt={"_mta-sts.a.example": [b"v=STSv1;"]})):
                assert await here.restarted(dns).find("a.example") is None
            assert here.fetches == 0

    run(main())


def test_r37_a_cached_policy_survives_restarts_removal_of_the_record_and_failures_until_max_age(
    world: Callable[..., Any],
) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            assert await here.cache.find("a.example") == ENFORCE
            here.server.respond = always(response(500))
            failing = resolver(failing=["_mta-sts.a.example"])
            for dns in (resolver("2"), resolver(None), failing, resolver("3", failing=[HOST])):
                here.time += 86_400
                assert await here.restarted(dns).find("a.example") == ENFORCE
            here.time += 3 * 86_400 - 10
            assert await here.restarted(resolver(None)).find("a.example") == ENFORCE
            here.time += 10
            assert await here.restarted(resolver(None)).find("a.example") is None
            assert await here.restarted(resolver("2")).find("a.example") is None, "the fetch fails"

    run(main())


def test_r37_a_fetch_has_a_minute_64_kib_and_no_redirect() -> None:
    class Http:
        limits: HttpLimits

        async def get(self, url: str, *, limits: HttpLimits) -> Any:
            self.limits = limits
            raise HttpError(HttpFailure.TIME, url)

    http = Http()
    with pytest.raises(StsError):
        asyncio.run(fetch("a.example", http))  # type: ignore[arg-type] # all that a fetch needs
    assert 0 < http.limits.seconds <= 60
    assert 0 < http.limits.size <= 64 << 10
    assert http.limits.redirects == 0


def test_another_id_causes_a_fetch(world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            await here.cache.find("a.example")
            here.server.respond = served(policy("none"))
            assert await here.cache.find("a.example") == ENFORCE
            found = await here.restarted(resolver("2")).find("a.example")
            assert found is not None
            assert found.mode is StsMode.NONE
            assert here.fetches == 2

    run(main())


def test_a_policy_with_a_short_life_is_not_fetched_for_each_message(world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy(max_age=0))) as here:
            for _ in range(3):
                assert await here.cache.find("a.example") is not None
            assert here.fetches == 1
            here.time += LEAST_AGE
            await here.cache.find("a.example")
            assert here.fetches == 2

    run(main())


def test_concurrent_deliveries_share_a_fetch_and_others_do_not_wait(world: Callable[..., Any]) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def respond(request: Request, writer: asyncio.StreamWriter) -> None:
            if request.headers["host"].startswith(HOST):
                await go.wait()
            writer.write(response(200, policy(), Content_Type="text/plain"))

        async with world(respond) as here:
            waiting = [asyncio.create_task(here.cache.find("a.example")) for _ in range(5)]
            assert await here.cache.find("b.example") == ENFORCE
            assert not any(task.done() for task in waiting)
            waiting.pop().cancel()
            go.set()
            assert await asyncio.gather(*waiting) == [ENFORCE] * 4
            assert here.fetches == 2

    run(main())


def test_close_ends_running_fetches_and_deliveries_continue_without(world: Callable[..., Any]) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def respond(_request: Request, _writer: asyncio.StreamWriter) -> None:
            asked.set()
            await asyncio.Event().wait()

        async with world(respond) as here:
            waiting = asyncio.create_task(here.cache.find("a.example"))
            await asked.wait()
            await here.cache.close()
            assert await waiting is None

    run(main())


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("respond", "certificate", "failure"),
    [
        (always(response(404)), {}, TlsFailure.STS_POLICY_FETCH_ERROR),
        (always(response(302, Location=f"https://{HOST}/")), {}, TlsFailure.STS_POLICY_FETCH_ERROR),
        (always(b""), {}, TlsFailure.STS_POLICY_FETCH_ERROR),
        (served(policy() + b"x: y\n" * 14_000), {}, TlsFailure.STS_POLICY_FETCH_ERROR),
        (served(policy() + b"mx: a.example.b.example\n" * 10 + b"mx: x\xff\n"), {}, TlsFailure.STS_POLICY_INVALID),
        (
            served(policy() + b"".join(b"mx: %d.a.example\n" % number for number in range(2000))),
            {},
            TlsFailure.STS_POLICY_INVALID,
        ),
        (served(b"<html></html>"), {}, TlsFailure.STS_POLICY_INVALID),
        (served(policy(), Content_Type="text/html"), {}, TlsFailure.STS_POLICY_INVALID),
        (always(response(200, policy())), {}, TlsFailure.STS_POLICY_INVALID),
        (served(policy()), {"until": -DAY / 2}, TlsFailure.STS_WEBPKI_INVALID),
        (served(policy()), {"by": None}, TlsFailure.STS_WEBPKI_INVALID),
        (served(policy()), {"names": ("a.example", "sts.a.example")}, TlsFailure.STS_WEBPKI_INVALID),
    ],
)
def test_r37_a_failed_fetch_is_recorded_and_not_repeated_for_five_minutes(
    respond: Respond, certificate: dict[str, Any], failure: TlsFailure, world: Callable[..., Any]
) -> None:
    names = certificate.pop("names", ())

    async def main() -> None:
        async with world(respond, *names, **certificate) as here:
            for _ in range(3):
                assert await here.cache.find("a.example") is None
            assert here.tried == 1
            (outcome,) = here.outcomes
            assert (outcome.policy.type, outcome.policy.domain) == (PolicyType.STS, "a.example")
            assert (outcome.failure, outcome.host) == (failure, "")
            assert outcome.detail.startswith(f"https://{HOST}:")
            assert here.metrics.snapshot()["sts_fetches"] == {failure.value: 1}
            here.time += RETRY_SECONDS - 1
            await here.restarted(resolver()).find("a.example")
            assert here.tried == 1, "a restart does not change that"
            await here.restarted(resolver("2")).find("a.example")
            assert here.tried == 2, "another id is another policy"
            here.time += RETRY_SECONDS
            await here.cache.find("a.example")
            assert here.tried == 3

    run(main())


def test_a_failed_lookup_is_not_repeated_for_five_minutes(world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            assert await here.restarted(resolver(failing=["_mta-sts.a.example"])).find("a.example") is None
            assert await here.restarted(resolver()).find("a.example") is None
            here.time += RETRY_SECONDS
            assert await here.cache.find("a.example") == ENFORCE

    run(main())


def test_r45_a_policy_host_inside_is_not_contacted(world: Callable[..., Any], trusted: Path) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            dns = resolver()
            cache = StsCache(dns, HttpClient(dns, authorities=trusted), here.state, port=here.server.port)
            assert await cache.find("a.example") is None
            assert here.fetches == 0

    run(main())


# -- refresh ----------------------------------------------------------------------------------------------------------


def test_policies_are_refreshed_daily_whatever_the_record(world: Callable[..., Any]) -> None:
    """RFC 8461 §10.2."""

    async def main() -> None:
        async with world(served(policy())) as here:
            await here.cache.find("a.example")
            assert await here.cache.refresh() == (0, 0)
            here.time += 86_400
            await here.restarted(resolver(None)).find("b.example")
            here.server.respond = served(policy(max_age=20 * 86_400))
            assert await here.cache.refresh() == (1, 0)
            assert await here.cache.refresh() == (0, 0)
            here.time += 19 * 86_400
            found = await here.cache.find("a.example")
            assert found is not None, "its life began again with the refresh"
            assert found.max_age == 20 * 86_400
            assert await here.restarted(resolver("1")).find("a.example") == found
            assert here.fetches == 2, "the id is still known"

    run(main())


def test_a_refresh_that_fails_is_reported_unless_the_domain_ends_mta_sts(
    world: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            await here.cache.find("a.example")
            here.server.respond = served(policy("none"))
            await here.cache.find("b.example")
            here.server.respond = always(response(503))
            here.time += 2 * 86_400
            assert await here.cache.refresh() == (0, 1)
            (outcome,) = here.outcomes
            assert outcome.policy.strings == ENFORCE.lines
            (warning,) = (each for each in caplog.records if each.levelname == "WARNING")
            assert '"event":"mta-sts-fetch-failed","domain":"a.example"' in warning.getMessage()
            assert f'"kept_seconds":{5 * 86_400}' in warning.getMessage()
            await here.restarted(resolver("2")).find("b.example")
            assert len(here.outcomes) == 1, "RFC 8461 §6: except with the mode none"

    run(main())


def test_r25_a_policy_whose_refresh_raises_does_not_keep_others_from_theirs(
    world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        fetch = sts_cache.fetch

        async def raises(domain: str, *arguments: Any) -> StsPolicy:
            if domain == "a.example":
                raise ZeroDivisionError("a bug")
            return await fetch(domain, *arguments)

        async with world(served(policy())) as here:
            for domain in ("a.example", "b.example"):
                await here.cache.find(domain)
            here.time += 2 * 86_400
            monkeypatch.setattr(sts_cache, "fetch", raises)
            assert await here.cache.refresh() == (1, 1)
            assert "the MTA-STS policy of a.example cannot be fetched" in caplog.text
            assert await here.cache.find("a.example") == ENFORCE, "it is kept"

    run(main())


def test_a_policy_with_a_short_life_is_refreshed_at_half_of_it(world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy(max_age=3600))) as here:
            await here.cache.find("a.example")
            here.time += 1799
            assert await here.cache.refresh() == (0, 0)
            here.time += 1
            assert await here.cache.refresh() == (1, 0)

    run(main())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1\nversion: STSv1",
        b"\xff\n\xff",
        b"1\nmode: enforce\0",
        b"1\n" + zlib.compress(b"mode: enforce"),
        b"1\n" + zlib.compress(b"\xff"),
        b"1\n" + zlib.compress(policy())[:-1],
        b"1\n" + zlib.compress(policy() + b"\n" * 100_000),
        b"\xff\n" + zlib.compress(policy()),
    ],
)
def test_an_entry_that_cannot_be_read_counts_as_none(value: bytes, world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy())) as here:
            here.state.put(POLICIES, b"a.example", value, 1000.0)
            assert await here.cache.refresh() == (0, 0)
            assert await here.cache.find("a.example") == ENFORCE

    run(main())


def test_the_cache_is_bounded() -> None:
    assert POLICIES.max_octets <= 32 << 20
    assert max(POLICIES.max_entries, FAILURES.max_entries) <= 20_000


def test_r37_large_policies_evict_no_more_than_small_ones() -> None:
    """Otherwise one domain with a wildcard in DNS soon removes the policies of all others."""
    state = MemoryState(NAMESPACES, lambda: 0.0)
    state.put(POLICIES, b"bank.example", Stored("1", ENFORCE).encode(), 1000.0)
    largest = bytes(POLICIES.max_value)
    for number in range(POLICIES.max_entries - 1):
        state.put(POLICIES, b"%d." % number + b"x" * (KEY_OCTETS - 6), largest, 1000.0)
    assert state.get(POLICIES, b"bank.example") is not None
    state.put(POLICIES, b"one.more.example", b"", 1000.0)
    assert state.get(POLICIES, b"bank.example") is None


def test_r37_the_domains_below_one_evict_each_other_and_not_all_others() -> None:
    state = MemoryState(NAMESPACES, lambda: 0.0)
    state.put(POLICIES, b"bank.example", Stored("1", ENFORCE).encode(), 1000.0)
    state.put(POLICIES, b"evil.example", b"", 1000.0)
    for number in range(2 * POLICIES.max_entries):
        state.put(POLICIES, b"%d.evil.example" % number, b"", 1000.0)
    assert state.get(POLICIES, b"bank.example") is not None
    assert state.get(POLICIES, b"evil.example") is None
    assert len(state.keys(POLICIES)) == POLICIES.max_entries
    for number in range(POLICIES.max_entries - SHARE - 1):
        state.put(POLICIES, b"%d.example" % number, b"", 1000.0)
    assert state.get(POLICIES, b"bank.example") is not None, "the large group shrinks to its share first"
    assert sum(key.endswith(b".evil.example") for key in state.keys(POLICIES)) == SHARE
    state.put(POLICIES, b"one-more.example", b"", 1000.0)
    assert state.get(POLICIES, b"bank.example") is None


def test_a_policy_of_many_similar_hosts_is_kept_and_one_that_does_not_fit_is_refused(
    world: Callable[..., Any],
) -> None:
    similar = b"".join(b"mx: mx%d.mail.a.example\n" % number for number in range(300))
    random = Random(8461)
    unlike = b"".join(b"mx: %x.example\n" % random.getrandbits(240) for _ in range(60))

    async def main() -> None:
        async with world(served(policy() + similar)) as here:
            found = await here.cache.find("a.example")
            assert len(found.mx) == 301
            assert await here.restarted(resolver()).find("a.example") == found
            here.server.respond = served(policy() + unlike)
            assert await here.cache.find("b.example") is None
            assert here.outcomes[-1].failure is TlsFailure.STS_POLICY_INVALID
            assert "lists too many hosts" in here.outcomes[-1].detail

    run(main())


def test_the_longest_id_fits_with_the_largest_policy(world: Callable[..., Any]) -> None:
    random = Random(8461)
    lines = [b"mx: %x.example\n" % random.getrandbits(64) for _ in range(300)]

    async def main() -> None:
        async with world(served(policy())) as here:
            for number in range(60, 300):
                here.server.respond = served(policy() + b"".join(lines[:number]))
                assert await here.restarted(resolver(f"{number:032}")).find("a.example"), "the former one is kept"
                if here.outcomes:
                    break
            assert here.outcomes[-1].failure is TlsFailure.STS_POLICY_INVALID

    run(main())


def test_an_unusual_media_type_is_escaped_in_logs_and_reports(world: Callable[..., Any]) -> None:
    async def main() -> None:
        async with world(served(policy(), Content_Type="text/\x85\u202e")) as here:
            assert await here.cache.find("a.example") is None
            assert here.outcomes[-1].failure is TlsFailure.STS_POLICY_INVALID
            assert here.outcomes[-1].detail.isprintable()

    run(main())
