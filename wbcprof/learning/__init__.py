"""Images to a model: patches, signatures and their encoder, layer by layer."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.learning.profiler import Profiler as Profiler
    from wbcprof.learning.profiler import fit as fit
    from wbcprof.learning.psd import PSD as PSD

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "profiler": ["Profiler", "fit"],
        "psd": ["PSD"],
    },
)
