"""Who calls which cell what, how surely, and because of which signatures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from wbcprof.analysis.classify import TypeClassifier, rank_signatures
from wbcprof.analysis.compare import explain_calls
from wbcprof.analysis.folds import groups_per_type, stratified_folds, together_by
from wbcprof.analysis.novelty import UNLIKE, what_is_strange
from wbcprof.checks import UNLABELLED
from wbcprof.images.copies import number_copies, number_files, warn_of_copies
from wbcprof.model.machines import TypeMachines
from wbcprof.model.model import Model
from wbcprof.report.cells import Cells

REASONS = 6  # signatures that made a call, for each cell
_FOLDS, _FEW_FOLDS, _MANY_CELLS = 5, 2, 3_000
_MOST_TYPES = 60
_RANKED_CELLS = 1_000
_FALSE_ALARMS = 0.01  # cells of known types that are called strange


class Calls:
    """Calls of `n` cells, as far as they could be made; of none where there are no types.

    Attributes
    ----------
    note : str
        How they came about.
    types : list of str
        That were called.
    called, rival : ndarray of shape (n,), int
        Index into `types` of the call, and of the next best; -1 without.
    probability : ndarray of shape (n, n_types)
    strange : ndarray of shape (n,), object
        "unsure" (between types), "unlike" (none of them), or "".
    reasons : list of list of (signature, pull, spread, block)
        Of each cell: signatures that made the call, the strongest first.
    folds : list of ndarray
        Labelled cells, which are scored, fold by fold.
    """

    def __init__(self, note: str, types: list[str], n: int):
        self.note, self.types = note, types
        self.called, self.rival = np.full(n, -1), np.full(n, -1)
        self.probability = np.zeros((n, len(types)))
        self.strange = np.full(n, "", dtype=object)
        self.reasons: list[list[tuple[int, float, float, int]]] = [[] for _ in range(n)]
        self.folds: list[np.ndarray] = []

    @property
    def scored(self) -> np.ndarray:
        return np.sort(np.concatenate(self.folds)) if self.folds else np.array([], dtype=int)

    @property
    def sureness(self) -> np.ndarray:
        """Probability of each call, (n,); 0 where there is none, or it is "unlike"."""
        result: np.ndarray = self.probability.max(axis=1, initial=0)
        return np.where(self.strange == UNLIKE, 0, result)


@dataclass
class Subject:
    """What a page is about.

    Attributes
    ----------
    model : Model
    cells : Cells
    calls : Calls
    names : ndarray of shape (n,), object
        Called type of each cell; the given one where none is called.
    groups : ndarray of shape (n,), object
        What divides the cells: types given, or called where none is given.
    order : ndarray of int
        Signatures, most important first.
    n_threads : int
    """

    model: Model
    cells: Cells
    calls: Calls
    names: np.ndarray
    groups: np.ndarray
    order: np.ndarray
    n_threads: int

    @classmethod
    def of(
        cls, model: Model, cells: Cells, calls: Calls, random_state: int, n_threads: int
    ) -> Subject:
        names = np.array(calls.types, dtype=object)[calls.called] if calls.types else cells.labels
        groups = cells.labels if (cells.labels != UNLABELLED).any() else names
        order = _rank(cells, groups, random_state)
        return cls(model, cells, calls, names, groups, order, n_threads)

    @property
    def labels(self) -> np.ndarray:
        return self.cells.labels

    @property
    def is_wrong(self) -> np.ndarray:
        """Scored cells that were called another type than given, (n,) bool."""
        wrong = np.zeros(len(self.labels), dtype=bool)
        scored = self.calls.scored
        wrong[scored] = self.labels[scored] != self.names[scored]
        return wrong


def call_cells(model: Model, cells: Cells, how: str, random_state: int) -> Calls:
    if how == "model" and model.classifier is not None:
        return _call_by_model(model.classifier, cells)
    count = Counter(name for name in cells.labels if name != UNLABELLED)
    types = sorted(name for name, n in count.items() if n >= _FOLDS)
    obstacle = ""
    if len(types) < 2:
        obstacle = (
            f"two types with at least {_FOLDS} labelled cells each are needed, {len(types)} found"
        )
    elif len(types) > _MOST_TYPES:
        obstacle = f"{len(types):,} types are more than the {_MOST_TYPES} it is made for"
    elif np.ptp(cells.values, axis=0).max() == 0:
        obstacle = "all profiles are the same; types cannot be told apart"
    if not obstacle:
        crossed = _cross_validate(cells, types, random_state)
        if crossed is not None:
            return crossed
        obstacle = "whole groups leave no two parts with every type in both"
    reason = f"No cross-validation: {obstacle}."
    if model.classifier is None:
        return Calls(
            f"{reason} The model holds no classifier either: no cell is called.", [], len(cells.ids)
        )
    found = _call_by_model(model.classifier, cells)
    found.note = f"{reason} {found.note}"
    return found


def _call_by_model(classifier: TypeMachines, cells: Cells) -> Calls:
    found = Calls(
        "Types are called by the classifier in the model file. If that was trained on these very "
        "cells, the figures below are better than they would be on new ones.",
        [str(name) for name in classifier.classes_],
        len(cells.ids),
    )
    _fill(found, classifier, cells, np.arange(len(cells.ids)))
    known = np.flatnonzero(np.isin(cells.labels, found.types))
    found.folds = [known] if len(known) else []
    if not len(known):
        found.note += " No cell has a label among its types, so nothing can be scored."
    return found


def _cross_validate(cells: Cells, types: list[str], random_state: int) -> Calls | None:
    """Calls of classifiers that have not seen the cell, its group or a copy of it; None where whole
    groups leave no folds."""
    labels = cells.labels
    copies = number_copies(cells.looks)
    n_copies = warn_of_copies(copies, cells.names, labels, stacklevel=4)
    together = together_by(cells.groups, copies if n_copies else None, number_files(cells.ids))
    known = np.flatnonzero(np.isin(labels, types))
    if together is not None:
        n_groups = groups_per_type(labels[known].astype(str), together[known])
        types = [name for name, n in zip(types, n_groups, strict=True) if n > 1]
        known = np.flatnonzero(np.isin(labels, types))
        if len(types) < 2:
            return None
    y, groups = labels[known].astype(str), None if together is None else together[known]
    most = _FOLDS if len(known) <= _MANY_CELLS else _FEW_FOLDS
    folds = stratified_folds(y, groups, most, random_state)
    if not folds:
        return None
    if cells.groups is None:
        told = "Cells of one person may lie in several parts; for new persons, figures may then be "
        told += "lower."
    else:
        told = f"No group, of the {len(np.unique(cells.groups)):,} given, lies in several parts."
    if n_copies:
        told += f" {n_copies:,} images near-identical to an earlier one lie in its part."
    found = Calls(
        f"Cross-validation in {len(folds)} parts: every labelled cell is called by a classifier "
        "trained on profiles of the other parts only. The signatures are those of the model, "
        f"learnt without types. {told}",
        types,
        len(labels),
    )
    for train, test in folds:
        classifier = TypeClassifier(random_state=random_state)
        classifier.fit(
            cells.values[known[train]],
            y[train],
            None if groups is None else groups[train],
            measures=_of(cells.profiles.measures, known[train]),
        )
        _fill(found, classifier, cells, known[test])
        found.folds.append(known[test])
    rest = np.setdiff1d(np.arange(len(labels)), known)
    if len(rest):
        classifier = TypeClassifier(random_state=random_state)
        measures = _of(cells.profiles.measures, known)
        classifier.fit(cells.values[known], y, groups, measures=measures)
        _fill(found, classifier, cells, rest)
        few = f"with fewer than {_FOLDS} cells" + (" or in one group" * (together is not None))
        found.note += (
            f" {len(rest):,} cells without a label, or of types {few}, are called too, but not "
            "scored."
        )
    return found


def _fill(found: Calls, classifier: TypeMachines, cells: Cells, rows: np.ndarray) -> None:
    """Calls of some cells, and the signatures that made them: contributions are added over the
    pools and pyramid cells of a signature."""
    h = cells.n_signatures
    for start in range(0, len(rows), 1000):
        part = rows[start : start + 1000]
        values = cells.values[part]
        called, rival, contribution = explain_calls(classifier, values)
        found.called[part], found.rival[part] = called, rival
        found.probability[part] = classifier.predict_proba(values)
        if classifier.memory_ is not None and cells.profiles.measures is not None:
            strange = classifier.strangeness(values, cells.profiles.measures[part])
            found.strange[part] = what_is_strange(strange, _FALSE_ALARMS)
        spread = (values - classifier.mean_) / classifier.scale_
        by_block = contribution.reshape(len(part), -1, h)
        pull = by_block.sum(axis=1)
        strongest = np.argsort(-np.abs(pull), axis=1, kind="stable")[:, :REASONS]
        for row, cell in enumerate(part):
            for s in strongest[row]:
                block = int(np.abs(by_block[row, :, s]).argmax())
                reason = int(s), float(pull[row, s]), float(spread[row, block * h + s]), block
                found.reasons[cell].append(reason)


def _of(measures: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if measures is None else measures[rows]


def _rank(cells: Cells, groups: np.ndarray, random_state: int) -> np.ndarray:
    """Signatures, most important first: random-forest importance added over a signature's pools
    and pyramid cells; by variance where types are missing, or too many to learn."""
    known = np.flatnonzero(groups != UNLABELLED)
    if not 2 <= len(set(groups[known])) <= len(known) / 2:
        score = cells.comparable.var(axis=0)
    else:
        if len(known) > _RANKED_CELLS:
            rng = np.random.default_rng(random_state)
            known = np.sort(rng.choice(known, _RANKED_CELLS, replace=False))
        _, score = rank_signatures(cells.values[known], groups[known].astype(str), random_state)
    return np.argsort(-score.reshape(-1, cells.n_signatures).sum(axis=0), kind="stable")
