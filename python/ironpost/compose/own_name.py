"""Determines the host name of the server.

Promises: DNS delays the start by at most `NAME_SECONDS`; a name that other servers could not use is never returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING

from ironpost import wire
from ironpost.model.text import complaint

if TYPE_CHECKING:
    from ironpost.config import Configuration

NAME_SECONDS = 5.0
"""Timeout in seconds for looking up the machine's full name."""

log = logging.getLogger("ironpost.compose")


async def own_name(configuration: Configuration) -> str:
    """Return the host name of the server: as configured, else the machine's full name, else its short name.

    Looking up the full name may query DNS; it runs in a thread and is abandoned after `NAME_SECONDS`. A lookup, and a
    name that cannot be used, are logged.
    """
    if configuration.hostname is not None:
        return configuration.hostname
    short = socket.gethostname()
    names = [short]
    if "." not in short:
        log.info("no hostname is configured: looking up the full name of %a, for at most %g s", short, NAME_SECONDS)
        full = await _full_name(short)
        if full is None:
            log.warning("the full name of %a was not found in %g s: configure hostname", short, NAME_SECONDS)
        elif full != short:
            names.insert(0, full)
    for name in names:
        try:
            wire.parse_mailbox(f"x@{name}")
        except wire.WireFault as fault:
            why = complaint(f"x@{name}", fault, ahead=2)
            log.warning("the machine's name %a is not a valid mail server name (%s): configure hostname", name, why)
        else:
            return name.lower()
    log.warning("this server's name in EHLO is localhost, which other servers may refuse: configure hostname")
    return "localhost"


async def _full_name(short: str) -> str | None:
    """Call `socket.getfqdn` in a daemon thread; None if it takes too long."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[str] = loop.create_future()

    def settle(name: str) -> None:
        if not found.done():
            found.set_result(name)

    def look() -> None:
        name = socket.getfqdn(short)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, name)

    threading.Thread(target=look, name="ironpost-name", daemon=True).start()
    try:
        return await asyncio.wait_for(found, NAME_SECONDS)
    except TimeoutError:
        return None
