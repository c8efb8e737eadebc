"""Near-identical images: copies, mirrored, turned, resized or recompressed ones.

    image -> 16 x 16 means -> less the mean colour, to unit norm; the mean colour beside it

Two images are near-identical where one of the eight symmetries of the square brings these within
`_MOST` of each other. That is a correlation of 0.992 where the mean colours agree: copies of single
cells in three laboratories, mirrored, resized to 0.9 and stored as JPEG of quality 70, keep 0.9958
or more, and no two of different cells have more than 0.983.

Symmetries are not tried on all pairs. The mean of a thumbnail over its eight symmetries is the same
for all of them, and taking means brings no two thumbnails further apart, so that neighbours among
these means are all that can be near-identical.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from wbcprof.images.source import ImageSource, open_images
from wbcprof.images.tables import PAGE

__all__ = ["DuplicateWarning", "find_copies"]

_SIDE = 16
_MOST = 0.1265  # squared: 2 (1 - 0.992)
_LEVELS = 64.0  # of the mean colour that count as much as the norm of all the rest
_MAIN = 12  # directions that neighbours are looked for in
_BLOCK = 1_000  # pairs compared at once
_NAMED = 3  # pairs that the warning names


class DuplicateWarning(UserWarning):
    """Some images are near-identical."""


def find_copies(images: Any, *, n_threads: int | None = None) -> list[list[str]]:
    """Near-identical images: copied, mirrored, turned by 90 degrees, resized or recompressed.

    `wbcprof.evaluate` and the cross-validated calls of a report look for them by themselves, warn
    of them and keep them on one side of every split.

    Parameters
    ----------
    images
        As `wbcprof.images.open_images` takes them; each is read once.
    n_threads : int, optional
        For decoding.

    Returns
    -------
    list of list of str
        Ids of the images of each set of two or more, in the order of the images.

    Notes
    -----
    None of 2,878,800 pairs of different cells of one laboratory was found, and all of 200 that were
    mirrored, resized to 0.9 and recompressed with quality 70. A shift by more than 1 % of the side
    is another image. Beside reading the images it takes 0.4 ms each, where profiling takes 11.

    Examples
    --------
    >>> from wbcprof.datasets import make_leukocytes
    >>> from wbcprof.images import find_copies
    >>> cells = make_leukocytes(2, size=48, types=["lymphocyte", "neutrophil"])  # generated
    >>> find_copies(cells.images)
    []
    >>> find_copies([*cells.images, cells.images[1][:, ::-1]])
    [['image_000001', 'image_000004']]
    """
    sets: dict[int, list[str]] = {}
    for image_id, number in zip(*look_for_copies(open_images(images), n_threads), strict=True):
        sets.setdefault(number, []).append(image_id)
    return [alike for alike in sets.values() if len(alike) > 1]


def look_for_copies(source: ImageSource, n_threads: int | None = None) -> tuple[list[str], Any]:
    """Ids of the images of a source that can be read, and of each a number, the same for
    near-identical ones."""
    ids, thumbnails = [], []
    for cell in source.read(n_threads):
        ids.append(cell.image_id)
        thumbnails.append(thumbnail(cell.pixels))
    return ids, number_copies(thumbnails)


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """What `number_copies` compares of an image, uint8 (16, 16, 3)."""
    from PIL import Image

    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(small)


def number_copies(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """A number for each image, (n,) int: the same for near-identical ones.

    Where A is near-identical to B and B to C, so are A and C.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    # Exact copies first: thousands of them would be millions of pairs.
    first: dict[bytes, int] = {}
    exact = np.array([first.setdefault(t.tobytes(), len(first)) for t in thumbnails], dtype=int)
    flat = np.frombuffer(b"".join(first), np.uint8).astype(np.float32)
    looks = flat.reshape(-1, _SIDE, _SIDE, 3)
    colour = looks.mean(axis=(1, 2))
    looks = looks - colour[:, None, None]
    norm = np.sqrt((looks**2).sum(axis=(1, 2, 3), keepdims=True))
    looks /= np.maximum(norm, np.sqrt(looks[0].size))  # at least one level of contrast

    alike = sum(_symmetries(looks), np.zeros_like(looks)) / 8
    half = _SIDE // 2  # a quarter says it all; means of 2 x 2 are enough to look among
    quarter = alike[:, :half, :half].reshape(-1, half // 2, 2, half // 2, 2, 3).mean(axis=(2, 4))
    keys = np.hstack([4 * quarter.reshape(len(looks), -1), colour / _LEVELS])
    main = np.linalg.eigh(np.cov(keys, rowvar=False, ddof=0))[1][:, -_MAIN:]
    pairs = KDTree(keys @ main).query_pairs(_MOST, output_type="ndarray")

    numbers = np.arange(len(looks))
    for start in range(0, len(pairs), _BLOCK):
        one, other = pairs[start : start + _BLOCK].T
        look = numbers[one] != numbers[other]
        look &= ((keys[one] - keys[other]) ** 2).sum(axis=1) <= _MOST**2
        one, other = one[look], other[look]
        apart = np.full(len(one), np.inf)
        for image in _symmetries(looks[other]):
            apart = np.minimum(apart, ((looks[one] - image) ** 2).sum(axis=(1, 2, 3)))
        apart += (((colour[one] - colour[other]) / _LEVELS) ** 2).sum(axis=1)
        edges = numbers[one[apart <= _MOST**2]], numbers[other[apart <= _MOST**2]]
        graph = coo_array((np.ones(len(edges[0])), edges), shape=(len(looks), len(looks)))
        numbers = connected_components(graph, directed=False)[1][numbers]
    result: np.ndarray = numbers[exact]
    return result


def number_files(ids: Sequence[str]) -> np.ndarray | None:
    """A number for each image, (n,) int: the same for pages of one file, as their ids say; None
    where no two are."""
    files = [PAGE.sub("", image_id) for image_id in ids]
    numbers = np.unique(files, return_inverse=True)[1]
    return numbers if len(files) and numbers.max() + 1 < len(files) else None


def warn_of_copies(
    numbers: np.ndarray, ids: Sequence[str], labels: Iterable[Any], stacklevel: int = 2
) -> int:
    """How many images are near-identical to an earlier one; warns of them if any are."""
    first: dict[int, int] = {}
    labels = list(labels)
    copies, unlike = [], []
    for index, number in enumerate(numbers.tolist()):
        earlier = first.setdefault(number, index)
        if earlier < index:
            same = labels[earlier] == labels[index] or None in (labels[earlier], labels[index])
            copies.append(f"{ids[earlier]} and {ids[index]}")
            if not same:
                unlike.append(f"{copies[-1]} ({labels[earlier]}, {labels[index]})")
    if copies:
        text = (
            f"{len(copies)} of {len(ids)} images are near-identical to an earlier one and stay on "
            f"its side of every split: {_listed(copies)}"
        )
        if unlike:
            text += f"; {len(unlike)} of them have another type: {_listed(unlike)}"
        warnings.warn(text, DuplicateWarning, stacklevel=stacklevel + 1)
    return len(copies)


def _symmetries(images: np.ndarray) -> Iterator[np.ndarray]:
    """Square images (n, side, side, 3) under each of the eight symmetries."""
    for turned in (images, images.transpose(0, 2, 1, 3)):
        yield from (turned, turned[:, ::-1], turned[:, :, ::-1], turned[:, ::-1, ::-1])


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:_NAMED]) + ("; ..." if len(names) > _NAMED else "")
