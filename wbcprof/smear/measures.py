"""What is measured of every image on its way to a profile: light, focus, stain, scale, and whether
one whole leukocyte is there.

A fraction of a millisecond each, from the leukocyte that canonical cells need anyway. NaN is what
an image does not show. `wbcprof.analysis.memory` holds a set of them against another.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from wbcprof.smear.canonical import CanonicalForm, Leukocyte

MEASURES = (
    "NucleusSize", "BackgroundRed", "BackgroundGreen", "BackgroundBlue", "DensityRed",
    "DensityGreen", "DensityBlue", "Focus", "BackgroundShare", "ClippedShare", "LitShare",
    "Margin", "Others",
)  # fmt: skip
"""Names, in order: square root of the area of the nucleus, px; grey levels of the empty background;
median optical densities of the nucleus over it, natural logarithm; how blurred the canonical cell
was, px squared; shares of background, clipped and lit pixels, see `Leukocyte`; distance of the
centre of the nucleus from the nearest edge, over its size; area of other nuclei over its own."""

OF_INSTRUMENT = {
    "NucleusSize": "size of nuclei, px", "BackgroundRed": "background red, grey levels",
    "BackgroundGreen": "background green, grey levels",
    "BackgroundBlue": "background blue, grey levels", "DensityRed": "density of nuclei, red",
    "DensityGreen": "density of nuclei, green", "DensityBlue": "density of nuclei, blue",
    "Focus": "blur, px squared",
}  # fmt: skip
"""Those that say how images were taken and stained, in words."""

OTHERS = 0.5
"""Area of other nuclei over its own, beyond which an image shows several cells."""

# Under which every image can be measured: that of PBC, of which nothing depends on it but rounding.
_ANY_FORM = CanonicalForm(np.array([252.0, 231.0, 205.0]), np.array([1.4, 1.6, 0.6]))


def examine(image: np.ndarray, form: CanonicalForm | None) -> tuple[np.ndarray, str, np.ndarray]:
    """The canonical cell, what could not be measured in words, and the `MEASURES` (n,), float32."""
    cell, note, found, blurred = (form or _ANY_FORM).examine(image)
    return cell, note, _row(found, image.shape[0], image.shape[1], blurred)


def check_measures(measures: Any, n: int) -> np.ndarray:
    """`MEASURES` of n images, as an array."""
    array = np.asarray(measures)
    if array.shape != (n, len(MEASURES)):
        raise ValueError(
            f"measures must have shape {(n, len(MEASURES))}, a row for each profile, got "
            f"{array.shape}"
        )
    return array


def medians(values: np.ndarray) -> np.ndarray:
    """Of each column of measures (n, k), over the rows that know it; NaN where none does."""
    known = (column[np.isfinite(column)] for column in values.T)
    return np.array([np.median(column) if len(column) else math.nan for column in known])


def _row(found: Leukocyte, height: int, width: int, blurred: float) -> np.ndarray:
    size = math.sqrt(found.area) if found.has_nucleus else math.nan
    lit = found.has_background
    y, x = found.centre
    values = (
        size,
        *(level if lit else math.nan for level in found.background),
        *(density if lit and size == size else math.nan for density in found.density),
        blurred if size == size and math.isfinite(blurred) else math.nan,
        found.background_share,
        found.clipped_share,
        found.lit_share,
        (min(y, x, height - 1 - y, width - 1 - x) + 0.5) / size,
        found.others / size**2,
    )
    return np.array(values, np.float32)
