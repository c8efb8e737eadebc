"""One learnt layer of Predictive Sparse Decomposition: what inference needs, and nothing else.

    prediction   F = g * s(W x^ + b)                                    feed-forward
    optimal      Z = argmin 1/2 ||x^ - Z B||^2 + alpha ||Z||_1          sparse coding
    rebuilt      x^ ~ Z B                                               B: signatures, unit rows

Rows x^ are preprocessed patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from wbcprof.checks import Choice, Integer, Maybe, check
from wbcprof.model.arrays import check_arrays
from wbcprof.model.encoder import Encoder
from wbcprof.model.preprocessing import PIXEL_INPUTS, Preprocessing, correlate, pixel_table
from wbcprof.model.settings import Inference, LayerSettings
from wbcprof.threads import alone


def activate(nonlinearity: str, a: np.ndarray, threshold: np.ndarray | None) -> np.ndarray:
    """s(a) of an encoder, element-wise; `threshold` is used by "soft_threshold" alone."""
    s: np.ndarray
    if nonlinearity == "rectified":
        s = np.maximum(a, 0)
    elif nonlinearity == "tanh":
        s = np.tanh(a)
    elif nonlinearity == "sigmoid":
        s = 0.5 * np.tanh(0.5 * a) + 0.5
    else:
        s = np.sign(a) * np.maximum(np.abs(a) - threshold, 0)
    return s


def predict(
    rows: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    gain: np.ndarray,
    threshold: np.ndarray | None,
    nonlinearity: str,
) -> np.ndarray:
    """Feed-forward codes (n, h) of preprocessed rows (n, m); the rest is as in `Layer`."""
    result: np.ndarray = gain * activate(nonlinearity, correlate(rows, weights) + bias, threshold)
    return result


_ARRAYS = ("signatures", "weights", "bias", "gain", "threshold")
_SIZE = Integer(1, 1 << 20)
_RULES = {
    "patch_size": _SIZE,
    "step": _SIZE,
    "region": Maybe(_SIZE),
    "pixel_input": Maybe(Choice(PIXEL_INPUTS)),
}


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
    preprocessing : Preprocessing
    settings : LayerSettings
        How it was learnt; `nonlinearity`, `alpha` and `positive` are read at work too.
    patch_size, step : int
        Side of a patch and distance between windows: px in the first layer, squares of the code
        map in later ones. The step is used where the caller does not give one.
    pixel_input : str or None
        See `wbcprof.model.preprocessing.pixel_table`; None for layers that read code maps.
    region : int or None
        Side of the square of windows of the layer before that is pooled, by maximum, into one
        place of the code map that this layer reads; None for layers that read pixels.
    """

    signatures: np.ndarray = field(repr=False)
    weights: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    gain: np.ndarray = field(repr=False)
    threshold: np.ndarray | None = field(repr=False)
    preprocessing: Preprocessing
    settings: LayerSettings
    patch_size: int
    step: int
    pixel_input: str | None = None
    region: int | None = None
    _encoders: dict[int, Encoder] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], document: dict[str, Any]) -> Layer:
        """The layer whose `to_arrays` gave these.

        Raises
        ------
        ValueError, KeyError, TypeError
            An array or value is missing, of another shape or type, out of range, or too many.
        """
        signatures = arrays["signatures"]
        if signatures.ndim != 2 or 0 in signatures.shape:
            raise ValueError(f"there are no signatures, got an array of shape {signatures.shape}")
        values = check(_RULES, **{name: document[name] for name in _RULES})
        h, m = signatures.shape
        if m % values["patch_size"] ** 2:
            raise ValueError(
                f"signatures of {m} values are no patches of side {values['patch_size']}"
            )
        settings = LayerSettings.of({**document["settings"], "n_components": h})
        shapes: dict[str, tuple[int, ...]] = {name: (h, m) for name in ("signatures", "weights")}
        shapes |= {name: (h,) for name in ("bias", "gain")}
        if settings.nonlinearity == "soft_threshold":
            shapes["threshold"] = (h,)
        check_arrays(arrays, shapes)
        preprocessing = Preprocessing.from_arrays(arrays, document["preprocessing"], m)
        unknown = arrays.keys() - shapes.keys() - preprocessing.shapes(m).keys()
        if unknown:
            raise ValueError(f"it holds arrays that belong nowhere: {sorted(unknown)[:3]}")
        own: dict[str, Any] = {name: arrays.get(name) for name in _ARRAYS}
        return cls(**own, preprocessing=preprocessing, settings=settings, **values)

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """For a file: the arrays learnt, and values that JSON can hold."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        more, preprocessing = self.preprocessing.to_arrays()
        values = {name: getattr(self, name) for name in _RULES}
        settings = asdict(self.settings)
        return arrays | more, {**values, "settings": settings, "preprocessing": preprocessing}

    @property
    def channels(self) -> int:
        """Values of a pixel, or of a place of the code map, that the layer reads."""
        result: int = self.signatures.shape[1] // self.patch_size**2
        return result

    @property
    def n_signatures(self) -> int:
        return len(self.signatures)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoders": {}}

    def encoder(self, step: int | None = None) -> Encoder:
        """The layer folded with its preprocessing into a kernel-ready encoder, made once."""
        step = self.step if step is None else step
        with alone():
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
            nonlinearity=self.settings.nonlinearity,
            step=step,
            contrast_epsilon=self.preprocessing.contrast_epsilon,
            pixel_table=None if self.pixel_input is None else pixel_table(self.pixel_input),
        )

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Feed-forward codes (n, h) of preprocessed rows (n, m)."""
        return predict(
            rows, self.weights, self.bias, self.gain, self.threshold, self.settings.nonlinearity
        )

    def optimal(self, rows: np.ndarray, n_threads: int) -> np.ndarray:
        """Optimal sparse codes (n, h) of preprocessed rows (n, m)."""
        from wbcprof.model.sparse import sparse_code

        alpha, positive = self.settings.alpha, self.settings.positive
        result = sparse_code(rows, self.signatures, alpha, positive=positive, n_threads=n_threads)
        found: np.ndarray = result.codes.toarray()
        return found

    def code(self, rows: np.ndarray, inference: Inference, n_threads: int) -> np.ndarray:
        """Codes by "feedforward" prediction or by "sparse" coding."""
        return self.predict(rows) if inference == "feedforward" else self.optimal(rows, n_threads)


def code_maps(
    images: np.ndarray, layers: Sequence[Layer], region: int, step: int | None, n_threads: int
) -> np.ndarray:
    """Maps (n, rows, columns, h) of pooled codes of images (n, H, W, c) through `layers`; `step` is
    that of the first, `region` that of the layer which is to read the maps."""
    regions = [layer.region for layer in layers[1:]] + [region]
    for layer, side in zip(layers, regions, strict=True):
        assert side is not None
        images = layer.encoder(step).encode_map(images, side, n_threads=n_threads)
        step = None
    return images
