"""Fields to cells: the leukocytes of fields found, cut out and measured.

    fields -> a ruler for each slide, its red cells -> leukocytes -> crops, where and how large

A ruler is measured in a few fields of a slide; every field is then held against it by how much
edge there is for what is stained, and measured by itself where that does not fit, since
magnifications get mixed. Boxes and masks that people have take the place of what would be found.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from wbcprof._shown import Shown, shown
from wbcprof.files import rounded
from wbcprof.images.boxes import Box
from wbcprof.images.fields import Field, FieldSource
from wbcprof.smear.acquisition import measure, pool
from wbcprof.smear.canonical import NUCLEUS, find_leukocyte
from wbcprof.smear.finder import FoundLeukocyte, Outlines, outline_leukocytes
from wbcprof.smear.instrument import RED_CELL, RULE, SOFT, AcquisitionWarning
from wbcprof.smear.measures import MEASURES, OTHERS, examine

__all__ = ["FieldCells", "Ruler", "SmearCell", "SmearWarning", "cut_out", "measure_slides"]

FLAGS = ("cut cell", "cut nucleus", "several cells", "no cell")
"""What may be wrong with a cell: the edge of its image cuts it, or its nucleus even; others are as
near; it has no nucleus that can be told."""

LEAST_DIAMETER = 12.0
"""px of a red cell: of a leukocyte at less than that, too little is seen to name it."""

_SAMPLE = 12  # fields of a slide, in which its red cells are measured, at most
_FEWEST_FIELDS, _ENOUGH = 3, 30  # fields and red cells that are enough
_ANOTHER = 1.4  # ratio of diameters: another magnification
_EDGY = 1.5  # ratio of stained area to its edge, beyond which a field is measured by itself
_FEW = 5  # red cells, by which a field has a diameter of its own
_SIDE = 5.0  # red cells across a crop, as images of single leukocytes are
_AROUND = 1.25  # boxes across a crop, at least
_CROP = 8.0  # red cells across: an image of one cell is smaller
_MIDDLE = 0.12  # of the shorter side, from the middle to such a cell
_MOST_CROPS = 0.7  # of the images of a slide
_CUT = 0.6  # sizes of the nucleus from its centre to the edge; that of a disc touches it at 0.56
_MEASURED = 2048  # px of a field that are measured, at most
_SEAM = 0.25  # of the box: centres of a cell that two tiles see are no further apart
_SQUARE = 512  # px, of a grid in which cells on seams are looked up; more than so far
_LEAST_SIDE = 2.0  # red cells: what is smaller shows no leukocyte whole
_GREY_SAMPLE = 200  # px along the shorter side, that are looked at
_BLANK = 30  # grey levels; what varies less shows nothing, in whichever colour
_SINGLE = 0.8  # of the area of red cells, that is seen of them, since they overlap


class SmearWarning(UserWarning):
    """Fields are not what they are taken for."""


@dataclass(frozen=True, repr=False)
class Ruler(Shown):
    """How large red cells are on a slide.

    Attributes
    ----------
    diameter : float
        px.
    how : {"given", "file", "red cells", "other slides"}
        By what it is known.
    edginess : float or None
        Stained area over its edge in the fields measured, median, in diameters.
    mixed : bool
        Whether fields of several magnifications were among those measured.
    notes : tuple of str
        What is strange about the slide.
    """

    diameter: float
    how: str
    edginess: float | None = None
    mixed: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SmearCell(Shown):
    """A leukocyte of a field.

    Attributes
    ----------
    cell_id : str
        Of the field, and its number there: ``"field.png#0001"``.
    slide, field : str
    x, y : float
        Centre of the nucleus in the whole image, px.
    left, top, right, bottom : float
        Box in the whole image, px.
    diameter, nucleus : float
        um: of a circle of the area of the cell; square root of the area of the nucleus. NaN where
        it is not known.
    nucleus_px : float
        The latter in px; NaN where no nucleus can be told.
    blur : float
        um, standard deviation; NaN where it is not known.
    flags : tuple of str
        Some of `FLAGS`.
    label : str or None
        Type, as boxes state it.
    crop : ndarray of shape (side, side, 3), uint8
        Centred; what lies beyond the image has the colour of its background.
    """

    cell_id: str
    slide: str
    field: str
    x: float
    y: float
    left: float
    top: float
    right: float
    bottom: float
    diameter: float
    nucleus: float
    nucleus_px: float
    blur: float
    flags: tuple[str, ...]
    label: str | None
    crop: np.ndarray


@shown
class FieldCells(NamedTuple):
    """A field, and its leukocytes.

    Attributes
    ----------
    field : Field
    cells : list of SmearCell
    red_cell_diameter : float
        px; NaN where it is not known.
    n_red_cells : float
        By the area that is stained; NaN where it is not known.
    notes : list of str
        What is strange about the field.
    refused : str
        Why no leukocytes were looked for; "" where they were.
    """

    field: Field
    cells: list[SmearCell]
    red_cell_diameter: float
    n_red_cells: float
    notes: list[str]
    refused: str = ""


def measure_slides(
    fields: FieldSource, pixel_size: float | None = None, *, needed: bool = True
) -> dict[str, Ruler | str]:
    """A ruler for each slide; where there can be none, why not.

    Parameters
    ----------
    fields : FieldSource
        Not an iterator that is read once.
    pixel_size : float, optional
        Micrometres for each pixel; by default as files state it, else by red cells.
    needed : bool
        Whether leukocytes are to be found by it.

    Raises
    ------
    ValueError
        No slide has a ruler, where one is needed.

    Warns
    -----
    AcquisitionWarning
        A pixel size contradicts the red cells.
    SmearWarning
        A slide has fields of several magnifications, or is measured by the others.

    Examples
    --------
    >>> from wbcprof.datasets import make_smear
    >>> from wbcprof.images import open_fields
    >>> from wbcprof.smear import measure_slides
    >>> smear = make_smear(3)  # generated
    >>> rulers = measure_slides(open_fields(smear.images))
    >>> 68 < rulers["all fields"].diameter < 82, rulers["all fields"].how
    (True, 'red cells')
    """
    pixel_size = RULE.check("pixel_size", pixel_size)
    known: dict[str, Ruler | str] = {}
    for slide in dict.fromkeys(fields.slides()):
        known[slide] = _ruler(fields.sample(_SAMPLE, slide=slide), pixel_size, needed)
    rulers = [ruler for ruler in known.values() if isinstance(ruler, Ruler)]
    if rulers:
        middle = float(np.median([ruler.diameter for ruler in rulers]))
        edgy = [ruler.edginess for ruler in rulers if ruler.edginess is not None]
        for slide in [slide for slide, ruler in known.items() if ruler == _UNKNOWN]:
            sample = fields.sample(_FEWEST_FIELDS, slide=slide)
            known[slide] = _borrowed(sample, middle, float(np.median(edgy)) if edgy else None)
    for slide, ruler in known.items():
        for note in ruler.notes if isinstance(ruler, Ruler) else ():
            kind = AcquisitionWarning if "pixel size" in note else SmearWarning
            warnings.warn(f"slide {slide!r}: {note}", kind, stacklevel=2)
    reasons = Counter(ruler for ruler in known.values() if isinstance(ruler, str))
    if needed and reasons.total() == len(known):
        if len(reasons) > 1:
            del reasons[_UNREAD]
        raise ValueError(reasons.most_common(1)[0][0])
    return known


def _borrowed(sample: Iterable[Field], diameter: float, edginess: float | None) -> Ruler | str:
    """A ruler by those of other slides, where it fits."""
    outlines = [outline_leukocytes(_middle(field), diameter) for field in sample]
    own = _usual_edginess(outlines, diameter)
    if own and edginess and not 1 / _EDGY < own / edginess < _EDGY:
        return (
            "its red cells cannot be measured, and are unlike those of the other slides: another "
            "magnification? Give it by itself, with the micrometres for each pixel (pixel_size)"
        )
    note = (
        "red cells cannot be measured; they are taken for as large as on the other slides, "
        f"{diameter:.0f} px"
    )
    return Ruler(diameter, "other slides", edginess, notes=(note,))


_UNREAD = "no field of it could be read"
_UNKNOWN = (
    "no red cells could be measured, by which leukocytes are found; give the micrometres for each "
    "pixel (pixel_size), or fields in which red cells lie apart, and 12 px across at least"
)


def _ruler(sample: Iterable[Field], given: float | None, needed: bool) -> Ruler | str:
    fields, parts = [], []
    for field in sample:
        fields.append(field)
        parts.append(measure(np.ascontiguousarray(_middle(field))))
        if len(parts) >= _FEWEST_FIELDS and sum(part.n_red_cells for part in parts) >= _ENOUGH:
            break
    if not fields:
        return _UNREAD
    notes = []
    found = pool(parts)
    seen = found.red_cell_diameter
    stated = {field.pixel_size for field in fields}
    size = given if given is not None else stated.pop() if len(stated) == 1 else None
    how = "given" if given is not None else "file"
    own = [part.red_cell_diameter or 0.0 for part in parts if part.n_red_cells >= _FEW]
    mixed = bool(own) and max(own) > _ANOTHER * min(own)
    if mixed:
        notes.append(
            f"fields of several magnifications: red cells are {min(own):.0f} to {max(own):.0f} px "
            "across; every field is measured by itself"
        )
        seen = seen or float(np.median(own))
    if size is not None:
        diameter = RED_CELL / size
        if seen is not None and not 1 / _ANOTHER < diameter / seen < _ANOTHER:
            notes.append(
                f"a pixel size of {size:.3g} um is {how.replace('file', 'stated in the files')}, "
                f"but red cells are {seen:.0f} px across, which makes {RED_CELL / seen:.2g} um; "
                "check it"
            )
    elif seen is not None:
        diameter, how = seen, "red cells"
    else:
        return _UNKNOWN
    if diameter < LEAST_DIAMETER:
        return (
            f"red cells are {diameter:.0f} px across, and leukocytes can be told from "
            f"{LEAST_DIAMETER:.0f} px on: photograph at a higher magnification, 20x or more"
        )
    blur = None if found.sharpness is None else found.sharpness * RED_CELL / diameter
    if blur is not None and blur > SOFT:
        notes.append(
            f"out of focus: the sharpest edges are blurred over {blur:.1f} um; types cannot be "
            "told well"
        )
    outlines = [outline_leukocytes(_middle(field), diameter) for field in fields]
    n_crops = sum(_is_crop(*pair, diameter) for pair in zip(fields, outlines, strict=True))
    if needed and n_crops >= max(_FEWEST_FIELDS, _MOST_CROPS * len(fields)):
        notes.append(
            f"images such as {fields[0].field_id!r} show one cell each, in their middle, as crops "
            "do; 'wbcprof classify' names the cells of such"
        )
    return Ruler(diameter, how, _usual_edginess(outlines, diameter), mixed, tuple(notes))


def _is_crop(field: Field, outlines: Outlines, diameter: float) -> bool:
    short = min(field.whole)
    if short > _CROP * diameter or not outlines.found:
        return False
    y, x = (side / 2 for side in field.whole)
    return min(math.hypot(one.y - y, one.x - x) for one in outlines.found) < _MIDDLE * short


def _middle(field: Field) -> np.ndarray:
    """A part of a large field that is enough to measure it."""
    height, width = field.pixels.shape[:2]
    top, left = (max(0, (side - _MEASURED) // 2) for side in (height, width))
    return field.pixels[top : top + _MEASURED, left : left + _MEASURED]


def _edginess(outlines: Outlines, diameter: float) -> float:
    """Area of what is stained over the length of its edge, in diameters; NaN where nothing is."""
    stained = outlines.stained
    inside = ndimage.binary_erosion(stained, border_value=1)
    edge = int(stained.sum()) - int(inside.sum())
    return float(stained.sum() * outlines.factor / (edge * diameter)) if edge else math.nan


def _usual_edginess(outlines: Iterable[Outlines], diameter: float) -> float | None:
    """Median over fields; None where nothing is stained."""
    known = [edge for one in outlines if (edge := _edginess(one, diameter)) == edge]
    return float(np.median(known)) if known else None


def cut_out(
    field: Field,
    ruler: Ruler | None,
    boxes: Sequence[Box] | None = None,
) -> FieldCells:
    """The leukocytes of a field.

    Those a little beyond the core of a tile are among them, since its neighbour may see their
    centres elsewhere; `find_cells` leaves out what both have.

    Parameters
    ----------
    field : Field
    ruler : Ruler or None
        Of its slide; None is unknown.
    boxes : sequence of Box, optional
        Leukocytes of the whole image, that take the place of those that would be found.

    Raises
    ------
    ValueError
        There is neither a ruler nor are there boxes.

    Examples
    --------
    >>> from wbcprof.datasets import make_smear
    >>> from wbcprof.images import open_fields
    >>> from wbcprof.smear import Ruler, cut_out
    >>> smear = make_smear(1, n_leukocytes=2)  # generated
    >>> (field,) = open_fields(smear.images)
    >>> made = cut_out(field, Ruler(75.0, "given"))
    >>> len(made.cells), made.cells[0].crop.shape
    (2, (375, 375, 3))
    """
    notes: list[str] = []
    if ruler is None:
        if boxes is None:
            raise ValueError("leukocytes are found by red cells, or given as boxes; got neither")
        diameter, outlines = math.nan, None
    else:
        diameter, outlines = _outlines(field, ruler, notes)
    if boxes is not None:
        found = [_of_box(box, field) for box in boxes if box.kind == "leukocyte"]
        labels: list[str | None] = [box.label for box in boxes if box.kind == "leukocyte"]
    else:
        assert outlines is not None
        found = outlines.found
        labels = [None] * len(found)
    n_red_cells = math.nan if outlines is None else _count_red_cells(field, outlines, diameter)
    reach = 0.0 if boxes is not None else _SEAM
    kept = [
        (one, label) for one, label in zip(found, labels, strict=True) if _is_own(field, one, reach)
    ]
    cells = [
        _cell(field, one, label, f"{field.field_id}#{number:04d}", diameter)
        for number, (one, label) in enumerate(kept, start=1)
    ]
    return FieldCells(field, cells, diameter, n_red_cells, notes)


def _outlines(field: Field, ruler: Ruler, notes: list[str]) -> tuple[float, Outlines]:
    """With the ruler of the slide, or with the field's own where that does not fit."""
    outlines = outline_leukocytes(field.pixels, ruler.diameter)
    unlike = ruler.mixed
    if ruler.edginess and not unlike:
        ratio = _edginess(outlines, ruler.diameter) / ruler.edginess
        unlike = not 1 / _EDGY < ratio < _EDGY  # NaN is unlike too
    if not unlike:
        return ruler.diameter, outlines
    part = measure(np.ascontiguousarray(_middle(field)))
    own = part.red_cell_diameter
    if own is None or part.n_red_cells < _FEW:
        if outlines.stained.any():
            notes.append("unlike the other fields, and its red cells cannot be measured")
        return ruler.diameter, outlines
    if 1 / _ANOTHER < own / ruler.diameter < _ANOTHER:
        return ruler.diameter, outlines
    notes.append(f"another magnification: red cells are {own:.0f} px, {ruler.diameter:.0f} usual")
    if own < LEAST_DIAMETER:
        notes.append("too few pixels a cell")
        return own, outlines._replace(found=[])
    return own, outline_leukocytes(field.pixels, own)


def _is_own(field: Field, one: FoundLeukocyte, reach: float) -> bool:
    """Whether its centre lies in the core, or so far beyond, in sizes of its box."""
    left, top, right, bottom = field.core
    beyond = reach * max(one.box[2] - one.box[0], one.box[3] - one.box[1])
    return left - beyond <= one.x < right + beyond and top - beyond <= one.y < bottom + beyond


def _count_red_cells(field: Field, outlines: Outlines, diameter: float) -> float:
    left, top, right, bottom = (side // outlines.factor for side in field.core)
    core = np.s_[top : max(bottom, top + 1), left : max(right, left + 1)]
    area = float((outlines.stained[core] & (outlines.cells[core] == 0)).sum()) * outlines.factor**2
    return area / (_SINGLE * math.pi / 4 * diameter**2)


def _of_box(box: Box, field: Field) -> FoundLeukocyte:
    """A box of the whole image as if it had been found in the field."""
    left, right = box.left - field.left, box.right - field.left
    top, bottom = box.top - field.top, box.bottom - field.top
    area = (right - left) * (bottom - top) * math.pi / 4
    if box.mask is not None:
        area = float(box.mask.sum())
    height, width = field.whole
    is_cut = box.left <= 0 or box.top <= 0 or box.right >= width or box.bottom >= height
    return FoundLeukocyte(
        y=(top + bottom) / 2 if box.y is None else box.y - field.top,
        x=(left + right) / 2 if box.x is None else box.x - field.left,
        nucleus=math.nan if box.nucleus is None else box.nucleus,
        area=area,
        box=(left, top, right, bottom),
        is_cut=is_cut,
        contrast=math.nan,
    )


def _cell(
    field: Field, one: FoundLeukocyte, label: str | None, cell_id: str, diameter: float
) -> SmearCell:
    left, top, right, bottom = one.box
    side = _AROUND * max(right - left, bottom - top)
    if diameter == diameter:
        side = max(side, _SIDE * diameter)
    crop = _crop(field.pixels, one.y, one.x, max(2, round(side)))
    measured = dict(zip(MEASURES, examine(crop, None)[2].tolist(), strict=True))
    micrometres = RED_CELL / diameter
    size = one.nucleus if one.nucleus == one.nucleus else measured["NucleusSize"]
    x, y = one.x + field.left, one.y + field.top
    margin = min(x, y, field.whole[1] - x, field.whole[0] - y)
    wrong = (
        one.is_cut,
        one.is_cut and not margin > _CUT * size,
        measured["Others"] > OTHERS,
        math.isnan(measured["NucleusSize"]),
    )
    return SmearCell(
        cell_id,
        field.slide,
        field.image_id,
        x,
        y,
        left + field.left,
        top + field.top,
        right + field.left,
        bottom + field.top,
        diameter=2 * math.sqrt(one.area / math.pi) * micrometres,
        nucleus=size * micrometres,
        nucleus_px=size,
        blur=math.sqrt(measured["Focus"]) * measured["NucleusSize"] / NUCLEUS * micrometres,
        flags=tuple(flag for flag, holds in zip(FLAGS, wrong, strict=True) if holds),
        label=label,
        crop=crop,
    )


def _crop(pixels: np.ndarray, y: float, x: float, side: int) -> np.ndarray:
    """A square about a place, filled up with the colour of its background."""
    top, left = round(y - side / 2), round(x - side / 2)
    height, width = pixels.shape[:2]
    inside = pixels[max(top, 0) : min(top + side, height), max(left, 0) : min(left + side, width)]
    if inside.shape[:2] == (side, side):
        return inside.copy()
    crop = np.empty((side, side, 3), np.uint8)
    crop[:] = np.array(find_leukocyte(inside).background, np.uint8)
    rows, columns = max(-top, 0), max(-left, 0)
    crop[rows : rows + inside.shape[0], columns : columns + inside.shape[1]] = inside
    return crop


def find_cells(
    fields: FieldSource,
    rulers: Mapping[str, Ruler | str],
    boxes: Mapping[str, Sequence[Box]] | None = None,
    n_threads: int | None = None,
) -> Iterator[FieldCells]:
    """The leukocytes of field after field.

    Parameters
    ----------
    fields : FieldSource
    rulers : mapping of str to Ruler or str
        As `measure_slides` gives them.
    boxes : mapping of str to sequence of Box, optional
        From ids of images to leukocytes, that take the place of those that would be found.
    n_threads : int, optional
        That read ahead.

    Examples
    --------
    >>> from wbcprof.datasets import make_smear
    >>> from wbcprof.images import open_fields
    >>> from wbcprof.smear import find_cells, measure_slides
    >>> fields = open_fields(make_smear(3).images)  # generated
    >>> [len(seen.cells) for seen in find_cells(fields, measure_slides(fields))]
    [2, 2, 2]
    """
    seams = Seams()
    for field in fields.read(n_threads):
        ruler = rulers[field.slide]
        known = ruler if isinstance(ruler, Ruler) else None
        why = _why_not(field, ruler) if boxes is None else ""
        if why:
            yield FieldCells(field, [], math.nan, math.nan, [], why)
        else:
            own = None if boxes is None else boxes.get(field.image_id, ())
            made = cut_out(field, known, own)
            # Each box lies in the core of one tile.
            new = [cell for cell in made.cells if boxes is not None or seams.is_new(cell)]
            yield made._replace(cells=new)


def _why_not(field: Field, ruler: Ruler | str) -> str:
    """Why leukocytes cannot be looked for in a field; "" where they can."""
    if isinstance(ruler, str):
        return ruler
    if min(field.pixels.shape[:2]) < _LEAST_SIDE * ruler.diameter:
        return f"smaller than {_LEAST_SIDE:g} red cells: no field"
    step = max(1, min(field.pixels.shape[:2]) // _GREY_SAMPLE)
    red, green, blue = np.moveaxis(field.pixels[::step, ::step], 2, 0)
    is_grey = (red == green).all() and (green == blue).all()
    if is_grey and int(green.max()) - int(green.min()) > _BLANK:
        return "grey: leukocytes are told by their colour"
    return ""


class Seams:
    """Leukocytes that two tiles of an image have seen are told once."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[tuple[int, int], list[tuple[float, float, str]]]] = {}

    def is_new(self, cell: SmearCell) -> bool:
        """Whether no other tile had this cell before; it is remembered."""
        tile = cell.cell_id.rpartition("#")[0]
        return self.is_new_at(cell.field, tile, cell.x, cell.y, cell.right - cell.left)

    def is_new_at(self, image: str, tile: str, x: float, y: float, width: float) -> bool:
        """The same by image, tile and place, px."""
        if tile == image:
            return True
        squares = self._seen.setdefault(image, {})
        row, column = int(y // _SQUARE), int(x // _SQUARE)
        for i in range(row - 1, row + 2):
            for j in range(column - 1, column + 2):
                for left, top, other in squares.get((i, j), ()):
                    if other != tile and math.hypot(left - x, top - y) < _SEAM * width:
                        return False
        squares.setdefault((row, column), []).append((x, y, tile))
        return True


SIDES = ("left", "top", "right", "bottom")
CELL_COLUMNS = (
    "cell", "slide", "field", "kind", "x", "y", *SIDES, "diameter_um", "nucleus_um", "nucleus_px",
    "blur_um",     "flags", "label",
)  # fmt: skip
"""Of a table of cells; `wbcprof.images.read_boxes` reads it."""


def cell_row(cell: SmearCell) -> dict[str, Any]:
    """What a table says of a cell, by `CELL_COLUMNS`."""
    places = (rounded(getattr(cell, name), 1) for name in ("x", "y", *SIDES))
    sizes = (rounded(size, 2) for size in (cell.diameter, cell.nucleus, cell.nucleus_px, cell.blur))
    values = (
        cell.cell_id, cell.slide, cell.field, "leukocyte", *places, *sizes,
        "; ".join(cell.flags) or None, cell.label,
    )  # fmt: skip
    return dict(zip(CELL_COLUMNS, values, strict=True))
