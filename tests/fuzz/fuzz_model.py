#!/usr/bin/env python
"""Any bytes as a model file: it is refused with `ModelFileError`, or it profiles finite numbers."""

import copy
import json
import math
import os
import random
import sys
import tempfile

import atheris
import numpy as np

with atheris.instrument_imports(include=["wbcprof"]):
    import wbcprof
    from wbcprof.model.storage import ModelFileError

LENGTH_BYTES = 8
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 64, 255, 1 << 20, 1 << 31, 1 << 63, 10**400, 0.5, -1e308,
    math.nan, math.inf, "", "F16", "F64", "BF16", "I8", "BOOL", "mean", "sqrt", "contrast",
    "patch_mean", "sigmoid", "soft_threshold", "raw", [], {}, [0], [1, 2], [0, 1 << 40], [[1]],
]  # fmt: skip
IMAGE = np.random.default_rng(0).integers(0, 256, (24, 21, 3), dtype=np.uint8)


def places(tree):
    """Every (container, key) of a JSON tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


def change(tree, rng):
    """Change one value of a JSON tree."""
    found = list(places(tree))
    if not found:
        return
    container, key = rng.choice(found)
    kind = rng.randrange(4)
    if kind == 0:
        del container[key]
    elif kind == 1:
        other, where = rng.choice(found)
        container[key] = copy.deepcopy(other[where])
    elif kind == 2 and type(container[key]) in (int, float):
        container[key] = container[key] * rng.choice([-1, 0.5, 2, 10]) + rng.choice([-1, 0, 1])
    else:
        container[key] = rng.choice(VALUES)


def mutate(data, max_size, seed):
    """Bytes as they come, or values of the header and of the document in it."""
    rng = random.Random(seed)
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    head, body = data[LENGTH_BYTES : LENGTH_BYTES + length], data[LENGTH_BYTES + length :]
    kind = rng.randrange(4)
    try:
        header = json.loads(head)
        document = json.loads(header["__metadata__"]["wbcprof"])
        header["__metadata__"].pop("digest", None)  # which would refuse all that follows
    except (ValueError, TypeError, KeyError, RecursionError):
        kind = 0
    if kind == 0:
        return atheris.Mutate(data, len(data) if rng.randrange(2) else max_size)[:max_size]
    if kind == 1:
        body = atheris.Mutate(body, max(len(body), 1))
    elif kind == 2:
        change(header, rng)
    else:
        for _ in range(rng.randint(1, 3)):
            change(document, rng)
        header["__metadata__"]["wbcprof"] = json.dumps(document)
    head = json.dumps(header).encode()
    return (len(head).to_bytes(LENGTH_BYTES, "little") + head + body)[:max_size]


def read_one(data):
    with open(path, "wb") as file:
        file.write(data)
    try:
        model = wbcprof.load(path)
        classifier = model.classifier
    except ModelFileError:
        return
    try:
        values = model.profile(IMAGE, n_threads=1).values
        assert np.isfinite(values).all(), values
        if classifier is not None and len(classifier.mean_) == values.shape[1]:
            assert set(classifier.predict(values)) <= set(classifier.classes_)
    except ValueError:
        return


with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
    path = os.path.join(folder, "model.wbcprof")
    atheris.Setup(sys.argv, read_one, custom_mutator=mutate)
    atheris.Fuzz()
