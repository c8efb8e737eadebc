"""Types learnt from images and their jittered copies, alone and in the protocol."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import wbcprof
from wbcprof.analysis import classify
from wbcprof.analysis.classify import FewImagesWarning, TypeClassifier, labels_with_copies
from wbcprof.analysis.evaluation import evaluate
from wbcprof.images.copies import DuplicateWarning
from wbcprof.images.source import ImageWarning
from wbcprof.smear.jitter import N_TURNS, jitter, turned

SMALL = {"n_signatures": 8, "n_patches": 600, "max_iter": 1}


@pytest.fixture(scope="module")
def learnt(cells):
    return wbcprof.fit(cells.images, augment=2, **SMALL)


@pytest.fixture
def fitted(monkeypatch):
    """What classifiers learn from, copies among the rest: profiles, types, groups."""
    learnt, given = [], []
    learn, fit = TypeClassifier._learn, TypeClassifier.fit

    def keep(self, profiles, y, groups, given):
        learnt.append((np.concatenate(list(profiles)), y, groups))
        return learn(self, profiles, y, groups, given)

    def keep_last(self, *arguments):
        fit(self, *arguments)
        given.append(learnt[-1])
        return self

    monkeypatch.setattr(TypeClassifier, "_learn", keep)
    monkeypatch.setattr(TypeClassifier, "fit", keep_last)
    return given


def test_without_copies_it_is_a_plain_fit(learnt, cells):
    trained = wbcprof.train(learnt, cells.images, cells.labels, augment=0, random_state=3)
    turns = [learnt.profile([turned(i, k) for i in cells.images]) for k in range(1, N_TURNS)]
    plain = TypeClassifier(random_state=3).fit(
        learnt.profile(cells.images), cells.labels, turned=turns
    )
    assert trained.get_params() == plain.get_params()
    np.testing.assert_array_equal(trained.coef_, plain.coef_)
    assert trained.slope_ == plain.slope_
    assert learnt.classifier is None


def test_copies_are_those_of_jitter_and_never_parted(learnt, cells, fitted):
    images, labels = cells.images[::3], cells.labels[::3]
    wbcprof.train(learnt, images, labels, random_state=5)
    values, types, groups = fitted[0]
    n = len(images)
    assert len(values) == 3 * n  # as many copies as the signatures were learnt with
    np.testing.assert_array_equal(values[:n], learnt.profile(images))
    for copy in (1, 2):
        jittered = [jitter(image, 5, copy) for image in images]
        np.testing.assert_array_equal(values[copy * n : (copy + 1) * n], learnt.profile(jittered))
    assert types.tolist() == list(labels) * 3
    assert groups.tolist() == list(range(n)) * 3


def test_groups_in_order_or_by_id_reach_the_classifier(learnt, cells, fitted):
    images, labels = cells.images[::3], list(cells.labels[::3])
    groups = [f"patient {i % 5}" for i in range(len(images))]  # two or three of each type
    by_id = {f"image_{i:06d}": group for i, group in enumerate(groups)}
    for given in (groups, by_id):
        wbcprof.train(learnt, images, labels, groups=given, augment=1)
        assert fitted.pop()[2].tolist() == groups * 2
    labels[1] = None
    wbcprof.train(learnt, images, labels, groups=groups, augment=1)
    assert fitted.pop()[2].tolist() == [groups[0], *groups[2:]] * 2
    with pytest.raises(ValueError, match="Length of groups"):
        wbcprof.train(learnt, images, labels, groups=groups[1:])
    del by_id["image_000003"]
    with pytest.raises(ValueError, match="no group for 1 of 15 images, first 'image_000003'"):
        wbcprof.train(learnt, images, labels, groups=by_id)


def test_an_iterator_with_an_image_that_is_skipped(learnt, cells, fitted):
    images, labels = [np.zeros((5, 5, 3), np.uint8), *cells.images[::3]], ["x", *cells.labels[::3]]
    groups = [i % 4 for i in range(len(images))]
    for given in (images, iter(images)):
        with pytest.warns(ImageWarning, match="1 of 17 images was skipped"):
            wbcprof.train(learnt, given, labels, groups=groups, augment=1)
    (values, types, found), (others, other_types, other_found) = fitted
    np.testing.assert_array_equal(values, others)
    assert types.tolist() == other_types.tolist() == labels[1:] * 2
    assert found.tolist() == other_found.tolist() == groups[1:] * 2


def test_images_without_labels_are_left_out(learnt, cells, fitted):
    labels = [label if i % 2 else None for i, label in enumerate(cells.labels)]
    trained = wbcprof.train(learnt, cells.images, labels, augment=1)
    values, types, _ = fitted[0]
    assert types.tolist() == [label for label in labels if label] * 2 and len(values) == len(types)
    assert trained.classes_.tolist() == sorted(set(cells.labels))
    with pytest.raises(ValueError, match="from images with labels, and none has one"):
        wbcprof.train(learnt, cells.images)
    with pytest.raises(ValueError, match="augment must be an integer of at least 0"):
        wbcprof.train(learnt, cells.images, cells.labels, augment=-1)


def test_one_image_and_its_copies_do_not_calibrate(learnt, cells):
    few = [0, 8, 9, 10]
    with pytest.warns(FewImagesWarning, match="probabilities are not calibrated"):
        trained = wbcprof.train(learnt, cells.images[few], cells.labels[few], augment=2)
    assert not trained.calibrated_


def test_training_is_deterministic(learnt, cells):
    images, labels = cells.images[::3], cells.labels[::3]
    one, other = (wbcprof.train(learnt, images, labels, n_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.coef_, other.coef_)
    assert one.slope_ == other.slope_


def test_copies_too_small_for_the_layers_are_not_taken(cells):
    """Half as large, these are less than what a third layer reads."""
    stack = [{"n_signatures": 6, "n_patches": 200}] * 2
    settings = {"patch_size": 8, "normalise": None, "augment": 1, "stack": stack, **SMALL}
    images = cells.images[:, 6:66, 6:66]
    model = wbcprof.fit(images, **settings)
    assert 32 < model.min_size <= 60
    trained = wbcprof.train(model, images, cells.labels)
    assert np.isfinite(trained.coef_).all()


def test_labels_of_copies_are_those_of_their_images():
    labels = np.array(["a", "b", "a"])
    types, groups = labels_with_copies(labels, None, 0)
    assert types.tolist() == labels.tolist() and groups is None
    types, groups = labels_with_copies(labels, np.array([4, 4, 5]), 1)
    assert types.tolist() == labels.tolist() * 2 and groups.tolist() == [4, 4, 5] * 2
    assert labels_with_copies(labels, None, 1)[1].tolist() == [0, 1, 2] * 2


def test_the_protocol_learns_types_from_copies_of_the_training_half(cells, monkeypatch):
    rounds = []
    copies = classify.profiles_of_copies

    def keep(*arguments):
        turns, jittered = copies(*arguments)
        assert [len(values) for values in turns] == [24] * (N_TURNS - 1)
        rounds.append([len(values) for values in jittered])
        return turns, jittered

    monkeypatch.setattr("wbcprof.analysis.evaluation.profiles_of_copies", keep)
    images, labels = cells.images, cells.labels
    options = {"repeats": 2, "baseline": False, **SMALL}
    copied = evaluate(images, labels, augment=2, **options)
    assert rounds == [[24, 24]] * 2 and copied.parameters["augment"] == 2
    assert copied.to_dict() == evaluate(images, labels, augment=2, **options).to_dict()
    rounds.clear()
    plain = evaluate(images, labels, augment=0, **options)
    assert rounds == [[]] * 2 and plain.runs != copied.runs
    rounds.clear()
    model = wbcprof.fit(images, augment=1, **SMALL)
    evaluate(images, labels, model=model, repeats=1, baseline=False)
    assert rounds == [[24]]


@pytest.mark.parametrize(
    "kind", ["column", "bytes", "booleans", "list of booleans", "categories", "nullable"]
)
def test_types_of_any_kind_are_text_that_a_file_gives_back(model, cells, kind, tmp_path):
    pd = pytest.importorskip("pandas")
    y = np.array(cells.labels)
    is_first = y == y[0]
    given = {
        "column": y.reshape(-1, 1), "bytes": y.astype("S"), "booleans": is_first,
        "list of booleans": is_first.tolist(), "categories": pd.Series(y, dtype="category"),
        "nullable": pd.Series(is_first, dtype="boolean"),
    }[kind]  # fmt: skip
    profiles = model.profile(cells.images)
    classifier = wbcprof.TypeClassifier().fit(profiles, given)
    names = {str(name) for name in classifier.classes_}
    assert names in ({"True", "False"}, set(cells.labels)) and classifier.classes_.dtype.kind == "U"
    with_types = replace(model, classifier=classifier)
    with_types.save(tmp_path / "m")
    assert wbcprof.load(tmp_path / "m").classifier.classes_.tolist() == sorted(names)


def test_near_identical_images_are_never_parted(learnt, cells, fitted):
    images = list(cells.images[::3])
    n = len(images)
    images += [images[3][:, ::-1], images[0][::-1]]
    labels = [*cells.labels[::3], cells.labels[9], cells.labels[0]]
    with pytest.warns(DuplicateWarning, match=f"2 of {n + 2} images are near-identical"):
        wbcprof.train(learnt, images, labels, augment=1)
    groups = fitted[0][2].tolist()
    assert groups[n : n + 2] == [groups[3], groups[0]]
    assert len(set(groups)) == n and groups[: n + 2] == groups[n + 2 :]


def test_the_global_random_state_is_left_alone(learnt, cells):
    profiles = learnt.profile(cells.images)
    for kernel in ("discriminant", "rbf", "linear"):
        np.random.seed(0)  # noqa: NPY002  (what other code may draw from)
        TypeClassifier(kernel=kernel).fit(profiles, cells.labels)
        place = np.random.get_state()[2]  # noqa: NPY002
        assert place == 624  # nothing drawn since the seed


@pytest.mark.parametrize("stored", [False, True])
def test_features_in_another_order_are_refused(learnt, cells, tmp_path, stored):
    profiles = learnt.profile(cells.images)
    model = replace(learnt, classifier=TypeClassifier().fit(profiles, cells.labels))
    if stored:
        model.save(tmp_path / "m.wbcprof")
        model = wbcprof.load(tmp_path / "m.wbcprof")
    machines = model.classifier
    machines.predict(profiles)
    other = np.arange(len(profiles.feature_names))[::-1]
    turned = replace(
        profiles,
        values=profiles.values[:, other],
        feature_names=[profiles.feature_names[i] for i in other],
    )
    for use in (
        machines.predict,
        machines.predict_proba,
        machines.is_far,
        lambda p: wbcprof.compare.explain_calls(machines, p),
        machines.predict_proba,
    ):
        with pytest.raises(ValueError, match="must be those learnt from, in their order"):
            use(turned)
    with pytest.raises(ValueError, match="features of profiles in the order of this model's"):
        model.adapted_to(turned, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rough = learnt.profile(cells.images, tolerance=0.5)
    with pytest.raises(ValueError, match=r"with a tolerance of 0\.5, and at most 0\.01"):
        machines.predict(rough)
    coded = learnt.profile(cells.images, step=7)
    with pytest.raises(ValueError, match="coded otherwise than those learnt from: step 7"):
        machines.predict(coded)


def test_columns_of_a_table_in_another_order_are_refused(learnt, cells):
    pandas = pytest.importorskip("pandas")
    profiles = learnt.profile(cells.images)
    table = pandas.DataFrame(profiles.values, columns=profiles.feature_names)
    machines = TypeClassifier().fit(table, cells.labels)
    assert machines.feature_names_in_.tolist() == profiles.feature_names
    np.testing.assert_array_equal(machines.predict(table), machines.predict(profiles))
    with pytest.raises(ValueError, match="in the order of feature_names_in_"):
        machines.predict(table[table.columns[::-1]])


def test_lists_of_numbers_keep_types_apart(learnt, cells):
    profiles = learnt.profile(cells.images)
    for labels in ([2**53, 2**53 + 1, 1.5], [True, 1, 2]):
        given = (labels * len(profiles))[: len(profiles)]
        machines = TypeClassifier().fit(profiles, given)
        assert sorted(machines.classes_) == sorted(map(str, labels))
    given = ([1, 2.5, 3] * len(profiles))[: len(profiles)]
    assert TypeClassifier().fit(profiles, given).classes_.tolist() == [1, 2.5, 3]


@pytest.mark.parametrize("name", ["unsure", "unlike", "cut"])
def test_types_are_not_named_as_cells_without_one_are(learnt, cells, name):
    labels = [name if label == cells.labels[0] else label for label in cells.labels]
    with pytest.raises(ValueError, match=f"must not be named '{name}'"):
        TypeClassifier().fit(learnt.profile(cells.images), labels)
    with pytest.raises(ValueError, match=f"must not be named '{name}'"):
        wbcprof.train(learnt, cells.images, labels)


def test_unlabelled_is_no_type(learnt, cells):
    labels = ["unlabelled" if i % 3 else label for i, label in enumerate(cells.labels)]
    trained = wbcprof.train(learnt, cells.images, labels, augment=0)
    assert "unlabelled" not in trained.classes_
