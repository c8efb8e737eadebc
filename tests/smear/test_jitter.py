"""Jittered copies differ as said, by the number of the copy alone, and hold the cell."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from wbcprof.datasets import make_leukocytes
from wbcprof.smear.canonical import CanonicalForm, find_leukocyte
from wbcprof.smear.jitter import N_TURNS, jitter, jitter_some, turned


@pytest.fixture(scope="module")
def image():
    """A generated cell, not a real one."""
    return make_leukocytes(1, size=240, types=["neutrophil"]).images[0]


@pytest.fixture(scope="module")
def copies(image):
    return [jitter(image, 0, k) for k in range(120)]


def resized(copy, image):
    return np.asarray(Image.fromarray(copy).resize(image.shape[1::-1], Image.Resampling.BILINEAR))


def test_image_seed_and_number_make_the_copy(image, copies):
    np.testing.assert_array_equal(jitter(image, 0, 7), copies[7])
    for other in jitter(image, 1, 7), jitter(image[::-1], 0, 7)[::-1], copies[8]:
        assert np.abs(resized(other, image).astype(int) - resized(copies[7], image)).mean() > 2


def test_the_same_in_threads(image, copies):
    with ThreadPoolExecutor(4) as threads:
        for copy, expected in zip(
            threads.map(lambda k: jitter(image, 0, k), range(24)), copies, strict=False
        ):
            np.testing.assert_array_equal(copy, expected)


def test_the_image_stays(image):
    before = image.copy()
    locked = image.copy()
    locked.flags.writeable = False
    wide = np.zeros((240, 480, 3), np.uint8)
    wide[:, ::2] = image
    for same in (image, locked, wide[:, ::2], np.asfortranarray(image)):
        np.testing.assert_array_equal(jitter(same, 0, 3), jitter(before, 0, 3))
    np.testing.assert_array_equal(image, before)


def test_what_differs_between_laboratories(image, copies):
    """Sides 0.5 to 1.22 times the image's; lamps; contrast from strong stain to stray light."""
    sides = np.array([copy.shape[0] / 240 for copy in copies])
    assert sides.min() == pytest.approx(0.5, abs=0.03)
    assert sides.max() == pytest.approx(np.exp(0.2), abs=0.04)
    assert all(copy.shape[0] == copy.shape[1] and copy.dtype == np.uint8 for copy in copies)
    mean = np.array([copy.mean(axis=(0, 1)) for copy in copies])
    assert 8 < mean.std(axis=0).min() and mean.std(axis=0).max() < 40
    assert 3 < (mean[:, 0] - mean[:, 2]).std() < 40
    contrast = np.array([copy.std() for copy in copies])
    assert contrast.min() < 0.7 * image.std()
    assert contrast.max() > 1.05 * image.std()
    sharp = np.array([np.abs(np.diff(copy.astype(int), axis=0)).mean() for copy in copies])
    assert sharp.max() > 3 * sharp.min()


def turned_back(image, k):
    """`turned` undone."""
    return turned(image, (4 - k) % 4 if k % N_TURNS < 4 else k)


def test_all_ways_that_an_image_can_lie():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    ways = [turned(image, k) for k in range(N_TURNS)]
    assert len({way.tobytes() + bytes(way.shape) for way in ways}) == N_TURNS == 8
    np.testing.assert_array_equal(ways[0], image)
    np.testing.assert_array_equal(ways[1], np.rot90(image))
    np.testing.assert_array_equal(turned(image, N_TURNS + 1), ways[1])
    for k, way in enumerate(ways):
        np.testing.assert_array_equal(turned_back(way, k), image)
        assert way.flags.c_contiguous


def test_less_of_all_but_scale(image):
    """Of strength 0, the image at another size and as JPEG."""
    for k in range(6):
        copy = jitter(image, 0, k, strength=0)
        assert copy.shape == jitter(image, 0, k).shape
        copy = turned_back(copy, k)
        assert np.abs(resized(copy, image).astype(int) - image).mean() < 8
        assert np.abs(copy.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 2


def test_the_cell_is_still_there(image, copies):
    form = CanonicalForm.learn([image])
    notes = [form.change(copy)[1] for copy in copies]
    assert notes.count("") >= 0.95 * len(copies)
    off = [
        np.hypot(*(np.array(find_leukocyte(copy).centre) / copy.shape[:2] - 0.5)) for copy in copies
    ]
    assert np.median(off) < 0.15


def test_small_and_narrow_images_are_not_made_smaller():
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (1, 60), (30, 30), (24, 200)]:
        small = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for k in range(8):
            copy = turned_back(jitter(small, 0, k), k)
            assert min(height, 32) <= copy.shape[0] <= 32 * 1.23
            assert copy.shape[1] >= min(width, 32)


@pytest.mark.parametrize("grey", [0, 1, 255])
def test_flat_images(grey):
    copy = jitter(np.full((80, 90, 3), grey, np.uint8), 0, 0)
    assert abs(copy.mean() - grey) < 80


def test_half_of_all_images_are_jittered():
    images = make_leukocytes(10, size=64).images
    jittered = [jitter_some(image, 0) for image in images]
    same = [np.array_equal(one, image) for one, image in zip(jittered, images, strict=True)]
    assert 0.3 < np.mean(same) < 0.7
    for one, image in zip(jittered, images, strict=True):
        np.testing.assert_array_equal(jitter_some(image.copy(), 0), one)


@pytest.mark.parametrize("what", [np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), "cells/"])
def test_what_is_no_image_is_refused(what):
    for refuses in (lambda one: jitter(one, 0, 0), lambda one: jitter_some(one, 0)):
        with pytest.raises(ValueError, match=r"an image must be uint8 \(H, W, 3\), got"):
            refuses(what)
