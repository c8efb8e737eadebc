"""Generated images of single leukocytes, each drawn from random numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Integer, check, listed
from wbcprof.datasets.drawing import (
    FRAME,
    LEUKOCYTE_TYPES,
    LOOKS,
    PLATELET,
    RED_CELL,
    Stain,
    add_leukocyte,
    grid,
    lamp_colour,
    photograph,
    platelet,
    red_cell,
    window,
)

__all__ = ["LEUKOCYTE_TYPES", "Leukocytes", "make_leukocytes", "write_folder"]

RULES = {"n_per_type": Integer(), "size": Integer(48), "random_state": Integer(0)}
"""What parameters of `make_leukocytes` may be; sizes are in px."""

_LONGEST_NAME = 200  # bytes of a file name, without its suffix
_RESERVED_NAMES = {  # by Windows
    "CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)),
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Leukocytes(Shown):
    """Generated single-cell images with their types.

    Attributes
    ----------
    images : ndarray of uint8, shape (n, size, size, 3)
        RGB images, C-contiguous.
    labels : ndarray of str, shape (n,)
        Type of each cell, one of ``LEUKOCYTE_TYPES``.
    ids : list of str, length n
        Names such as ``"generated_neutrophil_0003"``.
    description : str
        What the images are, and how to make them again.
    """

    images: np.ndarray
    labels: np.ndarray
    ids: list[str]
    description: str


def make_leukocytes(
    n_per_type: int = 20,
    *,
    size: int = 120,
    types: Sequence[str] = LEUKOCYTE_TYPES,
    random_state: int = 0,
) -> Leukocytes:
    """Generate images of single leukocytes among red cells on a stained smear.

    The images are generated, not real: they exercise the whole pipeline and its types can be
    told apart, but nothing measured on them says anything about blood.

    Parameters
    ----------
    n_per_type : int, default 20
        Images of each type, at least 1.
    size : int, default 120
        Side of the square images in pixels, at least 48. The cell fills the same part of the
        image at every size.
    types : sequence of str, default LEUKOCYTE_TYPES
        Types to generate, in this order.
    random_state : int, default 0
        Seed, at least 0. Image i of a type depends only on (random_state, type, i, size):
        asking for more images, or for other types, changes none of those already made.

    Returns
    -------
    Leukocytes
        Images, labels, ids and a description.

    Raises
    ------
    ValueError
        If a parameter is not as described.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(3, size=64, types=["lymphocyte", "neutrophil"])
    >>> cells.images.shape
    (6, 64, 64, 3)
    >>> print(*cells.labels)
    lymphocyte lymphocyte lymphocyte neutrophil neutrophil neutrophil
    >>> cells.ids[-1]
    'generated_neutrophil_0002'
    """
    given = check(RULES, n_per_type=n_per_type, size=size, random_state=random_state)
    n_per_type, size = given["n_per_type"], given["size"]
    types = check_types(types)
    random_state = given["random_state"]

    images = np.empty((n_per_type * len(types), size, size, 3), dtype=np.uint8)
    labels: list[str] = []
    ids: list[str] = []
    for leukocyte_type in types:
        for i in range(n_per_type):
            seed = np.random.SeedSequence(
                random_state, spawn_key=(LEUKOCYTE_TYPES.index(leukocyte_type), i)
            )
            images[len(ids)] = _draw(leukocyte_type, size, np.random.default_rng(seed))
            labels.append(leukocyte_type)
            ids.append(f"generated_{leukocyte_type}_{i:04d}")
    description = (
        "Computer-generated images of leukocytes on a stained smear, not real data: "
        "no photograph, patient or blood sample was used, and no medical conclusion may be drawn.\n"
        f"{n_per_type} images of {size} x {size} pixels for each of: {', '.join(types)}.\n"
        f"Made by wbcprof.datasets.make_leukocytes({n_per_type}, size={size}, types={types}, "
        f"random_state={random_state})."
    )
    return Leukocytes(images, np.array(labels, dtype=str), ids, description)


def write_folder(leukocytes: Leukocytes, directory: str | Path) -> Path:
    """Write generated images as PNG files, one sub-folder per type, with a README.txt.

    Parameters
    ----------
    leukocytes : Leukocytes
        What `make_leukocytes` returned.
    directory : str or Path
        Folder to create, with its parents; it may exist if it is empty.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If ``directory`` is a file, or a folder that already holds something.
    ValueError
        A label or id cannot be a file name everywhere: empty, long, ``CON``, with ``/``...

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from wbcprof.datasets import make_leukocytes, write_folder
    >>> cells = make_leukocytes(2, size=48, types=["lymphocyte", "neutrophil"])
    >>> with TemporaryDirectory() as home:
    ...     folder = write_folder(cells, Path(home, "cells"))
    ...     print(sorted(path.name for path in folder.glob("neutrophil/*")))
    ['generated_neutrophil_0000.png', 'generated_neutrophil_0001.png']
    """
    from PIL import Image

    for name in {*map(str, leukocytes.labels), *leukocytes.ids}:
        _check_file_name(name)
    directory = new_folder(directory)
    (directory / "README.txt").write_text(
        f"{leukocytes.description}\n\nEach sub-folder holds the generated images of one type.\n",
        encoding="utf-8",
    )
    for image, label, name in zip(
        leukocytes.images, leukocytes.labels, leukocytes.ids, strict=True
    ):
        folder = directory / str(label)
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{name}.png")
    return directory


def new_folder(directory: str | Path) -> Path:
    """The folder, made with its parents; refuses one that holds something, and a file."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"expected a folder to write to, got the file {directory}")
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(
            f"expected a new or empty folder, got {directory}, which is not empty; "
            "name another folder or empty this one"
        )
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _check_file_name(name: str) -> None:
    """Refuse what leads out of a folder, or is no file name on Linux, macOS or Windows."""
    if (
        not name.isprintable()
        or name.rstrip(". ") != name
        or not name
        or set(name) & set('/\\:*?"<>|')
        or len(name.encode()) > _LONGEST_NAME
        or name.split(".")[0].upper() in _RESERVED_NAMES
    ):
        raise ValueError(f"labels and ids must be possible as file names, got {name[:80]!r}")


def check_types(types: Sequence[str]) -> tuple[str, ...]:
    types = listed(types)
    unknown = [t for t in types if t not in LEUKOCYTE_TYPES]
    if unknown:
        raise ValueError(f"unknown types {unknown}; expected some of {list(LEUKOCYTE_TYPES)}")
    if not types or len(set(types)) < len(types):
        raise ValueError(f"types must name each type once and at least one, got {list(types)}")
    return types


# --- one image ---------------------------------------------------------------------------------


def _draw(leukocyte_type: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one image, uint8 (size, size, 3)."""
    pixel = FRAME / size
    y, x = grid((size, size), pixel)
    radius = rng.uniform(*LOOKS[leukocyte_type].radius)
    centre = rng.normal(0.0, 3.0, 2)
    stain = Stain(rng)
    absorbance, red_distance = _red_cells(rng, x, y, pixel, centre, radius, stain)
    _platelets(rng, x, y, pixel, absorbance, stain)
    add_leukocyte(rng, leukocyte_type, radius, centre, absorbance, red_distance, stain)
    light = _light(rng, x, y)
    return photograph(rng, absorbance, light, rng.uniform(0.30, 0.80) / pixel)


def _light(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Empty-field light (size, size, 3): lamp colour, gain, a tilt and a mild vignette."""
    lamp = lamp_colour(rng)
    half = FRAME / 2
    tilt = rng.normal(0.0, 0.015, 2)
    field = 1.0 + (tilt[0] * x + tilt[1] * y) / half
    field = field - rng.uniform(0.0, 0.06) * (x * x + y * y) / (half * half)
    result: np.ndarray = field[..., None] * lamp.astype(np.float32)
    return result


def _red_cells(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    pixel: float,
    centre: np.ndarray,
    radius: float,
    stain: Stain,
) -> tuple[np.ndarray, np.ndarray]:
    """Absorbance (size, size, 3) of the red cells, and the distance to the nearest one."""
    size = x.shape[1]
    amount = np.zeros((size, size), dtype=np.float32)
    distance = np.full((size, size), FRAME, dtype=np.float32)
    crowding = rng.uniform(0.75, 1.05)
    pallor = rng.uniform(0.0, 0.75)
    discs: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(15, 60)):
        cx, cy = rng.uniform(-72.0, 72.0, 2)
        r = rng.normal(16.0, 1.3)
        if math.hypot(cx - centre[0], cy - centre[1]) < radius + rng.uniform(0.45, 0.9) * r:
            continue
        if any(math.hypot(cx - a, cy - b) < crowding * (r + c) for a, b, c in discs):
            continue
        discs.append((cx, cy, r))
        rows, columns = window(cx, cy, 1.35 * r, pixel, (size, size))
        sd, stained = red_cell(rng, x[:, columns] - cx, y[rows] - cy, r, pallor, pixel)
        distance[rows, columns] = np.minimum(distance[rows, columns], sd)
        amount[rows, columns] += stained
    return amount[..., None] * stain(RED_CELL, 0.10), distance


def _platelets(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    pixel: float,
    absorbance: np.ndarray,
    stain: Stain,
) -> None:
    """Add up to three platelets to ``absorbance``."""
    size = x.shape[1]
    for _ in range(rng.choice(4, p=(0.5, 0.25, 0.15, 0.1))):
        cx, cy = rng.uniform(-62.0, 62.0, 2)
        r = rng.uniform(1.8, 5.0)
        rows, columns = window(cx, cy, 1.6 * r, pixel, (size, size))
        _, amount = platelet(rng, x[:, columns] - cx, y[rows] - cy, r, pixel)
        absorbance[rows, columns] += amount[..., None] * stain(PLATELET, 0.15)
