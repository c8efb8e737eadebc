"""Where in its cells a signature is called up most, on thumbnails."""

import numpy as np
import pytest

import wbcprof
from wbcprof.datasets import make_leukocytes
from wbcprof.report.calls import Subject, call_cells
from wbcprof.report.cells import read_cells
from wbcprof.report.places import find_places


def _subject(normalise, images, labels):
    model = wbcprof.fit(
        images, n_signatures=8, patch_size=6, step=2, n_patches=600, max_iter=1, normalise=normalise
    )
    cells = read_cells(model, images, labels, 0, 1)
    calls = call_cells(model, cells, "cross-validated", 0, lambda *_: None)
    return Subject.of(model, cells, calls, 0, 1)


@pytest.fixture(scope="module")
def drawn():
    return make_leukocytes(6, size=96, types=["lymphocyte", "neutrophil"], random_state=2)


@pytest.mark.parametrize("normalise", ["canonical", None])
def test_places_lie_where_the_codes_are_largest(drawn, normalise):
    images = [image[8:-8] for image in drawn.images]  # wider than high
    subject = _subject(normalise, images, drawn.labels)
    found = find_places(subject)
    model = subject.model
    for number, (places, rivals) in enumerate(zip(found["places"], found["rivals"], strict=True)):
        assert all(len(at) == 1 + len(rivals) for at in places)
        for (signature, *_), at in zip(subject.calls.reasons[number], places, strict=True):
            codes = np.abs(model.codes(images[number])[..., signature])
            row, column = np.unravel_index(codes.argmax(), codes.shape)
            y, x = 2 * row + 2.5, 2 * column + 2.5
            if normalise:
                middle = model.normaliser.place_of(images[number])
                y, x = (m + (v - 55.5) / middle[2] for m, v in zip(middle, (y, x), strict=False))
            expected = 1000 * np.array([(x + 0.5) / 96, (y + 0.5 + 8) / 96])
            np.testing.assert_allclose(at[0], expected.clip(0, 1000), atol=1)


def test_rivals_are_called_the_next_best(drawn):
    subject = _subject("canonical", drawn.images, drawn.labels)
    calls = subject.calls
    for number, rivals in enumerate(find_places(subject)["rivals"]):
        assert rivals and set(calls.called[rivals]) == {calls.rival[number]}


def test_nothing_is_sought_where_nothing_is_called(drawn):
    subject = _subject("canonical", drawn.images, None)
    assert find_places(subject) == {"rivals": [[]] * 12, "places": [[]] * 12}
