"""Model files: safetensors with JSON metadata. Nothing in a file is ever executed.

The arrays are named ``layers.0.signatures``, ``layers.0.weights``, ``classifier.coef`` ...; the
safetensors header's metadata holds one JSON document under the key ``wbcprof``::

    {"format": 1, "layers": [...], "pools": [...], "levels": [...], "centres": [...],
     "stain": {...} or null, "parameters": {...}, "provenance": {...}, "history": [...],
     "classifier": {...} or null}

Every version of the package reads all formats from 1 to its own `FORMAT_VERSION`, for ever, and
writes the last; it refuses newer ones, saying that a newer wbcprof is needed. The format goes up
when a file of the new kind would be refused or misread by the readers before: another array,
another meaning. Keys of the document that a reader does not know only describe; it ignores them.
``tests/models`` holds a file of every format with the profiles that it gives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcprof.arrays import ArrayFileError, read_arrays, write_arrays
from wbcprof.encoder import NONLINEARITIES
from wbcprof.files import json_value, replacing
from wbcprof.layer import Layer
from wbcprof.model import Model
from wbcprof.patches import Preprocessing, pixel_table
from wbcprof.stain import StainNormaliser

if TYPE_CHECKING:
    from wbcprof.classify import TypeClassifier

FORMAT_VERSION = 1
_KEY = "wbcprof"
_CLASSIFIER = "classifier."
_MAX_REGIONS = 1 << 13
_MAX_FEATURES = 1 << 22  # of a profile
_MAX_TYPE_CHARACTERS = 1 << 20  # number of types times the longest name
_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
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

    Raises
    ------
    ModelFileError
        `load` would refuse the file.
    """
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
        arrays |= {_CLASSIFIER + name: array for name, array in classifier_arrays.items()}
    document = {
        "format": FORMAT_VERSION,
        "layers": layers,
        "pools": model.pools,
        "levels": model.levels,
        "centres": model.centres,
        "stain": None if model.stain is None else model.stain.to_json(),
        "parameters": model.parameters,
        "provenance": model.provenance,
        "history": model.history,
        "classifier": classifier,
    }
    with replacing(path) as temporary:
        write_arrays(temporary, arrays, _KEY, json.dumps(document, default=json_value))
        _load(temporary, path)


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
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {os.fspath(path)!r}")
    return _load(path, path)


def _load(path: str | os.PathLike, name: str | os.PathLike) -> Model:
    """Read a model; messages call the file `name`."""
    document, arrays = _read(path, name)
    with _named(name):
        model = _build(document, arrays)
        if document["classifier"] is not None:
            parameters = document["classifier"]
            own = {
                name.removeprefix(_CLASSIFIER): array
                for name, array in arrays.items()
                if name.startswith(_CLASSIFIER)
            }
            _check_classifier(parameters, own, _count_features(model))
            model.classifier = partial(_build_classifier, name, parameters, own)
        return model


@contextmanager
def _named(path: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ModelFileError(
            f"{os.fspath(path)!r} is not a usable wbcprof model: {type(error).__name__}: {error}"
        ) from error


def _read(
    path: str | os.PathLike, name: str | os.PathLike
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON document and the arrays of a model file."""
    try:
        document, arrays = read_arrays(path, _KEY)
    except ArrayFileError as error:
        raise ModelFileError(
            f"{os.fspath(name)!r} is damaged, truncated or not a wbcprof model, as Model.save or "
            f"'wbcprof fit' writes it: {error}"
        ) from error
    version = document.get("format")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ModelFileError(
            f"{os.fspath(name)!r} has model format {version!r}; this version of wbcprof reads "
            f"formats up to {FORMAT_VERSION}: for a newer one, 'pip install --upgrade wbcprof'"
        )
    return document, arrays


def _build(document: dict, arrays: dict[str, np.ndarray]) -> Model:
    layers: list[Layer] = []
    expected: set[str] = set()
    for index, values in enumerate(document["layers"]):
        prefix = f"layers.{index}."
        fields: dict[str, Any] = {name: values[name] for name in _LAYER_VALUES}
        fields |= {name: arrays[prefix + name] for name in _LAYER_ARRAYS}
        fields["threshold"] = arrays.get(prefix + "threshold")
        preprocessing: dict[str, Any] = {
            **{name: values["preprocessing"][name] for name in _PREPROCESSING_VALUES},
            **{name: arrays.get(prefix + name) for name in _PREPROCESSING_ARRAYS},
        }
        layer = Layer(preprocessing=Preprocessing(**preprocessing), **fields)
        expected |= {prefix + name for name in _check_layer(index, layer)}
        if layer.channels != (layers[-1].n_signatures if layers else 3):
            raise ValueError(f"layer {index} must read RGB pixels, or one channel per signature")
        layers.append(layer)
    if not layers:
        raise ValueError("the model has no layers")
    unknown = {name for name in arrays if not name.startswith(_CLASSIFIER)} - expected
    if unknown:
        raise ValueError(f"it holds arrays that belong nowhere: {sorted(unknown)[:3]}")
    for name, kind in {"parameters": dict, "provenance": dict, "history": list}.items():
        if not isinstance(document[name], kind):
            raise ValueError(f"{name} must be a JSON {kind.__name__}")
    for entry in chain.from_iterable(document["history"]):
        if not all(type(value) in (int, float) for value in entry.values()):
            raise ValueError(f"history must hold numbers, got {entry!r}")
    model = Model(
        layers,
        document["pools"],
        document["levels"],
        document["parameters"],
        document["provenance"],
        document["history"],
        centres=document["centres"],
        stain=None if document["stain"] is None else StainNormaliser(**document["stain"]),
    )
    n_regions = _count_regions(model)
    if n_regions > _MAX_REGIONS or _count_features(model) > _MAX_FEATURES:
        raise ValueError(f"profiles over {n_regions} regions are larger than a model's may be")
    return model


def _count_regions(model: Model) -> int:
    return sum(level**2 for level in model.levels) + len(model.centres)


def _count_features(model: Model) -> int:
    return _count_regions(model) * len(model.pools) * model.layers[-1].n_signatures


def _check_classifier(
    parameters: dict[str, Any], arrays: dict[str, np.ndarray], n_features: int
) -> None:
    """What does not need scikit-learn; the rest is checked where the classifier is made."""
    if arrays["mean"].shape != (n_features,):
        raise ValueError(
            f"the classifier is of profiles of shape {arrays['mean'].shape}, the model's have "
            f"{n_features} features"
        )
    classes = parameters["classes"]
    if len(classes) * max(len(str(name)) for name in classes) > _MAX_TYPE_CHARACTERS:
        raise ValueError("the names of the types are longer than they may be")


def _build_classifier(
    path: str | os.PathLike, parameters: dict[str, Any], arrays: dict[str, np.ndarray]
) -> TypeClassifier:
    from wbcprof.classify import TypeClassifier

    with _named(path):
        return TypeClassifier.from_arrays(arrays, parameters)


def _check_layer(index: int, layer: Layer) -> Iterable[str]:
    """Every shape, dtype, name and range that the kernels trust; names of the arrays."""
    if layer.nonlinearity not in NONLINEARITIES:
        raise ValueError(
            f"layer {index}: nonlinearity must be one of {NONLINEARITIES}, "
            f"got {layer.nonlinearity!r}"
        )
    if layer.pixel_input is not None:
        pixel_table(layer.pixel_input)
    if (layer.pixel_input is None) != (index > 0):
        raise ValueError(f"layer {index}: the first layer, and no other, reads pixels")
    for name in ("patch_size", "channels", "step", "region"):
        value = getattr(layer, name)
        if type(value) is not int or not 1 <= value <= 1 << 20:
            raise ValueError(f"layer {index}: {name} must be a positive integer, got {value!r}")
    preprocessing = layer.preprocessing
    numbers = {
        "alpha": layer.alpha, "scale": preprocessing.scale, "epsilon": preprocessing.epsilon,
        "kappa": layer.kappa, "whitening_floor": preprocessing.whitening_floor,
    }  # fmt: skip
    for name, value in numbers.items():
        least = 0 if name in ("kappa", "whitening_floor") else _TINY
        if type(value) not in (int, float) or not least <= value <= _HUGE:
            raise ValueError(f"layer {index}: {name} must be positive and finite, got {value!r}")
    for name, value in {"positive": layer.positive, "whiten": preprocessing.whiten}.items():
        if type(value) is not bool:
            raise ValueError(f"layer {index}: {name} must be true or false, got {value!r}")
    h, m = len(layer.signatures), layer.patch_size**2 * layer.channels
    if h == 0:
        raise ValueError(f"layer {index} has no signatures")
    expected: dict[str, tuple[int, ...]] = {
        **{name: (h, m) for name in ("signatures", "weights")},
        **{name: (h,) for name in ("bias", "gain")},
    }
    if layer.nonlinearity == "soft_threshold":
        expected["threshold"] = (h,)
    if preprocessing.whiten or preprocessing.kind == "dataset_mean":
        expected["mean"] = (m,)
    if preprocessing.whiten:
        expected |= {"whitener": (m, m), "unwhitener": (m, m)}
    for name, shape in expected.items():
        array = getattr(preprocessing if name in _PREPROCESSING_ARRAYS else layer, name)
        if array is None or array.dtype != np.float32 or array.shape != shape:
            got = "none" if array is None else f"{array.dtype} of shape {array.shape}"
            raise ValueError(f"layer {index}: {name} must be float32 of shape {shape}, got {got}")
        if not np.isfinite(array).all():
            raise ValueError(f"layer {index}: {name} holds NaN or infinite values")
    return expected.keys()
