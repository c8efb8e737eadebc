"""How well a model names cells that it never saw: a fixed set of another origin, with limits.

Of true types i, cells named j are counted, n_ij. Limits l, u of a type's figure are quantiles of
what it is on tables drawn anew, which do not end at 1 where all cells were right::

    groups     drawn with replacement first, where they were given (cluster bootstrap)
    rows       Dirichlet(n_i1 + 1/k, ..., n_ik + 1/k)    of two types Jeffreys' (Brown, Cai and
                                                         DasGupta, 2001)

Those of an average m = sum w_i v_i are joined of them, since what the priors take from each row
would add up (Zou and Donner, 2008), with the correlations R of the tables drawn::

    m - sqrt(d' R d), d_i = w_i (v_i - l_i)      m + sqrt(e' R e), e_i = w_i (u_i - v_i)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wbcprof.analysis import figures
from wbcprof.analysis.figures import FigureFiles
from wbcprof.analysis.novelty import check_set, name_cells
from wbcprof.analysis.scores import Scores, aligned, figure
from wbcprof.checks import UNLIKE, UNSURE, Real, as_known
from wbcprof.images.copies import look_for_copies
from wbcprof.images.groups import groups_of
from wbcprof.images.source import open_images
from wbcprof.model.model import Model
from wbcprof.model.settings import Coding
from wbcprof.threads import resolve_threads

__all__ = ["ExternalEvaluation", "evaluate_external"]

_N_DRAWN = 4000
_OF_TYPE = ("f1", "sensitivity", "specificity", "precision")
_OF_ALL = {"accuracy": "sensitivity", "balanced_accuracy": "sensitivity", "macro_f1": "f1"}
_Limits = tuple[float, float, float] | tuple[None, None, None]


@dataclass(repr=False)
class ExternalEvaluation(Scores):
    """Result of `evaluate_external`. Every figure has limits, such as ``accuracy_low`` and
    ``accuracy_high``; what is undefined is None.

    Attributes
    ----------
    accuracy : dict of str to float
        ``value``, ``low``, ``high``: share of cells of known types that were named right.
    balanced_accuracy, macro_f1 : dict of str to float
        Means of sensitivity and F1 over the known types of which there are cells.
    per_type : dict of str to dict
        For each type that the model knows: n_images, n_aside (called "unsure" or "unlike"), and
        f1, sensitivity, specificity and precision with their limits.
    foreign : dict of str to dict
        For each type that the model does not know: n_images, n_aside.
    types : list of str
        Of the model: the columns of `confusion`.
    confusion : list of lists of int
        Cells by true type, known types first, then `foreign`, and the type named.
    n_images, n_unlabelled, n_skipped : int
        Images scored, without a label, and left out.
    n_groups : int or None
        Groups given.
    n_copies : int
        Images scored that are near-identical to an earlier one.
    familiar : bool or None
        Whether the cells come from the world that the model knows; None where it cannot be told.
    sentence : str
        What differs.
    model : str
        Fingerprint.
    confidence : float
    """

    accuracy: dict[str, float | None]
    balanced_accuracy: dict[str, float | None]
    macro_f1: dict[str, float | None]
    per_type: dict[str, dict[str, Any]]
    foreign: dict[str, dict[str, int]]
    types: list[str]
    confusion: list[list[int]]
    n_images: int
    n_unlabelled: int
    n_skipped: int
    n_groups: int | None
    n_copies: int
    familiar: bool | None
    sentence: str
    model: str
    confidence: float

    def _rows(self) -> list[dict[str, Any]]:
        """Rows of the table: known types, their average, and types that the model does not know."""
        rows = [{"type": name, **row} for name, row in self.per_type.items()]
        average = dict.fromkeys(rows[0]) | {
            "type": "average",
            "n_images": sum(row["n_images"] for row in rows),
            "n_aside": sum(row["n_aside"] for row in rows),
        }
        for name, found in (("f1", self.macro_f1), ("sensitivity", self.balanced_accuracy)):
            average |= {name: found["value"]}
            average |= {f"{name}_{end}": found[end] for end in ("low", "high")}
        unknown = [dict.fromkeys(average) | {"type": k} | row for k, row in self.foreign.items()]
        return [*rows, average, *unknown]

    def _told(self) -> dict[str, Any]:
        def limits(of: dict[str, float | None]) -> str:
            return f"{figure(of['value'])} ({figure(of['low'])}-{figure(of['high'])})"

        return {
            **{name.replace("_", " "): limits(getattr(self, name)) for name in _OF_ALL},
            "images": {name: row["n_images"] for name, row in self.per_type.items()},
            "of types not known": sum(row["n_images"] for row in self.foreign.values()) or None,
            "as a set": self.sentence,
        }

    def _draw(self, files: FigureFiles) -> None:
        """Confusion of the types that the model knows."""
        known = self.confusion[: len(self.types)]
        files.save(figures.confusion(known, self.types), "confusion_counts")
        files.save(figures.confusion(known, self.types, normalize=True), "confusion")

    def to_text(self) -> str:
        """A report for a terminal."""

        def limits(row: dict[str, Any], name: str) -> str:
            value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
            return "-" if value is None else f"{value:.3f} ({low:.3f}-{high:.3f})"

        table = [["", "images", "unsure or unlike", "F1", "sensitivity", "precision"]]
        for row in self._rows():
            figures = [limits(row, name) for name in ("f1", "sensitivity", "precision")]
            table.append([row["type"], str(row["n_images"]), str(row["n_aside"]), *figures])
        counts = [["true \\ named", *self.types]]
        for name, own in zip([*self.types, *self.foreign], self.confusion, strict=True):
            counts.append([name, *map(str, own)])
        told = self._told()
        overall = ", ".join(
            f"{name} {told[name]}" for name in (each.replace("_", " ") for each in _OF_ALL)
        )
        n_types = sum(row["n_images"] > 0 for row in self._rows()) - 1  # and their average
        lines = [
            f"{self.n_images} images of {n_types} types, named by the "
            f"model {self.model}; limits of {self.confidence:.0%}",
            f"Left out: {self.n_unlabelled} without a type, {self.n_skipped} that could not be "
            "read",
            overall,
            "",
            *aligned(table),
            "",
            "Cells by their type and the one named, whatever the call",
            *aligned(counts),
            "",
        ]
        if self.n_copies:
            lines.append(
                f"Near-identical to an earlier image: {self.n_copies}, which count as any other: "
                "limits are then too narrow."
            )
        if self.foreign:
            lines.append(
                f"Not known to the model: {', '.join(self.foreign)}; averages are of the others."
            )
        lines.append(f"As a set: {self.sentence}.")
        lines.append(
            "No groups were given: cells of one patient are alike, and limits then too narrow."
            if self.n_groups is None
            else f"Groups: {self.n_groups}, drawn as a whole for the limits."
        )
        return "\n".join(lines)


def evaluate_external(
    model: Model,
    images: Any,
    labels: Iterable[Any] | None = None,
    *,
    groups: Any = None,
    confidence: float = 0.95,
    n_threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ExternalEvaluation:
    """Score a model on a fixed set of labelled images that it was not learnt from.

    Any number of images a type will do, and types that the model does not know are told apart.

    Parameters
    ----------
    model : Model
        With a classifier.
    images, labels
        As `wbcprof.images.open_images` takes them. Images without a label are left out. Types are
        those of the model in any case, with spaces, hyphens or underscores, singular or plural.
    groups : mapping from image id to group, or iterable of n groups, optional
        Such as patients or slides: limits then allow for cells of a group being alike.
    confidence : float
        Of the limits.
    n_threads : int, optional
    progress : callable, optional
        Called with (images profiled, their number or None).

    Returns
    -------
    ExternalEvaluation

    Raises
    ------
    ValueError
        The model has no classifier, no image has a type that it knows, or there is one group only.
    TypeError
        The images come from an iterator, and `groups` is no mapping.

    Warns
    -----
    StrangeCellsWarning
        Which cells are strange cannot be known.

    Notes
    -----
    Whether the model was learnt from some of these images cannot be seen here: figures are then too
    good. All figures are of the most probable type of every cell; those that `name_cells` calls
    "unsure" or "unlike" are counted beside. Specificity and precision count cells of foreign types
    too.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> known = make_leukocytes(40, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(known.images[::4], n_signatures=16, n_patches=800, max_iter=1)
    >>> model.classifier = wbcprof.train(model, known.images, known.labels, augment=0)
    >>> new = make_leukocytes(5, size=72, types=["neutrophil", "eosinophil"], random_state=1)
    >>> from wbcprof.analysis import evaluate_external
    >>> found = evaluate_external(model, new.images, new.labels)
    >>> found.n_images, found.per_type["neutrophil"]["n_images"], list(found.foreign)
    (10, 5, ['eosinophil'])
    >>> found.accuracy["low"] <= found.accuracy["value"] <= found.accuracy["high"]
    True
    >>> int(found.to_pandas().loc["average", "n_images"])
    5
    >>> print(found.to_text().splitlines()[-1])
    No groups were given: cells of one patient are alike, and limits then too narrow.
    >>> found.to_latex().splitlines()[-1], found.to_dict()["confidence"]
    ('\\\\end{tabular}', 0.95)
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found.save_figures(folder, figure_format="svg", figure_width=85)
    ...     found.to_csv(pathlib.Path(folder, "types.csv"))
    ...     found.to_json(pathlib.Path(folder, "types.json"))
    """
    Real(above=0, below=1).check("confidence", confidence)
    if model.classifier is None:
        raise ValueError(
            "the model holds no classifier, so there is nothing to score; wbcprof.train learns one"
        )
    threads = resolve_threads(n_threads)
    source = open_images(images, labels, min_size=model.min_size)
    profiles = model.profile_source(source, Coding(), threads, progress)
    together = None
    if isinstance(groups, Mapping):
        together = groups_of(groups, profiles.ids, (), 0)
    elif groups is not None:
        if source.n_hint is None:
            raise TypeError(
                "groups of images from an iterator must be a mapping from image id to group; or "
                "give a list or a folder of images"
            )
        place = {image_id: index for index, image_id in enumerate(source.ids())}
        places = [place[image_id] for image_id in profiles.ids]
        together = groups_of(groups, profiles.ids, places, source.n)
    labelled = np.array([label is not None for label in profiles.labels or ()], bool)
    if together is not None and labelled.any() and len(np.unique(together[labelled])) < 2:
        raise ValueError(
            "groups of labelled images must be at least two, got one: limits cannot allow for how "
            "groups differ; leave groups out, for those of this one"
        )
    types = [str(name) for name in model.classifier.classes_]
    given = [as_known(label, types) for label in profiles.labels or [None] * len(profiles)]
    kept = np.array([label is not None for label in given], bool)
    if not set(given) & set(types):
        raise ValueError(
            f"expected images of types that the model knows ({', '.join(types)}), got "
            f"{', '.join(sorted({label for label in given if label is not None})) or 'no labels'}"
        )
    ids, profiles, y = profiles.ids, profiles.at(kept), np.array(given, object)[kept]
    n_copies = 0
    if source.n_hint is not None:  # else they cannot be read again
        found, numbers = look_for_copies(source.quietly(), threads)
        if found == ids:
            n_copies = int(kept.sum()) - len(np.unique(numbers[kept]))
    named = name_cells(model, profiles)
    aside = np.isin(named.calls.astype(str), [UNSURE, UNLIKE])
    check = check_set(model, profiles)

    foreign = sorted(set(y) - set(types))
    row_of = {name: row for row, name in enumerate([*types, *foreign])}
    column_of = {name: column for column, name in enumerate(types)}
    cells = np.stack([[row_of[t] for t in y], [column_of[str(t)] for t in named.named]])
    members = (
        None if together is None else np.unique(together[kept], return_inverse=True)[1].ravel()
    )
    confusion = _counts(cells, (len(row_of), len(types)))
    limits = _limits(confusion, _drawn(confusion, cells, members), confidence)
    n_of = {name: int((y == name).sum()) for name in row_of}
    aside_of = {name: int(aside[y == name].sum()) for name in row_of}
    per_type: dict[str, dict[str, Any]] = {}
    for column, name in enumerate(types):
        per_type[name] = {"n_images": n_of[name], "n_aside": aside_of[name]}
        for what in _OF_TYPE:
            ends = zip((what, f"{what}_low", f"{what}_high"), limits[what][column], strict=True)
            per_type[name] |= dict(ends)
    averages = {
        name: dict(zip(("value", "low", "high"), limits[name][0], strict=True)) for name in _OF_ALL
    }
    return ExternalEvaluation(
        **averages,
        per_type=per_type,
        foreign={name: {"n_images": n_of[name], "n_aside": aside_of[name]} for name in foreign},
        types=types,
        confusion=confusion.astype(int).tolist(),
        n_images=len(y),
        n_unlabelled=int((~kept).sum()),
        n_skipped=len(source.skipped),
        n_groups=None if members is None else int(members.max()) + 1,
        n_copies=n_copies,
        familiar=check.familiar if check.known else None,
        sentence=check.sentence,
        model=model.fingerprint,
        confidence=confidence,
    )


def _counts(cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    counts = np.zeros(shape)
    np.add.at(counts, (cells[0], cells[1]), 1)
    return counts


def _drawn(confusion: np.ndarray, cells: np.ndarray, members: np.ndarray | None) -> np.ndarray:
    """Tables like `confusion` (rows, columns), drawn anew, (_N_DRAWN, rows, columns)."""
    rng = np.random.default_rng(0)
    counts = np.broadcast_to(confusion, (_N_DRAWN, *confusion.shape))
    if members is not None:
        n = int(members.max()) + 1
        own = np.stack([_counts(cells[:, members == k], confusion.shape) for k in range(n)])
        times = rng.multinomial(n, np.full(n, 1 / n), _N_DRAWN)
        counts = np.tensordot(times, own, 1)
    shares = rng.standard_gamma(counts + 1 / confusion.shape[1])
    shares /= shares.sum(axis=-1, keepdims=True)
    drawn: np.ndarray = shares * counts.sum(axis=-1, keepdims=True)
    return drawn


def _limits(
    confusion: np.ndarray, drawn: np.ndarray, confidence: float
) -> dict[str, list[_Limits]]:
    """Each figure of the types, and the averages, with their limits; None where undefined."""
    values, tables = _figures(confusion), _figures(drawn)
    tails = 0.5 - confidence / 2, 0.5 + confidence / 2
    found: dict[str, list[_Limits]] = {}
    for name, value in values.items():
        found[name] = []
        for v, own in zip(value, tables[name].T, strict=True):
            if np.isnan(v):
                found[name].append((None, None, None))
            else:
                low, high = np.nanquantile(own, tails)
                found[name].append((float(v), min(float(v), low), max(float(v), high)))
    n = confusion[: confusion.shape[1]].sum(axis=1)
    there = np.flatnonzero(n)
    for name, of in _OF_ALL.items():
        weights = n[there] if name == "accuracy" else np.ones(len(there))
        v, low, high = np.array([found[of][k] for k in there]).T
        own = tables[of][:, there]
        own = np.where(np.isnan(own), v, own)
        together = np.corrcoef(own, rowvar=False).reshape(len(there), len(there))
        found[name] = [_joined(weights / weights.sum(), v, low, high, together)]
    return found


def _joined(
    weights: np.ndarray, v: np.ndarray, low: np.ndarray, high: np.ndarray, together: np.ndarray
) -> _Limits:
    """Weighted mean of figures v, and its limits, of theirs and their correlations."""
    below, above = weights * (v - low), weights * (high - v)
    mean = float(weights @ v)
    down, up = (float(np.sqrt(max(d @ together @ d, 0))) for d in (below, above))
    return mean, max(mean - down, 0.0), min(mean + up, 1.0)


def _figures(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Figures of the types, of tables (..., rows, k) of cells by true type, the k known ones first,
    and type named: (..., k); NaN where undefined."""
    k = counts.shape[-1]
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    of_type, named, n = counts[..., :k, :].sum(-1), counts.sum(-2), counts.sum((-2, -1))[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "f1": np.where(of_type > 0, 2 * right / (of_type + named), np.nan),
            "sensitivity": right / of_type,
            "specificity": 1 - (named - right) / (n - of_type),
            "precision": right / named,
        }
