"""Large images, read a place at a time: arrays, and files that are decoded as a whole.

`wbcprof.images.slides` has those that are read in parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from wbcprof.checks import told
from wbcprof.files import sampled_digest
from wbcprof.images.decode import is_of_the_system, read_array, stated_pixel_size, to_rgb8
from wbcprof.images.depth import Deep, Outcome, Unusable
from wbcprof.images.source import File

Place = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels; right and bottom are excluded."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles of a whole image of so many rows and columns, numbered along rows."""

    rows: int
    columns: int
    tile: int
    margin: int

    @property
    def across(self) -> int:
        return -(-self.columns // self.tile)

    @property
    def n(self) -> int:
        return self.across * -(-self.rows // self.tile)

    def core(self, number: int) -> Place:
        row, column = divmod(number, self.across)
        left, top = column * self.tile, row * self.tile
        right, bottom = min(left + self.tile, self.columns), min(top + self.tile, self.rows)
        return left, top, right, bottom

    def place(self, number: int) -> Place:
        """Where the tile lies, with its margins."""
        left, top, right, bottom = self.core(number)
        return (
            max(left - self.margin, 0),
            max(top - self.margin, 0),
            min(right + self.margin, self.columns),
            min(bottom + self.margin, self.rows),
        )


class Large(Protocol):
    """A large image, which tiles are cut from."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def in_memory(self) -> bool: ...
    def at_once(self, grid: Grid) -> Literal["tile", "row", "all"]:
        """How many tiles are read in one go."""

    def pixel_size(self) -> float | None: ...
    def offered(self, grid: Grid) -> Sequence[int]:
        """Numbers of the tiles that may show something."""

    def read(self, places: Sequence[Place]) -> Iterator[Outcome | Deep]:
        """Pixels of each place, in order."""

    def self_contained(self, place: Place) -> Large:
        """The same for a process elsewhere that reads no more than this place."""

    def content(self, places: Sequence[Place]) -> Iterator[bytes]:
        """What a digest of these places is made of: of arrays the pixels, of files the size."""


@dataclass(frozen=True, slots=True)
class LargeArray:
    """An array (H, W, C), or number `index` of one (n, H, W, C); or what lies from `left`, `top` on
    of one of this shape."""

    array: Any
    shape: tuple[int, int]
    index: int | None = None
    left: int = 0
    top: int = 0

    @property
    def in_memory(self) -> bool:
        return isinstance(self.array, np.ndarray)

    def at_once(self, grid: Grid) -> Literal["tile"]:
        return "tile"

    def offered(self, grid: Grid) -> Sequence[int]:
        return range(grid.n)

    def pixel_size(self) -> None:
        return None

    def read(self, places: Sequence[Place]) -> Iterator[Outcome | Deep]:
        for place in places:
            try:
                pixels = self._cut(place)
            except MemoryError:
                raise
            except Exception as error:  # of whichever library stores the array
                if is_of_the_system(error):
                    raise
                yield Unusable(f"cannot be read: {told(error)}")
            else:
                yield as_rgb(pixels)

    def self_contained(self, place: Place) -> LargeArray:
        return replace(self, array=self._cut(place), index=None, left=place[0], top=place[1])

    def content(self, places: Sequence[Place]) -> Iterator[bytes]:
        for place in places:
            yield from content_of(self._cut(place))

    def _cut(self, place: Place) -> np.ndarray:
        left, top, right, bottom = place
        rows = slice(top - self.top, bottom - self.top)
        columns = slice(left - self.left, right - self.left)
        where = (rows, columns) if self.index is None else (self.index, rows, columns)
        return np.asarray(self.array[where])


@dataclass(frozen=True, slots=True)
class LargePhotograph:
    """An image file that can only be decoded as a whole."""

    file: File
    shape: tuple[int, int]
    in_memory: bool = False

    def at_once(self, grid: Grid) -> Literal["all"]:
        return "all"

    def offered(self, grid: Grid) -> Sequence[int]:
        return range(grid.n)

    def pixel_size(self) -> float | None:
        return stated_pixel_size(self.file.path)

    def read(self, places: Sequence[Place]) -> Iterator[Outcome | Deep]:
        (outcome,) = self.file.load()
        if isinstance(outcome, Unusable):
            yield from [outcome] * len(places)
            return
        deep = outcome if isinstance(outcome, Deep) else None
        pixels, kind = (outcome.pixels, "") if isinstance(outcome, Deep) else outcome
        if pixels.shape[:2] != self.shape:
            changed = Unusable(f"expected {self.shape} px, got {pixels.shape[:2]}: it changed")
            yield from [changed] * len(places)
            return
        for left, top, right, bottom in places:
            part = pixels[top:bottom, left:right]
            yield (part, kind) if deep is None else replace(deep, pixels=part)

    def self_contained(self, place: Place) -> LargePhotograph:
        return replace(self, file=by_full_path(self.file))

    def content(self, places: Sequence[Place]) -> Iterator[bytes]:
        yield seen_on_disk(self.file.path)


def as_rgb(pixels: np.ndarray, stated: int | None = None) -> Outcome | Deep:
    """RGB of a part of an image: a view of it where it can be."""
    if pixels.dtype == np.uint8 and pixels.shape[2:] == (3,):
        return pixels, ""
    if stated is None:
        return read_array(pixels)
    try:
        return to_rgb8(pixels, stated)
    except Unusable as error:
        return error


def content_of(pixels: np.ndarray) -> Iterator[bytes]:
    yield f"{pixels.dtype} {pixels.shape}".encode()
    yield np.ascontiguousarray(pixels).tobytes()


def by_full_path(file: File) -> File:
    return replace(file, path=Path(os.path.abspath(file.path)))


def seen_on_disk(path: Path) -> bytes:
    """What tells a file from another one of its name, or why it cannot be opened."""
    try:
        return sampled_digest(path).encode()
    except OSError as error:
        return str(error.errno).encode()
