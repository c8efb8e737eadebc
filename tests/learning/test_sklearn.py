"""PSD and Profiler as scikit-learn's own machinery uses them; all images here are generated."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from wbcprof import PSD, Profiler

SMALL = {"patch_size": 8, "n_patches": 800, "psd": PSD(12, max_iter=2)}


@pytest.fixture(scope="module")
def images(cells):
    return np.stack(cells.images)


@pytest.fixture(scope="module")
def profiler(images):
    return Profiler(**SMALL).fit(images)


def classify() -> Pipeline:
    return make_pipeline(Profiler(**SMALL), StandardScaler(), LogisticRegression(max_iter=500))


@parametrize_with_checks(
    [
        PSD(4, max_iter=2, random_state=0),
        PSD(4, nonlinearity="tanh", positive=False, max_iter=2, random_state=0),
    ]
)
def test_psd_passes_every_check_of_estimators(estimator, check):
    check(estimator)


def test_pipeline_over_images(images, cells):
    pipeline = classify().fit(images, cells.labels)
    assert pipeline.score(images, cells.labels) > 0.8
    names = pipeline[:-1].get_feature_names_out()
    np.testing.assert_array_equal(names, pipeline[0].model_.feature_names)


def test_grid_search_over_images(images, cells):
    search = GridSearchCV(classify(), {"profiler__psd__n_components": [4, 12]}, cv=2, n_jobs=1)
    search.fit(images, cells.labels)
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()
    best = search.best_params_["profiler__psd__n_components"]
    assert search.best_estimator_[0].model_.layers[0].n_signatures == best


def test_images_of_differing_sizes_are_split_as_a_list(cells):
    images = [image[: 60 + i % 3] for i, image in enumerate(cells.images)]
    scores = cross_val_score(classify(), images, cells.labels, cv=2, error_score="raise")
    assert scores.mean() > 0.5


def test_clone_is_unfitted_and_learns_the_same(profiler, images):
    copied = clone(profiler)
    assert not hasattr(copied, "model_")
    assert repr(copied) == repr(profiler) and copied.psd is not profiler.psd
    np.testing.assert_array_equal(copied.fit(images).transform(images), profiler.transform(images))


def test_pandas_output(profiler, images):
    pd = pytest.importorskip("pandas")
    frame = clone(profiler).set_output(transform="pandas").fit(images).transform(images)
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns.tolist() == profiler.get_feature_names_out().tolist()
    np.testing.assert_array_equal(frame, profiler.transform(images))


def test_feature_names_match_the_columns(profiler, images):
    names = profiler.get_feature_names_out()
    assert names.shape == (profiler.transform(images[:2]).shape[1],)
    assert names[0] == "Cells_Sqrt_Signature_0001_Centre33"


def test_joblib_keeps_a_fitted_profiler(profiler, images, tmp_path):
    joblib.dump(profiler, tmp_path / "p.joblib")
    np.testing.assert_array_equal(
        joblib.load(tmp_path / "p.joblib").transform(images), profiler.transform(images)
    )


def test_joblib_workers_profile_the_same(profiler, images):
    parts = joblib.Parallel(n_jobs=2)(
        joblib.delayed(profiler.transform)(part) for part in (images[:5], images[5:10])
    )
    np.testing.assert_array_equal(np.concatenate(parts), profiler.transform(images[:10]))


def test_metadata_passes_by_to_the_step_that_asks(images, cells):
    weights = np.where(np.array(cells.labels) == cells.labels[0], 1.0, 0.0)
    weights[-1] = 1.0  # two types are needed
    with sklearn.config_context(enable_metadata_routing=True):
        last = LogisticRegression(max_iter=500).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(Profiler(**SMALL), StandardScaler(), last)
        pipeline[1].set_fit_request(sample_weight=False)
        pipeline.fit(images, cells.labels, sample_weight=weights)
        called = set(pipeline.predict(images))
    assert called <= {cells.labels[0], cells.labels[-1]}
