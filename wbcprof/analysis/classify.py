"""Types: learning to name them, by support vector machines on profiles.

`wbcprof.model.machines` has the formulae. C is chosen by cross-validation, the slope from decisions
to probabilities by the least log loss on folds left out. Learning is scikit-learn's; what is learnt
is plain arrays.
"""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

from wbcprof.analysis.folds import Split, groups_per_type, stratified_folds
from wbcprof.checks import check, one_known_label_each
from wbcprof.images.groups import one_group_each
from wbcprof.model.machines import (
    RULES,
    TypeMachines,
    check_profiles,
    kernel_columns,
    log_products,
)

__all__ = ["FewImagesWarning", "TypeClassifier", "rank_signatures"]

RELATIVE_C = np.logspace(-1, 3, 9)
"""Candidates for C of the linear kernel, times the mean squared norm of standardised profiles."""

RBF_C = np.logspace(0, 3, 7)
_RELATIVE_GAMMA = 0.25

MAX_FOLDS = 5


class FewImagesWarning(UserWarning):
    """A type has too few images, or is in too few groups, for cross-validation."""


class TypeClassifier(ClassifierMixin, TypeMachines, BaseEstimator):  # type: ignore[misc]
    """Support vector machine that names the type of a cell from its profile, with probabilities.

    Parameters
    ----------
    kernel : {"rbf", "linear"}
        "rbf" has gamma = 0.25 / q, where q, the mean squared norm of the standardised profiles, is
        the number of features.
    C : float or "auto"
        Inverse strength of regularisation on standardised profiles. "auto" takes the best
        macro-F1 in a stratified cross-validation of the training profiles (5 folds, fewer if a
        type has fewer images or is in fewer groups; the smallest of equals) over 1, 3.2, 10 ...
        1000 for "rbf", over 0.1, 0.32, 1 ... 1000 divided by q for "linear".
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
        False if a type had one image or was in one group only: the slope is then 1.
    n_features_in_ : int

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(4, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> profiles = wbcprof.profile(cells.images, model)
    >>> classifier = wbcprof.TypeClassifier().fit(profiles, cells.labels)
    >>> new = make_leukocytes(1, size=48, types=["neutrophil"], random_state=1)
    >>> print(*classifier.predict(wbcprof.profile(new.images, model)))
    neutrophil
    >>> classifier.predict_proba(wbcprof.profile(new.images, model)).shape
    (1, 2)
    """

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Learn from profiles X of shape (n_images, n_features) and their types y.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
        y : array-like of shape (n_images,)
        groups : array-like of shape (n_images,), optional
            Such as patients or slides. C is chosen, and probabilities are calibrated, on groups
            that were left out as a whole.

        Raises
        ------
        ValueError
            NaN or infinity, an unknown label or group, lengths that differ, fewer than two types,
            no more images than types, or profiles that are all the same.

        Warns
        -----
        FewImagesWarning
            A type has one image, or is in one group: C is not chosen (10 for "rbf", 1 for
            "linear"), and probabilities are not calibrated.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> values = np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.9]])
        >>> types = ["lymphocyte", "lymphocyte", "neutrophil", "neutrophil"]
        >>> classifier = wbcprof.TypeClassifier(C=1.0).fit(values, types)
        >>> print(*classifier.classes_)
        lymphocyte neutrophil
        >>> classifier.calibrated_
        True
        """
        check(RULES, C=self.C, kernel=self.kernel)
        X = check_profiles(X)
        y = one_known_label_each(y, len(X), "profiles")
        if groups is not None:
            groups = one_group_each(groups, len(X), "profiles")
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
        gram = kernel_columns(scaled, None if linear else scaled, gamma)
        if linear:
            gram = gram @ gram.T

        folds = stratified_folds(y, groups, MAX_FOLDS, self.random_state)
        if not folds:
            fewest = groups_per_type(y, groups)
            where = "has one image" if counts.min() == 1 else "is in too few groups"
            warnings.warn(
                f"type {classes[fewest.argmin()]!s} {where}: "
                + ("C is not chosen and " if self.C == "auto" else "")
                + "probabilities are not calibrated; give at least 2 "
                + ("images of each type" if groups is None else "groups with each type"),
                FewImagesWarning,
                stacklevel=2,
            )

        if self.C != "auto":
            C = float(self.C)
        elif not folds:
            C = 1.0 if linear else 10.0
        else:
            C = _choose_C(gram, y, RELATIVE_C / squared_norm if linear else RBF_C, folds)

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
        self.slope_ = _calibrate(gram, codes, C, folds) if folds else 1.0
        self.C_ = C
        self.calibrated_ = bool(folds)
        self.n_features_in_ = X.shape[1]
        return self

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super()._logits(X)


def _choose_C(gram: np.ndarray, y: np.ndarray, candidates: np.ndarray, folds: list[Split]) -> float:
    """The candidate of best macro-F1 on folds left out; the smallest of equals."""
    search = GridSearchCV(
        SVC(kernel="precomputed"), {"C": candidates}, scoring="f1_macro", cv=folds, refit=False
    )
    return float(search.fit(gram, y).best_params_["C"])


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


def _calibrate(gram: np.ndarray, codes: np.ndarray, C: float, folds: list[Split]) -> float:
    """Slope of least log loss on the decisions of folds left out."""
    n_types = codes.max() + 1
    pairs = np.zeros((len(codes), n_types * (n_types - 1) // 2))
    for train, test in folds:
        svm = SVC(kernel="precomputed", C=C).fit(gram[np.ix_(train, train)], codes[train])
        weights, intercept = _pair_weights(svm)
        pairs[test] = gram[np.ix_(test, train[svm.support_])] @ weights.T + intercept

    def loss(log_slope: float) -> float:
        log_p = log_softmax(log_products(np.exp(log_slope) * pairs, n_types), axis=1)
        result: float = -log_p[np.arange(len(codes)), codes].mean()
        return result

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


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

    Examples
    --------
    The third of four features is what these two types differ in:

    >>> import numpy as np
    >>> from wbcprof.analysis import rank_signatures
    >>> labels = np.repeat(["lymphocyte", "neutrophil"], 10)
    >>> values = np.random.default_rng(0).random((20, 4))
    >>> values[labels == "neutrophil", 2] += 2
    >>> order, importance = rank_signatures(values, labels)
    >>> int(order[0]), round(float(importance.sum()), 6)
    (2, 1.0)
    """
    values = check_profiles(values)
    labels = one_known_label_each(labels, len(values), "profiles")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"expected at least two types, got one only: {labels[0]!s}")
    forest = RandomForestClassifier(n_estimators=500, random_state=random_state)
    importance = forest.fit(values, labels).feature_importances_
    return np.argsort(-importance, kind="stable"), importance
