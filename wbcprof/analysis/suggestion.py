"""Which cells to look at first: those whose label would teach a model most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wbcprof._shown import Shown
from wbcprof.analysis.novelty import NamedCells, name_cells
from wbcprof.checks import Integer
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles

_NEIGHBOURS = 5
_REPRESENTATIVE = 0.25  # of being among many, beside being strange


@dataclass(frozen=True, eq=False, repr=False)
class Suggestion(Shown):
    """A cell to look at.

    Attributes
    ----------
    index : int
        Among the profiles.
    image_id : str
    call : str
        As the model names it; see `NamedCells.calls`.
    novelty_p : float

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> known = make_leukocytes(60, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(known.images[::4], n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, known.images, known.labels, augment=0)
    >>> from wbcprof.analysis import suggest
    >>> (first,) = suggest(model, model.profile(known.images[:9]), n=1)
    >>> first.image_id == f"image_{first.index:06}"
    True
    """

    index: int
    image_id: str
    call: str
    novelty_p: float


def suggest(model: Model, profiles: Profiles, n: int = 50) -> list[Suggestion]:
    """Cells in the order in which to look at them, and to label them for `wbcprof adapt`.

    First come the strangest: unlike all types, or between two. Among cells as strange, those come
    first that many others are like; and none that is nearly the same as one already suggested.
    (Farthest-first traversal, Gonzalez, 1985, of the profiles, weighted by strangeness.)

    Parameters
    ----------
    model : Model
        With a classifier.
    profiles : Profiles
        Of this model.
    n : int
        Cells at most.

    Raises
    ------
    ValueError
        As `name_cells`, or `n` is no positive integer.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import suggest
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(40, size=96, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=0)
    >>> first = suggest(model, model.profile(cells.images[:20]), n=3)
    >>> len(first), len({cell.index for cell in first})
    (3, 3)
    """
    n = min(Integer(1).check("n", n), len(profiles))
    named = name_cells(model, profiles)
    machines = model.classifier
    assert machines is not None
    places = machines.standardise(profiles.values)
    if machines.gaussians_ is not None:
        places = machines.gaussians_.places(places)
    chosen = _in_order(_worth(named), places, n)
    return [
        Suggestion(i, named.ids[i], str(named.calls[i]), float(named.novelty_p[i])) for i in chosen
    ]


def _worth(named: NamedCells) -> np.ndarray:
    """How strange each cell is, 0 to 1; what cannot be measured is strangest, and where nothing can
    be known, how unsure its type is."""
    score = named.score
    if np.isnan(score).all():
        score = -np.nan_to_num(named.probabilities).max(axis=1)
    score = np.where(np.isnan(score), np.nanmax(score), score)
    spread = float(np.ptp(score))
    worth: np.ndarray = (score - score.min()) / spread if spread > 0 else np.ones(len(score))
    return worth


def _in_order(worth: np.ndarray, places: np.ndarray, n: int) -> list[int]:
    near = _nearest_distances(places)
    typical = max(float(np.median(near)), 1e-12)
    value = worth + _REPRESENTATIVE * typical / (typical + near)
    apart = np.full(len(places), 1e300)
    chosen: list[int] = []
    for _ in range(n):
        new = apart / (apart + 0.5 * typical)
        new[chosen] = -1
        best = int((value * new).argmax())
        chosen.append(best)
        apart = np.minimum(apart, np.linalg.norm(places - places[best], axis=1))
    return chosen


def _nearest_distances(places: np.ndarray) -> np.ndarray:
    """Mean distance of each cell to its nearest few."""
    k = min(_NEIGHBOURS, len(places) - 1)
    if k == 0:
        return np.zeros(len(places))
    squares = (places**2).sum(axis=1)
    near = np.empty(len(places))
    for start in range(0, len(places), 512):
        part = slice(start, start + 512)
        squared = squares[part, None] + squares - 2 * places[part] @ places.T
        few = np.partition(np.maximum(squared, 0), k, axis=1)[:, : k + 1]
        near[part] = np.sqrt(few).sum(axis=1) / k
    return near
