"""Leukocytes of a field: found once each, at any scale and in any light, and nothing else."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from wbcprof.datasets import make_smear
from wbcprof.smear import find_leukocytes, finder
from wbcprof.smear.finder import outline_leukocytes


@pytest.fixture(scope="module")
def smear():
    """Generated fields, not real data."""
    return make_smear(6, n_leukocytes=2, random_state=3)


@pytest.fixture(scope="module")
def diameter(smear):
    return 7.5 / smear.pixel_size


def truth_of(smear, field):
    return smear.truth[(smear.truth["field"] == field) & (smear.truth["kind"] == "leukocyte")]


def matched(found, truth):
    """Which rows have a centre in their box that no nearer one claims; centres without a box."""
    taken, without = np.zeros(len(truth), bool), 0
    for one in found:
        inside = (
            (truth["left"] <= one.x) & (one.x <= truth["right"])
            & (truth["top"] <= one.y) & (one.y <= truth["bottom"]) & ~taken
        )  # fmt: skip
        distance = np.hypot(truth["x"] - one.x, truth["y"] - one.y)
        if inside.any():
            taken[np.where(inside, distance, np.inf).argmin()] = True
        else:
            without += 1
    return taken, without


def counts(fields, smear, diameter):
    """Share found of the leukocytes that no edge cuts; how many were found where none is."""
    whole, wrong = [], 0
    for number, field in enumerate(fields):
        truth = truth_of(smear, number)
        taken, without = matched(find_leukocytes(field, diameter), truth)
        whole += taken[~truth["cut"]].tolist()
        wrong += without
    return np.mean(whole), wrong


def test_generated_fields(smear, diameter):
    assert counts(smear.images, smear, diameter) == (1, 0)


def test_leukocytes_that_touch_are_parted():
    """Pairs whose boxes overlap, in fields of eight leukocytes."""
    n = n_parted = 0
    for seed in (*range(400, 406), *range(700, 706)):
        crowded = make_smear(1, n_leukocytes=8, size=(400, 500), pixel_size=0.16, random_state=seed)
        truth, found = truth_of(crowded, 0), find_leukocytes(crowded.images[0], 7.5 / 0.16)
        for one, other in combinations(truth[~truth["cut"]], 2):
            low = [max(one[side], other[side]) for side in ("left", "top")]
            high = [min(one[side], other[side]) for side in ("right", "bottom")]
            if low[0] < high[0] and low[1] < high[1]:
                n += 1
                n_parted += matched(found, np.array([one, other]))[0].all()
    assert n >= 16 and n_parted >= 0.8 * n


def test_lobes_of_one_nucleus_are_not_parted():
    types = {"neutrophil": 1, "eosinophil": 1, "monocyte": 1}
    for seed in range(3):
        lobed = make_smear(2, n_leukocytes=2, shares=types, random_state=500 + seed)
        for number, field in enumerate(lobed.images):
            assert len(find_leukocytes(field, 75)) <= len(truth_of(lobed, number))


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


@pytest.mark.parametrize(
    "lamp", [(0.6, 0.6, 0.6), (1.0, 0.85, 0.6), (0.7, 1.0, 0.75), (0.7, 1.0, 1.0)]
)
def test_another_lamp(smear, diameter, lamp):
    fields = [(x * np.array(lamp)).astype(np.uint8) for x in smear.images]
    assert counts(fields, smear, diameter) == (1, 0)


@pytest.mark.parametrize("gamma", [0.6, 1.6])
@pytest.mark.parametrize("colour", [1.0, 0.5])
def test_another_camera(smear, diameter, gamma, colour):
    fields = []
    for field in smear.images:
        grey = field.mean(axis=2, keepdims=True)
        fields.append((255 * ((grey + colour * (field - grey)) / 255) ** gamma).astype(np.uint8))
    assert counts(fields, smear, diameter) == (1, 0)


def test_light_that_falls_off(smear, diameter):
    y, x = np.mgrid[-1:1:480j, -1:1:640j]
    light = (1 - 0.2 * (x**2 + y**2))[..., None]
    fields = [(field * light).astype(np.uint8) for field in smear.images]
    assert counts(fields, smear, diameter) == (1, 0)


def test_fields_without_leukocytes():
    """Red cells in piles, platelets in clumps, stain deposit: in one field of twenty, at most."""
    n_false = [
        len(find_leukocytes(field, 50))
        for seed in range(600, 620)
        for field in make_smear(
            1, size=(320, 427), pixel_size=0.15, n_leukocytes=0, random_state=seed
        ).images
    ]
    assert sum(n > 0 for n in n_false) <= 1


def test_dirt(smear, diameter):
    """Dark specks and a scratch, none as large as a nucleus or as full."""
    field = smear.images[0].copy()
    before = find_leukocytes(field, diameter)
    y, x = np.mgrid[: field.shape[0], : field.shape[1]]
    for at in range(30, 460, 60):
        speck = (y - at) ** 2 + (x - 20) ** 2 < 8**2
        field[speck] = (60, 30, 90)
    field[abs(y - 470 + x // 40) < 3] = (50, 30, 80)
    after = find_leukocytes(field, diameter)
    assert [(round(one.y), round(one.x)) for one in after if one.x > 60 and one.y < 440] == [
        (round(one.y), round(one.x)) for one in before if one.x > 60 and one.y < 440
    ]
    assert len(after) <= len(before)


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_an_empty_field(grey):
    noise = np.random.default_rng(0).normal(grey, 3, (300, 400, 3))
    field = np.clip(noise, 0, 255).astype(np.uint8)
    assert find_leukocytes(field, 75) == []
    assert find_leukocytes(np.full((200, 200, 3), grey, np.uint8), 20) == []


def test_cells_at_the_edge_are_marked(smear, diameter):
    field = smear.images[0]
    one = max(find_leukocytes(field, diameter), key=lambda one: one.nucleus)
    assert not one.is_cut
    cut = find_leukocytes(field[:, : round(one.x)], diameter)
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
            height, width = large.shape
            drawn = theirs[:height, :width] > 0
            scores.append(2 * (large & drawn).sum() / (large.sum() + drawn.sum()))
    assert np.median(scores) > 0.9


@pytest.fixture(scope="module")
def large(smear):
    """Twelve fields side by side, 1440 x 2560."""
    rows = [np.hstack([smear.images[(3 * i + j) % 6] for j in range(4)]) for i in range(3)]
    return np.vstack(rows)


@pytest.mark.parametrize("tile", [37, 64, 150])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_tiles_find_what_the_whole_field_has(large, diameter, monkeypatch, tile, n_threads):
    whole = outline_leukocytes(large, diameter).found
    monkeypatch.setattr(finder, "_TILE", tile)
    assert find_leukocytes(large, diameter, n_threads=n_threads) == whole
    assert len(whole) >= 20


def test_levels_of_a_large_field_come_from_a_sample(large, smear, diameter, monkeypatch):
    whole = find_leukocytes(large, diameter)
    monkeypatch.setattr(finder, "_SAMPLE", 40)
    sampled = find_leukocytes(large, diameter)
    assert matched_places(sampled, whole) >= 0.9 * len(whole)
    assert len(sampled) <= 1.05 * len(whole)


def matched_places(found, others):
    return sum(any(np.hypot(a.y - b.y, a.x - b.x) < 10 for b in found) for a in others)


def test_the_area_is_of_the_cell(smear, diameter):
    truth = truth_of(smear, 0)
    truth = truth[~truth["cut"]]
    made = outline_leukocytes(smear.images[0], diameter)
    for number, one in enumerate(made.found, 1):
        assert one.area == (made.cells == number).sum() * made.factor**2
    for row in truth:
        near = min(made.found, key=lambda one: np.hypot(row["x"] - one.x, row["y"] - one.y))
        drawn = (smear.cells[0] == row["number"]).sum()
        assert near.area == pytest.approx(drawn, rel=0.35)


@pytest.mark.parametrize("diameter", [0, 6, -1, np.nan, "x", 1e6])
def test_red_cells_of_no_size_that_can_be(diameter):
    with pytest.raises((ValueError, TypeError), match="red_cell_diameter must be"):
        find_leukocytes(np.zeros((50, 50, 3), np.uint8), diameter)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (33, 31)])
def test_small_fields(size):
    field = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for one in find_leukocytes(field, 20):
        assert 0 <= one.x < size[1] and 0 <= one.y < size[0]


def test_a_field_smaller_than_a_pixel_of_the_reduced_one():
    assert find_leukocytes(np.zeros((3, 900, 3), np.uint8), 100) == []


def test_rows_that_lie_apart(smear, diameter):
    """A part of a larger array, as slices are."""
    part = smear.images[0][10:-10, 20:-20]
    assert not part.flags.c_contiguous
    assert find_leukocytes(part, diameter) == find_leukocytes(part.copy(), diameter)


def test_the_field_is_left_as_it_is(smear, diameter):
    field = smear.images[0].copy()
    field.flags.writeable = False
    assert find_leukocytes(field, diameter) == find_leukocytes(smear.images[0], diameter)
