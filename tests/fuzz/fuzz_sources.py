#!/usr/bin/env python
"""Any bytes as an array, an archive, a stack or a list of images: images, or one error."""

import io
import json
import os
import shutil
import sys
import tempfile
import warnings

import atheris
import numpy as np

with atheris.instrument_imports(include=["wbcprof"]):
    import pandas as pd
    import PIL.Image

    from wbcprof.images import open_fields, open_images

PIL.Image.MAX_IMAGE_PIXELS = 1 << 18
MOST = 40  # images of a source that are read
TYPES = (
    "u1", "u2", "<u4", ">u2", "i1", "i2", "i8", "f2", "f4", "f8", "?", "c8", "S3", "U2", "M8[s]",
)  # fmt: skip


def check(images):
    source = open_images(images)
    for n, cell in enumerate(source):
        pixels = cell.pixels
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        assert pixels.flags.c_contiguous and isinstance(cell.image_id, str)
        assert cell.label is None or isinstance(cell.label, str)
        if n == MOST:
            break


def a_file(data, suffix):
    path = os.path.join(folder, "thing" + suffix)
    with open(path, "wb") as file:
        file.write(data.ConsumeBytes(1 << 16))
    check(path)
    os.unlink(path)


def an_npy(data):
    shape = tuple(data.ConsumeIntInRange(0, 40) for _ in range(data.ConsumeIntInRange(0, 5)))
    array = np.zeros(shape, data.PickValueInList(list(TYPES)))
    raw = data.ConsumeBytes(array.nbytes)
    if array.dtype.kind not in "UM":
        array.reshape(-1).view("u1")[: len(raw)] = np.frombuffer(raw, "u1")
    if data.ConsumeBool():
        check(array[::-1] if shape else array)
        return
    path = os.path.join(folder, "array.npy")
    np.save(path, array)
    if data.ConsumeBool():
        os.truncate(path, data.ConsumeIntInRange(0, os.path.getsize(path)))
    check(path)


def a_zarr(data):
    path = os.path.join(folder, "array.zarr")
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path)
    head = {
        "zarr_format": data.PickValueInList([2, 3, 4, None]),
        "shape": [data.ConsumeInt(2) for _ in range(data.ConsumeIntInRange(0, 5))],
        "chunks": [data.ConsumeIntInRange(-1, 40) for _ in range(data.ConsumeIntInRange(0, 5))],
        "dtype": data.PickValueInList(["|u1", "<u2", "<f4", "|O", "|S3", "nonsense"]),
        "compressor": None, "fill_value": 0, "order": "C", "filters": None,
    }  # fmt: skip
    with open(os.path.join(path, data.PickValueInList([".zarray", "zarr.json"])), "w") as file:
        json.dump(head, file)
    with open(os.path.join(path, "0.0.0.0"), "wb") as file:
        file.write(data.ConsumeBytes(4096))
    check(path)


def a_list(data):
    things = []
    for _ in range(data.ConsumeIntInRange(0, 4)):
        kind = data.ConsumeIntInRange(0, 7)
        pixels = np.frombuffer(data.ConsumeBytes(27 * 12).ljust(27 * 12, b"\0"), "u1")
        pixels = pixels.reshape(9, 12, 3)
        things.append([
            pixels, pixels[..., 0].astype("f4"), pixels.tobytes(), io.BytesIO(pixels.tobytes()),
            PIL.Image.fromarray(pixels), (pixels, data.ConsumeUnicode(6)),
            data.ConsumeUnicodeNoSurrogates(9), np.ma.masked_array(pixels, pixels > 9),
        ][kind])  # fmt: skip
    check(iter(things) if data.ConsumeBool() else things)


def a_frame(data):
    names = ["path", "image", "label", "Cell Type", "x", "file_name"]
    columns = {
        data.PickValueInList(names): [data.ConsumeUnicodeNoSurrogates(8) for _ in range(2)]
        for _ in range(data.ConsumeIntInRange(0, 3))
    }
    check(pd.DataFrame(columns))


def some_fields(data):
    path = os.path.join(folder, "field" + data.PickValueInList([".tif", ".png", ".ome.tif"]))
    with open(path, "wb") as file:
        file.write(data.ConsumeBytes(1 << 16))
    for n, field in enumerate(open_fields(path)):
        assert field.pixels.dtype == np.uint8 and field.pixels.shape[2:] == (3,)
        if n == MOST:
            break


KINDS = (
    an_npy, a_zarr, a_list, a_frame, some_fields,
    lambda data: a_file(data, ".npy"), lambda data: a_file(data, ".tif"),
    lambda data: a_file(data, ".csv"), lambda data: a_file(data, ".png"),
)  # fmt: skip


def read_one(data):
    data = atheris.FuzzedDataProvider(data)
    try:
        data.PickValueInList(list(KINDS))(data)
    except (ValueError, TypeError, OSError, ImportError) as error:
        assert str(error)


with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, read_one)
    atheris.Fuzz()
