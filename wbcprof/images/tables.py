"""Tables that say something of images, such as a label, a group or a slide of each, whatever
program and country they were saved in."""

from __future__ import annotations

import os
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from wbcprof.checks import UNLABELLED, known_label
from wbcprof.files import TableWarning, from_csv_text, naming, open_table

IMAGE_COLUMNS = (
    "path", "image", "file", "filename", "file_name", "image_path", "file_path", "filepath",
    "image_file", "image_name", "image_id", "metadata_imageid",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "type", "class", "cell_type", "celltype", "cell_class", "cell_label", "class_name",
    "metadata_label",
)  # fmt: skip
GROUP_COLUMNS = (
    "group", "patient", "slide", "patient_id", "slide_id", "subject", "subject_id", "donor",
    "donor_id", "case", "case_id",
)  # fmt: skip
PERSON_COLUMNS = ("person", "rater", "annotator", "reader", "observer", "expert")
SAMPLE_COLUMNS = ("sample", "sample_id", "sample_name", "specimen", "patient", "slide")
SLIDE_COLUMNS = ("slide", "slide_id", "slide_name")
TIME_COLUMNS = ("time", "date", "datetime", "date_time", "timestamp")


PAGE = re.compile(r"#\d{4,}$")
"""What the id of a page of a TIFF has behind that of the file."""


_NOT_KNOWN = frozenset(
    ("na", "n/a", "#n/a", "<na>", "nan", "nat", "none", "null", "?", "unknown", UNLABELLED)
)


def stated(label: object) -> str | None:
    """A label that a file states, as text; None where it is unknown, or says that it is: NA, N/A,
    nan, None, null, ?, unknown or unlabelled, in letters of any case."""
    name = known_label(label)
    return None if name is None or name.strip().lower() in _NOT_KNOWN else name


@dataclass(frozen=True)
class Table:
    """Rows of a table by the names of columns, see `column_name`, with their lines in the file."""

    path: str
    titles: list[str]
    header: list[str]
    rows: list[tuple[int, dict[str, str]]]

    def find(self, names: Sequence[str]) -> str | None:
        """The first of these columns that is there; ValueError where it is there twice."""
        with naming(f"'{self.path}'"):
            return the_column(names, self.header)

    def need(self, *wanted: Sequence[str]) -> list[str]:
        """The first of each of these columns that is there; ValueError where none is."""
        found = [self.find(names) for names in wanted]
        if None in found:
            kinds = " and ".join(f"a column {' or '.join(names[:4])}" for names in wanted)
            raise ValueError(
                f"'{self.path}': expected a first line with {kinds}, got: {self.shown()}"
            )
        return [name for name in found if name is not None]

    def shown(self) -> str:
        """The first line, as far as an error shows it."""
        return ", ".join(self.titles[:5])[:200] + (", ..." if len(self.titles) > 5 else "")

    def at(self, line: int) -> str:
        return f"'{self.path}', line {line}"

    def image_of(self, line: int, cell: str, names: Names) -> tuple[str, str | None]:
        """What a row calls its image, and the id that it means; ValueError, with the line, where it
        may mean two."""
        name = image_name(from_csv_text(cell) or "")
        with naming(self.at(line)):
            return name, names.find(name)


def read_table(path: str | os.PathLike[str]) -> Table:
    """Read a table, see `wbcprof.files.open_table`; short rows are filled up with nothing.

    Raises
    ------
    ValueError
        It cannot be read, or a row has more cells than the first line.
    """
    name = os.fspath(path)
    with open_table(path) as lines:
        titles = list(map(_cell, next(lines, (0, []))[1]))
        header = list(map(column_name, titles))
        rows = []
        for line, row in lines:
            cells = list(map(_cell, row))
            if any(cells[len(header) :]):
                raise ValueError(
                    f"'{name}', line {line}: expected {len(header)} cells, as in the first line, "
                    f"got {len(cells)}; put text that holds the delimiter in quotes"
                )
            cells += [""] * (len(header) - len(cells))
            rows.append((line, dict(zip(header, cells, strict=False))))
    return Table(name, titles, header, rows)


def the_column(names: Sequence[str], header: Sequence[str]) -> str | None:
    """The first of these names that is in the first line; ValueError where it is there twice."""
    found = next((name for name in names if name in header), None)
    if found is not None and header.count(found) > 1:
        raise ValueError(f"expected one column {found}, got two; leave one")
    return found


def column_name(text: str) -> str:
    """The name of a column as it is looked for: in small letters, with single underscores."""
    return "_".join(re.findall(r"[^\s_.-]+", _cell(text).lower()))


def image_name(text: str) -> str:
    """An image's id as others spell it: with backslashes, or from the folder they are in."""
    return re.sub(r"^(\./)+", "", text.replace("\\", "/"))


class Names:
    """Ids of images, found by what others call them: by more of their path, such as from the root,
    by less, such as the file name alone, and without a suffix of these."""

    def __init__(self, ids: Iterable[str], suffixes: Collection[str] = ()) -> None:
        self._suffixes = suffixes
        self._by_stem: dict[str, list[tuple[str, list[str]]]] = defaultdict(list)
        for image_id in ids:
            parts = _parts(image_id)
            self._by_stem[self._stem(parts[0])].append((image_id, parts))

    def find(self, name: str) -> str | None:
        """The id that a name means, or None.

        Raises
        ------
        ValueError
            It may mean two.
        """
        parts = _parts(name)
        near = [
            (image_id, there)
            for image_id, there in self._by_stem.get(self._stem(parts[0]), ())
            if all(a == b for a, b in zip(parts[1:], there[1:], strict=False))
        ]
        near = [pair for pair in near if pair[1][0] == parts[0]] or near
        near = [pair for pair in near if pair[1] == parts] or near
        found = list(dict.fromkeys(image_id for image_id, _ in near))
        if len(found) > 1:
            raise ValueError(
                f"{name!r} may be the image {found[0]!r} or {found[1]!r}; name it by more of its "
                "path"
            )
        return found[0] if found else None

    def _stem(self, name: str) -> str:
        path = PurePosixPath(name)
        return path.stem if path.suffix.lower() in self._suffixes else name


def _parts(name: str) -> list[str]:
    """Parts of a path, the last first."""
    parts = PurePosixPath(name.replace("\\", "/")).parts[::-1]
    return [part for part in parts if part not in ("/", "..")] or [""]


def read_by_image(
    path: str | os.PathLike[str], columns: Sequence[str], ids: Iterable[str] = ()
) -> dict[str, str]:
    """What the first of these columns that is there says of each image; rows that lack either are
    left out. Images are called by those of `ids` that their names mean, see `Names`; a file means
    all of its pages that are not named themselves.

    Raises
    ------
    ValueError
        There is no such column, two rows say different things of an image, or a name may mean two.

    Warns
    -----
    TableWarning
        Rows say again what one above said.
    """
    files = {image_id: PAGE.sub("", image_id) for image_id in ids}
    names = Names([*files, *files.values()])
    table = read_table(path)
    image, column = table.need(IMAGE_COLUMNS, columns)
    if not table.rows:
        raise ValueError(f"'{path}': expected rows below the first line, got none")
    known = stated if column in LABEL_COLUMNS else known_label  # a patient may be called "NA"
    found: dict[str, tuple[str, int]] = {}
    repeated: list[int] = []
    for line, cells in table.rows:
        value = known(from_csv_text(cells[column]))
        if value is None:
            continue
        name, found_id = table.image_of(line, cells[image], names)
        if not name:
            continue
        name = found_id or name
        before, above = found.setdefault(name, (value, line))
        if above != line:
            repeated.append(line)
        if before != value:
            raise ValueError(
                f"{table.at(line)}: {name!r} is of {column} {value!r} here and of {before!r} in "
                f"line {above}; leave one"
            )
    tell_of_repeated(
        f"'{path}'",
        len(table.rows),
        [f"line {line}" for line in repeated],
        "say again what is said above",
    )
    told = {name: value for name, (value, _) in found.items()}
    of_pages = {name: told[file] for name, file in files.items() if file in told}
    whole = {files[name] for name in of_pages} - files.keys()
    return of_pages | {name: value for name, value in told.items() if name not in whole}


def tell_of_repeated(table: str, n: int, rows: Sequence[str], what: str) -> None:
    """Warn of some of `n` rows, which are there again."""
    if rows:
        warnings.warn(
            f"{table}: {len(rows)} of {n} rows {what}, first {rows[0]}", TableWarning, stacklevel=4
        )


def tell_of_gaps(known: Mapping[str, object], ids: Collection[str], what: str) -> None:
    """Warn of images that a table does not name, and of names that are no image's."""
    there = set(ids)
    without = [image_id for image_id in ids if known_label(known.get(image_id)) is None]
    strange = [name for name in known if name not in there]
    said = []
    if without:
        said.append(f"names none for {len(without)} of {len(ids)} images, first {without[0]!r}")
    if strange:
        said.append(f"names {len(strange)} that are not among the images, first {strange[0]!r}")
    if said:
        warnings.warn(f"{what} {' and '.join(said)}", TableWarning, stacklevel=3)


def _cell(text: str) -> str:
    text = text.strip()
    # A quote after a blank is a character to the csv module.
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] == '"' else text
