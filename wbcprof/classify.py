"""Types: a support vector machine on profiles, and the paper's half-half protocol.

One-vs-one machines on standardised profiles x^ = (x - mean) / scale. For types i < j::

    d_ij = w_ij . phi(x^) + b_ij     phi(x^) = x^ (linear), or exp(-gamma ||x^ - s||^2) of the
                                     support vectors s (rbf); d_ij >= 0 speaks for i, d_ji = -d_ij
    p_i ~ product over j of 1 / (1 + exp(-slope d_ij))    slope: least log loss on folds left out

The type named is the most probable one. Learning is scikit-learn's; what is learnt is plain arrays,
and predicting is NumPy on them.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, TypeGuard

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, recall_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

from .files import replacing
from .images import open_images

__all__ = [
    "Evaluation",
    "FewImagesWarning",
    "TypeClassifier",
    "colour_histograms",
    "evaluate",
    "evaluation_metrics",
    "half_half_splits",
    "rank_signatures",
]

RELATIVE_C = np.logspace(-1, 3, 9)
"""Candidates for C of the linear kernel, times the mean squared norm of standardised profiles."""

RBF_C = np.logspace(0, 3, 7)
_RELATIVE_GAMMA = 0.25

MAX_FOLDS = 5
BASELINE = "colour histogram 8x8x8, square root"


class FewImagesWarning(UserWarning):
    """A type has too few images for cross-validation."""


class TypeClassifier(ClassifierMixin, BaseEstimator):
    """Support vector machine that names the type of a cell from its profile, with probabilities.

    Parameters
    ----------
    kernel : {"rbf", "linear"}
        "rbf" has gamma = 0.25 / q, where q, the mean squared norm of the standardised profiles, is
        the number of features.
    C : float or "auto"
        Inverse strength of regularisation on standardised profiles. "auto" takes the best
        macro-F1 in a stratified cross-validation of the training profiles (5 folds, fewer if a
        type has fewer images; the smallest of equals) over 1, 3.2, 10 ... 1000 for "rbf", over
        0.1, 0.32, 1 ... 1000 divided by q for "linear".
    random_state : int
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_types,)
        Types, sorted.
    mean_, scale_ : ndarray of shape (n_features,), float64
        Standardisation; ``scale_`` is 1 where a feature is constant.
    support_vectors_ : ndarray of shape (n_support, n_features), float32
        Standardised profiles that the kernel is taken with; none if linear.
    gamma_ : float
        Of the kernel; 0 if linear.
    coef_ : ndarray of shape (n_pairs, n_support or n_features), float64
        Weights for each pair of types, (0, 1), (0, 2) ... in order.
    intercept_ : ndarray of shape (n_pairs,), float64
    slope_ : float
        From decisions on pairs of types to log-probabilities.
    C_ : float
        The C that was used.
    calibrated_ : bool
        False if a type had one image only: the slope is then 1.
    n_features_in_ : int
    """

    def __init__(
        self, C: float | str = "auto", random_state: int = 0, *, kernel: str = "rbf"
    ) -> None:
        self.C = C
        self.random_state = random_state
        self.kernel = kernel

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from profiles X of shape (n_images, n_features) and their types y.

        Raises
        ------
        ValueError
            NaN or infinity, an unknown label, lengths that differ, fewer than two types, no more
            images than types, or profiles that are all the same.

        Warns
        -----
        FewImagesWarning
            A type has one image: C is not chosen (10 for "rbf", 1 for "linear"), and probabilities
            are not calibrated.
        """
        if not (self.C == "auto" or (_is_number(self.C) and 0 < self.C < np.inf)):
            raise ValueError(f"C must be 'auto' or a positive number, got {self.C!r}")
        if self.kernel not in ("rbf", "linear"):
            raise ValueError(f"kernel must be 'rbf' or 'linear', got {self.kernel!r}")
        X = _check_profiles(X)
        y = _check_labels(y, len(X), "profiles")
        classes, counts = np.unique(y, return_counts=True)
        if len(classes) < 2:
            raise ValueError(f"expected at least two types, got one only: {classes[0]!s}")
        if len(X) <= len(classes):
            raise ValueError(
                f"expected more images than types, got {len(X)} images of {len(classes)} types; "
                "are the labels types rather than image names?"
            )

        scaler = StandardScaler()
        scaled = scaler.fit_transform(X).astype(np.float32)
        squared_norm = float(np.einsum("ij,ij->", scaled, scaled, dtype=np.float64)) / len(X)
        if squared_norm == 0:
            raise ValueError(f"the {len(X)} profiles are all the same; types cannot be told apart")
        linear = self.kernel == "linear"
        gamma = 0.0 if linear else _RELATIVE_GAMMA / squared_norm
        gram = _kernel(scaled, None if linear else scaled, gamma)
        if linear:
            gram = gram @ gram.T

        folds = None
        if counts.min() >= 2:
            folds = StratifiedKFold(
                min(MAX_FOLDS, int(counts.min())), shuffle=True, random_state=self.random_state
            )
        else:
            warnings.warn(
                f"type {classes[counts.argmin()]!s} has one image: "
                + ("C is not chosen and " if self.C == "auto" else "")
                + "probabilities are not calibrated; give at least 2 images of each type",
                FewImagesWarning,
                stacklevel=2,
            )

        if self.C != "auto":
            C = float(self.C)
        elif folds is None:
            C = 1.0 if linear else 10.0
        else:
            search = GridSearchCV(
                SVC(kernel="precomputed"),
                {"C": RELATIVE_C / squared_norm if linear else RBF_C},
                scoring="f1_macro",
                cv=folds,
                refit=False,
            )
            C = float(search.fit(gram, y).best_params_["C"])

        codes = np.searchsorted(classes, y)
        svm = SVC(kernel="precomputed", C=C).fit(gram, codes)
        weights, intercept = _pair_weights(svm)
        if linear:
            support = scaled[:0]
            weights = weights @ scaled[svm.support_].astype(np.float64)
        else:
            support = scaled[svm.support_]

        self.classes_ = classes
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self.support_vectors_, self.gamma_ = support, gamma
        self.coef_, self.intercept_ = weights, intercept
        self.slope_ = 1.0 if folds is None else _calibrate(gram, codes, C, folds)
        self.C_ = C
        self.calibrated_ = folds is not None
        self.n_features_in_ = X.shape[1]
        return self

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = _check_profiles(X)
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Number of features ({X.shape[1]}) must match that of the training profiles "
                f"({self.n_features_in_})"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (X - self.mean_) / self.scale_
            columns = _kernel(scaled, self.support_vectors_ if self.gamma_ else None, self.gamma_)
            pairs = self.slope_ * (columns @ self.coef_.T + self.intercept_)
        if not np.isfinite(pairs).all():
            raise ValueError(
                "the classifier's decisions overflow; the profiles or the model file may be damaged"
            )
        return _log_products(pairs, len(self.classes_))

    def decision_function(self, X: Any) -> np.ndarray:
        """Unnormalised log-probability of each type.

        Returns
        -------
        ndarray of shape (n_images, n_types), or (n_images,) if there are two types
            Of two types, the second's minus the first's.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """The most probable type of each profile, shape (n_images,)."""
        most_probable = self._logits(X).argmax(axis=1)
        return self.classes_[most_probable]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each type, shape (n_images, n_types), in the order of ``classes_``."""
        return softmax(self._logits(X), axis=1)

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """For a file: the arrays learnt, and types and settings that JSON can hold."""
        check_is_fitted(self)
        arrays = {name: getattr(self, f"{name}_") for name in _ARRAYS}
        return arrays, {
            "classes": self.classes_.tolist(),
            "kernel": self.kernel,
            "C": self.C,
            "random_state": self.random_state,
            "C_used": self.C_,
            "gamma": self.gamma_,
            "slope": self.slope_,
            "calibrated": self.calibrated_,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], parameters: dict[str, Any]) -> Self:
        """The classifier whose `to_arrays` gave these.

        Raises
        ------
        ValueError
            An array or parameter is missing, of another shape or type, or not finite.
        """
        missing = [name for name in _ARRAYS if name not in arrays]
        missing += [name for name in _PARAMETERS if name not in parameters]
        if missing:
            raise ValueError(f"stored classifier lacks {', '.join(missing)}")
        for name, accepted in _PARAMETERS.items():
            if not isinstance(parameters[name], accepted):
                raise ValueError(f"stored classifier: {name} is {parameters[name]!r}")

        classes = parameters["classes"]
        kinds = {type(c) for c in classes}
        if len(classes) < 2 or kinds not in ({str}, {int}, {float}):
            raise ValueError(f"stored classifier: expected two or more types, got {classes!r}")
        if sorted(set(classes)) != classes:
            raise ValueError(f"stored classifier: types are not sorted and unique: {classes!r}")
        linear = parameters["kernel"] == "linear"
        if parameters["kernel"] not in ("rbf", "linear") or (
            parameters["gamma"] != 0 if linear else not 0 < parameters["gamma"] < np.inf
        ):
            raise ValueError(
                f"stored classifier: kernel {parameters['kernel']!r} with gamma "
                f"{parameters['gamma']!r}"
            )

        n_types = len(classes)
        n_pairs = n_types * (n_types - 1) // 2
        n_features = np.size(arrays["mean"])
        n_support = 0 if linear else len(arrays["support_vectors"])
        shapes = {
            "mean": (n_features,),
            "scale": (n_features,),
            "support_vectors": (n_support, n_features),
            "coef": (n_pairs, n_features if linear else n_support),
            "intercept": (n_pairs,),
        }
        for name, shape in shapes.items():
            array = arrays[name]
            dtype = np.float32 if name == "support_vectors" else np.float64
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"stored classifier: expected {name} {dtype.__name__} {shape}, "
                    f"got {array.dtype} {array.shape}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"stored classifier: {name} holds NaN or infinity")
        if not 0 < parameters["slope"] < np.inf:
            raise ValueError(f"stored classifier: slope {parameters['slope']!r}")
        if not (arrays["scale"] > 0).all():
            raise ValueError("stored classifier: scale holds values that are not positive")

        self = cls(
            C=parameters["C"],
            random_state=parameters["random_state"],
            kernel=parameters["kernel"],
        )
        for name in _ARRAYS:
            setattr(self, f"{name}_", arrays[name])
        self.classes_ = np.array(classes)
        self.C_ = parameters["C_used"]
        self.gamma_ = float(parameters["gamma"])
        self.slope_ = float(parameters["slope"])
        self.calibrated_ = parameters["calibrated"]
        self.n_features_in_ = n_features
        return self


def _kernel(scaled: np.ndarray, support: np.ndarray | None, gamma: float) -> np.ndarray:
    """phi of standardised profiles: themselves if there is no `support`."""
    scaled = scaled.astype(np.float64)
    if support is None:
        return scaled
    support = support.astype(np.float64)
    distance = (scaled**2).sum(axis=1)[:, None] + (support**2).sum(axis=1) - 2 * scaled @ support.T
    return np.exp(-gamma * np.maximum(distance, 0))


def _pair_weights(svm: SVC) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the support vectors (n_pairs, n_support) and intercepts, d_ij >= 0 for i < j.

    In libsvm's layout, a support vector of type i keeps its weight against type j in row j - 1 of
    `dual_coef_` if i < j, else in row j. Of two types, scikit-learn turns the sign.
    """
    n_types = len(svm.classes_)
    sign = -1 if n_types == 2 else 1
    owner = np.repeat(np.arange(n_types), svm.n_support_)
    weights = np.zeros((n_types * (n_types - 1) // 2, len(owner)))
    for pair, (i, j) in enumerate(zip(*np.triu_indices(n_types, 1), strict=True)):
        weights[pair, owner == i] = sign * svm.dual_coef_[j - 1, owner == i]
        weights[pair, owner == j] = sign * svm.dual_coef_[i, owner == j]
    return weights, sign * svm.intercept_


def _log_products(pairs: np.ndarray, n_types: int) -> np.ndarray:
    """Sum over j of -log(1 + exp(-d_ij)), (n, n_types), from decisions on pairs (n, n_pairs)."""
    first, second = np.triu_indices(n_types, 1)
    member = np.eye(n_types)
    return -np.logaddexp(0, -pairs) @ member[first] - np.logaddexp(0, pairs) @ member[second]


def _calibrate(gram: np.ndarray, codes: np.ndarray, C: float, folds: StratifiedKFold) -> float:
    """Slope of least log loss on the decisions of folds left out."""
    n_types = codes.max() + 1
    pairs = np.zeros((len(codes), n_types * (n_types - 1) // 2))
    for train, test in folds.split(gram, codes):
        svm = SVC(kernel="precomputed", C=C).fit(gram[np.ix_(train, train)], codes[train])
        weights, intercept = _pair_weights(svm)
        pairs[test] = gram[np.ix_(test, train[svm.support_])] @ weights.T + intercept

    def loss(log_slope: float) -> float:
        log_p = log_softmax(_log_products(np.exp(log_slope) * pairs, n_types), axis=1)
        return -log_p[np.arange(len(codes)), codes].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


_ARRAYS = ("mean", "scale", "support_vectors", "coef", "intercept")
_PARAMETERS: dict[str, type | tuple[type, ...]] = {
    "classes": list,
    "C": (str, int, float),
    "random_state": (int, type(None)),
    "C_used": (int, float),
    "kernel": str,
    "gamma": (int, float),
    "slope": (int, float),
    "calibrated": bool,
}


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
        ``f1``, ``sensitivity``, ``specificity``: arrays (n_types,), 0 where undefined;
        ``macro_f1``, ``macro_sensitivity``, ``macro_specificity``: their means;
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

    _, sensitivity, f1, _ = precision_recall_fscore_support(
        y_true, y_pred, labels=types, zero_division=0.0
    )
    # Specificity for a type is the sensitivity for "any other type".
    specificity = np.array(
        [recall_score(y_true != t, y_pred != t, zero_division=0.0) for t in types]
    )
    return {
        "f1": f1,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "macro_f1": float(f1.mean()),
        "macro_sensitivity": float(sensitivity.mean()),
        "macro_specificity": float(specificity.mean()),
        "confusion": confusion_matrix(y_true, y_pred, labels=types),
    }


def half_half_splits(
    labels: Any, repeats: int = 10, seed: int = 0
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

    Returns
    -------
    list of (train, test, split_seed)
        Sorted int arrays of image indices, and the seed of the split (0 <= split_seed < 2**32).
        Of n images of a type, n // 2 are for training: the odd one is for testing.

    Raises
    ------
    ValueError
        A type has fewer than 4 images, there is one type only, or a label is unknown.
    """
    for name, value, low in (("repeats", repeats, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
            raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
    labels = _check_labels(labels, len(labels), "images")
    types, counts = np.unique(labels, return_counts=True)
    if len(types) < 2:
        raise ValueError(f"expected images of at least two types, got {types.tolist()}")
    few = [f"{t} ({n})" for t, n in zip(types, counts, strict=True) if n < 4]
    if few:
        raise ValueError(
            "half-half splits need at least 4 images of each type (2 for training, 2 for "
            f"testing), got fewer for {', '.join(few)}; add images or leave the type out"
        )

    splits = []
    for split_seed in np.random.SeedSequence(seed).generate_state(repeats).tolist():
        rng = np.random.default_rng(split_seed)
        is_train = np.zeros(len(labels), bool)
        for name, n in zip(types, counts, strict=True):
            is_train[rng.permutation(np.flatnonzero(labels == name))[: n // 2]] = True
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


@dataclass
class Evaluation:
    """Result of `evaluate`; means are over repeats, deviations are sample standard deviations.

    Attributes
    ----------
    macro_f1, macro_f1_std : float
        F1 averaged over types.
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
    baseline : dict or None
        The same figures, ``macro_f1`` to ``runs``, for the colour histogram.
    parameters : dict
        With which the signatures were learnt; if anew in each repeat, those of the last repeat.
    """

    macro_f1: float
    macro_f1_std: float
    sensitivity: float
    specificity: float
    per_type: dict[str, dict[str, float]]
    confusion: dict[str, list]
    runs: list[float]
    signatures: str
    repeats: int
    seed: int
    seeds: list[int]
    n_images: int
    baseline: dict[str, Any] | None
    parameters: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All fields, as a new dict."""
        return asdict(self)

    def to_json(self, path: str | os.PathLike) -> None:
        """Write `to_dict` as JSON; the file is whole or absent."""
        text = json.dumps(self.to_dict(), indent=2, default=_plain, allow_nan=False)
        with replacing(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def to_text(self) -> str:
        """A report for a terminal."""
        types = self.confusion["types"]
        rows = [["", "F1", "std", "sensitivity", "specificity", "images"]]
        for name, row in self.per_type.items():
            figures = (row["f1"], row["f1_std"], row["sensitivity"], row["specificity"])
            rows.append([name, *(f"{v:.3f}" for v in figures), str(row["n_images"])])
        scores = {"average": asdict(self)}
        if self.baseline is not None:
            scores[f"baseline: {BASELINE}"] = self.baseline
        for name, score in scores.items():
            keys = ("macro_f1", "macro_f1_std", "sensitivity", "specificity")
            rows.append([name, *(f"{score[key]:.3f}" for key in keys), str(self.n_images)])

        counts = [["true \\ predicted", *types]]
        shares = [["true \\ predicted", *types]]
        for name, count, share in zip(
            types, self.confusion["mean_counts"], self.confusion["row_normalised"], strict=True
        ):
            counts.append([name, *(f"{v:.1f}" for v in count)])
            shares.append([name, *(f"{v:.3f}" for v in share)])
        return "\n".join(
            [
                f"{self.n_images} images of {len(types)} types, 50 % of each type drawn for "
                f"training, {self.repeats} repeats, seed {self.seed}",
                f"Signatures: {self.signatures}",
                "",
                *_table(rows),
                "",
                "Confusion, mean counts of test images per repeat",
                *_table(counts),
                "",
                "Confusion, share of each true type",
                *_table(shares),
                "",
                "Unless groups are known, no patient-wise split is possible: cells of one patient "
                "may lie in\nboth halves, and scores are then optimistic.",
            ]
        )


def evaluate(
    images: Any,
    labels: Iterable[Any] | None = None,
    *,
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
    model : Model or fitted Profiler, optional
        Used as it is, and profiles are computed once. By default signatures are learnt anew in
        each repeat, from its training half only.
    repeats, seed : int
        As in `half_half_splits`. Each repeat's own seed is the ``random_state`` of its profiler
        and its classifiers.
    baseline : bool
        Also score a colour histogram with the same classifier on the same pixels and splits.
    preset : {"default", "paper"}
        As in `wbcprof.fit`.
    n_threads : int, optional
        For learning and profiling.
    progress : callable, optional
        Called with (repeats done, repeats) at the start and after each repeat.
    **profiler_parameters
        For `wbcprof.Profiler`, such as ``n_signatures``.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        A label is unknown, there is one type only, a type has fewer than 4 images, or profiler
        parameters are given beside a model.
    """
    from .profiler import Profiler, preset_parameters

    if model is None:
        profiler_parameters = preset_parameters(preset, profiler_parameters)
        min_size = Profiler(**profiler_parameters).patch_size
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

    cells = list(open_images(images, labels, min_size=min_size).read(n_threads))
    pixels = [cell.pixels for cell in cells]
    y = _check_labels([cell.label for cell in cells], len(cells), "images")
    splits = half_half_splits(y, repeats, seed)
    types = np.unique(y).tolist()
    if model is not None:
        profiles = _profiles(model, pixels, n_threads)
        parameters = model.parameters
    histograms = colour_histograms(pixels) if baseline else None

    runs, baseline_runs = [], []
    if progress is not None:
        progress(0, repeats)
    for done, (train, test, split_seed) in enumerate(splits, start=1):
        if model is None:
            learner = Profiler(n_threads=n_threads, random_state=split_seed, **profiler_parameters)
            learnt = learner.fit([pixels[i] for i in train]).model_
            profiles = _profiles(learnt, pixels, n_threads)
            parameters = learnt.parameters
        runs.append(_score(profiles, y, train, test, split_seed, types))
        if histograms is not None:
            baseline_runs.append(_score(histograms, y, train, test, split_seed, types))
        if progress is not None:
            progress(done, repeats)

    n_images = Counter(y.tolist())
    return Evaluation(
        **_summary(runs, types, n_images),
        signatures=signatures,
        repeats=repeats,
        seed=seed,
        seeds=[split_seed for _, _, split_seed in splits],
        n_images=len(cells),
        baseline=_summary(baseline_runs, types, n_images) if baseline else None,
        parameters=dict(parameters),
    )


def rank_signatures(
    values: Any, labels: Any, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rank the features of profiles by how much a random forest uses them (paper: the best 256).

    Parameters
    ----------
    values : array-like of shape (n_images, n_features)
    labels : array-like of shape (n_images,)
        Types. To keep a test honest, give training images only.
    random_state : int

    Returns
    -------
    order : ndarray of shape (n_features,), int
        Features from most to least important; equals keep their order.
    importance : ndarray of shape (n_features,), float64
        Mean decrease of Gini impurity over 500 trees, in the order of the features; sums to 1.
    """
    values = _check_profiles(values)
    labels = _check_labels(labels, len(values), "profiles")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"expected at least two types, got one only: {labels[0]!s}")
    forest = RandomForestClassifier(n_estimators=500, random_state=random_state)
    importance = forest.fit(values, labels).feature_importances_
    return np.argsort(-importance, kind="stable"), importance


def _profiles(model: Any, pixels: list[np.ndarray], n_threads: int | None) -> np.ndarray:
    profiles = model.profile(pixels, n_threads=n_threads).values
    if len(profiles) != len(pixels):
        raise ValueError(
            f"expected a profile of each of {len(pixels)} images, got {len(profiles)}: "
            "the model left images out"
        )
    return profiles


def _score(
    values: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int, types: list
) -> dict[str, Any]:
    classifier = TypeClassifier(random_state=seed).fit(values[train], y[train])
    return evaluation_metrics(y[test], classifier.predict(values[test]), types)


def _summary(runs: list[dict[str, Any]], types: list[str], n_images: Counter) -> dict[str, Any]:
    """Means and deviations over repeats, as plain Python values."""

    def mean(key: str) -> Any:
        return np.mean([run[key] for run in runs], axis=0)

    def std(key: str) -> Any:
        values = np.array([run[key] for run in runs])
        return np.std(values, axis=0, ddof=1) if len(runs) > 1 else np.zeros(values.shape[1:])

    columns = {
        "f1": mean("f1"),
        "f1_std": std("f1"),
        "sensitivity": mean("sensitivity"),
        "specificity": mean("specificity"),
    }
    counts = mean("confusion")
    return {
        "macro_f1": float(mean("macro_f1")),
        "macro_f1_std": float(std("macro_f1")),
        "sensitivity": float(mean("macro_sensitivity")),
        "specificity": float(mean("macro_specificity")),
        "per_type": {
            name: {key: float(column[i]) for key, column in columns.items()}
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


def _check_profiles(values: Any) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected profiles (n_images, n_features), got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise ValueError(
            f"expected finite profiles, got NaN or infinity in {bad.size} of {len(values)}, "
            f"first in profile {bad[0]}"
        )
    return values


def _check_labels(labels: Any, n: int, what: str) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"expected one label per image, got shape {labels.shape}")
    if len(labels) != n:
        raise ValueError(f"Length of labels ({len(labels)}) must match number of {what} ({n})")
    if labels.dtype.kind in "Of":
        unknown = np.array([label is None or label != label for label in labels])
        if unknown.any():
            raise ValueError(
                f"expected a label for each image, got none for {unknown.sum()} of {n}, "
                f"first for number {unknown.argmax()}"
            )
    return labels.astype(str) if labels.dtype.kind == "O" else labels


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """What JSON does not know: numpy values as lists and numbers, the rest as text."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


def _table(rows: list[list[str]]) -> list[str]:
    """Aligned lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
