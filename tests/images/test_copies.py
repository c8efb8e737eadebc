"""Near-identical images: what is found, and what is not."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from wbcprof.datasets import make_leukocytes
from wbcprof.images import DuplicateWarning, find_copies
from wbcprof.images.copies import number_copies, number_files, thumbnail, warn_of_copies


def jpeg(pixels, quality):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream).convert("RGB"))


def resized(pixels, factor):
    height, width = (round(factor * side) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


CHANGES = {
    "exact": lambda p: p.copy(),
    "mirrored": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "turned": lambda p: np.rot90(p),
    "turned back": lambda p: np.rot90(p, 3),
    "transposed": lambda p: p.transpose(1, 0, 2),
    "recompressed": lambda p: jpeg(p, 70),
    "smaller": lambda p: resized(p, 0.9),
    "larger": lambda p: resized(p, 1.2),
    "mirrored, recompressed": lambda p: jpeg(np.ascontiguousarray(p[:, ::-1]), 70),
}


@pytest.fixture(scope="module")
def cells():
    """Generated cells, not real data; not square."""
    return [image[:, 3:] for image in make_leukocytes(5, size=96).images]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_is_found_and_no_other(cells, change):
    copies = [np.ascontiguousarray(change(image)) for image in cells[::3]]
    found = find_copies([*cells, *copies])
    assert found == [
        [f"image_{3 * k:06d}", f"image_{len(cells) + k:06d}"] for k in range(len(copies))
    ]


def test_another_colour_or_flat_image_is_no_copy(cells):
    tinted = np.clip(cells[0] + np.array([25, -25, 0]), 0, 255).astype(np.uint8)
    flat = [np.full((20, 20, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200))]
    assert find_copies([cells[0], tinted]) == []
    looks = [thumbnail(image) for image in (cells[0], *flat, flat[0][:9])]
    assert number_copies(looks).tolist() == [0, 1, 2, 1]


def test_copies_of_copies_are_one_set_whatever_the_order(cells):
    rng = np.random.default_rng(0)
    looks = np.array([thumbnail(np.ascontiguousarray(p)) for p in cells])
    which = np.repeat(np.arange(len(cells)), 40)
    noisy = looks[which] ^ rng.integers(0, 2, (len(which), 16, 16, 3), dtype=np.uint8)
    order = rng.permutation(len(which))
    numbers = number_copies(list(noisy[order]))
    assert len(np.unique(numbers)) == len(cells)
    for number in np.unique(numbers):
        assert len(set(which[order][numbers == number])) == 1


def test_one_image_and_thousands_alike(cells):
    look = thumbnail(np.ascontiguousarray(cells[0]))
    assert number_copies([look]).tolist() == [0]
    assert not number_copies([look] * 20_000).any()


def test_the_warning_counts_and_names():
    ids = [f"{letter}.png" for letter in "abcdefg"]
    with pytest.warns(DuplicateWarning) as caught:
        n = warn_of_copies(np.array([0, 0, 1, 2, 2, 2, 0]), ids, list("xxxyzyx"))
    assert n == 4 and len(caught) == 1
    text = str(caught[0].message)
    assert text.startswith("4 of 7 images are near-identical")
    assert "a.png and b.png; d.png and e.png; d.png and f.png; ..." in text
    assert "1 of them have another type: d.png and e.png (y, z)" in text


def test_without_copies_there_is_no_warning(recwarn):
    assert warn_of_copies(np.arange(3), ["a", "b", "c"], [None] * 3) == 0
    assert not recwarn.list


def test_real_cells_are_no_copies_of_one_another(real_images):
    with open(real_images / "labels.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train"]
    paths = [real_images / row["path"] for row in rows if row["label"] == "neutrophil"][:100]
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    copies = [jpeg(np.ascontiguousarray(np.rot90(image)), 70) for image in images[:20]]
    assert len(find_copies([*images, *copies])) == 20


def test_pages_are_of_one_file():
    ids = ["b/a.tif#0000", "a.tif#0000", "a.tif#0001", "c.png", "b/a.tif#0001"]
    numbers = number_files(ids)
    assert numbers[0] == numbers[4] and numbers[1] == numbers[2] and len(set(numbers)) == 3
    assert number_files(["a.tif#0000", "a.png", "b.png#0"]) is None
