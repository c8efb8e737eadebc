"""Profiles of any number of images: shards in a folder, written as they fill, resumed after a kill.

    manifest.json        what the run is: model, settings, number of images
    part-000000.parquet  profiles of images 0 to shard_size - 1, and so on; whole or absent
    part-000000.json     what that shard was made from, and which of its images were skipped
    skipped.csv          all skipped images with reasons; written last: where it is, all is done

Shards cut the images offered, not those that could be read, so each can be made by itself. A shard
is finished when both of its files are there. Only the process that was asked to writes into the
folder; workers of a cluster send their profiles to it.

Examples
--------
>>> from tempfile import TemporaryDirectory
>>> import wbcprof
>>> from wbcprof.datasets import make_leukocytes
>>> cells = make_leukocytes(2, size=48)  # generated
>>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
>>> with TemporaryDirectory() as home:
...     made = wbcprof.shards.profile_to_shards(model, cells.images, home, shard_size=8)
...     for path in sorted(made.folder.iterdir()):
...         print(path.name)
manifest.json
part-000000.json
part-000000.parquet
part-000001.json
part-000001.parquet
skipped.csv
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from wbcprof._shown import shown
from wbcprof._version import __version__
from wbcprof.checks import Integer
from wbcprof.files import write_rows
from wbcprof.images.source import ImageSource, ImageWarning, open_images
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles, check_table
from wbcprof.model.settings import Coding, CodingOptions
from wbcprof.scale.folders import (
    check_manifest,
    claimed,
    read_json,
    record_name,
    write_json,
)
from wbcprof.scale.parts import PIECE, PartProfiles, join, profile_part
from wbcprof.threads import resolve_threads

if TYPE_CHECKING:
    from distributed import Client

SKIPPED = "skipped.csv"


@shown
class ShardedProfiles(NamedTuple):
    """What `profile_to_shards` leaves in `folder`, counted over all of its shards."""

    folder: Path
    n_images: int
    n_profiles: int
    n_skipped: int
    n_shards: int


def profile_to_shards(
    model: Model,
    images: Any,
    folder: str | os.PathLike[str],
    *,
    shard_size: int = 1000,
    labels: Iterable[Any] | None = None,
    n_threads: int | None = None,
    client: Client | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    **coding_options: Unpack[CodingOptions],
) -> ShardedProfiles:
    """Profile any number of images into a folder of parquet files, in constant memory.

    Called again after an interruption, it goes on from the finished shards, to the same files as
    without one. Images that cannot be read are listed in ``skipped.csv``. See the module's
    docstring for the files.

    Parameters
    ----------
    model : Model
    images : folder, path, list of paths, array, or iterable
        See `wbcprof.images.open_images`. An iterator is read a shard at a time, and read again
        from its start to resume, without decoding what is finished.
    folder : path
        Made where missing. Must be empty, or hold an earlier run of the same model, settings and
        images; files are taken to be unchanged where their names are.
    shard_size : int
        Images of a shard; arrays of an iterator are held in memory so many at a time.
    labels, step, inference, progress
        See `Model.profile`; `progress` counts images offered, those of finished shards too. There
        is no `tolerance` for shards.
    n_threads : int, optional
        See `wbcprof.threads.resolve_threads`. A cluster has one thread for each of its workers'.
    client : distributed.Client, optional
        Profile on the workers of this Dask cluster. They must see the image files at the same
        paths; the folder need not be theirs. The profiles have the same bits.

    Returns
    -------
    ShardedProfiles

    Raises
    ------
    ValueError
        The folder holds another run or something else, is in use, no image could be read, there
        is not one label for each image, or a parameter is out of range.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> with TemporaryDirectory() as home:
    ...     made = wbcprof.shards.profile_to_shards(model, cells.images, home, shard_size=5)
    ...     profiles = wbcprof.Profiles.load(home)  # all shards, in order
    >>> made.n_shards, made.n_profiles, made.n_skipped
    (3, 12, 0)
    >>> profiles.values.shape
    (12, 48)
    """
    shard_size = Integer().check("shard_size", shard_size)
    coding = Coding(**coding_options)
    if coding.tolerance is not None:
        raise ValueError("a tolerance is for one table of profiles, not for shards")
    threads = resolve_threads(n_threads)
    folder = Path(folder)
    _check_place(folder)
    source = open_images(images, labels, min_size=model.min_size)
    identity = {
        "format": 1,
        "wbcprof": __version__,
        "model": model.fingerprint,
        **coding.stated(model.layers[0].step),
        "shard_size": shard_size,
        "n_images": source.n_hint,
    }
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, source.n_hint)

    with claimed(folder):
        check_manifest(folder, identity)
        for leftover in folder.glob(".*-*"):
            leftover.unlink()
        (folder / SKIPPED).unlink(missing_ok=True)
        metadata = model.metadata(coding)
        total = 0

        def unfinished() -> Iterator[tuple[int, ImageSource]]:
            nonlocal total
            # Told once, at the end.
            for index, part in enumerate(source.quietly().parts(shard_size)):
                total = index + 1
                if _is_finished(folder, index, part):
                    advance(part.n)
                else:
                    yield index, part

        if client is None:
            made = _make_here(model, unfinished(), coding, threads, advance)
        else:
            made = _make_on_cluster(client, model, unfinished(), coding, advance)
        for index, part, profiles in made:
            _write_shard(folder, index, part, profiles, model.feature_names, metadata)
        return _finish(folder, total)


_Made = Iterator[tuple[int, ImageSource, PartProfiles]]


def _make_here(
    model: Model,
    shards: Iterable[tuple[int, ImageSource]],
    coding: Coding,
    n_threads: int,
    advance: Callable[[int], None],
) -> _Made:
    for index, part in shards:
        seen = 0

        def within(profiled: int, _: int | None) -> None:
            nonlocal seen
            advance(profiled - seen)
            seen = profiled

        result = profile_part(model, part, coding, n_threads, within)
        advance(part.n - seen)
        yield index, part, result


def _make_on_cluster(
    client: Client,
    model: Model,
    shards: Iterable[tuple[int, ImageSource]],
    coding: Coding,
    advance: Callable[[int], None],
) -> _Made:
    from wbcprof.scale.cluster import profile_parts

    being_made: dict[int, tuple[ImageSource, int, dict[int, PartProfiles]]] = {}

    def pieces() -> Iterator[tuple[tuple[int, int], ImageSource]]:
        for index, part in shards:
            cut = list(part.parts(PIECE))
            being_made[index] = part, len(cut), {}
            for number, piece in enumerate(cut):
                yield (index, number), piece

    for (index, number), result in profile_parts(client, model, pieces(), coding):
        part, n_pieces, results = being_made[index]
        results[number] = result
        advance(len(result.ids) + len(result.skipped))
        if len(results) == n_pieces:
            del being_made[index]
            yield index, part, join(results)


def _write_shard(
    folder: Path,
    index: int,
    part: ImageSource,
    made: PartProfiles,
    feature_names: list[str],
    metadata: dict[str, Any],
) -> None:
    record = {
        **part.digests(),
        "offered": part.n_hint,
        "profiles": len(made.ids),
        "skipped": [(skipped.image_id, skipped.reason) for skipped in made.skipped],
        "converted": made.converted,
    }
    write_json(folder / record_name(index), record)
    labels = None if part.labels is None else made.labels
    profiles = Profiles(made.values, feature_names, made.ids, labels, metadata, made.measures)
    profiles.save(folder / _table_name(index))


def _is_finished(folder: Path, index: int, part: ImageSource) -> bool:
    """Whether a shard is there; an error where it was made of other images or labels."""
    record_path = folder / record_name(index)
    if not ((folder / _table_name(index)).exists() and record_path.exists()):
        return False
    record = read_json(record_path)
    differing = [name for name, digest in part.digests().items() if record.get(name) != digest]
    if differing:
        ids = part.ids()
        raise ValueError(
            f"{_table_name(index)} in {str(folder)!r} was made from other {differing[0]} than "
            f"those now given, from {ids[0]!r} to {ids[-1]!r}; give the same again, or another "
            "folder"
        )
    return True


def _finish(folder: Path, n_shards: int) -> ShardedProfiles:
    """Check that all is there, list what was skipped, and count."""
    n_tables = len(list(folder.glob("part-*.parquet")))
    if n_tables > n_shards:
        raise ValueError(
            f"{str(folder)!r} holds {n_tables} shards, but the images now given make {n_shards}; "
            "give the same images again, or another folder"
        )
    offered = profiles = n_skipped = 0
    converted: Counter[str] = Counter()

    def skipped() -> Iterator[dict[str, str]]:
        nonlocal offered, profiles, n_skipped
        for index in range(n_shards):
            record = read_json(folder / record_name(index))
            yield from ({"image": image, "reason": why} for image, why in record["skipped"])
            offered += record["offered"]
            profiles += record["profiles"]
            n_skipped += len(record["skipped"])
            converted.update(record["converted"])

    write_rows(folder / SKIPPED, ("image", "reason"), skipped())
    if offered == 0:
        raise ValueError("No images given: the iterator was empty.")
    if profiles == 0:
        raise ValueError(
            f"No usable image among the {offered} given; {str(folder / SKIPPED)!r} lists reasons"
        )
    if n_skipped:
        _warn(f"skipped {n_skipped} of {offered} images; {SKIPPED} lists them")
    if converted:
        kinds = ", ".join(f"{count} {kind}" for kind, count in converted.most_common())
        _warn(f"converted {converted.total()} of {offered} images to 8-bit RGB: {kinds}")
    return ShardedProfiles(folder, offered, profiles, n_skipped, n_shards)


def _warn(text: str) -> None:
    warnings.warn(text, ImageWarning, stacklevel=4)


def _table_name(index: int) -> str:
    return f"part-{index:06d}.parquet"


def _check_place(folder: Path) -> None:
    """Check, before long work, that the folder can be made and tables be written."""
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(folder.parent)!r}, in which {folder.name!r} would be made, does not "
            "exist; create it first"
        )
    check_table(folder.parent / "part-000000.parquet")
