"""Where images come from, parts of a source, and decoding ahead; all images are generated."""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import pickle
import re
import sys
import threading
import time
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

import wbcprof
from wbcprof.images import source as images_module
from wbcprof.images.source import ImageWarning, SkippedImage, open_images
from wbcprof.images.stored import StoredArray

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def stack():
    return np.random.default_rng(12).integers(0, 256, (7, 24, 30, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, stack):
    """Seven PNG files in two types."""
    root = tmp_path / "cells"
    for index, cell in enumerate(stack):
        path = root / ("monocyte" if index % 2 else "basophil") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cell).save(path)
    return root


def found(source, n_threads=1):
    return [(c.image_id, c.label, c.pixels.tobytes()) for c in source.read(n_threads)]


def ids(source):
    return [cell.image_id for cell in source]


class Exported:
    """An array of another library: nothing of it but DLPack can be read."""

    def __init__(self, array, device=(1, 0), error=None):
        self.array, self.device, self.error = array, device, error

    def __dlpack__(self, **options):
        if self.error:
            raise self.error
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


class Stored:
    """An array in chunks, as zarr has it, that notes what is read of it."""

    def __init__(self, array, chunks):
        self.array, self.chunks = array, chunks
        self.shape, self.dtype = array.shape, array.dtype
        self.reads = []

    def __getitem__(self, rows):
        self.reads.append((rows.start, rows.stop))
        return self.array[rows]


# Arrays of other libraries


def as_torch(array):
    return pytest.importorskip("torch").from_numpy(array)


@pytest.mark.parametrize("wrap", [np.asarray, memoryview, Exported, as_torch])
def test_memory_is_shared(stack, wrap):
    for given, expected in ((wrap(stack), stack), (wrap(stack[0]), stack[:1])):
        pixels = [cell.pixels for cell in open_images(given)]
        np.testing.assert_array_equal(pixels, expected)
        assert all(np.shares_memory(p, stack) for p in pixels)
    several = open_images([wrap(cell) for cell in stack[:3]])
    assert all(np.shares_memory(cell.pixels, stack) for cell in several)
    assert ids(open_images(iter([wrap(stack[0])]))) == ["image_000000"]


class Converted:
    """An image that NumPy can read, and that says nothing of itself."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __array__(self, dtype=None, copy=None):
        return self.pixels


def test_images_that_state_no_shape(stack):
    given = open_images([Converted(cell) for cell in stack])
    np.testing.assert_array_equal([cell.pixels for cell in given.read(1)], stack)


def test_ctypes_array(stack):
    buffer = (ctypes.c_ubyte * 3 * 30 * 24).from_buffer_copy(stack[0].tobytes())
    (cell,) = open_images(buffer)
    np.testing.assert_array_equal(cell.pixels, stack[0])


no_read_only_dlpack = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy exports no read-only memory"
)


@pytest.mark.parametrize(
    "wrap", [np.asarray, memoryview, pytest.param(Exported, marks=no_read_only_dlpack)]
)
def test_read_only_and_strided_memory(stack, wrap):
    stack.flags.writeable = False
    (cell,) = open_images(wrap(stack[0]))
    assert np.shares_memory(cell.pixels, stack) and not cell.pixels.flags.writeable
    for strided in (stack[:, ::2, ::-1], stack[:, :, :, ::-1], np.asfortranarray(stack)):
        pixels = [cell.pixels for cell in open_images(wrap(strided))]
        np.testing.assert_array_equal(pixels, strided)
        assert all(p.flags.c_contiguous for p in pixels)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"device": (2, 0)}, "another device"),
        ({"error": BufferError("requires gradient, use tensor.detach()")}, "requires gradient"),
    ],
)
def test_memory_that_numpy_cannot_read(stack, options, reason):
    for given in (
        Exported(stack, **options),
        [Exported(stack[0], **options)],
        iter([Exported(stack[0], **options)]),
    ):
        with pytest.raises(TypeError, match=rf"got a Exported: .*{reason}.*detach\(\)\.cpu\(\)"):
            list(open_images(given))


def test_profile_takes_any_memory(model, stack):
    expected = model.profile(stack).values
    for given in (memoryview(stack), Exported(stack), [memoryview(cell) for cell in stack]):
        np.testing.assert_array_equal(model.profile(given).values, expected)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), ValueError, "No images given"),
        (np.zeros((2, 0, 8, 3), np.uint8), ValueError, r"got shape \(2, 0, 8, 3\)"),
        (np.zeros((2, 8, 0, 3), np.uint8), ValueError, r"got shape \(2, 8, 0, 3\)"),
        (np.zeros((2, 8, 8, 0), np.uint8), ValueError, r"got shape \(2, 8, 8, 0\)"),
        (np.full((2, 8, 8, 3), None), ValueError, "dtype object"),
        (np.zeros((2, 8, 8, 3), "S3"), ValueError, "dtype |S3"),
        (memoryview(b"abc"), TypeError, "item 0 is a int"),
        (np.zeros((1,) * 6, np.uint8), ValueError, r"got \(1, 1, 1, 1, 1, 1\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, memoryview) else str(value),
)
def test_absurd_arrays(bad, error, message):
    with pytest.raises(error, match=message):
        list(open_images(bad))


def test_vast_array_is_opened_at_once():
    vast = np.broadcast_to(np.arange(192, dtype=np.uint8).reshape(8, 8, 3), (10**12, 8, 8, 3))
    source = open_images(vast)
    assert source.n_hint == 10**12
    assert ids(source.part(10**12 - 2, 10**12)) == ["image_999999999998", "image_999999999999"]


# Stored arrays


@pytest.mark.parametrize("chunks", [(3, 24, 30, 3), ((3, 3, 1), (24,), (30,), (3,))])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_stored_array_is_read_in_its_chunks(stack, chunks, n_threads):
    stored = Stored(stack, chunks)
    source = open_images(stored, labels=list("abcdefg"))
    assert (source.n_hint, stored.reads) == (7, [])
    assert found(source, n_threads) == found(open_images(stack, list("abcdefg")))
    assert sorted(stored.reads) == [(0, 3), (3, 6), (6, 7)]
    stored.reads.clear()
    assert found(source.part(2, 5)) == found(source)[2:5]
    assert stored.reads[:2] == [(2, 3), (3, 5)]


def test_large_chunks_are_cut(stack, monkeypatch):
    monkeypatch.setattr(images_module, "_BLOCK_BYTES", 2 * stack[0].nbytes)
    stored = Stored(stack, stack.shape)
    assert found(open_images(stored)) == found(open_images(stack))
    assert stored.reads == [(0, 2), (2, 4), (4, 6), (6, 7)]
    for chunks in (None, ()):
        stored = Stored(stack, chunks)
        next(iter(open_images(stored)))
        assert stored.reads == [(0, 1)]


def test_damaged_chunk_is_skipped(stack):
    class Damaged(Stored):
        def __getitem__(self, rows):
            if rows.start == 3:
                raise RuntimeError("error during blosc decompression")
            return self.array[rows][: 2 if rows.start == 6 else None]

    source = open_images(Damaged(np.concatenate([stack, stack]), (3, 24, 30, 3)))
    with pytest.warns(ImageWarning, match="6 of 14 .*image_000003: .*blosc decompression"):
        assert len(list(source)) == 8
    assert source.skipped[-1].reason == "cannot be read: 2 images for 3"


def test_zarr(tmp_path, stack, monkeypatch):
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "cells.zarr"
    array = zarr.open_array(path, mode="w", shape=stack.shape, chunks=(3, 24, 30, 3), dtype="u1")
    array[:] = stack
    for given in (array, path, str(path)):
        assert found(open_images(given), 2) == found(open_images(stack))
    zarr.open_group(tmp_path / "group.zarr", mode="w")
    with pytest.raises(ValueError, match=r"group.zarr' is not a readable zarr array"):
        open_images(tmp_path / "group.zarr")
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"pip install 'wbcprof\[zarr\]'"):
        open_images(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_read_part_by_part(tmp_path, stack, order):
    path = tmp_path / "cells.npy"
    np.save(path, np.asarray(stack, order=order))
    source = open_images(path)
    assert found(source) == found(open_images(stack))
    (cell,) = source.part(3, 4)
    np.testing.assert_array_equal(cell.pixels, stack[3])
    assert source.digests() == open_images(stack).digests()


def test_npy_that_is_cut_short_meanwhile_is_no_crash(tmp_path, stack):
    """Mapped, it ended the process with SIGBUS."""
    path = tmp_path / "cells.npy"
    np.save(path, np.repeat(stack, 40, axis=0))
    source = open_images(path, min_size=1)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.warns(ImageWarning, match=r"skipped; .*cells.npy' was cut short while it was read"):
        assert len(list(source)) == 2
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="No usable image"):
        list(source)


@pytest.mark.parametrize("shape", [(5, 7, 3), (4, 5, 7, 3), (4, 6), (9,), (4, 5, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, ">u2", np.float32])
def test_stored_arrays_give_what_numpy_gives(tmp_path, shape, dtype):
    array = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    stored = StoredArray.open(tmp_path / "a.npy")
    keys = [slice(1, 3), slice(2, 2), slice(None), 2]
    if len(shape) > 1:
        keys += [(slice(1, 4), slice(2, 5)), (1, slice(0, 2)), (slice(3, 1), slice(None))]
    if len(shape) > 2:
        keys += [(3, slice(1, 4), slice(2, 6))]
    for key in keys:
        np.testing.assert_array_equal(stored[key], array[key])
        assert stored[key].dtype == array.dtype
    np.testing.assert_array_equal(np.asarray(stored), array)


@pytest.mark.parametrize("content", ["objects", "truncated", "text", "flat"])
def test_npy_that_holds_no_images(tmp_path, stack, content):
    path = tmp_path / "cells.npy"
    np.save(path, stack.ravel() if content == "flat" else stack)
    if content == "objects":
        np.save(path, np.array([{}, []], dtype=object), allow_pickle=True)
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif content == "text":
        path.write_text("text")
    expected = "must have shape" if content == "flat" else "is not a readable array file"
    with pytest.raises(ValueError, match=expected):
        open_images(path)


@pytest.mark.parametrize(
    "shape, dtype, reason",
    [
        ((10**12, 0, 64, 3), "|u1", "must hold images of pixels, got shape"),
        ((10**8, 64, 0, 3), "|u1", "must hold images of pixels, got shape"),
        ((2, 64, 64, 0), "|u1", "must hold images of pixels, got shape"),
        ((10**7, 64, 64, 3), "|S0", "must hold numbers, got dtype |S0"),
        ((10**7, 64, 64, 3), "|V0", "must hold numbers, got dtype |V0"),
    ],
)
def test_arrays_of_nothing_are_refused(tmp_path, shape, dtype, reason):
    """A file of 128 bytes that kept a run busy for ever, a skipped image at a time."""
    with open(tmp_path / "cells.npy", "wb") as file:
        header = {"descr": dtype, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match=re.escape(reason)):
        open_images(tmp_path / "cells.npy")


# Globs


def test_glob(folder, stack, monkeypatch):
    (folder / "monocyte" / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("text")
    (folder / "folder.png").mkdir()
    expected = sorted(path.as_posix() for path in folder.glob("*/[0-9].png"))
    for pattern in ("**/*.png", "*/*.png", "**/?.png", "[bm]*/*"):
        source = open_images(folder / pattern)
        assert source.n_hint == 7
        assert ids(source) == expected
    assert ids(open_images(f"{folder}/monocyte/[35].png")) == [
        (folder / "monocyte" / f"{i}.png").as_posix() for i in (3, 5)
    ]
    monkeypatch.chdir(folder)
    assert ids(open_images("basophil/*.png")) == [f"basophil/{i}.png" for i in (0, 2, 4, 6)]


def test_glob_does_not_follow_links_back_up(folder):
    for name in "ab":
        (folder / "monocyte" / name).symlink_to(folder)
    assert open_images(folder / "**" / "*.png").n_hint == 7


def test_existing_file_is_no_glob(folder, stack):
    (folder / "basophil" / "0.png").rename(folder / "cell[1].png")
    (cell,) = open_images(folder / "cell[1].png")
    np.testing.assert_array_equal(cell.pixels, stack[0])


@pytest.mark.parametrize("pattern", ["*.jpg", "nowhere/**/*.png", "mono*"])
def test_glob_that_matches_no_file(folder, pattern):
    with pytest.raises(FileNotFoundError, match="No file matches"):
        open_images(folder / pattern)


# CSV


@pytest.mark.parametrize(
    "header", ["path,label", "Label,other,FILE", "filename,Class,type", " image , TYPE "]
)
def test_csv(folder, header):
    names = [name.strip().lower() for name in header.split(",")]
    rows = [["?"] * len(names) for _ in range(3)]
    at = next(i for i, name in enumerate(names) if name in ("path", "file", "filename", "image"))
    label_at = names.index("label") if "label" in names else names.index("type")
    rows[0][at], rows[0][label_at] = "cells/monocyte/1.png", "granulocyte, mature"
    rows[1][at], rows[1][label_at] = str(folder / "basophil" / "0.png"), ""
    rows[2][at], rows[2][label_at] = " cells/basophil/2.png ", " x "
    text = "\r\n".join([header, *(",".join(f'"{cell}"' for cell in row) for row in rows), "", ""])
    path = folder.parent / "table.csv"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = open_images(path)
    assert (source.n_hint, source.labels) == (3, ["granulocyte, mature", None, "x"])
    assert ids(source) == [rows[0][at], rows[1][at], "cells/basophil/2.png"]
    assert [c.label for c in open_images(path, labels=list("abc"))] == list("abc")


def test_csv_without_labels(folder):
    path = folder / "table.csv"
    path.write_text("image\nmonocyte/1.png\n")
    assert open_images(path).labels is None
    path.write_text("image,label\nmonocyte/1.png\nbasophil/0.png,x\n")
    assert open_images(path).labels == [None, "x"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ValueError, "a column path or image or file or filename, got: $"),
        (b"path,label\n", ValueError, "No images given"),
        (b"monocyte/1.png,x\n", ValueError, "a column path.*got: monocyte/1.png, x$"),
        (b"path,label\nmonocyte/1.png,x\n,y\n", ValueError, "line 3: no image path"),
        (
            b"path\nmonocyte/1.png\ngone.png\nlost.png\n",
            FileNotFoundError,
            r"2 of the 3 files named in '.*table.csv' do not exist in '.*cells': gone.png, lost",
        ),
        (b"path,label\n\x81\xfe,x\n", ValueError, "not a readable CSV file"),
        (b'path\n"' + b"x" * 200_000, ValueError, "not a readable CSV file: field larger"),
        (b"path\nmono\0cyte.png\n", (FileNotFoundError, ValueError), "table.csv"),
        (b"c," * 10**6, ValueError, r"got: c, c, c, c, c, \.\.\.$"),
    ],
    ids=["empty", "no rows", "no header", "no path", "missing", "utf-16", "field", "nul", "wide"],
)
def test_csv_that_lists_no_images(folder, content, error, message):
    path = folder / "table.csv"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        open_images(path)
    assert len(str(caught.value)) < 600


# Parts


class Loaded(Sequence):
    """A sequence whose items take time to make; notes which were."""

    def __init__(self, images):
        self.images, self.loaded = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.loaded.append(index)
        return self.images[index]


@pytest.fixture(
    params=["folder", "list", "array", "stored", "iterable", "sequence", "pages", "mixed"]
)
def source(request, folder, stack, tmp_path):
    """Seven images, however they are given."""
    if request.param == "folder":
        return open_images(folder)
    labels = list("abcdefg")
    if request.param == "pages":
        path = tmp_path / "p.tif"
        pages = [Image.fromarray(cell) for cell in stack]
        pages[0].save(path, save_all=True, append_images=pages[1:])
        return open_images(path, labels)
    if request.param == "mixed":
        return open_images([stack[0], *sorted(folder.rglob("*.png"))[1:]], labels)

    class Images:
        def __iter__(self):
            return iter(stack)

    given = {
        "list": list(stack),
        "array": stack,
        "stored": Stored(stack, (2,)),
        "iterable": Images(),
        "sequence": Loaded(stack),
    }
    return open_images(given[request.param], labels)


def test_parts_are_slices(source):
    whole = found(source)
    assert len(whole) == 7
    for start, stop in itertools.combinations(range(8), 2):
        part = source.part(start, stop)
        assert part.n_hint == stop - start
        assert part.labels == source.labels[start:stop]
        assert found(part) == whole[start:stop]
    assert found(source.part(1, 6).part(2, 4), 2) == whole[3:5]
    stricter = open_images(source.part(2, 4), min_size=20, labels=["x", "y"])
    assert [c.label for c in stricter] == ["x", "y"]
    for start, stop in ((2, 2), (-1, 2), (3, 1)):
        with pytest.raises(ValueError, match="a part must lie within"):
            source.part(start, stop)
    if source.n_hint:
        with pytest.raises(ValueError, match="within the 7 images, got 5 to 8"):
            source.part(5, 8)


def test_part_decodes_no_other_image(folder, monkeypatch):
    read, names = images_module.read_file, []

    def note(path, *which):
        names.append(path.name)
        return read(path, *which)

    monkeypatch.setattr(images_module, "read_file", note)
    assert len(list(open_images(folder).part(2, 4))) == 2
    assert names == ["4.png", "6.png"]


def test_parts_of_a_sequence_load_each_item_once(stack):
    given = Loaded(stack)
    for part in open_images(given).parts(2):
        assert given.loaded == list(range(len(given.loaded)))
        list(part)
    assert given.loaded == list(range(7))


def test_part_can_be_sent_to_another_process(folder):
    part = open_images(folder).part(2, 5)
    assert found(pickle.loads(pickle.dumps(part))) == found(part)


def test_iterator_has_no_parts(stack):
    with pytest.raises(TypeError, match="read only once"):
        open_images(iter(stack)).part(0, 2)


# Reading ahead


def background():
    return [t for t in threading.enumerate() if t.name.startswith("wbcprof-images")]


@pytest.fixture
def reads(monkeypatch):
    """Name of the thread that reads each file; the first of a few files takes the longest."""
    read, threads = images_module.read_file, []

    def slowly(path, *which):
        threads.append(threading.current_thread().name)
        time.sleep(0.004 * (5 - len(threads) % 5))
        return read(path, *which)

    monkeypatch.setattr(images_module, "read_file", slowly)
    return threads


def test_reading_ahead_changes_nothing(folder, reads):
    (folder / "basophil" / "2.png").write_bytes(b"")
    (folder / "monocyte" / "3.png").write_text("not an image")
    Image.linear_gradient("L").save(folder / "monocyte" / "9.png")
    results = []
    for n_threads in (1, 3):
        source = open_images(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append([found(source, n_threads), source.skipped])
        results[-1].append([(str(w.message), w.filename) for w in caught])
    assert results[0] == results[1]
    assert results[0][1] == [
        SkippedImage("basophil/2.png", "empty file"),
        SkippedImage("monocyte/3.png", "not a readable image"),
    ]
    main = threading.current_thread().name
    assert reads[:8] == [main] * 8 and main not in reads[8:]
    assert 1 < len(set(reads[8:])) <= 3
    assert background() == []


@pytest.mark.parametrize("kind", ["png", "bytes", "tif", "pages"])
def test_large_images_are_read_ahead_by_their_bytes(kind, tmp_path, monkeypatch):
    """A few kB may hold a gigabyte: of large images one is decoded beside that in use."""
    monkeypatch.setattr(images_module, "_AHEAD_BYTES", 3 * 64 * 64)
    monkeypatch.setattr(images_module, "_BLOCK_BYTES", 3 * 64 * 64)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    large = [Image.fromarray(image) for image in pixels]
    if kind == "pages":
        large[0].save(tmp_path / "all.tif", save_all=True, append_images=large[1:])
    else:
        for i, image in enumerate(large):
            image.save(tmp_path / f"{i}.{'png' if kind == 'bytes' else kind}")
    given = tmp_path
    if kind == "bytes":
        given = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    began, most = [], []
    load = images_module.ImageSource._load
    monkeypatch.setattr(
        images_module.ImageSource, "_load", lambda *a, **k: began.append(1) or load(*a, **k)
    )
    for done, cell in enumerate(open_images(given).read(4)):
        np.testing.assert_array_equal(cell.pixels, pixels[done])
        time.sleep(0.01)
        most.append(len(began) - done)
    assert max(most) == 2


def test_arrays_in_memory_start_no_threads(stack):
    passing = open_images(stack).read(4)
    next(passing)
    assert background() == []


@pytest.mark.parametrize("n_threads", [1, 2])
def test_pixels_are_changed_once_their_size_is_known(stack, n_threads):
    names = []

    def change(pixels):
        names.append(threading.current_thread().name)
        return pixels - pixels.min(), "no sky", np.float32([pixels.min()])

    source = open_images([stack[0], stack[0, :0], stack[1, :5], stack[2]], min_size=6)
    with (
        pytest.warns(ImageWarning, match="2 of 4 images were skipped; first: .* 0x30 px"),
        pytest.warns(ImageWarning, match="2 images were taken as expected .*: 2 no sky"),
    ):
        cells = list(source.read(n_threads, change))
    pixels = [cell.pixels for cell in cells]
    assert [cell.measures.tolist() for cell in cells] == [[stack[i].min()] for i in (0, 2)]
    np.testing.assert_array_equal(pixels, [image - image.min() for image in stack[[0, 2]]])
    assert source.converted == {"no sky": 2}
    assert len(names) == 2 and ("MainThread" in names) == (n_threads == 1)


def test_few_images_are_held(folder, reads):
    passing = open_images(sorted(folder.rglob("*.png")) * 10).read(2)
    for used in range(1, 20):
        next(passing)
        time.sleep(0.01)
        assert len(reads) <= used + 4
    passing.close()


def test_leaving_early_ends_the_threads(folder, reads):
    passing = open_images(folder).read(3)
    next(passing)
    assert background()
    passing.close()
    assert background() == []

    passing = open_images(folder).read(3)
    next(passing)
    with pytest.raises(KeyboardInterrupt):
        passing.throw(KeyboardInterrupt)
    assert background() == []

    (folder / "basophil" / "2.png").write_bytes(b"")
    passing = open_images(folder, on_error="raise").read(3)
    assert next(passing).image_id == "basophil/0.png"
    with pytest.raises(ValueError, match=r"Image 'basophil/2\.png': empty file"):
        next(passing)
    assert background() == []


def test_errors_wait_for_their_turn(folder, stack, monkeypatch):
    paths = sorted(folder.rglob("*.png"))
    passing = open_images(itertools.chain(paths[:3], ["nowhere.png"])).read(3)
    assert [next(passing).image_id for _ in range(3)] == list(map(str, paths[:3]))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        next(passing)

    passing = open_images(iter(paths), labels=["a", "b"]).read(3)
    assert [next(passing).label for _ in range(2)] == ["a", "b"]
    with pytest.raises(ValueError, match=r"labels \(2\) must match number of images \(7\)"):
        next(passing)

    monkeypatch.setattr(images_module, "read_file", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        list(open_images(folder).read(2))
    assert background() == []


def test_file_that_vanishes_is_skipped(folder):
    for given in (folder, sorted(folder.rglob("*.png")), f"{folder}/*/*.png"):
        source = open_images(given)
        passing = source.read(1)
        next(passing)
        path = folder / "monocyte" / "3.png"
        data = path.read_bytes()
        path.unlink()
        with pytest.warns(ImageWarning, match="1 of 7 .*No such file or directory"):
            assert len(list(passing)) == 5
        path.write_bytes(data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_child_reads_without_threads(folder, reads):
    source = open_images(folder)
    expected = found(source, 2)
    assert "MainThread" not in reads
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put((found(source, 2), reads[7:])))
    child.start()
    got, names = queue.get(timeout=30)
    child.join(timeout=30)
    assert got == expected and set(names) == {"MainThread"}


def test_profiling_and_learning_read_ahead(folder, reads, model):
    profiles = model.profile(folder, n_threads=2)
    assert len(reads) == 7 and "MainThread" not in reads
    model.profile(folder, n_threads=1)
    assert reads[7:] == ["MainThread"] * 7
    np.testing.assert_array_equal(profiles.values, model.profile(folder, n_threads=1).values)

    options = {"n_signatures": 8, "patch_size": 8, "n_patches": 200, "max_iter": 1}
    options["normalise"] = None  # these are noise
    learnt = [wbcprof.fit(folder, n_threads=n, **options) for n in (1, 2)]
    np.testing.assert_array_equal(*[each.layers[0].signatures for each in learnt])
    assert background() == []


# What fills one buffer again and again; masks


class FillsOneBuffer(Sequence):
    """A dataset that gives the same array, or image, filled anew."""

    def __init__(self, stack, kind):
        self.stack, self.buffer, self.kind = stack, np.empty_like(stack[0]), kind
        self.picture = Image.fromarray(self.buffer)

    def __len__(self):
        return len(self.stack)

    def __getitem__(self, index):
        if index >= len(self.stack):
            raise IndexError
        self.buffer[:] = self.stack[index]
        if self.kind == "picture":
            self.picture.paste(Image.fromarray(self.buffer))
            return self.picture
        return self.buffer


@pytest.mark.parametrize("kind", ["array", "picture"])
@pytest.mark.parametrize("once", [False, True])
def test_one_buffer_filled_again_and_again(stack, kind, once):
    given = FillsOneBuffer(stack, kind)
    got = list(open_images(iter(given) if once else given, min_size=1).read(3))
    np.testing.assert_array_equal([cell.pixels for cell in got], stack)


def test_masked_pixels_are_refused_and_masks_of_nothing_taken(stack):
    masked = np.ma.array(stack, mask=False)
    assert found(open_images(masked)) == found(open_images(stack))
    masked[1, 2, 3] = np.ma.masked
    for given in (masked, list(masked), masked[1]):
        with pytest.raises(ValueError, match=r"must not be masked, got 3 masked values"):
            open_images(given)
