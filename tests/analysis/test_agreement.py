"""Agreement of two methods: against slow formulations, published figures and simulation."""

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from wbcprof.analysis.agreement import (
    _linearity,
    bland_altman,
    compare_counts,
    concordance,
    line_band,
    passing_bablok,
)
from wbcprof.analysis.counting import differential_count

# Peak flow in l/min by a large and a mini meter, first readings (Bland and Altman 1986, Table).
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def related(rng, n, slope=1.2, intercept=0.05, noise=0.02):
    truth = rng.uniform(0.2, 0.8, n)
    x = truth + rng.normal(0, noise, n)
    return x, intercept + slope * truth + rng.normal(0, slope * noise, n)


def nominal(hits, confidence=0.95):
    """Whether so many hits are what a share of `confidence` gives in all but 1 of 1000 runs."""
    low, high = stats.binom.interval(0.999, len(hits), confidence)
    return low <= np.sum(hits) <= high


# ---- Passing-Bablok ----


def slow_passing_bablok(x, y, z=1.959963984540054):
    """The paper's rules for one pair of slides after another."""
    slopes = []
    for (xi, yi), (xj, yj) in combinations(zip(x, y, strict=True), 2):
        if xi == xj:
            if yi != yj:
                slopes.append(math.copysign(math.inf, yi - yj))
        elif yi - yj != xj - xi:
            slopes.append((yi - yj) / (xi - xj))
    slopes.sort()
    n, count, below = len(x), len(slopes), sum(slope < -1 for slope in slopes)
    middle = [(count + 1) // 2] if count % 2 else [count // 2, count // 2 + 1]
    slope = np.mean([slopes[rank + below - 1] for rank in middle])
    first = round((count - z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)) / 2)
    low, high = slopes[first + below - 1], slopes[count - first + below]
    return (
        slope,
        low,
        high,
        *(np.median(np.subtract(y, b * np.array(x))) for b in (slope, high, low)),
    )


@pytest.mark.parametrize("n", [10, 13, 40])
@pytest.mark.parametrize("grain", [0, 1, 10])
def test_passing_bablok_is_the_papers_rule_pair_by_pair(n, grain, rng):
    for _ in range(5):
        x, y = related(rng, n, noise=0.1)
        if grain:  # many ties, among them slopes of 0, -1 and infinity
            x, y = np.round(x * 10 * grain), np.round(y * 10 * grain)
        found = passing_bablok(x, y)
        given = (found.slope, found.slope_low, found.slope_high,
                 found.intercept, found.intercept_low, found.intercept_high)  # fmt: skip
        expected = slow_passing_bablok(x, y)
        if np.isfinite(expected).all():
            assert given == pytest.approx(expected)
        else:
            assert given[:2] == pytest.approx(expected[:2])
            assert given[2] == np.inf and given[4] == -np.inf


def test_methods_exchanged_give_the_inverse_line(rng):
    x, y = related(rng, 41)
    one, other = passing_bablok(x, y), passing_bablok(y, x)
    assert other.slope == pytest.approx(1 / one.slope, rel=1e-3)
    assert other.slope_low == pytest.approx(1 / one.slope_high, rel=1e-9)
    assert other.slope_high == pytest.approx(1 / one.slope_low, rel=1e-9)


def test_an_outlier_and_a_scale_leave_the_line_where_it_is(rng):
    x, y = related(rng, 40)
    line = passing_bablok(x, y)
    scaled = passing_bablok(100 * x, 100 * y)
    assert scaled.slope == pytest.approx(line.slope)
    assert scaled.intercept == pytest.approx(100 * line.intercept)
    assert scaled.linearity_p == pytest.approx(line.linearity_p)
    y[3] += 5
    assert passing_bablok(x, y).slope == pytest.approx(line.slope, abs=0.03)


def test_passing_bablok_limits_hold_the_truth_as_often_as_they_say(rng):
    slopes, bands, intercepts, at = [], [], [], np.array([0.3, 0.5, 0.75])
    for _ in range(1000):
        x, y = related(rng, 40)
        line = passing_bablok(x, y)
        slopes.append(line.slope_low <= 1.2 <= line.slope_high)
        intercepts.append(line.intercept_low <= 0.05 <= line.intercept_high)
        low, high = line_band(line, x, y, at)
        bands.append((low <= 0.05 + 1.2 * at) & (0.05 + 1.2 * at <= high))
    assert nominal(slopes)
    assert np.mean(intercepts) > 0.92  # limits of the slope passed on, as in the paper
    assert (np.mean(bands, axis=0) > 0.94).all()


def test_cusum_by_hand():
    rest = np.array([1, 1, 1, 0, 0, -1, -1, -1, 0, 0]) / 10
    x = np.arange(10.0)
    largest, p = _linearity(x[::-1], (x + rest)[::-1], 1, 0)
    assert largest == pytest.approx(3 / math.sqrt(3 + 1))
    assert p == pytest.approx(stats.kstwobign.sf(1.5))
    assert passing_bablok(x, x).linearity_p == 1


def test_cusum_finds_a_curve_and_seldom_where_there_is_none(rng):
    straight = [passing_bablok(*related(rng, 40)).linearity_p < 0.05 for _ in range(500)]
    assert np.mean(straight) < 0.06
    x, y = related(rng, 40, noise=0.01)
    assert passing_bablok(x, y + 2 * (x - 0.5) ** 2).linearity_p < 0.05


# ---- Bland-Altman ----


def test_bland_altman_is_as_published():
    found = bland_altman(MINI, LARGE)
    assert (round(found.bias, 1), round(found.spread, 1)) == (-2.1, 38.8)
    assert (round(found.bias_low, 1), round(found.bias_high, 1)) == (-22.0, 17.8)
    assert found.lower == pytest.approx(-2.1176 - 1.95996 * 38.7651, abs=1e-3)


def test_trend_and_percent_are_those_of_scipy(rng):
    x, y = related(rng, 30)
    fit = stats.linregress((x + y) / 2, y - x)
    found = bland_altman(x, y)
    assert (found.trend, found.trend_p) == pytest.approx((fit.slope, fit.pvalue))
    half = stats.t.ppf(0.975, 28) * fit.stderr
    assert found.trend_high == pytest.approx(fit.slope + half)
    shares = 200 * (y - x) / (x + y)
    found = bland_altman(x, y, percent=True)
    assert found.bias == pytest.approx(shares.mean())
    assert found.spread == pytest.approx(shares.std(ddof=1))


def test_exact_limits_become_the_approximate_ones_with_many_slides(rng):
    x = rng.normal(5, 1, 2000)
    found = bland_altman(x, x + rng.normal(0, 1, 2000))
    half = 1.96 * found.spread * math.sqrt((1 + 1.96**2 / 2) / 2000)
    assert found.upper_high - found.upper == pytest.approx(half, rel=0.05)
    assert found.upper - found.upper_low == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize("n", [10, 40])
def test_bland_altman_intervals_hold_the_truth_as_often_as_they_say(n, rng):
    hits = []
    for _ in range(1000):
        x = rng.normal(5, 1, n)
        found = bland_altman(x, x + rng.normal(0.3, 0.5, n))
        lower, upper = 0.3 - 1.959964 * 0.5, 0.3 + 1.959964 * 0.5
        hits.append([
            found.bias_low <= 0.3 <= found.bias_high,
            found.lower_low <= lower <= found.lower_high,
            found.upper_low <= upper <= found.upper_high,
        ])  # fmt: skip
    assert all(nominal(column) for column in np.transpose(hits))


def test_differences_all_the_same():
    x = np.arange(10.0)
    found = bland_altman(x, x + 1)
    assert found.bias == found.lower == found.upper_high == 1
    assert (found.trend, found.trend_p) == (0, 1)


# ---- Lin ----


def test_concordance_is_lins_by_its_definition(rng):
    x, y = related(rng, 25)
    found = concordance(x, y)
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    expected = 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert found.concordance == pytest.approx(expected)
    assert found.correlation == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.concordance == pytest.approx(found.correlation * found.accuracy)
    assert round(concordance(LARGE, MINI).concordance, 3) == 0.943


@pytest.mark.parametrize(("r", "shift"), [(0.9, 0), (0.9, 1), (0.5, 0.5), (0, 0.3)])
def test_concordance_intervals_hold_the_truth_as_often_as_they_say(r, shift, rng):
    truth, hits, found = 2 * r / (2 + shift**2), [], []
    for _ in range(1000):
        x = rng.normal(size=60)
        y = r * x + math.sqrt(1 - r**2) * rng.normal(size=60) + shift
        found.append(concordance(x, y))
        hits.append(found[-1].low <= truth <= found[-1].high)
    assert nominal(hits)
    z = [np.arctanh(one.concordance) for one in found]
    assumed = [(np.arctanh(one.high) - np.arctanh(one.low)) / 2 / 1.96 for one in found]
    assert np.mean(assumed) == pytest.approx(np.std(z), rel=0.08)


def test_full_concordance():
    x = np.arange(10.0)
    assert (concordance(x, x).low, concordance(x, x).high) == pytest.approx((1, 1))
    assert concordance(x, -x).concordance < 0


# ---- two counts ----


def two_counts(rng, n=12):
    samples = np.repeat([f"s{i:02d}" for i in range(n)], 100)
    shares = np.repeat(rng.uniform(0.3, 0.7, n), 100)
    types = np.where(rng.random((2, 100 * n)) < shares, "neutrophil", "lymphocyte")
    return differential_count(types[0], samples), differential_count(types[1], samples)


def test_counts_are_compared_type_by_type_whatever_their_order(rng):
    first, second = two_counts(rng)
    found = compare_counts(first, second)
    assert found.types == ["lymphocyte", "neutrophil"] and not found.left_out
    x, y = first.share[:, 1], second.share[:, 1]
    assert found.passing_bablok[1] == passing_bablok(x, y)
    assert found.bland_altman[1] == bland_altman(x, y)
    assert found.concordance[1] == concordance(x, y)
    fields = vars(second) | {"samples": second.samples[::-1]}
    fields |= {name: fields[name][::-1] for name in ("counts", "share")}
    assert compare_counts(first, type(second)(**fields)) == found
    table = found.to_pandas()
    assert table.loc["neutrophil", "slope"] == found.passing_bablok[1].slope
    assert table.loc["neutrophil", "concordance"] == found.concordance[1].concordance


def test_types_that_cannot_be_compared_are_told(rng):
    first, second = two_counts(rng)
    fields = vars(second) | {"types": [*second.types, "basophil"]}
    for name in ("counts", "share"):
        fields[name] = np.column_stack([fields[name], np.zeros(12)])
    found = compare_counts(first, type(second)(**fields))
    assert found.types == ["lymphocyte", "neutrophil"]
    assert found.left_out == {"basophil": "x must differ between slides, got 0 for all 12"}


def test_bad_pairs_of_counts(rng):
    first, second = two_counts(rng)
    with pytest.raises(ValueError, match=r"got 2 in one of them alone, such as 's12'"):
        compare_counts(first, two_counts(rng, 14)[1])
    with pytest.raises(ValueError, match="at least 10 slides"):
        compare_counts(*two_counts(rng, 9))
    first.counts[3] = 0
    with pytest.raises(ValueError, match="none in 's03'"):
        compare_counts(first, second)


@pytest.mark.parametrize("method", [passing_bablok, bland_altman, concordance])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.arange(10), np.arange(11), r"shapes \(10,\) and \(11,\)"),
        (np.eye(10), np.eye(10), "one value of each slide"),
        (np.arange(9), np.arange(9), "at least 10 slides to compare two methods on, got 9"),
        ([*range(9), np.nan], range(10), "x must be finite, got nan at 9"),
        (range(10), [np.inf, *range(9)], "y must be finite, got inf at 0"),
        (range(10), [2] * 10, "y must differ between slides, got 2 for all 10"),
    ],
)
def test_bad_pairs_of_methods(method, x, y, message):
    with pytest.raises(ValueError, match=message):
        method(x, y)


@pytest.mark.parametrize("method", [passing_bablok, bland_altman, concordance])
def test_bad_confidence(method):
    with pytest.raises(ValueError, match="confidence must be above 0 and below 1, got 95"):
        method(range(10), range(10), confidence=95)


def test_methods_that_do_not_fit_a_method(rng):
    with pytest.raises(ValueError, match="rise together"):
        passing_bablok(range(10), range(10, 0, -1))
    with pytest.raises(ValueError, match="set no limits"):
        passing_bablok(range(10), rng.permutation(10), confidence=0.999999)
    with pytest.raises(ValueError, match="means of both methods must differ"):
        bland_altman(range(10), range(10, 0, -1))
    with pytest.raises(ValueError, match="positive means"):
        bland_altman(range(10), range(10), percent=True)
    with pytest.raises(ValueError, match="percent must be True or False"):
        bland_altman(range(10), range(10), percent="yes")


def test_the_line_of_shares_is_that_of_counts(rng):
    """Differences of k / 200 are rounded; those of k are not."""
    for _ in range(60):
        n = int(rng.integers(12, 30))
        x = rng.integers(20, 120, n)
        y = np.clip(x + rng.integers(-9, 10, n), 0, 200)
        exact, rounded = passing_bablok(x, y), passing_bablok(x / 200, y / 200)
        for name in ("slope", "slope_low", "slope_high"):
            assert getattr(rounded, name) == pytest.approx(getattr(exact, name), rel=1e-9)


def test_a_bias_that_is_constant_has_no_trend(rng):
    """But for rounding, of which there is a slope."""
    for _ in range(20):
        x = np.round(rng.uniform(0.2, 0.8, 30), 2)
        found = bland_altman(x, x + 0.05)
        assert found.trend_p == 1 and found.trend == 0
        assert found.lower == pytest.approx(0.05) and found.upper == pytest.approx(0.05)


def test_more_slides_than_pairs_can_be_held_of_are_refused():
    with pytest.raises(ValueError, match="at most 5000 slides"):
        passing_bablok(np.arange(5001), np.arange(5001))
