"""The whole path on real leukocytes, small; skipped where the images are not there."""

import csv

import numpy as np
import pytest

import wbcprof
from wbcprof.analysis.evaluation import evaluate
from wbcprof.images.source import open_images


@pytest.fixture(scope="module")
def sample(real_images):
    """Paths and types of thirty training images of each type."""
    with open(real_images / "labels.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train"]
    chosen = []
    for name in sorted({row["label"] for row in rows}):
        chosen += [row for row in rows if row["label"] == name][:30]
    return [real_images / row["path"] for row in chosen], [row["label"] for row in chosen]


@pytest.fixture(scope="module")
def real_model(sample):
    return wbcprof.fit(sample[0], n_signatures=96, n_patches=6000, max_iter=5)


def test_signatures_rebuild_real_cells(real_model, sample):
    last = real_model.history[0][-1]
    assert last["error_optimal"] < 0.25 and last["error_inferred"] < 0.4
    path = sample[0][5]
    (cell,) = open_images([path])
    read = real_model.as_read(cell.pixels)
    for inference, limit in (("feedforward", 10), ("sparse", 10)):
        rebuilt = real_model.reconstruct(cell.pixels, inference=inference)
        error = np.sqrt(np.mean((rebuilt.astype(float) - read) ** 2))
        assert error < limit < read.std()


def test_profiles_of_real_cells_name_their_types(real_model, sample):
    evaluation = evaluate(*sample, model=real_model, repeats=2)
    assert evaluation.macro_f1 > 0.6  # by chance: 0.17
    assert evaluation.baseline["macro_f1"] > 0.6


def test_folder_gives_types_and_ids(real_images, real_model):
    source = open_images(real_images)
    assert source.n_hint == 3000 and len(set(source.labels)) == 6
