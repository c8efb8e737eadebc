"""How well types are named: the paper's half-half protocol, beside a colour histogram."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, recall_score

from wbcprof.analysis import figures
from wbcprof.analysis.classify import (
    TypeClassifier,
    check_types,
    of_types_with,
    profiles_of_copies,
)
from wbcprof.analysis.figures import FigureFiles
from wbcprof.analysis.folds import draw_half, groups_per_type, together_by
from wbcprof.analysis.scores import Scores, aligned, figure
from wbcprof.checks import Integer, one_known_label_each
from wbcprof.images.copies import number_copies, number_files, thumbnail, warn_of_copies
from wbcprof.images.groups import groups_of, one_group_each
from wbcprof.images.source import open_images
from wbcprof.learning.profiler import make_profiler
from wbcprof.model.settings import Coding
from wbcprof.threads import resolve_threads

_LEAST = 4  # images of a type: two to learn from, two to test

__all__ = [
    "Evaluation",
    "colour_histograms",
    "evaluate",
    "evaluation_metrics",
    "half_half_splits",
]

BASELINE = "colour histogram 8x8x8, square root"


def evaluation_metrics(y_true: Any, y_pred: Any, types: Sequence[Any]) -> dict[str, Any]:
    """How well types were named, each type against all others.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_images,)
        True and predicted types.
    types : sequence of n_types
        All types, in the order of the result.

    Returns
    -------
    dict
        ``f1``, ``sensitivity``, ``specificity``: arrays (n_types,), NaN for a type of which there
        is no image (specificity: of which all are); ``macro_f1``, ``macro_sensitivity``,
        ``macro_specificity``: their means over the other types;
        ``confusion``: int array (n_types, n_types), rows are the true types.

    Raises
    ------
    ValueError
        Lengths differ, no images, or a type that is not in `types`.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    if len(y_true) != len(y_pred):
        raise ValueError(
            f"Length of y_true ({len(y_true)}) must match length of y_pred ({len(y_pred)})"
        )
    if len(y_true) == 0:
        raise ValueError("expected at least one image, got none")
    foreign = sorted(set(y_true.tolist() + y_pred.tolist()) - set(types))
    if foreign:
        raise ValueError(f"expected types among {list(types)}, got {foreign}")

    _, sensitivity, f1, n_true = precision_recall_fscore_support(
        y_true, y_pred, labels=types, zero_division=0.0
    )
    f1, sensitivity = (np.where(n_true > 0, score, np.nan) for score in (f1, sensitivity))
    # Specificity for a type is the sensitivity for "any other type".
    specificity = np.array(
        [recall_score(y_true != t, y_pred != t, zero_division=np.nan) for t in types]
    )
    return {
        "f1": f1,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "macro_f1": _mean_of(f1),
        "macro_sensitivity": _mean_of(sensitivity),
        "macro_specificity": _mean_of(specificity),
        "confusion": confusion_matrix(y_true, y_pred, labels=types),
    }


def _mean_of(scores: np.ndarray) -> float:
    known = scores[np.isfinite(scores)]
    return float(known.mean()) if len(known) else math.nan


def half_half_splits(
    labels: Any, repeats: int = 10, seed: int = 0, groups: Any = None
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Random halves of the images: 50 % of each type drawn for training, the rest for testing.

    Parameters
    ----------
    labels : array-like of shape (n_images,)
        Type of each image.
    repeats : int
        Number of splits. The first splits do not depend on it.
    seed : int
        Seed from which each split's own seed is drawn.
    groups : array-like of shape (n_images,), optional
        Such as patients or slides: no group is on both sides, and halves are as near to 50 % of
        each type as whole groups allow.

    Returns
    -------
    list of (train, test, split_seed)
        Sorted int arrays of image indices, and the seed of the split (0 <= split_seed < 2**32).
        Of n images of a type, n // 2 are for training: the odd one is for testing.

    Raises
    ------
    ValueError
        A type has fewer than 4 images or is in one group only, there is one type only, or a label
        or group is unknown.
    """
    repeats, seed = Integer().check("repeats", repeats), Integer(0).check("seed", seed)
    labels = one_known_label_each(labels, len(labels), "images")
    types, counts = np.unique(labels, return_counts=True)
    if len(types) < 2:
        raise ValueError(f"expected images of at least two types, got {types.tolist()}")
    few = [f"{t} ({n})" for t, n in zip(types, counts, strict=True) if n < _LEAST]
    if few:
        raise ValueError(
            f"half-half splits need at least {_LEAST} images of each type (2 for training, 2 for "
            f"testing), got fewer for {', '.join(few)}; add images or leave the type out"
        )
    if groups is not None:
        groups = one_group_each(groups, len(labels), "images")
        n_groups = groups_per_type(labels, groups)
        whole = [str(t) for t, n in zip(types, n_groups, strict=True) if n < 2]
        if whole:
            raise ValueError(
                "splits by whole groups need each type in at least 2 groups (patients, slides; "
                f"near-identical images are one), got one only for {', '.join(whole)}; add images "
                "of other groups or leave the type out"
            )

    splits = []
    for split_seed in np.random.SeedSequence(seed).generate_state(repeats).tolist():
        rng = np.random.default_rng(split_seed)
        is_train = draw_half(labels, groups, rng)
        splits.append((np.flatnonzero(is_train), np.flatnonzero(~is_train), split_seed))
    return splits


def colour_histograms(images: Iterable[np.ndarray]) -> np.ndarray:
    """Square root of the frequency of each of 8 x 8 x 8 colours: the baseline's features.

    Parameters
    ----------
    images : iterable of n uint8 arrays (H, W, 3)

    Returns
    -------
    ndarray of shape (n, 512), float32
        Rows have unit norm; colour (r, g, b) is at ``64 * (r // 32) + 8 * (g // 32) + b // 32``.
    """
    rows = []
    for image in images:
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
        red, green, blue = np.moveaxis(image >> 5, 2, 0)
        index = (red.astype(np.intp) << 6) | (green << 3) | blue
        rows.append(np.sqrt(np.bincount(index.ravel(), minlength=512) / index.size))
    return np.array(rows, dtype=np.float32).reshape(-1, 512)


@dataclass(repr=False)
class Evaluation(Scores):
    """Result of `evaluate`; means are over repeats, deviations are sample standard deviations.

    Attributes
    ----------
    macro_f1, macro_f1_std : float
        F1 averaged over types. Deviations are None where there is one repeat.
    sensitivity, specificity : float
        One type against all others, averaged over types.
    per_type : dict
        For each type: f1, f1_std, sensitivity, specificity, n_images (both halves).
    confusion : dict
        ``types``; ``mean_counts``, rows are the true types; ``row_normalised``, rows sum to 1.
    runs : list of float
        Macro-F1 of each repeat, in the order of `seeds`.
    signatures : str
        Which images the signatures were learnt from.
    repeats, seed : int
    seeds : list of int
        Seed of each repeat: of its split, its signatures and its classifiers.
    n_images : int
    n_groups : int or None
        Groups given, none of which is in both halves of a repeat.
    n_copies : int
        Images near-identical to an earlier one, which stay on its side.
    baseline : dict or None
        The same figures, ``macro_f1`` to ``runs``, for the colour histogram; where it could not be
        scored, ``failed``: why not.
    parameters : dict
        With which the signatures were learnt; if anew in each repeat, those of the last repeat.
    """

    macro_f1: float
    macro_f1_std: float | None
    sensitivity: float
    specificity: float
    per_type: dict[str, dict[str, float]]
    confusion: dict[str, list[Any]]
    runs: list[float]
    signatures: str
    repeats: int
    seed: int
    seeds: list[int]
    n_images: int
    n_groups: int | None
    n_copies: int
    baseline: dict[str, Any] | None
    parameters: dict[str, Any]

    def _rows(self) -> list[dict[str, Any]]:
        """Rows of the table: types, their average, and that of the baseline."""
        rows = [{"type": name, **row} for name, row in self.per_type.items()]
        scores = {"average": vars(self)}
        if self.baseline is not None and "failed" not in self.baseline:
            scores[f"baseline: {BASELINE}"] = self.baseline
        for name, score in scores.items():
            averages = {
                "f1": score["macro_f1"],
                "f1_std": score["macro_f1_std"],
                "sensitivity": score["sensitivity"],
                "specificity": score["specificity"],
            }
            rows.append({"type": name, **averages, "n_images": self.n_images})
        return rows

    def _told(self) -> dict[str, Any]:
        baseline = self.baseline or {}
        return {
            "F1, average of types": _with_spread(vars(self)),
            f"of {BASELINE}": _with_spread(baseline) if "macro_f1" in baseline else None,
            "F1": {name: f"{row['f1']:.3f}" for name, row in self.per_type.items()},
            "images": self.n_images,
            "repeats": self.repeats,
            "signatures": self.signatures,
        }

    def _draw(self, files: FigureFiles) -> None:
        """F1, beside that of the baseline, and confusion."""
        methods: dict[str, Any] = {"profiles": self}
        if self.baseline is not None and "failed" not in self.baseline:
            methods["colour histogram"] = self.baseline
        files.save(figures.f1_bars(methods), "f1")
        files.save(figures.confusion(self), "confusion_counts")
        files.save(figures.confusion(self, normalize=True), "confusion")

    def to_text(self) -> str:
        """A report for a terminal."""
        types = self.confusion["types"]
        rows = [["", "F1", "std", "sensitivity", "specificity", "images"]]
        for row in self._rows():
            figures = [figure(row[k]) for k in ("f1", "f1_std", "sensitivity", "specificity")]
            rows.append([str(row["type"]), *figures, str(row["n_images"])])
        failed = (self.baseline or {}).get("failed")

        counts = [["true \\ predicted", *types]]
        shares = [["true \\ predicted", *types]]
        for name, count, share in zip(
            types, self.confusion["mean_counts"], self.confusion["row_normalised"], strict=True
        ):
            counts.append([name, *(f"{v:.1f}" for v in count)])
            shares.append([name, *(f"{v:.3f}" for v in share)])
        return "\n".join(
            [
                f"{self.n_images} images of {len(types)} types, {self._halves()} drawn for "
                f"training, {self.repeats} repeats, seed {self.seed}",
                f"Signatures: {self.signatures}",
                "",
                *aligned(rows),
                "",
                "Confusion, mean counts of test images per repeat",
                *aligned(counts),
                "",
                "Confusion, share of each true type",
                *aligned(shares),
                "",
                *self._sides(),
                *([f"No baseline, {BASELINE}: {failed}"] if failed else []),
            ]
        )

    def _halves(self) -> str:
        if self.n_groups is None:
            return "50 % of each type"
        return "whole groups, near to 50 % of each type,"

    def _sides(self) -> list[str]:
        """What may lie in both halves, and what may not."""
        lines = [
            "No groups were given, so no patient-wise split is possible: cells of one patient may "
            "lie in\nboth halves, and scores are then optimistic."
            if self.n_groups is None
            else f"Groups: {self.n_groups}, none of which lies in both halves of a repeat."
        ]
        if self.n_copies:
            lines.append(
                f"Near-identical to an earlier image: {self.n_copies}, which lie on its side."
            )
        return lines


def evaluate(
    images: Any,
    labels: Iterable[Any] | None = None,
    *,
    groups: Any = None,
    model: Any = None,
    repeats: int = 10,
    seed: int = 0,
    baseline: bool = True,
    preset: str = "default",
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **profiler_parameters: Any,
) -> Evaluation:
    """The paper's protocol: learn on half of each type, name the other half, repeat.

    Parameters
    ----------
    images, labels
        As `wbcprof.images.open_images` takes them; every image needs a label. All are decoded
        once and held in memory.
    groups : iterable of n groups, or mapping from image id to group, optional
        Such as patients or slides, in the order of the images, or as `wbcprof.images.read_groups`
        reads them: no group is in both halves, nor in several folds where a classifier chooses C
        and calibrates its probabilities. Without, cells of one patient may lie in both halves, and
        scores are then optimistic.
    model : Model or fitted Profiler, optional
        Used as it is, and profiles are computed once. By default signatures are learnt anew in
        each repeat, from its training half only.
    repeats, seed : int
        As in `half_half_splits`. Each repeat's own seed is the ``random_state`` of its profiler
        and its classifiers.
    baseline : bool
        Also score a colour histogram with a support vector machine, which suits it best, on the
        same pixels and splits.
    preset : {"default", "paper"}
        As in `wbcprof.fit`.
    n_threads : int, optional
        For learning and profiling.
    progress : callable, optional
        Called with (repeats done, repeats) at the start and after each repeat.
    **profiler_parameters
        As `wbcprof.fit` takes them, such as ``n_signatures``.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        A label or group is unknown, fewer than two types have 4 images in two groups, or profiler
        parameters are given beside a model.

    Warns
    -----
    DuplicateWarning
        Images are near-identical, as `wbcprof.images.find_copies` says; they count as of one group.
    FewImagesWarning
        Types with fewer than 4 images, or in one group only, are left out.

    Examples
    --------
    Few and small signatures, and two repeats, so that this runs at once:

    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(4, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> small = {"n_signatures": 8, "patch_size": 8, "n_patches": 400, "max_iter": 1}
    >>> evaluation = wbcprof.evaluate(cells.images, cells.labels, repeats=2, **small)
    >>> print(evaluation.to_text().splitlines()[1])
    Signatures: learnt from the training half of each repeat
    >>> evaluation.confusion["types"], len(evaluation.runs)
    (['lymphocyte', 'neutrophil'], 2)
    >>> sorted(evaluation.per_type["neutrophil"])
    ['f1', 'f1_std', 'n_images', 'sensitivity', 'specificity']
    >>> evaluation.to_dict()["seed"]
    0
    >>> evaluation.to_pandas().columns.tolist()
    ['f1', 'f1_std', 'sensitivity', 'specificity', 'n_images']
    >>> print(evaluation.to_latex().splitlines()[0])
    \\begin{tabular}{lrrrrr}
    >>> import json, pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "evaluation.json")
    ...     evaluation.to_json(path)
    ...     evaluation.to_csv(path.with_suffix(".csv"))
    ...     evaluation.save_figures(folder, figure_width=85)
    ...     json.loads(path.read_text())["repeats"]
    2
    """
    if model is None:
        min_size = make_profiler(preset, **profiler_parameters).min_size
        signatures = "learnt from the training half of each repeat"
    elif profiler_parameters:
        raise ValueError(
            f"{', '.join(profiler_parameters)} would have no effect with a given model; "
            "leave out either the model or these parameters"
        )
    else:
        model = getattr(model, "model_", model)
        min_size = model.min_size
        signatures = "given model, which may have been learnt from images of the test halves too"

    threads = resolve_threads(n_threads)
    source = open_images(images, labels, min_size=min_size)
    cells = list(source.read(threads))
    ids, places = [cell.image_id for cell in cells], [cell.place for cell in cells]
    y = one_known_label_each([cell.label for cell in cells], len(cells), "images")
    if groups is not None:
        groups = groups_of(groups, ids, places, len(cells) + len(source.skipped))
    copies = number_copies([thumbnail(cell.pixels) for cell in cells])
    n_copies = warn_of_copies(copies, ids, y)
    together = together_by(groups, copies if n_copies else None, number_files(ids))
    kept = np.flatnonzero(of_types_with(_LEAST, y, together, " of the evaluation"))
    cells, y = [cells[i] for i in kept], y[kept]
    groups, together = (None if g is None else g[kept] for g in (groups, together))
    pixels = [cell.pixels for cell in cells]
    check_types(y.tolist())
    splits = half_half_splits(y, repeats, seed, together)
    types = np.unique(y).tolist()
    learnt = model
    profiles = np.empty(0) if model is None else _profiles(model, pixels, n_threads)
    histograms = colour_histograms(pixels) if baseline else None

    runs, baseline_runs = [], []
    failed = ""
    tell = progress or (lambda done, of: None)
    tell(0, repeats)
    for done, (train, test, split_seed) in enumerate(splits, start=1):
        if model is None:
            profiler = make_profiler(
                preset, n_threads=n_threads, random_state=split_seed, **profiler_parameters
            )
            learnt = profiler.fit([pixels[i] for i in train]).model_
            profiles = _profiles(learnt, pixels, n_threads)
        source = open_images([pixels[i] for i in train], min_size=learnt.min_size)
        changed = profiles_of_copies(learnt, source, None, split_seed, threads, Coding())
        score = _score(profiles, y, together, train, test, split_seed, types, changed)
        runs.append(score)
        if histograms is not None:
            try:
                score = _score(
                    histograms, y, together, train, test, split_seed, types, ([], []), kernel="rbf"
                )
            except (ValueError, ArithmeticError) as error:  # such as of images all alike in colour
                histograms, failed = None, str(error)
            else:
                baseline_runs.append(score)
        tell(done, repeats)

    n_images = Counter(y.tolist())
    return Evaluation(
        **_summary(runs, types, n_images),
        signatures=signatures,
        repeats=repeats,
        seed=seed,
        seeds=[split_seed for _, _, split_seed in splits],
        n_images=len(cells),
        n_groups=None if groups is None else len(np.unique(groups)),
        n_copies=n_copies,
        baseline=_summary(baseline_runs, types, n_images)
        if histograms is not None
        else {"failed": failed}
        if failed
        else None,
        parameters=dict(learnt.parameters),
    )


def _profiles(model: Any, pixels: list[np.ndarray], n_threads: int | None) -> np.ndarray:
    profiles = model.profile(pixels, n_threads=n_threads).values
    if len(profiles) != len(pixels):
        raise ValueError(
            f"expected a profile of each of {len(pixels)} images, got {len(profiles)}: "
            "the model left images out"
        )
    result: np.ndarray = profiles
    return result


def _score(
    values: np.ndarray,
    y: np.ndarray,
    together: np.ndarray | None,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
    types: list[Any],
    copies: tuple[list[np.ndarray], list[np.ndarray]],
    kernel: str = "discriminant",
) -> dict[str, Any]:
    groups = None if together is None else together[train]
    classifier = TypeClassifier(random_state=seed, kernel=kernel)
    turned, jittered = copies
    classifier.fit(values[train], y[train], groups, jittered, turned=turned)
    return evaluation_metrics(y[test], classifier.predict(values[test]), types)


def _with_spread(scores: Mapping[str, Any]) -> str:
    spread = scores["macro_f1_std"]
    return f"{scores['macro_f1']:.3f}" + ("" if spread is None else f" \u00b1 {spread:.3f}")


def _summary(
    runs: list[dict[str, Any]], types: list[str], n_images: Counter[Any]
) -> dict[str, Any]:
    """Means and deviations over repeats, as plain Python values."""

    def mean(key: str) -> Any:
        return np.mean([run[key] for run in runs], axis=0)

    def std(key: str) -> Any:
        values = np.array([run[key] for run in runs])
        if len(runs) == 1:  # it is not known
            return np.full(values.shape[1:], None).tolist()
        return np.std(values, axis=0, ddof=1).tolist()

    columns = {
        "f1": mean("f1"),
        "f1_std": std("f1"),
        "sensitivity": mean("sensitivity"),
        "specificity": mean("specificity"),
    }
    counts = mean("confusion")
    return {
        "macro_f1": float(mean("macro_f1")),
        "macro_f1_std": std("macro_f1"),
        "sensitivity": float(mean("macro_sensitivity")),
        "specificity": float(mean("macro_specificity")),
        "per_type": {
            name: {
                key: None if column[i] is None else float(column[i])
                for key, column in columns.items()
            }
            | {"n_images": n_images[name]}
            for i, name in enumerate(types)
        },
        "confusion": {
            "types": types,
            "mean_counts": counts.tolist(),
            "row_normalised": (counts / counts.sum(axis=1, keepdims=True)).tolist(),
        },
        "runs": [run["macro_f1"] for run in runs],
    }
