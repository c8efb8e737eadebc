"""Red cells of known size, background, stain and blur are measured on generated images."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wbcprof.smear.acquisition import Acquisition, measure, pool

LIGHT = (240.0, 225.0, 205.0)
RED = (0.20, 0.32, 0.18)  # optical densities
NUCLEUS = (1.0, 1.6, 0.35)


def lattice(size, diameter, gap=1.25, jitter=0.08, seed=0):
    """Centres in rows; a gap below 1 makes neighbours overlap."""
    rng = np.random.default_rng(seed)
    steps = np.arange(0.1 * diameter, size + diameter, gap * diameter)
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return np.stack([y, x], axis=-1).reshape(-1, 2) + jitter * diameter * rng.normal(
        size=(y.size, 2)
    )


def smear(
    size=360, diameter=72.0, centres=None, pallor=0.5, light=LIGHT, stretch=1.0, blur=1.2,
    noise=2.0, leukocyte=True, seed=0,
):  # fmt: skip
    """Red cells with central pallor about a leukocyte, on a background of that light."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] + 0.5
    density = np.zeros((size, size, 3))
    middle = size / 2
    for cy, cx in lattice(size, diameter) if centres is None else centres:
        if leukocyte and math.hypot(cy - middle, cx - middle) < 1.5 * diameter:
            continue
        turn = rng.uniform(0, math.pi)
        low, high = ([max(0, int(c + way * diameter)) for c in (cy, cx)] for way in (-0.7, 0.7))
        near = np.s_[low[0] : high[0], low[1] : high[1]]
        v = (y[near] - cy) * math.cos(turn) + (x[near] - cx) * math.sin(turn)
        u = (x[near] - cx) * math.cos(turn) - (y[near] - cy) * math.sin(turn)
        distance = np.hypot(v * math.sqrt(stretch), u / math.sqrt(stretch)) / (diameter / 2)
        depth = 1 - pallor * np.exp(-((distance / 0.4) ** 2))
        density[near] += ((distance < 1) * depth)[..., None] * RED
    if leukocyte:
        distance = np.hypot(y - middle, x - middle)
        density[distance < 0.85 * diameter] = (0.35, 0.45, 0.15)
        density[distance < 0.6 * diameter] = NUCLEUS
    image = np.array(light) * np.exp(-density)
    image = gaussian_filter(image, (blur, blur, 0)) + noise * rng.normal(size=image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "size, diameter", [(180, 36), (360, 60), (360, 72), (400, 100), (720, 144)]
)
def test_red_cells_of_many_sizes(size, diameter):
    found = measure(smear(size, diameter))
    assert found.red_cell_diameter == pytest.approx(diameter, rel=0.03)
    assert found.n_red_cells >= 4
    assert found.red_cell_error < 0.03


def test_small_cells_of_a_field_are_looked_at_twice():
    field = smear(640, 30, leukocyte=False)
    assert measure(field).red_cell_diameter == pytest.approx(30, rel=0.04)


@pytest.mark.parametrize("pallor", [0, 0.9])
def test_pallor(pallor):
    assert measure(smear(pallor=pallor)).red_cell_diameter == pytest.approx(72, rel=0.03)


@pytest.mark.parametrize("gap", [0.8, 0.9, 1.0])
def test_red_cells_that_overlap_or_touch(gap):
    """In pairs and threes, with empty background between."""
    rng = np.random.default_rng(1)
    centres = []
    for cy in np.arange(40, 640, 130):
        for cx in np.arange(40, 640, 210):
            turn = rng.uniform(0, 2 * np.pi)
            step = 72 * gap * np.array([np.sin(turn), np.cos(turn)])
            centres += [(cy, cx), (cy + step[0], cx + step[1])]
    image = smear(640, centres=centres, leukocyte=False)
    assert measure(image).red_cell_diameter == pytest.approx(72, rel=0.05)


def test_ovals_count_by_their_mean_diameter():
    found = measure(smear(stretch=1.2))
    assert found.red_cell_diameter == pytest.approx(72, rel=0.05)


@pytest.mark.parametrize(
    "light", [(250, 240, 120), (130, 220, 140), (100, 95, 90), (255, 255, 255)]
)
def test_light_of_any_colour(light):
    found = measure(smear(light=light))
    assert found.red_cell_diameter == pytest.approx(72, rel=0.03)
    np.testing.assert_allclose(found.background, light, atol=2)
    np.testing.assert_allclose(found.nucleus_density, NUCLEUS, rtol=0.1, atol=0.05)
    assert found.background_share == pytest.approx(0.5, abs=0.2)
    assert found.background_spread < 0.05


def test_densities_are_those_drawn():
    found = measure(smear(pallor=0))
    np.testing.assert_allclose(found.red_cell_density, RED, atol=0.02)
    np.testing.assert_allclose(found.nucleus_density, NUCLEUS, rtol=0.1)


@pytest.mark.parametrize("blur", [2, 3, 4])
def test_blur_is_measured_and_does_not_move_the_diameter(blur):
    found = measure(smear(blur=blur, noise=1))
    assert found.sharpness == pytest.approx(blur, rel=0.12)
    assert found.red_cell_diameter == pytest.approx(72, rel=0.03)


def test_uneven_light():
    y, x = np.mgrid[:480, :480] / 480
    lamp = 1 - 0.5 * np.square(x) - 0.1 * y
    image = (smear(480, noise=1) * lamp[..., None]).astype(np.uint8)
    found = measure(image)
    assert found.red_cell_diameter == pytest.approx(72, rel=0.04)
    assert found.falloff == pytest.approx(0.5, abs=0.12)
    assert measure(smear(480)).falloff < 0.03


def test_half_of_the_image_black():
    image = smear(480, noise=1)
    image[:150] = 0
    found = measure(image)
    assert found.red_cell_diameter == pytest.approx(72, rel=0.04)
    np.testing.assert_allclose(found.background, LIGHT, atol=2)


def grey(levels):
    """An image of grey levels, one row of them or all."""
    rows = np.broadcast_to(levels, (360, 360))
    return np.repeat(rows[..., None], 3, axis=2).astype(np.uint8)


def stripes(width):
    return grey(np.where(np.arange(360) // width % 2, 220, 150))


def patches(scale):
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(360, 360)), scale)
    return grey(200 + 20 * noise / noise.std())


NOTHING = {
    "leukocyte alone": smear(centres=[]),
    "leukocyte, black surround": np.where(np.mgrid[:360, :360][0][..., None] < 130, 0,
                                          smear(centres=[])).astype(np.uint8),
    "two red cells": smear(centres=[(50, 50), (300, 300)]),
    "background": smear(centres=[], leukocyte=False),
    "flat": np.full((200, 300, 3), 200, np.uint8),
    "black": np.zeros((200, 300, 3), np.uint8),
    "white noise": np.random.default_rng(0).integers(0, 256, (360, 360, 3), np.uint8),
    "ramp": grey(np.linspace(90, 240, 360)),
    **{f"stripes {width}": stripes(width) for width in (3, 10, 40)},
    **{f"patches {scale}": patches(scale) for scale in (3, 8, 15)},
    "tiny": smear(24, 8),
    "a line": smear(360)[:3],
    "one pixel": np.full((1, 1, 3), 9, np.uint8),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_no_red_cells_are_unknown(name):
    found = measure(NOTHING[name])
    assert found.red_cell_diameter is None
    assert found.red_cell_error is None
    assert found.red_cell_density is None
    assert found.n_red_cells == 0


def test_background_where_there_is_one():
    for name in ("leukocyte alone", "leukocyte, black surround", "background"):
        np.testing.assert_allclose(measure(NOTHING[name]).background, LIGHT, atol=1.5)
    np.testing.assert_array_equal(measure(NOTHING["flat"]).background, [200] * 3)
    for name in ("black", "white noise", "one pixel"):
        assert measure(NOTHING[name]).background is None


def test_views_are_measured_as_copies_are():
    image = smear()
    mirrored = image[:, ::-1]
    assert measure(mirrored).red_cell_diameter == (
        measure(np.ascontiguousarray(mirrored)).red_cell_diameter
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 9, 9, 3), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8),
        np.zeros((0, 9, 3), np.uint8), "cells/", None,
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"an image must be uint8 \(H, W, 3\), got"):
        measure(image)


# --- sets ---


def told(diameter, n=5, **others):
    light = np.array(LIGHT)
    one = Acquisition(diameter, n, 0.02, light, 0.5, 0.01, None, None, 1.0, 0.0)
    return replace(one, **others)


def test_pool_is_the_median_weighted_by_red_cells():
    parts = [told(70.0), told(72.0), told(74.0), told(140.0, 3), told(None, 0)]
    whole = pool(parts)
    assert whole.red_cell_diameter == pytest.approx(72, abs=1)
    assert whole.n_red_cells == 15
    assert 0 < whole.red_cell_error < 0.1
    many = pool([told(70.0, 10), told(75.0, 1), told(76.0, 1)])
    assert many.red_cell_diameter == pytest.approx(70.5, abs=1)
    np.testing.assert_array_equal(whole.background, LIGHT)


def test_pool_of_generated_images():
    whole = pool([measure(smear(seed=seed)) for seed in range(4)])
    assert whole.red_cell_diameter == pytest.approx(72, rel=0.02)
    assert whole.red_cell_error < 0.02
    assert whole.sharpness == pytest.approx(1.2, rel=0.2)


def test_pool_of_one_is_that_one():
    one = measure(smear())
    whole = pool([one])
    assert whole.red_cell_diameter == pytest.approx(one.red_cell_diameter)
    assert (whole.n_red_cells, whole.red_cell_error) == (one.n_red_cells, one.red_cell_error)


@pytest.mark.parametrize(
    "parts",
    [
        [told(None, 0)] * 3,
        [told(70.0)] + [told(None, 0)] * 20,
        [told(40.0), told(70.0), told(110.0), told(160.0)],
    ],
)
def test_pool_is_unknown_where_few_know_or_none_agree(parts):
    whole = pool(parts)
    assert (whole.red_cell_diameter, whole.n_red_cells, whole.red_cell_error) == (None, 0, None)


def test_pool_of_what_knows_nothing():
    nothing = measure(NOTHING["black"])
    whole = pool([nothing, nothing])
    assert whole.background is None and whole.sharpness is None and whole.falloff is None


def test_pool_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        pool([])


@pytest.mark.parametrize("colour", [(10, 0, 0), (245, 3, 0), (0, 200, 240)])
def test_light_without_a_colour_gives_finite_numbers(colour):
    """Found by fuzzing: 0 over 0, and the logarithm of 0."""
    image = np.full((120, 136, 3), colour, np.uint8)
    with np.errstate(all="raise"):
        found = measure(image)
    assert found.falloff is None or np.isfinite(found.falloff)
    image[40:80, 40:80] //= 2
    image[50:70, 50:70] //= 3
    found = measure(image)
    for densities in (found.red_cell_density, found.nucleus_density):
        assert densities is None or np.isfinite(densities).all()
