"""Generated fields of a smear, with the truth about what lies in them.

All of a field is one absorbance: red cells, single and in piles, platelets and stain deposit add
up, leukocytes cover what lies below them, and one camera with uneven light takes the picture. It is
drawn with a margin, which is cut off at the end: so the edge cuts cells as that of a camera does.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Integer, Real, check, shown
from wbcprof.datasets.drawing import (
    FRAME,
    LEUKOCYTE_TYPES,
    LOOKS,
    PLATELET,
    RED_CELL,
    Stain,
    add_leukocyte,
    coverage,
    grid,
    lamp_colour,
    photograph,
    platelet,
    red_cell,
    window,
)
from wbcprof.datasets.leukocytes import check_types, new_folder

__all__ = ["Smear", "make_smear", "write_smear"]

RULES = {
    "n_fields": Integer(),
    "pixel_size": Real(least=0.05, most=0.5),
    "n_leukocytes": Integer(0, 10_000),
    "random_state": Integer(0),
}
"""What parameters of `make_smear` may be."""

_SIDE = Integer(64, 8192)
_SHARES = {
    "atypical_lymphocyte": 0.02, "basophil": 0.02, "eosinophil": 0.04, "lymphocyte": 0.28,
    "monocyte": 0.08, "neutrophil": 0.56,
}  # fmt: skip
_UNIT = 7.5 / 32  # um
_MARGIN = 64.0  # around a field, in units: no leukocyte whose centre is inside reaches further
_RED_CELL_RADIUS = 16.0
_TRIES = 300

_TRUTH = np.dtype(
    [
        ("field", np.int64), ("number", np.int64), ("kind", "U9"), ("label", "U19"),
        ("left", np.int64), ("top", np.int64), ("right", np.int64), ("bottom", np.int64),
        ("x", float), ("y", float), ("cut", bool),
    ]
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Smear(Shown):
    """Generated fields of one smear, and what lies in them.

    Attributes
    ----------
    images : list of ndarray of uint8, each (H, W, 3)
        RGB images, C-contiguous.
    ids : list of str
        Names such as ``"generated_field_0003"``.
    truth : structured ndarray, shape (n,)
        One row for each thing that can be seen, field by field, leukocytes first:
        ``field``, its place in `images`; ``number``, 1, 2 ... for the leukocytes of a field, 0 for
        all else; ``kind``, ``"leukocyte"``, ``"red_cell"`` or ``"platelet"``; ``label``, the type
        of a leukocyte, else empty; ``left``, ``top``, ``right``, ``bottom``, a box in pixels around
        what lies inside the image, right and bottom excluded; ``x``, ``y``, the middle of a
        leukocyte's visible pixels, of a box otherwise; ``cut``, whether the edge of the image cuts
        it.
    cells : list of ndarray of uint16, each (H, W)
        ``number`` of the leukocyte that covers each pixel, 0 for none.
    nuclei : list of ndarray of uint16, each (H, W)
        The same for nuclei.
    pixel_size : float
        Micrometres for each pixel.
    description : str
        What the images are, and how to make them again.
    """

    images: list[np.ndarray]
    ids: list[str]
    truth: np.ndarray
    cells: list[np.ndarray]
    nuclei: list[np.ndarray]
    pixel_size: float
    description: str


def make_smear(
    n_fields: int = 4,
    *,
    size: tuple[int, int] = (480, 640),
    pixel_size: float = 0.1,
    n_leukocytes: int = 2,
    shares: Mapping[str, float] | None = None,
    random_state: int = 0,
) -> Smear:
    """Generate fields of a stained smear, with boxes and types of all that lies in them.

    Red cells lie alone, touching and in piles; leukocytes alone, beside one another and cut by the
    edge, among platelets and stain deposit, in uneven light. The images are generated, not real:
    finding cells in them can be tested, but nothing measured on them says anything about blood.

    Parameters
    ----------
    n_fields : int, default 4
        At least 1. All have the stain, lamp and density of one smear.
    size : (int, int), default (480, 640)
        Height and width in pixels, each 64 to 8192.
    pixel_size : float, default 0.1
        Micrometres for each pixel, 0.05 to 0.5; a red cell is about 7.5 um across.
    n_leukocytes : int, default 2
        Leukocytes in each field, at most 10,000; those that the edge cuts are among them.
    shares : mapping of str to float, optional
        Type to its share of the leukocytes; shares need not add up to 1. By default all of
        ``LEUKOCYTE_TYPES``, most of them neutrophils and lymphocytes as in blood.
    random_state : int, default 0
        Seed, at least 0. A field depends on its place, not on how many there are.

    Returns
    -------
    Smear
        Images, ids, the truth as a table and as masks, and a description.

    Raises
    ------
    ValueError
        If a parameter is not as described, or so many leukocytes have no room.

    Examples
    --------
    >>> from wbcprof.datasets import make_smear
    >>> smear = make_smear(2, size=(160, 200), pixel_size=0.25, n_leukocytes=3)  # generated
    >>> smear.images[0].shape
    (160, 200, 3)
    >>> leukocytes = smear.truth[smear.truth["kind"] == "leukocyte"]
    >>> len(leukocytes)
    6
    >>> bool(smear.cells[0].max() == 3)
    True
    """
    given = check(
        RULES, n_fields=n_fields, pixel_size=pixel_size, n_leukocytes=n_leukocytes,
        random_state=random_state,
    )  # fmt: skip
    size, given_shares = _check_size(size), _check_shares(_SHARES if shares is None else shares)
    slide = _Slide.draw(given["random_state"], size, given["pixel_size"])
    images, cells, nuclei, rows = [], [], [], []
    for field in range(given["n_fields"]):
        drawn = _Field(slide, field)
        drawn.draw(given["n_leukocytes"], given_shares)
        images.append(drawn.photograph())
        cells.append(drawn.inside(drawn.cells))
        nuclei.append(drawn.inside(drawn.nuclei))
        rows += drawn.rows(field)
    call = ", ".join(f"{name}={value!r}" for name, value in {
        "size": size, "pixel_size": given["pixel_size"], "n_leukocytes": given["n_leukocytes"],
        "shares": given_shares, "random_state": given["random_state"],
    }.items())  # fmt: skip
    description = (
        "Computer-generated fields of a stained smear, not real data: "
        "no photograph, patient or blood sample was used, and no medical conclusion may be drawn.\n"
        f"Made by wbcprof.datasets.make_smear({given['n_fields']}, {call})."
    )
    ids = [f"generated_field_{field:04d}" for field in range(given["n_fields"])]
    return Smear(
        images, ids, np.array(rows, _TRUTH), cells, nuclei, given["pixel_size"], description
    )


def write_smear(smear: Smear, directory: str | Path) -> Path:
    """Write generated fields as PNG files in ``images/``, with ``boxes.csv`` and a README.txt.

    Parameters
    ----------
    smear : Smear
        What `make_smear` returned.
    directory : str or Path
        Folder to create, with its parents; it may exist if it is empty.

    Returns
    -------
    Path
        The folder. ``boxes.csv`` has the columns path (relative to the folder), kind, left, top,
        right, bottom (in pixels, the last two excluded) and label (of leukocytes).

    Raises
    ------
    FileExistsError
        If ``directory`` is a file, or a folder that already holds something.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from wbcprof.datasets import make_smear, write_smear
    >>> smear = make_smear(1, size=(96, 96), pixel_size=0.4, n_leukocytes=1)  # generated
    >>> with TemporaryDirectory() as home:
    ...     folder = write_smear(smear, Path(home, "smear"))
    ...     print(*sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")))
    README.txt boxes.csv images/generated_field_0000.png
    """
    from PIL import Image

    directory = new_folder(directory)
    images = directory / "images"
    images.mkdir()
    for image, name in zip(smear.images, smear.ids, strict=True):
        Image.fromarray(image).save(images / f"{name}.png")
    with open(directory / "boxes.csv", "w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(("path", "kind", "left", "top", "right", "bottom", "label"))
        columns = smear.truth[["kind", "left", "top", "right", "bottom", "label"]]
        for field, row in zip(smear.truth["field"], columns.tolist(), strict=True):
            lines.writerow((f"images/{smear.ids[field]}.png", *row))
    (directory / "README.txt").write_text(
        f"{smear.description}\n\nboxes.csv tells what lies where in the generated images.\n",
        encoding="utf-8",
    )
    return directory


def _check_size(size: Any) -> tuple[int, int]:
    try:
        height, width = map(_SIDE.take, size)
    except (TypeError, ValueError):
        raise ValueError(
            f"size must be height and width, each {_SIDE}, got {shown(size)}"
        ) from None
    return height, width


def _check_shares(shares: Any) -> dict[str, float]:
    if not isinstance(shares, Mapping):
        raise ValueError(f"shares must map types to their shares, got {shown(shares)}")
    types = check_types(tuple(shares))
    found = {name: Real(least=0).check(f"share of {name}", shares[name]) for name in types}
    if not sum(found.values()) > 0:
        raise ValueError(f"shares must not all be 0, got {shown(dict(shares))}")
    return found


# --- one smear and its fields ------------------------------------------------------------------


@dataclass(frozen=True)
class _Slide:
    """What all fields of a smear share."""

    seed: int
    size: tuple[int, int]
    pixel: float  # units
    margin: int  # px
    crowding: float  # red cells for each of their places
    in_piles: float
    pallor: float
    dirt: float  # specks in a field of 1,000 red cells
    lamp: np.ndarray
    falloff: np.ndarray  # of each colour, towards the corners
    bright: np.ndarray  # where the light is brightest, in half sides

    @classmethod
    def draw(cls, seed: int, size: tuple[int, int], pixel_size: float) -> _Slide:
        rng = np.random.default_rng(_seed(seed))
        pixel = pixel_size / _UNIT
        return cls(
            seed, size, pixel, math.ceil(_MARGIN / pixel),
            crowding=rng.uniform(0.35, 0.75), in_piles=rng.uniform(0.1, 0.7),
            pallor=rng.uniform(0.15, 0.70), dirt=rng.uniform(0.0, 120.0),
            lamp=lamp_colour(rng),
            falloff=rng.uniform(0.02, 0.40) * np.exp(rng.normal(0.0, 0.25, 3)),
            bright=rng.normal(0.0, 0.25, 2),
        )  # fmt: skip


def _seed(seed: int, *key: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(len(LEUKOCYTE_TYPES), *key))


class _Field:
    """One field as it is drawn: its absorbance, with the margin, and where things lie."""

    def __init__(self, slide: _Slide, field: int):
        self.slide = slide
        self.rng = np.random.default_rng(_seed(slide.seed, field))
        self.stain = Stain(np.random.default_rng(_seed(slide.seed)))
        self.stain.rng = self.rng
        height, width = (n + 2 * slide.margin for n in slide.size)
        self.shape = height, width
        self.y, self.x = grid(self.shape, slide.pixel)
        self.absorbance = np.zeros((height, width, 3), dtype=np.float32)
        self.red_distance = np.full(self.shape, FRAME, dtype=np.float32)
        self.cells, self.nuclei = (np.zeros(self.shape, dtype=np.uint16) for _ in range(2))
        self.leukocytes: list[_Disc] = []
        self.red_cells: list[_Disc] = []
        self.boxes: list[tuple[str, tuple[slice, slice], bool]] = []

    def draw(self, n_leukocytes: int, shares: Mapping[str, float]) -> None:
        p = np.array(list(shares.values())) / sum(shares.values())
        for leukocyte_type in self.rng.choice(list(shares), n_leukocytes, p=p):
            self._place_leukocyte(str(leukocyte_type), n_leukocytes)
        self._red_cells()
        self._platelets()
        self._dirt()
        for number, disc in enumerate(self.leukocytes, 1):
            self._leukocyte(number, disc)

    def photograph(self) -> np.ndarray:
        slide, rng = self.slide, self.rng
        y, x = (axis / abs(axis).max() for axis in (self.y, self.x))
        away = np.square(y - slide.bright[0]) + np.square(x - slide.bright[1])
        light = (1.0 - slide.falloff * away[..., None] / 2.0) * slide.lamp * rng.uniform(0.95, 1.0)
        blur = min(rng.uniform(0.3, 1.3), rng.uniform(0.3, 2.0)) / slide.pixel
        taken = photograph(rng, self.absorbance, np.maximum(light, 0.1).astype(np.float32), blur)
        return self.inside(taken)

    def inside(self, drawn: np.ndarray) -> np.ndarray:
        margin, (height, width) = self.slide.margin, self.slide.size
        return np.ascontiguousarray(drawn[margin : margin + height, margin : margin + width])

    def rows(self, field: int) -> list[tuple[Any, ...]]:
        """Rows of the truth."""
        from scipy.ndimage import center_of_mass, find_objects

        seen, whole = self.inside(self.cells), np.bincount(self.cells.ravel())
        found = []
        for number, box in enumerate(find_objects(seen), 1):
            y, x = center_of_mass(seen == number)
            cut = bool(np.count_nonzero(seen == number) < whole[number])
            label = self.leukocytes[number - 1].label
            found.append(_row(field, number, "leukocyte", label, box, x + 0.5, y + 0.5, cut))
        for kind, box, cut in self.boxes:
            y, x = ((side.start + side.stop) / 2 for side in box)
            found.append(_row(field, 0, kind, "", box, x, y, cut))
        return found

    # What lies where; coordinates in units from the middle of the field.

    def _anywhere(self, beyond: float = 0.0) -> tuple[float, float]:
        half_y, half_x = (n * self.slide.pixel / 2 + beyond for n in self.slide.size)
        return float(self.rng.uniform(-half_x, half_x)), float(self.rng.uniform(-half_y, half_y))

    def _is_inside(self, x: float, y: float) -> bool:
        height, width = self.slide.size
        return abs(x) < width * self.slide.pixel / 2 and abs(y) < height * self.slide.pixel / 2

    def _place_leukocyte(self, label: str, n: int) -> None:
        """Where there is room, beside the one before now and then."""
        radius = self.rng.uniform(*LOOKS[label].radius)
        beside = bool(self.leukocytes) and self.rng.random() < 0.3
        for trial in range(_TRIES):
            x, y = self._anywhere()
            if beside and trial < _TRIES // 2:
                last = self.leukocytes[-1]
                x, y = last.beside(self.rng, self.rng.uniform(0.95, 1.02) * (last.r + radius))
            room = all(disc.away(x, y) > 0.94 * (disc.r + radius) for disc in self.leukocytes)
            if room and self._is_inside(x, y):
                self.leukocytes.append(_Disc(x, y, radius, label))
                return
        height, width = self.slide.size
        raise ValueError(
            f"n_leukocytes must fit into a field, got {n}, of which {len(self.leukocytes)} have "
            f"room in {height} x {width} pixels of {self.slide.pixel * _UNIT:.3g} um; give fewer "
            "or a larger size"
        )

    def _red_cells(self) -> None:
        rng, slide = self.rng, self.slide
        area = math.prod(n * slide.pixel for n in self.shape)
        most = int(slide.crowding * area / (math.pi * _RED_CELL_RADIUS**2))
        for _ in range(4 * most):
            if len(self.red_cells) >= most:
                break
            x, y = self._anywhere(_MARGIN)
            if rng.random() >= slide.in_piles:
                self._red_cell(x, y, rng.uniform(0.9, 1.05))
                continue
            toward, step = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(0.5, 1.5)
            for _ in range(rng.integers(2, 8)):
                self._red_cell(x, y, 0.45 * step)
                toward += rng.normal(0.0, 0.4)
                x += step * _RED_CELL_RADIUS * math.cos(toward)
                y += step * _RED_CELL_RADIUS * math.sin(toward)

    def _red_cell(self, cx: float, cy: float, closest: float) -> None:
        """Draw a red cell, unless one is closer than so many radii, or a leukocyte lies there."""
        rng, pixel = self.rng, self.slide.pixel
        r = rng.normal(_RED_CELL_RADIUS, 1.0)
        rim = rng.uniform(0.6, 1.0) * r
        if any(disc.away(cx, cy) < disc.r + rim for disc in self.leukocytes):
            return
        if any(disc.away(cx, cy) < closest * (disc.r + r) for disc in self.red_cells):
            return
        self.red_cells.append(_Disc(cx, cy, r))
        part = window(cx, cy, 1.35 * r, pixel, self.shape)
        dx, dy = self.x[:, part[1]] - cx, self.y[part[0]] - cy
        distance, amount = red_cell(rng, dx, dy, r, self.slide.pallor, pixel)
        amount *= 1.0 - 0.5 * coverage(self.red_distance[part], pixel)  # flattened in a pile
        self.red_distance[part] = np.minimum(self.red_distance[part], distance)
        self.absorbance[part] += amount[..., None] * self.stain(RED_CELL, 0.08)
        self._box("red_cell", part, distance)

    def _platelets(self) -> None:
        """About one for 18 red cells, some in clumps."""
        rng = self.rng
        for _ in range(rng.poisson(len(self.red_cells) / 24)):
            x, y = self._anywhere(_MARGIN / 2)
            self._platelet(x, y)
            if rng.random() < 0.07:
                for near in rng.normal((x, y), 9.0, (rng.integers(2, 8), 2)):
                    self._platelet(*near)

    def _platelet(self, cx: float, cy: float) -> None:
        rng, pixel = self.rng, self.slide.pixel
        r = rng.uniform(3.0, 6.5)
        if any(disc.away(cx, cy) < disc.r + r for disc in self.leukocytes):
            return
        part = window(cx, cy, 1.6 * r, pixel, self.shape)
        dx, dy = self.x[:, part[1]] - cx, self.y[part[0]] - cy
        distance, amount = platelet(rng, dx, dy, r, pixel)
        self.absorbance[part] += amount[..., None] * self.stain(PLATELET, 0.15)
        self._box("platelet", part, distance)

    def _dirt(self) -> None:
        """Stain deposit: dark specks in loose heaps."""
        rng, pixel = self.rng, self.slide.pixel
        n = rng.poisson(self.slide.dirt * len(self.red_cells) / 1000 / 6)
        for x, y in [self._anywhere() for _ in range(n)]:
            for cx, cy in rng.normal((x, y), rng.uniform(2.0, 14.0), (rng.poisson(6), 2)):
                r = rng.gamma(4.0, 0.3)
                part = window(cx, cy, 4.0 * r, pixel, self.shape)
                away = np.square(self.x[:, part[1]] - cx) + np.square(self.y[part[0]] - cy)
                speck = rng.uniform(0.3, 1.3) * np.exp(-away / (r * r))
                self.absorbance[part] += speck[..., None] * self.stain((0.9, 1.3, 0.6), 0.2)

    def _leukocyte(self, number: int, disc: _Disc) -> None:
        pixel, side = self.slide.pixel, round(FRAME / self.slide.pixel)
        corner = [
            round(c / pixel + n / 2 - side / 2)
            for c, n in zip((disc.y, disc.x), self.shape, strict=True)
        ]
        part = tuple(slice(at, at + side) for at in corner)
        middle = [
            c - (at + side / 2 - n / 2) * pixel
            for c, at, n in zip((disc.x, disc.y), corner[::-1], self.shape[::-1], strict=True)
        ]
        cell, nucleus = add_leukocyte(
            self.rng, disc.label, disc.r, np.array(middle),
            self.absorbance[part], self.red_distance[part], self.stain,
        )  # fmt: skip
        self.cells[part][cell > 0.5] = number
        self.nuclei[part][cell > 0.5] = 0
        self.nuclei[part][nucleus > 0.5] = number

    def _box(self, kind: str, part: tuple[slice, slice], distance: np.ndarray) -> None:
        """Note the box of what lies inside the field."""
        margin = self.slide.margin
        box, cut = [], False
        for axis, (side, n) in enumerate(zip(part, self.slide.size, strict=True)):
            at = np.flatnonzero((distance < 0).any(axis=1 - axis)) + side.start - margin
            at_inside = at[(at >= 0) & (at < n)]
            if not at_inside.size:
                return
            cut |= at_inside.size < at.size
            box.append(slice(at_inside[0], at_inside[-1] + 1))
        self.boxes.append((kind, (box[0], box[1]), cut))


@dataclass(frozen=True)
class _Disc:
    x: float
    y: float
    r: float
    label: str = ""

    def away(self, x: float, y: float) -> float:
        return math.hypot(self.x - x, self.y - y)

    def beside(self, rng: np.random.Generator, distance: float) -> tuple[float, float]:
        toward = rng.uniform(0.0, 2.0 * math.pi)
        return self.x + distance * math.cos(toward), self.y + distance * math.sin(toward)


def _row(
    field: int, number: int, kind: str, label: str, box: Any, x: float, y: float, cut: bool
) -> tuple[Any, ...]:
    rows, columns = box
    corners = columns.start, rows.start, columns.stop, rows.stop
    return (field, number, kind, label, *corners, x, y, cut)
