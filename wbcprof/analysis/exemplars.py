"""What a signature is, in cells: the places that call it up most, and in which part of a cell it
lives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Integer, check, label_names, sorted_types
from wbcprof.images.source import open_images
from wbcprof.model.model import Model, codes_of
from wbcprof.smear.canonical import PARTS, CanonicalForm
from wbcprof.threads import resolve_threads

__all__ = ["Exemplars", "Place", "find_exemplars"]

RULES = {
    "n_exemplars": Integer(),
    "n_cells": Integer(),
    "random_state": Integer(0, 2**32 - 1),
}


class Place(NamedTuple):
    """A window that calls up a signature: in which cell, its first row and column there, px, the
    code, and the id of the image.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import find_exemplars
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=72)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
    >>> place = find_exemplars(model, cells.images, n_exemplars=1).places[0][0]
    >>> place.code > 0, place.row % 2, place.column % 2
    (True, 0, 0)
    """

    cell: int
    row: int
    column: int
    code: float
    image_id: str


@dataclass(frozen=True, eq=False, repr=False)
class Exemplars(Shown):
    """Result of `find_exemplars`, of k signatures.

    Attributes
    ----------
    signatures : ndarray of shape (k,), int
        Of the model's first layer.
    places : list of k lists of `Place`
        The strongest first, one a cell, up to as many as were asked for; fewer where a signature is
        called up in fewer cells.
    cells : dict from int to ndarray, uint8
        Cells that these places lie in, as the model reads them, by their number among those read.
    n_cells : int
        That were read.
    types : list of str
        Of these; "unlabelled" among them where some are.
    by_type : ndarray of shape (k, n_types), float64
        Mean code in each type, over the mean of the types; 0 where a signature is not called up.
    parts : ndarray of shape (k, 4), float64, or None
        Share of a signature's codes in nucleus, rim, cytoplasm and background, by the middle of
        each window; None but for canonical cells, see `wbcprof.smear.CanonicalForm.parts`.
    area : ndarray of shape (4,), float64, or None
        Share of the windows in each: what is to be expected of a signature that lives everywhere.
    patch_size : int
        p, px.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import find_exemplars
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=72)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
    >>> found = find_exemplars(model, cells.images, labels=cells.labels)
    >>> found.by_type.shape, len(found.describe(0)) > 0
    ((8, 6), True)
    """

    signatures: np.ndarray
    places: list[list[Place]]
    cells: dict[int, np.ndarray]
    n_cells: int
    types: list[str]
    by_type: np.ndarray
    parts: np.ndarray | None
    area: np.ndarray | None
    patch_size: int

    def _told(self) -> dict[str, Any]:
        return {
            "signatures": self.signatures,
            "cells": self.n_cells,
            "exemplars": sum(map(len, self.places)),
            "types": self.types,
        }

    def describe(self, index: int) -> str:
        """In words, where signature number `index` of these lives and in which type.

        The part of a cell, or the type, is named where the signature is called up there at least
        one and a half times as much as everywhere.
        """
        if not self.places[index]:
            return "not called up"
        words = []
        if self.parts is not None and self.area is not None:
            over = self.parts[index] / np.maximum(self.area, 1e-9)
            part = int(np.argmax(np.where(self.area > 0, over, 0)))
            if over[part] >= _MARKED:
                words.append(f"in the {PARTS[part]}" if part != 1 else "at the rim of the nucleus")
        if len(self.types) > 1:
            name = int(np.argmax(self.by_type[index]))
            if self.by_type[index, name] >= _MARKED:
                words.append(f"in {self.types[name]}")
        return ", ".join(words) or "everywhere"


_MARKED = 1.5  # times what is to be expected


def find_exemplars(
    model: Model,
    images: Any,
    signatures: Sequence[int] | np.ndarray | None = None,
    *,
    labels: Iterable[Any] | None = None,
    n_exemplars: int = 8,
    n_cells: int = 300,
    random_state: int = 0,
    n_threads: int | None = None,
) -> Exemplars:
    """The places in real cells that call up signatures most, one a cell at most.

    Parameters
    ----------
    model : Model
        Of one layer.
    images : folder, path, list of paths, array, or iterable of arrays
        See `wbcprof.images.open_images`.
    signatures : sequence of k int, optional
        Which, such as the first of `wbcprof.analysis.rank_signatures`; all by default.
    labels : iterable, optional
        Types of the images; a folder's sub-folders give them by default.
    n_exemplars : int
        Places of each signature, at most.
    n_cells : int
        Cells that they are sought in, at most: so many are drawn at random; of an iterator, the
        first.
    random_state, n_threads : int
        Seed of the draw.

    Raises
    ------
    ValueError
        The model has further layers, whose signatures are no patches; a signature that it has not;
        no image could be read.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import find_exemplars
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=72)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
    >>> found = find_exemplars(model, cells.images, [0, 3], labels=cells.labels, n_exemplars=4)
    >>> len(found.places[1]) <= 4, found.parts.shape, len(found.types)
    (True, (2, 4), 6)
    >>> ax = wbcprof.figures.exemplars(found, model.signatures)
    """
    check(RULES, n_exemplars=n_exemplars, n_cells=n_cells, random_state=random_state)
    if len(model.layers) > 1:
        raise ValueError(
            f"exemplars are patches of cells, which only a first layer's signatures are; the model "
            f"has {len(model.layers)} layers"
        )
    layer, threads = model.layers[0], resolve_threads(n_threads)
    chosen = _checked_signatures(signatures, layer.n_signatures)
    source = open_images(images, labels, min_size=model.min_size)
    if source.n_hint is not None and source.n > n_cells:
        rng = np.random.default_rng(random_state)
        drawn = np.sort(rng.choice(source.n, n_cells, replace=False)).tolist()
        source = source.together([source.part(i, i + 1) for i in drawn])
    form = model.normaliser if isinstance(model.normaliser, CanonicalForm) else None

    places: list[list[Place]] = [[] for _ in chosen]
    cells: dict[int, np.ndarray] = {}
    names: list[str] = []
    means: list[np.ndarray] = []
    in_parts, area = np.zeros((len(chosen), len(PARTS))), np.zeros(len(PARTS))
    for cell in islice(model.read(source, threads), n_cells):
        codes = codes_of(layer, cell.pixels, layer.step, "feedforward", threads)
        strength = np.abs(codes[..., chosen])
        means.append(strength.mean(axis=(0, 1)))
        strongest = strength.reshape(-1, len(chosen)).argmax(axis=0)
        for k, (row, column) in enumerate(zip(*divmod(strongest, codes.shape[1]), strict=True)):
            code = float(strength[row, column, k])
            at = Place(
                len(names), int(layer.step * row), int(layer.step * column), code, cell.image_id
            )
            places[k] = _strongest([*places[k], at], n_exemplars)
        if form is not None:
            middle = slice(layer.patch_size // 2, None, layer.step)
            part = form.parts(cell.pixels)[middle, middle][: codes.shape[0], : codes.shape[1]]
            for index in range(len(PARTS)):
                area[index] += (part == index).sum()
                in_parts[:, index] += strength[part == index].sum(axis=0)
        cells[len(names)] = cell.pixels
        held = {place.cell for some in places for place in some}
        cells = {number: pixels for number, pixels in cells.items() if number in held}
        names.extend(label_names([cell.label]))
    types = sorted_types(names)
    of_type = np.array(names)[:, None] == types
    by_type = (np.array(means).T @ of_type) / of_type.sum(axis=0)
    return Exemplars(
        signatures=chosen,
        places=places,
        cells=cells,
        n_cells=len(names),
        types=types,
        by_type=_over(by_type, by_type.mean(axis=1, keepdims=True)),
        parts=None if form is None else _over(in_parts, in_parts.sum(axis=1, keepdims=True)),
        area=None if form is None else area / area.sum(),
        patch_size=layer.patch_size,
    )


def _strongest(places: list[Place], n: int) -> list[Place]:
    return sorted((p for p in places if p.code > 0), key=lambda p: (-p.code, p.cell))[:n]


def _over(values: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The ratio; 0 where there is nothing."""
    share: np.ndarray = np.divide(values, whole, out=np.zeros_like(values), where=whole > 0)
    return share


def _checked_signatures(given: Any, n: int) -> np.ndarray:
    chosen = np.arange(n) if given is None else np.asarray(given)
    if chosen.ndim != 1 or len(chosen) == 0 or chosen.dtype.kind not in "iu":
        raise ValueError(f"signatures must be a sequence of at least one number, got {given!r}")
    if chosen.min() < 0 or chosen.max() >= n:
        raise ValueError(
            f"signatures must lie between 0 and {n - 1}, those of the model, got "
            f"{int(chosen.min())} to {int(chosen.max())}"
        )
    return chosen.astype(int)
