"""The cells of a report: one pass over the images, which keeps profiles, thumbnails, examples."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wbcprof.analysis.grouping import comparable
from wbcprof.checks import UNLABELLED, label_names
from wbcprof.images.copies import thumbnail
from wbcprof.images.groups import groups_of, one_group_each
from wbcprof.images.source import Cell, ImageSource, open_images
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles
from wbcprof.smear.instrument import Instrument, measure_instrument

EXAMPLES, EXAMPLE_TYPES = 3, 8
_UNTYPED_EXAMPLES = 60  # drawn at random, for a few of each type that they will be called
_MAP_CELLS = 10_000
_THUMBNAILS = ((2_000, 96, 80), (5_000, 64, 78), (_MAP_CELLS, 48, 75))  # up to n: px, quality


@dataclass
class Cells:
    """All cells, and thumbnails and pixels of some."""

    values: np.ndarray
    feature_names: list[str]
    n_signatures: int
    labels: np.ndarray  # of str, as objects: "unlabelled" where unknown
    ids: list[str]
    shown: list[int]  # on the map
    thumbnails: list[np.ndarray]
    quality: int
    examples: dict[int, np.ndarray]  # pixels
    looks: list[np.ndarray]  # of all, for finding near-identical ones
    groups: np.ndarray | None  # of all: patients, slides
    instrument: Instrument
    profiles: Profiles  # as the model gave them
    source: ImageSource  # what was read

    @property
    def is_labelled(self) -> bool:
        return bool((self.labels != UNLABELLED).any())

    @property
    def is_mostly_unlabelled(self) -> bool:
        return bool((self.labels == UNLABELLED).mean() > 0.5)

    @cached_property
    def names(self) -> list[str]:
        """Ids; of absolute paths, what is below the folder common to all."""
        if not all(map(os.path.isabs, self.ids)):
            return self.ids
        folder = os.path.commonpath([os.path.dirname(path) for path in self.ids])
        return [os.path.relpath(path, folder) for path in self.ids]

    @cached_property
    def blocks(self) -> list[str]:
        """What each run of `n_signatures` columns holds: "mean", or "max, L2R0C1"."""
        names = (name.split("_") for name in self.feature_names[:: self.n_signatures])
        return [", ".join([pool.lower(), *part]) for _, pool, _, _, *part in names]

    @cached_property
    def comparable(self) -> np.ndarray:
        """See `wbcprof.analysis.grouping.comparable`."""
        return comparable(self.values, self.feature_names)


def read_cells(
    model: Model,
    images: Any,
    labels: Iterable[Any] | None,
    random_state: int,
    n_threads: int,
    groups: Any = None,
    progress: Callable[[int, int | None], None] | None = None,
    look: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Cells:
    """One pass over the images; `look` is the part of an image that its thumbnail shows."""
    from PIL import Image, ImageOps

    source = open_images(images, labels, min_size=model.min_size)
    if source.n_hint is None:
        held = list(source.read(n_threads))
        known = [cell.label for cell in held]
        if groups is not None:
            n_offered = len(held) + len(source.skipped)
            held_ids, held_places = zip(*((c.image_id, c.place) for c in held), strict=True)
            groups = groups_of(groups, held_ids, held_places, n_offered)
        source = open_images([cell.pixels for cell in held], known, min_size=model.min_size)
    n = source.n
    if groups is not None and not isinstance(groups, Mapping):
        groups = one_group_each(groups, n, "images")
    drawn: range | set[int] = range(n)
    rng = np.random.default_rng(random_state)
    if n > _MAP_CELLS:
        drawn = set(rng.choice(n, _MAP_CELLS, replace=False).tolist())
    untyped = set(rng.choice(n, min(n, _UNTYPED_EXAMPLES), replace=False).tolist())
    side, quality = next((s, q) for most, s, q in _THUMBNAILS if min(n, _MAP_CELLS) <= most)

    ids: list[str] = []
    places: list[int] = []
    looks: list[np.ndarray] = []
    names: list[str] = []
    shown: list[int] = []
    thumbnails: list[np.ndarray] = []
    examples: dict[int, np.ndarray] = {}
    per_type: Counter[str] = Counter()

    def taken(cells: Iterator[Cell]) -> Iterator[np.ndarray]:
        for cell in cells:
            index = len(ids)
            ids.append(cell.image_id)
            places.append(cell.place)
            looks.append(thumbnail(cell.pixels))
            names.extend(label_names([cell.label]))
            if index in drawn:
                seen = cell.pixels if look is None else look(cell.pixels)
                image = ImageOps.pad(Image.fromarray(seen), (side, side), color="#e8e8e8")
                shown.append(index)
                thumbnails.append(np.asarray(image))
            name = names[-1]
            new = name not in per_type
            if name == UNLABELLED:
                if index in untyped:
                    examples[index] = cell.pixels
            elif per_type[name] < EXAMPLES and (not new or len(per_type) <= EXAMPLE_TYPES):
                per_type[name] += 1
                examples[index] = cell.pixels
            yield cell.pixels

    profiles = model.profile(taken(source.read(n_threads)), n_threads=n_threads, progress=progress)
    h = model.layers[-1].n_signatures
    values = profiles.values.astype(np.float64)
    return Cells(
        values,
        profiles.feature_names,
        h,
        np.array(names, dtype=object),
        ids,
        shown,
        thumbnails,
        quality,
        examples,
        looks,
        None if groups is None else groups_of(groups, ids, places, n),
        measure_instrument(source, n_threads=n_threads),
        profiles,
        source,
    )
