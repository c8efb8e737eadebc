"""Leukocytes in a field: where they are, how large, and what of them is nucleus.

One setting for every magnification and stain, in units of the red cell, which is the ruler of a
smear. The field is reduced until a red cell is about `_DIAMETER` px across; then::

    light      background: the brightest pixels of every part of the field, smoothed
    stained    2 red + green - blue optical density: nuclei take up red light most in every stain
    nuclei     above a level between that of red cells, the median of what is not background, and
               that of the densest quarter of a red cell's square; opened; lobes that lie close
               belong together
    judged     size in red cells; filling of their box (rims of red cells and scratches do not)
    cell       what is not background within reach of the nucleus, connected to it
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from wbcprof.checks import Real
from wbcprof.smear.stain import check_image

RULE = Real(above=6)
"""What the diameter of a red cell, px, may be: of fewer nothing can be told of its leukocytes."""

_DIAMETER = 16.0  # px of a red cell in the reduced field
_PARTS = 6  # of the field's shorter side, in which the background is looked for
_BRIGHT, _CLEAR = 0.85, 0.6  # quantiles: of a part, its background; of parts, one that is clear
_DARKEST = 0.75  # of the light of a bright part: none is darker
_OFFSET = 4.0  # grey levels
_WEIGHTS = np.array([2.0, 1.0, -1.0], np.float32)
_SMOOTH = 0.05  # red cells
_FOREGROUND = (0.08, 0.15)  # optical density of green, least and most, of what is not background
_OTSU_SHARE = 0.7
_LEVEL = 0.45  # between red cells, 0, and the densest, 1: nuclei begin
_DENSEST = 0.25  # squares of red cells: as much is denser than what the densest is taken for
_MOST_RED_CELLS = 0.4  # of that of the densest: red cells
_LEAST_RATIO, _LEAST = 2.2, 0.25  # of nuclei to red cells, and by itself
_CROP = 6.0  # red cells along the shorter side: what is smaller is cut out about a leukocyte
_ALONE = 0.68  # of the densest, there: nuclei begin
_JOIN = 0.25  # red cells between lobes
_SIZES = (0.55, 3.5)  # red cells: square root of the area of a nucleus
_LEAST_FILLING = 0.24
_LEAST_PART, _MOST_PART = 0.35, 0.9  # of the median of a nucleus: where it ends
_REACH = 0.5  # red cells from the nucleus to the edge of the cell, at most


class FoundLeukocyte(NamedTuple):
    """A leukocyte of a field.

    Attributes
    ----------
    y, x : float
        Centre of its nucleus, px.
    nucleus : float
        Square root of the area of the nucleus, px.
    box : tuple of 4 float
        Left, top, right and bottom of the cell, px.
    is_cut : bool
        Whether the edge of the field cuts it.
    contrast : float
        How much denser it is stained than red cells, as a ratio.
    area : float
        Of the cell, px squared.

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
    box: tuple[float, float, float, float]
    is_cut: bool
    contrast: float
    area: float


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


def find_leukocytes(field: np.ndarray, red_cell_diameter: float) -> list[FoundLeukocyte]:
    """Leukocytes of a field (H, W, 3), uint8, from top to bottom.

    Touching leukocytes are found as one, and a pile of red cells may be taken for one in a field
    that has none.

    Parameters
    ----------
    field : ndarray of shape (H, W, 3), uint8
    red_cell_diameter : float
        px, such as `measure_instrument` finds it.

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
    return outline_leukocytes(field, red_cell_diameter).found


def outline_leukocytes(field: np.ndarray, red_cell_diameter: float) -> Outlines:
    """`find_leukocytes`, with the pixels of nuclei and cells."""
    field = check_image(field)
    diameter = RULE.check("red_cell_diameter", red_cell_diameter)
    factor = max(1, round(diameter / _DIAMETER))
    unit = diameter / factor
    reduced = _reduce(field, factor)
    density = _density(reduced)
    stained = ndimage.gaussian_filter(density @ _WEIGHTS, _SMOOTH * unit)
    green = density[..., 1]
    least = float(np.clip(_OTSU_SHARE * _otsu(green), *_FOREGROUND))
    foreground = green > least
    n_densest = min(stained.size, max(1, round(_DENSEST * unit * unit)))
    densest = float(np.partition(stained.ravel(), -n_densest)[-n_densest])
    typical = float(np.median(stained[foreground])) if foreground.any() else 0.0
    red_cells = max(min(typical, _MOST_RED_CELLS * densest), 0.0)
    level = max(red_cells + _LEVEL * (densest - red_cells), _LEAST_RATIO * red_cells, _LEAST)
    if typical > red_cells and min(green.shape) < _CROP * unit:
        level = max(_ALONE * densest, _LEAST)  # cut out about one leukocyte
    dense = ndimage.binary_opening(stained > level)
    joined = ndimage.binary_dilation(dense, iterations=max(1, round(_JOIN * unit)))
    label, _ = ndimage.label(joined)
    label = np.where(dense, label, 0).astype(np.int32)
    nuclei, kept = _judge(label, unit)
    cells = _cells(nuclei, foreground | dense, unit)
    nuclei = _part(nuclei, cells, stained, kept)
    found = [
        _describe(nuclei, cells, stained, number, factor, red_cells, field.shape)
        for number in range(1, kept + 1)
    ]
    return Outlines(found, nuclei, cells, foreground, factor)


def _reduce(field: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of pixels, float32."""
    height, width = (max(1, side // factor) for side in field.shape[:2])
    whole = field[: height * factor, : width * factor]
    if whole.shape[0] < height * factor or factor == 1:
        return whole.astype(np.float32)
    rows = whole.reshape(height, factor, width * factor, 3).sum(axis=1, dtype=np.uint32)
    sums = rows.reshape(height, width, factor, 3).sum(axis=2)
    means: np.ndarray = (sums / np.float32(factor * factor)).astype(np.float32)
    return means


def _density(pixels: np.ndarray) -> np.ndarray:
    background = _background(pixels)
    light = np.minimum(pixels, background)
    result: np.ndarray = np.log((background + _OFFSET) / (light + _OFFSET))
    return result


def _background(pixels: np.ndarray) -> np.ndarray:
    """Light of the empty background, (h, w, 3), as it changes over the field."""
    height, width = pixels.shape[:2]
    side = max(8, min(height, width) // _PARTS)
    rows, columns = max(1, round(height / side)), max(1, round(width / side))
    tops, lefts = (
        np.linspace(0, whole, n + 1).astype(int) for whole, n in ((height, rows), (width, columns))
    )
    parts = np.empty((rows, columns, 3), np.float32)
    for i in range(rows):
        for j in range(columns):
            part = pixels[tops[i] : tops[i + 1], lefts[j] : lefts[j + 1]].reshape(-1, 3)
            bright = part.sum(axis=1)
            n = max(1, round((1 - _BRIGHT) * len(bright)))
            parts[i, j] = np.median(part[np.argpartition(bright, -n)[-n:]], axis=0)
    clear = np.quantile(parts.reshape(-1, 3), 0.75, axis=0)
    parts = np.maximum(parts, _DARKEST * clear)
    parts = ndimage.percentile_filter(parts, 100 * _CLEAR, size=(3, 3, 1), mode="nearest")
    parts = ndimage.gaussian_filter(parts, (0.7, 0.7, 0), mode="nearest")
    down, across = _between(tops, height), _between(lefts, width)
    result: np.ndarray = np.einsum("yi,ijc,xj->yxc", down, parts, across, optimize=True)
    return result.astype(np.float32)


def _between(edges: np.ndarray, whole: int) -> np.ndarray:
    """Weights (whole, parts) that interpolate linearly between the middles of parts."""
    middles = (edges[:-1] + edges[1:] - 1) / 2
    parts = np.eye(len(middles), dtype=np.float32)
    at = np.arange(whole)
    return np.stack([np.interp(at, middles, row) for row in parts], axis=1).astype(np.float32)


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


def _judge(label: np.ndarray, unit: float) -> tuple[np.ndarray, int]:
    """Components that may be nuclei, numbered anew, and how many."""
    nuclei = np.zeros_like(label)
    kept = 0
    for number, where in enumerate(ndimage.find_objects(label), start=1):
        if where is None:
            continue
        own = label[where] == number
        area = int(own.sum())
        if not _SIZES[0] <= np.sqrt(area) / unit <= _SIZES[1] or area < _LEAST_FILLING * own.size:
            continue
        kept += 1
        nuclei[where][own] = kept
    return nuclei, kept


def _cells(nuclei: np.ndarray, foreground: np.ndarray, unit: float) -> np.ndarray:
    """What is not background within reach of the nearest nucleus."""
    if not nuclei.any():
        return nuclei
    distance, at = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)
    near = (distance <= _REACH * unit) & foreground
    nearest = nuclei[at[0], at[1]]
    cells = np.where(near, nearest, 0).astype(np.int32)
    opened = ndimage.binary_opening(cells > 0, iterations=max(1, round(0.06 * unit)))
    result: np.ndarray = np.where(opened | (nuclei > 0), cells, 0)
    return result


def _part(nuclei: np.ndarray, cells: np.ndarray, stained: np.ndarray, n: int) -> np.ndarray:
    """Nucleus parted from cytoplasm in every cell by itself, near where the whole field says."""
    parted = np.zeros_like(nuclei)
    for number, where in enumerate(ndimage.find_objects(cells, n), start=1):
        if where is None:
            continue
        own, values = cells[where] == number, stained[where]
        seen = nuclei[where] == number
        middle = float(np.median(values[seen]))
        level = min(max(_otsu(values[own]), _LEAST_PART * middle), _MOST_PART * middle)
        nucleus = ndimage.binary_fill_holes(own & (values > level)) & own
        parted[where][nucleus | (seen & (values > middle))] = number
    return parted


def _describe(
    nuclei: np.ndarray,
    cells: np.ndarray,
    stained: np.ndarray,
    number: int,
    factor: int,
    red_cells: float,
    shape: tuple[int, ...],
) -> FoundLeukocyte:
    rows, columns = np.nonzero(nuclei == number)
    cell_rows, cell_columns = np.nonzero(cells == number)
    top, left = int(cell_rows.min()), int(cell_columns.min())
    bottom, right = int(cell_rows.max()) + 1, int(cell_columns.max()) + 1
    height, width = nuclei.shape
    return FoundLeukocyte(
        y=float((rows.mean() + 0.5) * factor - 0.5),
        x=float((columns.mean() + 0.5) * factor - 0.5),
        nucleus=float(np.sqrt(len(rows)) * factor),
        box=(
            float(left * factor),
            float(top * factor),
            float(min(right * factor, shape[1])),
            float(min(bottom * factor, shape[0])),
        ),
        is_cut=top == 0 or left == 0 or bottom == height or right == width,
        contrast=float(stained[rows, columns].mean() / max(red_cells, 0.05)),
        area=float(len(cell_rows) * factor**2),
    )
