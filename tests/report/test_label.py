"""The labelling page: what it holds, hostile names, a real browser up to the classifier learnt."""

import base64
import csv
import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser
from pages import HOSTILE, Page

import wbcprof
from wbcprof.analysis import spread_labels
from wbcprof.cli import main
from wbcprof.datasets import make_leukocytes, write_folder
from wbcprof.images import read_labels

TYPES = ["eosinophil", "lymphocyte", "neutrophil"]
N = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generated cells, not real data, in one folder that says nothing of their types."""
    cells = make_leukocytes(N // 3, size=72, types=TYPES, random_state=3)
    folder = write_folder(cells, tmp_path_factory.mktemp("label") / "cells")
    for path in sorted(folder.rglob("*.png")):
        path.rename(folder / path.name)
    return folder


@pytest.fixture(scope="module")
def made(model, folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "label.html"
    groups = wbcprof.write_label_page(
        model, folder, path, types=[*TYPES, "monocyte"], n_groups=6, note="Generated cells"
    )
    return groups, path


def places_of(data):
    """As the page's script reads them."""
    steps = np.frombuffer(base64.b64decode(data["places"]), np.int8)
    return steps.reshape(-1, len(data["scale"])) * np.array(data["scale"])


def test_what_is_on_the_page(made, folder):
    groups, path = made
    page = Page(path)
    data = page.data
    assert "Generated cells" in page.text
    assert f"{N} cells in 6 groups" in page.text
    assert sorted(data["id"]) == sorted(path.name for path in folder.glob("*.png"))
    assert data["group"] == groups.group.tolist() and data["types"] == [*TYPES, "monocyte"]
    assert np.abs(places_of(data) - groups.places).max() < np.abs(groups.places).max() / 250
    assert 0 <= min(data["x"]) and max(data["x"]) <= 800 and max(data["y"]) <= 600
    assert path.stat().st_size < 15e6 * N / 2000 + 200_000


def test_no_request_and_no_foreign_script(made):
    page = Page(made[1])
    assert not any(
        attributes.get("src", attributes.get("href", "#"))[0] not in "#d"
        for tag in ("script", "img", "link", "a", "iframe")
        for attributes in page.all(tag)
    )
    assert "default-src 'none'" in str(page.all("meta"))


def test_every_control_has_a_name(made):
    page = Page(made[1])
    labelled = {label["for"] for label in page.all("label") if "for" in label}
    for control in page.all("select") + page.all("input"):
        assert control.get("id") in labelled or control.get("type") in ("radio", "file")
    for element in page.all("canvas") + page.all("aside"):
        assert element["aria-label"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names(model, folder, tmp_path, hostile):
    path = tmp_path / "label.html"
    wbcprof.write_label_page(
        model, folder, path, types=[hostile, "b"], n_groups=2, title=hostile, note=hostile
    )
    page = Page(path)
    assert len(page.all("script")) == 2 and not page.all("img")
    assert not any("onmouseover" in a or "onerror" in a for _, a in page.elements)
    assert page.data["types"] == [hostile, "b"]


def test_names_come_from_the_model_or_are_those_of_blood(model, folder, tmp_path):
    path = tmp_path / "label.html"
    wbcprof.write_label_page(model, folder, path, n_groups=2)
    assert Page(path).data["types"][:2] == ["neutrophil", "lymphocyte"]
    for bad in (["a", "a"], ["a", None]):
        with pytest.raises(ValueError, match="types must be names, each once"):
            wbcprof.write_label_page(model, folder, path, types=bad)


def test_nothing_is_left_of_a_page_that_fails(model, folder, tmp_path):
    images = sorted(folder.glob("*.png"))[:9]
    with pytest.raises(ValueError, match="expected at least 10 cells to group, got 9"):
        wbcprof.write_label_page(model, images, tmp_path / "label.html")
    assert list(tmp_path.iterdir()) == []


def test_from_the_command_line(model, folder, tmp_path, capsys):
    model.save(tmp_path / "m.wbcprof")
    out = tmp_path / "label.html"
    options = ["--types", "small, large", "--groups", "3", "--title", "Generated"]
    command = ["label", tmp_path / "m.wbcprof", folder, "-o", out, *options]
    assert main(list(map(str, command))) == 0
    assert f"{N} cells in 3 groups: {out}" in capsys.readouterr().err
    assert Page(out).data["types"] == ["small", "large"] and "Generated" in Page(out).text


# ---- a real browser ----

browser_needed = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no headless browser: install chromium and chromedriver (Debian: chromium-driver)",
)


@pytest.fixture(scope="module")
def window():
    window = Browser()
    yield window
    window.close()


def open_page(window, path):
    window.open(path)
    while not window.run("return document.documentElement.dataset.ready"):
        time.sleep(0.05)


@pytest.fixture
def browser(window, made):
    open_page(window, made[1])
    window.run("localStorage.clear()")
    open_page(window, made[1])
    window.console()
    yield window
    assert window.console() == []


def truth(identity):
    return next(name for name in TYPES if name in identity)


def rows_of(browser):
    return list(csv.DictReader(io.StringIO(browser.run("return labelTable()"))))


def name_groups(browser, made, n):
    """Keys for the first groups, each by the type of its most typical cell."""
    data = Page(made[1]).data
    for group in range(n):
        assert browser.run("return target.g") == group
        first = truth(data["id"][made[0].typical(group, 1)[0]])
        browser.key(str(1 + TYPES.index(first)))


@browser_needed
def test_from_groups_to_a_classifier(browser, made, folder, tmp_path):
    """Five groups, a lasso, two single cells, one step back, labels.csv, fit --labels."""
    name_groups(browser, made, 5)
    assert len(browser.run("return Object.keys(state.names)")) == 5
    browser.run("at('plot').scrollIntoView()")
    box = browser.run(
        "const b = plot.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]"
    )
    left, top, width, height = box
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.45), (0.01, 0.45)]
    browser.drag(*((left + x * width, top + y * height) for x, y in corners))
    circled = browser.run("return selection")
    y = Page(made[1]).data["y"]
    assert sorted(circled) == [i for i in range(N) if 6 < y[i] < 270]
    browser.key("4")
    assert browser.run("return selection.every((i) => state.singles[i] === 3)")
    browser.key("z")
    assert browser.run("return state.singles") == {}

    browser.run("aim({ kind: 'group', g: 0 }); reveal()")
    browser.key("\ue014", "1")  # right arrow: the first cell, which is named; then the next one
    browser.key("2")
    moved = browser.run("return state.singles")
    assert sorted(moved.values()) == [0, 1]
    browser.key("z")
    assert list(browser.run("return state.singles").values()) == [0]
    browser.key("3")

    rows = rows_of(browser)
    assert len(rows) == N and set(rows[0]) == {"image", "label", "how"}
    hows = [row["how"] for row in rows]
    assert hows.count("single") == len(browser.run("return Object.keys(state.singles)")) == 2
    assert set(hows) <= {"group", "single", "suggested", ""}
    assert all(bool(row["label"]) == bool(row["how"]) for row in rows)
    table = tmp_path / "labels.csv"
    table.write_text(browser.run("return labelTable()"), encoding="utf-8")
    labelled = read_labels(table, folder)
    assert not labelled.strange
    named = [(i, label) for i, label in zip(labelled.ids, labelled.labels, strict=True) if label]
    right = sum(truth(image) == label for image, label in named)
    assert len(named) > 0.5 * N and right > 0.8 * len(named)
    learn = ["--signatures", "12", "--patch-size", "10", "--patches", "1000", "--max-iter", "1"]
    out = tmp_path / "m.wbcprof"
    assert main(["fit", str(folder), "--labels", str(table), "-o", str(out), *learn]) == 0
    assert wbcprof.load(out).classifier.classes_.tolist() == TYPES


@browser_needed
def test_calls_are_those_of_python(browser, made):
    groups, path = made
    name_groups(browser, made, 6)
    cell = groups.doubtful(0, 1)[0]
    browser.run("target = { kind: 'cell', i: arguments[0], where: 'map' }", cell)
    browser.key("2")
    data = Page(path).data
    names = {int(g): data["types"][t] for g, t in browser.run("return state.names").items()}
    twin = spread_labels(replace(groups, places=places_of(data)), names, {cell: "lymphocyte"})
    found = np.array(browser.run("return [...calls.p]")).reshape(N, -1)
    np.testing.assert_allclose(found, twin.probabilities, atol=1e-9)
    assert browser.run("return asked = ask()") == twin.ask_next(10)


@browser_needed
def test_doubts_are_answered_by_keyboard(browser, made):
    name_groups(browser, made, 6)
    assert browser.run("return at('step').textContent").startswith("All 6 groups have a name.")
    browser.key("g", "d")
    first = browser.run("return asked")
    assert browser.run("return document.activeElement.dataset.cell") == str(first[0])
    assert len(first) == 10
    browser.key("\ue007")  # Enter: the call is right
    browser.key("u")
    browser.key("2")
    singles = browser.run("return state.singles")
    assert singles == {str(first[0]): singles[str(first[0])], str(first[2]): 1}
    for _ in range(7):
        browser.key("1")
    later = browser.run("return asked")
    assert len(later) == 10 and not set(later) & set(first)  # the next round
    assert browser.run("return target.i") == later[0]


@browser_needed
def test_splitting_merging_leaving_out_and_undoing(browser, made):
    sizes = np.bincount(made[0].group)
    before = browser.run("return JSON.stringify(progress())")
    browser.key("s")
    order = browser.run("return state.order")
    assert order[:2] == [0, 6] and len(order) == 7
    parts = [browser.run("return membersOf(arguments[0]).length", g) for g in (0, 6)]
    assert sum(parts) == sizes[0] and min(parts) > 0
    browser.key("m", "\ue015", "m")  # down: into the next group, its other half
    assert browser.run("return state.order") == [6, 1, 2, 3, 4, 5]
    assert browser.run("return membersOf(6).length") == sizes[0]
    browser.key("x")
    rows = rows_of(browser)
    assert all(row["label"] == "" for row in rows)
    assert [row["how"] for row in rows].count("left out") == sizes[0]
    assert f"{sizes[0]} are left out" in browser.run("return at('done').textContent")
    browser.key("z", "z", "z")
    assert browser.run("return JSON.stringify(progress())") == before
    assert browser.run("return at('undo').disabled")


@browser_needed
def test_progress_is_kept_saved_and_loaded(browser, made):
    name_groups(browser, made, 2)
    browser.run("addType('plasma cell')")
    kept = browser.run("return JSON.stringify(progress())")
    open_page(browser, made[1])
    assert browser.run("return JSON.stringify(progress())") == kept
    assert browser.run("return state.types.at(-1)") == "plasma cell"
    browser.run("at('restart').click()")
    assert browser.run("return Object.keys(state.names)") == []
    assert browser.run("return restore(JSON.parse(arguments[0]))", kept)
    for change in (
        {"key": "another"},
        {"names": {"99": 0}},
        {"singles": {"-1": 0}},
        {"types": [3]},
    ):
        bad = json.dumps({**json.loads(kept), **change})
        assert not browser.run("return restore(JSON.parse(arguments[0]))", bad)
    assert not browser.run("return restore(null)")


@browser_needed
def test_brush_and_keyboard_on_the_map(browser):
    browser.run("document.querySelector('[value=brush]').click(); plot.scrollIntoView()")
    x, y = browser.run(
        "const b = plot.getBoundingClientRect();"
        "return [b.x + data.x[0] / 800 * b.width, b.y + data.y[0] / 600 * b.height]"
    )
    browser.drag((x, y), (x + 2, y + 2))
    assert 0 in browser.run("return selection")
    browser.run("at('clear').click(); plot.focus()")
    browser.key("\ue014", " ", "\ue012", " ")  # right, space, left, space
    assert len(browser.run("return selection")) == 2
    browser.key("1")
    assert list(browser.run("return state.singles").values()) == [0, 0]


@browser_needed
def test_names_with_formulae_stay_text(browser):
    browser.run("addType('=1+1')")
    browser.key("5")
    assert "'=1+1" in {row["label"] for row in rows_of(browser)}


@browser_needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone(made, scheme):
    browser = Browser()
    try:
        browser.resize(390, 844)
        browser.colours(scheme)
        open_page(browser, made[1])
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("return at('bar').offsetHeight < innerHeight / 3")
        browser.run("document.querySelector('#buttons button').click()")
        assert browser.run("return state.names[0]") == 0
        assert browser.console() == []
    finally:
        browser.close()
