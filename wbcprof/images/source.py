"""Images in, cells out: whatever holds images becomes a stream of RGB uint8 cells.

Every source passes through `open_images`. What one image may look like, and what becomes of it:

=========================  ======================================================================
grey, 1-bit, palette,      converted to 8-bit RGB; counted in one `ImageWarning` per pass
CMYK, alpha (on white),
float in [0, 1],
several frames (the first)
integers of 16 bits and    converted to 8-bit RGB. White is what the file says (sBIT of PNG,
more, floats beyond 1      MaxSampleValue of TIFF, SignificantBits of OME, BitDepth of
                           Micro-Manager, the display range of ImageJ), if that is 2^n - 1 and
                           no value is above it; else what 8, 10, 12, 14 or 16 bits hold, the
                           fewest that hold the largest value of all images of the set; of those
                           that an iterator gave so far; what a model reads has the bits of those
                           that it was learnt from at least
alpha of 0 everywhere      ignored, and counted with the conversions
8 bits with a colour       converted to sRGB, as a viewer does; a profile that cannot be read, and
profile or gamma (PNG)     those of deeper images and of whole slides, are ignored
turned by EXIF, XMP or     turned as a viewer shows it, whatever its depth and kind
TIFF orientation
TIFF of channels, depths   channels are put together: three as red, green and blue, in the order
and times (OME, ImageJ,    that their names or colours say, or that they have; of depths the middle
MetaMorph, LSM)            is taken, of times the first, unless `planes` are asked for. Series of
                           one size are images each
other TIFF of several      each page is an image, ``name.tif#0000`` and so on, if the file is given
pages of one size, kind    by itself, by a glob or in a folder; elsewhere the first, and in TIFFs of
                           unlike pages (thumbnails, masks) the largest
unreadable, truncated,     skipped; kept in `ImageSource.skipped` with the reason and counted in
too small, of one colour,  one `ImageWarning` per pass; `ValueError` if no image is left
other channels, bad
values, gone since it was
listed
=========================  ======================================================================
"""

from __future__ import annotations

import glob
import io
import math
import os
import sys
import threading
import warnings
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache, partial
from hashlib import blake2b
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Choice, Flag, Integer, known_labels, listed, shown, told, unmasked
from wbcprof.files import SHEETS, from_csv_text, naming, sampled_digest
from wbcprof.images.decode import (
    count_pages,
    is_of_the_system,
    is_shallow_file,
    read_array,
    read_file,
    read_picture,
    settle,
    stated_bytes,
    stated_pixel_size,
    stated_shape,
)
from wbcprof.images.depth import Deep, Depth, Depths, Outcome, Unusable, check_bytes, check_pixels
from wbcprof.images.folders import Listing, describe, is_users, list_folder
from wbcprof.images.stored import StoredArray
from wbcprof.images.tables import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    column_name,
    image_name,
    read_table,
    stated,
    tell_of_repeated,
    the_column,
)
from wbcprof.threads import go_on, resolve_threads, work_until

__all__ = ["Cell", "ImageSource", "ImageWarning", "SkippedImage", "open_images"]

SUFFIXES = (
    ".avif", ".bmp", ".btf", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg",
    ".jpf", ".jpg", ".jpx", ".lsm", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".stk", ".tf8", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
_OF_PAGES = (".btf", ".lsm", ".stk", ".tf8", ".tif", ".tiff")

ACCEPTED = (
    "a folder, an image file, an array (n, H, W, 3) or (H, W, 3), a glob, a CSV file, a pandas "
    "DataFrame of paths, or an ordered collection or iterator of image files, arrays, Pillow "
    "images or bytes, or a list or dataset of (image, label) pairs"
)
NOT_ONE_PER_IMAGE = (str, bytes, bytearray, Mapping, set, frozenset)

_FEW_FILES = 5  # whose pixel size is looked at
_BLOCK_PAGES, _MOST_BLOCKS = 16, 64  # pages of a TIFF that are read in one go, unless it has many
_BLOCK_BYTES = 64 << 20  # of a stored array or a TIFF that are read in one go
_AHEAD_BYTES = 256 << 20  # of RGB pixels, as files state them, that are decoded ahead
_CPU_DEVICES = (1, 3, 11, 13)  # of DLPack: CPU; CUDA host, ROCm host and CUDA managed memory


Change = Callable[[np.ndarray], tuple[np.ndarray, str, np.ndarray | None]]
"""What `ImageSource.read` does to pixels; what they lacked, such as "no background", or ""; and
what was measured of them."""

Loaded = tuple[np.ndarray, str, str, np.ndarray | None] | Unusable
"""Pixels, what they were converted from, what they lacked, what was measured."""

_FLAT = 4  # grey levels between the darkest and the lightest hundredth: noise of JPEG has 2
_FEW_PIXELS = 16  # along a side, which tell of most images that they are not flat


class ImageWarning(UserWarning):
    """Some images of a pass were skipped or converted."""


class NoUsableImage(ValueError):
    """No image of a pass could be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One image.

    Attributes
    ----------
    pixels : uint8 array (H, W, 3)
        RGB, C-contiguous. May share memory with the user's array and may be read-only.
    image_id : str
        POSIX path relative to the folder, the path as given, ``name.tif#0000``, or
        ``image_000000``.
    label : str or None
        Cell type, if known.
    place : int
        Among the images offered, those that are skipped included.
    measures : float32 array or None
        What was measured as the image was read, if anything.
    """

    pixels: np.ndarray
    image_id: str
    label: str | None
    place: int
    measures: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that was left out, and why."""

    image_id: str
    reason: str


class ImageSource(Shown):
    """Stream of `Cell` records; made by `open_images`.

    Every pass, by ``iter()`` or `read`, is independent and decodes the images anew, in the same
    order, so several threads may iterate at once. Only a source built on an iterator can be read
    just once.

    Attributes
    ----------
    n_hint : int or None
        Number of images offered (before any is skipped), if known.
    labels : list of (str or None), or None
        Label of every image offered, known without decoding; None if there are no labels.
    skipped : list of SkippedImage
        Images left out in the latest completed pass.
    converted : Counter of str
        What its images were converted from to 8-bit RGB, and what they lacked ("no background",
        "no leukocyte"), and how many.
    listing : wbcprof.images.folders.Listing or None
        Of a folder: what else lies in it.
    """

    def __init__(
        self,
        images: Listed[Given] | Stream,
        labels: list[str | None] | None,
        min_size: int,
        on_error: Literal["skip", "raise"],
        depth: Depth | None = None,
        is_quiet: bool = False,
    ) -> None:
        self.images = images
        self._is_quiet = is_quiet
        self._depth = depth or depth_of(images)
        self.n_hint = images.n
        self.labels = labels
        self.min_size = min_size
        self.on_error = on_error
        self.listing: Listing | None = None
        self.skipped: list[SkippedImage] = []
        self.converted: Counter[str] = Counter()
        if self.n_hint == 0:
            raise ValueError(f"No images given: expected {ACCEPTED}, got an empty collection.")
        if labels is not None and self.n_hint is not None:
            _check_n_labels(labels, self.n_hint)

    @property
    def n(self) -> int:
        """Number of images offered by a source that knows it, as parts always do."""
        if self.n_hint is None:
            raise TypeError("how many images an iterator has is known when it was read")
        return self.n_hint

    def __iter__(self) -> Iterator[Cell]:
        return self.read(1)

    def read(
        self,
        n_threads: int | None = None,
        change: Change | None = None,
        learnt: Depths | None = None,
    ) -> Iterator[Cell]:
        """One pass, in which background threads decode a few images ahead.

        Parameters
        ----------
        n_threads : int, optional
            See `wbcprof.threads.resolve_threads`. One means none in the background, as ``iter()``
            has it. Arrays in memory need no decoding and start no threads.
        change : callable, optional
            What the threads also do to the RGB pixels of each image: they become the first of what
            it returns; the second says what it lacked, such as "no background", or is empty; the
            third is kept with the cell as its measures.
        learnt : mapping, optional
            See `wbcprof.images.depth.Depth.bits`.
        """
        skipped: list[SkippedImage] = []
        converted: Counter[str] = Counter()
        n = 0
        n_threads = 1 if self.n_hint == 1 else resolve_threads(n_threads)
        load = partial(self._load, change=change, learnt=learnt)
        with closing(in_order(self._blocks(), load, n_threads, change is not None)) as outcomes:
            for index, (image_id, loaded) in enumerate(outcomes):
                n += 1
                outcome = loaded
                if isinstance(outcome, Deep):
                    outcome = self._change(outcome, change, learnt)
                if isinstance(outcome, Unusable):
                    if self.on_error == "raise":
                        raise ValueError(f"Image '{image_id}': {outcome}") from outcome
                    skipped.append(SkippedImage(image_id, str(outcome)))
                    continue
                pixels, kind, lacked, measures = outcome
                converted.update(filter(None, (kind, lacked)))
                label = None if self.labels is None else self.labels[index]
                yield Cell(pixels, image_id, label, index, measures)

        self.end_pass(n, skipped, converted)

    def sample(self, most: int, n_threads: int | None = None) -> Iterator[np.ndarray]:
        """Pixels of at most `most` images, spread over all; the others are not decoded, and those
        that cannot be used are left to `read` to tell of."""
        every = -(-self.n // most)
        chosen: list[Given] = []
        n = 0
        for block in self._blocks():
            chosen += [block.part(i, i + 1) for i in range(-n % every, len(block), every)]
            n += len(block)
        load = partial(self._load, change=None, learnt=None)
        with closing(in_order(iter(chosen), load, resolve_threads(n_threads), False)) as outcomes:
            for _, outcome in outcomes:
                if not isinstance(outcome, Unusable | Deep):  # only iterators leave them deep
                    yield outcome[0]

    def kept(self, n_threads: int | None = None) -> ImageSource:
        """The same images as often as one likes: those of an iterator, decoded, held in memory."""
        if self.n_hint is not None:
            return self
        cells = list(self.read(n_threads))
        labels = None if self.labels is None else [cell.label for cell in cells]
        return self._with(Listed([Array(c.pixels, c.image_id) for c in cells]), labels)

    def stated_pixel_size(self) -> float | None:
        """Micrometres for each pixel, where the first files all state the same, as TIFF files of
        microscopes do."""
        files = (block for block in self.images.blocks() if isinstance(block, File))
        stated = [stated_pixel_size(block.path) for block in islice(files, _FEW_FILES)]
        first = stated[0] if stated else None
        agree = first is not None and all(
            size is not None and math.isclose(size, first, rel_tol=0.02) for size in stated
        )
        return first if agree else None

    def end_pass(self, n: int, skipped: list[SkippedImage], converted: Counter[str]) -> None:
        """Note what became of the `n` images offered in a pass, and warn of it; for passes that go
        on elsewhere, such as on a cluster.

        Raises
        ------
        NoUsableImage
            No image was usable.
        ValueError
            There are none, or not one label for each.
        """
        self.skipped, self.converted = skipped, converted
        if self.labels is not None:
            _check_n_labels(self.labels, n)
        tell_of_pass(n, skipped, converted, self._is_quiet)

    @property
    def depths(self) -> dict[str, int]:
        """Bits of its images, by kind, where they were told by the largest values so far."""
        return dict(self._depth.found)

    def quietly(self) -> ImageSource:
        """The same images as a source, and parts of it, whose passes are noted and not warned of,
        for whoever tells of all at once. Unlike a filter of warnings, no other thread is silenced.
        """
        images = self.images
        return ImageSource(images, self.labels, self.min_size, self.on_error, self._depth, True)

    def missing_files(self) -> list[str]:
        """Files of the images in `skipped` that this process cannot see."""
        skipped = {image.image_id for image in self.skipped}
        return [
            str(block.path)
            for block in self.images.blocks()
            if isinstance(block, File)
            and skipped.intersection(block.ids)
            and not block.path.is_file()
        ]

    def _told(self) -> dict[str, Any]:
        known = [label for label in self.labels or () if label is not None]
        return {
            "images": "as many as come" if self.n_hint is None else self.n_hint,
            "types": dict(Counter(known)),
            "skipped": len(self.skipped) or None,
        }

    def describe(self) -> list[str]:
        """What was found, a line for each thing: types and how many images of each, what was left
        out, what looks odd.

        Examples
        --------
        >>> import numpy as np
        >>> from wbcprof.images import open_images
        >>> open_images(np.zeros((3, 8, 8, 3), np.uint8), ["a", "a", "b"]).describe()[0]
        'found 3 images of 2 types: a 2, b 1'
        """
        return describe(self.n_hint, self.labels, self.listing)

    def choose(
        self, only: Sequence[str] = (), exclude: Sequence[str] = (), min_per_type: int = 1
    ) -> ImageSource:
        """Some of the images, none decoded.

        Parameters
        ----------
        only, exclude : sequence of str
            Patterns of ids, such as ``"*/2024-*"``, in which ``*`` stands for slashes too: of those
            to keep, all by default, and of those to leave out.
        min_per_type : int
            Types with fewer images are left out; images without a type stay.

        Raises
        ------
        ValueError
            No image is left.
        TypeError
            The images come from an iterator.

        Examples
        --------
        >>> import numpy as np
        >>> from wbcprof.images import open_images
        >>> source = open_images(np.zeros((3, 8, 8, 3), np.uint8), ["a", "a", "b"])
        >>> source.choose(min_per_type=2).ids()
        ['image_000000', 'image_000001']
        """
        min_per_type = Integer().check("min_per_type", min_per_type)
        only, exclude = listed(only), listed(exclude)
        if not (only or exclude or min_per_type > 1):
            return self
        if self.n_hint is None:
            raise TypeError(
                "images from an iterator cannot be chosen from; give a list or a folder"
            )
        ids, labels = self.ids(), self.labels
        kept = [
            i
            for i, image_id in enumerate(ids)
            if (not only or any(fnmatchcase(image_id, pattern) for pattern in only))
            and not any(fnmatchcase(image_id, pattern) for pattern in exclude)
        ]
        if labels is not None:
            counts = Counter(labels[i] for i in kept)
            kept = [i for i in kept if labels[i] is None or counts[labels[i]] >= min_per_type]
        if not kept:
            raise ValueError(
                f"none of the {len(ids)} images is left: only={list(only)}, "
                f"exclude={list(exclude)}, min_per_type={min_per_type}; ids are such as {ids[0]!r}"
            )
        return self._at(kept)

    def labelled(self) -> ImageSource:
        """The images that have a label; ValueError where none has."""
        kept = [i for i, label in enumerate(self.labels or ()) if label is not None]
        if not kept:
            raise ValueError("none of the images has a label")
        return self if len(kept) == self.n else self._at(kept)

    def _at(self, kept: Sequence[int]) -> ImageSource:
        runs: list[list[int]] = []
        for i in kept:
            if runs and runs[-1][1] == i:
                runs[-1][1] = i + 1
            else:
                runs.append([i, i + 1])
        chosen = self.together([self.part(*run) for run in runs])
        chosen.listing = self.listing
        return chosen

    def part(self, start: int, stop: int) -> ImageSource:
        """Images `start` to `stop` (excluded) as a source with the same ids and labels; the others
        are not read.

        Raises
        ------
        ValueError
            The part is empty or reaches past the last image.
        TypeError
            The images come from an iterator.
        """
        if not 0 <= start < stop or (self.n_hint is not None and stop > self.n_hint):
            n = "an unknown number of" if self.n_hint is None else self.n_hint
            raise ValueError(f"a part must lie within the {n} images, got {start} to {stop}")
        labels = None if self.labels is None else self.labels[start:stop]
        return self._with(self.images.part(start, stop), labels)

    def parts(self, size: int) -> Iterator[ImageSource]:
        """Consecutive parts of `size` images each, the last of what is left, none decoded; of an
        iterator, no more than one part is taken at a time."""
        if self.n_hint is not None:
            for start in range(0, self.n_hint, size):
                yield self.part(start, min(start + size, self.n_hint))
            return
        blocks, n = self._blocks(), 0
        while some := list(islice(blocks, size)):
            yield self._with(Listed(some), self.labels and self.labels[n : n + len(some)])
            n += len(some)
        if self.labels is not None:
            _check_n_labels(self.labels, n)

    @staticmethod
    def together(parts: Sequence[ImageSource]) -> ImageSource:
        """Some parts of a source, in any order, as one source."""
        blocks = [block for part in parts for block in part.images.blocks()]
        labels = [label for part in parts for label in part.labels or ()]
        return parts[0]._with(Listed(blocks), labels or None)

    def self_contained(self) -> ImageSource:
        """The same images for a process elsewhere: by the full paths of files, and with the content
        of arrays."""
        blocks: list[Given] = []
        for block in self.images.blocks():
            if isinstance(block, File):
                blocks.append(replace(block, path=Path(os.path.abspath(block.path))))
            elif isinstance(block, Encoded):
                blocks.append(block)
            else:
                try:
                    blocks += map(Array, block.arrays(), block.ids)
                except Unusable:  # said by who reads it
                    blocks.append(block)
        return self._with(Listed(blocks), self.labels)

    def ids(self) -> list[str]:
        """Ids of the images offered, none decoded."""
        return [image_id for block in self.images.blocks() for image_id in block.ids]

    def shapes(self) -> list[tuple[int, int] | None]:
        """Rows and columns of the images offered, none decoded; None where a file does not say."""
        return [shape for block in self.images.blocks() for shape in block.shapes()]

    def digests(self) -> list[str | None]:
        """Hexadecimal digests of the content of the images offered, of files by their size and
        samples; None of those that cannot be opened."""
        digests: list[str | None] = []
        for block in self.images.blocks():
            if isinstance(block, File):
                digests += [_digest_of(block.path)] * len(block)
                continue
            try:
                arrays = block.arrays()
            except Unusable:
                digests += [None] * len(block)
                continue
            for pixels in arrays:
                digest = blake2b(f"{pixels.dtype} {pixels.shape}".encode(), digest_size=8)
                digest.update(np.ascontiguousarray(pixels).data)
                digests.append(digest.hexdigest())
        return digests

    def _with(self, images: Listed[Given] | Stream, labels: list[str | None] | None) -> ImageSource:
        return ImageSource(
            images, labels, self.min_size, self.on_error, self._depth, self._is_quiet
        )

    def _blocks(self) -> Iterator[Given]:
        n = 0
        blocks = self.images.blocks()
        for block in blocks:
            n += len(block)
            if self.labels is not None and n > len(self.labels):
                _check_n_labels(self.labels, n + sum(map(len, blocks)))
            yield block

    def _load(
        self,
        block: Given,
        change: Change | None,
        learnt: Depths | None,
    ) -> list[Loaded | Deep]:
        return [
            outcome
            if isinstance(outcome, Deep) and self._depth.is_by_order
            else self._change(outcome, change, learnt)
            for outcome in block.load()
        ]

    def _change(
        self, outcome: Outcome | Deep, change: Change | None, learnt: Depths | None
    ) -> Loaded:
        go_on()
        settled = settle(outcome, self._depth, learnt)
        if isinstance(settled, Unusable):
            return settled
        pixels, kind = settled
        height, width = pixels.shape[:2]
        if min(height, width) < self.min_size:
            patch = f"{self.min_size}x{self.min_size}"
            return Unusable(f"{height}x{width} px, smaller than the {patch} px patch")
        if (levels := _contrast(pixels)) < _FLAT:
            return Unusable(
                f"of one colour: {levels:.0f} of 255 grey levels between its darkest and its "
                "lightest hundredth"
            )
        if change is None:
            return pixels, kind, "", None
        go_on()
        pixels, lacked, measures = change(pixels)
        return pixels, kind, lacked, measures


def _contrast(pixels: np.ndarray) -> float:
    """Grey levels between the darkest and the lightest hundredth of an image, in the channel where
    these are most; of most images, less, by as few of its pixels as show that they are enough."""
    rows, columns = (max(1, side // _FEW_PIXELS) for side in pixels.shape[:2])
    few = np.sort(pixels[::rows, ::columns, 1], axis=None)
    if not len(few):
        return 0.0
    most = int(few[-1 - len(few) // 50]) - int(few[len(few) // 50])
    if most >= 2 * _FLAT:
        return most
    low, high = np.percentile(pixels.reshape(-1, 3), (1, 99), axis=0)
    return float((high - low).max())


def open_images(
    images: Any,
    labels: Iterable[Any] | None = None,
    *,
    min_size: int = 1,
    on_error: Literal["skip", "raise"] = "skip",
    level: int | None = None,
    planes: bool = False,
) -> ImageSource:
    """Turn whatever holds images into a stream of RGB uint8 cells.

    Parameters
    ----------
    images : path, array, iterable or ImageSource
        - Folder: all images in it, at any depth, sorted by their POSIX relative path, which is the
          id. The first sub-folder on that path is the label; images directly in the folder have
          none. Hidden files, folders of systems, such as ``@eaDir``, and folders of masks, such as
          ``masks``, are left out, and so are other suffixes than those in `SUFFIXES`. Links to type
          folders are followed, links to folders further down are not.
        - Glob, such as ``cells/**/*.jpg``: all files that it matches, sorted; the id is the path.
        - CSV file or .xlsx workbook, its first line naming a column ``path`` (or ``image``,
          ``file``, ``filename`` ...) and, for labels, a column ``label`` (or ``type``, ``class``,
          ``cell type`` ...); see `wbcprof.images.tables`. Paths are relative to the folder of
          the file; the id is the path as written there, backslashes turned where there is no such
          file.
        - Image file, or collection or iterator of image files: the id is the path as given.
        - Array (n, H, W, C) or (H, W, C), C in {1, 3, 4}, or (H, W) for one grey image; or a
          collection or iterator of single images of any sizes. uint8; integers of 16 bits and more
          are scaled to 8 bits, floats lie in [0, 1] or are those of 8 to 16 bits. The id is
          ``image_000000`` and so on.
          Arrays of other libraries in CPU memory come through DLPack or the buffer protocol,
          without a copy where rows are contiguous. Anything with numpy's ``shape``, ``dtype`` and
          slices or iteration over the first axis works and is read image by image, or in its
          ``chunks`` if it has them.
        - Image of Pillow, bytes of an image file, or a file opened for bytes, or a collection or
          iterator of these; the id is as that of arrays. Tensors of torch may have channels first.
        - List of (image, label) pairs, or a dataset of images or such pairs: anything with a length
          and items by their number, as torch has it. Items are read once for their labels, unless
          it has ``targets`` as those of torchvision have.
        - pandas DataFrame, and CSV file as above, with columns ``FileName_X`` and ``PathName_X`` as
          CellProfiler writes them.
        - ``.npy`` file or ``.zarr`` folder that holds such an array; it is not read as a whole.
        - ImageSource: returned as is, or as a new source over the same images if `labels` or
          stricter settings are given.
    labels : iterable of n labels, optional
        In the order of the images; replace those of a folder. `wbcprof.checks.known_label` says
        which mean unknown.
    min_size : int
        Images with fewer rows or columns are skipped.
    on_error : {"skip", "raise"}
        Skip unusable images and warn at the end of the pass, or raise `ValueError` at the first.
    level : int, optional
        Of a folder: which sub-folder on the path of an image is its label, 2 where ``train/`` and
        ``test/`` or patients lie above the types. The first by default.
    planes : bool
        Of TIFFs in a folder, by a glob or given by themselves: whether every depth and time of a
        stack is an image of its own, rather than the middle and the first alone. Those of one file
        stay on one side of every split.

    Returns
    -------
    ImageSource

    Raises
    ------
    TypeError
        `images`, one of its items, or `labels` is of another kind.
    FileNotFoundError
        A path does not exist, or a glob matches nothing.
    ImportError
        A ``.zarr`` folder needs the package zarr.
    ValueError
        There are no images, `labels` has another length, or a CSV or array file cannot be read.
        While iterating: no image was usable.

    Warns
    -----
    ImageWarning
        Of a folder: files that may be images are not read, masks were left out, or its first
        sub-folders look as if they were no types.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from wbcprof.datasets import make_leukocytes, write_folder
    >>> from wbcprof.images import open_images
    >>> cells = make_leukocytes(1, size=48, types=["lymphocyte", "neutrophil"])
    >>> with TemporaryDirectory() as home:
    ...     for cell in open_images(write_folder(cells, Path(home, "cells"))):
    ...         print(cell.image_id, cell.label, cell.pixels.shape)
    lymphocyte/generated_lymphocyte_0000.png lymphocyte (48, 48, 3)
    neutrophil/generated_neutrophil_0000.png neutrophil (48, 48, 3)

    Arrays come with labels of their own, or none:

    >>> [(cell.image_id, cell.label) for cell in open_images(cells.images, ["lymphocyte", None])]
    [('image_000000', 'lymphocyte'), ('image_000001', None)]
    """
    min_size = Integer().check("min_size", min_size)
    Choice(("skip", "raise")).check("on_error", on_error)
    if Flag().check("planes", planes) and not _may_hold_stacks(images):
        raise ValueError(
            "planes are taken apart of TIFFs in a folder, by a glob, or given by themselves; got "
            f"{shown(images)}"
        )
    names = None if labels is None else known_labels(labels)

    if isinstance(images, ImageSource):
        min_size = max(min_size, images.min_size)
        on_error = "raise" if "raise" in (on_error, images.on_error) else "skip"
        if names is None and (min_size, on_error) == (images.min_size, images.on_error):
            return images
        names = images.labels if names is None else names
        return ImageSource(images.images, names, min_size, on_error, images._depth)

    if isinstance(images, str | os.PathLike):
        listing = None
        if os.path.isdir(images) and Path(images).suffix.lower() != ".zarr":
            listing = _listing(Path(images), SUFFIXES, level)
        if listing is None:
            found, own = _from_path(images, planes)
        else:
            found, own = from_listing(listing, planes)
        source = ImageSource(found, own if names is None else names, min_size, on_error)
        source.listing = listing
        return source
    if (single := _encoded(images, 0)) is not None:
        return ImageSource(Listed([single]), names, min_size, on_error)
    if hasattr(images, "columns") and hasattr(images, "itertuples"):
        found, own = _from_frame(images)
        return ImageSource(found, own if names is None else names, min_size, on_error)
    array: Any = None if isinstance(images, NOT_ONE_PER_IMAGE) else _as_array(images)
    if hasattr(array, "shape") and hasattr(array, "dtype") and len(array.shape) != 1:
        return ImageSource(_from_array(array), names, min_size, on_error)
    if (
        not isinstance(images, Iterable)
        and hasattr(images, "__getitem__")
        and isinstance(images, Sized)
    ):
        images = _Items(images)
        own = images.labels() if names is None else names
        return ImageSource(Stream(images), own, min_size, on_error)
    if not isinstance(images, Iterable) or isinstance(images, NOT_ONE_PER_IMAGE):
        raise TypeError(f"images must be {ACCEPTED}; got {type(images).__name__}.")
    if isinstance(images, list | tuple) and images and _is_pair(images[0]):
        for index, item in enumerate(images):
            if not _is_pair(item):
                raise TypeError(
                    f"item 0 is an (image, label) pair, but item {index} is a "
                    f"{type(item).__name__}; give pairs throughout, or images and labels apart"
                )
        names = known_labels([_plain(item[1]) for item in images]) if names is None else names
        images = [item[0] for item in images]
    if isinstance(images, list | tuple) or hasattr(images, "dtype"):
        units = [_unit(thing, index) for index, thing in enumerate(images)]
        return ImageSource(Listed(units), names, min_size, on_error)
    return ImageSource(Stream(images), names, min_size, on_error)


def _may_hold_stacks(images: Any) -> bool:
    if not isinstance(images, str | os.PathLike):
        return False
    return Path(images).suffix.lower() not in (*SHEETS, ".npy", ".zarr")


@dataclass(frozen=True, slots=True)
class File:
    """The image in a file, or pages of a TIFF, of so many bytes each, of which so many are read in
    one go."""

    path: Path
    name: str
    pages: range | None = None
    page_bytes: int = 0
    block_pages: int = 1
    planes: bool = False

    def __len__(self) -> int:
        return 1 if self.pages is None else len(self.pages)

    @property
    def ids(self) -> list[str]:
        if self.pages is None:
            return [self.name]
        return [f"{self.name}#{page:04d}" for page in self.pages]

    @property
    def in_memory(self) -> bool:
        return False

    @property
    def n_bytes(self) -> int:
        return stated_bytes(self.path) if self.pages is None else len(self) * self.page_bytes

    def part(self, start: int, stop: int) -> File:
        return self if self.pages is None else replace(self, pages=self.pages[start:stop])

    def blocks(self) -> Iterator[File]:
        for start in range(0, len(self), self.block_pages):
            yield self.part(start, start + self.block_pages)

    def shapes(self) -> list[tuple[int, int] | None]:
        return [stated_shape(self.path)] * len(self)  # pages are of one size

    def load(self) -> list[Outcome | Deep]:
        pages = (None,) if self.pages is None else self.pages
        return read_file(self.path, pages, self.planes)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One image as the bytes of a file, or as Pillow has it."""

    content: Any
    name: str

    def __len__(self) -> int:
        return 1

    @property
    def ids(self) -> list[str]:
        return [self.name]

    @property
    def in_memory(self) -> bool:
        return False  # it is yet to be decoded

    @property
    def n_bytes(self) -> int:
        if isinstance(self.content, bytes):
            return stated_bytes(self.content)
        width, height = self.content.size
        return int(4 * width * height)

    def part(self, start: int, stop: int) -> Encoded:
        return self

    def blocks(self) -> Iterator[Encoded]:
        yield self

    def arrays(self) -> Sequence[np.ndarray]:
        """Its bytes, for digests, and of Pillow's what else its colours depend on."""
        content = self.content
        if not isinstance(content, bytes):
            palette = content.getpalette() if content.mode == "P" else None
            kind = f"{content.mode} {content.size} {palette} {content.info.get('transparency')}"
            content = kind.encode() + content.tobytes()
        return [np.frombuffer(content, np.uint8)]

    def shapes(self) -> list[tuple[int, int] | None]:
        return [None if isinstance(self.content, bytes) else self.content.size[::-1]]

    def load(self) -> list[Outcome | Deep]:
        if isinstance(self.content, bytes):
            return read_file(self.content)
        return [read_picture(self.content)]


@dataclass(frozen=True, slots=True)
class Array:
    """One image as an array."""

    array: Any
    name: str

    def __len__(self) -> int:
        return 1

    @property
    def ids(self) -> list[str]:
        return [self.name]

    @property
    def in_memory(self) -> bool:
        return isinstance(self.array, np.ndarray)

    @property
    def n_bytes(self) -> int:
        return _bytes_of(self.array.shape, self.array.dtype)

    def part(self, start: int, stop: int) -> Array:
        return self

    def blocks(self) -> Iterator[Array]:
        yield self

    def arrays(self) -> Sequence[np.ndarray]:
        if not self.in_memory and hasattr(self.array, "shape"):  # some have `__array__` alone
            _check_size(self.array.shape, getattr(self.array, "dtype", None))
        return [np.asarray(self.array)]

    def shapes(self) -> list[tuple[int, int] | None]:
        return [self.array.shape[:2]]

    def load(self) -> list[Outcome | Deep]:
        return _load_arrays(self)


@dataclass(frozen=True, slots=True)
class Rows:
    """Images `start` to `stop` of an array (n, H, W, C)."""

    array: Any
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def ids(self) -> list[str]:
        return [_array_id(index) for index in range(self.start, self.stop)]

    @property
    def in_memory(self) -> bool:
        return isinstance(self.array, np.ndarray)

    @property
    def n_bytes(self) -> int:
        return len(self) * _bytes_of(self.array.shape[1:], self.array.dtype)

    def part(self, start: int, stop: int) -> Rows:
        return Rows(self.array, self.start + start, self.start + stop)

    def blocks(self) -> Iterator[Rows]:
        """One for each chunk of the array as it is stored, cut where that is large."""
        chunk = (getattr(self.array, "chunks", None) or (1,))[0]
        rows = chunk[0] if isinstance(chunk, tuple) else chunk  # dask has the sizes of all
        row_bytes = math.prod(self.array.shape[1:]) * getattr(self.array.dtype, "itemsize", 1)
        rows = max(1, min(rows, _BLOCK_BYTES // max(1, row_bytes)))
        start = self.start
        while start < self.stop:
            stop = min(self.stop, (start // rows + 1) * rows)
            yield Rows(self.array, start, stop)
            start = stop

    def arrays(self) -> np.ndarray:
        if not self.in_memory:
            _check_size(self.array.shape[1:], self.array.dtype)
        return np.asarray(self.array[self.start : self.stop])

    def shapes(self) -> list[tuple[int, int] | None]:
        return [self.array.shape[1:3]] * len(self)

    def load(self) -> list[Outcome | Deep]:
        return _load_arrays(self)


def _load_arrays(block: Array | Rows) -> list[Outcome | Deep]:
    try:
        arrays = block.arrays()
    except MemoryError:
        raise
    except Unusable as error:
        return [error] * len(block)
    except Exception as error:  # of whichever library stores the array
        if is_of_the_system(error):
            raise
        return [Unusable(f"cannot be read: {told(error)}")] * len(block)
    if len(arrays) != len(block):
        return [Unusable(f"cannot be read: {len(arrays)} images for {len(block)}")] * len(block)
    return [read_array(array) for array in arrays]


def _check_size(shape: Sequence[int], dtype: Any) -> None:
    """Refuse an image that is not in memory, and would take too much of it."""
    check_pixels(math.prod(shape[:2]))
    check_bytes(_bytes_of(shape, dtype))


Given = File | Encoded | Array | Rows


class Block(Protocol):
    """One image or several that are read in one go."""

    def __len__(self) -> int: ...
    @property
    def ids(self) -> list[str]: ...
    @property
    def in_memory(self) -> bool: ...
    @property
    def n_bytes(self) -> int:
        """Of all its images decoded, as they are stated, 0 where they are not."""

    def part(self, start: int, stop: int) -> Self: ...
    def blocks(self) -> Iterator[Self]: ...


B = TypeVar("B", bound=Block)
T = TypeVar("T")


class Listed(Generic[B]):
    """Images known beforehand, in units of one or several."""

    def __init__(self, units: Sequence[B]) -> None:
        self.units = units
        self._ends = list(accumulate(map(len, units)))
        self.n = self._ends[-1] if units else 0

    def blocks(self) -> Iterator[B]:
        for unit in self.units:
            yield from unit.blocks()

    def part(self, start: int, stop: int) -> Listed[B]:
        units = []
        for index in range(bisect_right(self._ends, start), bisect_left(self._ends, stop) + 1):
            unit = self.units[index]
            before = self._ends[index] - len(unit)
            units.append(unit.part(max(start - before, 0), min(stop - before, len(unit))))
        return Listed(units)


class Stream:
    """Image files and arrays as an iterable gives them, `start` to `stop` of them."""

    def __init__(self, things: Iterable[Any], start: int = 0, stop: int | None = None) -> None:
        self._things = things
        self._start, self._stop = start, stop
        self._read = False
        if stop is None and isinstance(things, Sized):
            stop = len(things)
        self.n = None if stop is None else stop - start

    @property
    def is_read_once(self) -> bool:
        return isinstance(self._things, Iterator)

    def blocks(self) -> Iterator[Given]:
        if isinstance(self._things, Iterator):
            if self._read:
                raise RuntimeError(
                    "These images came from an iterator that was already read; "
                    "give a list or a folder to read them more than once."
                )
            self._read = True
        things: Iterator[Any]
        if isinstance(self._things, Sequence):
            things = map(self._things.__getitem__, range(self._start, self._start + (self.n or 0)))
        else:
            things = islice(self._things, self._start, self._stop)
        for index, thing in enumerate(things, self._start):
            yield _own(_unit(thing, index))

    def part(self, start: int, stop: int) -> Stream:
        if isinstance(self._things, Iterator):
            raise TypeError(
                "images from an iterator have no parts, since it can be read only once; "
                "give a list or a folder"
            )
        return Stream(self._things, self._start + start, self._start + stop)


def depth_of(images: Listed[Any] | Stream) -> Depth:
    """How many bits the images of a set have, which is looked up once it matters."""
    if isinstance(images, Stream) and images.is_read_once:
        return Depth()

    def load() -> Iterator[Outcome | Deep]:
        for block in images.blocks():
            if not is_shallow(block):
                yield from block.load()

    return Depth(load)


def _bytes_of(shape: Sequence[int], dtype: Any) -> int:
    """Of an image, at least those of 8-bit RGB."""
    each = math.prod(shape[2:]) * getattr(dtype, "itemsize", 1)
    return int(math.prod(shape[:2]) * max(3, each))


def is_shallow(block: Given) -> bool:
    """Whether its images have no more than 8 bits, as far as that is known without decoding."""
    if isinstance(block, File):
        return is_shallow_file(block.path)
    return isinstance(block, Array | Rows) and getattr(block.array, "dtype", None) == np.uint8


def in_order(
    blocks: Iterator[B],
    load: Callable[[B], list[T]],
    n_threads: int,
    changed: bool,
) -> Generator[tuple[str, T], None, None]:
    """Id of every image and what was loaded of it, in order, whatever order threads finish in, no
    more of it ahead than `_AHEAD_BYTES`; arrays in memory go to threads only if they are
    changed."""
    if n_threads == 1:
        for block in blocks:
            yield from zip(block.ids, load(block), strict=True)
        return

    pending: deque[tuple[B, Callable[[], list[T]], int]] = deque()
    ahead = bytes_ahead = 0
    pool = failure = None
    ended = threading.Event()
    more = True
    try:
        while more or pending:
            # Two blocks at least, however large, so that one is decoded while one is used.
            while more and (
                len(pending) < 2 or (ahead < 2 * n_threads and bytes_ahead < _AHEAD_BYTES)
            ):
                try:
                    coming = next(blocks, None)
                except Exception as error:  # of the user's iterator: its turn comes
                    failure, coming = error, None
                if coming is None:
                    more = False
                    continue
                wait: Callable[[], list[T]] = partial(load, coming)
                size = coming.n_bytes
                if changed or not coming.in_memory:
                    if pool is None:
                        from concurrent.futures import ThreadPoolExecutor

                        pool = ThreadPoolExecutor(n_threads, "wbcprof-images", work_until, (ended,))
                    wait = pool.submit(wait).result
                pending.append((coming, wait, size))
                ahead, bytes_ahead = ahead + len(coming), bytes_ahead + size
            if pending:
                block, wait, size = pending.popleft()
                ahead, bytes_ahead = ahead - len(block), bytes_ahead - size
                yield from zip(block.ids, wait(), strict=True)
        if failure is not None:
            raise failure
    finally:
        ended.set()
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def tell_of_pass(
    n: int, skipped: list[SkippedImage], converted: Counter[str], is_quiet: bool
) -> None:
    """Warn, where the pass is read, of what became of the `n` images offered in it, unless it is
    quiet.

    Raises
    ------
    NoUsableImage
        No image was usable.
    ValueError
        There are none.
    """
    if n == 0:
        raise ValueError("No images given: the iterator was empty.")
    if skipped:
        first = f"first: {skipped[0].image_id}: {skipped[0].reason}"
        if len(skipped) == n:
            raise NoUsableImage(f"No usable image among the {n} given; {first}")
    if is_quiet:
        return
    if skipped:
        were = "was" if len(skipped) == 1 else "were"
        warnings.warn(
            f"{len(skipped)} of {n} images {were} skipped; {first}", ImageWarning, stacklevel=4
        )
    lacking = Counter({what: k for what, k in converted.items() if what.startswith("no ")})
    for counted, done in (
        (converted - lacking, "converted to 8-bit RGB"),
        (lacking, "taken as expected where nothing could be measured"),
    ):
        if total := counted.total():
            kinds = ", ".join(f"{count} {kind}" for kind, count in counted.most_common())
            were = "image was" if total == 1 else "images were"
            warnings.warn(f"{total} {were} {done}: {kinds}", ImageWarning, stacklevel=4)


def _check_n_labels(labels: list[str | None], n: int) -> None:
    if len(labels) != n:
        raise ValueError(f"Length of labels ({len(labels)}) must match number of images ({n})")


def _array_id(index: int) -> str:
    return f"image_{index:06d}"


def _digest_of(path: Path) -> str | None:
    """See `ImageSource.digests`."""
    try:
        return sampled_digest(path) if path.is_file() else None  # a pipe would wait
    except OSError:
        return None


def _file(path: str | os.PathLike[str]) -> File:
    name = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"No such image file or folder: '{name}'")
    if os.path.isdir(path):
        raise ValueError(f"'{name}' is a folder; give one folder by itself, or image files only.")
    return File(Path(path), name)


def _unit(thing: Any, index: int) -> File | Encoded | Array:
    """One image file or array of a collection; refuses what is neither."""
    if isinstance(thing, str | os.PathLike):
        return _file(thing)
    if (encoded := _encoded(thing, index)) is not None:
        return encoded
    array = None if isinstance(thing, NOT_ONE_PER_IMAGE) else _as_array(thing)
    if array is None:
        how = ""
        if _is_pair(thing):
            how = " Pairs of image and label come as a list, all of them, or as images and labels."
        elif isinstance(thing, list):
            how = " Of a loader that gives batches, give the dataset."
        elif isinstance(thing, Mapping):
            how = " Give the image that it holds, and labels apart."
        raise TypeError(
            f"images must be {ACCEPTED}; item {index} is a {type(thing).__name__}.{how}"
        )
    return Array(unmasked(array, f"image {index}"), _array_id(index))


def _own(unit: File | Encoded | Array) -> File | Encoded | Array:
    """With pixels of its own: images are read ahead, and what gives one after the other may fill
    one buffer again and again."""
    if isinstance(unit, Array) and isinstance(unit.array, np.ndarray):
        return Array(unit.array.copy(), unit.name)
    if isinstance(unit, Encoded) and not isinstance(unit.content, bytes):
        return Encoded(unit.content.copy(), unit.name)
    return unit


def _encoded(thing: Any, index: int) -> Encoded | None:
    """An image of Pillow, bytes of an image file, or an open one; None of anything else."""
    if isinstance(thing, bytes | bytearray):
        content = bytes(thing)
        if content and content.isascii() and content.decode().isprintable():
            raise TypeError(
                f"images must be {ACCEPTED}; got the bytes {content[:60]!r}, which are no image "
                "file: a path must be str or pathlib.Path."
            )
        return Encoded(content, _array_id(index))
    if (pillow := sys.modules.get("PIL.Image")) and isinstance(thing, pillow.Image):
        return Encoded(thing, _array_id(index))
    if isinstance(thing, io.IOBase) or callable(getattr(thing, "read", None)):
        if isinstance(thing, os.PathLike) or hasattr(thing, "dtype"):
            return None
        content = thing.read()
        if not isinstance(content, bytes):
            raise TypeError(
                f"expected a file opened for bytes, open(path, 'rb'), got one that reads "
                f"{type(content).__name__}"
            )
        return Encoded(content, _array_id(index))
    return None


def _is_pair(thing: Any) -> bool:
    """Whether it is an image and its label."""
    if not isinstance(thing, tuple | list) or len(thing) != 2:
        return False
    image, label = thing
    is_label = label is None or isinstance(label, str | bytes | int | float | np.generic)
    is_label = is_label or getattr(label, "ndim", None) == 0
    return (
        is_label
        and (
            isinstance(image, str | os.PathLike | bytes | bytearray)
            or hasattr(image, "__array_interface__")
            or hasattr(image, "__array__")
            or hasattr(image, "__dlpack__")
            or callable(getattr(image, "read", None))
        )
        and not isinstance(image, np.generic)
    )


def _plain(label: Any) -> Any:
    """A label that may be a tensor of one number."""
    return label.item() if getattr(label, "ndim", None) == 0 and hasattr(label, "item") else label


class _Items(Sequence[Any]):
    """What has a length and items by their number, such as a dataset of torch: images, or pairs of
    image and label."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        item = self._items[index]
        return item[0] if _is_pair(item) else item

    def labels(self) -> list[str | None] | None:
        """Of pairs, by the attributes ``targets`` and ``classes`` that datasets of torchvision
        have, else by reading every item."""
        if not len(self) or not _is_pair(self._items[0]):
            return None
        targets = getattr(self._items, "targets", None)
        if targets is None or len(targets) != len(self):
            targets = [item[1] for item in map(self._items.__getitem__, range(len(self)))]
        targets = [_plain(target) for target in targets]
        classes = getattr(self._items, "classes", None)
        if classes is not None and all(type(target) is int for target in targets):
            targets = [classes[target] for target in targets]
        return known_labels(targets)


def _as_array(thing: Any) -> Any:
    """The array that `thing` is or shares its memory with; a stored one as it is; or None."""
    if isinstance(thing, np.ndarray):
        return thing
    if isinstance(thing, np.generic):
        return None
    if hasattr(thing, "__dlpack__"):
        name = type(thing).__name__
        try:
            on_cpu = thing.__dlpack_device__()[0] in _CPU_DEVICES
            if on_cpu:
                return _channels_last(np.from_dlpack(thing), type(thing).__module__)
            reason = "it lies on another device"
        except Exception as error:  # of whichever library it comes from
            reason = str(error)
        raise TypeError(
            "images of another library must be plain arrays in CPU memory, without gradients, "
            f"got a {name}: {reason}; give tensor.detach().cpu() of torch, array.get() of cupy"
        )
    if hasattr(thing, "__array__") or (hasattr(thing, "shape") and hasattr(thing, "dtype")):
        return thing
    try:
        return np.asarray(memoryview(thing))
    except (TypeError, ValueError):
        return None


def _channels_last(array: np.ndarray, module: str) -> np.ndarray:
    """Images of torch, which has channels before rows."""
    is_torch = module.partition(".")[0] == "torch" and array.ndim > 2
    if is_torch and array.shape[-1] not in (1, 3, 4) and array.shape[-3] in (1, 3, 4):
        return np.moveaxis(array, -3, -1)
    return array


def _from_array(array: Any) -> Listed[Given] | Stream:
    shape = tuple(array.shape)
    array = unmasked(array, "images")
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"An image array must have shape (n, H, W, 3) or (H, W, 3), got {shape}.")
    if len(shape) < 4:
        return Listed([Array(array, _array_id(0))])
    if shape[0] and 0 in shape[1:]:
        raise ValueError(f"An image array must hold images of pixels, got shape {shape}.")
    if getattr(array.dtype, "itemsize", 1) == 0:
        raise ValueError(f"An image array must hold numbers, got dtype {array.dtype}.")
    if not hasattr(array, "__getitem__"):
        return Stream(array)
    return Listed([Rows(array, 0, shape[0])])


def _from_path(
    path: str | os.PathLike[str], planes: bool
) -> tuple[Listed[Given] | Stream, list[str | None] | None]:
    """Images, and labels if there are any, of a zarr folder, a file or a glob."""
    suffix = Path(path).suffix.lower()
    if os.path.isdir(path):
        return _open_zarr(Path(path))
    if os.path.exists(path):
        if suffix in SHEETS:
            return _from_csv(Path(path))
        if suffix == ".npy":
            return _open_npy(Path(path))
    elif glob.has_magic(os.fspath(path)):
        return _from_glob(Path(path), planes)
    return Listed([with_pages(_file(path), planes)]), None


def with_pages(file: File, planes: bool = False) -> File:
    """The file, with its pages if it is a TIFF of several; with `planes`, depths and times too."""
    if file.path.suffix.lower() not in _OF_PAGES:
        return file
    n, n_bytes = count_pages(file.path, planes)
    if n == 1:
        return file
    # A page is found through all before it, so there are not more blocks the more pages there are.
    at_once = max(_BLOCK_PAGES, -(-n // _MOST_BLOCKS))
    block_pages = max(1, min(at_once, _BLOCK_BYTES // n_bytes))
    return replace(file, pages=range(n), page_bytes=n_bytes, block_pages=block_pages, planes=planes)


def from_folder(folder: Path, suffixes: Sequence[str]) -> Listed[Given] | Stream:
    """Images of these suffixes in a folder, whatever its sub-folders mean."""
    return from_listing(_listing(folder, suffixes, 1))[0]


def _listing(folder: Path, suffixes: Sequence[str], level: int | None) -> Listing:
    """What lies in a folder; a warning says what nobody should learn of later."""
    at = Integer().check("level", 1 if level is None else level)
    listing = list_folder(folder, suffixes, at)
    for text in listing.warnings():
        warnings.warn(text, ImageWarning, stacklevel=4)
    deepest = max((name.count("/") for name in listing.names), default=level or 0)
    if level is not None and level > max(1, deepest):  # 1 is what is taken for granted elsewhere
        raise ValueError(
            f"level must be at most {deepest}, the folders between {str(folder)!r} and its images, "
            f"got {level}"
        )
    if level is None and suffixes is SUFFIXES and (odd := listing.oddity()):
        warnings.warn(odd, ImageWarning, stacklevel=4)
    return listing


def from_listing(
    listing: Listing, planes: bool = False
) -> tuple[Listed[Given] | Stream, list[str | None] | None]:
    files = [with_pages(File(listing.folder / name, name), planes) for name in listing.names]
    labels = [listing.label(file.name) for file in files for _ in file.ids]
    return Listed(files), labels if any(labels) else None


def _from_glob(pattern: Path, planes: bool) -> tuple[Listed[Given], None]:
    fixed = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    root = Path(*pattern.parts[:fixed])
    # Path.glob, unlike glob.glob, does not follow links down "**", which may lead back up.
    found = sorted(
        path.as_posix()
        for path in root.glob(str(Path(*pattern.parts[fixed:])))
        if not path.is_dir() and all(map(is_users, path.relative_to(root).parts))
    )
    if not found:
        raise FileNotFoundError(f"No file matches '{pattern}'")
    return Listed([with_pages(File(Path(name), name), planes) for name in found]), None


def _from_csv(path: Path) -> tuple[Listed[Given], list[str | None] | None]:
    table = read_table(path)
    with naming(f"'{path}'"):
        columns = path_columns(table.header)
    if columns is None:
        table.need(IMAGE_COLUMNS)
        raise AssertionError
    label_column = table.find(LABEL_COLUMNS)
    files, missing = [], []
    labels: list[str | None] = []
    for line, cells in table.rows:
        parts = (from_csv_text(cells[table.header[at]]) or "" for at in columns)
        name = os.path.join(*parts)
        if not name:
            raise ValueError(f"{table.at(line)}: no image path")
        if not os.path.exists(path.parent / name):
            name = image_name(name)
        name = _respelt(path.parent, name)
        files.append(File(path.parent / name, name))
        if not os.path.exists(files[-1].path):
            missing.append(name)
        labels.append(stated(from_csv_text(cells[label_column])) if label_column else None)
    lines = [f"line {line}" for line, _ in table.rows]
    _check_rows(f"'{path}'", lines, files, labels)
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FileNotFoundError(
            f"{len(missing)} of the {len(files)} files named in '{path}' do not exist in "
            f"'{path.parent}': {shown}"
        )
    return Listed(files), labels if any(labels) else None


def _respelt(folder: Path, name: str) -> str:
    """The plain name of a file, if that is not of another one, as it may be behind a link."""
    plain = os.path.normpath(name)
    if plain == name or not os.path.exists(folder / plain):
        return name
    is_other = os.path.exists(folder / name) and not os.path.samefile(folder / name, folder / plain)
    return name if is_other else plain


def _check_rows(
    table: str, rows: Sequence[str], files: Sequence[File], labels: Sequence[str | None]
) -> None:
    """Refuse a table of which two rows label an image otherwise; tell of rows that name one again.

    `rows` says where each file and its label stand.
    """
    said: dict[str, tuple[str, str]] = {}
    named: set[str] = set()
    repeated = []
    real = cache(os.path.realpath)  # asks about every folder on the way
    for row, file, label in zip(rows, files, labels, strict=True):
        place = os.path.join(real(file.path.parent), file.path.name)
        if place in named:
            repeated.append(row)
        named.add(place)
        if label is not None:
            before, above = said.setdefault(place, (label, row))
            if before != label:
                raise ValueError(
                    f"{table}, {row}: {file.name!r} is labelled {label!r} here and {before!r} in "
                    f"{above}; leave one"
                )
    tell_of_repeated(table, len(rows), repeated, "name an image again, which is taken again")


def path_columns(header: Sequence[str]) -> tuple[int, ...] | None:
    """Places of the columns that make up the path of an image: one named path, image, file or
    filename, or PathName_X and FileName_X as CellProfiler has them; None if there are none.

    Raises
    ------
    ValueError
        CellProfiler names several files in a row, or two columns have one name.
    """
    names = list(map(column_name, header))
    if whole := the_column(IMAGE_COLUMNS, names):
        return (names.index(whole),)
    files = [at for at, name in enumerate(names) if name.startswith("filename_")]
    if len(files) > 1:
        raise ValueError(
            f"{', '.join(header[at] for at in files)} name several images in each row; keep one of "
            "these columns, or name that of the images to use path"
        )
    if not files:
        return None
    folder = names[files[0]].replace("filename_", "pathname_", 1)
    return (names.index(folder), files[0]) if folder in names else (files[0],)


def _from_frame(frame: Any) -> tuple[Listed[Given], list[str | None] | None]:
    """Image files that a pandas DataFrame names."""
    header = [str(name) for name in frame.columns]
    columns = path_columns(header)
    if columns is None:
        raise ValueError(
            f"expected a DataFrame with a column named {', '.join(IMAGE_COLUMNS[:3])} or "
            f"{IMAGE_COLUMNS[3]}, got: {', '.join(header)[:200]}"
        )
    parts = [list(frame.iloc[:, at]) for at in columns]
    names = list(map(column_name, header))
    label_column = the_column(LABEL_COLUMNS, names)
    files = []
    for index, row in enumerate(zip(*parts, strict=True)):
        if not all(isinstance(part, str | os.PathLike) for part in row):
            raise ValueError(f"row {index} of the DataFrame has no image path, got {row[-1]!r}")
        files.append(_file(os.path.join(*row)))
    if label_column is None:
        return Listed(files), None
    labels = list(map(stated, frame.iloc[:, names.index(label_column)]))
    rows = [f"row {index}" for index in range(len(files))]
    _check_rows("the DataFrame", rows, files, labels)
    return Listed(files), labels if any(labels) else None


def _open_npy(path: Path) -> tuple[Listed[Given] | Stream, None]:
    try:
        array = StoredArray.open(path)
    except Exception as error:  # damaged headers raise almost any kind
        raise ValueError(f"'{path}' is not a readable array file: {told(error)}") from error
    return _from_array(array), None


def _open_zarr(path: Path) -> tuple[Listed[Given] | Stream, None]:
    try:
        import zarr
    except ImportError as error:
        raise ImportError(
            f"'{path}' needs the package zarr: pip install 'wbcprof[zarr]'"
        ) from error
    try:
        array = zarr.open_array(path, mode="r")
    except Exception as error:  # differs between releases of zarr
        raise ValueError(
            f"'{path}' is not a readable zarr array (n, H, W, 3): {told(error)}"
        ) from error
    return _from_array(array), None
