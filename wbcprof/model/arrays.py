"""Files of named arrays and one JSON document: safetensors, the document in its metadata.

A file may come from anyone. It is read into memory once and that copy is checked: what its header
says before the arrays are read, sizes before memory is taken for them. Nothing is executed.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from wbcprof.checks import told
from wbcprof.files import regular

_MAX_BYTES = 2 << 30
_MAX_HEADER_BYTES = 4 << 20  # some thousand iterations of history
_MAX_DIGITS = 20  # of an integer: all of ours fit 64 bits
_DIGEST = "digest"  # of the document and the arrays; older files have none
_DTYPES = {"F32": np.float32, "F64": np.float64, "U32": np.uint32}


class ArrayFileError(ValueError):
    """A file is damaged, truncated, foreign, or was changed while it was read."""


def write_arrays(path: Path, arrays: dict[str, np.ndarray], key: str, document: str) -> None:
    """Write arrays, and under `key` a JSON document.

    Raises
    ------
    ValueError
        The file would be larger than `read_arrays` takes.
    """
    from safetensors.numpy import save

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = save(contiguous, {key: document, _DIGEST: digest_of(contiguous, document)})
    header_bytes = int.from_bytes(data[:8], "little")
    if header_bytes > _MAX_HEADER_BYTES or len(data) > _MAX_BYTES:
        raise ValueError(
            f"a file of arrays holds at most {_MAX_BYTES} bytes, {_MAX_HEADER_BYTES} of them "
            f"beside the arrays (history, parameters), got {len(data)} and {header_bytes}"
        )
    path.write_bytes(data)


def read_arrays(
    path: str | os.PathLike[str] | bytes, key: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON document under `key`, and the arrays, in memory of their own, of a file or of what
    one holds.

    Raises
    ------
    ArrayFileError
        Of a document that is missing, `KeyError` is the cause.
    """
    from safetensors import SafetensorError, deserialize

    with io.BytesIO(path) if isinstance(path, bytes) else open(regular(path), "rb") as stream:
        size, _ = before = _stamp(stream)
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if length > min(_MAX_HEADER_BYTES, size - 8):
            raise ArrayFileError(f"its header claims {length} bytes")
        start += stream.read(length)
        try:
            metadata, end = _read_header(start[8:])
            text, digest = metadata[key], metadata.get(_DIGEST)
            document = _parse(text)
            if not isinstance(document, dict):
                raise ValueError("the document is not a JSON object")
        except (ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
            raise ArrayFileError(f"its header: {type(error).__name__}: {told(error)}") from error
        if end != size - 8 - length or end > _MAX_BYTES:
            raise ArrayFileError(
                f"its header describes {end} bytes of arrays, the file holds "
                f"{size - 8 - length}, at most {_MAX_BYTES} are allowed"
            )
        stream.seek(0)
        data = stream.read(size + 1)
        changed = _stamp(stream)[1] != before[1] or not data.startswith(start)
    if changed or len(data) != size:
        raise ArrayFileError("it was changed while it was read")
    try:
        views: dict[str, Any] = dict(deserialize(data))
    except SafetensorError as error:
        raise ArrayFileError(str(error)) from error
    arrays = {
        name: np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"])
        for name, view in views.items()
    }
    if digest not in (None, digest_of(arrays, text)):
        raise ArrayFileError("its content is not what was written")
    return document, arrays


def digest_of(arrays: Mapping[str, np.ndarray], document: str) -> str:
    """Of arrays by their names, and of a document, 16 hexadecimal digits."""
    digest = blake2b(digest_size=8)
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update(document.encode())
    return digest.hexdigest()


def _stamp(stream: BinaryIO) -> tuple[int, int]:
    """Bytes, and when they were last changed."""
    if isinstance(stream, io.BytesIO):
        return stream.getbuffer().nbytes, 0
    status = os.fstat(stream.fileno())
    return status.st_size, status.st_mtime_ns


def _read_header(encoded: bytes) -> tuple[dict[str, Any], int]:
    """The metadata, and how many bytes of arrays should follow the header."""
    header = _parse(encoded.decode())
    metadata: dict[str, Any] = header.pop("__metadata__", {})
    end = 0
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name} is of type {entry['dtype']!r}, expected {list(_DTYPES)}")
        end = max(end, entry["data_offsets"][1])
    return metadata, end


def _parse(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique, parse_int=_short_integer)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a JSON object names one key twice")
    return found


def _short_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def check_arrays(
    arrays: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32
) -> None:
    """Raise ValueError unless there is each of these arrays, of its shape, `dtype` and finite."""
    for name, shape in shapes.items():
        array = arrays.get(name)
        if array is None or array.dtype != dtype or array.shape != shape:
            got = "none" if array is None else f"{array.dtype} of shape {array.shape}"
            expected = f"{np.dtype(dtype).name} of shape {shape}"
            raise ValueError(f"{name} must be {expected}, got {got}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite values")


def under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Undo `under`."""
    return {prefix + name: array for name, array in arrays.items()}
