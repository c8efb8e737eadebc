"""The kernels of canonical cells equal their twins; cells come out alike however they are taken."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from wbcprof import _core, reference
from wbcprof.datasets import make_leukocytes
from wbcprof.images import ImageWarning
from wbcprof.model.model import Model
from wbcprof.smear.canonical import NUCLEUS, SIDE, CanonicalForm, find_leukocyte
from wbcprof.smear.stain import StainNormaliser

TABLES = np.array([np.arange(256)] * 3, np.uint8)
GREYS = np.array([200, 180, 220], np.uint8)


@pytest.fixture(scope="module")
def leukocytes():
    """Generated cells, not real data: six types, two of each, 192 px."""
    return make_leukocytes(2, size=192).images


@pytest.fixture(scope="module")
def form(leukocytes):
    return CanonicalForm.learn(leukocytes)


def apart(cell, other):
    return np.abs(cell.astype(int) - other).mean()


def resized(image, factor):
    side = round(image.shape[0] * factor)
    kind = Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((side, side), kind))


def smear(size=240, nuclei=((0.5, 0.5),), radius=0.13, light=(240, 225, 205)):
    """Leukocytes of round nuclei, places and radius over the size, on an empty background."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    image = np.full((size, size, 3), light, float)
    for down, across in nuclei:
        distance = np.hypot(y - down, x - across)
        image[distance < 1.6 * radius] = np.array(light) * (0.75, 0.62, 0.85)
        image[distance < radius] = np.array(light) * (0.3, 0.2, 0.6)
    noise = np.random.default_rng(0).normal(0, 1.5, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


# The kernels and their twins


def hostile(kind, height, width, rng):
    y, x = np.mgrid[:height, :width]
    return {
        "noise": lambda: rng.integers(0, 256, (height, width, 3)),
        "dark noise": lambda: rng.integers(0, 20, (height, width, 3)),
        "blocks": lambda: (
            rng.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3))
            .repeat(5, 0)
            .repeat(5, 1)[:height, :width]
        ),
        "stripes": lambda: np.repeat((x % 8 < 4)[..., None] * 200 + 20, 3, axis=2),
        "squares": lambda: np.repeat(((x // 2 + y // 2) % 2)[..., None] * 255, 3, axis=2),
        "black": lambda: np.zeros((height, width, 3)),
        "white": lambda: np.full((height, width, 3), 255),
        "half black": lambda: np.where(
            (x < width // 2)[..., None], 0, rng.integers(150, 256, (height, width, 3))
        ),
        "cell": lambda: smear(max(height, width))[:height, :width],
    }[kind]().astype(np.uint8, order="C")


KINDS = (
    "noise", "dark noise", "blocks", "stripes", "squares", "black", "white", "half black", "cell",
)  # fmt: skip


def assert_found_as_by_twin(image):
    found, expected = _core.find_leukocyte(image), reference.find_leukocyte(image)
    plain = [list(part) if isinstance(part, tuple) else part for part in found]
    assert plain == list(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "size",
    [(1, 1), (1, 7), (7, 1), (2, 2), (3, 50), (24, 24), (96, 97), (143, 150), (145, 301), (9, 900)],
)
def test_found_as_by_the_twin(instruction_set, size, kind):
    assert_found_as_by_twin(hostile(kind, *size, np.random.default_rng(0)))


def test_fields_as_by_the_twin(instruction_set, leukocytes):
    """Factors of reduction of 9 and 31; more components than are told apart."""
    rng = np.random.default_rng(1)
    field = np.tile(leukocytes[0], (5, 8, 1))[:900, :1440]
    assert_found_as_by_twin(np.ascontiguousarray(field))
    assert_found_as_by_twin(hostile("blocks", 3000, 4000, rng))
    grid = np.full((96, 9000, 3), 250, np.uint8)
    y, x = np.mgrid[:96, :9000]
    grid[(y % 9 < 4) & (x % 9 < 4)] = (90, 50, 140)
    assert_found_as_by_twin(grid)
    for image in leukocytes:
        assert_found_as_by_twin(image)


def test_a_band_of_rows_at_a_time():
    """Shorter side of 12 600 px: 131 rows of 255 do not fit 16 bits."""
    image = np.full((12600, 12601, 3), 255, np.uint8)
    image[5000:8000, 5000:8000] = (90, 50, 140)
    found = find_leukocyte(image)
    assert found.background == (255, 255, 255)
    assert np.sqrt(found.area) == pytest.approx(3000, rel=0.1)
    assert found.centre == pytest.approx((6499.5, 6499.5), abs=70)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 330), width=st.integers(1, 330), kind=st.sampled_from(KINDS),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_any_image_is_found_as_by_the_twin(height, width, kind, seed):
    assert_found_as_by_twin(hostile(kind, height, width, np.random.default_rng(seed)))


def assert_resampled_as_by_twin(image, y, x, scale, side, seed):
    rng = np.random.default_rng(seed)
    fade = rng.integers(0, 257, (side, side)).astype(np.int16)
    fade[rng.random(fade.shape) < rng.random()] = rng.choice([0, 256])
    tables = rng.integers(0, 256, (3, 256)).astype(np.uint8)
    out = np.empty((side, side, 3), np.uint8)
    arguments = (image, y, x, scale, GREYS, tables, fade, 246)
    _core.resample_square(*arguments, out)
    np.testing.assert_array_equal(out, reference.resample_square(*arguments))


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 1.7, 50.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (61, 47), (200, 333)])
def test_resampled_as_by_the_twin(instruction_set, size, scale):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    for y, x in [(size[0] / 2, size[1] / 2), (0, size[1] - 1), (-30.5, 20), (1e6, -1e6)]:
        assert_resampled_as_by_twin(image, y, x, scale, 33, 0)
    for kind in ("black", "white"):
        assert_resampled_as_by_twin(hostile(kind, *size, rng), 3.3, 0.1, scale, 16, 1)


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 150), width=st.integers(1, 150), side=st.integers(1, 40),
    scale=st.floats(0.02, 20), y=st.floats(-60, 200), x=st.floats(-60, 200),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_any_square_is_resampled_as_by_the_twin(height, width, side, scale, y, x, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert_resampled_as_by_twin(image, y, x, scale, side, seed)


def test_a_square_of_one_colour_stays():
    """Weights add up to 1 for every scale, also across the edge to the same colour."""
    image = np.full((50, 60, 3), GREYS, np.uint8)
    out = np.empty((30, 30, 3), np.uint8)
    for scale in (0.01, 0.37, 1.0, 3.3):
        _core.resample_square(
            image, 3.0, 58.0, scale, GREYS, TABLES, np.full((30, 30), 256, np.int16), 246, out
        )
        assert (out == GREYS).all()


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 90), width=st.integers(1, 90), kind=st.sampled_from(KINDS),
    sharper=st.floats(-1, 6), seed=st.integers(0, 999),
)  # fmt: skip
def test_any_cell_is_blurred_as_by_the_twin(height, width, kind, sharper, seed):
    rng = np.random.default_rng(seed)
    cell = hostile(kind, height, width, rng)
    fade = rng.choice(np.array([255, 256], np.int16), (height, width))
    expected, blurred = reference.match_focus(cell, fade, sharper)
    assert _core.match_focus(cell, fade, sharper) == blurred
    np.testing.assert_array_equal(cell, expected)


def test_blurred_as_by_the_twin(instruction_set):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (3, 3), (112, 112), (33, 130)):
        for wanted in (0.3, 1.5, 9.0):
            cell = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            fade = np.full(size, 256, np.int16)
            expected, blurred = reference.match_focus(cell, fade, wanted)
            assert _core.match_focus(cell, fade, wanted) == blurred
            np.testing.assert_array_equal(cell, expected)


def test_sharper_edges_are_blurred_to_what_is_wanted_and_others_left():
    """Discs blurred by a Gaussian: variances of what comes out are alike, whatever came in."""
    y, x = np.mgrid[:96, :96] - 47.5
    disc = np.where(np.hypot(y, x) < 25, 60.0, 240.0)
    fade = np.full(disc.shape, 256, np.int16)
    left = []
    for sigma in (0.4, 0.6, 0.8, 2.5):
        grey = ndimage.gaussian_filter(disc, sigma)
        before = np.repeat(np.rint(grey)[..., None], 3, axis=2).astype(np.uint8)
        cell = before.copy()
        _core.match_focus(cell, fade, 2.0)
        left.append(np.abs(np.gradient(cell[48, :, 1].astype(float))).max())
        assert (cell == before).all() == (sigma == 2.5)
    steepest = np.abs(np.gradient(ndimage.gaussian_filter(disc, 0.4)[48])).max()
    assert max(left[:3]) / min(left[:3]) < 1.2 and max(left) < 0.75 * steepest


# The same cell, taken otherwise


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.5, 2])
@pytest.mark.parametrize("size", [192, 360])
def test_scale(size, factor):
    """Granules part from the nucleus at one scale and not at another in about one cell of eight."""
    images = make_leukocytes(2, size=size).images
    form = CanonicalForm.learn(images)
    distances = [
        apart(form.normalise(resized(image, factor)), form.normalise(image)) for image in images
    ]
    assert np.median(distances) < 3
    assert np.mean(np.array(distances) < 4) >= 0.6
    others = [apart(*map(form.normalise, images[i : i + 2])) for i in range(len(images) - 1)]
    assert np.median(others) > 12


@pytest.mark.parametrize(
    "lamp, most", [((0.5, 0.6, 0.8), 1.5), ((1, 0.9, 0.7), 0.5), ((0.35, 0.35, 0.35), 2.5)]
)
def test_light(form, leukocytes, lamp, most):
    for image in leukocytes:
        darker = (image * np.array(lamp)).astype(np.uint8)
        assert apart(form.normalise(darker), form.normalise(image)) < most + 0.5


@pytest.mark.parametrize("veil", [0.2, 0.5])
def test_stray_light(form, veil):
    image = smear()
    veiled = np.rint((image + veil * 255.0) / (1 + veil)).astype(np.uint8)
    cell = form.normalise(image)
    assert apart(veiled, image) > 7
    assert apart(form.normalise(veiled), cell) < 3.5


def test_place_and_scale_are_those_of_the_nucleus(form):
    """As large and in the middle wherever it lies; no further than 0.2 sides are followed."""
    for place in ((0.5, 0.5), (0.35, 0.6), (0.6, 0.62)):
        for radius in (0.08, 0.13, 0.2):
            found = find_leukocyte(smear(240, [place], radius))
            assert found.centre == pytest.approx([240 * at - 0.5 for at in place], abs=1)
            assert np.sqrt(found.area) == pytest.approx(240 * radius * np.sqrt(np.pi), rel=0.11)
            cell = form.normalise(smear(240, [place], radius)).astype(int)
            grey = cell.sum(axis=2)
            middle = SIDE // 2
            nucleus = grey[middle - 4 : middle + 4, middle - 4 : middle + 4].mean()
            cytoplasm = grey[middle, middle + 26 : middle + 29].mean()
            dark = np.argwhere(grey < (nucleus + cytoplasm) / 2)
            assert dark.mean(axis=0) == pytest.approx((SIDE - 1) / 2, abs=1)
            assert np.sqrt(len(dark)) == pytest.approx(NUCLEUS, rel=0.13)


def test_neighbours_fade(form):
    alone = smear(360, radius=0.09)
    with_neighbour = smear(360, [(0.5, 0.5), (0.15, 0.2), (0.85, 0.7)], radius=0.09)
    assert apart(form.normalise(with_neighbour), form.normalise(alone)) < 0.5
    cell = form.normalise(with_neighbour)
    assert (cell[:8] == 246).all() and (cell[:, -8:] == 246).all()


def test_the_middle_one_of_two(form):
    image = smear(240, [(0.5, 0.48), (0.1, 0.9)])
    assert find_leukocyte(image).centre == pytest.approx([119.5, 114.7], abs=1.5)


def test_half_a_cell_at_the_edge(form):
    """It is beside the one in the middle; alone it is no leukocyte of this image."""
    both = smear(240, [(0.5, 0.5), (0.5, 1.0)])
    assert find_leukocyte(both).centre == pytest.approx([119.5, 119.5], abs=1.5)
    assert form.change(both)[1] == ""
    cell, note = form.change(smear(240, [(0.5, 1.0)], radius=0.1))
    assert note == "no leukocyte"
    assert cell.shape == (SIDE, SIDE, 3)


def test_white_surround(form):
    """A cell cut out on white: the surround is its light."""
    image = smear(light=(255, 255, 255))
    y, x = np.mgrid[:240, :240] - 119.5
    image[np.hypot(y, x) > 60] = 255
    found = find_leukocyte(image)
    assert found.background == (255, 255, 255)
    cell, note = form.change(image)
    assert note == ""
    assert apart(cell, form.normalise(smear(light=(255, 255, 255)))) < 1.5


def test_cut_out_on_black(form):
    """Under the reference's light the nucleus stays dark; what was black is background."""
    image = smear()
    y, x = np.mgrid[:240, :240] - 119.5
    image[np.hypot(y, x) > 0.2 * 240] = 0
    cell, note = form.change(image)
    assert note == "no background"
    assert cell[50:62, 50:62].mean() < 130
    assert (cell[[0, 0, -1, -1], [0, -1, 0, -1]] == 246).all()
    whole = form.normalise(smear())
    assert apart(cell, whole) < 12


@pytest.mark.parametrize("band", [12, 40, 60])
def test_black_beyond_the_edge_of_the_field(form, band):
    image = smear()
    image[:, :band] = 0
    cell, note = form.change(image)
    assert note == ""
    assert apart(cell, form.normalise(smear())) < 3


def test_photograph_through_the_eyepiece(form):
    """The corners lie outside of the round field, its light falls off to the edge."""
    image = smear(360).astype(float)
    distance = np.hypot(*(np.mgrid[:360, :360] - 179.5)) / 180
    image *= (1 - 0.15 * distance**2)[..., None]
    image[distance > 1.1] = 4
    cell, note = form.change(np.rint(image).astype(np.uint8))
    assert note == ""
    assert apart(cell, form.normalise(smear(360))) < 8


@pytest.mark.parametrize("grey, spread", [(255, 0), (255, 6), (200, 1), (200, 6), (90, 4)])
def test_no_leukocyte(form, grey, spread):
    """Noise has a darkest part too, which is no nucleus."""
    noise = np.random.default_rng(0).normal(grey, spread, (150, 200, 3))
    cell, note = form.change(np.clip(noise, 0, 255).astype(np.uint8))
    assert note == "no leukocyte"
    assert cell.min() > 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(24, 24), (24, 300), (97, 131)])
def test_whatever_it_is_a_cell_comes_out(form, size, kind):
    cell, note = form.change(hostile(kind, *size, np.random.default_rng(0)))
    assert cell.shape == (SIDE, SIDE, 3) and cell.dtype == np.uint8
    assert note in ("", "no leukocyte", "no background", "no background, no leukocyte")


# What is done to the image, and what is not


def test_the_same_bits_alone_and_in_threads(instruction_set, form, leukocytes):
    alone = [form.normalise(image) for image in leukocytes]
    with ThreadPoolExecutor(4) as threads:
        for together in (
            threads.map(form.normalise, leukocytes),
            threads.map(form.normalise, leukocytes),
        ):
            for cell, expected in zip(together, alone, strict=True):
                np.testing.assert_array_equal(cell, expected)


def test_the_same_bits_on_every_instruction_set(form, leukocytes):
    before = _core.instruction_set()
    cells = []
    for name in _core.instruction_sets():
        _core.cap_instruction_set(name)
        cells.append(np.stack([form.normalise(image) for image in leukocytes]))
    _core.cap_instruction_set(before)
    assert all((cell == cells[0]).all() for cell in cells)


def test_the_image_stays(form):
    for image in (smear(), np.where(np.mgrid[:240, :240][1][..., None] < 30, 0, smear())):
        image = image.astype(np.uint8)
        copy = image.copy()
        expected = form.normalise(image)
        np.testing.assert_array_equal(image, copy)
        image.flags.writeable = False
        np.testing.assert_array_equal(form.normalise(image), expected)
        wide = np.zeros((240, 480, 3), np.uint8)
        wide[:, ::2] = image
        np.testing.assert_array_equal(form.normalise(wide[:, ::2]), expected)
        np.testing.assert_array_equal(form.normalise(np.asfortranarray(image)), expected)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 40, 40, 3), np.uint8), np.zeros((40, 40, 3)), np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8), np.zeros((0, 40, 3), np.uint8), "cells/", None,
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused(form, image):
    for refuses in (form.normalise, form.change, find_leukocyte, lambda one: form.learn([one])):
        with pytest.raises(ValueError, match=r"an image must be uint8 \(H, W, 3\), got"):
            refuses(image)


def test_errors():
    plain = np.random.default_rng(0).integers(228, 232, (60, 60, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"found one in 0 of 2\. Give such images"):
        CanonicalForm.learn([plain, plain])
    with pytest.raises(ValueError, match=r"found one in 0 of 0"):
        CanonicalForm.learn([])
    with pytest.raises(ValueError, match=r"density must be 3 positive numbers, got \[1.0, 0.0"):
        CanonicalForm([230, 220, 210], [1, 0, 1])
    with pytest.raises(ValueError, match=r"background must be 3 positive numbers, got \[1.0\]"):
        CanonicalForm([1], [1, 1, 1])
    with pytest.raises(ValueError, match="background must be at most 255"):
        CanonicalForm([256, 1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match=r"density must be at most 5\.545"):
        CanonicalForm([230, 220, 210], [1, 1, 6])
    with pytest.raises(ValueError, match="canonical cells have 112"):
        CanonicalForm.least_side(113)


def test_there_and_back_as_json(form):
    again = CanonicalForm(**form.to_json())
    image = smear()
    np.testing.assert_array_equal(again.normalise(image), form.normalise(image))


# Passes over images that show less


def test_a_pass_warns_once_and_counts(model, form):
    black = smear()
    black[np.hypot(*(np.mgrid[:240, :240] - 119.5)) > 48] = 0
    images = [smear(), smear(96, nuclei=()) - 9, black, black]
    canonical = Model(model.layers, model.pooling, normaliser=form)
    with pytest.warns(ImageWarning) as warned:
        profiles = canonical.profile(images)
    (warning,) = warned
    assert str(warning.message) == (
        "3 images were taken as expected where nothing could be measured: "
        "2 no background, 1 no leukocyte"
    )
    assert len(profiles.values) == 4


@pytest.mark.parametrize("method", ["background", "reinhard", "macenko"])
def test_stains_leave_what_is_cut_out_on_black(leukocytes, method):
    stain = StainNormaliser.learn(leukocytes, method)
    image = smear()
    assert stain.change(image)[1] == ""
    image[np.hypot(*(np.mgrid[:240, :240] - 119.5)) > 30] = 0
    same, note = stain.change(image)
    assert note == "no background"
    np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize(
    "place", [(np.nan, 4, 1), (4, np.inf, 1), (4, 4, np.nan), (4, 4, np.inf), (4, 4, 1e-5)]
)
def test_squares_nowhere_or_of_no_scale_are_refused(place):
    """Such places were read outside of the image; of tiny scales, one took for ever."""
    image, out = np.zeros((9, 9, 3), np.uint8), np.empty((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="do not fit"):
        _core.resample_square(image, *place, GREYS, TABLES, np.zeros((16, 16), "i2"), 246, out)
