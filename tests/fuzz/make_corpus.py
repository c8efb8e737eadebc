"""Writes the seeds of fuzzing, all generated: ``python tests/fuzz/make_corpus.py``."""

import shutil
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

import wbcprof
from wbcprof.datasets import make_leukocytes
from wbcprof.files import write_rows

CORPUS = Path(__file__).parent / "corpus"
MODES = {
    "gif": ["P"], "jpg": ["L", "RGB", "CMYK"], "png": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "bmp": ["1", "L", "P", "RGB"], "ppm": ["RGB"], "webp": ["RGB", "RGBA"],
    "tif": ["1", "L", "P", "RGB", "RGBA", "CMYK", "F", "I;16"],
}  # fmt: skip

TABLES = {
    "people.csv": 'path,label,patient\n0.png,a,1\n1.png,"b, c",2\n',
    "boxes.csv": "image;left;top;right;bottom;label\n0.png;1,5;2;10;12;a\n1.png;3;4;20;22;b\n",
    "coco.json": '{"images": [{"id": 1, "file_name": "0.png", "width": 40, "height": 40}], '
    '"annotations": [{"image_id": 1, "bbox": [1, 2, 10, 10], "category_id": 1}], '
    '"categories": [{"id": 1, "name": "a"}]}',
    "voc.xml": "<annotation><filename>0.png</filename><object><name>a</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>",
}


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


def write_tables(folder):
    """The first byte says what the others are: the place of the suffix in `fuzz_tables.READERS`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"Cells_Mean_Signature_{k:04d}" for k in range(1, 5)]
    profiles = wbcprof.Profiles(rng.random((3, 4), np.float32), names, list("abc"), list("xyx"))
    for suffix in (".csv", ".parquet"):
        profiles.save(folder / f"profiles{suffix}")
    write_rows(folder / "people.xlsx", ["image", "label"], [{"image": "0.png", "label": "a"}])
    for name, text in TABLES.items():
        (folder / name).write_text(text)
    for path in folder.iterdir():
        place = [".csv", ".parquet", ".xlsx", ".json", ".xml"].index(path.suffix)
        path.write_bytes(bytes([place]) + path.read_bytes())


write_images(CORPUS / "images")
write_models(CORPUS / "model")
write_kernels(CORPUS / "kernels")
write_tables(CORPUS / "tables")
