"""Preprocessing: from pixels to the vectors that signatures are learnt on.

A patch row is ``(row, column, channel)`` in C order, ``m = patch_size**2 * n_channels`` values.
`Preprocessing` maps patch rows x to x^ and, because each of its steps is affine given the patch's
mean and standard deviation, folds into the weights of an encoder::

    x^ = P ((x - mu 1) / s - m0) / scale        mu, s: the patch's mean and spread (or 0 and 1)
    W x^ + b = (Wc x) / s + b'
    Wc = V - rowmean(V) 1',    b' = b - V m0,    V = W P / scale
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wbcprof import _core
from wbcprof.checks import Choice, Flag, Real, check
from wbcprof.model.arrays import check_arrays
from wbcprof.threads import left_at_once

PREPROCESSING = ("none", "dataset_mean", "patch_mean", "contrast")
PIXEL_INPUTS = ("raw", "inverted", "optical_density")

_ARRAYS = ("mean", "whitener", "unwhitener")
_VALUES = ("kind", "whiten", "epsilon", "whitening_floor", "scale")
_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_RULES = {
    "preprocessing": Choice(PREPROCESSING),
    "whiten": Flag(),
    "epsilon": Real(least=_TINY, most=_HUGE),
    "whitening_floor": Real(least=0, most=_HUGE),
    "scale": Real(least=_TINY, most=_HUGE),
}


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
    Choice(PIXEL_INPUTS).check("pixel_input", pixel_input)
    level = np.arange(256, dtype=np.float64)
    tables = {
        "raw": level / 255,
        "inverted": 1 - level / 255,
        "optical_density": -np.log((level + 1) / 256) / np.log(256),
    }
    result: np.ndarray = tables[pixel_input].astype(np.float32)
    return result


def to_grey_levels(values: np.ndarray, pixel_input: str) -> np.ndarray:
    """Undo `pixel_table`: values back to uint8 grey levels, clipped."""
    if pixel_input == "optical_density":
        levels = 256 * np.exp(-values * np.log(256)) - 1
    else:
        levels = 255 * (values if pixel_input == "raw" else 1 - values)
    result: np.ndarray = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return result


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

    def __post_init__(self) -> None:
        check(
            _RULES,
            preprocessing=self.kind,
            whiten=self.whiten,
            epsilon=self.epsilon,
            whitening_floor=self.whitening_floor,
            scale=self.scale,
        )

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, np.ndarray], document: dict[str, Any], m: int
    ) -> Preprocessing:
        """The preprocessing of patches of `m` values whose `to_arrays` gave these.

        Raises
        ------
        ValueError, KeyError, TypeError
            An array or value is missing, of another shape or type, or out of range.
        """
        given: dict[str, Any] = {name: document[name] for name in _VALUES}
        given |= {name: arrays.get(name) for name in _ARRAYS}
        made = cls(**given)
        check_arrays({name: getattr(made, name) for name in made.shapes(m)}, made.shapes(m))
        return made

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """For a file: the arrays that there are, and values that JSON can hold."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return (
            {name: array for name, array in arrays.items() if array is not None},
            {name: getattr(self, name) for name in _VALUES},
        )

    def shapes(self, m: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays that this kind of preprocessing has, for patches of `m` values."""
        found: dict[str, tuple[int, ...]] = {}
        if self.whiten or self.kind == "dataset_mean":
            found["mean"] = (m,)
        if self.whiten:
            found |= {"whitener": (m, m), "unwhitener": (m, m)}
        return found

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
            eigenvalues, vectors = left_at_once(lambda: np.linalg.eigh(covariance))
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
        result: np.ndarray = rows * spread + centre
        return result

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
