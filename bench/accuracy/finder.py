"""Leukocytes found in fields of two laboratories, with one setting, and outlined in a third.

    python bench/accuracy/finder.py

Recall and precision by centre in box (`data/fields`), of boxes by overlap; Dice of nuclei and cells
on Tecom's masks (`data/labs/tecom`). `--list` names what was called false.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

from wbcprof.smear.acquisition import measure, pool
from wbcprof.smear.finder import find_leukocytes, outline_leukocytes

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared/data"
RULED = 30  # fields that red cells are measured in


def fields(lab):
    """Images by name, and boxes of leukocytes (left, top, right, bottom) in each."""
    boxes = {}
    with open(DATA / "fields" / lab / "boxes.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            own = boxes.setdefault(row["path"], [])
            if row["kind"] == "leukocyte":
                own.append([float(row[side]) for side in ("left", "top", "right", "bottom")])
    return {
        name: (np.asarray(Image.open(DATA / "fields" / lab / name).convert("RGB")), own)
        for name, own in sorted(boxes.items())
    }


def overlap(one, other):
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return both / (sum(areas) - both)


def away(one, box):
    return np.hypot(one.x - (box[0] + box[2]) / 2, one.y - (box[1] + box[3]) / 2)


def diameter_of(images):
    chosen = images[:: max(1, len(images) // RULED)]
    return pool([measure(image) for image in chosen]).red_cell_diameter


def judge(lab, every, named):
    everything = fields(lab)
    diameter = diameter_of([image for image, _ in everything.values()])
    n = right = n_found = overlapping = 0
    seconds, wrong = [], []
    for name, (image, boxes) in list(everything.items())[::every]:
        started = perf_counter()
        found = find_leukocytes(image, diameter, n_threads=1)
        seconds.append(perf_counter() - started)
        left = list(range(len(boxes)))
        for one in found:
            hit = [i for i in left if boxes[i][0] <= one.x <= boxes[i][2]
                   and boxes[i][1] <= one.y <= boxes[i][3]]  # fmt: skip
            if hit:
                nearest = min(hit, key=lambda i: away(one, boxes[i]))
                left.remove(nearest)
                right += 1
                overlapping += overlap(one.box, boxes[nearest]) >= 0.5
            else:
                wrong.append((name, round(one.x), round(one.y)))
        wrong += [(name, "missed", *map(round, boxes[i])) for i in left]
        n += len(boxes)
        n_found += len(found)
    print(
        f"| {lab} | {len(seconds)} | {diameter:.0f} | {right / n:.3f} | {right / n_found:.3f} | "
        f"{overlapping / n:.3f} | {1e3 * np.median(seconds):.1f} | {1e3 * min(seconds):.1f} |"
    )
    if named:
        print(*wrong, sep="\n")


def dice(one, other):
    return 2 * (one & other).sum() / max(1, one.sum() + other.sum())


def outlines(diameter, every):
    with open(DATA / "labs/tecom/labels.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))[::every]
    scores = []
    for row in rows:
        image = np.asarray(Image.open(DATA / "labs/tecom" / row["path"]).convert("RGB"))
        mask = np.asarray(Image.open(DATA / "labs/tecom" / row["mask"]))
        levels = np.unique(mask)
        nucleus, cell = mask == levels[-1], mask > 0
        made = outline_leukocytes(image, diameter)
        if not made.found:
            scores.append((0.0, 0.0))
            continue
        middle = np.array(image.shape[:2]) / 2
        number = 1 + int(np.argmin([np.hypot(*(middle - (c.y, c.x))) for c in made.found]))
        large = [
            np.kron(labels == number, np.ones((made.factor, made.factor), bool))
            for labels in (made.nuclei, made.cells)
        ]
        height, width = (min(a, b) for a, b in zip(large[0].shape, mask.shape, strict=True))
        scores.append([
            dice(ours[:height, :width], theirs[:height, :width])
            for ours, theirs in zip(large, (nucleus, cell), strict=True)
        ])  # fmt: skip
    mean, median = np.mean(scores, axis=0), np.median(scores, axis=0)
    print(f"Tecom, {len(scores)} cells: Dice of nuclei {mean[0]:.3f} (median {median[0]:.3f}), "
          f"of cells {mean[1]:.3f} ({median[1]:.3f})")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="take one field in so many")
    parser.add_argument("--list", action="store_true", help="name what is false and missed")
    parser.add_argument("--tecom-diameter", type=float, default=30.0, help="px of a red cell there")
    options = parser.parse_args()
    print("| fields | n | red cell, px | recall | precision | IoU >= .5 | ms, median | least |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for lab in ("bccd", "chula"):
        judge(lab, options.every, options.list)
    outlines(options.tecom_diameter, options.every)


if __name__ == "__main__":
    main()
