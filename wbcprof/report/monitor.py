"""The page of a monitor: what has changed, since when, and the charts that say so.

One HTML file without a script. Charts are SVG that stretches with the page: lines and dots keep
their width (``non-scaling-stroke``), and all text is HTML beside them, so that it is as large on a
telephone as on a desk.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from wbcprof._version import __version__
from wbcprof.analysis.charts import AVERAGE, REJECTIONS, SINGLE, Chart, false_rejections
from wbcprof.analysis.monitoring import ALARMS, SHARE, Monitor, SlideSummary, is_result
from wbcprof.files import HTML, TableWarning, check_output
from wbcprof.report.html import render, write_html

_WIDTH, _HEIGHT = 1000, 300  # of the drawing, in its own units
_LEAST_Z, _MOST_Z = 4.0, 25.0  # spreads that a chart shows
_ROWS = 20  # of the table
# Words in the name of a measure, and what to look at when it changes; the first that fits.
_HINTS = (
    (("sharp", "focus", "blur"), "clean the objective, check focus and immersion oil"),
    (("falloff", "uneven"), "centre lamp and condenser"),
    (("density", "stain"), "check the batch of stain, its age and its pH"),
    (("diameter", "pixel", "size", "scale"), "check objective, camera and image size"),
    (("light", "background", "lamp"), "check the lamp, exposure and white balance"),
    ((SHARE,), "if patients are the same, count some of these slides by eye"),
    (("sureness",), "look at the cells called with least sureness; stain or light may differ"),
)
_OTHERWISE = "compare images of these slides with those of the first"


def write_monitor(
    monitor: Monitor,
    path: str | os.PathLike[str],
    *,
    title: str = "Instrument over time",
    note: str = "",
) -> None:
    """Write what a monitor says into one HTML file, which opens from disk, without a network.

    Parameters
    ----------
    monitor : Monitor
    path : path
        File to write; it is whole or absent.
    title, note : str
        Heading, and a line in a box below it.

    Raises
    ------
    FileNotFoundError, PermissionError, ValueError
        The file cannot be written there.

    Warns
    -----
    TableWarning
        No slide is named as one of the control set.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.analysis import Monitor, SlideSummary
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.report import write_monitor
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> monitor = Monitor(model)
    >>> monitor.append(SlideSummary("Monday", "2026-03-02", 100, {"light": 231.0}))
    >>> with TemporaryDirectory() as home:
    ...     write_monitor(monitor, f"{home}/monitor.html")
    ...     print("Nothing can be said yet" in Path(home, "monitor.html").read_text("utf-8"))
    True
    """
    check_output(path, HTML)
    if unmatched := monitor.unmatched():
        warnings.warn(
            f"no slide is named as the control set is, {unmatched[0]!r}: such slides have no "
            "charts of their own; see to the names",
            TableWarning,
            stacklevel=2,
        )
    charts = monitor.charts()
    findings = [found for chart in charts if (found := _finding(chart, monitor.slides))]
    html = render(
        "monitor.html",
        ("report.css", "monitor.css"),
        (),
        title=title,
        note=note,
        made=f"Made by wbcprof {__version__} on {datetime.now(UTC):%Y-%m-%d}.",
        verdict=_verdict(monitor, charts, findings),
        to_do=_to_do(findings),
        earlier=[found for found in findings if not found.is_now],
        last=_last(monitor, charts),
        facts=_facts(monitor, charts),
        sections=_sections(monitor, charts),
        flagged=_flagged(monitor),
        most=_ROWS,
        methods=_methods(monitor, charts),
    )
    write_html(path, html)


@dataclass(frozen=True)
class _Finding:
    """A chart whose moving average left its limits, for the last time."""

    chart: str
    is_now: bool
    what: str
    hint: str


def _finding(chart: Chart, slides: Sequence[SlideSummary]) -> _Finding | None:
    beyond = chart.rules[AVERAGE]
    if not beyond:
        return None
    last = start = beyond[-1]
    while start - 1 in beyond:
        start -= 1
    side = np.sign(chart.average[start])
    # An average crosses its centre for the last time about when a shift begins (Nishina 1992).
    began = start
    while began > chart.n_baseline and np.sign(chart.average[began - 1]) == side:
        began -= 1
    first, newest, moved = (_when(slides[chart.places[i]]) for i in (start, last, began))
    way = "risen" if side > 0 else "fallen"
    is_now = last == len(chart.values) - 1
    what = f"had {way} " + (f"at {first}" if start == last else f"from {first} to {newest}")
    if is_now:
        what = f"has {way}, by its average since {first}; it began to move about {moved}"
    hint = next((hint for words, hint in _HINTS if _speaks_of(chart.name, words)), _OTHERWISE)
    return _Finding(_title(chart), is_now, what, hint)


def _to_do(findings: list[_Finding]) -> list[tuple[str, list[_Finding]]]:
    """What is beyond its limits now, by what there is to do about it."""
    by: dict[str, list[_Finding]] = {}
    for found in findings:
        if found.is_now:
            by.setdefault(found.hint, []).append(found)
    return [(hint[:1].upper() + hint[1:], some) for hint, some in by.items()]


def _speaks_of(name: str, words: Iterable[str]) -> bool:
    return any(word in name.lower() for word in words)


def _title(chart: Chart) -> str:
    name = chart.name if is_result(chart.name) else chart.name.replace("_", " ")
    return f"{name}, control set" if chart.is_control else name


def _when(slide: SlideSummary) -> str:
    return f"{slide.name} ({slide.time})" if slide.time else slide.name


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _verdict(monitor: Monitor, charts: list[Chart], findings: list[_Finding]) -> str:
    known = [chart for chart in charts if chart.is_known]
    if not known:
        return (
            f"Nothing can be said yet: {_counted(len(monitor), 'slide')} of the {monitor.baseline} "
            "that set the baseline are there."
        )
    now = sum(found.is_now for found in findings)
    if now:
        lie = "lies beyond its limits" if now == 1 else "lie beyond their limits"
        return f"Something has changed: {now} of {_counted(len(known), 'chart')} {lie}."
    return (
        "Nothing has changed: at the last slide, every moving average lies within its limits "
        f"({_counted(len(known), 'chart')})."
    )


def _last(monitor: Monitor, charts: list[Chart]) -> str:
    """What single-slide limits and rules say of the newest slide."""
    if not len(monitor):
        return ""
    place = len(monitor) - 1
    name = _when(monitor.slides[place])
    far, broken = [], []
    for chart in charts:
        i = len(chart.places) - 1
        if chart.places[i] != place:
            continue
        if i in chart.rules[AVERAGE]:
            continue  # no news
        if i in chart.rules[SINGLE]:
            far.append(_title(chart))
        rules = [rule for rule in REJECTIONS if i in chart.rules[rule]]
        if rules:
            broken.append(f"{_title(chart)} ({', '.join(rules)})")
    if far:
        return (
            f"The last slide, {name}, is by itself unlike the others in {', '.join(far)}: look at "
            "its images, and take or stain it again."
        )
    if broken:
        return (
            f"The last slide, {name}, breaks Westgard's rules in {'; '.join(broken)}. By chance "
            "alone some slides do: see the methods."
        )
    return ""


def _facts(monitor: Monitor, charts: list[Chart]) -> list[tuple[str, str]]:
    control = sum(monitor.is_control(slide.name) for slide in monitor.slides)
    facts = [("slides", f"{len(monitor):,}")]
    facts += [("of the control set", f"{control:,}")] if monitor.control else []
    facts += [("charts", f"{len(charts):,}"), ("slides of the baseline", f"{monitor.baseline}")]
    if monitor.slides and monitor.slides[0].time:
        facts += [("from", monitor.slides[0].time[:10]), ("to", monitor.slides[-1].time[:10])]
    return facts


# ---- charts ----


def _sections(monitor: Monitor, charts: list[Chart]) -> list[dict[str, Any]]:
    parts = (
        ("taken", "How images were taken", [c for c in charts if c.has_rules and not c.is_control]),
        ("results", "Results of patients", [c for c in charts if not c.has_rules]),
        ("control", "Control set", [c for c in charts if c.is_control]),
    )
    return [
        {"id": name, "title": title, "charts": [_plot(chart, monitor.slides) for chart in some]}
        for name, title, some in parts
        if some
    ]


def _plot(chart: Chart, slides: Sequence[SlideSummary]) -> dict[str, Any]:
    """What the template draws; all paths are numbers."""
    named = [slides[place] for place in chart.places]
    common = {"title": _title(chart), "first": _when(named[0]), "last": _when(named[-1])}
    if not chart.is_known:
        return {
            **common,
            "why_not": f"{_counted(len(named), 'slide')} so far, too few to judge by.",
        }
    x = np.linspace(10, _WIDTH - 10, len(named))
    low, high = _reach(chart)

    def height(z: Any) -> Any:
        shown = np.clip(z, -low, high)
        return np.round((high - shown) / (low + high) * _HEIGHT, 1)

    alarms = {*chart.rules[AVERAGE], *chart.rules[SINGLE]}
    rejected = {place for rule in REJECTIONS for place in chart.rules[rule]} - alarms
    y = height(chart.z)
    rest = [i for i in range(len(named)) if i not in alarms | rejected]
    after = np.arange(chart.n_baseline, len(named))
    return {
        **common,
        "why_not": "",
        "alt": f"{_title(chart)}: {_counted(len(named), 'slide')}, {len(alarms)} with an alarm, "
        f"{len(rejected)} more that break a rule.",
        "baseline": float(np.round(x[chart.n_baseline - 1] + 5, 1)),
        "centre": float(height(0.0)),
        "lines": [float(height(z)) for z in (-3, -2, 2, 3)],
        "dots": "".join(f"M{x[i]:.1f} {y[i]:.1f}h0" for i in rest),
        "average": _line(x[after], height(chart.average[after])),
        "limits": [_line(x[after], height(sign * chart.limit[after])) for sign in (-1, 1)],
        "rejected": [_mark(chart, named, i, x[i], y[i]) for i in sorted(rejected)],
        "alarms": [_mark(chart, named, i, x[i], y[i]) for i in sorted(alarms)],
        "labels": [
            (float(height(z)) / _HEIGHT * 100, _value(chart, chart.value_at(z)), name)
            for z, name in _labelled(low, high)
        ],
        "now": _value(chart, float(chart.values[-1])),
        "average_now": _value(chart, chart.value_at(chart.average[-1])) if len(after) else "",
    }


def _reach(chart: Chart) -> tuple[float, float]:
    """How many spreads a chart shows below and above its centre."""
    low, high = (max(_LEAST_Z, float(np.max(side * chart.z)) * 1.05) for side in (-1, 1))
    return min(low, _MOST_Z), min(high, _MOST_Z)


def _labelled(low: float, high: float) -> list[tuple[float, str]]:
    """What is written beside a chart, from its top: spreads, and what they are called."""
    ends = [(z, "") for z in (high, -low) if abs(z) > 8]
    return [*ends, (3.0, "+3 s"), (0.0, "centre"), (-3.0, "\N{MINUS SIGN}3 s")]


def _mark(chart: Chart, named: list[SlideSummary], i: int, x: float, y: float) -> tuple[str, str]:
    rules = [rule for rule, places in chart.rules.items() if i in places]
    text = f"{_when(named[i])}: {_value(chart, float(chart.values[i]))}, {', '.join(rules)}"
    return f"M{x:.1f} {y:.1f}h0", text


def _line(x: np.ndarray, y: np.ndarray) -> str:
    points = [f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True)]
    return "M" + "L".join(points) if points else ""


def _value(chart: Chart, value: float) -> str:
    return f"{value:.1%}" if chart.name.startswith(SHARE) else f"{value:.3g}"


# ---- tables and text ----


def _flagged(monitor: Monitor) -> dict[str, Any]:
    """Slides with alarms or broken rules, the newest first, and in which charts."""
    found: dict[str, dict[str, Any]] = {}
    for flag in reversed(monitor.flags()):
        if flag.kind == "warning":
            continue
        row = found.setdefault(flag.slide, {"slide": flag.slide, "time": flag.time, "charts": {}})
        name = flag.chart if is_result(flag.chart) else flag.chart.replace("_", " ")
        chart = row["charts"].setdefault(
            f"{name}, control set" if flag.is_control else name, {"rules": "", "is_alarm": False}
        )
        chart["rules"] = f"{flag.rule}, {chart['rules']}" if chart["rules"] else flag.rule
        chart["is_alarm"] |= flag.kind in ALARMS
    return {"rows": list(found.values())[:_ROWS], "n": len(found)}


def _methods(monitor: Monitor, charts: list[Chart]) -> list[str]:
    judged = [chart for chart in charts if chart.is_known and chart.has_rules]
    n_rejected = sum(len({i for rule in REJECTIONS for i in c.rules[rule]}) for c in judged)
    n_points = sum(len(chart.values) - chart.n_baseline for chart in judged)
    chance = sum(
        (len(chart.values) - chart.n_baseline) * false_rejections(chart.n_kept) for chart in judged
    )
    lines = [
        f"Baseline: the first {monitor.baseline} slides of each chart set its centre, their mean, "
        "and its spread s, their standard deviation; slides further than 6 robust spreads from "
        "their median are left out. They are not judged, and what is wrong in them is not found.",
        f"Alarms: the moving average (EWMA, weight {monitor.weight:g} for the newest slide) beyond "
        "its limit, or, but for results of patients, a slide by itself beyond that of single "
        f"slides. By chance, at most 1 slide in {1 / monitor.false_alarms:,.0f} has any, all "
        "charts of its set together (Bonferroni); limits allow for what so short a baseline leaves "
        "unknown (Student's t).",
    ]
    if judged:
        lines.append(
            "Westgard's rules are asked of the control set and of how images were taken: 1-2s "
            "warns; 1-3s, 2-2s, R-4s, 4-1s and 10x reject. They are made for one chart with a "
            f"known centre: here, of {n_points:,} values, {n_rejected:,} broke one that rejects, "
            f"where chance alone, after such baselines, breaks one for about {chance:,.0f}."
        )
    return [
        *lines,
        "Shares of types allow for the number of cells of each slide, in Anscombe's arcsine scale; "
        "medians of few cells scatter by more than those of many, which is not allowed for.",
        "Slides stand at equal distances, in order of time. Results may change because patients "
        "do: how images were taken, and the control set, tell which.",
        "Westgard et al., Clin. Chem. 27, 493 (1981); Roberts, Technometrics 1, 239 (1959); Jones, "
        "Champ, Rigdon, Technometrics 43, 156 (2001); Anscombe, Biometrika 35, 246 (1948).",
    ]
