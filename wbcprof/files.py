"""Outputs that are whole or absent: written beside their name, then moved to it; and what goes into
CSV and JSON files, whatever it is."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from wbcprof.checks import told

# What a spreadsheet runs if it begins a cell: = + - @, full-width too, tabs and line breaks.
_FORMULA = r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_GUARDED = re.compile(rf"'*(?:{_FORMULA}|\Z)")


def csv_text(text: str | None) -> str:
    """Text as a cell of a CSV file that no spreadsheet takes for a formula.

    Formulas get a leading apostrophe. So does empty text, as None is the empty cell, and so does
    what reads as guarded already: `from_csv_text` gives back exactly the text.
    """
    if text is None:
        return ""
    return f"'{text}" if _GUARDED.match(text) else text


def from_csv_text(cell: str) -> str | None:
    """The text that `csv_text` made this cell of."""
    if not cell:
        return None
    return cell[1:] if cell[0] == "'" and _GUARDED.match(cell) else cell


def visible(text: str) -> str:
    """Text on one line, in which what no screen shows (line breaks, escape sequences, bytes of file
    names that are not UTF-8) stands as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def tell(text: str, stream: TextIO | None, end: str = "\n") -> None:
    """Write what is not the result of a command; where a service or a windowed application has no
    such stream, or has closed it, nothing is told and nothing is lost."""
    if stream is None:
        return
    with suppress(OSError, ValueError):  # closed at the other end, or at this
        stream.write(text + end)
        stream.flush()


_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d*(?:[eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+")


def to_number(text: str) -> float:
    """The number that a cell of a table states, with a decimal point or a decimal comma.

    Raises
    ------
    ValueError
        It is none, or its comma may part thousands.
    """
    text = text.strip()
    if _THOUSANDS.fullmatch(text):
        raise ValueError(f"{text!r}, whose comma may part thousands; write a decimal point")
    return float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)


_DELIMITERS = ",;\t"
_OLD_WORKBOOK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_LARGEST_WORKBOOK = 1 << 30  # bytes, unpacked
_SMALL_PART, _MOST_PACKED = 1 << 24, 100  # bytes; times that a larger part may be unpacked
_MOST_LINES = 1 << 20  # of a sheet
_MOST_CELLS = 1 << 23  # of a sheet that is read
_MOST_IN_CELL = 32_767


@contextmanager
def open_table(path: str | os.PathLike[str]) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Rows of a table as people save them, with their line numbers, empty ones left out.

    CSV: commas, semicolons or tabs, whichever the first line has most of; UTF-8, UTF-16 as
    spreadsheets mark it, or else Windows-1252, which a warning says. A workbook (.xlsx): its first
    sheet, as text; a warning says where there are others.

    Raises
    ------
    ValueError
        It is no such file; or what is made of its rows raises csv.Error.
    ImportError
        It is a workbook, and openpyxl is not installed.
    """
    with open(regular(path), "rb") as file:
        start = file.read(len(_OLD_WORKBOOK))
    if start.startswith(b"PK\3\4"):
        yield _workbook_rows(path)
        return
    if start == _OLD_WORKBOOK:
        raise ValueError(f"'{os.fspath(path)}' is a workbook of old, .xls; save it as .xlsx or CSV")
    encoding = _encoding(path)
    with open(path, newline="", encoding=encoding) as stream:
        first = next((line for line in stream if line.strip()), "")
        stream.seek(0)
        outside = "".join(first.split('"')[::2])  # of quotes
        delimiter = max(_DELIMITERS, key=outside.count)
        rows = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            yield ((rows.line_num, row) for row in rows if any(map(str.strip, row)))
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(
                f"'{os.fspath(path)}' is not a readable CSV file: {told(error)}"
            ) from error


def _workbook_rows(path: str | os.PathLike[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows of the first sheet of a workbook, each cell as the text that a CSV file would have."""
    need_openpyxl()
    import openpyxl

    name = os.fspath(path)
    try:
        _check_packed(path)
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # which may be far more than there is
            found = _cells_of(sheet)
            others = len(book.worksheets) - 1
        finally:
            book.close()
    except Exception as error:  # openpyxl raises almost any kind on damaged files
        raise ValueError(f"'{name}' is not a readable workbook: {told(error)}") from error
    if others:
        warnings.warn(
            f"'{name}' has {others + 1} sheets, of which the first, {sheet.title!r}, is read",
            TableWarning,
            stacklevel=5,
        )
    return iter(found)


def _check_packed(path: str | os.PathLike[str]) -> None:
    """Refuse a workbook of a size, unpacked, that no table of people has."""
    with zipfile.ZipFile(path) as unpacked:
        parts = unpacked.infolist()
    size = sum(part.file_size for part in parts)
    if size > _LARGEST_WORKBOOK:
        raise ValueError(f"it unpacks to {size} bytes, more than {_LARGEST_WORKBOOK}")
    for part in parts:
        if part.file_size > max(_SMALL_PART, _MOST_PACKED * part.compress_size):
            raise ValueError(
                f"{part.filename} unpacks from {part.compress_size} to {part.file_size} bytes, "
                f"expected {_MOST_PACKED} times as many at most"
            )


def _cells_of(sheet: Any) -> list[tuple[int, list[str]]]:
    """Lines of a sheet that are not empty, all of one length."""
    found, n_seen = [], 0
    for line, row in enumerate(sheet.iter_rows(), start=1):
        n_seen += len(row)
        _check_cells(line, n_seen)
        cells = [_cell_text(cell) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            found.append((line, cells))
    width = max((len(cells) for _, cells in found), default=0)
    _check_cells(0, width * len(found))
    return [(line, cells + [""] * (width - len(cells))) for line, cells in found]


def _check_cells(n_lines: int, n_cells: int) -> None:
    for n, most, what in ((n_lines, _MOST_LINES, "lines"), (n_cells, _MOST_CELLS, "cells")):
        if n > most:
            raise ValueError(f"its first sheet has more than {most} {what}; save it as CSV")


def _cell_text(cell: Any) -> str:
    value = cell.value
    if value is None or cell.data_type == "e":  # #N/A and its like
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value).strip()
    if len(text) > _MOST_IN_CELL:
        raise ValueError(
            f"a cell has {len(text)} characters, and one of .xlsx holds {_MOST_IN_CELL} at most"
        )
    return text


def need_openpyxl() -> None:
    """Refuse what needs openpyxl where that is not installed."""
    if find_spec("openpyxl") is None:
        raise ImportError(".xlsx needs openpyxl: pip install 'wbcprof[xlsx]'; or use .csv")


def _encoding(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as stream:
        if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return "utf-16"
    if _decodes(path, "utf-8-sig"):
        return "utf-8-sig"
    name = os.fspath(path)
    if not _decodes(path, "cp1252"):
        raise ValueError(f"'{name}' is not a readable CSV file: neither UTF-8 nor Windows-1252")
    warnings.warn(
        f"'{name}' is not UTF-8 and was read as Windows-1252: see to its accents, or save it as "
        "UTF-8",
        TableWarning,
        stacklevel=5,
    )
    return "cp1252"


def _decodes(path: str | os.PathLike[str], encoding: str) -> bool:
    try:
        with open(path, encoding=encoding) as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return False
    return True


class TableWarning(UserWarning):
    """A table was read, but something in it is left out or guessed."""


def rounded(value: float, digits: int) -> float | None:
    """A number for a table; None where it is not known."""
    return round(float(value), digits) if math.isfinite(value) else None


def file_digest(path: Path) -> str:
    """Of what a file holds, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


_SAMPLE, _SAMPLES = 4096, 3  # bytes, at the beginning, in the middle and at the end


def sampled_digest(path: Path) -> str:
    """What tells a file from another one of its name, hexadecimal: of its size and samples of its
    content."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with open(path, "rb") as stream:
        for part in range(_SAMPLES):
            stream.seek(part * max(0, size - _SAMPLE) // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()


CSV, HTML, JSON = (".csv",), (".html", ".htm"), (".json",)
TABLES = (".csv", ".xlsx", ".parquet", ".jsonl")
"""What tables are written as."""

SHEETS = (".csv", ".xlsx")
"""What tables of people are, by their names."""

FIGURES = (".pdf", ".svg", ".png")
FIGURE_FORMATS = tuple(suffix.removeprefix(".") for suffix in FIGURES)


def write_rows(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write rows as the suffix says, of `TABLES`, CSV by default, the columns in this order; the
    file is whole or absent."""
    with replacing(path, TABLES) as temporary:
        suffix = temporary.suffix.lower()
        if suffix == ".parquet":
            _write_parquet(temporary, columns, rows)
            return
        if suffix == ".xlsx":
            _write_workbook(temporary, columns, rows)
            return
        with open(
            temporary, "w", newline="", encoding="utf-8", errors="backslashreplace"
        ) as stream:
            if suffix == ".jsonl":
                for row in rows:
                    line = {column: _strict(row[column]) for column in columns}
                    text = json.dumps(line, ensure_ascii=False, default=json_value, allow_nan=False)
                    stream.write(text + "\n")
                return
            writer = csv.writer(stream)
            writer.writerow(columns)
            for row in rows:
                values = (row[column] for column in columns)
                writer.writerow([csv_text(v) if isinstance(v, str) else v for v in values])


def _write_parquet(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    held = list(rows)
    arrays = []
    for column in columns:
        values = [
            v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v
            for v in (row[column] for row in held)
        ]
        # Of no value at all, parquet would forget that these are numbers.
        known = any(value is not None for value in values)
        arrays.append(pa.array(values, None if known else pa.float64()))
    parquet.write_table(pa.Table.from_arrays(arrays, list(columns)), path)


def _write_workbook(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    import openpyxl
    from openpyxl.cell import WriteOnlyCell

    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(list(columns))
    for line, row in enumerate(rows, start=2):
        if line > _MOST_LINES:
            raise ValueError(f".xlsx holds {_MOST_LINES} lines at most; write .csv or .parquet")
        cells = []
        for value in (row[column] for column in columns):
            if isinstance(value, str):
                text = value.encode("utf-8", "backslashreplace").decode()
                text = _CONTROL.sub(_escaped, text)
                if len(text) > _MOST_IN_CELL:
                    raise ValueError(
                        f"a cell of .xlsx holds {_MOST_IN_CELL} characters at most, got "
                        f"{len(text)} in line {line}; write .csv or .parquet"
                    )
                cell = WriteOnlyCell(sheet, text)
                cell.data_type = "s"  # never a formula
                cells.append(cell)
            else:
                value = _strict(value.item() if isinstance(value, np.generic) else value)
                cells.append(value)
        sheet.append(cells)
    # In memory first: the archive that openpyxl leaves open where a disk is full complains later.
    content = io.BytesIO()
    book.save(content)
    path.write_bytes(content.getbuffer())


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # what XML cannot hold


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"


def _strict(value: Any) -> Any:
    """A value as JSON and workbooks hold it: NaN is nothing, infinity a word."""
    if isinstance(value, float | np.floating) and not np.isfinite(value):
        return None if np.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    return value


def json_value(value: Any) -> Any:
    """What JSON holds of a value that it does not know, for ``json.dumps(default=...)``."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return repr(value)


def regular(path: str | os.PathLike[str]) -> Path:
    """The path of a file to read, unless it is a pipe or a device, which may keep a reader waiting
    for ever.

    Raises
    ------
    FileNotFoundError
        There is nothing.
    ValueError
        It is neither a file nor a folder.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"expected a regular file, got {os.fspath(path)!r}, a pipe or a device")
    return Path(path)


def check_outputs(paths: Mapping[str, str | None], kinds: Mapping[str, Sequence[str]]) -> None:
    """`check_output` of those that are given, by option, of the kinds said; and all different.

    Raises
    ------
    ValueError
        Two are one file.
    """
    taken: dict[str, str] = {}
    for option, path in paths.items():
        if path is None:
            continue
        check_output(path, kinds.get(option, ()))
        other = taken.setdefault(os.path.realpath(path), option)
        if other != option:
            raise ValueError(f"{other} and {option} must be different files, got {path!r} for both")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Say in a ValueError what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def check_output(path: str | os.PathLike[str], suffixes: Sequence[str] = ()) -> Path:
    """The path of an output that can be written: worth asking before long work.

    Parameters
    ----------
    path : path
    suffixes : sequence of str
        Of what will be written there; a name without any is taken too. None: any name.

    Raises
    ------
    ImportError
        The suffix is ``.parquet`` or ``.xlsx``, and pyarrow or openpyxl is not installed.
    FileNotFoundError
        The folder of `path` does not exist.
    PermissionError
        Nothing can be written to that folder.
    ValueError
        `path` is a folder, or a device or pipe, which moving a file onto it would replace; or its
        suffix is none of `suffixes`.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffixes and suffix and suffix not in suffixes:
        raise ValueError(
            f"expected an output called {' or '.join(f'*{name}' for name in suffixes)}, got "
            f"{target.name!r}: nothing else can be written here"
        )
    if suffixes and suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ImportError(".parquet needs pyarrow: pip install 'wbcprof[tables]'")
    if suffixes and suffix == ".xlsx":
        need_openpyxl()
    if os.fspath(path).endswith(("/", os.sep)):
        raise ValueError(f"the output {os.fspath(path)!r} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(target.parent)!r} of the output {target.name!r} does not exist; "
            "create it first"
        )
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(
            f"the folder {str(target.parent)!r} of the output {target.name!r} cannot be written "
            "to; choose another or change its permissions"
        )
    if target.is_dir():
        raise ValueError(f"the output {str(target)!r} is a folder; name a file in it")
    if target.exists() and not target.is_file():
        raise ValueError(f"the output {str(target)!r} is not a regular file")
    if target.is_symlink():
        followed = os.path.realpath(target)
        if os.path.islink(followed):
            raise ValueError(f"the output {str(target)!r} is a link to itself")
        check_output(followed)
    return target


_STEM, _LONGEST_SUFFIX = 100, 20  # bytes and letters of a temporary name


def _mode_of(target: Path) -> int:
    """That of a file, or what a plain open() would give it: temporary files are private."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def replacing(path: str | os.PathLike[str], suffixes: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; move it to `path` on success.

    On any exception the temporary file is removed and `path` is left as it was. What a link points
    to is replaced, not the link; a file that is replaced keeps its mode.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError, ImportError
        See `check_output`.
    """
    import tempfile

    target = check_output(path, suffixes)
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    # The suffix is kept: writers choose their format by it. No name is longer than that of `path`
    # may be, where that is long.
    suffix = Path(path).suffix
    stem = os.fsencode(target.stem)[:_STEM].decode("utf-8", "ignore")
    descriptor, name = tempfile.mkstemp(
        dir=target.parent,
        prefix=f".{stem}-",
        suffix=suffix if len(suffix) <= _LONGEST_SUFFIX else "",
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # Some file systems notice only now that the disk is full.
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(_mode_of(target))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
