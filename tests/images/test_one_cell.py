"""One cell in whatever file or object it comes: the same pixels, the same profile."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import wbcprof
from wbcprof.datasets import make_leukocytes
from wbcprof.images import ImageWarning, open_images, read_groups
from wbcprof.images.copies import number_files

tifffile = pytest.importorskip("tifffile")
imagecodecs = pytest.importorskip("imagecodecs")


@pytest.fixture(scope="module")
def cell():
    """A generated cell, not real data, of no more colours than a palette has, and not square."""
    pixels = make_leukocytes(1, size=96, types=["neutrophil"]).images[0][:, 4:]
    return np.asarray(Image.fromarray(pixels).quantize(200).convert("RGB"))


@pytest.fixture(scope="module")
def profiler(cell):
    cells = make_leukocytes(3, size=96, types=["neutrophil", "lymphocyte"])
    return wbcprof.fit(
        cells.images, n_signatures=12, patch_size=8, n_patches=800, max_iter=2,
        normalise="background", augment=0,
    )  # fmt: skip


def of_bits(pixels, bits, dtype=np.uint16):
    return np.rint(pixels.astype(float) * ((1 << bits) - 1) / 255).astype(dtype)


def png(samples, chunks=(), late=()):
    """A PNG of 8 or 16 bits with chunks of its own before and after the pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    kind = {2: 0, 3: 2}[samples.ndim] if samples.shape[-1] != 4 else 6
    depth = 8 * samples.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{samples.itemsize}").tobytes() for row in samples)
    size = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, kind, 0, 0, 0)
    parts = [(b"IHDR", size), *chunks, (b"IDAT", zlib.compress(rows)), *late, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def bmp32(pixels, fourth):
    """A BMP of 32 bits that says where red, green, blue and alpha lie."""
    height, width = pixels.shape[:2]
    body = np.dstack([pixels[::-1, :, ::-1], np.full((height, width), fourth, np.uint8)]).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(body), 0, 0, 0, 0)
    head += masks + b"\0" * (108 - len(head) - len(masks))
    offset = 14 + len(head)
    return struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset) + head + body


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def as_stored(pixels, orientation):
    """The samples of a file of this orientation that shows `pixels`."""
    undo = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1), 8: lambda p: np.rot90(p, -1),
    }  # fmt: skip
    return np.ascontiguousarray(undo[orientation](pixels))


def exif_of(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def read(given, **options):
    """The one cell of what is given, and what was told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (found,) = open_images(given, **options)
    assert all(issubclass(one.category, ImageWarning) for one in caught), caught
    return found.pixels, " ".join(str(one.message) for one in caught)


def tiff_of(path, data, **options):
    tifffile.imwrite(path, data, **options)
    return path


def planes(pixels):
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def in_zarr(path, pixels):
    zarr = pytest.importorskip("zarr")
    zarr.open_array(path, mode="w", shape=pixels.shape, dtype=pixels.dtype)[:] = pixels
    return path


def in_npy(path, pixels):
    np.save(path, pixels)
    return path


def in_file(path, data):
    path.write_bytes(data)
    return path


def with_palette(path, cell):
    Image.fromarray(cell).quantize(256).save(path)
    return path


def with_cmyk(path, cell):
    ink = np.dstack([255 - cell, np.zeros_like(cell[..., 0])])
    Image.fromarray(ink, "CMYK").save(path)
    return path


def by_page(path, pixels, **options):
    return tiff_of(path, planes(pixels), photometric="minisblack", **options)


WAYS = {
    **{f"array of {b} bits": (lambda home, c, b=b: of_bits(c, b)) for b in (10, 12, 14, 16)},
    **{
        f"{np.dtype(dtype)} of 8 bits": (lambda home, c, d=dtype: c.astype(d))
        for dtype in (np.uint16, np.int16, np.int32, np.uint32, np.int64, ">u2")
    },
    "uint32 of 16 bits": lambda home, c: of_bits(c, 16, np.uint32),
    "uint32 of 32 bits": lambda home, c: of_bits(c, 32, np.uint32),
    "int16 of 15 bits": lambda home, c: of_bits(c, 15, np.int16),
    "int32 of 12 bits": lambda home, c: of_bits(c, 12, np.int32),
    **{
        f"{np.dtype(dtype)}": (lambda home, c, d=dtype: (c / 255).astype(d))
        for dtype in (np.float16, np.float32, np.float64)
    },
    **{
        f"TIFF of {bits} bits": (
            lambda home, c, b=bits: tiff_of(home / "c.tif", of_bits(c, b), photometric="rgb")
        )
        for bits in (10, 12, 14, 16)
    },
    **{
        f"TIFF of {np.dtype(dtype)}": (
            lambda home, c, d=dtype: tiff_of(home / "c.tif", (c / 255).astype(d), photometric="rgb")
        )
        for dtype in (np.float16, np.float32, np.float64)
    },
    **{
        f"TIFF of {np.dtype(dtype)}": (
            lambda home, c, d=dtype: tiff_of(home / "c.tif", of_bits(c, 12, d), photometric="rgb")
        )
        for dtype in (np.int16, np.int32, np.uint32)
    },
    "PNG of 12 bits": lambda home, c: in_file(home / "c.png", png(of_bits(c, 12))),
    "PNG of 12 bits, stated": lambda home, c: in_file(
        home / "c.png", png(of_bits(c, 12), [(b"sBIT", b"\x0c" * 3)])
    ),
    "PNG of 12 bits spread over 16": lambda home, c: in_file(
        home / "c.png", png(of_bits(c, 16) >> 4 << 4, [(b"sBIT", b"\x0c" * 3)])
    ),
    "PNG": lambda home, c: in_file(home / "c.png", png(c)),
    "palette": lambda home, c: with_palette(home / "c.png", c),
    "palette in a TIFF": lambda home, c: with_palette(home / "c.tif", c),
    "GIF": lambda home, c: with_palette(home / "c.gif", c),
    "CMYK": lambda home, c: with_cmyk(home / "c.tif", c),
    "planar": lambda home, c: tiff_of(
        home / "c.tif", planes(c), photometric="rgb", planarconfig="separate"
    ),
    "planar of 16 bits": lambda home, c: tiff_of(
        home / "c.tif", planes(of_bits(c, 16)), photometric="rgb", planarconfig="separate"
    ),
    "tiled": lambda home, c: tiff_of(home / "c.tif", c, photometric="rgb", tile=(32, 32)),
    "tiled of 12 bits": lambda home, c: tiff_of(
        home / "c.tif", of_bits(c, 12), photometric="rgb", tile=(32, 32), compression="zlib"
    ),
    "big TIFF": lambda home, c: tiff_of(home / "c.tf8", c, photometric="rgb", bigtiff=True),
    "JPEG 2000 in a TIFF": lambda home, c: tiff_of(
        home / "c.tif", c, photometric="rgb", compression=34712, tile=(96, 96)
    ),
    "OME": lambda home, c: tiff_of(home / "c.ome.tif", c, photometric="rgb"),
    "OME by page": lambda home, c: by_page(home / "c.ome.tif", c, metadata={"axes": "CYX"}),
    "OME by page of 12 bits": lambda home, c: by_page(
        home / "c.ome.tif", of_bits(c, 12), metadata={"axes": "CYX", "SignificantBits": 12}
    ),
    "OME by page, named from blue to red": lambda home, c: by_page(
        home / "c.ome.tif",
        c[..., ::-1],
        metadata={"axes": "CYX", "Channel": {"Name": ["Blue", "Green", "Red"]}},
    ),
    "axes of tifffile": lambda home, c: by_page(home / "c.tif", c, metadata={"axes": "CYX"}),
    "ImageJ": lambda home, c: by_page(home / "c.tif", c, imagej=True, metadata={"axes": "CYX"}),
    "ImageJ of 12 bits, range shown": lambda home, c: by_page(
        home / "c.tif", of_bits(c, 12), imagej=True, metadata={"axes": "CYX", "max": 4095.0}
    ),
    "ImageJ, coloured from blue to red": lambda home, c: by_page(
        home / "c.tif",
        c[..., ::-1],
        imagej=True,
        metadata={"axes": "CYX", "LUTs": [np.eye(3, dtype=np.uint8)[k][:, None]
                                          * np.arange(256, dtype=np.uint8) for k in (2, 1, 0)]},
    ),
    "ImageJ of one page": lambda home, c: by_page(
        home / "c.tif", c, imagej=True, metadata={"axes": "CYX"}, truncate=True
    ),
    "ImageJ hyperstack of one page": lambda home, c: tiff_of(
        home / "c.tif",
        np.stack([np.stack([planes(c) * 0, planes(c), planes(c) // 2])] * 2),
        imagej=True,
        metadata={"axes": "TZCYX"},
        truncate=True,
    ),
    "OME of depths and times": lambda home, c: tiff_of(
        home / "c.ome.tif",
        np.stack([np.stack([c * 0, c * (t == 0), c // 2]) for t in range(2)]),
        photometric="rgb",
        metadata={"axes": "TZYXS"},
    ),
    "ImageJ hyperstack": lambda home, c: tiff_of(
        home / "c.tif",
        np.stack([np.stack([planes(c) * 0, planes(c), planes(c) // 2])] * 2),
        imagej=True,
        metadata={"axes": "TZCYX"},
    ),
    "thumbnail first": lambda home, c: thumbnail_first(home / "c.tif", c),
    **{
        f"{kind}, orientation {turn}": (
            lambda home, c, k=kind, t=turn: ORIENTED[k](home, as_stored(c, t), t)
        )
        for kind in ("png", "late png", "webp", "tiff", "grey tiff", "tiff of 16 bits",
                     "png of 16 bits", "tiled tiff of floats", "deflated tiff")
        for turn in range(1, 9)
        if kind in ("png", "tiff") or turn in (3, 6, 7)
    },
    "BMP": lambda home, c: in_file(home / "c.bmp", encoded(c, "BMP")),
    "DIB": lambda home, c: in_file(home / "c.dib", encoded(c, "DIB")),
    "BMP of 32 bits": lambda home, c: in_file(home / "c.bmp", bmp32(c, 255)),
    "BMP, fourth byte 0": lambda home, c: in_file(home / "c.bmp", bmp32(c, 0)),
    "PNG, fourth byte 0": lambda home, c: in_file(
        home / "c.png", encoded(np.dstack([c, c[..., 0] * 0]), "PNG")
    ),
    "PNG of 16 bits, fourth value 0": lambda home, c: in_file(
        home / "c.png", png(np.dstack([of_bits(c, 16), np.zeros(c.shape[:2], np.uint16)]))
    ),
    "TIFF of 12 bits and alpha": lambda home, c: tiff_of(
        home / "c.tif",
        np.dstack([of_bits(c, 12), np.full(c.shape[:2], 4095, np.uint16)]),
        photometric="rgb",
        extrasamples=["unassalpha"],
    ),
    "array, alpha 0": lambda home, c: np.dstack([c, c[..., 0] * 0]),
    "float array, alpha 0": lambda home, c: np.dstack([c / 255, c[..., 0] * 0.0]),
    "WebP": lambda home, c: in_file(home / "c.webp", encoded(c, "WEBP", lossless=True, exact=True)),
    "JPEG 2000": lambda home, c: in_file(home / "c.jp2", encoded(c, "JPEG2000")),
    "JPEG 2000 of 12 bits": lambda home, c: in_file(
        home / "c.jp2",
        imagecodecs.jpeg2k_encode(
            of_bits(c, 12), level=0, codecformat="JP2", bitspersample=12, reversible=True
        ),
    ),
    "PPM": lambda home, c: in_file(home / "c.ppm", encoded(c, "PPM")),
    "PPM of 12 bits in 16": lambda home, c: in_file(
        home / "c.ppm",
        b"P6\n%d %d\n65535\n" % c.shape[1::-1] + of_bits(c, 12).astype(">u2").tobytes(),
    ),
    "zarr": lambda home, c: in_zarr(home / "c.zarr", c),
    "zarr of 12 bits": lambda home, c: in_zarr(home / "c.zarr", of_bits(c, 12)),
    "npy": lambda home, c: in_npy(home / "c.npy", c),
    "npy in a list": lambda home, c: [in_npy(home / "c.npy", c)],
    "Pillow": lambda home, c: Image.fromarray(c),
    "Pillow with a palette": lambda home, c: Image.fromarray(c).quantize(256),
    "Pillow, turned": lambda home, c: Image.open(
        io.BytesIO(encoded(as_stored(c, 6), "PNG", exif=exif_of(6)))
    ),
    "Pillow in a list": lambda home, c: [Image.fromarray(c)],
    "bytes": lambda home, c: encoded(c, "PNG"),
    "bytearray in a list": lambda home, c: [bytearray(encoded(c, "PNG"))],
    "bytes of a TIFF of 12 bits": lambda home, c: tiff_of(
        home / "c.tif", of_bits(c, 12), photometric="rgb"
    ).read_bytes(),
    "bytes of an OME-TIFF by page": lambda home, c: by_page(
        home / "c.ome.tif", c, metadata={"axes": "CYX"}
    ).read_bytes(),
    "file": lambda home, c: io.BytesIO(encoded(c, "PNG")),
    "pair": lambda home, c: [(c, "neutrophil")],
}  # fmt: skip


def thumbnail_first(path, cell):
    with tifffile.TiffWriter(path) as file:
        file.write(cell[::4, ::4].copy(), photometric="rgb", subfiletype=1, metadata=None)
        file.write(cell, photometric="rgb", metadata=None)
    return path


def turned_tiff(path, pixels, turn, **options):
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tags = [(274, "H", 1, turn, True)]
    return tiff_of(path, pixels, photometric=photometric, extratags=tags, **options)


ORIENTED = {
    "png": lambda home, p, t: in_file(home / "c.png", encoded(p, "PNG", exif=exif_of(t))),
    "late png": lambda home, p, t: in_file(
        home / "c.png", png(p, late=[(b"eXIf", exif_of(t).tobytes()[6:])])
    ),
    "png of 16 bits": lambda home, p, t: in_file(
        home / "c.png", png(of_bits(p, 16), [(b"eXIf", exif_of(t).tobytes()[6:])])
    ),
    "webp": lambda home, p, t: in_file(
        home / "c.webp", encoded(p, "WEBP", lossless=True, exif=exif_of(t))
    ),
    "tiff": lambda home, p, t: turned_tiff(home / "c.tif", p, t),
    "deflated tiff": lambda home, p, t: turned_tiff(home / "c.tif", p, t, compression="zlib"),
    "grey tiff": lambda home, p, t: turned_tiff(home / "c.tif", p[..., 1].copy(), t),
    "tiff of 16 bits": lambda home, p, t: turned_tiff(home / "c.tif", of_bits(p, 16), t),
    "tiled tiff of floats": lambda home, p, t: turned_tiff(
        home / "c.tif", (p / 255).astype(np.float32), t, tile=(32, 32)
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_the_same_cell(tmp_path, cell, way):
    """To the bit: what 8 bits hold is kept by every other of these ways."""
    expected = np.repeat(cell[..., 1:2], 3, axis=2) if way.startswith("grey") else cell
    given = WAYS[way](tmp_path, cell)
    pixels, told = read(given)
    within = 1 if "spread" in way else 0  # of 16 bits the last four are left out
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= within
    if any(word in way for word in ("bits", "float", "palette", "fourth", "depths")):
        assert "1 image was converted" in told or way in ("BMP of 32 bits",)
    if not isinstance(given, str | bytes | io.IOBase | list) and hasattr(given, "suffix"):
        shapes = open_images([given]).shapes() if given.is_file() and given.suffix != ".npy" else []
        assert shapes in ([], [expected.shape[:2]])
        if given.is_file() and given.suffix != ".npy":
            np.testing.assert_array_equal(read(tmp_path)[0], pixels)  # the folder finds it
            np.testing.assert_array_equal(read([given])[0], pixels)


CLOSE = [
    *(f"array of {bits} bits" for bits in (10, 12, 14, 16)), "PNG of 12 bits", "float16",
    "TIFF of float64", "CMYK", "palette", "OME by page of 12 bits", "ImageJ", "BMP, fourth byte 0",
    "tiff, orientation 6", "JPEG 2000 of 12 bits", "npy", "Pillow, turned", "bytes",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::wbcprof.images.ImageWarning")
def test_one_profile(tmp_path, cell, profiler):
    """Equal to the bit, since pixels are; and of a camera's own depth, within what rounding to 8
    bits does: each value lies within half a level of the true one, so any two ways are within one
    level, and profiles as far apart as those of images that differ by one level everywhere."""
    expected = profiler.profile([cell]).values
    for way in CLOSE:
        home = tmp_path / way
        home.mkdir()
        np.testing.assert_array_equal(profiler.profile(WAYS[way](home, cell)).values, expected, way)

    y, x = np.mgrid[: cell.shape[0], : cell.shape[1]]
    seen = np.clip(cell / 255 + 0.002 * np.sin(x / 7 + y / 5)[..., None], 0, 1)  # between levels
    rounded = [np.rint(seen * 255).astype(np.uint8)]
    rng = np.random.default_rng(3)
    one_level = rounded[0] + rng.choice([-1, 1], cell.shape)
    profiles = profiler.profile([*rounded, np.clip(one_level, 0, 255).astype(np.uint8)]).values
    most = np.abs(profiles[0] - profiles[1]).max()
    for given in (*(np.rint(seen * ((1 << b) - 1)).astype(np.uint16) for b in (10, 12, 14, 16)),
                  seen, seen.astype(np.float32), seen.astype(np.float16)):  # fmt: skip
        difference = np.abs(profiler.profile(given).values - profiles[0]).max()
        assert difference <= most, given.dtype


def test_torch(cell):
    torch = pytest.importorskip("torch")
    first = torch.from_numpy(planes(cell))
    for given in (torch.from_numpy(cell.copy()), first, first / 255, [first], first[None]):
        np.testing.assert_array_equal(read(given)[0], cell)
    dataset = torch.utils.data.TensorDataset(first[None], torch.tensor([3]))
    source = open_images(dataset)
    assert source.labels == ["3"]
    np.testing.assert_array_equal(next(iter(source)).pixels, cell)


# Range


def told(source, n_threads=1):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = [one.pixels for one in source.read(n_threads)]
    return pixels, [str(one.message) for one in caught]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("kind", ["tif", "png", "arrays", "stack", "items"])
def test_one_range_for_all_images_of_a_set(tmp_path, cell, kind, n_threads):
    """Of a 12-bit camera: a dark cell does not become light because it has few bits."""
    images = [of_bits(cell // k, 12) for k in (8, 1, 2)]
    for k, image in enumerate(images):
        if kind == "tif":
            tifffile.imwrite(tmp_path / f"{k}.tif", image, photometric="rgb")
        elif kind == "png":
            (tmp_path / f"{k}.png").write_bytes(png(image))
    given = {"arrays": images, "stack": np.stack(images), "items": Items(images)}
    source = open_images(given.get(kind, tmp_path))
    pixels, texts = told(source, n_threads)
    for found, k in zip(pixels, (8, 1, 2), strict=True):
        np.testing.assert_array_equal(found, cell // k)
    assert texts == [
        "3 images were converted to 8-bit RGB: 3 12-bit RGB (white is 4095 by the largest value)"
    ]
    np.testing.assert_array_equal(told(source.part(0, 1))[0][0], cell // 8)
    if kind != "items":  # which are not listed
        np.testing.assert_array_equal(next(source.sample(1)), cell // 8)


def test_an_iterator_has_the_range_seen_so_far(cell):
    images = [of_bits(cell, bits) for bits in (10, 12, 10)]
    for n_threads in (1, 3):
        source = open_images(iter(images))
        pixels, texts = told(source, n_threads)
        for found, expected in zip(pixels, (cell, cell, of_bits(cell, 10)), strict=True):
            scaled = expected if expected.dtype == np.uint8 else np.rint(expected * (255 / 4095))
            np.testing.assert_array_equal(found, scaled)
        assert "2 12-bit RGB (white is 4095 by the largest value so far)" in texts[0]


def test_parts_that_travel_keep_the_range_of_the_set(tmp_path, cell):
    import pickle

    source = open_images([of_bits(cell // 8, 12), of_bits(cell, 12)])
    part = pickle.loads(pickle.dumps(source.part(0, 1).self_contained()))
    np.testing.assert_array_equal(told(part)[0][0], cell // 8)


def test_full_range_is_not_looked_up(cell, monkeypatch):
    from wbcprof.images import source as module

    reads, images = [], [of_bits(cell, 16), of_bits(cell // 9, 16)]
    read_array = module.read_array
    monkeypatch.setattr(module, "read_array", lambda a: reads.append(1) or read_array(a))
    pixels, texts = told(open_images(images))
    np.testing.assert_array_equal(pixels[1], cell // 9)
    assert len(reads) == 3  # of the second, which is dark, the first tells
    assert texts == ["2 images were converted to 8-bit RGB: 2 16-bit RGB"]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_every_depth_are_read_and_said(cell, bits, dtype):
    white = (1 << bits) - 1
    if dtype == np.float16 and bits == 16:
        pytest.skip("which are infinite")
    images = [(cell * (white / 255) / k).astype(dtype) for k in (8, 1)]  # dark ones too
    pixels, texts = told(open_images(images))
    for found, k in zip(pixels, (8, 1), strict=True):
        np.testing.assert_allclose(found, cell / k, atol=0.6)
    assert texts == [
        f"2 images were converted to 8-bit RGB: 2 float RGB (white is {white} by the largest value)"
    ]
    over = images[1].astype(np.float32)
    over[0, 0] = 1.015 * white  # as resampling leaves it
    np.testing.assert_allclose(told(open_images(over))[0][0][1:], cell[1:], atol=0.6)
    alpha = np.dstack([images[1], np.full(cell.shape[:2], white, dtype)])
    np.testing.assert_allclose(told(open_images(alpha))[0][0], cell, atol=0.6)


def test_floats_of_no_range_are_refused(cell):
    unit = cell / cell.max()
    for image, n in ((unit * 1.5, "1.5"), (unit * 76500, "76500"), (unit - 0.1, "0.9")):
        with pytest.raises(ValueError, match=f"or be those of 8 to 16 bits, got .* to {n}"):
            list(open_images(image))


def test_a_model_reads_single_images_by_the_range_of_those_learnt_from(cell, tmp_path):
    small = {"n_signatures": 4, "patch_size": 8, "n_patches": 300, "max_iter": 1, "augment": 0}
    cells = make_leukocytes(2, size=48, types=["neutrophil", "lymphocyte"]).images
    for make, kind in ((lambda c: of_bits(c, 12), "integer"), (lambda c: c * 16.0, "float")):
        model = wbcprof.fit([make(c) for c in cells], normalise=None, **small)
        assert model.depths == {kind: 12}
        model.save(tmp_path / "m")
        loaded = wbcprof.load(tmp_path / "m")
        assert loaded.depths == model.depths and loaded.fingerprint == model.fingerprint
        dark = make(cell // 8)
        with pytest.warns(ImageWarning, match="white is 4095 as of the images learnt from"):
            found = loaded.profile([dark]).values
        with pytest.warns(ImageWarning, match="white is 4095 by the largest value"):
            together = model.profile([dark, make(cell)]).values
        np.testing.assert_array_equal(found[0], together[0])
        np.testing.assert_allclose(found, model.profile([cell // 8]).values, atol=0.02)
        with pytest.warns(ImageWarning, match="as of the images learnt from"):
            further = wbcprof.fit([dark], model=model)
        assert further.depths == {kind: 12}
    assert wbcprof.fit(cells, normalise=None, **small).depths is None


STATED = {
    "SMaxSampleValue": {"extratags": [(341, "H", 3, (4095,) * 3, True)]},
    "MaxSampleValue": {"extratags": [(281, "H", 3, (4095,) * 3, True)]},
    "largest value": {"extratags": [(281, "H", 3, (3000,) * 3, True)]},
    "BitDepth": {"extratags": [(51123, "s", 0, '{"BitDepth": 12}', True)]},
    "SignificantBits": {"ome": True, "metadata": {"SignificantBits": 12}},
}


@pytest.mark.parametrize("how", STATED)
def test_range_that_a_file_states(tmp_path, cell, how):
    """Each by itself, however dark it is."""
    tifffile.imwrite(tmp_path / "a.tif", of_bits(cell // 9, 12), photometric="rgb", **STATED[how])
    pixels, text = read(tmp_path)
    np.testing.assert_array_equal(pixels, cell // 9)
    assert ("by the largest value" in text) == (how == "largest value")


def test_statement_that_is_not_so(tmp_path, cell):
    """Less than is there is no range, nor is what every file of 16 bits says."""
    for most, bits in ((4095, 16), (65535, 12)):
        tags = [(281, "H", 3, (most,) * 3, True)]
        data = of_bits(cell, bits)
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", extratags=tags)
        np.testing.assert_array_equal(read(tmp_path)[0], cell)


def test_grey_of_12_bits(tmp_path, cell):
    grey = cell[..., 1]
    three = np.repeat(grey[..., None], 3, 2)
    Image.fromarray(of_bits(grey, 12)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", of_bits(255 - grey, 12), photometric="miniswhite",
                     extratags=[(281, "H", 1, 4095, True)])  # fmt: skip
    (tmp_path / "c.pgm").write_bytes(
        b"P5\n%d %d\n65535\n" % grey.shape[::-1] + of_bits(grey, 12).astype(">u2").tobytes()
    )
    for name in ("a.png", "b.tif", "c.pgm"):
        np.testing.assert_array_equal(read(tmp_path / name)[0], three)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_values_below_zero_have_a_reason(tmp_path, cell, dtype):
    tifffile.imwrite(tmp_path / "a.tif", cell.astype(dtype) - 255, photometric="rgb")
    for given in (tmp_path, cell.astype(dtype) - 255):
        with pytest.raises(ValueError, match=r"integers must not be below 0, got -\d"):
            list(open_images(given))


# Pages


@pytest.mark.parametrize("n", [2, 4, 5])
@pytest.mark.parametrize("how", ["OME", "ImageJ", "samples"])
def test_other_numbers_of_channels_have_a_reason(tmp_path, cell, n, how):
    data = np.stack([cell[..., k % 3] for k in range(n)], -1 if how == "samples" else 0)
    options = {
        "OME": {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"},
        "ImageJ": {"imagej": True, "metadata": {"axes": "CYX"}},
        "samples": {"photometric": "minisblack", "planarconfig": "contig"},
    }[how]
    if how == "samples" and n == 4:
        data, options = np.dstack([data, data[..., :1]]), options | {"photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", data, **options)
    with pytest.raises(ValueError, match=rf"{data.shape[2 if how == 'samples' else 0]} channels"):
        list(open_images(tmp_path))


def test_colours_among_other_channels(tmp_path, cell):
    data = planes(np.dstack([cell[..., 0] // 2, cell]))
    names = {"Name": ["DAPI", "Red", "Green", "Blue"]}
    tifffile.imwrite(tmp_path / "a.ome.tif", data, photometric="minisblack",
                     metadata={"axes": "CYX", "Channel": names})  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path)[0], cell)


def test_depths_and_times_are_one_image_and_said_to_be(tmp_path, cell):
    WAYS["OME of depths and times"](tmp_path, cell)
    _, text = read(tmp_path)
    assert "first of several times" in text and "middle of several depths" in text
    assert "planes=True, --planes take all" in text


@pytest.mark.parametrize("kind", ["OME of depths and times", "ImageJ hyperstack",
                                  "ImageJ hyperstack of one page"])  # fmt: skip
def test_depths_and_times_are_taken_apart_when_asked_for(tmp_path, cell, kind):
    path = WAYS[kind](tmp_path, cell)
    source = open_images(tmp_path, planes=True)
    assert source.ids() == [f"{path.name}#{k:04d}" for k in range(6)]
    with pytest.warns(ImageWarning) as caught:
        found = {one.image_id[-1]: one.pixels for one in source}
    said = " ".join(str(one.message) for one in caught)
    assert "several" not in said and "of one colour" in said  # the first depth is black
    assert set(found) == ({"1", "2", "5"} if "OME" in kind else {"1", "2", "4", "5"})
    np.testing.assert_array_equal(found["1"], cell)
    np.testing.assert_array_equal(found["5"], cell // 2)
    alone = open_images(path, planes=True)
    assert len(alone.ids()) == 6 and alone.part(1, 2).ids()[0].endswith("#0001")
    assert len(set(number_files(source.ids()))) == 1  # on one side of every split
    table = tmp_path / "patients.csv"
    table.write_text(f"image,patient\n{path.name},A\n")
    assert read_groups(table, source) == dict.fromkeys(source.ids(), "A")
    table.write_text(f"image,patient\n{path.name},A\n{path.name}#0002,B\n")
    assert read_groups(table, source) == dict(zip(source.ids(), "AABAAA", strict=True))


def test_planes_of_what_has_none_are_refused(tmp_path, cell):
    for given in (cell, [tmp_path / "a.tif"], tmp_path / "t.csv", open_images(cell)):
        with pytest.raises(ValueError, match="planes are taken apart of TIFFs in a folder"):
            open_images(given, planes=True)


def test_positions_are_images_of_one_file(tmp_path, cell):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for k in (1, 2, 3):
            file.write(planes(cell // k), photometric="minisblack", metadata={"axes": "CYX"})
    source = open_images(tmp_path)
    assert source.ids() == [f"a.ome.tif#{k:04d}" for k in range(3)]
    np.testing.assert_array_equal([c.pixels for c in source], [cell, cell // 2, cell // 3])


def test_pages_of_one_file_are_on_one_side(tmp_path, monkeypatch):
    from wbcprof.analysis import evaluation

    cells = make_leukocytes(12, size=48, types=["neutrophil", "lymphocyte"])
    for name in ("neutrophil", "lymphocyte"):
        of_type = cells.images[np.array(cells.labels) == name]
        (tmp_path / name).mkdir()
        for k in range(4):
            tifffile.imwrite(tmp_path / name / f"{k}.tif", of_type[3 * k : 3 * k + 3],
                             photometric="rgb")  # fmt: skip
    seen = []
    halves = evaluation.half_half_splits
    monkeypatch.setattr(
        evaluation, "half_half_splits", lambda *a: seen.append(halves(*a)) or seen[-1]
    )
    small = {"n_signatures": 8, "patch_size": 8, "n_patches": 400, "max_iter": 1, "augment": 0}
    result = wbcprof.evaluate(tmp_path, repeats=3, baseline=False, **small)
    assert result.n_images == 24 and result.n_groups is None
    for train, test, _ in seen[0]:
        assert not set(train // 3) & set(test // 3)


def test_pages_are_not_images_where_tifffile_is_missing(tmp_path, cell, monkeypatch):
    import sys

    by_page(tmp_path / "a.ome.tif", cell, metadata={"axes": "CYX"})
    turned_tiff(tmp_path / "b.tif", cell, 6)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    source = open_images(tmp_path)
    with pytest.raises(ValueError, match="among the 2 given"):
        list(source)
    assert [one.reason for one in source.skipped] == [
        "TIFF of several channels, depths or times needs the package tifffile",
        "turned TIFF needs the package tifffile",
    ]


def test_large_images_follow_the_same_rules(tmp_path, cell):
    """Fields that are read in tiles: turned, of 12 bits, by page, with a thumbnail."""
    large = np.tile(cell, (3, 4, 1))
    turned_tiff(tmp_path / "a.tif", as_stored(large, 6), 6)
    tifffile.imwrite(tmp_path / "b.tif", of_bits(large, 12), photometric="rgb")
    by_page(tmp_path / "c.ome.tif", large, metadata={"axes": "CYX"})
    thumbnail_first(tmp_path / "d.tif", large)
    in_file(tmp_path / "e.png", png(of_bits(large, 12)))
    source = wbcprof.images.open_fields(tmp_path, tile=128, margin=16)
    assert set(source.whole_images().values()) == {large.shape[:2]} and source.n_hint == 5 * 9
    with pytest.warns(ImageWarning, match="12-bit RGB"):
        for field in source:
            height, width = field.pixels.shape[:2]
            there = large[field.top : field.top + height, field.left : field.left + width]
            np.testing.assert_array_equal(field.pixels, there, field.field_id)
    given = wbcprof.images.open_fields(iter([of_bits(large, 12), cell]), tile=128, margin=16)
    with pytest.warns(ImageWarning, match="so far"):
        assert len(list(given.read(2))) == 10


# What is not seen, not whole, or not what it seems


def test_alpha_of_nothing_is_counted(cell):
    _, text = read(np.dstack([cell, cell[..., 0] * 0]))
    assert text == ("1 image was converted to 8-bit RGB: 1 RGBA whose alpha shows nothing, ignored")


@pytest.mark.parametrize("noise", [0, 1])
def test_images_of_one_colour_are_skipped(cell, noise):
    flat = np.full((60, 60, 3), 200, np.uint8)
    flat += np.random.default_rng(1).integers(0, noise + 1, flat.shape, dtype=np.uint8)
    flat[5, 5] = 0  # a dead pixel
    source = open_images([flat, cell])
    with pytest.warns(ImageWarning, match="1 of 2 images was skipped; first: image_000000: of one"):
        assert len(list(source)) == 1
    assert source.skipped[0].reason.startswith(f"of one colour: {noise} of 255 grey levels")


def test_faint_images_are_kept(cell):
    faint = (200 + cell // 26).astype(np.uint8)  # of ten grey levels
    small = np.full((70, 70, 3), 250, np.uint8)
    small[30:40, 30:40] = 180  # of two hundredths of the pixels
    assert len(list(open_images([faint, small]))) == 2


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_without_its_end_mark(tmp_path, cell, options, missing):
    data = encoded(cell, "JPEG", quality=90, **options)
    whole = np.asarray(Image.open(io.BytesIO(data)))
    for name, cut in (("a.jpg", missing), ("b.jpg", 40)):
        (tmp_path / name).write_bytes(data[:-cut])
    source = open_images(tmp_path)
    (found,), texts = told(source)
    np.testing.assert_array_equal(found, whole)
    assert "1 of 2 images was skipped; first: b.jpg: truncated" in texts
    if "subsampling" not in options:  # else Pillow finds nothing missing
        assert "1 image was converted to 8-bit RGB: 1 JPEG without its end mark" in texts


@pytest.mark.parametrize("turn", range(1, 9))
def test_jpeg_is_turned_as_pillow_turns_it(tmp_path, cell, turn):
    data = encoded(cell, "JPEG", exif=exif_of(turn))
    (tmp_path / "a.jpg").write_bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    source = open_images(tmp_path)
    (found,) = source
    np.testing.assert_array_equal(found.pixels, expected)
    assert source.shapes() == [expected.shape[:2]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_passed_over(tmp_path, cell):
    (tmp_path / "a.jpg").write_bytes(encoded(cell, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))
    (found,) = open_images(tmp_path)
    assert found.pixels.shape == cell.shape


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jp2", ".TIF", ".Tiff", ".JPeg", ".dib"])
def test_suffixes(tmp_path, cell, suffix):
    kind = {".jp2": "JPEG2000", ".tif": "TIFF", ".tiff": "TIFF", ".dib": "DIB"}
    data = encoded(cell, kind.get(suffix.lower(), "JPEG"))
    (tmp_path / f"a{suffix}").write_bytes(data)
    assert open_images(tmp_path).ids() == [f"a{suffix}"]
    assert read(tmp_path)[0].shape == cell.shape


# Objects


class Items:
    """A dataset: a length, and items by their number."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def test_datasets_and_pairs(tmp_path, cell):
    path = in_file(tmp_path / "a.png", encoded(cell, "PNG"))
    pairs = [(cell, "a"), (Image.fromarray(cell), None), (path, 3), (str(path), np.int64(4))]
    for given in (pairs, tuple(pairs), [list(pair) for pair in pairs], Items(pairs)):
        source = open_images(given)
        assert source.labels == ["a", None, "3", "4"]
        for found in source:
            np.testing.assert_array_equal(found.pixels, cell)
    assert open_images(Items([cell, cell])).labels is None
    assert open_images(pairs, labels=list("wxyz")).labels == list("wxyz")
    named = Items([(cell, 1), (cell, 0)])
    named.targets, named.classes = [1, 0], ["lymphocyte", "neutrophil"]
    assert open_images(named).labels == ["neutrophil", "lymphocyte"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda c: iter([(c, "a")]), "come as a list"),
        (lambda c: [(c, "a"), c], "item 0 is an .image, label. pair, but item 1 is a ndarray"),
        (lambda c: [{"image": c}], "labels apart"),
        (lambda c: iter([[c[None], [0]]]), "give the dataset"),
        (lambda c: b"cells/a.png", "a path must be str"),
        (lambda c: io.StringIO("text"), r"open\(path, 'rb'\)"),
    ],
)
def test_other_objects_say_how(cell, given, message):
    with pytest.raises(TypeError, match=message):
        list(open_images(given(cell)))


def test_bytes_that_are_no_image_are_skipped(cell):
    source = open_images([encoded(cell, "PNG"), b"", encoded(cell, "PNG")[:200], b"\0\1\2"])
    with pytest.warns(ImageWarning, match="3 of 4 images were skipped"):
        assert len(list(source)) == 1
    assert [one.reason for one in source.skipped] == [
        "empty file", "truncated", "not a readable image",
    ]  # fmt: skip


def test_channels_first_in_numpy_say_how(cell):
    with pytest.raises(ValueError, match="moveaxis"):
        list(open_images(planes(cell)))


def test_tables_of_pandas_and_cellprofiler(tmp_path, cell):
    pandas = pytest.importorskip("pandas")
    home = tmp_path / "images"
    home.mkdir()
    for name in "ab":
        in_file(home / f"{name}.png", encoded(cell, "PNG"))
    paths = [str(home / f"{name}.png") for name in "ab"]
    by_path = pandas.DataFrame({"n": [1, 2], "Path": paths, "label": ["x", None]})
    source = open_images(by_path[::-1])
    assert source.ids() == paths[::-1] and source.labels == [None, "x"]
    assert open_images(by_path["Path"]).ids() == paths
    split = {"FileName_RGB": ["a.png", "b.png"], "PathName_RGB": [str(home)] * 2, "Class": [1, 2]}
    table = pandas.DataFrame(split)
    table.to_csv(tmp_path / "t.csv", index=False)
    for given in (table, tmp_path / "t.csv"):
        source = open_images(given)
        assert source.ids() == paths and source.labels == ["1", "2"]
        assert len(list(source)) == 2
    table.drop(columns="PathName_RGB").to_csv(home / "t.csv", index=False)
    assert open_images(home / "t.csv").ids() == ["a.png", "b.png"]
    with pytest.raises(ValueError, match="FileName_RGB, FileName_Mask name several images"):
        open_images(table.assign(FileName_Mask="m.png"))
    with pytest.raises(ValueError, match="a DataFrame with a column named path"):
        open_images(table[["Class"]])
    with pytest.raises(ValueError, match="row 0 of the DataFrame has no image path, got nan"):
        open_images(pandas.DataFrame({"path": [float("nan")]}))
    with pytest.raises(FileNotFoundError, match="No such image file"):
        open_images(pandas.DataFrame({"path": ["gone.png"]}))


def test_objects_travel_and_have_digests(cell):
    import pickle

    source = open_images([encoded(cell, "PNG"), Image.fromarray(cell)])
    there = pickle.loads(pickle.dumps(source.self_contained()))
    np.testing.assert_array_equal([one.pixels for one in there], [cell, cell])
    other = open_images([encoded(cell // 2, "PNG")] * 2).digests()
    assert len(set(source.digests() + other)) == 3 and other[0] == other[1]
    fields = wbcprof.images.open_fields([encoded(cell, "PNG"), Image.fromarray(cell)])
    np.testing.assert_array_equal([field.pixels for field in fields.self_contained()], [cell] * 2)
    assert len(fields.digest()) == 32


@pytest.fixture(scope="module")
def swapped():
    """An ICC profile of a space whose red is sRGB's green, and the other way round."""
    ImageCms = pytest.importorskip("PIL.ImageCms")
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = data.index(b"rXYZ"), data.index(b"gXYZ")
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data).replace("sRGB".encode("utf-16-be"), "none".encode("utf-16-be"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_colour_profiles_are_applied(tmp_path, cell, swapped, suffix, mode):
    if suffix in ("jpg", "webp") and mode != "RGB":
        pytest.skip("it has no such pixels")
    path = tmp_path / f"cell.{suffix}"
    image = Image.fromarray(cell)
    image = image.quantize(256, dither=0) if mode == "P" else image.convert(mode)
    image.save(path, icc_profile=swapped, **{"lossless": True} if suffix == "webp" else {})
    with pytest.warns(ImageWarning, match="1 .*colour-managed"):
        (got,) = open_images(path)
    away = np.abs(got.pixels.astype(int) - cell[..., [1, 0, 2]])
    assert away.mean() < (6 if suffix == "jpg" else 1)
    image.save(path, icc_profile=b"no profile")
    (got,) = open_images(path)
    assert np.abs(got.pixels.astype(int) - cell).mean() < 6


@pytest.mark.parametrize("how", [{"tile": (64, 64)}, {"rowsperstrip": 16}, {"alpha": True}])
def test_colour_profiles_are_applied_to_parts(tmp_path, cell, swapped, how):
    """Of TIFFs that are read region by region."""
    import tifffile

    large = np.tile(cell, (3, 4, 1))
    how = dict(how)
    pixels = np.dstack([large, np.full_like(large[..., 0], 255)]) if how.pop("alpha", 0) else large
    extra = {"extrasamples": ["unassalpha"]} if pixels.shape[2] == 4 else {}
    tifffile.imwrite(
        tmp_path / "large.tif", pixels, photometric="rgb", iccprofile=swapped, **how, **extra
    )
    source = wbcprof.images.open_fields(tmp_path / "large.tif", tile=64, margin=16)
    with pytest.warns(ImageWarning, match=f"{source.n_hint} .*colour-managed"):
        for field in source:
            height, width = field.pixels.shape[:2]
            there = large[field.top : field.top + height, field.left : field.left + width]
            assert np.abs(field.pixels.astype(int) - there[..., [1, 0, 2]]).mean() < 1


def test_the_profile_of_srgb_changes_nothing(tmp_path, cell):
    ImageCms = pytest.importorskip("PIL.ImageCms")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(cell).save(tmp_path / "cell.png", icc_profile=profile)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (got,) = open_images(tmp_path / "cell.png")
    np.testing.assert_array_equal(got.pixels, cell)


def test_gamma_is_applied(tmp_path, cell):
    """1.0 is light itself, which a viewer makes brighter; 1 / 2.2 is what all others have."""
    for gamma, expected in ((45455, cell), (100000, 255 * (cell / 255) ** (1 / 2.2))):
        (tmp_path / "g.png").write_bytes(png(cell, [(b"gAMA", struct.pack(">I", gamma))]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (got,) = open_images(tmp_path / "g.png")
        np.testing.assert_allclose(got.pixels, expected, atol=0.51)


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_a_picture_of_12_bits_is_read_as_its_file_is(tmp_path, cell):
    path = tmp_path / "deep.png"
    path.write_bytes(png(of_bits(cell, 12)))
    (expected,) = open_images(path)
    with Image.open(path) as picture:
        (got,) = open_images([picture])
        np.testing.assert_array_equal(got.pixels, expected.pixels)
        picture.load()  # it still can be
