"""The instrument behind a set of images: its pixel size, light and focus, in numbers and in words.

`wbcprof.smear.acquisition` measures single images; here a set of one laboratory is measured as a
whole, beside what the user says and what files state of themselves.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Integer, Maybe, Real
from wbcprof.images.source import ImageSource, open_images
from wbcprof.smear.acquisition import Acquisition, measure, pool
from wbcprof.threads import resolve_threads

RED_CELL = 7.5
"""Diameter of a red cell, um."""

RULE = Maybe(Real(above=0.005, most=10))
"""What a pixel size, um, may be."""

_MOST_IMAGES = 30  # that are measured
_CONTRADICTED = 0.25  # of the size that red cells show, by which another one may differ
_NEUTRAL = 0.04  # of the background's light, by which red and blue may differ
_DARK = 120  # grey level of the brightest channel of the background
_SHARP = 0.15  # um, blur at most
SOFT = 0.35
"""um: what is blurred more is out of focus."""
_UNEVEN = 0.15  # falloff


class AcquisitionWarning(UserWarning):
    """What is said of an instrument and what its images show contradict each other."""


@dataclass(frozen=True, repr=False)
class Instrument(Shown):
    """How the images of one laboratory were taken.

    Attributes
    ----------
    pixel_size : float or None
        Micrometres for each pixel.
    pixel_size_from : {"given", "file", "red cells", ""}
    red_cell_diameter : float or None
        px, median over images, of the visible edge.
    n_images, n_red_cells : int
        That were measured.
    background, red_cell_density, nucleus_density : list of 3 float, or None
        Grey levels; optical densities over the background, natural logarithm.
    sharpness : float or None
        Blur, px: standard deviation of a Gaussian.
    falloff : float or None
        Of the light over an image, as a share; 0 is even.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear import measure_instrument
    >>> instrument = measure_instrument(make_leukocytes(1, size=240).images)  # generated
    >>> instrument.n_red_cells > 10, 0.11 < instrument.pixel_size < 0.15
    (True, True)
    """

    pixel_size: float | None
    pixel_size_from: str
    red_cell_diameter: float | None
    n_images: int
    n_red_cells: int
    background: list[float] | None
    red_cell_density: list[float] | None
    nucleus_density: list[float] | None
    sharpness: float | None
    falloff: float | None

    def to_json(self) -> dict[str, Any]:
        """The arguments that make it again, as JSON has them."""
        return asdict(self)

    def describe(self) -> str:
        """In words.

        Examples
        --------
        >>> from wbcprof.datasets import make_leukocytes
        >>> from wbcprof.smear import measure_instrument
        >>> images = make_leukocytes(1, size=240).images  # generated
        >>> print(measure_instrument(images).describe())
        0.13 um per pixel (by red cells), background warm, soft
        """
        if self.pixel_size is None:
            parts = ["pixel size unknown (no red cells to measure)"]
        else:
            how = {"given": "as given", "file": "as files state", "red cells": "by red cells"}
            parts = [f"{self.pixel_size:.2g} um per pixel ({how[self.pixel_size_from]})"]
        if self.background is None:
            parts.append("no empty background")
        else:
            red, _, blue = self.background
            tint = (red - blue) / max(self.background)
            colour = "warm" if tint > _NEUTRAL else "cold" if tint < -_NEUTRAL else "neutral"
            dim = " and dim" if max(self.background) < _DARK else ""
            parts.append(f"background {colour}{dim}")
        if self.sharpness is None:
            parts.append("focus unknown")
        elif self.pixel_size is None:
            parts.append(f"edges blurred over {self.sharpness:.1f} px")
        else:
            blur = self.sharpness * self.pixel_size
            parts.append("sharp" if blur <= _SHARP else "soft" if blur <= SOFT else "out of focus")
        if self.falloff is not None and self.falloff > _UNEVEN:
            parts.append(f"light falls off by {self.falloff:.0%}")
        return ", ".join(parts)


def measure_instrument(
    images: Any, *, pixel_size: float | None = None, n_threads: int | None = None
) -> Instrument:
    """Measure the instrument of one laboratory from its images, thirty at most, without labels.

    Parameters
    ----------
    images
        As `wbcprof.images.open_images` takes them; of one scale. An iterator is used up.
    pixel_size : float, optional
        Micrometres for each pixel; by default as TIFF files state it, else by the size of the red
        cells in the images.
    n_threads : int, optional

    Warns
    -----
    AcquisitionWarning
        The pixel size given, or stated in the files, is more than a quarter away from what the red
        cells show.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear import measure_instrument
    >>> images = make_leukocytes(1, size=240).images  # generated
    >>> instrument = measure_instrument(images)
    >>> instrument.pixel_size_from, instrument.n_images
    ('red cells', 6)
    """
    pixel_size = RULE.check("pixel_size", pixel_size)
    threads = resolve_threads(n_threads)
    source = open_images(images).kept(threads)
    parts = [measure(image) for image in source.sample(_MOST_IMAGES, threads)]
    return _instrument(parts, pixel_size, source)


def _instrument(parts: list[Acquisition], given: float | None, source: ImageSource) -> Instrument:
    if not parts:
        raise ValueError("no image could be read, so no instrument can be measured")
    found = pool(parts)
    diameter = found.red_cell_diameter
    seen = None if diameter is None else RED_CELL / diameter
    stated = given if given is not None else source.stated_pixel_size()
    how = "given" if given is not None else "file"
    if stated is None:
        stated, how = seen, "red cells" if seen else ""
    elif seen is not None and abs(math.log(stated / seen)) > math.log1p(_CONTRADICTED):
        warnings.warn(
            f"a pixel size of {stated:.3g} um is {how.replace('file', 'stated in the files')}, but "
            f"red cells are {diameter:.0f} px across, which makes {seen:.2g} um; check it",
            AcquisitionWarning,
            stacklevel=3,
        )
    return Instrument(
        pixel_size=stated,
        pixel_size_from=how,
        red_cell_diameter=diameter,
        n_images=len(parts),
        n_red_cells=found.n_red_cells,
        background=_list(found.background),
        red_cell_density=_list(found.red_cell_density),
        nucleus_density=_list(found.nucleus_density),
        sharpness=found.sharpness,
        falloff=found.falloff,
    )


_DENSITY = Real(least=-6, most=6)
_RANGES = {  # of what images of 256 grey levels can give
    "background": Real(least=0, most=255),
    "red_cell_density": _DENSITY,
    "nucleus_density": _DENSITY,
}


def instrument_from_json(document: dict[str, Any]) -> Instrument:
    """The instrument whose `to_json` gave this.

    Raises
    ------
    ValueError, KeyError, TypeError
        Something is missing or out of range.
    """
    size, number = Maybe(Real(above=0)), Maybe(Real(least=0))
    checked = dict(document)
    for name in ("pixel_size", "red_cell_diameter"):
        checked[name] = size.check(name, document[name])
    for name in ("sharpness", "falloff"):
        checked[name] = number.check(name, document[name])
    for name in ("background", "red_cell_density", "nucleus_density"):
        if document[name] is not None:
            values = [_RANGES[name].check(name, value) for value in document[name]]
            if len(values) != 3:
                raise ValueError(f"{name} must be 3 numbers, got {len(values)}")
            if name == "background" and not any(values):
                raise ValueError("background must not be black")
            checked[name] = values
    for name in ("n_images", "n_red_cells"):
        checked[name] = Integer(0).check(name, document[name])
    known = ("",) if checked["pixel_size"] is None else ("given", "file", "red cells")
    if document["pixel_size_from"] not in known:
        raise ValueError(f"pixel_size_from is {document['pixel_size_from']!r}")
    return Instrument(**checked)


def _list(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else [round(float(value), 4) for value in values]
