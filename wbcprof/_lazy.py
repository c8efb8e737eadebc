"""Public names of a package that are imported when first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from sys import modules
from typing import Any


def attach(
    package: str, public: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    public : mapping
        Module, relative to the package, to the names that it holds; a module that is public itself
        names its last part, as ``{"analysis.compare": ["compare"]}``.
    """
    homes = {name: module for module, names in public.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(f"{package}.{homes[name]}")
        is_itself = name == homes[name].rpartition(".")[2]
        value = module if is_itself else getattr(module, name)
        setattr(modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(modules[package]), *homes})

    return __getattr__, __dir__, list(homes)
