"""Processes, threads, subinterpreters, Ctrl-C: each in a process of its own, with a time limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import pytest

LIMIT = 120  # seconds, for a busy machine; each of these takes a few seconds
SETUP = """
    import sys
    import numpy as np
    import wbcprof
    from wbcprof import _core
    from wbcprof.model.encoder import Encoder
    from wbcprof.model.sparse import gram_matrix, sparse_code
    from wbcprof import threads
    from wbcprof.threads import one_blas_thread, resolve_threads

    threads._most_threads = lambda: 16  # more threads than CPUs, on any machine
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 50, 44, 3), dtype=np.uint8)
    encoder = Encoder(
        rng.normal(size=(40, 8, 8, 3)) / 14, rng.normal(size=40), np.ones(40),
        nonlinearity="sigmoid", step=2,
    )
    patches = rng.normal(size=(300, 30)).astype(np.float32)
    signatures = rng.normal(size=(50, 30)).astype(np.float32) / 6

    def work(n_threads):
        profiles = encoder.encode_pool(images, n_threads=n_threads)
        codes = sparse_code(patches, signatures, 0.1, n_threads=n_threads).codes
        learnt = wbcprof.PSD(20, max_iter=1, random_state=0, n_threads=n_threads).fit(patches)
        return [profiles, codes.toarray(), learnt.components_, resolve_threads(n_threads)]

    def check(result, n_threads):
        assert result[-1] == n_threads, (result[-1], n_threads)
        for got, wanted in zip(result[:-1], expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
"""


def start(folder, code, setup=SETUP):
    """A Python process that runs `setup` and `code` from a file, as multiprocessing needs."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(setup) + textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, script], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def run(folder, code, setup=SETUP):
    process = start(folder, code, setup)
    try:
        out, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return out


@pytest.mark.parametrize("method, n_threads", [("fork", 1), ("spawn", 2), ("forkserver", 2)])
def test_child_processes_compute_the_same(tmp_path, method, n_threads):
    code = f"""
        if __name__ == "__main__":
            import multiprocessing
            expected = work(2)[:-1]
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                for result in pool.map(work, [2, 2]):
                    check(result, {n_threads})
    """
    run(tmp_path, code)


@pytest.mark.parametrize("used, n_threads", [("", 2), ("work(2)", 1)])
def test_children_of_a_fork_server_have_threads_unless_it_used_them(tmp_path, used, n_threads):
    (tmp_path / "loaded.py").write_text(textwrap.dedent(SETUP) + used)
    code = f"""
        if __name__ == "__main__":
            import multiprocessing
            expected = work(2)[:-1]
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["loaded"])
            import loaded
            with context.Pool(2) as pool:
                for result in pool.map(loaded.work, [2, 2]):
                    check(result, {n_threads})
    """
    run(tmp_path, code)


def test_a_fork_while_threads_are_in_the_kernels(tmp_path):
    code = """
        import os, threading
        expected = work(2)[:-1]
        stop = threading.Event()

        def keep_busy():
            while not stop.is_set():
                encoder.encode_pool(images, n_threads=2)

        busy = [threading.Thread(target=keep_busy) for _ in range(2)]
        [thread.start() for thread in busy]
        for _ in range(3):
            child = os.fork()
            if child == 0:
                check([*work(2)[:2], *expected[2:], resolve_threads(2)], 1)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        [thread.join() for thread in busy]
    """
    run(tmp_path, code)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib_backends_compute_the_same(tmp_path, backend):
    code = f"""
        if __name__ == "__main__":
            from joblib import Parallel, delayed
            expected = work(1)[:-1]
            for result in Parallel(n_jobs=3, backend={backend!r})(delayed(work)(2) for _ in "123"):
                check(result, 2)
    """
    run(tmp_path, code)


def test_many_threads_beside_busy_blas_pools_compute_the_same(tmp_path):
    code = """
        from concurrent.futures import ThreadPoolExecutor
        expected = work(1)[:-1]
        square = rng.normal(size=(300, 300))

        def mixed(i):
            if i % 3 == 0:
                return np.linalg.norm(square @ square)
            if i % 3 == 1:
                with one_blas_thread():
                    check(work(2), 2)
            check(work(1 + i % 4), 1 + i % 4)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(mixed, range(48)))
    """
    run(tmp_path, code)


@pytest.mark.parametrize("first", ["subinterpreter", "main"])
def test_subinterpreters_are_refused(tmp_path, first):
    code = f"""
        try:
            import _interpreters as interpreters
            made = [interpreters.create("legacy"), interpreters.create("isolated")]
        except ImportError:
            import _xxsubinterpreters as interpreters
            made = [interpreters.create(isolated=False)]
        if {first!r} == "main":
            import wbcprof
        for one in made:
            try:
                problem = interpreters.run_string(one, "import wbcprof")
                print(problem.type.__name__, problem.msg)
            except Exception as error:
                print(type(error).__name__, error)
            interpreters.destroy(one)
    """
    lines = run(tmp_path, code, "").splitlines()
    assert lines
    for line in lines:
        assert "ImportError" in line and "interpreter" in line, line


LONG = {
    "many images": """
        images = np.zeros((3000, 120, 120, 3), np.uint8)
        print("ready", flush=True)
        slow.encode_pool(images, n_threads=2)
    """,
    "one large image": """
        image = rng.integers(0, 256, (1, 2500, 2500, 3), dtype=np.uint8)
        slow.prepare(2500, 2500)
        print("ready", flush=True)
        slow.encode_pool(image, n_threads=2)
    """,
    "sparse codes": """
        patches = rng.normal(size=(4000, 300)).astype(np.float32)
        signatures = rng.normal(size=(1024, 300)).astype(np.float32)
        print("ready", flush=True)
        sparse_code(patches, signatures, 0.1, tol=1e-7, n_threads=2)
    """,
    "correlation": """
        rows, packed = np.ones((20000, 1000), np.float32), np.ones((64, 1000, 32), np.float32)
        out = np.empty((20000, 2048), np.float32)
        print("ready", flush=True)
        _core.correlate(rows, packed, out)
    """,
    "learning": """
        from wbcprof import _learn
        signatures, C = np.ones((2, 2000, 1000), np.float32)
        A, scratch = np.ones((2000, 2000), np.float32), np.empty((2, 64, 1000), np.float32)
        print("ready", flush=True)
        for _ in range(100):
            _learn.update_signatures(signatures, A, C, *scratch, 2)
    """,
}


@pytest.mark.parametrize("job", LONG)
def test_an_interrupt_ends_a_long_call(tmp_path, job):
    """Each would go on to its end otherwise, and the process end well."""
    setup = (
        SETUP
        + """
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    _core.cap_instruction_set("scalar")
    slow = Encoder(
        rng.normal(size=(512, 20, 20, 3)) / 35, rng.normal(size=512), np.ones(512),
        nonlinearity="sigmoid", step=1, form="direct",
    )
    """
    )
    process = start(tmp_path, LONG[job], setup)
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors
