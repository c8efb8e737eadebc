"""What is strange: p-values hold whatever the cells are, and each measure against its type."""

from dataclasses import replace

import numpy as np
import pytest

import wbcprof
from wbcprof.analysis.classify import TypeClassifier
from wbcprof.model import memory as module
from wbcprof.model.machines import TypeMachines
from wbcprof.model.memory import N_QUANTILES, Memory, between_types, p_values, quantiles_of
from wbcprof.smear import MEASURES

SIZE, FOCUS = MEASURES.index("NucleusSize"), MEASURES.index("Focus")


def world(n, seed, shift=0.0, strange=0):
    """Profiles, types and measures of cells of three types; the last `strange` lie aside."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    centres = np.random.default_rng(99).normal(size=(3, 30)) * 3
    X = centres[y] + rng.standard_t(5, size=(n, 30)) + shift
    measures = np.exp(rng.normal(size=(n, len(MEASURES))) * 0.1 + y[:, None] * 0.3)
    if strange:
        X[-strange:] += 15 * np.random.default_rng(98).normal(size=30)
    return X, np.array(["a", "b", "c"])[y], measures.astype(np.float32)


@pytest.fixture(scope="module")
def machines():
    X, y, measures = world(900, 0)
    return TypeClassifier().fit(X, y, measures=measures)


def test_p_values_are_shares_of_those_left_out():
    left_out = np.array([1.0, 2.0, 2.0, 3.0])
    new = np.array([0.0, 1.0, 2.0, 2.5, 3.0, 9.0])
    np.testing.assert_allclose(p_values(left_out, new), [1, 1, 4 / 5, 2 / 5, 2 / 5, 1 / 5])


@pytest.mark.parametrize("rate", [0.1, 0.05, 0.01])
def test_false_alarms_are_as_many_as_stated(machines, rate):
    """Within four standard errors of the rate, of new cells and of those it is told by."""
    X, y, measures = world(6000, 1)
    strange = machines.strangeness(X, measures).p <= rate
    for rows in (slice(None), *(y == name for name in "abc")):
        n = len(y[rows])
        error = np.sqrt(rate * (1 - rate) * (1 / n + 3 * len(y) / n / 900 / 3))
        assert abs(strange[rows].mean() - rate) < 4 * error


def test_strange_cells_are_strange_and_ranked(machines):
    X, _, measures = world(300, 2, strange=30)
    found = machines.strangeness(X, measures)
    assert (found.p[-30:] <= 0.01).all()
    assert (np.argsort(-found.score)[:30] >= 270).sum() >= 28
    assert (found.p_far[-30:] <= 0.01).all()


def test_a_strange_measure_is_enough(machines):
    X, _, measures = world(300, 3)
    measures[0, SIZE] *= 20
    assert machines.strangeness(X, measures).p[0] <= 0.01


def test_a_cell_between_two_types_is_strange_by_that(machines):
    X, y, measures = world(300, 4)
    means = [X[y == name].mean(axis=0) for name in "ab"]
    found = machines.strangeness(np.mean(means, axis=0)[None], measures[:1])
    assert found.p_between[0] < 0.02


def test_what_was_not_measured_is_not_known(machines):
    X, _, measures = world(4, 5)
    measures[1, FOCUS] = np.nan
    found = machines.strangeness(X, measures)
    assert np.isnan(found.p).tolist() == [False, True, False, False]
    assert np.isnan(found.score).tolist() == [False, True, False, False]


def test_the_same_alone_and_together(machines):
    X, _, measures = world(20, 6)
    together = machines.strangeness(X, measures)
    alone = [machines.strangeness(X[i : i + 1], measures[i : i + 1]).score[0] for i in range(20)]
    np.testing.assert_allclose(alone, together.score, rtol=1e-9)


def test_in_another_laboratory_p_values_are_told_by_its_cells(machines):
    """There all are strange, until the model is adapted: then as many as stated."""
    X, _, measures = world(400, 7, shift=4.0)
    measures[:, FOCUS] *= 5
    assert (machines.strangeness(X, measures).p <= 0.01).mean() > 0.95
    there, _ = machines.adapted(X[:200], None, measures[:200])
    new = there.strangeness(X[200:], measures[200:]).p
    assert 0.02 < (new <= 0.1).mean() < 0.2
    aside = X[200:210] + 9 * np.random.default_rng(98).normal(size=30)
    assert (there.strangeness(aside, measures[200:210]).p <= 0.02).all()
    back = there.unadapted()
    assert back.memory_ is machines.memory_ and back.learnt_memory_ is None
    again, _ = there.adapted(X[:200], None, measures[:200])
    np.testing.assert_array_equal(again.memory_.left_out, there.memory_.left_out)


@pytest.mark.parametrize("n", [1, 19])
def test_too_few_cells_of_another_laboratory(machines, n):
    X, _, measures = world(n, 8, shift=4.0)
    there, _ = machines.adapted(X, None, measures)
    assert there.memory_ is None
    with pytest.raises(ValueError, match="cannot be known: the model has no memory"):
        there.strangeness(X, measures)


def test_without_measures_it_cannot_be_known(machines):
    X, y, _ = world(60, 9)
    with pytest.raises(ValueError, match="profiles come without measures"):
        machines.strangeness(X, None)
    for shape in ((2, len(MEASURES)), (60, 3), (60,)):
        wrong = np.ones(shape, np.float32)
        for use in (
            lambda wrong: machines.strangeness(X, wrong),
            lambda wrong: machines.adapted(X, None, wrong),
            lambda wrong: TypeClassifier().fit(X, y, measures=wrong),
        ):
            with pytest.raises(ValueError, match=r"measures must have shape \(60, 13\), a row for"):
                use(wrong)
    assert TypeClassifier().fit(X, y).memory_ is None
    rbf = TypeClassifier(kernel="rbf").fit(X, y, measures=world(60, 9)[2])
    assert rbf.memory_ is None


def test_a_measure_that_no_image_shows(machines):
    X, y, measures = world(60, 10)
    measures[:, FOCUS] = np.nan
    assert TypeClassifier().fit(X, y, measures=measures).memory_ is None


def test_ranks_are_uniform_within_every_type_whatever_the_mix():
    rng = np.random.default_rng(0)
    known = rng.normal(size=(3000, len(MEASURES))) + (np.arange(3000) % 3)[:, None]
    known = np.round(known, 1).astype(np.float32)  # many are the same
    quantiles, n = quantiles_of(known, np.arange(3000) % 3, 3)
    empty = np.zeros((3, 2))
    memory = Memory(empty, empty, empty, empty, empty, quantiles, n)
    new = np.round(rng.normal(size=(500, len(MEASURES))) + 2, 1).astype(np.float32)
    ranks = memory.ranks(new, np.full(500, 2))
    assert np.abs(np.sort(ranks, axis=0) - np.linspace(0, 1, 500)[:, None]).max() < 0.1
    new[3, 5] = np.nan
    assert np.isnan(memory.ranks(new, np.full(500, 2))).sum() == 1


def test_types_of_few_cells_take_the_measures_of_all():
    measures = np.random.default_rng(0).random((50, len(MEASURES))).astype(np.float32)
    quantiles, n = quantiles_of(measures, np.r_[np.zeros(47, int), 1, 1, 1], 3)
    np.testing.assert_array_equal(quantiles[1], quantiles[2])
    assert (n == 50).all() and (quantiles[0] != quantiles[1]).any()


def test_between_types_is_the_runner_up_less_the_first():
    np.testing.assert_allclose(between_types(np.array([[0.0, -3.0, -1.0], [2, 2, 0]])), [-1, 0])


def test_stored_and_read_again(machines):
    X, _, measures = world(100, 11)
    there, _ = machines.adapted(X, None, measures)
    for before in (machines, there):
        after = TypeMachines.from_arrays(*before.to_arrays())
        found, expected = (m.strangeness(X, measures) for m in (after, before))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    after = TypeMachines.from_arrays(*there.to_arrays()).unadapted()
    np.testing.assert_array_equal(after.memory_.left_out, machines.memory_.left_out)


FALLING = -np.indices((3, N_QUANTILES, len(MEASURES)), np.float32)[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("means", np.zeros((2, 25)), "means must be"),
        ("ranges", np.zeros((2, 3)), "spreads of the memory"),
        ("left_out", np.full((3, 5), np.nan, np.float32), "NaN"),
        ("left_out", np.float32([[2, 1]] * 3), "not in order"),
        ("left_out", np.float32(1), "left_out must be"),
        ("left_out", np.zeros((3, 0), np.float32), "of no cells"),
        ("means", np.float64(1), "means must be"),
        ("quantiles", np.zeros((3, 5, 2), np.float32), "quantiles"),
        ("quantiles", FALLING, "quantiles of the measures are infinite or not in order"),
        ("quantiles", np.full_like(FALLING, np.inf), "quantiles of the measures are infinite"),
        ("known", None, "known must be"),
        ("known", np.full(len(MEASURES), -1e-30), "numbers of images of the memory are negative"),
    ],
)
def test_a_damaged_memory_is_refused(machines, name, value, message):
    arrays, document = machines.to_arrays()
    arrays = {**arrays, f"memory.{name}": value}
    if value is None:
        del arrays[f"memory.{name}"]
    with pytest.raises(ValueError, match=message):
        TypeMachines.from_arrays(arrays, document)


def test_many_cells_left_out_are_thinned(monkeypatch):
    """A twentieth of them tells nearly the same."""
    X, y, measures = world(1000, 12)
    new = world(2000, 13)[::2]
    every = TypeClassifier().fit(X, y, measures=measures).strangeness(*new).p
    monkeypatch.setattr(module, "_MOST_KEPT", 50)
    learnt = TypeClassifier().fit(X, y, measures=measures)
    assert learnt.memory_.n_cells == 50
    few = learnt.strangeness(*new).p
    assert np.corrcoef(few, every)[0, 1] > 0.99
    assert abs((few <= 0.1).mean() - (every <= 0.1).mean()) < 0.04


def test_profiles_carry_measures_through_tables_and_choices(cells, tmp_path):
    model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
    profiles = model.profile(cells.images[:5])
    assert profiles.measures.shape == (5, len(MEASURES)) and profiles.measures.dtype == np.float32
    profiles.measures[2, FOCUS] = np.nan
    for suffix in (".csv", ".parquet", ".h5ad"):
        profiles.save(tmp_path / f"t{suffix}")
        again = wbcprof.Profiles.load(tmp_path / f"t{suffix}")
        np.testing.assert_array_equal(again.measures, profiles.measures)
        assert again.feature_names == profiles.feature_names
    chosen = profiles.at([3, 1])
    np.testing.assert_array_equal(chosen.measures, profiles.measures[[3, 1]])
    assert chosen.ids == [profiles.ids[3], profiles.ids[1]]
    bare = replace(profiles, measures=None)
    bare.save(tmp_path / "bare.csv")
    assert wbcprof.Profiles.load(tmp_path / "bare.csv").measures is None
    with pytest.raises(ValueError, match="expected measures of shape"):
        replace(profiles, measures=profiles.measures[:2]).save(tmp_path / "bad.csv")


@pytest.mark.parametrize("normalise", [None, "background"])
def test_measures_do_not_depend_on_how_images_are_made(cells, normalise):
    """They are those of the image as it is given."""
    models = [
        wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1, normalise=how)
        for how in (normalise, "canonical")
    ]
    found, expected = (model.profile(cells.images[:6]).measures for model in models)
    np.testing.assert_allclose(found, expected, rtol=0.15, atol=0.05)
