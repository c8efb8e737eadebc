"""Shards: the same profiles as in memory, resumed after kill -9, refused where they would mix."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from PIL import Image

import wbcprof
from wbcprof.cli import _speed, main
from wbcprof.datasets import write_folder
from wbcprof.files import TableWarning, from_csv_text
from wbcprof.images import decode
from wbcprof.images.source import ImageWarning
from wbcprof.model.pooling import Pooling
from wbcprof.scale.shards import profile_to_shards

pd = pytest.importorskip("pandas")


def read(folder):
    """The table of all shards, and the names of every file in the folder."""
    frames = [pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))]
    return pd.concat(frames, ignore_index=True), sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def images(cells, tmp_path_factory):
    """A folder of 48 images, a truncated and an empty one among them."""
    folder = write_folder(cells, tmp_path_factory.mktemp("shards") / "cells")
    files = sorted(folder.rglob("*.png"))
    files[5].write_bytes(files[5].read_bytes()[:300])
    files[40].write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(model, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "profiles"
    with pytest.warns(ImageWarning, match=r"skipped 2 of 48 images; skipped\.csv lists them"):
        made = profile_to_shards(model, images, folder, shard_size=10)
    assert made == (folder, 48, 46, 2, 5)
    return folder


@pytest.fixture
def watched(monkeypatch):
    """How many images were profiled, call by call."""
    profiled = []
    profile = wbcprof.Model.profile_source

    def watch(self, source, *arguments):
        profiled.append(source.n_hint)
        return profile(self, source, *arguments)

    monkeypatch.setattr(wbcprof.Model, "profile_source", watch)
    return profiled


def test_shards_hold_the_profiles_of_one_table(model, images, whole):
    table, names = read(whole)
    with pytest.warns(ImageWarning):
        expected = model.profile(images)
    pd.testing.assert_frame_equal(table, expected.to_pandas())
    tables = [f"part-{index:06d}.parquet" for index in range(5)]
    records = [f"part-{index:06d}.json" for index in range(5)]
    assert names == sorted([*tables, *records, "manifest.json", "skipped.csv"])
    assert [len(pd.read_parquet(whole / name)) for name in tables] == [9, 10, 10, 10, 7]


def test_skipped_images_are_listed_with_reasons(images, whole):
    files = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    with open(whole / "skipped.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert [row[0] for row in rows] == ["image", files[5], files[40]]
    assert "truncated" in rows[1][1] and "empty" in rows[2][1]


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_a_shard_that_is_missing_is_made_alone(model, images, whole, tmp_path, watched):
    folder = tmp_path / "profiles"
    profile_to_shards(model, images, folder, shard_size=10)
    assert contents(folder) == contents(whole)
    (folder / "part-000000.json").unlink()
    (folder / "part-000003.parquet").unlink()
    (folder / ".part-000003-x1y2z3__.parquet").write_bytes(b"half")  # of a killed run
    watched.clear()
    shown = []
    profile_to_shards(
        model, images, folder, shard_size=10, progress=lambda *counts: shown.append(counts)
    )
    assert contents(folder) == contents(whole)
    assert sum(watched) == 20 and shown[-1] == (48, 48)
    assert [n for n, _ in shown] == sorted(n for n, _ in shown)


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT])
def test_files_that_could_not_be_opened_are_tried_again(
    model, images, tmp_path, watched, monkeypatch, code
):
    files = sorted(images.rglob("*.png"))
    folder = tmp_path / "profiles"
    opened = decode.open_picture

    def refuse(source):
        if source == files[12]:
            raise OSError(code, os.strerror(code))
        return opened(source)

    with monkeypatch.context() as refusing:
        refusing.setattr(decode, "open_picture", refuse)
        assert profile_to_shards(model, files, folder, shard_size=10).n_skipped == 3
    assert os.strerror(code) in (folder / "skipped.csv").read_text()
    watched.clear()
    made = profile_to_shards(model, files[:15], folder, shard_size=10)
    assert made.n_profiles == 45 and watched == []  # what was made of images not given is kept
    made = profile_to_shards(model, files, folder, shard_size=10)
    assert made.n_profiles == 46 and sum(watched) == 10
    watched.clear()
    assert profile_to_shards(model, files, folder, shard_size=10).n_skipped == 2
    assert watched == []  # what is damaged is not tried again


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_arrays_and_iterators_give_the_same_profiles(model, cells, tmp_path):
    labels = list(cells.labels)
    kinds = {
        "array": cells.images,
        "list": list(cells.images),
        "iterator": iter(cells.images),
        "generator": (image for image in cells.images),
    }
    for name, images in kinds.items():
        profile_to_shards(model, images, tmp_path / name, shard_size=20, labels=labels)
        table, _ = read(tmp_path / name)
        pd.testing.assert_frame_equal(table, model.profile(cells.images, labels=labels).to_pandas())
    (tmp_path / "generator" / "part-000001.parquet").unlink()
    again = (image for image in cells.images)
    profile_to_shards(model, again, tmp_path / "generator", shard_size=20, labels=labels)
    assert contents(tmp_path / "generator") == contents(tmp_path / "iterator")


def test_a_folder_without_a_usable_image_is_an_error_that_says_where_to_look(model, tmp_path):
    (tmp_path / "cells").mkdir()
    names = ["'=3.png", "+2.png", "-1.png", "4.png", "=0.png"]
    for name in names:
        (tmp_path / "cells" / name).write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"No usable image among the 5 given.*skipped.csv"):
        profile_to_shards(model, tmp_path / "cells", tmp_path / "out", shard_size=2)
    with open(tmp_path / "out" / "skipped.csv", newline="") as stream:
        _, *rows = csv.reader(stream)
    assert [name for name, _ in rows] == ["''=3.png", "'+2.png", "'-1.png", "4.png", "'=0.png"]
    assert [from_csv_text(name) for name, _ in rows] == names


def test_conversions_are_told(model, cells, tmp_path):
    grey = cells.images[:6, :, :, :1]
    with pytest.warns(ImageWarning, match="converted 6 of 6 images to 8-bit RGB: 6 grey"):
        profile_to_shards(model, grey, tmp_path / "out", shard_size=4)


# ---- refused ----


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_going_on_with_something_else_is_refused_by_name(model, cells, tmp_path):
    folder, images, labels = tmp_path / "out", list(cells.images[:20]), ["a", "b"] * 10
    go = {"shard_size": 5, "labels": labels}
    profile_to_shards(model, images, folder, **go)
    (folder / "part-000002.parquet").unlink()
    before = contents(folder)
    other = wbcprof.Model(model.layers, Pooling("max", model.pooling.levels))

    def refused(match, model=model, images=images, **changed):
        with pytest.raises(ValueError, match=match):
            profile_to_shards(model, images, folder, **{**go, **changed})
        assert contents(folder) == before

    refused("another run made: step was 2, now it is 5", step=5)
    refused("inference was feedforward, now it is sparse", inference="sparse")
    refused("shard_size was 5, now it is 6", shard_size=6)
    refused("model was .*, now it is ", model=other)
    changed = [images[0], images[7], *images[2:]]
    refused("part-000000.parquet .* with another image for 'image_000001'", images=changed)
    refused("with another label for 'image_000001', 'b' than 'c' that", labels=["a", "c"] * 10)
    (folder / "manifest.json").write_text("{")
    before["manifest.json"] = b"{"
    refused(r"manifest.json' is damaged")


def test_the_labels_must_be_one_for_each_image(model, cells, tmp_path):
    for labels, n in ((["a"] * 47, 47), (["a"] * 49, 49)):
        message = rf"Length of labels \({n}\) must match number of images \((at least )?48\)"
        with pytest.raises(ValueError, match=message):
            profile_to_shards(model, cells.images, tmp_path / "out", labels=labels)
        assert not (tmp_path / "out").exists()
        with pytest.raises(ValueError, match=message):
            profile_to_shards(model, iter(cells.images), tmp_path / "lazy", labels=labels)
        assert not (tmp_path / "lazy" / "skipped.csv").exists()
        (tmp_path / "lazy" / "manifest.json").unlink()


def test_no_images_are_an_error(model, tmp_path):
    with pytest.raises(ValueError, match="the iterator was empty"):
        profile_to_shards(model, iter([]), tmp_path / "none")


# ---- more images ----


def test_more_images_of_a_folder_are_profiled_alone(model, cells, tmp_path, watched):
    images, out = tmp_path / "cells", tmp_path / "out"
    names = [f"{label}/{i:02}.png" for i, label in enumerate(cells.labels)]
    for name in names:
        (images / name).parent.mkdir(parents=True, exist_ok=True)

    def add(some):
        for i in some:
            Image.fromarray(cells.images[i]).save(images / names[i])

    add(range(0, 48, 4))  # of every type, so that later ones lie between them
    profile_to_shards(model, images, out, shard_size=5)
    first = contents(out)
    add(range(1, 48, 4))
    watched.clear()
    made = profile_to_shards(model, images, out, shard_size=5)
    assert made == (out, 24, 24, 0, 6) and sum(watched) == 12
    assert {name: contents(out)[name] for name in first} == first
    table, _ = read(out)
    again = model.profile(images).to_pandas()
    pd.testing.assert_frame_equal(*(
        frame.sort_values("Metadata_ImageId", ignore_index=True) for frame in (table, again)
    ))  # fmt: skip

    (images / names[4]).unlink()
    add([2])
    watched.clear()
    gone = rf"1 of the 25 images in .* are not among those now given, first '{names[4]}'; what was"
    with pytest.warns(ImageWarning, match=gone):
        made = profile_to_shards(model, images, out, shard_size=5)
    assert made == (out, 25, 25, 0, 7) and sum(watched) == 1
    assert names[4] in wbcprof.Profiles.load(out).ids


def test_more_of_an_array_and_of_an_iterator_too(model, cells, tmp_path, watched):
    for name, kind in (("array", np.array), ("iterator", iter)):
        profile_to_shards(model, kind(cells.images[:12]), tmp_path / name, shard_size=5)
        watched.clear()
        made = profile_to_shards(model, kind(cells.images[:18]), tmp_path / name, shard_size=5)
        assert made.n_profiles == 18 and sum(watched) == 6
        with pytest.warns(ImageWarning, match="8 of the 18 images .* first 'image_000010'"):
            profile_to_shards(model, kind(cells.images[:10]), tmp_path / name, shard_size=5)
        assert sum(watched) == 6


def test_an_image_that_is_given_twice_is_profiled_twice(model, cells, tmp_path):
    path = tmp_path / "cell.png"
    Image.fromarray(cells.images[0]).save(path)
    for n in (1, 3, 3):
        assert profile_to_shards(model, [path] * n, tmp_path / "out", shard_size=2).n_profiles == n


def test_loading_says_what_is_missing(model, cells, tmp_path):
    folder = tmp_path / "out"
    profile_to_shards(model, cells.images[:12], folder, shard_size=4)
    whole = contents(folder)
    first = whole["part-000000.parquet"]
    for name, content, said, n in (
        ("part-000001.parquet", None, "part-000001.parquet is missing", 8),
        ("part-000001.parquet", first, "is not the table that part-000001.json is of", 12),
        ("part-000001.json", None, "is not the table that part-000001.json is of", 12),
        ("part-000001.json", b"{", "is not the table that part-000001.json is of", 12),
        ("skipped.csv", None, "the run that made them did not end", 12),
    ):
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        with pytest.warns(TableWarning, match=f"are not whole: .*{said}; make them again"):
            assert len(wbcprof.Profiles.load(folder)) == n
        (folder / name).write_bytes(whole[name])


def test_a_table_that_is_not_that_of_its_record_is_made_anew(model, cells, tmp_path):
    folder = tmp_path / "out"
    profile_to_shards(model, cells.images[:12], folder, shard_size=4)
    before = contents(folder)
    (folder / "part-000001.parquet").write_bytes(before["part-000000.parquet"])
    (folder / "part-000002.parquet").write_bytes(b"")
    (folder / ".notes-2024.parquet").write_bytes(b"the user's own")
    profile_to_shards(model, cells.images[:12], folder, shard_size=4)
    assert contents(folder) == {**before, ".notes-2024.parquet": b"the user's own"}


DAMAGES = [
    ({"skipped": None}, "skipped is missing"), ({"skipped": [["a.png"]]}, "skipped is missing"),
    ({"ids": 5}, "ids is missing or of another kind"), ({"ids": [5] * 4}, "ids is missing"),
    ({"labels": 3}, "labels is missing"), ({"labels": ["a"]}, "it has 4 ids, 1 labels and 4 cont"),
    ({"contents": ["a"] * 5}, "it has 4 ids, 4 labels and 5 contents"),
    ({"profiles": "4"}, "profiles is missing"), ({"converted": {"grey": None}}, "converted is"),
]  # fmt: skip


@pytest.mark.parametrize("damage, reason", DAMAGES)
def test_records_that_were_edited_are_one_error(model, cells, tmp_path, damage, reason):
    profile_to_shards(model, cells.images[:8], tmp_path / "out", shard_size=4)
    path = tmp_path / "out" / "part-000001.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(ValueError, match=rf"part-000001.json' is damaged: {reason}.*remove it"):
        profile_to_shards(model, cells.images[:8], tmp_path / "out", shard_size=4)
    path.unlink()
    profile_to_shards(model, cells.images[:8], tmp_path / "out", shard_size=4)


@pytest.mark.skipif(os.name != "posix", reason="of POSIX")
@pytest.mark.parametrize("name", ["manifest.json", "part-000001.json", "part-000001.parquet"])
def test_a_pipe_in_the_folder_keeps_nobody_waiting(model, cells, tmp_path, name):
    profile_to_shards(model, cells.images[:8], tmp_path / "out", shard_size=4)
    (tmp_path / "out" / name).unlink()
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(ValueError, match=rf"expected a regular file, got '.*{name}', a pipe"):
        profile_to_shards(model, cells.images[:8], tmp_path / "out", shard_size=4)


def test_files_of_like_names_in_the_folder_are_the_users(model, cells, tmp_path):
    for _ in range(2):
        profile_to_shards(model, cells.images[:8], tmp_path / "out", shard_size=4)
        for name in ("part-notes.json", "part-1.json", "part-\u00b2.json"):
            (tmp_path / "out" / name).write_text("mine")
    assert (tmp_path / "out" / "part-1.json").read_text() == "mine"


def test_a_folder_of_something_else_is_left_alone(model, images, cells, tmp_path):
    with pytest.raises(ValueError, match=r"is not empty and holds no manifest\.json"):
        profile_to_shards(model, cells.images, images)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        profile_to_shards(model, cells.images, tmp_path / "no" / "out")


def test_two_runs_into_one_folder_at_a_time_are_refused(model, cells, tmp_path):
    pytest.importorskip("fcntl")

    def meddling():
        yield cells.images[0]
        with pytest.raises(ValueError, match="another run is writing into"):
            profile_to_shards(model, cells.images, tmp_path / "out")

    profile_to_shards(model, meddling(), tmp_path / "out")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"shard_size": 0}, "shard_size must be a positive integer, got 0"),
        ({"step": 0}, "step must be None or an integer from 1 to 2147483647, got 0"),
        ({"inference": "both"}, "inference must be one of .*got 'both'"),
    ],
)
def test_parameters_out_of_range_are_named_before_the_work(
    model, cells, tmp_path, parameters, message
):
    with pytest.raises(ValueError, match=message):
        profile_to_shards(model, cells.images, tmp_path / "out", **parameters)
    assert not (tmp_path / "out").exists()


# ---- the command ----


@pytest.fixture(scope="module")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.wbcprof"
    model.save(path)
    return path


COMMAND = "from wbcprof.cli import main; raise SystemExit(main())"


def command(model_file, images, folder):
    return ["profile", str(model_file), str(images), "-o", str(folder), "--shard-size", "2"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_killed_command_goes_on_to_the_same_files(model_file, images, tmp_path):
    assert main(command(model_file, images, tmp_path / "whole")) == 0
    folder = tmp_path / "killed"
    random = np.random.default_rng()
    killed_with = []
    for target in (1, 4, 9, 15):
        run = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *command(model_file, images, folder)],
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
        )
        while run.poll() is None and len(list(folder.glob("part-*.parquet"))) < target:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.03))
        run.kill()
        run.wait()
        killed_with.append(len(list(folder.glob("part-*.parquet"))))
        for path in folder.glob("part-*.parquet"):
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    assert 0 < killed_with[0] < 24
    assert main(command(model_file, images, folder)) == 0
    assert contents(folder) == contents(tmp_path / "whole"), killed_with


def test_the_command_tells_what_it_made_and_goes_on(model_file, images, tmp_path, capsys):
    folder = tmp_path / "profiles"
    assert main(command(model_file, images, folder)) == 0
    told = capsys.readouterr().err
    assert "46 profiles in 24 shards" in told and "skipped 2 of 48 images" in told
    made = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert main(command(model_file, images, folder)) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.glob("part-*")} == made
    assert main([*command(model_file, images, folder), "--step", "7"]) == 1
    assert "step was 2, now it is 7" in capsys.readouterr().err


def test_options_that_do_not_go_together_are_refused(model_file, images, tmp_path, capsys):
    profile = ["profile", str(model_file), str(images), "-o"]
    assert main([*profile, str(tmp_path / "out"), "--tolerance", "0.1"]) == 1
    assert "--tolerance is for one table" in capsys.readouterr().err
    for option in (["--shard-size", "5"], ["--dask", "tcp://127.0.0.1:1"]):
        assert main([*profile, str(tmp_path / "t.csv"), *option]) == 1
        assert "are for a folder of shards" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_progress_has_a_rate_and_the_time_left():
    assert _speed(0, 1.0, 500, 1000) == ""
    assert _speed(300, 10.0, 800, 4400) == ", 30 a second, 0:02:00 left"
    assert _speed(300, 10.0, 800, None) == _speed(300, 10.0, 800, 800) == ", 30 a second"


def test_a_folder_in_a_folder_that_is_not_there_is_named(model, cells, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"in which 'profiles' would be made, does not"):
        profile_to_shards(model, cells.images, tmp_path / "nowhere" / "profiles")


def test_a_tolerance_is_not_for_shards(model, cells, tmp_path):
    with pytest.raises(ValueError, match="for one table of profiles, not for shards"):
        profile_to_shards(model, cells.images, tmp_path / "profiles", tolerance=0.01)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_kind_is_refused(model, cells, tmp_path):
    """It has all that profiles must agree in, and more."""
    folder = tmp_path / "out"
    profile_to_shards(model, cells.images[:4], folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"types": "of a model"}))
    with pytest.raises(ValueError, match="types was of a model, now it is none"):
        profile_to_shards(model, cells.images[:4], folder)


@pytest.mark.parametrize("change", ["palette", "size", "mode"])
def test_pictures_of_the_same_bytes_are_other_images(model, cells, tmp_path, change):
    first = Image.fromarray(cells.images[0][:40, :48]).quantize(64)
    first.putpalette(first.getpalette() + [0] * (768 - len(first.getpalette())))
    other = first.copy()
    if change == "palette":
        other.putpalette(first.getpalette()[::-1])
    else:
        mode, size = ("L", first.size) if change == "mode" else ("P", first.size[::-1])
        other = Image.frombytes(mode, size, first.tobytes())
    assert other.tobytes() == first.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile_to_shards(model, [first], tmp_path / "out")
        with pytest.raises(ValueError, match="another image for 'image_000000'"):
            profile_to_shards(model, [other], tmp_path / "out")


def test_other_files_of_the_same_names_are_refused(model, cells, tmp_path):
    first, second = (tmp_path / name for name in "ab")
    for folder, taken in ((first, [0, 1]), (second, [0, 2])):
        folder.mkdir()
        for number, at in enumerate(taken):
            Image.fromarray(cells.images[at]).save(folder / f"{number}.bmp")  # of one size
    profile_to_shards(model, first, tmp_path / "made", shard_size=1)
    before = contents(tmp_path / "made")
    with pytest.raises(ValueError, match=r"000001\.parquet .* another image for '1.bmp', .*remove"):
        profile_to_shards(model, second, tmp_path / "made", shard_size=1)
    assert contents(tmp_path / "made") == before
    (tmp_path / "made" / "part-000001.json").unlink()
    profile_to_shards(model, second, tmp_path / "made", shard_size=1)
    np.testing.assert_array_equal(
        wbcprof.Profiles.load(tmp_path / "made").values, model.profile(second).values
    )


def test_deeper_images_that_come_later_are_told_of(model, cells, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", cells.images[0].astype(np.uint16) << 2)
    with pytest.warns(ImageWarning, match="white is 1023"):
        profile_to_shards(model, folder, tmp_path / "made", shard_size=1)
    tifffile.imwrite(folder / "b.tif", cells.images[1].astype(np.uint16) << 4)
    with pytest.warns(ImageWarning, match=r"1 of 2 shards, first part-000000\.json, were made"):
        profile_to_shards(model, folder, tmp_path / "made", shard_size=1)
    (tmp_path / "made" / "part-000000.json").unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        profile_to_shards(model, folder, tmp_path / "made", shard_size=1)
    assert not any("were made before" in str(one.message) for one in caught)
    np.testing.assert_array_equal(
        wbcprof.Profiles.load(tmp_path / "made").values, model.profile(folder).values
    )
