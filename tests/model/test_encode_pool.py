"""The compiled encode_pool against its float64 twin: every form, level, nonlinearity and pool.

`tests/sanitize.sh tests/model/test_encode_pool.py` runs this file under AddressSanitizer and UBSan.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcprof import _core, reference
from wbcprof.model.encoder import NONLINEARITIES, Encoder
from wbcprof.model.forms import list_forms
from wbcprof.model.pooling import STATISTICS, Pooling

TOLERANCE = {"mean": 1e-5, "max": 1e-4, "std": 1e-5, "active": 1e-6, "sqrt": 4e-3}
ON_THE_EDGE = 0.01  # part of the counts of active windows that rounding may change

POOLS = tuple(STATISTICS)


def random_encoder(seed, patch, channels, n_signatures, nonlinearity, **options):
    """Arguments of an encoder: responses of the order of 1 to random pixels, codes a few tenths."""
    rng = np.random.default_rng(seed)
    filters = rng.standard_normal((n_signatures, patch, patch, channels))
    filters *= 1 / np.sqrt(filters[0].size)
    offset = rng.standard_normal(n_signatures)
    gain = rng.uniform(-0.1, 0.3, n_signatures)
    threshold = rng.uniform(0, 0.3, n_signatures) if nonlinearity == "soft_threshold" else None
    return (filters, offset, gain, threshold), {"nonlinearity": nonlinearity, **options}


def random_images(seed, n, height, width, channels, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    return images if dtype == np.uint8 else (images / 255).astype(dtype)


def assert_close(profile, expected, pools):
    for pool, got, wanted in zip(
        pools,
        np.split(profile, len(pools), axis=1),
        np.split(expected, len(pools), axis=1),
        strict=True,
    ):
        if pool == "active":
            assert np.mean(np.abs(got - wanted) > TOLERANCE[pool]) < ON_THE_EDGE
        else:
            np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE[pool], err_msg=pool)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("contrast_epsilon", [None, 0.01])
@pytest.mark.parametrize("patch, step", [(20, 5), (8, 2), (7, 3), (5, 7)])
def test_every_form_equals_the_twin(instruction_set, patch, step, contrast_epsilon, nonlinearity):
    arguments, options = random_encoder(
        0, patch, 3, 40, nonlinearity, step=step, contrast_epsilon=contrast_epsilon
    )
    images = random_images(1, 2, 47, 38, 3)
    levels = (1, 2, 3)
    expected = reference.encode_pool(
        images, *arguments, **options, pooling=Pooling(POOLS, levels=levels)
    )
    for form in list_forms(patch, step):
        encoder = Encoder(*arguments, **options, form=form.name)
        profile = encoder.encode_pool(images, pooling=Pooling(POOLS, levels=levels), n_threads=1)
        assert_close(profile, expected, POOLS)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_shape_equals_the_twin(data):
    draw = data.draw
    patch, step = draw(st.integers(1, 24), "patch"), draw(st.integers(1, 9), "step")
    height = patch + draw(st.integers(0, 60), "extra height")
    width = patch + draw(st.integers(0, 60), "extra width")
    channels, n_signatures = draw(st.integers(1, 5), "channels"), draw(st.integers(1, 70), "h")
    nonlinearity = draw(st.sampled_from(NONLINEARITIES))
    contrast_epsilon = draw(st.sampled_from([None, 0.01, 0.1]))
    n_windows = (min(height, width) - patch) // step + 1  # every part has one
    possible = [levels for levels in [(1,), (2,), (1, 2), (3, 1)] if max(levels) <= n_windows]
    levels = draw(st.sampled_from(possible))
    form = draw(st.sampled_from([None, *(form.name for form in list_forms(patch, step))]))
    dtype = draw(st.sampled_from([np.uint8, np.float32]))
    level = draw(st.sampled_from(_core.instruction_sets()))
    arguments, options = random_encoder(
        draw(st.integers(0, 99)), patch, channels, n_signatures, nonlinearity,
        step=step, contrast_epsilon=contrast_epsilon,
    )  # fmt: skip
    images = random_images(2, 2, height, width, channels, dtype)
    pools = ("mean", "std", "max")

    before = _core.instruction_set()
    _core.cap_instruction_set(level)
    try:
        encoder = Encoder(*arguments, **options, form=form)
        profile = encoder.encode_pool(images, pooling=Pooling(pools, levels=levels))
    finally:
        _core.cap_instruction_set(before)
    expected = reference.encode_pool(
        images, *arguments, **options, pooling=Pooling(pools, levels=levels)
    )
    assert_close(profile, expected, pools)


@pytest.mark.parametrize("form", [None, "direct"])
def test_same_bits_for_any_threads_batch_and_order(instruction_set, form):
    arguments, options = random_encoder(3, 12, 3, 100, "sigmoid", step=3, contrast_epsilon=0.01)
    encoder = Encoder(*arguments, **options, form=form)
    images = random_images(4, 5, 90, 60, 3)
    run = {"pooling": Pooling(POOLS, levels=(1, 2))}
    expected = encoder.encode_pool(images, **run, n_threads=1)
    for n_threads in (2, 3, 8):
        np.testing.assert_array_equal(
            encoder.encode_pool(images, **run, n_threads=n_threads), expected
        )
    for index, image in enumerate(images):
        for n_threads in (1, 2, 7):
            alone = encoder.encode_pool(image[None], **run, n_threads=n_threads)
            np.testing.assert_array_equal(alone[0], expected[index])
    np.testing.assert_array_equal(encoder.encode_pool(images[::-1], **run), expected[::-1])


def test_one_image_is_shared_where_there_is_work_for_several_threads():
    arguments, options = random_encoder(3, 20, 3, 1024, "sigmoid", step=5, contrast_epsilon=0.01)
    encoder = Encoder(*arguments, **options)
    image = random_images(4, 1, 260, 250, 3)
    expected = encoder.encode_pool(image, n_threads=1)
    for n_threads in (2, 3, 8):
        np.testing.assert_array_equal(encoder.encode_pool(image, n_threads=n_threads), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_uniform_images_have_no_variance(instruction_set, dtype):
    arguments, options = random_encoder(5, 20, 3, 64, "tanh", step=5, contrast_epsilon=0.01)
    images = np.broadcast_to(np.array([200, 90, 130], np.uint8), (1, 70, 80, 3))
    images = images if dtype == np.uint8 else (images / 255).astype(dtype)
    for contrast_epsilon in (None, 0.01):
        options["contrast_epsilon"] = contrast_epsilon
        encoder = Encoder(*arguments, **options)
        std = encoder.encode_pool(images, pooling=Pooling(["std"], levels=(1, 2)))
        np.testing.assert_array_equal(std, 0)


@pytest.mark.parametrize("pool", POOLS)
def test_encode_map_pools_regions(instruction_set, pool):
    arguments, options = random_encoder(6, 6, 2, 20, "rectified", step=2)
    images = random_images(7, 2, 40, 33, 2)
    region = 3
    got = Encoder(*arguments, **options).encode_map(images, region, pool)
    for image, image_map in zip(images, got, strict=True):
        codes, active = reference.encode_windows(image, *arguments, **options)
        assert image_map.shape == (-(-codes.shape[0] // 3), -(-codes.shape[1] // 3), 20)
        expected_map = np.empty(image_map.shape)
        for row, column in np.ndindex(image_map.shape[:2]):
            inside = np.s_[row * 3 : row * 3 + 3, column * 3 : column * 3 + 3]
            expected_map[row, column] = STATISTICS[pool].of_codes(
                codes[inside].reshape(-1, 20), active[inside].reshape(-1, 20)
            )
        assert_close(image_map.reshape(1, -1), expected_map.reshape(1, -1), [pool])


@pytest.mark.parametrize("form", [None, "direct"])
@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e12])
def test_any_size_of_number_equals_the_twin(instruction_set, form, size):
    """Denormal and huge pixels; std of the former is lost where squares are too small."""
    (filters, _, gain, _), options = random_encoder(8, 8, 3, 40, "rectified", step=2)
    images = random_images(9, 2, 40, 33, 3, np.float32) * np.float32(size)
    encoder = Encoder(filters, np.zeros(40), gain, **options, form=form)
    for pool in ("mean", "max") if size < 1 else ("mean", "max", "std"):
        got = encoder.encode_pool(images, pooling=Pooling([pool]))
        expected = reference.encode_pool(
            images, filters, np.zeros(40), gain, **options, pooling=Pooling([pool])
        )
        assert np.abs(expected).max() > size / 100
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * size + 1e-41)


def test_sums_of_more_windows_than_float32_can_count():
    """At 2^24 ones are no longer added: 25 million windows, all active, were active in .671."""
    side = 4200
    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 1), dtype=np.uint8)
    encoder = Encoder(
        np.ones((1, 1, 1, 1)), np.ones(1), np.ones(1), nonlinearity="rectified", step=1
    )
    mean, active = encoder.encode_pool(image, pooling=Pooling(("mean", "active")))[0]
    assert side**2 > 2**24 and active == 1
    expected = 1 + image.mean(dtype=np.float64) / 255
    assert mean == pytest.approx(expected, rel=2e-7)


def encode_by_kernel(images=(1, 20, 20, 3), parts=(15, 15), part=0, n_threads=1, out=(), **changed):
    """A call of the kernel in the direct form, with windows of 6 px, but for what is changed."""
    filters = {
        "patch": 6, "step": 1, "square": 6, "dilation": 1, "taps": 1, "tile": 1,
        "input_transforms": np.ones((1, 1, 1), np.float32),
        "output_transforms": np.ones((1, 1, 1), np.float32),
        "projection": None, "filters": np.ones((1, 1, 108, 32), np.float32),
    }  # fmt: skip
    units = {
        "offset": np.zeros(32, np.float32), "gain": np.ones(32, np.float32),
        "threshold": np.zeros(32, np.float32), "colour": np.zeros((32, 3), np.float32),
        "nonlinearity": "rectified", "contrast_epsilon": None,
        "pixel_table": np.arange(256, dtype=np.float32),
    }  # fmt: skip
    total = np.zeros((1, 1, 32), np.float32)
    statistics = {"shift": total + np.nan, "sum": total} | dict.fromkeys(
        ("square", "lost", "max", "active")
    )
    statistics.update(out)
    for values in (filters, units):
        values.update((name, changed[name]) for name in values.keys() & changed)
    _core.encode_pool(
        _core.Filters(**filters), _core.Units(**units), np.zeros(images, np.uint8),
        np.full(parts, part, np.int32), 1, _core.Statistics(**statistics), n_threads,
    )  # fmt: skip


WRONG = [
    {"images": (0, 20, 20, 3)}, {"images": (2, 20, 20, 3)}, {"images": (1, 19, 20, 3)},
    {"images": (1, 20, 19, 3)}, {"images": (1, 20, 20, 4)}, {"parts": (16, 15)},
    {"parts": (15, 0)}, {"part": 1}, {"part": -1}, {"n_threads": 0}, {"n_threads": 2**31 - 1},
    {"patch": 0}, {"patch": 10**6}, {"step": 0}, {"step": -1}, {"square": 5}, {"dilation": 0},
    {"taps": 0}, {"taps": 9}, {"tile": 0}, {"tile": 2},
    {"pixel_table": np.zeros(255, np.float32)}, {"offset": np.zeros(31, np.float32)},
    {"gain": np.zeros(0, np.float32)}, {"threshold": np.zeros(16, np.float32)},
    {"colour": np.zeros((32, 2), np.float32)}, {"square": 7},
    {"filters": np.ones((1, 1, 107, 32), np.float32)},
    {"filters": np.ones((2, 1, 108, 32), np.float32)},
    {"filters": np.ones((1, 1, 108, 16), np.float32)},
    {"projection": np.ones((108, 108), np.float32)},
    {"input_transforms": np.ones((1, 2, 2), np.float32)},
    {"output_transforms": np.ones((2, 1, 1), np.float32)},
    {"out": {"square": np.zeros((1, 1, 32), np.float32)}}, {"out": {"shift": None}},
    {"out": {"max": np.zeros((1, 2, 32), np.float32)}},
    {"out": {"active": np.zeros((1, 1, 16), np.float32)}},
    {"out": {"lost": np.zeros((2, 1, 1, 32), np.float32)}},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: "_".join(wrong))
def test_the_kernel_refuses_what_does_not_fit(wrong):
    """It would read, or write, past the ends of arrays."""
    encode_by_kernel()
    with pytest.raises(ValueError, match="do not fit"):
        encode_by_kernel(**wrong)
