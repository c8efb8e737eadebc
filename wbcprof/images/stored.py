"""An array in a .npy file, read part by part.

Not mapped into memory: a file that is cut short meanwhile would end the process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from wbcprof.files import regular


@dataclass(frozen=True)
class StoredArray:
    """In C order; items and slices are read when asked for.

    Attributes
    ----------
    path : Path
    shape : tuple of int
    dtype : numpy.dtype
    offset : int
        Bytes of the file before the array.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    @classmethod
    def open(cls, path: Path) -> StoredArray | np.ndarray:
        """That in a file; one in Fortran order is read as a whole.

        Raises
        ------
        ValueError
            The file holds no array of numbers, or not all of it.
        """
        with open(regular(path), "rb") as file:
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
            shape, fortran, dtype = read[npy.read_magic(file)](file)
            offset, n_bytes = file.tell(), file.seek(0, 2)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        needed = offset + math.prod(shape) * dtype.itemsize
        if n_bytes < needed:
            raise ValueError(f"{n_bytes} bytes, where its head says {needed}")
        if fortran:
            return np.asarray(np.load(path, allow_pickle=False))
        return cls(path, shape, dtype, offset)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | tuple[int | slice, ...]) -> np.ndarray:
        """Numbers first, then slices of one axis or two, such as rows and columns of one image."""
        keys = key if isinstance(key, tuple) else (key,)
        shape, first = self.shape, 0  # of what is left, and of its values
        spans: list[tuple[int, int]] = []
        for part, n in zip(keys, self.shape, strict=False):
            if isinstance(part, slice):
                spans.append(part.indices(n)[:2])
            else:
                shape = shape[1:]
                first += part * math.prod(shape)
        sizes = tuple(max(stop - start, 0) for start, stop in spans)
        shape = sizes + shape[len(spans) :]
        if len(spans) < 2:
            start = spans[0][0] if spans else 0
            return self._read([first + start * math.prod(shape[1:])], shape)
        (top, bottom), (left, _) = spans
        width, values = self.shape[-len(shape) + 1], math.prod(shape[2:])
        starts = [first + (row * width + left) * values for row in range(top, bottom)]
        return self._read(starts, shape)

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        whole = self._read([0], self.shape)
        return whole if dtype is None else whole.astype(dtype)

    def _read(self, starts: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
        """As many values from each place on, as make this shape."""
        found = np.empty(shape, self.dtype)
        rows = found.reshape(len(starts), -1).view(np.uint8) if found.size else ()
        with open(self.path, "rb") as file:
            for start, row in zip(starts, rows, strict=False):
                file.seek(self.offset + start * self.dtype.itemsize)
                if file.readinto(row.data) < row.size:
                    raise OSError(f"'{self.path}' was cut short while it was read")
        return found
