"""Regions that codes are pooled over."""

import numpy as np
import pytest

import wbcprof
from wbcprof import reference
from wbcprof.datasets import make_leukocytes
from wbcprof.images import ImageWarning
from wbcprof.model.encoder import Encoder
from wbcprof.model.pooling import STATISTICS, Pooling
from wbcprof.model.regions import check_windows, find_regions, region_names


def test_a_centre_holds_the_windows_whose_middle_lies_in_the_disc():
    regions = find_regions(60, 80, 8, 4, (), (0.5,))
    (mask,) = regions.masks
    rows, columns = np.nonzero(mask)
    y = rows * 4 + regions.pixels[0].start + 4 - 30
    x = columns * 4 + regions.pixels[1].start + 4 - 40
    assert np.hypot(y, x).max() <= 15
    assert mask.sum() == pytest.approx(np.pi * 15**2 / 16, rel=0.1)
    assert mask.any(axis=0).all() and mask.any(axis=1).all(), "the box is the smallest"


def test_a_tiny_centre_takes_the_nearest_windows():
    assert find_regions(20, 20, 8, 4, (), (0.01,)).masks.sum() == 4
    assert find_regions(8, 8, 8, 4, (), (0.01,)).masks.sum() == 1


def test_a_level_takes_the_whole_image():
    regions = find_regions(60, 80, 8, 4, (1, 2), (0.5,))
    assert regions.masks.shape == (6, 14, 19) and regions.masks[0].all()
    np.testing.assert_array_equal(regions.masks[1:5].sum(axis=0), 1)


def test_names():
    assert region_names((1, 2), (0.33, 1))[-3:] == ["_L2R1C1", "_Centre33", "_Centre100"]
    names = Pooling("sqrt", (), (0.33,)).feature_names(2)
    assert names == ["Cells_Sqrt_Signature_0001_Centre33", "Cells_Sqrt_Signature_0002_Centre33"]


@pytest.mark.parametrize(
    ("levels", "centres", "message"),
    [
        ((0,), (), "levels must be .* each item an integer from 1 to 64, got"),
        ((1.5,), (), "levels must be .* each item an integer from 1 to 64, got"),
        ((), (0,), "centres must be .* above 0 and at most 1, got"),
        ((), (1.1,), "centres must be .* above 0 and at most 1, got"),
        ((), (), "no levels, no centres"),
    ],
)
def test_errors(levels, centres, message):
    with pytest.raises(ValueError, match=message):
        Pooling("mean", levels, centres)


@pytest.mark.parametrize("levels", [(), (1,), (2, 1)])
def test_kernel_pools_centres_as_the_reference_does(levels):
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (2, 41, 52, 3)).astype(np.uint8)
    filters = rng.normal(size=(5, 6, 6, 3)) / 6
    offset, gain = rng.normal(size=(2, 5))
    settings = {"nonlinearity": "rectified", "step": 3}
    pooling = Pooling(tuple(STATISTICS), levels, (0.4, 0.8))
    profile = Encoder(filters, offset, gain, **settings).encode_pool(images, pooling)
    expected = reference.encode_pool(images, filters, offset, gain, **settings, pooling=pooling)
    np.testing.assert_allclose(profile, expected, rtol=1e-4, atol=1e-4)


def test_parts_without_windows_are_refused():
    """Zeros would be taken for codes that are not active."""
    with pytest.raises(ValueError, match="3 x 39 windows of 8 px at step 2, too few for 4 x 4"):
        check_windows(12, 84, 8, 2, (1, 4))
    check_windows(14, 84, 8, 2, (1, 4))
    assert all(mask.any() for mask in find_regions(14, 84, 8, 2, (1, 4), (0.1,)).masks)


def test_images_too_small_for_a_pyramid_are_skipped():
    cells = make_leukocytes(2, size=48)  # generated
    model = wbcprof.fit(
        cells.images, n_signatures=8, patch_size=8, step=2, n_patches=400, max_iter=1,
        levels=(1, 4), centres=(), normalise=None,
    )  # fmt: skip
    assert model.min_size == 8 + 3 * 2
    with pytest.warns(ImageWarning, match="1 of 2 images was skipped"):
        assert len(model.profile([cells.images[0], cells.images[1][:13]])) == 1
    with pytest.raises(ValueError, match="too few for 4 x 4 parts; take a smaller step"):
        model.profile(cells.images[:1], step=30)
