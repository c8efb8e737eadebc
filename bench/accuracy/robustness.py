"""Stain variation simulated on real test images, and what each normaliser buys.

    python bench/accuracy/robustness.py

Normalisers, signatures and classifiers are learnt from the training half; the test images are
changed in hue, saturation, gain or blur.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage
from study import HERE, IMAGES, PER_TYPE, draw_rows

from wbcprof.analysis.classify import TypeClassifier
from wbcprof.analysis.evaluation import colour_histograms, evaluation_metrics, half_half_splits
from wbcprof.images.source import open_images
from wbcprof.learning.profiler import Profiler
from wbcprof.learning.sample import crop_centre
from wbcprof.smear.normalise import NORMALISERS, learn_normaliser

CHANGES = {
    "hue, degrees": (-20, -10, 0, 10, 20),
    "saturation, factor": (0.6, 0.8, 1, 1.2, 1.4),
    "gain, factor": (0.8, 0.9, 1, 1.05, 1.1),
    "blur, sigma px": (0, 1, 2),
}


def change(image, kind, amount):
    """One image changed; hue and saturation act on chroma about the grey axis."""
    if kind.startswith("blur"):
        return ndimage.gaussian_filter(image, (amount, amount, 0)) if amount else image
    pixels = image.astype(np.float64)
    if kind.startswith("gain"):
        pixels = pixels * amount
    else:
        grey = pixels.mean(axis=2, keepdims=True)
        chroma = pixels - grey
        if kind.startswith("saturation"):
            chroma *= amount
        else:
            angle = np.deg2rad(amount)
            axis = np.ones(3) / np.sqrt(3)
            chroma = np.cos(angle) * chroma + np.sin(angle) * np.cross(
                np.broadcast_to(axis, chroma.shape), chroma
            )
        pixels = grey + chroma
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test-per-type", type=int, default=PER_TYPE, help="at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args()
    rows = draw_rows("0")
    labels = np.array([row["label"] for row in rows])
    types = np.unique(labels).tolist()
    images = [cell.pixels for cell in open_images([IMAGES / row["path"] for row in rows])]
    ((train, test, seed),) = half_half_splits(labels, 1)
    test = np.concatenate([test[labels[test] == t][: options.test_per_type] for t in types])
    trained, tested = [images[i] for i in train], [images[i] for i in test]

    preparations = {"": None} | {
        f", {method}": learn_normaliser(trained, method).normalise for method in NORMALISERS
    }
    models = {
        suffix: Profiler(
            normalise=suffix[2:] or None, random_state=seed, n_threads=options.threads
        ).fit(trained).model_
        for suffix in preparations
    }  # fmt: skip

    def features(images, suffix):
        """By method."""
        yield "profile" + suffix, models[suffix].profile(images, n_threads=options.threads).values
        prepare = preparations[suffix]
        prepared = images if prepare is None else map(prepare, images)
        yield (
            "histogram 240 px" + suffix,
            colour_histograms([crop_centre(image, 2 / 3, 1) for image in prepared]),
        )

    classifiers = {
        name: TypeClassifier(
            random_state=seed, kernel="discriminant" if name.startswith("profile") else "rbf"
        ).fit(values, labels[train])
        for suffix in preparations
        for name, values in features(trained, suffix)
    }
    results = {name: {} for name in classifiers}
    for kind, amounts in CHANGES.items():
        for amount in amounts:
            changed = [change(image, kind, amount) for image in tested]
            for suffix in preparations:
                for name, values in features(changed, suffix):
                    called = classifiers[name].predict(values)
                    found = evaluation_metrics(labels[test], called, types)["macro_f1"]
                    results[name].setdefault(kind, {})[str(amount)] = found
                    print(f"{kind} {amount} {name}: {found:.3f}", flush=True)
    lines = []
    for kind, amounts in CHANGES.items():
        lines += [f"| {kind} | " + " | ".join(map(str, amounts)) + " |"]
        lines += ["|---|" + "---:|" * len(amounts)]
        for name, found in results.items():
            values = " | ".join(f"{found[kind][str(a)]:.3f}" for a in amounts)
            lines.append(f"| {name} | {values} |")
        lines.append("")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "robustness.md").write_text("\n".join(lines))
    (options.output / "robustness.json").write_text(json.dumps(results, indent=1) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
