"""Slide files and large TIFFs, read in parts: TIFFs by tifffile, what scanners write by openslide.

An image takes no more memory than the part that is asked for, and the segments that it lies in.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from wbcprof.checks import told
from wbcprof.images import tiff as pages_of
from wbcprof.images.decode import part_in_srgb, pixel_size, reasons, to_rgb8
from wbcprof.images.depth import Deep, Outcome, Unusable, is_beyond_limit
from wbcprof.images.source import File
from wbcprof.images.tiles import Grid, Place, as_rgb, seen_on_disk

SLIDE_SUFFIXES = (
    ".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu", ".vsi",
)  # fmt: skip
TIFF_SUFFIXES = (".btf", ".tif", ".tiff")

_OPEN_FILES = 4  # that are kept open between tiles: those of a slide that ends and of the next
_BAND_BYTES = 512 << 20  # of a row of tiles that is decoded in one go
_STRIP_BYTES = 1 << 30  # of one compressed segment, at most
_SQUARE = 1024  # px that openslide draws in one go: twice as fast as a tile, which fills no cache
_BLANK_AT = 8  # times smaller, at most: there a leukocyte still is several pixels
_OVERVIEW_PIXELS = 1 << 24  # of the level that is looked at as a whole, at most


# --- TIFF --------------------------------------------------------------------------------------


def open_tiff(file: File, most: int) -> list[LargeTiff] | Unusable | None:
    """The image of a TIFF, or its pages, if it has a pyramid or more than `most` pixels; None for
    what is read as photographs are, unreadable files and other kinds of samples among them; why
    not, if it is too large for that.

    Raises
    ------
    ImportError
        Its compression needs the package imagecodecs.
    """
    try:
        import tifffile
    except ImportError:
        return None
    logging.getLogger("tifffile").addHandler(pages_of.SILENT)
    n_pixels = 0
    try:
        with tifffile.TiffFile(file.path, _multifile=False) as tiff:
            images = pages_of.pictures(tiff)
            first = images[0].key
            is_pyramidal = any(
                series.is_pyramidal and series.levels[0].keyframe.index == first.index
                for series in tiff.series
            )
            n_pixels = math.prod(first.shaped[2:4])
            if not is_pyramidal and n_pixels <= most:
                return None
            if file.pages is not None:
                images = [images[number] for number in file.pages]
            planes = [image.planes[0] for image in images]
            if any(isinstance(plane, int) for plane in planes):
                raise Unusable("planes without pages, which are read as a whole")
            numbers = [plane.index for plane in planes]
            if any(len(image.planes) > 1 or image.reason for image in images):
                raise Unusable("channels by page, which are read as a whole")
            numbers = numbers[:1] if file.pages is None else numbers
        pages = [_page(file.path, _stamp(file.path), number) for number in numbers]
        found = [
            LargeTiff(file.path, number, page.shape, page.micrometres, page.is_long)
            for number, page in zip(numbers, pages, strict=True)
        ]
    except (ImportError, MemoryError):
        raise
    except Unusable as error:
        return error if is_beyond_limit(n_pixels) else None
    except Exception:  # tifffile raises almost any kind; said when the file is read
        return None
    return found


@dataclass(frozen=True, slots=True)
class LargeTiff:
    """A page of a TIFF, read by the strips or tiles that it is stored in."""

    path: Path
    number: int
    shape: tuple[int, int]
    micrometres: float | None
    is_long: bool  # stored in strips that have to be decoded to their end
    in_memory: bool = False

    def at_once(self, grid: Grid) -> Literal["tile", "row"]:
        """A row of tiles, if it is not too large, where strips would be decoded for each anew."""
        rows = min(grid.tile + 2 * grid.margin, grid.rows)
        return "row" if self.is_long and 3 * rows * grid.columns <= _BAND_BYTES else "tile"

    def pixel_size(self) -> float | None:
        return self.micrometres

    def offered(self, grid: Grid) -> Sequence[int]:
        """All but what the file has no data of, as scanners leave out what they did not take."""
        page = _page(self.path, _stamp(self.path), self.number)
        if all(page.counts):
            return range(grid.n)
        some = [
            number
            for number in range(grid.n)
            if any(page.counts[index] for index in page.segments(grid.place(number)))
        ]
        return some or range(grid.n)

    def read(self, places: Sequence[Place]) -> Iterator[Outcome | Deep]:
        left, top = (min(place[k] for place in places) for k in (0, 1))
        right, bottom = (max(place[k] for place in places) for k in (2, 3))
        try:
            with reasons():
                page = _page(self.path, _stamp(self.path), self.number)
                if page.shape != self.shape:
                    raise Unusable(f"expected {self.shape} px, got {page.shape}: it changed")
                with open(self.path, "rb", buffering=0) as file:
                    pixels = page.read(file, (left, top, right, bottom))
            converted = part_in_srgb(pixels, page.profile)
        except Unusable as error:
            if len(places) == 1:
                yield error
            else:  # some of it may still be read
                for place in places:
                    yield from self.read([place])
            return
        for x, y, x_end, y_end in places:
            part = np.s_[y - top : y_end - top, x - left : x_end - left]
            if converted is None:
                yield as_rgb(pixels[part], page.stated)
            else:
                yield to_rgb8(converted[part], None, ("colour-managed",))

    def self_contained(self, place: Place) -> LargeTiff:
        return replace(self, path=Path(os.path.abspath(self.path)))

    def content(self, places: Sequence[Place]) -> Iterator[bytes]:
        yield seen_on_disk(self.path)


class _Page:
    """Where the segments of a page lie in its file, and how they are decoded."""

    def __init__(self, page: Any, file_size: int):
        import tifffile

        kind = tifffile.PHOTOMETRIC
        if page.tags.valueof(274, 1) != 1:
            raise Unusable("turned by its orientation, which is read as a whole")
        self.stated = pages_of.largest_stated(page.tags.valueof)
        self.is_inverted = page.photometric == kind.MINISWHITE
        self.profile: bytes | None = page.tags.valueof(34675)
        is_jpeg = page.compression in (6, 7, 34892, 33007)
        if page.photometric not in (kind.MINISWHITE, kind.MINISBLACK, kind.RGB) and not (
            page.photometric == kind.YCBCR and is_jpeg
        ):
            raise Unusable(f"expected RGB or grey, got {page.photometric.name}")
        if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
            raise Unusable("premultiplied alpha")
        self.n_planes, depth, rows, columns, self.n_samples = page.shaped
        if depth != 1:
            raise Unusable("expected an image, got a volume")
        # Alpha is kept; what a file does not call alpha is something else.
        unspecified = sum(kind == tifffile.EXTRASAMPLE.UNSPECIFIED for kind in page.extrasamples)
        self.n_kept = self.n_planes * self.n_samples - unspecified
        self.shape, self.dtype = (rows, columns), page.dtype
        numerator, denominator = page.tags.valueof(282, (0, 0))
        self.micrometres = pixel_size(
            page.description, numerator / (denominator or 1), page.tags.valueof(296)
        )
        self.is_tiled = page.is_tiled
        self.rows, self.columns = (
            (page.tilelength, page.tilewidth)
            if page.is_tiled
            else (min(page.rowsperstrip, rows), columns)
        )
        self.down, self.across = -(-rows // self.rows), -(-columns // self.columns)
        self.offsets, self.counts = page.dataoffsets, page.databytecounts
        if not (len(self.offsets) == len(self.counts) == self.n_planes * self.down * self.across):
            raise Unusable("damaged: segments are missing")
        self.file_size = file_size
        self.itemsize = page.dtype.itemsize
        # Rows that lie in the file as they are in the image are read without their neighbours.
        self.is_plain = (
            page.compression == 1
            and page.predictor == 1
            and page.fillorder == 1
            and page.bitspersample == 8 * self.itemsize
            and not page.is_tiled
        )
        self.is_long = not (page.is_tiled or self.is_plain)
        self.byteorder = page.parent.byteorder
        segment = self.rows * self.columns * self.n_samples * self.itemsize
        if not self.is_plain and segment > _STRIP_BYTES:
            raise Unusable(
                f"stored as one piece of {segment >> 20} MB, which can only be read as a whole; "
                "save it with tiles or short strips"
            )
        self._decode = page.decode
        self._more: dict[str, Any] = {}
        if is_jpeg:
            self._more = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        try:
            self._decode(None, 0)
        except ValueError as error:
            if "imagecodecs" in str(error):
                raise ImportError(
                    f"'{page.parent.filehandle.path}': {told(error)}: pip install 'wbcprof[slides]'"
                ) from error
            raise

    def segments(self, place: Place) -> Iterator[int]:
        """Numbers of the segments that a place lies in."""
        left, top, right, bottom = place
        for plane in range(self.n_planes):
            for row in range(top // self.rows, -(-bottom // self.rows)):
                for column in range(left // self.columns, -(-right // self.columns)):
                    yield (plane * self.down + row) * self.across + column

    def read(self, file: BinaryIO, place: Place) -> np.ndarray:
        """Samples of a place, (H, W) or (H, W, C)."""
        left, top, right, bottom = place
        white = 0 if self.is_inverted else _white(self.dtype)
        out = np.full(
            (self.n_planes, bottom - top, right - left, self.n_samples), white, self.dtype
        )
        for index in self.segments(place):
            if not self.counts[index]:
                continue
            if self.offsets[index] + self.counts[index] > self.file_size:
                raise Unusable("truncated")
            plane, row = divmod(index // self.across, self.down)
            row *= self.rows
            if self.is_plain:
                self._read_rows(file, index, row, place, out[plane])
                continue
            column = index % self.across * self.columns
            data = os.pread(file.fileno(), self.counts[index], self.offsets[index])
            pixels = self._decode(data, index, **self._more)[0][0]
            first, last = max(row, top), min(row + pixels.shape[0], bottom)
            start, stop = max(column, left), min(column + pixels.shape[1], right)
            out[plane, first - top : last - top, start - left : stop - left] = pixels[
                first - row : last - row, start - column : stop - column
            ]
        pixels = out[0] if self.n_planes == 1 else np.moveaxis(out[..., 0], 0, -1)
        kept: np.ndarray = pixels[..., : self.n_kept]
        return _white(self.dtype) - kept if self.is_inverted else kept

    def _read_rows(
        self, file: BinaryIO, index: int, row: int, place: Place, out: np.ndarray
    ) -> None:
        left, top, right, bottom = place
        pixel = self.n_samples * self.itemsize
        stored = self.dtype.newbyteorder(self.byteorder)
        for y in range(max(row, top), min(row + self.rows, bottom)):
            start = ((y - row) * self.columns + left) * pixel
            data = os.pread(file.fileno(), (right - left) * pixel, self.offsets[index] + start)
            out[y - top] = np.frombuffer(data, stored).reshape(right - left, self.n_samples)


def _white(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind in "ui" else 1


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes with the file, and with the process: handles do not survive a fork."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, os.getpid()


@lru_cache(maxsize=_OPEN_FILES)
def _page(path: Path, stamp: tuple[int, int, int], number: int) -> _Page:
    import tifffile

    with tifffile.TiffFile(path, _multifile=False) as tiff:
        return _Page(tiff.pages[number].aspage(), stamp[0])


# --- openslide ---------------------------------------------------------------------------------


def is_scan(path: Path) -> bool:
    """Whether a TIFF is of a scanner's own kind, as openslide knows them."""
    try:
        import openslide
    except (ImportError, OSError):  # the package, or the library that it wraps
        return False
    try:
        return openslide.OpenSlide.detect_format(path) not in (None, "generic-tiff")
    except openslide.OpenSlideError:  # torn; said when the file is read
        return False


def open_slide(path: Path) -> Slide | Unusable:
    """A slide file, or why it cannot be used.

    Raises
    ------
    ImportError
        The package openslide is missing.
    """
    if path.suffix.lower() == ".vsi":
        return Unusable("VSI cannot be read: export it as OME-TIFF or SVS")
    try:
        import openslide  # noqa: F401
    except (ImportError, OSError) as error:
        raise ImportError(
            f"'{path}' needs the package openslide: pip install 'wbcprof[slides]'"
        ) from error
    try:
        with _slide_reasons():
            if path.stat().st_size == 0:
                raise Unusable("empty file")
            handle = _handle(path, _stamp(path))
            known = handle.properties
            columns, rows = handle.dimensions
            return Slide(
                path,
                (rows, columns),
                _micrometres(known.get("openslide.mpp-x")),
                known.get("openslide.quickhash-1") or seen_on_disk(path).decode(),
            )
    except Unusable as error:
        return error


@dataclass(frozen=True, slots=True)
class Slide:
    """Level 0 of a slide file; white where the scanner took nothing."""

    path: Path
    shape: tuple[int, int]
    micrometres: float | None
    fingerprint: str
    in_memory: bool = False

    def at_once(self, grid: Grid) -> Literal["tile"]:
        return "tile"

    def pixel_size(self) -> float | None:
        return self.micrometres

    def series(self) -> str | None:
        """What DICOM files of the same slide share."""
        found: str | None = _handle(self.path, _stamp(self.path)).properties.get(
            "dicom.SeriesInstanceUID"
        )
        return found

    def offered(self, grid: Grid) -> Sequence[int]:
        """All but tiles of one colour throughout, or none: what the scanner did not take."""
        try:
            with _slide_reasons():
                return self._offered(grid) or range(grid.n)
        except Unusable:  # each tile will say so
            return range(grid.n)

    def _offered(self, grid: Grid) -> Sequence[int]:
        handle = _handle(self.path, _stamp(self.path))
        last = handle.level_count - 1
        width, height = handle.level_dimensions[last]
        near = handle.get_best_level_for_downsample(_BLANK_AT)
        if near == 0 or width * height > _OVERVIEW_PIXELS:
            return range(grid.n)
        overview = _on_white(np.asarray(handle.read_region((0, 0), last, (width, height))))
        scale = handle.level_downsamples[last]

        def is_blank(number: int) -> bool:
            left, top, right, bottom = place = grid.place(number)
            rows = slice(int(top / scale), math.ceil(bottom / scale) + 1)
            small = overview[rows, int(left / scale) : math.ceil(right / scale) + 1]
            if not _is_one_colour(small):
                return False
            closer = handle.level_downsamples[near]
            size = math.ceil((right - left) / closer), math.ceil((bottom - top) / closer)
            return _is_one_colour(_on_white(np.asarray(handle.read_region(place[:2], near, size))))

        return [number for number in range(grid.n) if not is_blank(number)]

    def read(self, places: Sequence[Place]) -> Iterator[Outcome]:
        for place in places:
            try:
                yield self._read(place), ""
            except Unusable as error:
                yield error

    def _read(self, place: Place) -> np.ndarray:
        with _slide_reasons():
            import openslide

            try:
                return _level_0(_handle(self.path, _stamp(self.path)), place)
            except openslide.OpenSlideError:
                # A handle that failed once, perhaps elsewhere in the file, fails ever after.
                with openslide.OpenSlide(self.path) as handle:
                    return _level_0(handle, place)

    def self_contained(self, place: Place) -> Slide:
        return replace(self, path=Path(os.path.abspath(self.path)))

    def content(self, places: Sequence[Place]) -> Iterator[bytes]:
        yield self.fingerprint.encode()


def _level_0(handle: Any, place: Place) -> np.ndarray:
    """RGB of a place, read square by square."""
    left, top, right, bottom = place
    out = np.empty((bottom - top, right - left, 3), np.uint8)
    # From multiples of the side, so that few of the file's own tiles are cut.
    for y in range(top // _SQUARE * _SQUARE, bottom, _SQUARE):
        for x in range(left // _SQUARE * _SQUARE, right, _SQUARE):
            a, b = max(x, left), max(y, top)
            size = min(x + _SQUARE, right) - a, min(y + _SQUARE, bottom) - b
            pixels = np.asarray(handle.read_region((a, b), 0, size))
            out[b - top :, a - left :][: size[1], : size[0]] = _on_white(pixels)
    return out


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """RGBA to RGB."""
    rgb, alpha = pixels[..., :3], pixels[..., 3]
    if alpha.min(initial=255) < 255:
        rgb, beside = rgb.copy(), alpha < 255
        share = alpha[beside, None] / np.float32(255)
        rgb[beside] = np.rint(rgb[beside] * share + 255 * (1 - share)).astype(np.uint8)
    return rgb


def _is_one_colour(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[:1, :1]).all())


def _micrometres(text: str | None) -> float | None:
    try:
        size = float(text or "nan")
    except ValueError:
        return None
    return size if math.isfinite(size) and size > 0 else None


@contextmanager
def _slide_reasons() -> Iterator[None]:
    import openslide

    try:
        with reasons():
            yield
    except Unusable as error:
        if isinstance(error.__cause__, openslide.OpenSlideUnsupportedFormatError):
            raise Unusable("not a slide file that openslide reads") from error
        raise


@lru_cache(maxsize=_OPEN_FILES)
def _handle(path: Path, stamp: tuple[int, int, int]) -> Any:
    import openslide

    return openslide.OpenSlide(path)
