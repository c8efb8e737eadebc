#!/usr/bin/env python
"""Any bytes as a table of profiles, people or boxes: it is read, or one error says why not."""

import os
import sys
import tempfile
import warnings

import atheris
import numpy as np

with atheris.instrument_imports(include=["wbcprof"]):
    from PIL import Image

    from wbcprof.images import open_images, read_boxes, read_groups, read_labels
    from wbcprof.images.tables import read_by_image, read_table
    from wbcprof.model.profiles import Profiles

LONGEST = 2000  # characters of an error


def read_profiles(path):
    profiles = Profiles.load(path)
    assert profiles.values.dtype == np.float32 and profiles.values.ndim == 2
    assert len(profiles.ids) == len(profiles.values)


def read_images(path):
    source = open_images(path)
    assert len(source.ids()) == source.n


READERS = {
    ".csv": (
        read_profiles,
        read_images,
        read_table,
        lambda path: read_by_image(path, ("label",), ["0.png", "1.png"]),
        lambda path: read_groups(path, images),
        lambda path: read_labels(path, images),
        lambda path: read_boxes(path, images),
    ),
    ".parquet": (read_profiles,),
    ".xlsx": (read_table, lambda path: read_boxes(path, images)),
    ".json": (lambda path: read_boxes(path, images),),
    ".xml": (lambda path: read_boxes(path, images),),
}
SUFFIXES = list(READERS)


def read_one(data):
    """The first byte chooses what the others are taken for."""
    if not data:
        return
    suffix = SUFFIXES[data[0] % len(SUFFIXES)]
    path = os.path.join(folder, f"table{suffix}")
    with open(path, "wb") as file:
        file.write(data[1:])
    for read in READERS[suffix]:
        try:
            read(path)
        except (ValueError, ImportError, FileNotFoundError) as error:
            assert len(str(error)) < LONGEST, error


with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
    cells = os.path.join(folder, "cells")
    os.mkdir(cells)
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(noise).save(os.path.join(cells, f"{number}.png"))
    images = open_images(cells)
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, read_one)
    atheris.Fuzz()
