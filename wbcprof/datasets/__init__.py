"""Generated smears and cells, for examples and tests that need no download.

Every image is drawn from random numbers, none is a photograph.

Examples
--------
>>> from wbcprof.datasets import LEUKOCYTE_TYPES, make_leukocytes
>>> cells = make_leukocytes(2, size=64)
>>> cells.images.shape
(12, 64, 64, 3)
>>> sorted(set(cells.labels)) == sorted(LEUKOCYTE_TYPES)
True
"""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.datasets.drawing import LEUKOCYTE_TYPES as LEUKOCYTE_TYPES
    from wbcprof.datasets.leukocytes import Leukocytes as Leukocytes
    from wbcprof.datasets.leukocytes import make_leukocytes as make_leukocytes
    from wbcprof.datasets.leukocytes import write_folder as write_folder
    from wbcprof.datasets.smears import Smear as Smear
    from wbcprof.datasets.smears import make_smear as make_smear
    from wbcprof.datasets.smears import write_smear as write_smear

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "drawing": ["LEUKOCYTE_TYPES"],
        "leukocytes": ["Leukocytes", "make_leukocytes", "write_folder"],
        "smears": ["Smear", "make_smear", "write_smear"],
    },
)
