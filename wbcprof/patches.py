"""Patches: from pixels to the vectors that signatures are learnt on.

A patch row is ``(row, column, channel)`` in C order, ``m = patch_size**2 * n_channels`` values.
`Preprocessing` maps patch rows x to x^ and, because each of its steps is affine given the patch's
mean and standard deviation, folds into the weights of an encoder::

    x^ = P ((x - mu 1) / s - m0) / scale        mu, s: the patch's mean and spread (or 0 and 1)
    W x^ + b = (Wc x) / s + b'
    Wc = V - rowmean(V) 1',    b' = b - V m0,    V = W P / scale
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from wbcprof import _core

PREPROCESSING = ("none", "dataset_mean", "patch_mean", "contrast")
PIXEL_INPUTS = ("raw", "inverted", "optical_density")


def positive_integer(name: str, value) -> int:
    """`value` as an int, or a ValueError that names it where it is no integer above 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


def pixel_table(pixel_input: str) -> np.ndarray:
    """Value of each of the 256 grey levels under a pixel input.

    Parameters
    ----------
    pixel_input : {"raw", "inverted", "optical_density"}
        ``v / 255``; ``1 - v / 255``, so that unstained background is near zero; or
        ``-log((v + 1) / 256) / log(256)``, which is proportional to the amount of stain.

    Returns
    -------
    ndarray of shape (256,), float32
        Values in [0, 1].
    """
    level = np.arange(256, dtype=np.float64)
    tables = {
        "raw": level / 255,
        "inverted": 1 - level / 255,
        "optical_density": -np.log((level + 1) / 256) / np.log(256),
    }
    if pixel_input not in tables:
        raise ValueError(f"pixel_input must be one of {PIXEL_INPUTS}, got {pixel_input!r}")
    return tables[pixel_input].astype(np.float32)


def windows(image: np.ndarray, patch_size: int, step: int) -> np.ndarray:
    """All patches of one image under a sliding window, as a view.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels)
    patch_size, step : int
        Side of the window and distance between windows, px.

    Returns
    -------
    ndarray of shape (rows, columns, patch_size, patch_size, channels)
        ``rows = (height - patch_size) // step + 1``, columns likewise. Read-only.
    """
    view = np.lib.stride_tricks.sliding_window_view(image, (patch_size, patch_size), axis=(0, 1))
    return view[::step, ::step].transpose(0, 1, 3, 4, 2)


def pack_signatures(signatures: np.ndarray) -> np.ndarray:
    """Signatures (h, m) as `_core.correlate` reads them: (blocks, m, SIGNATURE_BLOCK), float32."""
    h, m = signatures.shape
    blocks = np.pad(np.asarray(signatures, np.float32), ((0, -h % _core.SIGNATURE_BLOCK), (0, 0)))
    blocks = blocks.reshape(-1, _core.SIGNATURE_BLOCK, m)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def correlate(patches: np.ndarray, signatures: np.ndarray) -> np.ndarray:
    """Product of every patch row (n, m) with every signature (h, m); (n, h), float32.

    A patch gets the same bits whatever the rows around it, which BLAS does not promise.
    """
    packed = pack_signatures(signatures)
    products = np.empty((len(patches), packed.shape[0] * packed.shape[2]), np.float32)
    _core.correlate(np.ascontiguousarray(patches, np.float32), packed, products)
    return products[:, : len(signatures)]


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

    def __getitem__(self, index) -> np.ndarray:
        return self.levels[index] if self.table is None else self.table[self.levels[index]]


class PatchStream:
    """Random patches of images within a memory budget.

    Patches that fit the budget are drawn once and kept. More are drawn anew in every pass, in
    rounds that fit it, each round from all images.

    Parameters
    ----------
    images : callable
        Returns an iterator over the images, from the first, each time it is called.
    n_images, patch_size, n_patches, random_state
        See `sample_patches`.
    table : ndarray of shape (256,), float32, or None
        See `PatchRows`.
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
        patch_size: int,
        n_patches: int,
        random_state: int,
        table: np.ndarray | None,
        memory_budget: int,
    ):
        self._images = images
        self._sampling = (n_images, patch_size)
        self._random_state = random_state
        self._table = table
        first = next(iter(images()))
        row_bytes = patch_size**2 * first.shape[2] * first.itemsize
        self.shape = (n_patches, row_bytes // first.itemsize)
        if memory_budget < row_bytes:
            raise ValueError(
                f"memory_budget must hold a patch at least ({row_bytes} bytes), got {memory_budget}"
            )
        self.n_rounds = -(-n_patches // (memory_budget // row_bytes))
        self._held: tuple[int, PatchRows] | None = None

    def rounds(self, index: int) -> Iterator[PatchRows]:
        """The patches of pass `index`; let go of one round before asking for the next."""
        for number in range(self.n_rounds):
            yield self._draw(index * self.n_rounds + number if self.n_rounds > 1 else 0)

    def _draw(self, draw: int) -> PatchRows:
        if self._held is None or self._held[0] != draw:
            self._held = None
            size = -(-self.shape[0] // self.n_rounds)
            n_images, patch_size = self._sampling
            levels = sample_patches(
                self._images(), n_images, patch_size, size, self._random_state, draw
            )
            self._held = draw, PatchRows(levels, self._table)
        return self._held[1]


@dataclass(eq=False)
class Preprocessing:
    """What happens to a patch before it is coded; fitted on the training patches.

    Parameters
    ----------
    kind : {"none", "dataset_mean", "patch_mean", "contrast"}
        Nothing; the mean patch of the training set removed; each patch's own mean over all
        channels removed (its chroma stays); that, and division by ``sqrt(variance + epsilon)``.
    whiten : bool
        ZCA whitening, which also removes the mean patch of the training set.
    epsilon : float
        Variance added under the root in "contrast", squared units of the input. Constant patches
        become zero.
    whitening_floor : float
        Added to the eigenvalues of the covariance, as a fraction of their mean.

    Attributes
    ----------
    mean : ndarray of shape (m,) or None
    whitener, unwhitener : ndarray of shape (m, m) or None
    scale : float
        The one number that all patches are divided by, so that the root mean square of their
        norms is 1 over the training set: lambda has a meaning only at a stated patch scale.
    """

    kind: str = "none"
    whiten: bool = False
    epsilon: float = (4 / 255) ** 2
    whitening_floor: float = 1e-2
    mean: np.ndarray | None = field(default=None, repr=False)
    whitener: np.ndarray | None = field(default=None, repr=False)
    unwhitener: np.ndarray | None = field(default=None, repr=False)
    scale: float = 1.0

    def __post_init__(self):
        if self.kind not in PREPROCESSING:
            raise ValueError(f"preprocessing must be one of {PREPROCESSING}, got {self.kind!r}")

    @property
    def contrast_epsilon(self) -> float | None:
        """What the encoder's kernel needs to know of contrast normalisation."""
        return self.epsilon if self.kind == "contrast" else None

    def fit(self, patches: np.ndarray) -> Preprocessing:
        """Learn mean patch, whitening and scale from rows of shape (n, m)."""
        self.mean = self.whitener = self.unwhitener = None
        self.scale = 1.0
        rows, _, _ = self.apply(patches)
        if self.kind == "dataset_mean" or self.whiten:
            self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
            rows = rows - self.mean
        if self.whiten:
            covariance = (rows.T @ rows).astype(np.float64) / len(rows)
            eigenvalues, vectors = np.linalg.eigh(covariance)
            floor = self.whitening_floor * eigenvalues.mean()
            root = np.sqrt(np.maximum(eigenvalues, 0) + max(floor, np.finfo(np.float32).tiny))
            self.whitener = ((vectors / root) @ vectors.T).astype(np.float32)
            self.unwhitener = ((vectors * root) @ vectors.T).astype(np.float32)
            rows = rows @ self.whitener
        energy = np.einsum("ij,ij->", rows, rows, dtype=np.float64) / len(rows)
        if not energy > 0:
            raise ValueError(
                f"the patches hold no signal: all are zero after preprocessing {self.kind!r}; "
                "images that differ from a constant are needed"
            )
        self.scale = float(np.sqrt(energy))
        return self

    def apply(self, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Preprocess rows of shape (n, m).

        Returns
        -------
        rows : ndarray of shape (n, m), float32
        centre, spread : ndarray of shape (n, 1), float32
            Each patch's mean and divisor, which `restore` needs.
        """
        rows = np.asarray(patches, dtype=np.float32)
        n = len(rows)
        centre, spread = np.zeros((n, 1), np.float32), np.ones((n, 1), np.float32)
        if self.kind in ("patch_mean", "contrast"):
            centre = rows.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
            rows = rows - centre
        if self.kind == "contrast":
            variance = np.einsum("ij,ij->i", rows, rows, dtype=np.float64) / rows.shape[1]
            spread = np.sqrt(variance + self.epsilon).astype(np.float32)[:, None]
            rows = rows / spread
        if self.mean is not None:
            rows = rows - self.mean
        if self.whitener is not None:
            rows = rows @ self.whitener
        return rows / np.float32(self.scale), centre, spread

    def restore(self, rows: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Undo `apply`: rows of shape (n, m) back in units of the input."""
        rows = rows * np.float32(self.scale)
        if self.unwhitener is not None:
            rows = rows @ self.unwhitener
        if self.mean is not None:
            rows = rows + self.mean
        return rows * spread + centre

    def fold(self, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fold the preprocessing into an encoder's weights (h, m) and bias (h,).

        Returns
        -------
        filters : ndarray of shape (h, m), float64
            To be applied to the patch as it is; the product is divided by the patch's spread
            where `contrast_epsilon` is set.
        offset : ndarray of shape (h,), float64
        """
        filters = weights
        if self.whitener is not None:
            filters = np.asarray(weights, dtype=np.float64) @ self.whitener
        filters = np.divide(filters, self.scale, dtype=np.float64)
        offset = np.asarray(bias, dtype=np.float64)
        if self.mean is not None:
            # Not by BLAS, whose threads wake slowly: a program may wait for its first profile.
            offset = offset - np.einsum("ij,j->i", filters, self.mean)
        if self.kind in ("patch_mean", "contrast"):
            filters -= filters.mean(axis=1, keepdims=True)
        return filters, offset
