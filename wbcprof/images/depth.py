"""Samples of more than 8 bits: which value is white, where their file does not say.

Cameras of 10, 12 and 14 bits are stored in 16. White is then what the smallest of these depths
holds that holds the largest value of the whole set: one for all its images, since light would
change between them if each had its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and files have."""


class Unusable(ValueError):
    """The image cannot be used; the text is the reason shown to the user."""


Outcome = tuple[np.ndarray, str] | Unusable
"""RGB uint8 pixels and what they were converted from ("" if nothing was changed), or why not."""


def bits_for(highest: int, dtype: np.dtype[Any]) -> int:
    """The smallest depth that holds this value; beyond 16 bits, that of the samples."""
    own = int(np.iinfo(dtype).max).bit_length()  # 15 of int16
    return next(bits for bits in sorted({*DEPTHS, own}) if highest < 1 << bits)


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """An image, (H, W) or (H, W, C), of integers of unknown range, which is to become 8-bit RGB.

    Attributes
    ----------
    highest : int
        Largest value, that of alpha left out.
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
    """

    def __init__(self, load: Callable[[], Iterable[Outcome | Deep]] | None = None) -> None:
        self._load = load
        self._highest = 0
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

    def bits(self, deep: Deep) -> tuple[int, str]:
        """Bits of an image, and by what they are known, for the user; "" where all are used."""
        dtype = deep.pixels.dtype
        every = bits_for(int(np.iinfo(dtype).max), dtype)
        if self._load is not None and bits_for(deep.highest, dtype) < every:
            self._see_all()
        with self._lock:
            if not self._is_known:
                self._highest = max(deep.highest, self._highest)
            # More than was seen in the set: a file that changed.
            bits = bits_for(max(deep.highest, self._highest), dtype)
        if bits == every:
            return bits, ""
        so_far = "" if self._is_known else " so far"
        return bits, f"white is {(1 << bits) - 1} by the largest value{so_far}"

    def _see_all(self) -> None:
        assert self._load is not None
        with self._lock:
            if self._is_known:
                return
            for outcome in self._load():
                if isinstance(outcome, Deep):
                    self._highest = max(self._highest, outcome.highest)
                    own = int(np.iinfo(outcome.pixels.dtype).max)
                    if bits_for(self._highest, outcome.pixels.dtype) == own.bit_length():
                        break  # no image changes that
            self._is_known = True


def _seen(highest: int, is_known: bool) -> Depth:
    depth = Depth()
    depth._highest, depth._is_known = highest, is_known
    return depth
