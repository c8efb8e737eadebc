"""Checkpoints of learning: arrays and one JSON document in a safetensors file, whole or absent."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

import numpy as np

from wbcprof.arrays import read_arrays, write_arrays
from wbcprof.files import replacing

_KEY = "wbcprof_checkpoint"


def write_checkpoint(
    path: str | os.PathLike, arrays: dict[str, np.ndarray], document: dict[str, Any]
) -> None:
    """Replace the checkpoint at `path`; a crash at any moment leaves the one before."""
    with replacing(path) as temporary:
        write_arrays(temporary, arrays, _KEY, json.dumps(document))


def read_checkpoint(
    path: str | os.PathLike,
    identity: dict[str, Any],
    shapes: dict[str, tuple[int | str, ...]],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and document of the checkpoint at `path`.

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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged or not a checkpoint of wbcprof: {error}; remove it or "
            "give another name"
        ) from error
    if differing:
        name = differing[0]
        raise ValueError(
            f"the checkpoint {os.fspath(path)!r} is of another fit: {name} was "
            f"{found.get(name)!r}, now it is {identity[name]!r}; remove it or give another name"
        )
    return arrays, document


def _check_state(arrays, document, shapes) -> None:
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
        "scale": (document["scale"], float, sys.float_info.max),
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
