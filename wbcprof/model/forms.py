"""Forms: the ways to filter all windows of an image, and what each costs.

The kernel computes W x by Cook-Toom minimal filtering over squares of pixels (Winograd, Arithmetic
Complexity of Computations, 1980; Lavin and Gray, CVPR 2016); the form with the least counted work
is used for each image size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np

from wbcprof import _core

_POINTS = [Fraction(p) for p in (0, 1, -1, 2, -2)] + [Fraction(1, 2), Fraction(-1, 2)]
_READ_FILTER = 8  # reading a transformed filter takes as long as its use for this many tiles
_COPY_PIXEL = 8  # products that take as long as copying one pixel value


class Form(NamedTuple):
    """One way to compute W x: up to tile x tile windows at a time from taps x taps tap squares.

    Attributes
    ----------
    square : int
        Side of a tap square in pixels.
    dilation : int
        Tap squares of one window start this many windows apart.
    taps : int
        Tap squares along a window's side.
    tile : int
        Windows along the longest tile's side; 1 only in the direct form, which has one tap.
    """

    square: int
    dilation: int
    taps: int
    tile: int

    @property
    def points(self) -> int:
        return self.tile + self.taps - 1

    @property
    def name(self) -> str:
        if self.taps == 1:
            return "direct"
        return f"F({self.tile},{self.taps}) on {self.square} px squares"

    def cut(self, n_windows: int) -> tuple[int, int]:
        """Tiles along an axis of `n_windows` windows, and the points of all of them.

        Every one of the interleaved grids is cut into the same number of tiles.
        """
        grids = min(self.dilation, n_windows)
        tiles = grids * math.ceil(math.ceil(n_windows / self.dilation) / self.tile)
        return tiles, n_windows + tiles * (self.taps - 1)

    def count_products(self, rows: int, columns: int, features: int) -> int:
        """Multiplications per signature for a grid of windows."""
        return self.cut(rows)[1] * self.cut(columns)[1] * features

    def count_work(self, rows: int, columns: int, features: int, n_signatures: int) -> float:
        """Counted work for an image, in multiplications: what the choice of a form minimises."""
        tiles = self.cut(rows)[0] * self.cut(columns)[0]
        reach = self.dilation * (self.taps - 1)
        copying = _COPY_PIXEL * (rows + reach) * (columns + reach) * features
        transform = 2 * tiles * self.points**3 * features
        products = self.count_products(rows, columns, features)
        products += _READ_FILTER * self.points**2 * features
        inverse = tiles * (self.points + self.tile) * self.points * (self.tile + 2) / 2
        return copying + transform + n_signatures * (products + inverse)


def list_forms(patch: int, step: int) -> list[Form]:
    """All forms for windows of `patch` pixels that lie `step` pixels apart, direct first."""
    forms = [Form(square=patch, dilation=1, taps=1, tile=1)]
    for dilation in range(1, math.ceil(patch / step)):
        taps = math.ceil(patch / (dilation * step))
        forms += [
            Form(square=dilation * step, dilation=dilation, taps=taps, tile=tile)
            for tile in range(2, _core.MAX_POINTS - taps + 2)
        ]
    return forms


@cache
def cook_toom_matrices(tile: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of F(tile, taps), from exact rationals.

    ``output @ ((kernel @ w) * (input @ d))`` are the `tile` values of the correlation of the
    tile + taps - 1 numbers d with the `taps` numbers w. The points are infinity, then `_POINTS`;
    row i of `kernel` depends on point i only, not on how many there are.

    Returns
    -------
    input, kernel, output : float64 arrays
        (points, points), (points, taps) and (tile, points), with points = tile + taps - 1.
    """
    finite = _POINTS[: tile + taps - 2]
    input_rows = [_polynomial(finite)]
    for index, point in enumerate(finite):
        others = finite[:index] + finite[index + 1 :]
        scale = math.prod((point - other for other in others), start=Fraction(1))
        input_rows.append([c / scale for c in _polynomial(others)] + [Fraction(0)])
    kernel = [_powers(point, taps) for point in [None, *finite]]
    output = np.transpose([_powers(point, tile) for point in [None, *finite]])
    return (
        np.array(input_rows, dtype=np.float64),
        np.array(kernel, dtype=np.float64),
        np.array(output, dtype=np.float64),
    )


def _powers(point: Fraction | None, n: int) -> list[Fraction]:
    """point**0 to point**(n - 1); for infinity, None, only the highest power counts."""
    if point is None:
        return [Fraction(0)] * (n - 1) + [Fraction(1)]
    return [point**power for power in range(n)]


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, constant first, of the product of (x - root)."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        scaled = [*(root * c for c in coefficients), Fraction(0)]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


class Approximation(NamedTuple):
    """Tap squares projected onto the directions that matter most to the responses.

    Attributes
    ----------
    square : int
        Side of the tap squares in pixels.
    analysis, synthesis : (square * square * c, k) float64 arrays
        The kernel computes ``values @ analysis`` of each; filters are multiplied by `synthesis`.
    tolerance, relative_error : float
        What was asked for, and the error measured on the sample images.
    """

    square: int
    analysis: np.ndarray
    synthesis: np.ndarray
    tolerance: float
    relative_error: float
