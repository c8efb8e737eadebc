"""Work on a Dask cluster.

A model goes to every worker once, also to those that join later, and stays prepared there. Work is
cut without regard to the number of workers, and sums have a fixed order, so neither that number nor
the loss of a worker, whose tasks another then does again, changes a bit of the result.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from wbcprof.checks import told
from wbcprof.images.source import ImageSource, open_images
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles
from wbcprof.model.settings import Coding
from wbcprof.scale.parts import PIECE, PartProfiles, join, profile_part

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
        raise OSError(f"no Dask scheduler answers at {address!r}: {told(error)}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
        except TimeoutError as error:
            raise OSError(f"the Dask scheduler at {address!r} has no workers") from error
        yield client


class Holder(distributed.WorkerPlugin):
    """Keeps something in a worker, such as a model with the filters that it has prepared."""

    def __init__(self, thing: Any):
        self.thing = thing


@contextmanager
def held_by_workers(client: distributed.Client, holder: Holder) -> Iterator[str]:
    """Have all workers hold something for a while; yields its name for `held`."""
    name = f"wbcprof-{uuid.uuid4().hex}"
    client.register_plugin(holder, name=name)
    try:
        yield name
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(name)


def held(name: str) -> Any:
    """On a worker: what it holds under this name."""
    holder: Any = distributed.get_worker().plugins[name]
    return holder.thing


def profile_parts(
    client: distributed.Client,
    model: Model,
    parts: Iterable[tuple[_Tag, ImageSource]],
    coding: Coding,
) -> Iterator[tuple[_Tag, PartProfiles]]:
    """Profile parts on the workers; yields tags with profiles, as they come.

    Raises
    ------
    OSError
        A worker does not see image files that are here; workers kept dying; the scheduler is lost.
    """
    with held_by_workers(client, Holder(model.for_workers())) as name:
        tasks = ((tag, (name, part.self_contained(), coding)) for tag, part in parts)
        for tag, (result, unseen) in map_bounded(client, _profile_there, tasks):
            check_seen(unseen)
            yield tag, result


def profile_on_cluster(
    client: distributed.Client,
    model: Model,
    images: Any,
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
    parts = list(source.parts(PIECE))
    if not parts:
        raise ValueError("No images given: the iterator was empty.")
    made: dict[int, PartProfiles] = {}
    done = 0
    coding = Coding()
    for index, result in profile_parts(client, model, enumerate(parts), coding):
        made[index] = result
        done += parts[index].n
        if progress is not None:
            progress(done, source.n_hint)
    joined = join(made)
    source.end_pass(done, joined.skipped, joined.converted)
    return Profiles(
        joined.values,
        model.feature_names,
        joined.ids,
        None if source.labels is None else joined.labels,
        model.metadata(coding),
        joined.measures,
    )


def check_seen(unseen: list[str]) -> None:
    """Refuse to take an image for a bad one only because a worker has no such file."""
    here = [path for path in unseen if os.path.isfile(path)]
    if here:
        raise OSError(
            f"a Dask worker does not see the image {here[0]!r}; all workers must see the images at "
            "the same paths"
        )


def _profile_there(name: str, part: ImageSource, coding: Coding) -> tuple[PartProfiles, list[str]]:
    """On a worker: profiles, and the files of skipped images that are not to be seen from here."""
    result = profile_part(held(name), part, coding, n_threads=1)
    return result, part.missing_files()


def map_bounded(
    client: distributed.Client,
    function: Callable[..., Any],
    tasks: Iterable[tuple[_Tag, tuple[Any, ...]]],
) -> Iterator[tuple[_Tag, Any]]:
    """Call `function` on the arguments of each task; yields tags with results, as they come.

    Few more tasks are with the scheduler than there are threads to do them.
    """
    tasks = iter(tasks)
    completed = distributed.as_completed()
    tags: dict[Any, _Tag] = {}
    limit, counted = 0, -_COUNT_EVERY
    with cluster_errors():
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
def cluster_errors() -> Iterator[None]:
    """Say in one line what is wrong with the cluster."""
    try:
        yield
    except FileNotFoundError as error:  # of a worker that has not even the folder
        check_seen([] if error.filename is None else [os.fspath(error.filename)])
        raise
    except distributed.KilledWorker as error:
        raise OSError(
            f"Dask workers died one after the other on the same task, perhaps for want of memory: "
            f"{told(error)}"
        ) from error
    except distributed.CancelledError as error:
        raise OSError(
            f"the Dask scheduler was lost, or cancelled the work: {told(error)}"
        ) from error
