"""Settings that travel: how a layer is learnt, and how images are coded. Each has its home here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, TypedDict

from wbcprof.checks import C_INT, Choice, Flag, Integer, Maybe, Real, Rule, settle
from wbcprof.model.encoder import NONLINEARITIES
from wbcprof.model.preprocessing import PREPROCESSING

ONE_SIDED = ("rectified", "sigmoid")  # nonlinearities whose codes are never negative

Inference = Literal["feedforward", "sparse"]


def _setting(default: Any, rule: Rule, help: str = "", metavar: str = "") -> Any:
    """A field that carries its rule; with `help`, it is an option of the command line too."""
    return field(default=default, metadata={"rule": rule, "help": help, "metavar": metavar})


@dataclass(frozen=True, eq=False)
class LayerSettings:
    """How one layer is learnt: what `wbcprof.PSD` takes, whose docstring says what each means.

    Raises
    ------
    ValueError
        One is out of range, or `nonlinearity` and `positive` do not go together.
    """

    n_components: int = _setting(1024, Integer())
    alpha: float = _setting(0.05, Real(above=0), "weight of sparsity", "A")
    kappa: float = _setting(0.1, Real(least=0))
    rho: float = _setting(1.0, Real(least=0, most=1e15))
    positive: bool = _setting(True, Flag())
    nonlinearity: str = _setting("rectified", Choice(NONLINEARITIES))
    preprocessing: str = _setting("dataset_mean", Choice(PREPROCESSING))
    whiten: bool = _setting(False, Flag())
    batch_size: int = _setting(1000, Integer())
    learning_rate: float = _setting(0.1, Real(above=0))
    max_iter: int = _setting(100, Integer(), "passes over the patches at most", "N")
    tol: float = _setting(3e-3, Real(least=0))

    RULES: ClassVar[dict[str, Rule]]

    def __post_init__(self) -> None:
        settle(self, self.RULES)
        if (self.nonlinearity in ONE_SIDED) != self.positive:
            fitting = tuple(n for n in NONLINEARITIES if (n in ONE_SIDED) == self.positive)
            raise ValueError(
                f"nonlinearity must be one of {fitting} where positive={self.positive}, so that "
                f"its codes have the sign of those it predicts; got {self.nonlinearity!r}"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The settings among some values; those that are not there are the defaults."""
        return cls(**{name: values[name] for name in cls.RULES if name in values})


LayerSettings.RULES = {entry.name: entry.metadata["rule"] for entry in fields(LayerSettings)}


class CodingOptions(TypedDict, total=False):
    """The fields of `Coding`, as keywords of `wbcprof.Model.profile` and its like."""

    step: int | None
    inference: Inference
    tolerance: float | None


@dataclass(frozen=True, eq=False)
class Coding:
    """How the windows of an image are coded.

    Attributes
    ----------
    step : int or None
        Distance between windows, px; None is the model's own.
    inference : {"feedforward", "sparse"}
        Codes predicted by the encoder, in one fused pass; or optimal sparse codes, slower.
    tolerance : float or None
        Relative error of the profiles that is allowed for speed; None is exact.

    Raises
    ------
    ValueError
        One is out of range, or a tolerance is given for sparse codes.
    """

    step: int | None = _setting(None, Maybe(C_INT), "distance between windows", "PX")
    inference: Inference = _setting(
        "feedforward",
        Choice(("feedforward", "sparse")),
        "codes by the encoder (default) or optimal sparse codes",
    )
    tolerance: float | None = _setting(
        None,
        Maybe(Real(above=0, below=1)),
        "allow this relative error of the profiles for speed, such as 1e-3; default: exact",
        "E",
    )

    RULES: ClassVar[dict[str, Rule]]

    def __post_init__(self) -> None:
        settle(self, self.RULES)
        if self.tolerance is not None and self.inference != "feedforward":
            raise ValueError("tolerance is for feed-forward profiles of one-layer models")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Coding:
        """From keywords; TypeError where one is none of these."""
        known = cls.RULES.keys()
        if unknown := sorted(options.keys() - known):
            raise TypeError(
                f"{', '.join(unknown)}: no such parameter of profiling, which takes "
                f"{', '.join(known)}"
            )
        return cls(**options)

    def stated(self, step: int) -> dict[str, Any]:
        """All that was asked for, as JSON has it; `step` is that of the model."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {"step": step, **given}


Coding.RULES = {entry.name: entry.metadata["rule"] for entry in fields(Coding)}
