"""Work on a Dask cluster.

A model goes to every worker once, also to those that join later, and stays prepared there. Work is
cut without regard to the number of workers, so results have the bits of a single machine. Tasks of
a lost worker are done again by another.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from .model import Model
from .shards import Part, PartProfiles, profile_part

try:
    import distributed
except ImportError as error:
    raise ImportError("a cluster needs Dask: pip install 'wbcprof[dask]'") from error

_Tag = TypeVar("_Tag")
_IN_FLIGHT = 2  # tasks for each thread of the workers: one at work, one waiting
_COUNT_EVERY = 5.0  # seconds between looks at how many workers there are
_CONNECT_SECONDS = 30


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
    """Keeps a model in a worker, with the filters that it has prepared."""

    def __init__(self, model: Model):
        self.model = model


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
    name = f"wbcprof-{uuid.uuid4().hex}"
    bare = Model(model.layers, model.pools, model.levels, centres=model.centres)
    client.register_plugin(_Holder(bare), name=name)
    try:
        tasks = ((tag, (name, _with_full_paths(part), step, inference)) for tag, part in parts)
        for tag, (result, unseen) in map_bounded(client, _profile_there, tasks):
            here = [path for path in unseen if os.path.isfile(path)]
            if here:
                raise OSError(
                    f"a Dask worker does not see the image {here[0]!r}; all workers must see the "
                    "images at the same paths"
                )
            yield tag, result
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(name)


def _with_full_paths(part: Part) -> Part:
    things = [
        os.path.abspath(thing) if isinstance(thing, str | os.PathLike) else thing
        for thing in part.things
    ]
    return Part(things, part.ids, part.labels, part.min_size)


def _profile_there(name: str, part: Part, step: int | None, inference: str):
    """On a worker: profiles, and the files of skipped images that are not to be seen from here."""
    model = distributed.get_worker().plugins[name].model
    result = profile_part(model, part, step, inference, n_threads=1)
    skipped = {image_id for image_id, _ in result.skipped}
    unseen = [
        thing
        for thing, image_id in zip(part.things, part.ids, strict=True)
        if image_id in skipped and isinstance(thing, str) and not os.path.isfile(thing)
    ]
    return result, unseen


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
