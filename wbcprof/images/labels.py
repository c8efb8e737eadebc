"""Labels of images that people wrote into tables: one person or several, who may disagree."""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbcprof._shown import Shown
from wbcprof.checks import known_label, shown
from wbcprof.files import TableWarning, from_csv_text
from wbcprof.images.source import open_images
from wbcprof.images.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    PAGE,
    PERSON_COLUMNS,
    Names,
    read_table,
    stated,
)

__all__ = ["Labels", "read_labels"]


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Shown):
    """Labels of images, and where they disagree.

    Attributes
    ----------
    ids : list of str
        Of all images asked for.
    labels : list of (str or None)
        What all who labelled an image call it, or more than half of them; None where nobody did,
        or they disagree.
    by_person : dict of str to dict of str to str
        Of each person the label of each image; an image that a person gave two is left out.
    conflicts : dict of str to list of (str, str)
        Images that were called differently: person and label, in the order of the rows.
    strange : list of str
        Names in the tables that are no image's.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from wbcprof.images import read_labels
    >>> with TemporaryDirectory() as home:
    ...     table = Path(home, "labels.csv")
    ...     _ = table.write_text("image,label\\nimage_000001,neutrophil\\n")
    ...     found = read_labels(table, np.zeros((2, 8, 8, 3), np.uint8))
    >>> found.labels, found.by_person, found.conflicts, found.strange
    ([None, 'neutrophil'], {'labels': {'image_000001': 'neutrophil'}}, {}, [])
    >>> print(found.describe()[0])
    1 of 2 images have a label: neutrophil 1
    """

    ids: list[str]
    labels: list[str | None]
    by_person: dict[str, dict[str, str]]
    conflicts: dict[str, list[tuple[str, str]]]
    strange: list[str]

    def describe(self) -> list[str]:
        """What was found, a line for each thing: labels, names of no image, conflicts."""
        types = Counter(label for label in self.labels if label is not None)
        counted = ", ".join(f"{name} {count}" for name, count in sorted(types.items()))
        lines = [f"{types.total()} of {len(self.ids)} images have a label: {counted or 'none'}"]
        if self.strange:
            lines.append(
                f"{len(self.strange)} names are no image's, first {self.strange[0]!r}; images are "
                f"called such as {self.ids[0]!r}"
            )
        for image_id, said in list(self.conflicts.items())[:5]:
            told = ", ".join(f"{label} ({person})" for person, label in said)
            lines.append(f"called differently: {image_id!r}: {told}")
        if len(self.conflicts) > 5:
            lines.append(f"called differently: {len(self.conflicts)} images in all")
        return lines

    def _told(self) -> dict[str, Any]:
        return {
            "images": len(self.ids),
            "types": dict(Counter(label for label in self.labels if label is not None)),
            "without": self.labels.count(None),
            "persons": list(self.by_person),
            "conflicts": len(self.conflicts),
            "no image's": len(self.strange) or None,
        }


def read_labels(paths: str | os.PathLike[str] | Iterable[Any], images: Any) -> Labels:
    """Read labels of images from tables, whoever wrote them.

    Parameters
    ----------
    paths : path, or iterable of paths
        CSV files or .xlsx workbooks, whose first line names a column ``image`` (or ``path``,
        ``file``, ``filename`` ...) and a column ``label`` (or ``type``, ``class``, ``cell type``
        ...); see `wbcprof.images.tables`. A column ``person`` (or ``rater``, ``annotator``,
        ``reader``, ``observer``) says whose label it is; without one, each file is of a person. An
        image may be called by more or less of its path, such as the file name alone, where one only
        can be meant. Rows without a label are passed over.
    images
        As `wbcprof.images.open_images` takes them; none is decoded, and their own labels are not
        used.

    Returns
    -------
    Labels

    Raises
    ------
    FileNotFoundError
        A table does not exist.
    ValueError
        A table cannot be read or has no such columns, or none of its rows labels one of the images.

    Warns
    -----
    TableWarning
        Images are called differently and stay without a label, or names are no image's.

    Examples
    --------
    Two people who disagree about one cell, and a third who decides:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from wbcprof.images import read_labels
    >>> rows = ["1;Ada;monocyte", "1;Ben;neutrophil", "1;Cy;monocyte", "0;Ada;basophil"]
    >>> with TemporaryDirectory() as home:
    ...     table = Path(home, "labels.csv")
    ...     lines = ["File;Rater;Cell type", *(f"image_00000{row}" for row in rows)]
    ...     _ = table.write_text("\\n".join(lines))
    ...     found = read_labels(table, np.zeros((3, 8, 8, 3), np.uint8))
    >>> found.labels
    ['basophil', 'monocyte', None]
    >>> found.conflicts
    {'image_000001': [('Ada', 'monocyte'), ('Ben', 'neutrophil'), ('Cy', 'monocyte')]}
    """
    ids = open_images(images).ids()
    tables = list(map(Path, [paths] if isinstance(paths, str | os.PathLike) else paths))
    said: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    order: dict[str, list[tuple[str, str]]] = defaultdict(list)
    strange: dict[str, None] = {}
    files = {image_id: PAGE.sub("", image_id) for image_id in ids}
    names, pages = Names([*files, *files.values()]), defaultdict(list)
    for image_id, file in files.items():
        pages[file].append(image_id)
    for table in tables:
        found = _rows(table, names)
        if not found:
            raise ValueError(f"'{table}': expected rows with an image and its label, got none")
        meant, named = 0, {name for name, *_ in found}
        for name, person, label in found:
            own_ids = (
                [name] if name in files else [p for p in pages.get(name, ()) if p not in named]
            )
            meant += bool(own_ids)
            strange.update({} if own_ids else {name: None})
            for image_id in own_ids:
                said[image_id][person or table.stem].add(label)
                if (person or table.stem, label) not in order[image_id]:
                    order[image_id].append((person or table.stem, label))
        if not meant:
            raise ValueError(
                f"'{table}': expected labels of the {len(ids)} images, called such as "
                f"{shown(ids[0])}; none of its {len(found)} rows names one, its first is "
                f"{shown(found[0][0])}"
            )
    conflicts = {
        image_id: order[image_id]
        for image_id in ids
        if len({label for _, label in order.get(image_id, ())}) > 1
    }
    by_person: dict[str, dict[str, str]] = defaultdict(dict)
    for image_id in ids:
        for person, own in said.get(image_id, {}).items():
            if len(own) == 1:
                by_person[person][image_id] = next(iter(own))
    labels = [_agreed(said.get(image_id, {})) for image_id in ids]
    result = Labels(ids, labels, dict(by_person), conflicts, list(strange))
    _tell(result)
    return result


def _rows(path: Path, names: Names) -> list[tuple[str, str | None, str]]:
    """Image, person and label of each row that has a label; images by their ids where they are
    among the names."""
    table = read_table(path)
    image, column = table.need(IMAGE_COLUMNS, LABEL_COLUMNS)
    person = table.find(PERSON_COLUMNS)
    rows = []
    for line, cells in table.rows:
        label = stated(from_csv_text(cells[column]))
        if label is None:
            continue
        name, image_id = table.image_of(line, cells[image], names)
        if not name:
            continue
        rows.append(
            (image_id or name, person and known_label(from_csv_text(cells[person])), label.strip())
        )
    return rows


def _agreed(said: Mapping[str, set[str]]) -> str | None:
    """What more than half of the people call an image; who gave it two labels said none."""
    votes = Counter(next(iter(own)) for own in said.values() if len(own) == 1)
    if not votes:
        return None
    ((label, most),) = votes.most_common(1)
    return label if 2 * most > len(said) else None


def _tell(found: Labels) -> None:
    left = sum(
        label is None and image_id in found.conflicts
        for image_id, label in zip(found.ids, found.labels, strict=True)
    )
    parts = []
    if found.conflicts:
        first, said = next(iter(found.conflicts.items()))
        told = ", ".join(f"{label} ({person})" for person, label in said)
        parts.append(
            f"{len(found.conflicts)} images are called differently, {left} of them stay without a "
            f"label, first {first!r}: {told}"
        )
    if found.strange:
        parts.append(
            f"{len(found.strange)} names are no image's, first {found.strange[0]!r}, where images "
            f"are called such as {found.ids[0]!r}"
        )
    if parts:
        warnings.warn("; ".join(parts), TableWarning, stacklevel=3)
