"""A folder that a run fills part by part, and goes on with after an interruption.

    manifest.json      what the run is
    part-000000.json   what a part was made from and what became of it, and so on

Only the process that was asked to writes into the folder, and only one at a time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wbcprof.checks import told
from wbcprof.files import regular, replacing

MANIFEST = "manifest.json"

_BEING_WRITTEN = re.compile(
    r"\.(?:manifest|part-\d{6,}|skipped|dropped|cells|.+_\d{4,})-[a-z0-9_]{8}\.(?:json|parquet|csv|png)"
)
"""Temporary names of `wbcprof.files.replacing`, of files that runs write into their folders."""


def record_name(index: int) -> str:
    return f"part-{index:06d}.json"


def record_number(path: Path) -> int | None:
    """Of the part whose record a file is called after; None of any other file."""
    number = path.stem.removeprefix("part-")
    is_record = number.isdecimal() and path.name == record_name(int(number))
    return int(number) if is_record else None


def _check_manifest(folder: Path, identity: dict[str, Any]) -> None:
    """Write the manifest of a new run; refuse to go on with that of another."""
    path = folder / MANIFEST
    if not path.exists():
        if any(not entry.name.startswith(".") for entry in folder.iterdir()):
            raise ValueError(
                f"the folder {str(folder)!r} is not empty and holds no {MANIFEST} of wbcprof; "
                "give a new or an empty folder"
            )
        write_json(path, identity)
        return
    found = read_json(path)
    differing = [
        f"{name} was {found.get(name, 'none')}, now it is {identity.get(name, 'none')}"
        for name in {**found, **identity}
        if name not in found or name not in identity or found[name] != identity[name]
    ]
    if differing:
        raise ValueError(
            f"{str(folder)!r} holds what another run made: {'; '.join(differing)}. Give another "
            "folder, or remove this one"
        )


def _clear_leftovers(folder: Path) -> None:
    """Remove what a killed run was writing."""
    for path in folder.glob(".*-*"):
        if _BEING_WRITTEN.fullmatch(path.name):
            path.unlink()


def write_json(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(regular(path).read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
        return document
    except ValueError as error:
        raise ValueError(
            f"{str(path)!r} is damaged: {told(error)}; remove it to make it anew"
        ) from error


def read_record(path: Path, fields: Mapping[str, Callable[[Any], bool]]) -> dict[str, Any]:
    """The record of a part, whose fields are as these say."""
    record = read_json(path)
    for name, fits in fields.items():
        if not fits(record.get(name)):
            raise ValueError(
                f"{str(path)!r} is damaged: {name} is missing or of another kind; remove it to "
                "make it anew"
            )
    return record


def are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def are_pairs(value: Any) -> bool:
    """Of texts, such as images and reasons."""
    return isinstance(value, list) and all(are_texts(pair) and len(pair) == 2 for pair in value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_count, value.values()))


@contextmanager
def claimed(folder: Path, identity: dict[str, Any]) -> Iterator[None]:
    """Make the folder, or go on with one of a run of this identity; hold it against a second run,
    until this process ends in whatever way."""
    folder.mkdir(exist_ok=True)
    with _held(folder, folder):
        _check_manifest(folder, identity)
        _clear_leftovers(folder)
        yield


@contextmanager
def held_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a file that is read and replaced, whether it is there or not, against a second run.

    Raises
    ------
    ValueError
        Another run holds it.
    """
    file = Path(os.path.realpath(path))
    lock = file.with_name(f".{file.name}.lock")  # the file itself is another after each writing
    with _held(lock, file, os.O_CREAT):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _held(lock: Path, what: Path, flag: int = 0) -> Iterator[None]:
    """Hold what `lock`, a file or folder, stands for."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    descriptor = os.open(lock, os.O_RDONLY | flag)
    busy = f"another run is writing into {str(what)!r}; wait for its end"
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(busy) from None
        # A run that has just ended took the lock away.
        if not lock.exists() or not os.path.samestat(os.fstat(descriptor), os.stat(lock)):
            raise ValueError(busy)
        yield
    finally:
        os.close(descriptor)
