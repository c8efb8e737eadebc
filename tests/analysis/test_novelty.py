"""Strange cells and sets: found, said in words, and no more often than stated."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import wbcprof
from wbcprof.analysis import (
    check_set,
    flag_images,
    name_cells,
    novelty,
    suggest,
    summarise,
)
from wbcprof.analysis.novelty import StrangeCellsWarning, warn_of_set
from wbcprof.datasets import make_leukocytes
from wbcprof.smear import MEASURES

TYPES = ["lymphocyte", "monocyte", "neutrophil"]


@pytest.fixture(scope="module")
def known():
    """Generated cells, not real data."""
    return make_leukocytes(150, size=72, types=TYPES)


@pytest.fixture(scope="module")
def model(known):
    learnt = wbcprof.fit(known.images[::3], n_signatures=16, n_patches=2000, max_iter=2)
    learnt.classifier = wbcprof.train(learnt, known.images, known.labels, augment=0)
    return learnt


@pytest.fixture(scope="module")
def new():
    return make_leukocytes(60, size=72, types=TYPES, random_state=5)


@pytest.fixture(scope="module")
def profiles(model, new):
    return model.profile(new.images, labels=new.labels)


@pytest.fixture(scope="module")
def eosinophils(model):
    return model.profile(make_leukocytes(40, size=72, types=["eosinophil"], random_state=6).images)


def joined(*parts):
    return replace(
        parts[0],
        values=np.concatenate([part.values for part in parts]),
        ids=[f"{k}-{name}" for k, part in enumerate(parts) for name in part.ids],
        labels=None,
        measures=np.concatenate([part.measures for part in parts]),
    )


def test_known_cells_are_named_and_few_are_called_strange(model, profiles):
    cells = name_cells(model, profiles)
    assert (cells.named == profiles.labels).mean() > 0.9
    assert np.isin(cells.calls, ["unsure", "unlike"]).mean() < 0.05
    named = ~np.isin(cells.calls, ["unsure", "unlike"])
    assert (cells.calls[named] == cells.named[named]).all()


def test_unlike_cells_have_no_probabilities(model, eosinophils):
    cells = name_cells(model, eosinophils, false_alarms=0.05)
    unlike = cells.calls == "unlike"
    assert unlike.sum() > 20
    assert np.isnan(cells.probabilities[unlike]).all()
    assert np.isfinite(cells.probabilities[~unlike]).all()
    assert (cells.novelty_p[unlike] <= 0.05).all()


def test_more_false_alarms_call_more_cells_strange(model, profiles):
    rates = [0.01, 0.1, 0.4]
    n = [
        np.isin(name_cells(model, profiles, false_alarms=r).calls, ["unsure", "unlike"]).sum()
        for r in rates
    ]
    assert n[0] < n[1] < n[2]
    for rate, count in zip(rates, n, strict=True):
        assert count / len(profiles) < rate + 4 * np.sqrt(rate * (1 - rate) / len(profiles))


def test_an_image_without_a_cell_is_unlike(model, new):
    empty = np.random.default_rng(1).integers(235, 245, new.images[0].shape, dtype=np.uint8)
    images = np.stack([new.images[0], empty])
    with pytest.warns(wbcprof.images.ImageWarning, match="no leukocyte"):
        profiles = model.profile(images)
    cells = name_cells(model, profiles)
    assert cells.calls[1] == "unlike" and np.isnan(cells.novelty_p[1])
    assert flag_images(model, profiles) == [[], ["no cell"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"false_alarms": 0}, "false_alarms"),
        ({"false_alarms": 0.6}, "false_alarms"),
        ({"reject_below": 1.5}, "reject_below"),
    ],
)
def test_rates_out_of_range(model, profiles, changes, message):
    with pytest.raises(ValueError, match=message):
        name_cells(model, profiles, **changes)


def test_profiles_of_another_model_are_refused(model, profiles, known):
    with pytest.raises(ValueError, match="holds no classifier"):
        name_cells(replace(model, classifier=None), profiles)
    other = wbcprof.fit(known.images[:30], n_signatures=8, n_patches=400, max_iter=1)
    for call in (name_cells, check_set):
        with pytest.raises(ValueError, match="of this model"):
            call(model, other.profile(known.images[:20]))
    alike = wbcprof.fit(known.images[1::3], n_signatures=16, n_patches=2000, max_iter=2)
    foreign = alike.profile(known.images[:20])
    for call in (name_cells, check_set):
        with pytest.raises(ValueError, match=r"of another model: model '[0-9a-f]{16}' rather than"):
            call(model, foreign)
    with pytest.raises(ValueError, match=r"of the model [0-9a-f]{16}, the classifier names those"):
        model.classifier.predict(foreign)
    older = replace(profiles, metadata={})  # as of tables without metadata
    assert len(model.classifier.predict(older)) == len(older)


def test_features_in_another_order_are_said_to_be(model, profiles):
    turned = replace(profiles, values=profiles.values[:, ::-1],
                     feature_names=profiles.feature_names[::-1])  # fmt: skip
    with pytest.raises(ValueError, match="in the order of this model's, got them in another"):
        name_cells(model, turned)


def test_no_profiles_are_an_error(model, profiles):
    for call in (name_cells, lambda *given: suggest(*given, 3)):
        with pytest.raises(ValueError, match="expected profiles of one image or more, got none"):
            call(model, profiles.at([]))


def test_cells_of_which_nothing_was_measured_are_strange_without_a_warning(model, profiles):
    unknown = replace(profiles, measures=np.full_like(profiles.measures, np.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(name_cells(model, unknown).calls) == {"unlike"}
        assert not check_set(model, unknown).familiar


def test_profiles_coded_otherwise_are_refused(model, new):
    for other in ({"step": 5}, {"inference": "sparse", "step": 12}):
        coded = model.profile(new.images[:12], **other)
        for call in (name_cells, check_set, suggest):
            with pytest.raises(ValueError, match="coded otherwise: "):
                call(model, coded)
        with pytest.raises(ValueError, match="slide 'a': the profiles are coded otherwise"):
            summarise(model, coded, "a")


def test_a_model_without_memory_says_so(model, profiles, known):
    bare = wbcprof.TypeClassifier().fit(model.profile(known.images), known.labels)
    old = replace(model, classifier=bare)
    with pytest.warns(StrangeCellsWarning, match="the model has no memory.*wbcprof adapt"):
        cells = name_cells(old, profiles)
    assert np.isnan(cells.novelty_p).all() and np.isfinite(cells.probabilities).all()
    found = check_set(old, profiles)
    assert not found.known and found.familiar and np.isnan(found.p)
    with pytest.warns(StrangeCellsWarning, match="come without measures"):
        name_cells(model, replace(profiles, measures=None))
    assert "without measures" in check_set(model, replace(profiles, measures=None)).sentence


def test_too_few_cells_for_a_rate(model, profiles):
    with pytest.warns(StrangeCellsWarning, match="no cell can be called strange"):
        name_cells(model, profiles, false_alarms=0.001)


def test_sets_of_the_known_world_are_familiar(model, profiles):
    """One in a hundred sets is not; of forty, more than three are less likely than 1 in 1000."""
    rng = np.random.default_rng(0)
    flagged = 0
    for _ in range(40):
        some = profiles.at(rng.choice(len(profiles), 40, replace=False))
        flagged += not check_set(model, some).familiar
    assert flagged <= 3


def test_a_set_of_one_type_is_familiar(model, profiles):
    for name in TYPES:
        rows = [label == name for label in profiles.labels]
        assert check_set(model, profiles.at(rows)).familiar, name


@pytest.mark.parametrize(
    ("change", "finding", "says"),
    [
        (lambda x: np.minimum(x * 0.9, 255), "BackgroundRed", r"background red -\d+%"),
        (lambda x: x[:, ::2, ::2].repeat(1, 0), "NucleusSize", r"nuclei -\d+% across"),
        (
            lambda x: (x + np.roll(x, 2, 1) + np.roll(x, 2, 2)) / 3,
            "Focus", "images more blurred",
        ),
        (lambda x: 255 * (x / 255.0) ** 0.5, "DensityRed", r"nuclei stained in red -\d+%"),
    ],
)  # fmt: skip
def test_another_instrument_is_found_and_named(model, new, change, finding, says):
    changed = np.rint(change(new.images[::2].astype(float))).astype(np.uint8)
    found = check_set(model, model.profile(changed))
    assert found.known and not found.familiar and found.p <= 0.01
    assert found.findings[finding] <= 0.01
    assert np.all(np.diff(list(found.findings.values())) >= 0)
    import re

    assert re.search(says, found.sentence), found.sentence
    assert len(found.signatures) == 5
    assert {name for name, _ in found.signatures} <= set(model.feature_names)


def test_many_cells_of_another_type_are_found(model, profiles, eosinophils):
    found = check_set(model, joined(profiles, eosinophils))
    assert not found.familiar and found.findings["Strange"] <= 0.01
    assert "unlike those known" in found.sentence


def test_after_adapting_the_laboratory_is_familiar(model, new):
    darker = (new.images * 0.8).astype(np.uint8)
    assert not check_set(model, model.profile(darker[1::2])).familiar
    there = model.adapt(darker[::2])
    assert check_set(there, there.profile(darker[1::2])).familiar
    assert not check_set(there.unadapted(), there.profile(darker[1::2])).familiar


def test_few_cells_tell_nothing_of_a_set(model, profiles):
    found = check_set(model, profiles.at([0]))
    assert not found.known and "told from 1 cell;" in found.sentence and found.familiar


def test_a_strange_set_is_warned_of_once_or_an_error(model, new):
    found = check_set(model, model.profile((new.images * 0.8).astype(np.uint8)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_of_set(found)
    assert [str(w.message) for w in said] == [found.sentence]
    with pytest.raises(ValueError, match="not from the world"):
        warn_of_set(found, strict=True)


def test_kolmogorov_smirnov_against_scipy():
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    for n, m, shift in ((30, 500, 0.0), (100, 300, 0.15), (200, 200, 0.1)):
        reference = np.sort(rng.random(m))
        new = np.clip(rng.random(n) + shift, 0, 1)
        ranks = np.searchsorted(reference, new) / m
        expected = ks_2samp(new, reference, method="asymp").pvalue
        found = novelty._same_distribution(ranks, m)
        assert found == pytest.approx(expected, rel=0.35, abs=0.02)


def test_counts_of_strange_cells_against_simulation():
    """Of 400 left out, the 20 strangest; how often are 5 or more of 30 new ones among them?"""
    rng = np.random.default_rng(0)
    n = 0
    for _ in range(4000):
        line = np.sort(rng.random(400))[-20]
        n += (rng.random(30) >= line).sum() >= 5
    assert novelty._as_many(5, 30, 20 / 401, 400) == pytest.approx(n / 4000, abs=0.008)


# Quality of single images


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda x: x * 0.4, "underexposed"),
        (lambda x: x * 1.6, "overexposed"),
        (lambda x: x * 1.6, "clipped"),
        (lambda x: x * (1.0, 1.0, 0.75), "colour cast"),
        (lambda x: x[24:], "cut cell"),
    ],
)
def test_what_is_wrong_with_an_image(model, new, change, flag):
    images = [np.clip(change(image.astype(float)), 0, 255).astype(np.uint8) for image in new.images]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flags = flag_images(model, model.profile(images[::4]))
    assert np.mean([flag in own for own in flags]) > 0.5
    clean = flag_images(model, model.profile(new.images[::4]))
    assert np.mean([flag in own for own in clean]) < 0.05


def test_blurred_and_several_cells(model, new):
    from scipy import ndimage

    blurred = np.stack([ndimage.gaussian_filter(x, (3, 3, 0)) for x in new.images[:20]])
    assert np.mean(["blurred" in own for own in flag_images(model, model.profile(blurred))]) > 0.6
    pairs = np.concatenate([new.images[:20], new.images[20:40]], axis=2)
    several = flag_images(model, model.profile(pairs))
    assert np.mean(["several cells" in own or "cut cell" in own for own in several]) > 0.6


def test_duplicates_but_the_first_are_flagged(model, new):
    images = [*new.images[:4], new.images[1][:, ::-1]]
    flags = flag_images(model, model.profile(images), images)
    assert [own == ["duplicate"] for own in flags] == [False, False, False, False, True]


def test_flags_need_measures(model, profiles):
    with pytest.raises(ValueError, match="come without measures"):
        flag_images(model, replace(profiles, measures=None))


# Which cells to look at


def test_strange_cells_are_suggested_first(model, profiles, eosinophils):
    mixed = joined(profiles, eosinophils.at(np.arange(6)))
    first = suggest(model, mixed, 12)
    assert len(first) == 12 and len({cell.index for cell in first}) == 12
    assert sum(cell.index >= len(profiles) for cell in first) >= 4
    assert all(mixed.ids[cell.index] == cell.image_id for cell in first)


def test_near_identical_cells_are_suggested_once(model, profiles, eosinophils):
    same = joined(profiles, *[eosinophils.at([0])] * 5)
    first = suggest(model, same, 8)
    assert sum(cell.index >= len(profiles) for cell in first) == 1


def test_all_cells_at_most(model, profiles):
    assert sorted(c.index for c in suggest(model, profiles.at([3, 4, 5]), 50)) == [0, 1, 2]
    assert [c.index for c in suggest(model, profiles.at([3]), 5)] == [0]
    with pytest.raises(ValueError, match="n must be"):
        suggest(model, profiles, 0)


def test_without_a_memory_unsure_cells_come_first(model, profiles, known):
    bare = wbcprof.TypeClassifier().fit(model.profile(known.images), known.labels)
    with pytest.warns(StrangeCellsWarning):
        first = suggest(replace(model, classifier=bare), profiles, 10)
    sure = bare.predict_proba(profiles.values).max(axis=1)
    assert sure[[c.index for c in first]].mean() < sure.mean()


def test_measures_are_named():
    assert len(set(MEASURES)) == len(MEASURES) == 13


def test_an_image_that_is_listed_twice_is_a_duplicate_once(model, new, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path, image in zip(paths, new.images[:3], strict=True):
        Image.fromarray(image).save(path)
    given = [paths[0], paths[1], paths[0], paths[2], paths[1], paths[0]]
    flags = flag_images(model, model.profile(given), given)
    expected = [False, False, True, False, True, True]
    assert ["duplicate" in own for own in flags] == expected
