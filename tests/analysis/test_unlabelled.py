"""Few labels, and many cells without one."""

import numpy as np
import pytest

import wbcprof
from wbcprof.analysis import unlabelled
from wbcprof.analysis.classify import TypeClassifier
from wbcprof.analysis.unlabelled import name_unlabelled
from wbcprof.datasets import make_leukocytes


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def _clouds(rng, n_labelled=4, n_free=150, n_features=40, apart=0.9):
    """Three types that differ along some of many directions; labels of a few."""
    middles = np.zeros((3, n_features))
    middles[:, :6] = apart * rng.normal(size=(3, 6)) * 2
    truth = np.repeat(np.arange(3), n_labelled + n_free // 3)
    values = middles[truth] + rng.normal(size=(len(truth), n_features))
    labels = np.full(len(truth), None, dtype=object)
    for code in range(3):
        labels[np.flatnonzero(truth == code)[:n_labelled]] = "abc"[code]
    return values, np.array(list("abc"))[truth], labels


def test_more_cells_are_named_rightly_when_those_without_a_label_are_learnt_from(rng):
    values, truth, labels = _clouds(rng)
    named, confusion = name_unlabelled([values], np.arange(len(values)), labels, None, 0)
    known, called = labels != None, named != None  # noqa: E711
    assert called.sum() > 100 and (named[known] == labels[known]).all()
    assert confusion.sum() == known.sum() and confusion.trace() > 8
    alone = TypeClassifier().fit(values[known], labels[known])
    more = TypeClassifier().fit(values[called], named[called], given=known[called])
    right = [(c.predict(values[~known]) == truth[~known]).mean() for c in (alone, more)]
    assert right[1] > right[0] + 0.02
    assert more.n_called_ == called.sum() - known.sum() and alone.n_called_ == 0
    assert more.confusion.sum() == known.sum()


def test_the_same_again(rng):
    values, _, labels = _clouds(rng)
    first, again = (
        name_unlabelled([values], np.arange(len(values)), labels, None, 3)[0] for _ in range(2)
    )
    assert first.tolist() == again.tolist()


def test_of_each_type_the_surest_are_named(rng):
    values, _, labels = _clouds(rng)
    named, _ = name_unlabelled([values], np.arange(len(values)), labels, None, 0)
    free = labels == None  # noqa: E711
    left_out = (named[free] == None).mean()  # noqa: E711
    assert 0.05 < left_out < 0.15


@pytest.mark.parametrize("case", ["few free", "many labels", "one of a type", "noise"])
def test_nothing_is_named_where_it_would_not_help(rng, case):
    values, _, labels = _clouds(rng)
    if case == "few free":
        keep = np.flatnonzero(labels != None)  # noqa: E711
        keep = np.concatenate([keep, np.flatnonzero(labels == None)[: unlabelled.LEAST - 1]])  # noqa: E711
        values, labels = values[keep], labels[keep]
    elif case == "many labels":
        values, truth, _ = _clouds(rng, n_labelled=unlabelled.FEW)
        labels = truth.astype(object)
        labels[np.flatnonzero(truth == "a")[unlabelled.FEW :]] = None
        labels[np.flatnonzero(truth == "b")[unlabelled.FEW :]] = None
    elif case == "one of a type":
        labels[np.flatnonzero(labels == "a")[1:]] = None
    else:  # labels are of well-known cells, all others of none of the types
        known = labels != None  # noqa: E711
        values[known] *= 5
        values[~known] = rng.normal(size=values[~known].shape)
    named, confusion = name_unlabelled([values], np.arange(len(values)), labels, None, 0)
    assert confusion is None and named.tolist() == labels.tolist()


def test_cells_of_a_labelled_group_are_not_named(rng):
    values, _, labels = _clouds(rng)
    free = np.flatnonzero(labels == None)  # noqa: E711
    groups = np.arange(len(labels))
    groups[free[:20]] = groups[np.flatnonzero(labels != None)[0]]  # noqa: E711
    tried = (
        name_unlabelled([values], np.arange(len(values)), labels, groups, seed) for seed in range(8)
    )
    named = next(named for named, confusion in tried if confusion is not None)
    assert (named[free[:20]] == None).all() and (named[free[20:]] != None).any()  # noqa: E711


def test_given_must_fit(rng):
    values, truth, _ = _clouds(rng)
    for given in (np.ones(3, bool), np.ones(len(truth)), np.zeros(len(truth), bool)):
        with pytest.raises(ValueError, match="given must say True or False"):
            TypeClassifier().fit(values, truth, given=given)


@pytest.mark.parametrize("kernel", ["discriminant", "rbf", "linear"])
def test_all_given_is_as_before(rng, kernel):
    values, truth, _ = _clouds(rng, n_free=30)
    one, other = (
        TypeClassifier(kernel=kernel).fit(values, truth, given=given)
        for given in (None, np.ones(len(truth), bool))
    )
    np.testing.assert_array_equal(one.coef_, other.coef_)
    assert one.slope_ == other.slope_ and one.n_called_ == 0


def test_training_learns_from_cells_without_a_label_and_says_so(tmp_path, monkeypatch):
    cells = make_leukocytes(24, size=72, types=["lymphocyte", "neutrophil"], random_state=4)
    model = wbcprof.fit(cells.images[::4], n_signatures=16, n_patches=800, max_iter=1)
    labels = [name if i % 12 == 0 else None for i, name in enumerate(cells.labels)]
    monkeypatch.setattr(unlabelled, "LEAST", 10)
    chosen = []

    def name(tables, places, names, groups, seed):
        named, confusion = name_unlabelled(tables, places, names, groups, seed)
        chosen.append(confusion)
        if confusion is None:  # so easy that few labels do: name them all the same
            named = np.array([n or t for n, t in zip(names, cells.labels, strict=True)], object)
            confusion = np.array([[2, 0], [1, 1]])
        return named, confusion

    monkeypatch.setattr("wbcprof.analysis.classify.name_unlabelled", name)
    model.classifier = wbcprof.train(model, cells.images, labels, augment=1)
    assert len(chosen) == 1 and model.classifier.n_called_ > 10
    assert model.classifier.confusion.sum() == 4
    model.save(tmp_path / "m")
    loaded = wbcprof.load(tmp_path / "m").classifier
    assert loaded.n_called_ == model.classifier.n_called_
    assert "learnt from cells without a label" in " ".join(repr(loaded).split())
    monkeypatch.undo()
    groups = ["one", "two"] * 24  # of patients nothing is known of those without a label
    assert wbcprof.train(model, cells.images, labels, groups=groups, augment=0).n_called_ == 0


def test_a_type_of_one_label_does_not_keep_the_others_from_it(rng):
    values, _, labels = _clouds(rng)
    labels[np.flatnonzero(labels == None)[0]] = "d"  # noqa: E711
    tried = (name_unlabelled([values], np.arange(len(values)), labels, None, s) for s in range(8))
    named = next(named for named, confusion in tried if confusion is not None)
    assert (named == "d").sum() == 1 and (named != None).sum() > 100  # noqa: E711


def test_rows_of_larger_tables(rng):
    values, _, labels = _clouds(rng)
    larger = np.concatenate([np.full((7, values.shape[1]), np.nan), values])
    rows = np.arange(7, len(larger))
    found = name_unlabelled([larger], rows, labels, None, 0)[0]
    expected = name_unlabelled([values], np.arange(len(values)), labels, None, 0)[0]
    assert found.tolist() == expected.tolist()


def test_groups_are_whole_where_some_types_were_called(rng):
    _, truth, _ = _clouds(rng, n_free=30)
    groups = np.arange(len(truth)) // 2
    given = np.arange(len(truth)) % 2 == 0
    classifier = TypeClassifier()
    for train, test in classifier._folds(truth, groups, given, 5):
        assert given[test].all() and not set(groups[train]) & set(groups[test])


def test_every_type_needs_a_cell_that_was_given(rng):
    values, truth, _ = _clouds(rng)
    with pytest.raises(ValueError, match="of each type whose type was given, got none of c"):
        TypeClassifier().fit(values, truth, given=truth != "c")
