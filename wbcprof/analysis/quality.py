"""What is wrong with single images: blurred, badly exposed, without one whole cell, there twice.

Thresholds are relative to the images that a model was learnt from, or adapted to; those that are
about the picture alone, a cell at its edge or several cells, hold everywhere.
"""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from typing import Any

import numpy as np

from wbcprof.images.copies import look_for_copies
from wbcprof.images.source import open_images
from wbcprof.model.memory import Memory
from wbcprof.model.model import Model
from wbcprof.model.profiles import Profiles
from wbcprof.smear.cells import SmearWarning
from wbcprof.smear.measures import MEASURES, OTHERS, medians

FLAGS = (
    "no cell", "cut cell", "several cells", "blurred", "overexposed", "underexposed", "clipped",
    "colour cast", "duplicate",
)  # fmt: skip

_BLURRED = 2.0  # times the variance of the most blurred of the reference
_BRIGHTER, _DARKER = 1.05, 0.6  # of the light of the reference
_CLIPPED = 0.1  # of the pixels, beyond those of the reference
_CAST = 0.1  # of the background's ratio of two channels, natural logarithm
_CUT = 0.75  # sizes of the nucleus from its centre to the edge: that of a disc touches it at 0.56
_MOST_FIELDS = 0.5  # of the images of a set


def flag_images(model: Model, profiles: Profiles, images: Any = None) -> list[list[str]]:
    """What is wrong with each image.

    Parameters
    ----------
    model : Model
        Whose memory is the reference. Without one, only "no cell", "cut cell", "several cells"
        and "duplicate" are found.
    profiles : Profiles
        Of the images.
    images, optional
        The images, as `wbcprof.images.open_images` takes them: then near-identical ones are flagged
        too, "duplicate", all but the first.

    Returns
    -------
    list of list of str
        Of each profile, some of `FLAGS`.

    Raises
    ------
    ValueError
        The profiles come without measures.

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> from wbcprof.analysis import flag_images
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(8, size=96, types=["lymphocyte", "neutrophil"])  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
    >>> model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=0)
    >>> empty = np.random.default_rng(0).integers(235, 245, (1, 96, 96, 3), dtype=np.uint8)
    >>> new = np.concatenate([cells.images[:1], empty])
    >>> flag_images(model, model.profile(new))
    [[], ['no cell']]
    """
    if profiles.measures is None:
        raise ValueError("the profiles come without measures; profile the images again")
    m = dict(zip(MEASURES, profiles.measures.T.astype(np.float64), strict=True))
    wrong = {
        "no cell": np.isnan(m["NucleusSize"]),
        "cut cell": m["Margin"] < _CUT,
        "several cells": m["Others"] > OTHERS,
    }
    classifier = model.classifier
    if classifier is not None and classifier.memory_ is not None:
        wrong |= _against(classifier.memory_, m)
    if images is not None:
        again = _are_again(images)
        wrong["duplicate"] = np.array([again[image_id].popleft() for image_id in profiles.ids])
    present = [flag for flag in FLAGS if flag in wrong]
    return [[flag for flag in present if wrong[flag][i]] for i in range(len(profiles))]


def _are_again(images: Any) -> dict[str, deque[bool]]:
    """Whether images are near-identical to an earlier one, by their ids, which may be repeated."""
    found: dict[str, deque[bool]] = defaultdict(deque)
    seen: set[int] = set()
    for image_id, number in zip(*look_for_copies(open_images(images)), strict=True):
        found[image_id].append(number in seen)
        seen.add(number)
    return found


def warn_of_fields(profiles: Profiles) -> None:
    """Say once where images that are taken for single cells show several, as fields do."""
    tell_of_fields(n_of_fields(profiles), len(profiles), stacklevel=4)


def n_of_fields(profiles: Profiles) -> int:
    """How many images show several leukocytes."""
    if profiles.measures is None:
        return 0
    return int((profiles.measures[:, MEASURES.index("Others")] > OTHERS).sum())


def tell_of_fields(several: int, n: int, stacklevel: int = 3) -> None:
    """`warn_of_fields` of `n` images of which several show several."""
    if n and several / n > _MOST_FIELDS:
        warnings.warn(
            f"{several} of {n} images show several leukocytes, as fields do, and are taken for one "
            "cell each; 'wbcprof smear' and 'wbcprof find' look at every cell of a field",
            SmearWarning,
            stacklevel=stacklevel,
        )


def _against(memory: Memory, m: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    reference = dict(zip(MEASURES, np.moveaxis(memory.quantiles, 2, 0), strict=True))

    def most(name: str) -> float:
        return float(np.fmax.reduce(reference[name][:, -2]))

    def middle(name: str) -> float:
        return float(medians(reference[name][:, [memory.quantiles.shape[1] // 2]])[0])

    channels = [f"Background{c}" for c in ("Red", "Green", "Blue")]
    light = np.mean([m[name] for name in channels], axis=0)
    usual = float(np.mean([middle(name) for name in channels]))
    brightest = float(np.mean([most(name) for name in channels]))
    with np.errstate(divide="ignore", invalid="ignore"):
        casts = [
            np.abs(np.log(m[name] / m[channels[1]]) - np.log(middle(name) / middle(channels[1])))
            for name in (channels[0], channels[2])
        ]
    return {
        "blurred": m["Focus"] > _BLURRED * most("Focus"),
        "overexposed": light > min(_BRIGHTER * brightest, 254.0),
        "underexposed": light < _DARKER * usual,
        "clipped": m["ClippedShare"] > most("ClippedShare") + _CLIPPED,
        "colour cast": np.maximum(*casts) > _CAST,
    }
