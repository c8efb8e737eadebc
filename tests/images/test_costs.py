"""What a small file may cost."""

import io
import re
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from wbcprof.images import source
from wbcprof.images.decode import read_file, settle, to_rgb8
from wbcprof.images.depth import Deep, Depth, Unusable
from wbcprof.images.fields import open_fields
from wbcprof.images.source import File, NoUsableImage, open_images, with_pages
from wbcprof.smear.stain import StainNormaliser
from wbcprof.threads import Abandoned, go_on, work_until


@pytest.fixture
def pages(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 24, 24, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = range(40)
    images = [Image.fromarray(page) for page in pixels]
    images[0].save(tmp_path / "pages.tif", save_all=True, append_images=images[1:])
    return tmp_path / "pages.tif"


def test_pages_are_counted_once(pages, monkeypatch):
    """All were walked through for every sixteen: four thousand took 21 s."""
    given = open_images(pages)
    never = property(lambda image: pytest.fail("counted again"))
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", never)
    colours = [int(cell.pixels[0, 0, 0]) for cell in given.read(1)]
    assert colours == list(range(40))


def test_many_pages_are_not_more_blocks(pages, monkeypatch):
    monkeypatch.setattr(source, "count_pages", lambda *_: (10_000, 24 * 24))
    assert len(list(with_pages(File(pages, "pages.tif")).blocks())) <= 64


def test_a_jpeg_of_very_many_scans_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    assert isinstance(read_file(data)[0], tuple) and data.count(b"\xff\xda") > 1
    last = data[data.rindex(b"\xff\xda") : -2]
    start = time.perf_counter()
    (found,) = read_file(data[:-2] + last * 3000 + data[-2:])
    assert re.search(r"^30\d\d scans of 4096 pixels, expected 100 at most", str(found))
    assert time.perf_counter() - start < 1


def test_nobody_waits_for_images_that_nobody_takes(tmp_path):
    left = []

    def load(file):
        try:
            while file.name != "0":  # the second and later ones would take for ever
                go_on()
                time.sleep(0.001)
        except Abandoned:
            left.append(file.name)
            raise
        return [file.name]

    blocks = (File(tmp_path, str(n)) for n in range(9))
    images = source.in_order(blocks, load, 2, changed=False)
    assert next(images) == ("0", "0")
    images.close()
    assert left


@pytest.mark.parametrize("what", ["decode", "restain"])
def test_a_large_image_is_given_up_between_its_steps(tmp_path, monkeypatch, what):
    noise = np.random.default_rng(0).integers(0, 256, (256, 1024, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", compress_level=0)
    stain = StainNormaliser("background", background=(200, 200, 200))
    ended, steps = threading.Event(), []

    def step():
        steps.append(1)
        if len(steps) == 3:
            ended.set()
        go_on()

    monkeypatch.setattr(
        f"wbcprof.{'images.decode' if what == 'decode' else 'smear.stain'}.go_on", step
    )
    with (
        ThreadPoolExecutor(1, initializer=work_until, initargs=(ended,)) as pool,
        pytest.raises(Abandoned),
    ):
        if what == "decode":
            pool.submit(read_file, tmp_path / "a.png").result()
        else:
            pool.submit(stain.normalise, noise).result()
    assert len(steps) == 3


OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="P" DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="8" SizeC="3" SizeZ="1" '
    'SizeT="{times}"><TiffData IFD="0" PlaneCount="{planes}"/></Pixels></Image>{more}</OME>'
)
STEPS = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="modulo"><Value><Modulo>'
    '<ModuloAlongT Start="0" End="1e12"/></Modulo></Value></XMLAnnotation></StructuredAnnotations>'
)


@pytest.mark.parametrize(
    "claim", [{"planes": 10**9}, {"planes": "1_000_000_000"}, {"times": 10**9}, {"more": STEPS}]
)
def test_planes_that_metadata_claims_take_no_memory(tmp_path, claim):
    """16 bytes for each: a file of 1.6 kB took 16 GB, as its folder was listed."""
    tifffile = pytest.importorskip("tifffile")
    for name, claims in (("good", {}), ("bad", claim)):
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack",
            description=OME.format(**{"planes": 3, "times": 1, "more": ""} | claims), metadata=None,
        )  # fmt: skip
    good, bad = (read_file(tmp_path / f"{name}.ome.tif")[0] for name in ("good", "bad"))
    assert good[0].shape == (8, 8, 3)
    assert re.fullmatch(r"OME metadata of \d{10,} planes, expected 4194304 at most; .*", str(bad))
    file = File(tmp_path / "bad.ome.tif", "bad")
    assert with_pages(file) == file


PHOTOMETRIC = {1: "minisblack", 3: "rgb", 4: "rgb"}
DEEP = [
    ("f64.tif", np.float64, 4, 32), ("f32.tif", np.float32, 3, 12), ("rgb16.tif", np.uint16, 3, 6),
    ("rgba16.png", np.uint16, 4, 8), ("grey.tif", np.float64, 1, 8),
]  # fmt: skip


@pytest.mark.parametrize("name, dtype, channels, each", DEEP)
def test_the_limit_of_pixels_is_one_of_bytes(tmp_path, monkeypatch, name, dtype, channels, each):
    """A TIFF of 2.6 MB took more than 5 GB, and the run ended there."""
    if name.endswith("tif"):
        write = partial(pytest.importorskip("tifffile").imwrite, photometric=PHOTOMETRIC[channels])
    else:
        codecs = pytest.importorskip("imagecodecs")
        write = lambda path, pixels: path.write_bytes(codecs.png_encode(pixels))  # noqa: E731
    pixels = np.ones((40, 50, channels), dtype)
    write(tmp_path / name, pixels[..., 0] if channels == 1 else pixels)
    assert File(tmp_path / name, name).n_bytes == 2000 * max(each, 3)
    for limit, is_refused in ((250 * each, False), (250 * each - 1, True)):
        if limit < 2000:  # too many pixels for that
            continue
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        outcome = read_file(tmp_path / name)[0]
        assert isinstance(outcome, Unusable) == is_refused
        if is_refused:
            reason = f"{2000 * each} bytes once decoded, more than {8 * limit} "
            assert str(outcome).startswith(reason)


@pytest.mark.parametrize("dtype, channels", [(np.uint16, 4), (np.float32, 3), (np.uint8, 4)])
def test_what_is_made_on_the_way_takes_little_memory(dtype, channels):
    pixels = np.ones((3000, 2000, channels), dtype)
    tracemalloc.start()
    outcome = to_rgb8(pixels)
    if isinstance(outcome, Deep):
        outcome = settle(outcome, Depth())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2000 * 3000 * 8 + (100 << 20)


class Unread:
    """An array that is stored elsewhere."""

    dtype = np.dtype(np.uint8)

    def __init__(self, *shape):
        self.shape = shape

    def __array__(self, dtype=None, copy=None):
        pytest.fail("it was read")

    __getitem__ = __array__


@pytest.mark.parametrize("shape", [(40, 50, 3), (2, 40, 50, 3), (40, 50)])
def test_stored_arrays_have_the_limit_of_files(shape, monkeypatch):
    """A zarr array of a few bytes was filled to as many billions as it claimed to be."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1999)
    given = open_images(Unread(*shape), on_error="skip")
    with pytest.raises(NoUsableImage, match="more than 1999 pixels"):
        list(given.read(1))
    assert len(given.skipped) == given.n_hint == len(shape) // 4 + 1
    assert given.digests() == [None] * given.n_hint
    assert given.self_contained().ids() == given.ids()
    fields = open_fields(Unread(*shape))
    for some in (fields, fields.self_contained()):
        with pytest.raises(NoUsableImage, match="more than 1999 pixels"):
            list(some.read(1))


def test_stored_arrays_have_the_limit_of_bytes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    given = open_images(Unread(1, 40, 50, 9), on_error="skip")
    with pytest.raises(NoUsableImage, match="18000 bytes once decoded, more than 16000 "):
        list(given.read(1))


def test_arrays_in_memory_have_no_limit(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    (cell,) = open_images(pixels).read(1)
    np.testing.assert_array_equal(cell.pixels, pixels)
