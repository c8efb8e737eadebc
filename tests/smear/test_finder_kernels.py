"""The kernels of the finder find what their naive twins find, to the last bit."""

import numpy as np
import pytest

from wbcprof import _core, reference
from wbcprof.datasets import make_smear
from wbcprof.smear.finder import _between, _edges, _Seen

SIZES = [(1, 1), (1, 40), (40, 1), (2, 3), (61, 90), (97, 64)]
KINDS = ["noise", "blocks", "flat"]


def field_of(kind, height, width, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == "flat":
        return np.full((height, width, 3), 200, np.uint8)
    blocks = rng.integers(0, 2, (height // 9 + 1, width // 9 + 1))
    mask = np.kron(blocks, np.ones((9, 9), int))[:height, :width]
    return np.array([(235, 225, 230), (90, 50, 140)], np.uint8)[mask]


@pytest.fixture(scope="module")
def smear():
    """Generated fields, not real data, of leukocytes that often touch."""
    return make_smear(2, size=(300, 400), n_leukocytes=5, pixel_size=0.15, random_state=103)


def light_of(field, factor, lefts):
    light = np.empty((len(lefts) - 1, 3), np.uint8)
    _core.measure_light(field, factor, 0, len(field) // factor, lefts, light)
    return light


@pytest.mark.parametrize("factor", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_light_as_by_the_twin(instruction_set, size, kind, factor):
    field = field_of(kind, *(factor * side + factor - 1 for side in size))
    lefts = _edges(size[1], 8)
    expected = reference.measure_light(field, factor, lefts)
    assert np.array_equal(light_of(field, factor, lefts), expected)


@pytest.mark.parametrize("factor", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_stain_as_by_the_twin(instruction_set, size, kind, factor):
    field = field_of(kind, *(factor * side + factor - 1 for side in size))
    tops, lefts = (_edges(side, 8) for side in size)
    rng = np.random.default_rng(1)
    light = rng.integers(1400, 5688, (len(tops) - 1, len(lefts) - 1, 3), dtype=np.int32)
    down, across = _between(tops, 0, size[0]), _between(lefts, 0, size[1])
    density, stained = np.empty((3, *size), np.int16), np.empty(size, np.int16)
    _core.stain_field(field, factor, 0, 0, light, down, across, density, stained)
    expected = reference.stain_field(field, factor, light, down, across)
    assert np.array_equal(density, expected[0]) and np.array_equal(stained, expected[1])


def assert_found_as_by_twin(density, stained, unit, levels):
    nuclei, cells = np.full((2, *stained.shape), -1, np.int32)
    rows = np.empty((stained.size, 9))
    n = _core.find_leukocytes(density, stained, unit, *levels, nuclei, cells, rows)
    expected = reference.find_leukocytes(density, stained, unit, *levels)
    assert np.array_equal(nuclei, expected[0]) and np.array_equal(cells, expected[1])
    assert np.array_equal(rows[:n], expected[2])
    return n


@pytest.mark.parametrize("diameter", [50, 30, 18])
def test_generated_fields_as_by_the_twin(instruction_set, smear, diameter):
    """At three sizes of the red cell as the ruler has it: right, and too small."""
    for field in smear.images:
        seen = _Seen.of(field, diameter, 1)
        density, stained = seen._stain((0, 0, seen.height, seen.width))
        assert assert_found_as_by_twin(density, stained, seen.unit, seen.levels) >= 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("unit", [6.5, 16.0])
def test_anything_as_by_the_twin(instruction_set, unit, size, kind):
    seen = _Seen.of(field_of(kind, *size), unit, 1)
    density, stained = seen._stain((0, 0, *size))
    for low, colour in ((256, 0.0), (900, 1.5)):
        levels = seen.levels._replace(low=low, colour=colour)
        assert_found_as_by_twin(density, stained, seen.unit, levels)


def measure(lefts=(0, 25, 50), factor=1, top=0, bottom=50):
    field = np.zeros((50, 50, 3), np.uint8)
    lefts = np.array(lefts, np.int32)
    _core.measure_light(field, factor, top, bottom, lefts, np.zeros((2, 3), np.uint8))


def stain(part=0, weight=0, light=0, factor=1, top=0):
    places = np.array([[part] * 50, [weight] * 50], np.int32)
    _core.stain_field(
        np.zeros((50, 50, 3), np.uint8), factor, top, 0, np.full((2, 2, 3), light, np.int32),
        places, places, np.zeros((3, 50, 50), np.int16), np.zeros((50, 50), np.int16),
    )  # fmt: skip


def find(stained=0, unit=16.0, red_cells=60.0, level=0.45, low=256, room=62):
    _core.find_leukocytes(
        np.zeros((3, 50, 50), np.int16), np.full((50, 50), stained, np.int16), unit, 100,
        red_cells, level, 64, low, 200.0, 1.2, *np.zeros((2, 50, 50), np.int32),
        np.zeros((room, 9)),
    )  # fmt: skip


@pytest.mark.parametrize(
    "kernel, wrong",
    [
        (measure, {"lefts": (0, -100, 50)}), (measure, {"lefts": (0, 60, 50)}),
        (measure, {"lefts": (-1, 25, 50)}), (measure, {"lefts": (0, 25, 51)}),
        (measure, {"factor": 3000}), (measure, {"top": 1, "bottom": -(2**31)}),
        (stain, {"part": 2}), (stain, {"part": -1}), (stain, {"weight": 257}),
        (stain, {"light": 5691}), (stain, {"light": -1}), (stain, {"factor": 0}),
        (stain, {"top": 2**31 - 1}),
        (find, {"stained": 16384}), (find, {"unit": 0.5}), (find, {"unit": np.inf}),
        (find, {"unit": np.nan}), (find, {"red_cells": np.nan}), (find, {"level": 1.1}),
        (find, {"low": -1}), (find, {"room": 61}),
    ],
)  # fmt: skip
def test_kernels_refuse_what_does_not_fit(kernel, wrong):
    """They would read, or write, past the ends of arrays, or never end."""
    kernel()
    with pytest.raises(ValueError, match="do not fit"):
        kernel(**wrong)
