"""Slides from where they lie: folders of images, tables of images, tables of profiles."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from wbcprof.analysis.monitoring import Monitor, SlideSummary, moment, summarise
from wbcprof.checks import listed
from wbcprof.files import SHEETS, TableWarning, from_csv_text, open_table
from wbcprof.images.folders import is_users
from wbcprof.images.source import ImageWarning, open_images
from wbcprof.images.tables import SLIDE_COLUMNS, TIME_COLUMNS, read_by_image, read_table
from wbcprof.model.model import Model
from wbcprof.model.profiles import ID_COLUMN, Profiles

_TABLES = (".csv", ".parquet", ".h5ad")
_Read = Callable[[], Profiles]


def read_slides(
    model: Model,
    source: str | os.PathLike[str],
    *,
    slides: str | os.PathLike[str] | None = None,
    times: str | os.PathLike[str] | None = None,
    skip: Container[str] | Iterable[str] = (),
    n_threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Iterator[SlideSummary]:
    """Summaries of slides, one after the other, in order of time.

    Parameters
    ----------
    model : Model
    source : path
        - A folder: each sub-folder is a slide's images, each table (``.csv``, ``.parquet``,
          ``.h5ad``) its profiles, as `Profiles.save` wrote them; the slide has its name, without
          the suffix.
        - A table of profiles of many slides; slides are as `slides` says, else the first folders of
          the image ids.
        - A CSV file with the columns path and slide: images.
    slides : path, optional
        CSV file with the columns image and slide, for the profiles of one table.
    times : path, optional
        CSV file with the columns slide and time, in ISO 8601. By default slides come in order of
        their names, and have no time.
    skip : container or iterable of str
        Names of slides that are not read, or one, or a `Monitor` that has them, whose slides have
        the times that it knows.
    n_threads : int, optional
    progress : callable, optional
        Gets the number of slides done and of all that are read.

    Raises
    ------
    FileNotFoundError
        A path does not exist.
    ValueError
        There are no slides, one has no time, or profiles are of another model.

    Warns
    -----
    ImageWarning
        Slides without an image that can be read are left out; one warning counts them.
    TableWarning
        Tables of profiles do not say which model made them; or times are not those of slides that a
        monitor has.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.analysis import Monitor, read_slides
    >>> from wbcprof.datasets import make_leukocytes, write_folder
    >>> cells = make_leukocytes(4, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels)
    >>> monitor = Monitor(model)
    >>> with TemporaryDirectory() as home:
    ...     for day in ("monday", "tuesday"):
    ...         _ = write_folder(cells, Path(home, day))
    ...     for slide in read_slides(model, home, skip=monitor):
    ...         monitor.append(slide)
    >>> [(slide.name, slide.n_cells) for slide in monitor.slides]
    [('monday', 8), ('tuesday', 8)]
    """
    found = _find(model, Path(source), slides, n_threads)
    moments = None if times is None else _read_times(times)
    if isinstance(skip, Monitor):
        _tell_of_times(skip, moments or {})
    elif isinstance(skip, str | Iterable):
        skip = set(listed(skip))
    names = [name for name in found if name not in skip]
    if moments is not None:
        without = [name for name in names if name not in moments]
        if without:
            raise ValueError(
                f"{os.fspath(times or '')!r} gives no time for {len(without)} of {len(names)} "
                f"slides, first {without[0]!r}; every slide needs a row"
            )
    known = moments or {}
    unread, unsaid = [], []
    for number, name in enumerate(sorted(names, key=lambda name: (known.get(name, ""), name))):
        try:
            profiles = found[name]()
        except ValueError as error:
            unread.append(f"{name!r}: {error}")
        else:
            if "model" not in profiles.metadata:
                unsaid.append(name)
            yield summarise(model, profiles, name, known.get(name, ""))
        if progress is not None:
            progress(number + 1, len(names))
    if unread:
        warnings.warn(
            f"{len(unread)} of {len(names)} slides could not be read and were left out, first "
            f"{unread[0]}",
            ImageWarning,
            stacklevel=2,
        )
    if unsaid:
        warnings.warn(
            f"the profiles of {len(unsaid)} of {len(names)} slides, first {unsaid[0]!r}, do not "
            "say which model made them, as in CSV files, and were taken for this one's by the "
            "names of their features; keep profiles as .parquet",
            TableWarning,
            stacklevel=2,
        )


def _tell_of_times(monitor: Monitor, times: Mapping[str, str]) -> None:
    """Warn of slides that a monitor has, with other times than these."""
    others = [
        slide
        for slide in monitor.slides
        if slide.name in times and moment(times[slide.name]) != moment(slide.time)
    ]
    if others:
        first = others[0]
        warnings.warn(
            f"{len(others)} of {len(monitor)} slides that are known have other times than those "
            f"now given, first {first.name!r}, {first.time or 'none'} for {times[first.name]}, and "
            "keep them; begin anew without the state to change them",
            TableWarning,
            stacklevel=3,
        )


def _find(
    model: Model, source: Path, slides: str | os.PathLike[str] | None, n_threads: int | None
) -> dict[str, _Read]:
    """What reads each slide, by its name."""
    if not source.exists():
        raise FileNotFoundError(f"No such file or folder: {str(source)!r}")
    is_images = source.suffix.lower() in SHEETS and not _holds_profiles(source)
    if slides is not None and (source.is_dir() or is_images):
        raise ValueError(
            f"a table of slides is for one table of profiles, but {str(source)!r} says itself "
            "which images are of which slide; leave it out"
        )
    if source.is_dir():
        return _in_folder(model, source, n_threads)
    if is_images:
        return _of_images(model, source, n_threads)
    return _of_profiles(Profiles.load(source), source, slides)


def _in_folder(model: Model, folder: Path, n_threads: int | None) -> dict[str, _Read]:
    found: dict[str, _Read] = {}
    for path in sorted(folder.iterdir()):
        is_table = path.is_file() and path.suffix.lower() in _TABLES
        if not is_users(path.name) or not (is_table or path.is_dir()):
            continue
        name = path.stem if is_table else path.name
        if name in found:
            raise ValueError(f"{str(folder)!r} holds two slides {name!r}; rename one")
        read = partial(Profiles.load, path)
        found[name] = read if is_table else partial(model.profile, path, n_threads=n_threads)
    if not found:
        raise ValueError(
            f"expected a folder or a table of profiles for each slide in {str(folder)!r}, got none"
        )
    return found


def _of_images(model: Model, table: Path, n_threads: int | None) -> dict[str, _Read]:
    groups = read_by_image(table, SLIDE_COLUMNS)
    paths: dict[str, list[Path]] = {}
    for image in open_images(table).ids():
        if image not in groups:
            raise ValueError(f"{str(table)!r} names no slide for {image!r}; every image needs one")
        paths.setdefault(groups[image], []).append(table.parent / image)
    return {
        name: partial(model.profile, images, n_threads=n_threads) for name, images in paths.items()
    }


def _of_profiles(
    profiles: Profiles, table: Path, slides: str | os.PathLike[str] | None
) -> dict[str, _Read]:
    groups = None if slides is None else read_by_image(slides, SLIDE_COLUMNS, profiles.ids)
    rows: dict[str, list[int]] = {}
    for row, image in enumerate(profiles.ids):
        folder = PurePosixPath(image.lstrip("/")).parts[:-1]
        name = groups.get(image) if groups is not None else folder[0] if folder else None
        if name is None:
            what = "a folder" if groups is None else f"a row in {os.fspath(slides or '')!r}"
            raise ValueError(
                f"{str(table)!r}: {image!r} has not {what} that says of which slide it is; give a "
                "CSV file with the columns image and slide"
            )
        rows.setdefault(name, []).append(row)
    return {name: partial(profiles.at, chosen) for name, chosen in rows.items()}


def _holds_profiles(path: Path) -> bool:
    with open_table(path) as rows:
        return ID_COLUMN in next(rows, (0, []))[1]


def _read_times(path: str | os.PathLike[str]) -> dict[str, str]:
    """Time of each slide, as text."""
    table = read_table(path)
    slide, when = table.need(SLIDE_COLUMNS, TIME_COLUMNS)
    found: dict[str, str] = {}
    for line, cells in table.rows:
        name, time = (from_csv_text(cells[column]) or "" for column in (slide, when))
        if found.setdefault(name, time) != time:
            raise ValueError(
                f"{table.at(line)}: slide {name!r} has the time {time!r} here and "
                f"{found[name]!r} above"
            )
    return found
