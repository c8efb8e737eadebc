"""Bad parameters, made from the declarations; and what labels mean, wherever they come from."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wbcprof
from wbcprof import PSD, Profiler, TypeClassifier, checks
from wbcprof.analysis import Monitor, figures, grouping, monitoring
from wbcprof.checks import (
    Choice,
    Each,
    Flag,
    Integer,
    Maybe,
    NamedOr,
    Real,
    as_known,
    known_label,
    known_labels,
    one_known_label_each,
)
from wbcprof.datasets import leukocytes, smears
from wbcprof.images.source import open_images
from wbcprof.learning import profiler
from wbcprof.model import machines, pooling, sparse
from wbcprof.model.settings import Coding, LayerSettings
from wbcprof.report import page

ROWS = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 30, 30, 3), np.uint8)
TYPES = ["a", "b"] * 20


def heatmap(**parameters):
    figures.heatmap(ROWS, TYPES, **parameters)


def figure(**parameters):
    """Whichever figure takes the parameter."""
    if "n_per_type" in parameters:
        return figures.reconstructions(IMAGES, IMAGES, **parameters)
    if "n_bins" in parameters:
        return figures.calibration(["a"], [[1.0]], ["a"], **parameters)
    if "figure_format" in parameters:
        return figures.FigureFiles("nowhere", parameters["figure_format"])
    if "width" in parameters:
        return figures.save(figures.heatmap(ROWS, TYPES), "nowhere.pdf", **parameters)
    if "n_framed" in parameters:
        return figures.signature_mosaic(np.zeros((2, 3, 3, 3)), **parameters)
    if "method" in parameters:
        return figures.embedding(ROWS[:, :2], TYPES, **parameters)
    return figures.heatmap(ROWS, TYPES, **parameters)


def report(**parameters):
    page.write_report(wbcprof.Model([]), IMAGES, "nowhere.html", **parameters)


def group(**parameters):
    profiles = wbcprof.Profiles(ROWS, [f"f{n}" for n in range(12)], ["x"] * 40)
    grouping.group_profiles(profiles, **parameters)


# What takes the parameters of a declaration, with all others as they should be.
DECLARED = {
    "PSD": (lambda **p: PSD(**{"n_components": 4, **p}).fit(ROWS), LayerSettings.RULES),
    "Coding": (lambda **p: Coding(**p), Coding.RULES),
    "Pooling": (lambda **p: wbcprof.model.Pooling(**p), pooling.RULES),
    "Profiler": (lambda **p: Profiler(**p).fit(IMAGES), profiler.RULES),
    "TypeClassifier": (lambda **p: TypeClassifier(**p).fit(ROWS, TYPES), machines.RULES),
    "sparse_code": (
        lambda **p: sparse.sparse_code(ROWS, ROWS[:5], **{"alpha": 1.0, **p}),
        sparse.RULES,
    ),
    "make_leukocytes": (
        lambda **p: leukocytes.make_leukocytes(**{"size": 48, **p}),
        leukocytes.RULES,
    ),
    "make_smear": (lambda **p: smears.make_smear(**{"size": (64, 64), **p}), smears.RULES),
    "figures": (figure, figures.RULES),
    "Monitor": (lambda **p: Monitor(wbcprof.Model([]), **p), monitoring.RULES),
    "write_report": (report, page.RULES),
    "group_profiles": (group, grouping.RULES),
}


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, (_, rules) in DECLARED.items() for name in rules]
)
def test_what_a_declaration_does_not_allow_is_refused(owner, name):
    call, rules = DECLARED[owner]
    for bad in rules[name].bad():
        with pytest.raises(ValueError, match=f"{name} must be .*, got ") as caught:
            call(**{name: bad})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


RULES = [
    (Integer(), [1, 7, np.int64(3), np.uint8(200)], "a positive integer"),
    (Integer(0, 5), [0, 5], "an integer from 0 to 5"),
    (Integer(2), [2], "an integer of at least 2"),
    (Real(above=0), [1, 1e-300, np.float32(0.5), np.int32(4)], "positive and finite"),
    (Real(least=0, most=1), [0, 1, 0.5], "at least 0 and at most 1"),
    (Real(above=0, below=1), [0.5], "above 0 and below 1"),
    (Choice(("a", "b")), ["a", np.str_("b")], "one of ('a', 'b')"),
    (Flag(), [True, np.False_], "True or False"),
    (Maybe(Integer()), [None, 4], "None or a positive integer"),
    (NamedOr("auto", Real(above=0)), ["auto", 2.0], "'auto' or positive and finite"),
    (Each(Integer(1, 9), least=1), [[1, 2], (3,), np.array([4])], "a sequence, not empty, without"),
]


@pytest.mark.parametrize(("rule", "good", "text"), RULES, ids=[text for *_, text in RULES])
def test_rules_take_what_they_say(rule, good, text):
    assert str(rule).startswith(text)
    for value in good:
        taken = rule.check("x", value)
        assert type(taken) in (int, float, str, bool, tuple, type(None)) and taken == (
            tuple(value) if isinstance(rule, Each) else value
        )
    for value in rule.bad():
        with pytest.raises(ValueError, match=r"^x must be "):
            rule.check("x", value)


@given(st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.lists(st.integers())))
def test_a_rule_takes_a_value_or_says_why_not(value):
    for rule, *_ in RULES:
        try:
            rule.check("x", value)
        except ValueError as error:
            assert str(error).startswith("x must be ")


def test_what_is_huge_is_shown_short():
    with pytest.raises(ValueError, match=r"\.\.\.$") as caught:
        Integer().check("x", list(range(10**5)))
    assert len(str(caught.value)) < 200


# ---- labels ----

pd = pytest.importorskip("pandas")

UNKNOWN = [None, float("nan"), np.nan, np.float32("nan"), pd.NaT, pd.NA, np.datetime64("NaT"), "",
           "  ", b"", np.str_("")]  # fmt: skip
KNOWN = [("a", "a"), (b"a", "a"), (np.str_("a"), "a"), ("nan", "nan"), (3, "3"), (3.0, "3"),
         (np.int8(3), "3"), (2.5, "2.5"), (True, "True"), (np.False_, "False"),
         (" a", " a")]  # fmt: skip


@pytest.mark.parametrize("label", UNKNOWN, ids=repr)
def test_unknown_labels(label):
    assert known_label(label) is None
    assert checks.label_names([label, "a"]) == ["unlabelled", "a"]


@pytest.mark.parametrize(("label", "name"), KNOWN, ids=repr)
def test_known_labels(label, name):
    assert known_label(label) == name


COLUMNS = {
    "list": ["a", None, "b", ""],
    "objects": np.array(["a", None, "b", ""], dtype=object),
    "column": np.array([["a"], [None], ["b"], [""]], dtype=object),
    "text of NumPy": np.array(["a", np.nan, "b", ""]),
    "bytes": np.array([b"a", b"", b"b", b""]),
    "pandas": pd.Series(["a", None, "b", ""]),
    "pandas text": pd.Series(["a", None, "b", ""], dtype="string"),
    "categories": pd.Series(["a", None, "b", ""], dtype="category"),
    "frame": pd.DataFrame({"type": ["a", None, "b", ""]}),
    "iterator": iter(["a", None, "b", ""]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_one_meaning_of_labels_whatever_holds_them(kind):
    column = COLUMNS[kind] if kind != "iterator" else iter(COLUMNS["list"])
    assert known_labels(column, 4) == ["a", None, "b", None]


def test_labels_mean_the_same_in_every_place(cells, model, tmp_path):
    """Reading, learning, figures, comparison, report and files."""
    images, labels = cells.images[:4], np.array(["a", np.nan, "b", ""])
    expected = ["a", None, "b", None]
    assert open_images(images, labels).labels == expected
    profiles = model.profile(images, labels=labels)
    assert profiles.labels == expected
    profiles.save(tmp_path / "t.csv")
    assert wbcprof.Profiles.load(tmp_path / "t.csv").labels == expected
    with open(tmp_path / "cells.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label"], *(["x.png", x] for x in ("a", "", " "))])
    (tmp_path / "x.png").write_bytes(b"")
    assert open_images(tmp_path / "cells.csv").labels == ["a", None, None]
    assert sorted(figures.type_colours(labels)) == ["a", "b", "unlabelled"]
    count = wbcprof.compare.differential_count(labels)
    assert count.types == ["a", "b"] and count.n_unknown.tolist() == [2]
    with pytest.raises(ValueError, match="none for 2 of 4, first for number 1"):
        TypeClassifier().fit(profiles, labels)


@pytest.mark.parametrize("labels", ["ab", b"ab", {"a": 1}, {"a", "b"}, 3])
def test_what_holds_no_labels_in_order_is_refused(labels):
    with pytest.raises(TypeError, match="labels must hold one label per image, in order; got"):
        known_labels(labels)
    with pytest.raises(TypeError, match="labels must hold"):
        open_images(IMAGES[:2], labels)


def test_several_labels_for_each_are_refused():
    with pytest.raises(ValueError, match=r"one label per image, got shape \(2, 2\)"):
        known_labels(np.array([["a", "b"], ["c", "d"]]))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([True, False], ["False", "True"]),
        ([b"x", b"y"], ["x", "y"]),
        ([[1], [2]], [1, 2]),
        (np.array([1.5, 2.5]), [1.5, 2.5]),
        (pd.Series(["x", "y"], dtype="category"), ["x", "y"]),
    ],
)
def test_classifiers_of_such_labels_are_kept_by_a_file(labels, classes, model, cells, tmp_path):
    y = np.repeat(np.asarray(labels), 24, axis=0)
    assert one_known_label_each(y, 48, "profiles").shape == (48,)
    learnt = wbcprof.Model(model.layers, model.pooling)
    learnt.classifier = TypeClassifier(C=1.0).fit(learnt.profile(cells.images), y)
    learnt.save(tmp_path / "m")
    assert wbcprof.load(tmp_path / "m").classifier.classes_.tolist() == classes


def test_a_rule_without_a_meaning_is_none():
    with pytest.raises(NotImplementedError):
        checks.Rule().take(1)
    with pytest.raises(NotImplementedError):
        checks.Rule().bad()


def test_what_neither_profiler_nor_psd_knows_is_named():
    with pytest.raises(TypeError, match=r"n_signatuers: no such parameter of wbcprof\.Profiler or"):
        wbcprof.fit(IMAGES, n_signatuers=3)
    with pytest.raises(TypeError, match="alpha: give them to the psd that you give"):
        wbcprof.fit(IMAGES, psd=PSD(4), alpha=0.1)


def test_learning_reads_a_list_as_reading_does():
    """NumPy made one text of all: "nan" of a list was refused, and 3.0 beside text was "3.0"."""
    for labels in (["nan", "a"], [3.0, "a"], [b"x", "y"], [True, "a"]):
        assert one_known_label_each(labels, 2, "cells").tolist() == known_labels(labels)
    with pytest.raises(ValueError, match="none for 1 of 2, first for number 1"):
        one_known_label_each(["a", float("nan")], 2, "cells")
    assert one_known_label_each([1, 2], 2, "cells").dtype.kind == "i"


def test_types_are_known_by_other_spellings_where_one_only_can_be_meant():
    types = ["band", "bands", "B cell", "monocyte"]
    given = ["band", "bands", "Bands", "b_cells", "Monocytes", "smudge", None]
    expected = ["band", "bands", "Bands", "B cell", "monocyte", "smudge", None]
    assert [as_known(name, types) for name in given] == expected


def test_a_masked_label_is_unknown_and_unsigned_numbers_are_numbers():
    masked = np.ma.array(["a", "b"], mask=[False, True])
    assert known_labels(masked) == ["a", None]
    with pytest.raises(ValueError, match="got none for 1 of 2"):
        one_known_label_each(masked, 2, "profiles")
    assert one_known_label_each(np.array([1, 2], np.uint64), 2, "profiles").dtype == np.int64
    large = one_known_label_each(np.array([1, 2**64 - 1], np.uint64), 2, "profiles")
    assert large.tolist() == ["1", "18446744073709551615"]


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"pools": ("mean", "mean")}, "pools must be a sequence, not empty, without repeats"),
        ({"levels": (1, 2, 1)}, "levels must be a sequence, without repeats"),
        ({"centres": (0.333, 0.334)}, "centres must differ by a hundredth at least, got"),
        ({"memory_budget": 2**70}, "memory_budget must be a positive integer of 64 bits, got"),
        ({"rho": 1e300}, "rho must be at least 0 and at most"),
        ({"whiten": "no"}, "whiten must be True or False"),
        ({"random_state": np.random.RandomState(0)}, "random_state must be an integer"),
        ({"checkpoint": "no such folder/state"}, "no such folder.* does not exist"),
    ],
)
def test_what_could_not_be_kept_is_not_learnt(given, error, monkeypatch):
    monkeypatch.setattr(
        "wbcprof.learning.profiler.open_images", lambda *a, **k: pytest.fail("worked first")
    )
    with pytest.raises((ValueError, FileNotFoundError), match=error):
        wbcprof.fit(IMAGES, **given)


def test_what_other_libraries_say_is_one_line_of_some_length():
    """An error of an archive held the archive."""
    assert checks.told(ValueError("no\n  number")) == "no number"
    long = checks.told(OSError("x" * 5000))
    assert len(long) == 400 and long.endswith("x...")
