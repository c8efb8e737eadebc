"""How well types of real leukocytes are named: profiles against baselines, one command.

    python bench/accuracy/study.py                       # half-half protocol, all runs of runs.toml
    python bench/accuracy/study.py --only default hist*  # some of them
    python bench/accuracy/study.py --curve               # learning curve, tested on `val`
    python bench/accuracy/study.py --time                # time per cell, on a quiet machine

Features, and probabilities of networks, are kept under --cache by content: of images, settings and
the sources that they depend on. A rerun costs classifiers and table only.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import json
import os
import statistics
import time
import tomllib
from collections import defaultdict
from pathlib import Path

import baselines
import numpy as np
from threadpoolctl import threadpool_limits

import wbcprof
from wbcprof.analysis.classify import TypeClassifier, profiles_of_copies
from wbcprof.analysis.evaluation import evaluation_metrics, half_half_splits
from wbcprof.files import replacing
from wbcprof.images.source import open_images
from wbcprof.learning.profiler import PRESETS, make_profiler
from wbcprof.model.settings import Coding
from wbcprof.smear.jitter import N_TURNS, turned

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parents[2] / "shared/data/pbc"
PER_TYPE = 167
CURVE = (10, 25, 50, 100, 200, 400)
COVERAGES = (1.0, 0.95, 0.9, 0.8)
TIMED_CELLS, TIMED_TURNS = 48, 5
_SOURCES = ("model", "smear", "learning")  # folders that profiles depend on, beside the kernels


def digest(*things) -> str:
    """Of JSON-able settings and arrays."""
    hash_ = hashlib.sha256()
    for thing in things:
        if isinstance(thing, np.ndarray):
            hash_.update(np.ascontiguousarray(thing))
        else:
            hash_.update(json.dumps(thing, sort_keys=True, default=str).encode())
    return hash_.hexdigest()[:24]


def source_digest(names) -> str:
    folder = Path(wbcprof.__file__).parent
    files = sorted(f for name in names for f in (folder / name).glob("*.py"))
    files += sorted(folder.glob("_core.abi3*"))
    return digest([hashlib.sha256(f.read_bytes()).hexdigest() for f in files])


def cached(path, make):
    """Arrays by name, from the file or made and kept there."""
    if path.exists():
        with np.load(path) as arrays:
            return dict(arrays)
    arrays = make()
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)
    return arrays


class Study:
    def __init__(self, rows, options):
        self.options = options
        self.ids = [row["md5"] for row in rows]
        self.labels = np.array([row["label"] for row in rows])
        self.types = np.unique(self.labels).tolist()
        self.images = np.stack(
            [cell.pixels for cell in open_images([IMAGES / row["path"] for row in rows])]
        )
        self.profile_sources = source_digest(_SOURCES)
        self.baseline_sources = hashlib.sha256((HERE / "baselines.py").read_bytes()).hexdigest()

    def cached(self, key, make):
        return cached(self.options.cache / f"{key}.npz", make)

    def extractor(self, run, train, seed):
        """Function from images to features, and features of `train` turned and mirrored, and of its
        jittered copies; of peers none is jittered."""
        kind, settings = run["features"], run.get("parameters", {})
        if kind != "profile":

            def peer(images):
                return getattr(baselines, kind)(images, **settings)

            turns = [peer([turned(self.images[i], k) for i in train]) for k in range(1, N_TURNS)]
            return peer, (turns, [])
        preset = run.get("preset", "default")
        settings = _from_toml(settings)
        learner = make_profiler(
            preset, random_state=seed, n_threads=self.options.threads, **settings
        )
        model = learner.fit(self.images[train]).model_
        inference = run.get("inference", "feedforward")
        source = open_images(self.images[train])
        changed = profiles_of_copies(
            model, source, None, seed, self.options.threads, Coding(inference=inference)
        )
        return (
            lambda images: (
                model.profile(images, inference=inference, n_threads=self.options.threads).values
            ),
            changed,
        )

    def features(self, run, train, seed) -> dict:
        """Features of all images, ``values``, and those of `train` turned and jittered."""
        kind, settings = run["features"], run.get("parameters", {})
        if kind == "profile":
            settings = {**PRESETS[run.get("preset", "default")], **settings}
            learnt_on = [self.ids[i] for i in train]
            where = [kind, self.profile_sources, learnt_on, seed, run.get("inference")]
        else:
            where = [kind, self.baseline_sources]

        def make():
            extract, changed = self.extractor(run, train, seed)
            found = {
                f"{how}.{k}": copy
                for how, copies in zip(("turned", "jittered"), changed, strict=True)
                for k, copy in enumerate(copies)
            }
            return {"values": extract(self.images), **found}

        return self.cached(digest(where, settings, self.ids), make)

    def classifier(self, run, features, train, seed):
        """Learnt from the features of `train` and of its copies."""
        values = features["values"]
        turns, jittered = (
            [features[name] for name in sorted(features) if name.startswith(how)]
            for how in ("turned.", "jittered.")
        )
        kernel = "discriminant" if run["features"] == "profile" else "rbf"  # what suits each
        settings = {"random_state": seed, "kernel": kernel, **run.get("classifier", {})}
        return TypeClassifier(**settings).fit(
            values[train], self.labels[train], None, jittered, turned=turns
        )

    def network(self, run, train, seed):
        """Function from images to probabilities of a network trained on `train`."""
        codes = np.searchsorted(self.types, self.labels[train])
        return baselines.small_cnn(
            self.images[train], codes, len(self.types), seed, **run.get("parameters", {})
        )

    def probabilities(self, run, train, test, seed) -> np.ndarray:
        if run["features"] == "small_cnn":
            key = digest("cnn", run.get("parameters", {}), self.baseline_sources, seed,
                         [self.ids[i] for i in train], [self.ids[i] for i in test])  # fmt: skip
            return self.cached(
                key, lambda: {"p": self.network(run, train, seed)(self.images[test])}
            )["p"]
        votes = []
        for member in run.get("members", [run]):
            found = self.features(member, train, seed)
            classifier = self.classifier(run, found, train, seed)
            votes.append(classifier.predict_proba(found["values"][test]))
        return np.mean(votes, axis=0)

    def predictor(self, run, train, seed):
        """Function from images to probabilities, nothing of it cached."""
        if run["features"] == "small_cnn":
            return self.network(run, train, seed)
        parts = []
        for member in run.get("members", [run]):
            extract, _ = self.extractor(member, train, seed)
            found = self.features(member, train, seed)
            parts.append((extract, self.classifier(run, found, train, seed)))
        return lambda images: np.mean([c.predict_proba(e(images)) for e, c in parts], axis=0)

    def score(self, run, train, test, seed) -> dict:
        p = self.probabilities(run, train, test, seed)
        truth = self.labels[test]
        named = np.array(self.types)[p.argmax(axis=1)]
        found = evaluation_metrics(truth, named, self.types)
        right = (named == truth)[np.argsort(-p.max(axis=1), kind="stable")]
        return {
            "seed": seed,
            "macro_f1": found["macro_f1"],
            "sensitivity": found["macro_sensitivity"],
            "specificity": found["macro_specificity"],
            "recall": dict(zip(self.types, found["sensitivity"].tolist(), strict=True)),
            "calibration_error": calibration_error(p.max(axis=1), named == truth),
            "accuracy_at": [float(right[: round(c * len(right))].mean()) for c in COVERAGES],
        }


def calibration_error(confidence, right, n_bins=10) -> float:
    """Expected calibration error over equal bins of the highest probability."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    parts = [bins == b for b in np.unique(bins)]
    return float(sum(m.mean() * abs(confidence[m].mean() - right[m].mean()) for m in parts))


def _from_toml(parameters):
    """Lists as tuples, and "none" as None, which TOML has not."""
    parameters = {k: None if v == "none" else v for k, v in parameters.items()}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}


def read_rows():
    """Rows of labels.csv by split and type, in the file's order."""
    rows = defaultdict(lambda: defaultdict(list))
    with open(IMAGES / "labels.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            rows[row["split"]][row["label"]].append(row)
    return rows


def draw_rows(draw) -> list:
    """167 images of each type of `train`: the first, or drawn at random."""
    train = read_rows()["train"]
    chosen = []
    for index, name in enumerate(sorted(train)):
        order = np.arange(len(train[name]))
        if draw != "first":
            order = np.random.default_rng((int(draw), index)).permutation(order)
        chosen += [train[name][i] for i in sorted(order[:PER_TYPE])]
    return chosen


def half_half(runs, options) -> dict:
    study = Study(draw_rows(options.draw), options)
    results = {}
    for run in runs:
        if "not_rerun" in run:
            results[run["name"]] = {"run": run, "repeats": []}
            continue
        repeats = min(options.repeats, run.get("repeats", options.repeats))
        records = []
        for part, test, seed in half_half_splits(study.labels, repeats):
            records.append(study.score(run, part, test, seed))
            f1 = records[-1]["macro_f1"]
            print(f"{run['name']}: {len(records)}/{repeats} {f1:.4f}", flush=True)
        results[run["name"]] = {"run": run, "repeats": records}
    return results


def time_per_cell(runs, options) -> dict:
    """Seconds per cell from pixels in memory to probabilities: median of turns on one thread."""
    study = Study(draw_rows(options.draw), options)
    ((train, test, seed),) = half_half_splits(study.labels, 1)
    timed = study.images[np.random.default_rng(0).choice(test, TIMED_CELLS, replace=False)]
    methods = {
        run["name"]: study.predictor(run, train, seed) for run in runs if "not_rerun" not in run
    }
    seconds = defaultdict(list)
    for turn in range(1 + TIMED_TURNS):
        for name, predict in methods.items():
            with threadpool_limits(1):
                started = time.perf_counter()
                predict(timed)
                if turn:  # the first prepares
                    seconds[name].append((time.perf_counter() - started) / TIMED_CELLS)
    for name, found in seconds.items():
        print(f"{name}: {1e3 * statistics.median(found):.2f} ms per cell, "
              f"{1e3 * min(found):.2f} to {1e3 * max(found):.2f}")  # fmt: skip
    return {name: {"seconds": found} for name, found in seconds.items()}


def learning_curve(runs, options) -> dict:
    rows = read_rows()
    train, val = rows["train"], rows["val"]
    names = sorted(train)
    chosen = [row for split in (train, val) for name in names for row in split[name]]
    study = Study(chosen, options)
    n_train = sum(len(train[name]) for name in names)
    test = np.arange(n_train, len(chosen))
    results = {}
    for run in (r for r in runs if r.get("curve")):
        points = []
        for n in (n for n in CURVE if n in run.get("sizes", CURVE)):
            for draw in range(options.draws if n < 100 else 1):
                rng = np.random.default_rng((draw, n))
                part = np.sort(
                    np.concatenate(
                        [
                            rng.permutation(np.flatnonzero(study.labels[:n_train] == name))[:n]
                            for name in names
                        ]
                    )
                )
                points.append({"n_per_type": n, "draw": draw} | study.score(run, part, test, draw))
                print(f"{run['name']}: {n} per type {points[-1]['macro_f1']:.4f}", flush=True)
        results[run["name"]] = {"run": run, "points": points}
    return results


def half_half_table(results, seconds) -> str:
    reference = next(iter(results))
    base = {r["seed"]: r["macro_f1"] for r in results[reference]["repeats"]}
    lines = [
        "| method | repeats | macro-F1 | sd | difference to first | standard error | sensitivity | "
        "specificity | calibration error | accuracy at 100 / 95 / 90 / 80 % coverage | "
        "ms per cell, one thread |",
        "|---|" + "---:|" * 10,
    ]
    for name, result in results.items():
        title, repeats = result["run"].get("title", name), result["repeats"]
        if not repeats:
            lines.append(f"| {title} | not rerun: {result['run']['not_rerun']} |" + " |" * 9)
            continue
        f1 = np.array([r["macro_f1"] for r in repeats])
        paired = [r["macro_f1"] - base[r["seed"]] for r in repeats if r["seed"] in base]
        difference, n = np.array(paired), len(f1)
        error = difference.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else np.nan
        measures = "sensitivity", "specificity", "calibration_error"
        mean = {key: np.mean([r[key] for r in repeats]) for key in measures}
        accuracy = np.mean([r["accuracy_at"] for r in repeats], axis=0)
        lines.append(
            f"| {title} | {n} | {f1.mean():.4f} | {f1.std(ddof=1) if n > 1 else 0:.4f} | "
            + ("" if name == reference else f"{difference.mean():+.4f}")
            + " | "
            + ("" if name == reference else f"{error:.4f}")
            + f" | {mean['sensitivity']:.4f} | {mean['specificity']:.4f} | "
            f"{mean['calibration_error']:.3f} | {' / '.join(f'{a:.3f}' for a in accuracy)} | "
            + (f"{1e3 * statistics.median(seconds[name]):.1f} |" if name in seconds else "|")
        )
    recall = ["", "Recall by type:", ""]
    types = sorted(next(r["repeats"][0] for r in results.values() if r["repeats"])["recall"])
    recall += ["| method | " + " | ".join(types) + " |", "|---|" + "---:|" * len(types)]
    for name, result in results.items():
        if result["repeats"]:
            values = [np.mean([r["recall"][t] for r in result["repeats"]]) for t in types]
            title = result["run"].get("title", name)
            recall.append(f"| {title} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    return "\n".join(lines + recall) + "\n"


def curve_table(results) -> str:
    lines = ["| method | " + " | ".join(map(str, CURVE)) + " |", "|---|" + "---:|" * len(CURVE)]
    for name, result in results.items():
        cells = []
        for n in CURVE:
            f1 = [p["macro_f1"] for p in result["points"] if p["n_per_type"] == n]
            sd = f" ± {np.std(f1, ddof=1):.3f}" if len(f1) > 1 else ""
            cells.append(f"{np.mean(f1):.3f}{sd}" if f1 else "")
        lines.append(f"| {result['run'].get('title', name)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=HERE / "runs.toml", help="TOML list of runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names, with wildcards")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument(
        "--draw", default="0", help="seed of the draw of 167 images per type, or 'first' of them"
    )
    parser.add_argument("--curve", action="store_true", help="learning curve, tested on `val`")
    parser.add_argument("--time", action="store_true", help="time per cell instead of accuracy")
    parser.add_argument("--draws", type=int, default=3, help="for each size below 100")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=HERE / ".cache")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    runs = tomllib.loads(options.runs.read_text())["run"]
    order = [run["name"] for run in runs]
    if options.only:
        runs = [r for r in runs if any(fnmatch.fnmatch(r["name"], o) for o in options.only)]
    job, name = half_half, "half_half" if options.draw == "0" else f"half_half_{options.draw}"
    if options.curve:
        job, name = learning_curve, "learning_curve"
    elif options.time:
        job, name = time_per_cell, "time"

    def path(name, suffix=".json"):
        return options.output / (name + suffix)

    def known(name):
        return json.loads(path(name).read_text())["results"] if path(name).exists() else {}

    # What earlier calls found of other runs stays in the table.
    found = known(name) | job(runs, options)
    results = {r: found[r] for r in order if r in found}
    record = {"wbcprof": wbcprof.__version__, "cpu_count": os.cpu_count(), "results": results}
    with replacing(path(name)) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    if options.time:
        name, results = "half_half", known("half_half")
    if options.curve:
        text = curve_table(results)
    else:
        seconds = {r: timed["seconds"] for r, timed in known("time").items()}
        text = half_half_table(results, seconds)
    print(text)
    with replacing(path(name, ".md")) as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
