"""Stain normalisation brings changed colours back."""

import numpy as np
import pytest

from wbcprof.stain import METHODS, StainNormaliser


@pytest.mark.parametrize("method", METHODS)
def test_a_stronger_stain_is_brought_back(cells, method):
    originals = list(cells.images[:8])
    stronger = [
        np.clip(256 * ((i.astype(float) + 1) / 256) ** 1.4 - 1, 0, 255).astype(np.uint8)
        for i in originals
    ]
    normaliser = StainNormaliser(method).fit(originals)

    def distance(images):
        return np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(images, originals)])

    restored = normaliser.transform(stronger)
    assert all(i.dtype == np.uint8 and i.shape == o.shape for i, o in zip(restored, originals))
    assert distance(restored) < 0.75 * distance(stronger)
    assert distance(normaliser.transform(originals)) < distance(stronger)


@pytest.mark.parametrize("method", METHODS)
def test_an_unstained_image_is_left_as_it_is(cells, method):
    blank = np.full((40, 40, 3), 250, np.uint8)
    (same,) = StainNormaliser(method).fit(list(cells.images[:4])).transform([blank])
    np.testing.assert_array_equal(same, blank)


def test_errors(cells):
    with pytest.raises(ValueError, match="method must be one of"):
        StainNormaliser("vahadane").fit(list(cells.images[:2]))
    with pytest.raises(ValueError, match="stained pixels"):
        StainNormaliser().fit([np.full((40, 40, 3), 250, np.uint8)])
