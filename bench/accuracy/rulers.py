"""How well the diameter of red cells is measured on real images, as a Markdown table.

    python bench/accuracy/rulers.py               # all sets
    python bench/accuracy/rulers.py --only 'PBC*' --most 200

Truth of PBC and BCCD are boxes drawn around red cells: the median of sqrt(width x height) of an
image, boxes at its edge left out. Such boxes are wider than the cells; how much wider, at cells
that lie alone, is measured last. So errors are given as they are, and about the set's own median.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from wbcprof.smear.acquisition import measure, pool

DATA = Path(__file__).resolve().parents[3] / "shared/data"
SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)
BLURS = (1, 2, 3)  # px
LIGHTS = {"yellow": (1, 0.95, 0.5), "green": (0.7, 1, 0.7), "dim": (0.45, 0.45, 0.45)}
CROPPED = 150  # px, side of the middle of PBC images, where no red cell lies whole
HEADER = (
    "| set | images | unknown | red cells | error | 90 % | bias | about it | 90 % | > 20 % off "
    "| set: diameter | ms |\n|---|" + "--:|" * 11
)


def rows(path):
    with open(DATA / path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def read(path):
    return np.asarray(Image.open(path).convert("RGB"))


def pbc(split):
    split = {row["path"] for row in rows("pbc/labels.csv") if row["split"] == split}
    return [
        (DATA / "pbc" / row["path"], float(row["median_diameter_px"]))
        for row in rows("pbc/red_cells.csv")
        if row["path"] in split and row["median_diameter_px"]
    ]


def bccd_boxes():
    """Boxes of red cells of each field, those cut at its edge left out."""
    boxes = defaultdict(list)
    for row in rows("fields/bccd/boxes.csv"):
        box = [float(row[side]) for side in ("left", "top", "right", "bottom")]
        if row["kind"] == "red_cell" and min(box) > 1 and box[2] < 639 and box[3] < 479:
            boxes[DATA / "fields/bccd" / row["path"]].append(box)
    return boxes


def diameter(box):
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def files(pattern):
    return [(path, None) for path in sorted(DATA.glob(pattern))]


def scaled(image, scale):
    height, width = (round(scale * side) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def blurred(image, sigma):
    return np.rint(ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0))).astype(np.uint8)


def middle(image):
    top, left = ((side - CROPPED) // 2 for side in image.shape[:2])
    return np.ascontiguousarray(image[top : top + CROPPED, left : left + CROPPED])


def sets():
    """Name, images with their truth, what is done to an image, factor of the truth."""
    train = pbc("train")
    yield "PBC val", pbc("val"), None, 1
    for scale in SCALES:
        yield f"PBC train, x {scale:g}", train, lambda image, s=scale: scaled(image, s), scale
    for sigma in BLURS:
        yield f"PBC train, blur {sigma}", train, lambda image, s=sigma: blurred(image, s), 1
    for name, light in LIGHTS.items():
        yield f"PBC train, {name}", train, lambda image, c=light: (image * c).astype(np.uint8), 1
    yield "PBC train, middle alone", [(path, None) for path, _ in train], middle, 1
    truth = [(path, np.median([*map(diameter, boxes)])) for path, boxes in bccd_boxes().items()]
    yield "BCCD fields", truth, None, 1
    yield "Chula fields", files("fields/chula/images/*"), None, 1
    yield "Chula cells", files("labs/chula/*/*.jpg"), None, 1
    cells = [(DATA / "labs/tecom" / row["path"], None) for row in rows("labs/tecom/labels.csv")]
    yield "Tecom cells", cells, None, 1
    yield "Erythroblasts", files("novel/erythroblast/*"), None, 1
    yield "Platelets", files("novel/platelet/*"), None, 1


def line(name, images, change, factor):
    found, truth, spent = [], [], 0.0
    for path, diameter in images:
        image = read(path) if change is None else change(read(path))
        start = time.process_time()
        found.append(measure(image))
        spent += time.process_time() - start
        truth.append(np.nan if diameter is None else diameter * factor)
    whole = pool(found)
    known = [i for i, one in enumerate(found) if one.red_cell_diameter is not None]
    cells = [name, str(len(found)), f"{1 - len(known) / len(found):.3f}"]
    cells.append(f"{np.median([found[i].n_red_cells for i in known]):.0f}" if known else "-")
    cells += errors([found[i].red_cell_diameter for i in known], [truth[i] for i in known])
    cells.append(
        f"{whole.red_cell_diameter:.1f} ± {100 * whole.red_cell_error:.1f} %"
        if whole.red_cell_diameter
        else "unknown"
    )
    return f"| {' | '.join([*cells, f'{1000 * spent / len(found):.0f}'])} |"


def errors(found, truth):
    """Of diameters against the truth, and about their own median; that alone without truth."""
    if not found:
        return ["-"] * 6
    is_known = bool(np.isfinite(truth).all())
    error = np.log(found) - (np.log(truth) if is_known else np.log(np.median(found)))
    bias = np.median(error)
    first = [np.median(np.abs(error)), np.percentile(np.abs(error), 90), bias]
    rest = np.abs(error - bias)
    second = [np.median(rest), np.percentile(rest, 90), np.mean(rest > 0.2)]
    return ["-"] * 3 * (not is_known) + [f"{x:.3f}" for x in first * is_known + second]


def looseness():
    """Width of BCCD's boxes over that of the cells in them, at cells that lie alone."""
    ratios = []
    for path, boxes in bccd_boxes().items():
        density = -np.log(np.maximum(read(path)[..., 1], 1) / 255)
        density = ndimage.gaussian_filter(density, 1)
        empty, stained = np.percentile(density, 20), np.percentile(density, 80)
        labels, _ = ndimage.label(ndimage.binary_fill_holes(density > (empty + stained) / 2))
        for rows_, columns in filter(None, ndimage.find_objects(labels)):
            seen = np.array([columns.start, rows_.start, columns.stop, rows_.stop])
            best = min(boxes, key=lambda box, seen=seen: np.abs(seen - box).max())
            if np.abs(seen - best).max() < 25 and np.diff(seen.reshape(2, 2), axis=0).min() > 50:
                ratios.append(diameter(best) / diameter(seen))
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=["*"], help="names of sets, * as in a shell")
    parser.add_argument("--most", type=int, help="images of a set, drawn at random")
    options = parser.parse_args()
    print(HEADER)
    for name, images, change, factor in sets():
        if any(fnmatch.fnmatch(name, pattern) for pattern in options.only):
            if options.most and options.most < len(images):
                images = random.Random(0).sample(images, options.most)
            print(line(name, images, change, factor), flush=True)
    ratios = looseness()
    print(f"\nBoxes of {len(ratios)} red cells of BCCD that lie alone are {np.median(ratios):.3f} "
          "times as wide as their visible edge.")  # fmt: skip


if __name__ == "__main__":
    main()
