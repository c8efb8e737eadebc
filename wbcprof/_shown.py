"""How objects show themselves: a few lines of text, and the same as a table in notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from html import escape
from textwrap import wrap
from typing import Any, TypeVar

import numpy as np

from wbcprof.files import visible

_LINES, _WIDTH = 5, 99
_MOST_CHARACTERS, _MOST_NAMES, _MOST_NUMBERS = 150, 8, 4


class Shown:
    """A base of what people look at. By default all attributes are told, arrays by their shape."""

    __slots__ = ()

    def _told(self) -> Mapping[str, Any]:
        """What is worth telling, by name."""
        names = getattr(self, "_fields", getattr(self, "__dataclass_fields__", ()))
        return {name: getattr(self, name) for name in names if not name.startswith("_")}

    def __repr__(self) -> str:
        facts = "; ".join(f"{name}: {text}" for name, text in _texts(self._told()).items())
        style: dict[str, Any] = {"max_lines": _LINES, "placeholder": " ...>"}
        return "\n".join(wrap(f"<{type(self).__name__} {facts}>", _WIDTH, **style))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(text)}</td></tr>"
            for name, text in _texts(self._told()).items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"


_Tuple = TypeVar("_Tuple")


def shown(named_tuple: type[_Tuple]) -> type[_Tuple]:
    """The same for a named tuple, which can have no other base."""
    for name in ("_told", "__repr__", "_repr_html_"):
        setattr(named_tuple, name, vars(Shown)[name])
    return named_tuple


def _texts(facts: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in facts.items() if value is not None}


def _text(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, np.ndarray):
        if value.dtype.names:
            return f"{len(value):,} rows"
        if value.size > _MOST_NUMBERS or value.ndim != 1:
            return f"{value.dtype} {value.shape}"
        value = value.tolist()
    if isinstance(value, Mapping):
        value = [f"{key} {_text(item)}" for key, item in value.items()]
    if isinstance(value, Sequence | Set) and not isinstance(value, str | bytes):
        simple = all(isinstance(item, str | int | float) for item in value)
        if not simple or (len(value) > _MOST_NAMES and not isinstance(next(iter(value)), str)):
            return f"{len(value):,}"
        shown = [_text(item) for item in list(value)[:_MOST_NAMES]]
        more = f" ... {len(value):,} in all" if len(value) > len(shown) else ""
        return ", ".join(shown) + more if shown else "none"
    text = visible(" ".join(str(value).split()))
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 3]}..."
