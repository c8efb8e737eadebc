"""Writes the seeds of fuzzing, all generated: ``python tests/fuzz/make_corpus.py``."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

import wbcprof
from wbcprof.datasets import make_leukocytes

CORPUS = Path(__file__).parent / "corpus"
MODES = {
    "gif": ["P"], "jpg": ["L", "RGB", "CMYK"], "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "bmp": ["1", "L", "P", "RGB"], "ppm": ["RGB"], "webp": ["RGB", "RGBA"],
    "tif": ["1", "L", "P", "RGB", "RGBA", "CMYK", "F", "I;16"],
}  # fmt: skip


def write_images(folder):
    folder.mkdir(parents=True, exist_ok=True)
    cell = Image.fromarray(make_leukocytes(1, size=48).images[0]).resize((11, 9))
    for suffix, modes in MODES.items():
        for mode in modes:
            image = cell.convert("L") if mode in ("F", "I;16") else cell
            image.convert(mode).save(folder / f"{mode.replace(';', '_')}.{suffix}")
    cell.save(folder / "lzw.tif", compression="tiff_lzw")
    cell.save(folder / "progressive.jpg", progressive=True)
    cell.save(folder / "frames.tif", save_all=True, append_images=[cell])
    deep = np.asarray(cell).astype(np.uint16) * 257
    tifffile.imwrite(folder / "rgb16.tif", deep, photometric="rgb")
    tifffile.imwrite(folder / "planar16.tif", np.moveaxis(deep, -1, 0), photometric="rgb")
    tifffile.imwrite(
        folder / "deflate16.tif", deep, photometric="rgb", compression="zlib", predictor=True
    )


def write_models(folder):
    folder.mkdir(parents=True, exist_ok=True)
    cells = make_leukocytes(3, size=48)
    settings = {"patch_size": 3, "step": 2, "n_patches": 200, "max_iter": 1, "levels": (1,)}
    signed = {"positive": False, "nonlinearity": "soft_threshold", "preprocessing": "contrast"}
    for name, extra in {
        "plain": {"pools": ("mean",), "centres": (), "normalise": "macenko"},
        "whitened": {"whiten": True, "centres": (0.5,), **signed},
        "stacked": {"stack": [{"n_signatures": 4, "region": 2, "n_patches": 100}], "centres": ()},
    }.items():
        model = wbcprof.fit(cells.images, n_signatures=4, **settings | extra)
        model.classifier = wbcprof.TypeClassifier(C=1.0).fit(
            model.profile(cells.images).values, cells.labels
        )
        model.save(folder / f"{name}.wbcprof")


def write_kernels(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(16):
        content = np.random.default_rng(seed).bytes(128)
        (folder / f"{seed:02d}").write_bytes(content)


write_images(CORPUS / "images")
write_models(CORPUS / "model")
write_kernels(CORPUS / "kernels")
