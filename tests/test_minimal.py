"""What every wheel runs where it is built: needs wbcprof, NumPy and pytest, takes a second."""

import subprocess
import sys

import numpy as np
import pytest

import wbcprof
from wbcprof import _core, reference
from wbcprof.model.encoder import NONLINEARITIES, Encoder


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_kernel_equals_its_twin_on_every_instruction_set(instruction_set, nonlinearity):
    rng = np.random.default_rng(0)
    threshold = rng.uniform(0, 0.3, 40) if nonlinearity == "soft_threshold" else None
    encoder = (rng.normal(size=(40, 8, 8, 3)) / 14, rng.normal(size=40), rng.normal(size=40) / 5)
    images = rng.integers(0, 256, (2, 40, 33, 3), dtype=np.uint8)
    options = {"nonlinearity": nonlinearity, "step": 4}
    got = Encoder(*encoder, threshold, **options).encode_pool(images, n_threads=2)
    expected = reference.encode_pool(images, *encoder, threshold, **options)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="instruction set must be one of"):
        _core.cap_instruction_set("sse")
    with pytest.raises(AttributeError, match="has no attribute 'profiles_of'"):
        wbcprof.profiles_of


def test_profiling_imports_numpy_alone(tmp_path):
    code = (
        "import sys, wbcprof, wbcprof.model.encoder; "
        "heavy = {'scipy', 'sklearn', 'PIL', 'matplotlib', 'pandas'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
