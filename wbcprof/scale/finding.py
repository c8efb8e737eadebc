"""Leukocytes of any number of fields: crops and tables in a folder, resumed after a kill.

manifest.json        what the run is
NAME_0001.png        crops, by the names of the fields
part-000000.json     cells of fields 0 to shard_size - 1, digests of their crops, what was dropped
part-000000.parquet  the same cells, where asked for
cells.csv            all cells, crops in the column path, images in field
dropped.csv          fields and cells that were left out, and why; where it is, all is done
"""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wbcprof._shown import shown
from wbcprof._version import __version__
from wbcprof.checks import Integer, listed
from wbcprof.files import file_digest, replacing, write_rows
from wbcprof.images.boxes import Box, read_boxes
from wbcprof.images.fields import FieldSource, open_fields
from wbcprof.images.source import ImageWarning, NoUsableImage
from wbcprof.model.profiles import check_table
from wbcprof.scale.folders import (
    are_counts,
    are_pairs,
    are_texts,
    claimed,
    is_count,
    read_record,
    record_name,
    write_json,
)
from wbcprof.smear.cells import (
    CELL_COLUMNS,
    FLAGS,
    Ruler,
    Seams,
    cell_row,
    find_cells,
    measure_slides,
)
from wbcprof.smear.measures import examine
from wbcprof.threads import resolve_threads

if TYPE_CHECKING:
    from distributed import Client

CELLS, DROPPED = "cells.csv", "dropped.csv"
COLUMNS = ("path", *CELL_COLUMNS)
_LONGEST = 120  # characters of a name
_CROP = re.compile(r"[^\W.][\w.-]*_\d+\.png")  # as `_crop_name` makes them


@shown
class FoundCells(NamedTuple):
    """What `find_to_folder` leaves in `folder`, counted over all parts."""

    folder: Path
    n_fields: int
    n_cells: int
    n_dropped: int


@dataclass
class _Part:
    """Of some fields: rows and crops of cells, what was dropped, what was converted."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    crops: list[tuple[str, bytes]] = field(default_factory=list)  # where they are not written yet
    dropped: list[tuple[str, str]] = field(default_factory=list)
    converted: Counter[str] = field(default_factory=Counter)


def find_to_folder(
    images: Any,
    folder: str | os.PathLike[str],
    *,
    slides: Any = None,
    pixel_size: float | None = None,
    boxes: Any = None,
    canonical: bool = False,
    drop: Collection[str] = (),
    parquet: bool = False,
    shard_size: int = 50,
    n_threads: int | None = None,
    client: Client | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> FoundCells:
    """Cut the leukocytes of any number of fields out, into a folder, in constant memory.

    Called again after an interruption, it goes on from the finished parts.

    Parameters
    ----------
    images, slides
        See `wbcprof.images.open_fields`; not an iterator.
    folder : path
        Made where missing. Must be empty, or hold an earlier run of the same images and settings.
    pixel_size : float, optional
        Micrometres for each pixel; by default as files state it, else by red cells.
    boxes : path or mapping of str to list of Box, optional
        Leukocytes, in place of those that would be found; see `wbcprof.images.read_boxes`.
    canonical : bool
        Write canonical cells, 112 px of one scale, light and stain, in place of crops as they are.
    drop : collection of str
        Some of `FLAGS`: cells with one of these are left out, and listed.
    parquet : bool
        Write tables of the parts as parquet too.
    shard_size : int
        Fields of a part.
    n_threads : int, optional
    client : distributed.Client, optional
        Find on the workers of this Dask cluster, which must see the files at the same paths.
    progress : callable, optional
        Called with (fields done, fields in all).

    Returns
    -------
    FoundCells

    Raises
    ------
    ValueError
        The folder holds another run or something else, is in use, no field could be read, no slide
        could be measured, or a parameter is out of range.

    Warns
    -----
    SmearWarning
        Fields are not what they are taken for.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.datasets import make_smear
    >>> smear = make_smear(2)  # generated
    >>> with TemporaryDirectory() as home:
    ...     found = wbcprof.scale.find_to_folder(smear.images, home, pixel_size=smear.pixel_size)
    ...     names = sorted(path.name for path in found.folder.iterdir())
    >>> found.n_fields, found.n_cells, names[:2]
    (2, 4, ['cells.csv', 'dropped.csv'])
    """
    shard_size = Integer().check("shard_size", shard_size)
    threads = resolve_threads(n_threads)
    drop = listed(drop)
    unknown = sorted(set(drop) - set(FLAGS))
    if unknown:
        raise ValueError(f"drop must be some of {', '.join(FLAGS)}, got {unknown[0]!r}")
    folder = Path(folder)
    if not folder.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {str(folder.parent)!r}, in which {folder.name!r} would be made, does not "
            "exist; create it first"
        )
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"the output {str(folder)!r} is a file; name a folder")
    if isinstance(images, str | os.PathLike) and Path(images).is_dir():
        if folder.resolve().is_relative_to(Path(images).resolve()):
            raise ValueError(
                f"the output {str(folder)!r} lies in the folder of the fields, {str(images)!r}, "
                "and would be read with them; choose one outside"
            )
    if parquet:
        check_table(folder.parent / "part-000000.parquet")
    source = open_fields(images, slides=slides)
    if boxes is not None:
        boxes = read_boxes(boxes, source)
    n = len(source.ids())
    identity = {
        "format": 2,
        "wbcprof": __version__,
        "pixel_size": pixel_size,
        "boxes": None if boxes is None else _digest(boxes),
        "canonical": canonical,
        "drop": sorted(drop),
        "parquet": parquet,
        "shard_size": shard_size,
        "n_fields": n,
    }
    done = 0

    def advance(k: int) -> None:
        nonlocal done
        done += k
        if progress is not None:
            progress(done, n)

    with claimed(folder, identity):
        rulers = measure_slides(source, pixel_size, needed=boxes is None)
        starts = range(0, n, shard_size)
        parts = source.quietly()  # told once, at the end
        doubled = set() if boxes is not None else _doubled(folder, len(starts))
        unfinished = []  # all is compared before anything is made
        for index, start in enumerate(starts):
            part = parts.part(start, min(start + shard_size, n))
            if _is_finished(folder, index, part, doubled):
                advance(len(part.ids()))
            else:
                unfinished.append((index, part))
        (folder / DROPPED).unlink(missing_ok=True)
        find = _Find(rulers, boxes, canonical, frozenset(drop))
        made: Iterable[tuple[int, FieldSource, _Part]]
        if client is None:
            write = partial(_write_crop, folder)
            made = ((i, part, find(part, threads, write)) for i, part in unfinished)
        else:
            made = _on_cluster(client, find, unfinished)
        for index, part, found in made:
            _write_part(folder, index, part, found)
            advance(len(part.ids()))
        # Each box lies in the core of one tile.
        doubled = set() if boxes is not None else _doubled(folder, len(starts))
        return _finish(folder, len(starts), parquet, doubled)


@dataclass(frozen=True)
class _Find:
    rulers: Mapping[str, Ruler | str]
    boxes: Mapping[str, Sequence[Box]] | None
    canonical: bool
    drop: frozenset[str]

    def __call__(
        self,
        part: FieldSource,
        n_threads: int = 1,
        write: Callable[[str, bytes], None] | None = None,
    ) -> _Part:
        """The part, whose crops are written one by one, or held without `write`."""
        made = _Part()
        try:
            for seen in find_cells(part, self.rulers, self.boxes, n_threads):
                field_id = seen.field.field_id
                made.dropped += [(field_id, why) for why in (seen.refused, *seen.notes) if why]
                for cell in seen.cells:
                    wrong = sorted(self.drop.intersection(cell.flags))
                    if wrong:
                        made.dropped.append((cell.cell_id, ", ".join(wrong)))
                        continue
                    crop = examine(cell.crop, None)[0] if self.canonical else cell.crop
                    name = _crop_name(cell.cell_id)
                    made.rows.append({"path": name, **cell_row(cell)})
                    if write is None:
                        made.crops.append((name, _png(crop)))
                    else:
                        write(name, _png(crop))
        except NoUsableImage:
            pass
        made.dropped += [(lost.image_id, lost.reason) for lost in part.skipped]
        made.converted = part.converted
        return made


def _on_cluster(
    client: Client, find: _Find, parts: Iterable[tuple[int, FieldSource]]
) -> Iterator[tuple[int, FieldSource, _Part]]:
    from wbcprof.scale.cluster import map_bounded

    held: dict[int, FieldSource] = {}

    def tasks() -> Iterator[tuple[int, tuple[FieldSource]]]:
        for index, part in parts:
            held[index] = part
            yield index, (part.self_contained(),)

    for index, made in map_bounded(client, find, tasks()):
        yield index, held.pop(index), made


def _crop_name(cell_id: str) -> str:
    name, _, number = cell_id.rpartition("#")
    plain = re.sub(r"[^\w.-]+|^[.-]", "_", name)[:_LONGEST]
    if plain != name:  # others may become the same
        plain += f"-{blake2b(name.encode(errors='surrogateescape'), digest_size=4).hexdigest()}"
    return f"{plain}_{number}.png"


def _png(pixels: Any) -> bytes:
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _digest(boxes: Mapping[str, Sequence[Box]]) -> str:
    digest = blake2b(digest_size=16)
    for image_id, own in sorted(boxes.items()):
        for box in own:
            place = (image_id, box.left, box.top, box.right, box.bottom, box.x, box.y, box.nucleus)
            digest.update(repr((*place, box.kind, box.label)).encode(errors="surrogateescape"))
            if box.mask is not None:
                digest.update(box.mask.tobytes())
    return digest.hexdigest()


def _write_crop(folder: Path, name: str, crop: bytes) -> None:
    with replacing(folder / name) as temporary:
        temporary.write_bytes(crop)


def _write_part(folder: Path, index: int, part: FieldSource, made: _Part) -> None:
    for name, crop in made.crops:
        _write_crop(folder, name, crop)
    record = {
        "fields": part.digest(),
        "offered": len(part.ids()),
        "cells": made.rows,
        "crops": [file_digest(folder / row["path"]) for row in made.rows],
        "dropped": made.dropped,
        "converted": made.converted,
    }
    write_json(folder / record_name(index), record)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    numbers = {
        "x",
        "y",
        "left",
        "top",
        "right",
        "bottom",
        "diameter_um",
        "nucleus_um",
        "nucleus_px",
        "blur_um",
    }
    table = pa.table(
        {
            name: pa.array(
                [row[name] for row in rows], pa.float64() if name in numbers else pa.string()
            )
            for name in COLUMNS
        }
    )
    with replacing(path) as temporary:
        parquet.write_table(table, temporary)


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, dict) and row.keys() == set(COLUMNS) for row in value
    )


_FIELDS = {
    "fields": lambda value: isinstance(value, str),
    "offered": is_count,
    "cells": _are_rows,
    "crops": are_texts,
    "dropped": are_pairs,
    "converted": are_counts,
}
"""Of the record of a part."""


def _is_finished(folder: Path, index: int, part: FieldSource, doubled: Collection[str]) -> bool:
    """Whether a part is there with its crops but these; an error where it was made of other
    fields."""
    path = folder / record_name(index)
    if not path.exists():
        return False
    record = _read_record(path)
    if record["fields"] != part.digest():
        ids = part.ids()
        raise ValueError(
            f"{path.name} in {str(folder)!r} was made from other fields than those now given, from "
            f"{ids[0]!r} to {ids[-1]!r}; give the same again, or another folder"
        )
    crops = zip(record["cells"], record["crops"], strict=True)
    return all(
        row["path"] in doubled
        or ((crop := folder / row["path"]).is_file() and file_digest(crop) == digest)
        for row, digest in crops
    )


def _read_record(path: Path) -> dict[str, Any]:
    """The record of a part, which may be from somebody else: no path leads out of its folder."""
    record = read_record(path, _FIELDS)
    paths = [row["path"] for row in record["cells"]]
    if len(paths) != len(record["crops"]) or not all(_CROP.fullmatch(str(p)) for p in paths):
        raise ValueError(f"{str(path)!r} is damaged; remove it to make it anew")
    return record


def _doubled(folder: Path, n_parts: int) -> set[str]:
    """Crops of cells that a tile of an earlier part had, among the parts that are there."""
    paths = [folder / record_name(index) for index in range(n_parts)]
    records = [_read_record(path) for path in paths if path.exists()]
    seams = Seams()
    return {
        row["path"]
        for record in records
        for row in record["cells"]
        if not seams.is_new_at(
            row["field"], row["cell"].rpartition("#")[0], row["x"], row["y"],
            row["right"] - row["left"],
        )
    }  # fmt: skip


def _finish(folder: Path, n_parts: int, parquet: bool, doubled: Collection[str]) -> FoundCells:
    records = [_read_record(folder / record_name(index)) for index in range(n_parts)]
    converted: Counter[str] = sum((Counter(r["converted"]) for r in records), Counter())
    for path in doubled:
        (folder / path).unlink(missing_ok=True)
    for record in records:
        record["cells"] = [row for row in record["cells"] if row["path"] not in doubled]
    rows = [row for record in records for row in record["cells"]]
    dropped = [lost for record in records for lost in record["dropped"]]
    n = sum(record["offered"] for record in records)
    for index, record in enumerate(records if parquet else ()):
        _write_parquet(folder / f"part-{index:06d}.parquet", record["cells"])
    write_rows(folder / CELLS, COLUMNS, rows)
    write_rows(
        folder / DROPPED,
        ("image", "reason"),
        ({"image": name, "reason": reason} for name, reason in dropped),
    )
    if dropped:
        _warn(f"{len(dropped)} fields or cells were left out or are strange; {DROPPED} lists them")
    if converted:
        kinds = ", ".join(f"{count} {kind}" for kind, count in converted.most_common())
        _warn(f"converted {converted.total()} of {n} fields to 8-bit RGB: {kinds}")
    return FoundCells(folder, n, len(rows), len(dropped))


def _warn(text: str) -> None:
    warnings.warn(text, ImageWarning, stacklevel=4)
