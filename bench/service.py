"""One profile at a time: probabilities beside scikit-learn's, and docs/serve.py under load.

    python bench/service.py [--model m.wbcprof] [--seconds 10]

Without `--model`, one of the default size is learnt from generated cells. Images are generated, 120
x 120 px. The server and the clients that ask it share the machine.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import wbcprof
from wbcprof.datasets import make_leukocytes

SIDE = 120
SERVER = Path(__file__).parents[1] / "docs" / "serve.py"


def learn_model(path: Path) -> None:
    cells = make_leukocytes(40, size=SIDE)
    model = wbcprof.fit(cells.images, n_patches=20_000, max_iter=5)
    model.classifier = wbcprof.train(model, cells.images, cells.labels)
    model.save(path)


def milliseconds(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list]:
    """Least and median time of each, contenders taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: [min(own), float(np.median(own))] for name, own in times.items()}


def compare_probabilities(model: wbcprof.Model, seed: int = 0) -> None:
    """Peers learn from as many profiles of as many types, of random values about them."""
    cells = make_leukocytes(1, size=SIDE, random_state=seed)
    profiles = model.profile(cells.images).values
    machines = model.classifier
    assert machines is not None
    rng = np.random.default_rng(seed)
    many = np.tile(profiles, (1000 // len(profiles) + 1, 1))[:1000]
    many = (many + 0.1 * machines.scale_ * rng.standard_normal(many.shape)).astype(np.float32)
    types = np.arange(1000) % len(machines.classes_)
    learning = many + 0.5 * machines.scale_ * types[:, None]
    peers = {
        "scikit-learn SVC": make_pipeline(StandardScaler(), SVC(probability=True)),
        "scikit-learn LDA": make_pipeline(StandardScaler(), LinearDiscriminantAnalysis()),
    }
    for peer in peers.values():
        peer.fit(learning, types)
    print("\npredict_proba, ms       least   median")
    for n, repeats in ((1, 200), (1000, 10)):
        contenders = {"wbcprof": lambda n=n: machines.predict_proba(many[:n])}
        for name, peer in peers.items():
            contenders[name] = lambda n=n, peer=peer: peer.predict_proba(many[:n])
        for name, (least, median) in milliseconds(contenders, repeats).items():
            print(f"{n:5d}  {name:16s} {least:8.3f} {median:8.3f}")


def ask(port: int, bodies: list[bytes], n_clients: int, seconds: float) -> list[float]:
    """Seconds that each request took, of clients that ask without a pause."""
    took: list[float] = []

    def client(k: int) -> None:
        connection = http.client.HTTPConnection("localhost", port)
        end = time.perf_counter() + seconds
        while (start := time.perf_counter()) < end:
            connection.request("POST", "/", bodies[(k + len(took)) % len(bodies)])
            response = connection.getresponse()
            answer = json.loads(response.read())
            if response.status != 200:
                raise RuntimeError(answer["error"])
            took.append(time.perf_counter() - start)

    clients = [threading.Thread(target=client, args=(k,)) for k in range(n_clients)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return took


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("localhost", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{SERVER.name} does not answer")


def load_server(path: Path, seconds: float) -> None:
    bodies = []
    for image in make_leukocytes(4, size=SIDE, random_state=1).images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        bodies.append(file.getvalue())
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, SERVER, path, str(port)])
    try:
        wait_for(port)
        ask(port, bodies, 1, 1)
        print("\nclients  requests/s  median ms  of 100 the slowest, ms")
        for n_clients in (1, 2, 4):
            took = ask(port, bodies, n_clients, seconds)
            median, slow = (1e3 * float(np.quantile(took, q)) for q in (0.5, 0.99))
            print(f"{n_clients:7d} {len(took) / seconds:11.0f} {median:10.1f} {slow:10.1f}")
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if path is None:
            path = Path(folder, "m.wbcprof")
            learn_model(path)
        model = wbcprof.load(path)
        print(f"{len(model.feature_names)} features, {len(model.classifier.classes_)} types")
        compare_probabilities(model)
        load_server(path, options.seconds)


if __name__ == "__main__":
    main()
