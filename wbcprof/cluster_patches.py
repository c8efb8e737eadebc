"""Learning on a Dask cluster: patches stay where they are drawn, what they tell is summed.

Patches are drawn by the workers, in blocks that each take a share of all images. In each step every
block measures a batch under the signatures and encoder of the moment; the sum of these measurements
moves both, as it does on one machine. How many blocks there are depends on the number of patches
alone, and sums have a fixed order, so the model depends neither on the number of workers nor on the
loss of one, whose tasks another does again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import distributed
import numpy as np

from wbcprof.cluster import ModelHolder, check_seen, cluster_errors, held_by_workers, held_model
from wbcprof.images import ImageSource, SkippedImage
from wbcprof.model import Model, layer_inputs
from wbcprof.patches import PatchRows, sample_patches
from wbcprof.psd import SAMPLE_PATCHES, Coder, Measured, RemotePatches
from wbcprof.threads import blas_threads

_BLOCK_PATCHES = 5000  # of a block at least, where there are fewer than `_MOST_BLOCKS`
_MOST_BLOCKS = 64  # which limits how many workers learning can use
_BATCH = 250  # patches that a block measures in a step


class _Holder(ModelHolder):
    """Keeps BLAS to one thread too."""

    def setup(self, worker) -> None:
        self._held = ExitStack()
        self._held.enter_context(blas_threads(1))

    def teardown(self, worker) -> None:
        self._held.close()


class _Block(NamedTuple):
    """Patches of a share of the images, where they stay; and which images gave none."""

    rows: PatchRows | None
    skipped: list[SkippedImage]
    converted: Counter[str]
    unseen: list[str]


class ClusterPatches(RemotePatches):
    """Random patches, drawn and held by the workers of a cluster; made by `patches_on_cluster`."""

    def __init__(self, client, source, name, centre, patch_size, n_patches, random_state, table):
        self._client = client
        self._random_state = random_state
        images = list(source.parts(1))
        n_blocks = max(1, min(len(images), n_patches // _BLOCK_PATCHES, _MOST_BLOCKS))
        blocks = []
        for index in range(n_blocks):
            part = ImageSource.together(images[index::n_blocks]).self_contained()
            share = (index + 1) * n_patches // n_blocks - index * n_patches // n_blocks
            blocks.append(
                client.submit(
                    _draw_block, name, part, centre, patch_size, share, random_state, index,
                    table, pure=False,
                )
            )  # fmt: skip
        share = -(-SAMPLE_PATCHES // n_blocks)
        with cluster_errors():
            told = client.gather(
                [client.submit(_describe_block, block, share, pure=False) for block in blocks]
            )
        outcomes = [outcome for *_, outcome in told]
        for outcome in outcomes:
            check_seen(outcome.unseen)
        skipped = [image for outcome in outcomes for image in outcome.skipped]
        converted: Counter[str] = sum((outcome.converted for outcome in outcomes), Counter())
        source.end_pass(len(images), skipped, converted)
        self._blocks = [
            (index, block, n)
            for index, (block, (n, *_)) in enumerate(zip(blocks, told, strict=True))
            if n
        ]
        samples = [levels for _, levels, _ in told if levels is not None]
        self.sample = PatchRows(np.concatenate(samples), table)
        self.shape = (sum(n for *_, n in self._blocks), self.sample.shape[1])

    def batches(
        self, coder: Callable[[], Coder], index: int, batch_size: int
    ) -> Iterator[Measured]:
        size = max(_BATCH, batch_size // len(self._blocks))
        for start in range(0, max(n for *_, n in self._blocks), size):
            with cluster_errors():
                yield self._measure(coder(), index, slice(start, start + size))

    def _measure(self, coder: Coder, index: int, rows: slice) -> Measured:
        submit = self._client.submit
        there = submit(_same, coder, pure=False)
        sums = [
            submit(_measure_block, there, block, (self._random_state, number, index), rows,
                   pure=False)
            for number, block, n in self._blocks
            if n > rows.start
        ]  # fmt: skip
        while len(sums) > 1:
            odd = sums[len(sums) // 2 * 2 :]
            pairs = zip(sums[::2], sums[1::2], strict=False)
            sums = [submit(_add, a, b, pure=False) for a, b in pairs] + odd
        return sums[0].result()


@contextmanager
def patches_on_cluster(
    client: distributed.Client,
    source: ImageSource,
    model: Model,
    centre: float,
    patch_size: int,
    n_patches: int,
    random_state: int,
    table: np.ndarray | None,
) -> Iterator[ClusterPatches]:
    """Random patches of images on the workers of a cluster, as many from each as the total allows.

    Parameters
    ----------
    client : distributed.Client
    source : ImageSource
        Its attribute ``skipped`` is set to the images that could not be read.
    model : Model
        Its layers so far.
    centre : float
        See `layer_inputs`.
    patch_size, n_patches, random_state, table
        See `wbcprof.patches.PatchStream`.

    Raises
    ------
    OSError
        See `profile_parts`.
    ValueError
        No image could be read.
    """
    with held_by_workers(client, _Holder(model)) as name:
        yield ClusterPatches(
            client, source, name, centre, patch_size, n_patches, random_state, table
        )


def _draw_block(
    name: str,
    part: ImageSource,
    centre: float,
    patch_size: int,
    n_patches: int,
    random_state: int,
    block: int,
    table: np.ndarray | None,
) -> _Block:
    images = layer_inputs(held_model(name), part, centre, patch_size, n_threads=1)
    try:
        levels = sample_patches(images, part.n_hint, patch_size, n_patches, random_state, block)
    except ValueError:
        if len(part.skipped) < part.n_hint:
            raise
        levels = None
    return _Block(
        None if levels is None else PatchRows(levels, table),
        part.skipped,
        part.converted,
        part.missing_files(),
    )


def _describe_block(block: _Block, n: int):
    """How many patches it has, the levels of `n` spread over it, and what became of its images."""
    if block.rows is None:
        return 0, None, block
    total = len(block.rows)
    spread = np.linspace(0, total - 1, min(n, total)).astype(int)
    return total, block.rows.levels[spread], block._replace(rows=None)


def _measure_block(coder: Coder, block: _Block, seed: tuple[int, ...], rows: slice) -> Measured:
    patches: Any = block.rows  # blocks without any are not measured
    order = np.random.default_rng(seed).permutation(len(patches))
    return coder.measure_alone(patches[order[rows]])


def _same(thing):
    return thing


def _add(a: Measured, b: Measured) -> Measured:
    return a + b
