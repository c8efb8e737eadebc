"""The discriminant along all directions against what its formulae say, cell by cell."""

import numpy as np
import pytest

from wbcprof.analysis import decisions
from wbcprof.analysis.decisions import AllDirections, Rows
from wbcprof.analysis.folds import stratified_folds


def tables(n, n_features, n_tables, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.r_[0, 1, 2, rng.integers(3, size=n - 3)]
    codes[3:6] = 0, 1, 2
    means = rng.normal(size=(3, n_features))
    return [means[codes] + rng.normal(size=(n, n_features)) for _ in range(n_tables)], codes


def naive(rows, codes, share):
    """Weights and what is added to them for the three types, by all cells at once."""
    means = np.array([rows[codes == k].mean(axis=0) for k in range(3)])
    apart = rows - means[codes]
    within = apart.T @ apart / (len(rows) - 3)
    total = (1 - share) * within + share * np.trace(within) / len(within) * np.eye(len(within))
    weights = np.linalg.solve(total, means.T)
    return weights, -0.5 * np.array([means[k] @ weights[:, k] for k in range(3)])


@pytest.mark.parametrize("n_tables", [1, 3])
@pytest.mark.parametrize(("n", "n_features"), [(40, 7), (19, 131), (64, 64)])
def test_machines_are_the_formula(n, n_features, n_tables, monkeypatch):
    monkeypatch.setattr(decisions, "BLOCK", 5 * n_features)
    given, codes = tables(n, n_features, n_tables)
    mean, scale = np.full(n_features, 0.5), np.linspace(0.5, 2, n_features)
    rows = Rows.of_each(given, np.arange(n)).standardised(mean, scale)
    together = (np.concatenate(given) - mean) / scale
    for share in (0.01, 0.3):
        weights, added = naive(together, np.tile(codes, n_tables), share)
        coef, intercept = AllDirections(rows, codes).machines(share)
        pairs = together @ coef.T + intercept
        scores = together @ weights + added
        for pair, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
            expected = scores[:, i] - scores[:, j]
            np.testing.assert_allclose(pairs[:, pair], expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("n", "n_features"), [(60, 7), (30, 101)])
def test_those_left_out_are_told_by_the_rest(n, n_features):
    """Neither a cell nor a copy of it is learnt from."""
    given, codes = tables(n, n_features, 2)
    folds = stratified_folds(codes, None, 5, 0)
    mean, scale = np.zeros(n_features), np.ones(n_features)
    rows = Rows.of_each(given, np.arange(n)).standardised(mean, scale)
    shares = (0.05, 0.4)
    for share, scores in zip(
        shares, AllDirections(rows, codes).left_out(folds, shares), strict=True
    ):
        for train, test in folds:
            learnt = np.concatenate([table[train] for table in given])
            weights, added = naive(learnt, np.tile(codes[train], 2), share)
            expected = given[0][test] @ weights + added
            expected -= expected[:, :1]
            got = scores[test] - scores[test][:, :1]
            np.testing.assert_allclose(got, expected, atol=2e-4 * np.abs(expected).max())


def test_rows_are_those_asked_for(monkeypatch):
    monkeypatch.setattr(decisions, "BLOCK", 3 * 4)
    given = [np.arange(20.0).reshape(5, 4) + 100 * t for t in range(3)]
    rows = Rows.of_each(given, np.array([4, 0, 2]))
    everything = np.concatenate([table[[4, 0, 2]] for table in given])
    np.testing.assert_array_equal(np.concatenate(list(rows)), everything)
    assert len(rows) == 9 and {len(block) for block in rows} == {3}
    index = np.array([8, 1, 1, 5])
    np.testing.assert_array_equal(np.concatenate(list(rows.at(index))), everything[index])
