"""The labelling page: groups of like cells to be named, doubtful cells to be asked, labels to take
home. What a person says stays in the browser until it is downloaded.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from wbcprof._version import __version__
from wbcprof.analysis.embedding import embed
from wbcprof.analysis.figures import PALETTE
from wbcprof.analysis.grouping import RULES, Groups, group_profiles
from wbcprof.analysis.quality import warn_of_fields
from wbcprof.checks import check, known_labels
from wbcprof.files import HTML, check_output
from wbcprof.model.model import Model
from wbcprof.report.cells import Cells, read_cells
from wbcprof.report.html import as_json, render, write_html
from wbcprof.report.pictures import on_map, sheet_of
from wbcprof.smear.canonical import find_leukocyte
from wbcprof.threads import resolve_threads

TYPES = ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil")
"""What is offered where neither the caller nor the model names types."""

_CLOSE = 2.8  # sizes of the nucleus, that a thumbnail shows
_STEPS = 127  # of each place, on either side of 0


def write_label_page(
    model: Model,
    images: Any,
    path: str | os.PathLike[str],
    *,
    types: Iterable[str] | None = None,
    n_groups: int | None = None,
    title: str = "White blood cells to be named",
    note: str = "",
    random_state: int = 0,
    n_threads: int | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> Groups:
    """Write a page on which a person names cells that have no labels, into one HTML file.

    Cells are grouped by their profiles. On the page a key names a group, a single cell, or cells
    circled on a map; groups are split and merged; all is undone. With two names given, the page
    calls all cells by the names so far, see `wbcprof.analysis.spread_labels`, and asks for those
    whose names teach most. ``labels.csv``, with the columns image, label and how (group, single or
    suggested), is downloaded from it, and ``wbcprof fit --labels`` takes it.

    Parameters
    ----------
    model : Model
        It needs no classifier.
    images : folder, path, list of paths, array, or iterable of arrays
        See `wbcprof.images.open_images`; 10 at least. Their labels, if any, are not used. Of more
        than 10,000, as many are drawn at random.
    path : path
        File to write; it is whole or absent.
    types : iterable of str, optional
        Names that keys give, the first nine; others can be added on the page. By default those of
        the model's classifier, or the five types of normal blood.
    n_groups : int, optional
        See `wbcprof.analysis.group_profiles`.
    title, note : str
        Heading, and a line in a box below it.
    random_state : int
        Seed of groups, map and samples.
    n_threads : int, optional
    progress : callable, optional
        Called with (stage, done, of how many or None), when a stage begins and as it goes on:
        "profiling" cells, "grouping", "mapping".

    Returns
    -------
    Groups
        Of the cells on the page.

    Raises
    ------
    ValueError
        No image could be read, there are fewer than 10 or fewer than `n_groups`, all are alike, or
        `types` holds a name twice, or one that means unknown.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(10, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> with TemporaryDirectory() as home:
    ...     page = Path(home, "label.html")
    ...     groups = wbcprof.write_label_page(model, cells.images, page, n_groups=3)
    ...     print(groups.n_groups, "20 cells in 3 groups" in page.read_text(encoding="utf-8"))
    3 True
    """
    check(RULES, n_groups=n_groups, random_state=random_state)
    offered = _types(model, types)
    check_output(path, HTML)
    tell = progress or (lambda stage, done, of: None)
    threads = resolve_threads(n_threads)
    cells = read_cells(
        model, images, None, random_state, threads,
        progress=partial(tell, "profiling"), look=_close_up,
    )  # fmt: skip
    warn_of_fields(cells.profiles)
    tell("grouping", 0, None)
    groups = group_profiles(cells.profiles.at(cells.shown), n_groups, random_state)
    tell("mapping", 0, None)
    points = on_map(embed(cells.comparable[cells.shown], random_state=random_state))
    write_html(path, _render(model, cells, groups, points, offered, title, note))
    return groups


def _close_up(image: np.ndarray) -> np.ndarray:
    """The leukocyte and little about it; the whole image where none is found."""
    found = find_leukocyte(image)
    if not found.has_nucleus:
        return image
    side = round(_CLOSE * math.sqrt(found.area))
    top, left = (
        min(max(round(middle - side / 2), 0), max(length - side, 0))
        for middle, length in zip(found.centre, image.shape[:2], strict=True)
    )
    return image[top : top + side, left : left + side]


def _types(model: Model, types: Iterable[str] | None) -> list[str]:
    if types is None:
        return list(TYPES) if model.classifier is None else model.classifier.classes_.tolist()
    names = known_labels(types)
    if None in names or len(set(names)) < len(names):
        raise ValueError(f"types must be names, each once, none of them unknown; got {names}")
    return [name for name in names if name is not None]


def _render(
    model: Model,
    cells: Cells,
    groups: Groups,
    points: np.ndarray,
    types: list[str],
    title: str,
    note: str,
) -> str:
    sheet = sheet_of(cells.thumbnails, cells.quality)
    learnt = model.provenance.get("n_images", "an unknown number of")
    drawn = ""
    if len(cells.shown) < len(cells.ids):
        drawn = f" Of {len(cells.ids):,} cells these are drawn at random; the others are not here."
    return render(
        "label.html",
        ("report.css", "label.css"),
        ("common.js", "spread.js", "label.js"),
        title=title,
        note=note,
        summary=(
            f"{len(groups.ids):,} cells in {groups.n_groups} groups, found without labels.{drawn} "
            f"Made by wbcprof {__version__} on {datetime.now(UTC):%Y-%m-%d}, with a model learnt "
            f"from {learnt} images."
        ),
        groups_note=(
            "How much of a group is found again when four cells in five are grouped stands beside "
            "it; where that is little, look at its doubtful cells, or split it. All in all, the "
            f"groups come again with an adjusted Rand index of {groups.agreement:.2f}."
        ),
        sheet=sheet,
        data=as_json(_data(cells, groups, points, sheet, types)),
        methods=_methods(groups),
    )


def _data(
    cells: Cells, groups: Groups, points: np.ndarray, sheet: dict[str, Any], types: list[str]
) -> dict[str, Any]:
    """What the script reads; lists are over the shown cells."""
    scale = np.abs(groups.places).max(axis=0) / _STEPS
    places = np.rint(groups.places / scale).astype(np.int8)
    names = [cells.names[i] for i in cells.shown]
    first = cells.ids[cells.shown[0]]
    content = repr((groups.ids, groups.group.tolist(), types)).encode(errors="backslashreplace")
    return {
        "key": f"wbcprof-{blake2b(content + places.tobytes(), digest_size=8).hexdigest()}",
        "types": types,
        "palette": list(PALETTE),
        "sheet": {key: sheet[key] for key in ("side", "per_row", "per_sheet")},
        "id": names,
        "folder": first.removesuffix(names[0]),
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "group": groups.group.tolist(),
        "distance": np.round(groups.distance, 3).tolist(),
        "sureness": np.round(groups.sureness, 4).tolist(),
        "stray": np.flatnonzero(groups.is_stray).tolist(),
        "stability": np.round(groups.stability, 3).tolist(),
        "places": base64.b64encode(places.tobytes()).decode(),
        "scale": [float(value) for value in scale],
    }


def _methods(groups: Groups) -> list[str]:
    d = groups.places.shape[1]
    return [
        f"Profiles are brought to {d} principal components of their square roots, each of unit "
        "variance. Groups are Gaussians of one covariance over these, by expectation-maximisation "
        "(scikit-learn); their number, where none was asked for, is that of the least Bayesian "
        "information criterion. Typical cells lie nearest to the middle of their group.",
        "Names spread from groups and single cells to all in the same way: types are Gaussians of "
        "one covariance, learnt from the names, then three times from their own calls as well; a "
        "cell named by itself counts five times. Probabilities are those of these Gaussians: they "
        "say which cells to look at, and are not calibrated.",
        "The map is t-SNE of the square roots of the profiles; directions and distances between "
        "far groups mean nothing.",
    ]
