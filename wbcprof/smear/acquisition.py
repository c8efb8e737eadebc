"""How an image was taken: size of its red cells, colour of its empty background, stain, sharpness.

The red cell is the ruler of a smear, about 7.5 um across everywhere. No labels and no learning:

light      the image is reduced by block averages; background, red cells and nuclei are three
           classes of the logarithm of green light, uneven light a quadratic surface where that
           clears the background
edges      pixels where red cells border on the background, with the direction into the cell
circles    every edge votes for the centres that lie one radius inwards (Hough); circles are fitted
           to the edges that voted for a centre, so cells may overlap, touch or be cut
agreement  circles of about one size, without nucleus, are red cells; fewer than three are "unknown"

Diameters are those of the visible edge, half way from the background to the cell. Boxes that are
drawn around cells are wider, by as much as 16 %: see `bench/accuracy/rulers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

_SIDE = 160  # px, shorter side of the reduced image, about
_LEAST_DIAMETER = 16  # px of the reduced image; smaller ones are measured again, reduced by half
_LEAST_SIDE = 16  # px of the reduced image; of smaller ones nothing is told
_BLACK = 8  # grey levels; where no channel is above, there is no image
_STEP = 2  # px between the reduced pixels that light and thresholds are found from
_DENSITIES = (-0.15, 1.25)  # optical density over the background (natural log) of the histogram
_BINS = 80  # of that histogram
_EDGE = 0.45  # of the median density of red cells: where their edge is
_UPPER = 1.6  # times that median density: above are no single red cells
_BETTER = 1.15  # times as clear as with even light must be what is taken for uneven light
_BRIGHT, _ASYMMETRY = 97, 0.9  # percentile of the background; weight of brighter pixels in a fit
_LEAST_BACKGROUND = 0.03  # share of the image
_MOST_SPREAD = 0.15  # optical density; a background that varies more is none
_LEAST_CONTRAST = 3.2  # median density of red cells, in standard deviations of the background
_FAINT = 0.05  # optical density; where nothing is denser, all is background
_MOST_RAGGED = 0.5  # edge pixels for each stained one; more is noise or stripes
_NUCLEUS = 0.2  # of optical density, red and green less blue: how much bluer nuclei are, at least
_THIN = 0.5  # of the 90th percentile of the density of blue pixels: cytoplasm
_LEAST_BLUE = 20  # percentile of what is stained, than which they are bluer
_DENOISING = 0.6  # px of the reduced image, standard deviation, before thresholds
_SMOOTHING = 1.0  # px of the reduced image, before gradients
_FRINGE = 1  # px of the reduced image, half the width of blue fringes that are no nuclei
_MOST_EDGES = 2500  # edge pixels that vote, at most
_RADII = 5 * 1.1 ** np.arange(24)  # px of the reduced image
_WIDEST = 0.45  # of the shorter side, largest radius
_CELL = 0.2  # of the radius, side of the squares that votes fall in
_FULL = 0.9 * 2 * np.pi  # edge pixels of a whole circle, for a radius of 1
_FILLED = 0.33  # of the edge pixels of a sixteenth of a circle that it must have
_LEAST_VOTES = 0.35  # of a full circle
_MOST_CIRCLES = 60  # that are fitted, at most
_TOLERANCES = (0.3, 0.22, 0.16)  # of the radius, distance from the circle of edges fitted, in turn
_LEAST_EDGES = 8  # that a circle is fitted to
_INWARDS = 0.85  # cosine between an edge's direction and that to the centre, at least
_LEAST_ARC = 0.6  # of a circle that edges must cover
_MOST_ROUGH = 0.1  # of the radius, standard deviation of edges from their circle
_INSIDE, _MOST_INSIDE = 0.8, 1.3  # of the radius; of a circle, edges that lie further in
_APART = 0.6  # of the larger radius, distance of centres
_MOST_NUCLEUS, _LEAST_STAINED = 0.12, 0.35  # of a red cell's disc
_LEAST_COVERED = 0.15  # of what is stained, by red cells that agree, if they are not many
_MANY = 8  # red cells
_AGREEING = 0.18  # difference in log diameter of red cells of one image
_LEAST_CELLS = 3  # red cells of one size; fewer are "unknown"
_LEAST_SHARE = 0.5  # of all circles found that must be of that size
_LEAST_VARIATION = 0.03  # of the diameter, standard deviation of red cells, whatever is seen
_LEAST_IMAGES = 0.1  # of a set, whose red cells must be known
_MOST_WEIGHT = 20  # red cells that one image counts for in a set
_PROFILES = 200  # strongest edges, that sharpness is read from
_NEAR, _FAR = 1, 4  # px to either side, over which their slopes are compared
_BLURS = np.geomspace(0.3, 8, 60)  # px, standard deviations that sharpness may be
_LEAST_STEP = 0.1  # of 255 grey levels, of an edge that sharpness is read from


@dataclass(frozen=True, eq=False)
class Acquisition:
    """How an image, or a set of images of one laboratory, was taken.

    Attributes
    ----------
    red_cell_diameter : float or None
        In pixels of the image as given, of the visible edge; None is unknown.
    n_red_cells : int
        Red cells that agree on it, 0 where it is unknown.
    red_cell_error : float or None
        Standard error of the diameter, as a share of it.
    background : ndarray of shape (3,), float64, or None
        Grey levels of the empty background, median; None where there is none to be seen.
    background_share : float
        Of the image, 0 to 1.
    background_spread : float
        Robust standard deviation of its optical density (green, natural log), light evened;
        infinite where there is none.
    red_cell_density, nucleus_density : ndarray of shape (3,), float64, or None
        Mean optical density (natural log) over the background of red cells and of nuclei.
    sharpness : float or None
        Blur in pixels: standard deviation of the Gaussian that would blur a step as the strongest
        edges are. Smaller is sharper.
    falloff : float or None
        Least light of the background, as a share of the most that is lost: 0 is even.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear.acquisition import measure
    >>> image = make_leukocytes(1, size=240, types=["lymphocyte"]).images[0]  # generated
    >>> found = measure(image)
    >>> found.n_red_cells >= 3, found.background.shape
    (True, (3,))
    """

    red_cell_diameter: float | None
    n_red_cells: int
    red_cell_error: float | None
    background: Array | None
    background_share: float
    background_spread: float
    red_cell_density: Array | None
    nucleus_density: Array | None
    sharpness: float | None
    falloff: float | None


class _Light(NamedTuple):
    density: Array  # (h, w), optical density of green over the background
    threshold: float  # edge of red cells
    contrast: float  # median density of red cells
    spread: float  # robust standard deviation of the background
    uneven: bool  # whether it is a quadratic surface


class _Edges(NamedTuple):
    y: Array  # px of the reduced image, (n,)
    x: Array
    dy: Array  # unit vectors towards the denser side, (n,)
    dx: Array
    kept: float  # share of all edge pixels


class _Circle(NamedTuple):
    y: float
    x: float
    radius: float
    arc: float  # share of the circle that edges cover
    rough: float  # standard deviation of edges from it, of the radius
    inside: float = 0.0  # edges well inside it, in those of a whole circle


class _Masks(NamedTuple):
    valid: Array  # (h, w), bool
    stained: Array
    nuclei: Array


def measure(image: Array) -> Acquisition:
    """Measure one image: a field, or a crop around one cell.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        RGB.

    Returns
    -------
    Acquisition
        What cannot be told is None.

    Raises
    ------
    ValueError
        It is no such image.

    Examples
    --------
    >>> import numpy as np
    >>> from wbcprof.smear.acquisition import measure
    >>> empty = measure(np.full((120, 120, 3), (240, 230, 220), np.uint8))
    >>> print(empty.red_cell_diameter, empty.background)
    None [240. 230. 220.]
    """
    _check(image)
    found = _measure(image, factor := max(1, round(min(image.shape[:2]) / _SIDE)))
    if factor > 1 and (found.red_cell_diameter or 0) < _LEAST_DIAMETER * factor:
        finer = _measure(image, factor // 2)
        found = finer if finer.red_cell_diameter else found
    return found


def _measure(image: Array, factor: int) -> Acquisition:
    """On the image reduced by that factor."""
    from scipy.ndimage import gaussian_filter

    reduced = _reduce(image, factor)
    logs = np.log(np.maximum(reduced, 1))
    valid = reduced.max(axis=2) > _BLACK
    if min(valid.shape) < _LEAST_SIDE or valid.sum() < _LEAST_SIDE**2:
        return _nothing()
    light = _find_light(gaussian_filter(logs[..., 1], _DENOISING), valid)
    masks = _find_masks(logs, light, valid)
    circles = _agreeing(_red_cells(light, masks)) if _is_smear(light, masks) else []
    covered = np.pi * sum(c.radius**2 for c in circles)
    if len(circles) < _MANY and covered < _LEAST_COVERED * masks.stained.sum():
        circles = []
    return _summary(image, reduced, logs, factor, light, masks, circles)


def pool(parts: Sequence[Acquisition]) -> Acquisition:
    """What many images of one laboratory say together: medians, weighted by their red cells.

    Parameters
    ----------
    parts : sequence of Acquisition
        Of images of one scale, at least one.

    Returns
    -------
    Acquisition
        The diameter is unknown where fewer than a tenth of the images know theirs, or where fewer
        than half of the red cells agree on it.

    Raises
    ------
    ValueError
        There are none.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.smear.acquisition import measure, pool
    >>> images = make_leukocytes(1, size=240).images  # generated
    >>> laboratory = pool([measure(image) for image in images])
    >>> print(laboratory.n_red_cells > 10, 54 < laboratory.red_cell_diameter < 68)
    True True
    """
    if not parts:
        raise ValueError("acquisitions of at least one image are needed, got none")
    diameter, n, error = _pooled_diameter(parts)
    return Acquisition(
        red_cell_diameter=diameter,
        n_red_cells=n,
        red_cell_error=error,
        background=_median([p.background for p in parts]),
        background_share=float(np.median([p.background_share for p in parts])),
        background_spread=float(np.median([p.background_spread for p in parts])),
        red_cell_density=_median([p.red_cell_density for p in parts]),
        nucleus_density=_median([p.nucleus_density for p in parts]),
        sharpness=_median_number([p.sharpness for p in parts]),
        falloff=_median_number([p.falloff for p in parts]),
    )


# --- light -------------------------------------------------------------------------------------


def _check(image: Array) -> None:
    if (
        not isinstance(image, np.ndarray) or image.dtype != np.uint8
        or image.shape[2:] != (3,) or not image.size
    ):  # fmt: skip
        got = getattr(image, "dtype", type(image).__name__)
        shape = getattr(image, "shape", "unknown")
        raise ValueError(f"an image must be uint8 (H, W, 3), got {got} of shape {shape}")


def _reduce(image: Array, factor: int) -> Array:
    """Means of blocks of factor x factor, (h, w, 3), float32."""
    height, width = (side // factor * factor for side in image.shape[:2])
    total = np.zeros((height // factor, width // factor, 3), np.uint32)
    for i in range(factor):
        for j in range(factor):
            total += image[i:height:factor, j:width:factor]
    return total.astype(np.float32) / np.float32(factor**2)


def _find_light(green: Array, valid: Array) -> _Light:
    """The background's light, even or a quadratic surface, whichever parts the classes better."""
    best = _levels(np.percentile(green[valid], _BRIGHT) - green, valid, uneven=False)
    other = _levels(_envelope(green, valid) - green, valid, uneven=True)
    return other if _clarity(other) > _BETTER * _clarity(best) else best


def _clarity(light: _Light) -> float:
    """Density of red cells in standard deviations of the background."""
    return light.contrast / max(light.spread, 1e-3)


def _levels(density: Array, valid: Array, uneven: bool) -> _Light:
    """Background at 0 and the edge of red cells, found from a sample of the pixels."""
    grid = np.s_[::_STEP, ::_STEP]
    base = _terms(density.shape, _STEP)[valid[grid]]
    sample = density[grid][valid[grid]].astype(np.float64)
    shift = np.zeros(6)
    shift[0] = np.percentile(sample, 100 - _BRIGHT)
    below, above = _three_classes(sample - shift[0])
    contrast = 0.0
    for _ in range(3):
        rest = sample - base @ shift
        empty, red = rest < below, (rest >= below) & (rest < above)
        if empty.sum() < len(shift) * 3 or not red.any():
            break
        if uneven:
            shift += np.linalg.lstsq(base[empty], rest[empty], rcond=None)[0]
        else:
            shift[0] += np.median(rest[empty])
        contrast = float(np.median((sample - base @ shift)[red]))
        below, above = _EDGE * contrast, max(above, _UPPER * contrast)
    rest = sample - base @ shift
    empty = rest < below
    spread = 1.4826 * np.median(np.abs(rest[empty])) if empty.any() else np.inf
    density = density - _surface(density.shape, shift)
    return _Light(density, float(below), contrast, float(spread), uneven)


def _three_classes(sample: Array) -> tuple[float, float]:
    """Two thresholds by Otsu's method."""
    low, high = _DENSITIES
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.histogram(np.clip(sample, low, high), edges)[0] / sample.size
    mass = np.concatenate([[0.0], counts.cumsum()])
    moment = np.concatenate([[0.0], (counts * (edges[1:] + edges[:-1]) / 2).cumsum()])

    def between(a: Any, b: Any) -> Array:
        inside = mass[b] - mass[a]
        result: Array = np.square(moment[b] - moment[a]) / np.maximum(inside, 1e-9)
        return result

    i, j = np.triu_indices(_BINS, 1)
    i, j = i[mass[i] > 0], j[mass[i] > 0]
    gain = between(0, i) + between(i, j) + between(j, _BINS)
    ties = np.flatnonzero((gain > gain.max() - 1e-9) & (j == j[gain.argmax()]))
    best = int(ties[len(ties) // 2])  # half way where nothing lies between
    return float(edges[i[best]]), float(edges[j[best]])


def _terms(shape: tuple[int, ...], step: int = 1) -> Array:
    """Terms of a quadratic surface, (h, w, 6), at every `step`th pixel."""
    y, x = (np.linspace(-1, 1, side)[::step] for side in shape)
    y, x = y[:, None] + 0 * x, x + 0 * y[:, None]
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def _surface(shape: tuple[int, ...], terms: Array) -> Array:
    """A quadratic surface (h, w) of those six coefficients."""
    y, x = (np.linspace(-1, 1, side) for side in shape)
    a, b, c, d, e, f = terms
    result: Array = (a + b * x + d * x * x) + (c * y + f * y * y)[:, None] + e * y[:, None] * x
    return result


def _envelope(green: Array, valid: Array) -> Array:
    """A quadratic surface along the bright side of the pixels: a regression of a high quantile."""
    grid = np.s_[:: 2 * _STEP, :: 2 * _STEP]
    known = _terms(green.shape, 2 * _STEP)[valid[grid]]
    values = green[grid][valid[grid]].astype(np.float64)
    weights = np.ones(len(values))
    for _ in range(8):
        moments = (known * weights[:, None]).T
        shape = np.linalg.solve(moments @ known + 1e-6 * np.eye(6), moments @ values)
        rest = values - known @ shape
        weights = np.where(rest > 0, _ASYMMETRY, 1 - _ASYMMETRY) / np.maximum(np.abs(rest), 0.02)
    return _surface(green.shape, shape)


def _find_masks(logs: Array, light: _Light, valid: Array) -> _Masks:
    stained = valid & (light.density > light.threshold)
    nuclei = np.zeros_like(stained)
    if stained.any() and not stained[valid].all():
        empty = valid & ~stained
        red, green, blue = (_even(c, empty, light.uneven) - c for c in np.moveaxis(logs, 2, 0))
        nuclei = _bluish((red + green) / 2 - blue, stained)
    return _Masks(valid, stained, nuclei)


def _even(channel: Array, empty: Array, uneven: bool) -> Array:
    """The background's level in every pixel (h, w), or in all of them, (1, 1)."""
    if not uneven:
        return np.full((1, 1), np.median(channel[empty]))
    grid = np.s_[::_STEP, ::_STEP]
    known, values = _terms(channel.shape, _STEP)[empty[grid]], channel[grid][empty[grid]]
    return _surface(channel.shape, np.linalg.lstsq(known, values, rcond=None)[0])


def _bluish(blue: Array, stained: Array) -> Array:
    """Nuclei: stained pixels that let far more of blue light through than of other light."""
    from scipy.ndimage import binary_opening

    least = np.percentile(blue[stained], _LEAST_BLUE) + _NUCLEUS
    nuclei: Array = binary_opening(stained & (blue > least), iterations=_FRINGE)
    return nuclei


def _is_seen(light: _Light, masks: _Masks) -> bool:
    """Whether there is an empty background, with nothing or something well apart from it."""
    stained = float(masks.stained[masks.valid].mean())
    return bool(
        1 - stained >= _LEAST_BACKGROUND
        and light.spread <= _MOST_SPREAD
        and (
            _clarity(light) >= _LEAST_CONTRAST
            or stained < _LEAST_BACKGROUND
            or light.contrast < _FAINT
        )
    )


def _is_smear(light: _Light, masks: _Masks) -> bool:
    """Whether what is stained is well apart from a background, in large pieces."""
    if not _is_seen(light, masks) or _clarity(light) < _LEAST_CONTRAST:
        return False
    return bool(_border(masks.stained).sum() <= _MOST_RAGGED * masks.stained.sum())


# --- circles -----------------------------------------------------------------------------------


def _border(mask: Array) -> Array:
    """Pixels of a mask with one of their four neighbours outside it; not those of the frame."""
    border = mask.copy()
    inner = mask[1:-1, 1:-1]
    surrounded = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    border[1:-1, 1:-1] = inner & ~surrounded
    border[[0, -1]] = False
    border[:, [0, -1]] = False
    return border


def _red_cells(light: _Light, masks: _Masks) -> list[_Circle]:
    """Circles along the edges of what is stained, without nucleus."""
    edges = _find_edges(light, masks)
    circles: list[_Circle] = []
    for start in _votes(edges, masks.valid.shape):
        if len(circles) == _MOST_CIRCLES:
            break
        if any(_is_same(start, circle) for circle in circles):
            continue
        circle = _fit(edges, start)
        if circle:
            circles.append(circle)
    return _apart([circle for circle in circles if _is_red(circle, masks)])


def _find_edges(light: _Light, masks: _Masks) -> _Edges:
    from scipy.ndimage import gaussian_filter

    border = _border(masks.stained)
    smooth = gaussian_filter(np.clip(light.density, 0, 2.2 * light.contrast), _SMOOTHING)
    y, x = np.nonzero(border)
    dy, dx = smooth[y + 1, x] - smooth[y - 1, x], smooth[y, x + 1] - smooth[y, x - 1]
    slope = np.hypot(dy, dx)
    keep = np.flatnonzero(slope > 0)
    step = max(1, -(-len(keep) // _MOST_EDGES))
    keep = keep[::step]
    return _Edges(y[keep], x[keep], dy[keep] / slope[keep], dx[keep] / slope[keep], 1 / step)


def _votes(edges: _Edges, shape: tuple[int, ...]) -> list[_Circle]:
    """Centres that many edges point to from one distance, the fullest circles first."""
    found: list[_Circle] = []
    for radius in _RADII[_RADII < _WIDEST * min(shape)]:
        found += _votes_at(edges, shape, float(radius))
    return sorted(found, key=lambda circle: -circle.arc)


def _votes_at(edges: _Edges, shape: tuple[int, ...], radius: float) -> Iterator[_Circle]:
    from scipy.ndimage import maximum_filter

    side = _CELL * radius
    rows, columns = (int(s / side) + 2 for s in shape)
    y = ((edges.y + radius * edges.dy) / side).astype(int)
    x = ((edges.x + radius * edges.dx) / side).astype(int)
    inside = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    counts = np.bincount(y[inside] * columns + x[inside], minlength=rows * columns)
    counts = counts.reshape(rows, columns)
    votes = counts[:-1, :-1] + counts[1:, :-1] + counts[:-1, 1:] + counts[1:, 1:]
    full = edges.kept * _FULL * radius
    peaks = (votes == maximum_filter(votes, 3)) & (votes > _LEAST_VOTES * full)
    for i, j in zip(*np.nonzero(peaks), strict=True):
        yield _Circle((i + 1) * side, (j + 1) * side, radius, votes[i, j] / full, 0.0)


def _is_same(a: _Circle, b: _Circle) -> bool:
    near = (a.y - b.y) ** 2 + (a.x - b.x) ** 2 < (0.35 * b.radius) ** 2
    return bool(near and abs(np.log(a.radius / b.radius)) < 0.35)


def _fit(edges: _Edges, circle: _Circle) -> _Circle | None:
    """The circle through the edges near a first one (Kåsa's least squares), thrice."""
    y, x, radius = circle[:3]
    edges = _along(edges, y, x, radius)
    for tolerance in _TOLERANCES:
        near, _ = _near(edges, y, x, radius, tolerance)
        if near.sum() < _LEAST_EDGES:
            return None
        v, u = edges.y[near] - y, edges.x[near] - x
        terms = np.stack([u, v, np.ones_like(u)], axis=1)
        moments = terms.T @ terms + 1e-6 * np.eye(3)
        a, b, c = np.linalg.solve(moments, terms.T @ (u * u + v * v))
        if np.hypot(a, b) > 1.2 * radius:
            return None
        y, x, radius = y + b / 2, x + a / 2, float(np.sqrt(max(c + (a * a + b * b) / 4, 1)))
    return _judge(edges, y, x, radius)


def _along(edges: _Edges, y: float, x: float, radius: float) -> _Edges:
    """Edges about that circle alone."""
    near = (np.abs(edges.y - y) < 2 * radius) & (np.abs(edges.x - x) < 2 * radius)
    return _Edges(edges.y[near], edges.x[near], edges.dy[near], edges.dx[near], edges.kept)


def _near(
    edges: _Edges, y: float, x: float, radius: float, tolerance: float
) -> tuple[Array, Array]:
    """Which edges lie along a circle and point into it, and their distances from its centre."""
    dy, dx = y - edges.y, x - edges.x
    distance = np.hypot(dy, dx)
    inwards = dy * edges.dy + dx * edges.dx > _INWARDS * distance
    return inwards & (np.abs(distance - radius) < tolerance * radius), distance


def _judge(edges: _Edges, y: float, x: float, radius: float) -> _Circle:
    near, distance = _near(edges, y, x, radius, 0.2)
    turn = np.arctan2(edges.y[near] - y, edges.x[near] - x) / (2 * np.pi) + 0.5
    sectors = np.bincount((turn * 16).astype(int) % 16, minlength=16)
    arc = float((sectors > _FILLED * edges.kept * _FULL * radius / 16).mean())
    rough = float(distance[near].std() / radius) if near.any() else np.inf
    inside = float((distance < _INSIDE * radius).sum() / (edges.kept * _FULL * radius))
    return _Circle(y, x, radius, arc, rough, inside)


def _apart(circles: list[_Circle]) -> list[_Circle]:
    """Good circles, the best of those that lie in one place."""
    good = [
        c for c in circles
        if c.arc >= _LEAST_ARC and c.rough < _MOST_ROUGH and c.inside < _MOST_INSIDE
    ]  # fmt: skip
    kept: list[_Circle] = []
    for a in sorted(good, key=lambda c: c.rough - c.arc):
        reach = [_APART * max(a.radius, b.radius) for b in kept]
        if all(np.hypot(a.y - b.y, a.x - b.x) > r for b, r in zip(kept, reach, strict=True)):
            kept.append(a)
    return kept


def _disc(circle: _Circle, shape: tuple[int, ...]) -> Array:
    y, x = np.ogrid[: shape[0], : shape[1]]
    result: Array = (y - circle.y) ** 2 + (x - circle.x) ** 2 < circle.radius**2
    return result


def _is_red(circle: _Circle, masks: _Masks) -> bool:
    disc = _disc(circle, masks.valid.shape)
    nucleus, stained = masks.nuclei[disc].mean(), masks.stained[disc].mean()
    return bool(nucleus < _MOST_NUCLEUS and stained > _LEAST_STAINED)


def _agreeing(circles: list[_Circle]) -> list[_Circle]:
    """The most circles of one size, or none where they are few."""
    logs = np.log([c.radius for c in circles])
    near = np.abs(logs[:, None] - logs) < _AGREEING
    best = near[near.sum(axis=1).argmax()] if circles else near
    if best.sum() < max(_LEAST_CELLS, _LEAST_SHARE * len(circles)):
        return []
    return [circle for circle, is_near in zip(circles, best, strict=True) if is_near]


# --- summary -----------------------------------------------------------------------------------


def _nothing() -> Acquisition:
    return Acquisition(None, 0, None, None, 0.0, float("inf"), None, None, None, None)


def _summary(
    image: Array,
    reduced: Array,
    logs: Array,
    factor: int,
    light: _Light,
    masks: _Masks,
    circles: list[_Circle],
) -> Acquisition:
    empty = masks.valid & ~masks.stained
    share = float(empty.sum() / masks.valid.sum())
    is_seen = _is_seen(light, masks)
    background = np.median(reduced[empty], axis=0).astype(np.float64) if is_seen else None
    diameters = [2 * (c.radius + 0.5) * factor for c in circles]
    discs = np.any([_disc(c, empty.shape) for c in circles], axis=0) & masks.stained
    densities = (
        np.zeros_like(logs) if background is None else np.log(np.maximum(background, 1)) - logs
    )
    return Acquisition(
        red_cell_diameter=float(np.median(diameters)) if diameters else None,
        n_red_cells=len(diameters),
        red_cell_error=_error(np.log(diameters), np.ones(len(diameters))) if diameters else None,
        background=background,
        background_share=share,
        background_spread=light.spread,
        red_cell_density=_mean(densities, discs & ~masks.nuclei) if is_seen else None,
        nucleus_density=_mean(densities, _densest(densities, masks.nuclei)) if is_seen else None,
        sharpness=_sharpness(image, reduced[..., 1], factor) if is_seen else None,
        falloff=_falloff(reduced[..., 1], empty) if is_seen else None,
    )


def _densest(densities: Array, mask: Array) -> Array:
    """Without blue cytoplasm, which is thinner."""
    green = densities[..., 1]
    return mask & (green > _THIN * np.percentile(green[mask], 90)) if mask.any() else mask


def _mean(densities: Array, mask: Array) -> Array | None:
    return densities[mask].mean(axis=0).astype(np.float64) if np.any(mask) else None


def _falloff(green: Array, empty: Array) -> float | None:
    """From the medians of the background in 16 parts of the image."""
    parts = [
        (part, mask)
        for rows, mask_rows in zip(np.array_split(green, 4), np.array_split(empty, 4), strict=True)
        for part, mask in zip(
            np.array_split(rows, 4, axis=1), np.array_split(mask_rows, 4, axis=1), strict=True
        )
    ]
    levels = [np.median(part[mask]) for part, mask in parts if mask.sum() > 0.1 * mask.size]
    if len(levels) < 2 or max(levels) == 0:  # of light without green nothing can be told
        return None
    return float(1 - min(levels) / max(levels))


# --- sharpness ---------------------------------------------------------------------------------


def _sharpness(image: Array, green: Array, factor: int) -> float | None:
    """From how much steeper the strongest edges are close by than further off."""
    profiles = _profiles(image[..., 1], *_strongest(green), factor)
    steps = [np.abs(profiles[:, 2 * d :] - profiles[:, : -2 * d]).max(axis=1, initial=0)
             for d in (_NEAR, _FAR)]  # fmt: skip
    clear = steps[1] > _LEAST_STEP * 255
    if clear.sum() < _PROFILES / 4:
        return None
    ratio = np.median(steps[0][clear] / steps[1][clear])
    return float(np.interp(-ratio, -_step(_NEAR) / _step(_FAR), _BLURS))


def _step(reach: float) -> Array:
    """What of a blurred step lies within that many px of it, for each of `_BLURS`."""
    return np.array([math.erf(reach / (blur * math.sqrt(2))) for blur in _BLURS])


def _strongest(green: Array) -> tuple[Array, Array, Array, Array]:
    """Pixels of the reduced image with the strongest gradients, and its directions."""
    dy, dx = green[2:, 1:-1] - green[:-2, 1:-1], green[1:-1, 2:] - green[1:-1, :-2]
    slope = np.hypot(dy, dx).ravel()
    best = np.argpartition(slope, -min(_PROFILES, len(slope)))[-_PROFILES:]
    best = best[slope[best] > 0]
    y, x = np.divmod(best, dy.shape[1])
    return y + 1, x + 1, dy.ravel()[best] / slope[best], dx.ravel()[best] / slope[best]


def _profiles(green: Array, y: Array, x: Array, dy: Array, dx: Array, factor: int) -> Array:
    """Grey levels (n, length) along lines across edges of the reduced image, 1 px apart."""
    from scipy.ndimage import map_coordinates

    along = np.arange(-2 * factor - _FAR, 2 * factor + _FAR + 1)
    rows = (y[:, None] + 0.5) * factor - 0.5 + dy[:, None] * along
    columns = (x[:, None] + 0.5) * factor - 0.5 + dx[:, None] * along
    result: Array = map_coordinates(
        green, [rows, columns], np.float64, order=1, mode="nearest", prefilter=False
    )
    return result


# --- sets --------------------------------------------------------------------------------------


def _error(logs: Array, weights: Array) -> float:
    """Standard error of a weighted median of logarithms, from their spread."""
    spread = 1.4826 * _weighted_median(np.abs(logs - _weighted_median(logs, weights)), weights)
    n = np.square(weights.sum()) / np.square(weights).sum()
    return float(1.2533 * max(spread, _LEAST_VARIATION) / np.sqrt(n))


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    half = weights[order].cumsum() - weights[order] / 2
    return float(np.interp(weights.sum() / 2, half, values[order]))


def _pooled_diameter(parts: Sequence[Acquisition]) -> tuple[float | None, int, float | None]:
    known = [p for p in parts if p.red_cell_diameter is not None]
    if not known or len(known) < _LEAST_IMAGES * len(parts):
        return None, 0, None
    logs = np.log([p.red_cell_diameter or 0 for p in known])
    weights = np.minimum([p.n_red_cells for p in known], _MOST_WEIGHT).astype(np.float64)
    middle = _weighted_median(logs, weights)
    near = np.abs(logs - middle) < _AGREEING
    if weights[near].sum() < _LEAST_SHARE * weights.sum():
        return None, 0, None
    n = sum(p.n_red_cells for p, is_near in zip(known, near, strict=True) if is_near)
    error = known[0].red_cell_error if len(known) == 1 else _error(logs, weights)
    return float(np.exp(middle)), n, error


def _median(values: Sequence[Array | None]) -> Array | None:
    known = [value for value in values if value is not None]
    return np.median(known, axis=0) if known else None


def _median_number(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
