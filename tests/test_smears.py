"""Generated fields: what the truth says of them is so."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from wbcprof.datasets import LEUKOCYTE_TYPES, make_smear, write_smear


@pytest.fixture(scope="module")
def smear():
    return make_smear(6, size=(240, 320), pixel_size=0.2, n_leukocytes=4)


def of_kind(smear, kind):
    return smear.truth[smear.truth["kind"] == kind]


def box(row):
    return np.s_[row["top"] : row["bottom"], row["left"] : row["right"]]


@pytest.mark.parametrize("size", [(96, 64), (181, 260)])
@pytest.mark.parametrize("pixel_size", [0.1, 0.5])
def test_shapes_dtypes_and_ids(size, pixel_size):
    made = make_smear(2, size=size, pixel_size=pixel_size, n_leukocytes=0)
    assert [image.shape for image in made.images] == [(*size, 3)] * 2
    assert {image.dtype for image in made.images} == {np.dtype(np.uint8)}
    assert all(image.flags.c_contiguous for image in [*made.images, *made.cells])
    assert [mask.shape for mask in [*made.cells, *made.nuclei]] == [size] * 4
    assert made.ids == ["generated_field_0000", "generated_field_0001"]
    assert made.pixel_size == pixel_size
    assert not any(mask.any() for mask in made.cells)


def test_the_result_is_frozen_and_says_generated(smear):
    with pytest.raises(dataclasses.FrozenInstanceError):
        smear.truth = None
    assert "generated" in smear.description
    assert "not real data" in smear.description
    assert "make_smear(6, size=(240, 320), pixel_size=0.2" in smear.description


def test_same_seed_same_fields_whatever_their_number(smear):
    fewer = make_smear(2, size=(240, 320), pixel_size=0.2, n_leukocytes=4)
    for name in ("images", "cells", "nuclei"):
        np.testing.assert_array_equal(getattr(fewer, name), getattr(smear, name)[:2])
    np.testing.assert_array_equal(fewer.truth, smear.truth[smear.truth["field"] < 2])
    other = make_smear(2, size=(240, 320), pixel_size=0.2, n_leukocytes=4, random_state=1)
    assert (other.images[0] != smear.images[0]).mean() > 0.5


def test_boxes_are_those_of_the_masks(smear):
    leukocytes = of_kind(smear, "leukocyte")
    assert len(leukocytes) == 6 * 4
    for row in leukocytes:
        mask = smear.cells[row["field"]] == row["number"]
        y, x = np.nonzero(mask)
        corners = x.min(), y.min(), x.max() + 1, y.max() + 1
        assert corners == tuple(row[["left", "top", "right", "bottom"]])
        assert (x.mean() + 0.5, y.mean() + 0.5) == pytest.approx((row["x"], row["y"]))
        nucleus = smear.nuclei[row["field"]] == row["number"]
        assert mask[nucleus].all()
        touches = 0 in corners or corners[2] == 320 or corners[3] == 240
        assert touches or not row["cut"]


def test_some_are_cut_and_some_touch(smear):
    cut = of_kind(smear, "leukocyte")["cut"]
    assert 0 < cut.sum() < len(cut)

    def touch(cells):
        beside = [(cells[1:], cells[:-1]), (cells[:, 1:], cells[:, :-1])]
        return any(((a > 0) & (b > 0) & (a != b)).any() for a, b in beside)

    assert any(map(touch, smear.cells))


def test_nuclei_are_darker_than_cells_and_cells_than_the_slide(smear):
    for image, cells, nuclei in zip(smear.images, smear.cells, smear.nuclei, strict=True):
        red = image[..., 0].astype(float)
        assert red[nuclei > 0].mean() < red[(cells > 0) & (nuclei == 0)].mean() - 20
        assert red[nuclei > 0].mean() < red[cells == 0].mean() - 60


def test_red_cells_are_seven_and_a_half_micrometres_across(smear):
    red_cells = of_kind(smear, "red_cell")
    whole = red_cells[~red_cells["cut"]]
    width = np.median(whole["right"] - whole["left"]) * smear.pixel_size
    assert width == pytest.approx(7.5, abs=0.5)


def test_red_cells_lie_in_their_boxes(smear):
    boxed = np.zeros((240, 320), dtype=bool)
    field = of_kind(smear, "red_cell")
    for row in field[field["field"] == 0]:
        boxed[box(row)] = True
    green = smear.images[0][..., 1].astype(float)
    outside = green[~boxed & (smear.cells[0] == 0)]
    assert np.median(green[boxed]) < np.median(outside) - 15


def test_platelets_are_small_and_dark(smear):
    platelets = of_kind(smear, "platelet")
    assert len(platelets) > 3
    assert (platelets["right"] - platelets["left"]).max() * smear.pixel_size < 5


def test_every_box_lies_in_its_image_and_has_an_area(smear):
    truth = smear.truth
    assert ((truth["left"] >= 0) & (truth["left"] < truth["right"])).all()
    assert ((truth["top"] >= 0) & (truth["top"] < truth["bottom"])).all()
    assert truth["right"].max() <= 320
    assert truth["bottom"].max() <= 240
    assert set(truth["label"][truth["kind"] != "leukocyte"]) == {""}


def test_shares_are_those_asked_for():
    made = make_smear(
        12, size=(128, 128), pixel_size=0.5, n_leukocytes=8, shares={"monocyte": 3, "basophil": 1}
    )
    labels = made.truth["label"][made.truth["kind"] == "leukocyte"]
    assert set(labels) == {"monocyte", "basophil"}
    assert 0.6 < np.mean(labels == "monocyte") < 0.9


def test_every_type_can_be_drawn():
    made = make_smear(6, size=(128, 128), pixel_size=0.5, shares=dict.fromkeys(LEUKOCYTE_TYPES, 1))
    assert len(set(made.truth["label"])) > 3


@pytest.mark.parametrize("size", [(63, 64), 480, (64, 64, 3), None, ("a", "b"), (64.0, 64)])
def test_size_must_be_height_and_width(size):
    with pytest.raises(ValueError, match="size must be height and width, each an integer from 64"):
        make_smear(1, size=size)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"platelet": 1}, r"unknown types \['platelet'\]"),
        ({"monocyte": -1}, "share of monocyte must be at least 0"),
        ({"monocyte": 0}, "must not all be 0"),
        ({}, "at least one"),
        (["monocyte"], "must map types"),
    ],
)
def test_shares_must_be_of_known_types(shares, message):
    with pytest.raises(ValueError, match=message):
        make_smear(1, size=(64, 64), shares=shares)


def test_too_many_leukocytes_have_no_room():
    with pytest.raises(ValueError, match=r"n_leukocytes must fit into a field, got 40, of which"):
        make_smear(1, size=(96, 96), pixel_size=0.2, n_leukocytes=40)


def test_write_smear_holds_the_same_pixels_and_boxes(smear, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    folder = write_smear(smear, tmp_path / "new")
    for image, name in zip(smear.images, smear.ids, strict=True):
        with image_module.open(folder / "images" / f"{name}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), image)
    with open(folder / "boxes.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["path", "kind", "left", "top", "right", "bottom", "label"]
    assert len(rows) == len(smear.truth)
    for row, true in zip(rows, smear.truth, strict=True):
        assert row["path"] == f"images/{smear.ids[true['field']]}.png"
        assert (row["kind"], row["label"]) == (true["kind"], true["label"])
        assert int(row["right"]) == true["right"]
    assert "generated" in (folder / "README.txt").read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match="not empty"):
        write_smear(smear, folder)
