"""Types of cells as a table: of one set, or of any number of images, in shards."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import binom

from wbcprof.analysis.monitoring import model_identity
from wbcprof.analysis.novelty import (
    RATE,
    StrangeCellsWarning,
    check_set,
    name_cells,
)
from wbcprof.analysis.quality import FLAGS, flag_images, n_of_fields, tell_of_fields
from wbcprof.checks import UNLIKE, UNSURE, Flag, Real, listed
from wbcprof.files import rounded, write_rows
from wbcprof.images.source import ImageSource, open_images
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles
from wbcprof.model.settings import Coding
from wbcprof.scale.shards import fill_shards

__all__ = ["ClassifiedShards", "classify_to_shards"]

DROPPED = "dropped.csv"


class ClassifiedShards(NamedTuple):
    """What `classify_to_shards` leaves in `folder`, counted over all of its shards."""

    folder: Path
    n_images: int
    n_classified: int
    n_strange: int
    n_dropped: int
    n_skipped: int
    n_shards: int


def type_columns(model: Model) -> list[str]:
    assert model.classifier is not None
    types = (f"probability_{name}" for name in model.classifier.classes_)
    return ["image", "given", "type", "call", "novelty_p", "flags", *types]


def type_rows(
    model: Model,
    profiles: Profiles,
    flags: Sequence[Sequence[str]],
    *,
    false_alarms: float,
    reject_below: float,
) -> Iterator[dict[str, Any]]:
    """A row for each profile, of `type_columns`; probabilities to four places."""
    cells = name_cells(model, profiles, false_alarms=false_alarms, reject_below=reject_below)
    columns = type_columns(model)
    given = profiles.labels or [None] * len(profiles)
    for image_id, label, name, call, p, own, row in zip(
        cells.ids, given, cells.named, cells.calls, cells.novelty_p, flags, cells.probabilities,
        strict=True,
    ):  # fmt: skip
        numbers = [rounded(value, 4) for value in row]
        said = [image_id, label, str(name), str(call), rounded(p, 4), "; ".join(own) or None]
        yield dict(zip(columns, [*said, *numbers], strict=True))


def classify_to_shards(
    model: Model,
    images: Any,
    folder: str | os.PathLike[str],
    *,
    shard_size: int = 1000,
    drop: Collection[str] = (),
    false_alarms: float = 0.01,
    reject_below: float = 0.0,
    strict: bool = False,
    n_threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ClassifiedShards:
    """Name the types of any number of images into a folder of parquet files, in constant memory.

    Files are those of `wbcprof.scale.profile_to_shards`, with types in place of profiles; so are
    going on after an interruption, and with more images. What `name_cells` says of a cell depends
    on that cell alone; whether a set is familiar, and which images are there twice, is asked of
    each shard by itself.

    Parameters
    ----------
    model : Model
        With a classifier.
    images, folder, shard_size, n_threads, progress
        See `wbcprof.scale.profile_to_shards`.
    drop : collection of str
        Some of the flags of `flag_images`: images with one of these are left out, and listed in
        ``dropped.csv``.
    false_alarms, reject_below
        See `name_cells`; `false_alarms` is the rate of shards, too, that are unfamiliar by chance.
    strict : bool
        An error, after all is written, rather than a warning, where more shards are unfamiliar
        than by chance.

    Returns
    -------
    ClassifiedShards

    Raises
    ------
    ValueError
        As `wbcprof.scale.profile_to_shards` and `name_cells`.

    Warns
    -----
    StrangeCellsWarning
        More shards than by chance are not from the world that the model knows.
    wbcprof.images.ImageWarning
        Images were skipped, converted, or are not among those given any more.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(30, size=72, types=["lymphocyte", "neutrophil"])  # generated
    >>> import wbcprof, tempfile
    >>> model = wbcprof.fit(cells.images[::4], n_signatures=8, n_patches=400, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=0)

    Two shards, of five and of three images:

    >>> from wbcprof.analysis import classify_to_shards
    >>> with tempfile.TemporaryDirectory() as home:
    ...     made = classify_to_shards(model, cells.images[:8], home, shard_size=5, false_alarms=0.1)
    >>> made.n_classified, made.n_shards
    (8, 2)
    """
    RATE.check("false_alarms", false_alarms)
    Real(least=0, most=1).check("reject_below", reject_below)
    Flag().check("strict", strict)
    drop = listed(drop)
    unknown = sorted(set(drop) - set(FLAGS))
    if unknown:
        raise ValueError(f"drop must be some of {', '.join(FLAGS)}, got {unknown[0]!r}")
    if model.classifier is None:
        raise ValueError("the model holds no classifier; fit it on labelled images")
    columns = type_columns(model)

    def write(path: Path, profiles: Profiles, part: ImageSource) -> dict[str, Any]:
        if len(profiles) == 0:
            write_rows(path, columns, ())
            return {}
        flags = flag_images(model, profiles, part)
        gone = [bool(set(drop).intersection(own)) for own in flags]
        kept = [i for i, is_gone in enumerate(gone) if not is_gone]
        said: dict[str, Any] = {
            "of_fields": n_of_fields(profiles),
            "dropped": [
                (image_id, "; ".join(own))
                for image_id, own, is_gone in zip(profiles.ids, flags, gone, strict=True)
                if is_gone
            ],
        }
        rows: list[dict[str, Any]] = []
        if kept:
            left = profiles.at(kept)
            found = check_set(model, left, false_alarms=false_alarms)
            said |= {"checked": found.known, "unfamiliar": "" if found.familiar else found.sentence}
            rows = list(
                type_rows(
                    model, left, [flags[i] for i in kept],
                    false_alarms=false_alarms, reject_below=reject_below,
                )
            )  # fmt: skip
        write_rows(path, columns, rows)
        return {**said, "strange": sum(row["call"] in (UNSURE, UNLIKE) for row in rows)}

    records = fill_shards(
        model, open_images(images, min_size=model.min_size), folder, write,
        coding=Coding(), shard_size=shard_size, n_threads=n_threads, client=None,
        progress=progress, types=model_identity(model), drop=sorted(set(drop)),
        false_alarms=false_alarms, reject_below=reject_below,
    )  # fmt: skip
    dropped = [lost for record in records for lost in record.get("dropped", ())]
    if drop:
        rows = ({"image": image_id, "flags": flags} for image_id, flags in dropped)
        write_rows(Path(folder) / DROPPED, ("image", "flags"), rows)
    n_profiles = sum(record["profiles"] for record in records)
    tell_of_fields(sum(record.get("of_fields", 0) for record in records), n_profiles)
    _tell_of_shards(records, false_alarms, strict)
    return ClassifiedShards(
        Path(folder),
        sum(len(record["ids"]) for record in records),
        n_profiles - len(dropped),
        sum(record.get("strange", 0) for record in records),
        len(dropped),
        sum(len(record["skipped"]) for record in records),
        len(records),
    )


def _tell_of_shards(records: Sequence[dict[str, Any]], rate: float, strict: bool) -> None:
    """Say where more shards are unfamiliar than by chance."""
    n_checked = sum(record.get("checked", False) for record in records)
    unfamiliar = [record["unfamiliar"] for record in records if record.get("unfamiliar")]
    if not unfamiliar or binom.sf(len(unfamiliar) - 1, n_checked, rate) > rate:
        return
    said = f"{len(unfamiliar)} of {n_checked} shards; of the first of these: {unfamiliar[0]}"
    if strict:
        raise ValueError(said)
    warnings.warn(said, StrangeCellsWarning, stacklevel=3)
