"""Smears to counts: what is counted, what is set aside, and what is said where little is known."""

import csv
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from crops import crops_of
from scipy.stats import binomtest, poisson

import wbcprof
from wbcprof.analysis import StrangeCellsWarning, count_smears
from wbcprof.analysis.counting import poisson_interval
from wbcprof.analysis.quality import warn_of_fields
from wbcprof.analysis.smears import warn_of_smears
from wbcprof.datasets import make_smear, write_smear
from wbcprof.images import Box, read_boxes
from wbcprof.smear import SmearWarning

TYPES = {"lymphocyte": 1, "neutrophil": 1}


@pytest.fixture(scope="module")
def smear():
    """Generated fields, not real data, of the world that the model knows."""
    return make_smear(8, pixel_size=0.2, n_leukocytes=8, shares=TYPES, random_state=50)


@pytest.fixture(scope="module")
def result(smear_model, smear):
    slides = ["a"] * 5 + ["b"] * 3
    return count_smears(
        smear_model, smear.images, slides=slides, pixel_size=smear.pixel_size, false_alarms=0.02
    )


def test_leukocytes_are_counted_by_type(smear, result):
    assert result.types == ["lymphocyte", "neutrophil"]
    assert [slide.slide for slide in result.slides] == ["a", "b"]
    assert [slide.n_fields for slide in result.slides] == [5, 3]
    whole = smear.truth[(smear.truth["number"] > 0) & ~smear.truth["cut"]]
    right = 0
    for named in result.cells:
        if named.call == "cut":
            continue
        number = int(named.cell.field.rsplit("_", 1)[1])
        own = whole[whole["field"] == number]
        near = own[np.hypot(own["x"] - named.cell.x, own["y"] - named.cell.y).argmin()]
        right += near["label"] == named.type
    assert right >= 0.85 * len(whole)


def test_every_cell_is_in_one_place(result):
    for slide in result.slides:
        own = [named for named in result.cells if named.cell.slide == slide.slide]
        assert slide.n_found == len(own)
        assert slide.counts.sum() + slide.n_unsure + slide.n_unlike + slide.n_cut == len(own)
        assert slide.counts.tolist() == [sum(n.call == t for n in own) for t in slide.types]
        cut = sum("cut nucleus" in named.cell.flags for named in own)
        assert slide.n_cut == cut


def test_limits(result):
    slide = result.slides[0]
    total = int(slide.counts.sum())
    for i, count in enumerate(slide.counts):
        wanted = binomtest(int(count), total).proportion_ci(method="exact")
        assert (slide.low[i], slide.high[i]) == pytest.approx((wanted.low, wanted.high))
    n, m = slide.counts[1], slide.counts[0]
    wanted = binomtest(int(n), int(n + m)).proportion_ci(method="exact")
    odds = [n / m, wanted.low / (1 - wanted.low), wanted.high / (1 - wanted.high)]
    assert slide.nlr == pytest.approx(odds)
    assert slide.corrected is not None and slide.why_not_corrected == ""
    assert slide.per_field[0] == slide.n_found / 5


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_poisson_limits(count):
    low, high = (float(limit) for limit in poisson_interval(count, 0.9))
    assert poisson.cdf(count, high) == pytest.approx(0.05)
    if count:
        assert poisson.sf(count - 1, low) == pytest.approx(0.05)
    else:
        assert low == 0


def test_types_that_boxes_state_are_taken(smear_model, smear, tmp_path):
    folder = write_smear(smear, tmp_path / "smear")
    result = count_smears(
        smear_model, folder / "images", boxes=folder / "boxes.csv", pixel_size=smear.pixel_size
    )
    truth = smear.truth[smear.truth["number"] > 0]
    (slide,) = result.slides
    assert slide.slide == "images" and slide.counts.sum() == len(truth)
    assert slide.counts.tolist() == [(truth["label"] == name).sum() for name in slide.types]
    assert slide.corrected is None and slide.why_not_corrected == "types were given, not called"


def test_types_that_the_model_does_not_know_are_counted(smear_model, smear):
    boxes = {"image_000000": [Box("image_000000", 100, 100, 220, 220, label="blast")]}
    result = count_smears(smear_model, smear.images[:1], boxes=boxes, pixel_size=0.2)
    assert result.types == ["lymphocyte", "neutrophil", "blast"]
    assert result.slides[0].counts.tolist() == [0, 0, 1]


def test_no_leukocytes_are_none_with_an_upper_limit(smear_model):
    fields = [np.full((300, 300, 3), 240, np.uint8)] * 4
    (slide,) = count_smears(smear_model, fields, pixel_size=0.2).slides
    assert slide.n_found == 0 and slide.counts.tolist() == [0, 0]
    assert slide.per_field == pytest.approx((0, 0, 3.689 / 4), abs=1e-3)
    assert np.isnan(slide.share).all() and math.isnan(slide.nlr[0])
    assert slide.why_not_corrected == "no cell has a type"


def test_strange_cells_are_set_aside_and_said(smear_model):
    strange = make_smear(
        4, pixel_size=0.2, n_leukocytes=8, shares={"eosinophil": 1}, random_state=9
    )
    result = count_smears(smear_model, strange.images, pixel_size=0.2, false_alarms=0.02)
    (slide,) = result.slides
    assert slide.n_unlike + slide.n_unsure > 0.5 * slide.n_found
    assert not slide.check.familiar
    with pytest.warns(StrangeCellsWarning, match="all fields: these cells are not from the world"):
        warn_of_smears(result)
    with pytest.raises(ValueError, match="all fields: these cells are not from the world"):
        warn_of_smears(result, strict=True)


def test_strange_cells_of_many_small_slides_are_said(smear_model):
    strange = make_smear(
        8, pixel_size=0.2, n_leukocytes=3, shares={"eosinophil": 1}, random_state=9
    )
    slides = [f"slide {number}" for number in range(8)]
    result = count_smears(smear_model, strange.images, slides=slides, pixel_size=0.2)
    assert all(slide.check.familiar for slide in result.slides)  # each is too small to tell
    with pytest.warns(StrangeCellsWarning, match="all slides together: these cells are not"):
        warn_of_smears(result)


def test_adapted_to_what_is_found(smear_model, smear):
    dim = [(image * 0.7).astype(np.uint8) for image in smear.images]
    result = count_smears(smear_model, dim, pixel_size=0.2, adapt=True)
    assert "what it mistakes among them" in result.slides[0].why_not_corrected
    assert result.n_adapted == len(result.cells) > 20 and result.slides[0].corrected is None
    with pytest.raises(ValueError, match=r"adapted to 20 cells or more, and \d+ were found"):
        count_smears(smear_model, dim[:1], pixel_size=0.2, adapt=True)
    assert "adapted" not in smear_model.provenance
    assert sum(slide.n_unlike for slide in result.slides) <= 3


def test_what_the_model_does_not_say_is_not_corrected(smear_model, smear):
    from copy import copy

    older = copy(smear_model.classifier)
    older.confusion_ = None
    model = replace(smear_model, classifier=older)
    (slide,) = count_smears(model, smear.images[:3], pixel_size=0.2).slides
    assert slide.corrected is None and "learn its classifier again" in slide.why_not_corrected


def test_tables(result, smear, tmp_path):
    result.write_cells(tmp_path / "cells.csv")
    result.write_counts(tmp_path / "counts.csv")
    with open(tmp_path / "counts.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["slide"], row["type"]) for row in rows] == [
        ("a", "lymphocyte"), ("a", "neutrophil"), ("b", "lymphocyte"), ("b", "neutrophil")
    ]  # fmt: skip
    assert int(rows[0]["count"]) == result.slides[0].counts[0]
    frame = result.to_pandas()
    assert frame["count"].tolist() == [int(row["count"]) for row in rows]
    boxes = read_boxes(tmp_path / "cells.csv", smear.images)
    assert sum(map(len, boxes.values())) == len(result.cells)
    assert "a: " in result.to_text() and "neutrophils / lymphocytes" in result.to_text()


def test_doubt(result):
    for named in result.cells:
        assert 0 <= named.doubt <= 1
        if named.call in ("unsure", "unlike"):
            assert named.doubt == 1


def test_bad_input(smear_model, model, smear):
    with pytest.raises(ValueError, match="holds no classifier, so no type can be counted"):
        count_smears(model, smear.images)
    for wrong in ({"precision": 0.6}, {"confidence": 1.0}, {"false_alarms": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            count_smears(smear_model, smear.images[:1], **wrong)


def test_progress_and_dropped(smear_model, smear, tmp_path):
    folder = write_smear(smear, tmp_path / "smear")
    torn = folder / "images" / "generated_field_0002.png"
    torn.write_bytes(torn.read_bytes()[:2000])
    calls = []
    with pytest.warns(wbcprof.images.source.ImageWarning, match="1 of 8 images was skipped"):
        result = count_smears(
            smear_model, folder / "images", pixel_size=0.2, progress=lambda *a: calls.append(a)
        )
    assert calls[-1] == (7, 8)
    assert [lost.image_id for lost in result.dropped] == ["generated_field_0002.png"]


def test_fields_given_as_cells_are_noticed(smear_model, smear):
    with pytest.warns(SmearWarning, match=r"of 8 images show several leukocytes, as fields do"):
        warn_of_fields(smear_model.profile(smear.images))
    result = count_smears(smear_model, smear.images, pixel_size=0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_fields(result.profiles)


@pytest.mark.parametrize("label", ["unsure", "unlike", "cut", "Unsure"])
def test_labels_that_are_calls_set_cells_aside(smear_model, smear, label):
    boxes = [Box("image_000000", 100, 100, 160, 160, label=label),
             Box("image_000000", 300, 200, 360, 260, label="Neutrophil")]  # fmt: skip
    (slide,) = count_smears(smear_model, smear.images[:1], boxes=boxes, pixel_size=0.2).slides
    assert slide.types == ["lymphocyte", "neutrophil"] and slide.counts.tolist() == [0, 1]
    assert (slide.n_unsure + slide.n_unlike + slide.n_cut, slide.n_found) == (1, 2)


def test_flags_are_true_or_false(smear_model, smear):
    with pytest.raises(ValueError, match="adapt must be True or False, got 'no'"):
        count_smears(smear_model, smear.images, adapt="no")


def test_boxes_from_python_are_checked(smear_model, smear):
    for box, message in (
        (Box("image_000099", 1, 1, 50, 50), "no image is named 'image_000099'"),
        (Box("image_000000", 900, 900, 950, 950), "a box must lie in its image"),
        (Box("image_000000", 50, 50, 10, 10), "left < right and top < bottom"),
        (Box("image_000000", math.nan, 1, 50, 50), "must be of finite numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            count_smears(smear_model, smear.images, boxes=[box], pixel_size=0.2)


def test_what_is_no_field_is_left_out(smear_model, smear):
    grey = np.repeat(smear.images[0].mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8)
    tiny = np.ascontiguousarray(smear.images[0][:60, :60])
    result = count_smears(smear_model, [*smear.images[:3], grey, tiny], pixel_size=0.2)
    assert result.slides[0].n_fields == 3
    assert [lost.reason for lost in result.dropped] == [
        "grey: leukocytes are told by their colour", "smaller than 2 red cells: no field"
    ]  # fmt: skip


def test_tables_of_cells_read_back_to_the_same_count(smear_model, result, smear, tmp_path):
    result.write_cells(tmp_path / "cells.csv")
    slides = ["a"] * 5 + ["b"] * 3
    again = count_smears(
        smear_model, smear.images, slides=slides, pixel_size=smear.pixel_size, false_alarms=0.02,
        boxes=tmp_path / "cells.csv",
    )  # fmt: skip
    for one, other in zip(again.slides, result.slides, strict=True):
        assert one.counts.tolist() == other.counts.tolist()
        assert (one.n_unlike, one.n_cut) == (other.n_unlike, other.n_cut)


def test_models_that_take_cells_at_their_own_scale_say_what_that_means(smear, real_scale):
    for pixel_size, wanted in ((0.2, ()), (0.1, "its types mean nothing here")):
        result = count_smears(real_scale, smear.images, pixel_size=pixel_size)
        notes = [note for note in result.slides[0].notes if "at the scale they have" in note]
        assert bool(notes) == bool(wanted) and all(wanted in note for note in notes)
    unknown = replace(real_scale, instrument=None)
    with pytest.warns(SmearWarning, match="whether it is that of those learnt from"):
        (slide,) = count_smears(unknown, smear.images, pixel_size=0.2).slides
    assert "whether it is that of those learnt from cannot be told" in slide.notes[-1]


@pytest.fixture(scope="module")
def real_scale(smear):
    """A model that does not bring cells to one scale, learnt at 0.2 um a pixel."""
    crops, labels = crops_of(smear)
    learnt = wbcprof.fit(
        crops, normalise="background", n_signatures=8, n_patches=800, max_iter=1, augment=0
    )
    learnt.classifier = wbcprof.train(learnt, crops, labels, augment=0)
    assert learnt.instrument is not None
    instrument = replace(learnt.instrument, red_cell_diameter=7.5 / 0.2)
    return replace(learnt, instrument=instrument)
