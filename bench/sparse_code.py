"""Sparse codes against spams, scikit-learn and celer: one table.

    python bench/sparse_code.py [--patches 4096] [--repeats 5] [--quick]

Patches are 20 x 20 x 3, scaled so that their rms norm is 1, from real or generated cells (see
`cells.py`) and from scikit-learn's two photographs. 1024 signatures are learnt from each source
first. Peers that are not installed (spams-bin, celer) are left out. Every coder takes the same
patches and the same threads.
"gap" is the largest duality gap over objective, in float64 for every coder; "over best" is the
largest relative excess of a coder's objective over the lowest one known for that patch.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from functools import partial

import numpy as np
from cells import PBC, training_cells
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from wbcprof.model.sparse import gram_matrix, sparse_code

PATCH, SIGNATURES = 20, 1024


def random_patches(images, n, rng):
    """n patch rows, each from a random place of a random image, rms norm 1."""
    rows = np.empty((n, PATCH * PATCH * 3), np.float32)
    for row, k in zip(rows, np.sort(rng.integers(len(images), size=n)), strict=True):
        image = images[k]
        y, x = (rng.integers(size - PATCH + 1) for size in image.shape[:2])
        row[:] = image[y : y + PATCH, x : x + PATCH].ravel()
    rng.shuffle(rows)
    return rows / np.sqrt((rows.astype(np.float64) ** 2).sum(1).mean()).astype(np.float32)


def sources():
    """(name, images) of each patch source."""
    from sklearn.datasets import load_sample_images

    yield "leukocytes" if PBC.is_dir() else "generated", training_cells()
    yield "natural", load_sample_images().images


def learn(patches, h, alpha, positive, batches=8):
    """h signatures by a few online steps: codes, decayed statistics, exact block updates."""
    rng = np.random.default_rng(0)
    b = patches[rng.permutation(len(patches))[:h]]
    b = b + 1e-3 * rng.standard_normal(b.shape, np.float32)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    a, c = np.zeros((h, h)), np.zeros_like(b)
    for x in np.array_split(patches, batches):
        z = sparse_code(x, b, alpha, positive=positive, tol=1e-3).codes
        a, c = 0.7 * a + (z.T @ z).toarray(), 0.7 * c + z.T @ x
        for j in np.flatnonzero(np.diag(a) > 1e-6):
            u = c[j] - a[j].astype(np.float32) @ b + np.float32(a[j, j]) * b[j]
            b[j] = u / np.linalg.norm(u)
        dead = np.flatnonzero(np.diag(a) <= 1e-3)[:100]
        worst = np.argsort(-((x - z @ b) ** 2).sum(1))[: len(dead)]
        b[dead] = x[worst] / np.linalg.norm(x[worst], axis=1, keepdims=True)
    return b


def best_times(coders, repeats):
    """Least wall time of each call and its last result; the calls take turns, with time for the
    threads of the one before to fall asleep."""
    times, results = [np.inf] * len(coders), [None] * len(coders)
    for _ in range(repeats):
        for k, call in enumerate(coders):
            time.sleep(0.2)
            start = time.perf_counter()
            results[k] = call()
            times[k] = min(times[k], time.perf_counter() - start)
    return times, results


def judge(x, b, codes, alpha, positive):
    """Objective and relative duality gap of each row, in float64."""
    x, b = x.astype(np.float64), b.astype(np.float64)
    residual = x - codes @ b
    r = residual @ b.T
    rho2, y_rho = (residual**2).sum(1), (x * residual).sum(1)
    objective = 0.5 * rho2 + alpha * abs(codes).sum(axis=1)
    peak = np.maximum(r.max(1), 0) if positive else np.abs(r).max(1)
    tiny = np.finfo(float).tiny
    t = np.clip(y_rho / np.maximum(rho2, tiny), 0, alpha / np.maximum(peak, tiny))
    return objective, (objective - t * y_rho + 0.5 * t**2 * rho2) / objective


def peers(x, b, alpha, positive, threads):
    """(name, patches taken, call returning sparse codes) of each installed peer."""
    try:
        import spams

        n = min(len(x), 1024)
        for dtype in (np.float32, np.float64):
            columns, dictionary = (np.asfortranarray(rows.T, dtype) for rows in (x[:n], b))
            yield (
                f"spams lasso {dtype.__name__}",
                n,
                partial(
                    spams.lasso,
                    columns,
                    D=dictionary,
                    lambda1=alpha,
                    mode=2,
                    pos=positive,
                    numThreads=threads,
                ),
            )
    except ImportError:
        pass
    from sklearn.decomposition import sparse_encode

    few = min(len(x), 24 * threads)
    yield (
        "scikit-learn lasso_cd",
        few,
        lambda: sparse_encode(
            x[:few], b, algorithm="lasso_cd", alpha=alpha, positive=positive, n_jobs=threads
        ),
    )
    try:
        from celer import Lasso

        if threads == 1:
            m = x.shape[1]
            model = Lasso(alpha / m, fit_intercept=False, positive=positive, tol=1e-4)
            features, rows = np.asfortranarray(b.T, np.float64), x[:8].astype(np.float64)
            yield "celer Lasso", 8, lambda: np.array([model.fit(features, y).coef_ for y in rows])
    except ImportError:
        pass


def compare(name, x, b, alpha, positive, threads, repeats):
    """Print the rows of one setting."""
    q, gram = np.empty((len(x), len(b)), np.float32), gram_matrix(b)

    def product():
        with threadpool_limits(threads, user_api="blas"):
            np.dot(x, b.T, out=q)

    def ours():
        return sparse_code(x, b, alpha, positive=positive, gram=gram, n_threads=threads).codes

    others = list(peers(x, b, alpha, positive, threads))
    (t_q, t_ours), (_, codes) = best_times([product, ours], repeats)
    rows = [("wbcprof sparse_code", len(x), t_ours, csr_array(codes))]
    for peer, n, call in others:
        with threadpool_limits(threads, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (t,), (z,) = best_times([call], 2 if "spams" in peer else 1)
        rows.append((peer, n, t, csr_array(z.T if "spams" in peer else z)))
    judged = [judge(x[:n], b, z, alpha, positive) for _, n, _, z in rows]
    best = judged[0][0].copy()
    for objective, _ in judged[1:]:
        best[: len(objective)] = np.fmin(best[: len(objective)], objective)
    kind = f"{name} {'positive' if positive else 'signed'} alpha {alpha} threads {threads}"
    print(f"\n{kind}: q = XB' alone {t_q / len(x) * 1e6:.1f} us per patch")
    print(
        f"  {'coder':22} {'us/patch':>9} {'x ours':>7} {'x q':>7} {'objective':>10} "
        f"{'over best':>9} {'gap':>8} {'non-zeros':>9}"
    )
    for (coder, n, t, z), (objective, gap) in zip(rows, judged, strict=True):
        over = (objective / best[:n] - 1).max()
        print(
            f"  {coder:22} {t / n * 1e6:9.1f} {t / n * len(x) / t_ours:7.1f} "
            f"{t / n * len(x) / t_q:7.2f} {objective.mean():10.6f} {over:9.1e} {gap.max():8.1e} "
            f"{z.nnz / n:9.1f}",
            flush=True,
        )


def scaling(x, b, alpha, repeats):
    """Print time per patch against patches, signatures and threads."""
    cores = len(os.sched_getaffinity(0))
    rng = np.random.default_rng(0)
    print(f"\nscaling, alpha {alpha}, positive, {cores} threads: us per patch")
    cases = [(f"{n} patches", x[:n], b, cores) for n in (256, 1024, len(x))]
    shuffled = b[rng.permutation(len(b))]
    cases += [(f"{h} signatures", x, shuffled[:h], cores) for h in (256, 512, 1024)]
    cases += [(f"{t} threads", x, b, t) for t in range(1, cores + 1)]
    for label, rows, signatures, threads in cases:
        gram = gram_matrix(signatures)
        (t,), _ = best_times(
            [
                lambda r=rows, s=signatures, g=gram, k=threads: sparse_code(
                    r, s, alpha, positive=True, gram=g, n_threads=k
                )
            ],
            repeats,
        )
        print(f"  {label:18} {t / len(rows) * 1e6:9.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--patches", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one setting per source")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    for name, images in sources():
        patches = random_patches(images, 16384 + args.patches, np.random.default_rng(1))
        train, x = patches[:16384], np.ascontiguousarray(patches[16384:])
        for positive in (True, False):
            b = learn(train, SIGNATURES, 0.03, positive)
            for alpha in (0.03,) if args.quick else (0.05, 0.03, 0.01):
                for threads in sorted({1, cores}):
                    compare(name, x, b, alpha, positive, threads, args.repeats)
            if args.quick:
                break
        scaling(x, b, 0.03, args.repeats)


if __name__ == "__main__":
    main()
