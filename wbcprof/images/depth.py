"""Samples of more than 8 bits, and floats beyond 1: which value is white, where nobody says.

Cameras of 10, 12 and 14 bits are stored in 16, and integers of any depth as floats. White is then
what the smallest of these depths holds that holds the largest value of the whole set: one for all
its images, since light would change between them if each had its own. A model keeps the depths of
the images that it was learnt from, and what it reads later has these at least.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and files have."""


class Unusable(ValueError):
    """The image cannot be used; the text is the reason shown to the user."""


_PIXEL_BYTES = 8  # RGBA of 16 bits
_ROWS_BYTES = 1 << 24


def is_beyond_limit(n_pixels: int) -> bool:
    """Whether an image has more pixels than Pillow is allowed to decode."""
    from PIL import Image

    return Image.MAX_IMAGE_PIXELS is not None and n_pixels > Image.MAX_IMAGE_PIXELS


def too_many_pixels() -> Unusable:
    from PIL import Image

    return Unusable(
        f"more than {Image.MAX_IMAGE_PIXELS} pixels (decompression bomb?); raise "
        "PIL.Image.MAX_IMAGE_PIXELS, or save it as a TIFF, which open_fields reads in tiles where "
        "wbcprof[slides] is installed"
    )


def check_pixels(n_pixels: int) -> None:
    if is_beyond_limit(n_pixels):
        raise too_many_pixels()


def check_bytes(n_bytes: int) -> None:
    """Refuse an image that takes more memory, decoded, than the pixels allowed have in any camera's
    depth."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and n_bytes > _PIXEL_BYTES * limit:
        raise Unusable(
            f"{n_bytes} bytes once decoded, more than {_PIXEL_BYTES * limit} (decompression "
            "bomb?); save it with 8 or 16 bits for each sample, or raise PIL.Image.MAX_IMAGE_PIXELS"
        )


def by_rows(change: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """`change` of an image, some rows at a time: what it makes on the way takes little memory."""
    step = max(1, _ROWS_BYTES // max(1, pixels[:1].nbytes))
    first = change(pixels[:step])
    changed = np.empty((len(pixels), *first.shape[1:]), first.dtype)
    changed[:step] = first
    for top in range(step, len(pixels), step):
        changed[top : top + step] = change(pixels[top : top + step])
    return changed


Outcome = tuple[np.ndarray, str] | Unusable
"""RGB uint8 pixels and what they were converted from ("" if nothing was changed), or why not."""


_OVERSHOOT = 1.02  # of floats above white: resampling leaves some

WHITE = "white is"
"""In what says that an image was converted by the depth of its set."""

Depths = Mapping[str, int]
"""Bits of the images of a set, by the kind of their samples, "integer" or "float"."""


def kind_of(dtype: np.dtype[Any]) -> str:
    return "float" if dtype.kind == "f" else "integer"


def most_bits(dtype: np.dtype[Any]) -> int:
    """That samples may have; of floats those of the deepest camera."""
    # 15 of int16
    return DEPTHS[-1] if dtype.kind == "f" else int(np.iinfo(dtype).max).bit_length()


def bits_for(highest: int, dtype: np.dtype[Any]) -> int:
    """The smallest depth that holds this value; beyond 16 bits, that of the samples."""
    return next(bits for bits in sorted({*DEPTHS, most_bits(dtype)}) if highest < 1 << bits)


def highest_of_floats(largest: float) -> int | None:
    """The largest value of floats beyond 1, less what resampling may have added; None where they
    are not those of any depth, or may be of [0, 1] after all."""
    highest = math.floor(largest / _OVERSHOOT)
    return highest if largest >= 2 and highest < 1 << DEPTHS[-1] else None


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """An image, (H, W) or (H, W, C), of numbers of unknown range, which is to become 8-bit RGB.

    Attributes
    ----------
    highest : int
        Largest value, that of alpha left out; of floats see `highest_of_floats`.
    kinds : tuple of str
        What it was converted from so far.
    """

    pixels: np.ndarray
    highest: int
    kinds: tuple[str, ...] = ()


class Depth:
    """How many bits the images of a set have, for those whose files do not say.

    Parameters
    ----------
    load : callable, optional
        Gives what was read of each image of the set that may have more than 8 bits; called once,
        when the first such image comes. Without, as of an iterator, images are taken in their
        order, each with all that came before it.

    Attributes
    ----------
    found : dict of str to int
        The `Depths` that were told by the largest values so far.
    """

    def __init__(self, load: Callable[[], Iterable[Outcome | Deep]] | None = None) -> None:
        self._load = load
        self._highest: dict[str, int] = {}
        self.found: dict[str, int] = {}
        self._is_known = False
        self._lock = threading.Lock()

    @property
    def is_by_order(self) -> bool:
        """Whether it depends on the order in which images are asked for."""
        return self._load is None and not self._is_known

    def __reduce__(self) -> tuple[Any, ...]:
        if self._load is not None:
            self._see_all()
        return _seen, (self._highest, self._is_known)

    def bits(self, deep: Deep, learnt: Depths | None = None) -> tuple[int, str]:
        """Bits of an image, and by what they are known, for the user; "" where all are used.
        `learnt`: those of the images that a model was learnt from, which it has at least."""
        dtype = deep.pixels.dtype
        kind, every = kind_of(dtype), bits_for((1 << most_bits(dtype)) - 1, dtype)
        if self._load is not None and bits_for(deep.highest, dtype) < every:
            self._see_all()
        elif self._load is not None:
            with self._lock:
                self._note(deep)
        with self._lock:
            # Of a known set it may be more too: of a file that changed.
            bits = bits_for(max(deep.highest, self._highest.get(kind, 0)), dtype)
            if not self._is_known:
                self._note(deep)
        so_far = "" if self._is_known else " so far"
        by = f"by the largest value{so_far}"
        least = min((learnt or {}).get(kind, 0), every)
        if least > bits:
            bits, by = least, "as of the images learnt from"
        if bits == every and kind == "integer":
            return bits, ""
        return bits, f"{WHITE} {(1 << bits) - 1} {by}"

    def _see_all(self) -> None:
        assert self._load is not None
        with self._lock:
            if self._is_known:
                return
            for outcome in self._load():
                if isinstance(outcome, Deep):
                    if self._note(outcome) == most_bits(outcome.pixels.dtype):
                        break  # no image changes that
            self._is_known = True

    def _note(self, deep: Deep) -> int:
        """Bits of the images so far, this one among them."""
        dtype = deep.pixels.dtype
        kind = kind_of(dtype)
        self._highest[kind] = max(deep.highest, self._highest.get(kind, 0))
        self.found[kind] = max(bits_for(self._highest[kind], dtype), self.found.get(kind, 0))
        return self.found[kind]


def _seen(highest: dict[str, int], is_known: bool) -> Depth:
    depth = Depth()
    depth._highest, depth._is_known = highest, is_known
    return depth
