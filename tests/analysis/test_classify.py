"""Types: the classifier, its metrics, and the half-half protocol."""

from __future__ import annotations

import csv
import itertools
import json
import tracemalloc
import types as python_types
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import f1_score, log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from wbcprof.analysis import evaluation
from wbcprof.analysis.classify import FewImagesWarning, TypeClassifier, rank_signatures
from wbcprof.analysis.evaluation import (
    colour_histograms,
    evaluate,
    evaluation_metrics,
    half_half_splits,
)
from wbcprof.analysis.figures import f1_bars
from wbcprof.analysis.scores import Scores
from wbcprof.images.source import ImageWarning, open_images
from wbcprof.smear.jitter import N_TURNS
from wbcprof.smear.measures import MEASURES

PBC = Path(__file__).resolve().parents[3] / "shared" / "data" / "pbc"
METRIC_KEYS = {
    "macro_f1", "macro_f1_std", "sensitivity", "specificity", "per_type", "confusion", "runs",
}  # fmt: skip


def blobs(n_types=3, n_per_type=30, n_features=12, distance=1.5, seed=0):
    """Normal clouds around random centres; names sort in another order than they are drawn."""
    rng = np.random.default_rng(seed)
    names = [f"type_{chr(ord('z') - k)}" for k in range(n_types)]
    y = np.repeat(names, n_per_type)
    centres = rng.normal(size=(n_types, n_features)) * distance
    X = np.repeat(centres, n_per_type, axis=0) + rng.normal(size=(len(y), n_features))
    return X.astype(np.float32), y


# Metrics


def test_metrics_by_hand():
    y_true = ["a", "a", "a", "a", "b", "b", "b", "c", "c", "c"]
    y_pred = ["a", "a", "a", "b", "b", "b", "c", "c", "c", "a"]
    m = evaluation_metrics(y_true, y_pred, ["a", "b", "c"])
    np.testing.assert_array_equal(m["confusion"], [[3, 1, 0], [0, 2, 1], [1, 0, 2]])
    np.testing.assert_allclose(m["sensitivity"], [3 / 4, 2 / 3, 2 / 3])
    np.testing.assert_allclose(m["specificity"], [5 / 6, 6 / 7, 6 / 7])
    np.testing.assert_allclose(m["f1"], [6 / 8, 4 / 6, 4 / 6])
    assert m["macro_f1"] == pytest.approx((3 / 4 + 4 / 3) / 3)
    assert m["macro_sensitivity"] == pytest.approx((3 / 4 + 4 / 3) / 3)
    assert m["macro_specificity"] == pytest.approx((5 / 6 + 12 / 7) / 3)


def test_metrics_of_a_type_never_predicted():
    m = evaluation_metrics(["a", "b", "b"], ["b", "b", "b"], ["b", "a"])
    np.testing.assert_array_equal(m["confusion"], [[2, 0], [1, 0]])
    np.testing.assert_allclose(m["f1"], [0.8, 0])
    np.testing.assert_allclose(m["sensitivity"], [1, 0])
    np.testing.assert_allclose(m["specificity"], [0, 1])


def test_metrics_of_a_type_without_an_image_are_not_known():
    """They were 0, and drew the averages down."""
    m = evaluation_metrics(["a", "b", "b"], ["a", "b", "c"], ["a", "b", "c"])
    for key, known in (("f1", [1, 2 / 3]), ("sensitivity", [1, 0.5])):
        np.testing.assert_allclose(m[key], [*known, np.nan])
        assert m[f"macro_{key}"] == pytest.approx(np.mean(known))
    np.testing.assert_allclose(m["specificity"], [1, 1, 2 / 3])
    m = evaluation_metrics(["a", "a"], ["a", "a"], ["a", "b"])
    np.testing.assert_allclose(m["specificity"], [np.nan, 1])


def test_metrics_errors():
    with pytest.raises(ValueError, match=r"Length of y_true \(2\) must match .* y_pred \(1\)"):
        evaluation_metrics(["a", "b"], ["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"among \['a', 'b'\], got \['c'\]"):
        evaluation_metrics(["a", "b"], ["a", "c"], ["a", "b"])
    with pytest.raises(ValueError, match="at least one image"):
        evaluation_metrics([], [], ["a"])


# Splits


def test_splits_are_halves_of_each_type():
    labels = np.random.default_rng(0).permutation(["a"] * 10 + ["b"] * 7 + ["c"] * 4)
    splits = half_half_splits(labels, repeats=5, seed=3)
    assert len(splits) == 5
    for train, test, seed in splits:
        assert {t: int((labels[train] == t).sum()) for t in "abc"} == {"a": 5, "b": 3, "c": 2}
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(21))
        assert 0 <= seed < 2**32
    assert len({seed for _, _, seed in splits}) == 5
    assert len({tuple(train) for train, _, _ in splits}) == 5


def test_splits_are_deterministic_and_do_not_depend_on_their_number():
    labels = ["a", "b"] * 10
    first = half_half_splits(labels, repeats=2, seed=1)
    longer = half_half_splits(labels, repeats=4, seed=1)
    for one, other in zip(first, longer[:2], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[2] == other[2]
    assert not np.array_equal(half_half_splits(labels, 1, seed=2)[0][0], first[0][0])


def test_splits_errors():
    with pytest.raises(ValueError, match=r"at least 4 images of each type .* for b \(3\), c \(1\)"):
        half_half_splits(["a"] * 4 + ["b"] * 3 + ["c"])
    with pytest.raises(ValueError, match=r"at least two types, got \['a'\]"):
        half_half_splits(["a"] * 8)
    with pytest.raises(ValueError, match="none for 2 of 9, first for number 4"):
        half_half_splits(["a"] * 4 + [None, None] + ["b"] * 3)
    for repeats in (0, 1.5, True):
        with pytest.raises(ValueError, match="repeats must be a positive integer"):
            half_half_splits(["a", "b"] * 4, repeats)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        half_half_splits(["a", "b"] * 4, seed=-1)


# Classifier


KERNELS = pytest.mark.parametrize("kernel", ["discriminant", "rbf", "linear"])


@KERNELS
@pytest.mark.parametrize("n_types", [2, 3, 6])
def test_separable_types_are_named(n_types, kernel):
    X, y = blobs(n_types, distance=4)
    classifier = TypeClassifier(kernel=kernel).fit(X[::2], y[::2])
    assert classifier.classes_.tolist() == sorted(set(y))
    np.testing.assert_array_equal(classifier.predict(X[1::2]), y[1::2])
    p = classifier.predict_proba(X[1::2])
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(classifier.classes_[p.argmax(axis=1)], y[1::2])
    assert p.max(axis=1).mean() > 0.75


@pytest.mark.parametrize("n_types", [2, 3, 6])
@pytest.mark.parametrize("distance", [0.2, 1.0])
@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_prediction_is_scikit_learns(n_types, distance, kernel):
    X, y = blobs(n_types, distance=distance)
    classifier = TypeClassifier(C=0.05, kernel=kernel).fit(X[::2], y[::2])
    scaler = StandardScaler().fit(X[::2].astype(np.float64))
    new = scaler.transform(X[1::2].astype(np.float64))
    gamma = 0.25 / X.shape[1]
    svm = SVC(kernel=kernel, C=0.05, gamma=gamma, decision_function_shape="ovo", tol=1e-6)
    decision = svm.fit(scaler.transform(X[::2].astype(np.float64)), y[::2]).decision_function(new)
    pairs = -decision[:, None] if n_types == 2 else decision
    p = np.ones((len(new), n_types))
    for pair, (i, j) in enumerate(itertools.combinations(range(n_types), 2)):
        first = 1 / (1 + np.exp(-classifier.slope_ * pairs[:, pair]))
        p[:, i] *= first
        p[:, j] *= 1 - first
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(X[1::2]), p, atol=5e-3)


@KERNELS
def test_prediction_is_the_largest_decision(kernel):
    X, y = blobs(6, distance=0.3)
    classifier = TypeClassifier(kernel=kernel).fit(X, y)
    decision = classifier.decision_function(X)
    assert decision.shape == (len(X), 6)
    np.testing.assert_array_equal(classifier.predict(X), classifier.classes_[decision.argmax(1)])
    binary = TypeClassifier(kernel=kernel).fit(*blobs(2, distance=0.3))
    X, _ = blobs(2, distance=0.3)
    np.testing.assert_array_equal(
        binary.predict(X), binary.classes_[(binary.decision_function(X) > 0).astype(int)]
    )
    np.testing.assert_array_equal(  # neighbours in decision are neighbours in probability
        np.argsort(binary.decision_function(X)), np.argsort(binary.predict_proba(X)[:, 1])
    )


@KERNELS
def test_probabilities_are_calibrated(kernel):
    X, y = blobs(3, n_per_type=600, n_features=4, distance=1.0, seed=1)
    train = np.arange(len(y)) % 4 == 0
    classifier = TypeClassifier(kernel=kernel).fit(X[train], y[train])
    p = classifier.predict_proba(X[~train])
    confidence = p.max(axis=1)
    right = classifier.predict(X[~train]) == y[~train]
    assert 0.5 < right.mean() < 0.97
    assert abs(confidence.mean() - right.mean()) < 0.1
    middle = np.median(confidence)
    assert right[confidence > middle].mean() > right[confidence <= middle].mean() + 0.1
    assert log_loss(y[~train], p) < 0.8 * np.log(3)


@KERNELS
def test_random_labels_give_chance_and_flat_probabilities(kernel):
    X, _ = blobs(1, n_per_type=400)
    y = np.random.default_rng(5).choice(["a", "b"], 400)
    classifier = TypeClassifier(kernel=kernel).fit(X[:200], y[:200])
    assert 0.35 < (classifier.predict(X[200:]) == y[200:]).mean() < 0.65
    assert classifier.predict_proba(X[200:]).max() < 0.8


def test_chosen_C_follows_the_scale_of_the_problem():
    X, y = blobs(3, distance=0.5)
    C = TypeClassifier(kernel="linear").fit(X, y).C_
    assert 0.1 / 12 <= C <= 1000 / 12 * (1 + 1e-9)
    # Every feature four times over: the same profiles, squared norm times four.
    wide = np.tile(X, 4)
    assert TypeClassifier(kernel="linear").fit(wide, y).C_ == pytest.approx(C / 4, rel=1e-3)
    one, other = (TypeClassifier(C=10.0, kernel="rbf").fit(values, y) for values in (X, wide))
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(wide), atol=1e-3)


@KERNELS
def test_fit_is_deterministic_and_leaves_inputs_alone(kernel):
    X, y = blobs(4, distance=0.5)
    before = X.copy(), y.copy()
    X.setflags(write=False)
    one, other = (TypeClassifier(kernel=kernel).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(one.coef_, other.coef_)
    assert one.slope_ == other.slope_
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])


def test_constant_features_are_harmless():
    X, y = blobs(3, distance=4)
    padded = np.hstack([X, np.full((len(X), 2), 0.1, np.float32)])
    classifier = TypeClassifier(C=0.1, kernel="linear").fit(padded, y)
    assert np.abs(classifier.coef_[:, -2:]).max() < 1e-12
    np.testing.assert_array_equal(
        classifier.predict(padded), TypeClassifier(C=0.1, kernel="linear").fit(X, y).predict(X)
    )


@pytest.mark.parametrize(("kernel", "C"), [("discriminant", 1), ("rbf", 10), ("linear", 1)])
def test_few_images_of_a_type(kernel, C):
    X, y = blobs(3, n_per_type=5, distance=4)
    classifier = TypeClassifier(kernel=kernel).fit(X[:12], y[:12])  # 5, 5 and 2: two folds
    assert classifier.calibrated_
    np.testing.assert_array_equal(classifier.predict(X), y)
    with pytest.warns(
        FewImagesWarning, match=r"types left out, with fewer than 2 images .*: type_x \(1\)"
    ):
        one = TypeClassifier(kernel=kernel).fit(X[:11], y[:11])
    assert one.calibrated_ and one.classes_.tolist() == ["type_y", "type_z"]
    not_chosen = "" if kernel == "discriminant" else "C is not chosen and "
    with pytest.warns(
        FewImagesWarning, match=f"has one image: {not_chosen}probabilities .* at least 2"
    ):
        classifier = TypeClassifier(kernel=kernel).fit(X[:6], y[:6])
    assert classifier.C_ == C and not classifier.calibrated_ and classifier.confusion_ is None
    np.testing.assert_array_equal(classifier.predict(X[:10]), y[:10])
    np.testing.assert_allclose(classifier.predict_proba(X).sum(axis=1), 1)
    with pytest.warns(FewImagesWarning, match="has one image: probabilities are not calibrated"):
        TypeClassifier(C=0.2, kernel=kernel).fit(X[:6], y[:6])


def test_types_of_one_group_are_left_out():
    X, y = blobs(3, n_per_type=6, distance=4)
    groups = np.arange(18) % 6
    groups[12:] = 0
    with pytest.warns(FewImagesWarning, match=r"or in one group only: type_x \(6\)"):
        classifier = TypeClassifier().fit(X, y, groups)
    assert classifier.classes_.tolist() == ["type_y", "type_z"] and classifier.calibrated_


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X, np.repeat("a", len(y))), "at least two types, got one only: a"),
        (lambda X, y: (X[:4], y[:3]), r"Length of labels \(3\) must match .* profiles \(4\)"),
        (lambda X, y: (X[:3], ["a", "b", "c"]), "more images than types, got 3 images of 3 types"),
        (lambda X, y: (np.where(np.arange(len(X))[:, None] == 7, np.nan, X), y), "in profile 7"),
        (lambda X, y: (X[0], y), "expected profiles .* got shape"),
        (lambda X, y: (X[:, :0], y), "expected profiles .* got shape"),
        (lambda X, y: (np.ones_like(X), y), "profiles are all the same"),
        (lambda X, y: (X, [None, *y[1:]]), "a label for each image, got none for 1 of"),
        (lambda X, y: (X, np.stack([y, y], 1)), "one label per image, got shape"),
    ],
)
def test_fit_errors(change, message):
    with pytest.raises(ValueError, match=message):
        TypeClassifier().fit(*change(*blobs()))


@pytest.mark.parametrize("C", [0, -1, np.nan, np.inf, "best", None, True])
def test_bad_C(C):
    with pytest.raises(ValueError, match="C must be 'auto' or positive and finite"):
        TypeClassifier(C=C).fit(*blobs())


def test_kernel_must_be_known():
    known = r"\('discriminant', 'rbf', 'linear'\)"
    with pytest.raises(ValueError, match=rf"kernel must be one of {known}, got 'poly'"):
        TypeClassifier(kernel="poly").fit(*blobs())


def test_predict_errors():
    X, y = blobs()
    with pytest.raises(NotFittedError):
        TypeClassifier().predict(X)
    classifier = TypeClassifier(C=0.1).fit(X, y)
    with pytest.raises(ValueError, match=r"features \(11\) must match .* profiles \(12\)"):
        classifier.predict_proba(X[:, 1:])
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 90, first in profile 2"):
        classifier.predict(np.where(np.arange(len(X))[:, None] == 2, np.inf, X))


def test_scikit_learn_conventions():
    classifier = TypeClassifier(C=0.3, random_state=8)
    assert clone(classifier).get_params() == {
        "C": 0.3, "kernel": "discriminant", "random_state": 8,
    }  # fmt: skip
    X, y = blobs(distance=4)
    assert classifier.fit(X, y) is classifier
    assert classifier.score(X, y) == 1


# Storage


@KERNELS
@pytest.mark.parametrize("labels", [str, int])
@pytest.mark.parametrize("n_types", [2, 4])
def test_arrays_round_trip(n_types, labels, kernel):
    X, y = blobs(n_types, distance=0.5)
    if labels is int:
        y = np.unique(y, return_inverse=True)[1]
    classifier = TypeClassifier(random_state=3, kernel=kernel).fit(X, y)
    arrays, parameters = classifier.to_arrays()
    stored = {k: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for k, a in arrays.items()}
    again = TypeClassifier.from_arrays(stored, json.loads(json.dumps(parameters)))
    assert again.get_params() == classifier.get_params()
    assert again.classes_.dtype == classifier.classes_.dtype
    np.testing.assert_array_equal(again.predict(X), classifier.predict(X))
    np.testing.assert_array_equal(again.predict_proba(X), classifier.predict_proba(X))
    assert again.C_ == classifier.C_ and again.calibrated_ is True


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("coef", None, "lacks coef"),
        ("classes", None, "lacks classes"),
        (
            "coef",
            np.zeros((2, 12)),
            r"coef must be float64 of shape \(3, 12\), got float64 of shape \(2, 12\)",
        ),
        ("scale", np.ones(12, np.float32), "scale must be float64"),
        ("scale", np.zeros(12), "not positive"),
        ("mean", np.full(12, np.nan), "mean holds NaN"),
        ("slope", -1.0, "slope must be .*got -1.0"),
        ("classes", ["a"], "two or more types"),
        ("classes", ["a", 1, None], "two or more types"),
        ("classes", ["b", "a", "c"], "not sorted"),
        ("classes", "abc", "classes is 'abc'"),
        ("calibrated", "yes", "calibrated must be .*got 'yes'"),
        ("kernel", "poly", "kernel must be .*got 'poly'"),
        ("gamma", 0.5, "gamma of the linear kernel must be .*got 0.5"),
    ],
)
def test_damaged_arrays(name, value, message):
    arrays, parameters = TypeClassifier(C=0.1, kernel="linear").fit(*blobs()).to_arrays()
    place = arrays if name in arrays else parameters
    if value is None:
        del place[name]
    else:
        place[name] = value
    with pytest.raises(ValueError, match=message):
        TypeClassifier.from_arrays(arrays, parameters)


@pytest.mark.parametrize("name", ["support_vectors", "coef", "scale"])
def test_decisions_that_overflow_are_refused(name):
    arrays, parameters = TypeClassifier(C=0.1, kernel="rbf").fit(*blobs()).to_arrays()
    huge = np.finfo(arrays[name].dtype).max
    arrays[name][...] = 1 / huge if name == "scale" else huge
    classifier = TypeClassifier.from_arrays(arrays, parameters)
    if name == "support_vectors":  # at a distance too large to matter
        assert np.isfinite(classifier.predict_proba(blobs()[0])).all()
        return
    with pytest.raises(ValueError, match="decisions overflow"):
        classifier.predict(blobs()[0])


# Baseline and ranking


def test_colour_histogram_by_hand():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = (255, 0, 31)  # colour (7, 0, 0)
    image[0, 1] = (32, 96, 255)  # colour (1, 3, 7)
    values = colour_histograms([image, np.full((5, 3, 3), 255, np.uint8)])
    assert values.shape == (2, 512) and values.dtype == np.float32
    expected = np.zeros((2, 512))
    expected[0, [0, 64 * 7, 64 + 8 * 3 + 7]] = np.sqrt([0.5, 0.25, 0.25])
    expected[1, 511] = 1
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W, 3\), got float64"):
        colour_histograms([image / 255])


def test_rank_signatures_finds_the_telling_ones():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 20)
    values = rng.normal(size=(60, 30)).astype(np.float32)
    values[:, 17] += 5 * (y == "a")
    values[:, 4] += 5 * (y == "b")
    values[:, 9] = 0
    order, importance = rank_signatures(values, y)
    assert set(order[:2]) == {4, 17}
    assert importance[9] == 0
    assert importance.sum() == pytest.approx(1)
    assert (np.diff(importance[order]) <= 0).all()
    np.testing.assert_array_equal(np.sort(order), np.arange(30))
    np.testing.assert_array_equal(order, rank_signatures(values, y)[0])
    with pytest.raises(ValueError, match="at least two types"):
        rank_signatures(values, ["a"] * 60)


# The protocol


def checksum(image):
    return int(image.astype(np.int64).sum()), image.shape


class StubModel:
    """Profiles an image by the mean and deviation of its colours."""

    min_size = 6

    def __init__(self, parameters):
        self.parameters = parameters
        self.n_calls = 0

    def profile(self, images, *, n_threads=None):
        self.n_calls += 1
        values = [np.r_[i.mean(axis=(0, 1)), i.std(axis=(0, 1))] for i in images]
        return python_types.SimpleNamespace(values=np.array(values, np.float32))

    def profile_source(self, source, coding, n_threads, *, before):
        return self.profile([before(cell.pixels) for cell in source])


@pytest.fixture
def profilers(monkeypatch):
    """Put a stub in the place of Profiler; the fixture lists those that were fitted."""
    fitted = []

    class Profiler:
        def __init__(self, parameters):
            self.parameters = {"patch_size": 6, "n_signatures": 3, **parameters}
            self.min_size = self.parameters["patch_size"]

        def fit(self, images):
            self.seen = [checksum(image) for image in images]
            self.model_ = StubModel(self.parameters)
            fitted.append(self)
            return self

    def make_profiler(preset, n_threads=None, random_state=0, **parameters):
        make_real_profiler(preset, **parameters)  # refuses what it does not know
        profiler = Profiler(parameters)
        profiler.n_threads, profiler.random_state = n_threads, random_state
        return profiler

    make_real_profiler = evaluation.make_profiler
    monkeypatch.setattr(evaluation, "make_profiler", make_profiler)
    return fitted


@pytest.fixture(scope="module")
def coloured():
    """Noisy generated images of three tints and differing sizes, 9 of each."""
    rng = np.random.default_rng(0)
    labels = ["red", "green", "blue"] * 9
    tints = {"red": (150, 100, 100), "green": (100, 150, 100), "blue": (100, 100, 150)}
    images = [
        np.clip(rng.normal(tints[t], 40, (8 + k % 3, 9, 3)), 0, 255).astype(np.uint8)
        for k, t in enumerate(labels)
    ]
    return images, labels


def test_evaluate(profilers, coloured):
    images, labels = coloured
    steps = []
    evaluation = evaluate(
        images,
        labels,
        repeats=3,
        seed=5,
        n_threads=2,
        n_signatures=7,
        progress=lambda done, total: steps.append((done, total)),
    )
    result = evaluation.to_dict()
    assert set(result) == METRIC_KEYS | {
        "signatures", "repeats", "seed", "seeds", "n_images", "n_groups", "n_copies", "baseline",
        "parameters",
    }  # fmt: skip
    assert set(result["baseline"]) == METRIC_KEYS
    assert result["signatures"] == "learnt from the training half of each repeat"
    assert (result["repeats"], result["seed"], result["n_images"]) == (3, 5, 27)
    assert result["parameters"] == {"patch_size": 6, "n_signatures": 7}
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]

    splits = half_half_splits(labels, 3, 5)
    assert result["seeds"] == [seed for _, _, seed in splits]
    for profiler, (train, _, seed) in zip(profilers, splits, strict=True):
        assert profiler.seen == [checksum(images[i]) for i in train]
        assert (profiler.random_state, profiler.n_threads) == (seed, 2)

    values = np.array(StubModel({}).profile(images).values)
    scores = []
    for train, test, seed in splits:
        y = np.array(labels)
        classifier = TypeClassifier(random_state=seed).fit(values[train], y[train])
        scores.append(f1_score(y[test], classifier.predict(values[test]), average="macro"))
    np.testing.assert_allclose(result["runs"], scores)
    assert result["macro_f1"] == pytest.approx(np.mean(scores))
    assert result["macro_f1_std"] == pytest.approx(np.std(scores, ddof=1))

    for score in (result, result["baseline"]):
        assert score["confusion"]["types"] == ["blue", "green", "red"] == list(score["per_type"])
        counts = np.array(score["confusion"]["mean_counts"])
        np.testing.assert_allclose(counts.sum(axis=1), 5)  # of 9, the odd one is for testing
        np.testing.assert_allclose(score["confusion"]["row_normalised"], counts / 5)
        for name, row in score["per_type"].items():
            assert set(row) == {"f1", "f1_std", "sensitivity", "specificity", "n_images"}
            assert row["n_images"] == 9, name
        assert score["sensitivity"] == pytest.approx(np.trace(counts) / 15)
        assert score["specificity"] == pytest.approx(1 - (15 - np.trace(counts)) / 30)
    assert result["macro_f1"] > 0.9


def test_evaluate_is_deterministic(profilers, coloured):
    one = evaluate(*coloured, repeats=2, seed=1)
    assert one.to_dict() == evaluate(*coloured, repeats=2, seed=1).to_dict()
    assert one.seeds != evaluate(*coloured, repeats=2, seed=2).seeds


@pytest.mark.parametrize("wrapped", [False, True])
def test_evaluate_given_model(profilers, coloured, wrapped):
    model = StubModel({"n_signatures": 9})
    given = python_types.SimpleNamespace(model_=model) if wrapped else model
    evaluation = evaluate(*coloured, model=given, repeats=2, baseline=False)
    assert profilers == []
    assert model.n_calls == 1 + 2 * (N_TURNS - 1)  # the images once, training halves turned
    assert evaluation.baseline is None
    assert evaluation.parameters == {"n_signatures": 9}
    assert evaluation.signatures.startswith("given model")
    assert "baseline" not in evaluation.to_text()
    with pytest.raises(ValueError, match="n_signatures, step would have no effect"):
        evaluate(*coloured, model=model, n_signatures=4, step=2)


def test_a_baseline_that_fails_is_a_line(profilers, coloured):
    """Of faint images, all colours fall in one of the histogram's."""
    images, labels = coloured
    faint = [(100 + np.asarray(image) // 16).astype(np.uint8) for image in images]
    evaluation = evaluate(faint, labels, model=StubModel({}), repeats=2)
    assert len(evaluation.runs) == 2
    assert list(evaluation.baseline) == ["failed"]
    (line,) = [one for one in evaluation.to_text().splitlines() if "baseline" in one]
    assert line.startswith("No baseline, colour histogram 8x8x8, square root: ")


def test_one_repeat_has_no_deviation(profilers, coloured):
    evaluation = evaluate(*coloured, repeats=1)
    assert evaluation.macro_f1_std is None
    assert evaluation.per_type["red"]["f1_std"] is None
    assert "\u00b1" not in repr(evaluation)
    assert evaluation.to_dict()["macro_f1_std"] is None
    evaluation.to_text()
    f1_bars(evaluation)


def test_evaluation_as_text_and_json(profilers, coloured, tmp_path):
    evaluation = evaluate(*coloured, repeats=2)
    text = evaluation.to_text()
    assert "27 images of 3 types" in text and "2 repeats, seed 0" in text
    assert "Signatures: learnt from the training half of each repeat" in text
    assert "no patient-wise split is possible" in text
    table = text.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table] == [
        "F1", "blue", "green", "red", "average", "baseline:",
    ]  # fmt: skip
    assert len({len(line) for line in table}) == 1
    assert f"{evaluation.macro_f1:.3f}" in table[4]
    assert f"{evaluation.baseline['macro_f1']:.3f}" in table[5]

    evaluation.parameters = {"pools": ("mean",), "n": np.int64(3), "stack": np.arange(2)}
    evaluation.to_json(tmp_path / "evaluation.json")
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["parameters"] == {"pools": ["mean"], "n": 3, "stack": [0, 1]}
    assert stored["macro_f1"] == evaluation.macro_f1
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation.json"]

    evaluation.macro_f1 = float("nan")
    with pytest.raises(ValueError):
        evaluation.to_json(tmp_path / "evaluation.json")
    assert json.loads((tmp_path / "evaluation.json").read_text()) == stored


def test_evaluate_errors(profilers, coloured):
    images, labels = coloured
    with pytest.raises(ValueError, match=r"Length of labels \(26\) must match .* images \(27\)"):
        evaluate(images, labels[1:])
    with pytest.raises(ValueError, match="a label for each image, got none for 27 of 27"):
        evaluate(images)
    with pytest.raises(ValueError, match="at least two types"):
        evaluate(images, ["red"] * 27)
    with pytest.raises(ValueError, match=r"fewer for white \(3\)"):
        evaluate(images, ["white"] * 3 + ["red"] * 24)
    assert profilers == []


def test_evaluate_leaves_small_types_out(profilers, coloured):
    images, labels = coloured
    with pytest.warns(FewImagesWarning, match=r"types left out of the evaluation.*: white \(3\)"):
        evaluation = evaluate(images, ["white"] * 3 + labels[3:], repeats=1)
    assert "white" not in evaluation.confusion["types"] and evaluation.n_images == 24


def test_evaluate_skips_images_smaller_than_a_patch(profilers, coloured):
    images, labels = coloured
    tiny = np.zeros((5, 9, 3), np.uint8)
    with pytest.warns(ImageWarning, match="1 of 28 images was skipped"):
        evaluation = evaluate([tiny, *images], ["red", *labels], repeats=1)
    assert evaluation.n_images == 27


def test_evaluate_notices_images_that_the_model_left_out(profilers, coloured):
    class Leaky(StubModel):
        def profile(self, images, *, n_threads=None):
            return super().profile(images[1:])

    with pytest.raises(ValueError, match="a profile of each of 27 images, got 26"):
        evaluate(*coloured, model=Leaky({}))


@pytest.mark.skipif(not (PBC / "labels.csv").is_file(), reason=f"no real images at {PBC}")
def test_histogram_baseline_on_real_cells():
    with open(PBC / "labels.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train"]
    by_type = {}
    for row in rows:
        by_type.setdefault(row["label"], []).append(PBC / row["path"])
    paths = [path for of_type in by_type.values() for path in of_type[:30]]
    labels = np.repeat(list(by_type), 30)
    pixels = [cell.pixels for cell in open_images(paths)]
    values = colour_histograms(pixels)
    np.testing.assert_allclose((values**2).sum(axis=1), 1, rtol=1e-5)
    scores = []
    for train, test, seed in half_half_splits(labels, repeats=2):
        classifier = TypeClassifier(random_state=seed).fit(values[train], labels[train])
        scores.append(f1_score(labels[test], classifier.predict(values[test]), average="macro"))
    assert np.mean(scores) > 0.65


def test_images_too_small_for_a_stack_are_left_out_before_learning(cells):
    """They were sized by the first layer alone, and failed in the middle of learning."""
    images = [image[:19, :19] if i == 0 else image for i, image in enumerate(cells.images)]
    with pytest.warns(ImageWarning, match="1 of 48 images was skipped; first: .*smaller"):
        found = evaluate(
            images, list(cells.labels), repeats=1, baseline=False, n_signatures=8, patch_size=8,
            n_patches=600, max_iter=1, stack=[{"n_signatures": 6, "n_patches": 200}],
        )  # fmt: skip
    assert found.n_images == 47


# ---- cost ----


def spread(n, n_features, n_types=3):
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_types
    X = rng.normal(size=(n, n_features)) + 0.7 * rng.normal(size=(n_types, n_features))[y]
    return X.astype(np.float32), y


@pytest.mark.parametrize("with_more", [False, True])
def test_blocks_change_nothing(with_more, monkeypatch):
    X, y = spread(300, 12)
    more = {}
    if with_more:
        measures = np.abs(np.random.default_rng(1).normal(size=(300, len(MEASURES)))) + 1
        more = {"copies": [X + np.float32(0.1)], "measures": measures.astype(np.float32)}
    whole = TypeClassifier().fit(X, y, **more)
    monkeypatch.setattr("wbcprof.analysis.decisions.BLOCK", 12 * 50)
    monkeypatch.setattr("wbcprof.analysis.classify.BLOCK", 12 * 75)
    parts = TypeClassifier().fit(X, y, **more)
    np.testing.assert_allclose(parts.mean_, whole.mean_, rtol=1e-12)
    np.testing.assert_allclose(parts.scale_, whole.scale_, rtol=1e-12)
    np.testing.assert_allclose(parts.coef_, whole.coef_, rtol=1e-4, atol=1e-5)
    assert parts.confusion_.sum() == whole.confusion_.sum() == 300
    assert parts.slope_ == pytest.approx(whole.slope_, rel=1e-3)
    if with_more:
        assert parts.reach_ == pytest.approx(whole.reach_, rel=1e-5)
        np.testing.assert_allclose(parts.memory_.means, whole.memory_.means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", ["discriminant", "rbf"])
def test_types_are_named_a_block_at_a_time(kernel, monkeypatch):
    X, y = spread(300, 12)
    copies = [X + np.float32(0.5)]
    classifier = TypeClassifier(kernel=kernel).fit(X[:200], y[:200], copies=[copies[0][:200]])
    whole = classifier.predict_proba(X)
    monkeypatch.setattr("wbcprof.model.machines.BLOCK", 12 * 50)
    np.testing.assert_allclose(classifier.predict_proba(X), whole, rtol=1e-9)


def test_the_discriminant_holds_no_copy_of_the_profiles(monkeypatch):
    X, y = spread(12_000, 300)
    monkeypatch.setattr("wbcprof.analysis.classify.BLOCK", 300 * 100)
    monkeypatch.setattr("wbcprof.analysis.decisions.BLOCK", 300 * 100)
    monkeypatch.setattr("wbcprof.model.discriminant.N_DIRECTIONS", 5)
    TypeClassifier().fit(X[:50], y[:50])
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    TypeClassifier().fit(X, y)
    most = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert most < X.nbytes  # products of features and their directions


def test_machines_refuse_more_than_they_can_hold(monkeypatch):
    X, y = spread(60, 4)
    monkeypatch.setattr("wbcprof.analysis.classify.MOST_FOR_MACHINES", 100)
    with pytest.raises(ValueError, match="at most 100 profiles, got 120; kernel='discriminant'"):
        TypeClassifier(kernel="rbf").fit(X, y, copies=[X])
    assert TypeClassifier(kernel="rbf").fit(X, y).n_features_in_ == 4
    assert TypeClassifier().fit(X, y, copies=[X]).n_features_in_ == 4


@pytest.mark.parametrize("kernel", ["discriminant", "rbf", "linear"])
def test_too_many_types_are_refused(kernel):
    X, _ = spread(130, 4)
    with pytest.raises(ValueError, match="at most 64 types, got 65; are the labels types"):
        TypeClassifier(kernel=kernel).fit(X, np.arange(130) // 2)


def test_copies_of_another_shape_are_refused():
    X, y = spread(60, 4)
    for copy in (X[1:], X[:, 1:]):
        with pytest.raises(
            ValueError, match=r"copies, jittered or turned, of the shape of the profiles \(60, 4\)"
        ):
            TypeClassifier().fit(X, y, copies=[copy])


def test_copies_are_a_list_of_tables():
    X, y = blobs()
    for copies in (X, iter([X]), 3):
        with pytest.raises(ValueError, match="copies must be a list of tables of profiles"):
            TypeClassifier().fit(X, y, copies=copies)


class OneRow(Scores):
    def _rows(self):
        return [{"type": "a\udcff_b", "f1": 0.5}]

    def to_text(self):
        return ""

    def _draw(self, files):
        pass


def test_names_that_are_no_text_are_written_in_latex():
    pytest.importorskip("jinja2")
    latex = OneRow().to_latex()
    assert r"a\textbackslash udcff\_b & 0.500" in latex


@pytest.mark.parametrize("kernel", ["discriminant", "rbf"])
def test_numbers_too_small_to_hold_are_no_error(kernel):
    X, y = blobs(n_types=4, distance=300)
    with np.errstate(all="raise"):
        classifier = TypeClassifier(kernel=kernel).fit(X, y)
        assert (classifier.predict(X) == y).all()
