"""Smears to differential counts: fields -> leukocytes -> profiles -> types -> counts of each slide.

Counted is what has a type. Cells that are unlike any type or between types, and cells whose nucleus
the edge of an image cuts, are set aside and told apart; how many there are is part of the result.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.analysis.correction import CorrectedCount, NotCorrectable, correct_count
from wbcprof.analysis.counting import (
    cells_needed,
    exact_interval,
    poisson_interval,
    ratio_types,
)
from wbcprof.analysis.novelty import (
    RATE,
    SetCheck,
    StrangeCellsWarning,
    check_set,
    name_cells,
    why_blind,
)
from wbcprof.analysis.quality import flag_images
from wbcprof.checks import CALLS, CUT, UNLIKE, UNSURE, Flag, Real, as_known
from wbcprof.files import rounded, write_rows
from wbcprof.images.boxes import read_boxes
from wbcprof.images.fields import open_fields
from wbcprof.images.source import SkippedImage
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles
from wbcprof.smear.canonical import CanonicalForm
from wbcprof.smear.cells import (
    CELL_COLUMNS,
    FieldCells,
    Ruler,
    SmearCell,
    SmearWarning,
    cell_row,
    find_cells,
    measure_slides,
)
from wbcprof.smear.measures import MEASURES
from wbcprof.threads import resolve_threads

if TYPE_CHECKING:
    from pandas import DataFrame

PRECISION = Real(least=0.001, below=0.5)
"""What the half width of an interval may be, that cells are still needed for."""

LEAST_ADAPTED = 20
"""Cells that a model can be adapted to."""

_ANOTHER_SCALE = 1.25  # ratio of red cells' diameters
_MOST_ASIDE = 0.5  # of the cells, that are set aside without a warning


@dataclass(frozen=True, repr=False)
class NamedCell(Shown):
    """A leukocyte of a smear with its type.

    Attributes
    ----------
    cell : SmearCell
        Without its crop.
    type : str
        The most probable one.
    call : str
        The type, "unsure", "unlike", or "cut".
    novelty_p : float
        Share of cells of known types that are as strange; NaN where it cannot be known.
    probabilities : tuple of float
        Of each type; NaN of a cell that is "unlike".
    flags : tuple of str
        See `wbcprof.analysis.flag_images`.
    """

    cell: SmearCell
    type: str
    call: str
    novelty_p: float
    probabilities: tuple[float, ...]
    flags: tuple[str, ...]

    @property
    def doubt(self) -> float:
        """How much a person should look at it, 0 to 1."""
        p = max(self.probabilities)
        return 1.0 if self.call in (UNSURE, UNLIKE) or math.isnan(p) else 1.0 - p


@dataclass(frozen=True, repr=False)
class SeenField(Shown):
    """A field, or a tile, that was looked at, its cells, and what is strange about it."""

    field_id: str
    slide: str
    n_cells: int
    n_red_cells: float
    red_cell_diameter: float
    is_tile: bool
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class SmearCount(Shown):
    """Differential count of a slide.

    Attributes
    ----------
    slide : str
    types : list of str
        That the model knows, and that boxes state.
    counts : ndarray of shape (n_types,), int64
    share, low, high : ndarray of shape (n_types,), float64
        Of the cells with a type, with exact binomial limits; NaN without any.
    needed : ndarray of shape (n_types,), int64
        Cells still to be counted until the share is known to the precision asked for.
    n_found, n_unsure, n_unlike, n_cut : int
        Cells found, and those of them that are set aside.
    n_fields : int
    unit : {"field", "tile"}
        What a slide was seen in: photographs, or tiles of a large image.
    per_field : tuple of 3 float
        Leukocytes for each of these, with exact Poisson limits.
    red_cells_per_field : float
        By the area they cover; NaN where it is not known.
    nlr : tuple of 3 float
        Neutrophil-to-lymphocyte ratio with its exact limits.
    corrected : CorrectedCount or None
        For what the classifier mistakes, as cross-validation shows it.
    why_not_corrected : str
        Empty where it could be.
    check : SetCheck
        Whether the cells come from the world that the model knows.
    notes : tuple of str
        What is strange about the slide.
    confidence : float
    """

    slide: str
    types: list[str]
    counts: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    needed: np.ndarray
    n_found: int
    n_unsure: int
    n_unlike: int
    n_cut: int
    n_fields: int
    unit: str
    per_field: tuple[float, float, float]
    red_cells_per_field: float
    nlr: tuple[float, float, float]
    corrected: CorrectedCount | None
    why_not_corrected: str
    check: SetCheck
    notes: tuple[str, ...]
    confidence: float

    def _told(self) -> dict[str, Any]:
        return {
            "slide": self.slide,
            "leukocytes": f"{self.n_found} in {self.n_fields} {self.unit}s",
            "counts": dict(zip(self.types, self.counts.tolist(), strict=True)),
            "set aside": f"{self.n_unsure} unsure, {self.n_unlike} unlike, {self.n_cut} cut",
            "neutrophils / lymphocytes": None if math.isnan(self.nlr[0]) else self.nlr[0],
            "notes": self.notes or None,
        }


@dataclass(frozen=True, eq=False, repr=False)
class SmearResult(Shown):
    """Result of `count_smears`.

    Attributes
    ----------
    types : list of str
    cells : list of NamedCell
    fields : list of SeenField
    slides : list of SmearCount
    dropped : list of SkippedImage
        Fields, slides and cells that were left out, and why.
    profiles : Profiles
        Of the cells, in their order.
    check : SetCheck
        Whether all cells together come from the world that the model knows.
    blind : str
        Why no cell can be called strange; empty where it can.
    n_adapted : int
        Cells that the model was adapted to, 0 where it was not.
    precision, confidence, false_alarms : float
    """

    types: list[str]
    cells: list[NamedCell]
    fields: list[SeenField]
    slides: list[SmearCount]
    dropped: list[SkippedImage]
    profiles: Profiles
    check: SetCheck
    blind: str
    n_adapted: int
    precision: float
    confidence: float
    false_alarms: float

    def _told(self) -> dict[str, Any]:
        return {
            "slides": [slide.slide for slide in self.slides],
            "fields": len(self.fields),
            "cells": len(self.cells),
            "calls": dict(Counter(cell.call for cell in self.cells).most_common()),
            "dropped": len(self.dropped) or None,
            "cells adapted to": self.n_adapted or None,
        }

    def to_pandas(self) -> DataFrame:
        """A `pandas.DataFrame` of the slides, a row for each slide and type."""
        import pandas as pd

        return pd.DataFrame(list(self._count_rows()))

    def to_text(self) -> str:
        """The counts as a table for people."""
        lines = []
        for slide in self.slides:
            total = int(slide.counts.sum())
            lines.append(
                f"{slide.slide}: {slide.n_found} leukocytes in {slide.n_fields} {slide.unit}"
                f"{'' if slide.n_fields == 1 else 's'}, {total} "
                f"with a type ({slide.n_unsure} unsure, {slide.n_unlike} unlike, {slide.n_cut} cut)"
            )
            width = max(map(len, slide.types))
            for i, name in enumerate(slide.types):
                if total:
                    limits = f"{slide.low[i]:6.1%} to {slide.high[i]:6.1%}"
                    lines.append(
                        f"  {name:<{width}} {slide.counts[i]:5d} {slide.share[i]:6.1%}   {limits}"
                    )
            ratio, low, high = slide.nlr
            if ratio == ratio:
                lines.append(f"  neutrophils / lymphocytes {ratio:.2f} ({low:.2f} to {high:.2f})")
        return "\n".join(lines)

    def write_counts(self, path: str | os.PathLike[str]) -> None:
        """Write the rows of `to_pandas` as the suffix says, one of `wbcprof.files.TABLES`;
        the file is whole or absent."""
        rows = list(self._count_rows())
        write_rows(path, list(rows[0]), rows)

    def write_cells(self, path: str | os.PathLike[str]) -> None:
        """Write a row for each cell as CSV: where it is, how large, its type; `read_boxes` reads
        it."""
        columns = (*CELL_COLUMNS, "type", "call", "novelty_p", "doubt")
        write_rows(path, columns, map(_cell_row, self.cells))

    def _count_rows(self) -> Iterator[dict[str, Any]]:
        for slide in self.slides:
            corrected = slide.corrected
            for i, name in enumerate(slide.types):
                row = {
                    "slide": slide.slide,
                    "type": name,
                    "count": int(slide.counts[i]),
                    "share": rounded(slide.share[i], 5),
                    "low": rounded(slide.low[i], 5),
                    "high": rounded(slide.high[i], 5),
                }
                for key in ("share", "low", "high"):
                    value = math.nan if corrected is None else getattr(corrected, key)[i]
                    row[f"corrected_{key}"] = rounded(value, 5)
                row |= {
                    "still_needed": int(slide.needed[i]),
                    "counted": int(slide.counts.sum()),
                    "unsure": slide.n_unsure,
                    "unlike": slide.n_unlike,
                    "cut": slide.n_cut,
                    "fields": slide.n_fields,
                    "seen_in": f"{slide.unit}s",
                    "leukocytes_per_field": rounded(slide.per_field[0], 3),
                    "red_cells_per_field": rounded(slide.red_cells_per_field, 1),
                }
                for key, value in zip(("nlr", "nlr_low", "nlr_high"), slide.nlr, strict=True):
                    row[key] = None if math.isnan(value) else round(value, 3)  # perhaps infinite
                yield row


def count_smears(
    model: Model,
    images: Any,
    *,
    slides: Any = None,
    pixel_size: float | None = None,
    boxes: Any = None,
    adapt: bool = False,
    precision: float = 0.05,
    confidence: float = 0.95,
    false_alarms: float = 0.01,
    n_threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    see: Callable[[FieldCells], None] | None = None,
) -> SmearResult:
    """Find, profile and name the leukocytes of fields, and count them slide by slide.

    Parameters
    ----------
    model : Model
        With a classifier.
    images, slides
        See `wbcprof.images.open_fields`.
    pixel_size : float, optional
        Micrometres for each pixel; by default as files state it, else by red cells.
    boxes : path, sequence of Box, or mapping of str to sequence of Box, optional
        Leukocytes, in place of those that would be found; see `wbcprof.images.read_boxes`. Types
        that they state are taken as they are; "unsure", "unlike" and "cut" are set aside.
    adapt : bool
        Adapt the model to the cells that are found, twenty or more, as `wbcprof.Model.adapt` does,
        before they are named; to types that boxes state too. What it mistakes there is not known,
        so that shares are not corrected.
    precision : float
        Half the width of the interval of each share, that cells are still needed for.
    confidence : float
        Of all intervals.
    false_alarms : float
        See `wbcprof.analysis.name_cells`.
    n_threads : int, optional
    progress : callable, optional
        Called with (fields done, fields offered or None).
    see : callable, optional
        Gets every field with its cells, as it passes.

    Returns
    -------
    SmearResult

    Raises
    ------
    ValueError
        The model has no classifier, no field could be read, no slide could be measured, or a
        parameter is out of range.

    Warns
    -----
    SmearWarning
        Fields are not what they are taken for.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import count_smears
    >>> from wbcprof.datasets import make_leukocytes, make_smear
    >>> cells = make_leukocytes(20, size=120, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=0)
    >>> smear = make_smear(3, shares={"lymphocyte": 1})  # generated
    >>> found = count_smears(model, smear.images, pixel_size=smear.pixel_size)
    >>> found.slides[0].n_fields, found.types
    (3, ['lymphocyte', 'neutrophil'])
    >>> "in 3 fields" in found.to_text(), all(0 <= cell.doubt <= 1 for cell in found.cells)
    (True, True)
    >>> found.to_pandas()["type"].tolist()
    ['lymphocyte', 'neutrophil']

    Tables of the counts and of every cell, which `wbcprof.images.read_boxes` reads:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     found.write_counts(Path(home, "counts.csv"))
    ...     found.write_cells(Path(home, "cells.csv"))
    ...     print(sorted(path.name for path in Path(home).iterdir()))
    ['cells.csv', 'counts.csv']
    """
    PRECISION.check("precision", precision)
    Real(above=0, below=1).check("confidence", confidence)
    RATE.check("false_alarms", false_alarms)
    Flag().check("adapt", adapt)
    if model.classifier is None:
        raise ValueError(
            "the model holds no classifier, so no type can be counted; fit it on labelled images"
        )
    types = [str(name) for name in model.classifier.classes_.tolist()]
    threads = resolve_threads(n_threads)
    source = open_fields(images, slides=slides)
    if boxes is not None:
        boxes = read_boxes(boxes, source)
    rulers = measure_slides(source, pixel_size, needed=boxes is None)
    cells: list[SmearCell] = []
    fields: list[SeenField] = []
    dropped: list[SkippedImage] = []

    def crops() -> Iterator[np.ndarray]:
        for seen in find_cells(source, rulers, boxes, threads):
            if seen.refused:
                dropped.append(SkippedImage(seen.field.field_id, seen.refused))
                continue
            if see is not None:
                see(seen)
            fields.append(_seen(seen))
            for cell in seen.cells:
                cells.append(replace(cell, crop=_NO_CROP))
                yield cell.crop
            if progress is not None:
                progress(len(fields) + len(dropped), source.n_hint)

    profiles = _profile(model, crops(), threads)
    dropped += source.skipped
    kept = [int(image_id.rsplit("_", 1)[1]) for image_id in profiles.ids]
    lost = sorted(set(range(len(cells))) - set(kept))
    dropped += [SkippedImage(cells[i].cell_id, "the cell cannot be profiled") for i in lost]
    cells = [cells[i] for i in kept]
    profiles = replace(profiles, ids=[cell.cell_id for cell in cells])
    cells = [replace(cell, label=as_known(cell.label, (*types, *CALLS))) for cell in cells]
    if adapt:
        if len(cells) < LEAST_ADAPTED:
            raise ValueError(
                f"a model is adapted to {LEAST_ADAPTED} cells or more, and {len(cells)} were "
                "found; give more fields, or leave out adapt"
            )
        labels = [cell.label if cell.label in types else None for cell in cells]
        model = model.adapted_to(profiles, labels)
    named = _name(model, cells, profiles, false_alarms)
    types += sorted({n.call for n in named} - {*types, *CALLS})
    whole = [i for i, one in enumerate(named) if one.call != CUT]
    check = check_set(model, profiles.at(whole), false_alarms=false_alarms)
    counts = []
    for slide in dict.fromkeys(field.slide for field in fields):
        ruler = rulers[slide]
        of_scale = _of_scale(model, ruler)
        for note in of_scale:
            warnings.warn(f"slide {slide!r}: {note}", SmearWarning, stacklevel=2)
        counts.append(
            _count(
                model,
                slide,
                [i for i, one in enumerate(named) if one.cell.slide == slide],
                named,
                profiles,
                [field for field in fields if field.slide == slide],
                types,
                (*(ruler.notes if isinstance(ruler, Ruler) else ()), *of_scale),
                adapt,
                (precision, confidence, false_alarms),
            )
        )
    assert model.classifier is not None
    blind = why_blind(model.classifier.memory_, profiles, false_alarms) if cells else ""
    return SmearResult(
        types, named, fields, counts, dropped, profiles, check, blind, len(cells) if adapt else 0,
        precision, confidence, false_alarms,
    )  # fmt: skip


def warn_of_smears(result: SmearResult, strict: bool = False) -> None:
    """Say in a sentence for each slide where its cells are not from the world that the model knows;
    an error where `strict`."""
    sentences = strange_slides(result)
    if sentences and strict:
        raise ValueError(sentences[0])
    for sentence in sentences:
        warnings.warn(sentence, StrangeCellsWarning, stacklevel=3)


def strange_slides(result: SmearResult) -> list[str]:
    """A sentence for each slide whose cells are strange, and for all together."""
    sentences = []
    if not result.check.familiar and len(result.slides) > 1:
        sentences.append(f"all slides together: {result.check.sentence}")
    for slide in result.slides:
        n_aside = slide.n_unsure + slide.n_unlike
        if not slide.check.familiar:
            sentences.append(f"{slide.slide}: {slide.check.sentence}")
        elif n_aside > max(2, _MOST_ASIDE * slide.n_found) and len(result.slides) == 1:
            sentences.append(
                f"{slide.slide}: {n_aside} of {slide.n_found} cells are none of the types that the "
                "model knows, or between them; look at these first, or adapt the model"
            )
    return sentences


def _cell_row(named: NamedCell) -> dict[str, Any]:
    return {
        **cell_row(named.cell),
        "flags": "; ".join(named.flags) or None,
        "type": named.type,
        "call": named.call,
        "novelty_p": rounded(named.novelty_p, 4),
        "doubt": rounded(named.doubt, 4),
    }


_NO_CROP = np.empty((0, 0, 3), np.uint8)


def _of_scale(model: Model, ruler: Ruler | str) -> list[str]:
    """What there is to say of the scale, where the model takes cells at the one they have."""
    if isinstance(model.normaliser, CanonicalForm):
        return []
    learnt = None if model.instrument is None else model.instrument.red_cell_diameter
    if learnt is None or isinstance(ruler, str):
        return [
            "the model reads cells at the scale they have, and whether it is that of those learnt "
            "from cannot be told"
        ]
    if 1 / _ANOTHER_SCALE < ruler.diameter / learnt < _ANOTHER_SCALE:
        return []
    return [
        f"the model reads cells at the scale they have: red cells are {ruler.diameter:.0f} px "
        f"across here, {learnt:.0f} px where it was learnt; its types mean nothing here"
    ]


def _seen(seen: FieldCells) -> SeenField:
    return SeenField(
        seen.field.field_id,
        seen.field.slide,
        len(seen.cells),
        seen.n_red_cells,
        seen.red_cell_diameter,
        seen.field.field_id != seen.field.image_id,
        tuple(seen.notes),
    )


def _profile(model: Model, crops: Iterator[np.ndarray], n_threads: int) -> Profiles:
    """Profiles of crops, ids by their places; of none where there are none."""
    first = next(crops, None)
    if first is None:
        n = len(model.feature_names)
        empty = np.empty((0, n), np.float32), np.empty((0, len(MEASURES)), np.float32)
        return Profiles(empty[0], model.feature_names, [], None, {}, empty[1])
    return model.profile(chain([first], crops), n_threads=n_threads)


def _name(
    model: Model, cells: list[SmearCell], profiles: Profiles, false_alarms: float
) -> list[NamedCell]:
    if not cells:
        return []
    found = name_cells(model, profiles, false_alarms=false_alarms)
    flags = flag_images(model, profiles)
    named = []
    for i, cell in enumerate(cells):
        call = str(found.calls[i])
        if "cut nucleus" in cell.flags:
            call = CUT
        if cell.label is not None:
            call = cell.label
        named.append(
            NamedCell(
                cell,
                str(found.named[i]),
                call,
                float(found.novelty_p[i]),
                tuple(found.probabilities[i].tolist()),
                tuple(dict.fromkeys([*cell.flags, *flags[i]])),
            )
        )
    return named


def _count(
    model: Model,
    slide: str,
    rows: list[int],
    named: list[NamedCell],
    profiles: Profiles,
    seen: list[SeenField],
    types: list[str],
    notes: tuple[str, ...],
    is_adapted: bool,
    settings: tuple[float, float, float],
) -> SmearCount:
    precision, confidence, false_alarms = settings
    own = [named[i] for i in rows]
    calls = [one.call for one in own]
    counts = np.array([calls.count(name) for name in types], np.int64)
    total = int(counts.sum())
    low, high = exact_interval(counts, total, confidence)
    few, many = poisson_interval(len(own), confidence)
    red = [field.n_red_cells for field in seen if field.n_red_cells == field.n_red_cells]
    whole = [i for i in rows if named[i].call != CUT]
    check = check_set(model, profiles.at(whole), false_alarms=false_alarms)
    is_lost = is_adapted or int(counts.sum()) < (1 - _MOST_ASIDE) * len(whole)
    corrected, why = _correct(model, own, counts, types, confidence, is_lost)
    with np.errstate(invalid="ignore"):
        share = counts / np.float64(total)
    return SmearCount(
        slide=slide,
        types=types,
        counts=counts,
        share=share,
        low=low,
        high=high,
        needed=cells_needed(counts, total, precision, confidence),
        n_found=len(own),
        n_unsure=calls.count(UNSURE),
        n_unlike=calls.count(UNLIKE),
        n_cut=calls.count(CUT),
        n_fields=len(seen),
        unit="tile" if any(field.is_tile for field in seen) else "field",
        per_field=(len(own) / len(seen), float(few) / len(seen), float(many) / len(seen)),
        red_cells_per_field=float(np.mean(red)) if red else math.nan,
        nlr=_nlr(counts, types, confidence),
        corrected=corrected,
        why_not_corrected=why,
        check=check,
        notes=notes,
        confidence=confidence,
    )


def _nlr(counts: np.ndarray, types: list[str], confidence: float) -> tuple[float, float, float]:
    n, m = (sum(int(counts[types.index(name)]) for name in chosen) for chosen in ratio_types(types))
    low, high = exact_interval(n, n + m, confidence)
    return _odds(n, m), _odds(float(low), 1 - float(low)), _odds(float(high), 1 - float(high))


def _odds(part: float, rest: float) -> float:
    return part / rest if rest else math.inf if part else math.nan


def _correct(
    model: Model,
    own: list[NamedCell],
    counts: np.ndarray,
    types: list[str],
    confidence: float,
    is_lost: bool,
) -> tuple[CorrectedCount | None, str]:
    assert model.classifier is not None
    confusion = model.classifier.confusion
    if not counts.any():
        return None, "no cell has a type"
    if any(one.cell.label is not None for one in own):
        return None, "types were given, not called"
    if is_lost:
        return None, (
            "cells of this laboratory are unlike those that the model was learnt from, and what it "
            "mistakes among them is not known; check them, or learn from labels of them"
        )
    if confusion is None:
        return None, (
            "the model does not say what it mistakes, since it is older or was learnt from too few "
            "cells; learn its classifier again (wbcprof fit)"
        )
    n = len(confusion)
    try:
        return correct_count(counts[:n], confusion, types[:n], confidence=confidence), ""
    except NotCorrectable as error:
        return None, str(error)
