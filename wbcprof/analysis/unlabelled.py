"""Types of cells without a label, where few cells have one.

A discriminant learnt from the labelled cells names the others; of each type the surest nine in ten
are then learnt from too (self-training with balance: no type gains more than the others). Labelled
cells that are left out tell whether that helps: where it does not, nothing is named.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from wbcprof.analysis.decisions import SHRINKAGE, AllDirections, Rows
from wbcprof.analysis.folds import stratified_folds
from wbcprof.model.machines import log_products

FEW = 50
"""Labelled cells of a type, fewer than which cells without a label are learnt from too."""

LEAST, MOST = 50, 1_500
"""Cells without a label that are worth it, and of which it is made."""

_SURE = 0.9  # of the cells called a type, those that are learnt from
_FOLDS = 5

_Scores = Callable[[np.ndarray], np.ndarray]


def name_unlabelled(
    tables: list[np.ndarray],
    places: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    random_state: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Types of cells, those without a label named as far as that is sure and helps.

    Parameters
    ----------
    tables : list of ndarray of shape (n_rows, n_features)
        Profiles, and those of the same cells turned.
    places : ndarray of shape (n,), int
        Rows of the cells in question.
    labels : ndarray of shape (n,), object
        None where unknown. Types of one cell are not learnt.
    groups : ndarray of shape (n,), optional
        Cells in the group of a labelled one are not named.
    random_state : int

    Returns
    -------
    named : ndarray of shape (n,), object
        None where not named.
    confusion : ndarray of shape (n_types, n_types), int64, or None
        Labelled cells, true types down, as called by what was learnt without them, and from cells
        without a label that were named without them; None where none is named.
    """
    named: np.ndarray = labels.copy()
    free = np.flatnonzero([label is None for label in labels])
    known = np.setdiff1d(np.arange(len(labels)), free)
    types, codes, counts = np.unique(
        labels[known].astype(str), return_inverse=True, return_counts=True
    )
    known = known[counts[codes] > 1]
    if groups is not None:
        free = free[~np.isin(groups[free], groups[known])]
    if len(free) < LEAST or (counts > 1).sum() < 2 or counts[counts > 1].min() >= FEW:
        return named, None
    types, codes = np.unique(labels[known].astype(str), return_inverse=True)
    own = None if groups is None else groups[known]
    folds = stratified_folds(types[codes], own, _FOLDS, random_state)
    if not folds:
        return named, None
    free = free[np.unique(np.linspace(0, len(free) - 1, MOST).astype(int))]
    used = np.concatenate([tables[0][places[known]], tables[0][places[free]]])
    spread = used.std(axis=0)
    units = used.mean(axis=0), np.where(spread > 0, spread, 1)

    def learn(rows: np.ndarray, of: np.ndarray) -> _Scores:
        scaled = Rows.of_each(tables, places[rows]).standardised(*units)
        weights, intercept = AllDirections(scaled, of).machines(SHRINKAGE)
        return lambda cells: log_products(
            np.concatenate([block @ weights.T for block in Rows(tables[:1], places[cells], units)])
            + intercept,
            len(types),
        )

    def learn_from_more(rows: np.ndarray, of: np.ndarray) -> tuple[_Scores, np.ndarray, np.ndarray]:
        sure, called = _surest(learn(rows, of)(free))
        more = np.concatenate([rows, free[sure]])
        return learn(more, np.concatenate([of, called])), free[sure], called

    alone, more = np.zeros((2, len(types), len(types)), np.int64)
    for train, test in folds:
        by_few = learn(known[train], codes[train])
        by_more, _, _ = learn_from_more(known[train], codes[train])
        for confusion, scores in ((alone, by_few), (more, by_more)):
            np.add.at(confusion, (codes[test], scores(known[test]).argmax(axis=1)), 1)
    if more.trace() <= alone.trace():
        return named, None
    _, rows, called = learn_from_more(known, codes)
    named[rows] = types[called]
    return named, more


def _surest(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of what is called each type, the surest: which, and what, by scores (n, n_types)."""
    called = scores.argmax(axis=1)
    best = np.sort(scores, axis=1)
    margin = best[:, -1] - best[:, -2]
    sure = np.zeros(len(scores), bool)
    for code in np.unique(called):
        rows = np.flatnonzero(called == code)
        sure[rows[np.argsort(-margin[rows], kind="stable")[: round(_SURE * len(rows))]]] = True
    return np.flatnonzero(sure), called[sure]
