"""Adds up the TLS of outgoing connections by day, domain and policy, for reports.

Each worker counts in memory (`TlsCounts`), and adds what it counted to keyed state from time to time. A report has the
sums of all workers.

Promises: recording costs a few dictionary accesses. The numbers of domains, policies and reasons are limited, and so is
the length of texts; sessions beyond a limit are counted without their reason, or not at all (metric
`tls_outcomes_dropped`). A worker that is killed loses what it counted since the last `flush`.
Standards: RFC 8460 §4.1 (days in UTC), §4.2 (sums).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.model.idna import a_labels
from ironpost.model.keyed_state import Namespace
from ironpost.model.ports import Uncounted
from ironpost.model.text import escape
from ironpost.reports.daily import DOMAINS, KEPT, DailyEntries
from ironpost.reports.tlsrpt.report import Failure, Policy, PolicyResult, decoded_results, encoded_results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Metrics
    from ironpost.model.tls import PublishedPolicy, TlsOutcome

POLICIES: Final = 16
"""Policies of one domain on one day; with DANE each host has one."""
REASONS: Final = 16
"""Distinct reasons for failures under one policy; further ones are counted by their type only."""
TEXT: Final = 250
"""Characters of a reason or a host name."""
POLICY_TEXT: Final = 2000
"""Characters of the strings of a policy."""
PATTERN_TEXT: Final = 1000
"""Characters of the host name patterns of a policy."""
SUCCESS: Final = "success"
"""The label of the metric `tls_outcomes` for connections without a failure."""

COUNTS: Final = Namespace("tls-counts", 2 * DOMAINS, 128 * 1024, 32 << 20, KEPT)
"""What each worker counted, by day, worker and domain. Counts that would be larger are kept without reasons."""


class _Sessions:
    """Sessions to which one policy was applied."""

    __slots__ = ("details", "failures", "successes")

    def __init__(self) -> None:
        self.successes = 0
        self.failures = 0
        self.details: dict[Failure, int] = {}

    def failed(self, failure: Failure, count: int) -> None:
        """Add failures with one reason to `details`."""
        if failure not in self.details and len(self.details) >= REASONS:
            failure = Failure(failure.type)
        self.details[failure] = self.details.get(failure, 0) + count

    def add(self, successes: int, failures: int, details: Iterable[tuple[Failure, int]]) -> None:
        """Add other sessions."""
        self.successes += successes
        self.failures += failures
        for failure, count in details:
            self.failed(failure, count)


_Results: TypeAlias = dict[Policy, _Sessions]


class TlsCounts:
    """Implements `model.tls.TlsRecorder`: what one worker counts, and the sums of all."""

    def __init__(
        self, state: KeyedState, now: Callable[[], float], *, worker: int = 0, metrics: Metrics | None = None
    ) -> None:
        """Use the namespace `COUNTS`.

        Args:
            state: where counts are kept.
            now: seconds since 1970.
            worker: see `DailyEntries`.
            metrics: counts outcomes.
        """
        self.entries = DailyEntries(state, COUNTS, now, worker)
        """What was added to the state."""
        self._metrics = metrics or Uncounted()
        self._open: dict[tuple[int, str], dict[PublishedPolicy, _Sessions]] = {}
        """What is not in the state yet, by day and domain."""

    def __call__(self, outcome: TlsOutcome) -> None:
        """Count an outcome."""
        policy, failure = outcome.policy, outcome.failure
        self._metrics.count("tls_outcomes", SUCCESS if failure is None else failure.value)
        key = self.entries.today(), _ascii(outcome.domain or policy.domain)
        if not key[1]:  # such a domain publishes nothing
            return
        policies = self._open.get(key)
        if policies is None:
            if len(self._open) >= DOMAINS:
                self._metrics.count("tls_outcomes_dropped")
                return
            policies = self._open[key] = {}
        sessions = policies.get(policy)
        if sessions is None:
            if len(policies) >= POLICIES:
                self._metrics.count("tls_outcomes_dropped")
                return
            sessions = policies[policy] = _Sessions()
        if failure is None:
            sessions.successes += 1
        else:
            sessions.failures += 1
            reason = Failure(
                failure.value, outcome.our_ip, _text(outcome.host), outcome.host_ip, reason=_text(outcome.detail)
            )
            sessions.failed(reason, 1)

    def flush(self, limit: int | None = None) -> bool:
        """Add what was counted to the state.

        Args:
            limit: maximum number of domains to add; all if None.

        Returns:
            Whether some are left.
        """
        while self._open and limit != 0:
            (day, domain), policies = self._open.popitem()
            results = _merged([_decoded(self.entries.get(day, domain))])
            for policy, sessions in policies.items():
                strings, mx = _texts(policy.strings, POLICY_TEXT), _texts(policy.mx, PATTERN_TEXT)
                shown = Policy(policy.type.value, _ascii(policy.domain) or domain, strings, mx)
                self._add(results, shown, sessions)
            summed = _results(results)
            if not self.entries.put(day, domain, encoded_results(summed)):
                self.entries.put(day, domain, encoded_results(each._replace(details=()) for each in summed))
            limit = None if limit is None else limit - 1
        return bool(self._open)

    def _add(self, results: _Results, policy: Policy, sessions: _Sessions) -> None:
        if policy not in results:
            if len(results) >= POLICIES:
                self._metrics.count("tls_outcomes_dropped", amount=sessions.successes + sessions.failures)
                return
            results[policy] = _Sessions()
        results[policy].add(sessions.successes, sessions.failures, sessions.details.items())


def summed(values: Iterable[bytes]) -> tuple[PolicyResult, ...]:
    """Return the sums of what each worker stored; empty if nothing can be read; call it in a thread."""
    return _results(_merged(_decoded(each) for each in values))


def _decoded(value: bytes) -> Sequence[PolicyResult]:
    try:
        return decoded_results(value)
    except ValueError:  # there is none, or another version wrote it
        return ()


def _ascii(domain: str) -> str:
    """The domain in A-labels; empty if it has none."""
    try:
        return a_labels(domain)
    except ValueError:
        return ""


def _merged(several: Iterable[Sequence[PolicyResult]]) -> _Results:
    merged: _Results = {}
    for results in several:
        for result in results:
            merged.setdefault(result.policy, _Sessions()).add(result.successes, result.failures, result.details)
    return merged


def _results(results: _Results) -> tuple[PolicyResult, ...]:
    return tuple(
        PolicyResult(policy, each.successes, each.failures, tuple(each.details.items()))
        for policy, each in results.items()
    )


def _text(text: str) -> str:
    return escape(text[:TEXT], ascii_only=True)[:TEXT]


def _texts(texts: Sequence[str], left: int) -> tuple[str, ...]:
    """The first texts that fit into `left` characters."""
    kept: list[str] = []
    for text in texts:
        shown = escape(text[:left], ascii_only=True)
        left -= len(shown) + 4  # its quotes and comma in JSON, and one character that is escaped
        if left < 0:
            break
        kept.append(shown)
    return tuple(kept)
