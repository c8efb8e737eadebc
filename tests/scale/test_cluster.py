"""A Dask cluster of several processes gives the bits of one machine, also when workers are lost."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import wbcprof
from wbcprof.cli import main
from wbcprof.datasets import make_leukocytes, write_folder
from wbcprof.images.source import ImageSource, ImageWarning, open_images
from wbcprof.learning.sample import LayerInput, sample_patches
from wbcprof.scale.shards import profile_to_shards

distributed = pytest.importorskip("distributed")
pytest.importorskip("pyarrow")

from wbcprof.learning import cluster as learning_cluster  # noqa: E402
from wbcprof.scale import cluster as cluster_module  # noqa: E402
from wbcprof.scale.cluster import map_bounded  # noqa: E402


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, processes=True, threads_per_worker=1, dashboard_address=None
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
    monkeypatch.setattr("wbcprof.scale.shards.PIECE", 3)


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


# ---- learning ----

LEARNING = {
    "n_signatures": 24, "patch_size": 8, "n_patches": 3000, "max_iter": 3, "tol": 0.0,
    "n_threads": 1,
}  # fmt: skip


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(learning_cluster, "_BLOCK_PATCHES", 600)
    monkeypatch.setattr(learning_cluster, "_BATCH", 100)


def learnt(model):
    return [
        getattr(layer, name)
        for layer in model.layers
        for name in ("signatures", "weights", "bias", "gain")
    ]


def assert_same(a, b):
    for x, y in zip(learnt(a), learnt(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_the_model_does_not_depend_on_how_many_workers_there_are_or_die(
    client, images, small_blocks, monkeypatch
):
    whole = wbcprof.fit(images, client=client, **LEARNING)
    with (
        distributed.LocalCluster(
            n_workers=1, processes=False, threads_per_worker=2, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as other,
    ):
        assert_same(wbcprof.fit(images, client=other, **LEARNING), whole)
    steps, victims = [], worker_pids(client)[:1]
    measure = learning_cluster.ClusterPatches._measure

    def measure_and_kill(self, *arguments):
        steps.append(arguments)
        if len(steps) == 4:
            os.kill(victims.pop(), signal.SIGKILL)
        return measure(self, *arguments)

    monkeypatch.setattr(learning_cluster.ClusterPatches, "_measure", measure_and_kill)
    assert_same(wbcprof.fit(images, client=client, **LEARNING), whole)
    assert not victims and len(steps) == 9
    assert whole.provenance["n_images"] == 47 and whole.provenance["n_patches"] < 3000


def test_learning_goes_on_on_a_cluster(client, model, cells, small_blocks):
    deep = cells.images.astype(np.uint16) * 16
    further = wbcprof.fit(deep, model=model, client=client, n_patches=2000, max_iter=2)
    before, after = model.history[0], further.history[0]
    assert after[-1]["objective"] < before[-1]["objective"] and len(after) == len(before) + 2
    assert further.depths == {"integer": 12}


def objective(layer, patches):
    """That of optimal codes, per unit of the patches' energy, and the encoder's error."""
    rows = layer.preprocessing.apply(patches)[0]
    codes = layer.optimal(rows, 1)
    rebuilt = 0.5 * np.sum((rows - codes @ layer.signatures) ** 2)
    predicted = np.linalg.norm(rows - layer.predict(rows) @ layer.signatures)
    return (rebuilt + layer.settings.alpha * np.abs(codes).sum()) / np.sum(rows**2), (
        predicted / np.linalg.norm(rows)
    )


def test_learning_on_a_cluster_reaches_what_one_machine_does(client, cells, small_blocks):
    longer = {**LEARNING, "max_iter": 10}
    here = [wbcprof.fit(cells.images, random_state=seed, **longer) for seed in range(3)]
    there = wbcprof.fit(cells.images, client=client, **longer)
    source = open_images(make_leukocytes(4, size=72, random_state=1).images)
    drawn = LayerInput((), there.normaliser, True, "inverted", None, 0.67, 8, 2000, 0)
    unseen = drawn.read(source, n_threads=1)  # as learning reads images
    patches = drawn.table[sample_patches(unseen, source.n_hint, 8, 2000, 0)]
    expected = np.max([objective(one.layers[0], patches) for one in here], axis=0)
    reached = objective(there.layers[0], patches)
    assert (reached < 1.02 * expected).all(), (reached, expected)  # as seeds differ by as much


def test_stacked_layers_and_a_checkpoint_on_a_cluster(client, cells, small_blocks, tmp_path):
    stacked = {**LEARNING, "normalise": "background", "max_iter": 2}
    file = tmp_path / "state"
    wbcprof.fit(cells.images, client=client, checkpoint=file, **{**stacked, "max_iter": 1})
    stacked["stack"] = ({"n_signatures": 12, "n_patches": 700},)
    whole = wbcprof.fit(cells.images, client=client, **stacked)
    profiles = cluster_module.profile_on_cluster(client, whole, cells.images)
    np.testing.assert_array_equal(profiles.values, whole.profile(cells.images).values)
    resumed = wbcprof.fit(cells.images, client=client, checkpoint=file, **stacked)
    assert [layer.n_signatures for layer in resumed.layers] == [24, 12]
    assert_same(resumed, whole)


@pytest.mark.filterwarnings("ignore::wbcprof.images.ImageWarning")
def test_the_command_learns_on_a_cluster(client, images, tmp_path, small_blocks, small_pieces):
    numbers = {"--signatures": 24, "--patch-size": 8, "--patches": 3000, "--max-iter": 2}
    arguments = ["fit", images, "-o", tmp_path / "m", "--dask", client.scheduler.address]
    arguments += [argument for pair in numbers.items() for argument in pair]
    assert main([str(argument) for argument in arguments]) == 0
    made = wbcprof.load(tmp_path / "m")
    assert_same(made, wbcprof.fit(images, client=client, **{**LEARNING, "max_iter": 2}))
    profiles = cluster_module.profile_on_cluster(client, made, images)
    expected = made.profile(images)
    np.testing.assert_array_equal(profiles.values, expected.values)
    assert (profiles.ids, profiles.labels) == (expected.ids, expected.labels)
    np.testing.assert_array_equal(
        made.classifier.predict(profiles), made.classifier.predict(expected)
    )


def test_no_image_for_learning_on_a_cluster_is_named(client, tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"No usable image among the 1 given; first: x\.png"):
        wbcprof.fit(tmp_path, client=client, **LEARNING)


# ---- commands and errors ----


def test_the_command_profiles_on_a_cluster(client, model, images, tmp_path, capsys):
    model.save(tmp_path / "m.wbcprof")
    for name, where in (("here", []), ("there", ["--dask", client.scheduler.address])):
        arguments = ["profile", tmp_path / "m.wbcprof", images, "-o", tmp_path / name, *where]
        assert main([str(argument) for argument in arguments]) == 0
        assert "47 profiles in 1 shards" in capsys.readouterr().err
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


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
    monkeypatch.chdir(images.parent)  # where workers are not
    monkeypatch.setattr(ImageSource, "self_contained", lambda part: part)
    message = rf"does not see the image '{images.name}/\w+/\w+\.png'; all"
    with pytest.raises(OSError, match=message):
        profile_to_shards(model, images.name, tmp_path / "out", client=client)
    with pytest.raises(OSError, match=message):
        wbcprof.fit(images.name, client=client, **LEARNING)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            distributed.KilledWorker("task", SimpleNamespace(address="tcp://there"), 3),
            "died one after the other on the same task.*tcp://there",
        ),
        (distributed.CancelledError("task"), "the Dask scheduler was lost, or cancelled the work"),
    ],
)
def test_a_cluster_that_gives_up_is_an_os_error_of_one_line(error, message):
    with pytest.raises(OSError, match=message) as caught, cluster_module.cluster_errors():
        raise error
    assert caught.value.__cause__ is error


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
