"""Splits by whole groups: images of one patient or slide, and copies, never on both sides.

The classifier, the half-half protocol and the calls of a report split by these.
"""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

Split = tuple[np.ndarray, np.ndarray]

_BUNDLES = 100  # of images by themselves, of each type
_DRAWS = 100
_NEAR = 0.1  # of a type beside its half, which a draw of whole groups may leave


def keep_together(*numbers: np.ndarray) -> np.ndarray:
    """One number for each image, (n,) int: the same where any of `numbers`, each (n,), is."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(numbers[0])
    codes = [np.unique(column, return_inverse=True)[1] for column in numbers]
    starts = n + np.cumsum([0, *(code.max(initial=-1) + 1 for code in codes)])
    images = np.tile(np.arange(n), len(codes))
    shared = np.concatenate([c + start for c, start in zip(codes, starts[:-1], strict=True)])
    graph = coo_array((np.ones(len(images)), (images, shared)), shape=(starts[-1], starts[-1]))
    return np.unique(connected_components(graph, directed=False)[1][:n], return_inverse=True)[1]


def together_by(*numbers: np.ndarray | None) -> np.ndarray | None:
    """As `keep_together`, of those that are given; None if none is."""
    given = [column for column in numbers if column is not None]
    return keep_together(*given) if len(given) > 1 else given[0] if given else None


def groups_per_type(y: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """In how many groups each type is, in the order of ``np.unique(y)``; images without groups."""
    types, codes = np.unique(y, return_inverse=True)
    if groups is None:
        return np.bincount(codes)
    group = np.unique(groups, return_inverse=True)[1]
    pairs = np.unique(np.stack([codes, group], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=len(types))


def stratified_folds(
    y: np.ndarray, groups: np.ndarray | None, most: int, random_state: int
) -> list[Split]:
    """Train and test of `most` folds, each with about the same share of every type.

    Fewer folds where a type has fewer images, or is in fewer groups; none where there are no two
    that leave every type in training.
    """
    n_folds = min(most, int(groups_per_type(y, groups).min()))
    codes = np.unique(y, return_inverse=True)[1]
    if groups is None:
        if n_folds < 2:
            return []
        plain = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
        return list(plain.split(codes, codes))
    group = np.unique(groups, return_inverse=True)[1]
    # Thousands of groups take seconds: images by themselves go in bundles of their type.
    alone = np.flatnonzero(np.bincount(group)[group] == 1)
    rng = np.random.default_rng(random_state)
    for code in range(codes.max() + 1):
        of_type = rng.permutation(alone[codes[alone] == code])
        group[of_type] = group[of_type[:_BUNDLES]][np.arange(len(of_type)) % _BUNDLES]
    for n in range(n_folds, 1, -1):
        folds = StratifiedGroupKFold(n, shuffle=True, random_state=random_state)
        splits = list(folds.split(codes, codes, group))
        if all(len(test) and np.bincount(codes[train]).all() and codes[train].max() == codes.max()
               for train, test in splits):  # fmt: skip
            return splits
    return []


def draw_half(y: np.ndarray, groups: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Which images are for training, (n,) bool: half of each type, drawn at random.

    Groups of several images are placed first, one after the other in random order, each where it
    brings the types nearer to half; images by themselves then fill up each type, of n to n // 2.
    The first draw that leaves every type within a tenth of its half is taken, else the nearest of
    100.

    Raises
    ------
    ValueError
        No draw has every type on both sides.
    """
    types, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    group = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
    size = np.bincount(group)
    large = np.flatnonzero(size > 1)
    content = np.zeros((len(large), len(types)))  # images of each type in each large group
    inside = np.flatnonzero(size[group] > 1)
    np.add.at(content, (np.searchsorted(large, group[inside]), codes[inside]), 1)
    single = counts - content.sum(axis=0)

    best, least, chosen = None, np.inf, np.zeros(len(large), dtype=bool)
    for _ in range(_DRAWS if len(large) else 1):
        taken = _place(content / counts, rng)
        n_train = taken @ content
        n_train += np.clip(counts // 2 - n_train, 0, single)
        off = np.abs(n_train - counts // 2) / counts
        whole = ((n_train > 0) & (n_train < counts)).all()
        if whole and off.max() < least:
            best, least, chosen = n_train, off.max(), taken
        if least <= _NEAR:
            break
    if best is None:
        raise ValueError(
            f"no split by whole groups has each of {', '.join(map(str, types))} in both halves; "
            "give types that are in more groups, or leave out those that are in few"
        )
    is_train = np.isin(group, large[chosen])
    for code in range(len(types)):
        alone = np.flatnonzero((codes == code) & (size[group] == 1))
        n_alone = int(best[code] - is_train[codes == code].sum())
        is_train[rng.permutation(alone)[:n_alone]] = True
    return is_train


def _place(shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which groups are for training, (n_groups,) bool; each goes where there is less of the types
    that it has these shares of, (n_groups, n_types)."""
    taken = np.zeros(len(shares), dtype=bool)
    more = np.zeros(shares.shape[1])  # of each type in training than in testing
    for index in rng.permutation(len(shares)):
        tilt = more @ shares[index]
        taken[index] = tilt < 0 if tilt else rng.random() < 0.5
        more += shares[index] if taken[index] else -shares[index]
    return taken
