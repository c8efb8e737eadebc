"""Tables and words of a report: scores, counts, signatures that mark a type, methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from wbcprof.analysis.compare import (
    DifferentialCount,
    associate_attributes,
    differential_count,
    differential_signatures,
)
from wbcprof.analysis.evaluation import evaluation_metrics
from wbcprof.analysis.figures import DASH
from wbcprof.checks import UNLABELLED, sorted_types
from wbcprof.report.calls import Subject

_TABLE_SAMPLES, _TABLE_TYPES = 50, 16
_MARKS = 5  # signatures that mark a type, of each
_MOST_ATTRIBUTES, _LEAST_KNOWN = 30, 20  # shown; cells of which one must be known
_LARGEST_Q = 0.01  # of a signature that agrees with an attribute


def scores(subject: Subject) -> list[dict[str, str]]:
    """Rows of the table of scores: over all scored cells, the spread over folds."""
    labels, call_names, called = subject.labels, subject.names, subject.calls
    if not called.folds:
        return []
    runs = [evaluation_metrics(labels[f], call_names[f], called.types) for f in called.folds]
    whole = evaluation_metrics(labels[called.scored], call_names[called.scored], called.types)
    keys = ("f1", "sensitivity", "specificity")
    count = Counter(labels[called.scored])

    def text(value: float, spread: list[float]) -> str:
        if np.isnan(value):
            return DASH
        known = [score for score in spread if np.isfinite(score)]
        return f"{value:.3f}" + (f" ± {np.std(known, ddof=1):.3f}" if len(known) > 1 else "")

    rows = [
        {"name": name, "n": f"{count[name]:,}",
         **{key: text(whole[key][i], [run[key][i] for run in runs]) for key in keys}}
        for i, name in enumerate(called.types)
    ]  # fmt: skip
    macro = {key: text(whole[f"macro_{key}"], [run[f"macro_{key}"] for run in runs])
             for key in keys}  # fmt: skip
    return [*rows, {"name": "average of types", "n": f"{len(called.scored):,}", **macro}]


def counts(subject: Subject, samples: Mapping[str, str] | None) -> dict[str, Any]:
    """Differential counts: of all cells by given and by called type, and per sample."""
    columns = {}
    if subject.cells.is_labelled:
        columns["given"] = subject.labels
    if subject.calls.types:
        columns["called"] = subject.counted
    found = {name: differential_count(column) for name, column in columns.items()}
    if not found:
        return {"columns": [], "rows": [], "samples": None, "note": "No cell has a type."}
    frequent = Counter(np.concatenate([*columns.values()]).tolist()).most_common(_TABLE_TYPES)
    types = [name for name in sorted_types(name for name, _ in frequent) if name != UNLABELLED]
    rows = [(name, [_share(count, 0, name) for count in found.values()]) for name in types]
    unknown = [(f"{count.n_unknown[0]:,}", "", "") for count in found.values()]
    ratio = [_nlr(count, 0) for count in found.values()]
    used = [
        sorted_types(name for count in found.values() for name in getattr(count, role))
        for role in ("neutrophils", "lymphocytes")
    ]
    note = "No type is known as neutrophil or lymphocyte, so there is no ratio."
    if any(used):
        n, m = (", ".join(names) or "none" for names in used)
        note = f"Ratio: neutrophils are {n}; lymphocytes are {m}."
    n_strange = int((subject.calls.strange != "").sum())
    if n_strange:
        note += f" Called but not counted: {n_strange:,} cells that are unsure or unlike any type."
    left = len({name for count in found.values() for name in count.types} - set(types))
    if left:
        note += f" The {len(types)} most frequent types are shown, {left:,} more are not."
    table = {
        "columns": list(columns),
        "rows": [*rows, ("without a type", unknown), ("neutrophils / lymphocytes", ratio)],
        "samples": None,
        "note": note,
    }
    if samples is not None:
        how, names = list(columns.items())[-1]
        by_sample = differential_count(names, [samples.get(i) for i in subject.cells.ids])
        shown = by_sample.samples[:_TABLE_SAMPLES]
        more = len(by_sample.samples) - len(shown)
        table["samples"] = {
            "caption": f"Per sample, by {how} type" + (f" ({more:,} more samples)" * (more > 0)),
            "types": [name for name in types if name in by_sample.types],
            "rows": [
                (sample, [_nlr(by_sample, i), *(_share(by_sample, i, name) for name in types
                                               if name in by_sample.types)])
                for i, sample in enumerate(shown)
            ],
        }  # fmt: skip
    return table


def _share(count: DifferentialCount, row: int, name: str) -> tuple[str, str, str]:
    """Share, interval and cells of one type in one sample."""
    if name not in count.types:
        return DASH, "", "n = 0"
    at = row, count.types.index(name)
    interval = f"{_percent(count.low[at])} to {_percent(count.high[at])}"
    return _percent(count.share[at]), interval, f"n = {count.counts[at]:,}"


def _nlr(count: DifferentialCount, row: int) -> tuple[str, str, str]:
    if np.isnan(count.nlr[row]):
        return DASH, "", ""
    interval = f"{_ratio(count.nlr_low[row])} to {_ratio(count.nlr_high[row])}"
    return _ratio(count.nlr[row]), interval, ""


def _percent(share: float) -> str:
    return DASH if np.isnan(share) else f"{share:.1%}"


def _ratio(value: float) -> str:
    return "\N{INFINITY}" if np.isinf(value) else f"{value:.2f}"


def differences(subject: Subject) -> tuple[list[tuple[str, list[dict[str, Any]]]], str]:
    """Per type, the signatures that are most raised in it, in the block where they are most so."""
    cells, groups = subject.cells, subject.groups
    count = Counter(groups[groups != UNLABELLED])
    if len(count) < 2:
        return [], ""
    chosen = sorted(name for name, _ in count.most_common(_TABLE_TYPES))
    pooled = [name if name in chosen else (UNLABELLED if name == UNLABELLED else "all others")
              for name in groups]  # fmt: skip
    found = differential_signatures(cells.values, pooled)
    h, blocks = cells.n_signatures, cells.blocks
    rows = []
    for name in chosen:
        row = found.groups.index(name)
        effect = found.effect[row].reshape(-1, h)
        block = effect.argmax(axis=0)
        best = np.argsort(-effect.max(axis=0), kind="stable")[:_MARKS]
        marks = [
            {
                "signature": int(s),
                "block": blocks[block[s]] if len(blocks) > 1 else "",
                "effect": f"{effect[block[s], s]:+.2f}",
                "q": _q(found.q_value[row, block[s] * h + s]),
            }
            for s in best
            if effect[block[s], s] > 0
        ]
        rows.append((name, marks))
    return rows, (
        f"Each type, as {subject.how}, against all other cells. Effect (Cliff's delta) is +1 where "
        "every cell of the type has more of the signature than every other cell, 0 where chance "
        "decides; q is the false-discovery rate of the Mann-Whitney test over all types and "
        "signatures. Cells are taken as independent: with few persons behind them, q is too small."
    )


def agreements(
    subject: Subject, attributes: Mapping[str, Mapping[str, float]]
) -> tuple[list[tuple[str, list[dict[str, Any]]]], str]:
    """Per attribute, by falling agreement, the signatures that agree most with it, in the block
    where they do."""
    cells = subject.cells
    columns = {
        name: np.array([of.get(image_id, np.nan) for image_id in cells.ids])
        for name, of in attributes.items()
    }
    known = {
        name: values
        for name, values in columns.items()
        if (~np.isnan(values)).sum() >= _LEAST_KNOWN
        and len(np.unique(values[~np.isnan(values)])) > 1
    }
    if not known:
        few = f"No attribute is known of {_LEAST_KNOWN} of these cells and differs between them."
        return [], few if attributes else ""
    h, blocks = cells.n_signatures, cells.blocks
    rows = []
    for name, found in associate_attributes(cells.values, known).items():
        correlation = found.correlation.reshape(-1, h)
        block = np.abs(correlation).argmax(axis=0)
        strongest = np.abs(correlation).max(axis=0)
        marks = [
            {
                "signature": int(s),
                "block": blocks[block[s]] if len(blocks) > 1 else "",
                "effect": f"{correlation[block[s], s]:+.2f}",
                "q": _q(found.q_value[block[s] * h + s]),
            }
            for s in np.argsort(-strongest, kind="stable")[:_MARKS]
            if found.q_value[block[s] * h + s] < _LARGEST_Q
        ]
        told = f"{name} ({len(found.samples):,} cells)"
        rows.append((float(strongest.max()), told, marks))
    rows.sort(key=lambda row: -row[0])
    silent = "" if any(marks for *_, marks in rows) else " Here none agrees."
    return [(name, marks) for _, name, marks in rows if marks][:_MOST_ATTRIBUTES], (
        "What was noted of the cells, and the signatures that agree most with it: Spearman's rank "
        "correlation, +1 where more of the signature always means more of the attribute, and its "
        "false-discovery rate over all attributes and signatures. Cells are taken as independent: "
        f"with few persons behind them, q is too small.{silent}"
    )


def _q(value: float) -> str:
    return "q < 0.001" if value < 0.001 else f"q = {value:.3f}"


_TYPES_BY = {
    "discriminant": "discriminant analysis (Gaussians of one covariance)",
    "rbf": "one-vs-one support vector machine with a Gaussian kernel",
    "linear": "linear one-vs-one support vector machine",
}


def methods(subject: Subject) -> list[str]:
    model, cells, calls = subject.model, subject.cells, subject.calls
    last = model.layers[-1]
    lines = [
        f"Predictive Sparse Decomposition, layers: {len(model.layers)}, signatures of the last: "
        f"{last.n_signatures:,}. First layer: patches of {model.layers[0].patch_size} x "
        f"{model.layers[0].patch_size} px every {model.layers[0].step} px.",
        f"A profile pools the codes of all windows of a cell: {'; '.join(cells.blocks)}. Where a "
        "signature is pooled in several ways, its importance and its part in a call are sums over "
        "them.",
        "Nearest cells: Euclidean distance between square roots of profiles, over all signatures, "
        "not on the map.",
        "Signatures as colours: mid grey is zero; brighter than grey adds light in that colour, "
        "darker takes it away; the contrast of each is stretched by itself.",
        "Method: Yan et al., WBC-Profiler, 2018.",
    ]
    if calls.types:
        lines.insert(
            2,
            f"Types: {_TYPES_BY[calls.kernel]} on standardised profiles; the slope from its "
            "decisions to probabilities is fitted on folds left out. What made a call: what the "
            "called type's margin over the next best type would lose if a signature alone were as "
            "in the average cell; the largest parts are shown.",
        )
    if len(model.layers) > 1:
        lines.append("Signatures of deeper layers combine those of the first; they have no colour.")
    return lines
