"""The finder of leukocytes beside its own steps as scikit-image, OpenCV and SciPy have them.

    peers/bin/python bench/finder.py            # a minute
    peers/bin/python bench/finder.py --quick    # one size

One generated field (`make_smear`), repeated to each size and enlarged to each red cell. Contenders
take turns; ours finds leukocytes, theirs stop at labelled components: reduced, optical density over
the brightest, weighted and smoothed, Otsu's level, opened, labelled, measured. Read the ratios.
"""

from __future__ import annotations

import argparse
import resource
from time import perf_counter

import numpy as np

from wbcprof import _core
from wbcprof.datasets import make_smear
from wbcprof.smear import find_leukocytes

WEIGHTS = np.array([2.0, 1.0, -1.0], np.float32)
SMEAR = 0.1  # um for each pixel of the generated field: red cells of 75 px
CASES = [
    ("640 x 480", 480, 640, 75.0, 1),
    ("10 megapixels", 2500, 4000, 30.0, 1),
    ("10 megapixels", 2500, 4000, 110.0, 1),
    ("100 megapixels", 10000, 10000, 25.0, 2),
    ("100 megapixels", 10000, 10000, 50.0, 2),
    ("100 megapixels", 10000, 10000, 110.0, 2),
]
PEERS_MOST = 20_000_000  # px: a peer's float images of more would not fit beside the field


def make_field(height: int, width: int, diameter: float) -> np.ndarray:
    from PIL import Image

    fields = make_smear(6, pixel_size=SMEAR, random_state=3).images
    scale = diameter * SMEAR / 7.5
    size = [round(side * scale) for side in (640, 480)]
    small = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in fields]
    field = np.empty((height, width, 3), np.uint8)
    n = 0
    for top in range(0, height, size[1]):
        for left in range(0, width, size[0]):
            room = field[top : top + size[1], left : left + size[0]]
            room[:] = small[n % len(small)][: room.shape[0], : room.shape[1]]
            n += 1
    return field


def factor_of(diameter: float) -> int:
    return max(1, round(diameter / 16))


def by_ours(field: np.ndarray, diameter: float, n_threads: int) -> int:
    return len(find_leukocytes(field, diameter, n_threads=n_threads))


def by_opencv(field: np.ndarray, diameter: float, n_threads: int) -> int:
    import cv2

    cv2.setNumThreads(n_threads)
    k = factor_of(diameter)
    size = field.shape[1] // k, field.shape[0] // k
    reduced = cv2.resize(field, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    light = np.percentile(reduced.reshape(-1, 3), 85, axis=0).astype(np.float32)
    density = np.maximum(np.log(light + 4) - cv2.log(reduced + 4), 0)
    stained = cv2.GaussianBlur(cv2.transform(density, WEIGHTS[None]), (0, 0), 0.7)
    levels = np.clip(stained * 64, 0, 255).astype(np.uint8)
    _, mask = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, _, sizes, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
    return int((sizes[1:, cv2.CC_STAT_AREA] > 0.3 * (diameter / k) ** 2).sum())


def by_scikit_image(field: np.ndarray, diameter: float, n_threads: int) -> int:
    from skimage import filters, measure, morphology, transform

    k = factor_of(diameter)
    whole = field[: field.shape[0] // k * k, : field.shape[1] // k * k]
    reduced = transform.downscale_local_mean(whole, (k, k, 1)).astype(np.float32)
    light = np.percentile(reduced.reshape(-1, 3), 85, axis=0).astype(np.float32)
    density = np.maximum(np.log((light + 4) / (reduced + 4)), 0)
    stained = filters.gaussian(density @ WEIGHTS, 0.7)
    mask = morphology.opening(stained > filters.threshold_otsu(stained))
    regions = measure.regionprops(measure.label(mask, connectivity=1))
    return sum(region.area > 0.3 * (diameter / k) ** 2 for region in regions)


def by_scipy(field: np.ndarray, diameter: float, n_threads: int) -> int:
    from scipy import ndimage

    k = factor_of(diameter)
    height, width = field.shape[0] // k, field.shape[1] // k
    squares = field[: height * k, : width * k].reshape(height, k, width, k, 3)
    reduced = squares.mean(axis=(1, 3), dtype=np.float32)
    light = np.percentile(reduced.reshape(-1, 3), 85, axis=0).astype(np.float32)
    density = np.maximum(np.log((light + 4) / (reduced + 4)), 0)
    stained = ndimage.gaussian_filter(density @ WEIGHTS, 0.7)
    counts, edges = np.histogram(stained, 256)
    below, moment = counts.cumsum(), (counts * edges[1:]).cumsum()
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = (moment[-1] * below / below[-1] - moment) ** 2 / (below * (below[-1] - below))
    level = edges[1 + np.nanargmax(apart[:-1])]
    label, n = ndimage.label(ndimage.binary_opening(stained > level))
    areas = np.bincount(label.ravel(), minlength=n + 1)[1:]
    return int((areas > 0.3 * (diameter / k) ** 2).sum())


CONTENDERS = {
    "wbcprof": by_ours,
    "OpenCV": by_opencv,
    "scikit-image": by_scikit_image,
    "SciPy": by_scipy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smallest field alone")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--instruction-set", choices=_core.instruction_sets())
    options = parser.parse_args()
    if options.instruction_set:
        _core.cap_instruction_set(options.instruction_set)
    print(f"Instruction set {_core.instruction_set()}; best of {options.repeats}, then / ours\n")
    print("| field | red cell, px | threads | found | ms | " + " | ".join([*CONTENDERS][1:]) + " |")
    print("|---|---:|---:|---:|---:|" + "---:|" * (len(CONTENDERS) - 1))
    for name, height, width, diameter, n_threads in CASES[: 1 if options.quick else None]:
        field = make_field(height, width, diameter)
        chosen = [*CONTENDERS][: None if height * width <= PEERS_MOST else 2]
        best, found = dict.fromkeys(chosen, np.inf), 0
        for _ in range(options.repeats):
            for contender in chosen:
                started = perf_counter()
                n = CONTENDERS[contender](field, diameter, n_threads)
                best[contender] = min(best[contender], perf_counter() - started)
                found = n if contender == "wbcprof" else found
        ratios = [f"{best[c] / best['wbcprof']:.1f}" if c in best else "" for c in CONTENDERS]
        print(f"| {name} | {diameter:.0f} | {n_threads} | {found} | {1e3 * best['wbcprof']:.1f} | "
              + " | ".join(ratios[1:]) + " |", flush=True)  # fmt: skip
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nMost memory of the process: {most:.0f} MB")


if __name__ == "__main__":
    main()
