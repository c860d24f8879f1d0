"""The SMTP wire: bytes to values and values to bytes, with no session, no socket and no policy.

Promises: one interface (`ironpost.wire.interface`) over two implementations, Rust and pure Python; `IMPLEMENTATION`
tells which one runs. `IRONPOST_WIRE=native` or `pure` chooses and is strict; unset, native is taken where it is there.
Refuses: any other value of `IRONPOST_WIRE`, with ImportError.
Standards: those of `ironpost.wire.interface`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ironpost.wire.interface import *  # noqa: F403

_choice = os.environ.get("IRONPOST_WIRE", "")
if _choice not in ("", "native", "pure"):
    raise ImportError(f"IRONPOST_WIRE is {_choice!r}; it must be 'native', 'pure' or unset")

if TYPE_CHECKING:
    from ironpost.wire.pure import *  # noqa: F403
elif _choice == "native":
    from ironpost.wire._native import *  # noqa: F403
elif _choice == "pure":
    from ironpost.wire.pure import *  # noqa: F403
else:
    try:
        from ironpost.wire._native import *  # noqa: F403
    except ImportError:
        from ironpost.wire.pure import *  # noqa: F403

__all__ = [name for name in globals() if not name.startswith("_")]
