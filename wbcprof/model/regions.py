"""Regions of an image that codes are pooled over: parts of a spatial pyramid and central discs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np


def region_names(levels: Sequence[int], centres: Sequence[float]) -> list[str]:
    """Suffixes of feature names: "" for the whole image, ``_L2R0C1`` for row 0, column 1 of the
    2 x 2 level of a pyramid, ``_Centre33`` for the disc over 33 % of the shorter side."""
    names = [
        "" if level == 1 else f"_L{level}R{row}C{column}"
        for level in levels
        for row in range(level)
        for column in range(level)
    ]
    return names + [f"_Centre{round(100 * centre):02d}" for centre in centres]


def check_windows(
    height: int, width: int, patch_size: int, step: int, levels: Sequence[int]
) -> None:
    """Refuse an image of height x width pixels in which a part of a level would have no windows:
    its zeros would be taken for codes that are not active."""
    rows, columns = ((side - patch_size) // step + 1 for side in (height, width))
    most = max(levels, default=1)
    if min(rows, columns) < most:
        raise ValueError(
            f"an image of {height} x {width} px has {rows} x {columns} windows of "
            f"{patch_size} px at step {step}, too few for {most} x {most} parts; take a "
            "smaller step, or larger images"
        )


class Regions(NamedTuple):
    """Windows of each region, within the smallest box of windows that holds all regions.

    Attributes
    ----------
    masks : ndarray of shape (n_regions, rows, columns), bool
        Levels in order, row major, then centres.
    pixels : tuple of slice
        Rows and columns of pixels that the windows of the box cover.
    part_of_window : ndarray of shape (rows, columns), int32
        Windows of the same regions are one part.
    parts : tuple of ndarray
        The parts that make up each region.
    """

    masks: np.ndarray
    pixels: tuple[slice, slice]
    part_of_window: np.ndarray
    parts: tuple[np.ndarray, ...]


@lru_cache(maxsize=32)
def find_regions(
    height: int,
    width: int,
    patch_size: int,
    step: int,
    levels: tuple[int, ...],
    centres: tuple[float, ...],
) -> Regions:
    """Regions of an image of height x width pixels under a sliding window.

    Level L splits the windows into L x L parts, window i of n going to part i * L // n. A centre c
    takes the windows whose middle lies in the disc of diameter c times the image's shorter side
    about the image's middle, or else the windows nearest to the middle.
    """
    n_windows = (height - patch_size) // step + 1, (width - patch_size) // step + 1
    regions = []
    for level in levels:
        row_part, column_part = (np.arange(n) * level // n for n in n_windows)
        regions += [
            (row_part == row)[:, None] & (column_part == column)
            for row in range(level)
            for column in range(level)
        ]
    if centres:
        y, x = (
            np.arange(n) * step + (patch_size - side) / 2
            for n, side in zip(n_windows, (height, width), strict=True)
        )
        distance = np.hypot(y[:, None], x)
        nearest = distance.min()
        regions += [distance <= max(c * min(height, width) / 2, nearest) for c in centres]
    masks = np.array(regions)
    box = []
    for axis in (2, 1):
        inside = np.flatnonzero(masks.any(axis=(0, axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    rows, columns = (slice(s.start * step, (s.stop - 1) * step + patch_size) for s in box)
    masks = masks[:, *box]
    # Sorted by the regions that a part belongs to, without sorting all windows of a large image.
    part_of_window = np.zeros(masks.shape[1:], np.int32)
    for mask in masks:
        split = 2 * part_of_window + mask
        part_of_window = (np.cumsum(np.bincount(split.ravel()) > 0, dtype=np.int32) - 1)[split]
    parts = [np.flatnonzero(np.bincount(part_of_window[mask])) for mask in masks]
    return Regions(masks, (rows, columns), part_of_window, tuple(parts))
