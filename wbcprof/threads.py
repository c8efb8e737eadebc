"""How many threads, of ours and of BLAS: the one place that decides."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

_PRODUCT_ROWS = 256
T = TypeVar("T")

_forked = False
_asked_for_several = False
# The process that multiprocessing forks others from; since Python 3.14 it imports what they import.
_is_fork_server = any("multiprocessing.forkserver" in word for word in sys.orig_argv)


def resolve_threads(n_threads: int | None = None) -> int:
    """Number of threads to use.

    Parameters
    ----------
    n_threads : int or None
        At least 1. No more are taken than this process has CPUs (of its affinity mask), nor than
        can be started now. None takes the environment variable ``WBCPROF_NUM_THREADS`` or, where
        that is unset, as many as the CPU quota of its control groups allows (``docker run
        --cpus``), rounded up. The quota is read once per process.

    Returns
    -------
    int
        Always 1 in a child that was forked from a process that may have used OpenMP, whose threads
        do not survive a fork. Start processes with "spawn" or "forkserver" to have threads in them.

    Raises
    ------
    ValueError
        If the number asked for is not a positive integer.
    """
    global _asked_for_several
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
    if _forked:
        return 1
    count = _startable(min(count, _most_threads()))
    _asked_for_several = _asked_for_several or count > 1
    return count


_started = threading.local()


def _startable(count: int) -> int:
    """`count` if so many threads, the calling one included, can be started, else 1: where one
    cannot, OpenMP ends the process, and memory is short of what the others would work in. Asked
    once of each thread that calls, since each has a team of its own."""
    if count <= getattr(_started, "count", 1):
        return count
    ended, threads = threading.Event(), []
    try:
        for _ in range(count - 1):
            thread = threading.Thread(target=ended.wait, daemon=True)
            thread.start()
            threads.append(thread)
        _started.count = count
    except (RuntimeError, MemoryError):
        count = 1
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return count


class Abandoned(BaseException):
    """Raised in a thread of which nobody takes what it makes; no error of an image."""


_task = threading.local()


def work_until(ended: threading.Event) -> None:
    """For the threads of a pool, as they start: `go_on` ends what they do once `ended` is set."""
    _task.ended = ended


def go_on() -> None:
    """Said between the steps of what takes seconds, so that an interrupt need not wait for it."""
    ended = getattr(_task, "ended", None)
    if ended is not None and ended.is_set():
        raise Abandoned


def left_at_once(call: Callable[[], T]) -> T:
    """What a call of a library gives that takes seconds and answers no signal: the main thread
    waits for it elsewhere, and leaves it there where it is interrupted."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    found: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(call())
        except BaseException as error:
            failed.append(error)

    try:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
    except RuntimeError:  # of no thread, here
        return call()
    while thread.is_alive():
        thread.join(0.1)
    if failed:
        raise failed[0]
    return found[0]


_lock = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """Held while what all threads share is made or changed. A signal handler may come in; a child
    that is forked meanwhile has a lock of its own, so nothing is shared but what is whole."""
    with _lock:
        yield


_holders = 0
_blas_before: list[int] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold the BLAS pools of NumPy and SciPy to one thread. Of calls that overlap, the last to end
    gives back what was before the first: no bits depend on when others end, and none of it stays.
    """
    global _holders, _blas_before
    with alone():
        if not _holders:
            _blas_before = [pool.num_threads for pool in _blas_pools()]
        _holders += 1
        _set_blas_threads([1] * len(_blas_before))
    try:
        yield
    finally:
        with alone():
            _holders -= 1
            if not _holders:
                _set_blas_threads(_blas_before)


def _set_blas_threads(numbers: list[int]) -> None:
    for pool, number in zip(_blas_pools(), numbers, strict=True):
        # Since threadpoolctl 3.8 the thread that has set one is alone in changing it.
        let_go = getattr(pool, "clear_controlling_thread", lambda force: None)
        let_go(force=True)
        pool.set_num_threads(number)
        let_go(force=True)


def product(a: np.ndarray, b: np.ndarray, n_threads: int | None = None) -> np.ndarray:
    """Matrix product a @ b whose bits do not depend on the number of threads.

    A BLAS that splits a product over its own threads may round differently for each number of
    them. Here the rows of `a` are cut into blocks of fixed size and each thread takes whole
    blocks; `one_blas_thread` must hold BLAS to one thread meanwhile.
    """
    from concurrent.futures import ThreadPoolExecutor

    out = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b))
    blocks = [slice(i, i + _PRODUCT_ROWS) for i in range(0, len(a), _PRODUCT_ROWS)]
    with ThreadPoolExecutor(resolve_threads(n_threads)) as pool:
        list(pool.map(lambda rows: np.matmul(a[rows], b, out=out[rows]), blocks))
    return out


@lru_cache(maxsize=1)
def _blas_pools() -> list[Any]:
    import scipy.linalg  # noqa: F401  (its BLAS must be loaded before it can be held)
    from threadpoolctl import ThreadpoolController

    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _most_threads() -> int:
    return _cpus()


def _available_cpus(root: Path = Path("/")) -> int:
    return min([_cpus(), *_cpu_quotas(root)])


@lru_cache(maxsize=1)
def _cpu_quotas(root: Path) -> tuple[int, ...]:
    """CPUs, rounded up, granted by each control group that has a quota and this process in it."""
    quotas = []
    for group in _control_groups(root):
        for names in ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]:
            words = "".join(_read(group / name) for name in names).split()
            try:  # "max" and -1: no quota here
                quota, period = map(int, words)
            except ValueError:
                continue
            if quota > 0 and period > 0:
                quotas.append(-(-quota // period))
    return tuple(quotas)


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the groups around this process, of version 2 and of version 1's CPU controller."""
    folder = "/sys/fs/cgroup"
    mounts = [("cgroup2", "/", folder), ("cgroup2", "/", f"{folder}/unified")]
    mounts += [("cgroup", "/", f"{folder}/cpu"), ("cgroup", "/", f"{folder}/cpu,cpuacct")]
    for line in _read(root / "proc/self/mountinfo").splitlines():
        match [part.split() for part in line.split(" - ")]:
            case [[_, _, _, top, point, *_], [kind, _, options]]:
                if kind == "cgroup2" or "cpu" in options.split(","):
                    mounts.append((kind, top, point))
    for line in _read(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for kind, top, point in mounts:
            if kind == ("cgroup" if controllers else "cgroup2"):
                group = PurePosixPath(path)  # unseen from here where it is not below `top`
                inside = group.relative_to(top).parts if group.is_relative_to(top) else ()
                for depth in range(0 if ".." in inside else len(inside), -1, -1):
                    yield root.joinpath(point.lstrip("/"), *inside[:depth])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") + "\n"
    except (OSError, ValueError):
        return ""


def _note_fork() -> None:
    global _forked, _is_fork_server, _lock
    _lock = threading.RLock()
    _forked = _forked or _asked_for_several or not _is_fork_server
    _is_fork_server = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
