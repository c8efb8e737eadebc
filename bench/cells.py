"""Images for the benchmarks of sparse codes and of learning: real cells where they are at hand."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import numpy as np

PBC = Path(__file__).resolve().parents[2] / "shared" / "data" / "pbc"
N_REAL, N_GENERATED = 300, 100


@cache
def training_cells() -> list[np.ndarray]:
    """Cells of the training split of `../shared/data/pbc`, beside the repository; generated ones
    where there is no such folder."""
    from PIL import Image

    if not PBC.is_dir():
        return [generated_image(seed) for seed in range(N_GENERATED)]
    with open(PBC / "labels.csv", newline="") as stream:
        files = [PBC / row["path"] for row in csv.DictReader(stream) if row["split"] == "train"]
    chosen = np.random.default_rng(0).permutation(len(files))[:N_REAL]
    return [np.asarray(Image.open(files[i]).convert("RGB")) for i in chosen]


def generated_image(seed: int) -> np.ndarray:
    """A pale field with dark soft discs: a stand-in where no real images are at hand."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:200, :200]
    image = np.full((200, 200, 3), rng.uniform(190, 230, 3))
    for _ in range(25):
        cy, cx, radius = rng.uniform(0, 200), rng.uniform(0, 200), rng.uniform(4, 40)
        disc = 1 / (1 + np.exp(np.hypot(y - cy, x - cx) - radius))
        image -= disc[..., None] * rng.uniform(0, 70, 3)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
