"""Makes the stored models of this version: small, of generated cells, with what they give.

    python tests/models/make.py

For each, ``format-F-VERSION-NAME.wbcprof`` and, with the extension .npz, images, their profiles,
and the probabilities of their types. tests/model/test_storage.py holds every later version to them.
A stored file is never made again: a release that changes the format, or profiles, adds its own; one
that changes profiles of an old model says so in CHANGELOG.md and states by how much in the test.
"""

from pathlib import Path

import numpy as np

import wbcprof
from wbcprof.datasets import make_leukocytes
from wbcprof.model.storage import FORMAT_VERSION

MODELS = {
    "canonical": {"n_signatures": 4},
    "discs": {
        "n_signatures": 24, "patch_size": 6, "pools": ("sqrt", "std", "max", "active"),
        "normalise": "reinhard",
    },
    "paper": {"preset": "paper", "n_signatures": 20, "patch_size": 12},
    "stacked": {
        "n_signatures": 16, "patch_size": 4, "step": 2, "preprocessing": "contrast",
        "whiten": True, "nonlinearity": "soft_threshold", "positive": False,
        "pools": ("mean", "std"),
        "levels": (1, 2), "centres": (), "normalise": "macenko",
        "stack": [{"n_signatures": 12, "n_patches": 2000}],
    },
}  # fmt: skip
KERNELS = {"canonical": "discriminant", "discs": "linear", "paper": "rbf", "stacked": "linear"}


def main() -> None:
    cells = make_leukocytes(12, size=48)
    shown = np.arange(0, len(cells.images), 12)
    for name, parameters in MODELS.items():
        path = Path(__file__).parent / f"format-{FORMAT_VERSION}-{wbcprof.__version__}-{name}.npz"
        if path.exists():
            raise SystemExit(f"{path} is stored already, and stays")
        model = wbcprof.fit(cells.images, **parameters, n_patches=4000, max_iter=3)
        profiles = model.profile(cells.images)
        if KERNELS[name] == "discriminant":  # with another one for far cells
            model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=1)
        else:
            classifier = wbcprof.TypeClassifier(kernel=KERNELS[name])
            model.classifier = classifier.fit(profiles, cells.labels)
        model.save(path.with_suffix(".wbcprof"))
        values = profiles.values[shown]
        np.savez_compressed(
            path,
            images=cells.images[shown],
            profiles=values,
            types=model.classifier.classes_,
            probabilities=model.classifier.predict_proba(values),
        )


if __name__ == "__main__":
    main()
