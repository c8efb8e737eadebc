"""Learning that goes on from a model: it starts where that ended, what gives it meaning stays."""

from pathlib import Path

import numpy as np
import pytest

import wbcprof
from wbcprof.cli import main
from wbcprof.datasets import write_folder
from wbcprof.learning.learner import Learner
from wbcprof.learning.profiler import PRESETS

LEARNT = {"n_signatures": 12, "patch_size": 8, "n_patches": 1200, "max_iter": 2}
MODELS = Path(__file__).parents[1] / "models"
LATE = ("error_inferred", "error_optimal", "objective")


@pytest.fixture(scope="module")
def further(model, cells):
    return wbcprof.fit(cells.images, model=model)


def test_it_gets_better_on_the_same_images(model, further):
    before, after = model.history[0], further.history[0]
    assert after[: len(before)] == before and len(after) > len(before)
    assert after[len(before)]["objective"] < before[-1]["objective"]  # from the first iteration
    for name in LATE:
        assert after[-1][name] < before[-1][name], name


def test_what_gives_it_meaning_stays(model, further):
    assert further.normaliser is model.normaliser and further.pooling == model.pooling
    assert further.layers[0].preprocessing is model.layers[0].preprocessing
    assert further.feature_names == model.feature_names
    assert further.instrument == model.instrument
    differing = {n for n, v in further.parameters.items() if v != model.parameters[n]}
    assert differing == {"stack"} and not further.parameters["stack"]  # () and []
    told = further.provenance["gone_on_from"]
    assert told == {"model": model.fingerprint, **model.provenance}
    alike = np.sum(further.layers[0].signatures * model.layers[0].signatures, axis=1)
    assert np.median(alike) > 0.9  # each is the one that it was, further on


def test_profiles_and_classifiers_of_the_model_before_are_refused(model, further, cells, tmp_path):
    assert further.fingerprint != model.fingerprint and further.classifier is None
    profiles = model.profile(cells.images)
    classifier = wbcprof.TypeClassifier().fit(profiles, cells.labels)
    with pytest.raises(ValueError, match=f"of the model {further.fingerprint}"):
        classifier.predict(further.profile(cells.images[:3]))
    further.classifier = classifier
    try:
        with pytest.raises(ValueError, match=f"names profiles of the model {model.fingerprint}"):
            further.save(tmp_path / "m")
    finally:
        further.classifier = None
    assert not list(tmp_path.iterdir())


def test_stacked_layers_go_on_each_from_the_one_below(cells):
    stack = [{"n_signatures": 8, "n_patches": 600}]
    model = wbcprof.fit(cells.images, stack=stack, normalise=None, augment=0, **LEARNT)
    further = wbcprof.fit(cells.images, model=model, max_iter=4)
    assert further.parameters["stack"] == [{**stack[0], "patch_size": 2, "step": 1, "region": 4}]
    for before, after, old, new in zip(
        model.history, further.history, model.layers, further.layers, strict=True
    ):
        assert after[-1]["error_inferred"] < 1.01 * before[-1]["error_inferred"]
        assert new.preprocessing is old.preprocessing
    assert wbcprof.fit(cells.images, model=model, max_iter=4).fingerprint == further.fingerprint


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"whiten": True},
        {"preprocessing": "contrast"},
        {"nonlinearity": "sigmoid"},
        {"nonlinearity": "soft_threshold", "positive": False},
    ],
)
def test_it_starts_where_the_layer_ended(how):
    random = np.random.default_rng(0)
    rows = random.random((400, 27), np.float32) @ random.random((27, 27), np.float32)
    psd = wbcprof.PSD(6, max_iter=2, random_state=0, **how).fit(rows)
    layer = psd.to_layer(3, 1, "raw", None)
    learner = Learner(layer.settings, layer.preprocessing, np.random.RandomState(0), 27, 1)
    learner.start_from(layer, layer.preprocessing.apply(rows[:100])[0])
    now = learner.folded()
    for name in ("weights", "bias", "gain", "threshold"):
        if getattr(layer, name) is not None:
            largest = np.abs(getattr(layer, name)).max()
            np.testing.assert_allclose(now[name], getattr(layer, name), atol=1e-4 * largest)
    assert np.array_equal(learner.signatures, layer.signatures)
    assert learner.statistics.A.any()


def test_other_settings_than_the_models_are_refused_by_name(model, cells):
    for name, value in {"patch_size": 8, "n_signatures": 9, "alpha": 0.2, "pools": "max",
                        "normalise": None, "stack": [{}]}.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} is .* in the model to go on from, and"):
            wbcprof.fit(cells.images, model=model, **{name: value})
    with pytest.raises(ValueError, match=r"n_signatures is 24 in the model .*, and 512 here"):
        wbcprof.Profiler(10, normalise="background", pools="mean", levels=(1,), centres=()).fit(
            cells.images, model=model
        )
    with pytest.raises(ValueError, match="a preset is for a new model"):
        wbcprof.fit(cells.images, model=model, preset="paper")


def test_a_checkpoint_is_of_the_model_gone_on_from(model, further, cells, tmp_path):
    on = {"checkpoint": tmp_path / "state"}
    wbcprof.fit(cells.images, model=model, max_iter=1, **on)
    resumed = wbcprof.fit(cells.images, model=model, **on)
    assert resumed.fingerprint == further.fingerprint
    with pytest.raises(ValueError, match="is of another fit: signatures gone on from was"):
        wbcprof.fit(cells.images, model=further, **on)
    with pytest.raises(ValueError, match=r"is past max_iter \(1\)"):
        wbcprof.fit(cells.images, model=model, max_iter=1, **on)


def test_models_of_the_first_format_learn_on(cells):
    stored = wbcprof.load(MODELS / "format-1-0.1.0-discs.wbcprof")
    further = wbcprof.fit(cells.images, model=stored, n_patches=600, max_iter=1)
    assert further.feature_names == stored.feature_names


def test_fit_of_the_command_line_goes_on(cells, tmp_path, capsys):
    folder = str(write_folder(cells, tmp_path / "cells"))
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    wbcprof.fit(folder, augment=0, **LEARNT).save(old)
    assert main(["fit", folder, "-o", new, "--model", old, "--max-iter", "1"]) == 0
    assert "iteration 3: " in capsys.readouterr().out
    made = wbcprof.load(new)
    assert made.provenance["gone_on_from"]["model"] == wbcprof.load(old).fingerprint
    assert len(made.history[0]) == 3 and len(made.classifier.classes_) == 6
    assert made.parameters["augment"] == 0
    assert main(["fit", folder, "-o", new, "--model", old, "--patch-size", "6"]) == 1
    assert "--patch-size is 8 in the model to go on from, and 6 here" in capsys.readouterr().err


def test_a_preset_gives_what_is_not_given():
    own = wbcprof.Profiler(preset="paper", step=10)
    taken = own._own() | {"n_components": own._psd(0).n_components}
    assert {n: taken[n] for n in PRESETS["paper"]} == {**PRESETS["paper"], "step": 10}
    assert wbcprof.Profiler(preset="paper", normalise=None).min_size == 20
    with pytest.raises(ValueError, match=r"preset must be one of .*'paper'.*, got 'best'"):
        wbcprof.Profiler(preset="best").fit(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="patch_size must be a positive integer, got 'large'"):
        wbcprof.Profiler("large").fit(np.zeros((1, 8, 8, 3), np.uint8))
