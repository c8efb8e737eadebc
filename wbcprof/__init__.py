"""Unsupervised visual signatures and profiles of white blood cells.

>>> model = wbcprof.fit("cells/")                  # doctest: +SKIP
>>> profiles = wbcprof.profile("cells/", model)    # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wbcprof import _core as _core  # here, so that a subinterpreter is refused at once

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof import compare as compare
    from wbcprof import datasets as datasets
    from wbcprof import figures as figures
    from wbcprof.classify import TypeClassifier as TypeClassifier
    from wbcprof.evaluation import evaluate as evaluate
    from wbcprof.model import Model as Model
    from wbcprof.profiler import Profiler as Profiler
    from wbcprof.profiler import fit as fit
    from wbcprof.profiler import profile as profile
    from wbcprof.profiles import Profiles as Profiles
    from wbcprof.psd import PSD as PSD
    from wbcprof.sparse import sparse_encode as sparse_encode
    from wbcprof.stain import StainNormaliser as StainNormaliser
    from wbcprof.storage import load as load

    __version__: str

# Public name -> module that holds it, imported at first use: profiling needs NumPy alone.
_PUBLIC = {
    "Model": "model",
    "PSD": "psd",
    "Profiler": "profiler",
    "Profiles": "profiles",
    "StainNormaliser": "stain",
    "TypeClassifier": "classify",
    "compare": "compare",
    "datasets": "datasets",
    "evaluate": "evaluation",
    "figures": "figures",
    "fit": "profiler",
    "load": "storage",
    "profile": "profiler",
    "sparse_encode": "sparse",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = import_module("wbcprof._version").version()
    elif name in _PUBLIC:
        module = import_module(f".{_PUBLIC[name]}", __name__)
        value = module if name == _PUBLIC[name] else getattr(module, name)
    else:
        raise AttributeError(f"module 'wbcprof' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
