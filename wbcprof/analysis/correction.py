"""Differential count corrected for what a classifier mistakes.

Of cells whose true type is t, a part C_tj is called j. Where the types have shares pi, a call is j
with probability q_j = sum_t pi_t C_tj, and n_j calls are likeliest where pi maximises
sum_j n_j log q_j. Expectation and maximisation get there within the simplex::

    pi_t  <-  pi_t sum_j (n_j / n) C_tj / q_j

Where the inverse of C gives no negative share of the same calls, it gives these shares too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from wbcprof._shown import Shown
from wbcprof.analysis.counting import exact_interval, ratio_types
from wbcprof.checks import Integer, Real, check, label_names, unmasked

if TYPE_CHECKING:
    from pandas import DataFrame

RULES = {
    "confidence": Real(above=0, below=1),
    "n_resamples": Integer(100),
    "random_state": Integer(0),
}
TOLERANCE, MAX_ITER = 1e-7, 10_000
_NO_CELL = 1e-3  # cells: less are none, to which the likeliest shares come but slowly
_MOST_CELLS = 1 << 53


class NotCorrectable(ValueError):
    """A confusion says too little of the types that were called."""


@dataclass(frozen=True, repr=False)
class CorrectedCount(Shown):
    """Result of `correct_count`; arrays have shape (n_types,), float64.

    Attributes
    ----------
    types : list of str
    called : ndarray
        Share of calls, uncorrected.
    share, low, high : ndarray
        Corrected shares, which sum to 1, with their intervals.
    nlr, nlr_low, nlr_high : float
        Neutrophil-to-lymphocyte ratio of corrected shares with its interval; infinite without
        lymphocytes, NaN without either.
    neutrophils, lymphocytes : list of str
        The types that the ratio counts.
    confidence : float
    """

    types: list[str]
    called: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    nlr: float
    nlr_low: float
    nlr_high: float
    neutrophils: list[str]
    lymphocytes: list[str]
    confidence: float

    def to_pandas(self) -> DataFrame:
        """A `pandas.DataFrame`, one row per type."""
        import pandas as pd

        columns = ("called", "share", "low", "high")
        table = {name: getattr(self, name) for name in columns}
        return pd.DataFrame(table, index=pd.Index(self.types, name="type"))


def correct_count(
    counts: ArrayLike,
    confusion: ArrayLike,
    type_names: Iterable[Any],
    *,
    neutrophils: Sequence[str] | None = None,
    lymphocytes: Sequence[str] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    random_state: int = 0,
) -> CorrectedCount:
    """Shares of types on a slide, given how often the classifier mistakes one for another.

    Parameters
    ----------
    counts : array-like of shape (n_types,), int
        Cells of the slide by called type.
    confusion : array-like of shape (n_types, n_types), int
        Cells that the classifier was not trained on, true types down, called types across. Only
        its rows matter, not how many cells of each type it has; mistakes must be those made on
        slides like this one.
    type_names : n_types names
    neutrophils, lymphocytes : names, optional
        See `differential_count`.
    confidence : float
    n_resamples : int
        Bootstrap resamples for the intervals.
    random_state : int

    Returns
    -------
    CorrectedCount

    Raises
    ------
    ValueError
        Shapes do not fit, or numbers are no counts.
    NotCorrectable
        A ValueError: a type has no cell in `confusion`, calls are counted of which `confusion` has
        none, or it cannot tell the types apart.

    Notes
    -----
    Intervals are percentiles of a bootstrap in which both vary: calls of the slide are drawn from a
    multinomial distribution, so is each row of `confusion`, and shares are corrected anew. Half a
    call is added to each type, and one cell spread over each row, before drawing, so that what was
    not seen is rare and not impossible. An interval always holds its share, and reaches as far on
    either side as the exact one of the calls does, since a correction cannot tell more than the
    cells that were counted.

    References
    ----------
    Dempster, Laird, Rubin: Maximum likelihood from incomplete data via the EM algorithm. J R Stat
    Soc B 39, 1 (1977).

    Hopkins, King: A method of automated nonparametric content analysis for social science. Am J
    Political Science 54, 229 (2010), on why shares of calls mislead.

    Examples
    --------
    A tenth of the lymphocytes is called monocytes, and a slide has nine times as many of them:

    >>> import wbcprof
    >>> types = ["lymphocyte", "monocyte", "neutrophil"]
    >>> confusion = [[90, 10, 0], [2, 98, 0], [0, 1, 99]]
    >>> found = wbcprof.compare.correct_count([82, 20, 98], confusion, types)
    >>> found.share.round(3).tolist()
    [0.454, 0.051, 0.495]
    >>> found.to_pandas()["called"].tolist()
    [0.41, 0.1, 0.49]
    """
    parameters = check(
        RULES, confidence=confidence, n_resamples=n_resamples, random_state=random_state
    )
    names = label_names(type_names)
    counts, confusion = _counts(counts, confusion, names)
    share = _likeliest(counts[None], _rows(confusion)[None])[0]
    resampled = _resample(counts, confusion, parameters["n_resamples"], parameters["random_state"])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(resampled, ends, axis=0)
    called = counts / counts.sum()
    least, most = exact_interval(counts, counts.sum(), confidence)
    low = np.maximum(np.minimum(low, share - (called - least)), 0)
    high = np.minimum(np.maximum(high, share + (most - called)), 1)
    ratio_of = ratio_types(names, neutrophils, lymphocytes)
    columns = [[names.index(name) for name in chosen] for chosen in ratio_of]
    nlr = _ratio(share[None], columns)
    # Ranks, since a mean of infinite ratios is none.
    ratios = _ratio(resampled, columns)
    nlr_low, nlr_high = (  # a resample without either may be of any ratio
        np.quantile(np.where(np.isnan(ratios), worst, ratios), end, method="inverted_cdf")
        for end, worst in zip(ends, (0, np.inf), strict=True)
    )
    return CorrectedCount(
        names, called, share, np.minimum(low, share), np.maximum(high, share),
        float(nlr[0]), float(np.minimum(nlr_low, nlr)[0]), float(np.maximum(nlr_high, nlr)[0]),
        *ratio_of, parameters["confidence"],
    )  # fmt: skip


def _counts(
    counts: ArrayLike, confusion: ArrayLike, names: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Counts (k,) and confusion (k, k) as int64, checked."""
    k, counts, confusion = len(names), unmasked(counts, "counts"), unmasked(confusion, "confusion")
    counts, confusion = np.asarray(counts), np.asarray(confusion)
    if k < 2 or len(set(names)) < k:
        raise ValueError(f"type_names must be distinct and at least two, got {names}")
    for what, array, shape in (("counts", counts, (k,)), ("confusion", confusion, (k, k))):
        if array.shape != shape:
            raise ValueError(f"{what} must have shape {shape} for {k} types, got {array.shape}")
        whole = array.dtype.kind in "iuf" and ((array >= 0) & (array <= _MOST_CELLS)).all()
        if not whole or (array % 1 != 0).any():
            raise ValueError(f"{what} must be numbers of cells, whole and 0 or more")
    if counts.sum() == 0:
        raise ValueError("expected at least one called cell, got none")
    for total, what in ((confusion.sum(axis=1), "no cell whose true type is"),
                        (confusion.sum(axis=0) + (counts == 0), "no cell called")):  # fmt: skip
        if (total == 0).any():
            name = names[int(np.argmin(total))]
            raise NotCorrectable(
                f"confusion has {what} {name!r}: hold out more cells, or leave that type out"
            )
    if np.linalg.matrix_rank(_rows(confusion)) < k:
        raise NotCorrectable(
            "confusion cannot tell the types apart: calls of one are those of others mixed; join "
            "types that are called alike"
        )
    return counts.astype(np.int64), confusion.astype(np.int64)


def _rows(confusion: np.ndarray) -> np.ndarray:
    """Each row as shares."""
    shares: np.ndarray = confusion / confusion.sum(axis=-1, keepdims=True)
    return shares


@np.errstate(under="ignore")  # of types that are not there
def _likeliest(counts: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Likeliest shares (m, k) of counts (m, k), of whose true types the parts `called` (m, k, k)
    are called each type. Calls that no type explains are left out."""
    explained = counts * (called.sum(axis=1) > 0)
    calls = explained / explained.sum(axis=1, keepdims=True)
    shares = np.full(counts.shape, 1 / counts.shape[1])
    backward = np.ascontiguousarray(called.swapaxes(1, 2))
    for _ in range(MAX_ITER):
        seen = (shares[:, None] @ called)[:, 0]
        weight = np.divide(calls, seen, out=np.zeros_like(seen), where=calls > 0)
        better = shares * (weight[:, None] @ backward)[:, 0]
        change = np.abs(better - shares).max()
        shares = better
        if change < TOLERANCE:
            break
    shares[shares * counts.sum(axis=1, keepdims=True) < _NO_CELL] = 0
    found: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
    return found


def _resample(counts: np.ndarray, confusion: np.ndarray, m: int, random_state: int) -> np.ndarray:
    """Corrected shares (m, k) of counts and confusions drawn anew."""
    rng, k = np.random.default_rng(random_state), len(counts)
    drawn = rng.multinomial(counts.sum(), (counts + 0.5) / (counts.sum() + k / 2), m)
    rows = [rng.multinomial(row.sum(), (row + 1 / k) / (row.sum() + 1), m) for row in confusion]
    return _likeliest(drawn, _rows(np.stack(rows, axis=1)))


def _ratio(shares: np.ndarray, columns: list[list[int]]) -> np.ndarray:
    above, below = (shares[:, chosen].sum(axis=1) for chosen in columns)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio: np.ndarray = above / below
    return ratio
