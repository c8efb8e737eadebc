"""pytest-benchmark: encode-and-pool at the sizes of the benchmark, to watch for regressions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import sizes

from wbcprof import reference
from wbcprof.model.encoder import Encoder


@pytest.mark.parametrize("side", sizes.IMAGE_SIDES)
def test_encode_pool(benchmark, side):
    arrays = sizes.encoder_arrays()
    encoder = Encoder(*arrays, nonlinearity="sigmoid", step=sizes.STEP)
    images = sizes.generated_images(1, side)
    profile = benchmark(encoder.encode_pool, images, n_threads=1)
    few = tuple(array[:8] for array in arrays)
    expected = reference.encode_pool(images, *few, nonlinearity="sigmoid", step=sizes.STEP)
    np.testing.assert_allclose(profile[:, :8], expected, atol=1e-5)
