"""One image file or array to RGB uint8 pixels; `wbcprof.images` lists what becomes of each kind."""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

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


class Unusable(ValueError):
    """The image cannot be used; the text is the reason shown to the user."""


Outcome = tuple[np.ndarray, str] | Unusable
"""RGB uint8 pixels and what they were converted from ("" if nothing was changed), or why not."""


def read_array(array: Any) -> Outcome:
    """One image as an array (H, W) or (H, W, C)."""
    try:
        return to_rgb8(np.asarray(array))
    except Unusable as error:
        return error


def read_file(path: Path, pages: Sequence[int | None] = (None,)) -> list[Outcome]:
    """The image in a file, or these pages of a TIFF; None takes the first of several frames."""
    from PIL import Image

    outcomes: list[Outcome] = []
    try:
        with reasons():
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise Unusable("not a regular file")
            if status.st_size == 0:
                raise Unusable("empty file")
            with Image.open(path) as image:
                for page in pages:
                    outcomes.append(_read_page(image, path, page))
    except Unusable as error:
        outcomes += [error] * (len(pages) - len(outcomes))
    return outcomes


def _read_page(image: Any, path: Path, page: int | None) -> Outcome:
    from PIL import Image

    try:
        with reasons():
            if page is not None:
                image.seek(page)
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Unusable(_too_large(limit))
            kinds = ["multi-frame"] if page is None and getattr(image, "n_frames", 1) > 1 else []
            pixels, converted = _decode(image, path, page or 0)
            pixels, kind = to_rgb8(pixels)
            return pixels, " ".join(filter(None, [*kinds, *converted, kind]))
    except Unusable as error:
        return error


def count_pages(path: Path) -> tuple[int, int]:
    """Pages of a TIFF, and the pixels of one; 1, 0 if they differ in size or kind, as a thumbnail
    or a mask does, and for a file that cannot be read."""
    from PIL import ImageSequence
    from PIL.TiffImagePlugin import TiffImageFile

    if not path.is_file():  # a pipe would wait
        return 1, 0
    try:
        # Not by `Image.open`, which warns of large ones, of which no pixel is decoded here.
        with TiffImageFile(path) as image:
            frames: Iterator[Any] = ImageSequence.Iterator(image)
            pages = [
                (page.size, page.mode, page.tag_v2.get(258), page.tag_v2.get(254, 0))
                for page in frames
            ]
    except Exception:  # said when the file is read
        return 1, 0
    return (len(pages), math.prod(pages[0][0])) if len(set(pages)) == 1 else (1, 0)


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
    """Rows and columns by the head of an image file; None where it cannot be read."""
    from PIL import Image

    if not path.is_file():
        return None
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # said when the file is read
        return None


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
        raise Unusable(_too_large(Image.MAX_IMAGE_PIXELS)) from error
    except Exception as error:  # Pillow's decoders raise almost any kind on damaged files
        if reason := getattr(error, "strerror", None):
            raise Unusable(reason) from error
        text = str(error) or type(error).__name__
        truncated = "truncated" in text.lower()
        raise Unusable("truncated" if truncated else f"cannot be decoded: {text}") from error


def _too_large(limit: int | None) -> str:
    return (
        f"more than {limit} pixels (decompression bomb?); raise PIL.Image.MAX_IMAGE_PIXELS, or "
        "save it as a TIFF, which open_fields reads in tiles where wbcprof[slides] is installed"
    )


def to_rgb8(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """Bring an array (H, W) or (H, W, C) to uint8 (H, W, 3); depth first, then channels."""
    if pixels.ndim not in (2, 3):
        raise Unusable(f"expected an array (H, W, 3), got shape {pixels.shape}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels not in (1, 3, 4):
        raise Unusable(f"expected 1, 3 or 4 channels on the last axis, got shape {pixels.shape}")

    kinds = []
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # either byte order
        kinds.append("16-bit")
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    elif pixels.dtype.kind == "f":
        kinds.append("float")
        if not np.isfinite(pixels).all():
            raise Unusable("float values must be finite, got NaN or infinity")
        low, high = pixels.min(initial=0), pixels.max(initial=0)
        if low < 0 or high > 1:
            raise Unusable(
                f"float values must lie in [0, 1], got {low:g} to {high:g}; rescale or give uint8"
            )
        pixels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise Unusable(f"expected uint8, uint16 or float in [0, 1], got dtype {pixels.dtype}")

    if channels == 1:
        kinds.append("grey")
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    elif channels == 4:
        kinds.append("RGBA")
        rgb, alpha = pixels[:, :, :3].astype(np.uint16), pixels[:, :, 3:].astype(np.uint16)
        pixels = ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    elif kinds:
        kinds.append("RGB")
    return np.ascontiguousarray(pixels), " ".join(kinds)


def _decode(image: Any, path: Path, page: int) -> tuple[np.ndarray, list[str]]:
    """Pixels of an open Pillow image as `_to_rgb8` takes them, and what Pillow had to convert."""
    kinds: list[str] = []
    mode = image.mode

    if image.format == "TIFF":
        bits_per_sample = image.tag_v2.get(258, (1,))[0]
        if mode == "I" or (mode.startswith("I;16") and bits_per_sample != 16):
            raise Unusable(
                f"signed or {bits_per_sample}-bit samples, expected unsigned 8 or 16 bits"
            )
        if bits_per_sample == 16 and not mode.startswith("I;16"):
            if mode not in ("RGB", "RGBA"):
                raise Unusable(f"16-bit TIFF of mode {mode}, expected grey, RGB or RGBA")
            return _read_tiff_rgb16(path, page), kinds

    if mode == "I" or mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0
        return (65535 - pixels if white_is_zero else pixels), kinds
    if any(";16" in str(tile) for tile in image.tile):
        # PNG in colour: Pillow keeps the high bytes.
        kinds.append("16-bit RGB" if mode == "RGB" else "16-bit")
    if mode not in ("L", "LA", "RGB", "RGBA", "F"):
        kinds.append({"1": "1-bit", "P": "palette"}.get(mode, mode))

    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "RGB", "F"):
        image = image.convert("RGB")
    return np.asarray(image), kinds


def _read_tiff_rgb16(path: Path, page: int) -> np.ndarray:
    """A page of a 16-bit colour TIFF, of which Pillow would keep one byte per sample."""
    try:
        import tifffile
    except ImportError as error:
        raise Unusable("16-bit colour TIFF needs the package tifffile") from error

    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page].aspage()
        if any(kind != tifffile.EXTRASAMPLE.UNASSALPHA for kind in found.extrasamples):
            raise Unusable("16-bit TIFF with premultiplied alpha or extra channels")
        strips = zip(found.dataoffsets, found.databytecounts, strict=True)
        if max(map(sum, strips), default=0) > tiff.filehandle.size:
            raise Unusable("truncated")  # before memory is taken for as much
        pixels = found.asarray()
        return np.moveaxis(pixels, 0, -1) if found.axes == "SYX" else pixels
