"""Profiles of parts of a source, which go together again in the order of their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from wbcprof.images.source import ImageSource, NoUsableImage, SkippedImage
from wbcprof.model.model import Model
from wbcprof.model.settings import Coding
from wbcprof.smear.measures import MEASURES

PIECE = 64  # images that a worker of a cluster profiles at a time


@dataclass
class PartProfiles:
    """Profiles of part of a source: values, measures, ids and labels of the images that could be
    read; the others with reasons; and what images were converted from, counted."""

    values: np.ndarray
    measures: np.ndarray
    ids: list[str]
    labels: list[str | None]
    skipped: list[SkippedImage]
    converted: Counter[str]


def profile_part(
    model: Model,
    part: ImageSource,
    coding: Coding,
    n_threads: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> PartProfiles:
    """Profiles of a part; none where no image of it can be read."""
    try:
        profiles = model.profile_source(part, coding, n_threads, progress)
        values, ids, labels = profiles.values, profiles.ids, profiles.labels
        measures = profiles.measures
    except NoUsableImage:
        values, ids, labels = np.empty((0, len(model.feature_names)), np.float32), [], []
        measures = np.empty((0, len(MEASURES)), np.float32)
    assert measures is not None
    return PartProfiles(
        values,
        measures,
        ids,
        [None] * len(ids) if labels is None else labels,
        part.skipped,
        part.converted,
    )


def join(numbered: Mapping[int, PartProfiles]) -> PartProfiles:
    """Profiles of parts, in the order of their numbers, as those of one."""
    parts = [numbered[number] for number in sorted(numbered)]
    return PartProfiles(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.measures for part in parts]),
        [image_id for part in parts for image_id in part.ids],
        [label for part in parts for label in part.labels],
        [image for part in parts for image in part.skipped],
        sum((part.converted for part in parts), Counter()),
    )
