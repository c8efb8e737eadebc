"""Monitoring: rules on hand-made series, limits, false alarms, the state file, where slides lie."""

import csv
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

import wbcprof
from wbcprof.analysis import (
    Monitor,
    SlideSummary,
    moving_average,
    read_slides,
    summarise,
    westgard,
)
from wbcprof.analysis.charts import REJECTIONS, Judging, false_rejections, make_chart
from wbcprof.analysis.classify import TypeClassifier
from wbcprof.analysis.monitoring import ALARMS, model_identity
from wbcprof.datasets import write_folder
from wbcprof.files import TableWarning
from wbcprof.images import ImageWarning
from wbcprof.model.memory import Strangeness
from wbcprof.report import write_monitor
from wbcprof.scale.folders import held_file
from wbcprof.smear import MEASURES
from wbcprof.smear.measures import OF_INSTRUMENT


@pytest.fixture(scope="module")
def naming_model(model, cells):
    """The small model with a classifier."""
    named = wbcprof.Model(model.layers, model.pooling, normaliser=model.normaliser)
    named.classifier = TypeClassifier(C=1.0).fit(model.profile(cells.images), cells.labels)
    return named


def slides_of(values, name="light", n_cells=100, prefix="s"):
    return [
        SlideSummary(f"{prefix}{i:03}", "", n_cells, {name: float(value)})
        for i, value in enumerate(values)
    ]


def monitor_of(model, slides, **settings):
    monitor = Monitor(model, **settings)
    for slide in slides:
        monitor.append(slide)
    return monitor


# ---- Westgard's rules ----


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        ([0.5, -0.5, 1.9, -1.9, 2.0, 1.0], {}),
        ([0, 2.1, 0], {"1-2s": [1]}),
        ([0, -3.1, 0], {"1-2s": [1], "1-3s": [1]}),
        ([3.0, 0], {"1-2s": [0]}),
        ([2.1, 2.2, 0, 2.3], {"1-2s": [0, 1, 3], "2-2s": [1]}),
        ([2.1, 2.2, 2.3], {"1-2s": [0, 1, 2], "2-2s": [1, 2]}),
        ([-2.1, -2.2], {"1-2s": [0, 1], "2-2s": [1]}),
        ([2.1, -2.2], {"1-2s": [0, 1], "R-4s": [1]}),
        ([-2.1, 2.2, -2.3], {"1-2s": [0, 1, 2], "R-4s": [1, 2]}),
        ([2.5, -1.9], {"1-2s": [0]}),
        ([2.1, 0, -2.1], {"1-2s": [0, 2]}),
        ([1.1, 1.2, 1.3, 1.4, 1.5], {"4-1s": [3, 4]}),
        ([-1.1, -1.2, -1.3, -1.4], {"4-1s": [3]}),
        ([1.1, 1.2, 1.3, 1.0], {}),
        ([1.1, 1.2, -1.3, 1.4], {}),
        ([0.1] * 10, {"10x": [9]}),
        ([-0.1] * 11, {"10x": [9, 10]}),
        ([0.1] * 9 + [0.0] + [0.1] * 9, {}),
        ([0.1] * 9 + [math.nan] + [0.1], {}),
        ([2.1, math.nan, 2.1], {"1-2s": [0, 2]}),
        ([], {}),
    ],
)
def test_a_rule_fires_where_it_should_and_nowhere_else(z, expected):
    found = westgard(5 + 2 * np.array(z), centre=5, spread=2)
    assert {rule: places for rule, places in found.items() if places} == expected
    assert list(found) == ["1-2s", *REJECTIONS]


def test_each_value_may_have_its_spread():
    assert westgard([3, 3], 0, [1, 2])["1-2s"] == [0]


@pytest.mark.parametrize(
    ("values", "spread", "message"),
    [([[1.0]], 1, "one series"), ([1.0], 0, "positive"), ([1.0], math.nan, "positive")],
)
def test_bad_series_are_refused(values, spread, message):
    with pytest.raises(ValueError, match=message):
        westgard(values, 0, spread)


def test_single_values_break_the_first_two_rules_as_often_as_normal_ones_do():
    n = 100_000
    found = westgard(np.random.default_rng(0).standard_normal(n), 0, 1)
    for rule, chance in (("1-2s", 0.04550), ("1-3s", 0.00270)):
        assert binomtest(len(found[rule]), n, chance).pvalue > 0.001
    # Runs overlap: their expected number is exact, their scatter is not binomial.
    chances = {"2-2s": 0.001035, "R-4s": 0.001035, "4-1s": 0.001267, "10x": 1 / 512}
    for rule, chance in chances.items():
        assert len(found[rule]) == pytest.approx(n * chance, rel=0.25)


def test_a_short_baseline_rejects_more_by_chance():
    assert 0.006 < false_rejections(2000) < 0.009
    assert false_rejections(2000) < false_rejections(50) < false_rejections(20) < 0.04


# ---- moving averages ----


def test_moving_average_is_the_recursion_and_its_spread_that_of_simulations():
    z = np.random.default_rng(0).standard_normal((4000, 40))
    found = [moving_average(row, 0.2) for row in z]
    expected = 0.0
    for step, value in enumerate(z[0]):
        expected = 0.2 * value + 0.8 * expected
        assert found[0][0][step] == pytest.approx(expected)
    measured = np.std([average for average, _ in found], axis=0)
    np.testing.assert_allclose(measured, found[0][1], rtol=0.05)
    assert found[0][1][0] == pytest.approx(0.2)
    assert moving_average(z[0], 0.2)[1][-1] == pytest.approx(math.sqrt(0.2 / 1.8), rel=1e-3)


def test_what_the_baseline_leaves_unknown_widens_the_limit():
    random = np.random.default_rng(1)
    ends = [
        moving_average(random.standard_normal(60) - random.standard_normal(10).mean())[0][-1]
        for _ in range(4000)
    ]
    assert np.std(ends) == pytest.approx(
        moving_average(np.zeros(60), n_baseline=10)[1][-1], rel=0.05
    )


@pytest.mark.parametrize("baseline", [5, 7, 10, 20, 50])
def test_alarms_by_chance_are_as_rare_as_stated(baseline):
    """Of many laboratories, since one baseline serves all slides after it."""
    random, n_charts, rate = np.random.default_rng(2), 4, 1 / 50
    flagged = []
    for _ in range(400):
        out = np.zeros(50, bool)
        for _ in range(n_charts):
            values = random.standard_normal(baseline + 50)
            judging = Judging(baseline, 0.1, rate / n_charts)
            chart = make_chart(
                "x", range(len(values)), values, None, judging, is_control=False, has_rules=True
            )
            out[np.array(chart.rules["EWMA"] + chart.rules["single"], int) - baseline] = True
        flagged.append(out.mean())
    error = np.std(flagged) / math.sqrt(len(flagged))
    assert np.mean(flagged) < rate + 3 * error and np.mean(flagged) > rate / 3


def test_shares_allow_for_few_cells():
    """Patients alike, slides of 20 to 400 cells: flagged as rarely as those of the baseline's."""
    random, rate, flagged = np.random.default_rng(3), 1 / 50, []
    for _ in range(300):
        n_cells = np.where(np.arange(90) < 20, 200, random.choice([20, 400], 90))
        shares = random.binomial(n_cells, 0.3) / n_cells
        chart = make_chart(
            "x", range(90), shares, n_cells.astype(float), Judging(20, 0.1, rate),
            is_control=False, has_rules=True,
        )  # fmt: skip
        flagged.append(len({*chart.rules["EWMA"], *chart.rules["single"]}) / 70)
    assert np.mean(flagged) < rate + 3 * np.std(flagged) / math.sqrt(len(flagged))


def test_a_control_scanned_again_is_judged_by_its_own_scatter():
    shares = np.full(40, 0.5)
    shares[30:] = 0.58
    monitors = [
        make_chart(
            "x", range(40), shares, np.full(40, 100.0), Judging(20, 0.1, 0.01),
            is_control=is_control, has_rules=True,
        )
        for is_control in (False, True)
    ]  # fmt: skip
    assert not monitors[0].rules["single"] and monitors[1].rules["single"] == list(range(30, 40))


def test_a_slow_drift_is_found_by_the_average_before_single_slides_show_it(model):
    values = np.random.default_rng(4).standard_normal(200)
    values[50:] += 0.02 * np.arange(150)
    (chart,) = monitor_of(model, slides_of(100 + values)).charts()
    assert 50 < chart.rules["EWMA"][0] < min(chart.rules["single"], default=200)


def test_one_odd_slide_makes_no_drift(model):
    values = np.random.default_rng(4).standard_normal(60)
    values[40] = 1e6
    (chart,) = monitor_of(model, slides_of(values)).charts()
    assert chart.rules["single"] == [40] and not chart.rules["EWMA"]


def test_a_constant_baseline_is_no_reason_to_flag_everything(model):
    (chart,) = monitor_of(model, slides_of([230.0] * 20 + [230.1, 235.0])).charts()
    assert chart.rules["1-3s"] == [21] and np.isfinite(chart.z).all()
    (chart,) = monitor_of(model, slides_of([0.0] * 30, "share of basophil")).charts()
    assert not any(chart.rules.values())


def test_an_outlier_in_the_baseline_does_not_blind_the_chart(model):
    values = np.random.default_rng(5).standard_normal(40)
    values[3], values[30] = 50, 12
    (chart,) = monitor_of(model, slides_of(values + 100)).charts()
    assert chart.n_kept == 19 and 30 in chart.rules["single"]


# ---- the monitor ----


def test_too_few_slides_say_nothing(model):
    (chart,) = monitor_of(model, slides_of(np.arange(19.0))).charts()
    assert not chart.is_known and np.isnan(chart.z).all() and not any(chart.rules.values())
    assert not monitor_of(model, []).charts() and not monitor_of(model, []).flags()


def test_unknown_measures_are_left_out_of_their_chart_alone(model):
    slides = [
        SlideSummary(f"{i:02}", "", 50, {"light": math.nan if i % 2 else i, "sharpness": 1.0})
        for i in range(30)
    ]
    light, sharpness = monitor_of(model, slides).charts()
    assert light.places == list(range(0, 30, 2)) and not light.is_known
    assert len(sharpness.places) == 30 and sharpness.is_known


def test_control_slides_have_charts_of_their_own_and_results_no_rules(model):
    random = np.random.default_rng(0)
    slides = [
        SlideSummary(
            f"{'control' if i % 2 else 'patient'} {i}", "", 100,
            {"share of monocyte": random.random() / 5, "light": 1 + random.random()},
        )
        for i in range(50)
    ]  # fmt: skip
    monitor = monitor_of(model, slides, control="control*")
    shown = {(chart.is_control, chart.name): chart for chart in monitor.charts()}
    assert len(shown) == 4 and all(len(chart.places) == 25 for chart in shown.values())
    assert [chart.has_rules for chart in monitor.charts()] == [False, True, True, True]
    monitor.append(SlideSummary("patient x", "", 100, {"share of monocyte": 1.0}))
    assert not [flag for flag in monitor.flags() if flag.slide == "patient x"]
    assert monitor_of(model, slides[:2], control=["control 1"]).is_control("control 1")


def test_flags_say_slide_rule_and_kind(model):
    values = np.random.default_rng(0).standard_normal(40)
    values[35] = 30
    flags = [f for f in monitor_of(model, slides_of(values)).flags() if f.slide == "s035"]
    assert {"1-2s": "warning", "1-3s": "rejection", "single": "outlier"}.items() <= {
        flag.rule: flag.kind for flag in flags
    }.items()
    assert flags[0].value == 30 and flags[0].z > 10


def test_slides_stand_in_order_of_time_however_they_come(model):
    days = ["2026-03-02", "2026-03-01T23:00", "2026-03-03T01:00+02:00", "2026-03-02T12:00Z"]
    slides = [SlideSummary(day, day, 1, {"light": 1.0}) for day in days]
    expected = [days[1], days[0], days[3], days[2]]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        monitor = monitor_of(model, [slides[i] for i in order])
        assert [slide.name for slide in monitor.slides] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": " "}, "name must be text"),
        ({"time": "yesterday"}, "ISO 8601"),
        ({"time": None}, "ISO 8601"),
        ({"n_cells": 0}, "n_cells must be"),
        ({"measures": {"share of x": 1.0000001}}, "between 0 and 1 or NaN, got 1.0000001"),
        ({"measures": {1: 2.0}}, "a measure of a slide must have text for a name, got 1"),
        ({"measures": {"light": math.inf}}, "finite"),
        ({"measures": {"light": "1"}}, "must be a number"),
    ],
)
def test_bad_slides_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SlideSummary(**{"name": "a", "time": "", "n_cells": 1, "measures": {}, **change})


def test_a_slide_that_is_there_replaces_nothing(model):
    monitor = monitor_of(model, slides_of([1.0]))
    with pytest.raises(ValueError, match="'s000' is there already"):
        monitor.append(slides_of([2.0])[0])
    with pytest.raises(ValueError, match="a time, or none"):
        monitor.append(SlideSummary("b", "2026-03-02", 1, {}))
    assert [slide.measures["light"] for slide in monitor.slides] == [1.0]


# ---- the state file ----


def test_day_by_day_is_the_same_as_all_at_once(model, tmp_path):
    random = np.random.default_rng(0)
    slides = [
        SlideSummary(
            f"s{i}", f"2026-01-{i + 1:02}", 80,
            {"light": math.nan if i == 5 else random.random(), "share of a": random.random()},
        )
        for i in range(31)
    ]  # fmt: skip
    whole = monitor_of(model, slides, baseline=10, control="s3*", weight=0.3)
    whole.to_csv(tmp_path / "whole.csv")
    Monitor(model, baseline=10, control="s3*", weight=0.3).save(tmp_path / "state.json")
    for slide in slides:
        monitor = Monitor.load(tmp_path / "state.json", model)
        monitor.append(slide)
        monitor.save(tmp_path / "state.json")
    Monitor.load(tmp_path / "state.json", model).to_csv(tmp_path / "daily.csv")
    assert (tmp_path / "daily.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert Monitor.load(tmp_path / "state.json", model).baseline == 10
    assert Monitor.load(tmp_path / "state.json", model, baseline=12).baseline == 12


def test_a_crash_while_writing_leaves_the_state_before(model, tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    monitor = monitor_of(model, slides_of([1.0]))
    monitor.save(path)
    before = path.read_bytes()
    monitor.append(SlideSummary("new", "", 1, {}))

    def crash(*_):
        raise KeyboardInterrupt

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, call, crash)
            monitor.save(path)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["state.json"]


def test_state_of_another_model_or_damaged_is_refused(model, naming_model, tmp_path):
    path = tmp_path / "state.json"
    monitor_of(model, slides_of([1.25, 2.5])).save(path)
    with pytest.raises(ValueError, match=r"state.json' is of another model"):
        Monitor.load(path, naming_model)
    with pytest.raises(FileNotFoundError):
        Monitor.load(tmp_path / "nowhere.json", model)
    text = path.read_text()
    for damaged in (
        text[: len(text) // 2], "", "[]", "{}", "\0\0", text.replace("1.25", "1.35"),
        text.replace('"digest"', '"dig"'), text.replace('"slides"', '"slydes"'),
    ):  # fmt: skip
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"state.json' is .*damaged") as caught:
            Monitor.load(path, model)
        assert "\n" not in str(caught.value)
    path.write_text(text.replace('{"format": 2', '{"format": 3'))
    with pytest.raises(ValueError, match="has format 3, this release reads 2"):
        Monitor.load(path, model)


def test_identity_of_a_model_outlasts_its_file(naming_model, tmp_path):
    naming_model.save(tmp_path / "m.wbcprof")
    assert model_identity(wbcprof.load(tmp_path / "m.wbcprof")) == model_identity(naming_model)


def test_csv_has_all_and_no_formula(model, tmp_path):
    slides = slides_of([*np.random.default_rng(0).standard_normal(20), 40.0], "=light", prefix="=s")
    monitor_of(model, slides).to_csv(tmp_path / "m.csv")
    with open(tmp_path / "m.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["slide"] == "'=s000" and rows[0]["chart"] == "'=light" and not rows[0]["average"]
    assert rows[20]["rules"].split() == ["1-2s", "1-3s", "single"]


# ---- slides from profiles and files ----


def test_summary_counts_called_types_and_takes_medians(naming_model, cells):
    profiles = naming_model.profile(cells.images)
    profiles.measures = np.full((48, len(MEASURES)), np.nan, np.float32)
    profiles.measures[1:, MEASURES.index("BackgroundRed")] = np.arange(1, 48)
    slide = summarise(naming_model, profiles, "a", "2026-03-02")
    called = naming_model.classifier.predict(profiles.values)
    assert slide.measures["share of monocyte"] == np.mean(called == "monocyte")
    assert (
        0.2 < slide.measures["sureness"] <= 1
        and 24 == slide.measures[OF_INSTRUMENT["BackgroundRed"]]
    )
    assert math.isnan(slide.measures[OF_INSTRUMENT["Focus"]]) and slide.n_cells == 48


def test_summary_refuses_what_it_cannot_watch(model, naming_model, cells):
    profiles = model.profile(cells.images[:2])
    profiles.measures = None
    with pytest.raises(ValueError, match="nothing to watch"):
        summarise(model, profiles, "a")
    for part, message in ((np.s_[:, :5], "of another"), (np.s_[:0], "no cells")):
        values = profiles.values[part]
        names = profiles.feature_names[: values.shape[1]]
        with pytest.raises(ValueError, match=message):
            summarise(naming_model, wbcprof.Profiles(values, names, ["a"] * len(values)), "a")


@pytest.fixture(scope="module")
def year(cells, tmp_path_factory):
    """Three slides, in folders."""
    folder = tmp_path_factory.mktemp("year") / "slides"
    for name in ("a", "b", "=c"):
        write_folder(cells, folder / name)
    return folder


def test_slides_come_from_folders_and_tables_alike(naming_model, year, tmp_path):
    expected = {slide.name: slide for slide in read_slides(naming_model, year)}
    assert list(expected) == ["=c", "a", "b"] and expected["a"].n_cells == 48
    naming_model.profile(year).save(tmp_path / "all.parquet")
    (tmp_path / "tables").mkdir()
    naming_model.profile(year / "a").save(tmp_path / "tables" / "a.csv")
    naming_model.profile(year / "b").save(tmp_path / "tables" / "b.parquet")
    images = sorted(path.relative_to(year.parent).as_posix() for path in year.rglob("*.png"))
    rows = [f"{'' if i else 'path,slide'}\n" for i in range(1)]
    rows += [f"{year.parent}/{path},{path.split('/')[1]}\n" for path in images if "=" not in path]
    (tmp_path / "images.csv").write_text("".join(rows))
    for source in ("all.parquet", "tables", "images.csv"):
        for slide in read_slides(naming_model, tmp_path / source):
            assert slide == expected[slide.name]
    profiles = naming_model.profile(year / "a")
    profiles.save(tmp_path / "one.csv")
    with open(tmp_path / "slides.csv", "w") as stream:
        stream.writelines(["image,slide\n", *(f"{image},one\n" for image in profiles.ids)])
    (slide,) = read_slides(naming_model, tmp_path / "one.csv", slides=tmp_path / "slides.csv")
    assert slide.name == "one" and slide.measures == expected["a"].measures


def test_times_order_slides_and_known_ones_are_not_read(naming_model, year, tmp_path, monkeypatch):
    times = tmp_path / "times.csv"
    times.write_text("slide,time\nb,2026-03-01\na,2026-03-02\n'=c,2026-02-02\nz,2026-02-02\n")
    read, steps, made = [], [], SimpleNamespace(metadata={"model": ""})
    monkeypatch.setattr(
        wbcprof.Model, "profile", lambda self, path, **_: read.append(path.name) or made
    )
    monkeypatch.setattr(
        "wbcprof.analysis.slides.summarise", lambda model, _, name, time: (name, time)
    )
    found = list(
        read_slides(
            naming_model, year, times=times, skip={"a"}, progress=lambda *step: steps.append(step)
        )
    )
    assert found == [("=c", "2026-02-02"), ("b", "2026-03-01")] and read == ["=c", "b"]
    assert steps == [(1, 2), (2, 2)]


def test_a_slide_that_cannot_be_read_is_counted(naming_model, year, tmp_path):
    (tmp_path / "a").symlink_to(year / "a")
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "x.png").write_text("no image")
    with pytest.warns(ImageWarning, match="2 of 3 slides could not be read"):
        assert [slide.name for slide in read_slides(naming_model, tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "expected a folder or a table of profiles for each slide"),
        ({"a/x": "", "a.csv": ""}, {}, "two slides 'a'"),
        ({"a/x": "", "t": "slide,when\n"}, {"times": "t"}, "a column time or .*, got: slide, when"),
        ({"a/x": "", "t": "slide,time\nb,2026-01-01\n"}, {"times": "t"}, "no time for 1 of 1"),
        ({"a/x": "", "t": "slide,time\na,1\na,2\n"}, {"times": "t"}, "line 3: slide 'a' has"),
        ({"a/x": "", "t": "image,slide\n"}, {"slides": "t"}, "leave it out"),
    ],
)
def test_what_is_no_set_of_slides_is_refused(files, options, message, naming_model, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for name, text in files.items():
        path = (tmp_path if name == "t" else folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    options = {name: tmp_path / value for name, value in options.items()}
    with pytest.raises(ValueError, match=message):
        list(read_slides(naming_model, folder, **options))


def test_a_table_must_say_which_slide(naming_model, cells, tmp_path):
    naming_model.profile(cells.images[:2]).save(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="give a CSV file with the columns image and slide"):
        list(read_slides(naming_model, tmp_path / "t.csv"))
    with pytest.raises(FileNotFoundError, match="No such file or folder"):
        list(read_slides(naming_model, tmp_path / "nowhere"))


def test_the_state_is_small(model, tmp_path):
    random = np.random.default_rng(0)
    slides = [
        SlideSummary(f"slide {i}", "2026-03-02", 100, {f"m{k}": random.random() for k in range(16)})
        for i in range(300)
    ]
    monitor_of(model, slides).save(tmp_path / "state.json")
    assert (tmp_path / "state.json").stat().st_size < 250_000
    assert json.loads((tmp_path / "state.json").read_text())["format"] == 2
    assert set(ALARMS) == {"drift", "outlier"}


def test_cells_that_are_unlike_are_in_no_share(naming_model, cells, monkeypatch):
    profiles = naming_model.profile(cells.images[:8])
    classifier = TypeClassifier(C=1.0).fit(naming_model.profile(cells.images), cells.labels)
    strange = Strangeness(np.array([0.001] * 3 + [0.5] * 5), *[np.full(8, 0.5)] * 3)
    monkeypatch.setattr(classifier, "memory_", object())
    monkeypatch.setattr(classifier, "strangeness", lambda *_: strange)
    named = wbcprof.Model(naming_model.layers, naming_model.pooling)
    named.classifier = classifier
    profiles.metadata = {}
    shares = summarise(named, profiles, "a").measures
    called = classifier.predict(profiles.values)[3:]
    for name in classifier.classes_:
        assert shares[f"share of {name}"] == (called == name).sum() / 8
    assert shares["share of strange cells"] == 3 / 8


def test_slides_to_skip_are_names(naming_model, year):
    for skip in ("ab", iter(["b", "a"]), ["a", "b"], {"a", "b"}, "a"):
        names = ["=c", "a", "b"] if skip == "ab" else ["=c", "b"] if skip == "a" else ["=c"]
        assert [slide.name for slide in read_slides(naming_model, year, skip=skip)] == names


def test_tables_that_do_not_say_their_model_are_counted(naming_model, year, tmp_path):
    for name in ("a", "b"):
        naming_model.profile(year / name).save(tmp_path / f"{name}.csv")
    naming_model.profile(year / "a").save(tmp_path / "c.parquet")
    with pytest.warns(TableWarning, match="of 2 of 3 slides, first 'a', do not say which model"):
        assert len(list(read_slides(naming_model, tmp_path))) == 3


def test_times_of_slides_that_are_known_are_compared(naming_model, year, tmp_path):
    times = tmp_path / "times.csv"
    times.write_text("slide,time\na,2026-03-02T00:00\nb,2026-03-05\n'=c,2026-02-02\n")
    monitor = Monitor(naming_model)
    for name, time in (("a", "2026-03-02"), ("b", "2026-03-01")):
        monitor.append(SlideSummary(name, time, 9, {"light": 1.0}))
    told = "1 of 2 slides that are known have other times .* first 'b', 2026-03-01 for 2026-03-05"
    with pytest.warns(TableWarning, match=told):
        list(read_slides(naming_model, year, times=times, skip=monitor))


def test_a_control_set_that_no_slide_is_of_is_told(model, tmp_path):
    monitor = monitor_of(model, slides_of([1, 2, 3]), control=["s00*", "nomatch*"])
    with pytest.warns(TableWarning, match=r"no slide is named as the control set is, 'nomatch\*'"):
        write_monitor(monitor, tmp_path / "m.html")
    for control in (5, [None], ["a", 3]):
        with pytest.raises(ValueError, match="control must be names of slides, or patterns"):
            Monitor(model, control=control)


def test_a_file_is_held_against_a_second_run(tmp_path):
    state = tmp_path / "state.json"
    with held_file(state):
        with pytest.raises(ValueError, match=r"another run is writing into '.*state\.json'"):
            with held_file(state):
                pass
        with held_file(tmp_path / "other.json"):
            pass
    with held_file(state):
        state.write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
