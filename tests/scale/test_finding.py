"""Leukocytes of many fields in a folder: whole, resumed, the same on a cluster, read back."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from wbcprof.cli import main
from wbcprof.datasets import make_smear, write_smear
from wbcprof.images import Box, open_fields, open_images, read_boxes
from wbcprof.images.source import ImageWarning
from wbcprof.scale import find_to_folder

PIXEL = 0.2


@pytest.fixture(scope="module")
def smear():
    """Generated fields, not real data."""
    return make_smear(5, size=(300, 400), pixel_size=PIXEL, n_leukocytes=3, random_state=4)


@pytest.fixture(scope="module")
def fields(smear, tmp_path_factory):
    return write_smear(smear, tmp_path_factory.mktemp("smear") / "smear") / "images"


@pytest.fixture(scope="module")
def made(fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("found") / "cells"
    found = find_to_folder(fields, folder, pixel_size=PIXEL, shard_size=2)
    return found


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_crops_and_tables(smear, made):
    rows = rows_of(made.folder / "cells.csv")
    assert made.n_fields == 5 and made.n_cells == len(rows) and made.n_dropped == 0
    assert abs(len(rows) - (smear.truth["number"] > 0).sum()) <= 2
    assert rows_of(made.folder / "dropped.csv") == []
    for row in rows:
        crop = np.asarray(Image.open(made.folder / row["path"]))
        assert crop.shape == (188, 188, 3)
        assert row["slide"] == "images" and row["field"].startswith("generated_field_000")
        assert float(row["left"]) < float(row["x"]) < float(row["right"])


def test_the_table_reads_back(made, fields):
    source = open_images(made.folder / "cells.csv")
    assert len(list(source)) == made.n_cells and source.labels is None
    boxes = read_boxes(made.folder / "cells.csv", fields)
    assert sum(map(len, boxes.values())) == made.n_cells


def test_an_interrupted_run_goes_on(made, fields, tmp_path):
    folder = tmp_path / "cells"
    shutil.copytree(made.folder, folder)
    for name in ("cells.csv", "dropped.csv", "part-000001.json"):
        (folder / name).unlink()
    kept = (folder / "part-000000.json").stat().st_mtime_ns
    done = []
    find_to_folder(
        fields, folder, pixel_size=PIXEL, shard_size=2, progress=lambda *a: done.append(a)
    )
    assert (folder / "part-000000.json").stat().st_mtime_ns == kept
    assert done[-1] == (5, 5)
    assert contents(folder) == contents(made.folder)


def test_crops_are_written_one_by_one(made, fields, tmp_path, monkeypatch):
    """Those of a part were held until its end; a run that is stopped then goes on all the same."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("wbcprof.scale.finding._write_part", stop)
        with pytest.raises(KeyboardInterrupt):
            find_to_folder(fields, tmp_path / "cells", pixel_size=PIXEL, shard_size=2)
    assert len(list((tmp_path / "cells").glob("*.png"))) > 1
    find_to_folder(fields, tmp_path / "cells", pixel_size=PIXEL, shard_size=2)
    assert contents(tmp_path / "cells") == contents(made.folder)


def test_another_run_is_refused(made, fields, smear, tmp_path):
    with pytest.raises(ValueError, match="another run made: canonical was False, now it is True"):
        find_to_folder(fields, made.folder, pixel_size=PIXEL, shard_size=2, canonical=True)
    folder = tmp_path / "cells"
    shutil.copytree(made.folder, folder)
    others = [image[::-1].copy() for image in smear.images]
    with pytest.raises(ValueError, match="was made from other fields than those now given"):
        find_to_folder(others, folder, pixel_size=PIXEL, shard_size=2)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no manifest"):
        find_to_folder(fields, tmp_path / "other")


@pytest.mark.parametrize(
    "damage, name",
    [({"cells": [{}]}, "cells"), ({"offered": None}, "offered"), ({"fields": 3}, "fields"),
     ({"dropped": 5}, "dropped"), ({"converted": []}, "converted")],
)  # fmt: skip
def test_records_that_were_edited_are_one_error(made, fields, tmp_path, damage, name):
    folder = tmp_path / "cells"
    shutil.copytree(made.folder, folder)
    path = folder / "part-000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(ValueError, match=f"part-000001.json' is damaged: {name} is missing or of"):
        find_to_folder(fields, folder, pixel_size=PIXEL, shard_size=2)


def test_crops_that_are_missing_or_changed_are_made_anew(made, fields, tmp_path):
    folder = tmp_path / "cells"
    shutil.copytree(made.folder, folder)
    first, second, *_ = sorted(folder.glob("*.png"))
    first.unlink()
    second.write_bytes(b"junk")
    find_to_folder(fields, folder, pixel_size=PIXEL, shard_size=2)
    assert contents(folder) == contents(made.folder)


def test_a_run_that_is_refused_leaves_all_as_it_was(made, fields, tmp_path):
    folder, others = tmp_path / "cells", tmp_path / "others"
    shutil.copytree(made.folder, folder)
    shutil.copytree(fields, others)
    last = sorted(others.iterdir())[-1]
    shutil.copy(sorted(others.iterdir())[0], last)
    with pytest.raises(ValueError, match="from other fields"):
        find_to_folder(others, folder, pixel_size=PIXEL, shard_size=2)
    assert contents(folder) == contents(made.folder)


@pytest.mark.parametrize("path", ["../victim.txt", "/tmp/victim_0001.png", "../a_0001.png", 3])
def test_records_that_lead_out_of_the_folder_are_refused(made, fields, tmp_path, path):
    folder = tmp_path / "cells"
    shutil.copytree(made.folder, folder)
    record = json.loads((folder / "part-000001.json").read_text())
    record["cells"].append(record["cells"][0] | {"path": path})
    record["crops"].append("")
    (folder / "part-000001.json").write_text(json.dumps(record))
    before = contents(folder)
    with pytest.raises(ValueError, match=r"part-000001\.json' is damaged; remove it"):
        find_to_folder(fields, folder, pixel_size=PIXEL, shard_size=2)
    assert contents(folder) == before


def test_boxes_whose_nuclei_moved_are_another_run(made, fields, tmp_path):
    table, folder = tmp_path / "boxes.csv", tmp_path / "cells"
    shutil.copy(made.folder / "cells.csv", table)
    find_to_folder(fields, folder, pixel_size=PIXEL, boxes=table)
    rows = rows_of(table)
    for row in rows:
        row["x"] = f"{float(row['x']) + 2:.1f}"
    with open(table, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match="another run made: boxes was"):
        find_to_folder(fields, folder, pixel_size=PIXEL, boxes=table)


def test_boxes_on_both_sides_of_a_seam_are_all_counted(smear, tmp_path):
    source = open_fields(np.concatenate(smear.images[:4], axis=1), tile=256, margin=128)
    boxes = [Box("image_000000", left, 100, left + 100, 200) for left in (203.0, 209.0)]
    made = find_to_folder(source, tmp_path / "cells", pixel_size=PIXEL, boxes=boxes, shard_size=1)
    assert made.n_cells == len(list(made.folder.glob("*.png"))) == 2


def test_what_is_dropped_is_listed(fields, tmp_path):
    torn = tmp_path / "fields"
    shutil.copytree(fields, torn)
    file = sorted(torn.iterdir())[3]
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.warns(ImageWarning, match="fields or cells were left out or are strange"):
        made = find_to_folder(torn, tmp_path / "cells", pixel_size=PIXEL, drop=["cut cell"])
    dropped = {row["image"]: row["reason"] for row in rows_of(made.folder / "dropped.csv")}
    assert dropped.pop(file.name) == "truncated"
    assert dropped and set(dropped.values()) == {"cut cell"}
    assert not any("cut cell" in row["flags"] for row in rows_of(made.folder / "cells.csv"))


def test_canonical_cells(fields, tmp_path):
    made = find_to_folder(fields, tmp_path / "cells", pixel_size=PIXEL, canonical=True)
    row = rows_of(made.folder / "cells.csv")[0]
    assert np.asarray(Image.open(made.folder / row["path"])).shape == (112, 112, 3)


def test_parquet(fields, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    made = find_to_folder(fields, tmp_path / "cells", pixel_size=PIXEL, parquet=True, shard_size=3)
    tables = [parquet.read_table(path) for path in sorted(made.folder.glob("*.parquet"))]
    assert len(tables) == 2 and sum(table.num_rows for table in tables) == made.n_cells
    paths = [path for table in tables for path in table["path"].to_pylist()]
    assert paths == [row["path"] for row in rows_of(made.folder / "cells.csv")]


def test_cells_on_seams_of_parts_are_there_once(smear, tmp_path):
    whole = np.concatenate(smear.images[:4], axis=1)
    n_cells = []
    for tile, shard_size in ((64, 1), (10_000, 50)):
        source = open_fields(whole, tile=tile, margin=128)
        made = find_to_folder(source, tmp_path / str(tile), pixel_size=PIXEL, shard_size=shard_size)
        places = {(row["x"], row["y"]) for row in rows_of(made.folder / "cells.csv")}
        crops = list(made.folder.glob("*.png"))
        assert len(places) == len(crops) == made.n_cells
        n_cells.append(made.n_cells)
    assert n_cells[0] == n_cells[1]


def test_boxes_of_others(fields, smear, tmp_path):
    boxes = fields.parent / "boxes.csv"
    made = find_to_folder(fields, tmp_path / "cells", pixel_size=PIXEL, boxes=boxes)
    truth = smear.truth[smear.truth["number"] > 0]
    rows = rows_of(made.folder / "cells.csv")
    assert sorted(row["label"] for row in rows) == sorted(truth["label"].tolist())
    assert open_images(made.folder / "cells.csv").labels == [row["label"] for row in rows]


def test_names_of_other_folders_and_scripts_stay_apart(smear, tmp_path):
    for level, name in enumerate(("a/b.png", "a_b.png", "ä ö.png", "=1.png")):  # no copied files
        (tmp_path / "fields" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smear.images[0]).save(tmp_path / "fields" / name, compress_level=level)
    made = find_to_folder(tmp_path / "fields", tmp_path / "cells", pixel_size=PIXEL)
    rows = rows_of(made.folder / "cells.csv")
    paths = [row["path"].lstrip("'") for row in rows]
    assert len(set(paths)) == len(rows) == 4 * sum(row["field"] == "a/b.png" for row in rows)
    assert len(list(open_images(made.folder / "cells.csv"))) == len(rows)


def test_a_cluster_finds_the_same(made, fields, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, processes=True, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = find_to_folder(
            fields, tmp_path / "cells", pixel_size=PIXEL, shard_size=2, client=client
        )
    assert contents(there.folder) == contents(made.folder)


def test_the_command(made, fields, tmp_path, capsys):
    folder = tmp_path / "cells"
    arguments = ["find", str(fields), "-o", str(folder), "--pixel-size", str(PIXEL)]
    assert main([*arguments, "--shard-size", "2"]) == 0
    assert (
        f"{made.n_cells} leukocytes of 5 fields: {folder / 'cells.csv'}" in capsys.readouterr().err
    )
    assert contents(folder) == contents(made.folder)
    assert main([*arguments, "--drop", "ugly"]) == 1
    assert (
        "drop must be some of cut cell, cut nucleus, several cells, no cell"
        in capsys.readouterr().err
    )
