"""Types: a support vector machine on profiles.

One-vs-one machines on standardised profiles x^ = (x - mean) / scale. For types i < j::

    d_ij = w_ij . phi(x^) + b_ij     phi(x^) = x^ (linear), or exp(-gamma ||x^ - s||^2) of the
                                     support vectors s (rbf); d_ij >= 0 speaks for i, d_ji = -d_ij
    p_i ~ product over j of 1 / (1 + exp(-slope d_ij))    slope: least log loss on folds left out

The type named is the most probable one. Learning is scikit-learn's; what is learnt is plain arrays,
and predicting is NumPy on them.
"""

from __future__ import annotations

import warnings
from typing import Any, Self, TypeGuard

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

__all__ = ["FewImagesWarning", "TypeClassifier", "rank_signatures"]

RELATIVE_C = np.logspace(-1, 3, 9)
"""Candidates for C of the linear kernel, times the mean squared norm of standardised profiles."""

RBF_C = np.logspace(0, 3, 7)
_RELATIVE_GAMMA = 0.25

MAX_FOLDS = 5


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
        X = check_profiles(X)
        y = check_labels(y, len(X), "profiles")
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
        X = check_profiles(X)
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
    values = check_profiles(values)
    labels = check_labels(labels, len(values), "profiles")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"expected at least two types, got one only: {labels[0]!s}")
    forest = RandomForestClassifier(n_estimators=500, random_state=random_state)
    importance = forest.fit(values, labels).feature_importances_
    return np.argsort(-importance, kind="stable"), importance


def check_profiles(values: Any) -> np.ndarray:
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


def check_labels(labels: Any, n: int, what: str) -> np.ndarray:
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
