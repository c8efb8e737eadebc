"""Encoder: Cook-Toom matrices, the choice of a form, bad input, approximation, threads."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wbcprof import _core, reference
from wbcprof.model import approximation
from wbcprof.model.approximation import approximate
from wbcprof.model.encoder import Encoder
from wbcprof.model.forms import cook_toom_matrices, list_forms
from wbcprof.model.pooling import Pooling
from wbcprof.threads import resolve_threads

RNG_SEED = 11


def make_encoder(patch=8, channels=3, n_signatures=10, **options):
    rng = np.random.default_rng(RNG_SEED)
    filters = rng.standard_normal((n_signatures, patch, patch, channels)) / patch
    offset, gain = rng.standard_normal(n_signatures), rng.uniform(0, 0.3, n_signatures)
    defaults = {"offset": offset, "gain": gain, "nonlinearity": "sigmoid", "step": 2}
    return Encoder(filters, **defaults | options)


def make_images(*shape):
    return np.random.default_rng(RNG_SEED).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("taps", range(2, 8))
def test_cook_toom_matrices_correlate(taps):
    for tile in range(2, _core.MAX_POINTS - taps + 2):
        input_transform, kernel, output = cook_toom_matrices(tile, taps)
        products = np.einsum("ip,pk,pd->ikd", output, kernel, input_transform)
        expected = np.zeros_like(products)
        for i, k in np.ndindex(tile, taps):
            expected[i, k, i + k] = 1
        np.testing.assert_allclose(products, expected, atol=1e-12)


@pytest.mark.parametrize(
    "patch, step, side, name",
    [
        (20, 5, 300, "F(5,4) on 5 px squares"),
        (10, 5, 300, "F(6,2) on 5 px squares"),
        (20, 5, 20, "direct"),
        (6, 6, 100, "direct"),
        (5, 7, 100, "direct"),
    ],
)
def test_form_with_the_least_work_is_chosen(patch, step, side, name):
    encoder = make_encoder(patch, n_signatures=256, step=step)
    assert encoder.choose_form(side, side).name == name


def test_describe_counts_products():
    description = make_encoder(20, n_signatures=1024, step=5).describe(300, 300)
    assert description["windows"] == 57 * 57
    assert description["direct_products_per_window"] == 1200
    assert description["products_per_window"] == pytest.approx((57 + 12 * 3) ** 2 * 75 / 57**2)
    assert description["instruction_set"] in _core.instruction_sets()


def test_forms_of_small_steps_use_interleaved_grids():
    forms = {form.name: form for form in list_forms(20, 2)}
    assert forms["F(4,5) on 4 px squares"].dilation == 2
    assert forms["direct"].points == 1


def test_filters_are_prepared_once():
    encoder = make_encoder()
    images = make_images(1, 40, 40, 3)
    encoder.encode_pool(images)
    (prepared,) = encoder._prepared.values()
    encoder.encode_pool(images)
    assert next(iter(encoder._prepared.values())) is prepared


def test_layout_is_pool_then_part_then_signature():
    encoder = make_encoder(n_signatures=10)
    images = make_images(3, 40, 31, 3)
    both = encoder.encode_pool(images, pooling=Pooling(["max", "mean"], levels=[1, 2]))
    assert both.shape == (3, 2 * 5 * 10) and both.dtype == np.float32
    np.testing.assert_array_equal(
        both[:, :10], encoder.encode_pool(images, pooling=Pooling(["max"]))
    )
    four = encoder.encode_pool(images, pooling=Pooling(levels=[2]))
    np.testing.assert_array_equal(both[:, 60:], four)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_memory_layout_gives_the_same(dtype):
    encoder = make_encoder()
    images = make_images(2, 40, 31, 3).astype(dtype)
    before = images.copy()
    expected = encoder.encode_pool(images)
    read_only = images.copy()
    read_only.flags.writeable = False
    wide = np.repeat(np.repeat(images, 2, axis=2), 2, axis=0)
    layouts = [np.asfortranarray(images), wide[::2, :, ::2], read_only, images[::-1][::-1]]
    for same in layouts:
        np.testing.assert_array_equal(encoder.encode_pool(same), expected)
    np.testing.assert_array_equal(images, before)


def test_float64_images_are_converted():
    encoder = make_encoder()
    images = np.random.default_rng(RNG_SEED).random((1, 30, 30, 3))
    np.testing.assert_array_equal(
        encoder.encode_pool(images), encoder.encode_pool(images.astype(np.float32))
    )


def test_no_images_give_no_rows():
    encoder = make_encoder()
    assert encoder.encode_pool(make_images(0, 30, 30, 3), pooling=Pooling(levels=(1, 2))).shape == (
        0,
        50,
    )
    assert encoder.encode_map(make_images(0, 30, 30, 3), 4).shape == (0, 3, 3, 10)


@pytest.mark.parametrize(
    "images, error, message",
    [
        (make_images(30, 30, 3), ValueError, r"n x height x width x 3, got shape \(30, 30, 3\)"),
        (make_images(1, 30, 30, 4), ValueError, r"got shape \(1, 30, 30, 4\)"),
        (make_images(1, 7, 30, 3), ValueError, "at least 8 pixels .* got 7 x 30"),
        (make_images(1, 0, 0, 3), ValueError, "at least 8 pixels .* got 0 x 0"),
        (make_images(1, 30, 30, 3).astype(np.int64), TypeError, "uint8 or float, got int64"),
        (make_images(1, 30, 30, 3).astype(object), TypeError, "uint8 or float, got object"),
        (make_images(1, 30, 30, 3).astype(complex), TypeError, "got complex128"),
        (np.full((1, 30, 30, 3), np.nan), ValueError, "finite"),
        (np.full((1, 30, 30, 3), 1e300), ValueError, "finite in float32"),
        (np.full((1, 30, 30, 3), 1e30), ValueError, "values of up to 1.0e[+]30"),
    ],
)
def test_bad_images_are_refused(images, error, message):
    encoder = make_encoder()
    for run in (encoder.encode_pool, lambda images: encoder.encode_map(images, 2)):
        with pytest.raises(error, match=message), np.errstate(over="ignore"):
            run(images)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"pools": ["median"]}, "pools must be .*one of"),
        ({"pools": []}, "pools must be a sequence, not empty"),
        ({"levels": [0]}, "levels must be .*an integer from 1"),
        ({"levels": []}, "at least one region"),
    ],
)
def test_bad_pooling_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_encoder().encode_pool(make_images(1, 30, 30, 3), Pooling(**options))


def test_a_bad_number_of_threads_is_refused():
    with pytest.raises(ValueError, match="n_threads must be a positive integer, got 0"):
        make_encoder().encode_pool(make_images(1, 30, 30, 3), n_threads=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"filters": np.zeros((4, 3, 5, 3))}, "equal sides"),
        ({"filters": np.full((4, 3, 3, 3), np.inf)}, "filters must be finite"),
        ({"filters": np.full((4, 3, 3, 3), 1e30)}, "that may give"),
        ({"gain": np.full(4, 1e30)}, "that may give"),
        ({"pixel_table": np.full(256, 1e30)}, "pixel_table and encoder must give codes"),
        ({"pixel_table": np.full(256, np.nan)}, "pixel_table must be finite"),
        ({"contrast_epsilon": 1e-60}, "contrast_epsilon must be positive and finite"),
        (
            {"nonlinearity": "soft_threshold", "threshold": np.full(4, -1.0)},
            "threshold must not be negative",
        ),
        ({"offset": np.zeros(3)}, r"offset must have shape \(4,\), got \(3,\)"),
        ({"gain": np.full(4, np.nan)}, "gain must be finite"),
        ({"nonlinearity": "relu"}, "nonlinearity must be one of"),
        ({"threshold": np.zeros(4)}, "threshold goes with"),
        ({"nonlinearity": "soft_threshold"}, "without threshold"),
        ({"step": 0}, "step must be"),
        ({"contrast_epsilon": 0.0}, "contrast_epsilon must be positive"),
        ({"pixel_table": np.zeros(255)}, "pixel_table"),
        ({"form": "F(9,9)"}, "form must be one of"),
    ],
)
def test_bad_encoders_are_refused(change, message):
    arguments = {
        "filters": np.zeros((4, 3, 3, 3)),
        "offset": np.zeros(4),
        "gain": np.ones(4),
        "nonlinearity": "sigmoid",
        "step": 1,
    }
    with pytest.raises(ValueError, match=message):
        Encoder(**(arguments | change))


def test_pixel_table_is_looked_up():
    table = -np.log((np.arange(256) + 1) / 256)
    images = make_images(1, 30, 30, 3)
    encoder = make_encoder(pixel_table=table)
    np.testing.assert_array_equal(
        encoder.encode_pool(images), encoder.encode_pool(table[images].astype(np.float32))
    )


def test_approximation_keeps_its_tolerance():
    y, x = np.mgrid[:90, :90] / 90
    waves = [np.sin(k * x + y) * np.cos(k * y) for k in (3, 5, 7, 9, 11, 13)]
    smooth = np.stack([np.stack([w, w**2, -w], axis=-1) for w in waves])
    images = (127 + 120 * smooth).astype(np.uint8)
    encoder = make_encoder(20, n_signatures=64, step=5)
    fewer = approximate(encoder, images[:4], 1e-3, Pooling())
    exact = encoder.encode_pool(images)
    error = np.linalg.norm(fewer.encode_pool(images) - exact) / np.linalg.norm(exact)
    description = fewer.describe(90, 90)
    assert 0 < description["relative_error"] <= 1e-3 and error < 3e-3
    assert (
        description["products_per_window"] < encoder.describe(90, 90)["products_per_window"] / 1.5
    )
    assert encoder.describe(90, 90)["relative_error"] == 0


def test_approximation_has_little_bias():
    """Projecting loses variance; without shifted offsets the mean codes would all be too small."""
    images = make_images(6, 40, 40, 3)
    encoder = make_encoder(
        20, n_signatures=64, step=5, nonlinearity="rectified", offset=np.zeros(64)
    )
    fewer = approximate(encoder, images, 0.1, Pooling())
    change = fewer.encode_pool(images) - encoder.encode_pool(images)
    assert abs(change.mean()) < 0.3 * np.abs(change).mean()


@pytest.mark.parametrize("nonlinearity", ["sigmoid", "tanh", "rectified", "soft_threshold"])
def test_mean_slope_is_the_derivative_by_the_offset(nonlinearity):
    n, step = 12, 1e-2
    threshold = np.full(n, 0.2) if nonlinearity == "soft_threshold" else None
    offsets = np.linspace(-1, 1, n)
    images = make_images(2, 60, 60, 3)

    def encode(shift):
        encoder = make_encoder(
            n_signatures=n, offset=offsets + shift, threshold=threshold, nonlinearity=nonlinearity
        )
        codes = encoder.encode_pool(images, pooling=Pooling(("mean", "std", "active")))
        mean, std, active = codes.mean(axis=0).reshape(3, n).astype(np.float64)
        return mean, approximation._mean_slope(encoder, mean, std, active)

    measured = (encode(step)[0] - encode(-step)[0]) / (2 * step)
    np.testing.assert_allclose(encode(0)[1], measured, rtol=0.05, atol=2e-3)


def test_pickled_encoder_gives_the_same():
    encoder = make_encoder()
    images = make_images(1, 30, 30, 3)
    expected = encoder.encode_pool(images)
    copied = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_array_equal(copied.encode_pool(images), expected)


def test_calls_from_many_threads_give_the_same():
    encoder = make_encoder()
    images = make_images(8, 50, 40, 3)
    expected = encoder.encode_pool(images, n_threads=1)
    fresh = make_encoder()
    with ThreadPoolExecutor(8) as executor:
        rows = executor.map(lambda image: fresh.encode_pool(image[None], n_threads=2), images)
    np.testing.assert_array_equal(np.concatenate(list(rows)), expected)


def test_forked_child_uses_one_thread():
    encoder = make_encoder()
    images = make_images(3, 50, 40, 3)
    expected = encoder.encode_pool(images, n_threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(
        target=lambda: queue.put((resolve_threads(4), encoder.encode_pool(images, n_threads=4)))
    )
    child.start()
    n_threads, got = queue.get(timeout=30)
    child.join(timeout=30)
    assert n_threads == 1
    np.testing.assert_array_equal(got, expected)


def test_instruction_set_from_the_environment(tmp_path):
    code = "from wbcprof import _core; print(_core.instruction_set())"
    for level in _core.instruction_sets():
        result = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"WBCPROF_INSTRUCTION_SET": level},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert result.stdout.strip() == level


@pytest.mark.parametrize("name", ["foo", "\udcff", "SCALAR"])
def test_unknown_instruction_sets_in_the_environment_are_a_warning(tmp_path, name):
    result = subprocess.run(
        [sys.executable, "-m", "wbcprof", "--version"],
        env=os.environ | {"WBCPROF_INSTRUCTION_SET": name},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "WBCPROF_INSTRUCTION_SET is ignored: instruction set must be one of" in result.stderr
    assert "Traceback" not in result.stderr


def test_twin_pools_an_identity_encoder():
    filters, image = np.ones((1, 1, 1, 1)), np.arange(6.0).reshape(1, 2, 3, 1)
    profile = reference.encode_pool(
        image, filters, np.zeros(1), np.ones(1), nonlinearity="rectified", step=1,
        pooling=Pooling(("mean", "max", "active"), levels=(1,)),
    )  # fmt: skip
    np.testing.assert_allclose(profile, [[2.5, 5, 5 / 6]])


def test_approximations_that_cannot_be_are_refused():
    encoder = make_encoder(offset=np.zeros(4), nonlinearity="rectified", n_signatures=4)
    images = make_images(2, 30, 30, 3)
    with pytest.raises(ValueError, match="at least one image, got none"):
        approximate(encoder, images[:0], 0.1, Pooling())
    with pytest.raises(ValueError, match=r"tolerance must be at least .* what float32"):
        approximate(encoder, images, 1e-12, Pooling())
    silent = make_encoder(
        offset=np.full(4, -1e6), nonlinearity="rectified", n_signatures=4, gain=np.ones(4)
    )
    with pytest.raises(ValueError, match="profiles are not zero"):
        approximate(silent, images, 0.1, Pooling())
