"""Files to pixels: JPEG by either decoder, pages of a TIFF; all images are generated."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from wbcprof import decode
from wbcprof.decode import Unusable, count_pages, read_file
from wbcprof.images import ImageWarning, open_images

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def smooth():
    """An image (61, 45, 3) that JPEG keeps well."""
    y, x = np.mgrid[:61, :45]
    waves = [128 + 100 * np.sin(x / (4 + c) + y / (9 - c)) for c in range(3)]
    return np.stack(waves, axis=2).astype(np.uint8)


@pytest.fixture
def without_simplejpeg(monkeypatch):
    def leave_out():
        monkeypatch.setattr(decode, "_simplejpeg", lambda: None)

    return leave_out


# JPEG


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}], ids=str)
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_pixels_are_those_of_pillow(
    tmp_path, smooth, mode, options, subsampling, without_simplejpeg
):
    pytest.importorskip("simplejpeg")
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).convert(mode).save(path, subsampling=subsampling, **options)
    (fast,) = read_file(path)
    without_simplejpeg()
    (plain,) = read_file(path)
    np.testing.assert_array_equal(fast[0], plain[0])
    assert fast[1] == plain[1] == {"RGB": "", "L": "grey", "CMYK": "CMYK"}[mode]
    np.testing.assert_array_equal(plain[0], np.asarray(Image.open(path).convert("RGB")))


def test_simplejpeg_decodes_what_it_can(tmp_path, smooth, monkeypatch):
    simplejpeg = pytest.importorskip("simplejpeg")
    decoded = []

    def note(data):
        decoded.append(len(data))
        return simplejpeg.decode_jpeg(data)

    class Noting:
        decode_jpeg_header = staticmethod(simplejpeg.decode_jpeg_header)
        decode_jpeg = staticmethod(note)

    monkeypatch.setattr(decode, "_simplejpeg", lambda: Noting)
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path)
    read_file(path)
    assert decoded == [path.stat().st_size]

    # A file too long to be read whole is left to Pillow, and so is one of another size than
    # Pillow's parser found.
    monkeypatch.setattr(decode, "_JPEG_BYTES", 300)
    (outcome,) = read_file(path)
    np.testing.assert_array_equal(outcome[0], simplejpeg.decode_jpeg(path.read_bytes()))
    monkeypatch.setattr(decode, "_JPEG_BYTES", 1 << 20)
    monkeypatch.setattr(Noting, "decode_jpeg_header", staticmethod(lambda data: (9, 9, "", "")))
    read_file(path)
    assert len(decoded) == 1


def test_damaged_jpeg_means_the_same_to_both_decoders(tmp_path, smooth, monkeypatch):
    pytest.importorskip("simplejpeg")
    rng = np.random.default_rng(3)
    stream = io.BytesIO()
    Image.fromarray(smooth).save(stream, "JPEG", quality=90)
    data = np.frombuffer(stream.getvalue(), np.uint8)
    path = tmp_path / "a.jpg"
    usable = 0
    for trial in range(120):
        bad = data.copy()
        at = rng.integers(0, len(bad), 3)
        bad[at] = rng.integers(0, 256, 3)
        path.write_bytes(bad[: rng.integers(len(bad) // 2, len(bad)) if trial % 3 == 0 else None])
        (fast,) = read_file(path)
        with monkeypatch.context() as patch:
            patch.setattr(decode, "_simplejpeg", lambda: None)
            (plain,) = read_file(path)
        if isinstance(plain, Unusable):
            assert str(fast) == str(plain)
        else:
            usable += 1
            np.testing.assert_array_equal(fast[0], plain[0])
    assert 20 < usable < 120


def test_jpeg_without_simplejpeg(tmp_path, smooth, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path)
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    decode._simplejpeg.cache_clear()
    try:
        (outcome,) = read_file(path)
    finally:
        decode._simplejpeg.cache_clear()
    np.testing.assert_array_equal(outcome[0], np.asarray(Image.open(path)))


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
    noise = np.random.default_rng(5).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)  # longer than a buffer
    opened = Image.open

    def shrink(given):
        image = opened(given)
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
        assert count_pages(path) == 1
        with pytest.warns(ImageWarning, match="1 image was converted .* 1 multi-frame"):
            (cell,) = open_images(path)
        np.testing.assert_array_equal(cell.pixels, pages[0])


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
    with pytest.warns(ImageWarning) if keep == 0.99 else pytest.raises(ValueError):
        list(open_images(path))


def test_pages_of_a_file_that_vanishes(tmp_path, pages):
    path = tmp_path / "a.tif"
    save_pages(path, pages[:3])
    source = open_images([path])
    pages_of = open_images(path)
    path.unlink()
    for opened, n in ((source, 1), (pages_of, 3)):
        with pytest.raises(ValueError, match=f"among the {n} given.*No such file or directory"):
            list(opened)
