"""Garbage collector settings for a process that runs for months.

Nearly all objects that a message creates are freed when their last reference is dropped. Objects created at start stay
until the end, but with default settings the collector traverses them again and again.
"""

from __future__ import annotations

import gc

THRESHOLDS = (10_000, 20, 50)
"""Thresholds of `gc.set_threshold`: allocations minus deallocations before a collection of the youngest generation, and
collections of each generation before one of the next."""


def settle() -> None:
    """Exclude all existing objects from collection; called once, before the first client is accepted."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
