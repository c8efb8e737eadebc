"""How many threads: the one place that decides."""

from __future__ import annotations

import os

_forked = False


def resolve_threads(n_threads: int | None = None) -> int:
    """Number of threads to use.

    Parameters
    ----------
    n_threads : int or None
        At least 1. None takes the environment variable ``WBCPROF_NUM_THREADS`` or, where that is
        unset, every CPU that this process may use.

    Returns
    -------
    int
        Always 1 in a forked child: OpenMP threads do not survive a fork, and the parent may have
        used them. Start processes with "spawn" or "forkserver" to have threads in them.

    Raises
    ------
    ValueError
        If the number asked for is not a positive integer.
    """
    source = "n_threads"
    value: object = n_threads
    if n_threads is None:
        source = "WBCPROF_NUM_THREADS"
        value = os.environ.get(source) or _available_cpus()
    try:
        count = int(str(value))
    except ValueError:
        count = 0
    if count < 1:
        raise ValueError(f"{source} must be a positive integer, got {value!r}")
    return 1 if _forked else count


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
