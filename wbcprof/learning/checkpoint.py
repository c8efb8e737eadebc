"""Checkpoints of learning: arrays and one JSON document in a safetensors file, whole or absent."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from wbcprof.checks import told
from wbcprof.files import replacing
from wbcprof.model.arrays import read_arrays, write_arrays

_KEY = "wbcprof_checkpoint"

_Made = TypeVar("_Made")


def write_checkpoint(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray], document: dict[str, Any]
) -> None:
    """Replace the checkpoint at `path`; a crash at any moment leaves the one before."""
    with replacing(path) as temporary:
        write_arrays(temporary, arrays, _KEY, json.dumps(document))


def read_checkpoint(
    path: str | os.PathLike[str],
    identity: dict[str, Any],
    shapes: dict[str, tuple[int | str, ...]],
    make: Callable[[dict[str, np.ndarray], dict[str, Any]], _Made],
) -> tuple[_Made, list[dict[str, float]]]:
    """What `make` makes of the arrays and the document of the checkpoint at `path`; its history.

    Parameters
    ----------
    path : path
    identity : dict
        What the document's ``identity`` must agree in.
    shapes : dict
        Every array with its shape; a side named by a letter has one length in all of them. All
        are float32, but ``rng``.

    Raises
    ------
    ValueError
        The file is damaged, not a checkpoint, or of other parameters or patches.
    """
    try:
        document, arrays = read_arrays(path, _KEY)
        found = document["identity"]
        differing = [name for name in identity if found.get(name) != identity[name]]
        if not differing:
            _check_state(arrays, document, shapes)
            return make(arrays, document), document["history"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged or not a checkpoint of wbcprof: {told(error)}; "
            "remove it or give another name"
        ) from error
    name = differing[0]
    raise ValueError(
        f"the checkpoint {os.fspath(path)!r} is of another fit: {name} was "
        f"{found.get(name)!r}, now it is {identity[name]!r}; remove it or give another name"
    )


def _check_state(
    arrays: dict[str, np.ndarray],
    document: dict[str, Any],
    shapes: dict[str, tuple[int | str, ...]],
) -> None:
    """Every shape, type and range that learning trusts when it goes on."""
    if arrays.keys() != shapes.keys():
        raise ValueError(f"arrays too many or too few: {sorted(arrays.keys() ^ shapes.keys())}")
    sizes: dict[int | str, int] = {}
    for name, shape in shapes.items():
        array = arrays[name]
        lengths = [n if isinstance(n, int) else sizes.setdefault(n, m)
                   for n, m in zip(shape, array.shape, strict=True)]  # fmt: skip
        if array.dtype != (np.uint32 if name == "rng" else np.float32) or [*array.shape] != lengths:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    position, has_gauss, gauss = document["rng"]
    numbers: dict[str, tuple[Any, type, float]] = {
        "steps": (document["steps"], int, math.inf),
        "n_gathered": (document["n_gathered"], int, math.inf),
        "rng": (position, int, len(arrays["rng"])),
        "has_gauss": (has_gauss, int, 1),
        "gauss": (abs(gauss), float, sys.float_info.max),
    }
    for name, (value, kind, most) in numbers.items():
        if not 0 <= value <= most or type(value) is not kind:
            raise ValueError(f"{name} is {value!r}")
    if type(document["history"]) is not list:
        raise ValueError("history is not a list")
    for entry in document["history"]:
        if not np.isfinite(entry["objective"]):
            raise ValueError(f"history holds {entry!r}")
