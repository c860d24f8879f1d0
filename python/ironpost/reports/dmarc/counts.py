"""Adds up evaluations of DMARC by day, domain and what they have in common, for aggregate reports.

Each worker counts in memory (`DmarcCounts`), and adds what it counted to keyed state from time to time. A report has
the sums of all workers.

Promises: recording builds one row and adds it up in memory. Only domains that ask for reports are counted. The numbers
of domains and rows are limited, and so is the length of texts. A row beyond `CLIENT_DETAILED` or `DETAILED` is counted
without the envelope sender, the signatures and the result of SPF; beyond `CLIENT_ROWS` or `ROWS`, a message is counted
only as one that the report lacks, and in the metric `dmarc_evaluations_dropped`. So a flood of different authors,
senders or signatures from one client network hides no other client; floods from ten networks can. A worker that is
killed loses what it counted since the last `flush`.
Standards: RFC 9990 §3.1.1 (rows), §3.1.2 (domains), §3.3 (the last policy of a day is reported).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.mail_auth import DmarcPolicy, DmarcResult, OverrideType
from ironpost.model.keyed_state import Namespace
from ironpost.model.network import client_network, parse_ip
from ironpost.model.ports import Uncounted
from ironpost.reports.daily import DOMAINS, KEPT, DailyEntries
from ironpost.reports.dmarc.report import DkimResult, PublishedPolicy, Reason, Row, SpfResult, published

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ironpost.mail_auth import DmarcEvaluation, DmarcRecord
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Metrics

ROWS: Final = 1000
"""Rows of one domain on one day: those that a worker counts, and those of the report."""
DETAILED: Final = 800
"""Rows after which details are left out."""
CLIENT_ROWS: Final = 100
"""Those of them that one client network (`model.network.client_network`) may have."""
CLIENT_DETAILED: Final = 80
"""Rows of a client network after which details are left out."""
OPEN_ROWS: Final = 50_000
"""Rows of all domains that a worker counts between two flushes."""
SIGNATURES: Final = 5
"""Signatures of one row."""
TEXT: Final = 253
"""Characters of a name."""
COMMENT: Final = 100
"""Characters of the comment of a reason."""

COUNTS: Final = Namespace("dmarc-counts", 2 * DOMAINS, 1 << 20, 64 << 20, KEPT)
"""What each worker counted, by day, worker and domain."""
LARGEST: Final = COUNTS.max_value - TEXT - 1
"""Octets of the counts of one domain, beside its name. Those that would be larger are kept without details."""

_DOMAIN_NAME: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
"""A domain of which there can be a report: its name is part of the subject and of the file name."""


class DomainCounts:
    """The messages of one domain on one day."""

    __slots__ = ("_clients", "dropped", "policy", "rows", "time")

    def __init__(self) -> None:
        self.policy = PublishedPolicy("", "")
        self.time = 0.0
        """When the policy was last found, in seconds since 1970."""
        self.rows: dict[Row, int] = {}
        self.dropped = 0
        """Messages that no row has."""
        self._clients: Counter[str] = Counter()
        """Rows by client network."""

    def add(self, row: Row, count: int) -> int:
        """Count messages; return how many of them exceed a limit of rows."""
        if row not in self.rows:
            client = client_network(row.ip)
            if len(self.rows) >= DETAILED or self._clients[client] >= CLIENT_DETAILED:
                row = _without_details(row)
            if row not in self.rows:
                if len(self.rows) >= ROWS or self._clients[client] >= CLIENT_ROWS:
                    self.dropped += count
                    return count
                self._clients[client] += 1
        self.rows[row] = self.rows.get(row, 0) + count
        return 0

    def observe(self, policy: PublishedPolicy, time: float) -> None:
        """Keep the last policy."""
        if time >= self.time:
            self.policy, self.time = policy, time

    def merge(self, other: DomainCounts) -> int:
        """Add other counts; return how many of those messages exceed a limit of rows."""
        self.observe(other.policy, other.time)
        self.dropped += other.dropped
        return sum(self.add(row, count) for row, count in other.rows.items())

    def without_details(self) -> DomainCounts:
        """Return the same counts in less room."""
        counts = DomainCounts()
        counts.observe(self.policy, self.time)
        counts.dropped = self.dropped
        for row, count in self.rows.items():
            counts.add(_without_details(row), count)
        return counts

    def encoded(self) -> bytes:
        """Return the counts as JSON."""
        return json.dumps((self.policy, self.time, self.dropped, [*self.rows.items()]), separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, value: bytes) -> DomainCounts:
        """Reverse `encoded`; empty if another version wrote it."""
        counts = cls()
        try:
            policy, time, dropped, rows = json.loads(value)
            counts.policy, counts.time, counts.dropped = PublishedPolicy(*policy), float(time), int(dropped)
            counts.rows = {_row(row): int(count) for row, count in rows}
            counts._clients.update(client_network(row.ip) for row in counts.rows)
        except (ValueError, TypeError):  # there is none, or another version wrote it
            return cls()
        return counts


class _Day(NamedTuple):
    """One day of one domain."""

    day: int
    domain: str


class Summed(NamedTuple):
    """The sums of one domain."""

    value: bytes
    dropped: int
    """Messages that no row has any more."""


class Counted(NamedTuple):
    """What was counted for one day of one domain, and what the state has of it."""

    day: _Day
    counts: DomainCounts
    stored: bytes

    def summed(self) -> Summed:
        """Add up; call it in a thread, because it takes up to 20 ms."""
        sums = DomainCounts.decoded(self.stored)
        dropped = sums.merge(self.counts)
        value = sums.encoded()
        if len(value) > LARGEST:
            value = sums.without_details().encoded()
        return Summed(value, dropped)


class DmarcCounts:
    """Implements `mail_auth.DmarcRecorder`: what one worker counts, and the sums of all."""

    def __init__(
        self, state: KeyedState, now: Callable[[], float], *, worker: int = 0, metrics: Metrics | None = None
    ) -> None:
        """Use the namespace `COUNTS`.

        Args:
            state: where counts are kept.
            now: seconds since 1970.
            worker: see `DailyEntries`.
            metrics: counts messages that reports lack.
        """
        self.entries = DailyEntries(state, COUNTS, now, worker)
        """What was added to the state."""
        self._now = now
        self._metrics = metrics or Uncounted()
        self._open: dict[_Day, DomainCounts] = {}
        """What is not in the state yet."""
        self._open_rows = 0

    def __call__(self, evaluation: DmarcEvaluation) -> None:
        """Count an evaluation, if it passed or failed and the domain asks for reports."""
        answer = evaluation.answer
        record, domain = answer.record, answer.policy_domain
        counted = answer.result in {DmarcResult.PASS, DmarcResult.FAIL}
        if not counted or record is None or not record.aggregate or _DOMAIN_NAME.fullmatch(domain) is None:
            return
        day = _Day(self.entries.today(), domain)
        counts = self._open.get(day)
        if self._open_rows >= OPEN_ROWS or (counts is None and len(self._open) >= DOMAINS):
            self._metrics.count("dmarc_evaluations_dropped")
            return
        if counts is None:
            counts = self._open[day] = DomainCounts()
        rows = len(counts.rows)
        counts.observe(published(domain, record), self._now())
        if counts.add(_row_of(evaluation, record), 1):
            self._metrics.count("dmarc_evaluations_dropped")
        self._open_rows += len(counts.rows) - rows

    @property
    def waiting(self) -> int:
        """Number of domains whose counts are not in the state yet."""
        return len(self._open)

    def take(self) -> Counted | None:
        """Remove and return what was counted for the domain that has waited longest, for `put` or `put_back`.

        None if no domain is waiting.
        """
        if not self._open:
            return None
        day = next(iter(self._open))
        counts = self._open.pop(day)
        self._open_rows -= len(counts.rows)
        return Counted(day, counts, self.entries.get(*day))

    def put(self, counted: Counted, sums: Summed) -> None:
        """Add to the state what was taken."""
        if sums.dropped:
            self._metrics.count("dmarc_evaluations_dropped", amount=sums.dropped)
        self.entries.put(*counted.day, sums.value)

    def put_back(self, counted: Counted) -> None:
        """Keep what was taken for later."""
        counts = self._open.setdefault(counted.day, DomainCounts())
        rows = len(counts.rows)
        if dropped := counts.merge(counted.counts):
            self._metrics.count("dmarc_evaluations_dropped", amount=dropped)
        self._open_rows += len(counts.rows) - rows

    def flush(self) -> None:
        """Add to the state all that was counted."""
        while (counted := self.take()) is not None:
            self.put(counted, counted.summed())


def summed(values: Iterable[bytes]) -> DomainCounts:
    """Return the sums of what each worker stored; they have no rows if nothing can be read; call it in a thread."""
    sums = DomainCounts()
    for value in values:
        sums.merge(DomainCounts.decoded(value))
    return sums


def _row_of(evaluation: DmarcEvaluation, record: DmarcRecord) -> Row:
    answer, spf = evaluation.answer, evaluation.spf
    aligned = {each.method for each in answer.alignment}
    own = answer.author == answer.policy_domain
    enforced = (record.policy if own else record.subdomains) is not DmarcPolicy.NONE
    if answer.result is DmarcResult.PASS:
        disposition, reasons = "pass" if enforced else "none", []
    else:
        disposition = evaluation.disposition.value
        reasons = [Reason(each.type.value, each.comment[:COMMENT]) for each in evaluation.overrides]
        if record.testing and enforced:
            reasons.append(Reason(OverrideType.POLICY_TEST_MODE.value))
        if evaluation.disposition is not answer.policy and not evaluation.overrides:
            reasons.append(Reason(OverrideType.LOCAL_POLICY.value))
    return Row(
        str(parse_ip(evaluation.ip) or evaluation.ip[:TEXT]),
        disposition,
        "pass" if "dkim" in aligned else "fail",
        "pass" if "spf" in aligned else "fail",
        tuple(reasons),
        answer.author[:TEXT],
        evaluation.reverse_path.domain[:TEXT].lower(),
        tuple(
            DkimResult(each.domain[:TEXT].lower(), each.selector[:TEXT], str(each.result))
            for each in evaluation.dkim[:SIGNATURES]
        ),
        () if spf is None else (SpfResult(spf.domain[:TEXT], str(spf.result)),),
    )


def _without_details(row: Row) -> Row:
    return row._replace(sender=None, dkim_results=(), spf_results=())


def _row(members: list[Any]) -> Row:
    """A row from its JSON."""
    row = Row(*members)
    return row._replace(
        reasons=tuple(Reason(*each) for each in row.reasons),
        dkim_results=tuple(DkimResult(*each) for each in row.dkim_results),
        spf_results=tuple(SpfResult(*each) for each in row.spf_results),
    )
