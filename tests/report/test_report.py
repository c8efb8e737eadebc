"""The report: what is in the file, hostile names, sizes, bad input, and a real browser."""

import base64
import csv
import hashlib
import itertools
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser
from pages import HOSTILE, Page, undrawn
from PIL import Image

import wbcprof
from wbcprof.analysis import StrangeCellsWarning
from wbcprof.cli import main
from wbcprof.datasets import make_leukocytes, write_folder
from wbcprof.images import DuplicateWarning
from wbcprof.report import calls
from wbcprof.report import cells as report_cells
from wbcprof.report.cells import read_cells
from wbcprof.report.page import write_report


@pytest.fixture(scope="module")
def pooled():
    """Generated cells, and a model with two pools and a pyramid: 5 blocks of 12 columns each."""
    cells = make_leukocytes(8, size=72, types=("lymphocyte", "neutrophil", "monocyte"))
    settings = {
        "pools": ("mean", "max"),
        "levels": (1, 2),
        "centres": (),
        "n_patches": 1500,
        "max_iter": 2,
    }
    return cells, wbcprof.fit(cells.images, 12, 10, **settings)


@pytest.fixture(scope="module")
def page(pooled, tmp_path_factory):
    cells, model = pooled
    path = tmp_path_factory.mktemp("report") / "r.html"
    labels = list(cells.labels)
    labels[0] = None
    write_report(model, list(cells.images), path, labels=labels, note="Generated, not real data")
    return Page(path)


@pytest.fixture
def quick():
    with undrawn():
        yield


def quiet(done, of):
    pass


# ---- what is in the file ----


def test_one_file_that_asks_for_nothing_else(page):
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:image/", "#")), (tag, name, value[:80])
    assert set(re.findall(r"url\((.{11})", "".join(page.texts["style"]))) == {"data:image/"}
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = page.texts["script"][1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy and len(page.texts["script"]) == 2
    assert len(script.splitlines()) < 520


def test_pictures_have_alternative_text_and_decode(page):
    images = page.all("img")
    assert len(images) >= 14 and all(image["alt"] for image in images)
    for image in images:
        content = base64.b64decode(image["src"].split(",")[1])
        assert content.startswith((b"\x89PNG", b"\xff\xd8\xff", b"<?xml"))
    assert page.text.count("Not drawn") == 1
    assert "Not drawn: 23 scored cells say little of probabilities, 100 are needed." in page.text
    assert "Generated, not real data" in page.text


def test_map_data(page, pooled):
    cells, _ = pooled
    data = page.data
    n = len(cells.images)
    assert [t["name"] for t in data["types"]] == [
        "lymphocyte", "monocyte", "neutrophil", "unlabelled"
    ]  # fmt: skip
    assert np.bincount(data["label"]).tolist() == [7, 8, 8, 1]
    assert [t["shape"] for t in data["types"]] == [0, 1, 2, 3]
    for key in ("id", "x", "y", "near", "label", "call", "rival", "p", "why", "wrong"):
        assert len(data[key]) == n, key
    assert data["label"][0] == 3 and data["wrong"][0] == 0  # unlabelled: called, not scored
    assert all(0 <= x <= 800 for x in data["x"]) and all(0 <= y <= 600 for y in data["y"])
    for i in range(n):
        assert len(data["near"][i]) == 8 and i not in data["near"][i]
        assert 0 <= data["call"][i] < 3 and data["call"][i] != data["rival"][i]
        pulls = [abs(pull) for _, pull, _, _ in data["why"][i]]
        assert pulls == sorted(pulls, reverse=True)
        wrong = data["label"][i] < 3 and data["label"][i] != data["call"][i]
        assert data["wrong"][i] == wrong


def test_pooled_columns_belong_to_their_signature(page, pooled):
    _, model = pooled
    blocks = page.data["blocks"]
    parts = [f"L2R{r}C{c}" for r in (0, 1) for c in (0, 1)]
    assert blocks == ["mean", *[f"mean, {p}" for p in parts], "max", *[f"max, {p}" for p in parts]]
    assert len(model.feature_names) == len(blocks) * 12
    for reasons in page.data["why"]:
        assert len({s for s, *_ in reasons}) == 6  # each signature once
        assert all(0 <= s < 12 and 0 <= block < 10 for s, _, _, block in reasons)


def test_reasons_are_sums_over_pools(pooled):
    cells, model = pooled
    profiles = model.profile(cells.images)
    from wbcprof.analysis.compare import explain_calls

    classifier = wbcprof.TypeClassifier(C=1.0).fit(profiles.values, cells.labels)
    _, _, parts = explain_calls(classifier, profiles.values[:1])
    read = read_cells(model, cells.images, list(cells.labels), 0, 1)
    found = calls.Calls("", list(classifier.classes_), len(cells.images))
    calls._fill(found, classifier, read, np.array([0]), quiet)
    names = np.array(model.feature_names)
    for s, pull, _, _ in found.reasons[0]:
        columns = [f"Signature_{s + 1:04d}" in name for name in names]
        assert sum(columns) == 10
        assert pull == pytest.approx(parts[0, columns].sum())


def test_thumbnails_show_their_cell(page, pooled):
    cells, _ = pooled
    (sheet,) = re.findall(r"\.s0\{background-image:url\((.*?)\)", page.html)
    import io

    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.split(",")[1]))))
    info = page.data["sheet"]
    for i in (0, 7, 23):
        row, column = divmod(i, info["per_row"])
        side = info["side"]
        found = picture[row * side :, column * side :][:side, :side].astype(float)
        wanted = Image.fromarray(cells.images[i]).resize((side, side), Image.Resampling.BICUBIC)
        assert np.abs(found - np.asarray(wanted)).mean() < 6


def test_scores_are_those_of_the_calls(page):
    data = page.data
    scored = [i for i, label in enumerate(data["label"]) if label < 3]
    right = sum(data["label"][i] == data["call"][i] for i in scored)
    assert f"called as given {right / len(scored):.1%}" in page.text
    assert f"{len(scored) - right} of {len(scored)} scored cells" in page.text
    assert "Cross-validation in 5 parts" in page.text and "1 cells without a label" in page.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": ["a"]}, r"samples must map ids of images to names of samples, .*got \['a'\]"),
        ({"samples": "s.csv"}, "samples must map ids .*read_groups reads"),
        ({"strict": "no"}, "strict must be True or False, got 'no'"),
    ],
)
def test_options_of_another_kind_are_refused(pooled, tmp_path, options, message):
    cells, model = pooled
    with pytest.raises(ValueError, match=message):
        wbcprof.write_report(model, cells.images, tmp_path / "r.html", **options)


def test_attributes_are_named_beside_the_signatures_that_agree(pooled, tmp_path, quick):
    cells, model = pooled
    folder = write_folder(cells, tmp_path / "cells")
    model.save(tmp_path / "m")
    profiles = model.profile(folder)
    rows = [f"{name},{value},{'<b>' if value > np.median(profiles.values[:, 5]) else 'few'}"
            for name, value in zip(profiles.ids, profiles.values[:, 5], strict=True)]  # fmt: skip
    table = tmp_path / "noted.csv"
    table.write_text("\n".join(["image,size,granules", *rows]), encoding="utf-8")
    out = tmp_path / "r.html"
    given = ["report", str(tmp_path / "m"), str(folder), "-o", str(out)]
    assert main([*given, "--attributes", str(table)]) == 0
    page = Page(out)
    assert "Signatures in words" in page.text and "granules: <b> (24 cells)" in page.text
    first = page.text[page.text.index("size (24 cells)") :]
    assert first.index("no. 6") < first.index("+1.00") < first.index("q < 0.001")
    with pytest.raises(ValueError, match=r"none of the 24 images: expected ids such as"):
        write_report(model, folder, out, attributes={"size": {"elsewhere": 1.0}})


def test_samples_and_the_models_own_classifier(pooled, tmp_path):
    cells, model = pooled
    folder = write_folder(cells, tmp_path / "cells")
    labels = list(cells.labels)
    profiles = model.profile(folder)
    model.save(tmp_path / "plain")
    model.classifier = wbcprof.TypeClassifier().fit(profiles.values, profiles.labels)
    try:
        model.save(tmp_path / "m")
    finally:
        model.classifier = None
    with open(tmp_path / "s.csv", "w", newline="") as stream:
        rows = [(image_id, "blood <1>") for image_id in profiles.ids[: len(labels) - 1]]
        csv.writer(stream).writerows([("image", "sample"), *rows])
    out = tmp_path / "r.html"
    arguments = ["report", str(tmp_path / "m"), str(folder), "-o", str(out), "--calls", "model"]
    assert main([*arguments, "--samples", str(tmp_path / "s.csv"), "--title", "Ward 3"]) == 0
    page = Page(out)
    with pytest.raises(ValueError, match=r"expected ids such as '.*/.*\.png', got 'other\.png'"):
        write_report(model, folder, tmp_path / "n.html", samples={"other.png": "blood"})
    assert not (tmp_path / "n.html").exists()
    assert "classifier in the model file" in page.text and "Ward 3" in page.text
    assert "blood <1>" in page.text and "Per sample, by called type" in page.text
    assert "neutrophils are neutrophil; lymphocytes are lymphocyte" in page.text
    assert str(folder) not in page.html


def test_figures_are_written_as_files(pooled, tmp_path):
    cells, model = pooled
    labels = [f"../{label}" for label in cells.labels]
    folder, stages = tmp_path / "figures", {}
    write_report(
        model, cells.images, tmp_path / "r.html", labels=labels, figure_folder=folder,
        figure_format="svg", figure_width=85,
        progress=lambda stage, *at: stages.setdefault(stage, []).append(at),
    )  # fmt: skip
    found = {path.name for path in folder.iterdir()}
    wanted = "mosaic reconstructions profiles heatmap map lda learning f1 confusion exemplars"
    assert {f"{name}.svg" for name in wanted.split()} | {"response_1.svg"} <= found
    for path in folder.iterdir():
        width = float(re.search(r'<svg [^>]*width="([\d.]+)pt"', path.read_text())[1])
        assert width == pytest.approx(85 / 25.4 * 72, abs=0.1)
    assert list(stages) == ["profiling", "calling", "ranking signatures", "mapping", "drawing"]
    assert stages["profiling"][-1][0] == stages["calling"][-1][0] == 24
    assert len(stages["drawing"]) > 10 and stages["drawing"][-1] == (len(found),) * 2
    assert {path.name for path in tmp_path.iterdir()} == {"r.html", "figures"}


def test_the_command_tells_of_each_stage(pooled, tmp_path, capsys):
    cells, model = pooled
    folder, out = write_folder(cells, tmp_path / "cells"), tmp_path / "r.html"
    model.save(tmp_path / "m")
    command = ["report", str(tmp_path / "m"), str(folder), "-o", str(out)]
    assert main([*command, "--figure-format", "png"]) == 1
    assert "give --figures DIR" in capsys.readouterr().err
    figures = tmp_path / "figures"
    options = ["--figures", figures, "--figure-format", "png", "--figure-width", "60"]
    assert main([*command, *map(str, options)]) == 0
    told = capsys.readouterr().err.splitlines()
    for stage in ("profiling", "calling", "ranking signatures", "mapping", "drawing"):
        assert stage in told
    with Image.open(figures / "f1.png") as picture:
        assert picture.width == pytest.approx(60 / 25.4 * 300, abs=1)


@pytest.mark.usefixtures("quick")
def test_types_without_a_cell_have_dashes(page, pooled, tmp_path, monkeypatch):
    cells, model = pooled
    profiles = model.profile(cells.images)
    classifier = wbcprof.TypeClassifier().fit(profiles, cells.labels)
    monkeypatch.setattr(model, "classifier", classifier)
    labels = [None if name == "monocyte" else name for name in cells.labels]
    write_report(model, cells.images, tmp_path / "r.html", labels=labels, calls="model")
    text = Page(tmp_path / "r.html").text
    assert re.search(r"monocyte \u2013 \u2013 \d\.\d{3} 0 ", text)
    assert re.search(r"monocyte \u2013 n = 0 ", text)
    assert "0.000 0.000" not in text and not re.search(r"\bnan", text)
    average = float(re.search(r"average of types (\d\.\d{3})", text)[1])
    assert average == 1  # of those there are: the classifier has seen them


# ---- cells without labels, the usual case ----


@pytest.fixture(scope="module")
def unlabelled(smear_model, cells, tmp_path_factory):
    """A page of cells without labels, of two known types and of four others."""
    path = tmp_path_factory.mktemp("unlabelled") / "r.html"
    with undrawn(), pytest.warns(StrangeCellsWarning):
        write_report(smear_model, cells.images, path)
    return Page(path)


def headings(page):
    return re.findall(r"<section id=\"([\w-]+)", page.html)


def test_without_labels_the_page_opens_on_calls(unlabelled):
    page = unlabelled
    assert headings(page) == ["count", "by-call", "map", "signatures", "methods"]
    count = page.html[page.html.index('id="count"') : page.html.index('id="by-call"')]
    assert re.search(r"lymphocyte</th><td>\d+\.\d%<small>\d+\.\d% to \d+\.\d%, n = \d+", count)
    strange = page.data["strange"]
    n_set_aside = sum(how != "" for how in strange)
    assert n_set_aside and f"{n_set_aside} cells that are unsure or unlike any type" in page.text
    titles = re.findall(r"<h3>(.*?)</h3>", page.html[page.html.index('id="by-call"') :])
    wanted = [
        title
        for how, title in (
            ("unsure", "Unsure, between two types"),
            ("unlike", "Unlike any known type"),
        )
        if how in strange
    ]
    assert titles[: len(wanted)] == wanted and titles[len(wanted)] == "lymphocyte"


def test_without_labels_nothing_is_claimed_to_be_true(unlabelled):
    page = unlabelled
    assert not re.search(r"\btrue\b|\bgiven\b|misclassified|unlabelled", page.shown, re.I)
    assert page.data["labelled"] is False and not any(page.data["wrong"])
    assert all(call >= 0 for call in page.data["call"])
    assert "nothing can be scored" in page.text and "it named" in page.text
    names = [name for name in ("lymphocyte", "neutrophil") if name in page.text]
    assert len(names) == 2 and "as called" in page.text


def test_galleries_begin_with_the_least_sure(unlabelled):
    page = unlabelled
    part = page.html[page.html.index("<h3>lymphocyte</h3>") :].split("</ul>")[0]
    sure = [float(p) for p in re.findall(r"<b>lymphocyte \((\d\.\d\d)\)", part)]
    assert sure and sure == sorted(sure)
    shown = [int(i) for i in re.findall(r'data-cell="(\d+)"', part)]
    types = [page.data["types"][page.data["call"][i]]["name"] for i in shown]
    assert set(types) == {"lymphocyte"} and not any(page.data["strange"][i] for i in shown)


@pytest.mark.usefixtures("quick")
def test_without_types_the_page_opens_on_the_least_alike(pooled, tmp_path):
    cells, model = pooled
    images = [*cells.images[:9], np.roll(cells.images[9][::-1], 30, axis=1)]
    write_report(model, images, tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert headings(page) == ["by-call", "map", "signatures", "methods"]
    assert "Cells least like the others" in page.text and "no type is known or called" in page.text
    assert not re.search(r"\btrue\b|misclassified|by call\b", page.shown, re.I)


def test_few_labels_do_not_replace_what_the_model_knows(smear_model, cells):
    """Ten labelled cells of hundreds were learnt from, and named all others."""
    labels = np.array(cells.labels, dtype=object)
    labels[np.arange(48) % 3 > 0] = None
    read = read_cells(smear_model, cells.images, list(labels), 0, 1)
    found = calls.call_cells(smear_model, read, "cross-validated", 0, quiet)
    assert found.types == ["lymphocyte", "neutrophil"] and len(found.scored) > 0


# ---- names that would be markup ----


@pytest.fixture(scope="module")
def hostile_report(pooled, tmp_path_factory):
    cells, model = pooled
    folder = tmp_path_factory.mktemp("hostile")
    paths, labels, samples = [], [], {}
    for i, image in enumerate(cells.images):
        place = folder / f"{i}{HOSTILE[0].split('/')[0]}"
        place.mkdir()
        path = place / f"script>{HOSTILE[2]}$\u2028.png"
        Image.fromarray(image).save(path)
        paths.append(path)
        # A known number of mistakes for the gallery: types that nothing tells apart.
        labels.append(HOSTILE[i % len(HOSTILE)])
        samples[str(path)] = HOSTILE[i % 2]
    out = folder / "r.html"
    write_report(model, paths, out, labels=labels, samples=samples, title=HOSTILE[0],
                 note=HOSTILE[1])  # fmt: skip
    return out


def test_hostile_names_are_text(hostile_report):
    page = Page(hostile_report)
    assert [attributes.get("type") for attributes in page.all("script")] == [
        "application/json",
        None,
    ]
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert sorted(t["name"] for t in page.data["types"]) == sorted(h.strip() for h in HOSTILE)
    block = page.texts["script"][0]
    assert not set("<>&\u2028") & set(block)
    for name in HOSTILE:
        assert " ".join(name.split()) in page.text
    assert "49" not in "".join(re.findall(r"&amp; (\S+)", page.html))
    captions = " ".join(image["alt"] for image in page.all("img"))
    assert any(name in captions for name in HOSTILE)  # in an attribute, as text


# ---- sizes and bad input ----


@pytest.mark.usefixtures("quick")
def test_many_cells_are_sampled_and_it_says_so(pooled, tmp_path, monkeypatch):
    cells, model = pooled
    monkeypatch.setattr(report_cells, "_MAP_CELLS", 10)
    write_report(model, cells.images, tmp_path / "r.html", labels=list(cells.labels))
    page = Page(tmp_path / "r.html")
    assert len(page.data["x"]) == 10 and "Of 24 cells, 10 drawn at random" in page.text
    assert "24 scored cells" in page.text


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.usefixtures("quick")
def test_few_images(pooled, tmp_path, n):
    cells, model = pooled
    write_report(model, list(cells.images[:n]), tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert len(page.data["x"]) == n and page.data["call"] == [-1] * n
    assert "No image has a type" in page.text and "no cell is called" in page.text
    assert all(np.isfinite(page.data["x"]))


@pytest.mark.usefixtures("quick")
def test_one_type(pooled, tmp_path):
    cells, model = pooled
    write_report(model, cells.images[:8], tmp_path / "r.html", labels=["a"] * 8)
    page = Page(tmp_path / "r.html")
    assert "1 found" in page.text and "LDA needs at least 2 types" in page.text
    assert "100.0%" in page.text  # the count


def test_a_type_of_one_cell_and_hundreds_of_types(pooled, tmp_path):
    cells, model = pooled
    labels = ["a"] * 8 + ["b"] * 8 + ["c"] + ["d"] * 7
    with undrawn():
        write_report(model, cells.images, tmp_path / "r.html", labels=labels)
    page = Page(tmp_path / "r.html")
    assert sum(page.data["wrong"][16:17]) == 0 and "types with fewer than 5" in page.text
    many = np.concatenate([cells.images] * 13)[:300]
    write_report(model, many, tmp_path / "m.html", labels=[f"type {i}" for i in range(300)])
    page = Page(tmp_path / "m.html")
    assert len(page.data["types"]) == 300 and "284 more are not" in page.text
    assert (tmp_path / "m.html").stat().st_size < 15e6


@pytest.mark.usefixtures("quick")
def test_images_all_alike(pooled, tmp_path):
    cells, model = pooled
    same = np.repeat(cells.images[:1], 12, axis=0)
    write_report(model, same, tmp_path / "r.html", labels=["a", "b"] * 6)
    page = Page(tmp_path / "r.html")
    assert "nothing to embed" in page.text and "cannot be told apart" in page.text


def test_no_group_nor_copy_is_called_by_its_own(pooled, tmp_path):
    cells, model = pooled
    images = [*cells.images, *(np.ascontiguousarray(image[::-1]) for image in cells.images[:4])]
    labels = [*cells.labels, *cells.labels[:4]]
    groups = np.r_[np.arange(24) % 4, [9] * 4]  # those of which a copy brings together
    with pytest.warns(DuplicateWarning, match="4 of 28 images are near-identical to an earlier"):
        read = read_cells(model, images, labels, 0, 1, groups)
        found = calls.call_cells(model, read, "cross-validated", 0, quiet)
    assert "No cross-validation: whole groups leave no two parts" in found.note

    groups = np.r_[np.arange(24) % 12, np.arange(4)]
    with pytest.warns(DuplicateWarning):
        read = read_cells(model, iter(images), iter(labels), 0, 1, groups)
        found = calls.call_cells(model, read, "cross-validated", 0, quiet)
    assert "No group, of the 12 given, lies in several parts. 4 images near-id" in found.note
    assert len(found.folds) > 1 and sorted(np.concatenate(found.folds)) == list(range(28))
    for one, other in itertools.combinations(found.folds, 2):
        assert not set(groups[one]) & set(groups[other])


@pytest.mark.usefixtures("quick")
def test_a_type_in_one_group_is_called_but_not_scored(pooled, tmp_path):
    cells, model = pooled
    groups = {f"image_{n:06d}": n if n < 16 else "one" for n in range(24)}
    out = tmp_path / "r.html"
    write_report(model, cells.images, out, labels=list(cells.labels), groups=groups)
    text = Page(out).text
    assert "8 cells without a label, or of types with fewer than 5 cells or in one group" in text
    assert "Of 16" in text or "of 16 scored cells" in text
    for wrong, error in (([1] * 5, ValueError), ("folder:1", TypeError)):
        with pytest.raises(error, match="groups"):
            write_report(model, cells.images, out, labels=list(cells.labels), groups=wrong)


@pytest.mark.usefixtures("quick")
def test_two_layers_have_no_pictures_of_signatures(pooled, tmp_path):
    cells, _ = pooled
    stack = [{"n_signatures": 6, "n_patches": 500}]
    model = wbcprof.fit(cells.images, 8, 8, n_patches=1000, max_iter=1, stack=stack)
    write_report(model, iter(cells.images), tmp_path / "r.html", labels=list(cells.labels))
    page = Page(tmp_path / "r.html")
    assert page.data["tiles"] is None and "Signatures of the first layer" in page.text
    assert "signatures 6" in page.text and "unlabelled" not in page.text


def test_a_failure_leaves_the_earlier_file(pooled, tmp_path):
    cells, model = pooled
    path = tmp_path / "r.html"
    path.write_text("earlier")
    with pytest.raises(ValueError, match="needs a model with a classifier"):
        write_report(model, cells.images, path, calls="model")
    with pytest.raises(ValueError, match="usable"):
        write_report(model, np.zeros((2, 4, 4, 3), np.uint8), path)
    with pytest.raises(ValueError, match="cross-validated"):
        write_report(model, cells.images, path, calls="guess")
    assert path.read_text() == "earlier" and os.listdir(tmp_path) == ["r.html"]


def test_samples_without_their_columns(pooled, tmp_path, capsys):
    cells, model = pooled
    folder = write_folder(cells, tmp_path / "cells")
    model.save(tmp_path / "m")
    (tmp_path / "s.csv").write_text("a,b\n1,2\n")
    arguments = ["report", tmp_path / "m", folder, "-o", tmp_path / "r.html"]
    assert main([str(a) for a in [*arguments, "--samples", tmp_path / "s.csv"]]) == 1
    assert "a column sample or" in capsys.readouterr().err


# ---- a real browser ----

browser_needed = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no headless browser: install chromium and chromedriver (Debian: chromium-driver)",
)
ARTEFACTS = Path(os.environ.get("WBCPROF_ARTEFACTS", tempfile.gettempdir())) / "wbcprof-report"


def open_report(path, *arguments):
    """Browser with the report open, and seconds until it could be used."""
    browser = Browser(*arguments)
    start = time.perf_counter()
    browser.open(path)
    while not browser.run("return document.documentElement.dataset.ready"):
        time.sleep(0.01)
    return browser, time.perf_counter() - start


def where(browser, i):
    """Centre of a point of the map, in the window."""
    return browser.run(
        "plot.scrollIntoView(); const r = points[arguments[0]].getBoundingClientRect();"
        "return [r.x + r.width / 2, r.y + r.height / 2]", i
    )  # fmt: skip


def visible(browser):
    return browser.run("return points.filter((p) => p.style.display !== 'none').length")


@pytest.fixture(scope="module")
def browsed(pooled, tmp_path_factory):
    """Real cells where there are any, else generated ones; a browser with their report open."""
    folder = tmp_path_factory.mktemp("browsed")
    real = Path(__file__).resolve().parents[3] / "shared" / "data" / "pbc"
    if real.is_dir():
        images = [p for d in sorted(real.iterdir()) if d.is_dir() for p in sorted(d.glob("*"))[:5]]
        labels = [path.parent.name for path in images]
        model = wbcprof.fit(images, 16, 16, n_patches=1500, max_iter=2)
        note = ""
    else:
        cells, model = pooled
        images, labels, note = list(cells.images), list(cells.labels), "Generated cells"
    path = folder / "r.html"
    write_report(model, images, path, labels=labels, note=note)
    browser, _ = open_report(path)
    yield browser, Page(path).data
    browser.close()


@browser_needed
def test_hover_shows_the_cell(browsed):
    browser, data = browsed
    browser.pointer(*where(browser, 3))
    name = browser.run("return tip.hidden ? '' : tip.textContent")
    hovered = browser.run("return current")
    assert data["id"][hovered] in name and "Given: " in name
    assert (data["x"][hovered] - data["x"][3]) ** 2 + (data["y"][hovered] - data["y"][3]) ** 2 < 4
    style = browser.run("return getComputedStyle(tip.querySelector('.thumb')).backgroundImage")
    assert style.startswith('url("data:image/jpeg')
    browser.run("window.scrollTo(0, 0)")
    browser.pointer(2, 2)
    assert browser.run("return tip.hidden")


@browser_needed
def test_click_shows_neighbours_and_reasons(browsed):
    browser, data = browsed
    browser.pointer(*where(browser, 5), click=True)
    i = browser.run("return selected")
    assert data["id"][i] in browser.run("return panel.textContent")
    assert browser.run("return panel.querySelectorAll('.row button').length") == len(
        data["near"][i]
    )
    assert browser.run("return panel.querySelectorAll('.why .bar').length") == len(data["why"][i])
    own = sum(spread > 0 for _, _, spread, _ in data["why"][i])
    n_rings = own + len(data["why"][i]) * len(data["rivals"][i])
    assert browser.run("return panel.querySelectorAll('.here').length") == n_rings > 0
    assert all(
        len(places) == 1 + len(data["rivals"][i]) and 0 <= min(map(min, places))
        and max(map(max, places)) <= 1000
        for places in data["places"][i]
    )  # fmt: skip
    assert browser.run("return panel.querySelector('.why').textContent").startswith("No. ")
    browser.run("panel.querySelector('.row button').click()")
    assert browser.run("return selected") == data["near"][i][0]
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    browser.screenshot(ARTEFACTS / "report.png")
    print(f"screenshot: {ARTEFACTS / 'report.png'}")


@browser_needed
def test_filters(browsed):
    browser, data = browsed
    n = len(data["x"])
    assert visible(browser) == n
    browser.run("document.querySelector('#types input').click()")
    assert visible(browser) == n - data["label"].count(0)
    browser.run("at('none').click()")
    assert visible(browser) == 0
    browser.run("at('all').click(); at('wrong').click()")
    assert visible(browser) == sum(data["wrong"])
    browser.run("at('wrong').click()")
    fill = "return points.map((p) => p.getAttribute('fill'))"
    given = browser.run(fill)
    browser.run("at('colour').value = 'call'; at('colour').dispatchEvent(new Event('change'))")
    called = browser.run(fill)
    assert [a != b for a, b in zip(given, called)] == [bool(w) for w in data["wrong"]]
    browser.run("at('colour').value = 'label'; at('colour').dispatchEvent(new Event('change'))")


@browser_needed
def test_keyboard(browsed):
    browser, _ = browsed
    browser.run("plot.focus(); hover(-1); selected = -1")
    right, enter, escape = "\ue014", "\ue007", "\ue00c"
    browser.key(right)
    start = browser.run("return current")
    assert start >= 0
    browser.key(right)
    assert browser.run("return data.x[current] - data.x[arguments[0]]", start) >= 0
    assert browser.run("return at('announce').textContent")
    browser.key(enter)
    assert browser.run("return selected === current && selected >= 0")
    browser.key(escape)
    assert browser.run("return tip.hidden")


@browser_needed
def test_gallery_selects(browsed):
    browser, data = browsed
    if not sum(data["wrong"]):
        pytest.skip("no cell was misclassified")
    browser.run("document.querySelector('[data-cell]').click()")
    assert data["wrong"][browser.run("return selected")] == 1
    assert "not the given type" in browser.run("return panel.textContent")


@browser_needed
def test_nothing_on_the_console_and_prints(browsed):
    browser, _ = browsed
    assert browser.console() == []
    assert browser.pdf().startswith(b"%PDF")


@browser_needed
def test_hostile_names_in_the_browser(hostile_report):
    browser, _ = open_report(hostile_report)
    try:
        browser.run("hover(0); select(1)")
        for where_ in ("return tip.textContent", "return panel.textContent"):
            assert "<script" in browser.run(where_) or "onmouseover" in browser.run(where_)
        assert browser.run("return document.querySelectorAll('script').length") == 2
        assert browser.run("return document.querySelectorAll('img[src=x]').length") == 0
        browser.run("document.querySelectorAll('*').forEach((e) => "
                    "e.dispatchEvent(new Event('mouseover')))")  # fmt: skip
        assert browser.run("return window.hacked === undefined")
        assert browser.console() == []
    finally:
        browser.close()


@browser_needed
def test_the_map_of_cells_without_labels(unlabelled, tmp_path):
    path = tmp_path / "r.html"
    path.write_text(unlabelled.html, encoding="utf-8")
    browser, _ = open_report(path)
    try:
        data = unlabelled.data
        fills = set(browser.run("return points.map((p) => p.getAttribute('fill'))"))
        assert fills == {data["types"][call]["colour"] for call in data["call"]}
        assert len(set(browser.run("return points.map((p) => p.getAttribute('d'))"))) == len(fills)
        browser.run("hover(0); select(0)")
        for text in browser.run("return [tip.textContent, panel.textContent]"):
            assert "called" in text or "unsure" in text or "unlike" in text
            assert "Given" not in text and "unlabelled" not in text
        assert browser.run("return at('wrong').closest('label').offsetWidth") == 0
        browser.run("at('doubtful').click()")
        assert visible(browser) == sum(how != "" for how in data["strange"])
        browser.run("document.querySelector('[data-cell]').click()")
        assert data["strange"][browser.run("return selected")]
        assert browser.console() == []
    finally:
        browser.close()


@browser_needed
@pytest.mark.parametrize("side", [390, 1280])
def test_dark_mode(page, tmp_path, side):
    path = tmp_path / "r.html"
    path.write_text(page.html, encoding="utf-8")
    browser, _ = open_report(path, "--blink-settings=preferredColorScheme=0")
    try:
        colours = browser.run(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        back, text = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in colours)
        assert back < 60 and text > 200
        browser.resize(side, 900)
        browser.run("document.querySelectorAll('figure img').forEach((i) => i.decoding = 'sync')")
        assert browser.run("return document.documentElement.scrollWidth") <= side
        for name in ("F1", "Mosaic", "Clustered"):
            browser.run("document.querySelector(`img[alt*='${arguments[0]}']`)"
                        ".scrollIntoView({block: 'center'})", name)  # fmt: skip
            browser.screenshot(tmp_path / "dark.png")
            with Image.open(tmp_path / "dark.png") as shot:
                pixels = np.asarray(shot.convert("L"))
            assert np.median(pixels) < 60 and (pixels > 240).mean() < 0.2, name
    finally:
        browser.close()


@browser_needed
def test_a_thousand_cells_open_in_two_seconds(pooled, tmp_path):
    cells, model = pooled
    rng = np.random.default_rng(0)
    images = np.concatenate([cells.images] * 42)[:1000]
    noise = rng.integers(-12, 13, images.shape)  # noise packs worst
    images = np.clip(images + noise, 0, 255).astype(np.uint8)
    path = tmp_path / "r.html"
    write_report(model, images, path, labels=list(np.tile(cells.labels, 42)[:1000]))
    assert path.stat().st_size < 15e6
    times = []
    for _ in range(3):  # the best of three, as the machine may be busy
        browser, seconds = open_report(path)
        browser.close()
        times.append(seconds)
    seconds = min(times)
    print(f"1,000 cells: {path.stat().st_size / 1e6:.1f} MB, ready after {seconds:.2f} s")
    assert seconds < 2


def test_names_of_cells_are_made_once(pooled):
    """Absolute paths were walked for every cell: minutes for thousands."""
    cells, model = pooled
    read = read_cells(model, cells.images, None, 0, 1)
    read.ids = [f"/data/slide/{name}" for name in read.ids]
    assert read.names[0] == "image_000000" and read.names is read.names


def test_cells_that_are_all_alike_are_not_cross_validated(pooled):
    cells, model = pooled
    images = np.repeat(cells.images[:1], 12, axis=0)
    read = read_cells(model, images, ["a"] * 6 + ["b"] * 6, 0, 1)
    found = calls.call_cells(model, read, "cross-validated", 0, quiet)
    assert "all profiles are the same" in found.note and not found.types


def test_charts_are_lines_in_their_own_colours_and_dark_ones_on_dark(page):
    figures = re.findall(r"<figure>(.*?)</figure>", page.html, flags=re.S)
    charts = [figure for figure in figures if 'class="chart"' in figure]
    assert len(charts) >= 5
    for chart in charts:
        light, dark = (
            base64.b64decode(re.search(rf'{where}="data:image/[^,]*,([^"]*)"', chart)[1])
            for where in ("src", "srcset")
        )
        if light.startswith(b"<?xml"):
            assert b"#1e242a" in dark and b"#1e242a" not in light
            kept = set(re.findall(rb"#(?:0072b2|e69f00|009e73)", light))
            assert kept <= set(re.findall(rb"#(?:0072b2|e69f00|009e73)", dark))


@browser_needed
def test_cells_are_chosen_by_a_line_and_saved(browsed):
    browser, data = browsed
    chosen = browser.run(
        "choose([...points.keys()].filter((i) => isInside([data.x[i], data.y[i]], "
        "[[0, 0], [800, 0], [800, 300], [0, 300]]))); return [...chosen]"
    )
    assert sorted(chosen) == [i for i, y in enumerate(data["y"]) if y < 300]
    browser.run("window.saved = []; download = (text, name) => saved.push([name, text])")
    browser.run("panel.querySelector('button').click()")
    ((name, text),) = browser.run("return saved")
    assert name == "chosen.csv"
    rows = text.strip().split("\r\n")
    assert rows[0] == "image,given,called,probability,strange" and len(rows) == 1 + len(chosen)
    browser.run(
        "panel.querySelector('input').value = ' basophil ';"
        "panel.querySelector('form').requestSubmit()"
    )
    browser.run("choose([arguments[0]])", chosen[0])
    browser.run(
        "panel.querySelector('input').value = '=eosinophil'; "
        "panel.querySelector('form').requestSubmit(); "
        "document.getElementById('labels').click()"
    )
    name, text = browser.run("return saved[1]")
    rows = list(csv.reader(text.splitlines()))
    assert name == "labels.csv" and rows[0] == ["image", "label", "how"]
    assert len(rows) == 1 + len(chosen)
    assert {tuple(row) for row in rows[1:]} == {
        (data["id"][i], *(("'=eosinophil", "single") if i == chosen[0] else ("basophil", "group")))
        for i in chosen
    }
    browser.run("choose([])")
    assert not browser.run("return document.querySelectorAll('.chosen').length")


@browser_needed
def test_every_table_is_saved_as_it_is_read(browsed):
    browser, _ = browsed
    browser.run("window.saved = []; download = (text, name) => saved.push([name, text])")
    browser.run(
        "document.querySelectorAll('.save').forEach((b) => b.textContent === 'CSV' && b.click())"
    )
    saved = dict(browser.run("return saved"))
    assert len(saved) == browser.run("return document.querySelectorAll('main table').length")
    scores = next(text for name, text in saved.items() if name.startswith("each-type-against"))
    assert scores.startswith("type,F1,sensitivity,specificity,cells\r\n")
    counts = next(text for name, text in saved.items() if name.startswith("all-cells"))
    assert re.search(r'lymphocyte,"[\d.]+% \([\d.]+% to [\d.]+%, n = \d+\)"', counts)
