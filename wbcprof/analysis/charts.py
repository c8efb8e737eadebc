"""Control charts: Westgard's rules and moving averages of a series of slides.

The first slides, the baseline, say where a chart lies and how far slides scatter about that; those
after it are judged::

    z_t = (x_t - centre) / spread_t
    E_t = (1 - w) E_{t-1} + w z_t,   E_0 = 0
    var E_t = w / (2 - w) (1 - (1 - w)^{2t}) + (1 - (1 - w)^t)^2 / n

The last term is what a baseline of n slides leaves unknown of the centre; for the same reason
limits are quantiles of Student's t with n - 1 degrees of freedom, not of the normal distribution.
One slide alone may reach t sqrt(1 + 1 / n); in averages it counts for no more, so that one odd
slide makes no drift.

Shares of types are charted as Anscombe's y = arcsin sqrt((k + 3/8) / (n + 3/4)), whose variance in
a random draw of n cells is 1 / (4 n + 2) whatever the share; slides of fewer cells scatter by more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wbcprof._shown import Shown
from wbcprof.checks import Integer, Maybe, Real, check, numbers

Array = np.ndarray[Any, np.dtype[Any]]

WARNING = "1-2s"
REJECTIONS = ("1-3s", "2-2s", "R-4s", "4-1s", "10x")
AVERAGE = "EWMA"
SINGLE = "single"

_OUTLIER = {5: 57, 6: 22, 8: 15, 10: 12, 15: 9, 20: 7, 50: 6}
"""Robust spreads from the median, by the length of a baseline: slides beyond are left out of it.
One baseline in a thousand, of independent normal values, has such a slide."""
_LEAST_SPREAD = 1e-3  # of the centre
_LEAST_SHARE = 0.25  # of the spread of a random draw

RULES = {"weight": Real(above=0, most=1), "n_baseline": Maybe(Integer())}
"""What the parameters of a moving average may be."""


def westgard(values: ArrayLike, centre: float, spread: ArrayLike) -> dict[str, list[int]]:
    """Where a series breaks Westgard's rules.

    With z = (value - centre) / spread:

    ======  =====================================================  =======
    1-2s    abs(z) > 2                                             warns
    1-3s    abs(z) > 3                                             rejects
    2-2s    two in a row > 2, or two in a row < -2                 rejects
    R-4s    of two in a row, one > 2 and the other < -2            rejects
    4-1s    four in a row > 1, or four in a row < -1               rejects
    10x     ten in a row > 0, or ten in a row < 0                  rejects
    ======  =====================================================  =======

    Of independent normal values about the true centre, each with the true spread, the five that
    reject do so for about 0.7 % by chance; `false_rejections` says what a baseline adds.

    Parameters
    ----------
    values : array-like of shape (n,)
        In order; NaN breaks no rule, and ends what is in a row.
    centre : float
    spread : float, or array-like of shape (n,)
        Standard deviation.

    Returns
    -------
    dict of str to list of int
        By the name of each rule, the places that complete what breaks it.

    Raises
    ------
    ValueError
        The values are not one series, or a spread is not positive.

    References
    ----------
    Westgard, Barry, Hunt, Groth: A multi-rule Shewhart chart for quality control in clinical
    chemistry, Clinical Chemistry 27, 493-501, 1981.

    Examples
    --------
    >>> from wbcprof.analysis import westgard
    >>> found = westgard([0.1, 2.4, 2.2, -0.3, 3.5], centre=0, spread=1)
    >>> {rule: places for rule, places in found.items() if places}
    {'1-2s': [1, 2, 4], '1-3s': [4], '2-2s': [2]}
    """
    series, spreads = numbers(values, "values"), numbers(spread, "spread")
    if series.ndim != 1:
        raise ValueError(f"expected one series of values, got shape {series.shape}")
    if not np.isfinite(centre) or not ((spreads > 0) & np.isfinite(spreads)).all():
        raise ValueError(
            f"expected a finite centre and finite positive spreads, got {centre:g} and "
            f"{np.min(spreads):g} to {np.max(spreads):g}"
        )
    z = (series - centre) / spreads
    far = z > 2, z < -2
    swing = np.zeros(len(z), bool)
    swing[1:] = (far[0][1:] & far[1][:-1]) | (far[1][1:] & far[0][:-1])
    broken = {
        WARNING: far[0] | far[1],
        "1-3s": np.abs(z) > 3,
        "2-2s": _in_a_row(far[0], 2) | _in_a_row(far[1], 2),
        "R-4s": swing,
        "4-1s": _in_a_row(z > 1, 4) | _in_a_row(z < -1, 4),
        "10x": _in_a_row(z > 0, 10) | _in_a_row(z < 0, 10),
    }
    return {rule: np.flatnonzero(where).tolist() for rule, where in broken.items()}


def _in_a_row(holds: Array, n: int) -> Array:
    """Whether it holds there and at the n - 1 places before."""
    total = np.concatenate([np.zeros(n, int), holds.cumsum()])
    found: Array = total[n:] - total[:-n] == n
    return found


def moving_average(
    z: ArrayLike, weight: float = 0.1, n_baseline: int | None = None
) -> tuple[Array, Array]:
    """Exponentially weighted moving average of standardised values, and its standard deviation.

    Parameters
    ----------
    z : array-like of shape (n,)
        Independent, of standard deviation 1 about the centre.
    weight : float
        Of the newest value, above 0 and at most 1.
    n_baseline : int, optional
        Values that the centre is the mean of; by default it is known.

    Returns
    -------
    average, deviation : ndarray of shape (n,), float64
        Exact at every place, not only in the long run.

    References
    ----------
    Roberts: Control chart tests based on geometric moving averages, Technometrics 1, 239-250, 1959.
    The part of the baseline: Jones, Champ, Rigdon: The performance of exponentially weighted moving
    average charts with estimated parameters, Technometrics 43, 156-167, 2001.

    Examples
    --------
    >>> from wbcprof.analysis import moving_average
    >>> average, deviation = moving_average([1, 1, 1], weight=0.5)
    >>> average.tolist(), deviation.round(3).tolist()
    ([0.5, 0.75, 0.875], [0.5, 0.559, 0.573])
    """
    check(RULES, weight=weight, n_baseline=n_baseline)
    series = numbers(z, "z").tolist()
    steps = accumulate(series, lambda last, new: last + weight * (new - last), initial=0.0)
    average = np.array(list(steps)[1:])
    left = (1 - weight) ** np.arange(1, len(average) + 1)
    variance = weight / (2 - weight) * (1 - left**2)
    if n_baseline is not None:
        variance = variance + (1 - left) ** 2 / n_baseline
    return average, np.sqrt(variance)


@dataclass(frozen=True, eq=False, repr=False)
class Chart(Shown):
    """One measure of the slides of one kind, judged by its baseline.

    Attributes
    ----------
    name : str
        The measure.
    is_control : bool
        Whether of the control set; else of patients.
    has_rules : bool
        Whether single slides are judged: of the control set, and of how images were taken.
        Results of patients have moving averages alone.
    places : list of int
        The slides that have the measure, by their places in the monitor; (n,), as all arrays here.
    values : ndarray of float64
        As measured.
    n_baseline : int
        Slides at the front that the baseline is made of.
    n_kept : int
        Of these, slides that are no outliers; 0 while there are too few slides.
    z : ndarray of float64
        Spreads away from the centre; NaN while there are too few slides.
    average, limit : ndarray of float64
        Moving average of z and what it may reach by chance, to both sides; NaN in the baseline.
    rules : dict of str to list of int
        Places in these arrays that break a rule: Westgard's by their names; "EWMA", the moving
        average beyond its limit; "single", the slide itself beyond `reach`.
    reach : float
        What z of a single slide may reach by chance, to both sides; NaN while it is not known.
    """

    name: str
    is_control: bool
    has_rules: bool
    places: list[int]
    values: Array
    n_baseline: int
    n_kept: int
    z: Array
    average: Array
    limit: Array
    rules: dict[str, list[int]]
    reach: float
    _scale: tuple[bool, float, float] = field(repr=False)

    @property
    def is_known(self) -> bool:
        """Whether there are enough slides to judge by."""
        return self.n_kept > 0

    def value_at(self, z: float) -> float:
        """The value that lies z spreads from the centre, in a slide of as many cells as most."""
        is_share, centre, spread = self._scale
        y = centre + z * spread
        return math.sin(min(max(y, 0), math.pi / 2)) ** 2 if is_share else y


@dataclass(frozen=True)
class Judging:
    """How charts are judged."""

    baseline: int
    weight: float
    chance: float  # that a chart raises an alarm; where single slides may, they have half of it


def make_chart(
    name: str,
    places: Sequence[int],
    values: Array,
    n_cells: Array | None,
    judging: Judging,
    *,
    is_control: bool,
    has_rules: bool,
) -> Chart:
    """A chart; with `n_cells`, of a share of so many cells."""
    y, own, least = values, np.zeros(len(values)), np.zeros(len(values))
    if n_cells is not None:
        y = np.arcsin(np.sqrt((values * n_cells + 0.375) / (n_cells + 0.75)))
        own = 1 / (4 * n_cells + 2)
        least = _LEAST_SHARE * np.sqrt(own)
        # A control is stained or scanned anew, not drawn anew: its baseline has all its scatter.
        own = np.zeros(len(values)) if is_control else own
    n = judging.baseline
    unknown = np.full(len(values), np.nan)
    empty: dict[str, list[int]] = {rule: [] for rule in (WARNING, *REJECTIONS, AVERAGE, SINGLE)}
    common = (name, is_control, has_rules, list(places), values)
    is_share = n_cells is not None
    if len(values) < n:
        scale = (is_share, math.nan, math.nan)
        return Chart(*common, len(values), 0, unknown, unknown, unknown, empty, math.nan, scale)
    kept = _without_outliers(y[:n])
    n_kept = int(kept.sum())
    centre = float(y[:n][kept].mean())
    between = max(float(y[:n][kept].var(ddof=1) - own[:n][kept].mean()), 0.0)
    if not is_share:
        least = least + max(_LEAST_SPREAD * abs(centre), 1e-12)
    spread = np.maximum(np.sqrt(between + own), least)
    z = (y - centre) / spread
    far = _quantile(judging.chance / (2 if has_rules else 1), n_kept)
    reach = far * math.sqrt(1 + 1 / n_kept)
    average, limit = unknown.copy(), unknown.copy()
    average[n:], deviation = moving_average(np.clip(z[n:], -reach, reach), judging.weight, n_kept)
    limit[n:] = (
        far * deviation * (1 + 1e-9)
    )  # the first reaches it exactly where it counts for less
    rules = dict(empty)
    rules[AVERAGE] = np.flatnonzero(np.abs(average) > limit).tolist()
    if has_rules:
        rules |= {rule: _later(i, n) for rule, i in westgard(z[n:], 0, 1).items()}
        rules[SINGLE] = _later(np.flatnonzero(np.abs(z[n:]) > reach).tolist(), n)
    scale = (is_share, centre, float(np.median(spread[:n])))
    return Chart(*common, n, n_kept, z, average, limit, rules, reach, scale)


def _later(places: list[int], n: int) -> list[int]:
    return [n + place for place in places]


def _without_outliers(y: Array) -> Array:
    """Which slides of a baseline are none; at least half. The limit is so wide that it costs normal
    values nothing: 6 would quadruple the false alarms of a baseline of 5, whose spread it trims."""
    away = np.abs(y - np.median(y))
    spread = 1.4826 * np.median(away)
    limit = np.interp(len(y), list(_OUTLIER), list(_OUTLIER.values()))
    kept: Array = away <= limit * spread if spread > 0 else np.ones(len(y), bool)
    return kept


def _quantile(chance: float, n: int) -> float:
    from scipy.stats import t

    return float(t.isf(chance / 2, n - 1))


@lru_cache
def false_rejections(n_baseline: int) -> float:
    """The share of values that break a rule that rejects by chance alone, after a baseline of so
    many slides: of 400 series of 300 simulated independent normal values."""
    random = np.random.default_rng(0)
    n = 0
    for _ in range(400):
        values = random.standard_normal(n_baseline + 300)
        first = values[:n_baseline][_without_outliers(values[:n_baseline])]
        found = westgard(values[n_baseline:], float(first.mean()), float(first.std(ddof=1)))
        n += len({place for rule in REJECTIONS for place in found[rule]})
    return n / (400 * 300)
