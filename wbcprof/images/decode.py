"""One image file or array to RGB uint8 pixels; `wbcprof.images` lists what becomes of each kind."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from wbcprof.images import tiff
from wbcprof.images.depth import (
    DEPTHS,
    Deep,
    Depth,
    Depths,
    Outcome,
    Unusable,
    bits_for,
    by_rows,
    check_bytes,
    check_pixels,
    highest_of_floats,
    is_beyond_limit,
    too_many_pixels,
)
from wbcprof.threads import go_on

_PHYSICAL_SIZE = re.compile(r'PhysicalSizeX="([0-9.eE+-]+)"')
_PHYSICAL_UNIT = re.compile(r'PhysicalSizeXUnit="([^"]+)"')
# The last two are UTF-8, read as Latin-1.
_MICROMETRE = (
    "um",
    "\u00b5m",
    "\u03bcm",
    "\u00c2\u00b5m",
    "\u00ce\u00bcm",
)
_UNITS = {**dict.fromkeys(_MICROMETRE, 1.0), "nm": 1e-3, "mm": 1e3}
_SMALLEST_PIXEL, _LARGEST_PIXEL = 0.02, 5.0  # um; screens and printers state much more
_WEBP = 50001  # compression of TIFF that Pillow knows and often cannot decode
_OPAQUE_FROM = 4  # grey levels: alpha that nowhere reaches these shows nothing
_JPEG_END = b"\xff\xd9"
_ANY_BITS = b"\xa5" * 64
_GAMMA, _SAME_GAMMA = 2.2, 0.05  # of sRGB, nearly
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "DIB", "GIF", "PPM", "WEBP", "JPEG2000", "MPO", "AVIF")


def read_array(array: Any) -> Outcome | Deep:
    """One image as an array (H, W) or (H, W, C)."""
    try:
        return to_rgb8(np.asarray(array))
    except Unusable as error:
        return error


def read_picture(image: Any) -> Outcome | Deep:
    """One image that Pillow has, as a viewer shows it."""
    from PIL import ImageOps

    try:
        with reasons():
            if content := _deep_content(image):
                return read_file(content, (image.tell() or None,))[0]
            pixels, stated, kinds = _decode(ImageOps.exif_transpose(image), b"")
            return to_rgb8(pixels, stated, kinds)
    except Unusable as error:
        return error


def _deep_content(image: Any) -> bytes:
    """Of a picture of more than 8 bits whose file is open and not read yet, and of which Pillow
    would keep the high ones, all that the file holds; else nothing, also of a later frame that is
    no image of its own by `_pictures`."""
    if not any("16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        return b""
    place = image.fp.tell()
    image.fp.seek(0)
    content: bytes = image.fp.read()
    image.fp.seek(place)
    return content if not image.tell() or len(_pictures(content)) == image.n_frames else b""


def read_file(
    source: Path | bytes, pages: Sequence[int | None] = (None,), planes: bool = False
) -> list[Outcome | Deep]:
    """The image in a file, or these of a TIFF (see `wbcprof.images.tiff.pictures`); None takes the
    first of several frames."""
    outcomes: list[Outcome | Deep] = []
    try:
        with reasons():
            for outcome in _read(source, pages, planes):
                outcomes.append(outcome)
    except Unusable as error:
        outcomes += [error] * (len(pages) - len(outcomes))
    return outcomes


def _read(
    source: Path | bytes, pages: Sequence[int | None], planes: bool
) -> Iterator[Outcome | Deep]:
    from PIL import Image

    if isinstance(source, Path):
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("not a regular file")
        n_bytes = status.st_size
    else:
        n_bytes = len(source)
    if n_bytes == 0:
        raise Unusable("empty file")
    try:
        opened = open_picture(source)
    except Image.DecompressionBombError:
        raise
    except Exception:  # what Pillow does not know: others may
        start = _start(source, 6)
        if start.startswith(tiff.MAGIC):
            yield from _read_tiff(source, pages, planes)
        elif start == b"\x93NUMPY":
            name = source if isinstance(source, Path) else io.BytesIO(source)
            yield read_array(np.load(name, allow_pickle=False))
        else:
            raise
        return
    with opened as image:
        if image.format in ("JPEG", "MPO"):
            _check_scans(_content(source), image.width * image.height)
        if image.format == "TIFF" and _is_for_tifffile(image, pages):
            yield from _read_tiff(source, pages, planes)
            return
        for page in pages:
            yield _read_page(image, source, page)


_SCANS, _MOST_SCANS, _MOST_SCANNED = 20, 100, 1e9


def _check_scans(data: bytes, pixels: int) -> None:
    """Refuse a JPEG whose scans, each of which goes over all pixels, would take minutes. Writers
    make ten or so."""
    n = data.count(b"\xff\xda")  # in coded pixels, a zero follows every ff
    most = max(_SCANS, min(_MOST_SCANS, int(_MOST_SCANNED / max(pixels, 1))))
    if n > most:
        raise Unusable(f"{n} scans of {pixels} pixels, expected {most} at most; save it again")


def _start(source: Path | bytes, n: int) -> bytes:
    if isinstance(source, bytes):
        return source[:n]
    with open(source, "rb") as file:
        return file.read(n)


def _read_page(image: Any, source: Path | bytes, page: int | None) -> Outcome | Deep:
    try:
        with reasons():
            if page is not None:
                image.seek(page)
            check_pixels(image.width * image.height)
            several = page is None and getattr(image, "n_frames", 1) > 1
            kinds = ("multi-frame",) if several else ()
            pixels, stated, more = _decode(image, source)
            return to_rgb8(pixels, stated, (*kinds, *more))
    except Unusable as error:
        return error


# --- TIFF --------------------------------------------------------------------------------------


def _is_for_tifffile(image: Any, pages: Sequence[int | None]) -> bool:
    """Whether Pillow would read a TIFF as what it is not."""
    from PIL.TiffImagePlugin import COMPRESSION_INFO

    tags = image.tag_v2.get
    what = ""
    # Pages are counted by walking through all, so only where that tells something.
    if tiff.has_axes(tags) and (tiff.n_in_stack(tags) > 1 or image.n_frames > 1):
        what = "TIFF of several channels, depths or times"
    elif pages[0] is None and image.n_frames > 1:
        what = "TIFF of several pages"
    elif tags(274, 1) != 1:
        what = "turned TIFF"
    elif max(_numbers(tags(258, 1))) > 8 or max(_numbers(tags(339, 1))) > 1:
        what = "16-bit colour TIFF" if tags(277, 1) > 1 else "TIFF of more than 8 bits"
    elif (
        tags(259, 1) not in COMPRESSION_INFO
        or tags(259, 1) == _WEBP
        or tags(277, 1) > 4
        or (tags(277, 1) == 2 and image.mode == "L")
    ):
        what = "TIFF of such compression or channels"
    if not what:
        return False
    try:
        import tifffile  # noqa: F401
    except ImportError as error:
        if image.mode in ("I;16", "I;16B", "F") or what == "TIFF of several pages":
            return False
        raise Unusable(f"{what} needs the package tifffile") from error
    return True


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _read_tiff(
    source: Path | bytes, pages: Sequence[int | None], planes: bool
) -> Iterator[Outcome | Deep]:
    try:
        opened = tiff.opened(source)
        with opened as file:
            found = tiff.pictures(file, planes)
            for page in pages:
                try:
                    with reasons():
                        kinds = ("multi-frame",) if page is None and len(found) > 1 else ()
                        pixels, stated, more = tiff.read(file, found[page or 0])
                        yield to_rgb8(pixels, stated, (*kinds, *more))
                except Unusable as error:
                    yield error
    except ImportError as error:
        raise Unusable("TIFF of such samples needs the package tifffile") from error


def count_pages(path: Path, planes: bool = False) -> tuple[int, int]:
    """Images in a TIFF (see `wbcprof.images.tiff.pictures`), and the bytes of one; 1, 0 where it
    has one, a file of unlike pages (thumbnails, masks) among them, and for a file that cannot be
    read."""
    from PIL import ImageSequence
    from PIL.TiffImagePlugin import TiffImageFile

    if not path.is_file():  # a pipe would wait
        return 1, 0
    try:
        # Not by `Image.open`, which warns of large ones, of which no pixel is decoded here.
        with TiffImageFile(path) as image:
            tags = image.tag_v2.get
            if not (tiff.has_axes(tags) and (image.n_frames > 1 or tiff.n_in_stack(tags) > 1)):
                frames: Iterator[Any] = ImageSequence.Iterator(image)
                pages = [
                    (page.size, page.mode, page.tag_v2.get(258), page.tag_v2.get(254, 0))
                    for page in frames
                ]
                image.seek(0)
                return (len(pages), _bytes_of(image)) if len(set(pages)) == 1 else (1, 0)
    except Exception:  # nothing that Pillow knows
        pass
    found = _pictures(path, planes)
    return (len(found), found[0].n_bytes) if len(found) > 1 else (1, 0)


def _pictures(source: Path | bytes, planes: bool = False) -> list[tiff.Picture]:
    """The images of a TIFF, by tifffile; none where it cannot be read, nor of one that is too large
    to be."""
    try:
        with tiff.opened(source) as file:
            found = tiff.pictures(file, planes)
    except Exception:  # said when the file is read
        return []
    largest = max((math.prod(picture.shape) for picture in found), default=0)
    return [] if is_beyond_limit(largest) else found


def is_shallow_file(path: Path) -> bool:
    """Whether an image file has no more than 8 bits by its head, which costs little; also of one
    that cannot be read."""
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        if not path.is_file():
            return True
        start = _start(path, 25)
        if start.startswith(b"\x89PNG"):
            return start[24] <= 8
        if start.startswith(tiff.MAGIC):
            with TiffImageFile(path) as image:
                return max(_numbers(image.tag_v2.get(258, 1))) <= 8 and image.n_frames == 1
        return start.startswith((b"\xff\xd8", b"GIF8", b"BM", b"RIFF"))
    except Exception:  # what Pillow does not know
        return False


def stated_pixel_size(path: Path) -> float | None:
    """Micrometres for each pixel as a TIFF states it, in OME metadata or as its resolution; None
    where there is nothing, or what no microscope has."""
    from PIL.TiffImagePlugin import TiffImageFile

    if not path.is_file():
        return None
    try:
        with TiffImageFile(path) as image:
            tags: Any = image.tag_v2
            return pixel_size(str(tags.get(270, "")), tags.get(282), tags.get(296))
    except Exception:  # no TIFF, or a damaged one
        return None


def pixel_size(description: str, resolution: Any, unit: Any) -> float | None:
    """Micrometres for each pixel, by the tags ImageDescription, XResolution and ResolutionUnit."""
    try:
        if found := _PHYSICAL_SIZE.search(description):
            named = _PHYSICAL_UNIT.search(description)
            size = float(found[1]) * _UNITS[named[1] if named else "um"]
        else:
            size = {2: 25_400, 3: 10_000}[unit] / float(resolution)
    except (KeyError, ValueError, TypeError, ZeroDivisionError):  # no such tag, or another kind
        return None
    return size if _SMALLEST_PIXEL <= size <= _LARGEST_PIXEL else None


def stated_shape(path: Path) -> tuple[int, int] | None:
    """Rows and columns of the image in a file as a viewer shows it, by the file's head; None where
    it cannot be read."""
    if not path.is_file():
        return None
    try:
        with open_picture(path) as image:
            columns, rows = image.size
            if image.format != "TIFF":
                late = image.format == "PNG" and "exif" not in image.info
                turn = _late_orientation(path) if late else _orientation(image)
            elif image.n_frames > 1 or tiff.n_in_stack(image.tag_v2.get) > 1:
                found = _pictures(path)
                return found[0].shape if found else (rows, columns)
            else:  # the size that Pillow says is turned already, or not, as it is old or new
                columns, rows = int(image.tag_v2[256]), int(image.tag_v2[257])
                turn = tiff.known_orientation(image.tag_v2.get(274, 1))
            return (columns, rows) if turn > 4 else (rows, columns)
    except Exception:  # nothing that Pillow knows, or said when the file is read
        found = _pictures(path)
        return found[0].shape if found else None


def stated_bytes(source: Path | bytes) -> int:
    """Of the image in a file in memory, by the file's head, those of 8-bit RGB at least; 0 where it
    cannot be read."""
    if isinstance(source, Path) and not source.is_file():  # a pipe would wait
        return 0
    try:
        with open_picture(source) as image:
            return _bytes_of(image)
    except Exception:  # nothing that Pillow knows, or said when the file is read
        found = _pictures(source)
        return found[0].n_bytes if found else 0


def _bytes_of(image: Any) -> int:
    """Of a page of an open picture in memory."""
    bits = 16 if any("16" in str(tile[3]) for tile in image.tile) else 8
    samples = len(image.getbands())
    if image.format == "TIFF":
        samples, bits = image.tag_v2.get(277, 1), max(_numbers(image.tag_v2.get(258, 1)))
    return int(math.prod(image.size) * max(3, samples * bits // 8))


def open_picture(source: Path | bytes) -> Any:
    """A file as Pillow opens it. Pillow goes by content, and of formats that are not meant one,
    PostScript, starts an interpreter, whatever the file is called."""
    from PIL import Image

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # as old as Pillow is
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats)


@contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever reading a file raises into `Unusable`."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except (Unusable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Unusable("not a readable image") from error
    except Image.DecompressionBombError as error:
        raise too_many_pixels() from error
    except Exception as error:  # Pillow's decoders raise almost any kind on damaged files
        if is_of_the_system(error):
            raise
        if reason := getattr(error, "strerror", None):
            raise Unusable(reason) from error
        text = str(error) or type(error).__name__
        truncated = "truncated" in text.lower()
        raise Unusable("truncated" if truncated else f"cannot be decoded: {text}") from error


_OF_THE_SYSTEM = {
    getattr(errno, name, None)
    for name in (
        "EMFILE ENFILE EIO ENOMEM ENOBUFS ESTALE ENODEV ENXIO ENOTCONN EHOSTDOWN EHOSTUNREACH "
        "ENETDOWN ENETUNREACH ETIMEDOUT EREMOTEIO ENOMEDIUM ESHUTDOWN"
    ).split()
} - {None}


def is_of_the_system(error: Exception) -> bool:
    """Whether it says nothing of the file: files have run out, a disk is gone, or a folder. A run
    stops then, lest good images be left out."""
    if not isinstance(error, OSError):
        return False
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str | os.PathLike):
        return not os.path.isdir(os.path.dirname(os.path.abspath(error.filename)))
    return error.errno in _OF_THE_SYSTEM


_MAY_PASS = {os.strerror(code) for code in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EBUSY)}


def may_pass(reason: str) -> bool:
    """Whether an image that was skipped for this reason may be there later: it was missing, or was
    not to be read."""
    return reason in _MAY_PASS


# --- to 8-bit RGB ------------------------------------------------------------------------------


def to_rgb8(
    pixels: np.ndarray, stated: int | None = None, kinds: Iterable[str] = ()
) -> tuple[np.ndarray, str] | Deep:
    """Bring an array (H, W) or (H, W, C) to uint8 (H, W, 3), or leave it to `settle` where nobody
    says which of its values is white.

    Parameters
    ----------
    pixels : array
    stated : int, optional
        The largest value that its samples may have, as its file says.
    kinds : iterable of str
        What it was converted from before.
    """
    if pixels.ndim not in (2, 3):
        raise Unusable(f"expected an array (H, W, 3), got shape {pixels.shape}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels not in (1, 3, 4):
        raise Unusable(
            f"expected 1, 3 or 4 channels on the last axis, got shape {pixels.shape}"
            + ("; np.moveaxis(image, 0, -1) brings them there" if pixels.shape[0] == 3 else "")
        )
    kinds = tuple(kinds)
    if pixels.dtype == np.uint8:
        return _to_rgb(pixels, list(kinds))
    if pixels.dtype.kind in "ui" and pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        if (lowest := int(pixels.min(initial=0))) < 0:
            raise Unusable(f"integers must not be below 0, got {lowest}")
        colours = pixels if pixels.ndim == 2 else pixels[..., :3]
        return _by_statement(Deep(pixels, int(colours.max(initial=0)), kinds), stated)
    if pixels.dtype.kind == "f":
        colours = pixels if pixels.ndim == 2 else pixels[..., :3]
        low, high = pixels.min(initial=0), pixels.max(initial=0)
        if not np.isfinite([low, high]).all():  # NaN is the least and the largest
            raise Unusable("float values must be finite, got NaN or infinity")
        white = stated if stated is not None and 1 < high <= stated else 1
        highest = highest_of_floats(float(colours.max(initial=0)))
        if low < 0 or (high > white and highest is None):
            raise Unusable(
                "float values must lie in [0, 1], or be those of 8 to 16 bits, got "
                f"{low:g} to {high:g}; rescale or give uint8"
            )
        if high > white and highest is not None:
            return Deep(pixels.astype(np.float32, copy=False), highest, kinds)
        scale = np.float32(255 / white)
        pixels = by_rows(
            lambda rows: np.rint(rows.astype(np.float32) * scale).astype(np.uint8), pixels
        )
        return _to_rgb(pixels, [*kinds, "float"])
    raise Unusable(
        f"expected uint8, integers of 16 bits or more, or float in [0, 1], got dtype {pixels.dtype}"
    )


def _by_statement(deep: Deep, stated: int | None) -> tuple[np.ndarray, str] | Deep:
    """By what a file says of its range, unless that is all that its samples hold, as writers put it
    whatever they write, or less than is there."""
    if stated is None or not deep.highest <= stated < np.iinfo(deep.pixels.dtype).max:
        return deep
    if stated + 1 in (1 << bits for bits in DEPTHS):
        return _of_bits(deep, stated.bit_length(), "")
    # The largest value that was found or shown: no depth, but as good as if it were seen.
    return Deep(deep.pixels, stated, deep.kinds)


def settle(outcome: Outcome | Deep, depth: Depth, learnt: Depths | None = None) -> Outcome:
    """8-bit RGB of what was read, by the depth of the set that it is of; see `Depth.bits`."""
    return _of_bits(outcome, *depth.bits(outcome, learnt)) if isinstance(outcome, Deep) else outcome


def _of_bits(deep: Deep, bits: int, by: str) -> tuple[np.ndarray, str]:
    pixels = deep.pixels
    eight = _scaled(pixels, bits)
    is_float = pixels.dtype.kind == "f"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        alpha = pixels[..., 3]
        highest = alpha.max(initial=0)
        if is_float:
            of_alpha = 1 if highest <= 1 else bits
        else:
            of_alpha = max(bits, bits_for(int(highest), pixels.dtype))
        eight[..., 3] = _scaled(alpha, of_alpha)
    rgb, kind = _to_rgb(eight, [*deep.kinds, "float" if is_float else f"{bits}-bit"])
    return rgb, f"{kind} ({by})" if by else kind


def _scaled(pixels: np.ndarray, bits: int) -> np.ndarray:
    """To uint8, to the nearest: 0 to 0, the largest of so many bits to 255."""
    white = (1 << bits) - 1

    def scale(rows: np.ndarray) -> np.ndarray:
        if bits > 16 or rows.dtype.kind == "f":
            scaled = np.rint(np.minimum(rows, white) * (255 / white))
        else:
            scaled = (np.minimum(rows, white).astype(np.uint32) * 255 + white // 2) // white
        eight: np.ndarray = scaled.astype(np.uint8)
        return eight

    return by_rows(scale, pixels)


def _to_rgb(pixels: np.ndarray, kinds: list[str]) -> tuple[np.ndarray, str]:
    """8-bit grey, RGB or RGBA, the last on white."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        kinds.append("grey")
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    elif channels == 4 and pixels[:, :, 3].max(initial=0) < _OPAQUE_FROM:
        kinds.append("RGBA whose alpha shows nothing, ignored")
        pixels = pixels[:, :, :3]
    elif channels == 4:
        kinds.append("RGBA")
        pixels = by_rows(_on_white, pixels)
    elif kinds and kinds[-1].endswith(("-bit", "float")):
        kinds.append("RGB")
    return np.ascontiguousarray(pixels), " ".join(kinds)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    rgb, alpha = pixels[:, :, :3].astype(np.uint16), pixels[:, :, 3:].astype(np.uint16)
    shown: np.ndarray = ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return shown


# --- Pillow ------------------------------------------------------------------------------------


def _decode(image: Any, source: Path | bytes) -> tiff.Samples:
    """Samples of an open Pillow image as a viewer shows it; the largest value they may have, if its
    file says so; and what Pillow had to convert. `source` is where it is read from, if anything."""
    kinds: list[str] = []
    mode = image.mode
    stated = None
    if image.format == "TIFF":
        stated = tiff.largest_stated(image.tag_v2.get)
    elif source and (deep := _deep_colour(image, source)):
        return deep
    if hasattr(image, "load_read"):
        image.load_read = _read_or_give_up(image.load_read)
    try:
        image.load()
    except OSError as error:
        if image.format not in ("JPEG", "MPO") or "truncated" not in str(error):
            raise
        whole = _without_end(_content(source))
        if whole is None:
            raise
        image = whole
        kinds.append("JPEG without its end mark")
    turn = 1 if image.format == "TIFF" or not source else _orientation(image)

    if mode == "I" or mode.startswith("I;16"):
        if image.format == "PNG" and source:
            stated = _significant(source)
        samples = np.asarray(image)
        pixels = samples.astype(np.uint16) if samples.max(initial=0) < 1 << 16 else samples
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:
            pixels = 65535 - pixels
        return tiff.turned(pixels, turn), stated, tuple(kinds)
    if mode not in ("L", "LA", "RGB", "RGBA", "F"):
        kinds.append({"1": "1-bit", "P": "palette"}.get(mode, mode))
    if mode != "F" and (converted := _in_srgb(image)):
        image, mode = converted, converted.mode
        kinds.append("colour-managed")

    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "RGB", "F"):
        image = image.convert("RGB")
    return tiff.turned(np.asarray(image), turn), stated, tuple(kinds)


def _read_or_give_up(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """What Pillow reads a PNG or JPEG with, 64 kB at a time."""

    def checked(n: int) -> bytes:
        go_on()
        return read(n)

    return checked


def _in_srgb(image: Any) -> Any:
    """A loaded image of 8 bits as a viewer shows it, where its file states another colour space or
    gamma; None where it does not, or in a way that nobody can read."""
    gamma = image.info.get("gamma")
    if profile := image.info.get("icc_profile"):
        if image.mode in ("1", "P", "LA"):
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        transform = _transform_to_srgb(profile, image.mode)
        return None if transform is None else transform.apply(image)
    if not gamma or "srgb" in image.info or abs(_GAMMA * gamma - 1) < _SAME_GAMMA:
        return None
    power = 1 / (_GAMMA * gamma)
    levels = [round(255 * (level / 255) ** power) for level in range(256)]
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.point(levels * 3 + (list(range(256)) if image.mode == "RGBA" else []))


def part_in_srgb(pixels: np.ndarray, profile: bytes | None) -> np.ndarray | None:
    """A part of an image, RGB or RGBA of 8 bits, as a viewer shows it, where the profile of the
    whole states another colour space; None where it does not."""
    from PIL import Image

    if profile is None or pixels.dtype != np.uint8 or pixels.shape[2:] not in ((3,), (4,)):
        return None
    image = Image.fromarray(np.ascontiguousarray(pixels))
    transform = _transform_to_srgb(profile, image.mode)
    return None if transform is None else np.asarray(transform.apply(image))


@lru_cache(maxsize=32)
def _transform_to_srgb(profile: bytes, mode: str) -> Any:
    """What an ICC profile makes of pixels; None of sRGB itself, of a damaged profile and of one
    that is for other pixels."""
    from PIL import ImageCms

    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(opened).lower():
            return None
        return ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"), mode, "RGBA" if mode == "RGBA" else "RGB"
        )
    except Exception:  # LittleCMS is not there, or does not know it: most viewers ignore it too
        return None


def _orientation(image: Any) -> int:
    """By EXIF or XMP, 1 where there is none, of an image that is loaded."""
    if not {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} & image.info.keys():
        return 1
    try:
        return tiff.known_orientation(image.getexif().get(274))
    except Exception:  # damaged metadata, of which the pixels know nothing
        return 1


def _late_orientation(path: Path) -> int:
    """Of a PNG, whose EXIF may follow the pixels."""
    from PIL import Image

    exif = Image.Exif()
    exif.load(_png_chunks(path).get(b"eXIf", b""))
    return tiff.known_orientation(exif.get(274))


def _without_end(data: bytes) -> Any:
    """A JPEG that lacks nothing but its last two bytes, or None.

    Bytes after the last pixel change none; in an image that is torn, they are taken for pixels.
    """
    from PIL import Image, ImageChops

    stem = data.rstrip(b"\xff")
    try:
        image, other = (
            Image.open(io.BytesIO(stem + more + _JPEG_END)) for more in (b"", _ANY_BITS)
        )
        image.load()
        is_whole = ImageChops.difference(image, other).getbbox() is None
    except Exception:  # as for the file itself
        return None
    return image if is_whole else None


def _deep_colour(image: Any, source: Path | bytes) -> tiff.Samples | None:
    """PNG, JPEG 2000, PPM in colours of more than 8 bits, of which Pillow keeps the high ones."""
    if image.mode not in ("RGB", "RGBA", "LA") or image.format not in ("PNG", "JPEG2000", "PPM"):
        return None
    tile = image.tile[0] if image.tile else None
    is_png = image.format == "PNG"
    if tile is None or (is_png and ";16" not in str(tile)):
        return None
    if image.format == "PPM":
        if tile[0] != "ppm" or tile[3][-1] != 65535:  # of other ranges, Pillow brings white to 255
            return None
        flat = np.frombuffer(_content(source), ">u2", image.width * image.height * 3, tile[2])
        return flat.reshape(image.height, image.width, 3), None, ()
    data = _content(source)
    stated = _significant(source) if is_png else _jpeg2000_largest(data)
    if not is_png and (stated is None or stated < 256):
        return None
    try:
        import imagecodecs
    except ImportError as error:
        samples = np.asarray(image)
        if is_png and samples[..., :3].max(initial=0) >= 64:  # all 16 bits are used
            return tiff.turned(samples, _orientation(image)), None, (f"16-bit {image.mode}",)
        raise Unusable(
            f"{image.format} in colours of more than 8 bits needs the package imagecodecs"
        ) from error
    each = 2 if stated is None or stated < 1 << 16 else 4
    check_bytes(image.width * image.height * len(image.getbands()) * each)
    decoded = imagecodecs.png_decode(data) if is_png else imagecodecs.jpeg2k_decode(data)
    image.load()  # whatever follows the pixels
    if decoded.shape[2] == 2:
        decoded = np.concatenate([np.repeat(decoded[..., :1], 3, -1), decoded[..., 1:]], -1)
    return tiff.turned(decoded, _orientation(image)), stated, ()


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _significant(source: Path | bytes) -> int | None:
    """The largest value of the bits that the PNG chunk sBIT calls significant.

    Writers either keep the values, or spread them over all 16 bits as the standard has it; then
    they are larger than this.
    """
    bits = _png_chunks(source).get(b"sBIT")
    return (1 << max(bits[:3])) - 1 if bits else None


def _png_chunks(source: Path | bytes) -> dict[bytes, bytes]:
    """Content of the chunks of a PNG that Pillow passes over or may not have come to."""
    found: dict[bytes, bytes] = {}
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in (b"sBIT", b"eXIf") and length < 1 << 16:
                found[kind] = file.read(length)
                length = 0
            file.seek(length + 4, 1)
    return found


def _jpeg2000_largest(data: bytes) -> int | None:
    """By the precision in the marker SIZ of a code stream."""
    at = data.find(b"\xff\x4f\xff\x51") + 2
    if at < 2 or len(data) <= at + 40:
        return None
    precision = (data[at + 40] & 127) + 1
    return (1 << precision) - 1
