"""Profiles of any number of images: shards in a folder, written as they fill, resumed after a kill.

    manifest.json        what the run is: model and settings
    part-000000.parquet  profiles of the first shard_size images, and so on; whole or absent
    part-000000.json     which images that shard was made from, which of them were skipped, and the
                         digest of its table
    skipped.csv          all skipped images with reasons; written last: where it is, all is done

Shards cut the images offered, not those that could be read, so each can be made by itself. A shard
is finished when its record is there, and its table as the record has it. More images, given later,
make shards of their own. Only the process that was asked to writes into the folder; workers of a
cluster send their profiles to it.

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
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from wbcprof._shown import shown
from wbcprof._version import __version__
from wbcprof.checks import Integer
from wbcprof.files import file_digest, regular, write_rows
from wbcprof.images.decode import may_pass
from wbcprof.images.depth import WHITE, Depths
from wbcprof.images.source import ImageSource, ImageWarning, Listed, open_images
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles, check_table
from wbcprof.model.settings import Coding, CodingOptions
from wbcprof.scale.folders import (
    are_counts,
    are_pairs,
    are_texts,
    claimed,
    is_count,
    read_json,
    read_record,
    record_name,
    record_number,
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
    without one. Called again with more images, by their ids, it profiles these alone, into further
    shards; profiles of images that are not given any more are kept, and counted in a warning.
    Images that cannot be read are listed in ``skipped.csv``; called again, it makes those shards
    anew that lack a file which was missing or not to be read, but not of an iterator. See the
    module's docstring for the files.

    Parameters
    ----------
    model : Model
    images : folder, path, list of paths, array, or iterable
        See `wbcprof.images.open_images`. An iterator is read a shard at a time, and read again
        from its start to resume, without decoding what is finished.
    folder : path
        Made where missing. Must be empty, or hold an earlier run of the same model, settings and
        files, which are known by their ids, sizes and samples of their content.
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
        The folder holds another run or something else, an image or label of it is now another, it
        is in use, no image could be read, there is not one label for each image, or a parameter is
        out of range.

    Warns
    -----
    ImageWarning
        Images were skipped, converted, or are not among those given any more.

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
    coding = Coding.of(coding_options)
    if coding.tolerance is not None:
        raise ValueError("a tolerance is for one table of profiles, not for shards")

    def write(path: Path, profiles: Profiles, part: ImageSource) -> dict[str, Any]:
        profiles.save(path)
        return {}

    source = open_images(images, labels, min_size=model.min_size)
    records = fill_shards(
        model, source, folder, write, coding=coding, shard_size=shard_size, n_threads=n_threads,
        client=client, progress=progress,
    )  # fmt: skip
    return ShardedProfiles(
        Path(folder),
        sum(len(record["ids"]) for record in records),
        sum(record["profiles"] for record in records),
        sum(len(record["skipped"]) for record in records),
        len(records),
    )


Write = Callable[[Path, Profiles, ImageSource], Mapping[str, Any]]
"""Write the table of a shard, of these profiles of the images of a source, and give what its record
is to say of it."""


def fill_shards(
    model: Model,
    source: ImageSource,
    folder: str | os.PathLike[str],
    write: Write,
    *,
    coding: Coding,
    shard_size: int,
    n_threads: int | None,
    client: Client | None,
    progress: Callable[[int, int | None], None] | None,
    **identity: Any,
) -> list[dict[str, Any]]:
    """Profile images a shard at a time and have each written as a table; the records of all shards.

    Parameters are those of `profile_to_shards`, or:

    Parameters
    ----------
    write : callable
    **identity
        What else a run must agree in to go on.
    """
    shard_size = Integer().check("shard_size", shard_size)
    threads = resolve_threads(n_threads)
    folder = Path(folder)
    _check_place(folder)
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, source.n_hint)

    identity = {
        "format": 3,
        "wbcprof": __version__,
        "model": model.fingerprint,
        **coding.stated(model.layers[0].step),
        "shard_size": shard_size,
        **identity,
    }
    with claimed(folder, identity):
        given = set(source.ids()) if isinstance(source.images, Listed) else set()
        shards = _Shards(folder, given)
        new: Iterable[ImageSource] = shards.without(source.quietly(), shard_size, advance)
        if isinstance(source.images, Listed):  # all is compared before anything is made
            new = list(new)
        (folder / SKIPPED).unlink(missing_ok=True)
        shards.clear_others()
        numbered = zip(shards.free(), new, strict=False)
        if client is None:
            made = _make_here(model, numbered, coding, threads, advance)
        else:
            made = _make_on_cluster(client, model, numbered, coding, advance)
        for index, part, profiles in made:
            labels = None if part.labels is None else profiles.labels
            table = Profiles(
                profiles.values, model.feature_names, profiles.ids, labels, model.metadata(coding),
                profiles.measures, profiles.skipped,
            )  # fmt: skip
            more = write(folder / _table_name(index), table, part)
            shards.add(index, part, profiles, more)
        return _finish(folder, shards, source.depths)


def _are_texts_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, list) and are_texts([v for v in value if v]))


_FIELDS = {
    "ids": are_texts,
    "labels": _are_texts_or_none,
    "contents": _are_texts_or_none,
    "profiles": is_count,
    "skipped": are_pairs,
    "converted": are_counts,
}
"""Of the record of a shard, beside the digest of its table."""


class _Shards:
    """Finished shards of a folder, and the images that they were made from."""

    def __init__(self, folder: Path, given: set[str]) -> None:
        """Those that lack an image for a reason that may have passed are not finished, where all
        their images are given, by these ids."""
        self._folder = folder
        self._done: set[int] = set()
        self._known: dict[str, deque[tuple[int, str | None, str | None]]] = defaultdict(deque)
        for path in sorted(folder.glob("part-*.json")):
            index = record_number(path)
            if index is None:
                continue
            record, table = read_record(path, _FIELDS), folder / _table_name(index)
            if not table.exists() or record.get("table") != file_digest(regular(table)):
                continue
            lacks = any(may_pass(reason) for _, reason in record["skipped"])
            if lacks and given.issuperset(record["ids"]):
                continue
            self._done.add(index)
            n = len(record["ids"])
            labels, contents = record["labels"] or [None] * n, record["contents"] or [None] * n
            if not n == len(labels) == len(contents):
                raise ValueError(
                    f"{str(path)!r} is damaged: it has {n} ids, {len(labels)} labels and "
                    f"{len(contents)} contents; remove it to make it anew"
                )
            for image_id, *own in zip(record["ids"], labels, contents, strict=True):
                self._known[image_id].append((index, *own))

    def without(
        self, source: ImageSource, size: int, advance: Callable[[int], None]
    ) -> Iterator[ImageSource]:
        """The images of a source that none of these has, `size` at a time."""
        held: list[ImageSource] = []
        for part in source.parts(size):
            new = [i for i, is_known in enumerate(self._take(part)) if not is_known]
            advance(part.n - len(new))
            held += [part] if len(new) == part.n else [part.part(i, i + 1) for i in new]
            while sum(one.n for one in held) >= size:
                together = ImageSource.together(held)
                yield together.part(0, size)
                held = [together.part(size, together.n)] if together.n > size else []
        if held:
            yield ImageSource.together(held)

    def _take(self, part: ImageSource) -> Iterator[bool]:
        """Whether each image is of a finished shard; an error where it is another there."""
        ids = part.ids()
        labels = part.labels or [None] * len(ids)
        contents = part.digests() if self._known else [None] * len(ids)
        for image_id, label, content in zip(ids, labels, contents, strict=True):
            if not self._known.get(image_id):
                yield False
                continue
            index, label_there, content_there = self._known[image_id].popleft()
            # None: a file that could not be opened, then or now.
            is_other = None not in (content, content_there) and content != content_there
            if label != label_there or is_other:
                what, there, now = (
                    ("label", f" {label_there!r}", f" {label!r}")
                    if label != label_there
                    else ("image", "", "")
                )
                raise ValueError(
                    f"{_table_name(index)} in {str(self._folder)!r} was made with another {what} "
                    f"for {image_id!r},{there} than{now} that now given; give the same again, or "
                    f"another folder, or remove {record_name(index)}, and it is made anew"
                )
            yield True

    def free(self) -> Iterator[int]:
        """Numbers of shards to be made."""
        return (index for index in count() if index not in self._done)

    def clear_others(self) -> None:
        """Remove what is there of unfinished shards."""
        for path in self._folder.glob("part-*"):
            number = path.stem.removeprefix("part-")
            is_ours = number.isdecimal() and path.name in (
                record_name(int(number)),
                _table_name(int(number)),
            )
            if is_ours and int(number) not in self._done:
                path.unlink()

    def add(
        self, index: int, part: ImageSource, made: PartProfiles, more: Mapping[str, Any]
    ) -> None:
        """Note a shard, whose table is written."""
        contents = part.digests()
        record = {
            "table": file_digest(self._folder / _table_name(index)),
            "ids": part.ids(),
            "labels": part.labels,
            "contents": contents if any(contents) else None,
            "profiles": len(made.ids),
            "skipped": [(skipped.image_id, skipped.reason) for skipped in made.skipped],
            "converted": made.converted,
            "depths": part.depths,
            **more,
        }
        write_json(self._folder / record_name(index), record)
        self._done.add(index)

    def records(self) -> Iterator[dict[str, Any]]:
        return (read_json(self._folder / record_name(index)) for index in sorted(self._done))

    def not_given(self) -> list[str]:
        """Ids of images that were not among those given."""
        return [image_id for image_id, left in self._known.items() for _ in left]


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


def _finish(folder: Path, shards: _Shards, depths: Depths) -> list[dict[str, Any]]:
    """List what was skipped, say what is strange; the records of all shards."""
    records = list(shards.records())
    n = sum(len(record["ids"]) for record in records)
    skipped = [lost for record in records for lost in record["skipped"]]
    rows = ({"image": image_id, "reason": why} for image_id, why in skipped)
    write_rows(folder / SKIPPED, ("image", "reason"), rows)
    if n == 0:
        raise ValueError("No images given: the iterator was empty.")
    if len(skipped) == n:
        raise ValueError(
            f"No usable image among the {n} given; {str(folder / SKIPPED)!r} lists reasons"
        )
    if gone := shards.not_given():
        _warn(
            f"{len(gone)} of the {n} images in {str(folder)!r} are not among those now given, "
            f"first {gone[0]!r}; what was made of them is kept"
        )
    if skipped:
        _warn(f"skipped {len(skipped)} of {n} images; {SKIPPED} lists them")
    converted: Counter[str] = sum((Counter(record["converted"]) for record in records), Counter())
    if converted:
        kinds = ", ".join(f"{count} {kind}" for kind, count in converted.most_common())
        _warn(f"converted {converted.total()} of {n} images to 8-bit RGB: {kinds}")
    brighter = [
        number
        for number, record in enumerate(records)
        if any(record["depths"].get(kind, bits) < bits for kind, bits in depths.items())
        and any(WHITE in kind for kind in record["converted"])
    ]
    if brighter:
        _warn(
            f"{len(brighter)} of {len(records)} shards, first {record_name(brighter[0])}, were "
            "made before deeper images came, and their own are brighter than beside these; remove "
            "such records to make their shards anew"
        )
    return records


def _warn(text: str) -> None:
    warnings.warn(text, ImageWarning, stacklevel=5)


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
