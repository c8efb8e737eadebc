"""Fields in, whatever holds them: photographs as they are, large images and slides in tiles.

A tile has a core and, around it, a margin. The cores part the whole image: each cell, by its
centre, belongs to one tile, and the margin shows all of it there. Margins end where the image does.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Integer, known_label, shown
from wbcprof.files import file_digest
from wbcprof.images.decode import settle, stated_pixel_size
from wbcprof.images.depth import Deep, Depth, Outcome, Unusable
from wbcprof.images.groups import groups_in_folders
from wbcprof.images.slides import (
    SLIDE_SUFFIXES,
    TIFF_SUFFIXES,
    LargeTiff,
    Slide,
    is_scan,
    open_slide,
    open_tiff,
)
from wbcprof.images.source import (
    SUFFIXES,
    Array,
    Encoded,
    File,
    Given,
    Listed,
    Rows,
    SkippedImage,
    Stream,
    from_folder,
    in_order,
    is_shallow,
    open_images,
    tell_of_pass,
)
from wbcprof.images.tables import SLIDE_COLUMNS, read_by_image
from wbcprof.images.tiles import (
    Grid,
    Large,
    LargeArray,
    LargePhotograph,
    Place,
    by_full_path,
    content_of,
    seen_on_disk,
)
from wbcprof.threads import resolve_threads

__all__ = ["Field", "FieldSource", "open_fields"]

RULES = {"tile": Integer(64), "margin": Integer(0)}
"""What parameters of `open_fields` may be."""

IMAGES_AND_SLIDES = tuple(sorted({*SUFFIXES, *SLIDE_SUFFIXES, *TIFF_SUFFIXES}))

_NO_FOLDER = "all fields"  # name of the slide of what has no folder, such as arrays
_AHEAD_BYTES = 1 << 30  # of pixels that are decoded before their turn, about


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Field(Shown):
    """One photograph, or one tile of a large one or of a slide file.

    Attributes
    ----------
    field_id : str
        As `wbcprof.images.open_images` has ids; of a tile with the upper left corner of its core:
        ``case7.svs#x008192-y004096``.
    slide : str
        Name of the slide that it is of.
    pixels : uint8 array (H, W, 3)
        RGB, with margins. May share memory with the user's array and may be read-only; of a tile,
        rows need not lie next to one another in memory.
    left, top : int
        Upper left corner of `pixels` in the whole image.
    core : tuple of int
        Left, top, right and bottom within `pixels`; right and bottom are excluded. Cells whose
        centre lies there belong to this field, all others to its neighbours.
    whole : tuple of int
        Rows and columns of the whole image.
    pixel_size : float or None
        Micrometres for each pixel, if the file states it.
    image_id : str
        Of the whole image.

    Examples
    --------
    >>> import numpy as np
    >>> from wbcprof.images import open_fields
    >>> photograph = np.full((300, 400, 3), 255, np.uint8)
    >>> (field,) = open_fields(photograph)
    >>> field.field_id, field.slide, field.core
    ('image_000000', 'all fields', (0, 0, 400, 300))
    """

    field_id: str
    slide: str
    pixels: np.ndarray
    left: int
    top: int
    core: Place
    whole: tuple[int, int]
    pixel_size: float | None
    image_id: str


_Loaded = tuple[Callable[[np.ndarray], Field], Outcome | Deep]
"""What makes a field of its pixels, and these, or why there are none."""


# --- units of fields ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Photographs:
    """Images that are fields as they are, and the slide of each."""

    images: Given
    slides: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def ids(self) -> list[str]:
        return self.images.ids

    @property
    def in_memory(self) -> bool:
        return self.images.in_memory

    @property
    def n_bytes(self) -> int:
        return self.images.n_bytes

    def whole_images(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        return zip(self.ids, self.images.shapes(), strict=True)

    def part(self, start: int, stop: int) -> _Photographs:
        return _Photographs(self.images.part(start, stop), self.slides[start:stop])

    def blocks(self) -> Iterator[_Photographs]:
        slides = iter(self.slides)
        for block in self.images.blocks():
            yield _Photographs(block, tuple(islice(slides, len(block))))

    def load(self) -> list[_Loaded]:
        size = stated_pixel_size(self.images.path) if isinstance(self.images, File) else None

        def make(image_id: str, slide: str, pixels: np.ndarray) -> Field:
            height, width = pixels.shape[:2]
            core = 0, 0, width, height
            return Field(image_id, slide, pixels, 0, 0, core, (height, width), size, image_id)

        return [
            (partial(make, image_id, slide), outcome)
            for image_id, slide, outcome in zip(
                self.ids, self.slides, self.images.load(), strict=True
            )
        ]

    def self_contained(self) -> Iterator[_Photographs]:
        if isinstance(self.images, File):
            yield replace(self, images=by_full_path(self.images))
            return
        if isinstance(self.images, Encoded):
            yield self
            return
        try:
            arrays = self.images.arrays()
        except Unusable:  # said by who reads it
            yield self
            return
        for pixels, image_id, slide in zip(arrays, self.ids, self.slides, strict=True):
            yield _Photographs(Array(pixels, image_id), (slide,))

    def content(self) -> Iterator[bytes]:
        if isinstance(self.images, File):
            yield seen_on_disk(self.images.path)
            return
        with suppress(Unusable):  # said by who reads it
            for pixels in self.images.arrays():
                yield from content_of(pixels)


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Tiles of one large image, by their numbers in its grid."""

    image: Large
    image_id: str
    slide: str
    grid: Grid
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def ids(self) -> list[str]:
        corners = (self.grid.core(number)[:2] for number in self.numbers)
        return [f"{self.image_id}#x{left:06d}-y{top:06d}" for left, top in corners]

    @property
    def slides(self) -> tuple[str, ...]:
        return (self.slide,) * len(self)

    @property
    def in_memory(self) -> bool:
        return self.image.in_memory

    @property
    def n_bytes(self) -> int:
        places = map(self.grid.place, self.numbers)
        return 3 * sum((bottom - top) * (right - left) for left, top, right, bottom in places)

    def whole_images(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        yield self.image_id, (self.grid.rows, self.grid.columns)

    def part(self, start: int, stop: int) -> _Tiles:
        return replace(self, numbers=self.numbers[start:stop])

    def blocks(self) -> Iterator[_Tiles]:
        at_once = self.image.at_once(self.grid)
        if at_once == "all":
            yield self
            return
        each = self.grid.across if at_once == "row" else 1
        for _, numbers in groupby(self.numbers, lambda number: number // each):
            yield replace(self, numbers=list(numbers))

    def load(self) -> list[_Loaded]:
        places = [self.grid.place(number) for number in self.numbers]
        size = self.image.pixel_size()

        def make(field_id: str, number: int, place: Place, pixels: np.ndarray) -> Field:
            left, top = place[:2]
            core = self.grid.core(number)
            return Field(
                field_id,
                self.slide,
                pixels,
                left,
                top,
                (core[0] - left, core[1] - top, core[2] - left, core[3] - top),
                (self.grid.rows, self.grid.columns),
                size,
                self.image_id,
            )

        return [
            (partial(make, field_id, number, place), outcome)
            for field_id, number, place, outcome in zip(
                self.ids, self.numbers, places, self.image.read(places), strict=True
            )
        ]

    def self_contained(self) -> Iterator[_Tiles]:
        for block in self.blocks():
            places = np.array([self.grid.place(number) for number in block.numbers])
            left, top = map(int, places[:, :2].min(0))
            right, bottom = map(int, places[:, 2:].max(0))
            yield replace(block, image=self.image.self_contained((left, top, right, bottom)))

    def content(self) -> Iterator[bytes]:
        yield repr((self.grid, list(self.numbers))).encode()
        yield from self.image.content([self.grid.place(number) for number in self.numbers])


@dataclass(frozen=True, slots=True)
class _Torn:
    """A slide file that cannot be opened, or a file that is there again."""

    image_id: str
    slide: str
    reason: Unusable
    shape: tuple[int, int] | None = None
    in_memory: bool = True
    n_bytes: int = 0

    def __len__(self) -> int:
        return 1

    @property
    def ids(self) -> list[str]:
        return [self.image_id]

    @property
    def slides(self) -> tuple[str, ...]:
        return (self.slide,)

    def whole_images(self) -> Iterator[tuple[str, tuple[int, int] | None]]:
        yield self.image_id, self.shape

    def part(self, start: int, stop: int) -> _Torn:
        return self

    def blocks(self) -> Iterator[_Torn]:
        yield self

    def load(self) -> list[_Loaded]:
        return [(_no_field, self.reason)]

    def self_contained(self) -> Iterator[_Torn]:
        yield self

    def content(self) -> Iterator[bytes]:
        yield str(self.reason).encode()


def _no_field(pixels: np.ndarray) -> Field:
    raise AssertionError("what cannot be opened has no pixels")


_Unit = _Photographs | _Tiles | _Torn


class _Given:
    """Units of what an iterator gives."""

    n = None

    def __init__(self, images: Stream, cut: _Cut):
        self._images, self._cut = images, cut

    def blocks(self) -> Iterator[_Unit]:
        for index, image in enumerate(self._images.blocks()):
            for unit in self._cut.units(image, index):
                yield from unit.blocks()


# --- the source --------------------------------------------------------------------------------


class FieldSource(Shown):
    """Stream of `Field` records; made by `open_fields`.

    Every pass, by ``iter()``, `read` or `sample`, is independent and decodes the fields anew, in
    the same order, so several threads may iterate at once. Only a source built on an iterator can
    be read just once, and has no ids, slides, parts, digest or sample.

    Attributes
    ----------
    n_hint : int or None
        Number of fields offered (tiles included, before any is skipped), if known.
    skipped : list of SkippedImage
        Fields left out in the latest completed pass, and why.
    converted : Counter of str
        What its fields were converted from to 8-bit RGB, and how many.

    Examples
    --------
    >>> import numpy as np
    >>> from wbcprof.images import open_fields
    >>> photographs = np.full((5, 300, 400, 3), 255, np.uint8)
    >>> source = open_fields(photographs, slides=["case 7"] * 3 + ["case 8"] * 2)
    >>> source.n_hint, source.ids()[0], source.slides()[-1]
    (5, 'image_000000', 'case 8')
    >>> for field in source.read(n_threads=2):
    ...     assert field.pixels.shape == (300, 400, 3)
    >>> [field.field_id for field in source.sample(1, slide="case 7")]
    ['image_000001']
    """

    def __init__(
        self,
        units: Listed[_Unit] | _Given,
        largest: int,
        depth: Depth | None = None,
        is_quiet: bool = False,
    ) -> None:
        self._is_quiet = is_quiet
        self._units, self._largest = units, largest
        self._depth = depth or _depth_of(units)
        self.n_hint = units.n
        self.skipped: list[SkippedImage] = []
        self.converted: Counter[str] = Counter()

    def _told(self) -> dict[str, Any]:
        return {
            "fields": "as many as come" if self.n_hint is None else self.n_hint,
            "skipped": len(self.skipped) or None,
        }

    def __iter__(self) -> Iterator[Field]:
        return self.read(1)

    def read(self, n_threads: int | None = None) -> Iterator[Field]:
        """One pass, in which background threads decode a few fields ahead.

        Parameters
        ----------
        n_threads : int, optional
            See `wbcprof.threads.resolve_threads`; fewer where fields are so large that those ahead
            would take more than about a gigabyte. One means none in the background, as ``iter()``
            has it. Arrays in memory need no decoding and start no threads.

        Raises
        ------
        ValueError
            No field was usable.

        Warns
        -----
        ImageWarning
            Once at the end of the pass: fields were skipped or converted.
        """
        n_threads = self._threads(n_threads)
        skipped: list[SkippedImage] = []
        converted: Counter[str] = Counter()
        n = 0
        with closing(in_order(self._units.blocks(), self._load, n_threads, False)) as loaded:
            for field_id, (make, read) in loaded:
                n += 1
                outcome = settle(read, self._depth)
                if isinstance(outcome, Unusable):
                    skipped.append(SkippedImage(field_id, str(outcome)))
                    continue
                pixels, kind = outcome
                converted.update(filter(None, [kind]))
                yield make(pixels)
        self.end_pass(n, skipped, converted)

    def end_pass(self, n: int, skipped: list[SkippedImage], converted: Counter[str]) -> None:
        """Note what became of the `n` fields offered in a pass, and warn of it; for passes that go
        on elsewhere, such as on a cluster.

        Raises
        ------
        NoUsableImage
            No field was usable.
        """
        self.skipped, self.converted = skipped, converted
        tell_of_pass(n, skipped, converted, self._is_quiet)

    def quietly(self) -> FieldSource:
        """The same fields as a source, and parts of it, whose passes are noted and not warned of,
        as `ImageSource.quietly` has it."""
        return FieldSource(self._units, self._largest, self._depth, True)

    def sample(
        self, most: int, *, slide: str | None = None, n_threads: int | None = None
    ) -> Iterator[Field]:
        """At most `most` fields, spread over all, or over those of one slide; the others are not
        decoded, and those that cannot be used are left to `read` to tell of."""
        units = self._listed()
        slides = self.slides()
        of = [place for place, name in enumerate(slides) if slide in (None, name)]
        if not of:
            raise ValueError(f"no slide is named {slide!r}; the first is {slides[0]!r}")
        most = min(most, len(of))
        chosen = [of[(2 * k + 1) * len(of) // (2 * most)] for k in range(most)]
        blocks = (unit for place in chosen for unit in units.part(place, place + 1).units)
        with closing(in_order(blocks, self._load, self._threads(n_threads), False)) as loaded:
            for _, (make, read) in loaded:
                outcome = settle(read, self._depth)
                if not isinstance(outcome, Unusable):
                    yield make(outcome[0])

    def ids(self) -> list[str]:
        """Ids of the fields offered, none decoded."""
        return [field_id for unit in self._listed().units for field_id in unit.ids]

    def slides(self) -> list[str]:
        """The slide of each field offered, none decoded."""
        return [slide for unit in self._listed().units for slide in unit.slides]

    def whole_images(self) -> dict[str, tuple[int, int] | None]:
        """Rows and columns of the images that fields are, or are tiles of, by their ids; None where
        a file does not say."""
        return {name: shape for unit in self._listed().units for name, shape in unit.whole_images()}

    def part(self, start: int, stop: int) -> FieldSource:
        """Fields `start` to `stop` (excluded) as a source with the same ids and slides; the others
        are not read.

        Raises
        ------
        ValueError
            The part is empty or reaches past the last field.
        """
        units = self._listed()
        if not 0 <= start < stop <= units.n:
            raise ValueError(f"a part must lie within the {units.n} fields, got {start} to {stop}")
        return self._with(units.part(start, stop))

    def self_contained(self) -> FieldSource:
        """The same fields for a process elsewhere: by the full paths of files, and with the content
        of arrays."""
        units = [alone for unit in self._listed().units for alone in unit.self_contained()]
        return self._with(Listed(units))

    def digest(self) -> str:
        """Hexadecimal digest of ids, slides, tiles, the content of arrays and the size of files."""
        digest = blake2b(json.dumps([self.ids(), self.slides()]).encode(), digest_size=16)
        for unit in self._listed().units:
            for content in unit.content():
                digest.update(content)
        return digest.hexdigest()

    def _with(self, units: Listed[_Unit]) -> FieldSource:
        return FieldSource(units, self._largest, self._depth, self._is_quiet)

    def _listed(self) -> Listed[_Unit]:
        if isinstance(self._units, _Given):
            raise TypeError(
                "fields from an iterator are known only when they are read, and once; give a list, "
                "an array or a folder"
            )
        return self._units

    def _load(self, unit: _Unit) -> list[_Loaded]:
        loaded = unit.load()
        if self._depth.is_by_order:
            return loaded
        return [(make, settle(outcome, self._depth)) for make, outcome in loaded]

    def _threads(self, n_threads: int | None) -> int:
        if self.n_hint == 1:
            return 1
        return min(resolve_threads(n_threads), max(1, _AHEAD_BYTES // (2 * self._largest)))


def _depth_of(units: Listed[_Unit] | _Given) -> Depth:
    """How many bits the fields have; of an iterator, in their order."""
    if isinstance(units, _Given):
        return Depth()

    def load() -> Iterator[Outcome | Deep]:
        for unit in units.blocks():
            if not (isinstance(unit, _Photographs) and is_shallow(unit.images)):
                yield from (outcome for _, outcome in unit.load())

    return Depth(load)


def open_fields(
    images: Any,
    *,
    slides: str | os.PathLike[str] | Sequence[str] | Mapping[str, str] | None = None,
    tile: int = 4096,
    margin: int = 512,
) -> FieldSource:
    """Turn whatever holds fields of smears into a stream of fields, each small enough to be held.

    Parameters
    ----------
    images
        As `wbcprof.images.open_images` takes them, and slide files: SVS, NDPI, MRXS, SCN, CZI,
        DICOM, BIF, VMS and others that openslide reads, and TIFFs with a pyramid of resolutions.
        These come as tiles of the highest resolution, as do images of more than twice `tile`
        squared pixels. TIFFs are read in parts, other files as a whole; tiles of arrays are views.
        Tiles that a scanner left empty are not offered. Needs ``pip install 'wbcprof[slides]'``.
    slides : str, path, sequence or mapping, optional
        Which slide each image is of; a file of the content of another of its slide is left out:

        - None: a slide file, or a TIFF that is read as one, is a slide of its own, by the name of
          the file (DICOM: of its folder). A photograph is of the sub-folder of the folder that is
          given, or of the deepest that holds all files given; of that folder itself if it lies in
          it directly; from an iterator, of the folder that it lies in. Arrays are of one slide,
          ``"all fields"``.
        - ``"folder:2"``: the second folder of the image's id, counted from the left.
        - ``"pattern:^(.+)_"``: what the first group of this regular expression finds in the name of
          the file.
        - CSV file, in UTF-8: its first line names a column ``image`` (or ``path``, ``file``,
          ``filename``), the ids, and a column ``slide``.
        - One name for each image, in order, or a mapping from the ids of images.
    tile : int
        Rows and columns of the core of a tile.
    margin : int
        Around the core, in pixels; more than the largest cell measures.

    Returns
    -------
    FieldSource

    Raises
    ------
    FileNotFoundError
        A path does not exist.
    ImportError
        A slide file needs the package openslide, or a TIFF imagecodecs.
    TypeError
        `images` or `slides` is of another kind.
    ValueError
        There are no images, or one has no slide.

    Examples
    --------
    >>> import numpy as np
    >>> from wbcprof.images import open_fields
    >>> whole = np.full((200, 500, 3), 255, np.uint8)
    >>> source = open_fields(whole, slides=["case 7"], tile=200, margin=20)
    >>> for field in source:
    ...     print(field.field_id, field.slide, field.pixels.shape, field.core)
    image_000000#x000000-y000000 case 7 (200, 220, 3) (0, 0, 200, 200)
    image_000000#x000200-y000000 case 7 (200, 240, 3) (20, 0, 220, 200)
    image_000000#x000400-y000000 case 7 (200, 120, 3) (20, 0, 120, 200)

    A few fields show how an instrument takes pictures, before all are read:

    >>> [field.left for field in source.sample(1)]
    [180]
    """
    if isinstance(images, FieldSource):
        return images
    tile, margin = RULES["tile"].check("tile", tile), RULES["margin"].check("margin", margin)
    folder = None
    if isinstance(images, str | os.PathLike) and _is_folder_of_images(Path(images)):
        folder = Path(images)
        given: Listed[Given] | Stream = from_folder(folder, IMAGES_AND_SLIDES)
    else:
        given = open_images(images).images
    if isinstance(given, Stream):
        cut = _Cut(tile, margin, _names(slides, None, None))
        return FieldSource(_Given(given, cut), _bytes(2 * tile * tile))
    given = Listed(_one_of_each_series(given.units))
    cut = _Cut(tile, margin, _names(slides, given, folder))
    units: list[_Unit] = []
    once = _Once(given.units)
    n = 0
    for image in given.units:
        own = list(cut.units(image, n))
        first = once.first_of(image, own[0].slides[:1])
        units += own if first is None else _left_out(own, first)
        n += len(image)
    return FieldSource(Listed(units), cut.largest)


class _Once:
    """Files, each of which is a field of its slide once."""

    def __init__(self, units: Sequence[Given]) -> None:
        files = [unit.path for unit in units if isinstance(unit, File) and unit.path.is_file()]
        self._sizes = Counter(path.stat().st_size for path in files)
        self._first: dict[tuple[tuple[str, ...], str], File] = {}

    def first_of(self, image: Given, slide: tuple[str, ...]) -> str | None:
        """The name of an earlier file of the slide that holds the same, if there is one."""
        if not isinstance(image, File) or not image.path.is_file():
            return None
        if self._sizes[image.path.stat().st_size] < 2:
            return None
        first = self._first.setdefault((slide, file_digest(image.path)), image)
        return None if first is image else first.name


def _left_out(units: Sequence[_Unit], first: str) -> Iterator[_Torn]:
    """Units of a file that is there again, as what cannot be read."""
    reason = Unusable(f"the same file as {first!r}, which is of this slide already")
    for unit in units:
        for (image_id, shape), slide in zip(unit.whole_images(), unit.slides, strict=False):
            yield _Torn(image_id, slide, reason, shape)


def _is_folder_of_images(path: Path) -> bool:
    return path.is_dir() and path.suffix.lower() != ".zarr"


def _one_of_each_series(images: Sequence[Given]) -> list[Given]:
    """All but further files of a slide of which DICOM has several, one for each level."""
    kept: list[Given] = []
    seen = set()
    for image in images:
        if isinstance(image, File) and image.path.suffix.lower() == ".dcm":
            slide = open_slide(image.path)
            series = None if isinstance(slide, Unusable) else slide.series()
            if series is not None and (image.path.parent, series) in seen:
                continue
            seen.add((image.path.parent, series))
        kept.append(image)
    return kept


def _bytes(pixels: int) -> int:
    return 3 * pixels


class _Cut:
    """Cuts images into units of fields."""

    def __init__(self, tile: int, margin: int, name: _Name):
        self.tile, self.margin, self._name = tile, margin, name
        self.largest = 1  # bytes of pixels that are read in one go, of the units so far

    def units(self, images: Given, index: int) -> Iterator[_Unit]:
        """Units of the images of which the first is number `index` of all."""
        ids = images.ids
        large = self._large(images)
        is_slide = isinstance(large, Unusable) or any(
            isinstance(image, Slide | LargeTiff) for image in large
        )
        slides = [
            self._name(image_id, images, index + k, is_slide) for k, image_id in enumerate(ids)
        ]
        if isinstance(large, Unusable):
            yield _Torn(ids[0], slides[0], large)
        elif large:
            for image, image_id, slide in zip(large, ids, slides, strict=True):
                grid = Grid(*image.shape, self.tile, self.margin)
                self._note(_pixels_at_once(image, grid))
                yield _Tiles(image, image_id, slide, grid, image.offered(grid))
        else:
            shapes = [shape for shape in images.shapes() if shape]
            self._note(max(map(math.prod, shapes), default=1))
            yield _Photographs(images, tuple(slides))

    def _large(self, images: Given) -> Sequence[Large] | Unusable:
        """What tiles are cut from, for each of the images; none for images of moderate size."""
        most = 2 * self.tile**2
        if isinstance(images, File) and images.path.is_file():  # a pipe would wait
            suffix = images.path.suffix.lower()
            if suffix in SLIDE_SUFFIXES or (suffix in TIFF_SUFFIXES and is_scan(images.path)):
                slide = open_slide(images.path)
                return slide if isinstance(slide, Unusable) else [slide]
            if suffix in TIFF_SUFFIXES and (pages := open_tiff(images, most)):
                return pages
        shapes = images.shapes()  # of a unit, all are of one size
        shape = shapes[0] if shapes else None
        if shape is None or len(shape) != 2 or math.prod(shape) <= most:
            return []
        if isinstance(images, File):
            return [LargePhotograph(images.part(k, k + 1), shape) for k in range(len(images))]
        if isinstance(images, Encoded):
            return []
        if isinstance(images, Rows):
            return [LargeArray(images.array, shape, k) for k in range(images.start, images.stop)]
        return [LargeArray(images.array, shape)]

    def _note(self, pixels: int) -> None:
        self.largest = max(self.largest, _bytes(pixels))


def _pixels_at_once(image: Large, grid: Grid) -> int:
    rows, columns = image.shape
    side = grid.tile + 2 * grid.margin
    return {
        "tile": min(side, rows) * min(side, columns),
        "row": min(side, rows) * columns,
        "all": rows * columns,
    }[image.at_once(grid)]


# --- which slide an image is of ----------------------------------------------------------------

_Name = Callable[[str, Given, int, bool], str]
"""Slide of the image of this id, in this unit, that is such a number of all, and a slide file or
not."""


def _names(
    slides: str | os.PathLike[str] | Iterable[str] | Mapping[str, str] | None,
    given: Listed[Given] | None,
    folder: Path | None,
) -> _Name:
    """How slides are named; images of an iterator are not given, and have no folder."""
    if slides is None:
        return _by_folder(given, folder)
    if isinstance(slides, str | os.PathLike):
        ids = [] if given is None else [i for block in given.blocks() for i in block.ids]
        return _by_text(os.fspath(slides), ids)
    if isinstance(slides, Mapping):
        return _by_table(slides, "slides")
    if not isinstance(slides, Sequence | np.ndarray):
        raise TypeError(
            "slides must be a CSV file, 'folder:2', 'pattern:REGEX', one name for each image, or "
            f"a mapping from ids to names, got {shown(slides)}"
        )
    names = [known_label(name) for name in slides]
    if given is not None and len(names) != given.n:
        raise ValueError(f"Length of slides ({len(names)}) must match number of images ({given.n})")

    def name(image_id: str, images: Given, index: int, is_slide: bool) -> str:
        if index >= len(names):
            raise ValueError(f"slides names {len(names)} slides, but there are more images")
        return _known(names[index], image_id, f"item {index} of slides is empty")

    return name


def _by_folder(given: Listed[Given] | None, folder: Path | None) -> _Name:
    files = [unit for unit in given.units if isinstance(unit, File)] if given else []
    if files and folder is None:
        parents = {os.path.dirname(os.path.abspath(file.path)) for file in files}
        folder = Path(os.path.commonpath(parents))
    dicom = Counter(file.path.parent for file in files if file.path.suffix.lower() == ".dcm")

    def own_name(file: File) -> str:
        # DICOM names files by numbers and has a folder for each slide.
        if dicom[file.path.parent] == 1 and file.path.suffix.lower() == ".dcm":
            return Path(os.path.abspath(file.path)).parent.name
        return file.path.stem.removesuffix(".ome")

    named = Counter(map(own_name, files))

    def name(image_id: str, images: Given, index: int, is_slide: bool) -> str:
        if not isinstance(images, File):
            return _NO_FOLDER
        if is_slide:
            own = own_name(images)
            return own if named[own] < 2 else os.path.splitext(images.name)[0]
        above = Path(os.path.abspath(images.path)).parent
        if folder is None:
            return above.name or _NO_FOLDER
        root = Path(os.path.abspath(folder))
        return (*above.relative_to(root).parts, root.name or _NO_FOLDER)[0]

    return name


def _by_text(how: str, ids: Sequence[str]) -> _Name:
    kind, _, value = how.partition(":")
    if kind == "folder":
        return lambda image_id, *_: groups_in_folders(value, [image_id])[image_id]
    if kind != "pattern":
        if not os.path.exists(how):
            raise FileNotFoundError(
                f"No such file: {how!r}; slides come from a CSV file, folder:2 or pattern:REGEX"
            )
        return _by_table(read_by_image(how, SLIDE_COLUMNS, ids), repr(how))
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise ValueError(f"{how!r} is not a regular expression: {error}") from error
    if pattern.groups == 0:
        raise ValueError(f"{how!r} has no group: put what names the slide in brackets, ( )")

    def name(image_id: str, images: Given, index: int, is_slide: bool) -> str:
        file_name = image_id.replace("\\", "/").rpartition("/")[2]
        found = pattern.search(file_name)
        return _known(found[1] if found else None, image_id, f"{how!r} finds none in its name")

    return name


def _by_table(table: Mapping[str, str], what: str) -> _Name:
    reason = f"{what} does not name it; its own first image is {next(iter(table), 'none')!r}"
    return lambda image_id, *_: _known(table.get(image_id), image_id, reason)


def _known(name: Any, image_id: str, reason: str) -> str:
    slide = known_label(name)
    if slide is None:
        raise ValueError(f"the image {image_id!r} has no slide: {reason}")
    return slide
