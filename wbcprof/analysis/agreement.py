"""Two counts of the same slides: do they agree, as laboratories compare methods.

For n slides with x by the first method and y by the second::

    Passing-Bablok   y = a + b x      b the shifted median of (y_i - y_j) / (x_i - x_j)
    Bland-Altman     d = y - x        bias mean(d), limits of agreement bias -+ z sd(d)
    Lin              rho_c = 2 cov(x, y) / (var x + var y + (mean x - mean y)^2)

The first says whether one method is the other but for a scale and an offset, the second by how much
a slide may differ, the third how near all slides lie to the line y = x, in one number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from wbcprof._shown import Shown
from wbcprof.analysis.counting import DifferentialCount
from wbcprof.checks import Flag, Real, check, numbers

if TYPE_CHECKING:
    from pandas import DataFrame

LEAST_SLIDES = 10
_MOST_SLIDES = 5000
RULES = {"percent": Flag(), "confidence": Real(above=0, below=1)}


@dataclass(frozen=True, repr=False)
class PassingBablok(Shown):
    """Result of `passing_bablok`: the line y = intercept + slope x, with its limits.

    Attributes
    ----------
    slope, slope_low, slope_high : float
        Limits without 1 between them: the methods differ in proportion.
    intercept, intercept_low, intercept_high : float
        In units of y. Limits without 0 between them: the methods differ by a constant.
    cusum : float
        Largest sum of scores along the line, over the square root of one more than the slides
        below it.
    linearity_p : float
        Of so large a sum where the methods are related by a line; small, and they are not.
    n : int
        Slides.
    confidence : float
    """

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    intercept_low: float
    intercept_high: float
    cusum: float
    linearity_p: float
    n: int
    confidence: float


@dataclass(frozen=True, repr=False)
class BlandAltman(Shown):
    """Result of `bland_altman`, in units of y, or in percent of the mean of x and y.

    Attributes
    ----------
    bias, bias_low, bias_high : float
        Mean of second minus first.
    spread : float
        Standard deviation of the differences.
    lower, lower_low, lower_high, upper, upper_low, upper_high : float
        Limits of agreement, between which lie 95 % of differences (or what `confidence` says), and
        the interval of each.
    trend, trend_low, trend_high, trend_p : float
        Slope of the difference on the mean, and p of none: small, and the bias is proportional.
    percent : bool
    n : int
        Slides.
    confidence : float
    """

    bias: float
    bias_low: float
    bias_high: float
    spread: float
    lower: float
    lower_low: float
    lower_high: float
    upper: float
    upper_low: float
    upper_high: float
    trend: float
    trend_low: float
    trend_high: float
    trend_p: float
    percent: bool
    n: int
    confidence: float


@dataclass(frozen=True, repr=False)
class Concordance(Shown):
    """Result of `concordance`: rho_c = correlation x accuracy, 1 where y = x for all slides.

    Attributes
    ----------
    concordance, low, high : float
    correlation : float
        Pearson's: how near slides lie to a line.
    accuracy : float
        Lin's C_b: how near that line lies to y = x, at most 1.
    n : int
        Slides.
    confidence : float
    """

    concordance: float
    low: float
    high: float
    correlation: float
    accuracy: float
    n: int
    confidence: float


@dataclass(frozen=True, repr=False)
class CountAgreement(Shown):
    """Result of `compare_counts`.

    Attributes
    ----------
    samples : list of str
        The slides of both counts.
    types : list of str
        Those that were compared.
    passing_bablok : list of PassingBablok
    bland_altman : list of BlandAltman
    concordance : list of Concordance
        One for each type, of shares from 0 to 1.
    left_out : dict of str to str
        Types that could not be compared, and why.
    """

    samples: list[str]
    types: list[str]
    passing_bablok: list[PassingBablok]
    bland_altman: list[BlandAltman]
    concordance: list[Concordance]
    left_out: dict[str, str]

    def to_pandas(self) -> DataFrame:
        """A `pandas.DataFrame`, one row per type."""
        import pandas as pd

        found = zip(self.passing_bablok, self.bland_altman, self.concordance, strict=True)
        rows = [
            {name: value for one in row for name, value in asdict(one).items()} for row in found
        ]
        return pd.DataFrame(rows, index=pd.Index(self.types, name="type"))


def passing_bablok(x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95) -> PassingBablok:
    """The line that relates two methods, neither of which is taken for the truth.

    Parameters
    ----------
    x, y : array-like of shape (n,)
        The first and the second method's value of each slide, 10 slides at least; laboratories
        ask for 40. Methods must rise together.
    confidence : float

    Returns
    -------
    PassingBablok

    Raises
    ------
    ValueError
        Lengths differ, there are too few slides or more than 5,000, values are not finite or are
        all the same, or the methods do not rise together.

    Notes
    -----
    Slopes of all pairs of slides are ranked. Pairs with the same x and the same y are left out, so
    are slopes of -1; pairs with the same x alone have an infinite slope. With N slopes, K of them
    below -1, the slope of the line is their median shifted by K, which makes it the inverse of that
    with the methods exchanged. Its limits are the slopes ranked (N -+ C) / 2 + K, with
    C = z sqrt(n (n - 1) (2 n + 5) / 18): ranks by the normal approximation of Kendall's statistic,
    whatever the distribution of errors. The intercept is the median of y - b x, its limits are that
    of the limits of the slope.

    Linearity: the l slides above the line score sqrt(L / l), the L below it -sqrt(l / L); scores
    are summed in the order in which slides lie along the line. p is Kolmogorov's, of the largest
    sum over sqrt(L + 1). That is near, not exact: below 0.05 it lies for 2 to 3 % of straight
    relations over 20 or 40 slides, for 7 to 12 % over 100 to 400.

    References
    ----------
    Passing, Bablok: A new biometrical procedure for testing the equality of measurements from two
    different analytical methods. J Clin Chem Clin Biochem 21, 709 (1983).

    Examples
    --------
    The second method gives a tenth more:

    >>> import numpy as np
    >>> import wbcprof
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.uniform(0.2, 0.8, 40)
    >>> x, y = truth + rng.normal(0, 0.01, 40), 1.1 * truth + rng.normal(0, 0.01, 40)
    >>> line = wbcprof.compare.passing_bablok(x, y)
    >>> print(f"{line.slope:.2f} ({line.slope_low:.2f} to {line.slope_high:.2f})")
    1.11 (1.07 to 1.13)
    >>> line.intercept_low < 0 < line.intercept_high, line.linearity_p > 0.05
    (True, True)
    """
    from scipy.special import ndtri

    x, y, confidence = _pairs(x, y, confidence)
    if len(x) > _MOST_SLIDES:
        raise ValueError(
            f"expected at most {_MOST_SLIDES} slides, whose pairs have slopes, got {len(x)}; draw "
            "some of them"
        )
    n, slopes = len(x), _slopes(x, y)
    n_slopes, shift = len(slopes), int(np.sum(slopes < -1))
    width = ndtri(0.5 + confidence / 2) * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    first = round((n_slopes - width) / 2)
    ranks = np.array([first, (n_slopes + 1) // 2, n_slopes // 2 + 1, n_slopes - first + 1]) + shift
    if first < 1 or ranks[-1] > n_slopes or not np.isfinite(slopes[ranks[:3] - 1]).all():
        raise ValueError(
            f"expected two methods that rise together, got values of {n} slides whose ranks set no "
            f"limits at a confidence of {confidence:g}; compare more slides, or more different ones"
        )
    low, *middle, high = slopes[ranks - 1].tolist()
    slope = sum(middle) / 2
    intercept, above, below = (float(np.median(y - b * x)) if np.isfinite(b) else -np.inf
                               for b in (slope, low, high))  # fmt: skip
    cusum, p = _linearity(x, y, slope, intercept)
    return PassingBablok(slope, low, high, intercept, below, above, cusum, p, n, confidence)


def bland_altman(
    x: ArrayLike, y: ArrayLike, *, percent: bool = False, confidence: float = 0.95
) -> BlandAltman:
    """By how much two methods differ: bias, and limits between which most differences lie.

    Parameters
    ----------
    x, y : array-like of shape (n,)
        The first and the second method's value of each slide, 10 slides at least.
    percent : bool
        Differences in percent of the mean of both, for methods that differ by more where there is
        more to count.
    confidence : float
        Of intervals, and the part of differences between the limits.

    Returns
    -------
    BlandAltman

    Raises
    ------
    ValueError
        Lengths differ, there are too few slides, values are not finite or are all the same, or,
        in percent, a mean is not positive.

    Notes
    -----
    Differences are taken for normal. Limits of agreement have exact intervals, from the noncentral
    t distribution (Carkeet 2015), in place of the approximate ones of 1986. The trend is the least
    squares slope of difference on mean, with Student's t.

    References
    ----------
    Bland, Altman: Statistical methods for assessing agreement between two methods of clinical
    measurement. Lancet 327, 307 (1986). Measuring agreement in method comparison studies. Stat
    Methods Med Res 8, 135 (1999).

    Carkeet: Exact parametric confidence intervals for Bland-Altman limits of agreement. Optom Vis
    Sci 92, e71 (2015).

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(0.2, 0.8, 40)
    >>> found = wbcprof.compare.bland_altman(x, x + rng.normal(0.05, 0.02, 40))
    >>> print(f"bias {found.bias:.2f}, limits {found.lower:.2f} to {found.upper:.2f}")
    bias 0.06, limits 0.01 to 0.10
    """
    from scipy.special import ndtri, stdtrit

    x, y, confidence = _pairs(x, y, confidence)
    check(RULES, percent=percent)
    mean, difference = mean_and_difference(x, y, percent)
    n, bias, spread = len(x), float(difference.mean()), float(difference.std(ddof=1))
    z, tail = float(ndtri(0.5 + confidence / 2)), (1 - confidence) / 2
    half = float(stdtrit(n - 1, 1 - tail) * spread / np.sqrt(n))
    near, far = (edge * spread for edge in _limit_edges(n, z, tail))
    return BlandAltman(
        bias, bias - half, bias + half, spread,
        bias - z * spread, bias - far, bias - near,
        bias + z * spread, bias + near, bias + far,
        *_trend(mean, difference, confidence), percent, n, confidence,
    )  # fmt: skip


def concordance(x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95) -> Concordance:
    """Lin's concordance: how near two methods come to giving the same value for every slide.

    Parameters
    ----------
    x, y : array-like of shape (n,)
        The first and the second method's value of each slide, 10 slides at least.
    confidence : float

    Returns
    -------
    Concordance

    Raises
    ------
    ValueError
        Lengths differ, there are too few slides, or values are not finite or are all the same.

    Notes
    -----
    Moments are over n. The interval is by Fisher's z, for pairs from a normal distribution, with
    the variance of 1989 as corrected in 2000.

    References
    ----------
    Lin: A concordance correlation coefficient to evaluate reproducibility. Biometrics 45, 255
    (1989); a note on it, Biometrics 56, 324 (2000).

    Examples
    --------
    Correlated fully, and concordant less, since the second method gives more:

    >>> import numpy as np
    >>> import wbcprof
    >>> x = np.linspace(0.2, 0.8, 20)
    >>> found = wbcprof.compare.concordance(x, x + 0.1)
    >>> round(found.correlation, 3), round(found.concordance, 3)
    (1.0, 0.869)
    """
    from scipy.special import ndtri

    x, y, confidence = _pairs(x, y, confidence)
    n, scale, apart = len(x), x.std() * y.std(), x.mean() - y.mean()
    r = float(np.clip(np.mean((x - x.mean()) * (y - y.mean())) / scale, -1, 1))
    accuracy = float(2 * scale / (x.var() + y.var() + apart**2))
    c, shift = r * accuracy, apart**2 / scale
    if abs(c) >= 1 - 1e-12:
        return Concordance(c, c, c, r, accuracy, n, confidence)
    # Lin's terms with rho = rho_c / C_b put in, which holds at rho = 0 too.
    variance = (
        (1 - r**2) * accuracy**2 / (1 - c**2)
        + 2 * c**2 * accuracy * (1 - c) * shift / (1 - c**2) ** 2
        - c**2 * accuracy**2 * shift**2 / (2 * (1 - c**2) ** 2)
    ) / (n - 2)
    half = ndtri(0.5 + confidence / 2) * np.sqrt(max(variance, 0))
    low, high = np.tanh(np.arctanh(c) + half * np.array([-1, 1])).tolist()
    return Concordance(c, low, high, r, accuracy, n, confidence)


def compare_counts(
    first: DifferentialCount, second: DifferentialCount, *, confidence: float = 0.95
) -> CountAgreement:
    """Two differential counts of the same slides, type by type.

    Parameters
    ----------
    first, second : DifferentialCount
        Such as by eye and by a model; of the same samples.
    confidence : float

    Returns
    -------
    CountAgreement
        Of shares; a type that one count lacks has none there. Types that cannot be compared, such
        as one that is found on no slide, are listed with the reason.

    Raises
    ------
    ValueError
        The samples are not the same, one of them has no cell of known type, or there are fewer
        than 10.

    Examples
    --------
    Twelve slides of 200 cells each, counted twice:

    >>> import numpy as np
    >>> import wbcprof
    >>> rng = np.random.default_rng(0)
    >>> samples = np.repeat([f"slide {i:02d}" for i in range(12)], 200)
    >>> shares = np.repeat(rng.uniform(0.3, 0.7, 12), 200)
    >>> by_eye, by_model = np.where(rng.random((2, 2400)) < shares, "neutrophil", "lymphocyte")
    >>> count = wbcprof.compare.differential_count
    >>> found = wbcprof.compare.compare_counts(count(by_eye, samples), count(by_model, samples))
    >>> found.types
    ['lymphocyte', 'neutrophil']
    >>> table = found.to_pandas()
    >>> bool(abs(table.bias["neutrophil"]) < 0.05)
    True
    """
    check(RULES, confidence=confidence)
    apart = sorted(set(first.samples) ^ set(second.samples))
    if apart:
        raise ValueError(
            f"expected two counts of the same samples, got {len(apart)} in one of them alone, "
            f"such as {apart[0]!r}"
        )
    if len(first.samples) < LEAST_SLIDES:
        raise ValueError(_too_few(len(first.samples)))
    for count in (first, second):
        _check_cells(count)
    rows = [second.samples.index(name) for name in first.samples]
    found = CountAgreement(list(first.samples), [], [], [], [], {})
    for name in sorted({*first.types, *second.types}):
        x, y = _share_of(first, name), _share_of(second, name)[rows]
        try:
            line = passing_bablok(x, y, confidence=confidence)
            limits = bland_altman(x, y, confidence=confidence)
        except ValueError as error:
            found.left_out[name] = str(error)
            continue
        found.types.append(name)
        found.passing_bablok.append(line)
        found.bland_altman.append(limits)
        found.concordance.append(concordance(x, y, confidence=confidence))
    return found


def mean_and_difference(
    x: np.ndarray, y: np.ndarray, percent: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of both methods, and second minus first, perhaps in percent of it; (n,) each."""
    mean, difference = (x + y) / 2, y - x
    # Differences that are one but for rounding have no spread, and no trend.
    usual = np.median(difference)
    largest = max(np.abs(x).max(), np.abs(y).max())
    difference[np.abs(difference - usual) <= 1e-12 * largest] = usual
    if not percent:
        return mean, difference
    if mean.min() <= 0:
        raise ValueError(
            f"expected positive means to take percent of, got {mean.min():g}; leave out slides "
            "where both methods found none, or compare plain differences"
        )
    return mean, 100 * difference / mean


def line_band(
    line: PassingBablok, x: np.ndarray, y: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Limits of a Passing-Bablok line at some x, each at its own, as if these were independent:
    the height of the line at the median x, by ranks of y - b x, and its slope about there."""
    from scipy.special import bdtrik

    middle = np.median(x)
    rest = np.sort(y - line.slope * (x - middle))
    outer = max(int(np.ceil(bdtrik((1 - line.confidence) / 2, len(x), 0.5))) - 1, 0)
    height = np.median(rest)
    below, above = height - rest[outer], rest[-1 - outer] - height
    turn = np.outer([line.slope_low - line.slope, line.slope_high - line.slope], at - middle)
    drawn = line.intercept + line.slope * at
    return drawn - np.hypot(below, turn.min(axis=0)), drawn + np.hypot(above, turn.max(axis=0))


def _pairs(x: ArrayLike, y: ArrayLike, confidence: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Two methods' values of the same slides (n,) float64, checked."""
    check(RULES, confidence=confidence)
    x, y = numbers(x, "x"), numbers(y, "y")
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"expected one value of each slide by each method, got shapes {x.shape} and {y.shape}"
        )
    if len(x) < LEAST_SLIDES:
        raise ValueError(_too_few(len(x)))
    for name, values in (("x", x), ("y", y)):
        if not np.isfinite(values).all():
            bad = int(np.argmin(np.isfinite(values)))
            raise ValueError(
                f"{name} must be finite, got {values[bad]} at {bad}; leave out such slides in both"
            )
        if np.ptp(values) == 0:
            raise ValueError(
                f"{name} must differ between slides, got {values[0]:g} for all {len(x)}"
            )
    return x, y, float(confidence)


def _too_few(n: int) -> str:
    return f"expected at least {LEAST_SLIDES} slides to compare two methods on, got {n}"


def _slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Slopes of all pairs that count, in ascending order."""
    i, j = np.triu_indices(len(x), 1)
    run, rise = x[i] - x[j], y[i] - y[j]
    # Shares are rounded, so that differences that are none, or are opposite, may look as if not.
    least = 1e-12 * max(np.abs(x).max(), np.abs(y).max())
    run[np.abs(run) <= least] = 0
    rise[np.abs(rise) <= least] = 0
    rise = np.where(np.abs(run + rise) <= least, -run, rise)
    # An infinite slope of either sign shifts the ranks alike, so that all may be above.
    slopes = np.full(len(run), np.inf)
    np.divide(rise, run, out=slopes, where=run != 0)
    slopes = slopes[((run != 0) | (rise != 0)) & (slopes != -1)]
    return np.sort(slopes)


def _linearity(x: np.ndarray, y: np.ndarray, slope: float, intercept: float) -> tuple[float, float]:
    """Largest sum of scores along the line, and its p."""
    from scipy.special import kolmogorov

    rest = y - intercept - slope * x
    rest[np.abs(rest) <= 1e-12 * np.abs(y).max()] = 0
    n_above, n_below = int(np.sum(rest > 0)), int(np.sum(rest < 0))
    if not n_above or not n_below:
        return 0.0, 1.0
    score = np.where(rest > 0, np.sqrt(n_below / n_above), -np.sqrt(n_above / n_below))
    score[rest == 0] = 0
    along = np.argsort(x + slope * y, kind="stable")
    largest = float(np.abs(np.cumsum(score[along])).max() / np.sqrt(n_below + 1))
    return largest, float(kolmogorov(largest))


def _limit_edges(n: int, z: float, tail: float) -> tuple[float, float]:
    """Interval of ``mean + z sd``, in standard deviations from the mean of n normal values."""
    from scipy.stats import nct

    near, far = nct.ppf([tail, 1 - tail], n - 1, z * np.sqrt(n)) / np.sqrt(n)
    return float(near), float(far)


def _trend(x: np.ndarray, y: np.ndarray, confidence: float) -> tuple[float, float, float, float]:
    """Least-squares slope of y on x with its limits, and two-sided p of none."""
    from scipy.special import stdtr, stdtrit

    centred = x - x.mean()
    square = centred @ centred
    if square == 0:
        raise ValueError(f"means of both methods must differ between slides, got {x[0]:g} for all")
    if np.ptp(y) == 0:  # of which the mean may be rounded
        return 0.0, 0.0, 0.0, 1.0
    slope = float(centred @ y / square)
    rest = y - y.mean() - slope * centred
    error = float(np.sqrt(rest @ rest / (len(x) - 2) / square))
    half = float(stdtrit(len(x) - 2, 0.5 + confidence / 2)) * error
    p = 2 * stdtr(len(x) - 2, -abs(slope) / error) if error else float(slope == 0)
    return slope, slope - half, slope + half, float(p)


def _check_cells(count: DifferentialCount) -> None:
    empty = np.flatnonzero(count.counts.sum(axis=1) == 0)
    if len(empty):
        raise ValueError(
            f"expected cells of known type in each sample, got none in "
            f"{count.samples[empty[0]]!r}; leave it out of both counts"
        )


def _share_of(count: DifferentialCount, name: str) -> np.ndarray:
    if name not in count.types:
        return np.zeros(len(count.samples))
    share: np.ndarray = count.share[:, count.types.index(name)]
    return share
