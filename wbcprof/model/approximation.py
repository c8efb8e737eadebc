"""Approximate encoders: squares of pixels projected onto the directions that matter most.

The directions are the best of their number for the squared error of the responses, given the
second moments of the squares of a sample of images. What they lose makes responses smaller and
pooled codes biased; each signature's offset is shifted to make up for it, to first order.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from wbcprof.checks import Real
from wbcprof.model.encoder import Encoder
from wbcprof.model.forms import Approximation
from wbcprof.model.pooling import Pooling


def approximate(
    encoder: Encoder,
    images: np.ndarray,
    tolerance: float,
    pooling: Pooling,
    *,
    n_threads: int | None = None,
) -> Encoder:
    """An encoder that is faster by projecting tap squares onto fewer directions.

    The number of directions is the smallest whose profiles of `images` stay within `tolerance`,
    less a tenth, for images to come.

    Parameters
    ----------
    encoder : Encoder
        The exact one.
    images : (n, height, width, c) array
        A sample of the images to come, all of one size; a few tens are enough.
    tolerance : float
        Largest allowed ``norm(approximate - exact) / norm(exact)`` of the profiles.
    pooling, n_threads
        Of these profiles, as in `Encoder.encode_pool`.

    Returns
    -------
    Encoder
        Its `approximation` states the error measured on `images`.

    Raises
    ------
    ValueError
        The images have no profile to be near to, or no projection reaches the tolerance.
    """
    kept = 0.9  # of the tolerance, on the sample that an approximation is fitted to
    least_slope = 1e-3  # of the gain: below it, an offset is not shifted
    tolerance = Real(above=0, below=1).check("tolerance", tolerance)
    values = encoder.values_of(images)
    if len(values) == 0:
        raise ValueError("images must hold at least one image, got none")
    square = encoder.choose_form(values.shape[1], values.shape[2]).square
    analysis, synthesis = _rank_directions(encoder.filters, values, square)
    moments = ("mean", "std", "active")
    measured = replace(pooling, pools=tuple(dict.fromkeys((*moments, *pooling.pools))))
    own = [measured.pools.index(pool) for pool in pooling.pools]

    def encode(encoder: Encoder) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Profiles; and mean, std and active of the codes, averages over images and regions."""
        profiles = encoder.encode_pool(images, measured, n_threads=n_threads)
        profiles = profiles.reshape(len(values), len(measured.pools), -1, encoder.n_signatures)
        averages = profiles[:, :3].mean(axis=(0, 2), dtype=np.float64)
        return profiles[:, own], dict(zip(moments, averages, strict=True))

    exact, codes = encode(encoder)
    norm = float(np.linalg.norm(exact))
    if norm == 0:
        raise ValueError("tolerance needs sample images whose profiles are not zero")
    slope = _mean_slope(encoder, **codes)
    reached = np.abs(slope) > least_slope * np.abs(encoder.gain)

    def project(n_directions: int) -> tuple[Encoder, float]:
        basis = analysis[:, :n_directions], synthesis[:, :n_directions]
        approximation = Approximation(square, *basis, tolerance, math.nan)
        projected = encoder.projected(approximation)
        lost = codes["mean"] - encode(projected)[1]["mean"]
        projected.shift_offsets(np.divide(lost, slope, out=np.zeros_like(lost), where=reached))
        error = float(np.linalg.norm(encode(projected)[0] - exact)) / norm
        projected.approximation = approximation._replace(relative_error=error)
        return projected, error

    few, enough = 0, analysis.shape[1]
    best, error = project(enough)
    if error > kept * tolerance:
        raise ValueError(
            f"tolerance must be at least {error / kept:.1e}, what float32 reaches on these "
            f"images, got {tolerance!r}; leave it out for exact profiles"
        )
    while enough - few > 1:
        middle = (few + enough) // 2
        candidate, error = project(middle)
        if error <= kept * tolerance:
            best, enough = candidate, middle
        else:
            few = middle
    return best


def _mean_slope(
    encoder: Encoder, mean: np.ndarray, std: np.ndarray, active: np.ndarray
) -> np.ndarray:
    """Derivative of the mean codes by the offsets, (h,); nearly, where regions differ."""
    gain = encoder.gain.astype(np.float64)
    slope: np.ndarray
    if encoder.nonlinearity in ("rectified", "soft_threshold"):
        slope = gain * active
    else:
        power = np.divide(mean**2 + std**2, gain, out=np.zeros_like(mean), where=gain != 0)
        slope = (mean if encoder.nonlinearity == "sigmoid" else gain) - power
    return slope


def _rank_directions(
    filters: np.ndarray, values: np.ndarray, square: int
) -> tuple[np.ndarray, np.ndarray]:
    """Analysis and synthesis over all directions, the most important to the responses first.

    With C the second moments of squares and G the filters of all squares, the best rank-k
    stand-in for G C^(1/2) keeps its first k right singular vectors V:
    G = (G C^(1/2) V) (V' C^(-1/2)).
    """
    patch = filters.shape[1]
    values = values - values[:, :1, :1]
    n, height, width, channels = values.shape
    values = values[:, : height // square * square, : width // square * square]
    values = values.reshape(n, height // square, square, width // square, square * channels)
    squares = values.transpose(0, 1, 3, 2, 4).reshape(-1, square * square * channels)
    moments = squares.T.astype(np.float64) @ squares / len(squares)
    power, axes = np.linalg.eigh(moments)
    root = np.sqrt(np.maximum(power, 1e-9 * max(power[-1], 1e-30)))
    taps = math.ceil(patch / square)
    excess = taps * square - patch
    padded = np.pad(filters, ((0, 0), (0, excess), (0, excess), (0, 0)))
    padded = padded.reshape(-1, taps, square, taps, square * channels)
    padded = padded.transpose(0, 1, 3, 2, 4).reshape(-1, squares.shape[1])
    shaped = axes * root
    directions = np.linalg.eigh(shaped.T @ (padded.T @ padded) @ shaped)[1][:, ::-1]
    return (axes / root) @ directions, shaped @ directions
