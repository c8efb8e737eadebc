"""Differential counts and their limits: against scipy, by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats

from wbcprof.analysis.counting import differential_count, wilson_interval


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_scipys(confidence):
    for n in (1, 7, 200):
        for k in {0, 1, n // 3, n}:
            expected = stats.binomtest(k, n).proportion_ci(confidence, "wilson")
            assert wilson_interval(k, n, confidence) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_by_hand():
    assert wilson_interval(50, 100) == pytest.approx((0.4038315, 0.5961685), abs=1e-7)
    low, high = wilson_interval(0, 0)
    assert np.isnan(low) and np.isnan(high)


def test_counts_shares_and_nlr_per_sample():
    types = ["Neutrophils"] * 60 + ["lymphocyte"] * 30 + ["xyz"] * 10
    types += [None, "", float("nan"), "lymphocyte"]
    samples = ["s1"] * 103 + ["s2"]
    found = differential_count(types, samples)
    assert found.samples == ["s1", "s2"] and found.types == ["Neutrophils", "lymphocyte", "xyz"]
    assert found.counts.tolist() == [[60, 30, 10], [0, 1, 0]]
    assert found.n_unknown.tolist() == [3, 0]
    assert found.share[0].tolist() == [0.6, 0.3, 0.1]
    assert found.neutrophils == ["Neutrophils"] and found.lymphocytes == ["lymphocyte"]
    assert found.nlr.tolist() == [2.0, 0.0]
    low, high = stats.binomtest(60, 90).proportion_ci(0.95, "wilson")
    assert found.nlr_low[0] == pytest.approx(low / (1 - low))
    assert found.nlr_high[0] == pytest.approx(high / (1 - high))
    assert found.to_pandas().shape == (6, 10)


def test_nlr_covers_the_truth_as_often_as_it_says(rng):
    hits = 0
    for _ in range(400):
        types = rng.choice(["neutrophil", "lymphocyte", "monocyte"], 100, p=[0.6, 0.3, 0.1])
        found = differential_count(types)
        hits += found.nlr_low[0] <= 2 <= found.nlr_high[0]
    assert hits / 400 > 0.92


def test_nlr_without_lymphocytes_or_either():
    found = differential_count(["band neutrophil"] * 5)
    assert found.nlr[0] == np.inf and found.nlr_high[0] == np.inf and found.nlr_low[0] > 1
    found = differential_count(["monocyte", None])
    assert np.isnan([found.nlr[0], found.nlr_low[0], found.nlr_high[0]]).all()
    assert found.share.tolist() == [[1.0]]
    found = differential_count([None, None])
    assert found.types == [] and found.counts.shape == (1, 0) and found.n_unknown[0] == 2


def test_own_names_for_the_ratio_and_cells_that_are_not_leukocytes():
    types = ["PMN"] * 4 + ["LY"] * 2 + ["smudge"] * 4
    assert np.isnan(differential_count(types).nlr[0])
    found = differential_count(types, neutrophils=["PMN"], lymphocytes=["LY"], exclude=["smudge"])
    assert found.nlr[0] == 2 and found.share[0].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_bad_counts():
    with pytest.raises(ValueError, match="at least one cell"):
        differential_count([])
    with pytest.raises(ValueError, match="excluded"):
        differential_count(["a"], exclude=["a"])
    with pytest.raises(ValueError, match="confidence"):
        differential_count(["a"], confidence=95)
    with pytest.raises(ValueError, match=r"Length of labels \(1\)"):
        differential_count(["a", "b"], ["s"])
