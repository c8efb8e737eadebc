"""Profiling under load: processes, each with many Python threads, results checked bit for bit.

    python bench/load.py [--minutes 10] [--model m.wbcprof]

Images are generated. Prints profiles made, profiles that differed, and the resident memory of each
process as it goes; exits with 1 if any profile differed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from threading import Lock, Thread

from sizes import generated_images
from start import save_generated_model

import wbcprof

SIDES = (72, 120, 200)  # threads of a process work on different sizes at once
IMAGES_PER_SIDE = 8


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def profile_until(end: float, path: str, n_threads: int, reports) -> None:
    """One process: the first profiles, made alone, are what all later ones must equal."""
    model = wbcprof.load(path)
    images = [generated_images(IMAGES_PER_SIDE, side) for side in SIDES]
    expected = [model.profile(batch, n_threads=1).values for batch in images]
    count, lock = Counter(), Lock()

    def work(number: int) -> None:
        turn = number
        while time.time() < end:
            batch, truth = images[turn % len(SIDES)], expected[turn % len(SIDES)]
            values = model.profile(batch, n_threads=1 + turn % 2).values
            with lock:
                count["profiles"] += len(values)
                count["different"] += int((values != truth).any(axis=1).sum())
            turn += 1

    threads = [Thread(target=work, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(10, max(0.1, end - time.time())))
        reports.put((multiprocessing.current_process().name, dict(count), resident_megabytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=8, help="of each process")
    parser.add_argument("--model", type=Path, help="default: a generated one of the paper's size")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        path = options.model or Path(folder, "generated.wbcprof")
        if options.model is None:
            save_generated_model(path)
        end = time.time() + 60 * options.minutes
        arguments = end, str(path), options.threads, reports
        processes = [
            context.Process(target=profile_until, args=arguments, name=f"process {number}")
            for number in range(options.processes)
        ]
        for process in processes:
            process.start()
        memory: dict[str, list[float]] = {process.name: [] for process in processes}
        last: dict[str, dict[str, int]] = {}
        while any(process.is_alive() for process in processes) or not reports.empty():
            if reports.empty():
                time.sleep(0.1)
                continue
            name, last[name], megabytes = reports.get()
            memory[name].append(megabytes)
    total = sum(map(Counter, last.values()), Counter())
    print(f"{total['profiles']} profiles, {total['different']} different")
    for name, found in memory.items():
        marks = found[0], found[len(found) // 4], found[-1], max(found)
        print(f"{name}: resident MB, first report, after a quarter, at the end, at most: "
              + ", ".join(f"{mark:.0f}" for mark in marks))  # fmt: skip
    failed = [process.name for process in processes if process.exitcode]
    if failed or total["different"] or not total["profiles"]:
        sys.exit(f"failed: {failed or 'profiles differ'}")


if __name__ == "__main__":
    main()
