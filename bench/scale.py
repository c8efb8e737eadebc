"""Many images: where the time goes, threads, processes, a Dask cluster, memory, bytes per profile.

    python bench/scale.py FOLDER [--model m.wbcprof] [--only parts,threads,dask,memory,bytes]

Without `--model`, one of 1024 generated signatures of 20 x 20 px, step 5, mean pooling is used:
the paper's sizes. Images are taken in turn from all over FOLDER, and again from its start where it
holds fewer than are asked for. Prints Markdown; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from start import save_generated_model

import wbcprof
from wbcprof import _core
from wbcprof.images.source import SUFFIXES, open_images
from wbcprof.scale.shards import profile_to_shards

MEASUREMENTS = ("parts", "threads", "dask", "memory", "bytes")
SHARD = 1000
N_WORKERS = 4


def seconds(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def alternate(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each job, in turns, so that a busy moment slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            times[name].append(seconds(job))
    return times


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def spread(values: Sequence[float]) -> str:
    """Half the distance between fastest and slowest, relative to the median."""
    return f"{(max(values) - min(values)) / 2 / statistics.median(values):.0%}"


def take(files: list[Path], n: int) -> list[Path]:
    return list(islice(cycle(files), n))


def measure_parts(model, files: list[Path], options) -> None:
    """Decoding alone, kernel alone, and both, with one thread."""
    files = take(files, options.images)
    cells = [cell.pixels for cell in open_images(files)]
    by_shape: dict[tuple, list[np.ndarray]] = {}
    for cell in cells:
        by_shape.setdefault(cell.shape, []).append(cell)
    stacks = [np.stack(same) for same in by_shape.values()]
    times = alternate(
        {
            "decoding": lambda: sum(1 for _ in open_images(files)),
            "kernel, images in memory": lambda: [model.profile(s, n_threads=1) for s in stacks],
            "from files to profiles": lambda: model.profile(files, n_threads=1),
        },
        options.repeats,
    )
    whole = statistics.median(times["from files to profiles"])
    print(f"### Where the time goes: {len(files)} images, one kernel thread\n")
    print_table(
        ("part", "ms per image", "of the whole", "spread"),
        [
            (
                name,
                f"{1e3 * statistics.median(each) / len(files):.2f}",
                f"{statistics.median(each) / whole:.1%}",
                spread(each),
            )
            for name, each in times.items()
        ],
    )


_process_model = None


def load_in_process(model_path: str, warm_up: list[Path]) -> None:
    global _process_model
    _process_model = wbcprof.load(model_path)
    _process_model.profile(warm_up, n_threads=1)


def profile_in_process(files: list[Path]) -> int:
    return len(_process_model.profile(files, n_threads=1))


def measure_threads(model, files: list[Path], options) -> None:
    """One thread, two threads, and two processes with one thread each."""
    files = take(files, options.images)
    with ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), load_in_process, (options.model, files[:2])
    ) as pool:
        list(pool.map(profile_in_process, [files[:2]] * 8))
        times = alternate(
            {
                "one thread": lambda: model.profile(files, n_threads=1),
                "two threads": lambda: model.profile(files, n_threads=2),
                "two processes": lambda: list(
                    pool.map(profile_in_process, [files[::2], files[1::2]])
                ),
            },
            options.repeats,
        )
    one = statistics.median(times["one thread"])
    print(f"### Threads and processes: {len(files)} images, from files to profiles\n")
    print_table(
        ("with", "ms per image", "times as fast", "spread"),
        [
            (
                name,
                f"{1e3 * statistics.median(each) / len(files):.2f}",
                f"{one / statistics.median(each):.2f}",
                spread(each),
            )
            for name, each in times.items()
        ],
    )


def measure_dask(model, files: list[Path], options) -> None:
    """A cluster of processes on this machine against the same run without one."""
    import distributed

    files = take(files, options.dask_images)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        starting = time.perf_counter()
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=N_WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
            )
        )
        client = stack.enter_context(distributed.Client(cluster))
        starting = time.perf_counter() - starting
        runs = 0
        used: dict[str, list[float]] = {"this process": [], "Dask": []}

        def processor_seconds() -> float:
            return time.process_time() + sum(client.run(time.process_time).values())

        def run(name: str, where) -> None:
            nonlocal runs
            runs += 1
            before = processor_seconds()
            profile_to_shards(
                model, files, scratch / str(runs), shard_size=SHARD, client=where,
                n_threads=options.threads,
            )  # fmt: skip
            used[name].append(processor_seconds() - before)

        times = alternate(
            {
                "this process": lambda: run("this process", None),
                "Dask": lambda: run("Dask", client),
            },
            options.repeats,
        )
        tables = [sorted((scratch / name).glob("*.parquet")) for name in ("1", "2")]
        same = [a.read_bytes() == b.read_bytes() for a, b in zip(*tables, strict=True)]
    here = statistics.median(times["this process"])
    print(
        f"### Dask: {len(files)} images to shards of {SHARD}; {N_WORKERS} worker processes of one "
        f"thread against {options.threads} threads of one process\n"
    )
    print_table(
        ("with", "seconds", "ms per image", "against this process", "spread", "CPU seconds"),
        [
            (
                name,
                f"{statistics.median(each):.2f}",
                f"{1e3 * statistics.median(each) / len(files):.2f}",
                f"{statistics.median(each) / here:.2f}",
                spread(each),
                f"{statistics.median(used[name]):.1f}",
            )
            for name, each in times.items()
        ],
    )
    print(f"Shards of both have the same bytes: {all(same)}. Every run sends the model anew.")
    print(f"Starting the cluster took {starting:.1f} s, which is not counted.\n", flush=True)


def resident_mb() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def measure_memory(model, files: list[Path], options) -> None:
    """Memory and rate over a long run."""
    files = take(files, options.long_images)
    marks = [len(files) * tenth // 10 for tenth in range(1, 11)]
    rows, last = [], (0, time.perf_counter())

    def progress(done: int, total: int) -> None:
        nonlocal last
        while marks and done >= marks[0]:
            marks.pop(0)
            now = time.perf_counter()
            rate = 1e3 * (now - last[1]) / max(1, done - last[0])
            rows.append((done, f"{now - started:.1f}", f"{rate:.2f}", f"{resident_mb():.0f}"))
            last = done, now

    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        profile_to_shards(
            model, files, Path(scratch) / "out", shard_size=SHARD, n_threads=options.threads,
            progress=progress,
        )  # fmt: skip
        finished = time.perf_counter() - started
    print(f"### A long run: {len(files)} images to shards of {SHARD}, {options.threads} threads\n")
    print_table(("images", "seconds", "ms per image since the last line", "resident MB"), rows)
    print(f"All in {finished:.1f} s, {1e3 * finished / len(files):.2f} ms per image.\n", flush=True)


def measure_bytes(model, files: list[Path], options) -> None:
    """Size on disk of the profiles of distinct images."""
    files = files[:SHARD]
    with tempfile.TemporaryDirectory() as scratch:
        made = profile_to_shards(model, files, Path(scratch) / "out", n_threads=options.threads)
        size = sum(path.stat().st_size for path in made.folder.glob("*.parquet"))
    n_features = len(model.feature_names)
    print(f"### Size: {made.n_profiles} profiles of distinct images, parquet\n")
    print_table(
        ("features", "bytes per profile", "of float32 values alone"),
        [
            (
                n_features,
                round(size / made.n_profiles),
                f"{size / made.n_profiles / n_features / 4:.0%}",
            )
        ],
    )


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(
                line.split(":")[1].strip() for line in info if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help=",".join(MEASUREMENTS))
    parser.add_argument("--images", type=int, default=200, help="of parts and threads")
    parser.add_argument("--dask-images", type=int, default=2000)
    parser.add_argument("--long-images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(MEASUREMENTS):
        parser.error(f"--only takes {','.join(MEASUREMENTS)}; got {','.join(sorted(unknown))}")

    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    order = np.random.default_rng(0).permutation(len(files))
    files = [files[i] for i in order]
    with tempfile.TemporaryDirectory() as scratch:
        if options.model is None:
            options.model = str(Path(scratch) / "generated.wbcprof")
            save_generated_model(Path(options.model))
        model = wbcprof.load(options.model)
        model.profile(files[:2], n_threads=1)
        layer = model.layers[0]
        print(
            f"wbcprof {wbcprof.__version__}, {_core.instruction_set()}, {processor()}, "
            f"{len(os.sched_getaffinity(0))} CPUs, load {os.getloadavg()[0]:.1f} at the start.\n"
            f"Model: {layer.n_signatures} signatures of {layer.patch_size} px, step {layer.step}, "
            f"{len(model.feature_names)} features. Images: {len(files)} files, the first of "
            f"{'x'.join(map(str, next(iter(open_images(files[:1]))).pixels.shape))}.\n",
            flush=True,
        )
        for name in chosen:
            globals()[f"measure_{name}"](model, files, options)


if __name__ == "__main__":
    main()
