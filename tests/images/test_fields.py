"""Fields and slides: every pixel where it belongs, each cell of one tile, torn files told of."""

from __future__ import annotations

import builtins
import os
import pickle
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slide_files import (
    TILE,
    pattern,
    smaller,
    write_dicom,
    write_philips,
    write_pyramid,
    write_svs,
)

from wbcprof.images import ImageWarning, open_fields

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.filterwarnings("error")

FIELDS = Path(__file__).resolve().parents[3] / "shared" / "data" / "fields"
LOSSY = 12  # grey levels that JPEG may change the smooth pattern by
WHOLE = pattern(1100, 1500)  # of tiles of 400: 3 x 4
EVEN = pattern(1024, 1536)  # as many, and nothing but image in what JPEG compresses


def cut(images, **how):
    return open_fields(images, **({"tile": 400, "margin": 50} | how))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def tifffile():
    return pytest.importorskip("tifffile")


@pytest.fixture
def openslide():
    return pytest.importorskip("openslide", reason="needs openslide-python and openslide-bin")


@pytest.fixture
def photographs():
    return np.stack([np.full((30, 40, 3), 20 * k, np.uint8) for k in range(7)])


@pytest.fixture
def folder(tmp_path, photographs):
    """Two slides in folders of their own, and a photograph beside them."""
    names = ["a/1.png", "a/2.png", "b/1.png", "b/deep/2.png", "beside.png"]
    for name, pixels in zip(names, photographs, strict=False):
        save(tmp_path / "lab" / name, pixels)
    return tmp_path / "lab"


def assert_cut(source, whole, within=0):
    """Each pixel of each tile is that of the whole, and cores part it; returns the fields."""
    covered = np.zeros(whole.shape[:2], int)
    fields = list(source)
    for field in fields:
        height, width = field.pixels.shape[:2]
        there = whole[field.top : field.top + height, field.left : field.left + width]
        difference = np.abs(field.pixels.astype(int) - there)
        assert difference.max() <= within, field.field_id
        left, top, right, bottom = field.core
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        covered[field.top :, field.left :][top:bottom, left:right] += 1
        assert field.whole == whole.shape[:2]
        assert field.pixels.dtype == np.uint8
    assert (covered == 1).all()
    assert source.n_hint == len(fields) and source.ids() == [f.field_id for f in fields]
    assert source.slides() == [field.slide for field in fields]
    return fields


def skipped(source):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # Pillow has its own, of torn files
        fields = list(source)
    (warning,) = [one for one in caught if issubclass(one.category, ImageWarning)]
    assert f"{len(source.skipped)} of {source.n_hint} images" in str(warning.message)
    return fields, {image.image_id: image.reason for image in source.skipped}


# Photographs


def test_photographs_are_fields_as_they_are(folder, photographs):
    source = cut(folder)
    fields = list(source.read(2))
    assert source.n_hint == 5
    assert [f.field_id for f in fields] == source.ids()
    assert [f.image_id for f in fields] == source.ids()
    assert source.ids() == ["a/1.png", "a/2.png", "b/1.png", "b/deep/2.png", "beside.png"]
    for field, pixels in zip(fields, photographs, strict=False):
        np.testing.assert_array_equal(field.pixels, pixels)
        assert (field.left, field.top, field.core) == (0, 0, (0, 0, 40, 30))
        assert field.whole == (30, 40) and field.pixel_size is None


def test_slides_are_the_folders(folder):
    expected = ["a", "a", "b", "b", "lab"]
    assert cut(folder).slides() == expected
    assert [field.slide for field in cut(folder)] == expected
    files = [folder / name for name in cut(folder).ids()]
    assert cut(files).slides() == expected
    assert cut(str(folder / "**" / "*.png")).slides() == expected
    assert cut(folder / "a").slides() == ["a", "a"]
    assert [field.slide for field in cut(iter(files))] == ["a", "a", "b", "deep", "lab"]


def test_slides_by_level_pattern_sequence_and_mapping(folder, tmp_path, photographs):
    assert cut(folder / "b", slides=["x", "y"]).slides() == ["x", "y"]
    assert cut(folder, slides=dict.fromkeys(cut(folder).ids(), "z")).slides() == ["z"] * 5
    inside = [folder / name for name in ("a/1.png", "b/deep/2.png")]
    level = len(inside[0].parts) - 2
    assert cut(inside, slides=f"folder:{level}").slides() == ["a", "b"]
    for name in ("B-30_0097", "B-31_0001", "B-31_0002"):
        save(tmp_path / "chula" / f"{name}.png", photographs[0])
    by_name = r"pattern:^([A-Z]+-\d+)_"
    assert cut(tmp_path / "chula", slides=by_name).slides() == ["B-30", "B-31", "B-31"]


def test_slides_by_table(folder, tmp_path):
    table = tmp_path / "slides.csv"
    rows = [f"{name},case {n // 2}" for n, name in enumerate(cut(folder).ids())]
    table.write_text("\n".join(["file,slide", *rows]))
    assert cut(folder, slides=table).slides() == ["case 0", "case 0", "case 1", "case 1", "case 2"]


@pytest.mark.parametrize(
    ("slides", "error", "message"),
    [
        ("nothing.csv", FileNotFoundError, "CSV file, folder:2 or pattern:REGEX"),
        ("pattern:a(", ValueError, "not a regular expression"),
        ("pattern:1", ValueError, r"has no group: .*brackets"),
        (r"pattern:^(\d)", ValueError, "'beside.png' has no slide"),
        ("folder:1", ValueError, "first 'beside.png'"),
        ({"a/1.png": "a"}, ValueError, "'a/2.png' has no slide.*its own first image is 'a/1.png'"),
        (["a"], ValueError, r"Length of slides \(1\) must match number of images \(5\)"),
        (["a", "a", "b", "", "b"], ValueError, "'b/deep/2.png' has no slide"),
        (7, TypeError, "slides must be a CSV file"),
    ],
)
def test_bad_slides(folder, slides, error, message):
    with pytest.raises(error, match=message):
        cut(folder, slides=slides)


def test_table_without_slides(folder, tmp_path):
    (tmp_path / "t.csv").write_text("image,patient\na/1.png,7\n")
    with pytest.raises(ValueError, match="a column slide"):
        cut(folder, slides=tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["tile", "margin"])
def test_bad_sizes(photographs, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        open_fields(photographs, **{name: -1})


def test_bad_photographs_are_skipped_with_one_warning(folder):
    (folder / "a" / "1.png").write_bytes(b"no image")
    (folder / "b" / "1.png").unlink()
    source = cut(folder)
    (folder / "b" / "deep" / "2.png").unlink()
    with pytest.warns(ImageWarning) as caught:
        assert [field.field_id for field in source.read(2)] == ["a/2.png", "beside.png"]
    assert len(caught) == 1
    assert "2 of 4 images were skipped; first: a/1.png" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert source.skipped[1].reason == "No such file or directory"


def test_a_file_that_is_there_again_is_of_its_slide_once(tmp_path):
    first = save(tmp_path / "a" / "1.png", np.full((30, 40, 3), 200, np.uint8))
    copy, large = tmp_path / "a" / "1 (1).png", tmp_path / "a" / "large.png"
    copy.write_bytes(first.read_bytes())
    save(large, WHOLE)
    source = cut([first, copy, first, large, large])
    with pytest.warns(
        ImageWarning, match=r"3 of 16 images were skipped; .*the same file as '.*1\.png'"
    ):
        assert len(list(source)) == 13
    assert source.whole_images()[str(copy)] == (30, 40)
    assert len(list(cut([first, copy], slides=["a", "b"]))) == 2


def test_no_usable_field(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="No usable image"):
        list(cut(tmp_path))


def test_converted_is_counted(tmp_path):
    save(tmp_path / "grey.png", np.zeros((20, 20), np.uint8))
    source = cut(tmp_path)
    with pytest.warns(ImageWarning, match="converted"):
        list(source)
    assert source.converted == {"grey": 1}


def test_iterators_are_read_once(photographs):
    source = cut(iter([*photographs, WHOLE]), slides=["s"] * 8)
    assert source.n_hint is None
    for method in (source.ids, source.slides, source.digest, source.self_contained):
        with pytest.raises(TypeError, match="give a list"):
            method()
    with pytest.raises(TypeError, match="give a list"):
        source.part(0, 1)
    fields = list(source)
    assert len(fields) == 7 + 12
    assert fields[-1].field_id == "image_000007#x001200-y000800"
    assert {field.slide for field in fields} == {"s"}
    with pytest.raises(RuntimeError, match="already read"):
        list(source)


def test_iterator_of_more_images_than_slides(photographs):
    with pytest.raises(ValueError, match="slides names 1 slides"):
        list(cut(iter(photographs), slides=["s"]))


def test_parts_samples_and_copies(folder):
    source = cut(folder)
    everything = [(field.field_id, field.slide) for field in source]
    part = source.part(1, 4)
    assert [(field.field_id, field.slide) for field in part] == everything[1:4]
    assert part.n_hint == 3
    for start, stop in ((0, 0), (3, 6), (-1, 2)):
        with pytest.raises(ValueError, match="within the 5 fields"):
            source.part(start, stop)
    assert [field.field_id for field in source.sample(2)] == ["a/2.png", "b/deep/2.png"]
    assert len(list(source.sample(99))) == 5
    assert [field.field_id for field in source.sample(1, slide="b")] == ["b/deep/2.png"]
    with pytest.raises(ValueError, match="no slide is named 'c'"):
        list(source.sample(1, slide="c"))
    assert open_fields(source) is source


def test_self_contained_elsewhere(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    source = cut(Path("lab")).part(1, 3)
    packed = pickle.dumps(source.self_contained())
    monkeypatch.chdir("/")
    there = pickle.loads(packed)
    assert there.ids() == source.ids() and there.slides() == ["a", "b"]
    assert [field.pixels[0, 0, 0] for field in there] == [20, 40]


def test_digest_is_of_content(folder, photographs):
    assert cut(folder).digest() == cut(folder).digest()
    other = {
        cut(folder).digest(),
        cut(folder, slides=["x"] * 5).digest(),
        cut(folder).part(0, 2).digest(),
        cut(photographs).digest(),
        cut(photographs + 1).digest(),
        cut(WHOLE).digest(),
        cut(WHOLE, margin=51).digest(),
        cut(WHOLE + 1).digest(),
    }
    assert len(other) == 8


def test_real_fields():
    if not FIELDS.is_dir():
        pytest.skip(f"no real fields at {FIELDS}")
    source = open_fields(FIELDS / "chula" / "images", slides="pattern:^(.+)_").part(0, 3)
    fields = list(source.read(2))
    assert [field.field_id.startswith(f"{field.slide}_") for field in fields] == [True] * 3
    assert all(field.core[2:] == field.pixels.shape[1::-1] for field in fields)


# Tiles


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 700), columns=st.integers(1, 700),
    tile=st.integers(64, 400), margin=st.integers(0, 200),
)  # fmt: skip
def test_cores_part_the_image(rows, columns, tile, margin):
    whole = np.arange(rows * columns * 3, dtype=np.uint32).view(np.uint8)[::4]
    whole = whole.reshape(rows, columns, 3)
    fields = assert_cut(open_fields(whole, tile=tile, margin=margin), whole)
    assert len(fields) == 1 or rows * columns > 2 * tile**2
    for field in fields:
        left, top, right, bottom = field.core
        height, width = field.pixels.shape[:2]
        if len(fields) > 1:  # margins end where the image does
            assert left == min(margin, field.left + left)
            assert top == min(margin, field.top + top)
            assert width - right == min(margin, columns - field.left - right)
            assert height - bottom == min(margin, rows - field.top - bottom)


def test_tiles_of_arrays_are_views():
    fields = assert_cut(cut(WHOLE), WHOLE)
    assert len(fields) == 12
    assert all(np.shares_memory(field.pixels, WHOLE) for field in fields)
    assert fields[5].field_id == "image_000000#x000400-y000400"
    stack = np.stack([WHOLE, 255 - WHOLE])
    fields = list(cut(stack))
    assert [field.image_id for field in fields] == ["image_000000"] * 12 + ["image_000001"] * 12
    np.testing.assert_array_equal(fields[12].pixels, 255 - fields[0].pixels)
    assert np.shares_memory(fields[12].pixels, stack)


def test_part_of_an_array_travels_alone():
    part = cut(WHOLE).part(5, 7)
    packed = pickle.dumps(part.self_contained())
    assert len(packed) < WHOLE.nbytes / 2
    for here, there in zip(part, pickle.loads(packed), strict=True):
        assert (here.field_id, here.left, here.core) == (there.field_id, there.left, there.core)
        np.testing.assert_array_equal(here.pixels, there.pixels)


def test_tiles_of_stored_and_deep_arrays(tmp_path):
    np.save(tmp_path / "whole.npy", WHOLE)
    assert_cut(cut(tmp_path / "whole.npy"), WHOLE)
    with pytest.warns(ImageWarning, match="12 16-bit"):
        assert_cut(cut(WHOLE.astype(np.uint16) * 257), WHOLE)


def test_large_photograph_is_decoded_once(tmp_path, monkeypatch):
    from wbcprof.images import source as module

    save(tmp_path / "large.png", WHOLE)
    reads = []
    monkeypatch.setattr(
        module, "read_file", lambda *args, read=module.read_file: reads.append(args) or read(*args)
    )
    source = cut(tmp_path)
    fields = assert_cut(source, WHOLE)
    assert len(fields) == 12 and len(reads) == 1
    assert fields[1].field_id == "large.png#x000400-y000000"
    assert fields[0].slide == tmp_path.name
    assert_same(source.part(3, 5), fields[3:5])


def assert_same(source, fields):
    for one, other in zip(source.read(2), fields, strict=True):
        assert one.field_id == other.field_id
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_large_photograph_that_is_torn(tmp_path):
    path = save(tmp_path / "large.jpg", WHOLE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    save(tmp_path / "small.jpg", WHOLE[:40, :40])
    fields, reasons = skipped(cut(tmp_path))
    assert [field.field_id for field in fields] == ["small.jpg"]
    assert len(reasons) == 12 and set(reasons.values()) == {"truncated"}


def test_photograph_beyond_the_limit_of_pillow(tmp_path, monkeypatch):
    save(tmp_path / "large.png", WHOLE)
    save(tmp_path / "small.png", WHOLE[:40, :40])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WHOLE[..., 0].size // 3)
    fields, reasons = skipped(cut(tmp_path))
    assert len(fields) == 1
    (reason,) = reasons.values()
    assert "raise PIL.Image.MAX_IMAGE_PIXELS, or save it as a TIFF" in reason


# TIFF

LAYOUTS = {
    "tiles": {"tile": (128, 256)},
    "one strip": {},
    "short strips": {"rowsperstrip": 7},
    "deflate": {"compression": "zlib", "predictor": True},
    "deflate in tiles": {"compression": "zlib", "tile": (256, 128)},
    "big": {"bigtiff": True, "tile": (256, 256)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 64},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_tiff(tifffile, tmp_path, layout):
    how = dict(LAYOUTS[layout])
    writer = {key: how.pop(key) for key in ("bigtiff", "byteorder") if key in how}
    how |= {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "whole.tif", WHOLE, photometric="rgb", **writer, **how)
    fields = assert_cut(cut(tmp_path), WHOLE)
    assert fields[0].field_id == "whole.tif#x000000-y000000"
    assert fields[0].slide == "whole"
    assert fields[0].pixel_size == pytest.approx(0.25)
    assert_same(cut(tmp_path).part(2, 7), fields[2:7])


@pytest.mark.parametrize("tile", [None, (128, 128)])
def test_large_tiff_of_other_samples(tifffile, tmp_path, tile):
    grey = WHOLE[..., 0]
    deep = WHOLE.astype(np.uint16) * 257
    opaque = np.dstack([WHOLE, np.full_like(grey, 255)])
    planes = np.moveaxis(WHOLE, -1, 0)
    three = np.repeat(grey[..., None], 3, 2)
    for pixels, expected, how, kind in (
        (planes, WHOLE, {"planarconfig": "separate", "photometric": "rgb"}, None),
        (grey, three, {"photometric": "minisblack"}, "12 grey"),
        (grey, 255 - three, {"photometric": "miniswhite"}, "12 grey"),
        (deep, WHOLE, {"photometric": "rgb", "byteorder": ">"}, "12 16-bit RGB"),
        (opaque, WHOLE, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, "12 RGBA"),
        (opaque, WHOLE, {"photometric": "rgb", "extrasamples": ["unspecified"]}, None),
    ):
        tifffile.imwrite(tmp_path / "whole.tif", pixels, tile=tile, **how)
        if kind is None:
            assert_cut(cut(tmp_path), expected)
        else:
            with pytest.warns(ImageWarning, match=kind):
                assert_cut(cut(tmp_path), expected)


@pytest.mark.parametrize("limit", [None, 1_000_000, 100_000])  # of Pillow, which warns beyond
def test_pyramid_is_one_slide(tifffile, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    write_pyramid(tmp_path / "case7.ome.tif", WHOLE)
    fields = assert_cut(cut(tmp_path), WHOLE)
    assert len(fields) == 12
    assert fields[0].slide == "case7" and fields[0].pixel_size == 0.25
    small = write_pyramid(tmp_path / "small.ome.tif", WHOLE[:300, :300])
    (field,) = assert_cut(cut(small), WHOLE[:300, :300])
    assert field.field_id == f"{small}#x000000-y000000"


def test_photographs_state_their_pixel_size_too(tifffile, tmp_path):
    small = WHOLE[:60, :80]
    for unit, size in (("µm", 0.25), ("um", 0.25), ("nm", 250), ("mm", 0.00025)):
        metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
        tifffile.imwrite(tmp_path / "a.ome.tif", small, photometric="rgb", metadata=metadata)
        (field,) = cut(tmp_path)
        assert field.field_id == "a.ome.tif" and field.slide == tmp_path.name
        assert field.pixel_size == pytest.approx(0.25)


def test_pyramid_of_pages(tifffile, tmp_path):
    with tifffile.TiffWriter(tmp_path / "case.tif") as tiff:
        for times in (1, 2, 4):
            tiff.write(smaller(WHOLE, times), tile=(TILE, TILE), photometric="rgb")
    assert len(assert_cut(cut(tmp_path), WHOLE)) == 12


def test_pyramid_of_jpeg(tifffile, tmp_path):
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(
        tmp_path / "whole.tif", EVEN, tile=(TILE, TILE), photometric="rgb", compression="jpeg",
        compressionargs={"level": 95},
    )  # fmt: skip
    assert_cut(cut(tmp_path), EVEN, LOSSY)


def test_pages_of_a_tiff_are_photographs_each(tifffile, tmp_path):
    stack = np.stack([WHOLE[:40, :60], WHOLE[40:80, :60]])
    tifffile.imwrite(tmp_path / "pages.tif", stack, photometric="rgb")
    assert cut(tmp_path).ids() == ["pages.tif#0000", "pages.tif#0001"]
    np.testing.assert_array_equal([field.pixels for field in cut(tmp_path)], stack)
    tifffile.imwrite(tmp_path / "pages.tif", np.stack([WHOLE, 255 - WHOLE]), photometric="rgb")
    fields = list(cut(tmp_path))
    assert len(fields) == 24 and fields[12].field_id == "pages.tif#0001#x000000-y000000"
    np.testing.assert_array_equal(fields[12].pixels, 255 - fields[0].pixels)


def test_parts_without_data_are_not_offered(tifffile, tmp_path):
    def tiles():
        for top in range(0, 1100, TILE):
            for left in range(0, 1500, TILE):
                cut = WHOLE[top : top + TILE, left : left + TILE]
                yield np.ascontiguousarray(cut) if left < 512 else None

    tifffile.imwrite(
        tmp_path / "a.tif", tiles(), shape=WHOLE.shape, dtype=np.uint8, tile=(TILE, TILE),
        photometric="rgb",
    )  # fmt: skip
    source = cut(tmp_path)
    assert source.ids() == [
        f"a.tif#x{left:06d}-y{top:06d}" for top in (0, 400, 800) for left in (0, 400)
    ]
    right = list(source)[1]
    np.testing.assert_array_equal(right.pixels[:, :162], WHOLE[:450, 350:512])
    assert (right.pixels[:, 162:] == 255).all()


def test_memory_is_that_of_a_tile(tifffile, tmp_path):
    side, tile = 12_000, 2048
    row = np.arange(side * 3, dtype=np.uint32).astype(np.uint8)

    def tiles():
        for top in range(0, side, tile):
            for left in range(0, side, tile):
                cut = np.full((tile, tile, 3), top // tile, np.uint8)
                width = min(tile, side - left)
                cut[0, :width] = row[3 * left : 3 * (left + width)].reshape(-1, 3)
                yield cut

    path = tmp_path / "large.tif"
    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(tile, tile),
        photometric="rgb",
    )  # fmt: skip
    tracemalloc.start()
    try:
        n = 0
        for field in open_fields(path, tile=tile, margin=64):
            left = field.left + field.core[0]
            line = field.pixels[field.core[1], field.core[0] : field.core[2]]
            np.testing.assert_array_equal(line.ravel(), row[3 * left : 3 * (left + len(line))])
            n += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n == 36
    assert peak < side * side * 3 / 4


def test_compressed_in_one_piece(tifffile, tmp_path, monkeypatch):
    from wbcprof.images import slides

    slides._page.cache_clear()
    monkeypatch.setattr(slides, "_STRIP_BYTES", WHOLE.nbytes // 2)
    tifffile.imwrite(tmp_path / "a.tif", WHOLE, compression="zlib", rowsperstrip=len(WHOLE))
    # As a photograph, it is decoded as a whole, if it is not too large for that.
    assert len(assert_cut(cut(tmp_path), WHOLE)) == 12
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    save(tmp_path / "good.png", WHOLE[:30, :30])
    _, reasons = skipped(cut(tmp_path))
    assert "save it with tiles or short strips" in reasons["a.tif"]


def test_torn_tiff(tifffile, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, WHOLE, tile=(TILE, TILE), photometric="rgb")
    path.write_bytes(path.read_bytes()[: WHOLE.nbytes // 2])
    fields, reasons = skipped(cut(tmp_path))
    assert set(reasons.values()) == {"truncated"}
    assert len(fields) + len(reasons) == 12 and len(fields) >= 4
    for field in fields:
        height, width = field.pixels.shape[:2]
        there = WHOLE[field.top : field.top + height, field.left : field.left + width]
        np.testing.assert_array_equal(field.pixels, there)


def test_torn_strips(tifffile, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, WHOLE, rowsperstrip=10, compression="zlib", photometric="rgb")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 500] = bytes(500)
    path.write_bytes(content)
    fields, reasons = skipped(cut(tmp_path))
    assert 1 <= len(reasons) < 12 and len(fields) + len(reasons) == 12
    assert all(reason.startswith("cannot be decoded") for reason in reasons.values())


def test_tiff_gone_in_mid_run(tifffile, tmp_path):
    write_pyramid(tmp_path / "a.tif", WHOLE)
    write_pyramid(tmp_path / "b.tif", WHOLE)
    source = cut(tmp_path)
    (tmp_path / "b.tif").unlink()
    fields, reasons = skipped(source)
    assert len(fields) == 12 and len(reasons) == 12
    assert set(reasons.values()) == {"No such file or directory"}


def test_tiff_changed_in_mid_run(tifffile, tmp_path):
    path = write_pyramid(tmp_path / "a.tif", WHOLE)
    fields = iter(cut(tmp_path))
    next(fields)
    write_pyramid(path, WHOLE[:700])
    with pytest.warns(ImageWarning, match="11 of 12 images .*it changed"):
        assert list(fields) == []


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_garbage_with_a_tiff_suffix(tifffile, tmp_path, keep):
    path = write_pyramid(tmp_path / "a.tif", WHOLE)
    path.write_bytes(path.read_bytes()[:keep])
    save(tmp_path / "good.png", WHOLE[:30, :30])
    fields, reasons = skipped(cut(tmp_path))
    assert len(fields) == 1 and len(reasons) == 1


# Slides of scanners


def test_svs(tifffile, openslide, tmp_path):
    pytest.importorskip("imagecodecs")
    path = write_svs(tmp_path / "case7.svs", EVEN)
    assert openslide.OpenSlide.detect_format(path) == "aperio"
    save(tmp_path / "photograph.png", EVEN[:30, :30])
    source = cut(tmp_path)
    assert source.ids()[-1] == "photograph.png" and source.slides()[-1] == tmp_path.name
    fields = assert_cut(source.part(0, 12), EVEN, LOSSY)
    assert fields[4].field_id == "case7.svs#x000000-y000400"
    assert fields[4].slide == "case7" and fields[4].pixel_size == 0.25
    assert_same(pickle.loads(pickle.dumps(source.part(3, 6).self_contained())), fields[3:6])
    assert source.digest() == cut(tmp_path).digest() != source.part(0, 12).digest()


def test_slides_of_the_same_name(tifffile, openslide, tmp_path):
    pytest.importorskip("imagecodecs")
    for name in ("a/1.svs", "b/1.svs", "b/2.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_svs(tmp_path / name, WHOLE[:300, :300])
    assert cut(tmp_path).slides() == ["a/1", "b/1", "2"]
    assert cut(tmp_path, slides="folder:1").slides() == ["a", "b", "b"]


def test_what_a_scanner_did_not_take(tifffile, openslide, tmp_path):
    pytest.importorskip("imagecodecs")
    whole = pattern(1024, 2048)
    taken = np.zeros((4, 8), bool)
    taken[:, :3] = True
    whole[:, 3 * TILE :] = 255
    path = write_philips(tmp_path / "a.tiff", whole, taken)
    assert openslide.OpenSlide.detect_format(path) == "philips"
    source = open_fields(path, tile=512, margin=32)
    fields = list(source)
    assert [(f.left, f.top) for f in fields] == [(0, 0), (480, 0), (0, 480), (480, 480)]
    assert fields[0].pixel_size == pytest.approx(0.25)
    for field in fields:
        height, width = field.pixels.shape[:2]
        there = whole[field.top : field.top + height, field.left : field.left + width]
        assert np.abs(field.pixels.astype(int) - there).max() <= LOSSY
        assert (field.pixels[:, field.left + np.arange(width) >= 4 * TILE] == 255).all()


def test_a_cell_alone_on_blank_glass_is_not_lost(tifffile, openslide, tmp_path):
    pytest.importorskip("imagecodecs")
    blank = np.full((2048, 2048, 3), 250, np.uint8)
    blank[1440:1460, 700:720] = 90
    source = open_fields(write_svs(tmp_path / "a.svs", blank), tile=512, margin=16)
    assert source.ids() == [f"{tmp_path / 'a.svs'}#x000512-y001024"]


def test_dicom(openslide, tmp_path):
    pytest.importorskip("pydicom")
    for case in (1, 2):
        folder = tmp_path / f"case{case}"
        folder.mkdir()
        write_dicom(folder / "9.dcm", smaller(EVEN, 4), f"1.2.{case}", 2, 0.001)
        write_dicom(folder / "10.dcm", EVEN, f"1.2.{case}")
    source = cut(tmp_path)
    assert source.n_hint == 24 and source.slides() == ["case1"] * 12 + ["case2"] * 12
    fields = assert_cut(source.part(12, 24), EVEN, LOSSY)
    assert fields[0].field_id == "case2/10.dcm#x000000-y000000"
    assert fields[0].pixel_size == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.mrxs", "a.czi", "a.dcm", "a.vsi"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_garbage_with_the_suffix_of_a_slide(openslide, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    save(tmp_path / "good.png", WHOLE[:30, :30])
    fields, reasons = skipped(cut(tmp_path))
    assert [field.field_id for field in fields] == ["good.png"]
    if name == "a.vsi":
        assert "export it" in reasons[name]
    else:
        assert reasons[name] == "not a slide file that openslide reads" if content else "empty file"


@pytest.mark.parametrize("name", ["a.svs", "a.tif"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    save(tmp_path / "good.png", WHOLE[:30, :30])
    fields, reasons = skipped(cut(tmp_path))
    assert len(fields) == 1 and reasons == {name: "not a regular file"}


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_torn_svs(tifffile, openslide, tmp_path, keep):
    pytest.importorskip("imagecodecs")
    path = write_svs(tmp_path / "a.svs", WHOLE)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    save(tmp_path / "good.png", WHOLE[:30, :30])
    fields, reasons = skipped(cut(tmp_path))
    assert fields[-1].field_id == "good.png" and len(reasons) == 1


def test_svs_torn_in_the_middle(tifffile, openslide, tmp_path):
    pytest.importorskip("imagecodecs")
    path = write_svs(tmp_path / "a.svs", EVEN)
    with tifffile.TiffFile(path) as tiff:
        offset, count = (tiff.pages[0].dataoffsets[7], tiff.pages[0].databytecounts[7])
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    source = cut(tmp_path)
    fields, reasons = skipped(source)
    # Tile 7 of 256 px lies at (256, 256): four tiles of ours take it or have it in their margins.
    assert set(reasons) == {f"a.svs#x{x:06d}-y{y:06d}" for x in (0, 400) for y in (0, 400)}
    assert len(fields) == 8
    with pytest.warns(ImageWarning):
        assert len(list(source.read(4))) == 8  # no thread fails for another


def test_missing_packages(tifffile, tmp_path, monkeypatch):
    write_pyramid(tmp_path / "a.tif", WHOLE)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.svs").write_bytes(b"slide")
    real = builtins.__import__

    def without(*missing):
        def imported(name, *args, **kwargs):
            if name.split(".")[0] in missing:
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", imported)

    without("openslide")
    with pytest.raises(ImportError, match=r"needs the package openslide: pip install .*\[slides\]"):
        cut(tmp_path / "b")
    assert len(assert_cut(cut(tmp_path / "a.tif"), WHOLE)) == 12
    without("openslide", "tifffile")
    assert len(assert_cut(cut(tmp_path / "a.tif"), WHOLE)) == 12  # decoded as a whole


def test_compression_that_needs_imagecodecs(tifffile, tmp_path, monkeypatch):
    pytest.importorskip("imagecodecs")
    path = write_pyramid(tmp_path / "a.tif", WHOLE, "jpeg")

    def missing(self, codec):
        raise KeyError("<COMPRESSION.JPEG: 7> requires the 'imagecodecs' package")

    monkeypatch.setattr(type(tifffile.TIFF.DECOMPRESSORS), "__getitem__", missing)
    with pytest.raises(ImportError, match=r"imagecodecs.*pip install 'wbcprof\[slides\]'"):
        cut(path)


def test_two_threads_read_one_source(tifffile, openslide, tmp_path):
    pytest.importorskip("imagecodecs")
    write_svs(tmp_path / "a.svs", EVEN)
    write_pyramid(tmp_path / "b.tif", EVEN)
    source = cut(tmp_path)
    expected = list(source)
    failures = []

    def read():
        try:
            assert_same(source, expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(expected) == 24
