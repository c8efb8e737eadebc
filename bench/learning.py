"""Learning signatures against spams and scikit-learn: objective against time, memory, scaling.

    python bench/learning.py [--patches 100000] [--iterations 20] [--threads N] [--limit 900]
    python bench/learning.py --scaling     # 125,000 to a million patches, one pass each
    python bench/learning.py --encoders    # prediction against optimal codes, every encoder
    python bench/learning.py --quick       # a small run of the same table

Patches are 20 x 20 x 3, inverted, dataset mean removed, rms norm 1, from real or generated cells
(see `cells.py`). Every contender runs in a process of its own with the same threads:

wbcprof       PSD at its defaults, rectified encoder included, one pass a time
spams         trainDL(mode=2, posAlpha=True, batchsize=512), continued 10 batches a time
scikit-learn  MiniBatchDictionaryLearning(positive_code=True, fit_algorithm="cd", batch_size=512),
              partial_fit one batch a time

Between the pieces, off the clock, the objective is measured on 1,000 held-out patches: the mean of
1/2 ||x - zB||^2 + alpha ||z||_1 over optimal non-negative codes z, rows of B scaled to norm 1.
Peers stop after the limit, in seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from cells import PBC, training_cells
from sparse_code import PATCH
from threadpoolctl import threadpool_limits

from wbcprof.learning.profiler import PRESETS
from wbcprof.learning.psd import PSD
from wbcprof.learning.sample import PatchRows, PatchStream, crop_centre, sample_patches
from wbcprof.model.encoder import NONLINEARITIES
from wbcprof.model.preprocessing import Preprocessing, pixel_table
from wbcprof.model.sparse import sparse_code

ALPHA, BATCH, HELD_OUT = 0.05, 512, 1000
CONTENDERS = ("wbcprof", "spams", "scikit-learn")
TABLE = pixel_table("inverted")


def draw(folder: Path, n: int) -> None:
    """Training and held-out grey levels, in files for the contenders."""
    cells = training_cells()
    for name, count, seed in (("train", n, 0), ("test", HELD_OUT, 1)):
        levels = sample_patches(cells, len(cells), PATCH, count, seed)
        np.save(folder / name, np.random.default_rng(seed).permutation(levels))


class Judge:
    """Objective of signatures on held-out patches."""

    def __init__(self, folder: Path, levels: np.ndarray):
        self.preprocessing = Preprocessing("dataset_mean").fit(TABLE[levels[:30_000]])
        self._x = self.preprocessing.apply(TABLE[np.load(folder / "test.npy")])[0]

    def __call__(self, signatures: np.ndarray) -> float:
        norms = np.linalg.norm(signatures, axis=1)
        b = (signatures[norms > 1e-6] / norms[norms > 1e-6, None]).astype(np.float32)
        z = sparse_code(self._x, b, ALPHA, positive=True, tol=1e-5).codes
        loss = 0.5 * np.sum((self._x - z @ b) ** 2) + ALPHA * z.sum()
        return float(loss / len(self._x))


def wbcprof_pieces(levels, judge, options):
    """Yield signatures after each pass, and passes made."""
    psd = PSD(options.signatures, alpha=ALPHA, random_state=0, n_threads=options.threads)
    rows = PatchRows(levels, TABLE)
    for iteration in range(options.iterations):
        psd.partial_fit(rows)
        yield psd.components_, iteration + 1


def spams_pieces(levels, judge, options):
    """As `wbcprof_pieces`, for ten batches a time."""
    import spams

    columns = np.asfortranarray(judge.preprocessing.apply(TABLE[levels])[0].T)
    start = np.random.default_rng(0).permutation(len(levels))[: options.signatures]
    d, model, batches = np.asfortranarray(columns[:, start]), None, 0
    d /= np.maximum(np.linalg.norm(d, axis=0), 1e-6)
    yield d.T, 0  # the clock starts with the patches in its layout
    while batches * BATCH < options.iterations * len(levels):
        d, model = spams.trainDL(
            columns, return_model=True, model=model, D=d, lambda1=ALPHA, mode=2, posAlpha=True,
            batchsize=BATCH, iter=10, numThreads=options.threads, verbose=False,
        )  # fmt: skip
        batches += 10
        yield d.T, batches * BATCH / len(levels)


def sklearn_pieces(levels, judge, options):
    """As `wbcprof_pieces`, for one batch a time."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    rng = np.random.default_rng(0)
    model = MiniBatchDictionaryLearning(
        options.signatures, alpha=ALPHA, batch_size=BATCH, fit_algorithm="cd", positive_code=True,
        n_jobs=options.threads, random_state=0,
        dict_init=judge.preprocessing.apply(TABLE[levels[: options.signatures]])[0],
    )  # fmt: skip
    for batch in range(options.iterations * len(levels) // BATCH):
        model.partial_fit(
            judge.preprocessing.apply(TABLE[levels[rng.integers(len(levels), size=BATCH)]])[0]
        )
        yield model.components_, (batch + 1) * BATCH / len(levels)


def contend(options) -> None:
    """Run one contender; print its curve and peak memory as JSON."""
    pieces = {"wbcprof": wbcprof_pieces, "spams": spams_pieces, "scikit-learn": sklearn_pieces}
    folder = Path(options.folder)
    levels = np.load(folder / "train.npy")
    judge = Judge(folder, levels)
    curve, seconds = [], 0.0
    warnings.simplefilter("ignore")
    run = pieces[options.contender](levels, judge, options)
    with threadpool_limits(options.threads, user_api="blas"):
        while seconds < options.limit:
            started = time.perf_counter()
            piece = next(run, None)
            if piece is None:
                break
            signatures, passes = piece
            seconds = 0.0 if passes == 0 else seconds + time.perf_counter() - started
            curve.append((seconds, passes, judge(signatures)))
    print(json.dumps({"curve": curve, "peak": peak_bytes()}))


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def child(*arguments) -> dict | None:
    """Run this script in a process of its own; None where it cannot (a peer is missing)."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(f"left out: {done.stderr.strip().splitlines()[-1]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def reach(curve, objective) -> float:
    """Seconds until the objective, NaN if never."""
    return next((t for t, _, value in curve if t > 0 and value <= objective), np.nan)


def compare(options) -> None:
    """The table of contenders."""
    with tempfile.TemporaryDirectory() as name:
        draw(Path(name), options.patches)
        results = {}
        for contender in CONTENDERS:
            results[contender] = child(
                "--contender", contender, "--folder", name, "--limit", options.limit,
                "--threads", options.threads, "--iterations", options.iterations,
                "--signatures", options.signatures,
            )  # fmt: skip
    ours = results["wbcprof"]["curve"]
    print(
        f"\n{options.patches} patches, {options.signatures} signatures, {options.threads} threads, "
        f"alpha {ALPHA}, at most {options.iterations} passes or {options.limit:.0f} s"
    )
    print(f"{'contender':14} {'seconds':>8} {'passes':>7} {'objective':>10} {'peak GB':>8}")
    for contender, result in results.items():
        if result is not None:
            seconds, passes, objective = result["curve"][-1]
            print(
                f"{contender:14} {seconds:8.1f} {passes:7.2f} {objective:10.6f} "
                f"{result['peak'] / 1e9:8.2f}"
            )
    print("\ntime to a peer's objective, after a part of the peer's time")
    print(f"{'peer':14} {'objective':>10} {'peer s':>8} {'wbcprof s':>10} {'ratio':>7}")
    for contender, result in results.items():
        if contender == "wbcprof" or result is None:
            continue
        curve = [point for point in result["curve"] if point[0] > 0]
        for part in (0.25, 0.5, 1.0):
            seconds = part * curve[-1][0]
            objective = min(value for t, _, value in curve if t <= seconds or t == curve[0][0])
            peer, mine = reach(curve, objective), reach(ours, objective)
            print(
                f"{contender:14} {objective:10.6f} {peer:8.1f} {mine:10.1f} {peer / mine:7.1f}",
                flush=True,
            )
    print("\nwbcprof, objective after each pass:")
    print(" ".join(f"{value:.5f} ({t:.0f} s)" for t, _, value in ours))


def stream_once(options) -> None:
    """One pass over streamed patches; prints seconds and peak memory as JSON."""
    cells = training_cells()
    started = time.perf_counter()
    stream = PatchStream(
        lambda: iter(cells), len(cells), PATCH, options.patches, 0, TABLE, 64 << 20
    )
    PSD(options.signatures, max_iter=1, random_state=0, n_threads=options.threads).fit(stream)
    print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak_bytes()}))


def scale(options) -> None:
    """Time and memory of one pass over more and more patches, 64 MB of them held at a time."""
    sizes = [125_000 << k for k in range(4)]
    if options.quick:
        sizes = [size // 16 for size in sizes]
    print(f"{'patches':>9} {'seconds':>8} {'us/patch':>9} {'peak GB':>8}")
    for size in sizes:
        result = child(
            "--stream", "--patches", size, "--threads", options.threads,
            "--signatures", options.signatures,
        )  # fmt: skip
        print(
            f"{size:9} {result['seconds']:8.1f} {result['seconds'] / size * 1e6:9.1f} "
            f"{result['peak'] / 1e9:8.2f}",
            flush=True,
        )


def compare_encoders(options) -> None:
    """Relative reconstruction error of held-out patches, from predicted and from optimal codes."""
    cells = training_cells()
    n_held_out = len(cells) // 5
    print(f"{'preset':8} {'encoder':15} {'codes':9} {'seconds':>7} {'optimal':>8} {'inferred':>8}")
    for preset, encoder in itertools.product(PRESETS, NONLINEARITIES):
        settings = PRESETS[preset]
        size = settings["patch_size"]
        crops = [crop_centre(cell, settings["learn_centre"], size) for cell in cells]
        train, test = (
            sample_patches(part, len(part), size, n, random_state=0)
            for part, n in ((crops[n_held_out:], 50_000), (crops[:n_held_out], 5000))
        )
        positive = encoder in ("sigmoid", "rectified")
        started = time.perf_counter()
        psd = PSD(
            settings["n_components"], nonlinearity=encoder, positive=positive,
            random_state=0, n_threads=options.threads,
        ).fit(PatchRows(train, TABLE))  # fmt: skip
        seconds = time.perf_counter() - started
        rows = psd.preprocessing_.apply(TABLE[test])[0]
        optimal = sparse_code(rows, psd.components_, psd.alpha, positive=positive).codes
        inferred = psd.transform(TABLE[test])
        errors = (
            np.linalg.norm(rows - codes @ psd.components_) / np.linalg.norm(rows)
            for codes in (optimal, inferred)
        )
        print(
            f"{preset:8} {encoder:15} {'positive' if positive else 'signed':9} {seconds:7.1f} "
            + " ".join(f"{error:8.4f}" for error in errors),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patches", type=int, default=100_000)
    parser.add_argument("--signatures", type=int, default=1024)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for each contender")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--encoders", action="store_true")
    for hidden in ("--contender", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options)
        return
    if options.stream:
        stream_once(options)
        return
    if options.quick:
        options.patches, options.signatures, options.iterations = 10_000, 256, 5
        options.limit = min(options.limit, 60.0)
    print("patches of", "real leukocytes" if PBC.is_dir() else "GENERATED images")
    job = compare_encoders if options.encoders else scale if options.scaling else compare
    job(options)


if __name__ == "__main__":
    main()
