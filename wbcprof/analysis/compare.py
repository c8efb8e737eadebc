"""What differs: signatures between types or groups, along an endpoint, and counts of one slide.

For values ``x`` of a signature in ``m`` cells of a group and ``n`` cells outside it::

    U     = #{x_in > x_out} + 1/2 #{x_in = x_out}            Mann-Whitney, two-sided p
    delta = 2 U / (m n) - 1                                  Cliff's delta, -1 to 1
    q                                                        Benjamini-Hochberg over all tests

Cells of one person are alike for reasons that are not the question's. Where `samples` are given,
the mean profile of each sample is what is tested, and the number of samples is what counts.

Columns may be lists, arrays, or columns of a table with one row per cell, such as
``table["Metadata_Label"]``. A label that is None, empty or NaN is unknown: the cell is left out.

Examples
--------
Six samples, of three patients and three controls; the second feature is larger in patients:

>>> import numpy as np
>>> from wbcprof import compare
>>> samples = np.repeat(["c1", "c2", "c3", "p1", "p2", "p3"], 20)
>>> groups = ["patient" if sample.startswith("p") else "control" for sample in samples]
>>> values = np.random.default_rng(0).random((120, 3))
>>> values[60:, 1] += 1
>>> found = compare.differential_signatures(values, groups, samples=samples)
>>> found.top("patient", 1).tolist(), found.unit
([1], 'samples')
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np

from wbcprof._shown import Shown
from wbcprof.analysis.agreement import (
    BlandAltman,
    Concordance,
    CountAgreement,
    PassingBablok,
    bland_altman,
    compare_counts,
    concordance,
    passing_bablok,
)
from wbcprof.analysis.correction import CorrectedCount, correct_count
from wbcprof.analysis.counting import (
    DifferentialCount,
    cells_needed,
    differential_count,
    exact_interval,
)
from wbcprof.checks import UNLABELLED, Choice, known_labels, label_names, numbers, sorted_types

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "Association",
    "BlandAltman",
    "Concordance",
    "CorrectedCount",
    "CountAgreement",
    "Differences",
    "DifferentialCount",
    "PassingBablok",
    "associate",
    "associate_attributes",
    "bland_altman",
    "cells_needed",
    "compare_counts",
    "concordance",
    "correct_count",
    "differential_count",
    "differential_signatures",
    "exact_interval",
    "explain_calls",
    "passing_bablok",
]

EXACT_SAMPLES, EXACT_RANK_TEST = 8, 40
COLUMNS_AT_ONCE = 128


@dataclass(frozen=True, repr=False)
class Differences(Shown):
    """Result of `differential_signatures`; arrays have shape (n_groups, n_features), float64.

    Attributes
    ----------
    groups, feature_names : list of str
    effect : ndarray
        Cliff's delta: 1 if every value in the group is above all others, -1 if below.
    difference : ndarray
        Mean in the group minus mean outside it, in units of the profile.
    p_value, q_value : ndarray
        Two-sided; q is the false-discovery rate over all tests of this result.
    n_in, n_out : list of int
        Cells, or samples if these were given, in and outside each group.
    unit : {"cells", "samples"}
    """

    groups: list[str]
    feature_names: list[str]
    effect: np.ndarray
    difference: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray
    n_in: list[int]
    n_out: list[int]
    unit: str

    def _told(self) -> dict[str, Any]:
        strongest = {
            name: ", ".join(self.feature_names[column] for column in self.top(name, 2))
            for name in self.groups[:4]
        }
        return {
            "groups": self.groups,
            "features": len(self.feature_names),
            "q below 0.05": int((self.q_value < 0.05).sum()),
            "most different": strongest,
            "unit": self.unit,
        }

    def top(self, group: str, n: int = 10) -> np.ndarray:
        """Columns of the `n` strongest effects of one group, most extreme first, (n,) int."""
        Choice(tuple(self.groups)).check("group", group)
        strength = np.abs(self.effect[self.groups.index(group)])
        return np.argsort(-strength, kind="stable")[:n]

    def to_pandas(self) -> DataFrame:
        """A `pandas.DataFrame`, one row per group and signature."""
        import pandas as pd

        n_groups, n_features = self.effect.shape
        return pd.DataFrame(
            {
                "group": np.repeat(self.groups, n_features),
                "feature": np.tile(self.feature_names, n_groups),
                "effect": self.effect.ravel(),
                "difference": self.difference.ravel(),
                "p_value": self.p_value.ravel(),
                "q_value": self.q_value.ravel(),
                f"{self.unit}_in": np.repeat(self.n_in, n_features),
                f"{self.unit}_out": np.repeat(self.n_out, n_features),
            }
        )


@dataclass(frozen=True, repr=False)
class Association(Shown):
    """Result of `associate`; arrays have shape (n_features,), float64.

    Attributes
    ----------
    feature_names : list of str
    correlation : ndarray
        Spearman's rank correlation of the sample means with the endpoint; 0 for a feature that
        is the same in all samples.
    p_value, q_value : ndarray
    samples : list of str
        Those that were used.
    left_out : list of str
        Samples of cells without an endpoint.
    """

    feature_names: list[str]
    correlation: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray
    samples: list[str]
    left_out: list[str]

    def _told(self) -> dict[str, Any]:
        strongest = np.argsort(-np.abs(self.correlation), kind="stable")[:4]
        return {
            "features": len(self.feature_names),
            "q below 0.05": int((self.q_value < 0.05).sum()),
            "strongest": {self.feature_names[i]: float(self.correlation[i]) for i in strongest},
            "samples": len(self.samples),
            "left out": len(self.left_out) or None,
        }

    def to_pandas(self) -> DataFrame:
        """A `pandas.DataFrame`, one row per feature."""
        import pandas as pd

        return pd.DataFrame(
            {
                "feature": self.feature_names,
                "correlation": self.correlation,
                "p_value": self.p_value,
                "q_value": self.q_value,
            }
        )


def differential_signatures(
    values: Any,
    groups: Iterable[Any],
    *,
    samples: Iterable[Any] | None = None,
    against: str | None = None,
    feature_names: Sequence[str] | None = None,
) -> Differences:
    """Signatures that a group of cells has more or less of: rank test, effect size, FDR.

    Parameters
    ----------
    values : Profiles or array-like of shape (n_cells, n_features)
    groups : n_cells names
        Types, or anything else that divides the cells, such as patient and control.
    samples : n_cells names, optional
        Sample that each cell is from. The test is then between mean profiles of samples (of each
        sample's cells in the group, and outside it), which is what patients need: many cells
        of few persons are not many observations.
    against : str, optional
        The group that each other one is compared with; by default each with all others together.
    feature_names : n_features names, optional
        By default those of the `Profiles`.

    Returns
    -------
    Differences

    Raises
    ------
    ValueError
        Lengths differ, values are not finite, there are fewer than two groups, or `against` is
        not one of them.

    Notes
    -----
    Without ties and with up to 40 cells or samples p is exact; beyond that it is the normal
    approximation with ties and continuity corrected. A sample with cells on both sides counts on
    both, as if independent.

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> types = np.repeat(["lymphocyte", "neutrophil"], 10)
    >>> values = np.random.default_rng(0).random((20, 3))
    >>> values[types == "neutrophil", 2] += 1
    >>> names = ["Edge", "Rim", "Granule"]
    >>> found = wbcprof.compare.differential_signatures(values, types, feature_names=names)
    >>> [names[column] for column in found.top("neutrophil", 1)]
    ['Granule']
    >>> found.groups, found.effect[:, 2].tolist()
    (['lymphocyte', 'neutrophil'], [-1.0, 1.0])
    >>> table = found.to_pandas()
    >>> table[table.q_value < 0.001].feature.unique().tolist()
    ['Granule']
    """
    from scipy.stats import false_discovery_control

    values, names, members = _table(values, feature_names, groups)
    units = None if samples is None else np.array(label_names(samples, len(values)), dtype=object)
    known = members != UNLABELLED
    if units is not None:
        known &= units != UNLABELLED
        units = units[known]
    values, members = values[known], members[known]
    found = sorted_types(members)
    if len(found) < 2:
        raise ValueError(f"expected cells of at least two groups, got {found}")
    if against is not None and against not in found:
        raise ValueError(f"against must be one of {found}, got {against!r}")

    rows = []
    tested = [name for name in found if name != against]
    for name in tested:
        inside = members == name
        outside = members == against if against is not None else ~inside
        a, b = (_means(values[cells], None if units is None else units[cells])[1]
                for cells in (inside, outside))  # fmt: skip
        rows.append((*_rank_test(a, b), a.mean(axis=0) - b.mean(axis=0), len(a), len(b)))
    effect, p_value, difference, n_in, n_out = zip(*rows, strict=True)
    p_values = np.array(p_value)
    return Differences(
        groups=tested,
        feature_names=names,
        effect=np.array(effect),
        difference=np.array(difference),
        p_value=p_values,
        q_value=false_discovery_control(p_values, axis=None).reshape(p_values.shape),
        n_in=list(n_in),
        n_out=list(n_out),
        unit="cells" if units is None else "samples",
    )


def associate(
    values: Any,
    samples: Iterable[Any],
    endpoint: Mapping[str, float],
    *,
    feature_names: Sequence[str] | None = None,
) -> Association:
    """Signatures that rise or fall with a continuous endpoint of the samples (a laboratory value,
    an age, a score).

    Spearman's correlation of each feature's mean over a sample's cells with the endpoint. Its p is
    exact, over all permutations, for up to 8 samples without ties; beyond that it is
    Student's t approximation. For an endpoint of two values, give it as `groups` to
    `differential_signatures`, with `samples`.

    Parameters
    ----------
    values : Profiles or array-like of shape (n_cells, n_features)
    samples : n_cells names
    endpoint : mapping from sample name to number
        Samples that are missing here, or NaN, are left out.
    feature_names : n_features names, optional

    Raises
    ------
    ValueError
        Fewer than 4 samples have an endpoint (no p below 0.05 would be possible), the endpoint
        is the same for all or infinite, lengths differ, or values are not finite.

    Examples
    --------
    The first feature rises with the endpoint of five samples:

    >>> import numpy as np
    >>> import wbcprof
    >>> endpoint = {"s1": 3.1, "s2": 4.0, "s3": 5.2, "s4": 6.6, "s5": 7.9}
    >>> samples = np.repeat(list(endpoint), 10)
    >>> values = np.random.default_rng(0).random((50, 2))
    >>> values[:, 0] += np.repeat(list(endpoint.values()), 10)
    >>> found = wbcprof.compare.associate(values, samples, endpoint, feature_names=["Rim", "Edge"])
    >>> round(float(found.correlation[0]), 6), round(float(found.p_value[0]), 4)
    (1.0, 0.0167)
    >>> found.to_pandas().columns.tolist()
    ['feature', 'correlation', 'p_value', 'q_value']
    """
    from scipy.stats import false_discovery_control

    values, names, units = _table(values, feature_names, samples)
    known = units != UNLABELLED
    found, means = _means(values[known], units[known])
    given: dict[str, float] = {}
    for name, value in zip(known_labels(list(endpoint)), endpoint.values(), strict=True):
        if name is None:
            continue
        if name in given and given[name] != float(value):
            raise ValueError(
                f"endpoint must name each sample once, got {given[name]:g} and {float(value):g} "
                f"for {name!r}"
            )
        given[name] = float(value)
    y = np.array([given.get(name, np.nan) for name in found])
    used = ~np.isnan(y)
    n, y = int(used.sum()), y[used]
    if n < 4:
        raise ValueError(
            f"expected an endpoint for at least 4 samples, got {n} of {len(found)}; are the keys "
            f"of endpoint sample names such as {found[0] if found else '(none)'!r}?"
        )
    if not np.isfinite(y).all() or np.ptp(y) == 0:
        raise ValueError("endpoint must be finite and differ between samples")
    correlation, p_value = _spearman(means[used], y)
    return Association(
        feature_names=names,
        correlation=correlation,
        p_value=p_value,
        q_value=false_discovery_control(p_value),
        samples=[name for name, keep in zip(found, used, strict=True) if keep],
        left_out=[name for name, keep in zip(found, used, strict=True) if not keep],
    )


def associate_attributes(
    values: Any,
    attributes: Mapping[str, Sequence[float] | np.ndarray],
    *,
    feature_names: Sequence[str] | None = None,
) -> dict[str, Association]:
    """Signatures that agree with what people note of cells: size, lobes, granules, colour.

    Spearman's correlation of each feature with each attribute over the cells of which it is known,
    as `associate` has it over samples. q is the false-discovery rate over all features and
    attributes. Cells are taken as independent: with few persons behind them, q is too small.

    Parameters
    ----------
    values : Profiles or array-like of shape (n_cells, n_features)
    attributes : mapping from name to n_cells numbers
        NaN where unknown. Of words, one attribute each, of 0 and 1, as
        `wbcprof.images.read_attributes` makes them.
    feature_names : n_features names, optional

    Returns
    -------
    dict of str to Association
        Its ``samples`` are the numbers of the cells.

    Raises
    ------
    ValueError
        An attribute is known of fewer than 4 cells, is the same in all, or lengths differ.

    Examples
    --------
    The second feature rises with the number of lobes:

    >>> import numpy as np
    >>> import wbcprof
    >>> lobes = np.repeat([1, 2, 3, 4], 10)
    >>> values = np.random.default_rng(0).random((40, 3))
    >>> values[:, 1] += lobes
    >>> found = wbcprof.compare.associate_attributes(values, {"lobes": lobes})
    >>> bool(found["lobes"].correlation[1] > 0.9), bool(found["lobes"].q_value[1] < 1e-6)
    (True, True)
    """
    from scipy.stats import false_discovery_control

    values, names, _ = _table(values, feature_names, None)
    found = {}
    for attribute, given in attributes.items():
        y = np.asarray(given, dtype=np.float64)
        if y.shape != (len(values),):
            raise ValueError(
                f"Length of attribute {attribute!r} ({y.size}) must match number of cells "
                f"({len(values)})"
            )
        used = ~np.isnan(y)
        if used.sum() < 4 or not np.isfinite(y[used]).all() or np.ptp(y[used]) == 0:
            raise ValueError(
                f"attribute {attribute!r} must be known of at least 4 cells, finite, and differ "
                f"between them, got {int(used.sum())} cells, {len(set(y[used].tolist()))} values, "
                f"{int(np.isinf(y).sum())} of the cells infinite"
            )
        found[attribute] = (*_spearman(values[used], y[used]), used)
    if not found:
        raise ValueError("expected at least one attribute, got none")
    p_values = np.array([p_value for _, p_value, _ in found.values()])
    q_values = false_discovery_control(p_values, axis=None).reshape(p_values.shape)
    return {
        attribute: Association(
            feature_names=names,
            correlation=correlation,
            p_value=p_value,
            q_value=q_value,
            samples=[str(i) for i in np.flatnonzero(used)],
            left_out=[str(i) for i in np.flatnonzero(~used)],
        )
        for (attribute, (correlation, p_value, used)), q_value in zip(
            found.items(), q_values, strict=True
        )
    }


def explain_calls(classifier: Any, values: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each feature adds to a call: what the called type's margin over its nearest rival would
    lose if that feature alone were as in the average training cell.

    Parameters
    ----------
    classifier : fitted `wbcprof.TypeClassifier`
    values : array-like of shape (n_cells, n_features)

    Returns
    -------
    called, rival : ndarray of shape (n_cells,), int
        Indices into ``classifier.classes_``: the largest and second largest decision.
    contribution : ndarray of shape (n_cells, n_features), float64
        In units of the margin of that pair of types, positive towards the call. With a linear
        kernel this is ``w (x - mean) / scale``, and its sum and the intercept are the cell's
        distance from the plane; with the RBF kernel features act together, and it has no such sum.

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> types = np.repeat(["lymphocyte", "neutrophil"], 10)
    >>> values = np.random.default_rng(0).random((20, 3))
    >>> values[types == "neutrophil", 2] += 2
    >>> classifier = wbcprof.TypeClassifier().fit(values, types)
    >>> called, rival, contribution = wbcprof.compare.explain_calls(classifier, values)
    >>> print(classifier.classes_[called[-1]], "because of feature", contribution[-1].argmax())
    neutrophil because of feature 2
    """
    if classifier.far_ is not None:
        far, values = classifier.is_far(values), np.asarray(values, np.float64)
        near = copy(classifier)
        near.far_ = None
        called, rival = np.empty((2, len(values)), dtype=np.intp)
        contribution = np.empty(values.shape)
        for rows, machines in ((~far, near), (far, classifier.far_)):
            if rows.any():
                called[rows], rival[rows], contribution[rows] = explain_calls(
                    machines, values[rows]
                )
        return called, rival, contribution
    decision = classifier.decision_function(values)
    x = (np.asarray(values, np.float64) - classifier.mean_) / classifier.scale_
    if decision.ndim == 1:
        decision = np.column_stack([-decision, decision])
    order = np.argsort(-decision, axis=1, kind="stable")
    called, rival = order[:, 0], order[:, 1]
    n_types = len(classifier.classes_)
    pair = np.zeros((n_types, n_types), dtype=int)
    first, second = np.triu_indices(n_types, 1)
    pair[first, second] = pair[second, first] = np.arange(len(first))
    weights = np.where(called < rival, 1, -1)[:, None] * classifier.coef_[pair[called, rival]]
    if not classifier.gamma_:
        return called, rival, weights * x
    contribution = np.empty_like(x)
    support = classifier.support_vectors_
    for cell, w, out in zip(x.astype(np.float32), weights, contribution, strict=True):
        apart = (cell - support) ** 2
        distance = apart.sum(axis=1)
        # With feature j at the mean, 0, the distance is that of the others and of 0.
        others = np.maximum(distance[:, None] - apart, 0) + support**2
        with np.errstate(under="ignore"):
            kernel = np.exp(-classifier.gamma_ * distance)
            out[:] = w @ kernel - w @ np.exp(-np.float32(classifier.gamma_) * others)
    return called, rival, contribution


def _table(
    values: Any, names: Sequence[str] | None, labels: Iterable[Any] | None
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Values, the names of their columns, and one name per row, checked."""
    if names is None:
        names = getattr(values, "feature_names", None)
    values = numbers(values, "values")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"values must have shape (cells, features), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite; found NaN or infinity")
    if names is None:
        names = [f"feature_{i:04d}" for i in range(1, values.shape[1] + 1)]
    if len(names) != values.shape[1]:
        raise ValueError(
            f"Length of feature_names ({len(names)}) must match number of features "
            f"({values.shape[1]})"
        )
    return values, list(names), np.array(label_names(labels, len(values)), dtype=object)


def _means(values: np.ndarray, units: np.ndarray | None) -> tuple[list[str], np.ndarray]:
    """Samples and the mean profile of each; without samples, the cells themselves."""
    if units is None:
        return [], values
    found, index, count = np.unique(units.astype(str), return_inverse=True, return_counts=True)
    sums = np.zeros((len(found), values.shape[1]))
    np.add.at(sums, index, values)
    means = sums / count[:, None]
    # What differs by the rounding of sums alone has one rank.
    least = 2.0**-40 * np.abs(values).max(axis=0, initial=0)
    return found.tolist(), np.rint(means / np.where(least > 0, least, 1)) * least


def _rank_test(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cliff's delta and two-sided Mann-Whitney p of each column."""
    from scipy.stats import mannwhitneyu

    both = np.sort(np.concatenate([a, b]), axis=0)
    effect, p_value = np.zeros(a.shape[1]), np.ones(a.shape[1])
    exact = (np.diff(both, axis=0) > 0).all(axis=0) & (len(both) <= EXACT_RANK_TEST)
    varies = both[0] < both[-1]
    for method, chosen in (("exact", exact), ("asymptotic", varies & ~exact)):
        chosen = np.flatnonzero(chosen)
        for columns in np.split(chosen, range(COLUMNS_AT_ONCE, len(chosen), COLUMNS_AT_ONCE)):
            if len(columns):
                result = mannwhitneyu(a[:, columns], b[:, columns], method=method)
                effect[columns] = 2 * result.statistic / (len(a) * len(b)) - 1
                p_value[columns] = result.pvalue
    return effect, p_value


def _spearman(means: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank correlation of each column with y, and its two-sided p."""
    from scipy.special import stdtr
    from scipy.stats import rankdata

    n = len(y)

    def standard(ranks: np.ndarray) -> np.ndarray:
        centred = ranks - ranks.mean(axis=0)
        norm = np.sqrt((centred**2).sum(axis=0))
        result: np.ndarray = centred / np.where(norm > 0, norm, 1)
        return result

    y = standard(rankdata(y))
    columns = [slice(at, at + COLUMNS_AT_ONCE) for at in range(0, means.shape[1], COLUMNS_AT_ONCE)]
    ranks = (standard(rankdata(means[:, part], axis=0)) for part in columns)
    correlation = np.clip(np.concatenate([y @ x for x in ranks]), -1, 1)
    if n > EXACT_SAMPLES:
        t = np.abs(correlation) * np.sqrt((n - 2) / np.maximum(1 - correlation**2, 1e-30))
        return correlation, np.maximum(2 * stdtr(n - 2, -t), 2 / factorial(n))
    shuffled = np.array(list(permutations(y)))
    p_value = np.empty(means.shape[1])
    for part in columns:
        x = standard(rankdata(means[:, part], axis=0))
        p_value[part] = (np.abs(shuffled @ x) >= np.abs(correlation[part]) - 1e-12).mean(0)
    return correlation, p_value
