"""Types: learning to name them from profiles, by discriminant analysis or support vector machines.

`wbcprof.model.discriminant` and `wbcprof.model.machines` have the formulae. C of the machines is
chosen by cross-validation, the slope from decisions to probabilities by the least log loss on folds
left out. Learning of the machines is scikit-learn's; what is learnt is plain arrays.

Beyond the profiles themselves, "discriminant" takes less than 2 GB for 100,000 of 3,072 features
and grows by 3 kB with each more: they are read a block at a time. The machines hold the products of
all pairs of profiles, about 16 n^2 bytes, 6 GB for the `MOST_FOR_MACHINES`; more are refused rather
than learnt by an approximate kernel, since the discriminant names as many nearly as well.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
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

from wbcprof.analysis.decisions import SHRINKAGE, SHRINKAGES, AllDirections, Rows
from wbcprof.analysis.folds import Split, groups_per_type, stratified_folds, together_by
from wbcprof.analysis.unlabelled import name_unlabelled
from wbcprof.checks import CALLS, Integer, check, one_known_label_each, shown
from wbcprof.images.copies import look_for_copies, number_files, warn_of_copies
from wbcprof.images.groups import groups_of, one_group_each
from wbcprof.images.source import ImageSource, open_images
from wbcprof.model.discriminant import Gaussians
from wbcprof.model.machines import (
    BLOCK,
    RULES,
    TypeMachines,
    check_profiles,
    coded_of,
    feature_names_of,
    kernel_columns,
    log_products,
    made_by_of,
)
from wbcprof.model.memory import (
    N_DIRECTIONS,
    Memory,
    between_types,
    join,
    measure_units,
    quantiles_of,
    ranges_of,
    told_by,
    types_at,
)
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles, signature_numbers
from wbcprof.model.settings import Coding
from wbcprof.smear.jitter import N_TURNS, jitter, turned
from wbcprof.smear.measures import check_measures
from wbcprof.threads import resolve_threads

__all__ = ["FewImagesWarning", "TypeClassifier", "rank_signatures", "train"]

RELATIVE_C = np.logspace(-1, 3, 9)
"""Candidates for C of the linear kernel, times the mean squared norm of standardised profiles."""

RBF_C = np.logspace(0, 3, 7)
_RELATIVE_GAMMA = 0.25
_REACH = 0.7  # of the cells left out, that are within reach
_LEAST_SCALE = 0.1  # of the median scale

MOST_FOR_MACHINES = 20_000
"""Profiles, with copies, that support vector machines are learnt from at most."""

MOST_TYPES = 64
"""Each pair of types has a decision of its own: of more, there are more weights than cells."""

_TURNED = 40_000
"""Profiles of images, turned ones among them: of more images there are enough that lie any way."""

MAX_FOLDS = 5
MIN_PER_TYPE = 2
"""Images that a type must have: one is learnt from, one left out."""
_LEAST_GROUPS = 2

_MEMORY_FOLDS = 20
_AS_GOOD = 1.02  # times the least log loss


class FewImagesWarning(UserWarning):
    """A type has too few images, or is in too few groups, for cross-validation."""


class TypeClassifier(ClassifierMixin, BaseEstimator, TypeMachines):  # type: ignore[misc]
    """Names the type of a cell from its profile, with probabilities.

    Parameters
    ----------
    kernel : {"discriminant", "rbf", "linear"}
        "discriminant" takes types for Gaussians of one covariance, shrunk towards a sphere by as
        much as names best what is left out: better than the support vector machines at home and
        in another laboratory, and it can be adapted to one (see
        `wbcprof.Model.adapt`). The others are support vector machines. "rbf" has
        gamma = 0.25 / q, where q, the mean squared norm of the standardised profiles, is the number
        of features. They take at most 20,000 profiles, copies counted.
    C : float or "auto"
        Inverse strength of regularisation on standardised profiles. "auto" takes the best
        macro-F1 in a stratified cross-validation of the training profiles (5 folds, fewer if a
        type has fewer images or is in fewer groups; the smallest of equals) over 1, 3.2, 10 ...
        1000 for "rbf", over 0.1, 0.32, 1 ... 1000 divided by q for "linear"; "discriminant" has
        none.
    random_state : int
        Seed of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_types,)
        Types, sorted.
    mean_, scale_ : ndarray of shape (n_features,), float64
        Standardisation; ``scale_`` is 1 where a feature is constant. Of "discriminant" it is a
        tenth of the median at least: what hardly varies at home must not decide elsewhere.
    support_vectors_ : ndarray of shape (n_support, n_features), float32
        Standardised profiles that the kernel is taken with; of "rbf" alone.
    gamma_ : float
        Of the kernel; 0 but for "rbf".
    coef_ : ndarray of shape (n_pairs, n_support or n_features), float64
        Weights for each pair of types, (0, 1), (0, 2) ... in order.
    intercept_ : ndarray of shape (n_pairs,), float64
    slope_ : float
        From decisions on pairs of types to log-probabilities.
    C_ : float
        The C that was used; 1 for "discriminant".
    far_ : TypeClassifier or None
        What names cells that are unlike those learnt from; of "discriminant" with copies.
    reach_ : float
        Squared Mahalanobis distance from the nearest type, beyond which it does.
    foreign_ : bool
        Whether it names all: after an adaptation to cells most of which are unlike.
    gaussians_ : wbcprof.model.discriminant.Gaussians or None
        The types as "discriminant" learnt them.
    calibrated_ : bool
        False if a type had one image or was in one group only: the slope is then 1.
    confusion_ : ndarray of shape (n_types, n_types), int64, or None
        Training cells, true types down, called types across, each called by what was learnt
        without its fold; None where nothing could be left out.
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

    def fit(
        self,
        X: Any,
        y: Any,
        groups: Any = None,
        copies: Sequence[Any] = (),
        measures: np.ndarray | None = None,
        turned: Sequence[Any] = (),
        given: np.ndarray | None = None,
    ) -> Self:
        """Learn from profiles X of shape (n_images, n_features) and their types y.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
        y : array-like of shape (n_images,)
        groups : array-like of shape (n_images,), optional
            Such as patients or slides. C is chosen, and probabilities are calibrated, on groups
            that were left out as a whole.
        copies : sequence of array-like of shape (n_images, n_features)
            Profiles of jittered copies of the same images; see `wbcprof.train`. Machines of "rbf"
            and "linear" learn from all together. "discriminant" learns from the images, `turned`
            too, what names cells like them, and from images and copies what names the others:
            those further from every type than seven in ten cells were that were left out.
        measures : ndarray of shape (n_images, len(wbcprof.smear.MEASURES)), float32, optional
            `Profiles.measures` of the images, with which "discriminant" also learns what is
            strange; see `strangeness`.
        turned : sequence of array-like of shape (n_images, n_features)
            Profiles of the same images turned and mirrored; see `wbcprof.train`. A cell lies in its
            smear as it fell: machines learn from all, "discriminant" to name the cells like them.
        given : ndarray of shape (n_images,), bool, optional
            Whose type somebody gave; that of the others was called. Those alone are left out to
            choose and to calibrate by, and counted in `confusion`.

        Raises
        ------
        ValueError
            NaN or infinity, an unknown label or group, lengths that differ, fewer than two types
            or more than 64, no more images than types, more profiles than the kernel takes, or
            profiles that are all the same.

        Warns
        -----
        FewImagesWarning
            A type has one image, or is in one group, and is left out, unless fewer than two types
            would be left: then C is not chosen (10 for "rbf", 1 for "linear"), and probabilities
            are not calibrated.

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
        self.made_by_, self.coded_ = made_by_of(X), coded_of(X)
        self.feature_names_in_ = feature_names_of(X)
        for name, other in (("copies", copies), ("turned", turned)):
            if not isinstance(other, Sequence):
                raise ValueError(
                    f"{name} must be a list of tables of profiles, each of the shape of the "
                    f"profiles, got {type(other).__name__}"
                )
        tables = [check_profiles(table) for table in (X, *turned, *copies)]
        if differs := [table.shape for table in tables if table.shape != tables[0].shape]:
            raise ValueError(
                "expected copies, jittered or turned, of the shape of the profiles "
                f"{tables[0].shape}, got {differs[0]}"
            )
        y = one_known_label_each(y, len(tables[0]), "profiles")
        if measures is not None:
            measures = check_measures(measures, len(y))
        if groups is not None:
            groups = one_group_each(groups, len(y), "profiles")
        given = np.ones(len(y), bool) if given is None else np.asarray(given)
        if given.shape != y.shape or given.dtype != bool or not given.any():
            raise ValueError(
                f"given must say True or False of each of the {len(y)} profiles, True of some, got "
                f"{shown(given)}"
            )
        rows = np.flatnonzero(of_types_with(MIN_PER_TYPE, y, groups))
        y, given = y[rows], given[rows]
        if without := sorted({*y} - {*y[given]}):
            raise ValueError(
                "expected some profiles of each type whose type was given, got none of "
                f"{without[0]!s}"
            )
        self.n_called_ = int((~given).sum())
        groups = None if groups is None else groups[rows]
        machines = self.kernel != "discriminant"
        n_near = 1 + len(turned)
        _check_sizes(y, len(tables) * len(rows), machines)
        if machines:
            with_groups = labels_with_copies(y, groups, len(tables) - 1)
            self._learn(Rows.of_each(tables, rows), *with_groups, np.tile(given, len(tables)))
            return self
        near = Rows.of_each(tables[:n_near], rows)
        places, codes, folds, left_out = self._learn(near, y, groups, given)
        if measures is not None and left_out is not None and folds:
            self.memory_ = self._learn_memory(
                places, codes, groups, given, measures[rows], left_out
            )
        if copies and folds:
            self.far_ = TypeClassifier(self.C, self.random_state)
            self.far_.made_by_ = self.far_.coded_ = self.far_.feature_names_in_ = None
            far = Rows.of_each(tables[:1] + tables[n_near:], rows)
            with_groups = labels_with_copies(y, groups, len(copies))
            self.far_._learn(far, *with_groups, np.tile(given, 1 + len(copies)))
            self.reach_ = self._find_reach(places, codes, folds)
        return self

    def _learn(
        self, profiles: Rows, y: np.ndarray, groups: np.ndarray | None, given: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, list[Split], _LeftOut | None]:
        """Learn to name types from profiles of images, of y, and of copies of the same in the same
        order; places of the images along the leading directions, the index of the type of each, the
        folds that were left out, and what tells the types of those left out. The first and the last
        are of "discriminant" alone."""
        machines = self.kernel != "discriminant"
        images = profiles.at(np.arange(len(y)))
        scaler = StandardScaler()
        for block in images:
            scaler.partial_fit(block)
        varies = scaler.var_ > 0
        if not machines and varies.any():
            least = _LEAST_SCALE * np.median(scaler.scale_[varies])
            scaler.scale_ = np.maximum(scaler.scale_, least)
        scaled = images.standardised(scaler.mean_, scaler.scale_)
        squared = (np.einsum("ij,ij->", block, block, dtype=np.float64) for block in scaled)
        squared_norm = float(sum(squared)) / len(y)
        if squared_norm == 0:
            raise ValueError(f"the {len(y)} profiles are all the same; types cannot be told apart")
        folds = self._folds(y, groups, given, MAX_FOLDS)
        classes, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
        if not folds:
            fewest = groups_per_type(y, groups)
            where = "has one image" if counts.min() == 1 else "is in too few groups"
            warnings.warn(
                f"type {classes[fewest.argmin()]!s} {where}: "
                + ("C is not chosen and " if self.C == "auto" and machines else "")
                + "probabilities are not calibrated; give at least 2 "
                + ("images of each type" if groups is None else "groups with each type"),
                FewImagesWarning,
                stacklevel=3,
            )

        self.classes_ = classes
        self.mean_, self.scale_ = scaler.mean_, scaler.scale_
        self.calibrated_ = bool(folds)
        self.n_features_in_ = len(scaler.mean_)
        self.far_, self.reach_, self.foreign_ = None, np.inf, False
        self.memory_ = self.learnt_memory_ = self.learnt_decisions_ = None
        if machines:
            self._learn_machines(np.concatenate(list(scaled)), codes, folds, squared_norm)
            return np.empty((len(y), 0)), codes, folds, None
        places = self._learn_gaussians(scaled, codes, folds)
        everything = profiles.standardised(scaler.mean_, scaler.scale_)
        return places, codes, folds, self._learn_decisions(everything, codes, folds)

    def _folds(
        self, y: np.ndarray, groups: np.ndarray | None, given: np.ndarray, most: int
    ) -> list[Split]:
        """Of the cells whose type was given; what is learnt from beside, is so in every fold."""
        if given.all():
            return stratified_folds(y, groups, most, self.random_state)
        rows = np.flatnonzero(given)
        own = np.arange(len(y)) if groups is None else groups
        folds = stratified_folds(
            y[rows], None if groups is None else own[rows], most, self.random_state
        )
        return [(np.flatnonzero(~np.isin(own, own[rows[test]])), rows[test]) for _, test in folds]

    def _learn_memory(
        self,
        at: np.ndarray,
        codes: np.ndarray,
        groups: Any,
        given: np.ndarray,
        measures: np.ndarray,
        left_out: _LeftOut,
    ) -> Memory | None:
        """p-values are told by cells that were left out of types and of decisions, as a new one;
        few at a time, lest what they were left out of be much poorer than what names the new."""
        units = measure_units(measures)
        gaussians = self.gaussians_
        assert gaussians is not None
        n_directions = min(N_DIRECTIONS, len(gaussians.basis))
        if units is None:
            return None
        places = join(at[:, :n_directions], measures, units)
        good = np.isfinite(places).all(axis=1)
        n_types = len(self.classes_)
        quantiles, known = quantiles_of(measures, codes, n_types)
        ranges = np.stack([np.zeros(n_types), np.ones(n_types)])

        def learn(rows: np.ndarray) -> Memory:
            means, whitening = types_at(places[rows], codes[rows], n_directions)
            return Memory(
                means, whitening, ranges, units, np.zeros((3, 1), np.float32), quantiles, known
            )

        distance, between = np.zeros(len(places)), np.zeros(len(places))
        nearest = codes.copy()
        folds = self._folds(codes, groups, given, _MEMORY_FOLDS)
        pairs = _pairs_of(left_out(folds))
        for train, test in folds:
            train = train[good[train]]
            if len(np.unique(codes[train])) < n_types:
                return None
            distance[test], nearest[test] = learn(train).distances(places[test])
            between[test] = between_types(log_products(self.slope_ * pairs(test), n_types))
        told = good & given
        ranges = ranges_of(distance[told], nearest[told], n_types)
        learnt = learn(np.flatnonzero(good))
        far = learnt.standing(distance[told], nearest[told])
        return replace(learnt, left_out=told_by(far, between[told]))

    def _find_reach(self, places: np.ndarray, codes: np.ndarray, folds: list[Split]) -> float:
        """Distance within which most cells that were left out lie from the nearest type."""
        gaussians = self.gaussians_
        assert gaussians is not None
        distances = []
        for train, test in folds:
            learnt = Gaussians.at(places[train], codes[train], gaussians.basis)
            distances.append(learnt.nearest_at(places[test]))
        return float(np.quantile(np.concatenate(distances), _REACH))

    def _learn_gaussians(self, scaled: Rows, codes: np.ndarray, folds: list[Split]) -> np.ndarray:
        gaussians, places = Gaussians.learn(scaled, codes)

        def learn(train: np.ndarray) -> _Decide:
            weights, intercept = Gaussians.at(places[train], codes[train], gaussians.basis).pairs()
            return lambda rows: np.asarray(places[rows] @ weights.T + intercept)

        slope = _calibrated([(learn(train), test) for train, test in folds], codes)[0]
        self.gaussians_ = replace(gaussians, slope=slope)
        self.support_vectors_ = np.empty((0, self.n_features_in_), np.float32)
        self.gamma_, self.C_ = 0.0, 1.0
        return places

    def _learn_decisions(self, scaled: Rows, codes: np.ndarray, folds: list[Split]) -> _LeftOut:
        """Of "discriminant", by all directions, with the least shrinkage of nearly the least log
        loss: what is learnt from all cells wants less than what is learnt without some."""
        directions = AllDirections(scaled, codes)
        shrinkage, self.slope_, self.confusion_ = SHRINKAGE, 1.0, None
        if folds:
            found = directions.left_out(folds, SHRINKAGES)
            tried = [
                _calibrated([(_pairs_of(scores), test) for _, test in folds], codes)
                for scores in found
            ]
            losses = np.array([loss for *_, loss in tried])
            best = int(np.argmax(losses <= _AS_GOOD * losses.min()))
            shrinkage = SHRINKAGES[best]
            self.slope_, self.confusion_, _ = tried[best]
        self.coef_, self.intercept_ = directions.machines(shrinkage)
        return lambda folds: directions.left_out(folds, [shrinkage])[0]

    def _learn_machines(
        self, scaled: np.ndarray, codes: np.ndarray, folds: list[Split], squared_norm: float
    ) -> None:
        linear = self.kernel == "linear"
        gamma = 0.0 if linear else _RELATIVE_GAMMA / squared_norm
        gram = kernel_columns(scaled, None if linear else scaled, gamma)
        if linear:
            gram = gram @ gram.T
        if self.C != "auto":
            C = float(self.C)
        elif not folds:
            C = 1.0 if linear else 10.0
        else:
            C = _choose_C(gram, codes, RELATIVE_C / squared_norm if linear else RBF_C, folds)
        svm = _svm(C).fit(gram, codes)
        weights, intercept = _pair_weights(svm)

        def learn(train: np.ndarray) -> _Decide:
            svm = _svm(C).fit(gram[np.ix_(train, train)], codes[train])
            weights, intercept = _pair_weights(svm)
            support = train[svm.support_]
            return lambda rows: np.asarray(gram[np.ix_(rows, support)] @ weights.T + intercept)

        support = scaled[svm.support_]
        self.gaussians_ = None
        self.support_vectors_, self.gamma_, self.C_ = support[:0] if linear else support, gamma, C
        self.coef_ = weights @ support.astype(np.float64) if linear else weights
        self.intercept_ = intercept
        self.slope_, self.confusion_, _ = _calibrated(
            [(learn(train), test) for train, test in folds], codes
        )

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super()._logits(X)


def train(
    model: Model,
    images: Any,
    labels: Any = None,
    *,
    groups: Any = None,
    augment: int | None = None,
    random_state: int = 0,
    n_threads: int | None = None,
) -> TypeClassifier:
    """A classifier of the types of images, learnt from them, turned and mirrored too, and from
    jittered copies.

    Parameters
    ----------
    model : Model
        Whose profiles it reads. It is not changed: ``model.classifier = wbcprof.train(...)``.
    images, labels
        As `wbcprof.images.open_images` takes them. Where a type has fewer than 50 labels, images
        without one are learnt from too, as what they are called, if labelled ones that are left out
        are then named better: ``n_called_`` of the classifier says how many; cells of a type that
        no label names are taken for one of these. Else they are left out, and so they are where
        `groups` are given.
    groups : sequence or mapping, optional
        Of each image offered, such as its patient; see `TypeClassifier.fit`. An image, its
        copies and near-identical ones are never parted.
    augment : int, optional
        Copies of each image; by default as many as the model's signatures were learnt with.
    random_state, n_threads : int

    Returns
    -------
    TypeClassifier

    Raises
    ------
    ValueError
        As `TypeClassifier.fit`, or no image has a label.

    Warns
    -----
    FewImagesWarning
        As `TypeClassifier.fit`.
    DuplicateWarning
        Images are near-identical, as `wbcprof.images.find_copies` says; they count as of one group.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(3, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=1)
    >>> print(*model.classifier.predict(model.profile(cells.images[:1])))
    lymphocyte
    """
    threads = resolve_threads(n_threads)
    source = open_images(images, labels, min_size=model.min_size)
    check_types(source.labels or ())
    if source.n_hint is None:
        held = list(source.read(threads))
        if groups is not None:
            offered = len(held) + len(source.skipped)
            groups = groups_of(
                groups, [cell.image_id for cell in held], [cell.place for cell in held], offered
            )
        source = open_images(
            [cell.pixels for cell in held],
            [cell.label for cell in held],
            min_size=model.min_size,
        )
    coding = Coding()
    cells = model.profile_source(source, coding, threads)
    names = cells.labels or [None] * len(cells)
    labelled = [index for index, name in enumerate(names) if name is not None]
    if not labelled:
        raise ValueError("a classifier is learnt from images with labels, and none has one")
    # Of cells without a label it is not known of which patient they are.
    known = labelled if groups is not None else list(range(len(cells)))
    together = None
    if groups is not None:
        ids = [cells.ids[index] for index in known]
        place = {image_id: index for index, image_id in enumerate(source.ids())}
        together = groups_of(groups, ids, [place[image_id] for image_id in ids], source.n)
    together = together_by(
        together,
        _copies_among(source, cells, known, threads),
        number_files([cells.ids[index] for index in known]),
    )
    turns, jittered = profiles_of_copies(model, source, augment, random_state, threads, coding)
    given = np.array(names, dtype=object)[known]
    called, confusion = name_unlabelled(
        [cells.values, *turns], np.array(known), given, together, random_state
    )
    some = np.flatnonzero([name is not None for name in called])
    rows = np.array(known)[some]
    classifier = TypeClassifier(random_state=random_state).fit(
        cells.at(rows.tolist()),
        called[some].tolist(),
        None if together is None else together[some],
        [copy[rows] for copy in jittered],
        None if cells.measures is None else cells.measures[rows],
        [copy[rows] for copy in turns],
        np.array([name is not None for name in given[some]]),
    )
    if confusion is not None:  # what was called beside knew of the cells that are left out
        classifier.confusion_ = confusion
    return classifier


def _copies_among(
    source: ImageSource, cells: Profiles, known: list[int], n_threads: int
) -> np.ndarray | None:
    """A number for each labelled image, the same for near-identical ones, of which a warning is;
    None where there are none."""
    found, numbers = look_for_copies(source.quietly(), n_threads)
    if found != cells.ids:
        raise RuntimeError("the images are not those that were read before; were files replaced?")
    copies: np.ndarray = numbers[known]
    names = cells.labels or []
    ids, types = [cells.ids[index] for index in known], [names[index] for index in known]
    return copies if warn_of_copies(copies, ids, types, stacklevel=3) else None


def profiles_of_copies(
    model: Model,
    source: ImageSource,
    augment: int | None,
    random_state: int,
    n_threads: int,
    coding: Coding,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Profiles of all images of a source turned and mirrored, an array of each way, as many as make
    `_TURNED` profiles at most, and of their jittered copies, an array of each round."""
    n_copies = model.parameters.get("augment", 0) if augment is None else augment
    source = source.quietly()  # what is amiss with the images was said of themselves

    def changed(before: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return model.profile_source(source, coding, n_threads, before=before).values

    n_turns = min(N_TURNS, max(1, _TURNED // max(1, source.n_hint or 0)))
    turns = [changed(partial(turned, turn=turn)) for turn in range(1, n_turns)]
    rounds = range(1, Integer(0).check("augment", n_copies) + 1)
    return turns, [changed(partial(jitter, seed=random_state, copy=copy)) for copy in rounds]


def labels_with_copies(
    labels: np.ndarray, groups: np.ndarray | None, n_copies: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels and groups of images followed by those of their copies, which are of their group."""
    if groups is None and n_copies:
        groups = np.arange(len(labels))
    n = 1 + n_copies
    return np.tile(labels, n), None if groups is None else np.tile(groups, n)


def check_types(labels: Iterable[Any]) -> None:
    """Refuse more types than can be told apart, before work; those of one image are left out."""
    counts = Counter(label for label in labels if label is not None)
    n = sum(count >= MIN_PER_TYPE for count in counts.values())
    if n > MOST_TYPES:
        raise ValueError(
            f"expected at most {MOST_TYPES} types, got {n}; are the labels types rather than names "
            "of images or patients?"
        )
    if clashing := sorted({str(label) for label in counts} & set(CALLS)):
        raise ValueError(
            f"a type must not be named {clashing[0]!r}, as cells are that have none; name it "
            "otherwise, or leave these images out"
        )


def _check_sizes(y: np.ndarray, n_profiles: int, machines: bool) -> None:
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(f"expected at least two types, got one only: {classes[0]!s}")
    if len(y) <= len(classes):
        raise ValueError(
            f"expected more images than types, got {len(y)} images of {len(classes)} types; "
            "are the labels types rather than image names?"
        )
    check_types(y.tolist())
    if machines and n_profiles > MOST_FOR_MACHINES:
        raise ValueError(
            f"support vector machines are learnt from at most {MOST_FOR_MACHINES} profiles, got "
            f"{n_profiles}; kernel='discriminant' takes any number"
        )


def _svm(C: float = 1.0) -> SVC:
    # Its seed draws nothing that is used; without one it would draw from NumPy's own state.
    return SVC(kernel="precomputed", C=C, random_state=0)


def _choose_C(gram: np.ndarray, y: np.ndarray, candidates: np.ndarray, folds: list[Split]) -> float:
    """The candidate of best macro-F1 on folds left out; the smallest of equals."""
    search = GridSearchCV(
        _svm(),
        {"C": candidates},
        scoring="f1_macro",
        cv=folds,
        refit=False,
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


def of_types_with(least: int, y: np.ndarray, groups: np.ndarray | None, of: str = "") -> np.ndarray:
    """Which images are of types with so many images, in two groups, at least, (n,) bool; a warning
    names the others. All are, where fewer than two types would be left."""
    types, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    few = (counts < least) | (groups_per_type(y, groups) < _LEAST_GROUPS)
    if not few.any() or (~few).sum() < 2:
        return np.ones(len(y), bool)
    names = ", ".join(f"{t} ({n})" for t, n in zip(types[few], counts[few], strict=True))
    warnings.warn(
        f"types left out{of}, with fewer than {least} images or in one group only: {names}",
        FewImagesWarning,
        stacklevel=3,
    )
    kept: np.ndarray = ~few[codes]
    return kept


_Decide = Callable[[np.ndarray], np.ndarray]
"""Decisions on pairs of types (n, n_pairs) of the profiles of these indices (n,)."""

_LeftOut = Callable[[list[Split]], np.ndarray]
"""How likely each type is for each cell by what was learnt without its fold, (n, n_types)."""


def _pairs_of(scores: np.ndarray) -> _Decide:
    """Decisions on pairs of types where each type has a score."""
    first, second = np.triu_indices(scores.shape[1], 1)
    return lambda rows: scores[rows][:, first] - scores[rows][:, second]


@np.errstate(under="ignore")
def _calibrated(
    learnt: list[tuple[_Decide, np.ndarray]], codes: np.ndarray
) -> tuple[float, np.ndarray | None, float]:
    """Of what was learnt without a fold, and the indices of that fold: the slope of least log loss,
    on as many cells as a block of decisions has, the confusion, and that loss. 1, None and infinity
    without folds."""
    if not learnt:
        return 1.0, None, np.inf
    n_types = codes.max() + 1
    size = BLOCK // (n_types * (n_types - 1) // 2)
    chosen = np.ones(len(codes), dtype=bool)
    if len(codes) > size:
        chosen[np.random.default_rng(0).permutation(len(codes))[size:]] = False
    rows = np.concatenate([test[chosen[test]] for _, test in learnt])
    pairs = np.concatenate([decide(test[chosen[test]]) for decide, test in learnt])

    def loss(log_slope: float) -> float:
        log_p = log_softmax(log_products(np.exp(log_slope) * pairs, n_types), axis=1)
        result: float = -log_p[np.arange(len(rows)), codes[rows]].mean()
        return result

    least = minimize_scalar(loss, bounds=(-5, 5), method="bounded")
    slope = float(np.exp(least.x))
    confusion = np.zeros((n_types, n_types), np.int64)
    for decide, test in learnt:
        for start in range(0, len(test), size):
            block = test[start : start + size]
            called = log_products(slope * decide(block), n_types).argmax(axis=1)
            np.add.at(confusion, (codes[block], called), 1)
    return slope, confusion, float(least.fun)


def rank_signatures(
    values: Any, labels: Any, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Rank signatures by how much a random forest uses them (paper: the best 256).

    Parameters
    ----------
    values : Profiles or array-like of shape (n_images, n_features)
        Names of the features of `Profiles` say which signature each is of. Of an array, each column
        is taken for a signature of its own.
    labels : array-like of shape (n_images,)
        Types. To keep a test honest, give training images only.
    random_state : int

    Returns
    -------
    order : ndarray of shape (n_signatures,), int
        Signatures from most to least important; equals keep their order.
        `wbcprof.figures.signature_mosaic` takes it.
    importance : ndarray of shape (n_signatures,), float64
        Mean decrease of Gini impurity over 500 trees, added over the pools and regions of a
        signature, in the order of the signatures; sums to 1.

    Examples
    --------
    The third of four signatures is what these two types differ in:

    >>> import numpy as np
    >>> from wbcprof.analysis import rank_signatures
    >>> labels = np.repeat(["lymphocyte", "neutrophil"], 10)
    >>> values = np.random.default_rng(0).random((20, 4))
    >>> values[labels == "neutrophil", 2] += 2
    >>> order, importance = rank_signatures(values, labels)
    >>> int(order[0]), round(float(importance.sum()), 6)
    (2, 1.0)
    """
    own = signature_numbers(getattr(values, "feature_names", []))
    values = check_profiles(values)
    labels = one_known_label_each(labels, len(values), "profiles")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"expected at least two types, got one only: {labels[0]!s}")
    forest = RandomForestClassifier(n_estimators=500, random_state=random_state)
    importance = forest.fit(values, labels).feature_importances_
    if len(own):
        importance = np.bincount(own, importance)
    return np.argsort(-importance, kind="stable"), importance
