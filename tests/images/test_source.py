"""Whatever the user gives becomes RGB uint8 cells; all images here are generated."""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from wbcprof.images.fields import open_fields
from wbcprof.images.source import Cell, ImageWarning, SkippedImage, open_images

PBC = Path(__file__).resolve().parents[3] / "shared" / "data" / "pbc"

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.fixture
def cells(rng):
    return rng.integers(0, 256, (4, 24, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, cells):
    """Two types, one image of each also in a deeper folder, and things to ignore."""
    root = tmp_path / "cells"
    for name, cell in zip(
        ["monocyte/b.png", "basophil/z.PNG", "monocyte/slide1/a.png", "top.bmp"], cells, strict=True
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell).save(path)
    (root / "labels.csv").write_text("path,label\ntop.bmp,wrong\n")
    (root / "monocyte" / "._b.png").write_bytes(b"hidden")
    for hidden in (root / ".thumbnails", root / "monocyte" / ".thumbnails"):
        hidden.mkdir()
        Image.fromarray(cells[0]).save(hidden / "a.png")
    return root


def gradient(rows, columns):
    """No image is of one colour."""
    levels = np.linspace(0, 255, max(1, rows * columns)).astype(np.uint8)[: rows * columns]
    return np.repeat(levels.reshape(rows, columns, 1), 3, axis=2)


def damage(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def reasons(source):
    """Reasons of one pass, whether or not any image is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        try:
            list(source)
        except ValueError as error:
            assert "No usable image" in str(error)
    return [s.reason for s in source.skipped]


def only(source):
    """The one cell of a source, and the kind it was converted from."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ImageWarning)
        (cell,) = list(source)
    assert cell.pixels.dtype == np.uint8 and cell.pixels.ndim == 3 and cell.pixels.shape[2] == 3
    assert cell.pixels.flags.c_contiguous
    texts = [str(w.message) for w in caught]
    if not texts:
        return cell.pixels, ""
    (text,) = texts
    prefix = "1 image was converted to 8-bit RGB: 1 "
    assert text.startswith(prefix)
    return cell.pixels, text.removeprefix(prefix)


def to8(values16):
    return np.floor(values16 / 257 + 0.5).astype(np.uint8)


def save_png16(path, samples, color_type):
    """A 16-bit PNG in colour, which Pillow cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


# Folders


def test_folder_gives_sorted_ids_labels_and_exact_pixels(folder, cells):
    source = open_images(folder)
    assert source.n_hint == 4
    assert source.labels == ["basophil", "monocyte", "monocyte", None]
    found = list(source)
    assert [c.image_id for c in found] == [
        "basophil/z.PNG", "monocyte/b.png", "monocyte/slide1/a.png", "top.bmp",
    ]  # fmt: skip
    assert [c.label for c in found] == source.labels
    for cell, expected in zip(found, cells[[1, 0, 2, 3]], strict=True):
        np.testing.assert_array_equal(cell.pixels, expected)
    assert source.skipped == []
    assert [c.image_id for c in source] == [c.image_id for c in found]
    assert [c.image_id for c in open_images(str(folder))] == [c.image_id for c in found]


def test_labels_override_those_of_the_folder(folder):
    source = open_images(folder, labels=[1, None, float("nan"), "x"])
    assert source.labels == ["1", None, None, "x"]
    assert [c.label for c in source] == source.labels
    with pytest.raises(ValueError, match=r"Length of labels \(3\) must match .* images \(4\)"):
        open_images(folder, labels="a b c".split())


def test_flat_folder_has_no_labels(tmp_path, cells):
    Image.fromarray(cells[0]).save(tmp_path / "a.png")
    source = open_images(tmp_path)
    assert source.labels is None
    assert [c.label for c in source] == [None]


@pytest.mark.parametrize("name", [None, "notes.txt", ".hidden.png"])
def test_folder_without_images(tmp_path, name):
    if name:
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(
        ValueError, match=r"No images in folder .*expected files ending in"
    ) as error:
        open_images(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("wrap", [str, Path, lambda p: [p]])
def test_missing_path(tmp_path, wrap):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_images(wrap(tmp_path / "nowhere"))


def test_missing_path_in_an_iterator_is_found_when_reached(tmp_path):
    source = open_images(iter([tmp_path / "nowhere.png"]))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(source)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links and FIFOs")
def test_links_and_pipes_do_not_hang(folder, tmp_path, cells):
    ids = [c.image_id for c in open_images(folder)]
    (folder / "loop").symlink_to(folder)
    (folder / "above").symlink_to(tmp_path)
    (folder / "monocyte" / "loop").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    assert [c.image_id for c in open_images(folder)] == ids

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(cells[0]).save(elsewhere / "e.png")
    (folder / "linked_type").symlink_to(elsewhere)
    (folder / "broken.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(folder / "pipe.png")
    source = open_images(folder)
    with pytest.warns(ImageWarning, match="2 of 7 images were skipped; first: broken.png"):
        found = list(source)
    assert [(c.image_id, c.label) for c in found if c.image_id not in ids] == [
        ("linked_type/e.png", "linked_type")
    ]
    assert [s.image_id for s in source.skipped] == ["broken.png", "pipe.png"]


def test_unreadable_file_is_skipped(folder, monkeypatch):
    opened = Image.open

    def refuse(path, **formats):
        if path.name == "top.bmp":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, **formats)

    monkeypatch.setattr(Image, "open", refuse)
    assert reasons(open_images(folder)) == ["Permission denied"]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOTCONN])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_trouble_of_the_system_is_no_bad_image(folder, monkeypatch, code, n_threads):
    opened = Image.open

    def fail(path, **formats):
        if path.name == "top.bmp":
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, **formats)

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        list(open_images(folder).read(n_threads))


def test_a_folder_that_vanishes_is_no_folder_of_bad_images(folder):
    source = open_images(folder)
    images = iter(source)
    next(images)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        list(images)


def test_one_file_that_vanishes_is_skipped(folder):
    source = open_images(folder)
    (folder / "top.bmp").unlink()
    assert reasons(source) == ["No such file or directory"]


def test_unreadable_sub_folder_is_not_passed_over(folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "slide1":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="slide1"):
        open_images(folder)


# Paths, arrays, iterators


def test_paths_keep_order_and_ids(folder, cells):
    paths = [str(folder / "top.bmp"), folder / "monocyte" / "b.png"]
    for given in (paths, tuple(paths), iter(paths), np.array(paths, dtype=object)):
        found = list(open_images(given, labels=["x", "y"]))
        assert [c.image_id for c in found] == [str(p) for p in paths]
        assert [c.label for c in found] == ["x", "y"]
        np.testing.assert_array_equal(found[0].pixels, cells[3])
        np.testing.assert_array_equal(found[1].pixels, cells[0])


def test_single_file_of_any_suffix(folder, cells):
    path = folder / "cell.dat"
    (folder / "top.bmp").rename(path)
    (cell,) = open_images(path)
    assert (cell.image_id, cell.label) == (str(path), None)
    np.testing.assert_array_equal(cell.pixels, cells[3])


def test_folder_inside_a_list(folder):
    with pytest.raises(ValueError, match="is a folder"):
        open_images([folder / "monocyte"])


def test_array_of_images(cells):
    source = open_images(cells, labels=np.array([3, 1, 2, 2]))
    assert (source.n_hint, source.labels) == (4, ["3", "1", "2", "2"])
    for _ in range(2):
        found = list(source)
        assert [c.image_id for c in found] == [f"image_{i:06d}" for i in range(4)]
        np.testing.assert_array_equal([c.pixels for c in found], cells)


def test_single_array(cells):
    (cell,) = open_images(cells[0], labels=["x"])
    assert (cell.image_id, cell.label) == ("image_000000", "x")
    np.testing.assert_array_equal(cell.pixels, cells[0])


def test_arrays_of_differing_sizes(cells):
    given = [cells[0], cells[1, :10], cells[2, :, :7]]
    source = open_images(given)
    given.clear()
    assert [c.pixels.shape for c in source] == [(24, 30, 3), (10, 30, 3), (24, 7, 3)]


def test_lazy_array_is_read_image_by_image(cells):
    class Stored:  # as a zarr array or an h5py dataset
        shape, dtype = cells.shape, cells.dtype
        reads = 0

        def __len__(self):
            return len(cells)

        def __iter__(self):
            for cell in cells:
                Stored.reads += 1
                yield cell

    source = open_images(Stored(), labels=list("abcd"))
    assert (source.n_hint, Stored.reads) == (4, 0)
    next(iter(source))
    assert Stored.reads == 1
    assert len(list(source)) == 4


def test_arrays_are_neither_modified_nor_refused_for_their_layout(cells):
    read_only = cells[0].copy()
    read_only.flags.writeable = False
    given = [np.asfortranarray(cells[0]), cells[0][::-1, ::-1], cells[0][..., ::-1], read_only]
    before = [g.copy() for g in given]
    for cell, expected, g in zip(open_images(given), before, given, strict=True):
        assert cell.pixels.flags.c_contiguous
        np.testing.assert_array_equal(cell.pixels, expected)
        np.testing.assert_array_equal(g, expected)


def test_one_shot_iterator(cells):
    source = open_images(cell for cell in cells)
    assert (source.n_hint, source.labels) == (None, None)
    assert len(list(source)) == 4
    with pytest.raises(RuntimeError, match="already read"):
        list(source)


def test_reiterable_of_unknown_length(cells):
    class Images:
        def __iter__(self):
            return iter(cells)

    source = open_images(Images())
    assert source.n_hint is None
    assert len(list(source)) == len(list(source)) == 4


@pytest.mark.parametrize("n_labels", [1, 3, 5])
def test_labels_of_another_length(cells, n_labels):
    message = rf"Length of labels \({n_labels}\) must match number of images \(4\)"
    labels = ["x"] * n_labels
    for given in (cells, list(cells)):
        with pytest.raises(ValueError, match=message):
            open_images(given, labels)
    source = open_images(iter(cells), labels)
    with pytest.raises(ValueError, match=message):
        list(source)


def test_image_source_is_returned_as_is(cells):
    source = open_images(cells, labels=list("abcd"))
    assert open_images(source) is source
    assert [c.label for c in open_images(source, labels=list("wxyz"))] == list("wxyz")
    assert source.labels == list("abcd")
    stricter = open_images(source, min_size=25, on_error="raise")
    assert stricter.labels == list("abcd")
    with pytest.raises(ValueError, match="24x30 px, smaller than the 25x25 px patch"):
        list(stricter)
    assert open_images(stricter) is stricter


def test_cell_is_frozen(cells):
    (cell,) = open_images(cells[0])
    assert isinstance(cell, Cell) and not hasattr(cell, "__dict__")
    with pytest.raises(AttributeError):
        cell.label = "x"


@pytest.mark.parametrize(
    "bad", [None, 3, b"a.png", {"a": 1}, {"a.png"}, [None], [[[1, 2], [3, 4]]], np.zeros(5)]
)
def test_wrong_type_names_what_is_accepted(bad):
    with pytest.raises(TypeError, match=r"images must be a folder, an image file, an array"):
        open_images(bad)


def test_wrong_item_of_an_iterator(cells):
    with pytest.raises(TypeError, match="item 1 is a tuple"):
        list(open_images(iter([cells[0], (cells[1], "label")])))


@pytest.mark.parametrize("bad", ["abcd", 4, {"a", "b"}, {"a": 1}])
def test_labels_of_wrong_type(cells, bad):
    with pytest.raises(TypeError, match="one label per image"):
        open_images(cells, bad)


def test_no_images(cells):
    for empty in ([], (), cells[:0]):
        with pytest.raises(ValueError, match="No images given"):
            open_images(empty)
    with pytest.raises(ValueError, match="No images given: the iterator was empty"):
        list(open_images(iter([])))
    with pytest.raises(ValueError, match=r"got \(1, 4, 24, 30, 3\)"):
        open_images(cells[None])


@pytest.mark.parametrize("options", [{"min_size": 0}, {"min_size": 2.5}, {"on_error": "ignore"}])
def test_bad_options(cells, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        open_images(cells, **options)


# What is skipped


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "gif", "webp", "ppm"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.97])
def test_truncated_files_are_skipped(tmp_path, cells, suffix, keep):
    good, bad = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    for path in (good, bad):
        Image.fromarray(cells[0]).save(path)
    damage(bad, keep)
    (reason,) = reasons(open_images(tmp_path))
    if keep == 0:
        assert reason == "empty file"
    elif suffix == "webp":
        assert reason.startswith("cannot be decoded")
    else:
        assert reason == "truncated"


@pytest.mark.parametrize("most, decoded", [(1, [0]), (4, [0, 3, 6, 9]), (10, range(10))])
def test_a_sample_decodes_no_other_images(rng, most, decoded):
    images = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    for given in (images, list(images), dict(enumerate(images)).values()):
        sample = list(open_images(given).sample(most))
        np.testing.assert_array_equal(sample, images[list(decoded)])


def test_a_sample_passes_over_what_is_unusable(rng):
    images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(4)]
    images[2] = np.full((8, 8, 3), np.nan)
    sample = list(open_images(images).sample(2))
    np.testing.assert_array_equal(sample, images[:1])


def test_one_warning_at_the_end_of_the_pass(folder, cells):
    Image.fromarray(cells[0]).save(folder / "basophil" / "a.jpg")
    damage(folder / "basophil" / "a.jpg", 0.6)
    (folder / "monocyte" / "text.png").write_text("not an image")
    source = open_images(folder)
    for _ in range(2):
        passing, found = iter(source), []
        for _ in range(4):
            found.append(next(passing))
        with pytest.warns(ImageWarning) as caught:
            assert next(passing, None) is None
        assert [str(w.message) for w in caught] == [
            "2 of 6 images were skipped; first: basophil/a.jpg: truncated"
        ]
        assert caught[0].filename == __file__
        assert source.skipped == [
            SkippedImage("basophil/a.jpg", "truncated"),
            SkippedImage("monocyte/text.png", "not a readable image"),
        ]
        assert source.labels == [
            "basophil", "basophil", "monocyte", "monocyte", "monocyte", None,
        ]  # fmt: skip
        assert [c.label for c in found] == ["basophil", "monocyte", "monocyte", None]


def test_on_error_raise_names_the_image(folder):
    damage(folder / "monocyte" / "b.png", 0.5)
    passing = iter(open_images(folder, on_error="raise"))
    assert next(passing).image_id == "basophil/z.PNG"
    with pytest.raises(ValueError, match=r"Image 'monocyte/b\.png': truncated"):
        next(passing)


def test_all_skipped(folder):
    for path in folder.rglob("*.*"):
        if path.is_file():
            damage(path, 0.5)
    source = open_images(folder)
    with pytest.raises(ValueError, match=r"among the 4 given; first: basophil/z\.PNG: truncated"):
        list(source)
    assert len(source.skipped) == 4


def test_small_images(rng):
    sizes = [(12, 30), (30, 19), (20, 20), (0, 30)]
    source = open_images([gradient(*s) for s in sizes], min_size=20)
    assert reasons(source) == [
        "12x30 px, smaller than the 20x20 px patch",
        "30x19 px, smaller than the 20x20 px patch",
        "0x30 px, smaller than the 20x20 px patch",
    ]


def test_decompression_bombs_are_skipped(tmp_path, monkeypatch):
    Image.fromarray(gradient(50, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1499)
    for action in ("error", "ignore"):  # Pillow itself only warns up to twice the limit
        with warnings.catch_warnings():
            warnings.simplefilter(action, Image.DecompressionBombWarning)
            (reason,) = reasons(open_images(tmp_path))
        assert "decompression bomb" in reason
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    (reason,) = reasons(open_images(tmp_path))
    assert "decompression bomb" in reason
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(list(open_images(tmp_path))) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.full((8, 8, 3), np.nan), "must be finite"),
        (np.full((8, 8, 3), np.inf), "must be finite"),
        (np.full((8, 8, 3), 70000.0), r"in \[0, 1\], .* of 8 to 16 bits, got 0 to 70000"),
        (np.full((8, 8, 3), -0.25), r"must lie in \[0, 1\], .*, got -0.25 to 0"),
        (np.zeros((8, 8, 3), bool), "dtype bool"),
        (np.full((8, 8, 3), -3), "must not be below 0, got -3"),
        (np.full((8, 8, 3), 7), "of one colour: 0 of 255 grey levels"),
        (np.zeros((8, 8, 3), np.int8), "dtype int8"),
        (np.zeros((8, 8, 3), complex), "dtype complex128"),
        (np.zeros((3, 8, 8), np.uint8), r"last axis, got shape \(3, 8, 8\)"),
        (np.zeros((8, 8, 2), np.uint8), r"1, 3 or 4 channels on the last axis"),
        (np.zeros(8, np.uint8), r"got shape \(8,\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"got shape \(1, 8, 8, 3\)"),
    ],
)
def test_bad_arrays_are_skipped_with_the_reason(bad, reason):
    source = open_images([gradient(8, 8), bad])
    with pytest.warns(ImageWarning, match=f"1 of 2 images was skipped; first: .*{reason}"):
        assert [c.image_id for c in source] == ["image_000000"]


def test_bad_images_of_a_whole_array_are_skipped_one_by_one():
    stack = np.stack([gradient(8, 8) / 255] * 3)
    stack[1, 2, 3, 0] = np.nan
    source = open_images(stack, labels=list("abc"))
    with pytest.warns(ImageWarning):
        assert [c.label for c in source] == ["a", "c"]
    assert [s.image_id for s in source.skipped] == ["image_000001"]


def test_damaged_bytes_never_escape_as_another_error(tmp_path, rng, cells):
    for suffix in ("jpg", "png", "bmp", "tif", "gif", "webp", "ppm"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(cells[0]).save(path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(25):
            bad = data.copy()
            at = rng.integers(0, min(len(bad), 200), 4)
            bad[at] = rng.integers(0, 256, 4)
            path.write_bytes(bad.tobytes())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    list(open_images(path))
                except ValueError as error:
                    assert "No usable image among the 1 given" in str(error)


# What is converted


def test_conversions_are_counted_in_one_warning(cells):
    grey, rgba = cells[0, :, :, 0], np.concatenate([cells[0], cells[0, :, :, :1]], axis=2)
    source = open_images([rgba] * 2 + [cells[0]] + [grey] * 10 + [grey[1:1]])
    with pytest.warns(ImageWarning) as caught:
        assert len(list(source)) == 13
    assert [str(w.message) for w in caught] == [
        "1 of 14 images was skipped; first: image_000013: 0x30 px, smaller than the 1x1 px patch",
        "12 images were converted to 8-bit RGB: 10 grey, 2 RGBA",
    ]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "pgm", "bmp"])
def test_grey_file(tmp_path, cells, suffix):
    path = tmp_path / f"g.{suffix}"
    Image.fromarray(cells[0, :, :, 0]).save(path)
    pixels, kind = only(open_images(path))
    assert kind == "grey"
    assert (pixels == pixels[:, :, :1]).all()
    if suffix != "jpg":
        np.testing.assert_array_equal(pixels[:, :, 0], cells[0, :, :, 0])


@pytest.mark.parametrize("shape", [(24, 30), (24, 30, 1)])
def test_grey_array(cells, shape):
    grey = cells[0, :, :, 0]
    pixels, kind = only(open_images(grey.reshape(shape)))
    assert kind == "grey"
    np.testing.assert_array_equal(pixels, np.stack([grey] * 3, axis=2))


def test_one_bit_file(tmp_path, cells):
    bits = cells[0, :, :, 0] > 127
    Image.fromarray(bits).save(tmp_path / "b.png")
    pixels, kind = only(open_images(tmp_path))
    assert kind == "1-bit grey"
    np.testing.assert_array_equal(pixels[:, :, 1], bits * np.uint8(255))


def on_white(rgb, alpha):
    alpha = alpha.astype(float)[..., None] / 255
    return np.floor(rgb * alpha + 255 * (1 - alpha) + 0.5 + 1e-9).astype(np.uint8)


@pytest.mark.parametrize("as_file", [True, False])
def test_alpha_is_composited_on_white(tmp_path, cells, as_file):
    alpha = cells[1, :, :, 0].copy()
    alpha[:2], alpha[2:4] = 0, 255
    rgba = np.dstack([cells[0], alpha])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels, kind = only(open_images(tmp_path if as_file else rgba))
    assert kind == "RGBA"
    np.testing.assert_array_equal(pixels, on_white(cells[0], alpha))
    assert (pixels[:2] == 255).all()
    np.testing.assert_array_equal(pixels[2:4], cells[0, 2:4])


def test_grey_with_alpha_and_transparent_colour(tmp_path, cells):
    grey, alpha = cells[0, :, :, 0], cells[0, :, :, 1]
    Image.fromarray(np.dstack([grey, alpha])).save(tmp_path / "la.png")
    pixels, kind = only(open_images(tmp_path / "la.png"))
    assert kind == "RGBA"
    np.testing.assert_array_equal(pixels, on_white(np.dstack([grey] * 3), alpha))

    rgb = cells[0].copy()
    rgb[0, 0] = 1, 2, 3
    Image.fromarray(rgb).save(tmp_path / "key.png", transparency=(1, 2, 3))
    pixels, _ = only(open_images(tmp_path / "key.png"))
    assert pixels[0, 0].tolist() == [255, 255, 255]


def test_palette(tmp_path, cells):
    quantized = Image.fromarray(cells[0]).quantize(16)
    expected = np.asarray(quantized.convert("RGB"))
    for name in ("p.png", "p.gif"):
        quantized.save(tmp_path / name)
        pixels, kind = only(open_images(tmp_path / name))
        assert kind == "palette"
        np.testing.assert_array_equal(pixels, expected)
    quantized.save(tmp_path / "t.png", transparency=0)
    pixels, kind = only(open_images(tmp_path / "t.png"))
    assert kind == "palette RGBA"
    clear = np.asarray(quantized) == 0
    assert clear.any() and (pixels[clear] == 255).all()
    np.testing.assert_array_equal(pixels[~clear], expected[~clear])


def test_cmyk(tmp_path):
    ink = Image.new("CMYK", (24, 24), (0, 255, 0, 0))
    ink.paste((0, 0, 0, 0), (16, 0, 24, 24))
    ink.save(tmp_path / "c.jpg", quality=100)
    pixels, kind = only(open_images(tmp_path))
    assert kind == "CMYK"
    np.testing.assert_allclose(pixels[5, 5].astype(int), [255, 0, 255], atol=3)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp"])
def test_first_of_several_frames(tmp_path, suffix):
    levels = [Image.fromarray(gradient(24, 24) // (3 - i)) for i in range(3)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    levels[0].save(path, save_all=True, append_images=levels[1:], **options)
    # The pages of a TIFF are images of their own, but in a list one file is one image.
    pixels, kind = only(open_images([path] if suffix == "tif" else tmp_path))
    assert kind.startswith("multi-frame")
    np.testing.assert_allclose(pixels, np.asarray(levels[0]), atol=4)  # GIF has few colours


@pytest.fixture
def values16(rng):
    values = rng.integers(0, 65536, (24, 30, 3), dtype=np.uint16)
    values[0, :4, 0] = 0, 65535, 128, 129  # 128/257 rounds down, 129/257 up
    return values


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_uint16_arrays(values16, dtype):
    assert to8(values16[0, :4, 0]).tolist() == [0, 255, 0, 1]
    pixels, kind = only(open_images(values16.astype(dtype)))
    assert kind == "16-bit RGB"
    np.testing.assert_array_equal(pixels, to8(values16))
    pixels, kind = only(open_images(values16[:, :, 0].astype(dtype)))
    assert kind == "16-bit grey"
    np.testing.assert_array_equal(pixels[:, :, 2], to8(values16[:, :, 0]))


@pytest.mark.parametrize("name", ["g.png", "g.tif", "g.pgm"])
def test_16_bit_grey_files(tmp_path, values16, name):
    grey = values16[:, :, 0]
    path = tmp_path / name
    if name == "g.pgm":
        path.write_bytes(b"P5\n30 24\n65535\n" + grey.astype(">u2").tobytes())
    else:
        Image.fromarray(grey).save(path)
    pixels, kind = only(open_images(path))
    assert kind == "16-bit grey"
    np.testing.assert_array_equal(pixels, np.stack([to8(grey)] * 3, axis=2))


def test_16_bit_colour_png(tmp_path, values16):
    pytest.importorskip("imagecodecs")
    save_png16(tmp_path / "c.png", values16, 2)
    pixels, kind = only(open_images(tmp_path / "c.png"))
    assert kind == "16-bit RGB"
    np.testing.assert_array_equal(pixels, to8(values16))

    opaque = np.full_like(values16[:, :, :1], 65535)
    save_png16(tmp_path / "a.png", np.dstack([values16, opaque]), 6)
    pixels, kind = only(open_images(tmp_path / "a.png"))
    assert kind == "16-bit RGBA"
    np.testing.assert_array_equal(pixels, to8(values16))


def test_16_bit_colour_png_without_imagecodecs(tmp_path, values16, monkeypatch):
    """The high bytes are enough, unless they are all there is not."""
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    save_png16(tmp_path / "c.png", values16, 2)
    pixels, kind = only(open_images(tmp_path / "c.png"))
    assert kind == "16-bit RGB"
    np.testing.assert_array_equal(pixels, values16 >> 8)
    save_png16(tmp_path / "c.png", values16 >> 4, 2)
    (reason,) = reasons(open_images(tmp_path / "c.png"))
    assert reason == "PNG in colours of more than 8 bits needs the package imagecodecs"


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"planarconfig": "separate"}, {"byteorder": ">"}],
    ids=str,
)
def test_16_bit_colour_tiff(tmp_path, values16, options):
    tifffile = pytest.importorskip("tifffile")
    data = np.moveaxis(values16, 2, 0) if "planarconfig" in options else values16
    tifffile.imwrite(tmp_path / "c.tif", data, photometric="rgb", **options)
    pixels, kind = only(open_images(tmp_path))
    assert kind == "16-bit RGB"
    np.testing.assert_array_equal(pixels, to8(values16))
    damage(tmp_path / "c.tif", 0.7)
    assert len(reasons(open_images(tmp_path))) == 1


def test_no_memory_is_taken_for_what_a_tiff_only_claims(tmp_path, values16):
    """Four GB for a file of a few hundred bytes (found by fuzzing)."""
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "c.tif"
    tifffile.imwrite(path, values16, photometric="rgb")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["StripByteCounts"].overwrite(2**32 - 1)
    tracemalloc.start()
    assert reasons(open_images(tmp_path)) == ["truncated"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_other_16_bit_tiff(tmp_path, values16):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "c.tif"

    tifffile.imwrite(path, np.stack([values16, values16 // 2]), photometric="rgb")
    pixels, kind = only(open_images([path]))
    assert kind == "multi-frame 16-bit RGB"
    np.testing.assert_array_equal(pixels, to8(values16))
    with pytest.warns(ImageWarning, match="2 images were converted to 8-bit RGB: 2 16-bit RGB"):
        both = [cell.pixels for cell in open_images(path)]
    np.testing.assert_array_equal(both, [to8(values16), to8(values16 // 2)])

    alpha = values16[:, :, :1]
    for extra, usable in (("unassalpha", True), ("assocalpha", False)):
        tifffile.imwrite(
            path, np.dstack([values16, alpha]), photometric="rgb", extrasamples=[extra]
        )
        if usable:
            pixels, kind = only(open_images(path))
            assert kind == "16-bit RGBA"
            expected = on_white(to8(values16), to8(alpha[:, :, 0]))
            np.testing.assert_array_equal(pixels, expected)
        else:
            assert len(reasons(open_images(path))) == 1

    tifffile.imwrite(path, values16[:, :, 0], photometric="miniswhite")
    pixels, _ = only(open_images(path))
    np.testing.assert_array_equal(pixels[:, :, 0], to8(65535 - values16[:, :, 0]))


def test_16_bit_colour_tiff_without_tifffile(tmp_path, values16, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "c.tif", values16, photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert reasons(open_images(tmp_path)) == ["16-bit colour TIFF needs the package tifffile"]


def test_float_tiff_follows_the_rule_of_arrays(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    grey = gradient(24, 24)[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", (grey / 255).astype(np.float32))
    pixels, kind = only(open_images(tmp_path))
    assert kind == "float grey" and (pixels == grey[..., None]).all()
    tifffile.imwrite(tmp_path / "a.tif", grey.astype(np.float32))
    pixels, kind = only(open_images(tmp_path))
    assert kind == "float grey (white is 255 by the largest value)"
    assert (pixels == grey[..., None]).all()
    tifffile.imwrite(tmp_path / "a.tif", -grey.astype(np.float32))
    (reason,) = reasons(open_images(tmp_path))
    assert "[0, 1]" in reason


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays(cells, dtype):
    pixels, kind = only(open_images((cells[0] / 255).astype(dtype)))
    assert kind == "float RGB"
    np.testing.assert_array_equal(pixels, cells[0])


# Behaviour of a pass


def test_threads_iterate_at_once(folder):
    damage(folder / "top.bmp", 0.5)
    source = open_images(folder)
    results = [None] * 8

    def run(k):
        results[k] = [(c.image_id, c.pixels.tobytes()) for c in source]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert all(r == results[0] and len(r) == 3 for r in results)
    assert source.skipped == [SkippedImage("top.bmp", "truncated")]


def test_skipped_belongs_to_completed_passes(folder):
    damage(folder / "basophil" / "z.PNG", 0.5)
    source = open_images(folder)
    assert len(reasons(source)) == 1
    next(iter(source))
    assert len(source.skipped) == 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_files_are_closed(folder, tmp_path):
    damage(folder / "top.bmp", 0.5)
    (folder / "text.png").write_text("not an image")
    source = open_images(folder)
    before = sorted(os.listdir("/proc/self/fd"))
    assert len(reasons(source)) == 2
    passing = iter(source)
    next(passing)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_global_state_of_pillow_is_left_alone(folder):
    from PIL import ImageFile

    limit = Image.MAX_IMAGE_PIXELS
    list(open_images(folder))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert limit == Image.MAX_IMAGE_PIXELS


def test_arrays_need_numpy_only(tmp_path):
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from wbcprof.images import open_images\n"
        "list(open_images(np.arange(486, dtype=np.uint8).reshape(2, 9, 9, 3)).read(2))\n"
        "heavy = 'PIL', 'tifffile', 'zarr', 'pandas', 'sklearn', 'concurrent'\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.skipif(not PBC.is_dir(), reason="real images are not here")
def test_real_images():
    source = open_images(PBC, min_size=20)
    assert source.n_hint == 3000
    assert {label: source.labels.count(label) for label in set(source.labels)} == dict.fromkeys(
        ["basophil", "eosinophil", "immature_granulocyte", "lymphocyte", "monocyte", "neutrophil"],
        500,
    )
    for _, cell in zip(range(20), source, strict=False):
        assert cell.pixels.shape == (363, 360, 3)
        assert cell.label == cell.image_id.split("/")[0] == "basophil"
        assert cell.pixels.std() > 10


def test_quiet_sources_note_and_do_not_warn(tmp_path):
    """For whoever tells of many parts at once: no filter of warnings, which all threads share."""
    rng = np.random.default_rng(0)
    for number in range(4):
        noise = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    torn = tmp_path / "2.png"
    torn.write_bytes(torn.read_bytes()[:200])
    for open_any in (open_images, open_fields):
        source = open_any(tmp_path)
        quiet = source.quietly()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(list(quiet.read(1))) == 3
            part = quiet.part(1, 3)
            assert len(list(part.read(1))) == 1
        assert [lost.image_id for lost in quiet.skipped] == ["2.png"]
        assert [lost.image_id for lost in part.skipped] == ["2.png"]
        with pytest.warns(ImageWarning, match="1 of 4 images was skipped"):
            list(source.read(1))
        with pytest.raises(ValueError, match="No usable image among the 1 given"):
            list(quiet.part(2, 3).read(1))
