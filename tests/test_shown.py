"""Public objects tell of themselves in five lines, and as a table in notebooks."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator

import wbcprof
from wbcprof import compare
from wbcprof._shown import Shown
from wbcprof.analysis import (
    Monitor,
    SlideSummary,
    check_set,
    count_smears,
    name_cells,
    suggest,
    summarise,
)
from wbcprof.datasets import make_smear
from wbcprof.images import open_fields, open_images
from wbcprof.model.machines import TypeMachines
from wbcprof.scale import ShardedProfiles
from wbcprof.smear import cut_out, find_leukocytes, measure_slides


@pytest.fixture(scope="module")
def objects(smear_model, cells):
    profiles = smear_model.profile(cells.images, labels=cells.labels)
    small = {"n_signatures": 4, "patch_size": 8, "n_patches": 200, "max_iter": 1, "augment": 0}
    groups = np.repeat(["a", "b"], 24)
    samples = np.repeat([f"s{i}" for i in range(6)], 8)
    smear = make_smear(2, pixel_size=0.2, n_leukocytes=4)
    counted = count_smears(smear_model, smear.images, pixel_size=0.2)
    monitor = Monitor(smear_model)
    monitor.append(summarise(smear_model, profiles, "monday"))
    fields = open_fields(smear.images)
    x = np.linspace(0.1, 0.9, 12)
    y = x + 0.01 * np.sin(30 * x)
    count = compare.differential_count(cells.labels, samples)
    ruler = next(iter(measure_slides(fields, 0.2).values()))
    found = cut_out(next(iter(fields.read())), ruler)
    return [
        smear_model, TypeMachines.from_arrays(*smear_model.classifier.to_arrays()),
        smear_model.normaliser, smear_model.instrument,
        smear_model.pooling, profiles, cells, smear, counted, counted.slides[0], counted.cells[0],
        counted.fields[0], counted.check, monitor, monitor.slides[0], fields, ruler,
        next(iter(fields.read())), found, found.cells[0],
        find_leukocytes(smear.images[0], 37.5)[0], ShardedProfiles(Path("shards"), 3, 3, 0, 1),
        open_images(cells.images, cells.labels), name_cells(smear_model, profiles),
        check_set(smear_model, profiles), suggest(smear_model, profiles, 1)[0], count,
        compare.differential_signatures(profiles, groups),
        compare.associate(profiles, samples, {f"s{i}": float(i) for i in range(6)}),
        compare.bland_altman(x, y), compare.concordance(x, y), compare.passing_bablok(x, y),
        compare.correct_count([5, 3], [[9, 1], [1, 9]], ["a", "b"]),
        wbcprof.evaluate(cells.images[:16], ["a", "b"] * 8, repeats=1, **small),
        wbcprof.figures.heatmap(profiles, cells.labels),
        wbcprof.TypeClassifier(), wbcprof.Profiler(), wbcprof.PSD(),
    ]  # fmt: skip


def test_five_lines_and_a_table(objects):
    for thing in objects:
        text = repr(thing)
        assert len(text) < 600 and len(text.splitlines()) <= 5, text
        assert "array(" not in text and "0x" not in text, text
        html = thing._repr_html_()
        assert "<table>" in html or isinstance(thing, BaseEstimator)


def test_what_they_tell(objects):
    told = " ".join("\n".join(map(repr, objects)).split())
    for words in (
        "<Model layers: 24 signatures of 6 px", "types: lymphocyte, neutrophil",
        "<Profiles cells: 48", "atypical_lymphocyte 8", "<SmearResult slides:",
        "<Monitor slides: 1", "<FieldSource fields: 2", "<FieldCells field: ",
        "<ShardedProfiles folder: shards; ",
        "named rightly of cells left out:",
        "<Evaluation F1, average of types: ", "q below 0.05: ",
        "<ImageSource images: 48; types: atypical_lymphocyte 8", "<NamedCells cells: 48; calls: ",
    ):  # fmt: skip
        assert words in told, words


class Odd(Shown):
    def _told(self):
        return {"<b>": "</td><script>", "long": "x" * 5000, "many": ["a\nb"] * 1000, "none": None}


def test_text_of_data_is_no_markup_and_stays_short():
    html, text = Odd()._repr_html_(), repr(Odd())
    assert "<script>" not in html and "&lt;script&gt;" in html and "1,000 in all" in html
    assert len(html) < 1000 and len(text.splitlines()) <= 5 and "none" not in text


def test_control_characters_are_shown_as_escapes():
    slide = SlideSummary("a\x1b[31m\udcff", "", 3, {"b\x07": 1.0})
    for text in (repr(slide), slide._repr_html_()):
        assert "a\\x1b[31m\\udcff" in text and "b\\x07 1" in text
