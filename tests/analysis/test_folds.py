"""Whole groups on one side: of halves, of folds, of the protocol; copies; what leaks without."""

import types
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcprof.analysis.classify import FewImagesWarning, TypeClassifier
from wbcprof.analysis.evaluation import evaluate, half_half_splits
from wbcprof.analysis.folds import groups_per_type, keep_together, stratified_folds
from wbcprof.images import DuplicateWarning
from wbcprof.images.source import ImageWarning


class Colours:
    """A model that profiles an image by how often it has each of 32 reds, greens, blues."""

    min_size = 6
    parameters = types.MappingProxyType({})

    def profile(self, images, *, n_threads=None):
        bins = 32 * np.arange(3)
        counts = [np.bincount((i // 8 + bins).ravel(), minlength=96) / i.size for i in images]
        self.values = np.sqrt(np.array(counts, np.float32))
        return self

    def profile_source(self, source, coding, n_threads, *, before):
        return self.profile([before(cell.pixels) for cell in source])


def patients(n_patients=24, n_each=12, seed=2):
    """Noise in a colour of each patient's own, whose cells are of one type drawn by lot: nothing
    but the patient tells types."""
    rng = np.random.default_rng(seed)
    of_patient = rng.permutation(["a", "b"] * (n_patients // 2))
    tint = rng.uniform(50, 200, (n_patients, 3))
    group = np.repeat(np.arange(n_patients), n_each)
    images = [rng.normal(tint[g], 15, (24, 24, 3)).clip(0, 255).astype(np.uint8) for g in group]
    return images, of_patient[group], group


# ---- halves ----


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=12, max_size=60),
       st.integers(0, 99))  # fmt: skip
def test_no_group_is_in_both_halves_nor_folds(cells, seed):
    y, groups = np.array(cells).T
    y = np.r_[y, [0] * 4, [1] * 4]
    groups = np.r_[groups, 20, 20, 21, 22, 23, 23, 24, 25]  # so that the first two types can split
    y, groups = y[y < 2], groups[y < 2]
    for train, test, _ in half_half_splits(y, 3, seed, groups):
        assert not set(groups[train]) & set(groups[test])
        np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(len(y)))
        assert set(y[train]) == set(y[test]) == {0, 1}
    folds = stratified_folds(y, groups, 5, seed)
    assert folds
    np.testing.assert_array_equal(np.sort(np.concatenate([t for _, t in folds])), np.arange(len(y)))
    for train, test in folds:
        assert not set(groups[train]) & set(groups[test])
        assert set(y[train]) == {0, 1}


def test_halves_are_as_near_as_whole_groups_allow():
    rng = np.random.default_rng(1)
    y = np.repeat(["a", "b", "c"], [300, 200, 100])
    groups = rng.integers(0, 60, len(y))
    for train, _, _ in half_half_splits(y, 10, groups=groups):
        for name in "abc":
            assert abs((y[train] == name).sum() / (y == name).sum() - 0.5) <= 0.1
    few = np.repeat([0, 1, 2, 3], 8)  # one type is in two groups: one on either side
    y = np.repeat(["a", "b"], 16)
    for train, _, _ in half_half_splits(y, 10, groups=few):
        assert [(y[train] == name).sum() for name in "ab"] == [8, 8]


def test_halves_are_drawn_anew_and_by_seed_alone():
    _, y, groups = patients()
    one, again = (half_half_splits(y, 5, 3, groups) for _ in range(2))
    for (train, _, seed), (other, _, other_seed) in zip(one, again, strict=True):
        np.testing.assert_array_equal(train, other)
        assert seed == other_seed
    assert len({tuple(train) for train, _, _ in one}) == 5
    names = np.array([f"patient {g:02d}" for g in groups])  # numbers or text, it is the same
    np.testing.assert_array_equal(half_half_splits(y, 1, 3, names)[0][0], one[0][0])


def test_a_group_for_each_image_is_no_groups():
    y = np.random.default_rng(0).permutation(["a"] * 9 + ["b"] * 14)
    for one, other in zip(
        half_half_splits(y, 4), half_half_splits(y, 4, groups=range(23)), strict=True
    ):
        np.testing.assert_array_equal(one[0], other[0])


def test_groups_that_cannot_be_halved():
    y = ["a"] * 6 + ["b"] * 6
    with pytest.raises(ValueError, match=r"at least 2 groups .* got one only for a, b; add images"):
        half_half_splits(y, groups=["p"] * 12)
    with pytest.raises(ValueError, match="got one only for b"):
        half_half_splits(y, groups=[0, 1] * 3 + [2] * 6)
    # Three types, each in two of three groups: one half has two of them, and all of a type.
    y = ["a", "b"] * 2 + ["b", "c"] * 2 + ["c", "a"] * 2
    with pytest.raises(ValueError, match="no split by whole groups has each of a, b, c in both"):
        half_half_splits(y, groups=np.repeat([0, 1, 2], 4))
    with pytest.raises(ValueError, match=r"Length of groups \(3\) must match"):
        half_half_splits(y, groups=[1, 2, 3])


def test_folds_of_many_images_by_themselves_are_even_and_soon_made():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat(["a", "b", "c"], [2000, 1500, 500]))
    groups = np.r_[[-1] * 3, [-2] * 2, np.arange(len(y) - 5)]
    for train, test in stratified_folds(y, groups, 5, 0):
        for name, n in (("a", 2000), ("b", 1500), ("c", 500)):
            assert abs((y[test] == name).sum() - n / 5) <= 0.02 * n
        assert len(set(train) & set(range(3))) in (0, 3)


def test_what_is_kept_together():
    assert keep_together(np.array([0, 0, 1, 2, 3]), np.array([5, 6, 6, 7, 7])).tolist() == [
        0, 0, 0, 1, 1,
    ]  # fmt: skip
    assert keep_together(np.array(["p", "q", "p"])).tolist() == [0, 1, 0]
    assert groups_per_type(np.array(list("aabbb")), np.array([1, 1, 1, 2, 3])).tolist() == [1, 3]
    assert groups_per_type(np.array(list("aabbb")), None).tolist() == [2, 3]


# ---- the classifier ----


def test_the_classifier_is_calibrated_on_patients_left_out():
    images, y, groups = patients()
    X = Colours().profile(images).values
    alone, whole = (TypeClassifier(kernel="rbf").fit(X, y, them) for them in (None, groups))
    assert alone.predict_proba(X).max(axis=1).mean() > 0.9  # of patients that it knows
    # Of new patients it knows nothing, and so it says.
    new, _, _ = patients(seed=1)
    sure = whole.predict_proba(Colours().profile(new).values).max(axis=1).mean()
    assert sure < 0.65 < alone.predict_proba(Colours().profile(new).values).max(axis=1).mean()
    again = TypeClassifier(kernel="rbf").fit(X, y, [f"patient {g:02d}" for g in groups])
    np.testing.assert_array_equal(again.coef_, whole.coef_)


def test_types_in_too_few_groups_are_not_calibrated():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 3)), ["a"] * 6 + ["b"] * 6
    for kernel, C, not_chosen in (("rbf", 10, "C is not chosen and "), ("discriminant", 1, "")):
        with pytest.warns(FewImagesWarning, match=f"b is in too few groups: {not_chosen}prob.* at"):
            few = TypeClassifier(kernel=kernel).fit(X, y, [1, 2, 3, 4, 5, 6] + [7] * 6)
        assert not few.calibrated_ and few.C_ == C
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TypeClassifier().fit(X, y, [1, 1, 1, 2, 2, 2] * 2).calibrated_  # two folds
    for groups, message in (
        (range(5), "Length of groups"),
        ([None] + [1] * 11, "a group for each"),
    ):
        with pytest.raises(ValueError, match=message):
            TypeClassifier().fit(X, y, groups)


# ---- the protocol ----


def test_leakage_between_patients_inflates_the_score_and_groups_remove_it():
    images, y, groups = patients(16)
    leaky = evaluate(images, y, model=Colours(), repeats=4)
    honest = evaluate(images, y, groups=groups, model=Colours(), repeats=4)
    assert leaky.macro_f1 > 0.9 and leaky.baseline["macro_f1"] > 0.9
    assert honest.macro_f1 < 0.65 and honest.baseline["macro_f1"] < 0.65
    assert (leaky.n_groups, honest.n_groups) == (None, 16)
    assert honest.to_dict()["n_groups"] == 16
    assert "cells of one patient may lie in\nboth halves" in leaky.to_text()
    text = honest.to_text()
    assert "whole groups, near to 50 % of each type, drawn for training" in text
    assert text.endswith("Groups: 16, none of which lies in both halves of a repeat.")
    assert (
        honest.to_dict() == evaluate(images, y, groups=groups, model=Colours(), repeats=4).to_dict()
    )


def test_groups_by_order_or_by_id_with_an_image_left_out():
    images, y, groups = patients(8, 4)
    images.insert(0, np.zeros((3, 3, 3), np.uint8))
    y, groups = ["a", *y], [99, *groups]
    by_id = {f"image_{n:06d}": group for n, group in enumerate(groups)}
    found = []
    for given_groups in (groups, by_id):
        with pytest.warns(ImageWarning, match="1 of 33 images was skipped"):
            result = evaluate(images, y, groups=given_groups, model=Colours(), repeats=2)
        assert result.n_groups == 8
        found.append(result.runs)
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"Length of groups \(5\) must match number of images"):
        evaluate(images[1:], y[1:], groups=groups[:5], model=Colours())
    del by_id["image_000004"]
    with pytest.warns(ImageWarning), pytest.raises(ValueError, match="no group for 1 of 32 images"):
        evaluate(images, y, groups=by_id, model=Colours())


def test_copies_stay_on_one_side_and_are_told_of(monkeypatch):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 255, (16, 12, 12, 3), dtype=np.uint8))
    images += [np.ascontiguousarray(image[:, ::-1]) for image in images]
    y = ["a", "b"] * 16
    y[17] = "a"  # of which the original is a "b"
    with pytest.warns(DuplicateWarning) as caught:
        result = evaluate(images, y, model=Colours(), repeats=3)
    (warning,) = [w for w in caught if w.category is DuplicateWarning]
    assert warning.filename == __file__
    assert "16 of 32 images are near-identical" in str(warning.message)
    assert "image_000000 and image_000016" in str(warning.message)
    assert "1 of them have another type: image_000001 and image_000017 (b, a)" in str(
        warning.message
    )
    assert (result.n_groups, result.n_copies) == (None, 16)
    assert "Near-identical to an earlier image: 16, which lie on its side" in result.to_text()

    seen = []
    splits = half_half_splits
    monkeypatch.setattr(
        "wbcprof.analysis.evaluation.half_half_splits",
        lambda *arguments: seen.append(splits(*arguments)) or seen[-1],
    )
    with pytest.warns(DuplicateWarning):  # a patient's copy brings its patient along
        evaluate(images, y, groups=np.arange(32) % 16 // 2, model=Colours(), repeats=3)
        evaluate(images, y, model=Colours(), repeats=3)
    for train, _, _ in seen[0] + seen[1]:
        assert {i % 16 for i in train} == {i % 16 for i in train if i < 16}
        assert len(train) == 2 * len({i % 16 for i in train})
