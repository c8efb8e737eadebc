"""Profiles: the table that profiling gives, one row per cell."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .files import check_output, replacing
from .regions import region_names

ID_COLUMN = "Metadata_ImageId"
LABEL_COLUMN = "Metadata_Label"
UNLABELLED = "unlabelled"


def label_names(labels: Iterable[Any] | None, n: int | None = None) -> list[str]:
    """Labels as text; None, empty and NaN become ``"unlabelled"``, and so do all of ``None``.

    Raises
    ------
    ValueError
        There are not `n` labels.
    """
    if labels is None:
        return [UNLABELLED] * (n or 0)
    names = ["" if label is None else str(label).strip() for label in labels]
    if n is not None and len(names) != n:
        raise ValueError(f"Length of labels ({len(names)}) must match number of cells ({n})")
    return [UNLABELLED if name in ("", "nan", "NaT", "<NA>") else name for name in names]


def sorted_types(names: Iterable[str]) -> list[str]:
    """Distinct names in alphabetical order, ``"unlabelled"`` last."""
    return sorted(set(names), key=lambda name: (name == UNLABELLED, name))


def feature_names(
    n_signatures: int,
    pools: Sequence[str],
    levels: Sequence[int],
    centres: Sequence[float] = (),
) -> list[str]:
    """Names in the layout of a profile row: by pool, then region, then signature.

    ``Cells_Mean_Signature_0001`` for the whole image; for other regions see
    `wbcprof.regions.region_names`.
    """
    return [
        f"Cells_{pool.capitalize()}_Signature_{index:04d}{region}"
        for pool in pools
        for region in region_names(levels, centres)
        for index in range(1, n_signatures + 1)
    ]


def check_table(path: str | os.PathLike) -> None:
    """Check, before long work, that a table can be written to `path`.

    Raises
    ------
    FileNotFoundError
        Its folder does not exist.
    ValueError
        Its suffix is neither ``.csv`` nor ``.parquet``, or it is no regular file.
    ImportError
        ``.parquet`` is asked for where pandas or pyarrow is not installed.
    """
    suffix = check_output(path).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"profiles are saved as .csv or .parquet, got {str(path)!r}")
    if suffix == ".parquet" and not (find_spec("pandas") and find_spec("pyarrow")):
        raise ImportError("parquet needs pandas and pyarrow: pip install 'wbcprof[tables]'")


@dataclass(eq=False)
class Profiles:
    """Profiles of a set of cells.

    Parameters
    ----------
    values : ndarray of shape (n_images, n_features), float32
    feature_names : list of str
    ids : list of str
        One per image: its path, or ``image_000000`` for arrays.
    labels : list of (str or None), optional
        Types, where known.
    metadata : dict
        How the profiles were made: model, inference, step.

    Notes
    -----
    ``numpy.asarray(profiles)`` gives the values.
    """

    values: np.ndarray
    feature_names: list[str]
    ids: list[str]
    labels: list[str | None] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def to_pandas(self):
        """A `pandas.DataFrame`: the columns ``Metadata_ImageId`` and, where labels are known,
        ``Metadata_Label``, then the features."""
        import pandas as pd

        frame = pd.DataFrame(self.values, columns=self.feature_names)
        if self.labels is not None:
            frame.insert(0, LABEL_COLUMN, self.labels)
        frame.insert(0, ID_COLUMN, self.ids)
        return frame

    def save(self, path: str | os.PathLike) -> None:
        """Write a table; the suffix says which: ``.csv`` or ``.parquet``.

        Raises
        ------
        FileNotFoundError, ValueError, ImportError
            See `check_table`.
        """
        check_table(path)
        with replacing(path) as temporary:
            if Path(path).suffix.lower() == ".parquet":
                self.to_pandas().to_parquet(temporary, index=False)
            else:
                self._write_csv(temporary)

    def _write_csv(self, path: Path) -> None:
        import csv

        has_labels = self.labels is not None
        labels = self.labels if has_labels else [None] * len(self)
        with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
            writer = csv.writer(stream)
            writer.writerow([ID_COLUMN] + [LABEL_COLUMN] * has_labels + self.feature_names)
            for image_id, label, row in zip(self.ids, labels, self.values, strict=True):
                writer.writerow([image_id] + [label] * has_labels + row.astype(str).tolist())
