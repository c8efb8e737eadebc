"""Differential signatures, endpoints, what made a call: against scipy and by hand."""

import warnings

import numpy as np
import pytest
from scipy import stats

from wbcprof.analysis.classify import TypeClassifier
from wbcprof.analysis.compare import (
    associate,
    associate_attributes,
    differential_signatures,
    explain_calls,
)
from wbcprof.model.profiles import Profiles


@pytest.fixture
def table(rng):
    """60 cells of three types and 5 features: the first rises with the type, the last is 0."""
    groups = np.repeat(["a", "b", "c"], 20)
    values = rng.normal(size=(60, 5))
    values[:, 0] += np.repeat([0, 1, 3], 20)
    values[:, 4] = 0
    return values, groups


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# ---- differential signatures ----


def test_rank_test_effect_and_fdr_are_scipys(table):
    values, groups = table
    found = differential_signatures(values, groups)
    assert found.groups == ["a", "b", "c"] and found.unit == "cells"
    assert found.n_in == [20] * 3 and found.n_out == [40] * 3
    for i, name in enumerate(found.groups):
        for j in range(4):
            a, b = values[groups == name, j], values[groups != name, j]
            expected = stats.mannwhitneyu(a, b, method="asymptotic")
            assert found.p_value[i, j] == pytest.approx(expected.pvalue)
            delta = np.sign(a[:, None] - b).mean()
            assert found.effect[i, j] == pytest.approx(delta)
            assert found.difference[i, j] == pytest.approx(a.mean() - b.mean())
    expected = stats.false_discovery_control(found.p_value.ravel()).reshape(3, 5)
    np.testing.assert_allclose(found.q_value, expected)
    assert found.top("c", 2)[0] == 0


def test_constant_feature_shows_nothing(table):
    found = differential_signatures(*table)
    assert (found.effect[:, 4] == 0).all() and (found.p_value[:, 4] == 1).all()


def test_small_groups_are_exact_column_by_column():
    values = np.column_stack([np.arange(6.0), [0, 0, 1, 2, 3, 4]])
    found = differential_signatures(values, list("aaabbb"), against="b")
    assert found.groups == ["a"]
    assert found.p_value[0, 0] == pytest.approx(2 / 20)  # 1 of 20 orders on either side
    tied = stats.mannwhitneyu([0, 0, 1], [2, 3, 4], method="asymptotic")
    assert found.p_value[0, 1] == pytest.approx(tied.pvalue)
    assert found.effect[0].tolist() == [-1, -1]


def test_with_samples_the_sample_is_the_unit(rng):
    # Many cells in each of 4 samples: the cells differ, the samples are too few to say so.
    samples = np.repeat(["p1", "p2", "p3", "p4"], 50)
    groups = np.repeat(["ill", "well"], 100)
    values = rng.normal(size=(200, 3)) + (groups == "ill")[:, None]
    cells = differential_signatures(values, groups)
    persons = differential_signatures(values, groups, samples=samples)
    assert persons.unit == "samples" and persons.n_in == [2, 2]
    assert cells.p_value.max() < 0.001 and persons.p_value.min() == pytest.approx(2 / 6)
    mean = values[groups == "ill"].mean(axis=0) - values[groups == "well"].mean(axis=0)
    np.testing.assert_allclose(persons.difference[0], mean)


def test_unknown_cells_are_left_out_and_names_come_from_profiles(table):
    values, groups = table
    labels = [None if i % 2 else str(name) for i, name in enumerate(groups)]
    profiles = Profiles(values, [f"s{i}" for i in range(5)], [""] * 60)
    found = differential_signatures(profiles, labels)
    assert found.n_in == [10] * 3 and found.n_out == [20] * 3
    half = differential_signatures(values[::2], groups[::2])
    np.testing.assert_array_equal(found.effect, half.effect)
    frame = found.to_pandas()
    assert len(frame) == 15 and frame["feature"].tolist()[:5] == profiles.feature_names
    assert frame["effect"].to_numpy() == pytest.approx(found.effect.ravel())


def test_a_group_of_one_cell():
    found = differential_signatures(np.arange(10.0)[:, None], ["x"] + ["y"] * 9)
    assert found.effect[0, 0] == -1 and found.p_value[0, 0] == pytest.approx(0.2)


def test_bad_groups(table):
    values, groups = table
    with pytest.raises(ValueError, match=r"at least two groups, got \['a'\]"):
        differential_signatures(values, ["a"] * 60)
    with pytest.raises(ValueError, match="against must be one of"):
        differential_signatures(values, groups, against="z")
    with pytest.raises(ValueError, match=r"Length of labels \(59\) must match number of cells"):
        differential_signatures(values, groups[1:])
    with pytest.raises(ValueError, match="finite"):
        differential_signatures(values * np.nan, groups)
    with pytest.raises(ValueError, match=r"feature_names \(2\)"):
        differential_signatures(values, groups, feature_names=["a", "b"])


# ---- endpoints ----


def test_association_is_spearman_of_sample_means(rng):
    samples = np.repeat([f"p{i:02d}" for i in range(12)], 7)
    values = rng.normal(size=(84, 4))
    endpoint = {f"p{i:02d}": float(i) for i in range(12)} | {"p03": np.nan, "other": 1.0}
    values[:, 1] += 3 * np.repeat(np.arange(12.0), 7)
    values[:, 3] = 1
    found = associate(values, samples, endpoint)
    assert found.left_out == ["p03"] and len(found.samples) == 11
    means = values.reshape(12, 7, 4).mean(axis=1)
    used = [i for i in range(12) if i != 3]
    for j in range(3):
        expected = stats.spearmanr(means[used, j], used)
        assert found.correlation[j] == pytest.approx(expected.statistic)
        assert found.p_value[j] == pytest.approx(max(expected.pvalue, 2 / 39916800))
    assert found.correlation[3] == 0 and found.p_value[3] == 1
    np.testing.assert_allclose(found.q_value, stats.false_discovery_control(found.p_value))
    assert found.to_pandas()["feature"].tolist()[0] == "feature_0001"


def test_association_of_few_samples_is_exact():
    # Perfect order among 5: 2 of 120 permutations are as extreme.
    found = associate(np.arange(5.0)[:, None], list("abcde"), dict(zip("abcde", range(5))))
    assert found.correlation[0] == pytest.approx(1)
    assert found.p_value[0] == pytest.approx(2 / 120)


def test_bad_endpoints():
    values, samples = np.arange(5.0)[:, None], list("abcde")
    with pytest.raises(ValueError, match="at least 4 samples, got 3 of 5"):
        associate(values, samples, {"a": 1, "b": 2, "c": 3})
    with pytest.raises(ValueError, match="differ between samples"):
        associate(values, samples, dict.fromkeys("abcde", 1.0))


# ---- what made a call ----


def three_sigma_apart(rng, types):
    y = np.repeat(list(types), 15)
    x = rng.normal(size=(len(y), 6))
    x[np.arange(len(y)), np.repeat(np.arange(len(types)), 15)] += 3
    return x, y


def pair_margin(classifier, x, called, rival):
    """Decision of a cell's pair of types, positive towards the called one."""
    a, b = sorted((called, rival))
    n_types = len(classifier.classes_)
    pair = list(zip(*np.triu_indices(n_types, 1), strict=True)).index((a, b))
    x = (x - classifier.mean_) / classifier.scale_
    if classifier.gamma_:
        distance = ((x - classifier.support_vectors_) ** 2).sum(axis=1)
        x = np.exp(-classifier.gamma_ * distance)
    decision = x @ classifier.coef_[pair] + classifier.intercept_[pair]
    return decision if called == a else -decision


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("types", ["ab", "abcd"])
def test_a_contribution_is_what_the_average_feature_would_lose(rng, types, kernel):
    x, y = three_sigma_apart(rng, types)
    classifier = TypeClassifier(C=1.0, kernel=kernel).fit(x, y)
    called, rival, contribution = explain_calls(classifier, x)
    assert (classifier.classes_[called] == classifier.predict(x)).all() and (called != rival).all()
    for i in range(0, len(y), 4):
        margin = pair_margin(classifier, x[i], called[i], rival[i])
        for j in range(6):
            moved = x[i].copy()
            moved[j] = classifier.mean_[j]
            loss = margin - pair_margin(classifier, moved, called[i], rival[i])
            assert contribution[i, j] == pytest.approx(loss, abs=1e-5)
    # The feature that makes the called type, or the rival's missing one, speaks for the call.
    strongest = contribution.argmax(axis=1)
    assert ((strongest == called) | (strongest == rival)).mean() > 0.9


def test_a_group_that_is_not_there_is_named():
    found = differential_signatures(np.arange(8.0)[:, None], list("aabbccdd"))
    with pytest.raises(ValueError, match=r"group must be one of \('a', 'b', 'c', 'd'\), got 'e'"):
        found.top("e")


@pytest.mark.parametrize("kernel", ["rbf", "linear", "discriminant"])
@pytest.mark.parametrize("far", [1e2, 1e4, 1e8])
def test_calls_far_from_training_are_explained_in_finite_numbers(kernel, far):
    rng = np.random.default_rng(0)
    types = np.repeat(["lymphocyte", "neutrophil"], 20)
    values = rng.random((40, 5)) + (types == "neutrophil")[:, None]
    classifier = TypeClassifier(kernel=kernel, C=1.0).fit(values, types)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        called, rival, contribution = explain_calls(classifier, far * rng.normal(size=(6, 5)))
    assert np.isfinite(contribution).all() and (called != rival).all()


def test_means_that_differ_by_rounding_are_ties(rng):
    """0.1 + 0.1 + 0.1 over 3 is not 0.1."""
    samples = np.repeat([f"{kind}{i}" for kind in "cp" for i in range(5)], [2] * 5 + [3] * 5)
    groups = [name[0] for name in samples]
    values = np.full((25, 2), 0.1)
    values[:, 1] = rng.random(25)
    found = differential_signatures(values, groups, samples=samples)
    assert found.effect[:, 0].tolist() == [0, 0]
    assert found.p_value[:, 0].tolist() == [1, 1]
    endpoint = {name: float(i) for i, name in enumerate(sorted(set(samples)))}
    assert associate(values, samples, endpoint).correlation[0] == 0


def test_samples_and_endpoints_are_named_alike():
    values, samples = np.arange(8.0)[:, None], [1, 2, 3, 4] * 2
    expected = associate(values, samples, {1: 1, 2: 3, 3: 2, 4: 4}).correlation
    for endpoint in ({1.0: 1, 2.0: 3, 3.0: 2, 4.0: 4}, {"1": 1, b"2": 3, "3": 2, "4": 4}):
        np.testing.assert_array_equal(associate(values, samples, endpoint).correlation, expected)
    spaced = [f"{name} " for name in samples]
    assert associate(values, spaced, {"1 ": 1, "2 ": 3, "3 ": 2, "4 ": 4}).left_out == []
    with pytest.raises(ValueError, match="must name each sample once, got 1 and 9 for '1'"):
        associate(values, samples, {1: 1, "1": 9, 2: 3, 3: 2, 4: 4})


def test_attributes_are_correlated_by_rank_over_the_cells_that_know_them():
    from scipy.stats import false_discovery_control, spearmanr

    rng = np.random.default_rng(5)
    values = rng.random((60, 7))
    size = values[:, 3] ** 3 + 0.1 * rng.random(60)
    size[:9] = np.nan
    coarse = (values[:, 5] > 0.5).astype(float)
    found = associate_attributes(values, {"size": size, "coarse": coarse})
    p_values = []
    for name, y in (("size", size), ("coarse", coarse)):
        used = ~np.isnan(y)
        expected = [spearmanr(values[used, j], y[used]) for j in range(7)]
        np.testing.assert_allclose(found[name].correlation, [e.statistic for e in expected])
        np.testing.assert_allclose(found[name].p_value, [e.pvalue for e in expected], rtol=1e-6)
        p_values.append([e.pvalue for e in expected])
    assert len(found["size"].samples) == 51 and len(found["size"].left_out) == 9
    expected = false_discovery_control(np.array(p_values), axis=None).reshape(2, 7)
    np.testing.assert_allclose([found[name].q_value for name in found], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "at least one"),
        ({"x": [1, 2, 3]}, "must match number of cells"),
        ({"x": [1, 1, 1, 1, 1]}, "differ"),
        ({"x": [1, 2, 3, np.nan, np.nan]}, "at least 4"),
        ({"x": [1, 2, 3, 4, np.inf]}, "finite"),
    ],
)
def test_attributes_that_say_nothing_are_refused(attributes, message):
    with pytest.raises(ValueError, match=message):
        associate_attributes(np.random.default_rng(0).random((5, 2)), attributes)
