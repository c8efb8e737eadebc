"""The page of smears: what it holds, hostile names, its size, and a real browser."""

import csv
import io
import time

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser
from pages import HOSTILE, Page
from PIL import Image

import wbcprof
from wbcprof.analysis.compare import cells_needed, exact_interval
from wbcprof.datasets import make_smear
from wbcprof.images import read_boxes

PIXEL = 0.2


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Generated fields, not real data, of two slides."""
    folder = tmp_path_factory.mktemp("fields")
    smear = make_smear(
        6, pixel_size=PIXEL, n_leukocytes=6, shares={"lymphocyte": 1, "neutrophil": 2},
        random_state=50,
    )  # fmt: skip
    for number, image in enumerate(smear.images):
        path = folder / ("one" if number < 4 else "two") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="module")
def made(smear_model, fields, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "smear.html"
    result = wbcprof.write_smear(
        smear_model, fields, path, pixel_size=PIXEL, false_alarms=0.02, note="Generated fields"
    )
    return result, path


def test_what_is_on_the_page(made):
    result, path = made
    page = Page(path)
    data = page.data
    assert "Generated fields" in page.text
    assert f"{len(result.cells)} leukocytes in 6 fields of 2 slides" in page.text
    assert [slide["name"] for slide in data["slides"]] == ["one", "two"]
    assert data["cells"]["id"] == [named.cell.cell_id for named in result.cells]
    assert all(uri.startswith("data:image/jpeg") for uri in data["fields"]["uri"])
    counts = [
        [sum(c == t and data["fields"]["slide"][f] == s for c, f in
             zip(data["cells"]["call"], data["cells"]["field"], strict=True)) for t in range(2)]
        for s in range(2)
    ]  # fmt: skip
    assert counts == [slide.counts.tolist() for slide in result.slides]
    for box, named in zip(data["cells"]["box"], result.cells, strict=True):
        assert box == pytest.approx(
            [named.cell.left, named.cell.top, named.cell.right, named.cell.bottom]
        )


def test_no_request_and_no_foreign_script(made):
    page = Page(made[1])
    assert not any(
        attributes.get("src", attributes.get("href", "#"))[0] not in "#d"
        for tag in ("script", "img", "link", "a", "iframe")
        for attributes in page.all(tag)
    )
    assert "default-src 'none'" in str(page.all("meta"))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names(smear_model, fields, tmp_path, hostile):
    image = np.asarray(Image.open(fields / "one" / "0.png"))
    path = tmp_path / "smear.html"
    wbcprof.write_smear(
        smear_model, [image], path, slides=[hostile], pixel_size=PIXEL, title=hostile, note=hostile
    )
    page = Page(path)
    assert len(page.all("script")) == 2 and not page.all("img")
    assert not any("onmouseover" in a or "onerror" in a for _, a in page.elements)
    assert page.data["slides"][0]["name"] == hostile.strip()


def test_many_cells_and_fields_stay_small(smear_model, fields, tmp_path, monkeypatch):
    from wbcprof.report import smear

    monkeypatch.setattr(smear, "_MOST_CELLS", 5)
    monkeypatch.setattr(smear, "_BYTES", 200_000)
    path = tmp_path / "smear.html"
    result = wbcprof.write_smear(smear_model, fields, path, pixel_size=PIXEL)
    data = Page(path).data
    assert len(data["cells"]["id"]) == len(result.cells)
    shown = [i for i, place in enumerate(data["cells"]["thumb"]) if place >= 0]
    assert len(shown) == 5
    assert 0 < sum(map(bool, data["fields"]["uri"])) < 6
    assert "to keep the page small" in Page(path).text
    doubts = sorted((named.doubt for named in result.cells), reverse=True)
    found = sorted((data["cells"]["doubt"][i] for i in shown), reverse=True)
    assert found == pytest.approx(doubts[:5], abs=1e-4)


def test_a_slide_without_leukocytes(smear_model, tmp_path):
    path = tmp_path / "smear.html"
    fields = [np.full((200, 200, 3), 240, np.uint8)] * 2
    wbcprof.write_smear(smear_model, fields, path, pixel_size=PIXEL)
    assert "0 leukocytes in 2 fields of 1 slide" in Page(path).text


def test_nothing_is_left_of_a_page_that_fails(smear_model, fields, tmp_path):
    path = tmp_path / "smear.html"
    with pytest.raises(ValueError, match="red cells are 2 px across"):
        wbcprof.write_smear(smear_model, fields, path, pixel_size=3.0)
    with pytest.raises(ValueError, match="these cells are not from"):
        wbcprof.write_smear(smear_model, [np.asarray(Image.open(p)) // 2 for p in
                            sorted(fields.rglob("*.png"))], path, pixel_size=PIXEL, strict=True,
                            slides=["one"] * 6)  # fmt: skip
    assert list(tmp_path.iterdir()) == []


# ---- a real browser ----

browser_needed = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no headless browser: install chromium and chromedriver (Debian: chromium-driver)",
)


@pytest.fixture
def browser(made):
    browser = Browser()
    browser.open(made[1])
    while not browser.run("return document.documentElement.dataset.ready"):
        time.sleep(0.05)
    browser.run("localStorage.clear()")
    yield browser
    assert browser.console() == []
    browser.close()


def shown(browser):
    """Counts of the table, as the page shows them."""
    rows = "[...document.querySelectorAll('#counts tbody tr')]"
    return browser.run(f"return {rows}.map((row) => Number(row.cells[1].textContent))")


def text(browser, name):
    return browser.run("return document.getElementById(arguments[0]).textContent", name)


@browser_needed
def test_limits_in_the_browser_are_those_of_python(browser):
    for count, total in ((0, 10), (3, 17), (100, 100), (5, 1000), (170, 300)):
        found = browser.run("return limits(arguments[0], arguments[1])", count, total)
        assert found == pytest.approx([float(v) for v in exact_interval(count, total)], abs=1e-9)
        needed = browser.run("return needed(arguments[0], arguments[1])", count, total)
        assert needed == int(cells_needed(count, total, 0.05))


@browser_needed
def test_corrections_by_keyboard(browser, made):
    slide = made[0].slides[0]
    before = slide.counts.tolist()
    assert shown(browser) == before
    browser.run("select(cells.call.findIndex((c, i) => c === 0 && slideOf(i) === 0))")
    browser.key("2")
    assert shown(browser) == [before[0] - 1, before[1] + 1]
    assert "For the calls before they were corrected" in text(browser, "corrected-note")
    browser.key("z")
    assert shown(browser) == before
    browser.run("select(cells.call.findIndex((c, i) => c === 1 && slideOf(i) === 0))")
    browser.key("x")
    assert shown(browser) == [before[0], before[1] - 1]
    assert f"1 of {slide.n_found} found are no leukocytes" in text(browser, "location")
    selected = browser.run("return selected")
    browser.key("\ue014")  # right arrow
    assert browser.run("return selected") != selected
    browser.key("u")
    assert sum(shown(browser)) in (sum(before) - 2, sum(before) - 1)


@browser_needed
def test_missed_cells_are_marked_and_counted(browser, made):
    before = made[0].slides[0].counts.tolist()
    found = made[0].slides[0].n_found
    browser.key("f")
    browser.key("m")
    browser.key("\ue014", "\ue014", "\ue015")  # right, right, down
    browser.key("\ue007")  # Enter
    assert f"{found} found, 1 marked as missed" in text(browser, "location")
    assert shown(browser) == before
    assert "1 marked cells have no type yet" in text(browser, "location")
    browser.key("1")
    assert shown(browser) == [before[0] + 1, before[1]]
    browser.key("x")
    assert shown(browser) == before and "0 marked as missed" in text(browser, "location")


@browser_needed
def test_marking_and_choosing_by_pointer(browser):
    browser.key("0")
    browser.run("view.scrollIntoView()")
    place = browser.run(
        "const r = document.querySelector('#view rect.cell').getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]"
    )
    browser.run("selected = -1")
    browser.pointer(*place, click=True)
    assert browser.run("return selected") >= 0
    browser.run("document.getElementById('mark').click()")
    corner = browser.run(
        "const r = document.querySelector('#view image').getBoundingClientRect();"
        "return [r.x + 5, r.y + 5]"
    )
    browser.pointer(*corner, click=True)
    assert browser.run("return missed.length") == 1
    x, y = browser.run("return [missed[0].x, missed[0].y]")
    assert 0 < x < 20 and 0 < y < 20


@browser_needed
def test_the_corrected_table_reads_back(browser, smear_model, fields, tmp_path):
    browser.run("select(0)")
    browser.key("2")
    browser.run("select(order().at(-1))")
    browser.key("x")
    browser.run("select(order().at(-2))")
    browser.key("u")
    table = browser.run("return cellTable()")
    rows = list(csv.DictReader(io.StringIO(table)))
    n = browser.run("return n")
    assert len(rows) == n - 1
    said = sorted(row["label"] for row in rows if row["by"] == "person")
    assert said == ["neutrophil", "unsure"]
    path = tmp_path / "corrected.csv"
    path.write_text(table, encoding="utf-8")
    boxes = read_boxes(path, fields)
    assert sum(map(len, boxes.values())) == n - 1
    again = tmp_path / "again.html"
    result = wbcprof.write_smear(
        smear_model, fields, again, boxes=path, pixel_size=PIXEL, false_alarms=0.02
    )
    for number, slide in enumerate(result.slides):  # what was counted on the page, to a cell
        counted = browser.run("return countOf(arguments[0])", number)
        assert counted["counts"] == slide.counts.tolist()
        assert counted["aside"]["-1"] == slide.n_unsure and counted["aside"]["-3"] == slide.n_cut
    data = Page(again).data["cells"]
    given = [data["call"][i] for i, said in enumerate(data["given"]) if said]
    assert sorted(given) == [-1, 1]  # left open, and named
    counts = list(csv.DictReader(io.StringIO(browser.run("return countTable()"))))
    assert sum(int(row["count"]) for row in counts if row["slide"] == "one") == sum(
        browser.run("return countOf(0).counts")
    )


@browser_needed
def test_every_cell_is_met_once_by_keyboard(browser):
    assert browser.run("return scrollY") == 0  # it opens at what is to be read first
    n = browser.run("return way.length")
    for i in range(n):
        assert browser.run("return selected") == browser.run("return way[arguments[0]]", i)
        browser.key("12ux"[i % 4])
    assert browser.run("return Object.keys(named).length") == n
    browser.key("s")
    assert browser.run("return [slide, slideOf(selected)]") == [1, 1]
    browser.key("s")
    assert browser.run("return slide") == 0


@browser_needed
def test_corrections_are_kept(browser, made):
    browser.run("select(0)")
    browser.key("2")
    browser.open(made[1])
    assert browser.run("return named[0]") == 1
    assert "1 cell checked by a person" in text(browser, "edited")


@browser_needed
def test_slides_are_apart(browser, made):
    browser.run(
        "document.getElementById('slide').value = '1';"
        "document.getElementById('slide').dispatchEvent(new Event('change'))"
    )
    assert shown(browser) == made[0].slides[1].counts.tolist()
    assert browser.run("return document.querySelectorAll('#overview li').length") == 2


@browser_needed
def test_narrow_pages_do_not_scroll_sideways(made):
    browser = Browser(size=(500, 900))
    browser.open(made[1])
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.close()
