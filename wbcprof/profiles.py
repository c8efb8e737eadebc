"""Profiles: the table that profiling gives, one row per cell."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .files import replacing
from .regions import region_names

ID_COLUMN = "Metadata_ImageId"
LABEL_COLUMN = "Metadata_Label"


def feature_names(
    n_signatures: int,
    pools: Sequence[str],
    levels: Sequence[int],
    centres: Sequence[float] = (),
) -> list[str]:
    """Names in the layout of a profile row: by pool, then region, then signature.

    ``Cells_Mean_Signature_0001`` for the whole image;
    see `wbcprof.regions.region_names` for others.
    """
    return [
        f"Cells_{pool.capitalize()}_Signature_{index:04d}{region}"
        for pool in pools
        for region in region_names(levels, centres)
        for index in range(1, n_signatures + 1)
    ]


@dataclass
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
        ValueError
            Another suffix.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".csv", ".parquet"):
            raise ValueError(f"profiles are saved as .csv or .parquet, got {str(path)!r}")
        with replacing(path) as temporary:
            if suffix == ".parquet":
                self.to_pandas().to_parquet(temporary, index=False)
            else:
                self._write_csv(temporary)

    def _write_csv(self, path: Path) -> None:
        has_labels = self.labels is not None
        labels = self.labels if has_labels else [None] * len(self)
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow([ID_COLUMN] + [LABEL_COLUMN] * has_labels + self.feature_names)
            for image_id, label, row in zip(self.ids, labels, self.values, strict=True):
                writer.writerow([image_id] + [label] * has_labels + row.astype(str).tolist())
