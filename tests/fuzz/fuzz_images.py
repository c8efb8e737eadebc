#!/usr/bin/env python
"""Any bytes as an image file: it is skipped with a reason, or it gives RGB pixels of 8 bits."""

import os
import random
import sys
import tempfile
import warnings
import zlib

import atheris
import numpy as np

with atheris.instrument_imports(include=["wbcprof", "PIL", "tifffile"]):
    import PIL.BmpImagePlugin
    import PIL.GifImagePlugin
    import PIL.Image
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin
    import PIL.PpmImagePlugin
    import PIL.TiffImagePlugin
    import PIL.WebPImagePlugin
    import tifffile  # noqa: F401

    from wbcprof.images.source import open_images

PIL.Image.MAX_IMAGE_PIXELS = 1 << 18  # quick; the check is the same at any limit
PNG = b"\x89PNG\r\n\x1a\n"
CHUNK_BYTES = 12  # length, name and checksum


def mutate(data, max_size, seed):
    """Bytes as they come; of a PNG, half of the time with checksums that are right again."""
    data = atheris.Mutate(data, max_size)
    if not data.startswith(PNG) or random.Random(seed).randrange(2):
        return data
    fixed, at = bytearray(data), len(PNG)
    while at + CHUNK_BYTES <= len(fixed):
        end = at + CHUNK_BYTES + int.from_bytes(fixed[at : at + 4], "big")
        if end > len(fixed):
            break
        fixed[end - 4 : end] = zlib.crc32(fixed[at + 4 : end - 4]).to_bytes(4, "big")
        at = end
    return bytes(fixed)


def read_one(data):
    with open(path, "wb") as file:
        file.write(data)
    source = open_images([path])
    try:
        (cell,) = source
    except ValueError as error:
        assert str(error).startswith("No usable image"), error
        assert len(source.skipped) == 1 and source.skipped[0].reason
        return
    pixels = cell.pixels
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, pixels.shape
    assert pixels.flags.c_contiguous and 0 < pixels.size <= 3 * PIL.Image.MAX_IMAGE_PIXELS


with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
    path = os.path.join(folder, "image.png")  # the content alone tells the format
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, read_one, custom_mutator=mutate)
    atheris.Fuzz()
