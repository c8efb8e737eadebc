"""What parameters may be, declared once, and what labels mean.

A declaration is a rule for each name, ``{"alpha": Real(above=0), "step": Integer(1)}``. `check`
holds values to it, and the tests of bad parameters are made from the same rules (`Rule.bad`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def shown(value: Any) -> str:
    """The repr of a value, on one line of at most 100 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def told(error: BaseException) -> str:
    """What an error of another library says, on one line of at most 400 characters: some repeat all
    that they were given."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:397]}..."


class Rule:
    """What one parameter may be; its text ends the sentence "alpha must be ..."."""

    # Plain classes: a program waits for these to be made before its first profile, and dataclasses
    # take ten times as long.

    def take(self, value: Any) -> Any:
        """The value as plain Python has it.

        Raises
        ------
        ValueError, TypeError
            It may not be this; what the error says does not matter.
        """
        raise NotImplementedError

    def bad(self) -> Sequence[Any]:
        """Values that it may not be, for tests."""
        raise NotImplementedError

    def check(self, name: str, value: Any) -> Any:
        """The value as plain Python has it.

        Raises
        ------
        ValueError
            It may not be this.
        """
        try:
            return self.take(value)
        except OverflowError:
            raise ValueError(f"{name} must be {self} of 64 bits, got {shown(value)}") from None
        except (ValueError, TypeError):
            raise ValueError(f"{name} must be {self}, got {shown(value)}") from None


_LARGEST = 2**63 - 1


class Integer(Rule):
    """An integer from `least` to `most`; NumPy's are integers too, booleans and 2.0 are not."""

    def __init__(self, least: int = 1, most: int | None = None):
        self.least, self.most = least, most

    def take(self, value: Any) -> int:
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
            raise ValueError
        if value < self.least or (self.most is not None and value > self.most):
            raise ValueError
        if value > _LARGEST:  # which no file of arrays takes
            raise OverflowError
        return int(value)

    def bad(self) -> Sequence[Any]:
        beyond = [_LARGEST + 1 if self.most is None else self.most + 1]
        return [self.least - 1, *beyond, True, 2.0, math.nan, "3", None, [3]]

    def __str__(self) -> str:
        if self.most is not None:
            return f"an integer from {self.least} to {self.most}"
        return "a positive integer" if self.least == 1 else f"an integer of at least {self.least}"


C_INT = Integer(most=2**31 - 1)
"""What a kernel takes as a number of pixels, or of times."""


class Real(Rule):
    """A finite number, above or at least a lower bound, and perhaps at most an upper one."""

    def __init__(
        self,
        *,
        above: float | None = None,
        least: float | None = None,
        most: float | None = None,
        below: float | None = None,
    ):
        self.above, self.least, self.most, self.below = above, least, most, below

    def take(self, value: Any) -> float:
        if isinstance(value, bool | np.bool_) or not isinstance(
            value, int | float | np.integer | np.floating
        ):
            raise ValueError
        number = float(value)
        if not (
            math.isfinite(number)
            and (self.above is None or number > self.above)
            and (self.least is None or number >= self.least)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        ):
            raise ValueError
        return number

    def bad(self) -> Sequence[Any]:
        bounds = [bound for bound in (self.above, self.below) if bound is not None]
        bounds += [] if self.least is None else [self.least - 1]
        bounds += [] if self.most is None else [self.most + 1]
        return [*bounds, math.nan, math.inf, True, "0.1", None, [0.1]]

    def __str__(self) -> str:
        bounds = [
            f"{words} {bound:g}"
            for words, bound in (
                ("above", self.above), ("at least", self.least),
                ("at most", self.most), ("below", self.below),
            )
            if bound is not None
        ]  # fmt: skip
        if bounds == ["above 0"]:
            return "positive and finite"
        return " and ".join(bounds if len(bounds) == 2 else [*bounds, "finite"])


class Choice(Rule):
    """One of a few names."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def take(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.names:
            raise ValueError
        return str(value)

    def bad(self) -> Sequence[Any]:
        return ["no such name", "", 0, None, [self.names[0]]]

    def __str__(self) -> str:
        return f"one of {self.names}"


class Flag(Rule):
    """True or False."""

    def take(self, value: Any) -> bool:
        if not isinstance(value, bool | np.bool_):
            raise ValueError
        return bool(value)

    def bad(self) -> Sequence[Any]:
        return [0, 1, "yes", None]

    def __str__(self) -> str:
        return "True or False"


class Maybe(Rule):
    """None, or what another rule allows."""

    def __init__(self, rule: Rule):
        self.rule = rule

    def take(self, value: Any) -> Any:
        return None if value is None else self.rule.take(value)

    def bad(self) -> Sequence[Any]:
        return [value for value in self.rule.bad() if value is not None]

    def __str__(self) -> str:
        return f"None or {self.rule}"


class NamedOr(Rule):
    """A name such as "auto", or what another rule allows."""

    def __init__(self, name: str, rule: Rule):
        self.name, self.rule = name, rule

    def take(self, value: Any) -> Any:
        return self.name if isinstance(value, str) and value == self.name else self.rule.take(value)

    def bad(self) -> Sequence[Any]:
        return ["no such name", *self.rule.bad()]

    def __str__(self) -> str:
        return f"{self.name!r} or {self.rule}"


class Each(Rule):
    """A sequence of different items, each of which another rule allows; one item may stand for
    itself."""

    def __init__(self, rule: Rule, least: int = 0):
        self.rule, self.least = rule, least

    def take(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str | int | float | np.generic):
            value = (value,)
        items = tuple(self.rule.take(item) for item in value)
        if len(items) < self.least or len(set(items)) < len(items):
            raise ValueError
        return items

    def bad(self) -> Sequence[Any]:
        return [*([] if self.least == 0 else [()]), *([item] for item in self.rule.bad()), None]

    def __str__(self) -> str:
        empty = " not empty," * (self.least > 0)
        return f"a sequence,{empty} without repeats, each item {self.rule}"


def check(rules: Mapping[str, Rule], **values: Any) -> dict[str, Any]:
    """Values of parameters as plain Python has them, in the order of the rules.

    Raises
    ------
    ValueError
        One may not be this; the error says what was expected and what came.
    """
    return {name: rule.check(name, values[name]) for name, rule in rules.items() if name in values}


def settle(holder: Any, rules: Mapping[str, Rule]) -> None:
    """`check` the fields of a frozen dataclass, and put back what plain Python has of them."""
    for name, value in check(rules, **vars(holder)).items():
        object.__setattr__(holder, name, value)


# ---- labels ----

UNLABELLED = "unlabelled"
"""How figures and counts call cells whose label is unknown."""

UNSURE, UNLIKE, CUT = CALLS = ("unsure", "unlike", "cut")
"""What cells are called that have no type; the last, where the edge of the image cuts the
nucleus."""

_MADE_TEXT = ("nan", "NaT", "None", "<NA>")  # what NumPy makes of missing values among text


def known_label(label: Any) -> str | None:
    """A label as text; None where it is unknown.

    Unknown are None, NaN, NaT, ``pandas.NA``, text of blanks, and "unlabelled". Bytes are read as
    UTF-8; a whole number is named alike as integer and as float (3.0 is "3"), since a column with
    missing values turns integers into floats; booleans are "True" and "False".
    """
    if isinstance(label, str):
        return str(label) if label.strip() not in ("", UNLABELLED) else None
    if label is None or str(label) == "<NA>" or label != label:
        return None
    if isinstance(label, bytes):
        return known_label(label.decode("utf-8", "backslashreplace"))
    if isinstance(label, float | np.floating) and float(label).is_integer():
        label = int(label)
    return known_label(str(label))


def known_labels(
    labels: Iterable[Any], n: int | None = None, of: str = "cells"
) -> list[str | None]:
    """Labels as text, None where unknown; see `known_label`.

    Parameters
    ----------
    labels : iterable
        A list, array or column; a column of shape (n, 1) is one of n. In an array of text, "nan",
        "NaT", "None" and "<NA>" are unknown too: NumPy has made them of missing values.
    n : int, optional
        How many there must be.
    of : str
        What they are labels of, for the error.

    Raises
    ------
    TypeError
        Text, a mapping or a set, which hold no labels in order.
    ValueError
        There are not `n`, or more than one for each.
    """
    if not isinstance(labels, Iterable) or isinstance(
        labels, str | bytes | Mapping | set | frozenset
    ):
        raise TypeError(
            f"labels must hold one label per image, in order; got {type(labels).__name__}."
        )
    made: tuple[str, ...] = ()
    if hasattr(labels, "shape"):
        array = one_column(_without_masked(labels))
        made = _MADE_TEXT if array.dtype.kind in "US" else ()
        labels = array.tolist() if array.dtype.kind != "M" else array
    names = [known_label(label) for label in labels]
    names = [None if name in made else name for name in names]
    if n is not None and len(names) != n:
        raise ValueError(f"Length of labels ({len(names)}) must match number of {of} ({n})")
    return names


def one_column(labels: np.ndarray) -> np.ndarray:
    """Labels (n,) of an array (n,) or (n, 1)."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        return labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"expected one label per image, got shape {labels.shape}")
    return labels


def one_known_label_each(labels: Any, n: int, of: str, what: str = "label") -> np.ndarray:
    """Labels to learn from, or groups, (n,): numbers as they are, all else as text.

    Raises
    ------
    ValueError
        There are not `n`, more than one for each, or one is unknown.
    """
    is_array = hasattr(labels, "shape")
    # Of a list, objects: NumPy would make one text of all, and "nan" of NaN.
    array = one_column(
        _without_masked(labels) if is_array else np.array(list(labels), dtype=object)
    )
    if len(array) != n:
        raise ValueError(f"Length of {what}s ({len(array)}) must match number of {of} ({n})")
    names = known_labels(array)
    unknown = [number for number, name in enumerate(names) if name is None]
    if unknown:
        raise ValueError(
            f"expected a {what} for each image, got none for {len(unknown)} of {n}, "
            f"first for number {unknown[0]}"
        )
    plain = array if is_array else _as_one_kind(array.tolist())
    if plain.dtype.kind == "u" and plain.max(initial=0) <= np.iinfo(np.int64).max:
        plain = plain.astype(np.int64)  # which files give back
    return plain if plain.dtype.kind in "if" else np.array(names, dtype=str)


def _as_one_kind(labels: list[Any]) -> np.ndarray:
    """A list as NumPy has it, or, where that would make one of labels that differ, as objects."""
    array = np.asarray(labels)
    if array.dtype.kind in "iuf" and all(
        not isinstance(label, bool | np.bool_) and made == label
        for made, label in zip(array.tolist(), labels, strict=True)
    ):
        return array
    return np.array(labels, dtype=object)


def _without_masked(labels: Any) -> np.ndarray:
    """An array of labels, None where a masked one is."""
    array = np.asarray(labels)
    if isinstance(labels, np.ma.MaskedArray):
        array = array.astype(object)
        array[np.ma.getmaskarray(labels)] = None
    return array


def listed(names: Any) -> tuple[str, ...]:
    """Names given as a parameter, as text, as labels are: a lone text or number is one name, and
    None is no name."""
    if names is None:
        return ()
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        names = (names,)
    return tuple(known_label(name) or UNLABELLED for name in names)


def meant(names: Any, types: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of `types`, those that names given as a parameter mean, being spelt so or, where none is,
    having this plain name; and the names that mean none."""
    chosen: set[str] = set()
    unknown = []
    for name in listed(names):
        alike = [known for known in types if plain_name(known) == plain_name(name)]
        chosen.update([name] if name in types else alike)
        if name not in types and not alike:
            unknown.append(name)
    return [name for name in types if name in chosen], unknown


def numbers(array: Any, name: str, dtype: Any = np.float64) -> np.ndarray:
    """An array-like of real numbers; ValueError where some are masked (see `unmasked`) or of
    another kind."""
    found = np.asarray(unmasked(array, name))
    if found.dtype.kind in "cUSbMm":
        raise ValueError(f"{name} must be real numbers, got {found.dtype}")
    return found if dtype is None else found.astype(dtype, copy=False)


def label_names(labels: Iterable[Any] | None, n: int | None = None) -> list[str]:
    """Labels as text, unknown ones as ``"unlabelled"``, and so all of ``None``.

    Raises
    ------
    TypeError, ValueError
        See `known_labels`.
    """
    if labels is None:
        return [UNLABELLED] * (n or 0)
    return [UNLABELLED if name is None else name for name in known_labels(labels, n)]


def unmasked(array: Any, name: str) -> Any:
    """The array; the values of a masked one of which none is masked.

    Raises
    ------
    ValueError
        Values are masked, which would be read as if they were not.
    """
    if not isinstance(array, np.ma.MaskedArray):
        return array
    if n := int(np.ma.getmaskarray(array).sum()):
        raise ValueError(
            f"{name} must not be masked, got {n} masked values; say what they are, as with "
            "array.filled(255)"
        )
    return array.data


def plain_name(name: str) -> str:
    """A type's name as others may write it: lower case, singular, words joined by underscores."""
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split()).removesuffix("s")


def as_known(name: str | None, types: Sequence[str]) -> str | None:
    """A type as it is spelt among `types`: exactly so, or where one only has this plain name; any
    other as it is."""
    if name is None or name in types:
        return name
    alike = [known for known in types if plain_name(known) == plain_name(name)]
    return alike[0] if len(alike) == 1 else name


def sorted_types(names: Iterable[str]) -> list[str]:
    """Distinct names in alphabetical order, ``"unlabelled"`` last."""
    return sorted(set(names), key=lambda name: (name == UNLABELLED, name))
