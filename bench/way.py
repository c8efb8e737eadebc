"""The way from JPEG bytes to a type, step by step, one thread, beside the kernel alone.

    python bench/way.py [--model m.wbcprof] [--images 48] [--turns 5]

Without `--model`, one of the default size is learnt from generated cells. Images are those of
`../shared/data/pbc` beside the repository, else generated; 360 x 360 px. Medians over the turns of
the mean over the images, in ms for each, and over the kernel's in the same turn.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cells import PBC
from PIL import Image
from service import learn_model
from threadpoolctl import threadpool_limits

import wbcprof
from wbcprof.datasets import make_leukocytes
from wbcprof.images.decode import read_file
from wbcprof.smear.measures import examine

SIDE = 360


def jpeg_files(n: int) -> list[bytes]:
    """Contents of `n` JPEG files of one leukocyte each."""
    if PBC.is_dir():
        with open(PBC / "labels.csv", newline="") as stream:
            paths = [PBC / row["path"] for row in csv.DictReader(stream) if row["split"] == "train"]
        chosen = np.random.default_rng(0).permutation(len(paths))[:n]
        return [paths[i].read_bytes() for i in chosen]
    files = []
    for image in make_leukocytes(-(-n // 6), size=SIDE).images[:n]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def steps_of(model: wbcprof.Model, files: list[bytes]) -> dict[str, Callable[[int], object]]:
    """What is done to image i, by name of the step; each begins from what the one before left."""
    pixels = [read_file(file)[0][0] for file in files]
    cells = [examine(image, model.normaliser)[0] for image in pixels]
    encoder, pooling = model.layers[-1].encoder(), model.pooling
    profiles = [encoder.encode_pool(cell[None], pooling, n_threads=1) for cell in cells]
    machines = model.classifier
    whole = model.profile(files, n_threads=1)

    def name(profiles: wbcprof.Profiles) -> object:
        return machines.predict_proba(profiles), machines.is_far(profiles)

    return {
        "kernel": lambda i: encoder.encode_pool(cells[i][None], pooling, n_threads=1),
        "decode": lambda i: read_file(files[i]),
        "one scale, light and stain; measures": lambda i: examine(pixels[i], model.normaliser),
        "probabilities": lambda i: machines.predict_proba(profiles[i]),
        "whole way, one image a call": lambda i: name(model.profile([files[i]], n_threads=1)),
        "profile of all, one call": lambda i: i or model.profile(files, n_threads=1),
        "types of all, one call": lambda i: i or name(whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.model or Path(folder) / "model.wbcprof")
        if not options.model:
            learn_model(path)
        model = wbcprof.load(path)
    files = jpeg_files(options.images)
    steps = steps_of(model, files)
    times: dict[str, list[float]] = {name: [] for name in steps}
    with threadpool_limits(1):
        for turn in range(1 + options.turns):
            for name, step in steps.items():
                started = time.perf_counter()
                for i in range(len(files)):
                    step(i)
                if turn:  # the first prepares
                    times[name].append(1e3 * (time.perf_counter() - started) / len(files))
    print(f"{'step':40} {'ms':>7} {'over kernel':>12}")
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, times["kernel"], strict=True))
        print(f"{name:40} {statistics.median(found):7.2f} {ratio:12.2f}")


if __name__ == "__main__":
    main()
