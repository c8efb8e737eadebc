"""Model files: safetensors with JSON metadata. Nothing in a file is ever executed.

The arrays are named ``layers.0.signatures``, ``layers.0.weights``, ``classifier.coef`` ...; the
safetensors header's metadata holds one JSON document under the key ``wbcprof``::

    {"format": 1, "layers": [...], "pools": [...], "levels": [...], "centres": [...],
     "parameters": {...}, "provenance": {...}, "history": [...], "classifier": {...} or null}
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .encoder import NONLINEARITIES
from .files import replacing
from .layer import Layer
from .model import Model
from .patches import Preprocessing, pixel_table

FORMAT_VERSION = 1
_MAX_HEADER_BYTES = 16 << 20
_LAYER_ARRAYS = ("signatures", "weights", "bias", "gain")
_LAYER_VALUES = (
    "nonlinearity", "patch_size", "channels", "alpha", "kappa", "positive", "pixel_input", "step",
    "region",
)  # fmt: skip
_PREPROCESSING_ARRAYS = ("mean", "whitener", "unwhitener")
_PREPROCESSING_VALUES = ("kind", "whiten", "epsilon", "whitening_floor", "scale")


class ModelFileError(ValueError):
    """A model file is damaged, foreign, or from a newer version of the package."""


def save(model: Model, path: str | os.PathLike) -> None:
    """Write a model; the file is whole or absent.

    Parameters
    ----------
    model : Model
    path : str or path-like
        Any name; ``.wbcprof`` is customary.
    """
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    layers = []
    for index, layer in enumerate(model.layers):
        prefix = f"layers.{index}."
        arrays |= {prefix + name: getattr(layer, name) for name in _LAYER_ARRAYS}
        if layer.threshold is not None:
            arrays[prefix + "threshold"] = layer.threshold
        for name in _PREPROCESSING_ARRAYS:
            if getattr(layer.preprocessing, name) is not None:
                arrays[prefix + name] = getattr(layer.preprocessing, name)
        values = {name: getattr(layer, name) for name in _LAYER_VALUES}
        values["preprocessing"] = {
            name: getattr(layer.preprocessing, name) for name in _PREPROCESSING_VALUES
        }
        layers.append(values)
    classifier = None
    if model.classifier is not None:
        classifier_arrays, classifier = model.classifier.to_arrays()
        arrays |= {f"classifier.{name}": array for name, array in classifier_arrays.items()}
    document = {
        "format": FORMAT_VERSION,
        "layers": layers,
        "pools": model.pools,
        "levels": model.levels,
        "centres": model.centres,
        "parameters": model.parameters,
        "provenance": model.provenance,
        "history": model.history,
        "classifier": classifier,
    }
    metadata = {"wbcprof": json.dumps(document, default=_plain)}
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata)


def _plain(value: Any):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return repr(value)


def load(path: str | os.PathLike) -> Model:
    """Read a model written by `Model.save`.

    Raises
    ------
    FileNotFoundError
        No such file.
    ModelFileError
        The file is damaged, truncated, not a wbcprof model, or of a newer format; of its
        classifier, this is found at first use.
    """
    document, arrays = _read(Path(path))
    with _named(path):
        model = _build(document, arrays)
        if document["classifier"] is not None:
            model.classifier = partial(_build_classifier, path, document["classifier"], arrays)
        return model


@contextmanager
def _named(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelFileError(
            f"{os.fspath(path)!r} is not a usable wbcprof model: {type(error).__name__}: {error}"
        ) from error


def _read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The JSON document and the arrays of a model file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"no model file at {str(path)!r}")
    with open(path, "rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
    if header_bytes > min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise ModelFileError(
            f"{str(path)!r} is damaged, truncated or not a safetensors file: its header claims "
            f"{header_bytes} bytes"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "wbcprof" not in metadata:
                raise ModelFileError(
                    f"{str(path)!r} is a safetensors file but not a wbcprof model; "
                    "expected one written by Model.save or 'wbcprof fit'"
                )
            document = json.loads(metadata["wbcprof"])
            if not isinstance(document, dict):
                raise ModelFileError(f"{str(path)!r}: the model's metadata is not a JSON object")
            version = document.get("format")
            if version != FORMAT_VERSION:
                raise ModelFileError(
                    f"{str(path)!r} has model format {version!r}; this version of wbcprof reads "
                    f"format {FORMAT_VERSION}: a newer wbcprof may be needed"
                )
            return document, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, json.JSONDecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{str(path)!r} is damaged, truncated or not a wbcprof model: {error}"
        ) from error


def _build(document: dict, arrays: dict[str, np.ndarray]) -> Model:
    layers = []
    for index, values in enumerate(document["layers"]):
        prefix = f"layers.{index}."
        preprocessing = Preprocessing(
            **{name: values["preprocessing"][name] for name in _PREPROCESSING_VALUES},
            **{name: arrays.get(prefix + name) for name in _PREPROCESSING_ARRAYS},
        )
        layer = Layer(
            preprocessing=preprocessing,
            **{name: arrays[prefix + name] for name in _LAYER_ARRAYS},
            threshold=arrays.get(prefix + "threshold"),
            **{name: values[name] for name in _LAYER_VALUES},
        )
        _check_layer(index, layer)
        if layers and layer.channels != layers[-1].n_signatures:
            raise ValueError(f"layer {index} must read one channel per signature")
        layers.append(layer)
    if not layers:
        raise ValueError("the model has no layers")
    for name, kind in {"parameters": dict, "provenance": dict, "history": list}.items():
        if not isinstance(document[name], kind):
            raise ValueError(f"{name} must be a JSON {kind.__name__}")
    return Model(
        layers,
        document["pools"],
        document["levels"],
        document["parameters"],
        document["provenance"],
        document["history"],
        centres=document["centres"],
    )


def _build_classifier(path: str | os.PathLike, parameters: dict, arrays: dict[str, np.ndarray]):
    from .classify import TypeClassifier

    prefix = "classifier."
    with _named(path):
        return TypeClassifier.from_arrays(
            {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)},
            parameters,
        )


def _check_layer(index: int, layer: Layer) -> None:
    """Every shape, dtype, name and range that the kernels trust."""
    if layer.nonlinearity not in NONLINEARITIES:
        raise ValueError(
            f"layer {index}: nonlinearity must be one of {NONLINEARITIES}, "
            f"got {layer.nonlinearity!r}"
        )
    if layer.pixel_input is not None:
        pixel_table(layer.pixel_input)
    if (layer.pixel_input is None) != (index > 0):
        raise ValueError(f"layer {index}: the first layer, and no other, reads pixels")
    if (layer.threshold is None) != (layer.nonlinearity != "soft_threshold"):
        raise ValueError(f"layer {index}: soft_threshold, and nothing else, takes a threshold")
    for name in ("patch_size", "channels", "step", "region"):
        value = getattr(layer, name)
        if type(value) is not int or not 1 <= value <= 1 << 20:
            raise ValueError(f"layer {index}: {name} must be a positive integer, got {value!r}")
    preprocessing = layer.preprocessing
    positive = {
        "alpha": layer.alpha, "scale": preprocessing.scale, "epsilon": preprocessing.epsilon,
        "kappa": layer.kappa or 1.0,
    }  # fmt: skip
    for name, value in positive.items():
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"layer {index}: {name} must be positive and finite, got {value!r}")
    for name, value in {"positive": layer.positive, "whiten": preprocessing.whiten}.items():
        if type(value) is not bool:
            raise ValueError(f"layer {index}: {name} must be true or false, got {value!r}")
    h, m = len(layer.signatures), layer.patch_size**2 * layer.channels
    expected = {
        **{name: (h, m) for name in ("signatures", "weights")},
        **{name: (h,) for name in ("bias", "gain", "threshold")},
        "mean": (m,),
        "whitener": (m, m),
        "unwhitener": (m, m),
    }
    for name, shape in expected.items():
        holder = layer.preprocessing if name in _PREPROCESSING_ARRAYS else layer
        array = getattr(holder, name)
        if array is None:
            continue
        if array.dtype != np.float32 or array.shape != shape:
            raise ValueError(
                f"layer {index}: {name} must be float32 of shape {shape}, "
                f"got {array.dtype} of shape {array.shape}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"layer {index}: {name} holds NaN or infinite values")
