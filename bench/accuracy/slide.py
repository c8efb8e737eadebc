"""A slide of 20,000 x 20,000 px made of fields: are its cells those of the fields, each once?

    python bench/accuracy/slide.py            # BCCD's fields, in a temporary pyramidal TIFF
    python bench/accuracy/slide.py --lab chula --scale 0.5

Whole fields of one laboratory lie side by side, again and again. Cells of a field that its edge
does not cut are the truth: as the finder finds them in the field alone, and as boxes say.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import tifffile
from finder import diameter_of, fields
from PIL import Image

from wbcprof.images import open_fields
from wbcprof.smear import Ruler, find_cells, find_leukocytes


def laid_out(images, side):
    """Numbers of images with the places of their upper left corners, in rows."""
    height, width = images[0].shape[:2]
    places = [(y, x) for y in range(0, side - height + 1, height)
              for x in range(0, side - width + 1, width)]  # fmt: skip
    return [(k % len(images), y, x) for k, (y, x) in enumerate(places)]


def write_pyramid(path, images, places, side):
    whole = np.full((side, side, 3), 230, np.uint8)
    for number, y, x in places:
        image = images[number]
        whole[y : y + image.shape[0], x : x + image.shape[1]] = image
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        options = {"tile": (512, 512), "photometric": "rgb", "compression": "jpeg"}
        tiff.write(whole, subifds=2, resolution=(1e4, 1e4), resolutionunit=1, **options)
        for level in (4, 16):
            tiff.write(np.ascontiguousarray(whole[::level, ::level]), subfiletype=1, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lab", default="bccd")
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--tile", type=int, default=4096)
    options = parser.parse_args()
    images = [image for image, _ in fields(options.lab).values()]
    shape = images[0].shape
    images = [image for image in images if image.shape == shape]
    if options.scale != 1:
        size = [round(options.scale * length) for length in shape[1::-1]]
        images = [np.asarray(Image.fromarray(image).resize(size, Image.BOX)) for image in images]
    diameter = diameter_of(images)
    places = laid_out(images, options.side)
    alone = [find_leukocytes(image, diameter) for image in images]
    with TemporaryDirectory() as home:
        path = Path(home, "slide.tif")
        write_pyramid(path, images, places, options.side)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = perf_counter()
        source = open_fields(path, tile=options.tile)
        decoding = perf_counter()
        n_pixels = sum(field.pixels.size // 3 for field in source)
        decoding = perf_counter() - decoding
        started = perf_counter()
        ruler = {"slide": Ruler(diameter, "given")}
        cells = [cell for seen in find_cells(source, ruler) for cell in seen.cells]
        seconds = perf_counter() - started
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    at = np.array([(cell.y, cell.x) for cell in cells])
    once = lost = twice = 0
    for number, y, x in places:
        for one in alone[number]:
            if one.is_cut:
                continue
            near = np.hypot(at[:, 0] - y - one.y, at[:, 1] - x - one.x) < diameter / 2
            once += near.sum() == 1
            lost += near.sum() == 0
            twice += near.sum() > 1
    apart = np.sort(np.hypot(*(at[:, None] - at[None]).transpose(2, 0, 1)), axis=1)[:, 1]
    print(f"{options.lab}: {len(places)} fields, {options.side} px, red cells {diameter:.0f} px, "
          f"tiles of {options.tile}: {source.n_hint}")  # fmt: skip
    print(f"whole cells of the fields: {once + lost + twice}; found once {once}, lost {lost}, "
          f"twice {twice}; found in all {len(cells)}; pairs nearer than half a red cell: "
          f"{int((apart < diameter / 2).sum())}")  # fmt: skip
    print(f"{seconds:.1f} s with decoding, decoding alone {decoding:.1f} s ({n_pixels / 1e6:.0f} "
          f"megapixels with margins); {more:.0f} MB more than before")  # fmt: skip


if __name__ == "__main__":
    main()
