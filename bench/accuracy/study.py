"""How well types of real leukocytes are named: profiles against baselines, one command.

    python bench/accuracy/study.py                       # half-half protocol, all runs of runs.toml
    python bench/accuracy/study.py --only default hist*  # some of them
    python bench/accuracy/study.py --curve               # learning curve, tested on `val`

Features, and the outcome of each repeat, are kept under --cache by content: of images, settings and
the sources of the package that they depend on. A rerun costs the table only.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import json
import os
import time
import tomllib
from collections import defaultdict
from pathlib import Path

import baselines
import numpy as np

import wbcprof
from wbcprof.classify import TypeClassifier, evaluation_metrics, half_half_splits
from wbcprof.files import replacing
from wbcprof.images import open_images
from wbcprof.profiler import Profiler, preset_parameters

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parents[2] / "shared/data/pbc"
PER_TYPE = 167
CURVE = (10, 25, 50, 100, 200, 400)
COVERAGES = (1.0, 0.95, 0.9, 0.8)
_SOURCES = (
    "encoder layer model patches profiler psd regions sparse _core.abi3".split()
)  # what profiles depend on


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
    files = sorted(f for name in names for f in folder.glob(f"{name}.*") if f.suffix != ".pyi")
    return digest([hashlib.sha256(f.read_bytes()).hexdigest() for f in files])


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
        path = self.options.cache / f"{key}.npz"
        if path.exists():
            with np.load(path) as arrays:
                return dict(arrays)
        arrays = make()
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **arrays)
        return arrays

    def features(self, run, train, used, seed) -> dict[str, np.ndarray]:
        """``values`` of the images `used`, CPU ``seconds`` per cell."""
        kind, settings = run["features"], run.get("parameters", {})
        used_ids = [self.ids[i] for i in used]
        if kind == "profile":
            settings = preset_parameters(run.get("preset", "default"), settings)
            learnt_on = [self.ids[i] for i in train]
            where = [kind, self.profile_sources, learnt_on, seed, run.get("inference")]
        else:
            where = [kind, self.baseline_sources]
        key = digest(where, settings, used_ids)

        def measure(function):
            started = time.process_time()
            values = function(self.images[used])
            seconds = (time.process_time() - started) / len(used)
            return {"values": values, "seconds": seconds}

        def make():
            if kind != "profile":
                return measure(lambda images: getattr(baselines, kind)(images, **settings))
            learner = Profiler(
                random_state=seed, n_threads=self.options.threads, **_tuples(settings)
            )
            started = time.perf_counter()
            model = learner.fit(self.images[train]).model_
            learning = time.perf_counter() - started
            return measure(
                lambda images: (
                    model.profile(
                        images,
                        inference=run.get("inference", "feedforward"),
                        n_threads=self.options.threads,
                    ).values
                )
            ) | {"learning": learning}

        return self.cached(key, make)

    def probabilities(self, run, train, test, seed):
        """Probabilities of the test images, and what they cost."""
        used = np.unique(np.r_[train, test])
        at = {image: row for row, image in enumerate(used)}
        rows_train, rows_test = ([at[i] for i in part] for part in (train, test))
        if run["features"] == "small_cnn":
            settings = run.get("parameters", {})
            codes = np.searchsorted(self.types, self.labels[used])
            key = digest("cnn", settings, self.baseline_sources, seed,
                         [self.ids[i] for i in train], [self.ids[i] for i in test])  # fmt: skip
            found = self.cached(
                key,
                lambda: {
                    "p": baselines.small_cnn(
                        self.images[used], codes, np.array(rows_train), len(self.types), seed,
                        **settings,
                    )
                },
            )  # fmt: skip
            return found["p"][rows_test], np.nan
        members = run.get("members", [run])
        votes, seconds = [], 0.0
        for member in members:
            found = self.features(member, train, used, seed)
            settings = {"random_state": seed, **run.get("classifier", {})}
            classifier = TypeClassifier(**settings)
            classifier.fit(found["values"][rows_train], self.labels[train])
            started = time.process_time()
            votes.append(classifier.predict_proba(found["values"][rows_test]))
            seconds += (time.process_time() - started) / len(test) + float(found["seconds"])
        return np.mean(votes, axis=0), seconds

    def score(self, run, train, test, seed) -> dict:
        p, seconds = self.probabilities(run, train, test, seed)
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
            "seconds_per_cell": seconds,
        }


def calibration_error(confidence, right, n_bins=10) -> float:
    """Expected calibration error over equal bins of the highest probability."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    parts = [bins == b for b in np.unique(bins)]
    return float(sum(m.mean() * abs(confidence[m].mean() - right[m].mean()) for m in parts))


def _tuples(parameters):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}


def read_rows():
    """Rows of labels.csv by split and type, in the file's order."""
    rows = defaultdict(lambda: defaultdict(list))
    with open(IMAGES / "labels.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            rows[row["split"]][row["label"]].append(row)
    return rows


def half_half(runs, options) -> dict:
    train = read_rows()["train"]
    chosen = []
    for index, name in enumerate(sorted(train)):
        order = np.arange(len(train[name]))
        if options.draw != "first":
            order = np.random.default_rng((int(options.draw), index)).permutation(order)
        chosen += [train[name][i] for i in sorted(order[:PER_TYPE])]
    study = Study(chosen, options)
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
            for draw in range(1 if n == 400 else options.draws):
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


def half_half_table(results) -> str:
    reference = next(iter(results))
    base = {r["seed"]: r["macro_f1"] for r in results[reference]["repeats"]}
    lines = [
        "| method | repeats | macro-F1 | sd | difference to first | standard error | sensitivity | "
        "specificity | calibration error | accuracy at 100 / 95 / 90 / 80 % coverage | "
        "CPU ms per cell |",
        "|---|" + "---:|" * 10,
    ]
    for name, result in results.items():
        title, repeats = result["run"].get("title", name), result["repeats"]
        if not repeats:
            lines.append(f"| {title} | not rerun: {result['run']['not_rerun']} |" + " |" * 9)
            continue
        f1 = np.array([r["macro_f1"] for r in repeats])
        difference = f1 - np.array([base[r["seed"]] for r in repeats if r["seed"] in base])
        n = len(f1)
        error = difference.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        measures = "sensitivity", "specificity", "calibration_error", "seconds_per_cell"
        mean = {key: np.mean([r[key] for r in repeats]) for key in measures}
        accuracy = np.mean([r["accuracy_at"] for r in repeats], axis=0)
        lines.append(
            f"| {title} | {n} | {f1.mean():.4f} | {f1.std(ddof=1) if n > 1 else 0:.4f} | "
            + ("" if name == reference else f"{difference.mean():+.4f}")
            + " | "
            + ("" if name == reference else f"{error:.4f}")
            + f" | {mean['sensitivity']:.4f} | {mean['specificity']:.4f} | "
            f"{mean['calibration_error']:.3f} | {' / '.join(f'{a:.3f}' for a in accuracy)} | "
            f"{1e3 * mean['seconds_per_cell']:.1f} |"
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
    parser.add_argument("--draws", type=int, default=3, help="of training images, per size")
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
    job, table, name = (
        (learning_curve, curve_table, "learning_curve")
        if options.curve
        else (half_half, half_half_table, "half_half")
    )
    if not options.curve and options.draw != "0":
        name += f"_{options.draw}"
    # What earlier calls found of other runs stays in the table.
    path = options.output / f"{name}.json"
    known = json.loads(path.read_text())["results"] if path.exists() else {}
    known |= job(runs, options)
    results = {r: known[r] for r in order if r in known}
    text = table(results)
    print(text)
    record = {"wbcprof": wbcprof.__version__, "cpu_count": os.cpu_count(), "results": results}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    with replacing(options.output / f"{name}.md") as temporary:
        temporary.write_text(text)


if __name__ == "__main__":
    main()
