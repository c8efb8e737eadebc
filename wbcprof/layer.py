"""One learnt layer of Predictive Sparse Decomposition: what inference needs, and nothing else.

    prediction   F = g * s(W x^ + b)                                    feed-forward
    optimal      Z = argmin 1/2 ||x^ - Z B||^2 + alpha ||Z||_1          sparse coding
    rebuilt      x^ ~ Z B                                               B: signatures, unit rows

Rows x^ are preprocessed patches.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from wbcprof.encoder import Encoder
from wbcprof.patches import Preprocessing, correlate, pixel_table

_PACKING = threading.Lock()


def activate(nonlinearity: str, a: np.ndarray, threshold: np.ndarray | None) -> np.ndarray:
    """s(a) of an encoder, element-wise; `threshold` is used by "soft_threshold" alone."""
    if nonlinearity == "rectified":
        return np.maximum(a, 0)
    if nonlinearity == "tanh":
        return np.tanh(a)
    if nonlinearity == "sigmoid":
        return 0.5 * np.tanh(0.5 * a) + 0.5
    return np.sign(a) * np.maximum(np.abs(a) - threshold, 0)


def predict(
    rows: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    gain: np.ndarray,
    threshold: np.ndarray | None,
    nonlinearity: str,
) -> np.ndarray:
    """Feed-forward codes (n, h) of preprocessed rows (n, m); the rest is as in `Layer`."""
    return gain * activate(nonlinearity, correlate(rows, weights) + bias, threshold)


@dataclass(eq=False)
class Layer:
    """Signatures, encoder and preprocessing of one layer.

    Parameters
    ----------
    signatures : ndarray of shape (h, m), float32
        Decoder B, rows of unit norm, in preprocessed space; m = patch_size**2 * channels.
    weights : ndarray of shape (h, m), float32
        Encoder W, in preprocessed space.
    bias, gain : ndarray of shape (h,), float32
        b and g.
    threshold : ndarray of shape (h,), float32, or None
        theta of "soft_threshold"; None for the other nonlinearities.
    nonlinearity : {"sigmoid", "tanh", "rectified", "soft_threshold"}
    preprocessing : Preprocessing
    patch_size, channels : int
        Side of a patch (px in the first layer, cells of the code map in later ones).
    alpha, kappa : float
        Weights of sparsity and prediction that the layer was learnt with.
    positive : bool
        Codes are non-negative.
    pixel_input : str or None
        See `wbcprof.patches.pixel_table`; None for layers that read code maps.
    step : int
        Distance between windows, used where the caller does not give one.
    region : int
        Side of the square of windows that is pooled (by maximum) into one cell of the code map
        that the next layer reads.
    """

    signatures: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    gain: np.ndarray = field(repr=False)
    threshold: np.ndarray | None = field(repr=False)
    nonlinearity: str
    preprocessing: Preprocessing
    patch_size: int
    channels: int
    alpha: float
    kappa: float
    positive: bool
    pixel_input: str | None
    step: int
    region: int = 4
    _encoders: dict[int, Encoder] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_signatures(self) -> int:
        return len(self.signatures)

    def __getstate__(self):
        return {**self.__dict__, "_encoders": {}}

    def encoder(self, step: int | None = None) -> Encoder:
        """The layer folded with its preprocessing into a kernel-ready encoder, made once."""
        step = self.step if step is None else step
        with _PACKING:
            if step not in self._encoders:
                self._encoders[step] = self._fold(step)
            return self._encoders[step]

    def _fold(self, step: int) -> Encoder:
        filters, offset = self.preprocessing.fold(self.weights, self.bias)
        return Encoder(
            filters.reshape(-1, self.patch_size, self.patch_size, self.channels),
            offset,
            self.gain,
            self.threshold,
            nonlinearity=self.nonlinearity,
            step=step,
            contrast_epsilon=self.preprocessing.contrast_epsilon,
            pixel_table=None if self.pixel_input is None else pixel_table(self.pixel_input),
        )

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Feed-forward codes (n, h) of preprocessed rows (n, m)."""
        return predict(rows, self.weights, self.bias, self.gain, self.threshold, self.nonlinearity)

    def optimal(self, rows: np.ndarray, n_threads: int | None = None) -> np.ndarray:
        """Optimal sparse codes (n, h) of preprocessed rows (n, m)."""
        from wbcprof.sparse import sparse_code

        result = sparse_code(
            rows, self.signatures, self.alpha, positive=self.positive, n_threads=n_threads
        )
        return result.codes.toarray()

    def code(self, rows: np.ndarray, inference: str, n_threads: int | None = None) -> np.ndarray:
        """Codes by "feedforward" prediction or by "sparse" coding."""
        if inference == "feedforward":
            return self.predict(rows)
        if inference == "sparse":
            return self.optimal(rows, n_threads)
        raise ValueError(f"inference must be 'feedforward' or 'sparse', got {inference!r}")
