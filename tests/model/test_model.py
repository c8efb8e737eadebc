"""From images to profiles, and back: the learnt model at work."""

import threading

import numpy as np
import pytest

import wbcprof
from wbcprof import PSD, Profiler
from wbcprof.images.source import ImageWarning
from wbcprof.learning.profiler import PRESETS
from wbcprof.model.model import ToleranceWarning
from wbcprof.model.pooling import STATISTICS
from wbcprof.model.preprocessing import PIXEL_INPUTS, pixel_table, to_grey_levels, windows
from wbcprof.model.regions import find_regions
from wbcprof.smear.canonical import SIDE


def small(cells, **parameters):
    settings = {
        "n_signatures": 12, "patch_size": 8, "step": 4, "max_iter": 2, "n_patches": 1500,
        "pools": ("mean",), "levels": (1,), "centres": (),
    }  # fmt: skip
    return wbcprof.fit(cells.images, **{**settings, **parameters})


def test_profiles_have_the_promised_shape_and_names(model, cells):
    profiles = wbcprof.profile(cells.images, model, labels=cells.labels)
    assert profiles.values.shape == (48, 24) and profiles.values.dtype == np.float32
    assert np.asarray(profiles) is not None and len(profiles) == 48
    assert profiles.feature_names == model.feature_names and len(profiles.feature_names) == 24
    assert profiles.labels == list(cells.labels)
    assert profiles.ids[3] == "image_000003"
    assert np.isfinite(profiles.values).all() and profiles.values.std(axis=0).max() > 0


@pytest.mark.parametrize("preprocessing", ["none", "dataset_mean", "patch_mean", "contrast"])
def test_kernel_profile_is_the_mean_of_the_codes(cells, preprocessing):
    model = small(cells, preprocessing=preprocessing)
    image = cells.images[5]
    codes = model.codes(image)
    profile = model.profile(image).values[0]
    np.testing.assert_allclose(profile, codes.mean(axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize("nonlinearity", ["sigmoid", "tanh", "soft_threshold"])
def test_every_nonlinearity_profiles(cells, nonlinearity):
    positive = nonlinearity == "sigmoid"
    model = small(cells, nonlinearity=nonlinearity, positive=positive, whiten=True)
    codes = model.codes(cells.images[0])
    np.testing.assert_allclose(
        model.profile(cells.images[0]).values[0], codes.mean(axis=(0, 1)), atol=1e-5
    )


def test_several_pools_and_a_pyramid_are_laid_out_as_named(cells):
    model = small(cells, pools=tuple(STATISTICS), levels=(1, 2), normalise=None)
    values = model.profile(cells.images[:3]).values
    assert values.shape == (3, 5 * 5 * 12) and len(model.feature_names) == 5 * 5 * 12
    for image, row in zip(cells.images, values, strict=False):
        codes = model.codes(image)
        masks = model.pooling.find_regions(*image.shape[:2], 8, 4).masks
        expected = model.pooling.pool_codes(codes, masks)
        np.testing.assert_allclose(row, expected, atol=2e-4)


def test_sparse_inference_pools_optimal_codes(model, cells):
    profile = model.profile(cells.images[:2], inference="sparse").values
    codes = model.codes(cells.images[1], inference="sparse")
    np.testing.assert_allclose(profile[1], codes.mean(axis=(0, 1)), atol=1e-6)
    assert (codes == 0).mean() > 0.5


def test_tolerance_bounds_and_states_the_error(model, cells):
    exact = model.profile(cells.images).values
    approximate = model.profile(cells.images, tolerance=1e-2)
    error = np.linalg.norm(approximate.values - exact) / np.linalg.norm(exact)
    assert 0 < error <= 1.5e-2 and approximate.metadata["tolerance"] == 1e-2
    assert 0 < approximate.metadata["relative_error"]
    through_function = wbcprof.profile(cells.images, model, tolerance=1e-2)
    np.testing.assert_array_equal(through_function.values, approximate.values)
    assert "tolerance" not in model.profile(cells.images[:1]).metadata
    with pytest.raises(ValueError, match="tolerance is for feed-forward profiles"):
        model.profile(cells.images, tolerance=1e-2, inference="sparse")


def test_a_tolerance_that_is_not_kept_is_said(model, cells):
    blank = np.full((30, 30, 3), 200, np.uint8)
    blank[::7] = 190
    with pytest.warns(ToleranceWarning, match="more than the tolerance"):
        profiles = model.profile([blank, *cells.images], tolerance=1e-2)
    assert profiles.metadata["relative_error"] > 1e-2


def test_a_stacked_layer_reads_the_code_maps_of_the_first(cells):
    stack = [{"n_signatures": 9, "patch_size": 2, "region": 3, "n_patches": 400}]
    model = small(cells, stack=stack)
    assert len(model.layers) == len(model.history) == 2
    assert model.layers[1].channels == 12
    values = model.profile(cells.images[:4]).values
    assert values.shape == (4, 9) and values.std(axis=0).max() > 0
    codes = model.codes(cells.images[0])
    read = model.normaliser.normalise(cells.images[0])
    first = model.layers[0].encoder().encode_map(read[None], 3)[0]
    np.testing.assert_allclose(first[1, 2], codes[3:6, 6:9].max(axis=(0, 1)), atol=1e-5)


def test_same_bits_for_any_batch_order_and_thread_count(model, cells):
    values = model.profile(cells.images, n_threads=1).values
    np.testing.assert_array_equal(values, model.profile(cells.images, n_threads=2).values)
    np.testing.assert_array_equal(values[::-1], model.profile(cells.images[::-1]).values)
    np.testing.assert_array_equal(values[7:8], model.profile(cells.images[7], n_threads=2).values)


def test_images_of_differing_sizes_and_an_iterator(model, cells):
    images = [cells.images[0], cells.images[1][:40], cells.images[2][:, 5:], cells.images[3]]
    values = model.profile(iter(images)).values
    for image, row in zip(images, values, strict=True):
        np.testing.assert_array_equal(row, model.profile(image).values[0])


def test_profiling_is_safe_from_many_threads(model, cells):
    expected = model.profile(cells.images[:6]).values
    results = [None] * 8

    def work(index):
        results[index] = model.profile(cells.images[:6], n_threads=1).values

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("inference", ["feedforward", "sparse"])
@pytest.mark.parametrize("shape", [(72, 72), (47, 61), (10, 10)])
def test_reconstruction_has_the_size_of_the_image_and_resembles_it(model, cells, inference, shape):
    image = cells.images[9][: shape[0], : shape[1]]
    rebuilt = model.reconstruct(image, inference=inference)
    assert rebuilt.shape == image.shape and rebuilt.dtype == np.uint8
    read = model.normaliser.normalise(image).astype(float)
    error = np.sqrt(np.mean((rebuilt - read) ** 2))
    assert error < 0.8 * read.std() or error < 30


def test_optimal_codes_reach_a_lower_objective_than_predicted_ones(model, cells):
    layer = model.layers[0]
    image = pixel_table(layer.pixel_input)[cells.images[9]]
    patches = windows(image, layer.patch_size, layer.step)
    rows = layer.preprocessing.apply(patches.reshape(-1, patches[0, 0].size))[0]

    def objective(inference):
        codes = layer.code(rows, inference, 1)
        error = np.sum((rows - codes @ layer.signatures) ** 2, axis=1)
        return error / 2 + layer.settings.alpha * np.abs(codes).sum(axis=1)

    assert (objective("sparse") <= objective("feedforward") * (1 + 1e-3)).all()


def test_optimal_and_predicted_codes_rebuild_the_image(model, cells):
    image = model.normaliser.normalise(cells.images[9]).astype(float)
    errors = {
        inference: np.mean((model.reconstruct(cells.images[9], inference=inference) - image) ** 2)
        for inference in ("feedforward", "sparse")
    }
    # Optimal codes are shrunk by their l1 norm: which of the two is nearer is not given.
    assert max(errors.values()) < 0.1 * image.var(), errors


@pytest.mark.parametrize("name", PIXEL_INPUTS)
def test_grey_levels_undo_the_pixel_table(name):
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_grey_levels(pixel_table(name)[levels], name), levels)


def test_minimum_size_lets_every_layer_see_a_patch(cells):
    stack = [{"n_signatures": 5, "patch_size": 2, "region": 3, "n_patches": 200}]
    model = small(cells, stack=stack)
    size = model.min_size
    assert model.profile(cells.images[0][:size, :size]).values.shape == (1, 5)
    with pytest.raises(ValueError, match="smaller"):
        model.profile([cells.images[0][: size - 1, : size - 1]])


# ---- the transformer over images ----


def test_profiler_is_a_transformer(cells):
    profiler = Profiler(8, 4, psd=PSD(8, max_iter=2), n_patches=800, random_state=1)
    values = profiler.fit_transform(cells.images)
    assert values.shape == (48, 3 * 2 * 8)
    assert profiler.get_feature_names_out().tolist() == profiler.model_.feature_names
    np.testing.assert_array_equal(values, profiler.model_.profile(cells.images).values)


def test_learning_from_folder_list_array_and_iterator_is_the_same(cells, tmp_path):
    from wbcprof.datasets import write_folder

    folder = write_folder(cells, tmp_path / "cells")
    paths = sorted(folder.glob("*/*.png"))
    settings = {"n_signatures": 6, "patch_size": 8, "max_iter": 1, "n_patches": 600}
    models = [wbcprof.fit(source, **settings) for source in (folder, paths, cells.images)]
    models.append(wbcprof.fit((image for image in cells.images), **settings))
    for other in models[1:]:
        np.testing.assert_array_equal(models[0].signatures, other.signatures)
    assert models[0].profile(folder).labels == list(cells.labels)


def test_learning_twice_with_one_seed_gives_one_model(cells):
    one, two, other = (small(cells, random_state=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.signatures, two.signatures)
    assert (one.signatures != other.signatures).any()


def test_a_bad_image_is_skipped_counted_and_named(model, cells, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    from wbcprof.datasets import write_folder

    write_folder(cells, tmp_path / "good")
    with pytest.warns(ImageWarning, match="1 of 49 images .* skipped.*broken.png"):
        assert len(model.profile(tmp_path)) == 48


def test_fit_within_a_small_budget_resumes_from_its_checkpoint(cells, tmp_path):
    settings = {"memory_budget": 40_000, "n_signatures": 6, "n_patches": 800, "tol": 0.0}
    settings["stack"] = [{"n_signatures": 4, "n_patches": 300, "region": 2}]
    whole = small(cells, **settings, max_iter=2)
    file = tmp_path / "state"
    small(cells, **settings, max_iter=1, checkpoint=file)
    (tmp_path / "state.layer1").unlink()  # learnt from another first layer
    resumed = small(cells, **settings, max_iter=2, checkpoint=file)
    for one, other in zip(whole.layers, resumed.layers, strict=True):
        np.testing.assert_array_equal(one.signatures, other.signatures)
        np.testing.assert_array_equal(one.weights, other.weights)
    assert "checkpoint" not in resumed.parameters


# ---- bad input ----


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_signatures": 0}, "n_signatures must be a positive integer, got 0"),
        ({"patch_size": 2.5}, "patch_size must be a positive integer, got 2.5"),
        ({"step": 9}, r"step must be at most the patch size \(8 px\).*got 9"),
        ({"n_patches": -1}, "n_patches must be a positive integer"),
        ({"learn_centre": 0}, "learn_centre must be above 0 and at most 1, got 0"),
        ({"memory_budget": 0}, "memory_budget must be a positive integer, got 0"),
        ({"memory_budget": 191}, r"must hold a patch at least \(192 bytes\), got 191"),
        ({"pools": ("mean", "median")}, "pools must be .*one of .*got .*'median'"),
        ({"levels": (0,)}, "levels must be .*an integer from 1 to 64"),
        ({"pools": ()}, "pools must be a sequence, not empty"),
        ({"random_state": None}, "random_state must be an integer from 0"),
        ({"random_state": -1}, "random_state must be an integer from 0"),
        ({"stack": [{"step": 0}]}, "step of a stacked layer must be a positive integer, got 0"),
        ({"pixel_input": "lab"}, "pixel_input must be one of"),
        ({"stack": [{"signatures": 3}]}, r"a stacked layer takes the keys .* got \['signatures'\]"),
        ({"stack": [1]}, r"stack must be a list of mappings, .*got \[1\]"),
        ({"stack": 3}, "stack must be a list of mappings, .*got 3"),
        ({"stack": {"step": 2}}, "stack must be a list of mappings"),
        ({"max_iter": 0}, "max_iter must be a positive integer"),
        ({"n_threads": 0}, "n_threads must be a positive integer"),
        ({"preprocessing": "zca"}, "preprocessing must be one of"),
    ],
)
def test_parameters_out_of_range_are_refused(cells, parameters, message):
    with pytest.raises(ValueError, match=message):
        small(cells, **parameters)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0}, "step must be None or an integer from 1 to 2147483647, got 0"),
        (
            {"inference": "fast"},
            r"inference must be one of \('feedforward', 'sparse'\), got 'fast'",
        ),
        ({"n_threads": -2}, "n_threads must be a positive integer"),
        ({"tolerance": 1.0}, "tolerance must be None or above 0 and below 1, got 1.0"),
        ({"labels": ["a"]}, r"Length of labels \(1\) must match number of images \(48\)"),
    ],
)
def test_bad_profiling_arguments_are_refused(model, cells, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.profile(cells.images, **arguments)


def test_unknown_options_of_profiling_are_named(model, cells):
    with pytest.raises(TypeError, match="steps: no such parameter of profiling, which takes step,"):
        model.profile(cells.images[:1], steps=2)


def test_transform_keeps_one_row_per_image(cells):
    profiler = Profiler(8, 4, psd=PSD(6, max_iter=1), n_patches=500).fit(cells.images)
    with pytest.raises(ValueError, match=r"image_000001.*smaller"):
        profiler.transform([cells.images[0], cells.images[1][:5, :5]])


def test_a_model_is_asked_for_clearly(model, cells):
    with pytest.raises(TypeError, match=r"model must be a Model.*got str"):
        wbcprof.profile(cells.images, "m.wbcprof")


def test_small_images_are_rebuilt_by_the_first_layer_of_a_stack(cells):
    stack = [{"n_signatures": 5, "region": 3, "n_patches": 200}]
    model = small(cells, stack=stack, normalise=None)
    assert model.reconstruct(cells.images[0][:9, :9]).shape == (9, 9, 3)
    model = small(cells, stack=stack)
    assert model.reconstruct(cells.images[0][:24, :24]).shape == (112, 112, 3)
    with pytest.raises(ValueError, match="23x72 px, smaller than the 24x24 px"):
        model.reconstruct(cells.images[0][:23])


def test_constant_images_are_skipped_and_flat_patches_are_not(model):
    image = np.full((30, 30, 3), 255, np.uint8)
    with pytest.raises(ValueError, match="image_000000: of one colour"):
        model.profile(image)
    image[:5] = 90
    assert np.isfinite(model.profile(image).values).all()


def test_learning_from_images_of_nothing_is_refused():
    bars = np.full((3, 30, 30, 3), 255, np.uint8)
    bars[:, :4] = 245  # no constant image, but nothing in it to learn
    for normalise, message in (
        ("canonical", "stained leukocyte each on a lit background; found one in 0 of 3"),
        ("reinhard", "stained pixels"),
        (None, "hold no signal"),
    ):
        with pytest.raises(ValueError, match=message):
            wbcprof.fit(
                bars, n_signatures=4, patch_size=8, n_patches=100, normalise=normalise, augment=0,
            )  # fmt: skip


def test_profiles_are_of_the_colours_learnt_from(cells):
    darker = np.rint(cells.images * np.array([0.8, 0.7, 0.75])).astype(np.uint8)
    model = small(cells, normalise="reinhard")
    values, others = model.profile(cells.images).values, model.profile(darker).values
    plain = small(cells, normalise=None)
    assert plain.normaliser is None

    def distance(a, b):
        return np.linalg.norm(a - b) / np.linalg.norm(b)

    unnormalised = plain.profile(cells.images).values
    assert distance(others, values) < 0.3 * distance(plain.profile(darker).values, unnormalised)
    read = np.stack([model.normaliser.normalise(image) for image in cells.images])
    model.normaliser = None
    np.testing.assert_array_equal(model.profile(read).values, values)


def test_default_profiles_pool_over_central_discs(cells):
    model = wbcprof.fit(cells.images[:6], n_signatures=8, max_iter=1, n_patches=600)
    names = model.feature_names
    assert len(names) == 3 * 2 * 8 and names[8] == "Cells_Sqrt_Signature_0001_Centre66"
    for inference in ("feedforward", "sparse"):
        values = model.profile(cells.images[:2], inference=inference).values
        assert values.shape == (2, 48)
        codes = model.codes(cells.images[1], inference=inference)
        regions = find_regions(SIDE, SIDE, 6, 2, (1,), (0.66,))
        inside = codes[regions.masks[1]]
        np.testing.assert_allclose(values[1, 24:32], inside.std(axis=0), atol=2e-4)


def test_paper_preset(cells):
    assert set(PRESETS["paper"]) <= set(Profiler().get_params()) | set(PSD().get_params())
    model = wbcprof.fit(cells.images, preset="paper", n_signatures=8, max_iter=1, n_patches=600)
    assert (model.layers[0].patch_size, model.layers[0].step) == (20, 5)
    assert model.feature_names[0] == "Cells_Mean_Signature_0001" and len(model.feature_names) == 8
    with pytest.raises(ValueError, match="preset must be one of"):
        wbcprof.fit(cells.images, preset="best")


def test_models_and_profiles_are_one_line_at_a_prompt(model, cells):
    assert repr(model).startswith("<Model layers: 24 signatures of 10 px; features: 24 (mean);")
    profiles = model.profile(cells.images, labels=[None, *cells.labels[1:]])
    assert repr(profiles).startswith("<Profiles cells: 48; features: 24, Cells_Mean")
    assert "unlabelled: 1" in repr(profiles)


def test_a_tolerance_is_for_one_layer(cells):
    model = small(cells, stack=[{"n_signatures": 5, "region": 3, "n_patches": 200}])
    with pytest.raises(ValueError, match="tolerance is for feed-forward profiles of one-layer"):
        model.profile(cells.images[:2], tolerance=1e-2)
