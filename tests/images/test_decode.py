"""Files to pixels: what must not be decoded, pages of a TIFF; all images are generated."""

from __future__ import annotations

import os
import re
import warnings

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from wbcprof.images import decode
from wbcprof.images import source as images
from wbcprof.images.decode import count_pages, read_file
from wbcprof.images.source import ImageWarning, open_images

pytestmark = [
    pytest.mark.filterwarnings("error"),
    # Pillow leaves its writer of pages open: it complains when collected, at any later time.
    pytest.mark.filterwarnings(
        "ignore:.*AppendingTiffWriter:pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture
def smooth():
    """An image (61, 45, 3) that JPEG keeps well."""
    y, x = np.mgrid[:61, :45]
    waves = [128 + 100 * np.sin(x / (4 + c) + y / (9 - c)) for c in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


def test_postscript_under_another_name_starts_nothing(tmp_path, monkeypatch):
    """Pillow goes by content, and hands PostScript to its interpreter."""
    path, started = tmp_path / "cell.png", tmp_path / "started"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n"
    )
    fake = tmp_path / "gs"
    fake.write_text(f"#!/bin/sh\ntouch {started}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for given in (path, path.read_bytes()):
        (outcome,) = read_file(given)
        assert "not a readable image" in str(outcome)
    assert images.open_images(path).shapes() == [None]
    assert not started.exists()


def test_decompression_bomb_is_never_decoded(tmp_path, smooth, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", smooth[..., 0].size - 1)
    monkeypatch.setattr(decode, "_decode", lambda *_: pytest.fail("decoded"))
    with pytest.warns(Image.DecompressionBombWarning):
        (outcome,) = read_file(path)
    assert "decompression bomb" in str(outcome)


def test_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    noise = np.random.default_rng(5).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)  # longer than a buffer
    opened = Image.open

    def shrink(given, **formats):
        image = opened(given, **formats)
        with open(given, "r+b") as file:
            file.truncate(path.stat().st_size // 2)
        return image

    monkeypatch.setattr(Image, "open", shrink)
    (outcome,) = read_file(path)
    assert str(outcome) == "truncated"


# Pages


@pytest.fixture
def pages():
    return np.random.default_rng(4).integers(0, 256, (37, 12, 10, 3), dtype=np.uint8)


def save_pages(path, pages, **options):
    images = [Image.fromarray(page) for page in pages]
    images[0].save(path, save_all=True, append_images=images[1:], **options)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_each_page_is_an_image(tmp_path, pages, compression):
    folder = tmp_path / "cells"
    (folder / "basophil").mkdir(parents=True)
    (folder / "monocyte").mkdir()
    save_pages(folder / "basophil" / "a.tif", pages, compression=compression)
    Image.fromarray(pages[0]).save(folder / "monocyte" / "b.tiff")
    source = open_images(folder)
    assert source.n_hint == 38
    assert source.labels == ["basophil"] * 37 + ["monocyte"]
    cells = list(source.read(2))
    assert [c.image_id for c in cells] == [
        *(f"basophil/a.tif#{k:04d}" for k in range(37)), "monocyte/b.tiff",
    ]  # fmt: skip
    np.testing.assert_array_equal([c.pixels for c in cells], np.concatenate([pages, pages[:1]]))
    path = folder / "basophil" / "a.tif"
    assert [c.image_id for c in open_images(str(path))][36] == f"{path}#0036"
    assert open_images(f"{folder}/*/*.tif*").n_hint == 38


def test_large_pages_are_read_one_by_one(tmp_path, pages, monkeypatch):
    save_pages(tmp_path / "a.tif", pages[:20])
    read, runs = images.read_file, []
    monkeypatch.setattr(images, "read_file", lambda *args: runs.append(args[1]) or read(*args))
    for most, expected in ((64 << 20, [16, 4]), (5 * pages[0].nbytes, [5] * 4), (1, [1] * 20)):
        monkeypatch.setattr(images, "_BLOCK_BYTES", most)
        np.testing.assert_array_equal(
            [cell.pixels for cell in open_images(tmp_path / "a.tif")], pages[:20]
        )
        assert [len(run) for run in runs] == expected
        runs.clear()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    with pytest.raises(ValueError, match=r"first: pipe\.tif: not a regular file"):
        list(open_images(tmp_path))


def test_grey_pages_are_converted_one_by_one(tmp_path, pages):
    save_pages(tmp_path / "a.tif", pages[:3, :, :, 0])
    with pytest.warns(ImageWarning, match="3 images were converted to 8-bit RGB: 3 grey"):
        cells = list(open_images(tmp_path / "a.tif"))
    np.testing.assert_array_equal(
        [c.pixels for c in cells], np.repeat(pages[:3, :, :, :1], 3, axis=3)
    )


def test_unlike_pages_are_frames(tmp_path, pages):
    page = Image.fromarray(pages[0])
    unlike = [(page.resize((5, 6)), {}), (page.convert("L"), {}), (page, {254: 1})]
    for index, (other, tags) in enumerate(unlike):
        path = tmp_path / f"{index}.tif"
        with TiffImagePlugin.AppendingTiffWriter(path, True) as file:
            page.save(file, "TIFF")
            file.newFrame()
            other.save(file, "TIFF", tiffinfo=tags)
        assert count_pages(path) == (1, 0)
        with pytest.warns(ImageWarning, match="1 image was converted .* 1 multi-frame"):
            (cell,) = open_images(path)
        np.testing.assert_array_equal(cell.pixels, pages[0])


@pytest.mark.parametrize("axes", ["of pages", "of channels"])
def test_a_picture_is_that_of_its_frame(tmp_path, axes):
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    ramp = np.add.outer(np.arange(24), np.arange(24)) * 500
    frames = np.stack([ramp, ramp + 10_000, ramp + 40_000]).astype(np.uint16)
    tifffile.imwrite(path, frames, photometric="minisblack", imagej=axes == "of channels")
    with Image.open(path) as image:
        image.seek(1)
        with pytest.warns(ImageWarning, match="converted"):
            (cell,) = open_images([image])
    assert np.ptp(cell.pixels, axis=2).max() == 0
    np.testing.assert_allclose(cell.pixels[..., 0], frames[1] / 65535 * 255, atol=1)


def test_damaged_page_is_skipped_and_others_are_kept(tmp_path, pages):
    path = tmp_path / "a.tif"
    save_pages(path, pages[:4], compression="tiff_adobe_deflate")
    with Image.open(path) as image:
        image.seek(2)
        offset = image.tag_v2[273][0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 20] = bytes(20)
    path.write_bytes(data)
    source = open_images(path)
    with pytest.warns(ImageWarning, match=r"1 of 4 .*first: .*a\.tif#0002: cannot be decoded"):
        cells = list(source)
    np.testing.assert_array_equal([c.pixels for c in cells], pages[[0, 1, 3]])


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.99])
def test_truncated_pages(tmp_path, pages, keep):
    path = tmp_path / "a.tif"
    save_pages(path, pages)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    if keep < 0.5:
        with pytest.raises(ValueError, match="No usable image"):
            list(open_images(path))
        return
    with warnings.catch_warnings(record=True) as said:  # what Pillow says too
        warnings.simplefilter("always")
        found = [cell.pixels for cell in open_images(path)]
    (text,) = (str(one.message) for one in said if one.category is ImageWarning)
    assert re.match(r"1 of \d+ images was skipped; first: .*: truncated", text)
    assert len(found) > 0.6 * keep * len(pages)
    np.testing.assert_array_equal(found, pages[: len(found)])


def test_pages_of_a_file_that_vanishes(tmp_path, pages):
    path = tmp_path / "a.tif"
    save_pages(path, pages[:3])
    source = open_images([path])
    pages_of = open_images(path)
    path.unlink()
    for opened, n in ((source, 1), (pages_of, 3)):
        with pytest.raises(ValueError, match=f"among the {n} given.*No such file or directory"):
            list(opened)
