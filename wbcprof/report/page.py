"""The report: one HTML file over a set of cells, to open from disk, without a network.

    images -> one pass: profiles, thumbnails -> calls -> figures, tables, map -> HTML

`wbcprof.report.html` has what keeps it safe.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from wbcprof._version import __version__
from wbcprof.analysis import figures
from wbcprof.analysis.novelty import SetCheck, check_set, warn_of_set
from wbcprof.analysis.quality import warn_of_fields
from wbcprof.checks import (
    UNLABELLED,
    UNLIKE,
    UNSURE,
    Choice,
    Flag,
    Integer,
    check,
    shown,
    sorted_types,
)
from wbcprof.files import HTML, check_output
from wbcprof.images.tables import tell_of_gaps
from wbcprof.model.model import Model
from wbcprof.report.calls import Subject, call_cells
from wbcprof.report.cells import Cells, read_cells
from wbcprof.report.html import as_json, render, write_html
from wbcprof.report.pictures import (
    draw,
    jpeg,
    map_of,
    sheet_of,
    sprite,
    tiles_of,
)
from wbcprof.report.places import find_places
from wbcprof.report.tables import agreements, counts, differences, methods, scores
from wbcprof.threads import resolve_threads

_NEAREST = 8  # cells named beside the selected one
_GALLERY, _GALLERY_OF_CALL = 120, 24
RULES = {
    "calls": Choice(("cross-validated", "model")),
    "random_state": Integer(0, 2**32 - 1),
    "strict": Flag(),
}


def write_report(
    model: Model,
    images: Any,
    path: str | os.PathLike[str],
    *,
    labels: Iterable[Any] | None = None,
    groups: Any = None,
    samples: Mapping[str, str] | None = None,
    attributes: Mapping[str, Mapping[str, float]] | None = None,
    calls: str = "cross-validated",
    figure_folder: str | os.PathLike[str] | None = None,
    figure_format: str = "pdf",
    figure_width: float | None = None,
    title: str = "White blood cells: signatures, types, counts",
    note: str = "",
    random_state: int = 0,
    strict: bool = False,
    n_threads: int | None = None,
    progress: Callable[[str, int, int | None], None] | None = None,
) -> None:
    """Profile cells and write what there is to see about them into one HTML file.

    Where most cells have no type given, the usual case, the page opens on what they are called:
    counts, and galleries by call, the unsure first. Where nothing is called either, it opens on the
    cells that are least like the others.

    Parameters
    ----------
    model : Model
    images : folder, path, list of paths, array, or iterable of arrays
        See `wbcprof.images.open_images`.
    path : path
        File to write; it is whole or absent.
    labels : iterable, optional
        Types of the images; a folder's sub-folders give them by default. None is unknown.
    groups : iterable of n groups, or mapping from image id to group, optional
        Such as patients or slides, in the order of the images, or as `wbcprof.images.read_groups`
        reads them: for cross-validated calls, no group lies in several folds.
    samples : mapping from image id to sample name, optional
        The differential count is then made per sample.
    attributes : mapping from name to mapping from image id to number, optional
        What was noted of the cells, as `wbcprof.images.read_attributes` reads it: the page then
        says which signatures agree with what. Of 20 cells at least.
    calls : {"cross-validated", "model"}
        Who names the types. "cross-validated": classifiers trained on these profiles, each cell
        called by one that has not seen it (5 folds; 2 beyond 3,000 labelled cells). "model": the
        model's own classifier, which is also used where most cells have no label, or too few of
        each type.
    figure_folder : path, optional
        Folder to write every figure to, the map of cells among them; it is made where it does not
        exist.
    figure_format : {"pdf", "svg", "png"}
    figure_width : float, optional
        Of each figure there, mm; see `wbcprof.figures.save`.
    title, note : str
        Heading, and a line in a box below it.
    random_state : int
        Seed of folds, map and samples.
    strict : bool
        ValueError, rather than a warning, where the cells as a set are not from the world that the
        model knows; see `wbcprof.analysis.check_set`.
    n_threads : int, optional
    progress : callable, optional
        Called with (stage, done, of how many or None), when a stage begins and as it goes on:
        "profiling" and "calling" cells, "ranking signatures", "mapping", "drawing" pictures.

    Raises
    ------
    ValueError
        No image could be read, one has no group, `samples` names none of them, `calls` is unknown,
        or is "model" where the model has no classifier of its profiles.

    Warns
    -----
    TableWarning
        `samples` names none for some of the images, or names some that are not among them.
    StrangeCellsWarning
        The cells as a set are not from the world that the model knows.
    DuplicateWarning
        Images are near-identical, as `wbcprof.images.find_copies` says; for cross-validated calls,
        they count as of one group.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(4, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> with TemporaryDirectory() as home:
    ...     page = Path(home, "report.html")
    ...     wbcprof.write_report(
    ...         model, cells.images, page, labels=cells.labels, note="Generated, not real data."
    ...     )
    ...     print("Generated, not real data." in page.read_text(encoding="utf-8"))
    True
    """
    check(RULES, calls=calls, random_state=random_state, strict=strict)
    if not isinstance(samples, Mapping | None):
        raise ValueError(
            "samples must map ids of images to names of samples, as wbcprof.images.read_groups "
            f"reads them from a file, got {shown(samples)}"
        )
    if attributes is not None:
        _check_attributes(attributes)
    if calls == "model" and model.classifier is None:
        raise ValueError("calls='model' needs a model with a classifier; this one holds none")
    check_output(path, HTML)
    files = None
    if figure_folder is not None:
        files = figures.FigureFiles(figure_folder, figure_format, figure_width)
    tell = progress or (lambda stage, done, of: None)
    threads = resolve_threads(n_threads)
    cells = read_cells(
        model, images, labels, random_state, threads, groups, partial(tell, "profiling")
    )
    warn_of_fields(cells.profiles)
    found = None
    if model.classifier is not None:
        found = check_set(model, cells.profiles)
        warn_of_set(found, strict=strict)
    if samples is not None and samples.keys().isdisjoint(cells.ids):
        raise ValueError(
            f"samples names none of the {len(cells.ids)} images: expected ids such as "
            f"{cells.ids[0]!r}, got {next(iter(samples), 'none')!r}"
        )
    if samples is not None:
        tell_of_gaps(samples, cells.ids, "the table of samples")
    if attributes is not None and set(cells.ids).isdisjoint(set().union(*attributes.values())):
        raise ValueError(
            f"attributes are of none of the {len(cells.ids)} images: expected ids such as "
            f"{cells.ids[0]!r}"
        )
    tell("calling", 0, len(cells.ids))
    called = call_cells(model, cells, calls, random_state, partial(tell, "calling"))
    tell("ranking signatures", 0, None)
    subject = Subject.of(model, cells, called, random_state, threads)
    tell("mapping", 0, None)
    points, map_note = map_of(subject, random_state, files)
    pictures = draw(subject, files, partial(tell, "drawing"))
    html = _render(subject, points, map_note, pictures, samples, attributes, title, note, found)
    write_html(path, html)


def _check_attributes(attributes: Any) -> None:
    if not isinstance(attributes, Mapping) or not attributes:
        raise ValueError(
            "attributes must map names to values by id of image, as wbcprof.images.read_attributes "
            f"reads them from a file, got {shown(attributes)}"
        )
    for name, of in attributes.items():
        values = list(of.values()) if isinstance(of, Mapping) else [None]
        if not all(isinstance(x, int | float | np.number) and not np.isinf(x) for x in values):
            raise ValueError(
                f"attribute {name!r} must map ids of images to finite numbers, or NaN where "
                f"unknown, got {shown(of)}"
            )


def _render(
    subject: Subject,
    points: np.ndarray,
    map_note: str,
    pictures: dict[str, dict[str, str]],
    samples: Mapping[str, str] | None,
    attributes: Mapping[str, Mapping[str, float]] | None,
    title: str,
    note: str,
    found: SetCheck | None,
) -> str:
    cells, called, labels = subject.cells, subject.calls, subject.labels
    sheet = sheet_of(cells.thumbnails, cells.quality)
    tiles = tiles_of(subject.model)
    score_rows = scores(subject)
    marks, marks_note = differences(subject)
    words, words_note = agreements(subject, attributes or {})
    gallery, gallery_note = _gallery(subject)
    by_call = []
    if subject.opens_on_cells:
        by_call = _by_call(subject) if called.types else _least_alike(subject)
    place = {cell: number for number, cell in enumerate(cells.shown)}
    facts = [("cells", f"{len(labels):,}")]
    if cells.is_labelled:
        facts += [("types given", f"{len(set(labels) - {UNLABELLED}):,}")]
    elif called.types:
        facts += [("types called", f"{len(set(subject.counted) - {UNLABELLED}):,}")]
    facts += [("signatures", f"{cells.n_signatures:,}")]
    if n_skipped := len(cells.source.skipped):
        facts += [("images that could not be used", f"{n_skipped:,}")]
    if (called.strange != "").any():
        facts += [("unlike any type, or unsure", f"{int((called.strange != '').sum()):,}")]
    if score_rows:
        facts += [("F1, average of types", score_rows[-1]["f1"])]
        facts += [("called as given", f"{1 - subject.is_wrong[called.scored].mean():.1%}")]
    learnt = subject.model.instrument
    n_learnt = subject.model.provenance.get("n_images", "an unknown number of")
    return render(
        "report.html",
        ("report.css",),
        ("common.js", "report.js"),
        title=title,
        note=note,
        summary=(
            f"Made by wbcprof {__version__} on {datetime.now(UTC):%Y-%m-%d}, with a model learnt "
            f"from {n_learnt} images"
            + ("." if learnt is None else f": {learnt.describe()}.")
            + f" These images: {cells.instrument.describe()}."
            + ("" if found is None else f" As a set, {found.sentence}.")
        ),
        facts=facts,
        data=as_json(_data(subject, points, sheet, tiles)),
        sheet=sheet,
        tiles=tiles,
        sprite=sprite,
        cells={place[cell]: shown for cell, shown in gallery.items()},
        gallery=[place[cell] for cell in gallery],
        gallery_note=gallery_note,
        by_call=by_call,
        opens_on_cells=subject.opens_on_cells,
        is_labelled=cells.is_labelled,
        has_calls=bool(called.types),
        has_scores=bool(score_rows),
        map_note=map_note,
        calls_note=called.note,
        scores=score_rows,
        spread=len(called.folds) > 1,
        figures=pictures,
        responses=[name for name in pictures if name.startswith("response")],
        counts=counts(subject, samples),
        differences=marks,
        differences_note=marks_note,
        agreements=words,
        agreements_note=words_note,
        methods=methods(subject),
        parameters=[(name, str(value)) for name, value in subject.model.parameters.items()],
    )


def _gallery(subject: Subject) -> tuple[dict[int, dict[str, str]], str]:
    """The surest mistakes among the shown cells, and what to say above them."""
    cells, called = subject.cells, subject.calls
    place = {cell: number for number, cell in enumerate(cells.shown)}
    wrong = np.flatnonzero(subject.is_wrong).tolist()
    wrong.sort(key=lambda i: -called.sureness[i])
    gallery = {}
    for i in [i for i in wrong if i in place][:_GALLERY]:
        label, call = subject.labels[i], subject.names[i]
        gallery[i] = {
            "label": label,
            "call": call,
            "p": f"{called.sureness[i]:.2f}",
            "text": f"{cells.names[i]}: given {label}, called {call}",
            "uri": jpeg(cells.thumbnails[place[i]], cells.quality),
        }
    if not len(called.scored):
        return gallery, "No cell was scored."
    return gallery, (
        f"{len(wrong):,} of {len(called.scored):,} scored cells were called another type than "
        f"given; {len(gallery):,} of them are here, the surest mistakes first. It may also be the "
        "given type that is wrong."
    )


def _by_call(subject: Subject) -> list[dict[str, Any]]:
    """Cells by what they are called: the unsure, the unlike, each type; the least sure first."""
    cells, called = subject.cells, subject.calls
    place = {cell: number for number, cell in enumerate(cells.shown)}
    calls = np.where(called.strange == "", subject.names, called.strange)
    titles = {UNSURE: "Unsure, between two types", UNLIKE: "Unlike any known type"}
    parts = []
    for call in [*titles, *sorted_types(set(calls) - set(titles))]:
        rows = np.flatnonzero(calls == call)
        order = rows[np.argsort(called.probability[rows].max(axis=1), kind="stable")]
        shown = [i for i in order.tolist() if i in place][:_GALLERY_OF_CALL]
        if not len(rows):
            continue
        note = f"{len(rows):,} {'cell' if len(rows) == 1 else 'cells'}"
        if len(shown) < len(rows):
            note += f", of which {len(shown):,} are here"
        parts.append(_part(cells, titles.get(call, call), f"{note}, the least sure first.", [
            (i, called.describe(i), place[i]) for i in shown
        ]))  # fmt: skip
    return parts


def _least_alike(subject: Subject) -> list[dict[str, Any]]:
    """Shown cells that lie furthest from their nearest ones."""
    from sklearn.neighbors import NearestNeighbors

    cells = subject.cells
    values = cells.comparable[cells.shown]
    k = min(_NEAREST + 1, len(values))
    far = NearestNeighbors(n_neighbors=k).fit(values).kneighbors(values)[0].mean(axis=1)
    order = np.argsort(-far, kind="stable")[:_GALLERY_OF_CALL].tolist()
    shown = [(cells.shown[number], "", number) for number in order]
    note = f"{len(shown):,} of {len(values):,}, the least alike first; no type is known or called."
    return [_part(cells, "Cells least like the others", note, shown)]


def _part(cells: Cells, title: str, note: str, shown: list[tuple[int, str, int]]) -> dict[str, Any]:
    """A gallery: of each cell its number, what to say of it, and its place among the shown."""
    return {
        "title": title,
        "note": note,
        "cells": [
            {
                "place": place,
                "name": cells.names[i],
                "text": text,
                "uri": jpeg(cells.thumbnails[place], cells.quality),
            }
            for i, text, place in shown
        ],
    }


def _data(
    subject: Subject, points: np.ndarray, sheet: dict[str, Any], tiles: dict[str, Any] | None
) -> dict[str, Any]:
    """What the map's script reads; lists are over the shown cells."""
    from sklearn.neighbors import NearestNeighbors

    cells, called, is_wrong = subject.cells, subject.calls, subject.is_wrong
    shown = cells.shown
    names = [cells.labels[i] for i in shown]
    types = sorted_types([*names, *called.types])
    index = {name: i for i, name in enumerate(types)}
    colours = figures.type_colours(types)
    values = cells.comparable[shown].astype(np.float32)
    k = min(_NEAREST + 1, len(shown))
    found = NearestNeighbors(n_neighbors=k).fit(values).kneighbors(values, return_distance=False)
    near = [[int(j) for j in row if j != i][:_NEAREST] for i, row in enumerate(found)]
    has_calls, sureness = bool(called.types), called.sureness
    return {
        "labelled": cells.is_labelled,
        "types": [
            {"name": name, "colour": colours[name], "shape": i % len(figures.MARKERS)}
            for i, name in enumerate(types)
        ],
        "blocks": cells.blocks,
        "sheet": {key: sheet[key] for key in ("side", "per_row", "per_sheet")},
        "tiles": tiles and {"per_row": tiles["per_row"]},
        "id": [cells.names[i] for i in shown],
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
        "near": near,
        "label": [index[name] for name in names],
        "wrong": is_wrong[shown].astype(int).tolist(),
        "call": [index[subject.names[i]] if has_calls else -1 for i in shown],
        "rival": [index[called.types[called.rival[i]]] if has_calls else -1 for i in shown],
        "p": [round(float(sureness[i]), 3) for i in shown],
        "strange": [called.strange[i] for i in shown],
        "why": [
            [(s, round(pull, 3), round(spread, 2), block)
             for s, pull, spread, block in called.reasons[i]]
            for i in shown
        ],
        **find_places(subject),
    }  # fmt: skip
