"""Cells of many laboratories become cells of one scale, light and stain."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.smear.canonical import CanonicalForm as CanonicalForm
    from wbcprof.smear.canonical import find_leukocyte as find_leukocyte
    from wbcprof.smear.cells import FieldCells as FieldCells
    from wbcprof.smear.cells import Ruler as Ruler
    from wbcprof.smear.cells import SmearCell as SmearCell
    from wbcprof.smear.cells import SmearWarning as SmearWarning
    from wbcprof.smear.cells import cut_out as cut_out
    from wbcprof.smear.cells import find_cells as find_cells
    from wbcprof.smear.cells import measure_slides as measure_slides
    from wbcprof.smear.finder import FoundLeukocyte as FoundLeukocyte
    from wbcprof.smear.finder import find_leukocytes as find_leukocytes
    from wbcprof.smear.instrument import AcquisitionWarning as AcquisitionWarning
    from wbcprof.smear.instrument import Instrument as Instrument
    from wbcprof.smear.instrument import measure_instrument as measure_instrument
    from wbcprof.smear.measures import MEASURES as MEASURES
    from wbcprof.smear.stain import StainNormaliser as StainNormaliser

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "canonical": ["CanonicalForm", "find_leukocyte"],
        "cells": [
            "FieldCells", "Ruler", "SmearCell", "SmearWarning", "cut_out", "find_cells",
            "measure_slides",
        ],
        "finder": ["FoundLeukocyte", "find_leukocytes"],
        "instrument": ["AcquisitionWarning", "Instrument", "measure_instrument"],
        "measures": ["MEASURES"],
        "stain": ["StainNormaliser"],
    },
)  # fmt: skip
