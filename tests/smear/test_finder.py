"""Leukocytes of a field: found once each, at any scale and in any light, and nothing else."""

import numpy as np
import pytest
from PIL import Image

from wbcprof.datasets import make_smear
from wbcprof.smear import find_leukocytes
from wbcprof.smear.finder import outline_leukocytes


@pytest.fixture(scope="module")
def smear():
    """Generated fields, not real data."""
    return make_smear(6, n_leukocytes=2, random_state=3)


@pytest.fixture(scope="module")
def diameter(smear):
    return 7.5 / smear.pixel_size


def truth_of(smear, field):
    rows = smear.truth[(smear.truth["field"] == field) & (smear.truth["kind"] == "leukocyte")]
    return rows[~rows["cut"]]


def matched(found, truth):
    """Number of boxes with a centre in them, and of centres without a box."""
    hits = [
        [i for i, box in enumerate(truth)
         if box["left"] <= one.x <= box["right"] and box["top"] <= one.y <= box["bottom"]]
        for one in found
    ]  # fmt: skip
    return len({i for own in hits for i in own}), sum(not own for own in hits)


def counts(fields, smear, diameter):
    right = wrong = n = 0
    for number, field in enumerate(fields):
        truth = truth_of(smear, number)
        found = [one for one in find_leukocytes(field, diameter) if not one.is_cut]
        some, others = matched(found, truth)
        right, wrong, n = right + some, wrong + others, n + len(truth)
    return right / n, wrong


def test_generated_fields(smear, diameter):
    recall, wrong = counts(smear.images, smear, diameter)
    assert recall >= 0.85 and wrong == 0


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.5])
def test_another_magnification(smear, factor):
    side = [round(factor * length) for length in smear.images[0].shape[1::-1]]
    fields = [np.asarray(Image.fromarray(x).resize(side, Image.BOX)) for x in smear.images]
    for number, field in enumerate(fields):
        before = find_leukocytes(smear.images[number], 75)
        after = find_leukocytes(field, 75 * factor)
        assert len(after) == len(before)
        for one, other in zip(after, before, strict=True):
            assert (one.x, one.y) == pytest.approx((factor * other.x, factor * other.y), abs=12)
            assert one.nucleus == pytest.approx(factor * other.nucleus, rel=0.2)


@pytest.mark.parametrize("lamp", [(0.6, 0.6, 0.6), (1.0, 0.9, 0.7), (0.7, 0.8, 1.0)])
def test_another_lamp(smear, diameter, lamp):
    fields = [(x * np.array(lamp)).astype(np.uint8) for x in smear.images]
    recall, wrong = counts(fields, smear, diameter)
    assert recall >= 0.85 and wrong <= 1


def test_light_that_falls_off(smear, diameter):
    y, x = np.mgrid[-1:1:480j, -1:1:640j]
    light = (1 - 0.2 * (x**2 + y**2))[..., None]
    recall, wrong = counts([(f * light).astype(np.uint8) for f in smear.images], smear, diameter)
    assert recall >= 0.85 and wrong <= 1


def test_a_field_without_leukocytes():
    """A pile of red cells may be taken for one where there is nothing denser; never more."""
    found = [
        len(find_leukocytes(field, 75))
        for seed in (5, 6, 7)
        for field in make_smear(3, n_leukocytes=0, random_state=seed).images
    ]
    assert max(found) <= 1 and np.mean(found) < 0.8


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_an_empty_field(grey):
    noise = np.random.default_rng(0).normal(grey, 3, (300, 400, 3))
    field = np.clip(noise, 0, 255).astype(np.uint8)
    assert find_leukocytes(field, 75) == []
    assert find_leukocytes(np.full((200, 200, 3), grey, np.uint8), 20) == []


def test_cells_at_the_edge_are_marked(smear, diameter):
    field = smear.images[0]
    one = next(one for one in find_leukocytes(field, diameter) if not one.is_cut)
    cut = find_leukocytes(np.ascontiguousarray(field[:, round(one.x) :]), diameter)
    assert any(other.is_cut and abs(other.y - one.y) < 25 for other in cut)


def test_outlines_are_of_what_is_found(smear, diameter):
    made = outline_leukocytes(smear.images[1], diameter)
    numbers = list(range(1, len(made.found) + 1))
    assert np.unique(made.nuclei[made.nuclei > 0]).tolist() == numbers
    assert ((made.cells == made.nuclei) | (made.nuclei == 0)).all()
    for number, one in zip(numbers, made.found, strict=True):
        rows, columns = np.nonzero(made.cells == number)
        left, top, right, bottom = one.box
        assert (columns.min() * made.factor, rows.min() * made.factor) == (left, top)
        assert right - left <= 5 * diameter and bottom - top <= 5 * diameter
        area = (made.nuclei == number).sum() * made.factor**2
        assert one.nucleus == pytest.approx(np.sqrt(area))


def test_outlines_overlap_those_drawn(smear, diameter):
    """Dice of all nuclei and of all cells of a field."""
    scores = []
    for number, field in enumerate(smear.images):
        made = outline_leukocytes(field, diameter)
        for ours, theirs in (
            (made.nuclei, smear.nuclei[number]),
            (made.cells, smear.cells[number]),
        ):
            large = np.kron(ours > 0, np.ones((made.factor, made.factor), bool))
            height, width = (min(a, b) for a, b in zip(large.shape, theirs.shape, strict=True))
            drawn = theirs[:height, :width] > 0
            large = large[:height, :width]
            scores.append(2 * (large & drawn).sum() / (large.sum() + drawn.sum()))
    assert np.median(scores) > 0.8


@pytest.mark.parametrize("diameter", [0, 6, -1, np.nan, "x"])
def test_red_cells_too_small_to_tell(diameter):
    with pytest.raises((ValueError, TypeError), match="red_cell_diameter must be"):
        find_leukocytes(np.zeros((50, 50, 3), np.uint8), diameter)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (33, 31)])
def test_small_fields(size):
    field = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for one in find_leukocytes(field, 20):
        assert 0 <= one.x < size[1] and 0 <= one.y < size[0]


def test_the_field_is_left_as_it_is(smear, diameter):
    field = smear.images[0].copy()
    field.flags.writeable = False
    assert find_leukocytes(field, diameter) == find_leukocytes(smear.images[0], diameter)
