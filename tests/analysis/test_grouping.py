"""Groups of like cells, and names that spread from them, on made profiles of three known kinds."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import wbcprof
from wbcprof.analysis import group_profiles, spread_labels
from wbcprof.analysis.grouping import comparable

KINDS = 3


@pytest.fixture(scope="module")
def truth():
    return np.repeat(np.arange(KINDS), [160, 140, 100])


@pytest.fixture(scope="module")
def profiles(truth):
    rng = np.random.default_rng(0)
    values = 30 + rng.normal(0, 1, (len(truth), 30)) + 3 * rng.normal(0, 1, (KINDS, 30))[truth]
    names = [f"Cells_Sqrt_Signature_{n:04}" for n in range(1, 31)]
    return wbcprof.Profiles(np.float32(values), names, [f"{n}.png" for n in range(len(truth))])


@pytest.fixture(scope="module")
def groups(profiles):
    return group_profiles(profiles)


def test_kinds_are_found_and_their_number(groups, truth):
    assert groups.n_groups == KINDS
    assert adjusted_rand_score(truth, groups.group) > 0.97
    assert groups.agreement > 0.95 and (groups.stability > 0.9).all()
    assert groups.places.shape == (400, 20) and groups.places.dtype == np.float32
    np.testing.assert_allclose(groups.places.std(axis=0), 1, rtol=1e-5)


def test_the_same_seed_gives_the_same_groups(profiles, groups):
    again = group_profiles(profiles)
    for name in ("group", "sureness", "distance", "stability", "places"):
        np.testing.assert_array_equal(getattr(again, name), getattr(groups, name))


def test_typical_and_doubtful_cells(groups):
    for group in range(groups.n_groups):
        typical, doubtful = groups.typical(group, 5), groups.doubtful(group, 5)
        assert (groups.group[typical + doubtful] == group).all()
        assert groups.distance[typical[0]] == groups.distance[groups.group == group].min()
        assert groups.sureness[doubtful[0]] == groups.sureness[groups.group == group].min()
        assert (np.diff(groups.distance[typical]) >= 0).all()


def test_a_stray_cell_is_told(profiles):
    values = profiles.values.copy()
    values[7] = 200 * np.where(np.arange(30) % 2, 1, -1)
    strange = wbcprof.Profiles(values, profiles.feature_names, profiles.ids)
    found = group_profiles(strange, n_groups=3).is_stray
    assert found[7] and found.sum() < 10


def test_groups_without_a_cell_are_left_out():
    """Three cells, eight times each, in six groups."""
    values = np.repeat(np.float32([[1, 9, 1], [9, 1, 1], [1, 1, 9]]), 8, axis=0)
    alike = wbcprof.Profiles(values, ["Area", "Lobes", "Light"], [str(n) for n in range(24)])
    groups = group_profiles(alike, n_groups=6)
    assert groups.n_groups == len(groups.stability) == len(np.unique(groups.group)) == 3
    assert groups.group.max() == 2 and groups.stability.min() == 1


def test_many_cells_are_put_into_groups_of_some(profiles, truth, monkeypatch):
    monkeypatch.setattr("wbcprof.analysis.grouping._MOST_LEARNT", 300)
    groups = group_profiles(profiles, n_groups=3)
    assert len(groups.group) == 400 and adjusted_rand_score(truth, groups.group) > 0.95


def test_pools_are_of_one_spread_and_other_tables_standardised():
    values = np.random.default_rng(1).uniform(0, 1, (50, 4)) * [1, 4, 9, 100]
    names = [f"Cells_{pool}_Signature_000{n}" for pool in ("Sqrt", "Max") for n in (1, 2)]
    spread = comparable(values, names).var(axis=0).reshape(2, 2)
    np.testing.assert_allclose(spread.mean(axis=1), 1)
    assert spread[0, 1] > 2 * spread[0, 0]
    other = comparable(values, ["Area", "Granules", "Lobes", "Light"])
    np.testing.assert_allclose(other.var(axis=0), 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v[:9], "expected at least 10 cells to group, got 9"),
        (lambda v: np.ones_like(v), "the 400 profiles are all the same"),
        (lambda v: np.where(v > 32, np.nan, v), "got NaN or infinity"),
    ],
)
def test_what_cannot_be_grouped(profiles, change, said):
    values = change(profiles.values)
    with pytest.raises(ValueError, match=said):
        group_profiles(wbcprof.Profiles(values, profiles.feature_names, ["x"] * len(values)))


def test_more_groups_than_cells(profiles):
    with pytest.raises(ValueError, match="expected at least 401 cells"):
        group_profiles(profiles, n_groups=401)


# ---- names that spread ----


def names_of(groups, truth):
    return {g: f"type {truth[groups.typical(g, 1)[0]]}" for g in range(groups.n_groups)}


def test_names_of_groups_spread_to_all(groups, truth):
    spread = spread_labels(groups, names_of(groups, truth))
    assert spread.types == ["type 0", "type 1", "type 2"]
    assert (spread.calls == [f"type {t}" for t in truth]).mean() > 0.97
    np.testing.assert_allclose(spread.probabilities.sum(axis=1), 1)


def test_single_names_hold_and_teach(groups, truth):
    """One group is named wrongly; a few cells of it put that right."""
    names = names_of(groups, truth)
    wrong = next(g for g in names if names[g] == "type 2")
    names[wrong] = "type 1"
    cells = np.flatnonzero(truth == 2)
    told = spread_labels(groups, names, {int(i): "type 2" for i in cells[:60]})
    assert (told.calls[cells[:60]] == "type 2").all() and told.is_single.sum() == 60
    assert (told.calls[cells] == "type 2").mean() > 0.9


def test_a_group_without_a_name_teaches_nothing(groups, truth):
    names = names_of(groups, truth)
    without = {g: name for g, name in names.items() if name != "type 2"}
    spread = spread_labels(groups, {**without, 0: None} if 0 not in without else without)
    assert spread.types == ["type 0", "type 1"]


def test_unsure_cells_are_asked_next_and_none_twice(groups, truth):
    spread = spread_labels(groups, names_of(groups, truth), {3: "type 0"})
    asked = spread.ask_next(8)
    assert len(set(asked)) == 8 and 3 not in asked
    assert asked[0] == np.where(spread.is_single, 2, spread.sureness).argmin()
    everyone = spread_labels(groups, {}, {i: f"type {t}" for i, t in enumerate(truth)})
    assert everyone.ask_next(5) == []


@pytest.mark.parametrize(
    ("names", "singles", "said"),
    [
        ({0: "a"}, {}, "at least two types, got a;"),
        ({}, {}, "at least two types, got none;"),
        ({0: "a", 3: "b"}, {}, "numbers of a group from 0 to 2, got 3"),
        ({0: "a"}, {400: "b"}, "numbers of a cell from 0 to 399, got 400"),
        ({0: "a"}, {True: "b"}, "numbers of a cell from 0 to 399, got True"),
    ],
)
def test_what_cannot_be_spread(groups, names, singles, said):
    with pytest.raises(ValueError, match=said):
        spread_labels(groups, names, singles)
