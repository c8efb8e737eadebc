"""Naive NumPy twins of the compiled kernels: the algorithms, stated to be read."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from wbcprof.model.pooling import STATISTICS, Pooling

_MEAN = Pooling()
_NOWHERE = np.iinfo(np.int32).max


def encode_pool(
    images: np.ndarray,
    filters: np.ndarray,
    offset: np.ndarray,
    gain: np.ndarray,
    threshold: np.ndarray | None = None,
    *,
    nonlinearity: str,
    step: int,
    contrast_epsilon: float | None = None,
    pixel_table: np.ndarray | None = None,
    pooling: Pooling = _MEAN,
) -> np.ndarray:
    """Encode every window of every image, pool the codes; all in float64.

    Parameters
    ----------
    images : (n, height, width, channels) array, uint8 or float
        uint8 pixels are looked up in `pixel_table`, floats are taken as they are.
    filters, offset, gain, threshold, nonlinearity, step, contrast_epsilon, pixel_table
        As `wbcprof.model.encoder.Encoder` takes them.
    pooling : Pooling

    Returns
    -------
    (n, len(pools) * n_regions * n_signatures) float64 array
        Layout [pool][region: levels in order, row major, then centres][signature].
    """
    rows = []
    for image in images:
        codes, active = encode_windows(
            image, filters, offset, gain, threshold, nonlinearity=nonlinearity, step=step,
            contrast_epsilon=contrast_epsilon, pixel_table=pixel_table,
        )  # fmt: skip
        n_rows, n_columns = codes.shape[:2]
        part_codes, part_active = [], []
        for level in pooling.levels:
            row_part = np.arange(n_rows) * level // n_rows
            column_part = np.arange(n_columns) * level // n_columns
            for row in range(level):
                for column in range(level):
                    inside = np.ix_(row_part == row, column_part == column)
                    part_codes.append(codes[inside].reshape(-1, codes.shape[2]))
                    part_active.append(active[inside].reshape(-1, codes.shape[2]))
        patch, (height, width) = filters.shape[1], image.shape[:2]
        down = np.arange(n_rows)[:, None] * step + patch / 2 - height / 2
        across = np.arange(n_columns) * step + patch / 2 - width / 2
        distance = np.sqrt(down**2 + across**2)
        for centre in pooling.centres:
            inside = distance <= max(centre * min(height, width) / 2, distance.min())
            part_codes.append(codes[inside])
            part_active.append(active[inside])
        rows.append(
            [
                STATISTICS[pool].of_codes(c, a) if len(c) else np.zeros(c.shape[1])
                for pool in pooling.pools
                for c, a in zip(part_codes, part_active, strict=True)
            ]
        )
    return np.array(rows).reshape(len(images), -1)


def encode_windows(
    image: np.ndarray,
    filters: np.ndarray,
    offset: np.ndarray,
    gain: np.ndarray,
    threshold: np.ndarray | None = None,
    *,
    nonlinearity: str,
    step: int,
    contrast_epsilon: float | None = None,
    pixel_table: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of every window of one image and whether each unit is active.

    Returns
    -------
    codes : (rows, columns, n_signatures) float64 array
    active : (rows, columns, n_signatures) bool array
    """
    n_signatures, patch = filters.shape[:2]
    if image.dtype == np.uint8:
        table = np.arange(256) / 255 if pixel_table is None else pixel_table
        image = np.asarray(table, np.float64)[image]
    windows = np.lib.stride_tricks.sliding_window_view(
        image.astype(np.float64), (patch, patch), (0, 1)
    )
    windows = windows[::step, ::step].transpose(0, 1, 3, 4, 2)
    x = windows.reshape(*windows.shape[:2], -1)

    a = x @ filters.astype(np.float64).reshape(n_signatures, -1).T
    if contrast_epsilon is not None:
        a /= np.sqrt(x.var(axis=2, keepdims=True) + contrast_epsilon)
    a += offset

    active = a > 0
    if nonlinearity == "sigmoid":
        s = 1 / (1 + np.exp(-a))
    elif nonlinearity == "tanh":
        s = np.tanh(a)
    elif nonlinearity == "rectified":
        s = np.maximum(a, 0)
    else:
        s = np.sign(a) * np.maximum(np.abs(a) - threshold, 0)
        active = np.abs(a) > threshold
    return gain * s, active


def correlate(patches: np.ndarray, signatures: np.ndarray) -> np.ndarray:
    """Product of every patch (n, m) with every signature (h, m); (n, h), in float64."""
    return patches.astype(np.float64) @ signatures.astype(np.float64).T


def sparse_code(
    patches: ArrayLike,
    components: ArrayLike,
    alpha: float,
    kappa: float = 0.0,
    prediction: ArrayLike | None = None,
    *,
    positive: bool = False,
    tol: float = 1e-9,
    max_iter: int = 20000,
) -> tuple[np.ndarray, np.ndarray]:
    """Cyclic coordinate descent in float64; returns dense codes (n, h) and relative gaps (n,)."""
    x, b = np.asarray(patches, np.float64), np.asarray(components, np.float64)
    f = np.zeros((len(x), len(b))) if prediction is None else np.asarray(prediction, np.float64)
    q_matrix = b @ b.T + kappa * np.eye(len(b))
    linear = x @ b.T + kappa * f
    energy = (x**2).sum(1) + kappa * (f**2).sum(1)
    codes, gaps = np.zeros_like(f), np.zeros(len(x))
    for z, q, e, row in zip(codes, linear, energy, range(len(x)), strict=True):
        r = q.copy()
        for _ in range(max_iter):
            for j in range(len(b)):
                v = r[j] + q_matrix[j, j] * z[j]
                new = np.sign(v) * max(abs(v) - alpha, 0) / q_matrix[j, j]
                new = max(new, 0) if positive else new
                r -= (new - z[j]) * q_matrix[j]
                z[j] = new
            gaps[row] = relative_gap(z, q, r, e, alpha, positive)
            if gaps[row] <= tol:
                break
    return codes, gaps


def relative_gap(
    z: np.ndarray,
    q: np.ndarray,
    r: np.ndarray,
    energy: float,
    alpha: float,
    positive: bool = False,
) -> float:
    """Duality gap of z over its objective; q the linear term, r = q - Qz, energy = |y|^2."""
    rho2, y_rho = energy - z @ q - z @ r, energy - z @ q
    primal = 0.5 * rho2 + alpha * np.abs(z).sum()
    peak = max(r.max(), 0) if positive else np.abs(r).max()
    t = np.clip(y_rho / rho2, 0, None) if rho2 > 0 else 1.0
    t = min(t, alpha / peak) if peak > 0 else t
    gap = primal - t * y_rho + 0.5 * t**2 * rho2
    return max(gap, 0) / primal if primal > 0 else 0.0


def update_signatures(signatures: np.ndarray, A: np.ndarray, C: np.ndarray) -> None:
    """Block coordinate descent on 1/2 ||X - Z B||^2 over the rows of B on the unit sphere.

    Parameters
    ----------
    signatures : (h, m) array
        B, changed in place; no row's step raises the objective.
    A : (h, h) array
        Z' Z.
    C : (h, m) array
        Z' X.

    Notes
    -----
    With all other rows fixed, the best unit row j is u / ||u||, u = C_j - A_j B + A_jj b_j. Rows
    without codes (A_jj = 0) stay.
    """
    for j in np.flatnonzero(np.diagonal(A) > 0):
        u = C[j] - A[j] @ signatures + A[j, j] * signatures[j]
        norm = np.linalg.norm(u)
        if norm > 0:
            signatures[j] = u / norm


def find_leukocyte(
    image: np.ndarray,
) -> tuple[float, list[int], float, float, float, list[float], list[float], float]:
    """The leukocyte of an image (H, W, 3), uint8, in the whole numbers of ``leukocyte.c``.

    Returns
    -------
    lit_share, background, background_share, clipped_share, area, centre, density, others
        As `wbcprof.smear.canonical.Leukocyte` has them.
    """
    k = max(1, (min(image.shape[:2]) + 48) // 96)
    height, width = image.shape[0] // k, image.shape[1] // k
    squares = image[: height * k, : width * k].reshape(height, k, width, k, 3)
    pixels = (squares.sum(axis=(1, 3), dtype=np.int64) + k * k // 2) // (k * k)
    lit = ~ndimage.binary_dilation(pixels.max(axis=2) <= 12, np.ones((3, 3)))
    n_lit = int(lit.sum())
    if n_lit == 0:
        return 0.0, [0, 0, 0], 0.0, 0.0, 0.0, [0.0, 0.0], [0.0, 0.0, 0.0], 0.0

    brightness = pixels.sum(axis=2)
    least = np.sort(brightness[lit])[::-1][(n_lit - 1) // 4]
    background = _lower_median(pixels[lit & (brightness >= least)])
    near = lit & (np.abs(pixels - background).sum(axis=2) <= 24)
    clipped = lit & (pixels.max(axis=2) >= 254)
    shares = (int(near.sum()) / n_lit, int(clipped.sum()) / n_lit)
    seen = (n_lit / lit.size, background.tolist(), *shares)

    density = np.rint(1024 * (np.log(background + 4) - np.log(pixels + 4))).astype(np.int64)
    density = np.maximum(density, 0) * lit[..., None]
    stained = density @ np.array([2, 1, -1])
    for axis in (1, 0, 1, 0):
        stained = ndimage.correlate1d(stained, [1, 2, 1], axis, mode="nearest")

    from_middle = _from_middle(np.arange(height), height)[:, None] + _from_middle(
        np.arange(width), width
    )
    middle = from_middle < 4 * 0.42 * 0.42
    values = stained[lit & middle]
    threshold = _otsu(values)
    values = values[values >= threshold]
    denser = _otsu(values)
    low, high = values[values < denser], values[values >= denser]
    if 2 * high.sum() * len(low) > 3 * low.sum() * len(high):
        threshold = denser
    mask = lit & (stained >= max(threshold, 1)) & (threshold < _NOWHERE)

    label, _ = ndimage.label(ndimage.binary_opening(mask))
    label[label > 4096] = 0
    n = np.bincount(label.ravel())[1:]
    nucleus, others = np.zeros_like(mask), 0
    if len(n):
        of = np.arange(len(n)) + 1
        y, x = (ndimage.sum_labels(at, label, of) / n for at in np.indices(mask.shape))
        closeness = np.rint(2**20 * np.maximum(1 - from_middle / (4 * 0.35 * 0.35), 0))
        best = np.argmax(ndimage.sum_labels(closeness, label, of))
        distance = np.sqrt((y - y[best]) ** 2 + (x - x[best]) ** 2)
        kept = (
            (distance < 2.2 * np.sqrt(n[best] / np.pi) + np.sqrt(n / np.pi))
            & (25 * n > n[best])
            & (_from_middle(y, height) + _from_middle(x, width) < 4 * 0.3 * 0.3)
        )
        nucleus = middle & np.append(False, kept)[label]
        others = int(n[~kept & (3 * n >= n[best])].sum())
    rows, columns = np.nonzero(nucleus)
    if len(rows) < 12:
        return *seen, 0.0, [0.0, 0.0], [0.0, 0.0, 0.0], 0.0
    return (
        *seen,
        float(len(rows) * k * k),
        [(int(at.sum()) / len(rows) + 0.5) * k - 0.5 for at in (rows, columns)],
        (_lower_median(density[nucleus]) / 1024).tolist(),
        float(others * k * k),
    )


def _lower_median(rows: np.ndarray) -> np.ndarray:
    middle: np.ndarray = np.sort(rows, axis=0)[(len(rows) - 1) // 2]
    return middle


def _from_middle(at: np.ndarray, side: int) -> np.ndarray:
    """Along one side; 1 at its ends."""
    return ((2 * at - (side - 1)) / side) ** 2


def _otsu(values: np.ndarray) -> int:
    """Least value of the upper of the two classes that 64 bins part best."""
    if len(values) == 0 or values.min() == values.max():
        return _NOWHERE
    low, span = int(values.min()), int(np.ptp(values)) + 1
    number = np.bincount((values - low) * 64 // span, minlength=64)
    n, moment = number.cumsum()[:-1], (np.arange(64) * number).cumsum()
    m, n_all = moment[:-1], len(values)
    apart = float(moment[-1]) * n - m.astype(float) * n_all
    between = apart * apart / np.maximum(n.astype(float) * (n_all - n), 1)
    return low + ((int(np.argmax(between)) + 1) * span + 63) // 64


def resample_square(
    image: np.ndarray,
    y: float,
    x: float,
    scale: float,
    background: np.ndarray,
    tables: np.ndarray,
    fade: np.ndarray,
    white: int,
) -> np.ndarray:
    """The square (side, side, 3) about a point at another scale, through tables; `fade` has its
    side. Weights are 2^14ths, rows in between 2^6ths of grey levels."""
    pixels = image.astype(np.int64)
    sides = zip((y, x), image.shape[:2], strict=True)
    down, across = (_taps(at, 1 / scale, len(fade), length) for at, length in sides)
    border = background.astype(np.int64)
    outside = 2**14 - down.sum(axis=1)
    rows = np.einsum("iy,yxc->ixc", down, pixels) + outside[:, None, None] * border
    rows = (rows + 2**7) >> 8
    outside = 2**14 - across.sum(axis=1)
    levels = np.einsum("kx,ixc->ikc", across, rows) + outside[:, None] * (border << 6)
    levels = np.clip((levels + 2**19) >> 20, 0, 255)
    levels = np.stack([table[plane] for table, plane in zip(tables, levels.T, strict=True)]).T
    result: np.ndarray = white + (((levels.astype(np.int64) - white) * fade[..., None] + 128) >> 8)
    return result.astype(np.uint8)


def match_focus(cell: np.ndarray, fade: np.ndarray, wanted: float) -> tuple[np.ndarray, float]:
    """A cell (H, W, 3), uint8, blurred to `wanted` px squared where it is sharper, and how blurred
    it was; `fade` (H, W) is 256 where that is measured. Weights are 2^8ths."""
    green = cell[..., 1].astype(np.int64)
    inner = green[1:-1, 1:-1]
    left, right, up, down = green[1:-1, :-2], green[1:-1, 2:], green[:-2, 1:-1], green[2:, 1:-1]
    whole = fade[1:-1, 1:-1] == 256
    slopes = ((right - left) ** 2 + (down - up) ** 2)[whole].sum()
    curves = ((left + right + up + down - 4 * inner) ** 2)[whole].sum()
    found = float(slopes / (4 * curves)) if curves else np.inf
    lacking = 0.7 * (wanted - found)
    if lacking < 0.02:
        return cell.copy(), found
    bell = [math.exp(-k * k / (2 * min(lacking, 2))) for k in range(5)]
    total = bell[0] + 2 * bell[1] + 2 * bell[2] + 2 * bell[3] + 2 * bell[4]
    side = [round(value / total * 256) for value in bell[1:]]
    weights = np.array([*side[::-1], 256 - 2 * sum(side), *side])
    result = cell.astype(np.int64)
    for axis in (0, 1):
        result = (ndimage.correlate1d(result, weights, axis, mode="nearest") + 128) >> 8
    return result.astype(np.uint8), found


def _taps(centre: float, distance: float, side: int, length: int) -> np.ndarray:
    """Weights (side, length) of old pixels in new ones; what is missing to 2^14 lies outside."""
    reach = max(distance, 1)
    weights = np.zeros((side, length), np.int64)
    for i in range(side):
        at = centre + (i - (side - 1) / 2) * distance
        taps = np.arange(np.ceil(at - reach), np.floor(at + reach) + 1)
        weight = 1 - np.abs(taps - at) / reach
        weight = np.rint(weight / weight.cumsum()[-1] * 2**14)  # in order, as the kernel sums
        inside = (taps >= 0) & (taps < length)
        weights[i, taps[inside].astype(int)] = weight[inside]
    return weights


def measure_light(field: np.ndarray, factor: int, lefts: np.ndarray) -> np.ndarray:
    """Light of parts of a field (H, W, 3), uint8, that lie beside one another: reduced columns
    lefts[i] to lefts[i + 1]; (n, 3), uint8."""
    pixels = _reduce(field, factor)
    lights = []
    for left, right in pairwise(lefts):
        part = pixels[:, left:right].reshape(-1, 3)
        brightness = part.sum(axis=1)
        brightest = -(-len(part) * 15 // 100)
        least = np.sort(brightness)[::-1][brightest - 1]
        lights.append(_lower_median(part[brightness >= least]))
    return np.array(lights, np.uint8)


def stain_field(
    field: np.ndarray, factor: int, light: np.ndarray, down: np.ndarray, across: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Densities (3, h, w) of a field (H, W, 3), uint8, and what is stained (h, w).

    `light` (rows, columns, 3) is that of parts, 1024 log(light + 4); `down` (2, h) and `across`
    (2, w) say between which parts each pixel lies: the part before, 256ths of the next one.
    """
    pixels = _reduce(field, factor)
    (row, below), (column, beyond) = down, across
    rows = (256 - below)[:, None, None] * light[row] + below[:, None, None] * light[
        np.minimum(row + 1, len(light) - 1)
    ]
    columns = np.minimum(column + 1, light.shape[1] - 1)
    lit = (256 - beyond)[:, None] * rows[:, column] + beyond[:, None] * rows[:, columns]
    logarithm = np.rint(1024 * np.log(np.arange(256) + 4)).astype(np.int64)
    density = np.maximum((lit + 2**15 >> 16) - logarithm[pixels], 0)
    stained = density @ np.array([2, 1, -1])
    for axis in (1, 0):
        stained = ndimage.correlate1d(stained, [1, 2, 1], axis, mode="nearest")
    return density.transpose(2, 0, 1), stained + 8 >> 4


def _reduce(field: np.ndarray, k: int) -> np.ndarray:
    height, width = field.shape[0] // k, field.shape[1] // k
    squares = field[: height * k, : width * k].reshape(height, k, width, k, 3)
    means: np.ndarray = (squares.sum(axis=(1, 3), dtype=np.int64) + k * k // 2) // (k * k)
    return means


def find_leukocytes(
    density: np.ndarray,
    stained: np.ndarray,
    unit: float,
    foreground: int,
    base: float,
    level: float,
    n_densest: int,
    low: int,
    contrast: float,
    colour: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leukocytes of a reduced field: nuclei (h, w), cells (h, w), and a row of nine for each, as
    ``finder.c`` finds them."""
    red, green, blue = density.astype(np.int64)
    stained = stained.astype(np.int64)
    passes = (red + green).astype(np.float32) > np.float32(colour) * blue.astype(np.float32)
    mask = ndimage.binary_opening((stained > low) & ((stained > contrast) | passes))
    nuclei, n_found = np.zeros(stained.shape, np.int32), 0
    for candidate in _joined(mask, unit):
        values = np.sort(stained[candidate])[::-1]
        densest = values[min(len(values), n_densest) - 1]
        own = max(math.floor(base + level * (densest - base)), low)
        above = ndimage.binary_opening(np.pad(candidate & (stained > own), 1))[1:-1, 1:-1]
        for group in _joined(above, unit):
            for part in _nuclei(group, green > foreground // 2, unit):
                if _is_nucleus(part, unit):
                    n_found += 1
                    nuclei[part] = n_found
    cells = _cells(nuclei, green > foreground, unit)
    rows = []
    for number in range(1, n_found + 1):
        seen, own = nuclei == number, cells == number
        middle = int(np.sort(stained[seen])[(seen.sum() - 1) // 2])
        end = min(max(_otsu(stained[own]), middle * 35 // 100), middle * 90 // 100)
        nucleus = own & ndimage.binary_fill_holes(own & (stained >= end))
        nucleus |= seen & (stained > middle)
        nuclei[seen], nuclei[nucleus] = 0, number
        n = int(nucleus.sum())
        down, across = (at.sum() for at in np.nonzero(nucleus))
        rows.append((down, across, n, own.sum(), int(stained[nucleus].sum()) / n, *_box(own)))
    return nuclei, cells, np.array(rows, float).reshape(-1, 9)


def _in_pixels(length: float, unit: float) -> int:
    return max(1, math.floor(length * unit + 0.5))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def _joined(mask: np.ndarray, unit: float) -> list[np.ndarray]:
    """Masks of what lies close together, as large as a nucleus."""
    steps = _in_pixels(0.25, unit)
    wide = ndimage.binary_dilation(np.pad(mask, steps), iterations=steps)
    label, n = ndimage.label(wide)
    label = label[steps:-steps, steps:-steps]
    parts = [mask & (label == number) for number in range(1, n + 1)]
    return [part for part in parts if part.sum() >= 0.4 * 0.4 * unit * unit]


def _is_nucleus(mask: np.ndarray, unit: float) -> bool:
    n, (top, left, bottom, right) = int(mask.sum()), _box(mask)
    height, width = mask.shape
    is_cut = top == 0 or left == 0 or bottom == height or right == width
    size, around = math.sqrt(n) / unit, float((bottom - top) * (right - left))
    return (0.4 if is_cut else 0.55) <= size <= 3.5 and n >= 0.24 * around


def _nuclei(mask: np.ndarray, there: np.ndarray, unit: float) -> list[np.ndarray]:
    """Parts of a mask, each nearest to the top of its own hill; `there` is what is of cells."""
    r = _in_pixels(0.25, unit)
    hills = np.pad(mask, 2 * r).astype(np.int64)
    top, left, bottom, right = _box(hills)
    window = np.s_[top - 2 * r : bottom + 2 * r, left - 2 * r : right + 2 * r]
    hills = hills[window]
    for axis in (1, 0) * 3:
        hills = ndimage.correlate1d(hills, np.ones(2 * r + 1, np.int64), axis, mode="constant")
    shift = np.array([top - 4 * r, left - 4 * r])
    tops: list[tuple[int, int]] = []
    for one in _local_tops(hills, (2 * r + 1) ** 6 * 15 // 100):
        if all(_are_apart(hills, other, one, there, shift, unit) for other in tops):
            tops.append(one)
    rows, columns = np.nonzero(mask)
    while tops:
        distance = [(rows - y - shift[0]) ** 2 + (columns - x - shift[1]) ** 2 for y, x in tops]
        nearest = np.argmin(distance, axis=0)
        area = np.bincount(nearest, minlength=len(tops))
        if len(tops) == 1 or area.min() >= 0.6 * 0.6 * unit * unit:
            break
        del tops[int(area.argmin())]
    parts = [np.zeros_like(mask) for _ in tops]
    for number, part in enumerate(parts):
        part[rows[nearest == number], columns[nearest == number]] = True
    return [part for part in parts if part.any()]


def _local_tops(hills: np.ndarray, lowest: int) -> list[tuple[int, int]]:
    """The 64 highest, highest first."""
    found = []
    for y in range(1, hills.shape[0] - 1):
        for x in range(1, hills.shape[1] - 1):
            around = hills[y - 1 : y + 2, x - 1 : x + 2].ravel()
            if around[4] >= max(lowest, around[:4].max() + 1, around[5:].max()):
                found.append((y, x))
    return sorted(found, key=lambda at: -hills[at])[:64]


def _are_apart(
    hills: np.ndarray,
    one: tuple[int, int],
    other: tuple[int, int],
    there: np.ndarray,
    shift: np.ndarray,
    unit: float,
) -> bool:
    dy, dx = other[0] - one[0], other[1] - one[1]
    distance = math.sqrt(dy * dy + dx * dx)
    if distance < unit or distance > 2 * 3.5 * unit:
        return distance > unit
    n = 2 * max(abs(dy), abs(dx))
    line = [
        (one[0] + math.floor(0.5 + dy * t / n), one[1] + math.floor(0.5 + dx * t / n))
        for t in range(n + 1)
    ]
    across = dx / distance, -dy / distance
    wide = [
        sum(
            _reach_background(there, at + shift, sign * across[0], sign * across[1])
            for sign in (1, -1)
        )
        for at in line
    ]
    return bool(
        100 * min(hills[at] for at in line) <= 95 * hills[other] and min(wide) <= 0.85 * distance
    )


def _reach_background(there: np.ndarray, at: np.ndarray, down: float, across: float) -> int:
    step = 0
    while True:
        y = at[0] + math.floor(0.5 + step * down)
        x = at[1] + math.floor(0.5 + step * across)
        if not (0 <= y < there.shape[0] and 0 <= x < there.shape[1] and there[y, x]):
            return step
        step += 1


def _cells(nuclei: np.ndarray, there: np.ndarray, unit: float) -> np.ndarray:
    cells = nuclei.copy()
    for step in range(_in_pixels(0.5, unit)):
        near = ndimage.generate_binary_structure(2, 1 + step % 2)
        numbers = np.where(cells > 0, cells, _NOWHERE)
        nearest = ndimage.minimum_filter(numbers, footprint=near, mode="constant", cval=_NOWHERE)
        cells = np.where((cells == 0) & there & (nearest < _NOWHERE), nearest, cells)
    opened = ndimage.binary_opening(cells > 0)
    result: np.ndarray = np.where(opened | (nuclei > 0), cells, 0)
    return result
