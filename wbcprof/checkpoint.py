"""Checkpoints of learning: arrays and one JSON document in a safetensors file, whole or absent."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from .files import replacing

_KEY = "wbcprof_checkpoint"


def write_checkpoint(
    path: str | os.PathLike, arrays: dict[str, np.ndarray], document: dict[str, Any]
) -> None:
    """Replace the checkpoint at `path`; a crash at any moment leaves the one before."""
    from safetensors.numpy import save_file

    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={_KEY: json.dumps(document)})


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and document of the checkpoint at `path`.

    Raises
    ------
    ValueError
        The file is damaged or not a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            document = json.loads((file.metadata() or {})[_KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, document
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged or not a checkpoint of wbcprof: {error}; remove it or "
            "give another name"
        ) from error


def check_identity(
    path: str | os.PathLike, found: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Refuse a checkpoint of other parameters or patches, naming what differs."""
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        name = differing[0]
        raise ValueError(
            f"the checkpoint {os.fspath(path)!r} is of another fit: {name} was "
            f"{found.get(name)!r}, now it is {expected[name]!r}; remove it or give another name"
        )
