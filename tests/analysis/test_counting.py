"""Differential counts and their limits: against scipy, by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats

import wbcprof
from wbcprof.analysis import UnknownTypeWarning
from wbcprof.analysis.counting import (
    cells_needed,
    differential_count,
    exact_interval,
    wilson_interval,
)
from wbcprof.analysis.naming import classify_to_shards


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


def test_a_lone_text_is_one_name():
    types = ["seg"] * 6 + ["lymph"] * 3 + ["platelet", "p"]
    found = differential_count(types, neutrophils="seg", lymphocytes="lymph", exclude="platelet")
    assert found.types == ["lymph", "p", "seg"] and found.nlr[0] == 2


def test_bad_counts():
    with pytest.raises(ValueError, match="at least one cell"):
        differential_count([])
    with pytest.raises(ValueError, match="excluded"):
        differential_count(["a"], exclude=["a"])
    with pytest.raises(ValueError, match="confidence"):
        differential_count(["a"], confidence=95)
    with pytest.raises(ValueError, match=r"Length of labels \(1\)"):
        differential_count(["a", "b"], ["s"])


# ---- exact limits ----


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_exact_limits_are_scipys(confidence):
    for n in (1, 7, 200):
        for k in {0, 1, n // 3, n}:
            expected = stats.binomtest(k, n).proportion_ci(confidence, "exact")
            assert exact_interval(k, n, confidence) == pytest.approx(tuple(expected), abs=1e-9)


def test_exact_limits_are_those_of_ruemkes_table():
    # In percent among 100 cells, rounded outwards as there.
    table = {0: (0, 4), 1: (0, 6), 2: (0, 8), 4: (1, 10), 5: (1, 12), 10: (4, 18), 20: (12, 30),
             50: (39, 61)}  # fmt: skip
    low, high = exact_interval(list(table), 100)
    found = zip(np.floor(100 * low), np.ceil(100 * high), strict=True)
    assert dict(zip(table, found, strict=True)) == table


def test_cells_needed_are_the_first_that_suffice():
    counts, totals = np.array([[60, 3, 0], [1, 50, 100]]), np.array([[100], [100]])
    needed = cells_needed(counts, totals, 0.03)
    for (row, column), more in np.ndenumerate(needed):
        share = counts[row, column] / 100
        for n, is_enough in ((100 + more, True), (100 + more - 1, more == 0)):
            k = share * n
            low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0
            high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1
            assert (high - low <= 0.06) == is_enough
    assert needed[0, 2] == needed[1, 2]  # none, and all


def test_cells_needed_without_a_cell_are_those_of_one_half():
    assert cells_needed(0, 0, 0.05) == 100 + cells_needed(50, 100, 0.05)
    assert cells_needed(5, 10_000, 0.05) == 0


def test_bad_limits():
    for function in (exact_interval, lambda *cells: cells_needed(*cells, 0.05)):
        for k, n in ((-1, 10), (11, 10), (np.nan, 10), (1, np.inf)):
            with pytest.raises(ValueError, match="counts must be 0 or more, and at most"):
                function(k, n)
    with pytest.raises(ValueError, match=r"precision must be at least 1e-06 and below 0\.5, got 5"):
        cells_needed(1, 10, 5)
    with pytest.raises(ValueError, match="confidence"):
        exact_interval(1, 10, 95)
    low, high = exact_interval(0, 0)
    assert np.isnan(low) and np.isnan(high)


def test_a_lone_flag_is_one_name(cells, tmp_path):
    with pytest.raises(ValueError, match="got 'ugly'"):
        classify_to_shards(wbcprof.Model([]), cells.images, tmp_path / "out", drop="ugly")


@pytest.mark.parametrize("one", [1, 1.0, b"1", "1"])
def test_numbers_name_types_as_labels_do(one):
    count = differential_count([1] * 4 + [2] * 2 + [3], neutrophils=[one], lymphocytes=2, exclude=3)
    assert count.types == ["1", "2"]
    assert count.nlr[0] == 2
    assert (count.neutrophils, count.lymphocytes) == (["1"], ["2"])


def test_names_that_are_given_are_read_as_those_that_are_known():
    types = ["Band cell"] * 2 + ["lymphocyte"] + ["Smudge cell"]
    count = differential_count(types, neutrophils=["band_cells"], exclude="smudge-cells")
    assert count.types == ["Band cell", "lymphocyte"]
    assert count.nlr[0] == 2


def test_none_excludes_nothing():
    assert differential_count(["a", None], exclude=None).n_unknown.tolist() == [1]


@pytest.mark.parametrize("parameter", ["neutrophils", "lymphocytes", "exclude"])
def test_a_name_that_no_cell_has_is_a_warning(parameter):
    with pytest.warns(UnknownTypeWarning, match=f"{parameter} names 'neutrofil'"):
        differential_count(["neutrophil", "lymphocyte"], **{parameter: ["neutrofil"]})


def test_a_type_on_both_sides_of_the_ratio_is_refused():
    with pytest.raises(ValueError, match="either of neutrophils or of lymphocytes"):
        differential_count(["neutrophil"], neutrophils="neutrophil", lymphocytes="neutrophil")


@pytest.mark.parametrize(
    "call",
    [
        lambda x: wilson_interval(x, 100),
        lambda x: exact_interval(x, 100),
        lambda x: wbcprof.compare.cells_needed(x, 100, 0.1),
        lambda x: wbcprof.compare.correct_count(x, np.eye(3, dtype=int) * 9, list("abc")),
        lambda x: wbcprof.compare.bland_altman(x, range(3)),
        lambda x: wbcprof.compare.passing_bablok(range(3), x),
        lambda x: wbcprof.compare.concordance(x, range(3)),
        lambda x: wbcprof.compare.differential_signatures(x[None], ["a"]),
        lambda x: wbcprof.analysis.embed(x[None], method="pca"),
        lambda x: wbcprof.analysis.westgard(x, 0, 1),
        lambda x: wbcprof.analysis.moving_average(x),
        lambda x: wbcprof.figures.embedding(x[:2][None], ["a"]),
        lambda x: wbcprof.figures.heatmap(x[None], ["a"]),
        lambda x: wbcprof.figures.mean_profiles(x[None], ["a"]),
        lambda x: wbcprof.figures.confusion(np.ma.vstack([x] * 3), list("abc")),
        lambda x: wbcprof.figures.signature_mosaic(x[None, :1, None, None]),
        lambda x: wbcprof.PSD(1).fit(x[:, None]),
        lambda x: wbcprof.Profiles(x[None], list("abc"), ["x"]),
    ],
)
def test_masked_numbers_are_refused(call):
    with pytest.raises(ValueError, match=r"must not be masked, got [123] masked"):
        call(np.ma.masked_array([5.0, 7.0, 9.0], [True, False, False]))


def test_a_precision_that_no_number_has_is_refused():
    with pytest.raises(ValueError, match="precision must be at least 1e-06"):
        wbcprof.compare.cells_needed(1, 2, 1e-8)
    assert wbcprof.compare.cells_needed(1, 2, 1e-6) > 9e11


@pytest.mark.parametrize("bad", [[1 + 2j, 3], ["1", "2"], [True, False], [b"1", b"2"]])
def test_what_is_no_real_number_is_refused(bad):
    for call in (
        lambda x: exact_interval(x, 100),
        lambda x: wbcprof.TypeClassifier().fit(np.array([x] * 4), list("abab")),
        lambda x: wbcprof.compare.differential_signatures([x] * 4, list("abab")),
    ):
        with pytest.raises(ValueError, match="must be real numbers"):
            call(bad)
