"""Counts corrected for a classifier's mistakes: against a search, the inverse and simulation."""

import numpy as np
import pytest
from scipy import optimize

from wbcprof.analysis.correction import correct_count

TYPES = ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]
SHARES = np.array([0.008, 0.03, 0.3, 0.062, 0.6])
CALLED = np.array([
    [0.85, 0.05, 0.05, 0.03, 0.02],
    [0.01, 0.95, 0.00, 0.01, 0.03],
    [0.01, 0.00, 0.94, 0.05, 0.00],
    [0.00, 0.01, 0.06, 0.91, 0.02],
    [0.002, 0.018, 0.005, 0.015, 0.96],
])  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def slide(rng, n_cells, held_out=(40, 80, 300, 120, 400)):
    """Calls of a slide, and a confusion of held-out cells."""
    confusion = [rng.multinomial(n, row) for n, row in zip(held_out, CALLED, strict=True)]
    return rng.multinomial(n_cells, SHARES @ CALLED), np.array(confusion)


def test_shares_are_those_of_the_inverse_where_these_are_shares():
    confusion, counts = np.round(1000 * CALLED), np.round(1e6 * SHARES @ CALLED)
    found = correct_count(counts, confusion, TYPES, n_resamples=100)
    inverse = np.linalg.solve((confusion / confusion.sum(axis=1, keepdims=True)).T, counts)
    np.testing.assert_allclose(found.share, inverse / counts.sum(), atol=1e-5)
    np.testing.assert_allclose(found.share, SHARES, atol=1e-3)
    assert found.nlr == pytest.approx(2, rel=0.01)


def test_shares_are_the_likeliest_where_the_inverse_is_negative():
    counts, confusion = np.array([0, 20, 80]), np.array([[90, 10, 0], [5, 85, 10], [0, 40, 60]])
    called = confusion / confusion.sum(axis=1, keepdims=True)
    assert np.linalg.solve(called.T, counts).min() < 0

    def unlikelihood(x):
        shares = np.exp(x) / np.exp(x).sum()
        return -counts[1:] @ np.log(shares @ called)[1:]

    searched = optimize.minimize(unlikelihood, np.zeros(3), method="Nelder-Mead").x
    found = correct_count(counts, confusion, ["a", "b", "c"])
    np.testing.assert_allclose(found.share, np.exp(searched) / np.exp(searched).sum(), atol=1e-4)
    assert (found.low >= 0).all() and (found.high <= 1).all()


def test_intervals_hold_the_truth_and_the_bias_is_gone(rng):
    hits, ratios, errors, plain = [], [], [], []
    for _ in range(500):
        counts, confusion = slide(rng, 200)
        found = correct_count(counts, confusion, TYPES, n_resamples=200)
        hits.append((found.low <= SHARES) & (SHARES <= found.high))
        ratios.append(found.nlr_low <= 2 <= found.nlr_high)
        errors.append(found.share - SHARES)
        plain.append(found.called - SHARES)
    assert (np.mean(hits, axis=0) >= 0.9).all() and np.mean(ratios) >= 0.9
    uncertain = np.std(errors, axis=0) / np.sqrt(500)
    assert (np.abs(np.mean(errors, axis=0)) < 4 * uncertain).all()
    assert (np.abs(np.mean(plain, axis=0)) > 6 * uncertain).all()


def test_the_same_seed_gives_the_same_intervals(rng):
    counts, confusion = slide(rng, 200)
    one, again, other = (correct_count(counts, confusion, TYPES, random_state=i) for i in (0, 0, 1))
    np.testing.assert_array_equal(one.low, again.low)
    assert (one.low != other.low).any() and np.array_equal(one.share, other.share)
    table = one.to_pandas()
    assert table.loc["neutrophil", "share"] == one.share[4]
    assert table.columns.tolist() == ["called", "share", "low", "high"]


def test_intervals_widen_with_fewer_held_out_cells(rng):
    counts = slide(rng, 1000)[0]
    many, few = (correct_count(counts, np.round(n * CALLED), TYPES) for n in (1000, 100))
    assert ((few.high - few.low) > (many.high - many.low)).all()


def test_ratio_without_lymphocytes_or_either():
    confusion = [[50, 0], [0, 50]]
    found = correct_count([30, 0], confusion, ["neutrophil", "lymphocyte"])
    assert found.nlr == found.nlr_high == np.inf and found.nlr_low < np.inf
    found = correct_count([30, 5], confusion, ["monocyte", "basophil"])
    assert np.isnan([found.nlr, found.nlr_low, found.nlr_high]).all()
    names = {"neutrophils": ["PMN"], "lymphocytes": ["LY"]}
    assert correct_count([30, 10], confusion, ["PMN", "LY"], **names).nlr == 3


@pytest.mark.parametrize(
    ("counts", "confusion", "names", "message"),
    [
        ([1, 2, 3], np.eye(2), "ab", r"counts must have shape \(2,\) for 2 types, got \(3,\)"),
        ([1, 2], np.eye(3), "ab", r"confusion must have shape \(2, 2\)"),
        ([1, -2], np.eye(2), "ab", "counts must be numbers of cells"),
        ([1, 2], np.eye(2) / 2, "ab", "confusion must be numbers of cells"),
        ([1, 2], np.eye(2) * np.nan, "ab", "confusion must be numbers of cells"),
        ([0, 0], np.eye(2), "ab", "at least one called cell"),
        ([1, 2], [[3, 1], [0, 0]], "ab", "no cell whose true type is 'b'"),
        ([1, 2], [[3, 0], [1, 0]], "ab", "no cell called 'b'"),
        ([1, 2], [[3, 3], [5, 5]], "ab", "cannot tell the types apart"),
        ([1, 2], np.eye(2), "aa", "distinct"),
        ([1], np.eye(1), "a", "at least two"),
    ],
)
def test_bad_counts_and_confusions(counts, confusion, names, message):
    with pytest.raises(ValueError, match=message):
        correct_count(counts, confusion, list(names))


@pytest.mark.parametrize(
    "given", [{"confidence": 95}, {"n_resamples": 10}, {"random_state": -1}], ids=str
)
def test_bad_parameters(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        correct_count([1, 2], np.eye(2), ["a", "b"], **given)


ABROAD = ["neutrophil", "lymphocyte", "monocyte", "eosinophil"]


@pytest.mark.parametrize(
    ("counts", "expected"), [([0, 0, 20, 3], np.nan), ([1, 0, 20, 3], np.nan), ([0, 2, 20, 3], 0)]
)
def test_a_type_that_is_likeliest_not_there_is_not(counts, expected):
    """Likeliest shares come to 0 but slowly, and a ratio of what is left of them means nothing."""
    confusion = 5 + 100 * np.eye(4, dtype=int)
    found = correct_count(counts, confusion, ABROAD)
    np.testing.assert_equal(found.nlr, expected)


def test_resamples_without_either_widen_the_limits_of_the_ratio():
    found = correct_count([3, 2, 60, 5], 2 + 100 * np.eye(4, dtype=int), ABROAD)
    assert np.isfinite(found.nlr) and found.nlr_low == 0 and found.nlr_high == np.inf


def test_more_cells_than_can_be_counted_are_refused():
    with pytest.raises(ValueError, match="counts must be numbers of cells"):
        correct_count([1e20, 1, 1, 1], np.eye(4, dtype=int) * 9, ABROAD)


def test_numbers_too_small_to_hold_are_no_error():
    with np.errstate(all="raise"):
        found = correct_count([10, 2, 0], [[9, 1, 0], [1, 9, 0], [0, 0, 9]], ["a", "b", "c"])
    assert found.share[2] == pytest.approx(0, abs=1e-9)
