"""The page of smears: their counts, their cells in the order of doubt, their fields, to be checked
by a person. What is corrected stays in the browser until it is downloaded.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import numpy as np

from wbcprof._version import __version__
from wbcprof.analysis.counting import ratio_types
from wbcprof.analysis.figures import type_colours
from wbcprof.analysis.smears import (
    NamedCell,
    SmearCount,
    SmearResult,
    count_smears,
    strange_slides,
    warn_of_smears,
)
from wbcprof.checks import CUT, UNLIKE, UNSURE, Flag
from wbcprof.files import HTML, check_output, rounded
from wbcprof.model.model import Model
from wbcprof.report.html import as_json, render, write_html
from wbcprof.report.pictures import jpeg, sheet_of
from wbcprof.smear.cells import FieldCells
from wbcprof.smear.instrument import RED_CELL

_MOST_CELLS = 2000  # thumbnails
_THUMBNAILS = ((300, 96), (800, 72), (_MOST_CELLS, 56))  # up to so many cells, px
_QUALITY = 82
_PICTURES = ((24, 1400), (60, 1000), (math.inf, 800))  # up to so many fields, px of each
_BYTES = 6_500_000  # of pictures of fields, as text
_HELD_BYTES = 10 * _BYTES  # until it is known which fields are the most doubtful
_LEUKOCYTE = 14.0  # um across, about: of a cell that is marked as missed
_DROPPED = 50  # rows
_ASIDE = {UNSURE: -1, UNLIKE: -2, CUT: -3}


def write_smear(
    model: Model,
    images: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "White blood cells of a smear",
    note: str = "",
    strict: bool = False,
    n_threads: int | None = None,
    **options: Any,
) -> SmearResult:
    """Count smears and write a page about them, on which a person can check every cell.

    Parameters
    ----------
    model, images
        See `wbcprof.analysis.count_smears`.
    path : path
        HTML file to write; it is whole or absent.
    title, note : str
        Heading, and a line in a box below it.
    strict : bool
        ValueError, rather than a warning, where the cells of a slide are not from the world that
        the model knows.
    n_threads : int, optional
    **options
        Of `wbcprof.analysis.count_smears`.

    Returns
    -------
    SmearResult

    Raises
    ------
    ValueError
        See `wbcprof.analysis.count_smears`.

    Warns
    -----
    StrangeCellsWarning
        The cells of a slide are not from the world that the model knows.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes, make_smear
    >>> cells = make_leukocytes(20, size=120, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=0)
    >>> smear = make_smear(2, shares={"lymphocyte": 1})  # generated
    >>> with TemporaryDirectory() as home:
    ...     page = Path(home, "smear.html")
    ...     found = wbcprof.report.write_smear(
    ...         model, smear.images, page, pixel_size=smear.pixel_size, note="Generated fields"
    ...     )
    ...     print("Generated fields" in page.read_text("utf-8"), found.slides[0].n_fields)
    True 2
    """
    Flag().check("strict", strict)
    check_output(path, HTML)
    looks = _Looks()
    result = count_smears(model, images, n_threads=n_threads, see=looks.see, **options)
    warn_of_smears(result, strict=strict)
    write_html(path, _render(model, result, looks, title, note))
    return result


@dataclass(frozen=True)
class _FieldLook:
    uri: str
    width: int
    height: int
    scale: float  # px of the field for each of the picture
    left: int
    top: int
    image_id: str
    whole: tuple[int, int]
    cell: float  # px of the picture, of a cell that is marked as missed


class _Looks:
    """Pictures of fields and cells, taken as they pass."""

    def __init__(self) -> None:
        self._bytes = 0
        self.fields: dict[str, _FieldLook] = {}
        self.cells: dict[str, np.ndarray] = {}

    def see(self, seen: FieldCells) -> None:
        field = seen.field
        for cell in seen.cells:
            self.cells[cell.cell_id] = _resized(cell.crop, *2 * (_THUMBNAILS[0][1],))
        most = next(side for n, side in _PICTURES if len(self.fields) < n)
        height, width = field.pixels.shape[:2]
        scale = max(1.0, max(height, width) / most)
        size = max(1, round(width / scale)), max(1, round(height / scale))
        uri = ""
        if self._bytes < _HELD_BYTES:
            uri = jpeg(_resized(field.pixels, *size), _QUALITY)
            self._bytes += len(uri)
        diameter = seen.red_cell_diameter
        cell_side = _LEUKOCYTE / RED_CELL * diameter if diameter == diameter else min(size) / 8
        self.fields[field.field_id] = _FieldLook(
            uri, *size, scale, field.left, field.top, field.image_id, field.whole,
            cell_side / (scale if diameter == diameter else 1.0),
        )  # fmt: skip


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    picture = Image.fromarray(pixels).resize(
        (width, height), Image.Resampling.BILINEAR, reducing_gap=2
    )
    return np.asarray(picture)


def _render(model: Model, result: SmearResult, looks: _Looks, title: str, note: str) -> str:
    most_doubtful = sorted(range(len(result.cells)), key=lambda i: -result.cells[i].doubt)
    shown = sorted(most_doubtful[:_MOST_CELLS])
    side = next(px for n, px in _THUMBNAILS if len(shown) <= n)
    thumbnails = [looks.cells[result.cells[i].cell.cell_id] for i in shown]
    sheet = sheet_of([_resized(look, side, side) for look in thumbnails], _QUALITY)
    pictured = _pictured(result, looks)
    n_pictures = len(pictured)
    fields_note = "Every field with the cells that were found."
    if n_pictures < len(result.fields):
        fields_note += (
            f" Of {len(result.fields):,} fields, the pictures of {n_pictures:,} are here, those "
            "with the most doubtful cells, to keep the page small."
        )
    learnt = model.provenance.get("n_images", "an unknown number of")
    return render(
        "smear.html",
        ("report.css", "smear.css"),
        ("common.js", "smear.js"),
        title=title,
        note=note,
        summary=(
            f"{len(result.cells):,} leukocytes in {_seen_in(result)} of "
            f"{_counted(len(result.slides), 'slide')}. Made by wbcprof {__version__} on "
            f"{datetime.now(UTC):%Y-%m-%d}, with a model learnt from {learnt} images."
        ),
        warnings=_warnings(result),
        slides=[_slide_rows(slide) for slide in result.slides],
        confidence=f"{result.confidence:.0%}",
        sheet=sheet,
        data=as_json(_data(result, looks, shown, sheet, pictured)),
        fields_note=fields_note,
        dropped=[(lost.image_id, lost.reason) for lost in result.dropped[:_DROPPED]],
        dropped_note=f"{len(result.dropped):,} in all." if len(result.dropped) > _DROPPED else "",
        methods=_methods(model, result),
    )


def _pictured(result: SmearResult, looks: _Looks) -> set[str]:
    """Fields whose pictures fit into the page, those with the most doubtful cells first."""
    doubt: defaultdict[str, float] = defaultdict(float)
    for named in result.cells:
        doubt[named.cell.cell_id.rpartition("#")[0]] += named.doubt
    pictured, left = set(), _BYTES
    for field in sorted(result.fields, key=lambda field: -doubt[field.field_id]):
        size = len(looks.fields[field.field_id].uri)
        if 0 < size <= left:
            pictured.add(field.field_id)
            left -= size
    return pictured


def _warnings(result: SmearResult) -> list[str]:
    lines = [f"{sentence}." for sentence in strange_slides(result)]
    lines += [f"{slide.slide}: {note}." for slide in result.slides for note in slide.notes]
    if result.n_adapted:
        lines.append(
            f"The model was adapted to the {result.n_adapted:,} cells found here: what it mistakes "
            "among them is not known."
        )
    if result.blind:
        lines.append(f"Strange cells are not set aside: {result.blind}.")
    noted = [field for field in result.fields if field.notes]
    if noted:
        first = noted[0]
        lines.append(
            f"{_counted(len(noted), 'field')} unlike the others, first {first.field_id}: "
            f"{'; '.join(first.notes)}."
        )
    if result.dropped:
        lines.append(
            f"{_counted(len(result.dropped), 'field or cell', 'fields or cells')} left out, "
            "listed below."
        )
    return lines


def _slide_rows(slide: SmearCount) -> dict[str, Any]:
    """What is there without a script."""
    rows = [
        {
            "type": name,
            "count": int(slide.counts[i]),
            "share": _percent(slide.share[i]),
            "limits": f"{_percent(slide.low[i])} to {_percent(slide.high[i])}",
        }
        for i, name in enumerate(slide.types)
    ]
    return {"name": slide.slide, "rows": rows}


def _data(
    result: SmearResult,
    looks: _Looks,
    shown: list[int],
    sheet: dict[str, Any],
    pictured: set[str],
) -> dict[str, Any]:
    """What the script reads."""
    colours = type_colours(result.types)
    types = {name: i for i, name in enumerate(result.types)}
    fields = {field.field_id: i for i, field in enumerate(result.fields)}
    slides = {slide.slide: i for i, slide in enumerate(result.slides)}
    own = [looks.fields[field.field_id] for field in result.fields]
    cells = result.cells
    neutrophils, lymphocytes = ratio_types(result.types)
    thumb = {cell: place for place, cell in enumerate(shown)}
    data = {
        "confidence": result.confidence,
        "precision": result.precision,
        "types": [{"name": name, "colour": colours[name]} for name in result.types],
        "neutrophils": [types[name] for name in neutrophils],
        "lymphocytes": [types[name] for name in lymphocytes],
        "slides": [_slide_data(slide) for slide in result.slides],
        "sheet": {key: sheet[key] for key in ("side", "per_row", "per_sheet")},
        "fields": {
            "id": list(fields),
            "slide": [slides[field.slide] for field in result.fields],
            "uri": [
                look.uri if name in pictured else "" for name, look in zip(fields, own, strict=True)
            ],
            "width": [look.width for look in own],
            "height": [look.height for look in own],
            "scale": [round(look.scale, 4) for look in own],
            "offset": [[look.left, look.top] for look in own],
            "image": [look.image_id for look in own],
            "whole": [list(look.whole) for look in own],
            "cell": [round(look.cell, 1) for look in own],
            "notes": ["; ".join(field.notes) for field in result.fields],
        },
        "cells": {
            "id": [named.cell.cell_id for named in cells],
            "field": [fields[named.cell.cell_id.rpartition("#")[0]] for named in cells],
            "at": [
                [round(cell.x, 1), round(cell.y, 1), rounded(cell.nucleus_px, 2)]
                for cell in (named.cell for named in cells)
            ],
            "box": [_box(named, looks) for named in cells],
            "thumb": [thumb.get(i, -1) for i in range(len(cells))],
            "given": [int(named.cell.label is not None) for named in cells],
            "call": [_code(named, types) for named in cells],
            "type": [types[named.type] for named in cells],
            "p": [rounded(max(named.probabilities), 3) for named in cells],
            "doubt": [round(named.doubt, 4) for named in cells],
            "novelty": [rounded(named.novelty_p, 4) for named in cells],
            "diameter": [rounded(named.cell.diameter, 2) for named in cells],
            "flags": [", ".join(named.flags) for named in cells],
        },
    }
    content = repr((data["cells"], data["slides"])).encode()
    data["key"] = f"wbcprof-{blake2b(content, digest_size=8).hexdigest()}"
    return data


def _slide_data(slide: SmearCount) -> dict[str, Any]:
    corrected = slide.corrected
    few, low, high = slide.per_field
    note = f"Not corrected for what the classifier mistakes: {slide.why_not_corrected}."
    if corrected is not None:
        note = (
            "Corrected for what the classifier mistakes, as cells show that it was not trained on; "
            "limits by bootstrap, over the cells of the slide and over those."
        )
        if not slide.check.familiar:
            note += " These cells are unlike those: other ones may be mistaken here."
    return {
        "name": slide.slide,
        "unit": slide.unit,
        "n_fields": slide.n_fields,
        "per_field": f"{few:.2f} ({low:.2f} to {high:.2f})",
        "red_cells": _plain(slide.red_cells_per_field),
        "corrected_note": note,
        "corrected": None
        if corrected is None
        else [
            [round(float(v), 5) for v in row]
            for row in zip(corrected.share, corrected.low, corrected.high, strict=True)
        ],
    }


def _code(named: NamedCell, types: dict[str, int]) -> int:
    return _ASIDE[named.call] if named.call in _ASIDE else types[named.call]


def _box(named: NamedCell, looks: _Looks) -> list[float]:
    """In pixels of the picture."""
    cell = named.cell
    look = looks.fields[cell.cell_id.rpartition("#")[0]]
    left, right = ((x - look.left) / look.scale for x in (cell.left, cell.right))
    top, bottom = ((y - look.top) / look.scale for y in (cell.top, cell.bottom))
    return [round(value, 1) for value in (left, top, right, bottom)]


def _methods(model: Model, result: SmearResult) -> list[str]:
    confusion = None if model.classifier is None else model.classifier.confusion
    n_out = 0 if confusion is None else int(confusion.sum())
    diameters = [f.red_cell_diameter for f in result.fields if math.isfinite(f.red_cell_diameter)]
    lines = [
        "Leukocytes are found by their nuclei, which are denser than red cells; sizes are told in "
        "red cells"
        + (
            f", here {_range(min(diameters), max(diameters))} px across. "
            if diameters
            else ", which could not be measured here. "
        )
        + "Cells whose nucleus the edge of an image cuts are set aside, and so are those that are "
        f"unlike any type or between types; {result.false_alarms:.0%} of cells of known types are "
        "so by chance.",
        "Limits of shares are exact binomial ones (Clopper and Pearson), as in R\u00fcmke's table: "
        "how far the share of the blood may lie from that of the cells counted, were all named "
        "rightly. Limits of leukocytes for each field are those of a Poisson distribution. Those "
        "of the ratio are those of the neutrophils' share of both.",
        "Corrected shares are the likeliest ones, given how the classifier names cells that it was "
        f"not trained on ({n_out:,} cells); their limits come from 1,000 resamples of the cells "
        "counted and of these."
        if n_out
        else "Shares are not corrected for what the classifier mistakes, which the model does not "
        "say.",
        f"Still needed: cells to be counted until the limits are {100 * result.precision:g} "
        "percentage points on either side, were the share to stay what it is.",
        "Red cells are counted by the area they cover; where they lie on one another, there are "
        "more.",
        "This is a count of what was photographed, made for research; it is no medical device.",
    ]
    return lines


def _seen_in(result: SmearResult) -> str:
    n_tiles = sum(field.is_tile for field in result.fields)
    parts = [_counted(n_tiles, "tile")] if n_tiles else []
    if n_tiles < len(result.fields):
        parts.insert(0, _counted(len(result.fields) - n_tiles, "field"))
    return " and ".join(parts) or "no field"


def _counted(n: int, what: str, many: str = "") -> str:
    return f"{n:,} {what if n == 1 else many or what + 's'}"


def _range(low: float, high: float) -> str:
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share == share else "\N{EN DASH}"


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == value else "unknown"
