"""Leukocytes in a field: where they are, how large, and what of them is nucleus.

One setting for every magnification and stain, in units of the red cell, which is the ruler of a
smear. The field is reduced until a red cell is about `_DIAMETER` px across; then::

    light      background: the brightest pixels of every part of the field, smoothed
    levels     of the field, from a sample of it: what is not background, how red cells are stained
    leukocytes what is stained more, by a level of its own; ``finder.c`` has the rest

Levels once, a field of any size is seen in tiles, which reach over their edges by more than a
leukocyte: each belongs to the tile that has its centre.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from wbcprof import _core
from wbcprof._shown import shown
from wbcprof.checks import Real
from wbcprof.smear.stain import check_image
from wbcprof.threads import resolve_threads

RULE = Real(above=6, most=40_000)
"""What the diameter of a red cell, px, may be: of fewer nothing can be told of its leukocytes."""

_DIAMETER = 16.0  # px of a red cell in the reduced field
_PART = 1.5  # red cells: side of a part of the field, of which the light is measured
_CLEAR = 60  # percentile of nine parts: one that is clear
_DARKEST = 0.6  # of the light of a bright part: none is darker
_UNIT = 1024  # of density, natural logarithm
_OFFSET = 4.0  # grey levels
_SAMPLE, _SQUARES = 256, 4  # px of squares of the reduced field, in rows and columns of so many
_FOREGROUND = (0.08, 0.15)  # optical density of green, least and most, of what is not background
_OTSU_SHARE = 0.7
_LEVEL = 0.45  # between red cells, 0, and the densest, 1: nuclei begin
_DENSEST = 0.25  # squares of red cells: as much is denser than what the densest is taken for
_MOST_RED_CELLS = 0.4  # of that of the densest: red cells
_LEAST_RATIO, _LEAST = 2.0, 0.25  # of nuclei to red cells, and by itself
_CROP = 6.0  # red cells along the shorter side: what is smaller is cut out about a leukocyte
_RIM = 0.5  # of the share of pixels that are dense: at the edges of such
_ALONE = 0.68  # of the densest, there: nuclei begin
_CONTRAST = 3.6  # of nuclei to red cells: no pile is as dense
_COLOUR = 1.2  # red and green over blue, of nuclei to red cells: no pile is as blue
_FAINT = 0.05  # optical density: red cells are taken for no fainter, lest noise be divided by
_TILE = 1024  # px of the reduced field
_MARGIN = 8.0  # red cells around a tile: no leukocyte reaches further
_LEAST_AREA = 0.15  # squares of red cells: no nucleus is smaller, even one that is cut


@shown
class FoundLeukocyte(NamedTuple):
    """A leukocyte of a field.

    Attributes
    ----------
    y, x : float
        Centre of its nucleus, px.
    nucleus : float
        Square root of the area of the nucleus, px.
    area : float
        Of the cell, px squared.
    box : tuple of 4 float
        Left, top, right and bottom of the cell, px.
    is_cut : bool
        Whether the edge of the field cuts it.
    contrast : float
        How much denser it is stained than red cells, as a ratio.

    Examples
    --------
    >>> from wbcprof.datasets import make_smear
    >>> from wbcprof.smear import find_leukocytes
    >>> smear = make_smear(1)  # generated
    >>> first = find_leukocytes(smear.images[0], 7.5 / smear.pixel_size)[0]
    >>> left, top, right, bottom = first.box
    >>> left < first.x < right and top < first.y < bottom and first.nucleus < right - left
    True
    """

    y: float
    x: float
    nucleus: float
    area: float
    box: tuple[float, float, float, float]
    is_cut: bool
    contrast: float


class Outlines(NamedTuple):
    """`find_leukocytes`, and the pixels of each.

    Attributes
    ----------
    found : list of FoundLeukocyte
    nuclei, cells : ndarray of shape (h, w), int32
        Number of the leukocyte of each pixel of the reduced field, from 1; 0 is none.
    stained : ndarray of shape (h, w), bool
        What is not background.
    factor : int
        Pixels of the field for each of the reduced one.
    """

    found: list[FoundLeukocyte]
    nuclei: np.ndarray
    cells: np.ndarray
    stained: np.ndarray
    factor: int


def find_leukocytes(
    field: np.ndarray, red_cell_diameter: float, *, n_threads: int | None = None
) -> list[FoundLeukocyte]:
    """Leukocytes of a field (H, W, 3), uint8, of any size, from top to bottom.

    Touching leukocytes are parted where what joins them is narrow. Red cells in piles, platelets
    and stain deposit are told by size and colour; a large clump of platelets or a smudged cell may
    be taken for one.

    Parameters
    ----------
    field : ndarray of shape (H, W, 3), uint8
    red_cell_diameter : float
        px, such as `measure_instrument` finds it.
    n_threads : int, optional
        Default ``WBCPROF_NUM_THREADS``, else all CPUs of this process. What is found does not
        depend on it.

    Raises
    ------
    ValueError
        What is given is no image, or red cells are 6 px across or less.

    Examples
    --------
    >>> import numpy as np
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear import find_leukocytes
    >>> (cell,) = make_leukocytes(1, size=192, types=["monocyte"]).images  # generated
    >>> found = find_leukocytes(np.tile(cell, (1, 2, 1)), red_cell_diameter=40)
    >>> [round(one.x / 96) for one in found]
    [1, 3]
    """
    n_threads = resolve_threads(n_threads)
    seen = _Seen.of(field, red_cell_diameter, n_threads)
    found: list[FoundLeukocyte] = []
    for own in _map(seen.leukocytes_of, seen.tiles(), n_threads):
        found += own
    return sorted(found)


def outline_leukocytes(field: np.ndarray, red_cell_diameter: float) -> Outlines:
    """`find_leukocytes` of a field that is seen as one tile, with the pixels of each."""
    seen = _Seen.of(field, red_cell_diameter, 1)
    found, nuclei, cells, green = seen.look((0, 0, seen.height, seen.width))
    order = sorted(range(len(found)), key=found.__getitem__)
    number = np.zeros(len(found) + 1, np.int32)
    number[np.array(order, int) + 1] = np.arange(len(found)) + 1
    there = [found[i] for i in order]
    foreground = seen.levels.foreground if green.size else 0
    return Outlines(there, number[nuclei], number[cells], green > foreground, seen.factor)


class _Levels(NamedTuple):
    """Of a field, as ``finder.c`` takes them; in 1024ths of optical density."""

    foreground: int
    base: float  # what is stained of red cells; 0 where there are none
    level: float
    n_densest: int
    low: int
    contrast: float
    colour: float


class _Seen:
    """A field with its light and levels, of which any part can be looked at."""

    def __init__(self, field: np.ndarray, diameter: float) -> None:
        self.field = np.ascontiguousarray(check_image(field))
        diameter = RULE.check("red_cell_diameter", diameter)
        self.factor = max(1, round(diameter / _DIAMETER))
        self.unit = diameter / self.factor
        self.height, self.width = (side // self.factor for side in field.shape[:2])

    @classmethod
    def of(cls, field: np.ndarray, diameter: float, n_threads: int) -> _Seen:
        seen = cls(field, diameter)
        if min(seen.height, seen.width) > 0:
            seen._measure_light(n_threads)
            seen._measure_levels(n_threads)
        return seen

    def tiles(self) -> list[tuple[int, int, int, int]]:
        """Top, left, bottom and right of each, reduced."""
        return [
            (top, left, min(top + _TILE, self.height), min(left + _TILE, self.width))
            for top in range(0, self.height, _TILE)
            for left in range(0, self.width, _TILE)
        ]

    def leukocytes_of(self, tile: tuple[int, int, int, int]) -> list[FoundLeukocyte]:
        """Those whose centres lie in the tile, which is looked at with its margin."""
        top, left, bottom, right = tile
        margin = round(_MARGIN * self.unit)
        found, *_ = self.look(
            (
                max(top - margin, 0),
                max(left - margin, 0),
                min(bottom + margin, self.height),
                min(right + margin, self.width),
            )
        )
        k = self.factor
        return [
            one
            for one in found
            if top <= (one.y + 0.5) / k < bottom and left <= (one.x + 0.5) / k < right
        ]

    def look(
        self, tile: tuple[int, int, int, int]
    ) -> tuple[list[FoundLeukocyte], np.ndarray, np.ndarray, np.ndarray]:
        """Leukocytes of a part of the reduced field; their nuclei; their cells; the density of
        green light."""
        top, left, bottom, right = tile
        shape = bottom - top, right - left
        nuclei, cells = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        if min(shape) == 0:
            return [], nuclei, cells, nuclei
        density, stained = self._stain(tile)
        most = int(stained.size / (_LEAST_AREA * self.unit**2)) + 1
        rows = np.empty((most, 9))
        n = _core.find_leukocytes(
            density, stained, self.unit, *self.levels, nuclei, cells, rows
        )  # fmt: skip
        found = [self._describe(row, top, left) for row in rows[:n].tolist()]
        return found, nuclei, cells, density[1]

    def _describe(self, row: list[float], top: int, left: int) -> FoundLeukocyte:
        down, across, nucleus, area, stained, *box = row
        k = self.factor
        upper, first, lower, last = (
            at + by for at, by in zip(box, (top, left, top, left), strict=True)
        )
        return FoundLeukocyte(
            y=((down + top * nucleus) / nucleus + 0.5) * k - 0.5,
            x=((across + left * nucleus) / nucleus + 0.5) * k - 0.5,
            nucleus=float(np.sqrt(nucleus)) * k,
            area=area * k * k,
            box=(first * k, upper * k, last * k, lower * k),
            is_cut=upper == 0 or first == 0 or lower == self.height or last == self.width,
            contrast=stained / self.red_cells,
        )

    def _stain(self, tile: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        top, left, bottom, right = tile
        density = np.empty((3, bottom - top, right - left), np.int16)
        stained = np.empty(density.shape[1:], np.int16)
        _core.stain_field(
            self.field, self.factor, top, left, self.light, _between(self.tops, top, bottom),
            _between(self.lefts, left, right), density, stained,
        )  # fmt: skip
        return density, stained

    def _measure_light(self, n_threads: int) -> None:
        """Light of the empty background, as it changes over the field."""
        side = max(8.0, _PART * self.unit)
        self.tops, self.lefts = (_edges(n, side) for n in (self.height, self.width))
        parts = np.empty((len(self.tops) - 1, len(self.lefts) - 1, 3), np.uint8)

        def measure(i: int) -> None:
            top, bottom = int(self.tops[i]), int(self.tops[i + 1])
            _core.measure_light(self.field, self.factor, top, bottom, self.lefts, parts[i])

        _map(measure, range(len(parts)), n_threads)
        clear = np.quantile(parts.reshape(-1, 3), 0.75, axis=0)
        light = np.maximum(parts.astype(np.float64), _DARKEST * clear)
        light = ndimage.percentile_filter(light, _CLEAR, size=(3, 3, 1), mode="nearest")
        light = ndimage.gaussian_filter(light, (0.7, 0.7, 0), mode="nearest")
        self.light = np.rint(_UNIT * np.log(light + _OFFSET)).astype(np.int32)

    def _measure_levels(self, n_threads: int) -> None:
        """From the whole field, or from squares of a large one."""
        tiles = [(0, 0, self.height, self.width)]
        if self.height * self.width > (_SAMPLE * _SQUARES) ** 2:
            tiles = [
                (top, left, min(top + _SAMPLE, self.height), min(left + _SAMPLE, self.width))
                for top in _spread(self.height)
                for left in _spread(self.width)
            ]
        seen = _map(self._stain, tiles, n_threads)
        red, green, blue = np.concatenate([d.reshape(3, -1) for d, _ in seen], axis=1)
        stained = np.concatenate([s.ravel() for _, s in seen])

        least, most = (_UNIT * limit for limit in _FOREGROUND)
        foreground = round(float(np.clip(_OTSU_SHARE * _otsu(green), least, most)))
        there = green > foreground
        n_densest = max(1, round(_DENSEST * self.unit**2))
        n = min(n_densest, stained.size)
        densest = float(np.partition(stained, -n)[-n])
        typical = float(np.median(stained[there])) if there.any() else 0.0
        red_cells = max(min(typical, _MOST_RED_CELLS * densest), 0.0)
        low = round(max(_LEAST_RATIO * red_cells, _LEAST * _UNIT))
        there &= stained <= low
        colour = 0.0
        if there.any():
            medians = [float(np.median(plane[there])) for plane in (red, green, blue)]
            colour = _COLOUR * (medians[0] + medians[1]) / max(medians[2], _FAINT * _UNIT)
        level, base = _LEVEL, red_cells
        is_small = min(self.height, self.width) < _CROP * self.unit
        if is_small and typical > red_cells and _is_central(seen[0][1] > red_cells):
            level, base, low, colour = _ALONE, 0.0, round(_LEAST * _UNIT), 0.0
        self.red_cells = max(red_cells, _FAINT * _UNIT)
        contrast = _CONTRAST * self.red_cells
        self.levels = _Levels(foreground, base, level, n_densest, low, contrast, colour)


def _map(function: Callable[[Any], Any], items: Iterable[Any], n_threads: int) -> list[Any]:
    """In order; by threads where there is more than one item."""
    items = list(items)
    if n_threads == 1 or len(items) == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(function, items))


def _is_central(mask: np.ndarray) -> bool:
    """Whether there is less at the edges than elsewhere, as about a cell that is cut out."""
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(rim.mean() < _RIM * mask.mean())


def _edges(length: int, side: float) -> np.ndarray:
    n = max(1, round(length / side))
    result: np.ndarray = (np.arange(n + 1) * length // n).astype(np.int32)
    return result


def _spread(length: int) -> list[int]:
    """Where squares of the sample begin."""
    last = max(0, length - _SAMPLE)
    return sorted({round(last * i / (_SQUARES - 1)) for i in range(_SQUARES)})


def _between(edges: np.ndarray, first: int, past: int) -> np.ndarray:
    """Part before each row, and 256ths of the next one: (2, n); by the middles of parts."""
    middles = (edges[:-1] + edges[1:] - 1) / 2
    at = np.interp(np.arange(first, past), middles, np.arange(len(middles)))
    part = np.minimum(at.astype(np.int32), max(len(middles) - 2, 0))
    return np.stack([part, np.rint(256 * (at - part)).astype(np.int32)])


def _otsu(values: np.ndarray) -> float:
    """Threshold of Otsu (1979), of 64 bins."""
    counts, edges = np.histogram(values, 64)
    middles = (edges[1:] + edges[:-1]) / 2
    below, moment = counts.cumsum(), (counts * middles).cumsum()
    n, total = below[-1], moment[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (total * below / n - moment) ** 2 / (below * (n - below))
    between[~np.isfinite(between)] = 0
    return float(edges[between.argmax() + 1])
