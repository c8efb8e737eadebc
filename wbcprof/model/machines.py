"""Naming types: decisions between pairs of types as arrays, at work with NumPy alone.

On standardised profiles x^ = (x - mean) / scale, for types i < j::

    d_ij = w_ij . phi(x^) + b_ij     phi(x^) = x^ (discriminant, linear), or of the support vectors
                                     s exp(-gamma ||x^ - s||^2) (rbf); d_ij >= 0 speaks for i,
                                     d_ji = -d_ij
    p_i ~ product over j of 1 / (1 + exp(-slope d_ij))

The type named is the most probable one. `wbcprof.TypeClassifier` learns them.
"""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any, NamedTuple, Self

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import CALLS, Choice, Flag, Integer, Maybe, NamedOr, Real, numbers, shown
from wbcprof.model.arrays import check_arrays, prefixed, under
from wbcprof.model.discriminant import Gaussians, products, shares
from wbcprof.model.memory import FIELDS, Memory, Strangeness, between_types
from wbcprof.smear.measures import check_measures

RULES = {"C": NamedOr("auto", Real(above=0)), "kernel": Choice(("discriminant", "rbf", "linear"))}
"""What the parameters of a classifier may be."""

BLOCK = 1 << 23
"""Values that are held in double precision at once."""

_FAR = "far."
_LEARNT = "learnt."
_MEMORY, _LEARNT_MEMORY = "memory.", "learnt_memory."
_GAUSSIANS = ("basis", "means", "covariance")
_LOOSEST = 0.01  # tolerance of profiles that types are named from
_CODED = ("step", "inference", "tolerance")  # what of `Model.metadata` types depend on
_ARRAYS = ("mean", "scale", "support_vectors", "coef", "intercept")
_VALUES = ("classes", "kernel", "C", "random_state", "C_used", "gamma", "slope", "calibrated")
_MOST_CHARACTERS = 1 << 20  # of the names of the types: their number times the longest


class Decisions(NamedTuple):
    """What pairs of types are decided by."""

    coef: np.ndarray
    intercept: np.ndarray
    slope: float


class TypeMachines(Shown):
    """What `wbcprof.TypeClassifier` learnt, which holds its parameters and attributes.

    A model that was read from a file has these: they name types, and need no scikit-learn.
    """

    classes_: np.ndarray
    mean_: np.ndarray
    scale_: np.ndarray
    support_vectors_: np.ndarray
    gamma_: float
    coef_: np.ndarray
    intercept_: np.ndarray
    slope_: float
    C_: float
    calibrated_: bool
    n_features_in_: int
    gaussians_: Gaussians | None
    far_: TypeMachines | None
    reach_: float
    foreign_: bool
    memory_: Memory | None
    learnt_memory_: Memory | None  # of machines that were adapted
    learnt_decisions_: Decisions | None  # of those adapted themselves, or of older files
    confusion_: np.ndarray | None
    n_called_: int = 0  # cells learnt from whose type nobody gave
    made_by_: str | None  # fingerprint of the model whose profiles they name, if known
    coded_: dict[str, Any] | None  # what those profiles say of their coding, where they say it
    feature_names_in_: np.ndarray | None  # where they had names

    def __init__(
        self, C: float | str = "auto", random_state: int = 0, *, kernel: str = "discriminant"
    ) -> None:
        self.C = C
        self.random_state = random_state
        self.kernel = kernel

    def _told(self) -> dict[str, Any]:
        confusion = self.confusion
        right = None if confusion is None else confusion.trace() / max(1, confusion.sum())
        return {
            "types": self.classes_.tolist(),
            "kernel": self.kernel,
            "features": self.n_features_in_,
            "learnt from cells without a label": self.n_called_ or None,
            "named rightly of cells left out": None if right is None else f"{right:.1%}",
            "which cells are strange": "cannot tell" if self.memory_ is None else "can tell",
        }

    def _logits(self, X: Any) -> np.ndarray:
        X = self._checked(X)
        return np.concatenate([self._logits_of(X[rows]) for rows in _blocks(X)])

    def _logits_of(self, X: np.ndarray) -> np.ndarray:
        scaled = self._scaled(X)
        if self.far_ is None:
            return self._near_logits(scaled)
        far = self.foreign_ | self._is_beyond(scaled)
        logits = np.empty((len(scaled), len(self.classes_)))
        if not far.all():
            logits[~far] = self._near_logits(scaled[~far])
        if far.any():
            logits[far] = self.far_._logits_of(X[far])
        return logits

    def _near_logits(self, scaled: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            columns = kernel_columns(
                scaled, self.support_vectors_ if self.gamma_ else None, self.gamma_
            )
            pairs = self.slope_ * (products(columns, self.coef_) + self.intercept_)
        if not np.isfinite(pairs).all():
            raise ValueError(
                "the classifier's decisions overflow; the profiles or the model file may be damaged"
            )
        return log_products(pairs, len(self.classes_))

    def strangeness(self, X: Any, measures: np.ndarray | None) -> Strangeness:
        """How unlike those learnt from, or adapted to, cells are.

        Parameters
        ----------
        X : array-like of shape (n_images, n_features)
            Profiles.
        measures : ndarray of shape (n_images, len(MEASURES)), float32
            `Profiles.measures` of the same images.

        Raises
        ------
        ValueError
            The machines have no memory, or the profiles no measures: it cannot be known.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> known = make_leukocytes(60, size=72, types=["lymphocyte", "neutrophil"])  # generated
        >>> model = wbcprof.fit(known.images[::4], n_signatures=16, n_patches=800, max_iter=1)
        >>> classifier = wbcprof.train(model, known.images, known.labels, augment=0)
        >>> new = make_leukocytes(5, size=72, types=["eosinophil"], random_state=1).images
        >>> profiles = model.profile(new)
        >>> classifier.strangeness(profiles, profiles.measures).p.shape
        (5,)
        """
        if self.memory_ is None or self.gaussians_ is None:
            raise ValueError(
                "whether a cell is strange cannot be known: the model has no memory, since it is "
                "older, or was learnt from or adapted to too few cells, or without measures; "
                "learn its classifier again with wbcprof.train, or adapt it to 20 cells or more"
            )
        if measures is None:
            raise ValueError(
                "whether a cell is strange cannot be known: the profiles come without measures; "
                "profile the images again"
            )
        strange = self.name(X, measures)[1]
        assert strange is not None
        return strange

    def name(self, X: Any, measures: np.ndarray | None) -> tuple[np.ndarray, Strangeness | None]:
        """`predict_proba` and, where it can be known, `strangeness`, of profiles that are
        standardised once."""
        X = self._checked(X)
        if self.memory_ is None or measures is None:
            return shares(self._logits(X)), None
        measures = check_measures(measures, len(X))
        found = [self._name(X[rows], measures[rows], self.memory_) for rows in _blocks(X)]
        logits, *strange = map(np.concatenate, zip(*found, strict=True))
        return shares(logits), Strangeness(*strange)

    def _name(self, X: np.ndarray, measures: np.ndarray, memory: Memory) -> tuple[np.ndarray, ...]:
        """Logits, and the fields of `Strangeness`, whose v is by the near machines, or of foreign
        cells by those that name them."""
        scaled = self._scaled(X)
        if self.foreign_ and self.far_ is not None:
            logits = near = self.far_._logits_of(X)
        else:
            logits = near = self._near_logits(scaled)
            if self.far_ is not None and (far := self._is_beyond(scaled)).any():
                logits = near.copy()
                logits[far] = self.far_._logits_of(X[far])
        places = memory.places(self._directions(scaled, memory), measures)
        return logits, *memory.strangeness(places, between_types(near))

    def _directions(self, scaled: np.ndarray, memory: Memory) -> np.ndarray:
        """Leading directions of standardised profiles, which a memory reads."""
        assert self.gaussians_ is not None
        return self.gaussians_.places(scaled, memory.n_directions)

    @property
    def confusion(self) -> np.ndarray | None:
        """Cells that were left out while learning, true types down, called types across, (n_types,
        n_types), int64; of a laboratory whose cells are unlike those learnt from, jittered copies
        too. None where it is not known, as in older files.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> types = np.repeat(["lymphocyte", "neutrophil"], 10)
        >>> values = np.random.default_rng(0).random((20, 3))
        >>> values[types == "neutrophil", 2] += 2
        >>> wbcprof.TypeClassifier().fit(values, types).confusion.tolist()
        [[10, 0], [0, 10]]
        """
        return self.confusion_ if self.far_ is None or not self.foreign_ else self.far_.confusion

    def is_far(self, X: Any) -> np.ndarray:
        """Which profiles are unlike those learnt from, (n_images,) bool, and named by `far_`: those
        further than `reach_` from every type, or all of a laboratory adapted to that was so."""
        return self.foreign_ | self._is_beyond(self.standardise(X))

    def _is_beyond(self, scaled: np.ndarray) -> np.ndarray:
        """Which standardised profiles are beyond `reach_` of every type, (n_images,) bool."""
        if self.far_ is None or self.gaussians_ is None:
            return np.zeros(len(scaled), dtype=bool)
        result: np.ndarray = ~(self.gaussians_.nearest(scaled) <= self.reach_)
        return result

    def adapted(
        self, X: Any, codes: np.ndarray | None, measures: np.ndarray | None = None
    ) -> tuple[TypeMachines, float]:
        """These machines for the laboratory of profiles X, and how far it is from that learnt from,
        in standard deviations of cells about the mean of their type. `measures` are those of the
        same images; without them the machines know no more what is strange.

        The machines that name far cells are adapted, where there are such, else these. They name
        all cells of a laboratory most of whose cells are far. Cells without labels move the
        decisions along the leading directions; with labels the types are learnt there anew.
        """
        base = self if self.far_ is None else self.far_
        if base.gaussians_ is None:
            raise ValueError(
                f"only kernel 'discriminant' can be adapted, got {base.kernel!r}; "
                "wbcprof.train learns it"
            )
        places = base.gaussians_.places(base.standardise(X))
        gaussians, shift = base.gaussians_.adapted(places, codes)
        other = copy(self) if self.far_ is None else copy(self.far_)
        learnt = other.learnt_decisions_ = base.learnt_decisions_ or base._decisions
        if codes is None or (codes < 0).all():
            there_by = learnt.coef @ (base.gaussians_.basis.T @ shift)
            other._decisions = learnt._replace(intercept=learnt.intercept - there_by)
        else:
            other._decisions = Decisions(*gaussians.machines(), gaussians.slope)
        apart = base.gaussians_.distance(shift)
        if self.far_ is None:
            there = other
        else:
            there = copy(self)
            there.far_ = other
            there.foreign_ = bool(self._is_beyond(self.standardise(X)).mean() > 0.5)
        if self.memory_ is not None:
            there.learnt_memory_ = self.learnt_memory_ or self.memory_
            there.memory_ = there._new_memory(X, measures)
        return there, apart

    def _new_memory(self, X: Any, measures: np.ndarray | None) -> Memory | None:
        """Of the laboratory of profiles X, for these machines, which were adapted to it."""
        learnt = self.learnt_memory_
        if measures is None or learnt is None:
            return None
        measures = check_measures(measures, len(X))
        scaled = self.standardise(X)
        logits = self._logits(X) if self.foreign_ else self._near_logits(scaled)
        directions = self._directions(scaled, learnt)
        return learnt.adapted(directions, measures, shares(logits), between_types(logits))

    def unadapted(self) -> Self:
        """These machines as they were learnt."""
        other = copy(self)
        if other.learnt_memory_ is not None:
            other.memory_, other.learnt_memory_ = other.learnt_memory_, None
        if other.far_ is not None:
            other.far_, other.foreign_ = other.far_.unadapted(), False
        if other.learnt_decisions_ is not None:
            other._decisions, other.learnt_decisions_ = other.learnt_decisions_, None
        return other

    @property
    def _decisions(self) -> Decisions:
        return Decisions(self.coef_, self.intercept_, self.slope_)

    @_decisions.setter
    def _decisions(self, decisions: Decisions) -> None:
        self.coef_, self.intercept_, self.slope_ = decisions

    def standardise(self, X: Any) -> np.ndarray:
        """Profiles (n_images, n_features) less the mean of the training profiles, over their
        spread."""
        return self._scaled(self._checked(X))

    def _scaled(self, X: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled: np.ndarray = (X - self.mean_) / self.scale_
        return scaled

    def _checked(self, X: Any) -> np.ndarray:
        """Profiles of the model whose profiles these machines name."""
        made_by = made_by_of(X)
        if None not in (made_by, self.made_by_) and made_by != self.made_by_:
            raise ValueError(
                f"the profiles are of the model {made_by}, the classifier names those of "
                f"{self.made_by_}; profile the images with that model"
            )
        said, learnt_from = getattr(X, "metadata", {}) if made_by else {}, self.coded_ or {}
        loosest = max(_LOOSEST, learnt_from.get("tolerance", 0))
        if (given := said.get("tolerance", 0)) > loosest:
            raise ValueError(
                f"the profiles were made with a tolerance of {given:g}, and at most {loosest:g} "
                "leaves types as they are; profile the images with less, or with none"
            )
        for name, value in learnt_from.items():
            if name != "tolerance" and said.get(name, value) != value:
                raise ValueError(
                    f"the profiles are coded otherwise than those learnt from: {name} "
                    f"{said[name]!r} rather than {value!r}; profile the images again, or learn "
                    "the classifier from such profiles"
                )
        learnt = self.feature_names_in_
        given = getattr(X, "feature_names", None)
        same = learnt is None or (isinstance(given, list) and given == learnt.tolist())
        names = None if same else feature_names_of(X)  # one by one
        X = check_profiles(X)
        if (
            names is not None
            and learnt is not None
            and len(names) == len(learnt)
            and (names != learnt).any()
        ):
            at = int(np.argmax(names != learnt))
            raise ValueError(
                f"the features must be those learnt from, in their order, got {names[at]!r} rather "
                f"than {learnt[at]!r} in column {at}; profile the images with the model, or put "
                "the columns in the order of feature_names_in_"
            )
        if X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"Number of features ({X.shape[1]}) must match that of the training profiles "
                f"({self.n_features_in_})"
            )
        checked: np.ndarray = X
        return checked

    def decision_function(self, X: Any) -> np.ndarray:
        """Unnormalised log-probability of each type.

        Returns
        -------
        ndarray of shape (n_images, n_types), or (n_images,) if there are two types
            Of two types, the second's minus the first's.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> values = np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.9]])
        >>> types = ["lymphocyte", "lymphocyte", "neutrophil", "neutrophil"]
        >>> classifier = wbcprof.TypeClassifier(C=1.0).fit(values, types)
        >>> (classifier.decision_function(values) > 0).tolist()  # the second type, "neutrophil"
        [False, False, True, True]
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """The most probable type of each profile, shape (n_images,).

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> values = np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.9]])
        >>> types = ["lymphocyte", "lymphocyte", "neutrophil", "neutrophil"]
        >>> classifier = wbcprof.TypeClassifier(C=1.0).fit(values, types)
        >>> print(*classifier.predict([[0.8, 0.2], [0.2, 0.7]]))
        lymphocyte neutrophil
        """
        most_probable = self._logits(X).argmax(axis=1)
        named: np.ndarray = self.classes_[most_probable]
        return named

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each type, shape (n_images, n_types), in the order of ``classes_``.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> values = np.array([[1.0, 0.1], [0.9, 0.0], [0.1, 1.0], [0.0, 0.9]])
        >>> types = ["lymphocyte", "lymphocyte", "neutrophil", "neutrophil"]
        >>> classifier = wbcprof.TypeClassifier(C=1.0).fit(values, types)
        >>> probability = classifier.predict_proba([[0.8, 0.2], [0.2, 0.7]])
        >>> probability.sum(axis=1).round(6).tolist()
        [1.0, 1.0]
        >>> print(*classifier.classes_[probability.argmax(axis=1)])
        lymphocyte neutrophil
        """
        return shares(self._logits(X))

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """For a file: the arrays learnt, and types and settings that JSON can hold."""
        arrays = {name: getattr(self, f"{name}_") for name in _ARRAYS}
        if self.gaussians_ is not None:
            arrays |= {name: getattr(self.gaussians_, name) for name in _GAUSSIANS}
        learnt_slope = None
        if self.learnt_decisions_ is not None:
            coef, intercept, learnt_slope = self.learnt_decisions_
            arrays |= prefixed(_LEARNT, {"coef": coef, "intercept": intercept})
        far = None
        if self.far_ is not None:
            own, values = self.far_.to_arrays()
            arrays |= prefixed(_FAR, own)
            far = {"machines": values, "reach": self.reach_, "foreign": self.foreign_}
        for prefix, memory in self._memorys().items():
            if memory is not None:
                arrays |= prefixed(prefix, {name: getattr(memory, name) for name in FIELDS})
        return arrays, {
            "classes": self.classes_.tolist(),
            "kernel": self.kernel,
            "C": self.C,
            "random_state": self.random_state,
            "C_used": self.C_,
            "gamma": self.gamma_,
            "slope": self.slope_,
            "learnt_slope": learnt_slope,
            "gaussians_slope": None if self.gaussians_ is None else self.gaussians_.slope,
            "calibrated": self.calibrated_,
            "made_by": self.made_by_,
            "n_called": self.n_called_,
            "confusion": None if self.confusion_ is None else self.confusion_.tolist(),
            "far": far,
        }

    def _memorys(self) -> dict[str, Memory | None]:
        return {_MEMORY: self.memory_, _LEARNT_MEMORY: self.learnt_memory_}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], document: dict[str, Any]) -> Self:
        """The machines whose `to_arrays` gave these.

        Raises
        ------
        ValueError, KeyError, TypeError
            An array or value is missing, of another shape or type, or out of range.
        """
        missing = [name for name in _ARRAYS if name not in arrays]
        missing += [name for name in _VALUES if name not in document]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        classes = document["classes"]
        if not isinstance(classes, list):
            raise ValueError(f"classes is {shown(classes)}")
        kinds = {type(name) for name in classes}
        if len(classes) < 2 or kinds not in ({str}, {int}, {float}):
            raise ValueError(f"expected two or more types, got {shown(classes)}")
        if len(classes) * max(len(str(name)) for name in classes) > _MOST_CHARACTERS:
            raise ValueError("the names of the types are longer than they may be")
        if clashing := sorted(set(CALLS) & set(classes)):
            raise ValueError(f"a type is named {clashing[0]!r}, as cells are that have none")
        if sorted(set(classes)) != classes:
            raise ValueError(f"types are not sorted and unique: {shown(classes)}")
        kernel = RULES["kernel"].check("kernel", document["kernel"])
        linear = kernel != "rbf"
        gamma = (Real(least=0, most=0) if linear else Real(above=0)).check(
            f"gamma of the {kernel} kernel", document["gamma"]
        )
        slope = Real(above=0).check("slope", document["slope"])
        learnt_slope = Maybe(Real(above=0)).check("learnt_slope", document.get("learnt_slope"))
        C = RULES["C"].check("C", document["C"])
        seed = Maybe(Integer(0)).check("random_state", document["random_state"])
        machines = cls(C, seed, kernel=kernel)

        n_pairs = len(classes) * (len(classes) - 1) // 2
        n_features = arrays["mean"].size
        n_support = 0 if linear else len(arrays["support_vectors"])
        check_arrays(arrays, {"support_vectors": (n_support, n_features)})
        decisions = {
            "coef": (n_pairs, n_features if linear else n_support),
            "intercept": (n_pairs,),
        }
        units = {"mean": (n_features,), "scale": (n_features,)}
        check_arrays(arrays, units | decisions, np.float64)
        if not (arrays["scale"] > 0).all():
            raise ValueError("scale holds values that are not positive")
        machines.made_by_ = document.get("made_by")
        machines.n_called_ = Integer(0).check("n_called", document.get("n_called", 0))
        machines.coded_ = machines.feature_names_in_ = None  # the model's, which has them
        confusion = document.get("confusion")  # older files have none
        machines.confusion_ = None if confusion is None else _read_confusion(confusion, classes)
        for name in _ARRAYS:
            setattr(machines, f"{name}_", arrays[name])
        machines.gaussians_ = machines.learnt_decisions_ = None
        if kernel == "discriminant":
            own_slope = document.get("gaussians_slope")  # older machines decide by their Gaussians
            machines.gaussians_ = gaussians = Gaussians.from_arrays(
                arrays,
                len(classes),
                n_features,
                slope if own_slope is None else Real(above=0).check("gaussians_slope", own_slope),
            )
            if own_slope is None:
                machines.learnt_decisions_ = Decisions(*gaussians.machines(), slope)
        if learnt_slope is not None:
            learnt = under(_LEARNT, arrays)
            check_arrays(learnt, decisions, np.float64)
            machines.learnt_decisions_ = Decisions(
                learnt["coef"], learnt["intercept"], learnt_slope
            )
        machines.memory_, machines.learnt_memory_ = (
            Memory.from_arrays(found, len(classes)) if found else None
            for found in (under(prefix, arrays) for prefix in (_MEMORY, _LEARNT_MEMORY))
        )
        machines.far_, machines.reach_, machines.foreign_ = None, np.inf, False
        if (far := document.get("far")) is not None:
            machines.far_ = cls.from_arrays(under(_FAR, arrays), far["machines"])
            machines.reach_ = Real(least=0).check("reach", far["reach"])
            machines.foreign_ = Flag().check("foreign", far["foreign"])
            same = machines.far_.classes_.tolist() == classes
            if (
                machines.gaussians_ is None
                or machines.far_.n_features_in_ != n_features
                or not same
            ):
                raise ValueError("the machines of far cells do not fit the others")
        machines.classes_ = np.array(classes)
        machines.C_ = Real(above=0).check("C_used", document["C_used"])
        machines.gamma_, machines.slope_ = gamma, slope
        machines.calibrated_ = Flag().check("calibrated", document["calibrated"])
        machines.n_features_in_ = n_features
        return machines


def _read_confusion(rows: list[list[int]], classes: list[Any]) -> np.ndarray:
    if [len(row) for row in rows] != [len(classes)] * len(classes):
        raise ValueError(f"confusion must have a row and a column of each of {len(classes)} types")
    for count in (count for row in rows for count in row):
        Integer(0).check("confusion", count)
    return np.array(rows, np.int64)


@np.errstate(under="ignore")
def kernel_columns(scaled: np.ndarray, support: np.ndarray | None, gamma: float) -> np.ndarray:
    """phi of standardised profiles: themselves if there is no `support`."""
    scaled = scaled.astype(np.float64, copy=False)
    if support is None:
        return scaled
    support = support.astype(np.float64)
    columns: np.ndarray = scaled @ support.T
    columns *= -2
    columns += (scaled**2).sum(axis=1)[:, None] + (support**2).sum(axis=1)
    np.maximum(columns, 0, out=columns)
    columns *= -gamma
    np.exp(columns, out=columns)
    return columns


@np.errstate(under="ignore")
def log_products(pairs: np.ndarray, n_types: int) -> np.ndarray:
    """Sum over j of -log(1 + exp(-d_ij)), (n, n_types), from decisions on pairs (n, n_pairs)."""
    first, second = _members(n_types)
    for_second = np.logaddexp(0, pairs)
    logits: np.ndarray = (pairs - for_second) @ first - for_second @ second
    return logits


@cache
def _members(n_types: int) -> tuple[np.ndarray, np.ndarray]:
    """Which type is the first, and the second, of each pair: (n_pairs, n_types) of 0 and 1."""
    first, second = np.triu_indices(n_types, 1)
    return np.eye(n_types)[first], np.eye(n_types)[second]


def made_by_of(profiles: Any) -> str | None:
    """Fingerprint of the model that made profiles, where they say so."""
    metadata = getattr(profiles, "metadata", None)
    return metadata.get("model") if isinstance(metadata, dict) else None


def coded_of(profiles: Any) -> dict[str, Any] | None:
    """How a model coded profiles, where they say so."""
    if made_by_of(profiles) is None:
        return None
    return {name: profiles.metadata[name] for name in _CODED if name in profiles.metadata}


def feature_names_of(X: Any) -> np.ndarray | None:
    """Names of the columns of profiles or of a table whose columns all have one, as objects."""
    names = getattr(X, "feature_names", getattr(X, "columns", None))
    if names is None or not all(isinstance(name, str) for name in names):
        return None
    return np.array(list(names), dtype=object)


def _blocks(X: np.ndarray) -> list[slice]:
    """Rows of profiles that are worked on at once."""
    size = max(1, BLOCK // X.shape[1])
    return [slice(start, start + size) for start in range(0, len(X), size)]


def check_profiles(values: Any) -> np.ndarray:
    """Profiles (n_images, n_features), float32 as they are, else float64.

    Raises
    ------
    ValueError
        Another shape, none, or NaN or infinity.
    """
    values = numbers(values, "profiles", None)
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    if values.ndim == 2 and not len(values):
        raise ValueError("expected profiles of one image or more, got none")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"expected profiles (n_images, n_features), got shape {values.shape}")
    sizes = np.maximum(np.abs(values.min(axis=1)), np.abs(values.max(axis=1)))
    bad = np.flatnonzero(~np.isfinite(sizes))
    if bad.size:
        raise ValueError(
            f"expected finite profiles, got NaN or infinity in {bad.size} of {len(values)}, "
            f"first in profile {bad[0]}"
        )
    result: np.ndarray = values
    return result
