"""Patches to learn on: drawn at random from all images, kept or drawn anew within a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from wbcprof.images.depth import Depths
from wbcprof.images.source import ImageSource
from wbcprof.model.layer import Layer, code_maps
from wbcprof.model.model import read_cells
from wbcprof.model.preprocessing import pixel_table, windows
from wbcprof.smear.jitter import jitter_some
from wbcprof.smear.normalise import Normaliser


@dataclass(frozen=True)
class LayerInput:
    """What a layer to come reads, and which patches of it are drawn.

    Attributes
    ----------
    layers : tuple of Layer
        Those below it, learnt already; none where it reads pixels.
    normaliser : CanonicalForm, StainNormaliser or None
        Whose form images are brought to.
    augment : bool
        Half of the images, drawn at random, are jittered first.
    pixel_input : str or None
        See `wbcprof.model.preprocessing.pixel_table`; None where there are layers below.
    region : int or None
        See `Layer`; None where it reads pixels.
    centre : float
        Patches of pixels come from the middle of an image, this fraction of its sides.
    patch_size, n_patches, random_state : int
    depths : mapping or None
        Of a model that is gone on from.
    """

    layers: tuple[Layer, ...]
    normaliser: Normaliser | None
    augment: bool
    pixel_input: str | None
    region: int | None
    centre: float
    patch_size: int
    n_patches: int
    random_state: int
    depths: Depths | None = None

    @property
    def table(self) -> np.ndarray | None:
        """Values of grey levels, where it reads pixels."""
        return None if self.pixel_input is None else pixel_table(self.pixel_input)

    def read(self, source: ImageSource, n_threads: int) -> Iterator[np.ndarray]:
        """Code maps, or, where there is no layer below, the middle of each image."""
        before = partial(jitter_some, seed=self.random_state) if self.augment else None
        for cell in read_cells(source, self.normaliser, n_threads, before, learnt=self.depths):
            if self.region is None:
                yield crop_centre(cell.pixels, self.centre, self.patch_size)
            else:
                yield code_maps(cell.pixels[None], self.layers, self.region, None, n_threads)[0]


def crop_centre(image: np.ndarray, fraction: float, min_size: int) -> np.ndarray:
    """The middle of an image, a view: this fraction of its sides, `min_size` pixels at least."""
    sides = [min(side, max(min_size, round(fraction * side))) for side in image.shape[:2]]
    top, left = ((n - side) // 2 for n, side in zip(image.shape[:2], sides, strict=True))
    return image[top : top + sides[0], left : left + sides[1]]


def sample_patches(
    images: Iterable[np.ndarray],
    n_images: int,
    patch_size: int,
    n_patches: int,
    random_state: int,
    draw: int = 0,
) -> np.ndarray:
    """Random patches, as many from every image as the total allows (paper, Fig. 1a).

    Parameters
    ----------
    images : iterable of ndarray of shape (height, width, channels)
        Read once, one at a time; all of one dtype and channel count; sizes may differ, none
        smaller than the patch.
    n_images : int
        How many images are expected; fewer give fewer patches.
    patch_size : int
        Side of a patch, px.
    n_patches : int
        Patches in all; shares differ by one at most, and larger ones are spread evenly.
    random_state : int
        Seed. What is drawn from image i depends on the seed, i, the draw and the number asked of
        it alone.
    draw : int
        Other draws give other patches.

    Returns
    -------
    ndarray of shape (n_patches, patch_size**2 * channels), dtype of the images

    Raises
    ------
    ValueError
        There are no images.
    """
    patches = None
    filled = 0
    for index, image in enumerate(images):
        if patches is None:
            shape = (n_patches, patch_size, patch_size, image.shape[2])
            patches = np.empty(shape, dtype=image.dtype)
        count = (index + 1) * n_patches // n_images - index * n_patches // n_images
        rng = np.random.default_rng((random_state, index, draw))
        view = windows(image, patch_size, 1)
        rows = rng.integers(view.shape[0], size=count)
        columns = rng.integers(view.shape[1], size=count)
        patches[filled : filled + count] = view[rows, columns]
        filled += count
    if patches is None:
        raise ValueError("expected images to draw patches from, got none")
    return patches[:filled].reshape(filled, -1)


@dataclass(eq=False)
class PatchRows:
    """Patch rows kept as grey levels, a quarter of the memory; ``rows[index]`` gives their values.

    Parameters
    ----------
    levels : ndarray of shape (n, m), uint8, or float32 where `table` is None
    table : ndarray of shape (256,), float32, or None
        See `pixel_table`; None: the levels are the values.
    """

    levels: np.ndarray
    table: np.ndarray | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.levels.shape

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: Any) -> np.ndarray:
        result: np.ndarray = (
            self.levels[index] if self.table is None else self.table[self.levels[index]]
        )
        return result


class PatchStream:
    """Random patches of images within a memory budget.

    Patches that fit the budget are drawn once and kept. More are drawn anew in every pass, in
    rounds that fit it, each round from all images.

    Parameters
    ----------
    images : callable
        Returns an iterator over the images, from the first, each time it is called.
    n_images : int
        See `sample_patches`.
    drawn : LayerInput
        Of which patches; its layers are not looked at.
    memory_budget : int
        Bytes that the patches of a round may take.

    Attributes
    ----------
    shape : tuple of int
        (n_patches, m).
    n_rounds : int
        Rounds in a pass.
    """

    def __init__(
        self,
        images: Callable[[], Iterable[np.ndarray]],
        n_images: int,
        drawn: LayerInput,
        memory_budget: int,
    ):
        self._images, self._n_images, self._drawn = images, n_images, drawn
        first = next(iter(images()))
        row_bytes = drawn.patch_size**2 * first.shape[2] * first.itemsize
        self.shape = (drawn.n_patches, row_bytes // first.itemsize)
        if memory_budget < row_bytes:
            raise ValueError(
                f"memory_budget must hold a patch at least ({row_bytes} bytes), got {memory_budget}"
            )
        self.n_rounds = -(-drawn.n_patches // (memory_budget // row_bytes))
        self._held: tuple[int, PatchRows] | None = None

    def rounds(self, index: int) -> Iterator[PatchRows]:
        """The patches of pass `index`; let go of one round before asking for the next."""
        for number in range(self.n_rounds):
            yield self._draw(index * self.n_rounds + number if self.n_rounds > 1 else 0)

    def _draw(self, draw: int) -> PatchRows:
        if self._held is None or self._held[0] != draw:
            self._held = None
            size = -(-self.shape[0] // self.n_rounds)
            drawn = self._drawn
            levels = sample_patches(
                self._images(), self._n_images, drawn.patch_size, size, drawn.random_state, draw
            )
            self._held = draw, PatchRows(levels, drawn.table)
        return self._held[1]
