"""How many threads to use."""

from __future__ import annotations

import os


def resolve_threads(n_threads: int | None) -> int:
    """`n_threads`, or the number of CPUs available to this process when it is None."""
    if n_threads is None:
        return len(os.sched_getaffinity(0))
    if n_threads < 1:
        raise ValueError(f"n_threads must be at least 1 or None, got {n_threads}")
    return int(n_threads)
