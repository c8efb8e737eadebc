"""What a program that embeds the package relies on: light to import, safe from many threads."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from crops import crops_of
from PIL import Image

import wbcprof
from wbcprof.analysis import name_cells
from wbcprof.datasets import make_smear
from wbcprof.model import layer as layer_module
from wbcprof.model.encoder import Encoder

SERVER = Path(__file__).parents[1] / "docs" / "serve.py"
PROFILE = """
import json, sys
import numpy as np
import wbcprof
values = wbcprof.load(sys.argv[1]).profile(np.load(sys.argv[2])).values
heavy = "scipy sklearn matplotlib pandas pyarrow PIL threadpoolctl jinja2 importlib.metadata"
print(json.dumps([[name for name in heavy.split() if name in sys.modules], values.tolist()]))
"""


@pytest.fixture
def classifying(model, cells):
    """The small model with a classifier."""
    profiles = model.profile(cells.images)
    copied = wbcprof.Model(model.layers, model.pooling)
    copied.classifier = wbcprof.TypeClassifier(C=1.0).fit(profiles.values, cells.labels)
    return copied


def test_loading_and_profiling_need_numpy_alone(classifying, cells, tmp_path):
    classifying.save(tmp_path / "m.wbcprof")
    np.save(tmp_path / "image.npy", cells.images[0])
    run = subprocess.run(
        [sys.executable, "-c", PROFILE, str(tmp_path / "m.wbcprof"), str(tmp_path / "image.npy")],
        cwd=tmp_path,  # the installed package, not the source folder
        capture_output=True,
        text=True,
        check=True,
    )
    heavy, values = json.loads(run.stdout)
    assert heavy == []
    np.testing.assert_array_equal(np.float32(values), classifying.profile(cells.images[0]).values)


def test_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert wbcprof.__version__ == version("wbcprof")
    assert "__version__" in dir(wbcprof)


def test_concurrent_first_calls_pack_once_and_agree(model, cells, tmp_path, monkeypatch):
    model.save(tmp_path / "m.wbcprof")
    loaded = wbcprof.load(tmp_path / "m.wbcprof")
    made = []

    def count(*args, **options):
        made.append(Encoder(*args, **options))
        return made[-1]

    monkeypatch.setattr(layer_module, "Encoder", count)
    together = Barrier(8)

    def profile(_):
        together.wait()
        return loaded.profile(cells.images[:4], n_threads=1).values

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(profile, range(8)))
    assert len(made) == 1
    expected = model.profile(cells.images[:4]).values
    for values in results:
        np.testing.assert_array_equal(values, expected)


def test_what_the_readme_names_is_reached_from_the_package(tmp_path):
    code = (
        "import wbcprof; print(wbcprof.shards.profile_to_shards.__name__, wbcprof.figures, sep='')"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.startswith("profile_to_shards"), run.stderr


def test_naming_types_needs_no_scikit_learn(classifying, cells, tmp_path):
    classifying.save(tmp_path / "m.wbcprof")
    np.save(tmp_path / "image.npy", cells.images[0])
    code = PROFILE.replace(
        ".values\n", ".values\nwbcprof.load(sys.argv[1]).classifier.predict(values)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.wbcprof"), str(tmp_path / "image.npy")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "classifier" in code and json.loads(run.stdout)[0] == []


@pytest.fixture(scope="module")
def server(smear_model, tmp_path_factory):
    """Connection to docs/serve.py with a model that has a memory."""
    path = tmp_path_factory.mktemp("server") / "m.wbcprof"
    smear_model.save(path)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, SERVER, path, str(port)])
    try:
        for _ in range(300):
            try:
                connection = http.client.HTTPConnection("localhost", port, timeout=60)
                connection.connect()
                break
            except OSError:
                time.sleep(0.1)
        yield connection
        connection.close()
    finally:
        process.kill()
        process.wait()


def test_the_example_server_names_cells(server, smear_model):
    smear = make_smear(1, pixel_size=0.2, n_leukocytes=4, random_state=1)
    crop = crops_of(smear)[0][0]
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "PNG")
    server.request("POST", "/", file.getvalue())
    answer = json.loads(server.getresponse().read())
    expected = name_cells(smear_model, smear_model.profile(crop))
    assert answer["call"] == expected.calls[0]
    assert answer["novelty_p"] == pytest.approx(expected.novelty_p[0])
    assert list(answer["probabilities"]) == expected.types.tolist()


@pytest.mark.parametrize(
    "body, says", [(b"no image", "which are no image file"), (b"", "expected an image of 1 to")]
)
def test_the_example_server_refuses_what_is_no_cell(server, body, says):
    server.request("POST", "/", body)
    response = server.getresponse()
    assert response.status == 400 and says in json.loads(response.read())["error"]
