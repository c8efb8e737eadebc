"""Profiles: the table that profiling gives, one row per cell; its files and its other forms."""

from __future__ import annotations

import csv
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import known_label, known_labels, told, unmasked
from wbcprof.files import (
    TableWarning,
    check_output,
    csv_text,
    file_digest,
    from_csv_text,
    json_value,
    naming,
    open_table,
    regular,
    replacing,
    to_number,
)
from wbcprof.images.decode import is_of_the_system
from wbcprof.images.source import SkippedImage
from wbcprof.smear.measures import MEASURES

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike
    from pandas import DataFrame

ID_COLUMN = "Metadata_ImageId"
LABEL_COLUMN = "Metadata_Label"

_METADATA = "Metadata_"
MEASURE_COLUMNS = tuple(f"{_METADATA}{name}" for name in MEASURES)
_METADATA_KEY = "wbcprof"
_ROW_BYTES = 64  # in memory, of the texts of a profile
_SMALL_TABLE, _MOST_PACKED = 1 << 28, 100  # bytes; times those of the file that a larger one takes
_PACKAGES = {".csv": (), ".parquet": ("pandas", "pyarrow"), ".h5ad": ("anndata",)}
_FEATURE = re.compile(r"Cells_([A-Za-z]+)_Signature_(\d{4,})((?:_L\d+R\d+C\d+|_Centre\d+)?)")


def _feature_table(names: Sequence[str]) -> dict[str, list[Any]]:
    """Pool, signature and region of `feature_names`; nothing where one name is of other making."""
    found = [match for name in names if (match := _FEATURE.fullmatch(name))]
    if len(found) < len(names):
        return {}
    return {
        "pool": [match[1].lower() for match in found],
        "signature": [int(match[2]) for match in found],
        "region": [match[3].removeprefix("_") for match in found],
    }


def signature_numbers(names: Sequence[str]) -> np.ndarray:
    """Index of the signature of each feature, (n_features,) int; of features of other making, each
    is one."""
    found = _feature_table(names).get("signature")
    return np.arange(len(names)) if found is None else np.array(found) - 1


# What CellProfiler and pycytominer call features; what pandas calls the numbers of rows.
_COMPARTMENT = re.compile(r"(Cells|Cytoplasm|Nuclei)_.+")
_INDEX = re.compile(r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__|index|level_\d+")


def _are_features(names: Sequence[str]) -> np.ndarray:
    """Which columns of a table are features: those of names that this package writes; where there
    is none, those of compartments, as pycytominer has it; where there is none either, all that are
    neither ``Metadata_*`` nor numbers of rows."""
    for pattern in (_FEATURE, _COMPARTMENT):
        found = np.array([pattern.fullmatch(name) is not None for name in names], bool)
        if found.any():
            return found
    return np.array(
        [not (name.startswith(_METADATA) or _INDEX.fullmatch(name)) for name in names], bool
    )


def _tell_of_numbers(names: Sequence[str]) -> None:
    """Say which columns of numbers are no features, though nobody called them metadata."""
    named = [n for n in names if not (n.startswith(_METADATA) or _INDEX.fullmatch(n))]
    if named:
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        warnings.warn(
            f"columns of numbers that are not called as features are taken for metadata: "
            f"{', '.join(named[:5])}{more}; call them {_METADATA}..., or make Profiles of all",
            TableWarning,
            stacklevel=4,
        )


def _table_suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _PACKAGES:
        raise ValueError(f"profiles are saved as .csv, .parquet or .h5ad, got {str(path)!r}")
    if not all(map(find_spec, _PACKAGES[suffix])):
        raise ImportError(
            f"{suffix} needs {' and '.join(_PACKAGES[suffix])}: "
            f"pip install 'wbcprof[{'h5ad' if suffix == '.h5ad' else 'tables'}]'"
        )
    return suffix


def check_table(path: str | os.PathLike[str]) -> None:
    """Check, before long work, that a table can be written to `path`.

    Raises
    ------
    FileNotFoundError
        Its folder does not exist.
    ValueError
        Its suffix is none of ``.csv``, ``.parquet`` and ``.h5ad``, or it is no regular file.
    ImportError
        A package that the suffix needs is not installed.
    """
    _table_suffix(check_output(path))


def _lacking(folder: Path) -> str:
    """What a folder that a run made lacks; "" of any other."""
    if not (folder / "manifest.json").exists():
        return ""
    for name in sorted({path.stem for path in folder.glob("part-*")}):
        record, table = folder / f"{name}.json", folder / f"{name}.parquet"
        if not table.exists():
            return f"{table.name} is missing"
        with suppress(OSError, ValueError, KeyError, TypeError):  # of a record that says nothing
            if json.loads(record.read_bytes())["table"] == file_digest(table):
                continue
        return f"{table.name} is not the table that {record.name} is of"
    return "" if (folder / "skipped.csv").exists() else "the run that made them did not end"


@dataclass(eq=False, repr=False)
class Profiles(Shown):
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
    measures : ndarray of shape (n_images, len(wbcprof.smear.MEASURES)), float32, optional
        What was measured of every image: light, focus, stain, scale; NaN where unknown.
    skipped : list of SkippedImage
        Images that were given and could not be read, and why; tables do not hold them.

    Notes
    -----
    ``numpy.asarray(profiles)`` gives the values.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> profiles = wbcprof.profile(cells.images, model, labels=cells.labels)
    >>> profiles.values.shape
    (12, 48)
    >>> profiles.feature_names[0], profiles.ids[0], profiles.labels[0]
    ('Cells_Sqrt_Signature_0001_Centre33', 'image_000000', 'atypical_lymphocyte')
    >>> is_neutrophil = [label == "neutrophil" for label in profiles.labels]
    >>> profiles.values[is_neutrophil].shape
    (2, 48)
    """

    values: np.ndarray
    feature_names: list[str]
    ids: list[str]
    labels: list[str | None] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    measures: np.ndarray | None = None
    skipped: list[SkippedImage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = unmasked(self.values, "values")
        self.feature_names, self.ids = list(self.feature_names), list(self.ids)
        if self.labels is not None:
            self.labels = list(self.labels)

    def __len__(self) -> int:
        return len(self.values)

    def _told(self) -> dict[str, Any]:
        n, n_features = self.values.shape
        return {
            "cells": n,
            "features": f"{n_features}, {self.feature_names[0]} to {self.feature_names[-1]}"
            if n_features
            else 0,
            "types": dict(Counter(label for label in self.labels or () if label is not None)),
            "unlabelled": n - sum(label is not None for label in self.labels or ()),
            "measures": "yes" if self.measures is not None else "no",
            "skipped": len(self.skipped) or None,
        }

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is None:  # which NumPy 1 does not know
            return np.asarray(self.values, dtype)
        return np.array(self.values, dtype=dtype, copy=copy)

    def at(self, rows: ArrayLike) -> Self:
        """Some of the profiles.

        Parameters
        ----------
        rows : array-like of int or bool
            Which, as NumPy takes an index.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> profiles = wbcprof.Profiles(
        ...     np.float32([[0.5, 0.1], [0.2, 0.4]]), ["Edge", "Granule"], ["a.png", "b.png"]
        ... )
        >>> profiles.at([1]).ids
        ['b.png']
        """
        rows = np.asarray(unmasked(rows, "rows"))
        if rows.size == 0 and rows.dtype.kind == "f":  # as an empty list becomes
            rows = rows.astype(int)
        chosen = np.arange(len(self))[rows].tolist()
        return type(self)(
            self.values[chosen],
            list(self.feature_names),
            [self.ids[row] for row in chosen],
            None if self.labels is None else [self.labels[row] for row in chosen],
            deepcopy(self.metadata),
            None if self.measures is None else self.measures[chosen],
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table that `load` reads; the suffix says which: ``.csv``,
        ``.parquet`` or ``.h5ad`` (`to_anndata`). The file is whole or absent.

        Raises
        ------
        FileNotFoundError, ValueError, ImportError
            See `check_table`; ValueError also where the profiles are no table: NaN or infinity,
            features with the same name, not one id and label for each cell.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> import wbcprof
        >>> profiles = wbcprof.Profiles(
        ...     np.float32([[0.5, 0.1], [0.2, 0.4]]), ["Edge", "Granule"], ["a.png", "b.png"],
        ...     labels=["neutrophil", None],
        ... )
        >>> with TemporaryDirectory() as home:
        ...     profiles.save(f"{home}/profiles.csv")
        ...     print(open(f"{home}/profiles.csv").read())
        Metadata_ImageId,Metadata_Label,Edge,Granule
        a.png,neutrophil,0.5,0.1
        b.png,,0.2,0.4
        <BLANKLINE>
        """
        check_table(path)
        write = {
            ".csv": self._write_csv,
            ".parquet": self._write_parquet,
            ".h5ad": self._write_h5ad,
        }
        write[_table_suffix(path)](path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote: values to the bit, ids, labels, names and metadata, those of a
        ``.csv`` apart, which has none.

        Parameters
        ----------
        path : str or path-like
            File ending in ``.csv``, ``.parquet`` or ``.h5ad``; or folder of files
            ``part-*.parquet``, which are put together in the order of their names.

        Warns
        -----
        TableWarning
            A folder that `wbcprof.scale.profile_to_shards` made lacks a shard, holds one that is
            not the one of its record, or its run was interrupted.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is no table of profiles (see `from_pandas`), or a folder holds none, or such as do
            not go together.
        ImportError
            See `check_table`.

        Notes
        -----
        A damaged ``.h5ad`` may end the process within HDF5, which trusts its files: open none that
        you do not trust.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> import wbcprof
        >>> profiles = wbcprof.Profiles(
        ...     np.float32([[0.5, 0.1], [0.2, 0.4]]), ["Edge", "Granule"], ["a.png", "b.png"],
        ...     labels=["neutrophil", None],
        ... )
        >>> with TemporaryDirectory() as home:
        ...     profiles.save(f"{home}/profiles.parquet")
        ...     loaded = wbcprof.Profiles.load(f"{home}/profiles.parquet")
        >>> loaded.ids, loaded.labels, bool((loaded.values == profiles.values).all())
        (['a.png', 'b.png'], ['neutrophil', None], True)
        """
        path = Path(path)
        if path.is_dir():
            return cls._load_shards(path)
        read = {".csv": cls._read_csv, ".parquet": cls._read_parquet, ".h5ad": cls._read_h5ad}
        suffix = _table_suffix(path)
        regular(path).open("rb").close()
        try:
            return read[suffix](path)
        except ImportError:
            raise
        except Exception as error:  # the libraries raise almost any kind on damaged files
            if is_of_the_system(error):
                raise
            raise ValueError(
                f"{str(path)!r} is no usable table of profiles: {told(error)}"
            ) from error

    @classmethod
    def _load_shards(cls, folder: Path) -> Self:
        paths = sorted(folder.glob("part-*.parquet"))
        if not paths:
            raise ValueError(f"the folder {str(folder)!r} holds no profiles part-*.parquet")
        if lacking := _lacking(folder):
            warnings.warn(
                f"profiles of {str(folder)!r} are not whole: {lacking}; make them again by the "
                "same command, which keeps what is whole",
                TableWarning,
                stacklevel=4,
            )
        shards = [cls.load(path) for path in paths]
        for path, shard in zip(paths, shards, strict=True):
            for what in ("feature_names", "metadata"):
                if getattr(shard, what) != getattr(shards[0], what):
                    raise ValueError(
                        f"{str(path)!r} has other {what} than {paths[0].name!r}: profiles of "
                        "different models or settings do not go together"
                    )
        labels = measures = None
        if all(shard.measures is not None for shard in shards):
            measures = np.concatenate([shard.measures for shard in shards])
        if any(shard.labels is not None for shard in shards):
            labels = [label for shard in shards for label in shard.labels or [None] * len(shard)]
        return cls(
            np.concatenate([shard.values for shard in shards]),
            shards[0].feature_names,
            [image_id for shard in shards for image_id in shard.ids],
            labels,
            shards[0].metadata,
            measures,
        )

    def _check(self) -> None:
        """Raise ValueError unless this is a table that a file gives back as it was."""
        values, names = self.values, self.feature_names
        if values.ndim != 2 or values.dtype != np.float32:
            raise ValueError(
                "expected values of shape (n_images, n_features), float32, "
                f"got {values.dtype} {values.shape}"
            )
        if not names or len(names) != values.shape[1]:
            raise ValueError(
                "expected float features, one name for each, "
                f"got {values.shape[1]} features and {len(names)} names"
            )
        twice = [name for name, n in Counter(names).items() if n > 1]
        if twice:
            raise ValueError(f"expected features of different names, got {twice[0]!r} twice")
        taken = [name for name in names if name.startswith(_METADATA) or _INDEX.fullmatch(name)]
        if taken:
            raise ValueError(
                f"expected features not called as metadata or numbers of rows, got {taken[0]!r}"
            )
        for what, texts in (("ids", self.ids), ("labels", self.labels)):
            if texts is None:
                continue
            if len(texts) != len(values):
                raise ValueError(
                    f"Length of {what} ({len(texts)}) must match number of profiles ({len(values)})"
                )
            known = texts if what == "ids" else [text for text in texts if text is not None]
            foreign = [text for text in known if not isinstance(text, str)]
            if foreign:
                raise ValueError(f"expected {what} as text, got {foreign[0]!r}")
        measures = self.measures
        if measures is not None and (
            measures.shape != (len(values), len(MEASURES)) or measures.dtype != np.float32
        ):
            raise ValueError(
                f"expected measures of shape {(len(values), len(MEASURES))}, float32, "
                f"got {measures.dtype} {measures.shape}"
            )
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise ValueError(
                f"expected finite profiles, got NaN or infinity in {bad.size} of {len(values)}, "
                f"first in that of {self.ids[bad[0]]!r}"
            )

    def _text_columns(self) -> dict[str, list[str | None]]:
        """Ids and labels by column. Bytes of a file name that are no UTF-8 are spelt ``\\udcff``,
        as no table holds them."""
        self._check()
        columns: dict[str, Sequence[str | None]] = {ID_COLUMN: self.ids}
        if self.labels is not None:
            columns[LABEL_COLUMN] = self.labels
        return {
            name: [
                None if text is None else text.encode("utf-8", "backslashreplace").decode()
                for text in texts
            ]
            for name, texts in columns.items()
        }

    def _measure_columns(self) -> dict[str, np.ndarray]:
        if self.measures is None:
            return {}
        return dict(zip(MEASURE_COLUMNS, np.ascontiguousarray(self.measures.T), strict=True))

    def to_pandas(self) -> DataFrame:
        """A `pandas.DataFrame`: the columns ``Metadata_ImageId``, where there are labels
        ``Metadata_Label``, where there are measures ``Metadata_NucleusSize`` and the others, then
        the features, float32; the metadata in ``attrs["wbcprof"]``.

        pycytominer takes it as it is.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> profiles = wbcprof.Profiles(
        ...     np.float32([[0.5, 0.1], [0.2, 0.4]]), ["Edge", "Granule"], ["a.png", "b.png"],
        ...     labels=["neutrophil", None],
        ... )
        >>> frame = profiles.to_pandas()
        >>> list(frame.columns)
        ['Metadata_ImageId', 'Metadata_Label', 'Edge', 'Granule']
        >>> frame.groupby("Metadata_Label")["Edge"].max().to_dict()
        {'neutrophil': 0.5}
        """
        import pandas as pd

        frame = pd.DataFrame(self.values, columns=self.feature_names, copy=True)
        columns = {**self._text_columns(), **self._measure_columns()}
        for name, column in reversed(columns.items()):
            frame.insert(0, name, column)
        frame.attrs[_METADATA_KEY] = deepcopy(self.metadata)
        return frame

    @classmethod
    def from_pandas(cls, frame: DataFrame) -> Self:
        """Profiles of a `pandas.DataFrame` such as `to_pandas` or pycytominer gives.

        ``Metadata_ImageId`` holds the ids, ``Metadata_Label``, if there, the labels, and
        ``Metadata_NucleusSize`` and the others the measures; further columns ``Metadata_*`` are
        left out. Features, rounded to float32, are columns of names that this package writes, such
        as ``Cells_Mean_Signature_0001``; in tables without any, ``Cells_*``, ``Cytoplasm_*`` and
        ``Nuclei_*``, and without these, all but ``Metadata_*`` and numbers of rows. Other columns
        are left out.

        Raises
        ------
        ValueError
            There are no ids, no features, features that are no floats, of the same name, or with
            NaN or infinity.

        Warns
        -----
        TableWarning
            Columns of numbers are left out that are not called metadata.

        Examples
        --------
        >>> import pandas as pd
        >>> import wbcprof
        >>> frame = pd.DataFrame(
        ...     {"Metadata_ImageId": ["a.png", "b.png"], "Edge": [0.5, 0.2], "Granule": [0.1, 0.4]}
        ... )
        >>> profiles = wbcprof.Profiles.from_pandas(frame)
        >>> profiles.feature_names, profiles.ids, profiles.labels
        (['Edge', 'Granule'], ['a.png', 'b.png'], None)
        """
        names = [str(name) for name in frame.columns]
        _check_columns(names)
        is_feature = _are_features(names)
        features = frame.loc[:, is_feature]
        known = any(map(_COMPARTMENT.fullmatch, names))  # where whole numbers are features too
        foreign = [
            f"{name} ({dtype})"
            for name, dtype in features.dtypes.items()
            if dtype.kind not in ("fiu" if known else "f")
        ]
        if foreign:
            raise ValueError(
                f"expected float features, got {', '.join(foreign[:5])}; call metadata "
                f"{_METADATA}..."
            )
        others = frame.loc[:, ~is_feature].dtypes.items()
        _tell_of_numbers([str(name) for name, dtype in others if dtype.kind in "fiub"])

        def texts(name: str) -> list[Any]:  # of str or None; such ids are refused by `_check`
            column = frame[name]
            return [
                None if missing else str(text)
                for text, missing in zip(column, column.isna(), strict=True)
            ]

        profiles = cls(
            np.array(features.to_numpy(np.float32, na_value=np.nan), order="C"),
            features.columns.tolist(),
            texts(ID_COLUMN),
            known_labels(frame[LABEL_COLUMN]) if LABEL_COLUMN in names else None,
            deepcopy(frame.attrs.get(_METADATA_KEY, {})),
            np.stack(
                [frame[name].to_numpy(np.float32, na_value=np.nan) for name in MEASURE_COLUMNS],
                axis=1,
            )
            if set(MEASURE_COLUMNS) <= set(names)
            else None,
        )
        profiles._check()
        return profiles

    def _write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as CSV, without the metadata.

        Numbers are the shortest that read back to the same float32. Ids, labels and names that a
        spreadsheet would run as formulas get a leading apostrophe, see `wbcprof.files.csv_text`; an
        empty cell is an unknown label. `load` undoes both.
        """
        columns = self._text_columns()
        measured = self._measure_columns()
        numbers = np.column_stack([*measured.values(), self.values])
        names = [*columns, *measured, *self.feature_names]
        with (
            replacing(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow([csv_text(name) for name in names])
            for row, *texts in zip(numbers, *columns.values(), strict=True):
                writer.writerow([*map(csv_text, texts), *_shortest(row)])

    @classmethod
    def _read_csv(cls, path: Path) -> Self:
        with open_table(path) as rows:
            names = [from_csv_text(cell) or "" for cell in next(rows, (0, []))[1]]
            _check_columns(names)
            is_feature = _are_features(names)
            features = np.flatnonzero(is_feature).tolist()
            at = {name: i for i, name in enumerate(names)}
            measured = [at[name] for name in MEASURE_COLUMNS if name in at]
            values: list[np.ndarray] = []
            measures: list[np.ndarray] = []
            labels = []
            ids: list[Any] = []  # None, if there is any, is refused by `_check`
            for line, row in rows:
                if len(row) != len(names):
                    raise ValueError(f"expected {len(names)} cells in line {line}, got {len(row)}")
                if not values:
                    numbers = [i for i in np.flatnonzero(~is_feature) if _is_number(row[i])]
                    _tell_of_numbers([names[i] for i in numbers])
                with naming(f"line {line}"):
                    values.append(_floats([row[i] for i in features]))
                    measures.append(_floats([row[i] for i in measured]))
                ids.append(from_csv_text(row[at[ID_COLUMN]]))
                if LABEL_COLUMN in at:
                    labels.append(known_label(from_csv_text(row[at[LABEL_COLUMN]])))
        profiles = cls(
            np.array(values, np.float32).reshape(len(values), len(features)),
            [names[i] for i in features],
            ids,
            labels if LABEL_COLUMN in at else None,
            measures=np.array(measures, np.float32).reshape(len(values), len(MEASURES))
            if len(measured) == len(MEASURES)
            else None,
        )
        profiles._check()
        return profiles

    def _write_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as parquet: text and float32.

        The schema's metadata hold that of the profiles as JSON, under the key ``wbcprof``.
        """
        import pyarrow as pa
        from pyarrow import parquet

        texts, measured = self._text_columns(), self._measure_columns()
        numbers = [*measured.values(), *np.ascontiguousarray(self.values.T)]
        table = pa.Table.from_arrays(
            [pa.array(column, pa.string()) for column in texts.values()]
            + [pa.array(column) for column in numbers],
            [*texts, *measured, *self.feature_names],
            metadata={_METADATA_KEY: json.dumps(self.metadata, default=json_value)},
        )
        with replacing(path) as temporary:
            # Dictionaries of floats, the default, take six times as long and half as much again.
            parquet.write_table(table, temporary, use_dictionary=list(texts))

    @classmethod
    def _read_parquet(cls, path: Path) -> Self:
        from pyarrow import parquet

        stated, packed = parquet.read_metadata(path), path.stat().st_size
        size = stated.num_rows * (4 * stated.num_columns + _ROW_BYTES)
        if size > max(_SMALL_TABLE, _MOST_PACKED * packed):
            raise ValueError(
                f"{stated.num_rows} rows of {stated.num_columns} columns take about {size} bytes, "
                f"expected {_MOST_PACKED} times those of the file ({packed}) at most"
            )
        table = parquet.read_table(path)
        profiles = cls.from_pandas(table.to_pandas())
        metadata = (table.schema.metadata or {}).get(_METADATA_KEY.encode())
        if metadata is not None:
            profiles.metadata = json.loads(metadata)
        return profiles

    def to_anndata(self, order: ArrayLike | None = None) -> AnnData:
        """An `anndata.AnnData` that scanpy takes as it is.

        Parameters
        ----------
        order : array-like of shape (n_signatures,), optional
            Rank the signatures in this order, from most to least important, as
            `wbcprof.analysis.rank_signatures` gives it; a feature has the rank of its signature.

        Returns
        -------
        AnnData
            ``X``: the values. ``obs``: ``Metadata_ImageId``, where there are labels
            ``Metadata_Label``, and the measures; its index is the ids, those that repeat told
            apart by a suffix: a, a-1. ``var``: indexed by feature name; where these are a model's,
            ``pool``, ``signature`` (number in the name, from 1) and ``region`` ("" is the whole
            image); if asked for, ``rank``, 1 the most important. ``uns["wbcprof"]``: the metadata;
            such as are neither text nor number, as JSON under ``json``.

        Raises
        ------
        ValueError
            See `save`; or `order` does not hold each signature once.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> adata = model.profile(cells.images, labels=cells.labels).to_anndata()
        >>> adata.shape, list(adata.obs.columns)[:3]
        ((12, 48), ['Metadata_ImageId', 'Metadata_Label', 'Metadata_NucleusSize'])
        >>> adata.var["pool"].unique().tolist()
        ['sqrt', 'std', 'max']
        """
        import pandas as pd
        from anndata import AnnData
        from anndata.utils import make_index_unique

        obs = pd.DataFrame({**self._text_columns(), **self._measure_columns()})
        if LABEL_COLUMN in obs:
            obs[LABEL_COLUMN] = obs[LABEL_COLUMN].astype("category")
        obs.index = make_index_unique(pd.Index(obs[ID_COLUMN].tolist(), dtype=str))
        var = pd.DataFrame(_feature_table(self.feature_names), index=self.feature_names)
        if order is not None:
            order, own = np.asarray(order), signature_numbers(self.feature_names)
            n_signatures = own.max() + 1
            if sorted(order.tolist()) != list(range(n_signatures)):
                raise ValueError(f"order must hold each of the {n_signatures} signatures once")
            var["rank"] = 1 + np.argsort(order)[own]
        simple: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for key, value in self.metadata.items():
            fits = isinstance(value, str | int | float) and key != "json"
            (simple if fits else others)[key] = value
        if others:
            simple["json"] = json.dumps(others, default=json_value)
        return AnnData(self.values.copy(), obs, var, uns={_METADATA_KEY: simple})

    @classmethod
    def from_anndata(cls, adata: AnnData) -> Self:
        """Profiles of an `anndata.AnnData`: ``X`` rounded to float32; ids, labels and measures from
        ``obs``, where `to_anndata` puts them, ids else from its index. All the rest is left out.

        Raises
        ------
        ValueError
            See `from_pandas`.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> profiles = wbcprof.Profiles(
        ...     np.float32([[0.5, 0.1], [0.2, 0.4]]), ["Edge", "Granule"], ["a.png", "b.png"],
        ...     labels=["neutrophil", None],
        ... )
        >>> adata = profiles.to_anndata()
        >>> adata = adata[:, ["Granule"]]  # such as scanpy has left
        >>> wbcprof.Profiles.from_anndata(adata).feature_names
        ['Granule']
        """
        frame = adata.to_df()
        if LABEL_COLUMN in adata.obs:
            frame.insert(0, LABEL_COLUMN, adata.obs[LABEL_COLUMN])
        for name in MEASURE_COLUMNS:
            if name in adata.obs:
                frame.insert(0, name, adata.obs[name])
        ids = adata.obs[ID_COLUMN] if ID_COLUMN in adata.obs else adata.obs_names
        frame.insert(0, ID_COLUMN, ids)
        metadata = dict(adata.uns.get(_METADATA_KEY, {}))
        others = json.loads(metadata.pop("json", "{}"))
        profiles = cls.from_pandas(frame)
        profiles.metadata = {
            k: v.item() if isinstance(v, np.generic) else v for k, v in metadata.items()
        } | others
        return profiles

    def _write_h5ad(self, path: str | os.PathLike[str]) -> None:
        import h5py
        from anndata.io import write_elem

        for column, texts in self._text_columns().items():
            if bad := [text for text in texts if text is not None and "\0" in text]:
                raise ValueError(f".h5ad holds no text with NUL, got {bad[0]!r} as {column}")
        data = self.to_anndata()
        data.strings_to_categoricals()
        # In memory first: files that HDF5 cannot finish on a full disk it cannot close either.
        with h5py.File("profiles", "w", driver="core", backing_store=False) as file:
            write_elem(file, "/", data)
            file.flush()
            image = file.id.get_file_image()
        with replacing(path) as temporary:
            temporary.write_bytes(image)

    @classmethod
    def _read_h5ad(cls, path: Path) -> Self:
        from anndata import read_h5ad

        return cls.from_anndata(read_h5ad(path))


def _floats(cells: list[str]) -> np.ndarray:
    try:
        return np.array(cells, np.float32)
    except ValueError:
        # One that is surely decimal says it of all commas of the row.
        decimal = [cell for cell in cells if "," in cell and _is_number(cell)]
        if decimal:
            cells = [cell.replace(",", ".") for cell in cells]
        return np.array([to_number(cell) for cell in cells], np.float32)


def _is_number(cell: str) -> bool:
    try:
        to_number(cell)
    except ValueError:
        return False
    return True


def _check_columns(names: Sequence[str]) -> None:
    """Raise ValueError unless these can be the columns of a table of profiles."""
    if ID_COLUMN not in names:
        raise ValueError(
            f"expected a column {ID_COLUMN} beside those of features, got "
            f"{', '.join(map(repr, names[:5])) or 'no columns'}{', ...' if names[5:] else ''}"
        )
    twice = [name for name, n in Counter(names).items() if n > 1 and not _INDEX.fullmatch(name)]
    if twice:
        raise ValueError(f"expected columns of different names, got {twice[0]!r} twice")


def _shortest(row: np.ndarray) -> list[str]:
    """The shortest decimals that read back to the same float32, even by way of a double."""
    texts = row.astype(str)
    # Read as a double first, one float32 in all, 7.038531e-26, needs more digits than it has.
    lossy = texts.astype(np.float32) != row
    texts[lossy] = [f"{value:.8e}" for value in row[lossy]]
    result: list[str] = texts.tolist()
    return result
