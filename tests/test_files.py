"""Outputs are whole or absent."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest

from wbcprof import files
from wbcprof.files import json_value, replacing


def test_success_replaces_the_target(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with replacing(target) as temporary:
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_failure_leaves_the_target_and_no_debris(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="disk"), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_output_has_the_permissions_of_a_plain_file(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with replacing(tmp_path / "replaced") as temporary:
        temporary.write_text("")
    assert (tmp_path / "replaced").stat().st_mode == plain.stat().st_mode


def test_a_folder_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in ((".", "is a folder"), ("pipe", "not a regular file")):
        with pytest.raises(ValueError, match=message), replacing(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo()


def test_json_holds_arrays_numbers_and_paths_and_else_what_python_shows():
    given = {"a": np.arange(3), "n": np.float32(0.5), "path": Path("x") / "y", "else": 1j}
    written = json.loads(json.dumps(given, default=json_value))
    assert written == {"a": [0, 1, 2], "n": 0.5, "path": os.path.join("x", "y"), "else": "1j"}


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere.* does not exist"):
        with replacing(tmp_path / "nowhere" / "x"):
            pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_error_for_a_workbook():
    """The archive that openpyxl had left open told more of it in two tracebacks."""
    pytest.importorskip("openpyxl")
    with pytest.raises(OSError, match="No space left"):
        files._write_workbook(Path("/dev/full"), ["image"], [{"image": "a.png"}] * 99)
    gc.collect()
