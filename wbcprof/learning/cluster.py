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
from typing import NamedTuple

import distributed
import numpy as np

from wbcprof.images.source import ImageSource, NoUsableImage, SkippedImage
from wbcprof.learning.learner import Coder, CodeStatistics, Measured, RemotePatches
from wbcprof.learning.psd import SAMPLE_PATCHES
from wbcprof.learning.sample import LayerInput, PatchRows, sample_patches
from wbcprof.scale.cluster import Holder, check_seen, cluster_errors, held, held_by_workers
from wbcprof.threads import one_blas_thread

_BLOCK_PATCHES = 5000  # of a block at least, where there are fewer than `_MOST_BLOCKS`
_MOST_BLOCKS = 64  # which limits how many workers learning can use
_BATCH = 250  # patches that a block measures in a step


class _InputHolder(Holder):
    """Keeps BLAS to one thread too."""

    def setup(self, worker: distributed.Worker) -> None:
        self._blas = ExitStack()
        self._blas.enter_context(one_blas_thread())

    def teardown(self, worker: distributed.Worker) -> None:
        self._blas.close()


class _Block(NamedTuple):
    """Patches of a share of the images, where they stay; and which images gave none."""

    rows: PatchRows | None
    skipped: list[SkippedImage]
    converted: Counter[str]
    unseen: list[str]


class ClusterPatches(RemotePatches):
    """Random patches, drawn and held by the workers of a cluster; made by `patches_on_cluster`."""

    def __init__(
        self, client: distributed.Client, source: ImageSource, name: str, drawn: LayerInput
    ):
        self._client = client
        self._random_state = drawn.random_state
        images = list(source.parts(1))
        n_patches = drawn.n_patches
        n_blocks = max(1, min(len(images), n_patches // _BLOCK_PATCHES, _MOST_BLOCKS))
        blocks = []
        for index in range(n_blocks):
            part = ImageSource.together(images[index::n_blocks]).self_contained()
            share = (index + 1) * n_patches // n_blocks - index * n_patches // n_blocks
            blocks.append(client.submit(_draw_block, name, part, share, index, pure=False))
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
        self.sample = PatchRows(np.concatenate(samples), drawn.table)
        self.shape = (sum(n for *_, n in self._blocks), self.sample.shape[1])

    def batches(
        self, coder: Callable[[], Coder], index: int, batch_size: int
    ) -> Iterator[tuple[Measured, CodeStatistics]]:
        size = max(_BATCH, batch_size // len(self._blocks))
        for start in range(0, max(n for *_, n in self._blocks), size):
            with cluster_errors():
                yield self._measure(coder(), index, slice(start, start + size))

    def _measure(self, coder: Coder, index: int, rows: slice) -> tuple[Measured, CodeStatistics]:
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
        measured, statistics = sums[0].result()
        return measured, statistics


@contextmanager
def patches_on_cluster(
    client: distributed.Client, source: ImageSource, drawn: LayerInput
) -> Iterator[ClusterPatches]:
    """Random patches of images on the workers of a cluster, as many from each as the total allows.

    Parameters
    ----------
    client : distributed.Client
    source : ImageSource
        Its attribute ``skipped`` is set to the images that could not be read.
    drawn : LayerInput

    Raises
    ------
    OSError
        See `wbcprof.scale.cluster.profile_parts`.
    ValueError
        No image could be read.
    """
    with held_by_workers(client, _InputHolder(drawn)) as name:
        yield ClusterPatches(client, source, name, drawn)


def _draw_block(name: str, part: ImageSource, n_patches: int, block: int) -> _Block:
    drawn: LayerInput = held(name)
    images = drawn.read(part, n_threads=1)
    try:
        levels = sample_patches(
            images, part.n, drawn.patch_size, n_patches, drawn.random_state, block
        )
    except NoUsableImage:
        levels = None
    return _Block(
        None if levels is None else PatchRows(levels, drawn.table),
        part.skipped,
        part.converted,
        part.missing_files(),
    )


def _describe_block(block: _Block, n: int) -> tuple[int, np.ndarray | None, _Block]:
    """How many patches it has, the levels of `n` spread over it, and what became of its images."""
    if block.rows is None:
        return 0, None, block
    total = len(block.rows)
    spread = np.linspace(0, total - 1, min(n, total)).astype(int)
    return total, block.rows.levels[spread], block._replace(rows=None)


def _measure_block(
    coder: Coder, block: _Block, seed: tuple[int, ...], rows: slice
) -> tuple[Measured, CodeStatistics]:
    assert block.rows is not None  # blocks without any are not measured
    order = np.random.default_rng(seed).permutation(len(block.rows))
    return coder.measure_alone(block.rows[order[rows]])


def _same(thing: Coder) -> Coder:
    return thing


def _add(
    a: tuple[Measured, CodeStatistics], b: tuple[Measured, CodeStatistics]
) -> tuple[Measured, CodeStatistics]:
    statistics = CodeStatistics(*a[1].C.shape)
    statistics += a[1]
    statistics += b[1]
    return a[0] + b[0], statistics
