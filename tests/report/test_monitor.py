"""The page of a monitor: what it says, hostile names, its size, and a real browser."""

import re
import time
from datetime import date, timedelta

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser
from pages import HOSTILE, Page

from wbcprof.analysis import Monitor, SlideSummary
from wbcprof.report import write_monitor

MEASURES = ["background_red", "background_green", "background_blue", "sharpness", "nucleus_density"]
TYPES = ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]


def year_of(model, n=300, lamp=0.0, names="S-{:04}", **settings):
    """Simulated slides, every fifth of the control set; a lamp that fades from the hundredth on."""
    random, monitor = np.random.default_rng(0), Monitor(model, control="control*", **settings)
    for i in range(n):
        counts = random.multinomial(100, random.dirichlet([3, 5, 60, 12, 120]))
        measures = {f"share of {t}": k / 100 for t, k in zip(TYPES, counts, strict=True)}
        measures["sureness"] = 0.9 + 0.01 * random.standard_normal()
        for name in MEASURES:
            fading = lamp * max(i - 100, 0) / 200 if name.startswith("background") else 0
            measures[name] = 200 * (1 + 0.02 * random.standard_normal() - fading)
        day = date(2026, 1, 1) + timedelta(days=i)
        name = f"control {i}" if i % 5 == 0 else names.format(i)
        monitor.append(SlideSummary(name, day.isoformat(), 100, measures))
    return monitor


def page_of(monitor, path, **options):
    write_monitor(monitor, path, **options)
    return Page(path)


@pytest.fixture(scope="module")
def faded(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("monitor") / "m.html"
    return page_of(year_of(model, lamp=0.15), path, note="Simulated, not real data"), path


def test_it_says_what_changed_since_when_and_what_to_do(faded):
    text = faded[0].text
    assert "Simulated, not real data" in text
    found = re.search(r"Something has changed: (\d+) of 22 charts lie beyond", text)
    assert 6 <= int(found[1]) <= 8
    assert "Check the lamp, exposure and white balance. background red has fallen" in text
    day = date.fromisoformat(re.search(r"by its average since S-\d+ \(([\d-]+)\)", text)[1])
    assert 100 < (day - date(2026, 1, 1)).days < 200
    assert "Check the batch of stain" not in text and "at most 1 slide in 300" in text


def test_nothing_changed_is_said_too(model, tmp_path):
    text = page_of(year_of(model), tmp_path / "m.html").text
    assert "every moving average lies within its limits (22 charts)" in text


def test_too_few_slides_cannot_tell(model, tmp_path):
    page = page_of(year_of(model, 19), tmp_path / "m.html")
    assert (
        "Nothing can be said yet: 19 slides of the 20 that set the baseline are there" in page.text
    )
    assert page.text.count("too few to judge by") == 22 and not page.all("svg")[5:]
    text = page_of(Monitor(model), tmp_path / "m.html").text
    assert "Nothing can be said yet: 0 slides" in text and "Flagged slides None." in text


def test_a_single_slide_unlike_the_others_is_named(model, tmp_path):
    monitor = year_of(model, 60)
    monitor.append(SlideSummary("odd", "2026-12-31", 100, {"sharpness": 300.0}))
    text = page_of(monitor, tmp_path / "m.html").text
    assert "The last slide, odd (2026-12-31), is by itself unlike the others in sharpness" in text


def test_what_came_back_is_told_as_earlier(model, tmp_path):
    monitor, random = Monitor(model), np.random.default_rng(0)
    for i, shift in enumerate([0] * 30 + [4] * 20 + [0] * 50):
        monitor.append(SlideSummary(f"s{i}", "", 9, {"light": shift + random.standard_normal()}))
    text = page_of(monitor, tmp_path / "m.html").text
    assert "Nothing has changed" in text
    assert re.search(r"Earlier, and no longer: light had risen from s3\d to s\d\d", text)


def test_one_file_that_asks_for_nothing_and_runs_nothing(faded):
    page, path = faded
    assert path.stat().st_size < 3_000_000 and not page.all("script")
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, name)
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_names_of_slides_and_measures_stay_text(model, tmp_path):
    monitor = Monitor(model)
    for i in range(40):
        name = f"{HOSTILE[i % 4]}{i}"
        measures = {f"{HOSTILE[0]} light": float(i % 3), f"share of {HOSTILE[1]}": 0.5}
        measures["sharpness"] = 1.0 if i < 39 else 9.0
        monitor.append(SlideSummary(name, "", 10, measures))
    page = page_of(monitor, tmp_path / "m.html", title=HOSTILE[1], note=HOSTILE[2])
    assert not page.all("script") and not page.all("img")
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert HOSTILE[0] in page.text and "{{ 7*7 }}" in page.text


def test_charts_stay_readable_whatever_the_values(model, tmp_path):
    random = np.random.default_rng(0)
    monitor = Monitor(model)
    for i in range(50):
        value = 1e9 if i == 45 else random.standard_normal()
        monitor.append(SlideSummary(f"s{i}", "", 10, {"a": value, "b": 3.0}))
    html = page_of(monitor, tmp_path / "m.html").html
    numbers = [
        float(n) for d in re.findall(r' d="([^"]*)"', html) for n in re.findall(r"[\d.-]+", d)
    ]
    assert min(numbers) >= 0 and max(numbers) <= 1000 and "nan" not in html


def test_a_bad_output_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_monitor(Monitor(model), tmp_path / "nowhere" / "m.html")


# ---- a real browser ----


@pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no headless browser: install chromium and chromedriver (Debian: chromium-driver)",
)
@pytest.mark.parametrize("width", [1280, 500])
def test_it_opens_at_once_and_fits(faded, width):
    browser = Browser(size=(width, 900))
    try:
        start = time.perf_counter()
        browser.open(faded[1])
        assert time.perf_counter() - start < 10 and browser.console() == []
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        sizes = browser.run(
            "return [...document.querySelectorAll('.chart svg')].map((s) => s.clientWidth)"
        )
        assert len(sizes) == 22 and min(sizes) > 250
        assert browser.run("return document.querySelectorAll('path.alarm title').length") > 50
    finally:
        browser.close()
