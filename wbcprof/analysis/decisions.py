"""Fisher's discriminant along all directions, learnt with cells left out.

On standardised profiles, with the means m_k of types and the covariance S of cells about them::

    d_ij = w_ij . x^ + b_ij    w_ij = T^-1 (m_i - m_j)    T = (1 - a) S + a s I,  s = tr(S) / p

as in `wbcprof.model.discriminant`, but with all p directions rather than the leading ones, and a,
the shrinkage, chosen on cells left out. S without some cells is S of all less theirs, so that the
profiles are gone through twice however many folds there are. Where there are fewer profiles than
features, all is done in the space that they span, which holds every w.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from wbcprof.analysis.folds import Split
from wbcprof.model.discriminant import shrink
from wbcprof.model.machines import BLOCK
from wbcprof.threads import left_at_once

SHRINKAGES = (0.01, 0.03, 0.1, 0.3)
"""Candidates for a."""

SHRINKAGE = 0.1
"""a where no cell can be left out."""


class Rows:
    """Rows of tables of profiles, of one after the other, a block at a time.

    Parameters
    ----------
    tables : list of ndarray of shape (n, n_features)
    rows : ndarray of int
        Which of all; row r of table t is t n + r.
    units : tuple of ndarray, optional
        Mean and spread that they are standardised by.
    """

    def __init__(
        self,
        tables: list[np.ndarray],
        rows: np.ndarray,
        units: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self._tables, self._rows, self._units = tables, rows, units
        self.n_features: int = tables[0].shape[1]

    @classmethod
    def of_each(cls, tables: list[np.ndarray], rows: np.ndarray) -> Rows:
        """The same rows of every table."""
        n = len(tables[0])
        return cls(tables, np.concatenate([rows + t * n for t in range(len(tables))]))

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, index: np.ndarray) -> Rows:
        """Some of them."""
        return Rows(self._tables, self._rows[index], self._units)

    def standardised(self, mean: np.ndarray, scale: np.ndarray) -> Rows:
        return Rows(self._tables, self._rows, (mean, scale))

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks (n, n_features), float64, or float32 once standardised."""
        size = max(1, BLOCK // self.n_features)
        n = len(self._tables[0])
        for start in range(0, len(self), size):
            tables, rows = np.divmod(self._rows[start : start + size], n)
            block = np.empty((len(rows), self.n_features))
            for table in np.unique(tables):
                block[tables == table] = self._tables[table][rows[tables == table]]
            if self._units is None:
                yield block
                continue
            mean, scale = self._units
            block -= mean
            block /= scale
            yield block.astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of cells by type: how many, (n_types,); of their places, (n_types, n); of the products of the
    places of each, (n, n)."""

    counts: np.ndarray
    sums: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, rows: Rows, codes: np.ndarray, n_types: int) -> _Sums:
        n = rows.n_features
        sums, products = np.zeros((n_types, n)), np.zeros((n, n))
        start = 0
        for block in rows:
            of_type = np.eye(n_types, dtype=block.dtype)[codes[start : start + len(block)]]
            sums += of_type.T @ block
            products += block.T @ block
            start += len(block)
        return cls(np.bincount(codes, minlength=n_types), sums, products)

    def __sub__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.counts - other.counts, self.sums - other.sums, self.products - other.products
        )

    def scores(
        self, shrinkages: Sequence[float], n_features: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each shrinkage, what a place is multiplied by, (n, n_types), and what is added,
        (n_types,), for the logarithm of how likely each type is, up to a constant."""
        means = self.sums / np.maximum(self.counts, 1)[:, None]
        within = self.products - (means * self.counts[:, None]).T @ means
        within /= max(1, int(self.counts.sum()) - len(means))
        for share in shrinkages:
            shrunk = shrink(within, share, n_features)
            weights = left_at_once(partial(np.linalg.solve, shrunk, means.T))
            yield weights, -0.5 * np.einsum("kn,nk->k", means, weights)


class AllDirections:
    """What decides between types, learnt along all directions.

    Parameters
    ----------
    scaled : Rows
        Standardised profiles: of n cells, then of copies of the same in the same order.
    codes : ndarray of shape (n,), int
        Index of the type of each cell.
    """

    def __init__(self, scaled: Rows, codes: np.ndarray) -> None:
        self._n, self._n_types = len(codes), int(codes.max()) + 1
        self._codes = np.tile(codes, len(scaled) // len(codes))
        self._n_features = scaled.n_features
        self._basis = None
        if len(scaled) < scaled.n_features:
            held = np.concatenate([block.astype(np.float64) for block in scaled])
            self._basis, places = left_at_once(lambda: np.linalg.qr(held.T))
            scaled = Rows([np.ascontiguousarray(places.T)], np.arange(len(held)))
        self._rows = scaled
        self._all = _Sums.of(scaled, self._codes, self._n_types)

    def machines(self, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
        """Weights (n_pairs, n_features) and intercepts of the decisions i < j, of all cells."""
        ((weights, intercept),) = self._all.scores([shrinkage], self._n_features)
        if self._basis is not None:
            weights = self._basis @ weights
        first, second = np.triu_indices(self._n_types, 1)
        return (weights[:, first] - weights[:, second]).T, intercept[first] - intercept[second]

    def left_out(self, folds: list[Split], shrinkages: Sequence[float]) -> list[np.ndarray]:
        """For each shrinkage, how likely each type is for each of the n cells by what was learnt
        without its fold, (n, n_types): logarithms up to a constant of each."""
        found = [np.zeros((self._n, self._n_types)) for _ in shrinkages]
        for _, test in folds:
            everywhere = np.concatenate(
                [test + start for start in range(0, len(self._rows), self._n)]
            )
            theirs = _Sums.of(self._rows.at(everywhere), self._codes[everywhere], self._n_types)
            rest = self._all - theirs
            places = self._rows.at(test)
            for scores, (weights, intercept) in zip(
                found, rest.scores(shrinkages, self._n_features), strict=True
            ):
                scores[test] = np.concatenate([block @ weights for block in places]) + intercept
        return found
