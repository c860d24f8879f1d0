"""aiosmtpd on the sessions of ironpost: `from ironpost.compat.aiosmtpd.controller import Controller`.

Promises: the modules `smtp`, `controller`, `handlers`, `lmtp`, `proxy_protocol` and `main` have the names, arguments,
attributes and hooks of aiosmtpd 1.4.6, which is neither imported nor needed. A native session reads the commands and
the content, and drives STARTTLS; the class `SMTP` replies in aiosmtpd's words. docs/compat.md lists what differs.
"""

from __future__ import annotations

import asyncio
import warnings

__version__ = "1.4.6"
"""The version of aiosmtpd that this package replaces."""


def _get_or_new_eventloop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this thread; create it if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return asyncio.get_event_loop()
        except (DeprecationWarning, RuntimeError):
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            return loop
