"""The registry of operations: one line for each. docs/architecture.md says how to add one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ironpost.operations import (
    backup,
    dane,
    destinations,
    directory,
    dkim,
    dkim_keys,
    dmarc,
    dmarc_reports,
    explain,
    metrics,
    mtasts,
    queue,
    reload,
    spf,
    status,
    tlsrpt,
    trace,
    users,
)

if TYPE_CHECKING:
    from ironpost.operations.operation import Operation

OPERATIONS: Final[tuple[Operation[Any, Any, Any], ...]] = (
    status.STATUS,
    metrics.METRICS,
    reload.RELOAD,
    explain.EXPLAIN,
    directory.FIND,
    mtasts.CHECK,
    mtasts.SHOW,
    dane.CHECK,
    tlsrpt.CHECK,
    spf.CHECK,
    dkim.CHECK,
    dkim.VERIFY,
    dmarc.CHECK,
    dmarc.EVALUATE,
    dmarc_reports.REPORT,
    dkim_keys.NEW,
    dkim_keys.SHOW,
    queue.LIST,
    queue.SHOW,
    queue.TALLY,
    queue.RETRY,
    queue.HOLD,
    queue.RELEASE,
    queue.BOUNCE,
    queue.EDIT,
    queue.DROP,
    destinations.SHAPE,
    destinations.DESTINATIONS,
    destinations.SUSPEND,
    destinations.RESUME,
    trace.TRACE,
    trace.EXPLAIN,
    trace.QUERY,
    users.LIST,
    users.ADD,
    users.REMOVE,
    backup.BACKUP,
    backup.RESTORE,
)
