"""Differential counts of whole fields against the truth: found, named, counted, within limits?

    python bench/accuracy/smear.py MODEL            # a model of the six types of PBC, `train` alone
    python bench/accuracy/smear.py MODEL --slides 500

1. *Simulated slides.* Cells of PBC's `val`, which no model has seen, lie six to a field, edges
   blended; fields go through the whole chain. Slides are then drawn: a composition of the blood,
   from a Dirichlet distribution about a usual one, and that many cells, each with what became of a
   cell of its type: called, set aside, or missed. Does the interval hold the share of the blood?
2. *Chula's fields.* Right type among cells that were found, with the model as it is and adapted to
   these cells, without labels.
3. *Generated smears*, with a model of generated cells.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

import wbcprof
from wbcprof.analysis.compare import correct_count, exact_interval
from wbcprof.datasets import make_leukocytes, make_smear

DATA = Path(__file__).resolve().parents[3] / "shared/data"
ACROSS, DOWN, BLEND = 3, 2, 24
USUAL = {
    "neutrophil": 0.55, "lymphocyte": 0.27, "monocyte": 0.07, "eosinophil": 0.04, "basophil": 0.02,
    "immature_granulocyte": 0.05,
}  # fmt: skip
SPREAD = 20.0  # of the Dirichlet distribution: the larger the more alike
CELLS = (100, 400)  # of a slide


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def mosaic(tiles):
    """Crops side by side, their edges blended."""
    height, width = tiles[0].shape[:2]
    step_y, step_x = height - BLEND, width - BLEND
    ramp_y, ramp_x = (
        np.clip(np.minimum(np.arange(n) + 1, np.arange(n)[::-1] + 1) / BLEND, 0, 1)
        for n in (height, width)
    )
    weight = (ramp_y[:, None] * ramp_x)[..., None]
    total = np.zeros((DOWN * step_y + BLEND, ACROSS * step_x + BLEND, 3))
    weights = np.zeros((*total.shape[:2], 1))
    for number, tile in enumerate(tiles):
        y, x = (number // ACROSS) * step_y, (number % ACROSS) * step_x
        total[y : y + height, x : x + width] += weight * tile
        weights[y : y + height, x : x + width] += weight
    return np.rint(total / np.maximum(weights, 1e-9)).astype(np.uint8)


def outcomes(model, rng):
    """Of each cell of `val`: its type, and its call, "" where it was missed."""
    rows = [row for row in rows_of(DATA / "pbc/labels.csv") if row["split"] == "val"]
    rng.shuffle(rows)
    fields, truth = [], []
    for start in range(0, len(rows) - len(rows) % (ACROSS * DOWN), ACROSS * DOWN):
        some = rows[start : start + ACROSS * DOWN]
        crops = [
            np.asarray(Image.open(DATA / "pbc" / row["path"]).convert("RGB").resize((360, 363)))
            for row in some
        ]
        fields.append(mosaic(crops))
        truth.append([row["label"] for row in some])
    found = wbcprof.count_smears(model, fields)
    calls = [[""] * (ACROSS * DOWN) for _ in fields]
    extra = 0
    for named in found.cells:
        cell, number = named.cell, int(named.cell.field.rsplit("_", 1)[1])
        column, row = (
            min(int((at - BLEND / 2) // (side - BLEND)), n - 1)
            for at, side, n in ((cell.x, 360, ACROSS), (cell.y, 363, DOWN))
        )
        dx = abs(cell.x - column * (360 - BLEND) - 180)
        dy = abs(cell.y - row * (363 - BLEND) - 181)
        if max(dx, dy) < 60 and not calls[number][row * ACROSS + column]:
            calls[number][row * ACROSS + column] = named.call
        else:
            extra += 1
    pairs = zip(chain(*truth), chain(*calls), strict=True)
    return list(pairs), extra


def simulate(model, pairs, n_slides, rng):
    types = model.classifier.classes_.tolist()
    confusion = model.classifier.confusion
    pool = {name: [call for true, call in pairs if true == name] for name in types}
    usual = np.array([USUAL[name] for name in types])
    held = {"exact": [], "corrected": []}
    width, error = [], {"exact": [], "corrected": []}
    nlr_held = []
    for _ in range(n_slides):
        blood = rng.dirichlet(SPREAD * usual)
        n = rng.integers(CELLS[0], CELLS[1] + 1)
        drawn = rng.multinomial(n, blood)
        calls = Counter(
            pool[name][i]
            for name, k in zip(types, drawn, strict=True)
            for i in rng.integers(0, len(pool[name]), k)
        )
        counts = np.array([calls[name] for name in types])
        low, high = exact_interval(counts, counts.sum())
        fixed = correct_count(counts, confusion, types)
        held["exact"].append((low <= blood) & (blood <= high))
        held["corrected"].append((fixed.low <= blood) & (blood <= fixed.high))
        error["exact"].append(np.abs(counts / counts.sum() - blood))
        error["corrected"].append(np.abs(fixed.share - blood))
        width.append((fixed.high - fixed.low) / (high - low))
        ratio = blood[types.index("neutrophil")] / blood[types.index("lymphocyte")]
        nlr_held.append(fixed.nlr_low <= ratio <= fixed.nlr_high)
    print(f"\n{n_slides} simulated slides of {CELLS[0]} to {CELLS[1]} cells; share of slides whose "
          "interval holds the share of the blood (95 % intervals)\n")  # fmt: skip
    print("| type | exact | corrected | width, corrected / exact, median | 95 % | "
          "error, points: as called | corrected |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|")
    for i, name in enumerate(types):
        share = {key: np.mean([row[i] for row in rows]) for key, rows in held.items()}
        ratio = [row[i] for row in width]
        off = {key: 100 * np.mean([row[i] for row in rows]) for key, rows in error.items()}
        print(f"| {name} | {share['exact']:.3f} | {share['corrected']:.3f} | "
              f"{np.median(ratio):.2f} | {np.quantile(ratio, 0.95):.2f} | {off['exact']:.2f} | "
              f"{off['corrected']:.2f} |")  # fmt: skip
    both = {key: np.mean(rows) for key, rows in held.items()}
    print(f"| all | {both['exact']:.3f} | {both['corrected']:.3f} | {np.median(width):.2f} | "
          f"{np.quantile(width, 0.95):.2f} | | |")  # fmt: skip
    print(f"\nneutrophil-to-lymphocyte ratio, corrected: {np.mean(nlr_held):.3f}")


def chula(model):
    truth = [row for row in rows_of(DATA / "fields/chula/boxes.csv") if row["label"]]
    images = DATA / "fields/chula/images"
    for what, adapt in (("as it is", False), ("adapted, no labels", True)):
        found = wbcprof.count_smears(model, images, slides=["Chula"] * 50, adapt=adapt)
        known = set(model.classifier.classes_.tolist())
        pairs, n_aside = [], 0
        for row in truth:
            inside = [
                named for named in found.cells
                if named.cell.field == Path(row["path"]).name
                and float(row["left"]) <= named.cell.x <= float(row["right"])
                and float(row["top"]) <= named.cell.y <= float(row["bottom"])
            ]  # fmt: skip
            if inside and row["label"] in known:
                pairs.append((row["label"], inside[0].type))
                n_aside += inside[0].call != inside[0].type
        true, called = zip(*pairs, strict=True)
        right = np.mean([a == b for a, b in pairs])
        print(f"| Chula, {what} | {len(truth)} | {len(pairs)} | {right:.3f} | "
              f"{balanced_accuracy_score(true, called):.3f} | {n_aside} |")  # fmt: skip


def generated(n_slides):
    cells = make_leukocytes(60, size=240)
    model = wbcprof.fit(cells.images, n_signatures=128, n_patches=15_000, max_iter=5)
    model.classifier = wbcprof.train(model, cells.images, cells.labels)
    pairs, held, n_truth = [], [], 0
    for seed in range(n_slides):
        smear = make_smear(12, n_leukocytes=5, random_state=100 + seed)
        found = wbcprof.count_smears(model, smear.images, adapt=True)
        truth = smear.truth[smear.truth["kind"] == "leukocyte"]
        n_truth += int((~truth["cut"]).sum())
        for row in truth[~truth["cut"]]:
            name = f"image_{row['field']:06d}"
            inside = [
                named for named in found.cells
                if named.cell.field == name and row["left"] <= named.cell.x <= row["right"]
                and row["top"] <= named.cell.y <= row["bottom"]
            ]  # fmt: skip
            if inside:
                pairs.append((row["label"], inside[0].type))
        (slide,) = found.slides
        shares = np.array([np.mean(truth["label"] == name) for name in slide.types])
        held.append((slide.low <= shares) & (shares <= slide.high))
    right = np.mean([a == b for a, b in pairs])
    true, called = zip(*pairs, strict=True)
    print(f"| generated, adapted | {n_truth} | {len(pairs)} | {right:.3f} | "
          f"{balanced_accuracy_score(true, called):.3f} | |")  # fmt: skip
    print(f"\ngenerated: shares of a slide within their exact limits: {np.mean(held):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--slides", type=int, default=500)
    parser.add_argument("--generated", type=int, default=6, help="smears; 0 leaves them out")
    parser.add_argument("--no-chula", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(0)
    model = wbcprof.load(options.model)
    pairs, extra = outcomes(model, rng)
    found = [(t, c) for t, c in pairs if c]
    named = [(t, c) for t, c in found if c not in ("unsure", "unlike", "cut")]
    print(f"PBC `val` in fields: {len(pairs)} cells, {len(found)} found, {extra} others; "
          f"{len(named)} named, {np.mean([t == c for t, c in named]):.4f} rightly")  # fmt: skip
    simulate(model, pairs, options.slides, rng)
    print("\n| fields | leukocytes | found | right | balanced | set aside |\n"
          "|---|---:|---:|---:|---:|---:|")  # fmt: skip
    if not options.no_chula:
        chula(model)
    if options.generated:
        generated(options.generated)


if __name__ == "__main__":
    main()
