"""Types of all cells from few names: of groups, and of single cells.

The twin of `report/templates/spread.js`, which does the same in the page of `write_label_page`.

Types are Gaussians of one covariance over the places of the cells. Cells of named groups count
once, as their group is named, and cells named by themselves five times. Then all are put where they
most likely belong, but those named by themselves, and the Gaussians are learnt again, three times:
expectation-maximisation from the names. Cells of groups without a name are not learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.analysis.grouping import Groups
from wbcprof.checks import Integer, known_label, shown, sorted_types

_WEIGHT = 5.0  # of a cell that is named by itself
_ROUNDS = 3
_SHRINKAGE = 0.1  # of the covariance, towards a sphere
_AMONG = 10  # times as many of the least sure, among which those are taken that differ most


@dataclass(frozen=True, eq=False, repr=False)
class SpreadLabels(Shown):
    """What cells are called by the names given so far.

    Attributes
    ----------
    ids : list of str
    types : list of str
        The names that were given, sorted.
    probabilities : ndarray of shape (n_cells, n_types), float64
        1 where a cell was named by itself.
    is_single : ndarray of shape (n_cells,), bool
        Cells named by themselves.
    places : ndarray of shape (n_cells, n_components), float32
        As of `Groups`.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import group_profiles, spread_labels
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(20, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> groups = group_profiles(model.profile(cells.images), n_groups=2)
    >>> named = [cells.labels[groups.typical(group, 1)[0]] for group in (0, 1)]
    >>> spread = spread_labels(groups, {0: named[0], 1: named[1]})
    >>> spread.probabilities.shape, len(spread.calls), len(spread.sureness), len(spread.ask_next(3))
    ((40, 2), 40, 40, 3)
    """

    ids: list[str]
    types: list[str]
    probabilities: np.ndarray
    is_single: np.ndarray
    places: np.ndarray

    @property
    def calls(self) -> np.ndarray:
        """The likeliest type of each cell, (n_cells,) of str."""
        calls: np.ndarray = np.array(self.types)[self.probabilities.argmax(axis=1)]
        return calls

    @property
    def sureness(self) -> np.ndarray:
        """Its probability, (n_cells,) float64."""
        sureness: np.ndarray = self.probabilities.max(axis=1)
        return sureness

    def ask_next(self, n: int = 10) -> list[int]:
        """Cells to be named next: unsure ones, each unlike those before it.

        Parameters
        ----------
        n : int
            Cells at most; those that were named by themselves are not asked again.
        """
        n = Integer(1).check("n", n)
        p = self.probabilities
        unsure = np.where(self.is_single, -1, -(p * np.log(np.maximum(p, 1e-12))).sum(axis=1))
        rows = np.argsort(-unsure, kind="stable")[: _AMONG * n]
        rows = rows[~self.is_single[rows]]
        if not len(rows):
            return []
        worth = unsure[rows] - unsure[rows[-1]] + 1e-6
        apart = _distances(self.places[rows], self.places[rows[0]])
        typical = max(float(np.median(apart)), 1e-12)
        chosen = [0]
        while len(chosen) < min(n, len(rows)):
            value = worth * apart / (apart + 0.5 * typical)
            value[chosen] = -1
            chosen.append(int(value.argmax()))
            apart = np.minimum(apart, _distances(self.places[rows], self.places[rows[chosen[-1]]]))
        found: list[int] = rows[chosen].tolist()
        return found

    def _told(self) -> dict[str, Any]:
        called, counts = np.unique(self.calls, return_counts=True)
        return {
            "cells": len(self.ids),
            "calls": dict(zip(called.tolist(), counts.tolist(), strict=True)),
            "named by themselves": int(self.is_single.sum()),
        }


def spread_labels(
    groups: Groups, names: Mapping[int, str], singles: Mapping[int, str] | None = None
) -> SpreadLabels:
    """Call all cells by the names of some groups and of single cells.

    Parameters
    ----------
    groups : Groups
        See `group_profiles`.
    names : mapping from number of a group to type
        Groups may be left out; None is unknown.
    singles : mapping from number of a cell to type, optional
        Cells named by themselves, whatever their group is called.

    Returns
    -------
    SpreadLabels

    Raises
    ------
    ValueError
        There is no such group or cell, or fewer than two types are named.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import group_profiles, spread_labels
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(20, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> groups = group_profiles(model.profile(cells.images), n_groups=2)
    >>> spread = spread_labels(groups, {0: "lymphocyte", 1: "neutrophil"}, {3: "neutrophil"})
    >>> str(spread.calls[3])
    'neutrophil'
    """
    of_groups = _known(names, groups.n_groups, "group")
    of_cells = _known(singles or {}, len(groups.ids), "cell")
    types = sorted_types([*of_groups.values(), *of_cells.values()])
    if len(types) < 2:
        raise ValueError(
            f"expected names of at least two types, got {', '.join(types) or 'none'}; name another "
            "group, or a cell"
        )
    code = {name: number for number, name in enumerate(types)}
    given = np.zeros((len(groups.ids), len(types)))
    for group, name in of_groups.items():
        given[groups.group == group, code[name]] = 1
    is_single = np.zeros(len(given), bool)
    for cell, name in of_cells.items():
        given[cell], is_single[cell] = 0, True
        given[cell, code[name]] = 1
    probabilities = _spread(groups.places.astype(np.float64), given, is_single)
    return SpreadLabels(list(groups.ids), types, probabilities, is_single, groups.places)


def _known(names: Mapping[int, Any], n: int, what: str) -> dict[int, str]:
    for number in names:
        if isinstance(number, bool) or not (hasattr(number, "__index__") and 0 <= number < n):
            raise ValueError(f"expected numbers of a {what} from 0 to {n - 1}, got {shown(number)}")
    known = {int(number): known_label(name) for number, name in names.items()}
    return {number: name for number, name in known.items() if name is not None}


def _spread(places: np.ndarray, given: np.ndarray, is_single: np.ndarray) -> np.ndarray:
    weight = np.where(is_single, _WEIGHT, given.sum(axis=1))[:, None]
    square = places.T @ (places * weight)  # the same in each round
    belongs = given
    for _ in range(_ROUNDS + 1):
        weighed = belongs * weight
        of_type = np.maximum(weighed.sum(axis=0), 1e-9)
        middles = weighed.T @ places / of_type[:, None]
        covariance = (square - middles.T @ (middles * of_type[:, None])) / of_type.sum()
        level = _SHRINKAGE * np.trace(covariance) / len(covariance)
        covariance = (1 - _SHRINKAGE) * covariance + level * np.eye(len(covariance))
        slopes = np.linalg.solve(covariance, middles.T)
        log = places @ slopes - 0.5 * np.einsum("ij,ji->i", middles, slopes) + np.log(of_type)
        belongs = np.exp(log - log.max(axis=1, keepdims=True))
        belongs /= belongs.sum(axis=1, keepdims=True)
        belongs[is_single] = given[is_single]
    return belongs


def _distances(places: np.ndarray, place: np.ndarray) -> np.ndarray:
    distances: np.ndarray = np.linalg.norm(places.astype(np.float64) - place, axis=1)
    return distances
