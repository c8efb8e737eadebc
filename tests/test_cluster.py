"""A Dask cluster of several processes gives the bits of one machine, also when workers are lost."""

import os
import signal

import pytest
from PIL import Image

from wbcprof.cli import main
from wbcprof.datasets import write_folder
from wbcprof.images import ImageWarning
from wbcprof.shards import profile_to_shards

distributed = pytest.importorskip("distributed")
pytest.importorskip("pyarrow")

from wbcprof import cluster as cluster_module  # noqa: E402
from wbcprof.cluster import map_bounded  # noqa: E402


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=3, processes=True, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def images(cells, tmp_path_factory):
    folder = write_folder(cells, tmp_path_factory.mktemp("cluster") / "cells")
    files = sorted(folder.rglob("*.png"))
    files[5].write_bytes(files[5].read_bytes()[:300])
    for index in (6, 7, 8, 30):
        Image.open(files[index]).convert("L").save(files[index])
    return folder


@pytest.fixture(scope="module")
def local(model, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("local") / "profiles"
    with pytest.warns(ImageWarning, match="skipped 1 of 48 images|converted 4 of 48"):
        profile_to_shards(model, images, folder, shard_size=10)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def worker_pids(client):
    return list(client.run(os.getpid).values())


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr("wbcprof.shards._PIECE", 3)


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_the_cluster_writes_the_same_files(client, model, images, local, tmp_path, small_pieces):
    shown = []
    profile_to_shards(
        model, images, tmp_path / "out", shard_size=10, client=client,
        progress=lambda *counts: shown.append(counts),
    )  # fmt: skip
    assert contents(tmp_path / "out") == contents(local)
    assert shown[-1] == (48, 48)
    (tmp_path / "out" / "part-000002.parquet").unlink()
    profile_to_shards(model, images, tmp_path / "out", shard_size=10, client=client)
    assert contents(tmp_path / "out") == contents(local)


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_a_relative_folder_and_arrays_reach_the_workers(
    client, model, images, local, cells, tmp_path, monkeypatch, small_pieces
):
    monkeypatch.chdir(images.parent)
    profile_to_shards(model, images.name, tmp_path / "out", shard_size=10, client=client)
    assert contents(tmp_path / "out") == contents(local)
    for name, where in (("there", client), ("here", None)):
        profile_to_shards(model, iter(cells.images), tmp_path / name, shard_size=20, client=where)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_a_worker_killed_in_mid_run_changes_nothing(
    client, model, images, local, tmp_path, small_pieces
):
    victims = worker_pids(client)[:1]

    def kill(done, total):
        if done > 12 and victims:
            os.kill(victims.pop(), signal.SIGKILL)

    profile_to_shards(model, images, tmp_path / "out", shard_size=10, client=client, progress=kill)
    assert not victims
    assert contents(tmp_path / "out") == contents(local)


def test_the_command_profiles_on_a_cluster(client, model, images, local, tmp_path, capsys):
    model.save(tmp_path / "m.wbcprof")
    arguments = [
        "profile", tmp_path / "m.wbcprof", images, "-o", tmp_path / "out", "--shard-size", 10,
        "--dask", client.scheduler.address,
    ]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    assert "47 profiles in 5 shards" in capsys.readouterr().err
    assert contents(tmp_path / "out") == contents(local)


def test_few_tasks_are_with_the_scheduler_at_a_time(client):
    taken = []

    def tasks():
        for number in range(40):
            taken.append(number)
            yield number, (number,)

    most, results = 0, {}
    for tag, result in map_bounded(client, lambda number: number * number, tasks()):
        results[tag] = result
        most = max(most, len(taken) - len(results))
    assert results == {number: number**2 for number in range(40)}
    assert most < 2 * sum(client.nthreads().values())


def test_a_file_that_workers_do_not_see_is_an_error_not_a_skipped_image(
    client, model, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        cluster_module, "_with_full_paths",
        lambda part: type(part)(["/nowhere/x.png"] * len(part), part.ids, None, part.min_size),
    )  # fmt: skip
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    with pytest.raises(OSError, match=r"does not see the image '/nowhere/x\.png'; all"):
        profile_to_shards(model, images, tmp_path / "out", client=client)


def test_no_scheduler_and_no_worker_are_named(model, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 0.5)
    model.save(tmp_path / "m.wbcprof")
    arguments = ["profile", tmp_path / "m.wbcprof", images, "-o", tmp_path / "out", "--dask"]

    def complain(address):
        assert main([*map(str, arguments), address]) == 1
        return capsys.readouterr().err

    assert "no Dask scheduler answers at 'tcp://127.0.0.1:9'" in complain("tcp://127.0.0.1:9")
    assert "no Dask scheduler answers at 'nonsense" in complain("nonsense:")
    with distributed.LocalCluster(n_workers=0, dashboard_address=None) as empty:
        assert "has no workers" in complain(empty.scheduler_address)
    assert not (tmp_path / "out").exists()
