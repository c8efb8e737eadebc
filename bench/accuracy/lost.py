"""What a model says of what it has never seen: strange cells, strange sets, false alarms.

    python bench/accuracy/lost.py

Learnt on all six types of PBC (split `train`); `val` is home, erythroblasts and platelets
(`data/novel`) and two other laboratories are strange. Sets are drawn at random, 200 of each kind.
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
from robustness import change
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score
from study import cached, digest, source_digest

import wbcprof
from wbcprof.analysis import check_set, suggest
from wbcprof.analysis.classify import TypeClassifier
from wbcprof.files import replacing
from wbcprof.images.source import open_images

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared/data"
CHANGES = {
    "blur of 1 px": ("blur, sigma px", 1), "gain 1.1": ("gain, factor", 1.1),
    "hue 20 degrees": ("hue, degrees", 20),
}  # fmt: skip
LEFT_OUT = "immature_granulocyte"
RATES = (0.1, 0.05, 0.01)
SETS, CELLS = 200, 100
SLIDE, STRANGE, FIRST = 200, 4, 10


def read(folder, split=None):
    with open(DATA / folder / "labels.csv", newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if split is None or r["split"] == split]
    cells = open_images([DATA / folder / r["path"] for r in rows])
    return [cell.pixels for cell in cells], np.array([r["label"] for r in rows])


def measure(options):
    """Profiles, measures and types of everything, and the model as a file beside them."""
    path = options.cache / f"lost-{digest(source_digest(('model', 'smear', 'learning')))}"

    def make():
        images, labels = read("pbc", "train")
        model = wbcprof.fit(images, n_threads=options.threads)
        model.save(path.with_suffix(".wbcprof"))
        sets = {"train": (images, labels), "home": read("pbc", "val")}
        for kind in ("erythroblast", "platelet"):
            cells = open_images(sorted((DATA / "novel" / kind).glob("*.jpg")))
            sets[kind] = [cell.pixels for cell in cells], None
        for lab in ("tecom", "chula"):
            sets[lab] = read(f"labs/{lab}")
        for name, (kind, amount) in CHANGES.items():
            sets[name] = [change(x, kind=kind, amount=amount) for x in sets["home"][0]], None
        found = {}
        for name, (cells, types) in sets.items():
            profiles = model.profile(cells, n_threads=options.threads)
            found[f"{name}.values"], found[f"{name}.measures"] = profiles.values, profiles.measures
            if types is not None:
                found[f"{name}.labels"] = types
        return found

    found = cached(path.with_suffix(".npz"), make)
    return wbcprof.load(path.with_suffix(".wbcprof")), found


def told(strangeness):
    """p and score of cells; images in which no cell is found are none of the types."""
    empty = np.isnan(strangeness.p)
    return np.where(empty, 0, strangeness.p), np.where(empty, 1e9, strangeness.score)


def auroc(home, strange):
    truth = np.repeat([0, 1], [len(home), len(strange)])
    return float(roc_auc_score(truth, np.concatenate([home, strange])))


def interval(k, n):
    low, high = binomtest(int(k), int(n)).proportion_ci(method="wilson")
    return f"{k / n:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=HERE / ".cache")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    model, found = measure(options)

    def take(name, rows=slice(None)):
        return found[f"{name}.values"][rows], found[f"{name}.measures"][rows]

    def learn(rows):
        values, measures = take("train", rows)
        return TypeClassifier().fit(values, found["train.labels"][rows], measures=measures)

    def table(values, measures):
        ids = [f"cell {i}" for i in range(len(values))]
        return wbcprof.Profiles(values, model.feature_names, ids, None, {}, measures)

    machines = learn(slice(None))
    model = replace(model, classifier=machines)
    rng = np.random.default_rng(0)
    lines = []

    def say(what, value):
        lines.append(f"| {what} | {value} |")
        print(lines[-1], flush=True)

    truth = found["home.labels"]
    home_p, home_score = told(machines.strangeness(*take("home")))
    for kind in ("erythroblast", "platelet", "tecom", "chula"):
        p, score = told(machines.strangeness(*take(kind)))
        caught = interval((p <= 0.01).sum(), len(p))
        say(f"{kind} against home: AUROC", f"{auroc(home_score, score):.4f}")
        say(f"{kind}: called strange at .01", caught)
    without = learn(found["train.labels"] != LEFT_OUT)
    _, score = told(without.strangeness(*take("home")))
    out = truth == LEFT_OUT
    say(f"{LEFT_OUT} left out of learning: AUROC", f"{auroc(score[~out], score[out]):.4f}")
    for rate in RATES:
        say(f"false alarms at {rate}", interval((home_p <= rate).sum(), len(truth)))
        for name in machines.classes_:
            own = home_p[truth == name] <= rate
            say(f"false alarms at {rate}, {name}", interval(own.sum(), len(own)))
    values, measures = take("home")
    started = perf_counter()
    machines.strangeness(values, measures)
    say("ms a cell, of many", f"{1e3 * (perf_counter() - started) / len(values):.3f}")
    one = []
    for _ in range(300):
        started = perf_counter()
        machines.strangeness(values[:1], measures[:1])
        one.append(perf_counter() - started)
    say("ms of one cell, least and median", f"{1e3 * min(one):.3f}, {1e3 * np.median(one):.3f}")

    for name in ("home", *CHANGES, "tecom", "chula"):
        values, measures = take(name)
        flagged = 0
        for _ in range(SETS):
            rows = rng.choice(len(values), CELLS, replace=False)
            flagged += not check_set(model, table(values[rows], measures[rows])).familiar
        say(f"sets of {CELLS}, {name}: flagged", interval(flagged, SETS))
    for lab in ("tecom", "chula"):
        values, measures = take(lab)
        flagged, n = 0, 0
        for _ in range(SETS):
            rows = rng.permutation(len(values))
            first, rest = np.split(rows, 2)
            there = replace(
                model, classifier=machines.adapted(values[first], None, measures[first])[0]
            )
            flagged += not check_set(there, table(values[rest], measures[rest])).familiar
            n += 1
        say(f"{lab}, half adapted to, the other half: flagged", interval(flagged, n))
    flagged = right = 0
    for _ in range(SETS):
        parts = [
            take(name, rng.choice(len(found[f"{name}.values"]), n, replace=False))
            for name, n in (("home", SLIDE - STRANGE), ("erythroblast", STRANGE))
        ]
        values, measures = (np.concatenate(pair) for pair in zip(*parts, strict=True))
        slide = table(values, measures)
        flagged += not check_set(model, slide).familiar
        right += sum(cell.index >= SLIDE - STRANGE for cell in suggest(model, slide, FIRST))
    say(f"{STRANGE} erythroblasts among {SLIDE}: slide flagged", interval(flagged, SETS))
    say(f"of these, among the first {FIRST} suggested", f"{right / SETS / STRANGE:.3f}")

    options.output.mkdir(parents=True, exist_ok=True)
    with replacing(options.output / "lost.md") as temporary:
        temporary.write_text("\n".join(["| | |", "|---|---|", *lines]) + "\n")
    with replacing(options.output / "lost.json") as temporary:
        rows = dict(line.strip("| ").split(" | ") for line in lines)
        temporary.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
