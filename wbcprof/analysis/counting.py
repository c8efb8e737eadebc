"""The differential count: shares of types on a slide, with limits.

A slide shows a few of the cells of the blood. Limits say how far a share, or a ratio of shares, may
lie from that of the blood, given that the cells are drawn from it at random.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from wbcprof._shown import Shown
from wbcprof.checks import (
    UNLABELLED,
    Real,
    label_names,
    meant,
    numbers,
    plain_name,
    sorted_types,
)

if TYPE_CHECKING:
    from pandas import DataFrame

NEUTROPHILS = "neutrophil segmented_neutrophil band_neutrophil seg band".split()
LYMPHOCYTES = (
    "lymphocyte typical_lymphocyte atypical_lymphocyte reactive_lymphocyte variant_lymphocyte "
    "large_granular_lymphocyte"
).split()


class UnknownTypeWarning(UserWarning):
    """A type that was named in a parameter is none of those that there are cells of."""


_FINEST = 1e-6  # precision of a share: more cells than anybody counts


@dataclass(frozen=True, repr=False)
class DifferentialCount(Shown):
    """Result of `differential_count`: how many cells of each type a sample holds.

    Attributes
    ----------
    samples, types : list of str
    counts : ndarray of shape (n_samples, n_types), int
    share, low, high : ndarray of shape (n_samples, n_types), float64
        Part of the sample's cells of known type, with its Wilson interval; NaN without cells.
    n_unknown : ndarray of shape (n_samples,), int
        Cells without a type, which no share counts.
    nlr, nlr_low, nlr_high : ndarray of shape (n_samples,), float64
        Neutrophil-to-lymphocyte ratio with its interval; infinite without lymphocytes, NaN
        without either.
    neutrophils, lymphocytes : list of str
        The types that the ratio counts.
    confidence : float
    """

    samples: list[str]
    types: list[str]
    counts: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_unknown: np.ndarray
    nlr: np.ndarray
    nlr_low: np.ndarray
    nlr_high: np.ndarray
    neutrophils: list[str] = field(default_factory=list)
    lymphocytes: list[str] = field(default_factory=list)
    confidence: float = 0.95

    def _told(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "cells": dict(zip(self.types, self.counts.sum(axis=0).tolist(), strict=True)),
            "without a type": int(self.n_unknown.sum()),
            "neutrophils / lymphocytes": self.nlr,
            "confidence": self.confidence,
        }

    def to_pandas(self) -> DataFrame:
        """A `pandas.DataFrame`, one row per sample and type."""
        import pandas as pd

        n_samples, n_types = self.counts.shape
        return pd.DataFrame(
            {
                "sample": np.repeat(self.samples, n_types),
                "type": np.tile(self.types, n_samples),
                **{
                    name: getattr(self, name).ravel() for name in ("counts", "share", "low", "high")
                },
                **{
                    name: np.repeat(getattr(self, name), n_types)
                    for name in ("n_unknown", "nlr", "nlr_low", "nlr_high")
                },
            }
        )


def differential_count(
    types: Iterable[Any],
    samples: Iterable[Any] | None = None,
    *,
    neutrophils: Sequence[str] | None = None,
    lymphocytes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    confidence: float = 0.95,
) -> DifferentialCount:
    """Differential count of each sample, with intervals, and its neutrophil-to-lymphocyte ratio.

    Parameters
    ----------
    types : n_cells names
        Labelled or called types. A name that is new is a type like any other.
    samples : n_cells names, optional
        By default all cells are one sample, ``"all cells"``. Cells without a sample are one
        sample, ``"unlabelled"``.
    neutrophils, lymphocytes : names, optional
        Types that the ratio counts. By default those whose name, in any case, with spaces, hyphens
        or underscores, singular or plural, is in `NEUTROPHILS` or `LYMPHOCYTES` (mature
        neutrophils with bands; all mature lymphocytes).
    exclude : names
        Types that are not leukocytes (smudge cells, platelets, erythroblasts): not counted. Names
        that are given mean the types that are spelt so or, where none is, differ from them as
        above. One that means no type that there are cells of is an `UnknownTypeWarning`.
    confidence : float

    Returns
    -------
    DifferentialCount

    Raises
    ------
    ValueError
        No cells, lengths differ, types are both `neutrophils` and `lymphocytes`, or `confidence` is
        not between 0 and 1.

    Notes
    -----
    Shares: Wilson (1927). Ratio: given N + L cells, N is binomial with p = NLR / (1 + NLR), so that
    Wilson's limits of p, as p / (1 - p), are those of the ratio. Both tell how sure the counted
    cells make us of the blood they were drawn at random from. They know nothing of cells called
    wrongly, nor of cells picked by type.

    Examples
    --------
    >>> import wbcprof
    >>> types = ["neutrophil"] * 60 + ["lymphocyte"] * 30 + ["monocyte"] * 8 + [None] * 2
    >>> count = wbcprof.compare.differential_count(types)
    >>> dict(zip(count.types, count.counts[0].tolist()))
    {'lymphocyte': 30, 'monocyte': 8, 'neutrophil': 60}
    >>> print(f"NLR {count.nlr[0]:.1f} ({count.nlr_low[0]:.2f} to {count.nlr_high[0]:.2f})")
    NLR 2.0 (1.29 to 3.09)
    >>> count.to_pandas().set_index("type")["share"].round(3).to_dict()
    {'lymphocyte': 0.306, 'monocyte': 0.082, 'neutrophil': 0.612}
    """
    names = label_names(types)
    if not names:
        raise ValueError("expected at least one cell, got none")
    units = ["all cells"] * len(names) if samples is None else label_names(samples, len(names))
    excluded = _chosen(exclude, sorted_types(names), "exclude")
    kept = [i for i, name in enumerate(names) if name not in excluded]
    if not kept:
        raise ValueError(f"all cells are of the excluded types {excluded}")
    names, units = [names[i] for i in kept], [units[i] for i in kept]
    found_samples, found = sorted_types(units), sorted_types(names)
    table = np.zeros((len(found_samples), len(found)), dtype=np.int64)
    row = {name: i for i, name in enumerate(found_samples)}
    column = {name: i for i, name in enumerate(found)}
    np.add.at(table, ([row[unit] for unit in units], [column[name] for name in names]), 1)
    n_unknown = np.zeros(len(found_samples), dtype=np.int64)
    if found[-1] == UNLABELLED:
        table, n_unknown, found = table[:, :-1], table[:, -1], found[:-1]

    total = table.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = table / total[:, None]
        low, high = wilson_interval(table, total[:, None], confidence)
        counted = ratio_types(found, neutrophils, lymphocytes)
        n, m = (table[:, [column[name] for name in chosen]].sum(axis=1) for chosen in counted)
        ratio_low, ratio_high = (p / (1 - p) for p in wilson_interval(n, n + m, confidence))
        nlr = n / m
    return DifferentialCount(
        found_samples, found, table, share, low, high, n_unknown, nlr, ratio_low, ratio_high,
        *counted, confidence,
    )  # fmt: skip


def wilson_interval(
    counts: ArrayLike, totals: ArrayLike, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of ``counts / totals``: lower and upper limits, float64; NaN where
    a total is 0."""
    from scipy.special import ndtri

    Real(above=0, below=1).check("confidence", confidence)
    counts, totals = numbers(counts, "counts"), numbers(totals, "totals")
    z = ndtri(0.5 + confidence / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = counts / totals
        centre = (p + z**2 / (2 * totals)) / (1 + z**2 / totals)
        half = z * np.sqrt(p * (1 - p) / totals + z**2 / (4 * totals**2)) / (1 + z**2 / totals)
    # At the ends, centre - half and centre + half are 0 and 1 but for rounding.
    low = np.where(counts == 0, np.where(totals > 0, 0.0, np.nan), centre - half)
    return low, np.where(counts == totals, np.where(totals > 0, 1.0, np.nan), centre + half)


def exact_interval(
    counts: ArrayLike, totals: ArrayLike, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Exact binomial limits of ``counts / totals``, those of Rümke's table for differential counts.

    Limits by Clopper and Pearson hold the share of the blood at least as often as stated, and are
    wider for it than Wilson's, which `differential_count` gives.

    Parameters
    ----------
    counts, totals : array-like, of shapes that fit
        Cells of a type, and all cells.
    confidence : float

    Returns
    -------
    low, high : ndarray, float64
        NaN where a total is 0.

    Raises
    ------
    ValueError
        A count is below 0 or above its total, or `confidence` is not between 0 and 1.

    References
    ----------
    Rümke: The statistically expected variability in differential leukocyte counting, in Koepke
    (ed.), Differential Leukocyte Counting (1979). Clopper, Pearson: Biometrika 26, 404 (1934).

    Examples
    --------
    5 eosinophils among 100 cells:

    >>> import wbcprof
    >>> low, high = wbcprof.compare.exact_interval(5, 100)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.016 to 0.113
    """
    Real(above=0, below=1).check("confidence", confidence)
    counts, totals = _cells(counts, totals)
    low, high = _exact(counts, totals, (1 - confidence) / 2)
    return np.where(totals > 0, low, np.nan), np.where(totals > 0, high, np.nan)


def poisson_interval(counts: ArrayLike, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Exact limits of the mean of a Poisson distribution, of which `counts` were seen: lower and
    upper, float64, by Garwood (1936)."""
    from scipy.special import gammaincinv

    Real(above=0, below=1).check("confidence", confidence)
    counts, tail = numbers(counts, "counts"), (1 - confidence) / 2
    low = np.where(counts > 0, gammaincinv(np.maximum(counts, 1), tail), 0.0)
    return low, gammaincinv(counts + 1, 1 - tail)


def cells_needed(
    counts: ArrayLike, totals: ArrayLike, precision: float, confidence: float = 0.95
) -> np.ndarray:
    """How many cells must still be counted until a share is known to a stated precision.

    Parameters
    ----------
    counts, totals : array-like, of shapes that fit
        Cells of a type, and all cells, counted so far.
    precision : float
        Half the width that the exact interval of the share is to have, such as 0.02.
    confidence : float

    Returns
    -------
    ndarray, int64
        0 where the interval is as narrow already. The share is taken to stay what it is; where no
        cell was counted, to be one half, which needs most.

    Raises
    ------
    ValueError
        A count is below 0 or above its total, `precision` is below 1e-6 or not below 0.5, or
        `confidence` not between 0 and 1.

    Examples
    --------
    The shares of 60 neutrophils and 3 eosinophils among 100 cells, each to 5 points:

    >>> import wbcprof
    >>> wbcprof.compare.cells_needed([60, 3], 100, 0.05).tolist()
    [287, 0]
    """
    Real(least=_FINEST, below=0.5).check("precision", precision)
    Real(above=0, below=1).check("confidence", confidence)
    counts, totals = np.broadcast_arrays(*_cells(counts, totals))
    share = np.divide(counts, totals, out=np.full(counts.shape, 0.5), where=totals > 0)

    def is_enough(n: np.ndarray) -> np.ndarray:
        low, high = _exact(share * n, n, (1 - confidence) / 2)
        enough: np.ndarray = high - low <= 2 * precision
        return enough

    few, many = np.zeros(share.shape), np.ones(share.shape)
    while not (enough := is_enough(many)).all():
        few, many = np.where(enough, few, many), np.where(enough, many, 2 * many)
    while (many - few > 1).any():
        middle = np.maximum((few + many) // 2, 1)
        enough = is_enough(middle)
        few, many = np.where(enough, few, middle), np.where(enough, middle, many)
    needed: np.ndarray = np.maximum(many - totals, 0).astype(np.int64)
    return needed


def _cells(counts: ArrayLike, totals: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    counts, totals = numbers(counts, "counts"), numbers(totals, "totals")
    if not ((counts >= 0) & (counts <= totals) & np.isfinite(totals)).all():
        raise ValueError("counts must be 0 or more, and at most the totals they are counted among")
    return counts, totals


def _exact(counts: np.ndarray, totals: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Limits beyond which lies `tail` on either side, counts perhaps not whole."""
    from scipy.special import betaincinv

    rest = totals - counts
    low = betaincinv(np.where(counts > 0, counts, 1), rest + 1, tail)
    high = betaincinv(counts + 1, np.where(rest > 0, rest, 1), 1 - tail)
    return np.where(counts > 0, low, 0), np.where(rest > 0, high, 1)


def ratio_types(
    found: list[str], neutrophils: Any = None, lymphocytes: Any = None
) -> tuple[list[str], list[str]]:
    """Types that the ratio counts: those given, or else whose plain name is known."""
    n, m = (
        [name for name in found if plain_name(name) in known]
        if given is None
        else _chosen(given, found, parameter)
        for given, known, parameter in (
            (neutrophils, NEUTROPHILS, "neutrophils"),
            (lymphocytes, LYMPHOCYTES, "lymphocytes"),
        )
    )
    if both := set(n) & set(m):
        raise ValueError(
            f"a type is either of neutrophils or of lymphocytes, got {sorted(both)} for both"
        )
    return n, m


def _chosen(names: Any, found: list[str], parameter: str) -> list[str]:
    chosen, unknown = meant(names, found)
    if unknown:
        warnings.warn(
            f"{parameter} names {', '.join(map(repr, unknown))}, of which there are no cells among "
            f"those of {', '.join(map(repr, found))}",
            UnknownTypeWarning,
            stacklevel=4,
        )
    return chosen
