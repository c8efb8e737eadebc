"""Images in, cells out: a folder, paths or arrays become a stream of RGB uint8 cells.

Every source passes through `open_images`. What one image may look like, and what becomes of it:

=========================  ======================================================================
grey, 1-bit, palette,      converted to 8-bit RGB; counted in one `ImageWarning` per pass
CMYK, alpha (on white),
16-bit, float in [0, 1],
several frames (the first)
unreadable, truncated,     skipped; kept in `ImageSource.skipped` with the reason and counted in
too small, bad values      one `ImageWarning` per pass; `ValueError` if no image is left
=========================  ======================================================================

The EXIF orientation tag is ignored: pixels are taken as stored.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

__all__ = ["Cell", "ImageSource", "ImageWarning", "SkippedImage", "open_images"]

SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip

ACCEPTED = (
    "a folder, an image file, an array (n, H, W, 3) or (H, W, 3), "
    "or an ordered collection or iterator of image files or arrays"
)
NOT_ONE_PER_IMAGE = (str, bytes, bytearray, Mapping, set, frozenset)


class ImageWarning(UserWarning):
    """Some images of a pass were skipped or converted."""


class _Unusable(ValueError):
    """The image cannot be used; the text is the reason shown to the user."""


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One image.

    Attributes
    ----------
    pixels : uint8 array (H, W, 3)
        RGB, C-contiguous. May share memory with the user's array and may be read-only.
    image_id : str
        POSIX path relative to the folder, the path as given, or ``image_000000``.
    label : str or None
        Cell type, if known.
    """

    pixels: np.ndarray
    image_id: str
    label: str | None


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that was left out, and why."""

    image_id: str
    reason: str


class ImageSource:
    """Stream of `Cell` records; made by `open_images`.

    Every ``iter()`` is an independent pass that decodes the images anew, in the same order, so
    several threads may iterate at once. Only a source built on an iterator can be read just once.

    Attributes
    ----------
    n_hint : int or None
        Number of images offered (before any is skipped), if known.
    labels : list of (str or None), or None
        Label of every image offered, known without decoding; None if there are no labels.
    skipped : list of SkippedImage
        Images left out in the latest completed pass.
    """

    def __init__(
        self,
        things: Iterable[Any],
        ids: list[str] | None,
        labels: list[str | None] | None,
        min_size: int,
        on_error: Literal["skip", "raise"],
    ) -> None:
        self._things = things
        self._ids = ids
        self._read = False
        self.n_hint = len(things) if isinstance(things, Sized) else None
        self.labels = labels
        self.min_size = min_size
        self.on_error = on_error
        self.skipped: list[SkippedImage] = []
        if self.n_hint == 0:
            raise ValueError(f"No images given: expected {ACCEPTED}, got an empty collection.")
        if labels is not None and self.n_hint is not None:
            _check_n_labels(labels, self.n_hint)

    def __iter__(self) -> Iterator[Cell]:
        if isinstance(self._things, Iterator):
            if self._read:
                raise RuntimeError(
                    "These images came from an iterator that was already read; "
                    "give a list or a folder to read them more than once."
                )
            self._read = True

        skipped: list[SkippedImage] = []
        converted: Counter[str] = Counter()
        n = 0
        things = iter(self._things)
        for index, thing in enumerate(things):
            n += 1
            if self.labels is not None and n > len(self.labels):
                n += sum(1 for _ in things)
                break
            image_id = self._ids[index] if self._ids is not None else _check_thing(thing, index)
            try:
                pixels, kind = _load(thing)
                height, width = pixels.shape[:2]
                if min(height, width) < self.min_size:
                    patch = f"{self.min_size}x{self.min_size}"
                    raise _Unusable(f"{height}x{width} px, smaller than the {patch} px patch")
            except _Unusable as error:
                if self.on_error == "raise":
                    raise ValueError(f"Image '{image_id}': {error}") from error
                skipped.append(SkippedImage(image_id, str(error)))
                continue
            if kind:
                converted[kind] += 1
            yield Cell(pixels, image_id, None if self.labels is None else self.labels[index])

        self.skipped = skipped
        if self.labels is not None:
            _check_n_labels(self.labels, n)
        if n == 0:
            raise ValueError("No images given: the iterator was empty.")
        if len(skipped) == n:
            first = skipped[0]
            raise ValueError(
                f"No usable image among the {n} given; first: {first.image_id}: {first.reason}"
            )
        _warn(n, skipped, converted)


def open_images(
    images: Any,
    labels: Iterable[Any] | None = None,
    *,
    min_size: int = 1,
    on_error: Literal["skip", "raise"] = "skip",
) -> ImageSource:
    """Turn whatever holds images into a stream of RGB uint8 cells.

    Parameters
    ----------
    images : path, array, iterable or ImageSource
        - Folder: all images in it, at any depth, sorted by their POSIX relative path, which is the
          id. The first sub-folder on that path is the label; images directly in the folder have
          none. Hidden files and other suffixes than those in `SUFFIXES` are ignored. Links to type
          folders are followed, links to folders further down are not.
        - Image file, or collection or iterator of image files: the id is the path as given.
        - Array (n, H, W, C) or (H, W, C), C in {1, 3, 4}, or (H, W) for one grey image; or a
          collection or iterator of single images of any sizes. uint8; uint16 is scaled to 8 bits,
          floats must lie in [0, 1]. Anything with numpy's ``shape``, ``dtype`` and iteration over
          the first axis works and is read image by image. The id is ``image_000000`` and so on.
        - ImageSource: returned as is, or as a new source over the same images if `labels` or
          stricter settings are given.
    labels : iterable of n labels, optional
        In the order of the images; replace those of a folder. None and NaN mean unknown.
    min_size : int
        Images with fewer rows or columns are skipped.
    on_error : {"skip", "raise"}
        Skip unusable images and warn at the end of the pass, or raise `ValueError` at the first.

    Returns
    -------
    ImageSource

    Raises
    ------
    TypeError
        `images`, one of its items, or `labels` is of another kind.
    FileNotFoundError
        A path does not exist.
    ValueError
        There are no images, or `labels` has another length. While iterating: no image was usable.
    """
    if isinstance(min_size, bool) or not isinstance(min_size, int | np.integer) or min_size < 1:
        raise ValueError(f"min_size must be an integer of at least 1, got {min_size!r}.")
    if on_error not in ("skip", "raise"):
        raise ValueError(f"on_error must be 'skip' or 'raise', got {on_error!r}.")
    names = None if labels is None else _label_names(labels)

    if isinstance(images, ImageSource):
        min_size = max(min_size, images.min_size)
        on_error = "raise" if "raise" in (on_error, images.on_error) else "skip"
        if names is None and (min_size, on_error) == (images.min_size, images.on_error):
            return images
        names = images.labels if names is None else names
        return ImageSource(images._things, images._ids, names, min_size, on_error)

    if isinstance(images, str | os.PathLike):
        folder = Path(images)
        if folder.is_dir():
            ids = _find_images(folder)
            if names is None:
                found = [i.split("/")[0] if "/" in i else None for i in ids]
                names = found if any(found) else None
            return ImageSource([folder / i for i in ids], ids, names, min_size, on_error)
        images = [images]
    elif hasattr(images, "shape") and hasattr(images, "dtype") and len(images.shape) != 1:
        if len(images.shape) not in (2, 3, 4):
            raise ValueError(
                f"An image array must have shape (n, H, W, 3) or (H, W, 3), got {images.shape}."
            )
        if len(images.shape) < 4:
            images = [images]
        return ImageSource(images, None, names, min_size, on_error)
    elif not isinstance(images, Iterable) or isinstance(images, NOT_ONE_PER_IMAGE):
        raise TypeError(f"images must be {ACCEPTED}; got {type(images).__name__}.")

    if isinstance(images, list | tuple) or hasattr(images, "dtype"):
        images = list(images)
        for index, thing in enumerate(images):
            _check_thing(thing, index)
    return ImageSource(images, None, names, min_size, on_error)


def _label_names(labels: Iterable[Any]) -> list[str | None]:
    if not isinstance(labels, Iterable) or isinstance(labels, NOT_ONE_PER_IMAGE):
        raise TypeError(
            f"labels must hold one label per image, in order; got {type(labels).__name__}."
        )
    return [None if label is None or label != label else str(label) for label in labels]


def _check_n_labels(labels: list[str | None], n: int) -> None:
    if len(labels) != n:
        raise ValueError(f"Length of labels ({len(labels)}) must match number of images ({n})")


def _check_thing(thing: Any, index: int) -> str:
    """Refuse what is neither an existing file nor an array; return the image id."""
    if isinstance(thing, str | os.PathLike):
        if not os.path.exists(thing):
            raise FileNotFoundError(f"No such image file or folder: '{os.fspath(thing)}'")
        if os.path.isdir(thing):
            raise ValueError(
                f"'{os.fspath(thing)}' is a folder; give one folder by itself, or image files only."
            )
        return os.fspath(thing)
    if hasattr(thing, "__array__") and not isinstance(thing, np.generic):
        return f"image_{index:06d}"
    raise TypeError(f"images must be {ACCEPTED}; item {index} is a {type(thing).__name__}.")


def _find_images(folder: Path) -> list[str]:
    """Sorted POSIX paths, relative to `folder`, of the images in it."""

    def fail(error: OSError) -> None:
        raise error

    found = []
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            found.append(entry)
        # A link to the folder itself, or to one above it, would list everything again.
        elif not folder.resolve().is_relative_to(entry.resolve()):
            for root, folders, files in os.walk(entry, onerror=fail):
                folders[:] = [name for name in folders if not name.startswith(".")]
                found += [Path(root, name) for name in files if not name.startswith(".")]
    ids = sorted(p.relative_to(folder).as_posix() for p in found if p.suffix.lower() in SUFFIXES)
    if not ids:
        raise ValueError(
            f"No images in folder '{folder}': expected files ending in {', '.join(SUFFIXES)}, "
            "in one sub-folder per cell type or directly in the folder."
        )
    return ids


def _load(thing: Any) -> tuple[np.ndarray, str]:
    """RGB uint8 pixels, and what they were converted from ("" if nothing was changed)."""
    kinds: list[str] = []
    if isinstance(thing, str | os.PathLike):
        thing, kinds = _read_file(Path(thing))
    pixels, kind = _to_rgb8(np.asarray(thing))
    return pixels, " ".join([*kinds, kind] if kind else kinds)


def _to_rgb8(pixels: np.ndarray) -> tuple[np.ndarray, str]:
    """Bring an array (H, W) or (H, W, C) to uint8 (H, W, 3); depth first, then channels."""
    if pixels.ndim not in (2, 3):
        raise _Unusable(f"expected an array (H, W, 3), got shape {pixels.shape}")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels not in (1, 3, 4):
        raise _Unusable(f"expected 1, 3 or 4 channels on the last axis, got shape {pixels.shape}")

    kinds = []
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # either byte order
        kinds.append("16-bit")
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    elif pixels.dtype.kind == "f":
        kinds.append("float")
        if not np.isfinite(pixels).all():
            raise _Unusable("float values must be finite, got NaN or infinity")
        low, high = pixels.min(initial=0), pixels.max(initial=0)
        if low < 0 or high > 1:
            raise _Unusable(
                f"float values must lie in [0, 1], got {low:g} to {high:g}; rescale or give uint8"
            )
        pixels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise _Unusable(f"expected uint8, uint16 or float in [0, 1], got dtype {pixels.dtype}")

    if channels == 1:
        kinds.append("grey")
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    elif channels == 4:
        kinds.append("RGBA")
        rgb, alpha = pixels[:, :, :3].astype(np.uint16), pixels[:, :, 3:].astype(np.uint16)
        pixels = ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    elif kinds:
        kinds.append("RGB")
    return np.ascontiguousarray(pixels), " ".join(kinds)


def _read_file(path: Path) -> tuple[np.ndarray, list[str]]:
    from PIL import Image, UnidentifiedImageError

    try:
        if not path.is_file():
            raise _Unusable("not a regular file, or a broken link")
        with Image.open(path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise _Unusable(f"more than {limit} pixels (decompression bomb?)")
            return _decode(image, path)
    except (_Unusable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise _Unusable("empty file" if empty else "not a readable image") from error
    except Image.DecompressionBombError as error:
        raise _Unusable(str(error)) from error
    except Exception as error:  # Pillow's decoders raise almost any kind on damaged files
        if getattr(error, "strerror", None):
            raise _Unusable(error.strerror) from error
        text = str(error) or type(error).__name__
        truncated = "truncated" in text.lower()
        raise _Unusable("truncated" if truncated else f"cannot be decoded: {text}") from error


def _decode(image: Any, path: Path) -> tuple[np.ndarray, list[str]]:
    """Pixels of an open Pillow image as `_to_rgb8` takes them, and what Pillow had to convert."""
    kinds = ["multi-frame"] if getattr(image, "n_frames", 1) > 1 else []
    mode = image.mode

    if image.format == "TIFF":
        bits_per_sample = image.tag_v2.get(258, (1,))[0]
        if mode == "I" or (mode.startswith("I;16") and bits_per_sample != 16):
            raise _Unusable(
                f"signed or {bits_per_sample}-bit samples, expected unsigned 8 or 16 bits"
            )
        if bits_per_sample == 16 and not mode.startswith("I;16"):
            if mode not in ("RGB", "RGBA"):
                raise _Unusable(f"16-bit TIFF of mode {mode}, expected grey, RGB or RGBA")
            return _read_tiff_rgb16(path), kinds

    if mode == "I" or mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        white_is_zero = image.format == "TIFF" and image.tag_v2.get(262) == 0
        return (65535 - pixels if white_is_zero else pixels), kinds
    if any(";16" in str(tile) for tile in image.tile):
        # PNG in colour: Pillow keeps the high bytes.
        kinds.append("16-bit RGB" if mode == "RGB" else "16-bit")
    if mode not in ("L", "LA", "RGB", "RGBA", "F"):
        kinds.append({"1": "1-bit", "P": "palette"}.get(mode, mode))

    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif mode == "1":
        image = image.convert("L")
    elif mode not in ("L", "RGB", "F"):
        image = image.convert("RGB")
    return np.asarray(image), kinds


def _read_tiff_rgb16(path: Path) -> np.ndarray:
    """First page of a 16-bit colour TIFF, of which Pillow would keep one byte per sample."""
    try:
        import tifffile
    except ImportError as error:
        raise _Unusable("16-bit colour TIFF needs the package tifffile") from error

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if any(kind != tifffile.EXTRASAMPLE.UNASSALPHA for kind in page.extrasamples):
            raise _Unusable("16-bit TIFF with premultiplied alpha or extra channels")
        pixels = page.asarray()
        return np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels


def _warn(n: int, skipped: list[SkippedImage], converted: Counter[str]) -> None:
    if skipped:
        first = skipped[0]
        warnings.warn(
            f"{len(skipped)} of {n} images {'was' if len(skipped) == 1 else 'were'} skipped; "
            f"first: {first.image_id}: {first.reason}",
            ImageWarning,
            stacklevel=3,
        )
    if converted:
        total = converted.total()
        kinds = ", ".join(f"{count} {kind}" for kind, count in converted.most_common())
        warnings.warn(
            f"{total} {'image was' if total == 1 else 'images were'} converted to 8-bit RGB: "
            f"{kinds}",
            ImageWarning,
            stacklevel=3,
        )
