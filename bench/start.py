"""How long a program waits before its first profile: medians over fresh processes.

    python bench/start.py [--model m.wbcprof] [--repeats 10]

Without `--model`, one of 1024 generated signatures of 20 x 20 px is used. Each process imports
NumPy, then wbcprof, loads the model and profiles one generated image.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sizes import N_SIGNATURES, PATCH, STEP, encoder_arrays

import wbcprof
from wbcprof.model.layer import Layer
from wbcprof.model.preprocessing import Preprocessing
from wbcprof.model.settings import LayerSettings

SIDE = 120
PROCESS = """
import json, sys, time
clock = time.perf_counter
start = clock()
import numpy
times = [clock()]
import wbcprof
times.append(clock())
image = numpy.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), numpy.uint8)
start_load = clock()
model = wbcprof.load(sys.argv[1])
times.append(times[-1] + clock() - start_load)
start_profile = clock()
model.profile(image)
times.append(times[-1] + clock() - start_profile)
start_again = clock()
model.profile(image)
times.append(times[-1] + clock() - start_again)
print(json.dumps([b - a for a, b in zip([start, *times], times)]))
"""
STEPS = (
    "import numpy",
    "import wbcprof",
    "wbcprof.load",
    f"first profile, {SIDE} x {SIDE} px",
    "second profile",
)


def save_generated_model(path: Path) -> None:
    filters, bias, gain = (array.astype(np.float32) for array in encoder_arrays())
    weights = filters.reshape(N_SIGNATURES, -1)
    layer = Layer(
        signatures=weights / np.linalg.norm(weights, axis=1, keepdims=True),
        weights=weights,
        bias=bias,
        gain=gain,
        threshold=None,
        preprocessing=Preprocessing("patch_mean"),
        settings=LayerSettings(N_SIGNATURES, preprocessing="patch_mean"),
        patch_size=PATCH,
        step=STEP,
        pixel_input="inverted",
    )
    wbcprof.Model([layer]).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.model
        if path is None:
            path = Path(folder, "generated.wbcprof")
            save_generated_model(path)
        command = [sys.executable, "-P", "-c", PROCESS.replace("SIDE", str(SIDE)), str(path)]
        runs = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(options.repeats)
        ]
    for name, times in zip(STEPS, zip(*runs, strict=True), strict=True):
        print(f"{name:32} {1e3 * statistics.median(times):7.1f} ms")
    ready = statistics.median(run[2] + run[3] for run in runs)
    print(f"{'load and first profile':32} {1e3 * ready:7.1f} ms")


if __name__ == "__main__":
    main()
