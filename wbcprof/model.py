"""A learnt model: one or more layers, and what it does to images: profile, code, reconstruct."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from wbcprof.images import Cell, ImageSource, open_images
from wbcprof.layer import Layer
from wbcprof.patches import crop_centre, pixel_table, positive_integer, windows
from wbcprof.profiles import Profiles, feature_names
from wbcprof.regions import check_regions, find_regions

if TYPE_CHECKING:
    from wbcprof.classify import TypeClassifier
    from wbcprof.stain import StainNormaliser

_T = TypeVar("_T")

_BATCH_BYTES = 8 << 20  # images profiled in one kernel call
_TOLERANCE_SAMPLE = 32  # images that an approximate encoder is chosen on
_TILE_ROWS = 2048  # windows coded at a time where codes are kept


class ToleranceWarning(UserWarning):
    """Profiles made with a tolerance are further from the exact ones than it allows."""


class _Deferred(Generic[_T]):
    """A field, None by default, that may be set to a function: its result is made at first use."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, instance: object, owner: type) -> _T | None:
        if instance is None:
            return None
        value = getattr(instance, self._name)
        if callable(value):
            value = value()
            setattr(instance, self._name, value)
        return value

    def __set__(self, instance: object, value: _T | Callable[[], _T] | None) -> None:
        setattr(instance, self._name, value)


@dataclass(eq=False)
class Model:
    """Signatures and encoders learnt from images by `wbcprof.fit` or `wbcprof.Profiler`.

    Parameters
    ----------
    layers : list of Layer
        The first reads pixels, each later one the pooled code map of the one before.
    pools : str or sequence of str
        Statistics of the codes over the windows: any of "mean", "max", "std", "active", "sqrt".
    levels : sequence of int
        Spatial pyramid: level L splits the image into L x L parts.
    centres : sequence of float
        Central discs, by diameter as a fraction of the image's shorter side.
    stain : StainNormaliser or None
        Every image is first brought to the colours of those that the model was learnt from.
    parameters : dict
        Every parameter that the model was learnt with.
    provenance : dict
        Package version, number of images and patches, time.
    history : list of list of dict
        Per layer, the terms of the objective at each iteration.
    classifier : TypeClassifier or None
        Trained on profiles of this model. That of a file is made at first use, so that profiling
        does not need scikit-learn.
    """

    layers: list[Layer]
    pools: Sequence[str] = ("mean",)
    levels: Sequence[int] = (1,)
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    history: list[list[dict[str, float]]] = field(default_factory=list, repr=False)
    classifier: _Deferred[TypeClassifier] = _Deferred()
    centres: Sequence[float] = ()
    stain: StainNormaliser | None = None

    def __post_init__(self):
        self.pools = (self.pools,) if isinstance(self.pools, str) else tuple(self.pools)
        self.levels, self.centres = check_regions(self.levels, self.centres)
        if not self.pools:
            raise ValueError(f"pools must name at least one of {tuple(_POOL_FUNCTIONS)}, got none")
        for pool in self.pools:
            if pool not in _POOL_FUNCTIONS:
                raise ValueError(f"pools must be among {tuple(_POOL_FUNCTIONS)}, got {pool!r}")

    @property
    def min_size(self) -> int:
        """Smallest image side, px, that every layer can read."""
        return smallest_side([(la.patch_size, la.step, la.region) for la in self.layers])

    @property
    def feature_names(self) -> list[str]:
        return feature_names(self.layers[-1].n_signatures, self.pools, self.levels, self.centres)

    @property
    def signatures(self) -> np.ndarray:
        """First-layer signatures as changes of brightness, (h, patch_size, patch_size, channels)
        float32: brought back to units of the pixel input, positive where the image is brighter."""
        layer = self.layers[0]
        rows = layer.signatures
        if layer.preprocessing.unwhitener is not None:
            rows = rows @ layer.preprocessing.unwhitener
        if layer.pixel_input != "raw":
            rows = -rows
        return rows.reshape(-1, layer.patch_size, layer.patch_size, layer.channels)

    def profile(
        self,
        images,
        *,
        labels: Iterable[Any] | None = None,
        step: int | None = None,
        inference: str = "feedforward",
        tolerance: float | None = None,
        n_threads: int | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Profiles:
        """Describe every cell by how much of each signature it takes to rebuild it.

        Parameters
        ----------
        images : folder, path, list of paths, array, or iterable of arrays
            See `wbcprof.images.open_images`. One (H, W, 3) array is one image.
        labels : iterable of (str or None), optional
            Types of the images, where known; a folder's sub-folders give them by default.
        step : int, optional
            Distance between windows, px; the model's own by default.
        inference : {"feedforward", "sparse"}
            Codes predicted by the encoder, in one fused pass; or optimal sparse codes, slower.
        tolerance : float, optional
            Allow this relative error of the profiles, ``norm(approximate - exact) / norm(exact)``,
            for speed: cells of pixels are projected onto as few directions as keep it on the first
            images. Those, and one image of every later batch, are profiled exactly too; the
            metadata of the profiles state the error over these as ``relative_error``, and a
            `ToleranceWarning` says where it is larger. Worth it from some hundred images
            on. Exact by default.
        n_threads : int, optional
            See `wbcprof.threads.resolve_threads`.
        progress : callable, optional
            Called with (images done, images offered or None).

        Returns
        -------
        Profiles

        Raises
        ------
        ValueError
            No image could be read, or a parameter is out of range.
        """
        if inference not in ("feedforward", "sparse"):
            raise ValueError(f"inference must be 'feedforward' or 'sparse', got {inference!r}")
        if step is not None:
            step = positive_integer("step", step)
        if tolerance is not None and (len(self.layers) > 1 or inference != "feedforward"):
            raise ValueError("tolerance is for feed-forward profiles of one-layer models")
        source = open_images(images, labels, min_size=self.min_size)
        encoder = self.layers[-1].encoder(step if len(self.layers) == 1 else None)
        metadata = {"inference": inference, "step": step or self.layers[0].step, **self.provenance}
        exact = encoder
        checked: list[tuple[float, float]] = []
        values: list[np.ndarray] = []
        ids, known_labels = [], []
        for batch in _batches(self.read(source, n_threads)):
            pixels = np.stack([cell.pixels for cell in batch])
            if tolerance is not None and not values:
                encoder = encoder.approximate(
                    pixels[:_TOLERANCE_SAMPLE],
                    tolerance,
                    pools=self.pools,
                    levels=self.levels,
                    centres=self.centres,
                    n_threads=n_threads,
                )
            values.append(self._profile_batch(pixels, encoder, step, inference, n_threads))
            if tolerance is not None:
                few = 1 if checked else _TOLERANCE_SAMPLE
                truth = self._profile_batch(pixels[:few], exact, step, inference, n_threads)
                checked.append((np.sum((values[-1][:few] - truth) ** 2), np.sum(truth**2)))
            ids += [cell.image_id for cell in batch]
            known_labels += [cell.label for cell in batch]
            if progress is not None:
                progress(len(ids), source.n_hint)
        if tolerance is not None:
            difference, norm = np.sum(checked, axis=0)
            error = float(np.sqrt(difference / norm)) if norm > 0 else 0.0
            metadata |= {"tolerance": tolerance, "relative_error": error}
            if error > tolerance:
                warnings.warn(
                    f"the profiles differ from exact ones by {error:.1e}, more than the tolerance "
                    f"of {tolerance:.1e}: the first images are unlike the rest",
                    ToleranceWarning,
                    stacklevel=2,
                )
        return Profiles(
            np.concatenate(values),
            self.feature_names,
            ids,
            known_labels if any(label is not None for label in known_labels) else None,
            metadata,
        )

    def read(self, source: ImageSource, n_threads: int | None = None) -> Iterator[Cell]:
        """Cells of a source with the colours that the model reads."""
        return source.read(n_threads, None if self.stain is None else self.stain.normalise)

    def _profile_batch(self, images, encoder, step, inference, n_threads) -> np.ndarray:
        """Profiles of images (n, H, W, 3); `encoder` is that of the last layer."""
        maps = self._code_maps(images, self.layers[:-1], step, n_threads)
        if inference == "feedforward":
            return encoder.encode_pool(
                maps,
                pools=self.pools,
                levels=self.levels,
                centres=self.centres,
                n_threads=n_threads,
            )
        layer = self.layers[-1]
        regions = find_regions(
            *maps.shape[1:3], layer.patch_size, encoder.step, self.levels, self.centres
        )
        return np.stack(
            [
                pool_codes(
                    self._codes(layer, map_[regions.pixels], encoder.step, inference, n_threads),
                    self.pools,
                    regions.masks,
                )
                for map_ in maps
            ]
        )

    @staticmethod
    def _code_maps(images, layers, step, n_threads) -> np.ndarray:
        """Images (n, H, W, c) through `layers`; `step` is that of the first."""
        for layer in layers:
            images = layer.encoder(step).encode_map(images, layer.region, n_threads=n_threads)
            step = None
        return images

    def code_map(self, image: np.ndarray, *, n_threads: int | None = None) -> np.ndarray:
        """Pooled code map of one image, which a further layer would read.

        Parameters
        ----------
        image : ndarray of shape (H, W, 3), uint8
        n_threads : int, optional

        Returns
        -------
        ndarray of shape (rows, columns, h), float32
            Codes of the last layer, max-pooled over squares of ``region`` x ``region`` windows.
        """
        pixels = self._one_image(image, self.min_size)
        return self._code_maps(pixels[None], self.layers, None, n_threads)[0]

    @staticmethod
    def _coded_rows(layer, image, step, inference, n_threads):
        """Yield, for a few rows of windows at a time: the first row's index, codes (r, c, h), and
        centre and spread (r * c, 1) of the patches."""
        view = windows(image, layer.patch_size, step)
        table = None if layer.pixel_input is None else pixel_table(layer.pixel_input)
        per_tile = max(1, _TILE_ROWS // view.shape[1])
        for start in range(0, len(view), per_tile):
            tile = view[start : start + per_tile]
            patches = tile.reshape(-1, layer.signatures.shape[1])
            if table is not None:
                patches = table[patches]
            rows, centre, spread = layer.preprocessing.apply(patches)
            codes = layer.code(rows, inference, n_threads)
            yield start, codes.reshape(*tile.shape[:2], -1), centre, spread

    def codes(
        self, image: np.ndarray, *, inference: str = "feedforward", n_threads: int | None = None
    ) -> np.ndarray:
        """First-layer codes of every window of one image.

        Parameters
        ----------
        image : ndarray of shape (H, W, 3), uint8
        inference : {"feedforward", "sparse"}
        n_threads : int, optional

        Returns
        -------
        ndarray of shape (rows, columns, h), float32
        """
        layer = self.layers[0]
        pixels = self._one_image(image, layer.patch_size)
        return self._codes(layer, pixels, layer.step, inference, n_threads)

    def _codes(self, layer, image, step, inference, n_threads) -> np.ndarray:
        tiles = self._coded_rows(layer, image, step, inference, n_threads)
        return np.concatenate([codes for _, codes, _, _ in tiles])

    def reconstruct(
        self,
        image: np.ndarray,
        *,
        inference: str = "feedforward",
        step: int | None = None,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """Rebuild an image from the first layer's codes of its windows (paper, Fig. 1b).

        Every window is rebuilt as ``z B``, brought back to grey levels, and overlaps are averaged.

        Parameters
        ----------
        image : ndarray of shape (H, W, 3), uint8
        inference : {"feedforward", "sparse"}
            From predicted codes, or from optimal ones.
        step : int, optional
            Distance between windows, px, at most the patch size; the model's own by default.
        n_threads : int, optional

        Returns
        -------
        ndarray of shape (H, W, 3), uint8
            In the colours that the model reads. A strip narrower than the step at the right and
            bottom edge, which no window covers, is covered by windows moved inward.
        """
        layer = self.layers[0]
        assert layer.pixel_input is not None
        size = layer.patch_size
        step = layer.step if step is None else positive_integer("step", step)
        if step > size:
            raise ValueError(f"step must lie between 1 and the patch size {size}, got {step}")
        pixels = self._one_image(image, size)
        total = np.zeros(pixels.shape, np.float64)
        count = np.zeros((*pixels.shape[:2], 1))
        height, width = pixels.shape[:2]
        # The windows of the grid, then those that end exactly at the bottom and right edges.
        row_grids = [(0, height)] + [(height - size, height)] * ((height - size) % step > 0)
        column_grids = [(0, width)] + [(width - size, width)] * ((width - size) % step > 0)
        for top, bottom in row_grids:
            for left, right in column_grids:
                region = np.s_[top:bottom, left:right]
                for start, codes, centre, spread in self._coded_rows(
                    layer, pixels[region], step, inference, n_threads
                ):
                    rebuilt = layer.preprocessing.restore(
                        codes.reshape(-1, layer.n_signatures) @ layer.signatures, centre, spread
                    ).reshape(*codes.shape[:2], size, size, -1)
                    for i, j in np.ndindex(codes.shape[:2]):
                        y, x = (start + i) * step, j * step
                        total[region][y : y + size, x : x + size] += rebuilt[i, j]
                        count[region][y : y + size, x : x + size] += 1
        return to_grey_levels(total / count, layer.pixel_input)

    def _one_image(self, image, min_size: int) -> np.ndarray:
        (cell,) = self.read(open_images([image], min_size=min_size, on_error="raise"))
        return cell.pixels

    def save(self, path: str | os.PathLike) -> None:
        """Write the model to a file that `wbcprof.load` reads; see `wbcprof.storage`."""
        from wbcprof.storage import save

        save(self, path)


def layer_inputs(
    model: Model, source: ImageSource, centre: float, patch_size: int, n_threads: int | None
) -> Iterator[np.ndarray]:
    """What the next layer of `model` reads: code maps, or, where there is no layer yet, the middle
    of each image, the fraction `centre` of its sides."""
    if model.layers:
        for cell in source.read(n_threads):
            yield model.code_map(cell.pixels, n_threads=n_threads)
    else:
        for cell in model.read(source, n_threads):
            yield crop_centre(cell.pixels, centre, patch_size)


def smallest_side(layers: Sequence[tuple[int, int, int]]) -> int:
    """Smallest image side, px, for layers given as (patch_size, step, region), first to last."""
    cells = 1
    for patch_size, step, region in reversed(layers):
        n_windows = (cells - 1) * region + 1
        cells = patch_size + (n_windows - 1) * step
    return cells


_POOL_FUNCTIONS = {
    "mean": lambda z: z.mean(axis=0, dtype=np.float64),
    "max": lambda z: z.max(axis=0),
    "std": lambda z: z.std(axis=0, dtype=np.float64),
    "active": lambda z: (z != 0).mean(axis=0),
    "sqrt": lambda z: np.sign(m := z.mean(axis=0, dtype=np.float64)) * np.sqrt(np.abs(m)),
}


def pool_codes(codes: np.ndarray, pools: Sequence[str], masks: np.ndarray) -> np.ndarray:
    """Pool sparse codes (rows, columns, h) over the windows of each mask (n_regions, rows,
    columns) into one profile row, laid out as `feature_names`; zeros where a mask is empty."""
    parts = [codes[mask] if mask.any() else np.zeros_like(codes[0, :1]) for mask in masks]
    profile = [_POOL_FUNCTIONS[pool](part) for pool in pools for part in parts]
    return np.concatenate(profile).astype(np.float32)


def to_grey_levels(values: np.ndarray, pixel_input: str) -> np.ndarray:
    """Undo `wbcprof.patches.pixel_table`: values back to uint8 grey levels, clipped."""
    if pixel_input == "optical_density":
        levels = 256 * np.exp(-values * np.log(256)) - 1
    else:
        levels = 255 * (values if pixel_input == "raw" else 1 - values)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _batches(cells: Iterator[Cell]) -> Iterator[list[Cell]]:
    """Runs of consecutive images of one shape, at most `_BATCH_BYTES` of pixels each."""
    batch: list[Cell] = []
    for cell in cells:
        full = batch and (len(batch) + 1) * cell.pixels.nbytes > _BATCH_BYTES
        if full or (batch and batch[0].pixels.shape != cell.pixels.shape):
            yield batch
            batch = []
        batch.append(cell)
    if batch:
        yield batch
