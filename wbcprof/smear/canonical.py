"""Canonical cells: the leukocyte of an image amid a square, at one size and in one light.

What is on every stained leukocyte is the measure: the empty background gives the light, the nucleus
the scale, the centre and the strength of the stain. Per image::

    found     background b, nucleus: area, centre, median optical density d of each channel
    square    about the centre, scaled so that the square root of the area is `NUCLEUS` px
    light     v / b stretched about 1, within bounds, so that exp(-d) becomes the reference's, of
              each channel: veils of stray light and weak stain are then undone
    fade      to white where neither nucleus nor cytoplasm can be: neighbours are not the cell
    focus     what is sharper than an image of a poor microscope is blurred as much

A scale coarser than that of most microscopes does most of the last. The kernels are in
``src_c/leukocyte.c``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np

from wbcprof import _core
from wbcprof._shown import Shown
from wbcprof.smear.stain import DARKEST, check_image

SIDE = 112
"""Of a canonical cell, px."""

NUCLEUS = 36.0
"""Square root of the area of its nucleus, px."""

PARTS = ("nucleus", "rim", "cytoplasm", "background")
"""Of a canonical cell, see `CanonicalForm.parts`."""

_DENSE, _STAINED = 0.5, 0.12  # density of nucleus, of cytoplasm, over the reference's nuclei
_RIM = 3  # px on either side of the edge of a nucleus
_FOCUS = 1.5
# Variance, px squared, of the blur that every cell is to have: chosen on PBC as it is and under the
# recipes of MedMNIST-C, see bench/accuracy/README.md.

_FADE = (1.0, 1.25)  # distance from the centre where the cell begins to fade and is gone, / NUCLEUS
_WHITE = 246  # grey level of the background
_LIGHT = 250.0
_OFFSET = 4.0  # grey levels: that of the densities, see leukocyte.c
_LEVELS = np.arange(256) + _OFFSET
_GAINS = (0.5, 4.0)  # of contrast, at most
_LEAST_LIT = 0.99  # of the pixels; where fewer are, what is black becomes background
_LEAST_BACKGROUND = 0.03  # of the lit pixels
_LEAST_DENSITY = 0.05  # of a nucleus, mean of the channels: fainter is noise of the background
_LEAST_LIGHT = 40  # grey level of the brightest channel of a background
_MOST_NUCLEUS = 0.35  # of the lit pixels, where a background is there too
_NUCLEUS_SIDES = (0.04, 0.8)  # square root of its area, over the image's shorter side
_EXPECTED = 0.26  # the same, of an image in which none is found
_LEAST_SIDE = 24  # px of an image
_MOST = {"background": 255.0, "density": math.log(256)}
_FURTHEST = 0.2  # from the middle of the image to the centre, over the shorter side


class Leukocyte(NamedTuple):
    """What `find_leukocyte` finds in an image.

    Attributes
    ----------
    lit_share : float
        Of the pixels, those that are not black.
    background : tuple of 3 int
        Grey levels of the empty background: median of the brightest quarter of lit pixels.
    background_share : float
        Of the lit pixels, those of about this colour.
    clipped_share : float
        Of the lit pixels, those of which a channel is at the upper end of its scale.
    area : float
        Of the nucleus, px squared; 0 where none is found.
    centre : tuple of 2 float
        Of the nucleus, row and column, px.
    density : tuple of 3 float
        Median optical density of the nucleus over the background, natural logarithm.
    others : float
        Area of what is stained like the nucleus, no smaller than a third of it, and no part of it:
        of other leukocytes, px squared.
    """

    lit_share: float
    background: tuple[int, int, int]
    background_share: float
    clipped_share: float
    area: float
    centre: tuple[float, float]
    density: tuple[float, float, float]
    others: float

    @property
    def has_nucleus(self) -> bool:
        """Whether the nucleus is one: found, and stained."""
        return self.area > 0 and sum(self.density) >= 3 * _LEAST_DENSITY

    @property
    def has_background(self) -> bool:
        """Whether the background can be one: lit, seen, and not the cell itself."""
        return max(self.background) >= _LEAST_LIGHT and self.background_share >= _LEAST_BACKGROUND


def find_leukocyte(image: np.ndarray) -> Leukocyte:
    """The leukocyte most in the middle of an image (H, W, 3), uint8.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear import find_leukocyte
    >>> (image,) = make_leukocytes(1, size=96, types=["neutrophil"]).images  # generated
    >>> found = find_leukocyte(image)
    >>> 500 < found.area < 3000, all(30 < at < 66 for at in found.centre)
    (True, True)
    """
    return Leukocyte(*_core.find_leukocyte(np.ascontiguousarray(check_image(image))))


@dataclass(frozen=True, eq=False, repr=False)
class CanonicalForm(Shown):
    """Brings images of single leukocytes to one scale, place, light and stain.

    Parameters
    ----------
    background : ndarray of shape (3,), float64
        Grey levels of the reference's background: the light of images that show none.
    density : ndarray of shape (3,), float64
        Median optical density of the reference's nuclei over their background.
    method : "canonical"

    Examples
    --------
    The same cell under a weak blue lamp and half as large:

    >>> import numpy as np
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear import CanonicalForm
    >>> images = make_leukocytes(1, size=192).images  # generated
    >>> form = CanonicalForm.learn(images)
    >>> lamp = np.array([0.5, 0.6, 0.8])
    >>> blue = (images[:, ::2, ::2] * lamp).astype(np.uint8)
    >>> far = np.abs(blue[0].mean(axis=(0, 1)) - images[0].mean(axis=(0, 1))).max()
    >>> cells = [form.normalise(image[0]).astype(float) for image in (images, blue)]
    >>> bool(far > 60), bool(np.abs(cells[0] - cells[1]).mean() < 6)
    (True, True)
    """

    background: np.ndarray
    density: np.ndarray
    method: str = "canonical"

    def __post_init__(self) -> None:
        if self.method != "canonical":
            raise ValueError(f"the method of a canonical form is 'canonical', got {self.method!r}")
        for name in ("background", "density"):
            value = np.asarray(getattr(self, name), np.float64)
            if value.shape != (3,) or not (np.isfinite(value) & (value > 0)).all():
                raise ValueError(f"{name} must be 3 positive numbers, got {value.tolist()}")
            if value.max() > _MOST[name]:
                raise ValueError(
                    f"{name} must be at most {_MOST[name]:.4g}, as images of 256 grey levels have "
                    f"it, got {value.tolist()}"
                )
            object.__setattr__(self, name, value)

    @classmethod
    def learn(cls, images: Iterable[np.ndarray], method: str = "canonical") -> Self:
        """Learn light and stain of reference images (H, W, 3), uint8; a few hundred are enough.

        Raises
        ------
        ValueError
            No images, or none with a leukocyte on a background.
        """
        found = [find_leukocyte(image) for image in images]
        usable = [one for one in found if one.has_nucleus and one.has_background]
        if not usable:
            raise ValueError(
                f"canonical cells need images of one stained leukocyte each on a lit background; "
                f"found one in 0 of {len(found)}. Give such images, or normalise=None"
            )
        return cls(
            np.median([one.background for one in usable], axis=0),
            np.maximum(np.median([one.density for one in usable], axis=0), 0.05),
            method,
        )

    def to_json(self) -> dict[str, Any]:
        """The arguments that make it again, as JSON has them."""
        return {
            "method": self.method,
            "background": self.background.tolist(),
            "density": self.density.tolist(),
        }

    @staticmethod
    def least_side(side: int) -> int:
        """Of an image, px, whose cell is to have this side at least.

        Raises
        ------
        ValueError
            Canonical cells are smaller.
        """
        if side > SIDE:
            raise ValueError(
                f"the layers read {side} px at least, and canonical cells have {SIDE}; make "
                "patches or regions smaller, or normalise=None"
            )
        return _LEAST_SIDE

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """The canonical cell (SIDE, SIDE, 3), uint8, of an image (H, W, 3), uint8."""
        return self.change(image)[0]

    def change(self, image: np.ndarray) -> tuple[np.ndarray, str]:
        """`normalise`, and in words what could not be measured; "" where all could."""
        return self.examine(image)[:2]

    def examine(self, image: np.ndarray) -> tuple[np.ndarray, str, Leukocyte, float]:
        """`change`, the leukocyte, and how blurred the canonical cell was, px squared.

        Examples
        --------
        >>> from wbcprof.datasets import make_leukocytes
        >>> from wbcprof.smear import CanonicalForm
        >>> images = make_leukocytes(1, size=192).images  # generated
        >>> cell, note, found, blurred = CanonicalForm.learn(images).examine(images[0])
        >>> cell.shape, note, found.has_nucleus, 0 < blurred < 9
        ((112, 112, 3), '', True, True)
        """
        image, found, background, notes = self._found(np.ascontiguousarray(check_image(image)))
        y, x, scale, known = self._place(image, found)
        density = np.array(found.density) if known else self.density
        if not known:
            notes.append("no leukocyte")
        cell = np.empty((SIDE, SIDE, 3), np.uint8)
        tables = self._tables(background, density)
        _core.resample_square(image, y, x, scale, background, tables, _fade(), _WHITE, cell)
        blurred = _core.match_focus(cell, _fade(), _FOCUS)
        return cell, ", ".join(notes), found, blurred

    def place_of(self, image: np.ndarray) -> tuple[float, float, float]:
        """Row and column, px, of an image (H, W, 3) that the middle of its canonical cell shows,
        and how many px of the cell one px of it is; as `examine` finds them.

        Examples
        --------
        >>> from wbcprof.datasets import make_leukocytes
        >>> from wbcprof.smear import CanonicalForm
        >>> images = make_leukocytes(1, size=192).images  # generated
        >>> y, x, scale = CanonicalForm.learn(images).place_of(images[0])
        >>> 70 < y < 122, 70 < x < 122, 0.2 < scale < 1.5
        (True, True, True)
        """
        image = np.ascontiguousarray(check_image(image))
        y, x, scale, _ = self._place(*self._found(image)[:2])
        return y, x, scale

    def parts(self, cell: np.ndarray) -> np.ndarray:
        """Which of `PARTS` each pixel of a canonical cell belongs to, by its density.

        Parameters
        ----------
        cell : ndarray of shape (SIDE, SIDE, 3), uint8

        Returns
        -------
        ndarray of shape (SIDE, SIDE), int
            Index into `PARTS`. Nucleus: more than half as dense as the reference's nuclei; rim:
            within 3 px of its edge, on either side; cytoplasm: what else is stained, red cells that
            lie at the cell among it; background: the rest.

        Examples
        --------
        >>> from wbcprof.datasets import make_leukocytes
        >>> from wbcprof.smear import CanonicalForm
        >>> images = make_leukocytes(1, size=192, types=["neutrophil"]).images  # generated
        >>> form = CanonicalForm.learn(images)
        >>> parts = form.parts(form.normalise(images[0]))
        >>> bool(parts[0, 0] == 3), bool((parts == 0).any()), bool((parts == 1).any())
        (True, True, True)
        """
        from scipy.ndimage import binary_dilation, binary_erosion

        light = (cell.astype(np.float64) + _OFFSET) / _LIGHT
        density = -np.log(light).sum(axis=2) / self.density.sum()
        nucleus = density > _DENSE
        rim = binary_dilation(nucleus, iterations=_RIM) & ~binary_erosion(nucleus, iterations=_RIM)
        stained = density > _STAINED
        return np.select([rim, nucleus, stained], [1, 0, 2], 3)

    def _found(self, image: np.ndarray) -> tuple[np.ndarray, Leukocyte, np.ndarray, list[str]]:
        """The image, what is black taken for background, its leukocyte, the background (3,), uint8,
        and what could not be measured."""
        found = find_leukocyte(image)
        notes = []
        background = np.array(found.background, np.uint8)
        n_lit = found.lit_share * image.shape[0] * image.shape[1]
        cut_out = found.lit_share < _LEAST_LIT and found.area > _MOST_NUCLEUS * n_lit
        if cut_out or not found.has_background:
            notes.append("no background")
            background = np.rint(self.background).astype(np.uint8)
        if found.lit_share < _LEAST_LIT:
            black = image.max(axis=2, keepdims=True) <= DARKEST
            image = np.where(black, background, image)
            found = Leukocyte(*_core.find_leukocyte(image))
        return image, found, background, notes

    def _place(self, image: np.ndarray, found: Leukocyte) -> tuple[float, float, float, bool]:
        """Row and column of the centre, scale, and whether there is a leukocyte of a likely size
        and place."""
        height, width = image.shape[:2]
        short = min(height, width)
        y, x = (height - 1) / 2, (width - 1) / 2
        nucleus = math.sqrt(found.area)
        likely = _NUCLEUS_SIDES[0] * short <= nucleus <= _NUCLEUS_SIDES[1] * short
        if not (found.has_nucleus and likely):
            return y, x, NUCLEUS / (_EXPECTED * short), False
        down, across = found.centre[0] - y, found.centre[1] - x
        share = min(1.0, _FURTHEST * short / max(float(np.hypot(down, across)), 1e-6))
        return y + down * share, x + across * share, NUCLEUS / nucleus, True

    def _tables(self, background: np.ndarray, density: np.ndarray) -> np.ndarray:
        """Grey levels under this background and of this density, as the reference has them."""
        gain = [
            min(
                max((math.exp(-wanted) - 1) / (math.exp(-max(own, 0.05)) - 1), _GAINS[0]), _GAINS[1]
            )
            for wanted, own in zip(self.density.tolist(), density.tolist(), strict=True)
        ]
        levels = _LEVELS / (background[:, None] + _OFFSET)
        np.minimum(levels, 1.1, out=levels)
        levels -= 1
        levels *= np.array(gain)[:, None]
        levels += 1
        levels *= _LIGHT
        levels -= _OFFSET
        np.rint(levels, out=levels)
        np.maximum(levels, 0, out=levels)
        np.minimum(levels, 255, out=levels)
        return levels.astype(np.uint8)


@cache
def _fade() -> np.ndarray:
    """How much of each pixel is the cell, in 256ths."""
    offset = (np.arange(SIDE) - (SIDE - 1) / 2) / NUCLEUS
    distance = np.sqrt(offset[:, None] ** 2 + offset**2)
    share = np.clip((_FADE[1] - distance) / (_FADE[1] - _FADE[0]), 0, 1)
    return np.rint(256 * share).astype(np.int16)
