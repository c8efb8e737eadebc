"""Model files: arrays and one JSON document, as safetensors. Nothing in a file is ever executed.

The arrays are named ``layers.0.signatures``, ``layers.0.weights``, ``classifier.coef`` ...; the
safetensors header's metadata holds one JSON document under the key ``wbcprof``::

    {"format": 3, "layers": [{"patch_size": 6, "settings": {...}, "preprocessing": {...}, ...}],
     "pooling": {...}, "normaliser": {...} or null, "instrument": {...} or null,
     "classifier": {...} or null, "depths": {"integer": 12} or missing,
     "parameters": {...}, "provenance": {...}, "history": [...]}

What each class has there is its own affair: its ``to_arrays`` and ``from_arrays``. Every version of
the package reads all formats from 1 to its own `FORMAT_VERSION`, for ever, and writes the last; it
refuses newer ones, saying that a newer wbcprof is needed. The format goes up when a file of the new
kind would be refused or misread by the readers before: another array, another meaning. Keys of the
document that a reader does not know only describe; it ignores them. ``tests/models`` holds a file
of every format with the profiles that it gives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from wbcprof.checks import told
from wbcprof.files import json_value, replacing
from wbcprof.model.arrays import ArrayFileError, read_arrays, write_arrays

FORMAT_VERSION = 3
_KEY = "wbcprof"

_Made = TypeVar("_Made")


class ModelFileError(ValueError):
    """A model file is damaged, foreign, or from a newer version of the package."""


def write_model(
    path: str | os.PathLike[str],
    arrays: dict[str, np.ndarray],
    document: dict[str, Any],
    make: Callable[[dict[str, np.ndarray], dict[str, Any]], object],
) -> None:
    """Write the arrays and the document of a model; the file is whole or absent.

    Raises
    ------
    ModelFileError
        `read_model` with the same `make` would refuse the file.
    """
    text = json.dumps({"format": FORMAT_VERSION, **document}, default=json_value)
    with replacing(path) as temporary:
        write_arrays(temporary, arrays, _KEY, text)
        _read(temporary, path, make)


def read_model(
    path: str | os.PathLike[str] | bytes | BinaryIO,
    make: Callable[[dict[str, np.ndarray], dict[str, Any]], _Made],
) -> _Made:
    """What `make` makes of the arrays and the document of a model file, by its path, its bytes, or
    opened for bytes.

    Raises
    ------
    FileNotFoundError
        No such file.
    ModelFileError
        The file is damaged, truncated, not a wbcprof model, or of a newer format.
    """
    if isinstance(path, bytes | bytearray | memoryview):
        return _read(bytes(path), "the model", make)
    if not isinstance(path, str | os.PathLike):
        if not callable(getattr(path, "read", None)):
            raise TypeError(
                "expected a model file as a path, bytes or a file opened for bytes, got "
                f"{type(path).__name__}"
            )
        content = path.read()
        if not isinstance(content, bytes):
            raise TypeError("expected a model file opened for bytes: open(path, 'rb')")
        return _read(content, str(getattr(path, "name", "the model")), make)
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {os.fspath(path)!r}")
    return _read(path, path, make)


def _read(
    path: str | os.PathLike[str] | bytes,
    name: str | os.PathLike[str],
    make: Callable[[dict[str, np.ndarray], dict[str, Any]], _Made],
) -> _Made:
    """`read_model`; messages call the file `name`."""
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
    with _named(name):
        if version == 1:
            document = _from_format_1(document)
        if version < 3:  # where only colours were normalised
            document = {**document, "normaliser": document["stain"], "instrument": None}
        return make(arrays, document)


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ModelFileError(
            f"{os.fspath(path)!r} is not a usable wbcprof model: "
            f"{type(error).__name__}: {told(error)}"
        ) from error


def _from_format_1(old: dict[str, Any]) -> dict[str, Any]:
    """A document of format 1 as one of format 2: there, settings and pooling had no names of their
    own, and ``region`` stood in the layer before the one that reads it."""
    layers = []
    region = None
    for layer in old["layers"]:
        settings = {name: layer[name] for name in ("nonlinearity", "alpha", "kappa", "positive")}
        kind, whiten = (layer["preprocessing"][name] for name in ("kind", "whiten"))
        settings |= {"preprocessing": kind, "whiten": whiten}
        learnt_with = old["parameters"]  # all else was as it is by default
        settings |= {name: learnt_with[name] for name in ("max_iter", "tol") if name in learnt_with}
        layers.append({**layer, "settings": settings, "region": region})
        region = layer["region"]
    pooling = {name: old[name] for name in ("pools", "levels", "centres")}
    return {**old, "layers": layers, "pooling": pooling}
