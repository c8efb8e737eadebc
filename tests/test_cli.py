"""The command line: whole jobs, exit codes, one clear line on bad input."""

import csv
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from pages import Page, undrawn
from PIL import Image
from scipy.ndimage import gaussian_filter

import wbcprof
from wbcprof import PSD, Profiler
from wbcprof.cli import main
from wbcprof.datasets import make_leukocytes, write_folder
from wbcprof.files import replacing
from wbcprof.images.source import open_images
from wbcprof.learning.profiler import PRESETS
from wbcprof.scale.folders import held_file

LEARN = ["--signatures", "12", "--patch-size", "8", "--patches", "1500", "--max-iter", "2"]


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    return write_folder(cells, tmp_path_factory.mktemp("data") / "cells")


@pytest.fixture(scope="module")
def model_file(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.wbcprof"
    assert main(["fit", str(folder), "-o", str(path), *LEARN]) == 0
    return path


def test_fit_learns_and_trains_a_classifier(model_file, cells):
    model = wbcprof.load(model_file)
    assert model.layers[0].n_signatures == 12
    assert model.classifier.classes_.tolist() == sorted(set(cells.labels))


@pytest.mark.parametrize("error", [MemoryError("no room"), ValueError("no types")])
def test_what_was_learnt_is_kept_where_the_classifier_fails(folder, tmp_path, error, monkeypatch):
    def fails(*arguments, **keywords):
        raise error

    monkeypatch.setattr("wbcprof.analysis.classify.train", fails)
    assert main(["fit", str(folder), "-o", str(tmp_path / "m"), *LEARN]) == 1
    model = wbcprof.load(tmp_path / "m")
    assert model.layers[0].n_signatures == 12 and model.classifier is None


def test_too_many_types_are_refused_before_work(cells, tmp_path, capsys):
    from PIL import Image

    for i in range(65):
        (tmp_path / "cells" / f"cell {i}").mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.fromarray(cells.images[0]).save(tmp_path / "cells" / f"cell {i}" / name)
    error = complain(["fit", tmp_path / "cells", "-o", tmp_path / "m", *LEARN], capsys)
    assert "expected at most 64 types, got 65" in error and "learning" not in error
    assert not (tmp_path / "m").exists()


def test_fit_normalises_as_told(folder, model_file, tmp_path, capsys):
    def normaliser(path):
        assert main(["info", str(path)]) == 0
        return capsys.readouterr().out.split("images are made: ")[1].split()[0]

    assert normaliser(model_file) == PRESETS["default"]["normalise"]
    for options, expected in (
        (["--normalise", "none"], "no"),
        (["--preset", "paper", "--normalise", "macenko"], "macenko"),
    ):
        assert main(["fit", str(folder), "-o", str(tmp_path / "m"), *LEARN, *options]) == 0
        assert normaliser(tmp_path / "m") == expected


def test_fit_goes_on_from_its_checkpoint(folder, tmp_path, capsys):
    fit = ["fit", str(folder), "-o", str(tmp_path / "m"), "--checkpoint", str(tmp_path / "state")]
    assert main([*fit, *LEARN]) == 0
    told = capsys.readouterr().out
    assert "iteration 1: objective" in told and "signatures replaced" not in told
    assert main([*fit, *LEARN]) == 0
    assert "iteration" not in capsys.readouterr().out
    assert main([*fit, *LEARN, "--seed", "7"]) == 1
    assert "is of another fit: random_state was 0, now it is 7" in capsys.readouterr().err


def test_profile_writes_a_table(model_file, folder, tmp_path, cells):
    table = tmp_path / "t.csv"
    assert main(["profile", str(model_file), str(folder), "-o", str(table)]) == 0
    with open(table, newline="") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) == 49 and {row[1] for row in rows[1:]} == set(cells.labels)
    features = [at for at, name in enumerate(rows[0]) if not name.startswith("Metadata_")]
    values = np.array([[row[at] for at in features] for row in rows[1:]], np.float32)
    np.testing.assert_array_equal(values, wbcprof.load(model_file).profile(folder).values)
    assert "Metadata_NucleusSize" in rows[0]


def test_profile_with_a_tolerance_states_the_error(model_file, folder, tmp_path, capsys):
    arguments = ["profile", model_file, folder, "-o", tmp_path / "t.csv", "--tolerance", "0.01"]
    assert main([str(a) for a in arguments]) == 0
    assert "relative error of the profiles" in capsys.readouterr().err


def test_classify_names_types_with_probabilities(model_file, folder, capsys):
    assert main(["classify", str(model_file), str(folder)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(rows) == 48
    correct = sum(row["image"].startswith(row["type"]) for row in rows)
    assert correct > 24
    assert all(row["image"].split("/")[0] == row["given"] for row in rows)
    for row in rows:
        total = sum(float(v) for k, v in row.items() if k.startswith("probability_"))
        assert total == pytest.approx(1, abs=1e-3)


def test_csv_holds_no_formula_and_samples_may_be_made_from_it(
    model_file, cells, tmp_path, capsys, monkeypatch
):
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.fromarray(cells.images[0]).save(tmp_path / "images" / "=1+1.png")
    model, images, table = (str(p) for p in (model_file, tmp_path / "images", tmp_path / "t.csv"))
    assert main(["classify", model, images, "-o", table]) == 0
    with open(table, newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["image"] == "'=1+1.png"
    given = {}
    monkeypatch.setattr(
        "wbcprof.report.page.write_report", lambda *_, **options: given.update(options)
    )
    (tmp_path / "s.csv").write_text(f"image,sample\n{row['image']},blood\n")
    assert (
        main(["report", model, images, "-o", "r.html", "--samples", str(tmp_path / "s.csv")]) == 0
    )
    assert given["samples"] == {"=1+1.png": "blood"}


def test_evaluate_reports_and_writes_json(folder, tmp_path, capsys):
    path = tmp_path / "e.json"
    arguments = ["evaluate", str(folder), "--repeats", "2", "--seed", "3", "--json", str(path)]
    options = ["--figures", str(tmp_path / "figures"), "--figure-format", "svg"]
    assert main([*arguments, *options, *LEARN]) == 0
    assert {found.name for found in (tmp_path / "figures").iterdir()} == {
        "f1.svg", "confusion.svg", "confusion_counts.svg"
    }  # fmt: skip
    assert "colour histogram</text>" in (tmp_path / "figures" / "f1.svg").read_text()
    text = capsys.readouterr().out
    assert "learnt from the training half" in text and "histogram" in text
    result = json.loads(path.read_text())
    keys = {"macro_f1", "macro_f1_std", "sensitivity", "specificity", "per_type", "confusion"}
    assert keys <= result.keys() and 0 < result["macro_f1"] <= 1


def test_figures_that_cannot_be_are_refused_before_work(folder, tmp_path, capsys):
    evaluate = ["evaluate", folder, "--figure-width", "5"]
    assert "give --figures DIR" in complain(evaluate, capsys)
    error = complain([*evaluate, "--figures", tmp_path / "f"], capsys)
    assert "width must be" in error and "repeats" not in error


def test_evaluate_with_a_given_model_says_so(folder, model_file, capsys):
    assert main(["evaluate", str(folder), "--model", str(model_file), "--repeats", "2"]) == 0
    assert "given model" in capsys.readouterr().out


def test_evaluate_refuses_settings_that_a_given_model_makes_idle(folder, model_file, capsys):
    error = complain(["evaluate", folder, "--model", model_file, "--signatures", "99"], capsys)
    assert "leave out n_signatures" in error
    error = complain(["evaluate", folder, "--model", model_file, "--normalise", "none"], capsys)
    assert "leave out normalise" in error


def test_evaluate_learns_with_the_normalisation_told(folder, monkeypatch):
    evaluate = Mock(**{"return_value.to_text.return_value": ""})
    monkeypatch.setattr("wbcprof.analysis.evaluation.evaluate", evaluate)
    for option in ([], ["--normalise", "none"], ["--normalise", "macenko"]):
        assert main(["evaluate", str(folder), *option]) == 0
    default, *told = (call.kwargs for call in evaluate.call_args_list)
    assert "normalise" not in default
    assert [options["normalise"] for options in told] == [None, "macenko"]


def test_groups_reach_fit_evaluate_and_report(folder, model_file, tmp_path, monkeypatch, capsys):
    ids = open_images(folder).ids()
    table = tmp_path / "g.csv"
    table.write_text("\n".join(["image,patient", *(f"{i},p{n % 4}" for n, i in enumerate(ids))]))
    json_file = tmp_path / "e.json"
    arguments = ["evaluate", folder, "--model", model_file, "--repeats", "2", "--json", json_file]
    assert main([str(a) for a in [*arguments, "--groups", table]]) == 0
    assert "Groups: 4, none of which lies in both halves" in capsys.readouterr().out
    assert json.loads(json_file.read_text())["n_groups"] == 4

    page = tmp_path / "r.html"
    with undrawn():
        report = ["report", model_file, folder, "-o", page, "--groups", table]
        assert main([str(a) for a in report]) == 0
    assert "No group, of the 4 given, lies in several parts" in page.read_text(encoding="utf-8")

    given = []
    learn = wbcprof.TypeClassifier._learn
    monkeypatch.setattr(
        wbcprof.TypeClassifier, "_learn", lambda *them: given.append(list(them[3])) or learn(*them)
    )
    arguments = ["fit", folder, "-o", tmp_path / "m", *LEARN, "--groups"]
    assert main([str(a) for a in [*arguments, table]]) == 0
    n_copies = PRESETS["default"]["augment"]
    patients = [f"p{n % 4}" for n in range(48)]
    assert given == [patients, patients * (1 + n_copies)]  # of images alone, and with their copies
    assert main([str(a) for a in [*arguments, "folder:1"]]) == 0
    assert (
        "FewImagesWarning: type atypical_lymphocyte is in too few groups" in capsys.readouterr().err
    )


def test_groups_that_are_not_there(folder, model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "wbcprof.learning.profiler.fit", lambda *a, **k: pytest.fail("worked first")
    )
    fit = ["fit", folder, "-o", tmp_path / "m", "--groups"]
    assert "No such file: 'by patient'" in complain([*fit, "by patient"], capsys)
    assert "48 of 48 images do not lie 2 folders deep" in complain([*fit, "folder:2"], capsys)
    assert "a column of the CSV file that lists" in complain([*fit, "column:slide"], capsys)
    (tmp_path / "g.csv").write_text("image,group\na.png,1\n")
    error = complain(["evaluate", folder, "--groups", tmp_path / "g.csv"], capsys)
    assert "gives no group for 48 of 48 images" in error and "own first is 'a.png'" in error
    error = complain(["evaluate", folder, "--model", model_file, "--groups", "folder:1"], capsys)
    assert "got one only for atypical_lymphocyte, basophil" in error


def test_info(model_file, capsys):
    assert main(["info"]) == 0
    assert "instruction set" in capsys.readouterr().out
    assert main(["info", str(model_file)]) == 0
    assert "12 signatures of 8 x 8 x 3" in capsys.readouterr().out


def test_demo_leaves_model_profiles_evaluation_and_pictures(tmp_path, monkeypatch):
    from wbcprof import demo

    monkeypatch.setattr(demo, "N_PER_TYPE", 6)
    monkeypatch.setattr(demo, "REPEATS", 2)
    monkeypatch.setattr(demo, "FIELDS", {**demo.FIELDS, "n_fields": 3})
    small = {"n_signatures": 16, "patch_size": 12, "n_patches": 1500, "max_iter": 2}
    monkeypatch.setattr(demo, "LEARNING", small)
    out = tmp_path / "out"
    with undrawn():
        assert main(["demo", "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert {"model.wbcprof", "profiles.csv", "evaluation.json", "signatures.png"} <= names
    assert (out / "evaluation.txt").read_text().startswith("Generated cells, not real data.")
    assert wbcprof.load(out / "model.wbcprof").classifier is not None
    assert "Generated cells, not real data" in (out / "report.html").read_text(encoding="utf-8")


# ---- bad input: exit code 1 and one line that says why ----


def complain(arguments, capsys):
    assert main([str(a) for a in arguments]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    error = complain(["fit", tmp_path / "empty", "-o", tmp_path / "m"], capsys)
    assert "empty" in error and not (tmp_path / "m").exists()


def test_missing_folder_and_missing_output_folder(folder, model_file, tmp_path, capsys):
    assert "nowhere" in complain(["fit", tmp_path / "nowhere", "-o", tmp_path / "m"], capsys)
    target = tmp_path / "no" / "t.csv"
    assert "does not exist" in complain(["profile", model_file, folder, "-o", target], capsys)


def test_outputs_are_checked_before_the_work(folder, model_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "wbcprof.images.source.open_images", lambda *a, **k: pytest.fail("worked first")
    )
    assert "does not exist" in complain(["fit", folder, "-o", tmp_path / "no" / "m"], capsys)
    assert "is a folder" in complain(["fit", folder, "-o", tmp_path], capsys)
    target = tmp_path / "t.xlsx"
    error = complain(["profile", model_file, folder, "-o", target], capsys)
    assert ".csv, .parquet or .h5ad" in error
    target = tmp_path / "no" / "e.json"
    assert "does not exist" in complain(["evaluate", folder, "--json", target], capsys)


def test_loose_images_beside_the_types_do_not_spoil_the_classifier(cells, tmp_path):
    from PIL import Image

    mixed = write_folder(cells, tmp_path / "mixed")
    Image.fromarray(cells.images[0]).save(mixed / "loose.png")
    assert main(["fit", str(mixed), "-o", str(tmp_path / "m"), *LEARN]) == 0
    assert wbcprof.load(tmp_path / "m").classifier is not None


def test_interrupt_exits_with_130_and_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("wbcprof.learning.profiler.fit", interrupt)
    assert main(["fit", str(folder), "-o", str(tmp_path / "m"), *LEARN]) == 130
    assert "interrupted" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_damaged_model(folder, tmp_path, capsys):
    (tmp_path / "m").write_bytes(b"\xff" * 50)
    error = complain(["profile", tmp_path / "m", folder, "-o", tmp_path / "t.csv"], capsys)
    assert "damaged" in error and not (tmp_path / "t.csv").exists()


def test_classify_leaves_unsure_cells_to_a_human(model_file, folder, capsys):
    assert main(["classify", str(model_file), str(folder), "--reject-below", "1"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert {row["call"] for row in rows} <= {"unsure", "unlike"}
    assert {row["type"] for row in rows}.isdisjoint({"unsure", "unlike"})
    assert "--reject-below must be" in complain(
        ["classify", model_file, folder, "--reject-below", "2"], capsys
    )


def test_classify_without_a_classifier(model, folder, tmp_path, capsys):
    model.save(tmp_path / "plain")
    assert "holds no classifier" in complain(["classify", tmp_path / "plain", folder], capsys)


def test_one_type_only(folder, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "basophil").symlink_to(folder / "basophil")
    error = complain(["evaluate", tmp_path / "one", "--repeats", "2", *LEARN], capsys)
    assert "type" in error


def test_images_without_types_cannot_be_evaluated(folder, capsys):
    error = complain(["evaluate", folder / "basophil", "--repeats", "2", *LEARN], capsys)
    assert "expected a label for each image" in error


def test_parameters_out_of_range(folder, tmp_path, capsys):
    arguments = ["fit", folder, "-o", tmp_path / "m", "--signatures", "0"]
    assert "--signatures must be a positive integer, got 0" in complain(arguments, capsys)


def test_wrong_command_line_exits_with_2(capsys):
    for arguments in ([], ["fit"], ["profile", "m"], ["unknown"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    capsys.readouterr()


def test_help_states_the_defaults_of_learning(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    told = re.findall(r"--([\w-]+) [^-]* default ([\w,.]*\w)", text)
    names = {"signatures": "n_signatures", "patches": "n_patches", "seed": "random_state"}
    defaults = {names.get(option, option.replace("-", "_")): default for option, default in told}
    assert len(defaults) == 9
    parameters = {**inspect.signature(PSD).parameters, **inspect.signature(Profiler).parameters}
    expect = {name: parameter.default for name, parameter in parameters.items()}
    expect |= PRESETS["default"]
    expect["n_signatures"] = expect["n_components"]
    for name, default in defaults.items():
        expected = expect[name]
        assert default == (",".join(expected) if name == "pools" else str(expected)), name


@pytest.mark.parametrize(
    "command", ["demo", "fit", "profile", "classify", "evaluate", "report", "monitor", "info"]
)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example: wbcprof {command}" in capsys.readouterr().out


def test_the_package_runs_as_a_module(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "wbcprof", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.stdout == f"wbcprof {wbcprof.__version__}\n", run.stderr


def test_warnings_are_shown_as_before_when_a_command_has_run(tmp_path, capsys):
    shown = warnings.showwarning
    assert main(["info", str(tmp_path / "nowhere")]) == 1
    assert warnings.showwarning is shown


# ---- another laboratory ----


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Folder of another laboratory's cells: out of focus."""
    cells = make_leukocytes(4, size=72, random_state=1)
    blurred = gaussian_filter(cells.images.astype(float), (0, 1.5, 1.5, 0)).astype(np.uint8)
    return write_folder(
        replace(cells, images=blurred), tmp_path_factory.mktemp("elsewhere") / "cells"
    )


def labels_file(path, rows):
    path.write_text("\n".join(["image,label", *(f"{image},{label}" for image, label in rows)]))
    return path


def adapt(*arguments):
    return main(["adapt", *map(str, arguments)])


def test_adapt_without_labels(model_file, elsewhere, tmp_path, capsys):
    assert adapt(model_file, elsewhere, "-o", tmp_path / "there") == 0
    said = re.search(
        r"adapted to 24 cells, 0 of them labelled, (\d+\.\d+) standard deviations",
        capsys.readouterr().err,
    )
    learnt, adapted = wbcprof.load(model_file), wbcprof.load(tmp_path / "there")
    assert adapted.provenance["adapted"]["apart"] == float(said[1]) > 1
    assert adapted.provenance["adapted"]["n_labelled"] == 0  # the folders' names are not looked at
    expected = learnt.adapt(elsewhere, [None] * 24)
    far, was = adapted.classifier.far_, learnt.classifier.far_
    np.testing.assert_array_equal(far.coef_, expected.classifier.far_.coef_)
    assert np.abs(far.intercept_ - was.intercept_).max() > 0.1


def test_adapt_with_labels_some_of_them_empty(model_file, elsewhere, tmp_path, capsys):
    ids = open_images(elsewhere).ids()
    types = [name.split("/")[0] for name in ids]
    known = [name if n % 4 < 2 else "" for n, name in enumerate(types)]
    table = labels_file(tmp_path / "l.csv", zip(ids[4:], known[4:], strict=True))
    assert adapt(model_file, elsewhere, "--labels", table, "-o", tmp_path / "there") == 0
    assert "adapted to 24 cells, 10 of them labelled" in capsys.readouterr().err
    given = [None] * 4 + [name or None for name in known[4:]]
    expected = wbcprof.load(model_file).adapt(elsewhere, given)
    adapted = wbcprof.load(tmp_path / "there")
    np.testing.assert_array_equal(adapted.classifier.far_.coef_, expected.classifier.far_.coef_)


def test_adapt_refuses_labels_of_strange_images_and_types(model_file, elsewhere, tmp_path, capsys):
    ids = open_images(elsewhere).ids()

    def refused(rows):
        table = labels_file(tmp_path / "l.csv", rows)
        arguments = ["adapt", model_file, elsewhere, "--labels", table, "-o", tmp_path / "there"]
        return complain(arguments, capsys)

    error = refused([("who.png", "basophil")])
    assert "none of its 1 rows names one, its first is 'who.png'" in error and ids[0] in error
    error = refused([(ids[0], "smudge")])
    assert "labels must be types of the model, atypical_lymphocyte" in error and "smudge" in error
    assert "expected rows with an image and its label, got none" in refused([])
    (tmp_path / "other.csv").write_text(f"cell,kind\n{ids[0]},basophil\n")
    arguments = ["adapt", model_file, elsewhere, "--labels", tmp_path / "other.csv"]
    assert "a column label or type" in complain([*arguments, "-o", tmp_path / "there"], capsys)
    assert not (tmp_path / "there").exists()


@pytest.fixture
def two_people(folder, tmp_path):
    """Tables of Ada and Ben, who call the cells granular or not, and differ on the first."""
    ids = open_images(folder).ids()
    types = ["granular" if "phil" in name else "not granular" for name in ids]
    ada = labels_file(tmp_path / "Ada.csv", list(zip(ids, types, strict=True))[:40])
    ben = labels_file(
        tmp_path / "Ben.csv", [(ids[0], "granular"), *zip(ids[1:9], types[1:9], strict=True)]
    )
    return ids, types, ada, ben


def test_labels_of_tables_take_the_place_of_folders(folder, two_people, tmp_path, capsys):
    ids, _, ada, ben = two_people
    model = tmp_path / "m.wbcprof"
    fit = ["fit", folder, "-o", model, *LEARN, "--labels", ada, "--labels", ben]
    assert main(list(map(str, fit))) == 0
    said = capsys.readouterr().err
    assert "39 of 48 images have a label: granular 16, not granular 23" in said
    assert f"called differently: {ids[0]!r}: not granular (Ada), granular (Ben)" in said
    assert "Ada and Ben: 9 cells, Cohen's kappa" in said
    assert wbcprof.load(model).classifier.classes_.tolist() == ["granular", "not granular"]

    one = ["--labels", str(ada)]
    assert main(["evaluate", str(folder), "--model", str(model), "--repeats", "2", *one]) == 0
    assert "not granular" in capsys.readouterr().out
    assert main(["evaluate", "--test", str(folder), "--model", str(model), *one]) == 0
    assert "not granular" in capsys.readouterr().out
    with undrawn():
        report = str(tmp_path / "r.html")
        assert main(["report", str(model), str(folder), "-o", report, *one]) == 0
    names = {entry["name"] for entry in Page(report).data["types"]}
    assert names == {"granular", "not granular", "unlabelled"}


def test_how_far_people_agree(folder, two_people, tmp_path, capsys):
    ids, _, ada, ben = two_people
    out = tmp_path / "differ.csv"
    assert main(["agree", str(folder), str(ada), str(ben), "-o", str(out)]) == 0
    assert "called differently: 1 cells" in capsys.readouterr().out
    assert out.read_text().splitlines() == ["image,Ada,Ben", f"{ids[0]},not granular,granular"]
    error = complain(["agree", folder, ada], capsys)
    assert "expected labels of two people at least, got Ada" in error


def test_adapt_warns_of_few_cells_and_needs_a_classifier(
    model, model_file, elsewhere, tmp_path, capsys
):
    few = elsewhere / "basophil"
    assert adapt(model_file, few, "-o", tmp_path / "there") == 0
    assert "AdaptationWarning: the model was adapted to 4 images" in capsys.readouterr().err
    model.save(tmp_path / "none.wbcprof")
    arguments = ["adapt", tmp_path / "none.wbcprof", elsewhere, "-o", tmp_path / "nowhere"]
    assert "only a model with a classifier of kernel 'discriminant'" in complain(arguments, capsys)
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def days(cells, tmp_path):
    """A folder with six slides of a few cells each."""
    for day in range(6):
        part = replace(
            cells, images=cells.images[day::6], labels=cells.labels[day::6], ids=cells.ids[day::6]
        )
        write_folder(part, tmp_path / "slides" / f"day {day}")
    return tmp_path / "slides"


def test_monitor_goes_on_from_its_state(model_file, days, tmp_path, capsys, monkeypatch):
    page, state, table = (tmp_path / name for name in ("m.html", "m.json", "m.csv"))
    command = ["monitor", model_file, days, "-o", page, "--state", state, "--csv", table]
    command = [str(a) for a in [*command, "--baseline", 5, "--control", "day 1"]]
    assert main(command) == 0
    assert "6 slides, 6 of them new" in capsys.readouterr().err
    once = page.read_text(), table.read_text()
    assert "Control set" in once[0] and len(once[1].splitlines()) == 1 + 6 * 16
    monkeypatch.setattr(wbcprof.Model, "profile", Mock(side_effect=ValueError("read again")))
    assert main(command) == 0
    assert "6 slides, 0 of them new" in capsys.readouterr().err
    assert (page.read_text(), table.read_text()) == once


def test_two_monitors_of_one_state_are_refused(model_file, days, tmp_path, capsys):
    state = tmp_path / "m.json"
    command = ["monitor", model_file, days, "-o", tmp_path / "m.html", "--state", state]
    with held_file(state):
        assert "another run is writing into" in complain(command, capsys)
    assert not state.exists()
    assert main([str(a) for a in command]) == 0


def test_monitor_keeps_what_was_read_when_it_is_interrupted(
    model_file, days, tmp_path, capsys, monkeypatch
):
    state = tmp_path / "m.json"
    command = ["monitor", str(model_file), str(days), "-o", str(tmp_path / "m.html")]
    profile, left = wbcprof.Model.profile, iter(range(3))

    def interrupted(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return profile(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(wbcprof.Model, "profile", interrupted)
        assert main([*command, "--state", str(state)]) == 130
    assert not (tmp_path / "m.html").exists()
    assert main([*command, "--state", str(state)]) == 0
    assert "6 slides, 3 of them new" in capsys.readouterr().err


def test_monitor_refuses_what_it_cannot_go_on_from(model, model_file, days, tmp_path, capsys):
    state = tmp_path / "m.json"
    command = ["monitor", model_file, days, "-o", tmp_path / "m.html", "--state", state]
    state.write_text("{")
    assert "is no state of a monitor, or is damaged" in complain(command, capsys)
    wbcprof.analysis.Monitor(model).save(state)
    assert "m.json' is of another model" in complain(command, capsys)
    state.unlink()
    assert "baseline must be an integer of at least 5" in complain(
        [*command, "--baseline", 1], capsys
    )
    assert "does not exist" in complain([*command[:4], tmp_path / "no" / "m.html"], capsys)
    assert not (tmp_path / "m.html").exists() and not state.exists()


def test_monitor_reads_profiles_with_slides_and_times(model_file, folder, tmp_path, capsys):
    table, slides, times = (tmp_path / name for name in ("p.csv", "slides.csv", "times.csv"))
    assert main(["profile", str(model_file), str(folder), "-o", str(table)]) == 0
    ids = wbcprof.Profiles.load(table).ids
    slides.write_text("image,slide\n" + "".join(f"{name},s{i % 8}\n" for i, name in enumerate(ids)))
    times.write_text("slide,time\n" + "".join(f"s{i},2026-03-{9 - i:02}\n" for i in range(8)))
    command = ["monitor", model_file, table, "-o", tmp_path / "m.html", "--slides", slides]
    command += ["--times", times, "--csv", tmp_path / "m.csv", "--title", "Ours"]
    assert main([str(a) for a in command]) == 0
    with open(tmp_path / "m.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["slide"] == "s7" and rows[-1]["time"] == "2026-03-09"
    html = (tmp_path / "m.html").read_text()
    assert "<h1>Ours</h1>" in html and "Nothing can be said yet: 8 slides" in html


# ---- strange cells and images ----


@pytest.fixture(scope="module")
def of_three_types(tmp_path_factory):
    """A model of generated cells, a folder of new ones, and one of the same under a dim lamp."""
    home = tmp_path_factory.mktemp("strange")
    types = ["lymphocyte", "monocyte", "neutrophil"]
    known = make_leukocytes(40, size=72, types=types)
    model = wbcprof.fit(known.images, n_signatures=16, n_patches=1000, max_iter=1)
    model.classifier = wbcprof.train(model, known.images, known.labels, augment=0)
    model.save(home / "m")
    new = make_leukocytes(5, size=72, types=types, random_state=3).images
    for name, images in (("new", new), ("dim", (new * 0.4).astype(np.uint8))):
        (home / name).mkdir()
        for k, image in enumerate(images):
            Image.fromarray(image).save(home / name / f"{k:02}.png")
    Image.fromarray(new[0][:, ::-1]).save(home / "new" / "copy.png")
    noise = np.random.default_rng(1).integers(235, 245, (72, 72, 3), dtype=np.uint8)
    Image.fromarray(noise).save(home / "new" / "empty.png")
    return home


def test_classify_says_what_is_strange_and_wrong(of_three_types, capsys):
    assert main(["classify", str(of_three_types / "m"), str(of_three_types / "new")]) == 0
    printed = capsys.readouterr()
    rows = {row["image"]: row for row in csv.DictReader(printed.out.splitlines())}
    assert len(rows) == 17
    assert rows["empty.png"]["call"] == "unlike" and rows["empty.png"]["novelty_p"] == ""
    assert rows["empty.png"]["flags"] == "no cell"
    assert all(rows["empty.png"][name] == "" for name in rows["empty.png"] if "probab" in name)
    assert rows["copy.png"]["flags"] == "duplicate" and rows["00.png"]["flags"] == ""
    usual = [row for name, row in rows.items() if name != "empty.png"]
    assert all(0 < float(row["novelty_p"]) <= 1 for row in usual)


def test_classify_drops_flagged_images_and_lists_them(of_three_types, tmp_path, capsys):
    out = tmp_path / "types.csv"
    arguments = [str(of_three_types / "m"), str(of_three_types / "new"), "-o", str(out)]
    assert main(["classify", *arguments, "--drop", "no cell, duplicate"]) == 0
    assert "of 17 images dropped" in capsys.readouterr().err
    with open(out, newline="") as kept, open(f"{out}.dropped.csv", newline="") as dropped:
        names = {row["image"] for row in csv.DictReader(kept)}
        gone = {row["image"]: row["flags"] for row in csv.DictReader(dropped)}
    assert gone["empty.png"] == "no cell" and names.isdisjoint(gone)
    assert len(names) + len(gone) == 17
    assert "takes 'all' or some of" in complain(["classify", *arguments, "--drop", "ugly"], capsys)
    assert "--drop needs --output" in complain(
        ["classify", *arguments[:2], "--drop", "all"], capsys
    )


def test_a_strange_set_is_warned_of_and_strict_makes_it_an_error(of_three_types, tmp_path, capsys):
    arguments = [str(of_three_types / "m"), str(of_three_types / "dim")]
    assert main(["classify", *arguments]) == 0
    said = capsys.readouterr().err
    assert said.count("not from the world that the model knows") == 1
    for command in (
        ["classify", *arguments],
        ["profile", *arguments, "-o", tmp_path / "t.csv"],
        ["report", *arguments, "-o", tmp_path / "r.html"],
    ):
        error = complain([*command, "--strict"], capsys)
        assert "not from the world that the model knows: background red -60%" in error
    assert not list(tmp_path.iterdir())


def test_classify_into_a_folder_gives_the_same_types_and_goes_on(of_three_types, tmp_path, capsys):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    model, out, table = str(of_three_types / "m"), tmp_path / "types", tmp_path / "t.csv"
    images = tmp_path / "new"
    shutil.copytree(of_three_types / "new", images)
    (images / "bad.png").write_bytes(b"no image")
    last = (images / "14.png").read_bytes()
    (images / "14.png").unlink()
    classify = ["classify", model, str(images), "-o"]
    into = [*classify, str(out), "--shard-size", "6"]
    assert main(into) == 0
    assert "16 images classified" in capsys.readouterr().err
    first = {path.name: path.read_bytes() for path in out.glob("part-*")}
    (images / "14.png").write_bytes(last)
    assert main([*into, "--strict"]) == 3
    assert "1 images could not be read; " in capsys.readouterr().err
    assert {name: (out / name).read_bytes() for name in first} == first and len(first) == 6
    assert main([*classify, str(table)]) == 0
    found = pd.concat(map(pd.read_parquet, sorted(out.glob("*.parquet"))))
    expected = pd.read_csv(table)
    both = [frame.sort_values("image", ignore_index=True) for frame in (found, expected)]
    both[0]["flags"] = both[1]["flags"] = None  # duplicates are those of a shard
    pd.testing.assert_frame_equal(*both, check_dtype=False)
    assert "bad.png" in (out / "skipped.csv").read_text()
    capsys.readouterr()
    assert "drop was [], now it is ['no cell']" in complain([*into, "--drop", "no cell"], capsys)
    other = wbcprof.load(model)
    other.classifier = other.classifier.adapted(
        *(lambda p: (p.values, np.full(len(p), -1), p.measures))(other.profile(images))
    )[0]
    other.save(tmp_path / "other")
    assert "types was " in complain(["classify", tmp_path / "other", *into[2:]], capsys)


def test_classify_into_a_folder_tells_of_strange_shards_and_lists_dropped(
    of_three_types, tmp_path, capsys
):
    pytest.importorskip("pyarrow")
    arguments = [of_three_types / "m", of_three_types / "dim", "-o", tmp_path / "types"]
    error = complain(["classify", *arguments, "--strict"], capsys)
    assert "1 of 1 shards; of the first of these: these cells are not from the world" in error
    out = tmp_path / "dropped"
    arguments = [of_three_types / "m", of_three_types / "new", "-o", out, "--drop", "all"]
    assert main([str(a) for a in ["classify", *arguments]]) == 0
    assert "empty.png,no cell" in (out / "dropped.csv").read_text()
    assert "--shard-size is for a folder" in complain(
        ["classify", *arguments[:2], "--shard-size", "5"], capsys
    )


def test_suggest_lists_cells_to_label_for_adapt(of_three_types, tmp_path, capsys):
    out = tmp_path / "look.csv"
    model, dim = str(of_three_types / "m"), str(of_three_types / "dim")
    assert main(["suggest", model, dim, "-n", "4", "-o", str(out)]) == 0
    assert "4 cells to look at first" in capsys.readouterr().err
    with open(out, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4 and set(rows[0]) == {"image", "call", "novelty_p", "label"}
    labels = out.read_text().splitlines()
    labels = [labels[0], *(line + "monocyte" for line in labels[1:])]
    out.write_text("\n".join(labels))
    adapt = ["adapt", model, dim, "--labels", str(out), "-o", str(tmp_path / "there")]
    assert main(adapt) == 0
    assert "4 of them labelled" in capsys.readouterr().err
    assert "n must be" in complain(["suggest", model, dim, "-n", "0"], capsys)


@pytest.mark.parametrize("stream", ["closed", "none"])
def test_nothing_is_lost_without_a_standard_error(tmp_path, cells, stream):
    """As services and windowed applications have it."""
    folder = write_folder(cells, tmp_path / "cells")
    arguments = ["fit", str(folder), "-o", str(tmp_path / "m.wbcprof"), "--signatures", "8",
                 "--patches", "400", "--max-iter", "1"]  # fmt: skip
    how = "sys.stderr.close(); os.close(2)" if stream == "closed" else "sys.stderr = None"
    code = f"import os, sys; from wbcprof.cli import main; {how}; sys.exit(main({arguments!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=120
    )
    assert done.returncode == 0 and (tmp_path / "m.wbcprof").is_file()


def test_what_was_skipped_is_listed(tmp_path, cells, capsys):
    folder = write_folder(cells, tmp_path / "cells")
    model = str(tmp_path / "m.wbcprof")
    assert main(["fit", str(folder), "-o", model, "--signatures", "8", "--patches", "400",
                 "--max-iter", "1"]) == 0  # fmt: skip
    assert "named rightly" in capsys.readouterr().err
    torn = sorted(folder.rglob("*.png"))[3]
    torn.write_bytes(torn.read_bytes()[:300])
    for command in ("profile", "classify"):
        out = tmp_path / f"{command}.csv"
        assert main([command, model, str(folder), "-o", str(out), "--threads", "1"]) == 0
        assert "1 of 48 images was skipped" in capsys.readouterr().err
        lines = (tmp_path / f"{command}.csv.skipped.csv").read_text().splitlines()
        assert lines == ["image,reason", f"{torn.relative_to(folder).as_posix()},truncated"]
        assert main([command, model, str(folder), "-o", str(out), "--strict"]) in (1, 3)


def test_progress_in_a_log_is_a_line_now_and_then(monkeypatch, capsys):
    from wbcprof import cli

    monkeypatch.setattr(cli, "_EVERY_IN_LOG", 0.0)
    progress = cli._Progress("profiling")
    for done in range(3):
        progress(done, 10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and lines[2].startswith("profiling: 2 of 10") and "\r" not in lines[2]


def test_demo_leaves_the_folders_of_others_alone(tmp_path, capsys):
    (tmp_path / "model.wbcprof").write_text("ours")
    error = complain(["demo", "--out", tmp_path], capsys)
    assert "expected a new or empty folder" in error and "which holds 'model.wbcprof'" in error
    assert [path.name for path in tmp_path.iterdir()] == ["model.wbcprof"]


def test_a_reader_that_leaves_takes_nothing_along(folder, model_file, tmp_path):
    fit = ["fit", str(folder), "-o", str(tmp_path / "m"), *LEARN]
    evaluate = ["evaluate", str(folder), "--model", str(model_file), "--repeats", "2",
                "--json", str(tmp_path / "e.json")]  # fmt: skip
    for command, written in ((fit, "m"), (evaluate, "e.json")):
        reading, writing = os.pipe()
        os.close(reading)
        run = subprocess.run(
            [sys.executable, "-m", "wbcprof", *command],
            stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
        os.close(writing)
        assert (tmp_path / written).is_file()
        assert run.returncode == 0 and "BrokenPipe" not in run.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_that_end_a_command_leave_nothing_half_written(
    name, code, tmp_path, capsys, monkeypatch
):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored

    def write_and_wait(*arguments, **options):
        with replacing(tmp_path / "m") as temporary:
            temporary.write_text("half")
            signal.raise_signal(number)

    monkeypatch.setattr("wbcprof.model.model.load", write_and_wait)
    assert main(["info", "m"]) == code
    assert f"ended by {name}" in capsys.readouterr().err and not list(tmp_path.iterdir())
    assert signal.signal(number, before) is signal.SIG_DFL


def test_names_at_the_terminal_are_escapes(model_file, cells, tmp_path, capsysbinary, monkeypatch):
    (tmp_path / "cells").mkdir()
    Image.fromarray(cells.images[0]).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path / "cells") + b"/caf\xe9\x1b[31m.png")
    (tmp_path / "cells" / "a\nb\x1b[32m.png").write_bytes(b"none")
    assert main(["classify", str(model_file), str(tmp_path / "cells")]) == 0
    told = capsysbinary.readouterr()
    assert b"caf\\udce9\x1b[31m.png" in told.out  # data: a table, whose names are as they are
    assert b"a\\nb\\x1b[32m.png" in told.err and b"\x1b" not in told.err
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["classify", str(model_file), str(tmp_path / "cells")]) == 0
    assert b"caf\\udce9\\x1b[31m.png" in capsysbinary.readouterr().out


def test_what_would_be_refused_after_the_work_is_refused_before(folder, model_file, tmp_path,
                                                                 capsys, monkeypatch):  # fmt: skip
    monkeypatch.setattr(
        "wbcprof.images.source.open_images", lambda *a, **k: pytest.fail("worked first")
    )
    model = tmp_path / "m"
    fit = ["fit", folder, "-o", model, "--checkpoint"]
    assert "must be different files" in complain([*fit, model], capsys)
    assert "does not exist" in complain([*fit, tmp_path / "no" / "state"], capsys)
    out = tmp_path / ("x" * 250 + ".csv")  # whose list of skipped images could not be written
    for command in ("profile", "classify"):
        assert "name too long" in complain([command, model_file, folder, "-o", out], capsys)


@pytest.mark.parametrize(
    "command",
    [
        "classify MODEL LIST -o LIST",
        "profile MODEL LIST -o LIST",
        "suggest MODEL LIST -o LIST",
        "adapt MODEL CELLS --labels LIST -o LIST",
        "adapt MODEL CELLS -o MODEL",
        "fit LIST -o LIST",
        "fit LIST -o new --checkpoint LIST",
        "evaluate LIST --model MODEL --groups LIST --csv LIST",
        "smear MODEL CELLS -o s.html --boxes LIST --csv LIST",
        "smear MODEL CELLS -o s.html --boxes LIST --cells LIST",
        "monitor MODEL CELLS -o s.html --times LIST --csv LIST",
    ],
)
def test_what_is_read_is_not_replaced(folder, model_file, tmp_path, capsys, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_file, "MODEL")
    (tmp_path / "LIST").mkdir()
    table = tmp_path / "LIST" / "list.csv"
    table.write_text("path,label\n" + f"{folder}/neutrophil/0.png,neutrophil\n")
    before = table.read_bytes(), (tmp_path / "MODEL").read_bytes()
    words = [{"LIST": str(table), "CELLS": str(folder)}.get(word, word) for word in command.split()]
    assert re.search(r"--\w+ would replace .* is read as", complain(words, capsys))
    assert (table.read_bytes(), (tmp_path / "MODEL").read_bytes()) == before


def test_images_are_not_replaced(cells, tmp_path, capsys):
    folder = write_folder(cells, tmp_path / "cells")
    image = next(folder.rglob("*.png"))
    before = image.read_bytes()
    error = complain(["fit", str(folder), "-o", str(image)], capsys)
    assert "--output would replace the image" in error
    assert image.read_bytes() == before


def test_lists_beside_an_output_are_those_of_its_run(of_three_types, tmp_path):
    images = shutil.copytree(of_three_types / "new", tmp_path / "new")
    (images / "bad.png").write_bytes(b"no image")
    out = tmp_path / "t.csv"
    arguments = ["classify", str(of_three_types / "m"), str(images), "-o", str(out)]
    assert main([*arguments, "--drop", "all"]) == 0
    beside = [tmp_path / f"t.csv.{name}.csv" for name in ("skipped", "dropped")]
    assert all(path.exists() for path in beside)
    (images / "bad.png").unlink()
    assert main(arguments) == 0
    assert not any(path.exists() for path in beside)
    for path in beside:
        path.write_text("my own notes\n")
    assert main(arguments) == 0
    assert [path.read_text() for path in beside] == ["my own notes\n"] * 2


@pytest.mark.parametrize("command", ["classify", "suggest", "info"])
def test_a_closed_output_is_one_line_and_no_success(model_file, folder, tmp_path, command):
    words = [command, str(model_file), *([] if command == "info" else [str(folder)])]
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "wbcprof", *words],
        stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 1
    assert "the standard output is closed" in result.stderr and "Traceback" not in result.stderr


def test_strict_pages_tell_of_images_that_could_not_be_read(of_three_types, tmp_path, capsys):
    images = shutil.copytree(of_three_types / "new", tmp_path / "new")
    arguments = [str(of_three_types / "m"), str(images), "-o", str(tmp_path / "p.html")]
    (images / "bad.png").write_bytes(b"no image")
    assert main(["report", *arguments]) == 0
    assert main(["report", *arguments, "--strict"]) == 3
    assert "1 images could not be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "-1"], "--seed must be"),
        (["--pools", "sqrt,,std"], "--pools must be"),
        (["--patch-size", "0"], "--patch-size must be a positive integer"),
        (["--threads", "0"], "--threads must be a positive integer"),
    ],
)
def test_errors_name_options(folder, tmp_path, capsys, options, message):
    error = complain(["fit", str(folder), "-o", str(tmp_path / "m"), *options], capsys)
    assert f"wbcprof fit: {message}" in error


def test_options_without_effect_are_refused(folder, model_file, capsys):
    test = ["evaluate", "--test", str(folder), "--model", str(model_file)]
    assert "leave out seed" in complain([*test, "--seed", "3"], capsys)
    assert "name them with --images" in complain(["info", "--pixel-size", "0.1"], capsys)


def test_an_interrupt_while_much_is_imported_is_one(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("wbcprof.cli._parser", interrupt)
    assert main(["info"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_level_deeper_than_the_folders_is_refused(folder, model_file, tmp_path, capsys):
    words = ["classify", str(model_file), str(folder), "-o", str(tmp_path / "t.csv")]
    assert "--level must be at most 1, the folders between" in complain(
        [*words, "--level", "9"], capsys
    )
    page = ["report", str(model_file), str(folder), "-o", str(tmp_path / "p.html")]
    assert "--groups are of folds" in complain(
        [*page, "--calls", "model", "--groups", "folder:1"], capsys
    )
