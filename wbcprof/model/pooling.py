"""Pooling: which statistics of the codes, over which regions of the image, make a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Choice, Each, Integer, Real, settle, shown
from wbcprof.model.regions import Regions, find_regions, region_names


class Statistic(NamedTuple):
    """One way to pool the codes of a region's windows.

    Attributes
    ----------
    needs : tuple of {"mean", "variance", "max", "active"}
        What the kernel measures for it, over the windows of a region.
    finish : callable
        From these, arrays (n, h), to the pooled values.
    of_codes : callable
        The same from codes (windows, h) and whether each is active, (windows, h) bool: its naive
        twin, and what pools sparse codes.
    """

    needs: tuple[str, ...]
    finish: Callable[..., np.ndarray]
    of_codes: Callable[[np.ndarray, np.ndarray], np.ndarray]


def _mean(codes: np.ndarray) -> np.ndarray:
    mean: np.ndarray = codes.mean(axis=0, dtype=np.float64)
    return mean


def _signed_root(values: np.ndarray) -> np.ndarray:
    root: np.ndarray = np.sign(values) * np.sqrt(np.abs(values))
    return root


STATISTICS = {
    "mean": Statistic(("mean",), lambda mean: mean, lambda z, active: _mean(z)),
    "max": Statistic(("max",), lambda largest: largest, lambda z, active: z.max(axis=0)),
    "std": Statistic(("variance",), np.sqrt, lambda z, active: z.std(axis=0, dtype=np.float64)),
    "active": Statistic(("active",), lambda share: share, lambda z, active: _mean(active)),
    "sqrt": Statistic(("mean",), _signed_root, lambda z, active: _signed_root(_mean(z))),
}
"""Pools by name. A new one from these moments is one line here, and one in the docstring below."""

_MOST_LEVELS = 64  # of a spatial pyramid
RULES = {
    "pools": Each(Choice(tuple(STATISTICS)), least=1),
    "levels": Each(Integer(1, _MOST_LEVELS)),
    "centres": Each(Real(above=0, most=1)),
}


@dataclass(frozen=True, repr=False)
class Pooling(Shown):
    """Statistics and regions of a profile.

    Parameters
    ----------
    pools : name or sequence of names
        Statistics of the codes over the windows of a region, concatenated: "mean" (the paper's),
        "max", "std" (the population's), "active" (fraction of windows with the code active),
        "sqrt" (square root of the mean, with its sign).
    levels : sequence of int
        Spatial pyramid; level L pools over L x L parts of the image, 1 over all of it.
    centres : sequence of float
        Central discs, by diameter as a fraction of the image's shorter side.

    Raises
    ------
    ValueError
        A pool is unknown, a level is not an integer from 1 to 64, a centre not in (0, 1], one is
        there twice, or there are no pools or no regions.

    Examples
    --------
    The mean and the largest code, over the whole image and over a disc in its middle:

    >>> from wbcprof.model import Pooling
    >>> pooling = Pooling(("mean", "max"), levels=(1,), centres=(0.5,))
    >>> for name in pooling.feature_names(1):
    ...     print(name)
    Cells_Mean_Signature_0001
    Cells_Mean_Signature_0001_Centre50
    Cells_Max_Signature_0001
    Cells_Max_Signature_0001_Centre50
    """

    pools: Sequence[str] = ("mean",)
    levels: Sequence[int] = (1,)
    centres: Sequence[float] = ()

    def __post_init__(self) -> None:
        settle(self, RULES)
        if not self.levels and not self.centres:
            raise ValueError("codes are pooled over at least one region, got no levels, no centres")
        if len(set(region_names((), self.centres))) < len(self.centres):
            raise ValueError(
                f"centres must differ by a hundredth at least, got {shown(self.centres)}"
            )

    @property
    def n_regions(self) -> int:
        return sum(level**2 for level in self.levels) + len(self.centres)

    def count_features(self, n_signatures: int) -> int:
        return self.n_regions * len(self.pools) * n_signatures

    def feature_names(self, n_signatures: int) -> list[str]:
        """Names in the layout of a profile row: by pool, then region, then signature.

        ``Cells_Mean_Signature_0001`` for the whole image; for other regions see
        `wbcprof.model.regions.region_names`.

        Examples
        --------
        >>> from wbcprof.model import Pooling
        >>> Pooling("mean", levels=(2,)).feature_names(256)[-1]
        'Cells_Mean_Signature_0256_L2R1C1'
        """
        return list(
            _names(tuple(self.pools), tuple(self.levels), tuple(self.centres), n_signatures)
        )

    def find_regions(self, height: int, width: int, patch_size: int, step: int) -> Regions:
        """Regions of an image of height x width pixels; see `wbcprof.model.regions`."""
        return find_regions(
            height, width, patch_size, step, tuple(self.levels), tuple(self.centres)
        )

    def pool_codes(self, codes: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Pool sparse codes (rows, columns, h) over the windows of each mask (n_regions, rows,
        columns) into one profile row, float32; zeros where a mask is empty."""
        parts = [codes[mask] if mask.any() else np.zeros_like(codes[0, :1]) for mask in masks]
        values = [STATISTICS[pool].of_codes(z, z != 0) for pool in self.pools for z in parts]
        return np.concatenate(values).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """The arguments that make it again, as JSON has them."""
        return asdict(self)


@lru_cache(maxsize=8)  # as long to make as a cell to profile
def _names(
    pools: tuple[str, ...], levels: tuple[int, ...], centres: tuple[float, ...], n_signatures: int
) -> tuple[str, ...]:
    return tuple(
        f"Cells_{pool.capitalize()}_Signature_{index:04d}{region}"
        for pool in pools
        for region in region_names(levels, centres)
        for index in range(1, n_signatures + 1)
    )
