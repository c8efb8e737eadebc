"""Shared by the tests: generated cells, a small model, where real images are, instruction sets."""

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy is loaded: each worker has one core, where threads of a BLAS, and those of OpenMP
    # that spin, would wait for those of the others. Tests ask for the threads that they are about.
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

from crops import crops_of

import wbcprof
from wbcprof import _core, threads
from wbcprof.datasets import make_leukocytes, make_smear

threads._most_threads = lambda: 16  # results are the same for any number of threads, on any machine

REAL_IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "pbc"


@pytest.fixture(scope="session")
def real_images() -> Path:
    """Folder of real leukocytes, one sub-folder per type."""
    if not REAL_IMAGES.is_dir():
        pytest.skip(f"no real images at {REAL_IMAGES}")
    return REAL_IMAGES


@pytest.fixture(scope="session")
def cells():
    """Generated cells, not real data: six types, eight of each, 72 px."""
    return make_leukocytes(8, size=72)


@pytest.fixture(scope="session")
def model(cells):
    """A small model of the generated cells, as they are but for the light."""
    return wbcprof.fit(
        cells.images, n_signatures=24, patch_size=10, max_iter=4, n_patches=3000, alpha=0.05,
        pools=("mean",), levels=(1,), centres=(), normalise="background", augment=0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def smear_model():
    """A model of two types, learnt from cells cut out of generated fields, not real data."""
    shares = {"lymphocyte": 1, "neutrophil": 1}
    smear = make_smear(16, pixel_size=0.2, n_leukocytes=16, shares=shares)
    crops, labels = crops_of(smear)
    learnt = wbcprof.fit(crops[::2], n_signatures=24, n_patches=2000, max_iter=2)
    learnt.classifier = wbcprof.train(learnt, crops, labels, augment=0)
    return learnt


@pytest.fixture(params=_core.instruction_sets())
def instruction_set(request):
    """Name of each instruction set of this machine; the kernels run capped to it."""
    before = _core.instruction_set()
    _core.cap_instruction_set(request.param)
    yield request.param
    _core.cap_instruction_set(before)
