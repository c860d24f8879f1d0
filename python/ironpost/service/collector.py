"""The garbage collector of a process that serves for months.

Almost everything a message makes is freed by its last reference. What was loaded at the start stays to the end, and
the collector's default is to look at all of it again and again.
"""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 20, 50)
"""Containers made and not freed before the youngest are looked at, and how many such looks before the older ones."""


def settle() -> None:
    """Call it once, when everything is loaded and before the first client."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
