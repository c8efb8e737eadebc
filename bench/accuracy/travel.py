"""The same cells, named in another laboratory: profiles beside what a user would otherwise take.

    python bench/accuracy/travel.py                        # three tiers, all rows
    python bench/accuracy/travel.py --only default cnn*    # some of them
    python bench/accuracy/travel.py --corrupt              # MedMNIST-C's recipes on PBC itself

Learnt on 250 cells of each of five types of PBC (split `train`). Tier 0: nothing of the target.
Tier 1: its cells without labels, all or 50 of them. Tier 2: 5, 10 or 20 labels a type besides, the
rest tested. Every row is adapted in the same way, by `wbcprof.model.discriminant` on its features;
in tier 0 the network's own output decides where there is one. Balanced accuracy is over types with
ten cells or more, standard errors are over cells.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import baselines
import numpy as np
from PIL import Image
from robustness import change
from sklearn.metrics import f1_score
from study import cached, digest, source_digest

import wbcprof
from wbcprof.analysis.classify import TypeClassifier, profiles_of_copies
from wbcprof.files import replacing
from wbcprof.images.source import open_images
from wbcprof.model.settings import Coding
from wbcprof.smear.jitter import N_TURNS, jitter, turned

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared/data"
TYPES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
PER_TYPE, LEAST = 250, 10
LABELS, DRAWS, BATCH = (5, 10, 20), 5, 50
COPIES = 3
_OLD = {"normalise": "background", "step": 3, "centres": (0.33, 0.61)}
ROWS = {
    "default": ("profile, defaults", {"features": "profile"}),
    "rbf": ("- RBF machine for the discriminant", {"features": "profile", "kernel": "rbf"}),
    "no-focus": (
        "- without matching focus",
        {"features": "profile", "constants": {"smear.canonical._FOCUS": 0.0}},
    ),
    "no-floor": (
        "- without a floor of the scale",
        {"features": "profile", "late": {"analysis.classify._LEAST_SCALE": 0.0}},
    ),
    "uncalibrated": (
        "- without calibration",
        {"features": "profile", "late": {"analysis.classify._calibrate": lambda *folds: 1.0}},
    ),
    "no-jitter": ("- without jittered copies", {"features": "profile", "augment": 0}),
    "no-canonical": (
        "- without the canonical form (background alone)",
        {"features": "profile", "parameters": _OLD},
    ),
    "before": (
        "profile, none of the three",
        {"features": "profile", "parameters": _OLD, "augment": 0, "kernel": "rbf"},
    ),
    "histogram": ("colour histogram", {"features": "histogram", "augment": 0, "kernel": "rbf"}),
    "histogram-jitter": ("colour histogram, jittered", {"features": "histogram", "kernel": "rbf"}),
    "frozen": ("EfficientNet-Lite 0, frozen", {"features": "efficientnet", "augment": 0}),
    "frozen-jitter": ("EfficientNet-Lite 0, frozen, jittered", {"features": "efficientnet"}),
    "cnn": ("small CNN", {"features": "cnn", "augment": 0}),
    "cnn-jitter": (
        "small CNN, group norm, background balanced, jittered",
        {"features": "cnn", "fair": True},
    ),
}


def read(folder: Path, split: str | None = None):
    """Images and types of the rows of a labels.csv whose type is among `TYPES`."""
    with open(folder / "labels.csv", newline="") as stream:
        rows = [r for r in csv.DictReader(stream) if r["label"] in TYPES]
    rows = [r for r in rows if split is None or r["split"] == split]
    cells = open_images([folder / r["path"] for r in rows])
    return [cell.pixels for cell in cells], np.array([r["label"] for r in rows])


def learn_from():
    """`PER_TYPE` cells of each type of PBC's `train`, drawn at random."""
    images, labels = read(DATA / "pbc", "train")
    chosen = [
        np.random.default_rng((7, k)).permutation(np.flatnonzero(labels == name))[:PER_TYPE]
        for k, name in enumerate(TYPES)
    ]
    chosen = np.sort(np.concatenate(chosen))
    return [images[i] for i in chosen], labels[chosen]


def targets():
    return {
        "home": read(DATA / "pbc", "val"),
        "tecom": read(DATA / "labs/tecom"),
        "chula": read(DATA / "labs/chula"),
    }


@contextmanager
def constants(values):
    """Constants of the package, by their names in it, as they are given."""
    with ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(patch(f"wbcprof.{name}", value))
        yield


class Row:
    """Features of images, and probabilities where a network gives its own, learnt once."""

    def __init__(self, spec, images, labels, threads):
        self.spec, self.threads = spec, threads
        self.kernel = spec.get("kernel", "discriminant")
        self.copies = spec.get("augment", COPIES)
        kind = spec["features"]
        if kind == "profile":
            parameters = {"augment": self.copies, **spec.get("parameters", {})}
            self.model = wbcprof.fit(images, n_threads=threads, **parameters)
            self.extract = self._profiles
        elif kind == "cnn":
            everything = self.with_copies(images)
            codes = np.tile(np.searchsorted(TYPES, labels), 1 + self.copies)
            epochs = max(8, 30 // (1 + self.copies))
            fair = spec.get("fair", False)
            self.network = baselines.small_cnn(
                everything, codes, len(TYPES), 0, epochs=epochs, fair=fair, features=True
            )
            self.extract = lambda images: self.network(images)[1]
        else:
            settings = {"version": 0} if kind == "efficientnet" else {}
            self.extract = partial(getattr(baselines, kind), crop=0.67, **settings)

    def _profiles(self, images):
        return self.model.profile(images, n_threads=self.threads).values

    def with_copies(self, images):
        copies = [jitter(image, 0, k) for k in range(1, self.copies + 1) for image in images]
        return list(images) + copies

    def training(self, images):
        """Features of the images, of them turned and mirrored, and of their jittered copies."""
        if self.spec["features"] != "profile":
            turns = [self.extract([turned(i, k) for i in images]) for k in range(1, N_TURNS)]
            values, *copies = np.split(self.extract(self.with_copies(images)), 1 + self.copies)
            return values, turns, copies
        turns, copies = profiles_of_copies(
            self.model, open_images(images), self.copies, 0, self.threads, Coding()
        )
        return self.extract(images), turns, copies

    def own(self, images):
        """Probabilities that the row gives itself, or None."""
        return self.network(images)[0] if self.spec["features"] == "cnn" else None


def features(name, options):
    """Features of the training cells, and features and own probabilities of every target's."""
    spec = {k: v for k, v in ROWS[name][1].items() if k not in ("kernel", "late")}
    if spec["features"] == "profile":
        sources = source_digest(("model", "smear", "learning"))
    else:
        sources = Path(sys.modules[jitter.__module__].__file__).read_text()
        sources += (HERE / "baselines.py").read_text()
    key = digest(spec, sources)

    def make():
        images, labels = learn_from()
        row = Row(spec, images, labels, options.threads)
        values, turns, copies = row.training(images)
        found = {"train": values, "labels": labels}
        found |= {"turned": np.array(turns), "copies": np.array(copies)}
        for target, (cells, truth) in targets().items():
            found[target] = row.extract(cells)
            found[f"{target}.labels"] = truth
            if (own := row.own(cells)) is not None:
                found[f"{target}.own"] = own
        return found

    with constants(spec.get("constants", {})):
        return cached(options.cache / f"travel-{key}.npz", make)


def recalls(truth, named):
    """Of each type with `LEAST` cells or more: share named right, and its variance."""
    types = [t for t in np.unique(truth) if (truth == t).sum() >= LEAST]
    right = [named[truth == t] == t for t in types]
    return np.array([r.mean() for r in right]), np.array([r.var() / len(r) for r in right])


def balanced(truth, named):
    recall, variance = recalls(truth, named)
    return float(recall.mean()), float(np.sqrt(variance.sum()) / len(recall))


def difference(truth, one, other):
    """Balanced accuracy of one less that of the other, and its standard error, paired by cell."""
    types = [t for t in np.unique(truth) if (truth == t).sum() >= LEAST]
    parts = []
    for t in types:
        of_type = truth == t
        parts.append((one[of_type] == t).astype(float) - (other[of_type] == t))
    error = np.sqrt(sum(p.var() / len(p) for p in parts)) / len(types)
    return float(np.mean([p.mean() for p in parts])), float(error)


def tiers(name, found):
    """What every tier names each target's cells: {target: (truth, {tier: [(rows, names)]}, how sure
    tier 0 is)}."""
    kernel = ROWS[name][1].get("kernel", "discriminant")
    labels = found["labels"]
    learnt = {
        kind: TypeClassifier(kernel=kind).fit(
            found["train"], labels, None, list(found["copies"]), turned=list(found["turned"])
        )
        for kind in {kernel, "discriminant"}
    }
    first, machines = learnt[kernel], learnt["discriminant"]
    types, result = machines.classes_, {}
    for target in ("home", "tecom", "chula"):
        values, truth = found[target], found[f"{target}.labels"]
        everything = np.arange(len(truth))
        p = found.get(f"{target}.own", first.predict_proba(values))
        told = {"0": [(everything, types[p.argmax(axis=1)])]}
        told["1"] = [(everything, machines.adapted(values, None)[0].predict(values))]
        told["1, 50 cells"], drawn = [], {k: [] for k in LABELS}
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            some = np.sort(rng.permutation(len(truth))[:BATCH])
            there = machines.adapted(values[some], None)[0]
            told["1, 50 cells"].append((some, there.predict(values[some])))
            for k in LABELS:
                of_type = [rng.permutation(np.flatnonzero(truth == t)) for t in np.unique(truth)]
                chosen = np.concatenate([rows[: min(k, len(rows) // 2)] for rows in of_type])
                codes = np.full(len(truth), -1)
                codes[chosen] = np.searchsorted(types, truth[chosen])
                rest = np.setdiff1d(everything, chosen)
                there = machines.adapted(values, codes)[0]
                drawn[k].append((rest, there.predict(values[rest])))
        told |= {f"2, {k} a type": some for k, some in drawn.items()}
        result[target] = (truth, told, float(p.max(axis=1).mean()))
    return result


def table(results, reference="default", rival="cnn-jitter"):
    names = list(next(iter(results.values()))["home"][1])
    lines = [
        "| row | target | "
        + " | ".join(f"tier {n}" for n in names)
        + " | accuracy, tier 0 | sure, tier 0 |"
    ]
    lines += ["|---|---|" + "---:|" * (len(names) + 2)]
    record = {}
    for name, result in results.items():
        means = []
        for target, (truth, told, sure) in result.items():
            scores = {
                tier: np.mean([balanced(truth[rows], called) for rows, called in some], axis=0)
                for tier, some in told.items()
            }
            rows, called = told["0"][0]
            accuracy = float((called == truth[rows]).mean())
            record.setdefault(name, {})[target] = {
                "balanced": {t: [float(v) for v in s] for t, s in scores.items()},
                "accuracy": accuracy, "mean_top_probability": sure,
            }  # fmt: skip
            cells = " | ".join(f"{s[0]:.3f} ± {s[1]:.3f}" for s in scores.values())
            lines.append(f"| {ROWS[name][0]} | {target} | {cells} | {accuracy:.3f} | {sure:.2f} |")
            if target != "home":
                means.append([s[0] for s in scores.values()])
        lines.append(
            f"| {ROWS[name][0]} | **mean of both** | "
            + " | ".join(f"**{v:.3f}**" for v in np.mean(means, axis=0)) + " | | |"
        )  # fmt: skip
    if reference in results and rival in results:
        lines += ["", f"{ROWS[reference][0]} less {ROWS[rival][0]}, paired by cell:", ""]
        lines += ["| target | " + " | ".join(f"tier {n}" for n in names) + " |"]
        lines += ["|---|" + "---:|" * len(names)]
        both = []
        for target, (truth, told, _) in results[reference].items():
            apart = [
                np.mean(
                    [
                        difference(truth[rows], one, other)
                        for (rows, one), (_, other) in zip(
                            told[t], results[rival][target][1][t], strict=True
                        )
                    ],
                    axis=0,
                )
                for t in names
            ]
            both += [apart] * (target != "home")
            lines.append(
                f"| {target} | " + " | ".join(f"{d:+.3f} ± {e:.3f}" for d, e in apart) + " |"
            )
        mean = np.mean(both, axis=0)[:, 0]
        error = np.sqrt(np.square(np.array(both)[:, :, 1]).sum(axis=0)) / len(both)
        cells = " | ".join(f"{d:+.3f} ± {e:.3f}" for d, e in zip(mean, error, strict=True))
        lines.append(f"| mean of both | {cells} |")
    return "\n".join(lines) + "\n", record


def recipes():
    """Changes of an image, by name: a function for each severity."""
    np.fromstring = np.frombuffer  # they were written for NumPy 1
    from medmnistc.corruptions.registry import CORRUPTIONS_DS

    def by_recipe(image, how, severity):
        np.random.seed(int(image.sum()) % 2**32)  # noqa: NPY002, what the recipes draw from
        small = Image.fromarray(image).resize((224, 224))  # their size
        found = how.apply(small, severity=severity, augmentation=False)
        return np.asarray(Image.fromarray(np.uint8(found)).resize(image.shape[1::-1]))

    def scaled(image, scale):
        size = [round(side * scale) for side in image.shape[1::-1]]
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

    found = {"unchanged": [lambda image: image]}
    found |= {f"scale {x}": [partial(scaled, scale=x)] for x in (0.5, 0.7, 1.4, 2)}
    for kind, amount in (
        ("blur, sigma px", 1), ("gain, factor", 1.1), ("hue, degrees", 20), ("hue, degrees", -20),
        ("saturation, factor", 1.4),
    ):  # fmt: skip
        found[f"{kind} {amount}"] = [partial(change, kind=kind, amount=amount)]
    for name, how in CORRUPTIONS_DS["bloodmnist"].items():
        found[name] = [partial(by_recipe, how=how, severity=k) for k in range(5)]
    return found


def corrupt(options):
    """Macro-F1 on PBC's `val`, changed: scales, colours, and the recipes of MedMNIST-C in five
    severities."""
    rng = np.random.default_rng(0)
    cells, truth = targets()["home"]
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(truth == t))[: options.test_per_type] for t in TYPES]
    )
    cells, truth = [cells[i] for i in chosen], truth[chosen]
    images, labels = learn_from()
    rows = {}
    for name in options.only:
        row = Row(ROWS[name][1], images, labels, options.threads)
        values, turns, copies = row.training(images)
        classifier = TypeClassifier(kernel=row.kernel)
        rows[name] = row, classifier.fit(values, labels, None, copies, turned=turns)
    record = {name: {} for name in rows}
    for recipe, severities in recipes().items():
        for how in severities:
            changed = [how(image) for image in cells]
            for name, (row, classifier) in rows.items():
                named = classifier.predict(row.extract(changed))
                score = float(f1_score(truth, named, average="macro"))
                record[name].setdefault(recipe, []).append(score)
        print(recipe, {name: record[name][recipe] for name in rows}, flush=True)
    lines = ["| change | row | 1 | 2 | 3 | 4 | 5 |", "|---|---|" + "---:|" * 5]
    at_3 = {name: [] for name in rows}
    for recipe in record[options.only[0]]:
        for name in rows:
            scores = record[name][recipe]
            at_3[name] += scores[2:3]
            cells = " | ".join([f"{v:.3f}" for v in scores] + [""] * (5 - len(scores)))
            lines.append(f"| {recipe} | {ROWS[name][0]} | {cells} |")
    for name in rows:
        lines.append(
            f"\n{ROWS[name][0]}: {np.mean(at_3[name]):.3f} at severity 3, mean of recipes."
        )
    return "\n".join(lines) + "\n", record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="ROW", help="names or patterns; default all")
    parser.add_argument("--corrupt", action="store_true")
    parser.add_argument("--test-per-type", type=int, default=40, help="of --corrupt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=HERE / ".cache")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    patterns = options.only or (["default", "before"] if options.corrupt else ["*"])
    options.only = [n for n in ROWS if any(fnmatch.fnmatch(n, p) for p in patterns)]
    if options.corrupt:
        name, (text, record) = "corrupted", corrupt(options)
    else:
        results = {}
        for row in options.only:
            print(row, flush=True)
            found = features(row, options)
            with constants(ROWS[row][1].get("late", {})):
                results[row] = tiers(row, found)
        name, (text, record) = "travel", table(results)
    print(text)
    with replacing(options.output / f"{name}.md") as temporary:
        temporary.write_text(text)
    with replacing(options.output / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
