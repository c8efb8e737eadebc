"""Work on a Dask cluster.

A model goes to every worker once, also to those that join later, and stays prepared there. Work is
cut without regard to the number of workers, and sums have a fixed order, so neither that number nor
the loss of a worker, whose tasks another then does again, changes a bit of the result.

Learning: patches are drawn where they stay, in blocks that each take a share of all images. In each
step every block measures a batch under the signatures and encoder of the moment; the sum of these
measurements moves both, as it does on one machine.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .images import ImageSource, SkippedImage, _warn, open_images
from .model import Model
from .patches import PatchRows, crop_centre, sample_patches
from .profiles import Profiles
from .psd import SAMPLE_PATCHES, Coder, Measured, RemotePatches
from .shards import PIECE, Part, PartProfiles, join, offered_parts, profile_part
from .threads import blas_threads

try:
    import distributed
except ImportError as error:
    raise ImportError("a cluster needs Dask: pip install 'wbcprof[dask]'") from error

_Tag = TypeVar("_Tag")
_IN_FLIGHT = 2  # tasks for each thread of the workers: one at work, one waiting
_COUNT_EVERY = 5.0  # seconds between looks at how many workers there are
_CONNECT_SECONDS = 30
_BLOCK_PATCHES = 5000  # of a block at least, where there are fewer than `_MOST_BLOCKS`
_MOST_BLOCKS = 64  # which limits how many workers learning can use
_BATCH = 250  # patches that a block measures in a step


@contextmanager
def connected(address: str) -> Iterator[distributed.Client]:
    """A client of the scheduler at `address`, such as ``tcp://host:8786``.

    Raises
    ------
    OSError
        There is no scheduler, or it has no workers.
    """
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError as error:
            raise OSError(f"the Dask scheduler at {address!r} has no workers") from error
        yield client


class _Holder(distributed.WorkerPlugin):
    """Keeps a model in a worker, with the filters that it has prepared, and BLAS to one thread."""

    def __init__(self, model: Model | None):
        self.model = model

    def setup(self, worker) -> None:
        self._held = ExitStack()
        self._held.enter_context(blas_threads(1))

    def teardown(self, worker) -> None:
        self._held.close()


@contextmanager
def _held_by_workers(client: distributed.Client, model: Model | None) -> Iterator[str]:
    """Send a model to all workers for a while; yields the name under which they hold it."""
    name = f"wbcprof-{uuid.uuid4().hex}"
    bare = model and Model(model.layers, model.pools, model.levels, centres=model.centres)
    client.register_plugin(_Holder(bare), name=name)
    try:
        yield name
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(name)


def _held(name: str) -> Model | None:
    return distributed.get_worker().plugins[name].model


def profile_parts(
    client: distributed.Client,
    model: Model,
    parts: Iterable[tuple[_Tag, Part]],
    step: int | None,
    inference: str,
) -> Iterator[tuple[_Tag, PartProfiles]]:
    """Profile parts on the workers; yields tags with profiles, as they come.

    Raises
    ------
    OSError
        A worker does not see image files that are here; workers kept dying; the scheduler is lost.
    """
    with _held_by_workers(client, model) as name:
        tasks = ((tag, (name, _with_full_paths(part), step, inference)) for tag, part in parts)
        for tag, (result, unseen) in map_bounded(client, _profile_there, tasks):
            _check_seen(unseen)
            yield tag, result


def profile_on_cluster(
    client: distributed.Client,
    model: Model,
    images,
    progress: Callable[[int, int | None], None] | None = None,
) -> Profiles:
    """`Model.profile` of images on the workers; the profiles have the same bits.

    Raises
    ------
    OSError
        See `profile_parts`.
    ValueError
        No image could be read.
    """
    source = open_images(images, min_size=model.min_size)
    parts = list(offered_parts(source, PIECE))
    made: list[PartProfiles | None] = [None] * len(parts)
    done = 0
    for index, result in profile_parts(client, model, enumerate(parts), None, "feedforward"):
        made[index] = result
        done += len(parts[index])
        if progress is not None:
            progress(done, source.n_hint)
    joined = join(made)
    _report_images(source, done, joined.skipped, joined.converted)
    return Profiles(
        joined.values,
        model.feature_names,
        joined.ids,
        None if source.labels is None else joined.labels,
        {"inference": "feedforward", "step": model.layers[0].step, **model.provenance},
    )


def _check_seen(unseen: list[str]) -> None:
    """Refuse to take an image for a bad one only because a worker has no such file."""
    here = [path for path in unseen if os.path.isfile(path)]
    if here:
        raise OSError(
            f"a Dask worker does not see the image {here[0]!r}; all workers must see the images at "
            "the same paths"
        )


def _report_images(
    source: ImageSource, n: int, skipped: list[SkippedImage], converted: Counter[str]
) -> None:
    """Note and tell what became of `n` images, as a pass over the source would."""
    if len(skipped) == n:
        raise ValueError(
            f"No usable image among the {n} given; first: {skipped[0].image_id}: "
            f"{skipped[0].reason}"
        )
    source.skipped, source.converted = skipped, converted
    _warn(n, skipped, converted)


def _with_full_paths(part: Part) -> Part:
    things = [
        os.path.abspath(thing) if isinstance(thing, str | os.PathLike) else thing
        for thing in part.things
    ]
    return Part(things, part.ids, part.labels, part.min_size)


def _profile_there(name: str, part: Part, step: int | None, inference: str):
    """On a worker: profiles, and the files of skipped images that are not to be seen from here."""
    result = profile_part(_held(name), part, step, inference, n_threads=1)
    return result, _unseen(part, {skipped.image_id for skipped in result.skipped})


def _unseen(part: Part, skipped: set[str]) -> list[str]:
    return [
        thing
        for thing, image_id in zip(part.things, part.ids, strict=True)
        if image_id in skipped and isinstance(thing, str) and not os.path.isfile(thing)
    ]


def map_bounded(
    client: distributed.Client,
    function: Callable[..., Any],
    tasks: Iterable[tuple[_Tag, tuple]],
) -> Iterator[tuple[_Tag, Any]]:
    """Call `function` on the arguments of each task; yields tags with results, as they come.

    Few more tasks are with the scheduler than there are threads to do them.
    """
    tasks = iter(tasks)
    completed = distributed.as_completed()
    tags: dict[distributed.Future, _Tag] = {}
    limit, counted = 0, -_COUNT_EVERY
    with _cluster_errors():
        try:
            while True:
                if time.monotonic() - counted > _COUNT_EVERY:
                    limit = _IN_FLIGHT * max(1, sum(client.nthreads().values()))
                    counted = time.monotonic()
                while len(tags) < limit and (task := next(tasks, None)) is not None:
                    tag, arguments = task
                    future = client.submit(function, *arguments, pure=False)
                    tags[future] = tag
                    completed.add(future)
                if not tags:
                    return
                future = next(completed)
                yield tags.pop(future), future.result()
                del future
        finally:
            if tags and client.status == "running":
                client.cancel(list(tags), force=True)


@contextmanager
def _cluster_errors() -> Iterator[None]:
    """Say in one line what is wrong with the cluster."""
    try:
        yield
    except distributed.KilledWorker as error:
        raise OSError(
            f"Dask workers died one after the other on the same task, perhaps for want of memory: "
            f"{error}"
        ) from error
    except distributed.CancelledError as error:
        raise OSError(f"the Dask scheduler was lost, or cancelled the work: {error}") from error


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
        (part,) = offered_parts(source, source.n_hint)
        part = _with_full_paths(part)
        n_blocks = max(1, min(len(part), n_patches // _BLOCK_PATCHES, _MOST_BLOCKS))
        blocks = []
        for index in range(n_blocks):
            share = (index + 1) * n_patches // n_blocks - index * n_patches // n_blocks
            blocks.append(
                client.submit(
                    _draw_block, name, part[index::n_blocks], centre, patch_size, share,
                    random_state, index, table, pure=False,
                )
            )  # fmt: skip
        share = -(-SAMPLE_PATCHES // n_blocks)
        with _cluster_errors():
            told = client.gather(
                [client.submit(_describe_block, block, share, pure=False) for block in blocks]
            )
        outcomes = [outcome for *_, outcome in told]
        for outcome in outcomes:
            _check_seen(outcome.unseen)
        skipped = [image for outcome in outcomes for image in outcome.skipped]
        converted = sum((outcome.converted for outcome in outcomes), Counter())
        _report_images(source, len(part), skipped, converted)
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
            with _cluster_errors():
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
    model: Model | None,
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
    model : Model, optional
        Take patches of this model's code maps, not of the images.
    centre : float
        Without `model`: take them from the middle of images, this fraction of the sides.
    patch_size, n_patches, random_state, table
        See `wbcprof.patches.PatchStream`.

    Raises
    ------
    OSError
        See `profile_parts`.
    ValueError
        No image could be read.
    """
    with _held_by_workers(client, model) as name:
        yield ClusterPatches(
            client, source, name, centre, patch_size, n_patches, random_state, table
        )


def _draw_block(
    name: str,
    part: Part,
    centre: float,
    patch_size: int,
    n_patches: int,
    random_state: int,
    block: int,
    table: np.ndarray | None,
) -> _Block:
    source, model = part.source(), _held(name)
    images = (
        crop_centre(cell.pixels, centre, patch_size)
        if model is None
        else model.code_map(cell.pixels, n_threads=1)
        for cell in source
    )
    try:
        levels = sample_patches(images, len(part), patch_size, n_patches, random_state, block)
    except ValueError:
        if len(source.skipped) < len(part):
            raise
        levels = None
    return _Block(
        None if levels is None else PatchRows(levels, table),
        source.skipped,
        source.converted,
        _unseen(part, {skipped.image_id for skipped in source.skipped}),
    )


def _describe_block(block: _Block, n: int):
    """How many patches it has, the levels of `n` spread over it, and what became of its images."""
    if block.rows is None:
        return 0, None, block
    total = len(block.rows)
    spread = np.linspace(0, total - 1, min(n, total)).astype(int)
    return total, block.rows.levels[spread], block._replace(rows=None)


def _measure_block(coder: Coder, block: _Block, seed: tuple[int, ...], rows: slice) -> Measured:
    order = np.random.default_rng(seed).permutation(len(block.rows))
    return coder.measure_alone(block.rows[order[rows]])


def _same(thing):
    return thing


def _add(a: Measured, b: Measured) -> Measured:
    return a + b
