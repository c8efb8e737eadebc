"""What the cells that a model was learnt from are like, so that others can be told from them.

Of a cell: place z, the leading directions of its standardised profile and its measures (size and
stain of the nucleus, focus), at distance from its nearest type::

    D = min over types k of (z - m_k)' S_k^-1 (z - m_k)     u = (log D - middle_k) / spread_k
    v = its second most probable type's log-probability less that of the first
    s = - log p(u) - log p(v) / 2        p(s): the p-value of the cell

where p(t) is the share of cells learnt from, each left out in its turn, that were no smaller in
t: conformal p-values (Vovk et al., Algorithmic learning in a random world, 2005). A new cell of the
same world has p(s) <= a with probability a whatever its distribution, but for what leaving a
twentieth out makes poorer: a little less, half of it where forty cells of a type were learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from wbcprof.model.arrays import check_arrays
from wbcprof.smear.measures import MEASURES

N_DIRECTIONS = 20
"""Leading directions of profiles. Chosen, as the shrinkage is, on PBC with each type left out in
turn; see bench/accuracy/README.md."""

OF_CELLS = ("NucleusSize", "DensityRed", "DensityGreen", "DensityBlue", "Focus")
"""Measures that say something of a cell, beside its profile."""

N_QUANTILES = 51
"""Of every measure of every type, evenly spaced, that a memory keeps."""

_SHRINKAGE = 0.05  # of covariances towards the mean variance of directions, and of each measure
_MARGIN = 0.5  # weight of being between two types, beside being far from all
_MOST_MEASURE = 8.0  # standard deviations by which a measure counts at most
_FEWEST = 20  # cells that a new laboratory's p-values are told by, at least
_FEW_OF_TYPE = 8  # cells that say something of the measures of a type
_MOST_KEPT = 4001  # of the cells left out, evenly spaced in their order
_LOGARITHMS = [name in ("NucleusSize", "Focus") for name in OF_CELLS]
_COLUMNS = [MEASURES.index(name) for name in OF_CELLS]


class Strangeness(NamedTuple):
    """How unlike those learnt from cells are.

    Attributes
    ----------
    p : ndarray of shape (n_images,), float64
        Share of cells learnt from that are as strange; NaN where no image was measured.
    score : ndarray of shape (n_images,), float64
        The larger the stranger, also among those of the same p.
    p_far, p_between : ndarray of shape (n_images,), float64
        What it is made of: being far from all types, being between two.
    """

    p: np.ndarray
    score: np.ndarray
    p_far: np.ndarray
    p_between: np.ndarray


@dataclass(frozen=True, eq=False)
class Memory:
    """See the module.

    Attributes
    ----------
    means : ndarray of shape (n_types, n_places), float64
    whitening : ndarray of shape (n_types, n_places, n_places), float32
        Squares of (z - mean) @ whitening add up to D.
    ranges : ndarray of shape (2, n_types), float64
        Middle and spread of log D.
    units : ndarray of shape (2, len(OF_CELLS)), float64
        Centre and spread of measures.
    left_out : ndarray of shape (3, n_cells), float32
        Of cells left out, each sorted: u, v and s.
    quantiles : ndarray of shape (n_types, N_QUANTILES, len(MEASURES)), float32
        Of the measures of the images of every type; of all types where one has few, NaN where none
        was known.
    known : ndarray of shape (len(MEASURES),), float64
        Number of images in which each measure was known.
    """

    means: np.ndarray
    whitening: np.ndarray
    ranges: np.ndarray
    units: np.ndarray
    left_out: np.ndarray
    quantiles: np.ndarray
    known: np.ndarray

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], n_types: int) -> Memory:
        """That whose fields are given; ValueError where they do not fit."""
        n_places = N_DIRECTIONS + len(OF_CELLS)
        if "means" in arrays and arrays["means"].ndim == 2:
            n_places = min(n_places, arrays["means"].shape[1])
        n_cells = arrays["left_out"].size // 3 if "left_out" in arrays else 0
        check_arrays(
            arrays,
            {
                "means": (n_types, n_places),
                "ranges": (2, n_types),
                "units": (2, len(OF_CELLS)),
                "known": (len(MEASURES),),
            },
            np.float64,
        )
        check_arrays(
            arrays,
            {"whitening": (n_types, n_places, n_places), "left_out": (3, n_cells)},
        )
        quantiles = arrays.get("quantiles")
        shape = (n_types, N_QUANTILES, len(MEASURES))
        if quantiles is None or quantiles.shape != shape or quantiles.dtype != np.float32:
            raise ValueError("quantiles of the measures are missing or of another shape")
        if not (arrays["ranges"][1] > 0).all() or not (arrays["units"][1] > 0).all():
            raise ValueError("spreads of the memory are not positive")
        if (arrays["known"] < 0).any():
            raise ValueError("numbers of images of the memory are negative")
        if np.isinf(quantiles).any() or (np.diff(quantiles, axis=1) < 0).any():
            raise ValueError("quantiles of the measures are infinite or not in order")
        if n_cells < 1 or n_places <= len(OF_CELLS):
            raise ValueError("the memory is of no cells")
        if (np.diff(arrays["left_out"], axis=1) < 0).any():
            raise ValueError("the cells left out are not in order")
        return cls(**{name: arrays[name] for name in FIELDS})

    @property
    def n_cells(self) -> int:
        """Cells that its p-values are told by."""
        return len(self.left_out[0])

    @property
    def n_directions(self) -> int:
        return len(self.means[0]) - len(OF_CELLS)

    def ranks(self, measures: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Share of the images of its type in which a measure is smaller, (n, len(MEASURES)); NaN
        where unknown. Images of one type and value take turns among those of that value."""
        ranks = np.full(measures.shape, np.nan)
        for k in np.unique(codes):
            for column, known in enumerate(self.quantiles[k].T):
                rows = np.flatnonzero((codes == k) & np.isfinite(measures[:, column]))
                if len(rows) and np.isfinite(known).all():
                    ranks[rows, column] = _ranks(measures[rows, column], known)
        return ranks

    def places(self, directions: np.ndarray, measures: np.ndarray) -> np.ndarray:
        """z of cells: of their `directions` (n, n_directions) and `MEASURES`."""
        return join(directions[:, : self.n_directions], measures, self.units)

    def strangeness(self, places: np.ndarray, between: np.ndarray) -> Strangeness:
        """Of cells at places z, whose v is `between`."""
        far = self.far(places)
        left_far, left_between, left = self.left_out
        p_far, p_between = p_values(left_far, far), p_values(left_between, between)
        score = -np.log(p_far) - _MARGIN * np.log(p_between)
        p = p_values(left, score)
        # Beyond all that was left out, the distance still tells.
        score = score + 1e-3 * np.clip(far, -50, 50)
        unknown = ~np.isfinite(far)
        return Strangeness(*(np.where(unknown, np.nan, v) for v in (p, score, p_far, p_between)))

    def distances(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """D of cells, and their nearest type."""
        distance = np.stack(
            [
                np.square((places - mean) @ white).sum(axis=1)
                for mean, white in zip(self.means, self.whitening, strict=True)
            ],
            axis=1,
        )
        nearest = distance.argmin(axis=1)
        return distance[np.arange(len(places)), nearest], nearest

    def far(self, places: np.ndarray) -> np.ndarray:
        """u of cells; NaN where a measure is unknown."""
        return self.standing(*self.distances(places))

    def standing(self, distance: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """u, of D and the nearest type."""
        middle, spread = self.ranges
        u: np.ndarray = (np.log(np.maximum(distance, 1e-12)) - middle[nearest]) / spread[nearest]
        return u

    def adapted(
        self, directions: np.ndarray, measures: np.ndarray, share: np.ndarray, between: np.ndarray
    ) -> Memory | None:
        """Of another laboratory, from cells whose types have the probabilities `share` (n,
        n_types): what is common to all its cells moves the types, and p-values are told by its
        cells. None where there are too few, or none was measured."""
        if len(directions) < _FEWEST:
            return None
        units = measure_units(measures)
        if units is None:
            return None
        places = join(directions[:, : self.n_directions], measures, units)
        good = np.isfinite(places).all(axis=1)
        if good.sum() < _FEWEST:
            return None
        shift = places[good].mean(axis=0) - share[good].mean(axis=0) @ self.means
        moved = replace(self, means=self.means + shift, units=units)
        left_out = told_by(moved.far(places[good]), between[good])
        quantiles, known = quantiles_of(measures, share.argmax(axis=1), len(self.means))
        return replace(moved, left_out=left_out, quantiles=quantiles, known=known)


FIELDS = ("means", "whitening", "ranges", "units", "left_out", "quantiles", "known")


def ranges_of(distance: np.ndarray, nearest: np.ndarray, n_types: int) -> np.ndarray:
    """`Memory.ranges` of cells left out; a type of few takes those of all."""
    logarithm = np.log(np.maximum(distance, 1e-12))
    ranges = []
    for k in range(n_types):
        own = logarithm[nearest == k]
        middle, most = np.quantile(own if len(own) >= _FEWEST else logarithm, [0.5, 0.9])
        ranges.append((middle, max(most - middle, 1e-6)))
    return np.array(ranges).T


def told_by(far: np.ndarray, between: np.ndarray) -> np.ndarray:
    """`Memory.left_out` of cells left out, given their u and v."""
    kept = np.linspace(0, len(far) - 1, min(len(far), _MOST_KEPT)).round().astype(int)
    kept_far, kept_between = np.sort(far)[kept], np.sort(between)[kept]
    p_far, p_between = p_values(kept_far, far), p_values(kept_between, between)
    score = np.sort(-np.log(p_far) - _MARGIN * np.log(p_between))[kept]
    return np.stack([kept_far, kept_between, score]).astype(np.float32)


def p_values(left_out: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Share of sorted values, and of the new one itself, that are no smaller than the new."""
    above = len(left_out) - np.searchsorted(left_out, new, side="left")
    result: np.ndarray = (above + 1) / (len(left_out) + 1)
    return result


def between_types(logits: np.ndarray) -> np.ndarray:
    """v of cells, from log-probabilities of types (n, n_types)."""
    top = np.partition(logits, -2, axis=1)
    result: np.ndarray = top[:, -2] - top[:, -1]
    return result


def of_cells(measures: np.ndarray) -> np.ndarray:
    """The `OF_CELLS` of `MEASURES` (n, len(MEASURES)), sizes as logarithms; NaN where unknown."""
    chosen = measures[:, _COLUMNS].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        chosen[:, _LOGARITHMS] = np.log(chosen[:, _LOGARITHMS])
    chosen[~np.isfinite(chosen)] = np.nan
    return chosen


def measure_units(measures: np.ndarray) -> np.ndarray | None:
    """`Memory.units`; None where a measure is not known of any cell."""
    chosen = of_cells(measures)
    if np.isnan(chosen).all(axis=0).any():
        return None
    spread = np.maximum(np.nanstd(chosen, axis=0), 1e-6)
    return np.stack([np.nanmedian(chosen, axis=0), spread])


def join(directions: np.ndarray, measures: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Places z (n, n_directions + len(OF_CELLS))."""
    centre, spread = units
    scaled = (of_cells(measures) - centre) / spread
    return np.concatenate([directions, np.clip(scaled, -_MOST_MEASURE, _MOST_MEASURE)], axis=1)


def quantiles_of(
    measures: np.ndarray, codes: np.ndarray, n_types: int
) -> tuple[np.ndarray, np.ndarray]:
    """`Memory.quantiles` and `Memory.known` of measures (n, len(MEASURES)) of types."""
    at = np.linspace(0, 1, N_QUANTILES)
    quantiles = np.full((n_types, N_QUANTILES, measures.shape[1]), np.nan, np.float32)
    for column, values in enumerate(measures.T):
        good = np.isfinite(values)
        for k in range(n_types):
            own = values[good & (codes == k)]
            own = own if len(own) >= _FEW_OF_TYPE else values[good]
            if len(own):
                quantiles[k, :, column] = np.quantile(own.astype(np.float64), at)
    return quantiles, np.isfinite(measures).sum(axis=0).astype(np.float64)


def _ranks(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of values among those whose evenly spaced quantiles are known."""
    at = np.linspace(0, 1, len(known))
    low = 1 - np.interp(-values, -known[::-1], at, left=0.0, right=1.0)
    high = np.interp(values, known, at, left=0.0, right=1.0)
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")
    turn = np.empty(len(values))
    turn[order] = np.arange(len(values)) - np.repeat(np.cumsum(size) - size, size)
    result: np.ndarray = low + (turn + 0.5) / size[group] * (high - low)
    return result


def types_at(
    places: np.ndarray, codes: np.ndarray, n_directions: int
) -> tuple[np.ndarray, np.ndarray]:
    """Means and whitening of types; the covariance of a type of few cells leans on that of all."""
    n_types, n_places = codes.max() + 1, places.shape[1]
    means = np.stack([places[codes == k].mean(axis=0) for k in range(n_types)])
    within = places - means[codes]
    pooled = within.T @ within / max(1, len(places) - n_types)
    whitening = []
    for k in range(n_types):
        own = within[codes == k]
        weight = len(own) / (len(own) + n_places)
        covariance = (1 - weight) * pooled + weight * (own.T @ own / max(1, len(own) - 1))
        variances = np.diag(covariance).copy()
        variances[:n_directions] = variances[:n_directions].mean()
        covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.diag(variances)
        covariance += 1e-9 * np.eye(n_places)
        whitening.append(np.linalg.cholesky(np.linalg.inv(covariance)))
    return means, np.stack(whitening).astype(np.float32)
