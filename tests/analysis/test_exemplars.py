"""What a signature is, in cells."""

import numpy as np
import pytest

import wbcprof
from wbcprof.analysis import find_exemplars
from wbcprof.datasets import make_leukocytes
from wbcprof.images import open_images
from wbcprof.smear.canonical import PARTS, SIDE


@pytest.fixture(scope="module")
def cells():
    return make_leukocytes(4, size=96, random_state=3)


@pytest.fixture(scope="module")
def model(cells):
    return wbcprof.fit(cells.images, n_signatures=12, n_patches=1000, max_iter=2)


def test_places_are_those_of_the_largest_codes(model, cells):
    found = find_exemplars(model, cells.images, [2, 7], n_exemplars=5)
    largest = np.array([np.abs(model.codes(image)).max(axis=(0, 1)) for image in cells.images])
    for signature, places in zip(found.signatures, found.places, strict=True):
        strongest = np.argsort(-largest[:, signature], kind="stable")[:5]
        assert [place.cell for place in places] == strongest.tolist()
        for place in places:
            codes = model.codes(cells.images[place.cell])[..., signature]
            at = codes[place.row // 2, place.column // 2]
            assert abs(at) == pytest.approx(place.code) == np.abs(codes).max()
            read = model.as_read(cells.images[place.cell])
            np.testing.assert_array_equal(found.cells[place.cell], read)


def test_types_and_parts_are_shares(model, cells):
    found = find_exemplars(model, cells.images, labels=cells.labels)
    assert found.signatures.tolist() == list(range(12))
    assert found.types == sorted(set(cells.labels))
    called_up = np.array([bool(places) for places in found.places])
    np.testing.assert_allclose(found.by_type[called_up].mean(axis=1), 1)
    np.testing.assert_allclose(found.parts[called_up].sum(axis=1), 1)
    assert found.area.sum() == pytest.approx(1)
    means = np.array([np.abs(model.codes(image)).mean(axis=(0, 1)) for image in cells.images])
    own = means[np.array(cells.labels) == "monocyte"].mean(axis=0)
    usual = np.mean(
        [means[np.array(cells.labels) == name].mean(axis=0) for name in found.types], axis=0
    )
    index = found.types.index("monocyte")
    np.testing.assert_allclose(found.by_type[called_up, index], (own / usual)[called_up], rtol=1e-5)


def test_a_signature_of_the_nucleus_lives_there(model, cells):
    """One that is called up by dense blue alone."""
    found = find_exemplars(model, cells.images)
    dark = [
        np.mean(
            [found.cells[p.cell][p.row : p.row + 6, p.column : p.column + 6].mean() for p in places]
        )
        if places
        else 255
        for places in found.places
    ]
    darkest, brightest = (
        int(np.argmin(dark)),
        int(np.argmax(np.where(np.equal(dark, 255), 0, dark))),
    )
    inside = found.parts[:, 0] + found.parts[:, 1]
    assert inside[darkest] > inside[brightest]
    assert "nucleus" in found.describe(darkest)


def test_parts_of_a_drawn_cell(model):
    cell = np.full((SIDE, SIDE, 3), 246, np.uint8)
    cell[30:80, 30:80] = (200, 190, 220)
    cell[40:70, 40:70] = (60, 30, 120)
    parts = model.normaliser.parts(cell)
    assert [PARTS[parts[at]] for at in ((55, 55), (55, 41), (55, 38), (55, 33), (5, 5))] == [
        "nucleus", "rim", "rim", "cytoplasm", "background",
    ]  # fmt: skip


def test_the_middle_of_a_canonical_cell_is_the_nucleus(model):
    image = np.full((200, 240, 3), 240, np.uint8)
    image[60:110, 120:170] = (90, 60, 150)
    y, x, scale = model.normaliser.place_of(image)
    assert (y, x) == pytest.approx((84.5, 144.5), abs=2)
    assert scale == pytest.approx(36 / 50, rel=0.1)


def test_cells_are_drawn_without_reading_the_others(model, cells):
    few = find_exemplars(model, cells.images, [0], n_cells=6, random_state=1)
    again = find_exemplars(model, open_images(cells.images), [0], n_cells=6, random_state=1)
    assert few.n_cells == 6 and few.places == again.places
    passing = find_exemplars(model, iter(cells.images), [0], n_cells=6)
    assert passing.n_cells == 6


def test_images_as_they_are_have_no_parts(cells):
    model = wbcprof.fit(
        cells.images, n_signatures=4, patch_size=8, n_patches=400, max_iter=1, normalise=None
    )
    found = find_exemplars(model, cells.images, [1])
    assert found.parts is None and found.area is None
    wbcprof.figures.exemplars(found, model.signatures)


def test_what_cannot_be_shown_is_refused(model, cells):
    with pytest.raises(ValueError, match="between 0 and 11"):
        find_exemplars(model, cells.images, [12])
    with pytest.raises(ValueError, match="at least one number"):
        find_exemplars(model, cells.images, [])
    with pytest.raises(ValueError, match="n_exemplars"):
        find_exemplars(model, cells.images, n_exemplars=0)
    stacked = wbcprof.fit(
        cells.images, n_signatures=4, patch_size=8, n_patches=400, max_iter=1,
        stack=[{"n_signatures": 4}],
    )  # fmt: skip
    with pytest.raises(ValueError, match="first layer"):
        find_exemplars(stacked, cells.images)


def test_a_signature_that_no_cell_calls_up_has_no_place(model):
    pale = np.tile(np.linspace(236, 250, 96).astype(np.uint8)[:, None, None], (3, 1, 96, 3))
    found = find_exemplars(model, pale)
    silent = [k for k, places in enumerate(found.places) if not places]
    assert silent and found.describe(silent[0]) == "not called up"
    wbcprof.figures.exemplars(found, model.signatures)
