"""Types as Gaussians of one covariance, and what a new laboratory changes of them.

On standardised profiles x^, along the directions of most variance (rows of the basis E)::

    z = E x^                 N(m_k, S) for type k
    d_ij = w_ij . x^ + b_ij  w_ij = E' S^-1 (m_i - m_j),  b_ij = -(m_i + m_j) / 2 . S^-1 (m_i - m_j)

d_ij is the logarithm of how much more likely type i is than j (Fisher, The use of multiple
measurements in taxonomic problems, 1936). In another laboratory all cells are shifted by the same
vector t, found from its cells without labels. With labels, the mean of a type is that of its cells
there and of n of the source's, moved: n = n_directions / t' S^-1 t, since types will differ from
the source's as the laboratories do (empirical Bayes: a mean shift per direction of t' S^-1 t /
n_directions is the variance of what is unknown, in units of that of a cell). The covariance is in
part that of its own cells, by the same measure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from wbcprof.model.arrays import check_arrays
from wbcprof.threads import left_at_once

N_DIRECTIONS = 200
SHRINKAGE = 0.05
"""Of a covariance towards a sphere of the same mean variance."""

_SHRINKAGE_OWN = 0.4  # of the covariance of few cells
_OWN_COVARIANCE = 10  # labelled cells whose covariance weighs as much as the source's, times n
_SHIFT_CELLS = 10  # cells that weigh as much as having no shift
_MIX_CELLS = 20  # of equal mix that the mix of a new laboratory begins with
_ROUNDS = 5
_FEW_ROWS = 4


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Types in the space of profiles.

    Attributes
    ----------
    basis : ndarray of shape (n_directions, n_features), float32
        Orthonormal rows.
    means : ndarray of shape (n_types, n_directions), float64
    covariance : ndarray of shape (n_directions, n_directions), float64
        Of cells about the mean of their type, shrunk.
    slope : float
        From decisions to log-probabilities, of cells that were left out.
    """

    basis: np.ndarray
    means: np.ndarray
    covariance: np.ndarray
    slope: float = 1.0

    @classmethod
    def learn(cls, scaled: Iterable[np.ndarray], codes: np.ndarray) -> tuple[Gaussians, np.ndarray]:
        """From blocks of standardised profiles (n, n_features), gone through more than once, and
        the index of the type of each; with the places of all, (n, n_directions)."""
        n_types = codes.max() + 1
        basis = _leading_directions(scaled, len(codes), len(codes) - n_types)
        places = np.concatenate([block @ basis.T.astype(np.float64) for block in scaled])
        return cls.at(places, codes, basis), places

    @classmethod
    def at(cls, places: np.ndarray, codes: np.ndarray, basis: np.ndarray) -> Gaussians:
        """From places (n, n_directions) along a basis."""
        means = np.stack([places[codes == k].mean(axis=0) for k in range(codes.max() + 1)])
        within = places - means[codes]
        covariance = within.T @ within / max(1, len(places) - len(means))
        return cls(basis, means, shrink(covariance, SHRINKAGE))

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, np.ndarray], n_types: int, n_features: int, slope: float
    ) -> Gaussians:
        """Those whose fields are given; ValueError where they do not fit."""
        n_values = arrays["basis"].size if "basis" in arrays else 0
        n_directions = max(1, n_values // max(1, n_features))
        check_arrays(arrays, {"basis": (n_directions, n_features)})
        shapes = {"means": (n_types, n_directions), "covariance": (n_directions, n_directions)}
        check_arrays(arrays, shapes, np.float64)
        covariance = arrays["covariance"]
        if not np.linalg.eigvalsh((covariance + covariance.T) / 2).min() > 0:
            raise ValueError("covariance is not positive definite")
        return cls(arrays["basis"], arrays["means"], covariance, slope)

    @cached_property
    def _rows(self) -> np.ndarray:
        return self.basis.astype(np.float64)

    @cached_property
    def _white(self) -> tuple[np.ndarray, np.ndarray]:
        """Directions (n_directions, n_features), float32, along which cells of a type have variance
        1, and the types there (n_types, n_directions)."""
        whitening = self._whitening
        return (whitening @ self._rows).astype(np.float32), self.means @ whitening.T

    @cached_property
    def _whitening(self) -> np.ndarray:
        return np.linalg.inv(np.linalg.cholesky(self.covariance))

    def places(self, scaled: np.ndarray, n_directions: int | None = None) -> np.ndarray:
        """Where standardised profiles lie along the first or all directions, (n, n_directions)
        float64."""
        return products(scaled, self._rows[:n_directions])

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (n_pairs, n_directions) and intercepts of the decisions i < j, on places."""
        first, second = np.triu_indices(len(self.means), 1)
        apart = self.means[first] - self.means[second]
        weights = np.linalg.solve(self.covariance, apart.T).T
        middle = (self.means[first] + self.means[second]) / 2
        return weights, -np.einsum("pk,pk->p", middle, weights)

    def machines(self) -> tuple[np.ndarray, np.ndarray]:
        """The same on standardised profiles: weights (n_pairs, n_features), intercepts."""
        weights, intercept = self.pairs()
        return weights @ self.basis.astype(np.float64), intercept

    def likelihoods(self, places: np.ndarray) -> np.ndarray:
        """Probability of each type where all are as frequent, (n, n_types)."""
        solved = np.linalg.solve(self.covariance, self.means.T)
        logits = places @ solved - 0.5 * np.einsum("ij,ji->i", self.means, solved)
        return shares(logits)

    def nearest(self, scaled: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance of standardised profiles to the nearest type, (n,); of the
        precision of float32, whose product takes half the time."""
        with np.errstate(over="ignore", invalid="ignore"):
            directions, _ = self._white
            white = products(scaled.astype(np.float32, copy=False), directions).astype(np.float64)
            return self._nearest(white)

    def nearest_at(self, places: np.ndarray) -> np.ndarray:
        """The same, of places."""
        return self._nearest(places @ self._whitening.T)

    def _nearest(self, white: np.ndarray) -> np.ndarray:
        _, means = self._white
        squared = np.einsum("kd,kd->k", means, means) - 2 * (white @ means.T)
        squared += np.einsum("id,id->i", white, white)[:, None]
        result: np.ndarray = squared.min(axis=1)
        return result

    def moved(self, shift: np.ndarray) -> Gaussians:
        return replace(self, means=self.means + shift)

    def adapted(self, places: np.ndarray, codes: np.ndarray | None) -> tuple[Gaussians, np.ndarray]:
        """These types in another laboratory, and how far its cells are shifted, (n_directions,).

        Parameters
        ----------
        places : ndarray of shape (n, n_directions)
            Of its cells.
        codes : ndarray of shape (n,), int, or None
            Index of the type of each, -1 where unknown.
        """
        known = np.zeros(len(places), bool) if codes is None else codes >= 0
        shift = self._shift(places)
        if codes is None or not known.any():
            return self.moved(shift), shift
        moved = self.moved(shift)
        counts = np.bincount(codes[known], minlength=len(self.means))[:, None]
        sums = np.zeros_like(self.means)
        np.add.at(sums, codes[known], places[known])
        prior = places.shape[1] / max(self.distance(shift) ** 2, 1e-6)
        means = (prior * moved.means + sums) / (prior + counts)
        own = sums / np.maximum(counts, 1)
        within = places[known] - own[codes[known]]
        freedom = int(known.sum()) - int((counts > 0).sum())
        covariance = self.covariance
        if freedom > 0:
            weight = freedom / (freedom + _OWN_COVARIANCE * prior)
            few = shrink(within.T @ within / freedom, _SHRINKAGE_OWN)
            covariance = (1 - weight) * covariance + weight * few
        return replace(self, means=means, covariance=covariance), shift

    def _shift(self, places: np.ndarray) -> np.ndarray:
        """What brings the types to the mean of these cells, of whatever mix they are: the mix is
        that of what the cells are called, called anew after each shift."""
        n = len(places)
        shift = np.zeros(places.shape[1])
        for _ in range(_ROUNDS):
            called = self.moved(shift).likelihoods(places).sum(axis=0)
            mix = (called + _MIX_CELLS / len(called)) / (n + _MIX_CELLS)
            shift = (places.mean(axis=0) - mix @ self.means) * (n / (n + _SHIFT_CELLS))
        return shift

    def distance(self, shift: np.ndarray) -> float:
        """Length of a shift in standard deviations of cells about the mean of their type."""
        squared = float(shift @ np.linalg.solve(self.covariance, shift))
        return float(np.sqrt(max(squared, 0.0)))


def products(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """rows @ columns.T, (n, n_columns). Of few rows dot by dot: the threads of a BLAS wait for one
    another where cores are busy, and one profile then takes 10 ms in place of 0.05."""
    if len(rows) > _FEW_ROWS:
        return np.asarray(rows @ columns.T)
    return np.stack([(columns[:, None] @ row)[:, 0] for row in rows])


@np.errstate(under="ignore")
def shares(logits: np.ndarray) -> np.ndarray:
    """Probabilities (n, n_types) from their logarithms up to a constant of each row."""
    relative = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = relative / relative.sum(axis=1, keepdims=True)
    return result


def shrink(covariance: np.ndarray, share: float, n_directions: int | None = None) -> np.ndarray:
    """A covariance towards a sphere of the same mean variance over so many directions, by default
    those that it has."""
    sphere = max(float(np.trace(covariance)) / (n_directions or len(covariance)), 1e-12)
    result: np.ndarray = (1 - share) * covariance
    result[np.diag_indices_from(result)] += share * sphere
    return result


def _leading_directions(scaled: Iterable[np.ndarray], n_rows: int, most: int) -> np.ndarray:
    """Orthonormal directions of most variance of centred rows, `most` at most, (n, n_features)
    float32; signs by the largest entry."""
    products: np.ndarray | None = None
    held = []
    for block in scaled:
        rows = block.astype(np.float64)
        if n_rows < rows.shape[1]:
            held.append(rows)
        elif products is None:
            products = rows.T @ rows
        else:
            products += rows.T @ rows
    if products is None:
        rows = np.concatenate(held)
        n = max(1, min(N_DIRECTIONS, most))
        gram = rows @ rows.T
        _, vectors = left_at_once(lambda: np.linalg.eigh(gram))
        directions = vectors[:, ::-1][:, :n].T @ rows
        directions /= np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    else:
        n = max(1, min(N_DIRECTIONS, most, len(products)))
        covariance = products
        _, vectors = left_at_once(lambda: np.linalg.eigh(covariance))
        directions = vectors[:, ::-1][:, :n].T
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    return (directions * np.where(largest < 0, -1, 1)).astype(np.float32)
