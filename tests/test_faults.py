"""When the disk is full, a folder read-only, memory short, a name hostile: one line, no debris."""

import copy
import json
import os
import resource
import subprocess
import sys
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import undrawn
from PIL import Image

import wbcprof
from wbcprof.analysis.classify import TypeClassifier
from wbcprof.cli import main
from wbcprof.datasets import write_folder
from wbcprof.learning import checkpoint
from wbcprof.learning.psd import PSD
from wbcprof.report.page import write_report

LEARN = ["--signatures", "12", "--patch-size", "8", "--patches", "1500", "--max-iter", "2"]


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    return write_folder(cells, tmp_path_factory.mktemp("data") / "cells")


@pytest.fixture(scope="module")
def model_file(model, cells, tmp_path_factory):
    copied = copy.copy(model)
    copied.classifier = TypeClassifier(C=1.0).fit(model.profile(cells.images), cells.labels)
    path = tmp_path_factory.mktemp("model") / "m.wbcprof"
    copied.save(path)
    return path


@pytest.fixture(scope="module")
def few(folder, tmp_path_factory):
    """Four cells of two types, for what is slow."""
    few = tmp_path_factory.mktemp("few")
    for label in ("basophil", "eosinophil"):
        (few / label).mkdir()
        for path in sorted((folder / label).iterdir())[:2]:
            (few / label / path.name).symlink_to(path)
    return few


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def complain(arguments, capsys):
    """One line on stderr, after those of progress; exit code 1."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 1
    error = capsys.readouterr().err
    last = error.splitlines()[-1]
    assert last.startswith(f"wbcprof {arguments[0]}: ") and "Traceback" not in error
    return last


@contextmanager
def file_size_limit(n_bytes):
    """Writing past `n_bytes` of a file fails, as on a full disk (Python ignores the signal)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def mounted(tmp_path):
    """A file system of 64 kB in memory, where this user may mount one."""
    point = tmp_path / "mounted"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(point)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a file system")
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are made but not drawn: where they are written is what is tested."""

    def draw(drawn, kind, **options):
        return b"%PDF" + bytes(2000)

    with undrawn():
        monkeypatch.setattr("wbcprof.analysis.figures.picture_of", draw)
        yield
        monkeypatch.undo()


# What each writes into the folder "out", as the last argument.
WRITES = {
    "model": ["fit", "{cells}", *LEARN, "-o", "{out}/old"],
    "checkpoint": ["fit", "{cells}", *LEARN, "-o", "{other}/m", "--checkpoint", "{out}/new"],
    "csv": ["profile", "{model}", "{cells}", "-o", "{out}/old.csv"],
    "parquet": ["profile", "{model}", "{cells}", "-o", "{out}/new.parquet"],
    "h5ad": ["profile", "{model}", "{cells}", "-o", "{out}/new.h5ad"],
    "shards": ["profile", "{model}", "{cells}", "-o", "{out}/new"],
    "types": ["classify", "{model}", "{cells}", "-o", "{out}/old.csv"],
    "json": ["evaluate", "{cells}", "--model", "{model}", "--repeats", "2", "--json", "{out}/old"],
    "report": ["report", "{model}", "{few}", "-o", "{out}/old"],
    "page": ["monitor", "{model}", "{few}", "-o", "{out}/old"],
    "state": ["monitor", "{model}", "{few}", "-o", "{other}/m.html", "--state", "{out}/new.json"],
    "figures": ["report", "{model}", "{few}", "-o", "{other}/x.html", "--figures", "{out}"],
}


@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk_leaves_what_was_there(
    what, folder, few, model_file, tmp_path, capsys, quick_figures
):  # fmt: skip
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    names = {"cells": folder, "few": few, "model": model_file, "out": out, "other": other}
    command = [word.format(**names) for word in WRITES[what]]
    for name in ("old", "old.csv"):
        (out / name).write_text("what was there")
    before = contents(out)
    with file_size_limit(100):
        assert "File too large" in complain(command, capsys)
    if what == "shards":
        (out / "new").rmdir()
    assert contents(out) == before and not any(other.iterdir())


def test_a_disk_that_is_really_full(model_file, folder, few, mounted, capsys):
    names = {"cells": folder, "few": few, "model": model_file, "out": mounted, "other": mounted}
    model = wbcprof.load(model_file)
    (mounted / "filling").write_bytes(b"x" * (56 << 10))
    before = contents(mounted)
    with pytest.raises(OSError, match="No space left"):
        model.save(mounted / "m")
    for what in ("csv", "parquet"):
        assert "No space left" in complain([w.format(**names) for w in WRITES[what]], capsys)
        assert contents(mounted) == before


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(
    folder, few, model_file, tmp_path, capsys, request, monkeypatch
):
    out = tmp_path / "out"
    out.mkdir()
    if os.geteuid():
        out.chmod(0o555)
    else:  # root writes where permissions forbid it
        out = request.getfixturevalue("mounted")
        subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
    monkeypatch.setattr(
        "wbcprof.images.source.open_images", lambda *a, **k: pytest.fail("worked first")
    )
    names = {"cells": folder, "few": few, "model": model_file, "out": out, "other": tmp_path}
    for what in ("model", "csv", "parquet", "types", "json", "report"):
        error = complain([word.format(**names) for word in WRITES[what]], capsys)
        assert f"folder '{out}'" in error and "cannot be written to" in error


SHORT_OF_MEMORY = """
import resource, sys
import matplotlib.pyplot, pandas, PIL.Image, scipy.special, sklearn.svm, wbcprof.cli, wbcprof.report
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(wbcprof.cli.main(sys.argv[2:]))
"""


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="no /proc to learn the size from"
)
@pytest.mark.parametrize("command", ["fit", "profile"])
def test_memory_that_does_not_suffice_is_one_line(command, folder, model_file, tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    Image.new("RGB", (5000, 5000)).save(large / "0.bmp")  # 75 MB
    words = {
        "fit": ["fit", folder, "-o", tmp_path / "m", "--signatures", "1000", "--patch-size", "40"],
        "profile": ["profile", model_file, large, "-o", tmp_path / "t.csv"],
    }[command]
    one = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "WBCPROF_NUM_THREADS")}
    run = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(60 << 20), *map(str, words)],
        cwd=tmp_path, env={**os.environ, **one}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "emory" in run.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_decompression_bombs_are_skipped_and_named(model_file, folder, tmp_path, capsys):
    bomb = tmp_path / "bomb"
    bomb.mkdir()
    raw = bytearray((folder / "basophil").joinpath(os.listdir(folder / "basophil")[0]).read_bytes())
    raw[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header of the PNG
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    (bomb / "bomb.png").write_bytes(raw)
    error = complain(["profile", model_file, bomb, "-o", tmp_path / "t.csv"], capsys)
    assert "bomb.png" in error and "pixels" in error
    assert not (tmp_path / "t.csv").exists()


HOSTILE_NAMES = [
    "../../escaped", "/escaped", "nul\0byte", "x" * 5000, "CON", "a/b", "\ud800", ".", "",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_cannot_be_file_names_are_refused(name, cells, tmp_path):
    for named in ({"labels": [name] * 48}, {"ids": [name] * 48}):
        with pytest.raises(ValueError, match="possible as file names"):
            write_folder(replace(cells, **named), tmp_path / "cells")
    assert not any(tmp_path.iterdir())


def test_labels_never_become_paths_of_figures(cells, model_file, tmp_path, quick_figures):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    write_report(
        wbcprof.load(model_file), cells.images[: len(HOSTILE_NAMES)], inner / "r.html",
        labels=HOSTILE_NAMES, samples={"image_000000": HOSTILE_NAMES[0]}, calls="model",
        figure_folder=inner / "figures", title=HOSTILE_NAMES[0],
    )  # fmt: skip
    assert {path.name for path in tmp_path.rglob("*") if path.suffix != ".pdf"} == {
        "a", "b", "r.html", "figures",
    }  # fmt: skip
    assert any((inner / "figures").iterdir())


def test_file_names_of_any_bytes(cells, model_file, tmp_path, capsys, quick_figures):
    """A file name need not be text, may hold control characters and HTML."""
    folder = tmp_path / "cells"
    for index, name in enumerate([b"caf\xe9", b"a\nb\x1b[31m", b"<script>alert(1)<"]):
        place = os.path.join(os.fsencode(folder), name)
        os.makedirs(place)
        Image.fromarray(cells.images[index]).save(folder / "x.png")
        os.rename(folder / "x.png", os.path.join(place, name + b".png"))
    model, out = str(model_file), str(tmp_path / "out")
    assert main(["profile", model, str(folder), "-o", out + ".csv"]) == 0
    assert main(["classify", model, str(folder), "-o", out + ".types.csv"]) == 0
    assert main(["report", model, str(folder), "-o", out + ".html", "--calls", "model"]) == 0
    assert "<script>alert" not in Path(out + ".html").read_text(encoding="utf-8")
    assert main(["profile", model, str(folder), "-o", out + ".parquet"]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


# ---- checkpoints from hostile hands ----


@pytest.fixture(scope="module")
def learning(tmp_path_factory):
    """Parameters and patches of a fit, and its checkpoint after one iteration."""
    patches = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    settings = {"n_components": 8, "max_iter": 1, "random_state": 0, "n_threads": 1, "whiten": True}
    path = tmp_path_factory.mktemp("checkpoint") / "state"
    PSD(**settings, checkpoint=path).fit(patches)
    return {**settings, "max_iter": 2}, patches, path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, document: arrays.update(A=np.zeros((8, 9), np.float32)),
        lambda arrays, document: arrays.update(A=np.zeros((8, 8))),
        lambda arrays, document: arrays.update(C=np.full((8, 12), np.nan, np.float32)),
        lambda arrays, document: arrays.update(whitener=np.zeros((12, 5), np.float32)),
        lambda arrays, document: arrays.update(signatures=np.zeros(96, np.float32)),
        lambda arrays, document: arrays.update(rng=np.zeros(3, np.uint32)),
        lambda arrays, document: arrays.update(more=np.zeros(3, np.float32)),
        lambda arrays, document: arrays.pop("first.bias"),
        lambda arrays, document: document.update(rng=[10**6, 0, 0.0]),
        lambda arrays, document: document.update(rng=[]),
        lambda arrays, document: document.update(steps=-1),
        lambda arrays, document: document["preprocessing"].update(scale=float("nan")),
        lambda arrays, document: document.update(history=[{}]),
        lambda arrays, document: document.update(history={}),
        lambda arrays, document: document.update(identity=3),
        lambda arrays, document: document.pop("n_gathered"),
    ],
)
def test_hostile_checkpoints_are_refused(learning, change, tmp_path):
    settings, patches, raw = learning
    path = tmp_path / "state"
    path.write_bytes(raw)
    document, arrays = checkpoint.read_arrays(path, "wbcprof_checkpoint")
    change(arrays, document)
    checkpoint.write_arrays(path, arrays, "wbcprof_checkpoint", json.dumps(document))
    with pytest.raises(ValueError, match=r"state' is damaged or not a checkpoint of wbcprof"):
        PSD(**settings, checkpoint=path).fit(patches)
