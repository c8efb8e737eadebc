"""What a model has never seen: strange cells, and sets of cells from another world.

`name_cells` names cells and says which are like none that the model was learnt from, or between
two types. `check_set` holds a set of cells, such as a slide, against those cells. The p-values of
single cells are those of `wbcprof.model.memory`. Of a set, every measure is held against that of
images of the types that the cells are called, so that a slide of one type is as good as any::

    measures   Kolmogorov-Smirnov, two samples (Massey, 1951; small samples as by Stephens, 1970)
    strange    as many of n cells among the r strangest of m left out: beta-binomial

and the least p-value, times their number (Bonferroni), is that of the set.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import kolmogorov
from scipy.stats import betabinom

from wbcprof._shown import Shown
from wbcprof.checks import UNLIKE, UNSURE, Real
from wbcprof.model.machines import TypeMachines
from wbcprof.model.memory import Memory, Strangeness
from wbcprof.model.model import Model, check_made_by
from wbcprof.model.profiles import Profiles
from wbcprof.smear.measures import MEASURES, OF_INSTRUMENT, medians

__all__ = ["NamedCells", "SetCheck", "StrangeCellsWarning", "check_set", "name_cells"]

FALSE_ALARMS = 0.01
"""Share of cells of known types that are called one of these by chance, if nothing else is said."""

RATE = Real(above=0, most=0.5)
"""What a rate of false alarms may be."""

_FEWEST = 10  # cells of a set of which something can be said
_STRANGE = (0.01, 0.05, 0.2)  # shares of cells left out that are counted as strange
_STRANGE_SET = 0.3  # of strange cells, above which the set is another world rather than new cells
_MOST_SIGNATURES = 5


class StrangeCellsWarning(UserWarning):
    """Cells, or a set of cells, are unlike those that the model was learnt from."""


@dataclass(frozen=True, eq=False, repr=False)
class NamedCells(Shown):
    """Cells with their types.

    Attributes
    ----------
    ids : list of str
    types : ndarray of shape (n_types,)
        That the model knows.
    named : ndarray of shape (n_images,)
        The most probable type of each cell, whatever it is.
    calls : ndarray of shape (n_images,), object
        The type, "unsure" (between known types) or "unlike" (none of them).
    novelty_p : ndarray of shape (n_images,), float64
        Share of cells of known types that are as strange; NaN where it cannot be known.
    score : ndarray of shape (n_images,), float64
        The larger the stranger; NaN where it cannot be known.
    probabilities : ndarray of shape (n_images, n_types), float64
        NaN where the cell is "unlike": it is none of these.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> known = make_leukocytes(60, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(known.images[::4], n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, known.images, known.labels, augment=0)
    >>> from wbcprof.analysis import name_cells
    >>> cells = name_cells(model, model.profile(known.images[:4]), false_alarms=0.05)
    >>> print(*cells.named, cells.probabilities.shape)
    lymphocyte lymphocyte lymphocyte lymphocyte (4, 2)
    """

    ids: list[str]
    types: np.ndarray
    named: np.ndarray
    calls: np.ndarray
    novelty_p: np.ndarray
    score: np.ndarray
    probabilities: np.ndarray

    def _told(self) -> dict[str, Any]:
        return {
            "cells": len(self.ids),
            "calls": dict(Counter(self.calls.tolist()).most_common()),
            "types that the model knows": self.types.tolist(),
        }


@dataclass(frozen=True, repr=False)
class SetCheck(Shown):
    """Whether a set of cells comes from the world that a model knows.

    Attributes
    ----------
    known : bool
        Whether that can be told; if not, `sentence` says why.
    familiar : bool
        Whether it comes from there, as far as can be told.
    p : float
        Of the set; NaN where it cannot be told.
    n_cells, n_unlike : int
    findings : dict of str to float
        p-value of each test, Bonferroni's factor included, the least first.
    signatures : list of (str, float)
        Features whose mean differs most from that of cells of the same types, in standard errors.
    sentence : str
        What differs and what to do.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> known = make_leukocytes(60, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(known.images[::4], n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, known.images, known.labels, augment=0)
    >>> from wbcprof.analysis import check_set
    >>> found = check_set(model, model.profile(known.images[1::2]))
    >>> found.familiar, found.n_cells, found.sentence
    (True, 60, 'these cells are as those that the model knows')
    """

    known: bool
    familiar: bool
    p: float
    n_cells: int
    n_unlike: int
    findings: dict[str, float]
    signatures: list[tuple[str, float]]
    sentence: str


def name_cells(
    model: Model,
    profiles: Profiles,
    *,
    false_alarms: float = FALSE_ALARMS,
    reject_below: float = 0.0,
) -> NamedCells:
    """Name the types of cells, and say which are none of them.

    Parameters
    ----------
    model : Model
        With a classifier.
    profiles : Profiles
        Of this model.
    false_alarms : float
        Share of cells of known types that are called "unsure" or "unlike" by chance.
    reject_below : float
        "unsure" too where the most probable type has less than this.

    Returns
    -------
    NamedCells

    Raises
    ------
    ValueError
        The model has no classifier, the profiles are of another model, or a parameter is out of
        range.

    Warns
    -----
    StrangeCellsWarning
        Which cells are strange cannot be known.

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> from wbcprof.analysis import name_cells
    >>> from wbcprof.datasets import make_leukocytes
    >>> known = make_leukocytes(40, size=96, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(known.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, known.images, known.labels, augment=0)
    >>> new = make_leukocytes(5, size=96, types=["eosinophil", "neutrophil"], random_state=1)
    >>> cells = name_cells(model, model.profile(new.images, labels=new.labels))
    >>> set(cells.calls.tolist()) <= {"lymphocyte", "neutrophil", "unsure", "unlike"}
    True
    """
    RATE.check("false_alarms", false_alarms)
    Real(least=0, most=1).check("reject_below", reject_below)
    machines = _machines(model, profiles)
    probabilities, strange = machines.name(profiles.values, profiles.measures)
    named = machines.classes_[probabilities.argmax(axis=1)]
    calls = named.astype(object)
    calls[probabilities.max(axis=1) < reject_below] = UNSURE
    n = len(profiles)
    p, score = np.full(n, np.nan), np.full(n, np.nan)
    blind = why_blind(machines.memory_, profiles, false_alarms)
    if blind:
        warnings.warn(blind, StrangeCellsWarning, stacklevel=2)
    if strange is not None:
        p, score = strange.p, strange.score
        how = what_is_strange(strange, false_alarms)
        calls[how != ""] = how[how != ""]
        probabilities[how == UNLIKE] = np.nan
    return NamedCells(profiles.ids, machines.classes_, named, calls, p, score, probabilities)


def check_set(model: Model, profiles: Profiles, *, false_alarms: float = FALSE_ALARMS) -> SetCheck:
    """Whether a set of cells, a slide, a day or a laboratory, comes from the world that a model was
    learnt from, or adapted to.

    The rate of false alarms is that of sets drawn at random from this world. Cells of one slide are
    more alike than that: where a model was learnt from few slides, a new one may be flagged that is
    as good as these.

    Parameters
    ----------
    model : Model
        With a classifier.
    profiles : Profiles
        Of this model.
    false_alarms : float
        Share of sets of this world that are found unfamiliar by chance.

    Returns
    -------
    SetCheck

    Raises
    ------
    ValueError
        As `name_cells`.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import check_set
    >>> from wbcprof.datasets import make_leukocytes
    >>> known = make_leukocytes(40, size=96, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(known.images, n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, known.images, known.labels, augment=0)
    >>> dim = (known.images * 0.8).astype("uint8")
    >>> found = check_set(model, model.profile(dim))
    >>> found.familiar, found.sentence.split(":")[0]
    (False, 'these cells are not from the world that the model knows')
    """
    RATE.check("false_alarms", false_alarms)
    machines = _machines(model, profiles)
    memory, n = machines.memory_, len(profiles)
    if memory is None or profiles.measures is None:
        return _untold(n, why_unknown(memory, profiles))
    if n < _FEWEST:
        return _untold(
            n,
            f"whether these come from the world that the model knows cannot be told from {n} "
            f"{'cell' if n == 1 else 'cells'}; give {_FEWEST} or more",
        )
    codes = np.searchsorted(machines.classes_, machines.predict(profiles.values))
    ranks = memory.ranks(profiles.measures, codes)
    strange = machines.strangeness(profiles.values, profiles.measures)
    p = np.where(np.isnan(strange.p), 0.0, strange.p)
    found = {
        name: _same_distribution(ranks[:, column], memory.known[column])
        for column, name in enumerate(MEASURES)
        if name in OF_INSTRUMENT
    }
    found["Strange"] = len(_STRANGE) * min(
        _as_many(int((p <= share).sum()), n, share, memory.n_cells) for share in _STRANGE
    )
    findings = {
        name: min(1.0, len(found) * value) for name, value in sorted(found.items(), key=_second)
    }
    least = min(findings.values())
    familiar = least > false_alarms
    n_unlike = int((p <= false_alarms).sum())
    sentence = (
        "these cells are as those that the model knows"
        if familiar
        else _sentence(memory, profiles.measures, codes, findings, false_alarms, n_unlike)
    )
    signatures = [] if familiar else _signatures(machines, profiles, codes)
    return SetCheck(True, familiar, least, n, n_unlike, findings, signatures, sentence)


def what_is_strange(strange: Strangeness, false_alarms: float) -> np.ndarray:
    """ "unsure", "unlike" or "" of each cell, (n,), object; "unlike" where nothing was measured."""
    novel = ~(strange.p > false_alarms)
    between = strange.p_between < strange.p_far
    how: np.ndarray = np.where(novel, np.where(between, UNSURE, UNLIKE), "").astype(object)
    return how


def why_unknown(memory: Memory | None, profiles: Profiles) -> str:
    """Why nothing can be said of what is strange."""
    if memory is None:
        return (
            "which cells are strange cannot be known: the model has no memory, since it is "
            "older, or was learnt from or adapted to too few cells; learn it again, or adapt it to "
            "20 cells or more (wbcprof adapt)"
        )
    return (
        "which cells are strange cannot be known: the profiles come without measures; profile the "
        "images again"
    )


def why_blind(memory: Memory | None, profiles: Profiles, false_alarms: float) -> str:
    """Why no cell can be called strange; "" where it can."""
    if memory is None or profiles.measures is None:
        return why_unknown(memory, profiles)
    if 1 / (memory.n_cells + 1) > false_alarms:
        return (
            f"no cell can be called strange at a false-alarm rate of {false_alarms:g}: the model "
            f"tells by {memory.n_cells} cells; give more, or a larger rate"
        )
    return ""


def _machines(model: Model, profiles: Profiles) -> TypeMachines:
    if model.classifier is None:
        raise ValueError("the model holds no classifier; fit it on labelled images")
    check_made_by(model, profiles)
    return model.classifier


def _untold(n: int, sentence: str) -> SetCheck:
    return SetCheck(False, True, math.nan, n, 0, {}, [], sentence)


def _second(item: tuple[str, float]) -> float:
    return item[1]


def _same_distribution(ranks: np.ndarray, n_known: float) -> float:
    """p-value of ranks that would be uniform but for those that they are ranks among."""
    ranks = np.sort(ranks[np.isfinite(ranks)])
    n = len(ranks)
    if n == 0 or n_known == 0:
        return 1.0
    step = np.arange(n)
    largest = max((ranks - step / n).max(), ((step + 1) / n - ranks).max())
    root = math.sqrt(n * n_known / (n + n_known))
    return float(kolmogorov((root + 0.12 + 0.11 / root) * largest))


def _as_many(count: int, n: int, share: float, n_left_out: int) -> float:
    """p-value of `count` of n cells at or above the r-th strangest of those left out."""
    r = math.floor(share * (n_left_out + 1))
    if r == 0 or count == 0:
        return 1.0
    return float(betabinom.sf(count - 1, n, r, n_left_out + 1 - r))


def _sentence(
    memory: Memory,
    measures: np.ndarray,
    codes: np.ndarray,
    findings: dict[str, float],
    rate: float,
    n_unlike: int,
) -> str:
    n, flagged = len(codes), {name for name, p in findings.items() if p <= rate}
    expected = medians(memory.quantiles[codes, memory.quantiles.shape[1] // 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = dict(zip(MEASURES, medians(measures) / expected, strict=True))
    parts, causes = [], set()
    background = [ratio[f"Background{c}"] for c in ("Red", "Green", "Blue")]
    if flagged & {"BackgroundRed", "BackgroundGreen", "BackgroundBlue"}:
        causes.add("light")
        parts.append(
            "background "
            + ", ".join(
                f"{colour} {_percent(r)}"
                for colour, r in zip(("red", "green", "blue"), background, strict=True)
            )
        )
    densities = [ratio[f"Density{c}"] for c in ("Red", "Green", "Blue")]
    if flagged & {"DensityRed", "DensityGreen", "DensityBlue"}:
        causes.add("stain")
        parts.append(
            "nuclei stained in "
            + ", ".join(
                f"{colour} {_percent(r)}"
                for colour, r in zip(("red", "green", "blue"), densities, strict=True)
            )
        )
    if "NucleusSize" in flagged:
        causes.add("scale")
        parts.append(f"nuclei {_percent(ratio['NucleusSize'])} across, in pixels")
    if "Focus" in flagged:
        causes.add("focus")
        parts.append("images more blurred" if ratio["Focus"] > 1 else "images sharper")
    if "Strange" in flagged:
        parts.append(f"{n_unlike} of {n} cells unlike those known, {_expected(rate * n)} expected")
    return (
        f"these cells are not from the world that the model knows: {'; '.join(parts)}. "
        + _advice(causes, n_unlike / n)
    )


def _expected(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"


def _percent(ratio: float) -> str:
    return "as usual" if abs(ratio - 1) < 0.005 else f"{ratio - 1:+.0%}"


def _advice(causes: set[str], strange: float) -> str:
    if causes == {"focus"} and strange < _STRANGE_SET:
        return "Focus again and clean the lens"
    if causes == {"light"} and strange < _STRANGE_SET:
        return "Check the lamp and the white balance, or adapt the model to this light"
    if not causes:
        return "Look at these cells first (wbcprof suggest)"
    return "Adapt the model to this laboratory (wbcprof adapt), with labels of a few cells"


def _signatures(
    machines: TypeMachines, profiles: Profiles, codes: np.ndarray
) -> list[tuple[str, float]]:
    gaussians = machines.gaussians_
    assert gaussians is not None
    expected = gaussians.means[codes].mean(axis=0) @ gaussians.basis.astype(np.float64)
    apart = machines.standardise(profiles.values).mean(axis=0) - expected
    errors = apart * math.sqrt(len(codes))
    largest = np.argsort(-np.abs(errors), kind="stable")[:_MOST_SIGNATURES]
    return [(profiles.feature_names[i], round(float(errors[i]), 1)) for i in largest]


def warn_of_set(found: SetCheck, strict: Any = False) -> None:
    """Say once, in one sentence, where a set is unfamiliar; an error where `strict`."""
    if found.familiar:
        return
    if strict:
        raise ValueError(found.sentence)
    warnings.warn(found.sentence, StrangeCellsWarning, stacklevel=3)
