"""Groups of images: folders, columns, CSV files, and bad ones."""

import numpy as np
import pytest
from PIL import Image

from wbcprof.images import read_groups
from wbcprof.images.groups import groups_of

IDS = ["neutrophil/p1/a.png", "neutrophil/p2/b.png", "monocyte/p1/c.png"]


@pytest.fixture
def folder(tmp_path):
    for image_id in IDS:
        path = tmp_path / "cells" / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return tmp_path / "cells"


def test_folder_levels_count_from_the_left(folder):
    groups = read_groups("folder:2", folder)
    assert groups == dict(zip(sorted(IDS), ["p1", "p1", "p2"], strict=True))
    assert set(read_groups("folder:1", folder).values()) == {"neutrophil", "monocyte"}
    absolute = [folder / image_id for image_id in IDS]
    assert set(read_groups("folder:1", absolute).values()) == {folder.parts[1]}
    with pytest.raises(ValueError, match=r"3 of 3 images do not lie 3 folders deep, first '.*png'"):
        read_groups("folder:3", folder)
    for level in ("0", "-1", "x", "", "1.5"):
        with pytest.raises(ValueError, match="expected folder:1, folder:2"):
            read_groups(f"folder:{level}", folder)


@pytest.mark.parametrize("column", ["group", "patient", " Slide "])
def test_csv_file(folder, tmp_path, column):
    rows = [f"{image_id},{n % 2}" for n, image_id in enumerate(IDS)]
    table = tmp_path / "g.csv"
    table.write_text("\n".join([f"image,{column}", *rows, "other.png,9", "", "short.png"]), "utf-8")
    assert read_groups(table, folder) == {IDS[2]: "0", IDS[0]: "0", IDS[1]: "1"}
    assert read_groups(str(table), folder) == read_groups(table, folder)


def test_patients_go_before_slides(folder, tmp_path):
    rows = [f"{image_id},s{n},p" for n, image_id in enumerate(IDS)]
    (tmp_path / "g.csv").write_text("\n".join(["path,slide,patient", *rows]))
    assert set(read_groups(tmp_path / "g.csv", folder).values()) == {"p"}


def test_column_of_the_csv_file_of_images(folder):
    table = folder / "images.csv"
    rows = [f"{image_id},t,s{n}" for n, image_id in enumerate(IDS)]
    table.write_text("\n".join(["path,label,slide", *rows]))
    assert read_groups("column:slide", table) == dict(zip(IDS, ["s0", "s1", "s2"], strict=True))
    with pytest.raises(ValueError, match="a column ward, got: path, label, slide"):
        read_groups("column:ward", table)
    with pytest.raises(ValueError, match="'column:slide' is a column of the CSV file that lists"):
        read_groups("column:slide", folder)


def test_csv_errors(folder, tmp_path):
    table = tmp_path / "g.csv"
    with pytest.raises(FileNotFoundError, match=r"No such file: .*; groups come from a CSV file"):
        read_groups(table, folder)
    table.write_text(f"image,group\n{IDS[0]},1\nq/b.png,2\n{IDS[2]},nan\n{IDS[1]},\n")
    with pytest.raises(
        ValueError, match=r"no group for 1 of 3 images, first 'neutrophil/p2/b.png'"
    ):
        read_groups(table, folder)
    table.write_text(f"image,group\n{IDS[0]},1\n{IDS[0]},2\n")
    with pytest.raises(ValueError, match=r"line 3: .* is of group '2' here and of '1' in line 2"):
        read_groups(table, folder)
    table.write_text("image,ward\n")
    with pytest.raises(
        ValueError, match=r"a column group or patient or slide or .*, got: image, ward"
    ):
        read_groups(table, folder)
    table.write_bytes(b"image,group\n\x81,1\n")
    with pytest.raises(ValueError, match="is not a readable CSV file"):
        read_groups(table, folder)


def test_groups_of_the_images_that_were_read():
    assert groups_of(["p", "q", "r"], ["a", "c"], [0, 2], 3).tolist() == ["p", "r"]
    assert groups_of({"c": 2, "a": 1, "x": 7}, ["a", "c"], [0, 2], 3).tolist() == [1, 2]
    assert groups_of(iter([5, 6]), ["a", "b"], [0, 1], 2).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (["p", "q"], ValueError, r"Length of groups \(2\) must match number of images \(3\)"),
        (["p", None, "q"], ValueError, "a group for each image, got none for 1 of 3"),
        ([1.0, np.nan, 2.0], ValueError, "a group for each image, got none for 1 of 3"),
        (np.array([[1, 2]] * 3), ValueError, "got shape"),
        ({"a": "p", "b": None}, ValueError, "names no group for 2 of 3 images, first 'b'"),
        ({}, ValueError, "no group for 3 of 3 images, first 'a'; its own first is 'none'"),
        ("folder:1", TypeError, "got 'folder:1'. wbcprof.images.read_groups reads them"),
    ],
)
def test_bad_groups(groups, error, message):
    with pytest.raises(error, match=message):
        groups_of(groups, ["a", "b", "c"], [0, 1, 2], 3)
