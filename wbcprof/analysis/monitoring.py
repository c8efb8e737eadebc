"""A laboratory's instrument over time: slides as a few numbers, charts of these, flags, a state
file.

profiles of a slide -> SlideSummary -> Monitor -> charts -> flags
"""

from __future__ import annotations

import csv
import json
import math
import os
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any, Self

import numpy as np

from wbcprof._shown import Shown
from wbcprof.analysis.charts import (
    AVERAGE,
    REJECTIONS,
    SINGLE,
    WARNING,
    Chart,
    Judging,
    make_chart,
)
from wbcprof.analysis.novelty import FALSE_ALARMS, what_is_strange
from wbcprof.checks import Integer, Real, check, shown
from wbcprof.files import CSV, JSON, csv_text, json_value, regular, replacing
from wbcprof.model.model import Model, check_made_by
from wbcprof.model.profiles import Profiles
from wbcprof.smear.measures import MEASURES, OF_INSTRUMENT, medians

SHARE = "share of "
SURENESS = "sureness"
_STRANGE_RATE = 0.05  # of false alarms
STRANGE = f"{SHARE}strange cells"
"""Of cells that one in twenty of those learnt from, or fewer, are as strange as."""

RULES = {
    "baseline": Integer(5),
    "weight": Real(above=0, most=1),
    "false_alarms": Real(above=0, below=1),
}
_FORMAT = 2
_UNKNOWN = datetime.min.replace(tzinfo=UTC)
_KINDS = {
    WARNING: "warning",
    **dict.fromkeys(REJECTIONS, "rejection"),
    AVERAGE: "drift",
    SINGLE: "outlier",
}
ALARMS = ("drift", "outlier")


@dataclass(frozen=True, repr=False)
class SlideSummary(Shown):
    """One slide, in the numbers that are watched.

    Parameters
    ----------
    name : str
        No other slide's.
    time : str
        When it was taken, in ISO 8601, such as 2026-03-02 or 2026-03-02T09:30; without an offset it
        counts as UTC. Empty where it is not known.
    n_cells : int
    measures : dict of str to float
        ``"share of TYPE"`` between 0 and 1 of all cells, that are called so, and neither "unsure"
        nor "unlike"; ``"sureness"``, the mean probability of the most probable type; all others say
        how images were taken. NaN is not known.

    Raises
    ------
    ValueError
        The name is empty, the time is no time, there are no cells, a share lies outside 0 and 1.

    Examples
    --------
    >>> from wbcprof.analysis import SlideSummary
    >>> slide = SlideSummary("S-0412", "2026-03-02", 100, {"share of neutrophil": 0.61})
    >>> slide.measures["share of neutrophil"]
    0.61
    """

    name: str
    time: str
    n_cells: int
    measures: dict[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"a slide's name must be text, not empty, got {shown(self.name)}")
        moment(self.time)
        Integer().check("n_cells", self.n_cells)
        for name, value in self.measures.items():
            if not isinstance(name, str):
                raise ValueError(f"a measure of a slide must have text for a name, got {name!r}")
            if isinstance(value, bool) or not isinstance(value, int | float | np.number):
                raise ValueError(f"{name!r} of a slide must be a number, got {shown(value)}")
            if math.isinf(value) or (name.startswith(SHARE) and (value < 0 or value > 1)):
                within = "between 0 and 1" if name.startswith(SHARE) else "finite"
                raise ValueError(f"{name!r} of a slide must be {within} or NaN, got {value}")


def moment(time: str) -> datetime | None:
    """A slide's time in UTC; None where it is not known."""
    if time == "":
        return None
    try:
        found = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        raise ValueError(
            f"a slide's time must be ISO 8601, such as 2026-03-02T09:30, or empty, got "
            f"{shown(time)}"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def summarise(model: Model, profiles: Profiles, name: str, time: str = "") -> SlideSummary:
    """One slide, in the numbers that are watched.

    Parameters
    ----------
    model : Model
        That made the profiles. With a classifier, shares of its types and its sureness are
        measured.
    profiles : Profiles
        Of the slide's cells. Medians are taken of what profiling measured of the images, if it did.
    name, time : str
        See `SlideSummary`.

    Raises
    ------
    ValueError
        The profiles are of another model, there are none, or nothing of them can be watched.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.analysis import summarise
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(4, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels)
    >>> slide = summarise(model, model.profile(cells.images), "S-0412", "2026-03-02")
    >>> slide.n_cells, list(slide.measures)[:2]
    (8, ['share of lymphocyte', 'share of neutrophil'])
    """
    try:
        check_made_by(model, profiles)
    except ValueError as error:
        raise ValueError(f"slide {name!r}: {error}") from error
    if not len(profiles):
        raise ValueError(f"slide {name!r} has no cells")
    measures = {**_results(model, profiles), **_acquisition(profiles)}
    if not measures:
        raise ValueError(
            f"slide {name!r}: nothing to watch, as the model has no classifier and the profiles "
            "say nothing of how images were taken; learn types with 'wbcprof fit' from labelled "
            "images"
        )
    return SlideSummary(name, time, len(profiles), measures)


def _results(model: Model, profiles: Profiles) -> dict[str, float]:
    if model.classifier is None:
        return {}
    probabilities = model.classifier.predict_proba(profiles.values)
    types = model.classifier.classes_.tolist()
    called, shares = probabilities.argmax(axis=1), {}
    if model.classifier.memory_ is not None and profiles.measures is not None:
        strange = model.classifier.strangeness(profiles.values, profiles.measures)
        shares[STRANGE] = float((~(strange.p > _STRANGE_RATE)).mean())
        called[what_is_strange(strange, FALSE_ALARMS) != ""] = len(types)
    counts = np.bincount(called, minlength=len(types) + 1)[:-1].tolist()
    of_types = {f"{SHARE}{name}": n / len(called) for name, n in zip(types, counts, strict=True)}
    return {**of_types, **shares, SURENESS: float(probabilities.max(axis=1).mean())}


def _acquisition(profiles: Profiles) -> dict[str, float]:
    """Medians over the cells that know a measure, NaN where none does."""
    if profiles.measures is None:
        return {}
    middles = medians(profiles.measures.astype(np.float64)).tolist()
    return {
        OF_INSTRUMENT[name]: middle
        for name, middle in zip(MEASURES, middles, strict=True)
        if name in OF_INSTRUMENT
    }


@dataclass(frozen=True, repr=False)
class Flag(Shown):
    """A slide that a chart does not take for one like those of its baseline.

    Attributes
    ----------
    slide, time : str
    chart : str
        The measure.
    is_control : bool
        Whether in the chart of the control set.
    rule : str
        "EWMA", "single", or Westgard's name.
    kind : {"drift", "outlier", "rejection", "warning"}
        The first two are alarms, whose rate by chance is known: see `Monitor`.
    value : float
        The slide's own.
    z : float
        Spreads that it lies away from the centre.
    """

    slide: str
    time: str
    chart: str
    is_control: bool
    rule: str
    kind: str
    value: float
    z: float


class Monitor(Shown):
    """Slides of one laboratory in order of time, and what their charts say.

    Parameters
    ----------
    model : Model
        That slides are profiled with; a state file is only read with the same one.
    baseline : int
        The first slides of each chart, that set its centre, their mean, and its spread, their
        standard deviation; those so far from their median as one clean baseline in a thousand has
        one are left out. At least 5. Fewer than 20 tell little: limits are wider by as much.
    control : str or list of str
        Names of the slides of the control set, or patterns of names, such as ``"control*"``. They
        have charts of their own.
    weight : float
        Of the newest slide in moving averages. Smaller finds slower drifts.
    false_alarms : float
        Share of slides that raise an alarm by chance, in whichever chart, at most: the moving
        average beyond its limit ("drift"), or the slide by itself ("outlier"). It is divided among
        the charts (Bonferroni), so that it holds however these go together.

    Raises
    ------
    ValueError
        A parameter is out of range.

    Notes
    -----
    One patient's results say nothing of the instrument: such charts are judged by their moving
    averages alone, all others by Westgard's rules and by single slides too.

    Westgard's rules are as they were published, for one chart: with many charts they reject more
    slides by chance than alarms are raised. `wbcprof.report.write_monitor` says how many to
    expect.

    Shares of patients' types allow for the number of cells. Medians of few cells scatter by more
    than those of many, which is not allowed for: slides should have about as many cells as each
    other.

    Examples
    --------
    Forty simulated slides; the lamp fades from the thirtieth on:

    >>> import numpy as np
    >>> import wbcprof
    >>> from wbcprof.analysis import Monitor, SlideSummary
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> monitor = Monitor(model, baseline=20)
    >>> light = 230 + np.random.default_rng(0).normal(size=40)
    >>> light[29:] -= 0.5 * np.arange(11)
    >>> for number, value in enumerate(light):
    ...     monitor.append(SlideSummary(f"slide {number}", "", 100, {"light": value}))
    >>> [chart.name for chart in monitor.charts()], len(monitor)
    (['light'], 40)
    >>> first = next(flag for flag in monitor.flags() if flag.kind == "drift")
    >>> first.chart, 30 < int(first.slide.split()[1]) < 38
    ('light', True)
    >>> (chart,) = monitor.charts()
    >>> chart.is_known, abs(chart.value_at(0) - 230) < 1, monitor.is_control("slide 1")
    (True, True, False)
    >>> monitor.unmatched()  # no control set was named
    []

    Day by day, with a state file:

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     monitor.save(f"{home}/state.json")
    ...     monitor = Monitor.load(f"{home}/state.json", model)
    ...     monitor.append(SlideSummary("today", "", 100, {"light": 224.0}))
    ...     monitor.to_csv(f"{home}/monitor.csv")
    >>> [slide.name for slide in monitor.slides[-2:]], "today" in monitor
    (['slide 39', 'today'], True)
    """

    def __init__(
        self,
        model: Model,
        *,
        baseline: int = 20,
        control: str | Iterable[str] = (),
        weight: float = 0.1,
        false_alarms: float = 1 / 300,
    ):
        check(RULES, baseline=baseline, weight=weight, false_alarms=false_alarms)
        self.baseline, self.weight, self.false_alarms = baseline, weight, false_alarms
        names = (
            [control] if isinstance(control, str) or not isinstance(control, Iterable) else control
        )
        self.control = tuple(names)
        if wrong := [name for name in self.control if not isinstance(name, str)]:
            raise ValueError(
                f"control must be names of slides, or patterns of names, got {shown(wrong[0])}"
            )
        self._model = model_identity(model)
        self._slides: list[SlideSummary] = []
        self._names: set[str] = set()

    def __len__(self) -> int:
        return len(self._slides)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _told(self) -> dict[str, Any]:
        return {
            "slides": len(self),
            "charts": len(self.charts()),
            "flags": len(self.flags()),
            "last": self._slides[-1].name if self._slides else None,
            "baseline": self.baseline,
        }

    @property
    def slides(self) -> tuple[SlideSummary, ...]:
        """All slides, in order of time; without times, as they came."""
        return tuple(self._slides)

    def append(self, slide: SlideSummary) -> None:
        """Put a slide where its time says: last, unless later ones are there.

        Raises
        ------
        ValueError
            A slide of this name is there already, or some slides have times and others none.
        """
        if slide.name in self._names:
            raise ValueError(
                f"a slide {slide.name!r} is there already, and nothing was replaced; give a slide "
                "that was taken again another name"
            )
        if self._slides and bool(slide.time) != bool(self._slides[0].time):
            raise ValueError(
                f"slide {slide.name!r} has {'a' if slide.time else 'no'} time, those before "
                f"{'none' if slide.time else 'have one'}: give all slides a time, or none"
            )
        insort(self._slides, slide, key=lambda one: moment(one.time) or _UNKNOWN)
        self._names.add(slide.name)

    def is_control(self, name: str) -> bool:
        """Whether a slide of this name is of the control set."""
        return any(_is_named(name, pattern) for pattern in self.control)

    def unmatched(self) -> list[str]:
        """Names and patterns of the control set that no slide has."""
        return [
            pattern
            for pattern in self.control
            if not any(_is_named(slide.name, pattern) for slide in self._slides)
        ]

    def charts(self) -> list[Chart]:
        """One for each measure of patients' slides and of the control set, where a slide has it."""
        return [chart for is_control in (False, True) for chart in self._charts_of(is_control)]

    def _charts_of(self, is_control: bool) -> Iterator[Chart]:
        mine = [i for i, s in enumerate(self._slides) if self.is_control(s.name) == is_control]
        series: dict[str, list[tuple[int, float]]] = {}
        for i in mine:
            for name, value in self._slides[i].measures.items():
                if not math.isnan(value):
                    series.setdefault(name, []).append((i, value))
        n_known = sum(len(points) >= self.baseline for points in series.values())
        judging = Judging(self.baseline, self.weight, self.false_alarms / max(n_known, 1))
        for name, points in series.items():
            places = [i for i, _ in points]
            cells = np.array([self._slides[i].n_cells for i in places], np.float64)
            yield make_chart(
                name,
                places,
                np.array([value for _, value in points]),
                cells if name.startswith(SHARE) else None,
                judging,
                is_control=is_control,
                has_rules=is_control or not is_result(name),
            )

    def flags(self) -> list[Flag]:
        """What the charts flag, in order of slides."""
        found = [
            (chart.places[i], rule, chart, i)
            for chart in self.charts()
            for rule, where in chart.rules.items()
            for i in where
        ]
        found.sort(key=lambda one: one[0])
        return [
            Flag(
                slide=self._slides[place].name,
                time=self._slides[place].time,
                chart=chart.name,
                is_control=chart.is_control,
                rule=rule,
                kind=_KINDS[rule],
                value=float(chart.values[i]),
                z=float(chart.z[i]),
            )
            for place, rule, chart, i in found
        ]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row for each slide and chart; the file is whole or absent.

        The columns are slide, time, set (patients or control), chart, value, z (spreads from the
        centre), average and limit of the moving average, and rules, those broken, with spaces
        between. What is not known is empty. A spreadsheet runs none of it: see
        `wbcprof.files.csv_text`.
        """
        charts = self.charts()
        rows = sorted(
            (place, number, i)
            for number, chart in enumerate(charts)
            for i, place in enumerate(chart.places)
        )
        broken = [_by_place(chart.rules) for chart in charts]
        with (
            replacing(path, CSV) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow("slide time set chart value z average limit rules".split())
            for place, number, i in rows:
                slide, chart = self._slides[place], charts[number]
                numbers = (chart.values[i], chart.z[i], chart.average[i], chart.limit[i])
                writer.writerow(
                    [
                        csv_text(slide.name),
                        slide.time,
                        "control" if chart.is_control else "patients",
                        csv_text(chart.name),
                        *("" if math.isnan(value) else f"{value:.6g}" for value in numbers),
                        " ".join(broken[number].get(i, ())),
                    ]
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state: settings and slides, as JSON. The file is replaced as a whole or not at
        all, so that a crash leaves the one before.
        """
        content = {
            "model": self._model,
            "settings": {name: getattr(self, name) for name in (*RULES, "control")},
            "slides": [_to_json(slide) for slide in self._slides],
        }
        text = json.dumps(content, default=json_value, allow_nan=False)
        document = f'{{"format": {_FORMAT}, "digest": "{_digest(text)}", "monitor": {text}}}\n'
        with replacing(path, JSON) as temporary:
            temporary.write_text(document, encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model, **settings: Any) -> Self:
        """Go on from what `save` wrote.

        Parameters
        ----------
        path : path
        model : Model
        **settings
            Parameters of `Monitor`, in place of those stored: charts are made anew each time.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            It is no state file, it is damaged, of another release's format, or of another model.
        """
        name = os.fspath(path)
        try:
            with open(regular(path), encoding="utf-8") as stream:
                document = json.load(stream)
            version, content = document["format"], document["monitor"]
            if version == _FORMAT:
                whole = _digest(json.dumps(content)) == document["digest"]
                stored, slides = content["settings"], [*map(_from_json, content["slides"])]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{name!r} is no state of a monitor, or is damaged ({shown(error)}); put back a "
                "copy, or start again without it"
            ) from None
        if version != _FORMAT:
            raise ValueError(f"{name!r} has format {shown(version)}, this release reads {_FORMAT}")
        if not whole:
            raise ValueError(
                f"{name!r} is damaged: its content is not what was written; put back a copy, or "
                "start again without it"
            )
        monitor = cls(model, **{**stored, **settings})
        if content["model"] != monitor._model:
            raise ValueError(
                f"{name!r} is of another model: its slides cannot be compared with this one's; "
                "name the model it was begun with, or another state file"
            )
        for slide in slides:
            monitor.append(slide)
        return monitor


def _is_named(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def is_result(name: str) -> bool:
    """Whether a measure is a result of patients; else it says how images were taken."""
    return name == SURENESS or name.startswith(SHARE)


def model_identity(model: Model) -> str:
    """A digest of all that profiles and calls depend on."""
    arrays, document = model.to_arrays()
    digest = blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    for part in ("layers", "pooling", "normaliser", "classifier", "depths"):
        if part not in document:  # where nothing depends on it
            continue
        digest.update(json.dumps(document[part], sort_keys=True, default=json_value).encode())
    return digest.hexdigest()


def _by_place(rules: Mapping[str, list[int]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for rule, places in rules.items():
        for place in places:
            found.setdefault(place, []).append(rule)
    return found


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _to_json(slide: SlideSummary) -> dict[str, Any]:
    measures = {
        name: None if math.isnan(value) else float(value) for name, value in slide.measures.items()
    }
    return {**asdict(slide), "measures": measures}


def _from_json(document: dict[str, Any]) -> SlideSummary:
    measures = {
        name: math.nan if value is None else value for name, value in document["measures"].items()
    }
    return SlideSummary(**{**document, "measures": measures})
