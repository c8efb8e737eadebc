"""How what lies on a stained smear is drawn: leukocytes, red cells, platelets, camera.

A cell is a signed distance (negative inside) turned into coverage; what it covers is an absorbance
for red, green and blue; the camera sees ``light * exp(-absorbance)``, then blur and noise
(Beer-Lambert). Lengths are in units: 120 span the square image of one cell, 32 a red cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

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

RED_CELL, PLATELET = (0.18, 0.265, 0.17), (0.45, 0.75, 0.20)  # absorbances


@dataclass(frozen=True)
class Look:
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


LOOKS = {
    "atypical_lymphocyte": Look(
        radius=(26, 37), aspect=(1.0, 1.4), ruffle=(1.2, 3.2),
        cytoplasm=(0.47, 0.40, 0.09), rim=0.9,
        nucleus=(1.00, 1.45, 0.46), chromatin_scale=0.8, chromatin_contrast=0.17,
        granule=(0.5, 0.9, 0.2), granules=(0.0, 0.5), granule_size=(0.6, 0.9),
        granules_on_nucleus=0.2, pseudopod=0.4, vacuoles=0.25,
    ),
    "basophil": Look(
        radius=(24, 31), aspect=(1.0, 1.2), ruffle=(0.5, 1.3),
        cytoplasm=(0.28, 0.55, 0.15), rim=0.0,
        nucleus=(0.92, 1.25, 0.44), chromatin_scale=1.1, chromatin_contrast=0.13,
        granule=(1.15, 1.55, 0.58), granules=(8.0, 18.0), granule_size=(0.85, 1.15),
        granules_on_nucleus=0.75, pseudopod=0.05, vacuoles=0.1,
    ),
    "eosinophil": Look(
        radius=(25, 35), aspect=(1.0, 1.2), ruffle=(0.4, 1.1),
        cytoplasm=(0.22, 0.36, 0.14), rim=0.0,
        nucleus=(1.22, 1.50, 0.46), chromatin_scale=0.9, chromatin_contrast=0.20,
        granule=(0.16, 0.62, 0.44), granules=(18.0, 45.0), granule_size=(0.65, 0.95),
        granules_on_nucleus=0.15, pseudopod=0.03, vacuoles=0.25,
    ),
    "lymphocyte": Look(
        radius=(19, 28), aspect=(1.0, 1.2), ruffle=(0.6, 2.0),
        cytoplasm=(0.50, 0.43, 0.09), rim=0.3,
        nucleus=(1.35, 1.70, 0.55), chromatin_scale=1.1, chromatin_contrast=0.15,
        granule=(0.5, 0.9, 0.2), granules=(0.0, 0.3), granule_size=(0.6, 0.9),
        granules_on_nucleus=0.0, pseudopod=0.2, vacuoles=0.03,
    ),
    "monocyte": Look(
        radius=(28, 37), aspect=(1.0, 1.35), ruffle=(1.0, 2.8),
        cytoplasm=(0.35, 0.38, 0.09), rim=0.1,
        nucleus=(1.02, 1.48, 0.46), chromatin_scale=0.75, chromatin_contrast=0.19,
        granule=(0.4, 0.7, 0.2), granules=(0.5, 4.0), granule_size=(0.5, 0.8),
        granules_on_nucleus=0.2, pseudopod=0.35, vacuoles=0.5,
    ),
    "neutrophil": Look(
        radius=(27, 36), aspect=(1.0, 1.25), ruffle=(0.4, 1.3),
        cytoplasm=(0.13, 0.24, 0.05), rim=0.0,
        nucleus=(1.42, 1.70, 0.56), chromatin_scale=1.0, chromatin_contrast=0.23,
        granule=(0.26, 0.48, 0.13), granules=(4.0, 17.0), granule_size=(0.5, 0.8),
        granules_on_nucleus=0.1, pseudopod=0.05, vacuoles=0.1,
    ),
}  # fmt: skip


class Stain:
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


# --- red cells and platelets -------------------------------------------------------------------


def red_cell(
    rng: np.random.Generator, dx: np.ndarray, dy: np.ndarray, r: float, pallor: float, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the outline of a red cell of radius `r` around 0, 0, and its amount of stain."""
    stretch = math.exp(rng.normal(0.0, 0.07))
    turn = rng.uniform(0.0, math.pi)
    dent = rng.normal(0.0, 0.035, 2)
    depth = rng.uniform(0.85, 1.15)
    pallor = np.clip(pallor + rng.normal(0.0, 0.15), 0.0, 0.85)
    pallor_radius = rng.uniform(0.35, 0.55)
    a = (math.cos(turn) * dx + math.sin(turn) * dy) * stretch
    b = (math.cos(turn) * dy - math.sin(turn) * dx) / stretch
    rho = np.sqrt(a * a + b * b)
    unit_a, unit_b = a / (rho + 1.0), b / (rho + 1.0)
    outline = 1.0 + dent[0] * (unit_a * unit_a * unit_a) + 2.0 * dent[1] * unit_a * unit_b
    distance = rho - r * outline
    hollow = 1.0 - pallor * np.exp(-np.square(np.square(rho / (pallor_radius * r))))
    hollow += 0.12 * np.exp(-np.square((distance + 2.2) / 2.0))
    return distance, depth * hollow * coverage(distance, pixel)


def platelet(
    rng: np.random.Generator, dx: np.ndarray, dy: np.ndarray, r: float, pixel: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the outline of a platelet of radius `r` around 0, 0, and its amount of stain."""
    angle = np.arctan2(dy, dx)
    wavy = r * (1.0 + 0.15 * np.sin(3.0 * angle + rng.uniform(0.0, 6.3)))
    distance = np.hypot(dx, dy) - wavy
    speckle = rng.uniform(0.4, 1.2, distance.shape).astype(np.float32)
    speckle *= 0.5 + np.exp(-np.square((distance + r) / (0.7 * r)))
    return distance, speckle * coverage(distance, pixel)


# --- camera ------------------------------------------------------------------------------------


def lamp_colour(rng: np.random.Generator) -> np.ndarray:
    """Light (3,) of a lamp on an empty slide."""
    lamp = np.array([0.985, 0.90, 0.81]) + rng.uniform(0.0, 1.0) * np.array([-0.005, 0.03, 0.09])
    result: np.ndarray = lamp * rng.uniform(0.90, 1.0) + rng.normal(0.0, 0.008, 3)
    return result


def photograph(
    rng: np.random.Generator, absorbance: np.ndarray, light: np.ndarray, blur: float
) -> np.ndarray:
    """What a camera makes of (H, W, 3), uint8; `blur` is in pixels."""
    from scipy.ndimage import gaussian_filter

    image = light * np.exp(-absorbance)
    image = gaussian_filter(image, (blur, blur, 0.0), mode="nearest", truncate=2.5)
    shot = rng.uniform(0.006, 0.016)
    image += shot * rng.standard_normal(image.shape, dtype=np.float32) * np.sqrt(image)
    result: np.ndarray = np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    return result


# --- the leukocyte -----------------------------------------------------------------------------


def add_leukocyte(
    rng: np.random.Generator,
    leukocyte_type: str,
    radius: float,
    centre: np.ndarray,
    absorbance: np.ndarray,
    red_distance: np.ndarray,
    stain: Stain,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a leukocyte over the absorbance (size, size, 3) of a square that is 120 units wide.

    Returns the coverages (size, size) of the cell and of its nucleus.
    """
    look = LOOKS[leukocyte_type]
    size = len(absorbance)
    pixel = FRAME / size
    y, x = grid((size, size), pixel)

    ruffle = rng.uniform(*look.ruffle)
    coarse = _noise(rng, size, 7.0), _noise(rng, size, 7.0)
    fine = _noise(rng, size, 2.2)
    u = x - centre[0] + ruffle * coarse[0]
    v = y - centre[1] + ruffle * coarse[1]
    cell_distance = _cell(rng, u, v, radius, look) + 0.35 * ruffle * fine
    if leukocyte_type == "atypical_lymphocyte":
        cell_distance = np.maximum(cell_distance, -red_distance)  # flows around its neighbours
    cell = coverage(cell_distance, pixel)

    lobes, softness = _nucleus_lobes(rng, leukocyte_type, radius)
    u = x - centre[0] + 0.55 * ruffle * coarse[1] + 0.5 * fine
    v = y - centre[1] + 0.55 * ruffle * coarse[0] - 0.5 * fine
    nucleus_distance = _union(lobes, u, v, softness)
    nucleus_distance = np.maximum(nucleus_distance, cell_distance + 0.6)
    nucleus = coverage(nucleus_distance, pixel)

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
    return cell, nucleus


def _cell(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float, look: Look
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
    look: Look,
) -> None:
    """Thin ``absorbance`` where the cytoplasm holds clear vacuoles."""
    if rng.random() > look.vacuoles:
        return
    size = x.shape[1]
    for _ in range(rng.integers(1, 12)):
        toward, away = rng.uniform(0.0, 2.0 * math.pi), radius * math.sqrt(rng.uniform(0.15, 0.95))
        cx, cy = centre[0] + away * math.cos(toward), centre[1] + away * math.sin(toward)
        r = rng.uniform(0.8, 2.6)
        rows, columns = window(cx, cy, 3.0 * r, FRAME / size, (size, size))
        hole = np.exp(-np.square((np.square(x[:, columns] - cx) + np.square(y[rows] - cy)) / r**2))
        absorbance[rows, columns] *= (1.0 - 0.75 * hole * cell[rows, columns])[..., None]


def _granules(
    rng: np.random.Generator, size: int, look: Look, patchiness: np.ndarray
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


def grid(shape: tuple[int, int], pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres y (H, 1) and x (1, W), in units, from the middle of the image."""
    y, x = (((np.arange(n) + 0.5) * pixel - n * pixel / 2).astype(np.float32) for n in shape)
    return y[:, None], x[None, :]


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


def window(
    cx: float, cy: float, reach: float, pixel: float, shape: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns of the image within ``reach`` of a point."""
    rows, columns = (
        slice(
            int(np.clip((c - reach + n * pixel / 2) / pixel, 0, n)),
            int(np.clip((c + reach + n * pixel / 2) / pixel + 1, 0, n)),
        )
        for c, n in zip((cy, cx), shape, strict=True)
    )
    return rows, columns


def coverage(distance: np.ndarray, pixel: float) -> np.ndarray:
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
