"""Types as Gaussians: scikit-learn's discriminants, stored to the bit, and carried elsewhere."""

import json
from itertools import combinations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import log_loss

from wbcprof.analysis.classify import TypeClassifier
from wbcprof.model.discriminant import N_DIRECTIONS, SHRINKAGE, Gaussians, shrink
from wbcprof.model.machines import TypeMachines

N_TYPES, N_FEATURES = 4, 30
CENTRES = 2 * np.random.default_rng(99).normal(size=(N_TYPES, N_FEATURES))


def clouds(n_per_type, seed=0, shift=0.0):
    """Cells of four types around centres that are the same for every seed, (n, 30), and types."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(N_TYPES), n_per_type)
    X = CENTRES[codes] + 1.5 * rng.normal(size=(len(codes), N_FEATURES)) + shift
    return X.astype(np.float32), codes


@pytest.fixture(scope="module")
def gaussians():
    X, codes = clouds(60)
    return Gaussians.learn([X], codes)[0]


@pytest.fixture(scope="module")
def other_laboratory():
    """What all cells of another laboratory are shifted by: most of the way from one type to the
    next, so that its cells are called the next."""
    aside = np.random.default_rng(5).normal(size=N_FEATURES)
    return 0.8 * (CENTRES[1] - CENTRES[0]) + 0.5 * aside


def right(gaussians, X, codes):
    """Of the cells, those whose most likely type is theirs."""
    return (gaussians.likelihoods(gaussians.places(X)).argmax(axis=1) == codes).mean()


# ---- learning ----


@pytest.mark.parametrize("n_per_type", [6, 60])  # fewer cells than features, and more
def test_decisions_are_scikit_learns(n_per_type):
    X, codes = clouds(n_per_type)
    X -= X.mean(axis=0)
    gaussians, places = Gaussians.learn([X[:9], X[9:]], codes)
    np.testing.assert_allclose(places, gaussians.places(X), rtol=1e-12)
    peer = LinearDiscriminantAnalysis(
        "lsqr", shrinkage=SHRINKAGE, priors=np.full(N_TYPES, 1 / N_TYPES)
    ).fit(gaussians.places(X), codes)
    new = clouds(20, seed=1)[0]
    decisions = peer.decision_function(gaussians.places(new))
    n = len(X)  # scikit-learn divides by n, we by the degrees of freedom
    expected = [(decisions[:, i] - decisions[:, j]) for i, j in combinations(range(N_TYPES), 2)]
    expected = np.transpose(expected) * (n - N_TYPES) / n
    weights, intercept = gaussians.machines()
    np.testing.assert_allclose(new @ weights.T + intercept, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(
        gaussians.likelihoods(gaussians.places(new)).argmax(axis=1),
        peer.predict(gaussians.places(new)),
    )


def test_pairs_machines_and_likelihoods_agree(gaussians):
    X = clouds(5, seed=2)[0]
    places = gaussians.places(X)
    weights, intercept = gaussians.pairs()
    decisions = places @ weights.T + intercept
    weights, intercept = gaussians.machines()
    np.testing.assert_allclose(X @ weights.T + intercept, decisions, atol=1e-5)
    p = gaussians.likelihoods(places)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    for column, (i, j) in enumerate(combinations(range(N_TYPES), 2)):
        odds = np.log(np.maximum(p[:, i], 1e-300) / np.maximum(p[:, j], 1e-300))
        seen = (p[:, [i, j]] > 1e-200).all(axis=1)
        np.testing.assert_allclose(decisions[seen, column], odds[seen], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n_per_type", [6, 60])
def test_the_basis_is_of_most_variance(n_per_type):
    X, codes = clouds(n_per_type)
    X -= X.mean(axis=0)
    basis = Gaussians.learn([X], codes)[0].basis
    n = min(N_DIRECTIONS, len(X) - N_TYPES, N_FEATURES)
    assert basis.shape == (n, N_FEATURES) and basis.dtype == np.float32
    np.testing.assert_allclose(basis @ basis.T, np.eye(n), atol=1e-5)
    largest = np.linalg.svd(X.astype(np.float64), compute_uv=False)[:n]
    np.testing.assert_allclose(np.linalg.norm(X @ basis.T, axis=0), largest, rtol=1e-4)
    assert (np.take_along_axis(basis, np.abs(basis).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_shrinking_keeps_the_mean_variance():
    covariance = np.diag([4.0, 1.0, 1.0])
    np.testing.assert_allclose(shrink(covariance, 0.5), np.diag([3.0, 1.5, 1.5]))
    np.testing.assert_allclose(shrink(covariance, 0.0), covariance)
    assert np.linalg.eigvalsh(shrink(np.zeros((2, 2)), 0.1)).min() > 0


# ---- as a classifier ----


def named(codes):
    return np.array(["type_a", "type_b", "type_c", "type_d"])[codes]


@pytest.fixture(scope="module")
def classifier():
    X, codes = clouds(60)
    return TypeClassifier().fit(X, named(codes))


def test_it_is_the_default_and_has_no_C(classifier):
    assert classifier.kernel == "discriminant" and classifier.gaussians_ is not None
    assert classifier.C_ == 1 and classifier.gamma_ == 0 and len(classifier.support_vectors_) == 0
    X, codes = clouds(30, seed=3)
    assert (classifier.predict(X) == named(codes)).all()
    assert TypeClassifier(kernel="linear").fit(*clouds(10)).gaussians_ is None


def test_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], 600)
    X = 0.4 * np.eye(3, 20)[codes] + rng.normal(size=(1800, 20)) @ rng.normal(size=(20, 20)) / 4
    train = np.arange(len(X)) % 6 == 0
    few = TypeClassifier().fit(X[train], codes[train])
    p = few.predict_proba(X[~train])
    hit = few.predict(X[~train]) == codes[~train]
    assert few.calibrated_ and 0.5 < hit.mean() < 0.97
    assert abs(p.max(axis=1).mean() - hit.mean()) < 0.06
    assert log_loss(codes[~train], p) < 0.9 * np.log(3)


def test_the_least_spread_is_that_of_features_that_vary():
    """Constant features, whose scale is 1, once gave the median where they were most."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1], 30)
    X = np.zeros((60, 9))
    X[:, :3] = 1e-3 * (rng.normal(size=(60, 3)) + 3 * codes[:, None])
    X[:, 3] = 1e-6 * rng.normal(size=60)
    classifier = TypeClassifier().fit(X, codes)
    np.testing.assert_allclose(classifier.scale_[:3], X[:, :3].std(axis=0), rtol=1e-6)
    assert classifier.scale_[3] == pytest.approx(0.1 * np.median(X[:, :4].std(axis=0)))
    assert (classifier.scale_[4:] == 1).all()


def test_stored_and_read_it_decides_by_the_same_bits(classifier):
    X = clouds(10, seed=4)[0]
    arrays, document = classifier.to_arrays()
    stored = {k: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for k, a in arrays.items()}
    again = TypeMachines.from_arrays(stored, json.loads(json.dumps(document)))
    np.testing.assert_array_equal(again.decision_function(X), classifier.decision_function(X))
    for name in ("basis", "means", "covariance"):
        np.testing.assert_array_equal(
            getattr(again.gaussians_, name), getattr(classifier.gaussians_, name)
        )
    relearnt = again.unadapted()
    np.testing.assert_array_equal(relearnt.coef_, classifier.coef_)
    np.testing.assert_array_equal(relearnt.intercept_, classifier.intercept_)


def test_adapted_machines_keep_what_was_learnt(classifier, other_laboratory):
    before = classifier.coef_.copy(), classifier.intercept_.copy()
    X, _ = clouds(20, seed=5, shift=other_laboratory)
    other, apart = classifier.adapted(X, np.full(len(X), -1))
    assert apart > 1
    assert np.abs(other.intercept_ - before[1]).max() > 0.1
    assert other.gaussians_ is classifier.gaussians_
    np.testing.assert_array_equal(classifier.coef_, before[0])
    back = other.unadapted()
    np.testing.assert_array_equal(back.coef_, before[0])
    np.testing.assert_array_equal(back.intercept_, before[1])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("basis", None, "basis must be float32"),
        ("means", None, "means must be float64"),
        ("covariance", None, "covariance must be float64"),
        ("basis", np.zeros((3, 7), np.float32), "basis must be float32 of shape"),
        ("basis", np.float32(1), "basis must be float32 of shape"),
        ("means", np.zeros((4, 3)), "means must be float64 of shape"),
        ("covariance", np.full((30, 30), np.nan), "covariance holds NaN"),
        ("covariance", np.zeros((30, 30)), "covariance is not positive definite"),
    ],
)
def test_damaged_arrays_are_named(classifier, name, value, message):
    arrays, document = classifier.to_arrays()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    with pytest.raises(ValueError, match=message):
        TypeMachines.from_arrays(arrays, document)


# ---- another laboratory ----


def test_the_sources_own_cells_change_next_to_nothing(gaussians):
    X, codes = clouds(60, seed=6)
    places = gaussians.places(X)
    before = gaussians.likelihoods(places)
    for known in (None, np.full(len(X), -1), codes):
        adapted, shift = gaussians.adapted(places, known)
        assert gaussians.distance(shift) < 1
        assert np.abs(adapted.likelihoods(places) - before).max() < 0.05
        assert (adapted.likelihoods(places).argmax(axis=1) == before.argmax(axis=1)).all()


def test_a_shifted_laboratory_is_brought_back_without_labels(gaussians, other_laboratory):
    X, codes = clouds(50, seed=7, shift=other_laboratory)
    assert right(gaussians, X, codes) < 0.8
    adapted, shift = gaussians.adapted(gaussians.places(X), None)
    assert right(adapted, X, codes) > 0.99
    true = gaussians.places(other_laboratory[None])[0]
    assert gaussians.distance(shift - true) < 0.25 * gaussians.distance(true)
    assert adapted.covariance is gaussians.covariance and adapted.basis is gaussians.basis


def test_an_unequal_mix_does_not_pull_types_across(gaussians, other_laboratory):
    """The mean of a laboratory that has nearly one type alone is that of the type, not its own."""
    X, codes = clouds(200, seed=8, shift=0.3 * other_laboratory)
    share = np.array([0.94, 0.02, 0.02, 0.02])
    kept = np.concatenate(
        [np.flatnonzero(codes == k)[: int(200 * share[k])] for k in range(N_TYPES)]
    )
    adapted, shift = gaussians.adapted(gaussians.places(X[kept]), None)
    assert right(adapted, X, codes) > 0.99
    naive = gaussians.places(X[kept]).mean(axis=0) - gaussians.means.mean(axis=0)
    true = gaussians.places(0.3 * other_laboratory[None])[0]
    assert gaussians.distance(shift - true) < 0.5 * gaussians.distance(naive - true)


def test_one_cell_and_cells_of_one_type(gaussians):
    X, codes = clouds(30, seed=9)
    for first in (X[:1], X[:30]):
        places = gaussians.places(first)
        for known in (None, codes[: len(first)]):
            adapted, shift = gaussians.adapted(places, known)
            assert np.isfinite(adapted.means).all() and np.isfinite(shift).all()
            assert np.linalg.eigvalsh(adapted.covariance).min() > 0
            assert right(adapted, X, codes) > 0.95


def test_labels_correct_single_types(gaussians, other_laboratory):
    """Where one type looks otherwise than the shift of all says, its labels say so."""
    X, codes = clouds(60, seed=10, shift=0.5 * other_laboratory)
    X[codes == 2] += (0.7 * (CENTRES[3] - CENTRES[2])).astype(np.float32)
    places = gaussians.places(X)
    known = np.full(len(X), -1)
    for code in range(N_TYPES):
        known[np.flatnonzero(codes == code)[:10]] = code
    unlabelled, shift = gaussians.adapted(places, np.full(len(X), -1))
    labelled, _ = gaussians.adapted(places, known)
    true = places[codes == 2].mean(axis=0)
    off = [gaussians.distance(one.means[2] - true) for one in (unlabelled, labelled)]
    assert off[1] < 0.5 * off[0]
    wrong = [1 - right(one, X, codes) for one in (unlabelled, labelled)]
    assert wrong[0] > 0.1 and wrong[1] < 0.5 * wrong[0]
    with_none, _ = gaussians.adapted(places, np.where(known == 3, -1, known))
    np.testing.assert_allclose(with_none.means[3], gaussians.means[3] + shift)


def test_adapting_is_deterministic(gaussians, other_laboratory):
    X, codes = clouds(20, seed=12, shift=other_laboratory)
    one, other = (gaussians.adapted(gaussians.places(X), codes) for _ in range(2))
    np.testing.assert_array_equal(one[0].means, other[0].means)
    np.testing.assert_array_equal(one[0].covariance, other[0].covariance)
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("codes", [None, np.r_[0, np.full(39, -1)]], ids=["no labels", "labels"])
@pytest.mark.parametrize("with_copies", [False, True])
def test_adapted_machines_come_back_from_arrays_and_are_undone_to_the_bit(with_copies, codes):
    X, y = clouds(10)
    elsewhere = X + 4  # beyond reach
    learnt = TypeClassifier().fit(X, y, None, [X + 0.3] if with_copies else [])
    there, _ = learnt.adapted(elsewhere, codes)
    again = TypeMachines.from_arrays(*there.to_arrays())
    before, after = (machines.decision_function(elsewhere) for machines in (learnt, there))
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(again.decision_function(elsewhere), after)
    for machines in (there, again):
        undone = machines.unadapted()
        np.testing.assert_array_equal(undone.decision_function(elsewhere), before)
