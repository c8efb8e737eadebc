"""A model for another laboratory: generated cells that are out of focus there."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import wbcprof
from wbcprof.datasets import make_leukocytes
from wbcprof.model.model import AdaptationWarning

N_PER_TYPE = 12


@pytest.fixture(scope="module")
def home(cells):
    """A model with the defaults' form of images and their classifier, which never saw a blur."""
    model = wbcprof.fit(cells.images, n_signatures=24, n_patches=3000, max_iter=2, augment=0)
    model.classifier = wbcprof.train(model, cells.images, cells.labels)
    return model


@pytest.fixture(scope="module")
def there():
    """Cells of another laboratory, by type, and their types."""
    cells = make_leukocytes(N_PER_TYPE, size=72, random_state=1)
    blurred = gaussian_filter(cells.images.astype(float), (0, 1.5, 1.5, 0))
    return blurred.astype(np.uint8), np.asarray(cells.labels)


def right(model, there):
    images, types = there
    return (model.classifier.predict(model.profile(images)) == types).mean()


def labelled(types, n):
    """The types of the first n cells of each, the others unknown."""
    return [name if i % N_PER_TYPE < n else None for i, name in enumerate(types)]


def test_cells_without_labels_help_and_labels_help_more(home, there):
    images, types = there
    before = right(home, there)
    unlabelled = right(home.adapt(images), there)
    assert unlabelled > before + 0.1
    assert right(home.adapt(images, labelled(types, 5)), there) > unlabelled + 0.1


def test_profiles_stay_and_provenance_says_from_what(home, there):
    images, types = there
    before = home.classifier.coef_.copy()
    adapted = home.adapt(images, labelled(types, 2))
    np.testing.assert_array_equal(adapted.profile(images[:3]), home.profile(images[:3]))
    said = adapted.provenance["adapted"]
    assert (said["n_cells"], said["n_labelled"]) == (6 * N_PER_TYPE, 12) and said["apart"] > 3
    assert said["wbcprof"] == wbcprof.__version__ and said["time"]
    assert "adapted" not in home.provenance
    np.testing.assert_array_equal(home.classifier.coef_, before)
    assert adapted.profile(images[:1]).metadata["adapted"] == said


def test_adapting_is_deterministic_and_starts_from_what_was_learnt(home, there, cells):
    images, _ = there
    once, twice = home.adapt(images, n_threads=1), home.adapt(images, n_threads=2)
    again = home.adapt(cells.images, cells.labels).adapt(images)
    for other in (twice, again):
        np.testing.assert_array_equal(once.classifier.coef_, other.classifier.coef_)
        np.testing.assert_array_equal(once.classifier.intercept_, other.classifier.intercept_)


def test_stored_read_and_undone_to_the_bit(home, there, tmp_path):
    images, types = there
    adapted = home.adapt(images, labelled(types, 5))
    adapted.save(tmp_path / "there.wbcprof")
    loaded = wbcprof.load(tmp_path / "there.wbcprof")
    assert loaded.provenance == adapted.provenance
    profiles = home.profile(images)
    np.testing.assert_array_equal(
        loaded.classifier.predict_proba(profiles), adapted.classifier.predict_proba(profiles)
    )
    for undone in (adapted.unadapted(), loaded.unadapted()):
        np.testing.assert_array_equal(undone.classifier.coef_, home.classifier.coef_)
        np.testing.assert_array_equal(undone.classifier.intercept_, home.classifier.intercept_)
        assert undone.provenance == home.provenance


def test_without_gaussians_there_is_nothing_to_undo(model):
    assert model.unadapted() is model


def test_labels_that_are_unknown_count_as_none(home, there):
    images, types = there
    adapted = home.adapt(images, labelled(types, 0))
    blank = home.adapt(images, ["", float("nan"), *[None] * (len(images) - 2)])
    np.testing.assert_array_equal(adapted.classifier.coef_, blank.classifier.coef_)
    assert blank.provenance["adapted"]["n_labelled"] == 0


def test_errors(home, model, there, cells):
    images, types = there
    with pytest.raises(ValueError, match=r"got promyelocyte, smudge: learn a new classifier"):
        home.adapt(images[:3], ["smudge", "promyelocyte", types[2]])
    with pytest.raises(ValueError, match=r"kernel 'discriminant' can be adapted.*has none"):
        model.adapt(images)
    machines = wbcprof.Model(model.layers, model.pooling)
    machines.classifier = wbcprof.TypeClassifier(kernel="rbf").fit(
        model.profile(cells.images), cells.labels
    )
    with pytest.raises(ValueError, match="has one of kernel 'rbf'"):
        machines.adapt(images)
    with pytest.raises(ValueError, match="Length of labels"):
        home.adapt(images, types[1:])


def test_few_cells_and_images_without_any_are_said(home, there):
    images, _ = there
    with pytest.warns(AdaptationWarning, match="adapted to 19 images, 0 of .* give 20 cells"):
        home.adapt(images[:19])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        home.adapt(images[:20])
    noise = np.random.default_rng(1).integers(0, 10, images.shape, dtype=np.uint8)
    empty, black = 235 + noise, noise  # the second has neither background nor leukocyte
    for blank in (empty, black):
        mixed = np.concatenate([images[:14], blank[:15]])
        with (
            pytest.warns(AdaptationWarning, match="29 images, 15 of which show no leukocyte"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", wbcprof.images.ImageWarning)
            home.adapt(mixed)
