"""How far people agree who labelled the same cells, and which cells they disagree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import known_label


@dataclass(frozen=True, eq=False, repr=False)
class RaterAgreement(Shown):
    """How far people agree, beyond what chance brings.

    Attributes
    ----------
    persons : list of str
    types : list of str
        All that anybody named, sorted.
    n_shared : ndarray of shape (n_persons, n_persons), int64
        Cells that both labelled; on the diagonal, those that one labelled.
    cohen : ndarray of shape (n_persons, n_persons), float64
        Cohen's kappa of each pair, over the cells that both labelled: 1 where they always agree, 0
        where as often as by chance; NaN where they share none or both call all cells one type.
    n_complete : int
        Cells that everybody labelled.
    fleiss : float
        Fleiss' kappa over these; NaN where there are none, or all are called one type.
    disagreements : dict of str to dict of str to str
        Cells that were called differently: the label by each person.

    References
    ----------
    Cohen: A coefficient of agreement for nominal scales. Educ Psychol Meas 20, 37 (1960).
    Fleiss: Measuring nominal scale agreement among many raters. Psychol Bull 76, 378 (1971).
    """

    persons: list[str]
    types: list[str]
    n_shared: np.ndarray
    cohen: np.ndarray
    n_complete: int
    fleiss: float
    disagreements: dict[str, dict[str, str]]

    def to_text(self) -> str:
        """A few lines that people read."""
        lines = []
        for i, first in enumerate(self.persons):
            for j, second in enumerate(self.persons[:i]):
                lines.append(
                    f"{second} and {first}: {self.n_shared[i, j]} cells, Cohen's kappa "
                    f"{_number(self.cohen[i, j])}"
                )
        if len(self.persons) > 2:
            lines.append(
                f"all {len(self.persons)}: {self.n_complete} cells, Fleiss' kappa "
                f"{_number(self.fleiss)}"
            )
        lines.append(f"called differently: {len(self.disagreements)} cells")
        return "\n".join(lines)

    def _told(self) -> dict[str, Any]:
        return {
            "persons": self.persons,
            "types": self.types,
            "cells that all labelled": self.n_complete,
            "Fleiss' kappa": self.fleiss,
            "called differently": len(self.disagreements),
        }


def compare_raters(labels: Mapping[str, Mapping[str, Any]]) -> RaterAgreement:
    """Compare the labels of several people.

    Parameters
    ----------
    labels : mapping from person to mapping from id of a cell to label
        As `Labels.by_person`; cells that one did not label may be left out, or be None.

    Returns
    -------
    RaterAgreement

    Raises
    ------
    ValueError
        There are fewer than two people, or no two labelled a cell in common.

    Examples
    --------
    >>> from wbcprof.analysis import compare_raters
    >>> ada = {"1.png": "monocyte", "2.png": "monocyte", "3.png": "basophil", "4.png": "basophil"}
    >>> ben = {"1.png": "monocyte", "2.png": "basophil", "3.png": "basophil", "4.png": "basophil"}
    >>> found = compare_raters({"Ada": ada, "Ben": ben})
    >>> print(found.to_text())
    Ada and Ben: 4 cells, Cohen's kappa 0.50
    called differently: 1 cells
    >>> found.disagreements
    {'2.png': {'Ada': 'monocyte', 'Ben': 'basophil'}}
    """
    known = {
        str(person): {
            str(cell): name
            for cell, label in own.items()
            if (name := known_label(label)) is not None
        }
        for person, own in labels.items()
    }
    persons, n = list(known), len(known)
    if n < 2:
        raise ValueError(
            f"expected labels of two people at least, got {', '.join(persons) or 'none'}"
        )
    types = sorted({label for own in known.values() for label in own.values()})
    code = {name: number for number, name in enumerate(types)}
    n_shared, cohen = np.zeros((n, n), np.int64), np.ones((n, n))
    for i in range(n):
        for j in range(n):
            both = known[persons[i]].keys() & known[persons[j]].keys()
            n_shared[i, j] = len(both)
            counts = np.zeros((len(types), len(types)))
            for cell in both:
                counts[code[known[persons[i]][cell]], code[known[persons[j]][cell]]] += 1
            cohen[i, j] = _cohen(counts)
    if not n_shared[~np.eye(n, dtype=bool)].any():
        raise ValueError(f"no two of {', '.join(persons)} labelled a cell in common")
    cells = list(dict.fromkeys(cell for own in known.values() for cell in own))
    complete = [cell for cell in cells if all(cell in own for own in known.values())]
    votes = np.zeros((len(complete), len(types)))
    for own in known.values():
        votes[np.arange(len(complete)), [code[own[cell]] for cell in complete]] += 1
    said = {cell: {p: known[p][cell] for p in persons if cell in known[p]} for cell in cells}
    disagreements = {cell: own for cell, own in said.items() if len(set(own.values())) > 1}
    return RaterAgreement(
        persons, types, n_shared, cohen, len(complete), _fleiss(votes), disagreements
    )


def _cohen(counts: np.ndarray) -> float:
    if not counts.any():
        return float("nan")
    shares = counts / counts.sum()
    return _beyond_chance(np.trace(shares), shares.sum(axis=0) @ shares.sum(axis=1))


def _fleiss(votes: np.ndarray) -> float:
    if not len(votes):
        return float("nan")
    n = votes[0].sum()
    pairs = (votes * (votes - 1)).sum(axis=1) / (n * (n - 1))
    shares = votes.sum(axis=0) / votes.sum()
    return _beyond_chance(pairs.mean(), shares @ shares)


def _beyond_chance(agreed: float, chance: float) -> float:
    return float((agreed - chance) / (1 - chance)) if chance < 1 else float("nan")


def _number(kappa: float) -> str:
    return "not defined" if kappa != kappa else f"{kappa:.2f}"
