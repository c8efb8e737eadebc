"""What people have noted of images, such as size, lobes, granules and colour of the cells."""

from __future__ import annotations

import math
import os
import warnings
from typing import Any

from wbcprof.checks import known_label
from wbcprof.files import TableWarning, from_csv_text, to_number
from wbcprof.images.source import open_images
from wbcprof.images.tables import (
    GROUP_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SAMPLE_COLUMNS,
    Names,
    read_table,
    stated,
    tell_of_gaps,
)

__all__ = ["read_attributes"]

_MOST_WORDS = 12  # of a column: more are names, or remarks


def read_attributes(path: str | os.PathLike[str], images: Any) -> dict[str, dict[str, float]]:
    """Attributes of images from a table: of each, its value by id.

    Parameters
    ----------
    path : path
        CSV file or workbook whose first line names a column ``image`` (or ``path``, ``file`` ...);
        every other column, but labels and groups, is an attribute. One of numbers is read as it is,
        one of up to 12 different words as one attribute for each word, ``"granules: coarse"``, 1
        where it is this and else 0. Empty cells, and NA, are not known. Columns of more words are
        left out, and those that say the same of all.
    images
        As `wbcprof.images.open_images` takes them; none is decoded. Rows of other images are left
        out.

    Raises
    ------
    ValueError
        No attribute is left, no row is of these images, two rows are of one image, or two columns
        of one name.

    Warns
    -----
    TableWarning
        Columns are left out, or images without a row.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from wbcprof.datasets import make_leukocytes, write_folder
    >>> from wbcprof.images import open_images, read_attributes
    >>> cells = make_leukocytes(2, size=48, types=["neutrophil"])  # generated
    >>> with TemporaryDirectory() as home:
    ...     folder, table = write_folder(cells, Path(home, "cells")), Path(home, "noted.csv")
    ...     a, b = open_images(folder).ids()
    ...     _ = table.write_text(f"image,lobes,granules\\n{a},3,fine\\n{b},5,coarse\\n")
    ...     noted = read_attributes(table, folder)
    >>> list(noted), list(noted["lobes"].values())
    (['lobes', 'granules: fine', 'granules: coarse'], [3.0, 5.0])
    """
    ids = open_images(images).ids()
    names = Names(ids)
    table = read_table(path)
    (image,) = table.need(IMAGE_COLUMNS)
    others = {*IMAGE_COLUMNS, *LABEL_COLUMNS, *GROUP_COLUMNS, *SAMPLE_COLUMNS}
    columns = [name for name in table.header if name and name not in others]
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise ValueError(f"'{table.path}': expected one column {twice[0]}, got two; leave one")
    lines: dict[str, int] = {}
    noted: dict[str, dict[str, str]] = {name: {} for name in columns}
    for line, cells in table.rows:
        _, found = table.image_of(line, cells[image], names)
        if found is None:
            continue
        if found in lines:
            raise ValueError(
                f"{table.at(line)}: {found!r} stands in line {lines[found]} too; leave one"
            )
        lines[found] = line
        for name in columns:
            value = stated(known_label(from_csv_text(cells[name])))
            if value is not None:
                noted[name][found] = value
    if not lines:
        raise ValueError(f"'{table.path}': expected rows of the images given, got none")
    read = [_as_numbers(name, noted[name]) for name in columns]
    attributes = {
        key: of for column in read for key, of in column.items() if len(set(of.values())) > 1
    }
    if not attributes:
        raise ValueError(
            f"'{table.path}': expected columns of numbers or of up to {_MOST_WORDS} words that "
            f"differ between images, beside the image, got: {table.shown()}"
        )
    unread = [name for name, column in zip(columns, read, strict=True) if not column]
    if unread:
        warnings.warn(
            f"'{table.path}': left out, since neither numbers nor at most {_MOST_WORDS} words: "
            f"{', '.join(unread)}",
            TableWarning,
            stacklevel=2,
        )
    tell_of_gaps(lines, ids, f"'{table.path}'")
    return attributes


def _as_numbers(name: str, noted: dict[str, str]) -> dict[str, dict[str, float]]:
    """A column of numbers as one attribute, of words as one for each; of too many words as none."""
    try:
        numbers = {image_id: to_number(text) for image_id, text in noted.items()}
    except ValueError:
        words = list(dict.fromkeys(noted.values()))
        if len(words) > _MOST_WORDS:
            return {}
        return {
            f"{name}: {word}": {image_id: float(text == word) for image_id, text in noted.items()}
            for word in words
        }
    return {name: {image_id: x for image_id, x in numbers.items() if math.isfinite(x)}}
