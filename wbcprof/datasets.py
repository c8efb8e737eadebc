"""Generated images of stained leukocytes, for examples and tests that need no download.

Every image is drawn from random numbers, none is a photograph. A cell is a signed distance
(negative inside) turned into coverage; what it covers is an absorbance for red, green and blue;
the camera sees ``light * exp(-absorbance)``, then blur and noise (Beer-Lambert). Lengths are in
units of 1/120 of the image side, so that one description serves every size.

Examples
--------
>>> from wbcprof.datasets import LEUKOCYTE_TYPES, make_leukocytes
>>> cells = make_leukocytes(2, size=64)
>>> cells.images.shape
(12, 64, 64, 3)
>>> sorted(set(cells.labels)) == sorted(LEUKOCYTE_TYPES)
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from wbcprof.checks import Integer, check

__all__ = ["LEUKOCYTE_TYPES", "Leukocytes", "make_leukocytes", "write_folder"]

LEUKOCYTE_TYPES = (
    "atypical_lymphocyte",
    "basophil",
    "eosinophil",
    "lymphocyte",
    "monocyte",
    "neutrophil",
)

FRAME = 120.0

Capsule = tuple[float, float, float, float, float, float]  # two discs: x, y, radius of each
RULES = {"n_per_type": Integer(), "size": Integer(48), "random_state": Integer(0)}
"""What parameters of `make_leukocytes` may be; sizes are in px."""

_LONGEST_NAME = 200  # bytes of a file name, without its suffix
_RESERVED_NAMES = {  # by Windows
    "CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10)),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Leukocytes:
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


@dataclass(frozen=True)
class _Look:
    """How one type looks. Ranges are (low, high); colours are absorbances of (R, G, B).

    Lengths are in units of 1/120 of the image side; ``granules`` is a number per 100 square units.
    """

    radius: tuple[float, float]
    aspect: tuple[float, float]
    ruffle: tuple[float, float]
    cytoplasm: tuple[float, float, float]
    rim: float
    nucleus: tuple[float, float, float]
    chromatin_scale: float
    chromatin_contrast: float
    granule: tuple[float, float, float]
    granules: tuple[float, float]
    granule_size: tuple[float, float]
    granules_on_nucleus: float
    pseudopod: float
    vacuoles: float


_LOOKS = {
    "atypical_lymphocyte": _Look(
        radius=(26, 37), aspect=(1.0, 1.4), ruffle=(1.2, 3.2),
        cytoplasm=(0.47, 0.40, 0.09), rim=0.9,
        nucleus=(1.00, 1.45, 0.46), chromatin_scale=0.8, chromatin_contrast=0.17,
        granule=(0.5, 0.9, 0.2), granules=(0.0, 0.5), granule_size=(0.6, 0.9),
        granules_on_nucleus=0.2, pseudopod=0.4, vacuoles=0.25,
    ),
    "basophil": _Look(
        radius=(24, 31), aspect=(1.0, 1.2), ruffle=(0.5, 1.3),
        cytoplasm=(0.28, 0.55, 0.15), rim=0.0,
        nucleus=(0.92, 1.25, 0.44), chromatin_scale=1.1, chromatin_contrast=0.13,
        granule=(1.15, 1.55, 0.58), granules=(8.0, 18.0), granule_size=(0.85, 1.15),
        granules_on_nucleus=0.75, pseudopod=0.05, vacuoles=0.1,
    ),
    "eosinophil": _Look(
        radius=(25, 35), aspect=(1.0, 1.2), ruffle=(0.4, 1.1),
        cytoplasm=(0.22, 0.36, 0.14), rim=0.0,
        nucleus=(1.22, 1.50, 0.46), chromatin_scale=0.9, chromatin_contrast=0.20,
        granule=(0.16, 0.62, 0.44), granules=(18.0, 45.0), granule_size=(0.65, 0.95),
        granules_on_nucleus=0.15, pseudopod=0.03, vacuoles=0.25,
    ),
    "lymphocyte": _Look(
        radius=(19, 28), aspect=(1.0, 1.2), ruffle=(0.6, 2.0),
        cytoplasm=(0.50, 0.43, 0.09), rim=0.3,
        nucleus=(1.35, 1.70, 0.55), chromatin_scale=1.1, chromatin_contrast=0.15,
        granule=(0.5, 0.9, 0.2), granules=(0.0, 0.3), granule_size=(0.6, 0.9),
        granules_on_nucleus=0.0, pseudopod=0.2, vacuoles=0.03,
    ),
    "monocyte": _Look(
        radius=(28, 37), aspect=(1.0, 1.35), ruffle=(1.0, 2.8),
        cytoplasm=(0.35, 0.38, 0.09), rim=0.1,
        nucleus=(1.02, 1.48, 0.46), chromatin_scale=0.75, chromatin_contrast=0.19,
        granule=(0.4, 0.7, 0.2), granules=(0.5, 4.0), granule_size=(0.5, 0.8),
        granules_on_nucleus=0.2, pseudopod=0.35, vacuoles=0.5,
    ),
    "neutrophil": _Look(
        radius=(27, 36), aspect=(1.0, 1.25), ruffle=(0.4, 1.3),
        cytoplasm=(0.13, 0.24, 0.05), rim=0.0,
        nucleus=(1.42, 1.70, 0.56), chromatin_scale=1.0, chromatin_contrast=0.23,
        granule=(0.26, 0.48, 0.13), granules=(4.0, 17.0), granule_size=(0.5, 0.8),
        granules_on_nucleus=0.1, pseudopod=0.05, vacuoles=0.1,
    ),
}  # fmt: skip


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
    types = _check_types(types)
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
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"expected a folder to write to, got the file {directory}")
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(
            f"expected a new or empty folder, got {directory}, which is not empty; "
            "name another folder or empty this one"
        )
    directory.mkdir(parents=True, exist_ok=True)
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


def _check_types(types: Sequence[str]) -> tuple[str, ...]:
    if isinstance(types, str):
        raise ValueError(f"types must be a sequence of type names, got the string {types!r}")
    types = tuple(types)
    unknown = [t for t in types if t not in LEUKOCYTE_TYPES]
    if unknown:
        raise ValueError(f"unknown types {unknown}; expected some of {list(LEUKOCYTE_TYPES)}")
    if not types or len(set(types)) < len(types):
        raise ValueError(f"types must name each type once and at least one, got {list(types)}")
    return types


# --- one image ---------------------------------------------------------------------------------


def _draw(leukocyte_type: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one image, uint8 (size, size, 3)."""
    from scipy.ndimage import gaussian_filter

    look = _LOOKS[leukocyte_type]
    pixel = FRAME / size
    y, x = _grid(size)
    radius = rng.uniform(*look.radius)
    centre = rng.normal(0.0, 3.0, 2)
    stain = _Stain(rng)

    absorbance, red_distance = _red_cells(rng, x, y, pixel, centre, radius, stain)
    _platelets(rng, x, y, pixel, absorbance, stain)

    ruffle = rng.uniform(*look.ruffle)
    coarse = _noise(rng, size, 7.0), _noise(rng, size, 7.0)
    fine = _noise(rng, size, 2.2)
    u = x - centre[0] + ruffle * coarse[0]
    v = y - centre[1] + ruffle * coarse[1]
    cell_distance = _cell(rng, u, v, radius, look) + 0.35 * ruffle * fine
    if leukocyte_type == "atypical_lymphocyte":
        cell_distance = np.maximum(cell_distance, -red_distance)  # flows around its neighbours
    cell = _coverage(cell_distance, pixel)

    lobes, softness = _nucleus_lobes(rng, leukocyte_type, radius)
    u = x - centre[0] + 0.55 * ruffle * coarse[1] + 0.5 * fine
    v = y - centre[1] + 0.55 * ruffle * coarse[0] - 0.5 * fine
    nucleus_distance = _union(lobes, u, v, softness)
    nucleus_distance = np.maximum(nucleus_distance, cell_distance + 0.6)
    nucleus = _coverage(nucleus_distance, pixel)

    texture = 1.0 + 0.10 * coarse[0] + rng.uniform(0.03, 0.10) * fine
    texture += rng.uniform(0.05, 0.14) * _noise(rng, size, 0.8)
    if look.rim:
        edge = np.exp(-np.square(cell_distance / rng.uniform(3.0, 6.0)))
        texture *= 1.0 + look.rim * rng.uniform(0.5, 1.3) * edge
    absorbance *= (1.0 - cell)[..., None]
    absorbance += (cell * np.maximum(texture, 0.2))[..., None] * stain(look.cytoplasm, 0.16)

    _vacuoles(rng, x, y, centre, radius, absorbance, cell, look)

    grain = _noise(rng, size, look.chromatin_scale) + 0.6 * _noise(
        rng, size, 2.2 * look.chromatin_scale
    )
    chromatin = 1.0 + look.chromatin_contrast * rng.uniform(0.7, 1.3) * grain
    membrane = rng.uniform(0.10, 0.40) * np.exp(-np.square(nucleus_distance / 1.3))
    absorbance *= (1.0 - nucleus)[..., None]
    absorbance += (nucleus * np.maximum(chromatin + membrane, 0.35))[..., None] * stain(
        look.nucleus, 0.10
    )

    granules = _granules(rng, size, look, coarse[1]) * cell
    granules *= 1.0 - (1.0 - look.granules_on_nucleus) * nucleus
    absorbance += granules[..., None] * stain(look.granule, 0.14)

    image = _light(rng, x, y) * np.exp(-absorbance)
    blur = rng.uniform(0.30, 0.80) / pixel
    image = gaussian_filter(image, (blur, blur, 0.0), mode="nearest", truncate=2.5)
    shot = rng.uniform(0.006, 0.016)
    image += shot * rng.standard_normal(image.shape, dtype=np.float32) * np.sqrt(image)
    result: np.ndarray = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    return result


class _Stain:
    """Stain of one image: turns an ideal absorbance into this smear's, with a jitter per use."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.strength = math.exp(rng.normal(0.0, 0.10))
        self.balance = np.exp(rng.normal(0.0, 0.045, 3))
        self.mix = np.eye(3) + rng.normal(0.0, 0.02, (3, 3))

    def __call__(self, absorbance: Sequence[float], jitter: float) -> np.ndarray:
        ideal = np.asarray(absorbance) * np.exp(self.rng.normal(0.0, 0.4 * jitter, 3))
        ideal *= math.exp(self.rng.normal(0.0, jitter))
        seen = self.strength * self.balance * (self.mix @ ideal)
        result: np.ndarray = np.maximum(seen, 0.0).astype(np.float32)
        return result


def _light(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Empty-field light (size, size, 3): lamp colour, gain, a tilt and a mild vignette."""
    lamp = np.array([0.985, 0.90, 0.81]) + rng.uniform(0.0, 1.0) * np.array([-0.005, 0.03, 0.09])
    lamp = lamp * rng.uniform(0.90, 1.0) + rng.normal(0.0, 0.008, 3)
    half = FRAME / 2
    tilt = rng.normal(0.0, 0.015, 2)
    field = 1.0 + (tilt[0] * x + tilt[1] * y) / half
    field = field - rng.uniform(0.0, 0.06) * (x * x + y * y) / (half * half)
    result: np.ndarray = field[..., None] * lamp.astype(np.float32)
    return result


# --- around the leukocyte ----------------------------------------------------------------------


def _red_cells(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    pixel: float,
    centre: np.ndarray,
    radius: float,
    stain: _Stain,
) -> tuple[np.ndarray, np.ndarray]:
    """Absorbance (size, size, 3) of the red cells, and the distance to the nearest one."""
    size = x.shape[1]
    amount = np.zeros((size, size), dtype=np.float32)
    distance = np.full((size, size), FRAME, dtype=np.float32)
    crowding = rng.uniform(0.75, 1.05)
    pallor_here = rng.uniform(0.0, 0.75)
    discs: list[tuple[float, float, float]] = []
    for _ in range(rng.integers(15, 60)):
        cx, cy = rng.uniform(-72.0, 72.0, 2)
        r = rng.normal(16.0, 1.3)
        if math.hypot(cx - centre[0], cy - centre[1]) < radius + rng.uniform(0.45, 0.9) * r:
            continue
        if any(math.hypot(cx - a, cy - b) < crowding * (r + c) for a, b, c in discs):
            continue
        discs.append((cx, cy, r))
        stretch = math.exp(rng.normal(0.0, 0.07))
        turn = rng.uniform(0.0, math.pi)
        dent = rng.normal(0.0, 0.035, 2)
        depth = rng.uniform(0.85, 1.15)
        pallor = np.clip(pallor_here + rng.normal(0.0, 0.15), 0.0, 0.85)
        pallor_radius = rng.uniform(0.35, 0.55)
        rows, columns = _window(cx, cy, 1.35 * r, pixel, size)
        dx, dy = x[:, columns] - cx, y[rows] - cy
        a = (math.cos(turn) * dx + math.sin(turn) * dy) * stretch
        b = (math.cos(turn) * dy - math.sin(turn) * dx) / stretch
        rho = np.sqrt(a * a + b * b)
        unit_a, unit_b = a / (rho + 1.0), b / (rho + 1.0)
        outline = 1.0 + dent[0] * (unit_a * unit_a * unit_a) + 2.0 * dent[1] * unit_a * unit_b
        sd = rho - r * outline
        distance[rows, columns] = np.minimum(distance[rows, columns], sd)
        hollow = 1.0 - pallor * np.exp(-np.square(np.square(rho / (pallor_radius * r))))
        hollow += 0.12 * np.exp(-np.square((sd + 2.2) / 2.0))
        amount[rows, columns] += depth * hollow * _coverage(sd, pixel)
    return amount[..., None] * stain((0.18, 0.265, 0.17), 0.10), distance


def _platelets(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    pixel: float,
    absorbance: np.ndarray,
    stain: _Stain,
) -> None:
    """Add up to three platelets to ``absorbance``."""
    size = x.shape[1]
    for _ in range(rng.choice(4, p=(0.5, 0.25, 0.15, 0.1))):
        cx, cy = rng.uniform(-62.0, 62.0, 2)
        r = rng.uniform(1.8, 5.0)
        rows, columns = _window(cx, cy, 1.6 * r, pixel, size)
        dx, dy = x[:, columns] - cx, y[rows] - cy
        angle = np.arctan2(dy, dx)
        sd = np.hypot(dx, dy) - r * (1.0 + 0.15 * np.sin(3.0 * angle + rng.uniform(0.0, 6.3)))
        speckle = rng.uniform(0.4, 1.2, sd.shape).astype(np.float32)
        speckle *= 0.5 + np.exp(-np.square((sd + r) / (0.7 * r)))
        absorbance[rows, columns] += (speckle * _coverage(sd, pixel))[..., None] * stain(
            (0.45, 0.75, 0.20), 0.15
        )


# --- the leukocyte -----------------------------------------------------------------------------


def _cell(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float, look: _Look
) -> np.ndarray:
    """Distance to the cell's outline: an ellipse, perhaps with pseudopods."""
    aspect = math.sqrt(rng.uniform(*look.aspect))
    turn = rng.uniform(0.0, math.pi)
    a = (math.cos(turn) * u + math.sin(turn) * v) / aspect
    b = (math.cos(turn) * v - math.sin(turn) * u) * aspect
    distance = np.sqrt(a * a + b * b) - radius
    if rng.random() < look.pseudopod:
        for _ in range(rng.integers(1, 4)):
            toward = rng.uniform(0.0, 2.0 * math.pi)
            reach = radius * rng.uniform(1.0, 1.35)
            foot = (
                0.4 * radius * math.cos(toward), 0.4 * radius * math.sin(toward),
                radius * rng.uniform(0.3, 0.5),
                reach * math.cos(toward), reach * math.sin(toward),
                radius * rng.uniform(0.08, 0.25),
            )  # fmt: skip
            distance = _smooth_minimum(distance, _capsule(u, v, *foot), 3.0)
    result: np.ndarray = distance
    return result


def _nucleus_lobes(
    rng: np.random.Generator, leukocyte_type: str, radius: float
) -> tuple[list[Capsule], float]:
    """Nucleus as tapered capsules (x0, y0, r0, x1, y1, r1), and how softly they join."""
    turn = rng.uniform(0.0, 2.0 * math.pi)
    shift = radius * rng.normal(0.0, 0.06, 2)
    match leukocyte_type:
        case "neutrophil":
            n_lobes = rng.choice((2, 3, 4, 5), p=(0.22, 0.42, 0.28, 0.08))
            lobe = radius * rng.uniform(0.92, 1.08) * (0.0, 0.0, 0.29, 0.25, 0.225, 0.20)[n_lobes]
            orbit, span = radius * rng.uniform(0.42, 0.54), (0.0, 0.0, 2.3, 3.4, 4.4, 5.1)[n_lobes]
            bridge = radius * rng.uniform(0.05, 0.19)
            return _chain(rng, n_lobes, lobe, bridge, orbit, span, turn, shift), 1.5
        case "eosinophil":
            n_lobes = rng.choice((2, 3), p=(0.85, 0.15))
            lobe = radius * rng.uniform(0.29, 0.36) * (1.0 if n_lobes == 2 else 0.82)
            orbit, span = radius * rng.uniform(0.40, 0.48), rng.uniform(1.9, 2.6) * (n_lobes - 1)
            bridge = radius * rng.uniform(0.06, 0.16)
            return _chain(rng, n_lobes, lobe, bridge, orbit, span, turn, shift), 2.0
        case "basophil":
            n_lobes = rng.choice((2, 3))
            lobe = radius * rng.uniform(0.40, 0.50) * (1.0 if n_lobes == 2 else 0.88)
            orbit, span = radius * rng.uniform(0.30, 0.42), rng.uniform(1.7, 2.2) * (n_lobes - 1)
            return _chain(rng, n_lobes, lobe, 0.25 * radius, orbit, span, turn, shift), 4.0
        case "monocyte":
            width = radius * rng.uniform(0.34, 0.46)
            orbit, span = radius * rng.uniform(0.34, 0.50), rng.uniform(1.6, 4.2)
            angles = turn + np.linspace(-span / 2, span / 2, 5)
            nodes = np.stack((np.cos(angles), np.sin(angles)), axis=1) * orbit + shift
            nodes -= 0.35 * nodes.mean(axis=0)
            widths = width * rng.uniform(0.82, 1.15, 5)
            return _join(nodes, widths), 3.0
        case _:
            fill = (0.78, 0.95) if leukocyte_type == "lymphocyte" else (0.52, 0.82)
            r = radius * rng.uniform(*fill)
            half = r * rng.uniform(0.02, 0.30) * np.array((math.cos(turn), math.sin(turn)))
            ends = r - np.hypot(*half) * rng.uniform(0.7, 1.3, 2)
            shift *= 2.0 if leukocyte_type == "atypical_lymphocyte" else 0.6
            return _join(np.stack((shift - half, shift + half)), ends), 1.0


def _chain(
    rng: np.random.Generator,
    n_lobes: int,
    lobe: float,
    bridge: float,
    orbit: float,
    span: float,
    turn: float,
    shift: np.ndarray,
) -> list[Capsule]:
    """Lobes along an arc around the cell's centre, each joined to the next by a bridge."""
    angles = turn + np.linspace(-span / 2, span / 2, n_lobes) + rng.normal(0.0, 0.12, n_lobes)
    orbits = orbit * rng.uniform(0.85, 1.12, n_lobes)
    lobes = []
    for angle, distance in zip(angles, orbits, strict=True):
        r = lobe * rng.uniform(0.82, 1.15)
        cx, cy = distance * math.cos(angle) + shift[0], distance * math.sin(angle) + shift[1]
        along = angle + math.pi / 2 + rng.normal(0.0, 0.5)
        half = r * rng.uniform(0.15, 0.75)
        dx, dy = half * math.cos(along), half * math.sin(along)
        ends = 0.95 * r * rng.uniform(0.75, 1.1, 2)
        lobes.append((cx - dx, cy - dy, ends[0], cx + dx, cy + dy, ends[1]))
    arc = np.linspace(0, n_lobes - 1, 2 * n_lobes - 1)
    angles = np.interp(arc, np.arange(n_lobes), angles)
    orbits = np.interp(arc, np.arange(n_lobes), orbits)
    nodes = np.stack((np.cos(angles), np.sin(angles)), axis=1) * orbits[:, None] + shift
    return lobes + _join(nodes, np.full(len(nodes), bridge))


def _join(nodes: np.ndarray, radii: np.ndarray) -> list[Capsule]:
    return [(*nodes[i], radii[i], *nodes[i + 1], radii[i + 1]) for i in range(len(nodes) - 1)]


def _vacuoles(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    centre: np.ndarray,
    radius: float,
    absorbance: np.ndarray,
    cell: np.ndarray,
    look: _Look,
) -> None:
    """Thin ``absorbance`` where the cytoplasm holds clear vacuoles."""
    if rng.random() > look.vacuoles:
        return
    size = x.shape[1]
    for _ in range(rng.integers(1, 12)):
        toward, away = rng.uniform(0.0, 2.0 * math.pi), radius * math.sqrt(rng.uniform(0.15, 0.95))
        cx, cy = centre[0] + away * math.cos(toward), centre[1] + away * math.sin(toward)
        r = rng.uniform(0.8, 2.6)
        rows, columns = _window(cx, cy, 3.0 * r, FRAME / size, size)
        hole = np.exp(-np.square((np.square(x[:, columns] - cx) + np.square(y[rows] - cy)) / r**2))
        absorbance[rows, columns] *= (1.0 - 0.75 * hole * cell[rows, columns])[..., None]


def _granules(
    rng: np.random.Generator, size: int, look: _Look, patchiness: np.ndarray
) -> np.ndarray:
    """Amount of granule stain, 0 to about 1, over the whole image."""
    from scipy.ndimage import gaussian_filter

    n = rng.poisson(rng.uniform(*look.granules) * FRAME * FRAME / 100.0)
    width = rng.uniform(*look.granule_size) * size / FRAME
    where = rng.integers(0, size, (2, n))
    weight = rng.gamma(3.0, 1.0 / 3.0, n) * (2.0 * math.pi * width * width)
    points = np.bincount(where[0] * size + where[1], weight, size * size)
    points = points.reshape(size, size).astype(np.float32)
    amount = gaussian_filter(points, width, truncate=3.0, mode="nearest")
    amount *= np.maximum(1.0 + 0.25 * patchiness, 0.0)
    result: np.ndarray = 1.0 - np.exp(-amount)
    return result


# --- grids, noise and distances ----------------------------------------------------------------


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres y (size, 1) and x (1, size), in units, from the middle of the image."""
    axis = ((np.arange(size) + 0.5) * (FRAME / size) - FRAME / 2).astype(np.float32)
    axis.flags.writeable = False
    return axis[:, None], axis[None, :]


@lru_cache(maxsize=64)
def _smoothing(size: int, scale: float) -> np.ndarray:
    """Fourier weights that turn white noise into noise of that scale with unit variance."""
    f = np.fft.fftfreq(size, FRAME / size), np.fft.rfftfreq(size, FRAME / size)
    weights = np.exp(-2.0 * (math.pi * scale) ** 2 * (f[0][:, None] ** 2 + f[1][None, :] ** 2))
    weights[0, 0] = 0.0
    kernel = np.fft.irfft2(weights, s=(size, size))
    weights = (weights / np.sqrt(np.sum(kernel**2))).astype(np.float32)
    weights.flags.writeable = False
    result: np.ndarray = weights
    return result


def _noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    """Smooth noise (size, size), mean 0 and variance 1, correlated over ``scale`` units."""
    white = rng.standard_normal((size, size), dtype=np.float32)
    return np.fft.irfft2(np.fft.rfft2(white) * _smoothing(size, scale), s=(size, size)).astype(
        np.float32
    )


def _window(cx: float, cy: float, reach: float, pixel: float, size: int) -> tuple[slice, slice]:
    """Rows and columns of the image within ``reach`` of a point."""
    low = [int(np.clip((c - reach + FRAME / 2) / pixel, 0, size)) for c in (cy, cx)]
    high = [int(np.clip((c + reach + FRAME / 2) / pixel + 1, 0, size)) for c in (cy, cx)]
    return slice(low[0], high[0]), slice(low[1], high[1])


def _coverage(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Part of each pixel inside an outline."""
    return np.clip(0.5 - distance / pixel, 0.0, 1.0)


def _capsule(
    u: np.ndarray, v: np.ndarray, x0: float, y0: float, r0: float, x1: float, y1: float, r1: float
) -> np.ndarray:
    """Distance to a thick line from one disc to another."""
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    a, b = u - x0 - along * dx, v - y0 - along * dy
    result: np.ndarray = np.sqrt(a * a + b * b) - (r0 + along * (r1 - r0))
    return result


def _smooth_minimum(a: np.ndarray, b: np.ndarray, softness: float) -> np.ndarray:
    overlap = np.maximum(softness - np.abs(a - b), 0.0)
    result: np.ndarray = np.minimum(a, b) - overlap * overlap / (4.0 * softness)
    return result


def _union(capsules: list[Capsule], u: np.ndarray, v: np.ndarray, softness: float) -> np.ndarray:
    """Distance to the union of capsules, its inner corners rounded."""
    distance = _capsule(u, v, *capsules[0])
    for capsule in capsules[1:]:
        distance = _smooth_minimum(distance, _capsule(u, v, *capsule), softness)
    return distance
