"""Fields to cells: rulers, crops, boxes; what is strange about fields is noticed."""

import math
import warnings

import numpy as np
import pytest
from PIL import Image

from wbcprof.datasets import make_leukocytes, make_smear
from wbcprof.images import Box, open_fields
from wbcprof.smear import (
    AcquisitionWarning,
    Ruler,
    SmearWarning,
    cut_out,
    find_cells,
    measure_slides,
)

DIAMETER = 75.0


@pytest.fixture(scope="module")
def smear():
    """Generated fields, not real data."""
    return make_smear(4, n_leukocytes=3, random_state=3)


@pytest.fixture(scope="module")
def field(smear):
    (field,) = open_fields(smear.images[0])
    return field


def resized(image, factor):
    side = [max(1, round(factor * length)) for length in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize(side, Image.BOX))


def test_a_ruler_is_found_by_red_cells(smear):
    ruler = measure_slides(open_fields(smear.images))["all fields"]
    assert ruler.how == "red cells" and not ruler.mixed
    assert ruler.diameter == pytest.approx(DIAMETER, rel=0.08)
    assert ruler.notes == ()


def test_a_pixel_size_is_taken_and_checked(smear):
    source = open_fields(smear.images)
    ruler = measure_slides(source, smear.pixel_size)["all fields"]
    assert ruler.how == "given" and ruler.diameter == pytest.approx(DIAMETER)
    with pytest.warns(AcquisitionWarning, match=r"pixel size of 0.05 um is given, but red cells"):
        measure_slides(source, smear.pixel_size / 2)


def test_crops_and_tables(smear, field):
    made = cut_out(field, Ruler(DIAMETER, "given"))
    truth = smear.truth[(smear.truth["field"] == 0) & (smear.truth["number"] > 0)]
    assert len(made.cells) == len(truth)
    for cell in made.cells:
        near = truth[np.hypot(truth["x"] - cell.x, truth["y"] - cell.y).argmin()]
        assert math.hypot(near["x"] - cell.x, near["y"] - cell.y) < DIAMETER / 2
        assert cell.crop.shape == (375, 375, 3)
        assert 8 < cell.diameter < 25 and 4 < cell.nucleus < cell.diameter and 0 < cell.blur < 1
        y, x = round(cell.y - 187.5), round(cell.x - 187.5)
        inside = field.pixels[max(y, 0) : y + 375, max(x, 0) : x + 375]
        at = max(-y, 0), max(-x, 0)
        part = cell.crop[at[0] : at[0] + inside.shape[0], at[1] : at[1] + inside.shape[1]]
        assert (part == inside).all()
        assert ("cut cell" in cell.flags) == (
            min(cell.left, cell.top) <= 0 or cell.right >= 640 or cell.bottom >= 480
        )
        inside = min(cell.x, cell.y, 640 - cell.x, 480 - cell.y)
        assert ("cut nucleus" in cell.flags) == (inside * 0.1 <= 0.6 * cell.nucleus)
    assert 15 < made.n_red_cells < 80


@pytest.mark.parametrize("magnification", [0.4, 1.5])
def test_sizes_do_not_depend_on_the_magnification(smear, magnification):
    n = [0, 0]
    ratios = []
    for image in smear.images:
        (field,) = open_fields(image)
        (other,) = open_fields(resized(image, magnification))
        before = cut_out(field, Ruler(DIAMETER, "given")).cells
        after = cut_out(other, Ruler(DIAMETER * magnification, "given")).cells
        n = [n[0] + len(before), n[1] + len(after)]
        for one in before:
            x, y = one.x * magnification, one.y * magnification
            near = min(after, key=lambda c: math.hypot(c.x - x, c.y - y))
            ratios.append((near.diameter / one.diameter, near.nucleus / one.nucleus))
    assert abs(n[0] - n[1]) <= 0.2 * n[0]
    assert np.median(ratios, axis=0) == pytest.approx([1, 1], abs=0.1)


def test_boxes_take_the_place_of_what_would_be_found(field):
    boxes = [
        Box(field.image_id, 100, 90, 200, 210, label="monocyte"),
        Box(field.image_id, 10, 10, 60, 60, kind="platelet"),
        Box(field.image_id, 600, 400, 640, 470, mask=np.ones((70, 40), bool)),
    ]
    cells = cut_out(field, Ruler(DIAMETER, "given"), boxes).cells
    assert [(cell.x, cell.y, cell.label) for cell in cells] == [
        (150, 150, "monocyte"), (620, 435, None)
    ]  # fmt: skip
    assert cells[1].diameter == pytest.approx(2 * math.sqrt(2800 / math.pi) * 0.1)
    assert "cut cell" in cells[1].flags and "cut cell" not in cells[0].flags
    unmeasured = cut_out(field, None, boxes).cells
    assert unmeasured[0].crop.shape == (150, 150, 3) and math.isnan(unmeasured[0].diameter)
    assert cut_out(field, None, []).cells == []
    with pytest.raises(ValueError, match="found by red cells, or given as boxes; got neither"):
        cut_out(field, None)


def test_cells_on_seams_are_found_once(smear):
    whole = np.concatenate(
        [np.concatenate(smear.images[:2], 1), np.concatenate(smear.images[2:], 1)]
    )
    ruler = Ruler(DIAMETER, "given")
    (one,) = open_fields(whole)
    alone = cut_out(one, ruler).cells
    tiled = open_fields(whole, tile=320, margin=320)
    assert tiled.n_hint > 6
    apart = [c for made in find_cells(tiled, {"all fields": ruler}) for c in made.cells]
    assert len(apart) == len(alone) == len({c.cell_id for c in apart})
    for cell in alone:
        near = min(apart, key=lambda c: math.hypot(c.x - cell.x, c.y - cell.y))
        assert math.hypot(near.x - cell.x, near.y - cell.y) < 0.1 * DIAMETER
        assert near.flags == cell.flags and near.field == cell.field


def test_a_low_magnification_is_refused(smear):
    small = [resized(image, 0.14) for image in smear.images]
    with pytest.raises(
        ValueError, match=r"red cells are 1\d px across, and leukocytes can be told"
    ):
        measure_slides(open_fields(small), 7.5 / 10.5)
    with pytest.raises(
        ValueError, match=r"no red cells could be measured, .* give the micrometres"
    ):
        measure_slides(open_fields([np.full((300, 300, 3), 240, np.uint8)] * 2))


def test_a_slide_that_cannot_be_measured_is_taken_for_like_the_others(smear):
    fields = [*smear.images, np.full((480, 640, 3), 240, np.uint8)]
    source = open_fields(fields, slides=["a"] * 4 + ["b"])
    with pytest.warns(
        SmearWarning, match="slide 'b': red cells cannot be measured; they are taken for"
    ):
        rulers = measure_slides(source)
    assert rulers["b"].diameter == rulers["a"].diameter and rulers["b"].how == "other slides"


def test_a_slide_of_another_magnification_beside_a_good_one_is_refused(smear):
    small = [resized(image, 0.1) for image in smear.images]
    low = np.concatenate([np.concatenate(small * 3, 1)] * 5)
    source = open_fields([*smear.images, low, low], slides=["a"] * 4 + ["b"] * 2)
    rulers = measure_slides(source)
    assert isinstance(rulers["b"], str) and isinstance(rulers["a"], Ruler)


def test_another_magnification_is_noticed(smear):
    fields = [*smear.images, *make_smear(4, random_state=8).images]
    fields[3] = resized(fields[3], 0.5)
    ruler = Ruler(DIAMETER, "given", measure_slides(open_fields(fields[:2]))["all fields"].edginess)
    made = list(find_cells(open_fields(fields), {"all fields": ruler}))
    noted = [number for number, seen in enumerate(made) if seen.notes]
    assert noted == [3] and made[3].red_cell_diameter == pytest.approx(DIAMETER / 2, rel=0.1)
    assert "another magnification: red cells are 3" in made[3].notes[0]
    assert len(made[3].cells) == 3
    half = fields[:4] + [resized(image, 0.5) for image in fields[4:]]
    with pytest.warns(SmearWarning, match="fields of several magnifications: red cells are"):
        rulers = measure_slides(open_fields(half))
    made = list(find_cells(open_fields(half), rulers))
    assert [seen.red_cell_diameter < 50 for seen in made[4:]] == [True] * 4


def test_crops_are_noticed():
    crops = make_leukocytes(2, size=360).images  # generated
    with pytest.warns(SmearWarning, match="show one cell each, in their middle"):
        measure_slides(open_fields(crops), 7.5 / 80)


def test_fields_out_of_focus_are_said(smear):
    from scipy.ndimage import gaussian_filter

    soft = [gaussian_filter(image, (5, 5, 0)) for image in smear.images]
    with pytest.warns(SmearWarning, match="out of focus: the sharpest edges are blurred over"):
        measure_slides(open_fields(soft), smear.pixel_size)


def test_refused_slides_have_no_cells(smear):
    (made,) = find_cells(open_fields(smear.images[0]), {"all fields": "too small"})
    assert made.refused == "too small" and made.cells == []


def test_nothing_is_warned_of_usual_fields(smear):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rulers = measure_slides(open_fields(smear.images))
        for seen in find_cells(open_fields(smear.images), rulers):
            assert seen.notes == []
