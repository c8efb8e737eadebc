"""Where in its cells a signature is called up most: what made a call, to be seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from wbcprof.model.model import codes_of
from wbcprof.report.calls import Subject
from wbcprof.smear.canonical import SIDE, CanonicalForm

_MOST_CELLS = 2_000  # that are read once more, some ms each
_RIVALS = 3  # cells of the rival type


def find_places(subject: Subject) -> dict[str, list[Any]]:
    """Of every shown cell: ``rivals``, the shown cells most like it of those called the next best
    type; ``places``, of each signature that made its call, the strongest place there, and then in
    each of its rivals, in thousandths of a thumbnail to the right and down. Empty lists where
    nothing is called, or where there are too many cells or layers."""
    cells, called = subject.cells, subject.calls
    n = len(cells.shown)
    nothing: dict[str, list[Any]] = {"rivals": [[]] * n, "places": [[]] * n}
    if not called.types or n > _MOST_CELLS or len(subject.model.layers) > 1:
        return nothing
    at = _strongest(subject)
    if at is None:
        return nothing
    rivals = _nearest_rivals(subject)
    places = []
    for number, cell in enumerate(cells.shown):
        beside = [number, *rivals[number]]
        places.append([at[beside, reason[0]].tolist() for reason in called.reasons[cell]])
    return {"rivals": rivals, "places": places}


def _strongest(subject: Subject) -> np.ndarray | None:
    """Places (shown cells, signatures, 2), int; None where the images cannot be read once more as
    they were."""
    model, wanted = subject.model, set(subject.cells.shown)
    layer, form = model.layers[0], model.normaliser
    found = []
    for number, cell in enumerate(subject.cells.source.quietly().read(subject.n_threads)):
        if number not in wanted:
            continue
        image = cell.pixels
        codes = codes_of(layer, model.as_read(image), layer.step, "feedforward", subject.n_threads)
        strongest = np.abs(codes).reshape(-1, codes.shape[2]).argmax(axis=0)
        place = layer.step * np.stack(np.divmod(strongest, codes.shape[1]), axis=1)
        place = place + (layer.patch_size - 1) / 2
        if isinstance(form, CanonicalForm):
            y, x, scale = form.place_of(image)
            place = np.array([y, x]) + (place - (SIDE - 1) / 2) / scale
        height, width = image.shape[:2]
        longer = max(height, width)
        margin = np.array([longer - height, longer - width]) / 2
        share = (place + 0.5 + margin) / longer
        found.append(np.rint(1000 * share[:, ::-1].clip(0, 1)).astype(int))
    return np.stack(found) if len(found) == len(wanted) else None


def _nearest_rivals(subject: Subject) -> list[list[int]]:
    from sklearn.neighbors import NearestNeighbors

    cells, called = subject.cells, subject.calls
    values = cells.comparable[cells.shown].astype(np.float32)
    is_called, rival = called.called[cells.shown], called.rival[cells.shown]
    rivals: list[list[int]] = [[] for _ in cells.shown]
    for other in range(len(called.types)):
        there, here = np.flatnonzero(is_called == other), np.flatnonzero(rival == other)
        if len(there) and len(here):
            search = NearestNeighbors(n_neighbors=min(_RIVALS, len(there))).fit(values[there])
            near = search.kneighbors(values[here], return_distance=False)
            for cell, row in zip(here.tolist(), near, strict=True):
                rivals[cell] = there[row].tolist()
    return rivals
