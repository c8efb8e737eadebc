"""Who calls which cell what, how surely, and because of which signatures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wbcprof.analysis.classify import TypeClassifier, rank_signatures
from wbcprof.analysis.compare import explain_calls
from wbcprof.analysis.folds import groups_per_type, stratified_folds, together_by
from wbcprof.analysis.novelty import what_is_strange, why_blind
from wbcprof.checks import UNLABELLED, UNLIKE, sorted_types
from wbcprof.images.copies import number_copies, number_files, warn_of_copies
from wbcprof.model.machines import TypeMachines
from wbcprof.model.model import Model
from wbcprof.report.cells import EXAMPLE_TYPES, EXAMPLES, Cells

REASONS = 6  # signatures that made a call, for each cell
_FOLDS, _FEW_FOLDS, _MANY_CELLS = 5, 2, 3_000
_MOST_TYPES = 60
_RANKED_CELLS = 1_000
_AT_ONCE = 200  # cells that are called between two words of progress
_FALSE_ALARMS = 0.01  # cells of known types that are called strange


class Calls:
    """Calls of `n` cells, as far as they could be made; of none where there are no types.

    Attributes
    ----------
    note : str
        How they came about.
    types : list of str
        That were called.
    kernel : str
        Of the classifier.
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
        self.kernel = ""

    @property
    def scored(self) -> np.ndarray:
        return np.sort(np.concatenate(self.folds)) if self.folds else np.array([], dtype=int)

    def describe(self, i: int) -> str:
        """In words, what a cell is called and how surely."""
        name, p = self.types[self.called[i]], self.probability[i].max()
        if self.strange[i] == UNLIKE:
            return f"nearest {name}"
        if self.strange[i]:
            return f"{name} or {self.types[self.rival[i]]} ({p:.2f})"
        return f"{name} ({p:.2f})"

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
    is_ranked : bool
        Whether by how they tell `groups` apart; else by their variance.
    n_threads : int
    """

    model: Model
    cells: Cells
    calls: Calls
    names: np.ndarray
    groups: np.ndarray
    order: np.ndarray
    is_ranked: bool
    n_threads: int

    @classmethod
    def of(
        cls, model: Model, cells: Cells, calls: Calls, random_state: int, n_threads: int
    ) -> Subject:
        names = np.array(calls.types, dtype=object)[calls.called] if calls.types else cells.labels
        groups = cells.labels if cells.is_labelled else names
        order, is_ranked = _rank(cells, groups, random_state)
        return cls(model, cells, calls, names, groups, order, is_ranked, n_threads)

    @property
    def labels(self) -> np.ndarray:
        return self.cells.labels

    @property
    def how(self) -> str:
        """How the types of `groups` came about."""
        return "given" if self.cells.is_labelled else "called"

    @property
    def opens_on_cells(self) -> bool:
        """Whether cells by call are what there is to see first, or such as are unlike the others,
        rather than how good the calls are."""
        return self.cells.is_mostly_unlabelled

    @property
    def counted(self) -> np.ndarray:
        """The called type of each cell; unlabelled where it is unsure or unlike any, (n,)."""
        return np.where(self.calls.strange == "", self.names, UNLABELLED)

    @cached_property
    def examples(self) -> list[int]:
        """A few cells of each of some types, whose pixels are held, by type."""
        shown: dict[str, list[int]] = {}
        for i in self.cells.examples:
            own = shown.setdefault(self.groups[i], [])
            if len(own) < EXAMPLES and self.calls.strange[i] == "":
                own.append(i)
        types = [name for name in sorted_types(shown) if shown[name]][:EXAMPLE_TYPES]
        return [i for name in types for i in shown[name]]

    @property
    def is_wrong(self) -> np.ndarray:
        """Scored cells that were called another type than given, (n,) bool."""
        wrong = np.zeros(len(self.labels), dtype=bool)
        scored = self.calls.scored
        wrong[scored] = self.labels[scored] != self.names[scored]
        return wrong


_Progress = Callable[[int, int], None]


def call_cells(
    model: Model, cells: Cells, how: str, random_state: int, progress: _Progress
) -> Calls:
    """Progress is told as (cells called, cells)."""
    if model.classifier is not None and (how == "model" or cells.is_mostly_unlabelled):
        return _call_by_model(model.classifier, cells, progress)
    if not cells.is_labelled:
        note = "No image has a type, and the model holds no classifier: no cell is called."
        return Calls(note, [], len(cells.ids))
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
        crossed = _cross_validate(cells, types, random_state, progress)
        if crossed is not None:
            return crossed
        obstacle = "whole groups leave no two parts with every type in both"
    reason = f"No cross-validation: {obstacle}."
    if model.classifier is None:
        return Calls(
            f"{reason} The model holds no classifier either: no cell is called.", [], len(cells.ids)
        )
    found = _call_by_model(model.classifier, cells, progress)
    found.note = f"{reason} {found.note}"
    return found


def _call_by_model(classifier: TypeMachines, cells: Cells, progress: _Progress) -> Calls:
    found = Calls(
        "Types are called by the classifier in the model file.",
        [str(name) for name in classifier.classes_],
        len(cells.ids),
    )
    _fill(found, classifier, cells, np.arange(len(cells.ids)), progress)
    known = np.flatnonzero(np.isin(cells.labels, found.types))
    if len(known):
        found.folds = [known]
        found.note += (
            " If that was trained on these very cells, the figures below are better than they "
            "would be on new ones."
        )
    else:
        of = " among its types" if cells.is_labelled else ""
        found.note += f" No cell has a label{of}, so nothing can be scored."
        confusion = classifier.confusion
        if confusion is not None:
            right = confusion.trace() / confusion.sum()
            found.note += (
                f" Where it was learnt, it named {right:.1%} of the cells that were left out "
                "rightly; elsewhere it may be less."
            )
    blind = why_blind(classifier.memory_, cells.profiles, _FALSE_ALARMS)
    if blind:
        found.note += f" {blind[0].upper()}{blind[1:]}."
    return found


def _cross_validate(
    cells: Cells, types: list[str], random_state: int, progress: _Progress
) -> Calls | None:
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
        _fill(found, classifier, cells, known[test], progress)
        found.folds.append(known[test])
    rest = np.setdiff1d(np.arange(len(labels)), known)
    if len(rest):
        classifier = TypeClassifier(random_state=random_state)
        measures = _of(cells.profiles.measures, known)
        classifier.fit(cells.values[known], y, groups, measures=measures)
        _fill(found, classifier, cells, rest, progress)
        few = f"with fewer than {_FOLDS} cells" + (" or in one group" * (together is not None))
        found.note += (
            f" {len(rest):,} cells without a label, or of types {few}, are called too, but not "
            "scored."
        )
    return found


def _fill(
    found: Calls, classifier: TypeMachines, cells: Cells, rows: np.ndarray, progress: _Progress
) -> None:
    """Calls of some cells, and the signatures that made them: contributions are added over the
    pools and pyramid cells of a signature."""
    h, found.kernel = cells.n_signatures, classifier.kernel
    for start in range(0, len(rows), _AT_ONCE):
        part = rows[start : start + _AT_ONCE]
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
        progress(int((found.called >= 0).sum()), len(found.called))


def _of(measures: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if measures is None else measures[rows]


def _rank(cells: Cells, groups: np.ndarray, random_state: int) -> tuple[np.ndarray, bool]:
    """Signatures, most important first, and whether to tell types apart; it is by variance where
    types are missing, or too many to learn."""
    known = np.flatnonzero(groups != UNLABELLED)
    if not 2 <= len(set(groups[known])) <= len(known) / 2:
        varied = cells.comparable.var(axis=0).reshape(-1, cells.n_signatures).sum(axis=0)
        return np.argsort(-varied, kind="stable"), False
    if len(known) > _RANKED_CELLS:
        rng = np.random.default_rng(random_state)
        known = np.sort(rng.choice(known, _RANKED_CELLS, replace=False))
    profiles = cells.profiles.at(known)
    return rank_signatures(profiles, groups[known].astype(str), random_state)[0], True
