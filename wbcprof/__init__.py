"""Unsupervised visual signatures and profiles of white blood cells.

>>> model = wbcprof.fit("cells/")                  # doctest: +SKIP
>>> profiles = wbcprof.profile("cells/", model)    # doctest: +SKIP
"""

from importlib import import_module

from wbcprof import _core as _core  # here, so that a subinterpreter is refused at once

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
    "evaluate": "classify",
    "figures": "figures",
    "fit": "profiler",
    "load": "storage",
    "profile": "profiler",
    "sparse_encode": "sparse",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name):
    if name == "__version__":
        value = import_module("importlib.metadata").version("wbcprof")
    elif name in _PUBLIC:
        module = import_module(f".{_PUBLIC[name]}", __name__)
        value = module if name == _PUBLIC[name] else getattr(module, name)
    else:
        raise AttributeError(f"module 'wbcprof' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
