"""Patches and preprocessing: sampling, round trips, and folding into an encoder."""

import numpy as np
import pytest

from wbcprof import reference
from wbcprof.learning.sample import sample_patches
from wbcprof.model.preprocessing import (
    PIXEL_INPUTS,
    PREPROCESSING,
    Preprocessing,
    correlate,
    pixel_table,
    windows,
)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(27, 27)) * np.linspace(2, 0.05, 27)[:, None]
    rows = 0.5 + 0.05 * rng.normal(size=(400, 27)) @ mixing
    return rows.astype(np.float32)


@pytest.mark.parametrize("name", PIXEL_INPUTS)
def test_pixel_table_spans_zero_to_one_and_is_monotone(name):
    table = pixel_table(name)
    assert table.shape == (256,) and table.dtype == np.float32
    assert table.min() == pytest.approx(0, abs=1e-6) and table.max() == pytest.approx(1)
    steps = np.diff(table)
    assert (steps > 0).all() if name == "raw" else (steps < 0).all()


def test_pixel_table_rejects_an_unknown_input():
    with pytest.raises(ValueError, match=r"pixel_input must be one of.*got 'lab'"):
        pixel_table("lab")


def test_windows_are_the_slices_they_stand_for():
    image = np.random.default_rng(1).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    view = windows(image, 7, 3)
    assert view.shape == (6, 9, 7, 7, 3)
    np.testing.assert_array_equal(view[4, 5], image[12:19, 15:22])


def test_sampled_patches_come_from_their_images_in_equal_shares():
    images = [np.full((12 + i, 15, 3), i, np.uint8) for i in range(5)]
    patches = sample_patches(iter(images), 5, 6, 23, random_state=3)
    assert patches.shape == (23, 108)
    assert sorted(np.bincount(patches[:, 0]).tolist()) == [4, 4, 5, 5, 5]
    again = sample_patches(iter(images), 5, 6, 23, random_state=3)
    np.testing.assert_array_equal(patches, again)


def test_sampled_patches_reach_every_corner():
    image = np.arange(8 * 8 * 1, dtype=np.uint8).reshape(8, 8, 1)
    patches = sample_patches([image], 1, 6, 400, random_state=0)
    assert set(patches[:, 0]) == {0, 1, 2, 8, 9, 10, 16, 17, 18}


def test_fewer_images_than_expected_give_fewer_patches():
    image = np.zeros((9, 9, 3), np.uint8)
    assert len(sample_patches([image, image], 4, 5, 40, random_state=0)) == 20
    with pytest.raises(ValueError, match="images to draw patches from, got none"):
        sample_patches([], 0, 5, 40, random_state=0)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("kind", PREPROCESSING)
def test_restore_undoes_apply(rows, kind, whiten):
    preprocessing = Preprocessing(kind, whiten).fit(rows)
    x, centre, spread = preprocessing.apply(rows)
    assert x.dtype == np.float32
    np.testing.assert_allclose(preprocessing.restore(x, centre, spread), rows, atol=2e-5)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("kind", PREPROCESSING)
def test_patches_have_unit_root_mean_square_norm(rows, kind, whiten):
    x, _, _ = Preprocessing(kind, whiten).fit(rows).apply(rows)
    assert np.sqrt((x.astype(float) ** 2).sum(axis=1).mean()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("kind", PREPROCESSING)
def test_folded_encoder_equals_encoder_of_preprocessed_patches(rows, kind, whiten):
    rng = np.random.default_rng(2)
    weights, bias = rng.normal(size=(11, 27)), rng.normal(size=11)
    preprocessing = Preprocessing(kind, whiten).fit(rows)
    x, _, _ = preprocessing.apply(rows)
    filters, offset = preprocessing.fold(weights, bias)
    spread = 1.0
    if preprocessing.contrast_epsilon is not None:
        variance = rows.astype(float).var(axis=1, keepdims=True)
        spread = np.sqrt(variance + preprocessing.contrast_epsilon)
    folded = rows.astype(float) @ filters.T / spread + offset
    np.testing.assert_allclose(folded, x @ weights.T + bias, atol=3e-4)


def test_whitening_makes_the_covariance_nearly_white(rows):
    x, _, _ = Preprocessing("none", True, whitening_floor=1e-6).fit(rows).apply(rows)
    covariance = np.cov(x.T, bias=True) * x.shape[1]
    np.testing.assert_allclose(covariance, np.eye(27), atol=0.02)


def test_constant_patches_stay_finite():
    constant = np.full((3, 27), 0.7, np.float32)
    fitted = Preprocessing("contrast").fit(
        np.random.default_rng(0).random((50, 27)).astype(np.float32)
    )
    x, _, _ = fitted.apply(constant)
    np.testing.assert_array_equal(x, 0)


@pytest.mark.parametrize("kind", ["patch_mean", "contrast", "dataset_mean"])
def test_patches_without_signal_are_refused(kind):
    with pytest.raises(ValueError, match="hold no signal"):
        Preprocessing(kind).fit(np.full((5, 12), 0.25, np.float32))


def test_unknown_preprocessing_is_refused():
    with pytest.raises(ValueError, match=r"preprocessing must be one of.*got 'zca'"):
        Preprocessing("zca")


def test_fewer_patches_than_images_are_spread_over_all():
    images = [np.full((9, 9, 3), i, np.uint8) for i in range(20)]
    patches = sample_patches(images, 20, 5, 4, random_state=0)
    assert patches[:, 0].tolist() == [4, 9, 14, 19]


@pytest.mark.parametrize("n, m, h", [(1, 3, 1), (45, 108, 40), (300, 75, 70)])
def test_correlate_gives_a_patch_the_same_bits_in_any_company(n, m, h):
    rng = np.random.default_rng(n)
    patches, signatures = rng.normal(size=(n, m)), rng.normal(size=(h, m))
    products = correlate(patches, signatures)
    np.testing.assert_allclose(
        products, reference.correlate(patches, signatures), rtol=0, atol=1e-6 * m
    )
    order = rng.permutation(n)
    np.testing.assert_array_equal(correlate(patches[order], signatures), products[order])
    np.testing.assert_array_equal(correlate(patches[:1], signatures), products[:1])
    assert correlate(patches[:0], signatures).shape == (0, h)
