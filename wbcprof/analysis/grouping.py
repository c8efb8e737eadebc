"""Groups of like cells, found without labels.

Profiles are brought to one scale and to their first principal components, each of unit variance;
groups are Gaussians of one covariance, as types are to `TypeClassifier`. Of the ways that were
tried, these groups agree best with the types that people name (`bench/accuracy/labelling.py`).
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Integer, Maybe, check
from wbcprof.model.profiles import Profiles

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

RULES = {"n_groups": Maybe(Integer(1)), "random_state": Integer(0, 2**32 - 1)}
LEAST_CELLS = 10

_COMPONENTS = 64
_CELLS_PER_COMPONENT = 20  # at least
_CELLS_PER_GROUP = 10  # at least, of the numbers that are suggested
_SUGGESTED = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 30)
_FLOOR = 1e-3  # of the variance within groups, where components have 1 in all
_MOST_LEARNT = 5_000  # cells, drawn at random, that groups are learnt from
_STARTS, _SUBSETS, _SUBSET = 3, 5, 0.8
_STRAY = 1.5  # times the spread of the quartiles, of log distances: Tukey's fence
_FEW = 2  # cells, that are no group
_CONSTANT = 1e-6  # of the first component's spread


@dataclass(frozen=True, eq=False, repr=False)
class Groups(Shown):
    """Groups of like cells; neighbouring numbers are of groups that are alike.

    Attributes
    ----------
    ids : list of str
        Of the cells.
    group : ndarray of shape (n_cells,), int64
        Number of the likeliest group of each cell, from 0.
    sureness : ndarray of shape (n_cells,), float64
        Probability of that group.
    distance : ndarray of shape (n_cells,), float64
        Mahalanobis distance from the middle of the nearest group.
    is_stray : ndarray of shape (n_cells,), bool
        Cells that lie far from all groups: logarithms of distances more than one and a half
        times the spread of the quartiles above the upper one; and groups of one or two.
    stability : ndarray of shape (n_groups,), float64
        Of each group, how much of it is found again when four cells in five are grouped: mean over
        five draws of the largest Jaccard index (Hennig 2007).
    agreement : float
        Mean adjusted Rand index of these draws with the groups; 1 where all are the same.
    places : ndarray of shape (n_cells, n_components), float32
        Principal components of unit variance, in which distances are taken.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(20, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> groups = wbcprof.analysis.group_profiles(model.profile(cells.images), n_groups=2)
    >>> groups.n_groups, len(groups.typical(0, 5)), len(groups.doubtful(1, 5))
    (2, 5, 5)
    """

    ids: list[str]
    group: np.ndarray
    sureness: np.ndarray
    distance: np.ndarray
    is_stray: np.ndarray
    stability: np.ndarray
    agreement: float
    places: np.ndarray

    @property
    def n_groups(self) -> int:
        return len(self.stability)

    def typical(self, group: int, n: int = 9) -> list[int]:
        """Cells of a group, those nearest to its middle first; at most `n`."""
        rows = np.flatnonzero(self.group == group)
        found: list[int] = rows[np.argsort(self.distance[rows], kind="stable")][:n].tolist()
        return found

    def doubtful(self, group: int, n: int = 9) -> list[int]:
        """Cells of a group that are nearly as likely of another, the likeliest first."""
        rows = np.flatnonzero(self.group == group)
        found: list[int] = rows[np.argsort(self.sureness[rows], kind="stable")][:n].tolist()
        return found

    def _told(self) -> dict[str, Any]:
        return {
            "cells": len(self.group),
            "groups": self.n_groups,
            "sizes": np.bincount(self.group, minlength=self.n_groups).tolist(),
            "stray": int(self.is_stray.sum()),
            "agreement": self.agreement,
        }


def group_profiles(
    profiles: Profiles, n_groups: int | None = None, random_state: int = 0
) -> Groups:
    """Find groups of like cells, without labels.

    Parameters
    ----------
    profiles : Profiles
        Of 10 cells at least, not all alike.
    n_groups : int, optional
        At most: one that is the likeliest of no cell is left out. By default as many, of 2 to 30,
        as describe the cells best: the number of the least Bayesian information criterion. Types
        that look in several ways, as neutrophils do, have several groups.
    random_state : int
        Seed of the search; the same one gives the same groups.

    Returns
    -------
    Groups

    Raises
    ------
    ValueError
        There are too few cells, fewer than `n_groups`, profiles that are all the same, or such with
        NaN or infinity.

    Notes
    -----
    Beyond 5,000 cells, groups are learnt from 5,000 of them, drawn at random, and all are put into
    these. Pools of profiles are brought to one spread, roots of all features are taken; tables of
    other making are standardised, feature by feature.

    References
    ----------
    Hennig: Cluster-wise assessment of cluster stability. Computational Statistics & Data Analysis
    52, 258 (2007).

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import group_profiles
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(20, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> groups = group_profiles(model.profile(cells.images), n_groups=2)
    >>> groups.group.shape, groups.n_groups
    ((40,), 2)
    """
    check(RULES, n_groups=n_groups, random_state=random_state)
    n = len(profiles)
    if n < LEAST_CELLS or (n_groups or 0) > n:
        raise ValueError(
            f"expected at least {max(LEAST_CELLS, n_groups or 0)} cells to group, got {n}"
        )
    cells = _cells(profiles, random_state)
    places = cells.places
    rng = np.random.default_rng(random_state)
    learnt = cells.at(rng.choice(n, _MOST_LEARNT, replace=False)) if n > _MOST_LEARNT else cells
    if n_groups is None:
        most = max(2, len(learnt.places) // _CELLS_PER_GROUP)
        fits = [_fit(learnt, k, random_state, 1) for k in _SUGGESTED if k <= most]
        n_groups = min(fits, key=lambda fit: fit.bic(learnt.places)).n_components
    mixture = _fit(learnt, n_groups, random_state, _STARTS)
    found = mixture.predict(places)
    used = [group for group in _order(mixture) if group in found]
    number = np.zeros(n_groups, np.int64)
    number[used] = np.arange(len(used))
    apart = (places - mixture.means_[found]) @ mixture.precisions_cholesky_
    group, distance = number[found], np.linalg.norm(apart, axis=1)
    stability, agreement = _stability(learnt, places, group, n_groups, random_state)
    is_stray = _far(distance) | (np.bincount(group)[group] <= _FEW)
    sureness = mixture.predict_proba(places).max(axis=1)
    return Groups(
        list(profiles.ids), group, sureness, distance, is_stray, stability[: len(used)], agreement,
        places.astype(np.float32),
    )  # fmt: skip


def comparable(values: np.ndarray, feature_names: list[str]) -> np.ndarray:
    """Signed square roots, those of each pool over one region scaled so that none outweighs
    another; (n_cells, n_features) float64."""
    root: np.ndarray = np.sign(values) * np.sqrt(np.abs(values, dtype=np.float64))
    of_pool = [re.sub(r"_Signature_\d+", "", name) for name in feature_names]
    _, block, size = np.unique(of_pool, return_inverse=True, return_counts=True)
    spread = np.sqrt(np.bincount(block, root.var(axis=0)) / size)
    root /= np.where(spread > 0, spread, 1)[block]
    return root


@dataclass(frozen=True)
class _Cells:
    """Principal components of unit variance (n, d), and how long they were (d,)."""

    places: np.ndarray
    lengths: np.ndarray

    def at(self, rows: np.ndarray) -> _Cells:
        return _Cells(self.places[rows], self.lengths)


def _cells(profiles: Profiles, random_state: int) -> _Cells:
    from sklearn.decomposition import PCA

    values = np.asarray(profiles.values)
    if not np.isfinite(values).all():
        raise ValueError("expected finite profiles to group, got NaN or infinity")
    n, n_features = values.shape
    n_components = max(2, min(_COMPONENTS, n // _CELLS_PER_COMPONENT))
    scaled = comparable(values, profiles.feature_names)
    if scaled.var(axis=0).max() == 0:
        raise ValueError(f"the {n} profiles are all the same; there is nothing to group")
    pca = PCA(min(n_components, n_features), random_state=random_state)
    places: np.ndarray = pca.fit_transform(scaled)
    spread = places.std(axis=0)
    varies = spread > _CONSTANT * spread[0]
    return _Cells(places[:, varies] / spread[varies], spread[varies])


def _fit(cells: _Cells, n_groups: int, random_state: int, n_starts: int) -> GaussianMixture:
    """The likeliest groups of several starts: from k-means of the places, and from k-means of the
    principal components as long as they are, which tells groups that lie far apart."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    starts: list[dict[str, Any]] = [{"n_init": n_starts}]
    with warnings.catch_warnings():  # fewer cells differ, or 100 rounds were not all: they will do
        warnings.simplefilter("ignore", ConvergenceWarning)
        far = KMeans(n_groups, random_state=random_state).fit_predict(cells.places * cells.lengths)
        weights = np.bincount(far, minlength=n_groups) / len(far)
        if weights.all():
            middles = np.stack([cells.places[far == one].mean(axis=0) for one in range(n_groups)])
            rest = cells.places - middles[far]
            precision = np.linalg.inv(rest.T @ rest / len(rest) + _FLOOR * np.eye(rest.shape[1]))
            starts.append(
                {"weights_init": weights, "means_init": middles, "precisions_init": precision}
            )
        fits = [
            GaussianMixture(
                n_groups, covariance_type="tied", reg_covar=_FLOOR, random_state=random_state,
                **start,
            ).fit(cells.places)
            for start in starts
        ]  # fmt: skip
    return max(fits, key=lambda fit: fit.lower_bound_)


def _order(mixture: GaussianMixture) -> np.ndarray:
    """Groups in an order in which like ones are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if mixture.n_components < 3:
        return np.arange(mixture.n_components)
    middles = mixture.means_ @ mixture.precisions_cholesky_
    return np.asarray(leaves_list(linkage(middles, "average", optimal_ordering=True)))


def _stability(
    learnt: _Cells, places: np.ndarray, group: np.ndarray, n_groups: int, random_state: int
) -> tuple[np.ndarray, float]:
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(random_state)
    size = max(n_groups, round(_SUBSET * len(learnt.places)))
    jaccard, rand = np.zeros((_SUBSETS, n_groups)), np.zeros(_SUBSETS)
    for draw in range(_SUBSETS):
        rows = rng.choice(len(learnt.places), size, replace=False)
        again = _fit(learnt.at(rows), n_groups, (random_state + 1 + draw) % 2**32, _STARTS).predict(
            places
        )
        both = np.zeros((n_groups, n_groups))
        np.add.at(both, (group, again), 1)
        either = both.sum(axis=1)[:, None] + both.sum(axis=0) - both
        jaccard[draw] = (both / np.maximum(either, 1)).max(axis=1)
        rand[draw] = adjusted_rand_score(group, again)
    return jaccard.mean(axis=0), float(rand.mean())


def _far(distance: np.ndarray) -> np.ndarray:
    log = np.log(np.maximum(distance, np.finfo(float).tiny))
    low, high = np.percentile(log, (25, 75))
    far: np.ndarray = log > high + _STRAY * (high - low)
    return far
