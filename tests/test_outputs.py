"""Every writer looks at its suffix, before it works, and writes what that says."""

import csv
import json
import stat

import numpy as np
import pytest

from wbcprof.analysis import Monitor
from wbcprof.cli import main
from wbcprof.datasets import make_leukocytes, write_folder
from wbcprof.files import (
    CSV,
    HTML,
    JSON,
    TABLES,
    check_output,
    check_outputs,
    open_table,
    replacing,
    visible,
    write_rows,
)
from wbcprof.report import write_monitor, write_report, write_smear

ROWS = [{"name": "=a", "p": 0.5}, {"name": None, "p": None}]


@pytest.mark.parametrize(
    ("suffixes", "name"),
    [(CSV, "t.parquet"), (CSV, "t.xlsx"), (TABLES, "t.xls"), (TABLES, "t.html"), (HTML, "r.pdf"),
     (HTML, "r.csv"), (JSON, "s.csv")],
)  # fmt: skip
def test_other_suffixes_are_refused(tmp_path, suffixes, name):
    with pytest.raises(ValueError, match=rf"expected an output called \*{suffixes[0]}.*'{name}'"):
        check_output(tmp_path / name, suffixes)


@pytest.mark.parametrize("name", ["t.csv", "T.CSV", "t"])
def test_names_that_promise_nothing_else_are_taken(tmp_path, name):
    assert check_output(tmp_path / name, CSV) == tmp_path / name


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        check_output(f"{tmp_path}/types/", CSV)


def test_rows_are_written_as_the_suffix_says(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    openpyxl = pytest.importorskip("openpyxl")
    for suffix in TABLES:
        write_rows(tmp_path / f"t{suffix}", ["name", "p"], iter(ROWS))
    with open(tmp_path / "t.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["name", "p"], ["'=a", "0.5"], ["", ""]]
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == ROWS
    sheet = openpyxl.load_workbook(tmp_path / "t.xlsx").active
    assert list(sheet.values) == [("name", "p"), ("=a", 0.5)]  # and an empty row
    assert sheet["A2"].data_type == "s"  # no formula
    with open_table(tmp_path / "t.xlsx") as rows:
        assert list(rows) == [(1, ["name", "p"]), (2, ["=a", "0.5"])]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".parquet", ".jsonl"])
def test_what_is_not_finite_is_written_as_others_read_it(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    rows = [{"x": np.inf}, {"x": -np.inf}, {"x": np.nan}, {"x": 1.5}]
    write_rows(path, ["x"], rows)

    def refuse(word):
        raise AssertionError(word)

    if suffix == ".jsonl":
        lines = path.read_text().splitlines()
        got = [json.loads(line, parse_constant=refuse)["x"] for line in lines]
        assert got == ["Infinity", "-Infinity", None, 1.5]
    elif suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        (sheet,) = openpyxl.load_workbook(path).worksheets
        assert [row[0].value for row in sheet][1:] == ["Infinity", "-Infinity", None, 1.5]
        with pytest.raises(ValueError, match=r"32767 characters at most, got 32768 in line 2"):
            write_rows(path, ["x"], [{"x": "y" * 32768}])


def test_a_workbook_without_openpyxl_is_refused_before_work(tmp_path, monkeypatch):
    monkeypatch.setattr("wbcprof.files.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs openpyxl: pip install 'wbcprof\[xlsx\]'"):
        check_output(tmp_path / "t.xlsx", TABLES)


def test_names_that_are_no_text_are_written(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("openpyxl")
    for suffix in TABLES:
        write_rows(tmp_path / f"t{suffix}", ["name"], [{"name": "a\udcff\x01"}])


def test_pages_are_html(model, tmp_path):
    image = np.zeros((1, 72, 72, 3), np.uint8)
    for write in (
        lambda path: write_report(model, image, path),
        lambda path: write_smear(model, image, path),
        lambda path: write_monitor(Monitor(model), path),
    ):
        with pytest.raises(ValueError, match=r"expected an output called \*.html or \*.htm"):
            write(tmp_path / "r.pdf")
    with pytest.raises(ValueError, match=r"called \*.json"):
        Monitor(model).save(tmp_path / "s.csv")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [["classify", "no.model", "no-images", "-o", "types.xls"],
     ["suggest", "no.model", "no-images", "-o", "types/"],
     ["suggest", "no.model", "no-images", "-o", "s.html"],
     ["evaluate", "no-images", "--json", "e.csv"],
     ["monitor", "no.model", "no-slides", "-o", "m.pdf"],
     ["monitor", "no.model", "no-slides", "-o", "m.html", "--csv", "m.parquet"],
     ["monitor", "no.model", "no-slides", "-o", "m.html", "--state", "m.csv"],
     ["smear", "no.model", "no-fields", "-o", "s.pdf"],
     ["smear", "no.model", "no-fields", "-o", "s.html", "--cells", "c.xls"]],
)  # fmt: skip
def test_commands_refuse_before_they_read(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "expected an output called" in error or "is a folder; name a file" in error


def test_classify_writes_what_the_suffix_says(smear_model, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    smear_model.save(tmp_path / "m.wbcprof")
    cell = make_leukocytes(1, size=120, types=["neutrophil"])
    new = str(write_folder(cell, tmp_path / "new"))
    for suffix in TABLES:
        out = str(tmp_path / f"t{suffix}")
        assert main(["classify", str(tmp_path / "m.wbcprof"), new, "-o", out]) == 0
    (row,) = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert row == json.loads((tmp_path / "t.jsonl").read_text())
    with open(tmp_path / "t.csv", newline="") as stream:
        (line,) = csv.DictReader(stream)
    assert list(line) == list(row) and line["image"] == row["image"]
    probability = "probability_neutrophil"
    assert line[probability] == ("" if row[probability] is None else f"{row[probability]:.4f}")


def test_what_a_link_points_to_is_replaced_and_keeps_its_mode(tmp_path):
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.csv", tmp_path / "link.csv"
    real.write_text("before")
    real.chmod(0o640)
    link.symlink_to(real)
    with replacing(link, CSV) as temporary:
        assert temporary.parent == real.parent
        temporary.write_text("after")
    assert link.is_symlink() and real.read_text() == "after"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    real.unlink()  # the link points to nothing
    write_rows(link, ["a"], [{"a": 1}])
    assert link.is_symlink() and real.read_text() == "a\n1\n"
    assert [path.name for path in real.parent.iterdir()] == ["real.csv"]


def test_links_to_what_is_no_file_are_refused(tmp_path):
    (tmp_path / "to device").symlink_to("/dev/null")
    (tmp_path / "to nowhere").symlink_to(tmp_path / "no" / "t.csv")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name, error in (("to device", "regular"), ("to nowhere", "create it"), ("round", "itself")):
        with pytest.raises((ValueError, FileNotFoundError), match=error):
            check_output(tmp_path / name)
        assert (tmp_path / name).is_symlink()


def test_a_name_as_long_as_may_be_can_be_written(tmp_path):
    for name in ("x" * 251 + ".csv", "\u00e9" * 125 + ".csv", "x." + "y" * 253):
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("whole")
        assert (tmp_path / name).read_text() == "whole"


def test_two_outputs_are_two_files(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "m")
    for other in ("m", "link", "../" + tmp_path.name + "/m"):
        with pytest.raises(ValueError, match="--output and --checkpoint must be different files"):
            check_outputs(
                {"--output": str(tmp_path / "m"), "--checkpoint": str(tmp_path / other)}, {}
            )
    check_outputs({"--output": str(tmp_path / "m"), "--checkpoint": None}, {})


def test_what_no_screen_shows_is_an_escape():
    assert visible("caf\u00e9 \u767d \x1b[31m\n\x9b\udce9\u202e") == (
        "caf\u00e9 \u767d \\x1b[31m\\n\\x9b\\udce9\\u202e"
    )
