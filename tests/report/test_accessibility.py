"""Whether people who see little, or use a keyboard, can use the pages: the rules of axe-core (WCAG
2.1, levels A and AA) in a real browser, on desk and telephone, in light and dark."""

import time
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser

import wbcprof
from wbcprof.analysis import Monitor, SlideSummary
from wbcprof.datasets import make_leukocytes, make_smear
from wbcprof.report import write_monitor

pytestmark = [
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no headless browser: install chromium and chromedriver (Debian: chromium-driver)",
    ),
    pytest.mark.skipif(
        find_spec("axe_core_python") is None, reason="needs pip install 'wbcprof[test]'"
    ),
]


@pytest.fixture(scope="module")
def cells():
    return make_leukocytes(20, size=72, types=["lymphocyte", "neutrophil"], random_state=5)


def _report(path, smear_model, cells):
    labels = [*cells.labels[:-1], None]
    wbcprof.write_report(smear_model, cells.images, path, labels=labels)


def _calls(path, smear_model, cells):
    wbcprof.write_report(smear_model, cells.images, path)


def _label(path, smear_model, cells):
    wbcprof.write_label_page(smear_model, cells.images, path, n_groups=4)


def _smear(path, smear_model, cells):
    smear = make_smear(2, pixel_size=0.2, n_leukocytes=6, random_state=7)
    wbcprof.write_smear(smear_model, list(smear.images), path, pixel_size=0.2)


def _monitor(path, smear_model, cells):
    rng, monitor = np.random.default_rng(0), Monitor(smear_model)
    for day in range(30):
        measures = {"sureness": 0.9 + 0.01 * rng.standard_normal() - 0.02 * max(0, day - 20)}
        when = (date(2026, 1, 1) + timedelta(days=day)).isoformat()
        monitor.append(SlideSummary(f"slide {day}", when, 100, measures))
    write_monitor(monitor, path)


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.mark.filterwarnings("ignore::wbcprof.analysis.StrangeCellsWarning")
@pytest.mark.parametrize("write", [_report, _calls, _label, _smear, _monitor])
def test_no_rule_is_broken(write, smear_model, cells, browser, tmp_path):
    path = tmp_path / "page.html"
    write(path, smear_model, cells)
    axe = Path(find_spec("axe_core_python").origin).with_name("axe.min.js").read_text()
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            browser.resize(width, 900)
            browser.colours(scheme)
            browser.open(path)
            browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            browser.run(axe + "\nwindow.axe = axe;")
            browser.run(
                "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
                ".then((found) => { window.found = found; }, (e) => { window.found = String(e); })"
            )
            for _ in range(300):
                if browser.run("return Boolean(window.found)"):
                    break
                time.sleep(0.1)
            found = browser.run(
                "return found.violations.map((v) => [v.id, v.nodes.slice(0, 3).map((n) => n.html)])"
            )
            assert found == [], (width, scheme)
            assert browser.run("return found.passes.length") > 10
