"""TIFF: what its pages are, and the samples of any kind that Pillow does not read.

Pages are channels, depths and times of one image where the file says so (OME, ImageJ, MetaMorph,
Zeiss LSM, Micro-Manager, axes that tifffile wrote). Elsewhere pages of one size and kind are images
each, and of unlike ones (thumbnails, masks) the largest is the picture.
"""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from wbcprof.images.depth import DEPTHS, Unusable, by_rows, check_bytes, check_pixels

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_AXES_TAGS = (33628, 33629, 34412, 51123)  # MetaMorph UIC1 and UIC2, Zeiss LSM, Micro-Manager
_SIGNIFICANT = re.compile(r'SignificantBits="(\d+)"')
_CHANNEL = re.compile(r"<(?:\w+:)?Channel\b[^>]*>")
_ATTRIBUTE = re.compile(r'\b(Name|Color)="([^"]*)"')
_BIT_DEPTH = re.compile(r'"BitDepth"\W+(\d+)')
_IMAGEJ_MAX = re.compile(r"^max=([0-9.eE+]+)", re.MULTILINE)
_IMAGEJ_IMAGES = re.compile(r"^images=(\d+)", re.MULTILINE)
_PRIMARIES = {"r": 0, "red": 0, "g": 1, "green": 1, "b": 2, "blue": 2}

# What tifffile finds wrong is told as a reason; without a handler, Python prints it.
SILENT = logging.NullHandler()

Samples = tuple[np.ndarray, int | None, tuple[str, ...]]
"""An image (H, W) or (H, W, C), the largest value that it may have, if its file says so, and what
it was put together from."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a TIFF.

    Attributes
    ----------
    planes : sequence of page or int
        One, or those of red, green and blue: pages, or where their samples begin in the file.
    key : page
        That planes without one are like.
    kinds : tuple of str
        What it is put together from, or taken out of.
    reason : str
        Why it cannot be used, or "".
    """

    planes: Sequence[Any]
    key: Any
    kinds: tuple[str, ...] = ()
    reason: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns as a viewer shows them."""
        rows, columns = int(self.key.imagelength), int(self.key.imagewidth)
        return (columns, rows) if _orientation(self.key) > 4 else (rows, columns)

    @property
    def n_bytes(self) -> int:
        """Of its samples in memory, at least those of 8-bit RGB."""
        return max(3 * math.prod(self.shape), len(self.planes) * int(self.key.nbytes))


def has_axes(tags: Callable[[int], Any]) -> bool:
    """Whether a TIFF says what its pages are, by its first tags."""
    text = str(tags(270) or "")
    return (
        text.startswith("ImageJ=")
        or text.rstrip().endswith(("OME>", "OME>\0"))
        or (text.startswith("{") and '"axes"' in text)
        or any(tags(tag) is not None for tag in _AXES_TAGS)
    )


def n_in_stack(tags: Callable[[int], Any]) -> int:
    """Planes of an ImageJ stack, which has one page where it is large; at least two of one of
    MetaMorph, which always has one."""
    found = _IMAGEJ_IMAGES.search(str(tags(270) or ""))
    return int(found[1]) if found else 1 + (tags(33629) is not None)


def largest_stated(tags: Callable[[int], Any]) -> int | None:
    """The largest value that samples may have, as a TIFF says it anywhere."""
    text, manager = str(tags(270) or ""), str(tags(51123) or "")
    if found := _SIGNIFICANT.search(text) or _BIT_DEPTH.search(manager.replace("'", '"')):
        return int((1 << min(int(found[1]), 64)) - 1)
    bits = _largest(tags(258))
    if bits is not None and bits in DEPTHS[1:-1]:  # packed
        return int((1 << int(bits)) - 1)
    stated = _largest(tags(341)) or _largest(tags(281))
    if stated is None and text.startswith("ImageJ=") and (found := _IMAGEJ_MAX.search(text)):
        stated = float(found[1])
    return None if stated is None or not 1 <= stated < 1 << 64 else math.ceil(stated)


def _largest(value: Any) -> float | None:
    """Of a tag, which may have a value for each channel."""
    try:
        largest = float(np.max(np.asarray(value, dtype=float)))
    except (TypeError, ValueError):  # no such tag, or text
        return None
    return largest if math.isfinite(largest) else None


@contextmanager
def opened(source: Path | bytes) -> Iterator[Any]:
    """The file as tifffile has it.

    Raises
    ------
    ImportError
        The package tifffile is missing.
    """
    import tifffile

    logging.getLogger("tifffile").addHandler(SILENT)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with tifffile.TiffFile(file, _multifile=False) as tiff:
        yield tiff


def pictures(tiff: Any, planes: bool = False) -> list[Picture]:
    """The images of an open TIFF; with `planes`, each of its depths and times is one."""
    pages = [page.aspage() for page in tiff.pages] if len(tiff.pages) < 2 else list(tiff.pages)
    first = tiff.pages[0].aspage()
    _check_planes(tiff.ome_metadata, min(page.imagelength * page.imagewidth for page in pages))
    tags = first.tags.valueof
    if has_axes(tags) and max(len(pages), n_in_stack(tags)) > 1:
        series = tiff.series[:1] if tiff.is_lsm else list(tiff.series)  # thumbnails follow
        area = max(one.keyframe.imagelength * one.keyframe.imagewidth for one in series)
        texts = re.split(r"<(?:\w+:)?Image\b", first.description)[1:]
        return [
            picture
            for index, one in enumerate(series)
            if one.keyframe.imagelength * one.keyframe.imagewidth == area
            for picture in _of_series(tiff, one, texts[index] if index < len(texts) else "", planes)
        ]
    pages = [page.aspage() for page in pages]
    if not pages[0].dataoffsets:
        raise Unusable("damaged: segments are missing")
    looks = {
        (page.imagelength, page.imagewidth, page.samplesperpixel, page.bitspersample,
         page.photometric, page.subfiletype, _orientation(page))
        for page in pages
    }  # fmt: skip
    if len(looks) == 1:
        return [Picture([page], page) for page in pages]
    whole = [page for page in pages if not page.subfiletype & (_REDUCED | _MASK)] or pages
    page = max(whole, key=lambda page: page.imagelength * page.imagewidth)
    return [Picture([page], page, ("multi-frame",))]


_MOST_PLANES = 1 << 22
_COUNTS = re.compile("PlaneCount|NumPlanes")


def _check_planes(metadata: str | None, area: int) -> None:
    """Refuse OME metadata of more planes than any file has, for each of which tifffile would take
    memory; the smallest page has so many pixels."""
    try:
        root = ElementTree.fromstring(metadata or "")
    except ElementTree.ParseError:  # tifffile does not know it either
        return
    claimed: list[float] = [0]
    for element in root.iter():
        with suppress(ValueError, ZeroDivisionError):  # no number: not what tifffile counts by
            of = element.attrib
            sizes = [int(value) for name, value in of.items() if re.fullmatch("Size.", name)]
            claimed.append(math.prod(sizes) // max(area, 1))
            claimed += [int(value) for name, value in of.items() if _COUNTS.fullmatch(name)]
            if {"Start", "End"} <= of.keys():  # what tifffile lists the steps of
                claimed.append((float(of["End"]) - float(of["Start"])) / float(of.get("Step", 1)))
    if not max(claimed) <= _MOST_PLANES:
        raise Unusable(
            f"OME metadata of {max(claimed):.0f} planes, expected {_MOST_PLANES} at most; "
            "save it again"
        )


def _of_series(tiff: Any, series: Any, description: str, planes: bool) -> list[Picture]:
    key = series.keyframe.aspage()
    n_own = len(key.axes)
    axes, shape = series.axes[:-n_own], series.shape[:-n_own]
    n = math.prod(shape)
    one_page = len(series.pages) == 1 < n  # a stack of which all samples follow the first
    own = series.axes[-n_own:].replace("C", "S")  # as LSM calls samples
    if own != key.axes or (n != len(series.pages) and not one_page):
        return [Picture([key], key, reason=f"pages of axes {series.axes}, which do not add up")]
    numbers = np.arange(n).reshape(shape)
    kinds = []
    for name, what, where in (("T", "times", "first"), ("Z", "depths", "middle")):
        if name in axes and not planes:
            at = axes.index(name)
            place = 0 if where == "first" else numbers.shape[at] // 2
            if numbers.shape[at] > 1:
                kinds.append(f"{where} of several {what} (planes=True, --planes take all)")
            numbers = np.take(numbers, place, axis=at)
            axes = axes.replace(name, "", 1)
    n_channels = 1
    if "C" in axes:
        numbers = np.moveaxis(numbers, axes.index("C"), -1)
        n_channels = numbers.shape[-1]
    chosen: Sequence[int] = range(1)
    reason = ""
    if n_channels > 1:
        chosen, reason = _primaries(tiff, description, n_channels)
        if "S" in key.axes:
            reason = f"{n_channels} channels of {key.samplesperpixel} samples each"
        kinds.append("channels by page")
    if one_page and series.dataoffset is None:
        reason = reason or f"one page for {n} planes"
    found = []
    for row in numbers.reshape(-1, n_channels):
        of_row = [int(row[channel]) for channel in chosen]
        if one_page:
            parts = [(series.dataoffset or 0) + number * key.nbytes for number in of_row]
        else:
            parts = [series.pages[number] for number in of_row]
        if all(part is not None for part in parts):  # elsewhere, in another file of its set
            found.append(Picture(parts, key, tuple(kinds), reason))
    return found


def _primaries(tiff: Any, description: str, n: int) -> tuple[Sequence[int], str]:
    """Which of `n` channels are red, green and blue, or why it cannot be said."""
    said: list[list[int | None]] = [[None] * n, [None] * n]
    for channel, text in enumerate(_CHANNEL.findall(description)[:n]):
        stated = dict(_ATTRIBUTE.findall(text))
        said[0][channel] = _PRIMARIES.get(stated.get("Name", "").strip().lower())
        if re.fullmatch(r"-?\d+", stated.get("Color", "")):
            colour = int(stated["Color"]) & 0xFFFFFFFF
            said[1][channel] = _primary([colour >> 24, colour >> 16 & 255, colour >> 8 & 255])
    imagej = tiff.imagej_metadata or {}
    for channel, label in enumerate(imagej.get("Labels", [])[:n]):
        said[0][channel] = _PRIMARIES.get(str(label).strip().lower())
    for channel, table in enumerate(imagej.get("LUTs", [])[:n]):
        said[1][channel] = _primary(np.asarray(table)[:, -1].tolist())
    for primaries in said:
        if all(primaries.count(primary) == 1 for primary in range(3)):
            return [primaries.index(primary) for primary in range(3)], ""
    if n == 3:
        return range(3), ""
    return range(1), f"{n} channels, expected 1 (grey) or 3 (red, green, blue)"


def _primary(colour: Sequence[int]) -> int | None:
    lit = [place for place, value in enumerate(colour) if value]
    return lit[0] if len(lit) == 1 else None


def read(tiff: Any, picture: Picture) -> Samples:
    """Samples of an image, as a viewer shows it."""
    check_pixels(math.prod(picture.shape))
    if picture.reason:
        raise Unusable(picture.reason)
    check_bytes(picture.n_bytes)
    planes, kinds = [], picture.kinds
    for plane in picture.planes:
        if isinstance(plane, int):
            dtype = picture.key.dtype.newbyteorder(tiff.byteorder)
            n_samples = math.prod(picture.key.shape)
            if plane + n_samples * dtype.itemsize > tiff.filehandle.size:
                raise Unusable("truncated")
            flat = tiff.filehandle.read_array(dtype, n_samples, plane)
            planes.append(flat.reshape(picture.key.shape))
        else:
            page = plane.aspage()
            samples, more = _samples(page)
            kinds = tuple(dict.fromkeys((*kinds, *more)))
            planes.append(samples)
    pixels = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    stated = largest_stated(picture.key.tags.valueof)
    if stated is None:  # of all pages, the first has the words
        stated = largest_stated(tiff.pages[0].aspage().tags.valueof)
    if picture.key.photometric == 3:  # the table of colours says it
        stated = None
    return turned(pixels, _orientation(picture.key)), stated, kinds


def _samples(page: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples of a page, grey, RGB, or RGB with alpha, and what they were converted from."""
    import tifffile

    kind, extra = tifffile.PHOTOMETRIC, tifffile.EXTRASAMPLE
    # Before memory is taken for as much.
    if len(page.dataoffsets) != len(page.databytecounts) or not page.dataoffsets:
        raise Unusable("damaged: segments are missing")
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    if max(map(sum, segments)) > page.parent.filehandle.size:
        raise Unusable("truncated")
    n = page.samplesperpixel
    n_colours = {kind.RGB: 3, kind.YCBCR: 3, kind.CIELAB: 3, kind.SEPARATED: 4}.get(
        page.photometric, 1
    )
    extras = list(page.extrasamples)
    if n > 4 + (n_colours == 4) or (n_colours == 1 and n == 2 and extra.UNASSALPHA not in extras):
        raise Unusable(f"{n} channels, expected 1 (grey), 3 (RGB) or 4 (RGB and alpha)")
    if extra.ASSOCALPHA in extras:
        raise Unusable("premultiplied alpha; save it with plain alpha, or without")
    pixels = page.asarray()
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise Unusable(f"expected an image, got axes {page.axes}")
    if n_colours > 1 and extra.UNASSALPHA not in extras and pixels.ndim == 3:
        pixels = pixels[..., :n_colours]  # what is not called alpha is something else
    if page.photometric == kind.MINISWHITE:
        return _highest_of(page, pixels) - pixels, ()
    if page.photometric == kind.PALETTE:
        table = np.asarray(page.colormap)
        if table.max(initial=0) < 256:
            table = table * np.uint16(257)
        colours = (np.moveaxis(table, 0, -1) >> 8).astype(np.uint8)
        return colours[pixels], ("palette",)
    if page.photometric == kind.SEPARATED:
        return by_rows(_without_ink, pixels), ("CMYK",)
    if page.photometric == kind.CIELAB or (
        page.photometric == kind.YCBCR and page.compression not in (6, 7, 33003, 33005, 34712)
    ):
        raise Unusable(f"colours as {page.photometric.name}, expected grey, RGB or CMYK")
    if n == 2:  # grey and alpha
        return np.concatenate([np.repeat(pixels[..., :1], 3, -1), pixels[..., 1:]], -1), ()
    return pixels, ()


def _without_ink(pixels: np.ndarray) -> np.ndarray:
    ink = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    light: np.ndarray = (1 - ink[..., :3]) * (1 - ink[..., 3:4])
    return light


def _highest_of(page: Any, pixels: np.ndarray) -> Any:
    """What is black where white is zero."""
    if pixels.dtype.kind == "f":
        return pixels.dtype.type(1)
    highest = np.iinfo(pixels.dtype).max
    stated = largest_stated(page.tags.valueof)
    if stated is not None and pixels.max(initial=0) <= stated:
        highest = min(highest, stated)
    return pixels.dtype.type(highest)


def _orientation(page: Any) -> int:
    return known_orientation(page.tags.valueof(274, 1))


def known_orientation(value: Any) -> int:
    """1 to 8 as EXIF and TIFF have it; 1 for anything else."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as a viewer shows it: rows and columns where its orientation says they are."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
