"""JPEG files to RGB arrays on one thread: wbcprof beside the decoders it might use.

    python bench/decode.py [--images FOLDER] [--repeats 7] [--held 20]

Images are held in memory by the batch, as in profiling: with `--held 1` a decoder writes to the
same warm memory again and again, and looks quicker than it is in use. Without `--images`,
generated cells of 360 px are written as JPEG files first. Contenders that are not installed are
left out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from wbcprof.datasets import make_leukocytes
from wbcprof.images import decode

MOST = 200  # files


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def wbcprof(path: Path) -> np.ndarray:
    (outcome,) = decode.read_file(path)
    return outcome[0]


def simplejpeg(module) -> Callable[[Path], np.ndarray]:
    return lambda path: module.decode_jpeg(path.read_bytes())


def turbojpeg(module) -> Callable[[Path], np.ndarray]:
    decoder = module.TurboJPEG()
    return lambda path: decoder.decode(path.read_bytes(), pixel_format=module.TJPF_RGB)


def imagecodecs(module) -> Callable[[Path], np.ndarray]:
    return lambda path: module.jpeg8_decode(path.read_bytes())


def cv2(module) -> Callable[[Path], np.ndarray]:
    module.setNumThreads(1)
    flag = module.IMREAD_COLOR_RGB | module.IMREAD_IGNORE_ORIENTATION
    return lambda path: module.imdecode(np.fromfile(path, np.uint8), flag)


def pyvips(module) -> Callable[[Path], np.ndarray]:
    module.cache_set_max(0)
    return lambda path: module.Image.new_from_file(str(path), access="sequential").numpy()


def contenders() -> dict[str, Callable[[Path], np.ndarray]]:
    chosen = {"Pillow": pillow, "wbcprof": wbcprof}
    for make in (simplejpeg, turbojpeg, imagecodecs, cv2, pyvips):
        try:
            chosen[make.__name__] = make(import_module(make.__name__))
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{make.__name__} left out: {str(error).splitlines()[0]}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--held", type=int, default=20, help="images in memory at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as generated:
        folder = options.images
        if folder is None:
            folder = Path(generated)
            for index, cell in enumerate(make_leukocytes(8, size=360).images):
                Image.fromarray(cell).save(folder / f"{index:03d}.jpg", quality=90, subsampling=0)
        paths = sorted(folder.rglob("*.jpg"))
        paths = paths[:: -(-len(paths) // MOST)]
        compare(contenders(), paths, options.repeats, options.held)


def compare(chosen: dict[str, Callable], paths: list[Path], repeats: int, held: int) -> None:
    expected = [pillow(path) for path in paths]
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(repeats):
        for name, read in chosen.items():
            start = time.process_time()
            for first in range(0, len(paths), held):
                [read(path) for path in paths[first : first + held]]
            times[name].append(1e3 * (time.process_time() - start) / len(paths))
    print(f"{len(paths)} files, {held} held at a time, CPU time per file")
    print(f"{'':12} {'best':>9} {'median':>9} {'Pillow / this':>14}  pixels")
    for name, read in chosen.items():
        same = all(np.array_equal(read(p), e) for p, e in zip(paths, expected, strict=True))
        print(
            f"{name:12} {min(times[name]):6.3f} ms {statistics.median(times[name]):6.3f} ms"
            f" {min(times['Pillow']) / min(times[name]):14.2f}  "
            f"{'those of Pillow' if same else 'differ'}"
        )


if __name__ == "__main__":
    main()
