"""Groups of images, such as those of one patient or slide: where they are read from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from wbcprof.checks import known_label, one_known_label_each
from wbcprof.files import SHEETS
from wbcprof.images.source import open_images
from wbcprof.images.tables import GROUP_COLUMNS, column_name, read_by_image

__all__ = ["read_groups"]


def read_groups(how: str | os.PathLike[str], images: Any) -> dict[str, str]:
    """The group of each image, such as its patient or slide.

    Parameters
    ----------
    how : str or path
        - ``"folder:2"``: the second folder of the image's id, counted from the left. Ids are
          relative to the folder that is given, so that of ``cells/`` with one sub-folder for each
          type and in it one for each patient, these are the patients.
        - ``"column:slide"``: this column of the CSV file that `images` names.
        - CSV file: its first line names a column ``image`` (or ``path``, ``file``, ``filename``
          ...), the ids, and a column ``group`` (or ``patient``, ``slide`` ...; the first of these);
          see `wbcprof.images.tables`. An image may be called by more or less of its path, such as
          the file name alone, where one only can be meant. Images that are not asked for may stand
          in it too.
    images
        As `wbcprof.images.open_images` takes them; none is decoded.

    Returns
    -------
    dict of str to str
        From the id of every image to its group.

    Raises
    ------
    FileNotFoundError
        A path does not exist.
    ValueError
        An image has no group or two, a folder level does not exist, or the file has no such column.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from wbcprof.datasets import make_leukocytes, write_folder
    >>> from wbcprof.images import open_images, read_groups
    >>> cells = make_leukocytes(1, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> with TemporaryDirectory() as home:
    ...     folder, table = write_folder(cells, Path(home, "cells")), Path(home, "patients.csv")
    ...     lines = [f"{name},patient {n}\\n" for n, name in enumerate(open_images(folder).ids())]
    ...     _ = table.write_text("".join(["image,patient\\n", *lines]))
    ...     print(*read_groups(table, folder).values(), sep=", ")
    ...     print(*read_groups("folder:1", folder).values(), sep=", ")
    patient 0, patient 1
    lymphocyte, neutrophil
    """
    name = os.fspath(how)
    kind, _, value = name.partition(":")
    ids = open_images(images).ids()
    if kind == "folder":
        return groups_in_folders(value, ids)
    if kind == "column":
        if not isinstance(images, str | os.PathLike) or Path(images).suffix.lower() not in SHEETS:
            raise ValueError(
                f"{name!r} is a column of the CSV file that lists the images, but they are given "
                "as something else; name a CSV file with the columns image and group instead"
            )
        known = read_by_image(images, (column_name(value),))
    else:
        if not os.path.exists(how):
            raise FileNotFoundError(
                f"No such file: {name!r}; groups come from a CSV file, folder:2 or column:NAME"
            )
        known = read_by_image(how, GROUP_COLUMNS, ids)
    without = [image_id for image_id in ids if image_id not in known]
    if without:
        raise ValueError(
            f"{name!r} gives no group for {len(without)} of {len(ids)} images, first "
            f"{without[0]!r}; its own first is {next(iter(known), 'none')!r}: every image needs a "
            "row, by the id that profiles have"
        )
    return {image_id: known[image_id] for image_id in ids}


def groups_of(groups: Any, ids: Sequence[str], places: Sequence[int], n: int) -> np.ndarray:
    """Groups of the images that were read, (len(ids),).

    Parameters
    ----------
    groups : mapping from id to group, or iterable of n
    ids : sequence of str
        Of the images that were read.
    places : sequence of int
        Their places among the `n` images offered.
    n : int

    Raises
    ------
    TypeError
        Text.
    ValueError
        An image has no group, or there are not `n`.
    """
    if isinstance(groups, Mapping):
        without = [image_id for image_id in ids if known_label(groups.get(image_id)) is None]
        if without:
            raise ValueError(
                f"groups names no group for {len(without)} of {len(ids)} images, first "
                f"{without[0]!r}; its own first is {next(iter(groups), 'none')!r}"
            )
        return one_known_label_each([groups[image_id] for image_id in ids], len(ids), "images")
    found: np.ndarray = one_group_each(groups, n, "images")[np.asarray(places, dtype=int)]
    return found


def one_group_each(groups: Iterable[Any], n: int, of: str) -> np.ndarray:
    """Groups in order, (n,): numbers as they are, all else as text.

    Raises
    ------
    TypeError
        Text.
    ValueError
        There are not `n`, or one is unknown.
    """
    if isinstance(groups, str | bytes):
        raise TypeError(
            "groups must hold one group per image, in order, or map ids to groups; got "
            f"{groups!r}. wbcprof.images.read_groups reads them from folders and files."
        )
    return one_known_label_each(groups, n, of, "group")


def groups_in_folders(level: str, ids: Sequence[str]) -> dict[str, str]:
    """Group by id: the folder of this level, counted from the left."""
    if not level.isdecimal() or int(level) < 1:
        raise ValueError(f"expected folder:1, folder:2 ... from the left, got 'folder:{level}'")
    folders = {name: PurePosixPath(name.lstrip("/")).parts[:-1] for name in ids}
    shallow = [image_id for image_id, parts in folders.items() if len(parts) < int(level)]
    if shallow:
        raise ValueError(
            f"{len(shallow)} of {len(ids)} images do not lie {level} folders deep, first "
            f"{shallow[0]!r}; ids begin below the folder that is given"
        )
    return {image_id: parts[int(level) - 1] for image_id, parts in folders.items()}
