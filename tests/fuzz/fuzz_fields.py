#!/usr/bin/env python
"""Any field: acquisition, finder and normalisers give finite numbers, or say why not."""

import sys
import warnings

import atheris
import numpy as np

with atheris.instrument_imports(include=["wbcprof"]):
    from wbcprof.smear import CanonicalForm, acquisition, find_leukocyte
    from wbcprof.smear.finder import find_leukocytes, outline_leukocytes
    from wbcprof.smear.jitter import jitter
    from wbcprof.smear.stain import StainNormaliser

METHODS = ("background", "reinhard", "macenko")


def discs(data, image):
    """Paint discs of any colour."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    for _ in range(data.ConsumeIntInRange(0, 12)):
        row, column = data.ConsumeIntInRange(-20, height + 20), data.ConsumeIntInRange(-20, width)
        radius = data.ConsumeIntInRange(1, 60)
        colour = [data.ConsumeIntInRange(0, 255) for _ in range(3)]
        image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = colour


def field_of(data):
    height, width = data.ConsumeIntInRange(1, 200), data.ConsumeIntInRange(1, 200)
    image = np.empty((height, width, 3), np.uint8)
    image[:] = [data.ConsumeIntInRange(0, 255) for _ in range(3)]
    discs(data, image)
    noise = data.ConsumeIntInRange(0, 60)
    if noise:
        rng = np.random.default_rng(data.ConsumeInt(2) & 0xFFFF)
        image = np.clip(image + rng.integers(-noise, noise + 1, image.shape), 0, 255)
    if data.ConsumeBool():
        light = np.linspace(data.ConsumeIntInRange(0, 100) / 100, 1, width)[:, None]
        image = image * light
    image = np.rint(image).astype(np.uint8)
    raw = np.frombuffer(data.ConsumeBytes(64), np.uint8)
    image.reshape(-1)[: raw.size] = raw[: image.size]
    return image


def all_finite(values):
    for name, value in values.items():
        if isinstance(value, float | int | np.ndarray | np.generic):
            assert np.isfinite(value).all(), (name, value)


def read_one(data):
    data = atheris.FuzzedDataProvider(data)
    image = field_of(data)
    diameter = data.PickValueInList([7.0, 12.5, 20.0, 33.3, 60.0, 150.0, 1e6])
    n_threads = data.ConsumeIntInRange(1, 2)
    try:
        all_finite(vars(acquisition.measure(image)) | {"background_spread": None})
    except ValueError as error:
        assert str(error)
    try:
        found = find_leukocytes(image, diameter, n_threads=n_threads)
        for one in found:
            all_finite(one._asdict())
            assert -1 <= one.x <= image.shape[1] and -1 <= one.y <= image.shape[0], one
        outlines = outline_leukocytes(image, diameter)
        assert outlines.nuclei.max(initial=0) <= len(outlines.found)
    except ValueError as error:
        assert str(error)
    leukocyte = find_leukocyte(image)
    all_finite(leukocyte._asdict())
    assert tuple(leukocyte) == tuple(find_leukocyte(image.copy()))
    try:
        cell, _, _, blurred = form.examine(image)
        assert cell.dtype == np.uint8 and blurred >= 0  # infinite where nothing has an edge
        jitter(image, 0, 1)
    except ValueError as error:
        assert str(error)
    for stain in stains:
        assert stain.normalise(image).shape == image.shape


rng = np.random.default_rng(0)
known = []
for _ in range(6):
    cell = np.full((120, 120, 3), (235, 230, 228), np.uint8)
    y, x = np.mgrid[:120, :120]
    cell[(y - 60) ** 2 + (x - 60) ** 2 < 40**2] = (200, 170, 200)
    cell[(y - 58) ** 2 + (x - 63) ** 2 < 22**2] = (90, 50, 140)
    known.append(np.clip(cell + rng.integers(-8, 9, cell.shape), 0, 255).astype(np.uint8))
warnings.simplefilter("ignore")
form = CanonicalForm.learn(known)
stains = [StainNormaliser.learn(known, method) for method in METHODS]
atheris.Setup(sys.argv, read_one)
atheris.Fuzz()
