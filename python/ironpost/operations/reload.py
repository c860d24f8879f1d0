"""Operation `reload`: make a running server reload its configuration."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ironpost.config import ConfigError
from ironpost.operations.operation import EmptyRequest, Operation, Scope, SilentWorker
from ironpost.processes.requests import RequestRefused, RequestTimedOut

if TYPE_CHECKING:
    from ironpost.operations.context import ControlProcess

log = logging.getLogger("ironpost.compose")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The result of a reload."""

    message: str
    """A sentence for the operator."""
    news: list[str] = field(default_factory=list)
    """Changes in certificates and accounts that were reloaded, a sentence each."""
    silent: list[SilentWorker] = field(default_factory=list)
    """Workers that did not confirm the new configuration."""


async def _reload(process: ControlProcess, _request: EmptyRequest) -> Reloaded:
    try:
        reloaded = await process.apply_reload()
    except (ConfigError, RequestRefused) as error:
        log.error("reload failed; the old configuration stays in effect: %s", error)
        kind = RequestTimedOut if isinstance(error, RequestTimedOut) else RequestRefused
        raise kind(f"the old configuration stays in effect\n{error}") from None
    log.info(reloaded.message)
    return reloaded


RELOAD: Final = Operation("reload", EmptyRequest, Reloaded, Scope.ONE, _reload)
