"""Stain normalisation brings changed colours back."""

import numpy as np
import pytest

from wbcprof.datasets import make_leukocytes
from wbcprof.smear.stain import STAINS, StainNormaliser


def distance(images, others):
    return np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(images, others)])


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_a_stronger_stain_is_brought_back(cells, method):
    originals = list(cells.images[:8])
    stronger = [
        np.clip(256 * ((i.astype(float) + 1) / 256) ** 1.4 - 1, 0, 255).astype(np.uint8)
        for i in originals
    ]
    normalise = StainNormaliser.learn(originals, method).normalise
    restored = [normalise(image) for image in stronger]
    assert all(i.dtype == np.uint8 and i.shape == o.shape for i, o in zip(restored, originals))
    assert distance(restored, originals) < 0.75 * distance(stronger, originals)
    assert distance(map(normalise, originals), originals) < distance(stronger, originals)


@pytest.mark.parametrize("method", STAINS)
def test_another_light_source_is_brought_back(cells, method):
    originals = list(cells.images[:8])
    darker = [np.rint(i * np.array([0.8, 0.7, 0.75])).astype(np.uint8) for i in originals]
    normalise = StainNormaliser.learn(iter(originals), method).normalise
    assert distance(map(normalise, darker), map(normalise, originals)) < 1.5


@pytest.mark.parametrize("method", STAINS)
def test_an_unstained_image_gets_the_background_alone(cells, method):
    normaliser = StainNormaliser.learn(cells.images[:4], method)
    image = normaliser.normalise(np.full((40, 40, 3), 250, np.uint8))
    np.testing.assert_array_equal(
        image, np.broadcast_to(np.rint(normaliser.background), (40, 40, 3))
    )


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("background", {"background": [1e300, 220, 210]}, "background must be from 0 to 255"),
        ("background", {"background": [-1, 220, 210]}, "background must be from 0 to 255"),
        ("reinhard", {"centre": [9, 1e9, 0], "spread": [1, 1, 1]}, "centre must be from -10 to 10"),
        ("reinhard", {"centre": [9, 1, 0], "spread": [1, -1, 1]}, "spread must be from 0 to 10"),
        ("macenko", {"stains": [[0, 0, 9], [1, 0, 0]], "strength": [1, 1]}, "stains must be from"),
        ("macenko", {"stains": [[0, 0, 0], [1, 0, 0]], "strength": [1, 1]}, "be of length 1"),
        ("macenko", {"stains": [[0, 0, 1], [1, 0, 0]], "strength": [1, -1]}, "strength must be"),
    ],
)
def test_values_that_no_images_give_are_refused(method, values, message):
    with pytest.raises(ValueError, match=message):
        StainNormaliser(method, **{"background": [230, 220, 210]} | values)


@pytest.mark.parametrize("method", STAINS)
@pytest.mark.parametrize("kind", ["noise", "one colour each", "dark", "bright"])
def test_whatever_is_learnt_can_be_read_again(method, kind):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 40, 40, 3), np.uint8)
    if kind == "one colour each":
        images[:, :20] = [255, 0, 255]
        images[:, 20:] = [0, 255, 0]
    elif kind in ("dark", "bright"):
        images = images // 4 + (13 if kind == "dark" else 190)
    try:
        learnt = StainNormaliser.learn(images, method)
    except ValueError as error:
        assert "stained pixels" in str(error) or "lit background" in str(error)
        return
    assert StainNormaliser(**learnt.to_json()).to_json() == learnt.to_json()


def test_errors(cells):
    with pytest.raises(ValueError, match="stain method must be one of"):
        StainNormaliser.learn(cells.images[:2], "vahadane")
    with pytest.raises(ValueError, match="stained pixels"):
        StainNormaliser.learn([np.full((40, 40, 3), 250, np.uint8)])
    with pytest.raises(ValueError, match="got none"):
        StainNormaliser.learn([])
    with pytest.raises(ValueError, match="centre must be"):
        StainNormaliser("reinhard", [230, 220, 210])
    with pytest.raises(ValueError, match="spread must be"):
        StainNormaliser("reinhard", [230, 220, 210], [1, 2, 3], [1, 2, np.nan])
    with pytest.raises(ValueError, match="strength does not go with"):
        StainNormaliser("background", [230, 220, 210], strength=[1, 2])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 9, 9, 3), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), "cells/"],
)
def test_what_is_no_image_is_refused(image):
    """A batch took one background for all; a folder was an AttributeError."""
    with pytest.raises(ValueError, match=r"an image must be uint8 \(H, W, 3\), got"):
        StainNormaliser.learn([image], "background")
    with pytest.raises(ValueError, match=r"an image must be uint8 \(H, W, 3\), got"):
        StainNormaliser("background", [200, 200, 200]).normalise(image)


@pytest.mark.parametrize("method", ["background", "reinhard", "macenko"])
def test_cells_cut_out_on_black_stay_as_they_are_and_teach_nothing(method):
    images = make_leukocytes(2, size=72).images  # generated
    y, x = np.mgrid[-1:1:72j, -1:1:72j]
    cut = np.where((x**2 + y**2 < 0.5)[..., None], images, 0).astype(np.uint8)
    stain = StainNormaliser.learn(images, method)
    for image in cut:
        restained, lacked = stain.change(image)
        assert lacked == "no background" and (restained == image).all()
    mixed = StainNormaliser.learn([*cut, *images], method)
    np.testing.assert_allclose(mixed.background, stain.background)
    with pytest.raises(ValueError, match=r"on a lit background are needed .* none among 12"):
        StainNormaliser.learn(cut, method)


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_few_dark_spots_on_white_make_nothing_of_what_is_not_known(cells, method):
    stain = StainNormaliser.learn(cells.images, method)
    image = np.full((64, 64, 3), 255, np.uint8)
    image[20:26, 20:26] = np.random.default_rng(0).integers(118, 122, (6, 6, 3))
    with np.errstate(all="raise"):
        restained = stain.normalise(image)
    assert restained[:10].min() > 200
