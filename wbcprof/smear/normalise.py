"""Normalisers: what brings every image to the form of those that a model was learnt from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from wbcprof.checks import Choice
from wbcprof.smear.canonical import CanonicalForm
from wbcprof.smear.stain import STAINS, StainNormaliser

Normaliser = CanonicalForm | StainNormaliser

NORMALISERS: dict[str, type[Normaliser]] = {
    "canonical": CanonicalForm,
    **dict.fromkeys(STAINS, StainNormaliser),
}
"""Classes by the names of methods: the cell at one scale, place, light and stain; colours alone."""

RULE = Choice(tuple(NORMALISERS))
"""What the name of a method may be."""


def learn_normaliser(images: Iterable[np.ndarray], method: str) -> Normaliser:
    """The form of reference images (H, W, 3), uint8."""
    return NORMALISERS[method].learn(images, method)


def normaliser_from_json(document: dict[str, Any]) -> Normaliser:
    """The normaliser whose `to_json` gave this."""
    return NORMALISERS[RULE.check("the method", document["method"])](**document)
