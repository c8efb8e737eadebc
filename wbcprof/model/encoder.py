"""Encoder: a linear filter bank with a nonlinearity, prepared for the compiled kernel.

A window x of an image gives the codes ``g f((W x) / s + b)``, in one of the forms that
`wbcprof.model.forms` lists.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from wbcprof import _core
from wbcprof.checks import C_INT, Choice, Integer
from wbcprof.model.forms import Approximation, Form, cook_toom_matrices, list_forms
from wbcprof.model.pooling import STATISTICS, Pooling
from wbcprof.threads import alone, resolve_threads

NONLINEARITIES = tuple(_core.NONLINEARITIES)

_MEAN = Pooling()
_MANY_WINDOWS = 1 << 20  # of a region: sums in float32 lose digits, and ones stop at 2^24
_MOST_PACKED = 1 << 28  # values of transformed filters
_LARGEST = 1e15  # pixel, filter, response and code: sums of squares of 1e8 of them are in float32


class Encoder:
    """Codes of all windows of images, pooled, without storing windows or codes.

    Parameters
    ----------
    filters : (h, p, p, c) array
        Weights W over the pixel values of a window, preprocessing folded in.
    offset, gain : (h,) arrays
        b and g.
    threshold : (h,) array, optional
        Required by soft_threshold, refused otherwise.
    nonlinearity : {"sigmoid", "tanh", "rectified", "soft_threshold"}
        f(a): 1/(1+exp(-a)), tanh(a), max(0, a), sign(a) max(0, \\|a\\| - threshold).
    step : int
        Pixels from a window to the next.
    contrast_epsilon : float, optional
        If given, s = sqrt(variance of the window's p*p*c values + contrast_epsilon), else s = 1.
    pixel_table : (256,) array, optional
        Value of each uint8 pixel; default v / 255. Float images are taken as they are.
    form : str, optional
        Name of the form to use, one of `list_forms`; default: the one with the least counted work
        for the image size.

    Raises
    ------
    ValueError
        If shapes, numbers or names are out of range; so are numbers that could give codes above
        1e15, whose statistics float32 cannot hold.
    """

    def __init__(
        self,
        filters: np.ndarray,
        offset: np.ndarray,
        gain: np.ndarray,
        threshold: np.ndarray | None = None,
        *,
        nonlinearity: str,
        step: int,
        contrast_epsilon: float | None = None,
        pixel_table: np.ndarray | None = None,
        form: str | None = None,
    ) -> None:
        filters = np.asarray(filters, dtype=np.float64)
        if filters.ndim != 4 or filters.shape[1] != filters.shape[2] or 0 in filters.shape:
            raise ValueError(
                "filters must be signatures x patch x patch x channels with equal sides, "
                f"got shape {filters.shape}"
            )
        if not np.isfinite(filters).all():
            raise ValueError("filters must be finite, got NaN or infinity")
        Choice(NONLINEARITIES).check("nonlinearity", nonlinearity)
        if (threshold is not None) != (nonlinearity == "soft_threshold"):
            raise ValueError(
                "threshold goes with nonlinearity 'soft_threshold' and with no other, got "
                f"{nonlinearity!r} {'without' if threshold is None else 'with'} threshold"
            )
        step = C_INT.check("step", step)
        if contrast_epsilon is not None and not 0 < np.float32(contrast_epsilon) < math.inf:
            raise ValueError(
                "contrast_epsilon must be positive and finite in float32, or None, "
                f"got {contrast_epsilon!r}"
            )
        if pixel_table is None:
            pixel_table = np.arange(256) / 255

        shape: tuple[int, ...] = filters.shape
        self.n_signatures, self.patch, _, self.channels = shape
        self.step = step
        self.nonlinearity = nonlinearity
        self.contrast_epsilon = contrast_epsilon
        self._forms = {form.name: form for form in list_forms(self.patch, self.step)}
        if form is not None and form not in self._forms:
            raise ValueError(f"form must be one of {list(self._forms)}, got {form!r}")
        self._form = form
        self.filters = filters
        self._weight = float(np.abs(filters).sum(axis=(1, 2, 3)).max())
        self._pixel_table = _as_vector(pixel_table, 256, "pixel_table")
        colour = np.einsum("syxc->sc", filters)  # five times as fast as sum(axis=(1, 2))
        self._colour = self._pad(colour.astype(np.float32))
        self._offset = self._pad(_as_vector(offset, self.n_signatures, "offset"))
        self.gain = _as_vector(gain, self.n_signatures, "gain")
        self._gain = self._pad(self.gain)
        if threshold is None:
            threshold = np.zeros(self.n_signatures)
        self._threshold = self._pad(_as_vector(threshold, self.n_signatures, "threshold"))
        if (self._threshold < 0).any():
            raise ValueError(f"threshold must not be negative, got {self._threshold.min()}")
        self._check_range("pixel_table", self._pixel_table)
        self.approximation: Approximation | None = None
        self._forget_prepared()

    def _check_range(self, name: str, pixels: np.ndarray) -> None:
        """Refuse pixels that are not finite or that the largest filters could take too far."""
        largest = max(float(pixels.max(initial=0)), -float(pixels.min(initial=0)))
        if not largest < math.inf:
            raise ValueError(f"{name} must be finite in float32, got NaN or infinity")
        contrast = math.sqrt(self.contrast_epsilon or 1)
        response = 2 * largest * self._weight / contrast + float(np.abs(self._offset).max())
        code = max(response, 1) * float(np.abs(self._gain).max())
        if not max(largest, self._weight, response, code) <= _LARGEST:
            raise ValueError(
                f"{name} and encoder must give codes of at most {_LARGEST:.0e}, got values of up "
                f"to {largest:.1e} that may give {max(self._weight, response, code):.1e}"
            )

    def _forget_prepared(self) -> None:
        self._prepared: dict[Form, _core.Filters] = {}
        self._chosen: dict[tuple[int, int], Form] = {}

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_prepared", "_chosen")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget_prepared()

    def encode_pool(
        self,
        images: np.ndarray,
        pooling: Pooling = _MEAN,
        *,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """Profile of every image.

        Parameters
        ----------
        images : (n, height, width, c) array, uint8 or float
            At least p pixels high and wide. Floats must be finite.
        pooling : Pooling
            Windows of no region are not encoded but for those between the discs and their bounding
            square. A region without windows gives 0.
        n_threads : int, optional
            See `wbcprof.threads.resolve_threads`. Results have the same bits for any number.

        Returns
        -------
        (n, len(pools) * n_regions * h) float32 array
            Layout [pool][region: levels in order, row major, then centres][signature].

        Raises
        ------
        ValueError, TypeError
            If the images do not fit.
        """
        images = self._check_images(images)
        regions = pooling.find_regions(images.shape[1], images.shape[2], self.patch, self.step)
        images = np.ascontiguousarray(images[:, *regions.pixels])
        statistics = self._run(images, regions.part_of_window, pooling.pools, n_threads)
        merged = [statistics.merge(parts) for parts in regions.parts]
        pooled = [region.pool(pool) for pool in pooling.pools for region in merged]
        return np.concatenate(pooled, axis=1)

    def encode_map(
        self,
        images: np.ndarray,
        region: int,
        pool: str = "max",
        *,
        n_threads: int | None = None,
    ) -> np.ndarray:
        """Map of codes pooled over regions of windows: the input of a stacked layer.

        Parameters
        ----------
        images
            As in `encode_pool`.
        region : int
            Windows along a region's side; regions at the far edges may hold fewer.
        pool
            One of those of `encode_pool`.

        Returns
        -------
        (n, ceil(rows / region), ceil(columns / region), h) float32 array
        """
        images = self._check_images(images)
        Choice(tuple(STATISTICS)).check("pool", pool)
        region = Integer().check("region", region)
        rows, columns = self.count_windows(*images.shape[1:3])
        grid = math.ceil(rows / region), math.ceil(columns / region)
        parts = np.arange(rows)[:, None] // region * grid[1] + np.arange(columns) // region
        statistics = self._run(images, parts.astype(np.int32), [pool], n_threads)
        return statistics.pool(pool).reshape(len(images), *grid, self.n_signatures)

    def projected(self, approximation: Approximation) -> Encoder:
        """A copy whose kernel sees squares of pixels projected as the approximation says."""
        encoder = copy.copy(self)
        square = approximation.square
        encoder._forms = {name: form for name, form in self._forms.items() if form.square == square}
        encoder.approximation = approximation
        return encoder

    def shift_offsets(self, shift: np.ndarray) -> None:
        """Add `shift` (h,) to the offsets of a copy that nobody has yet."""
        self._offset = self._offset + self._pad(shift.astype(np.float32))

    def values_of(self, images: np.ndarray) -> np.ndarray:
        """Values of the pixels of images, floats as they are."""
        checked = self._check_images(images)
        return self._pixel_table[checked] if checked.dtype == np.uint8 else checked

    def count_windows(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of windows of an image of `height` x `width` pixels."""
        if min(height, width) < self.patch:
            raise ValueError(
                f"images must be at least {self.patch} pixels high and wide, the side of a patch, "
                f"got {height} x {width}"
            )
        return (height - self.patch) // self.step + 1, (width - self.patch) // self.step + 1

    def choose_form(self, height: int, width: int) -> Form:
        """The form used for images of `height` x `width` pixels."""
        rows, columns = self.count_windows(height, width)
        if self._form is not None:
            return self._forms[self._form]
        if (rows, columns) not in self._chosen:
            direct, *others = self._forms.values()
            packed = len(self._offset) * self.channels  # values of the filters, times those below
            others = [
                form for form in others if packed * (form.points * form.square) ** 2 <= _MOST_PACKED
            ]
            self._chosen[rows, columns] = min(
                [direct, *others],
                key=lambda form: form.count_work(
                    rows, columns, self._count_features(form), self.n_signatures
                ),
            )
        return self._chosen[rows, columns]

    def _count_features(self, form: Form) -> int:
        if self.approximation is not None:
            return int(self.approximation.analysis.shape[1])
        return form.square**2 * self.channels

    def describe(self, height: int, width: int) -> dict[str, object]:
        """How images of `height` x `width` pixels are encoded.

        Returns
        -------
        dict
            form (name), windows (number), products_per_window (multiplications per window and
            signature), direct_products_per_window, instruction_set, relative_error (of an
            approximate encoder, measured on its sample; 0 for an exact one).
        """
        rows, columns = self.count_windows(height, width)
        form = self.choose_form(height, width)
        products = form.count_products(rows, columns, self._count_features(form))
        return {
            "form": form.name,
            "windows": rows * columns,
            "products_per_window": products / (rows * columns),
            "direct_products_per_window": self.patch**2 * self.channels,
            "instruction_set": _core.instruction_set(),
            "relative_error": self.approximation.relative_error if self.approximation else 0.0,
        }

    def prepare(self, height: int, width: int) -> None:
        """Transform and pack the filters for images of this size now, not at the first image."""
        self._prepare(self.choose_form(height, width))

    def _prepare(self, form: Form) -> _core.Filters:
        with alone():
            if form not in self._prepared:
                self._prepared[form] = self._transform_filters(form)
            return self._prepared[form]

    def _transform_filters(self, form: Form) -> _core.Filters:
        _, kernel, _ = cook_toom_matrices(form.tile, form.taps)
        excess = form.taps * form.square - self.patch
        padding = -self.n_signatures % _core.SIGNATURE_BLOCK
        filters = self.filters
        if padding or excess:
            filters = np.pad(filters, ((0, padding), (0, excess), (0, excess), (0, 0)))
        squares = filters.reshape(
            len(filters) // _core.SIGNATURE_BLOCK,
            _core.SIGNATURE_BLOCK,
            form.taps,
            form.square,
            form.taps,
            form.square * self.channels,
        )
        n_pixels = form.square**2 * self.channels
        shape = len(squares), form.points**2, self._count_features(form), _core.SIGNATURE_BLOCK
        packed = _empty_aligned(shape)
        for block, target in zip(squares, packed, strict=True):  # s y i x j -> (x y) (i j) s
            block = block.transpose(1, 3, 2, 4, 0).reshape(form.taps, form.taps, -1)
            # Products this small are not spread over BLAS's threads, which start slowly.
            points = kernel @ (kernel @ block).swapaxes(0, 1)
            points = points.reshape(len(target), n_pixels, -1)
            if self.approximation is not None:
                points = self.approximation.synthesis.T @ points
            target[...] = points
        projection = None
        if self.approximation is not None:
            analysis = self.approximation.analysis.astype(np.float32)
            projection = np.pad(analysis, ((0, 0), (0, -analysis.shape[1] % 16)))
        input_transforms = np.zeros((form.tile, form.points, form.points), np.float32)
        output_transforms = np.zeros((form.tile, form.tile, form.points), np.float32)
        for tile in range(1, form.tile + 1):
            input_transform, _, output_transform = cook_toom_matrices(tile, form.taps)
            points = tile + form.taps - 1
            input_transforms[tile - 1, :points, :points] = input_transform
            output_transforms[tile - 1, :tile, :points] = output_transform
        return _core.Filters(
            patch=self.patch,
            step=self.step,
            square=form.square,
            dilation=form.dilation,
            taps=form.taps,
            tile=form.tile,
            input_transforms=input_transforms,
            output_transforms=output_transforms,
            projection=projection,
            filters=packed,
        )

    def _units(self) -> _core.Units:
        return _core.Units(
            offset=self._offset,
            gain=self._gain,
            threshold=self._threshold,
            colour=self._colour,
            nonlinearity=self.nonlinearity,
            contrast_epsilon=self.contrast_epsilon,
            pixel_table=self._pixel_table,
        )

    def _run(
        self,
        images: np.ndarray,
        part_of_window: np.ndarray,
        pools: Sequence[str],
        n_threads: int | None,
    ) -> _Statistics:
        n_threads = resolve_threads(n_threads)
        form = self.choose_form(*images.shape[1:3])
        filters = self._prepare(form)
        count = np.bincount(part_of_window.ravel())[:, None]
        shape = len(images), len(count), len(self._offset)
        needed = {what for pool in pools for what in STATISTICS[pool].needs}

        def allocate(wanted: bool, value: float) -> np.ndarray | None:
            return np.full(shape, value, np.float32) if wanted else None

        moments = not needed.isdisjoint({"mean", "variance"})
        wants_square = "variance" in needed
        statistics = _core.Statistics(
            shift=allocate(moments, np.nan),
            sum=allocate(moments, 0),
            square=allocate(wants_square, 0),
            lost=np.zeros((3, *shape), np.float32)
            if wants_square or count.max() > _MANY_WINDOWS
            else None,
            max=allocate("max" in needed, -np.inf),
            active=allocate("active" in needed, 0),
        )
        if len(images):
            _core.encode_pool(
                filters,
                self._units(),
                images,
                part_of_window,
                len(count),
                statistics,
                n_threads,
            )

        def trim(statistic: np.ndarray) -> np.ndarray:
            return statistic[..., : self.n_signatures]

        mean = variance = largest = active = None
        divisor = count.astype(np.float32)
        if statistics.shift is not None and statistics.sum is not None:
            mean = trim(statistics.sum) / divisor
            if statistics.square is not None:
                variance = np.maximum(trim(statistics.square) / divisor - mean**2, 0)
            mean += trim(statistics.shift)
        if statistics.max is not None:
            largest = trim(statistics.max)
        if statistics.active is not None:
            active = trim(statistics.active) / divisor
        return _Statistics(count, mean, variance, largest, active)

    def _check_images(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[3] != self.channels:
            raise ValueError(
                f"images must be n x height x width x {self.channels}, got shape {images.shape}"
            )
        self.count_windows(*images.shape[1:3])
        if images.dtype == np.uint8:
            return np.ascontiguousarray(images)
        if images.dtype.kind != "f":
            raise TypeError(f"images must be uint8 or float, got {images.dtype}")
        images = np.ascontiguousarray(images, dtype=np.float32)
        self._check_range("images", images)
        return images

    def _pad(self, array: np.ndarray) -> np.ndarray:
        """Zeros along the first axis up to a whole number of blocks of signatures."""
        excess = -self.n_signatures % _core.SIGNATURE_BLOCK
        return np.pad(array, [(0, excess)] + [(0, 0)] * (array.ndim - 1))


class _Statistics(NamedTuple):
    """Statistics of the codes of each part, (n, parts, h); None if not wanted."""

    n_windows: np.ndarray  # (parts, 1)
    mean: np.ndarray | None
    variance: np.ndarray | None
    max: np.ndarray | None
    active: np.ndarray | None

    def merge(self, parts: np.ndarray) -> _Statistics:
        """Statistics (n, h) of the union of some parts, in a fixed order; zeros if none."""
        if len(parts) == 0:
            return self._map(lambda v: np.zeros_like(v[:, 0]))
        if len(parts) == 1:
            return self._map(lambda v: v[:, parts[0]])
        weight = self.n_windows[parts]

        def average(values: np.ndarray) -> np.ndarray:
            result: np.ndarray = (values * weight).sum(axis=1) / weight.sum()
            return result

        mean = variance = largest = active = None
        if self.mean is not None:
            means = self.mean[:, parts].astype(np.float64)
            origin = means[:, :1]
            mean = origin[:, 0] + average(means - origin)
            if self.variance is not None:
                variance = average(self.variance[:, parts] + (means - mean[:, None]) ** 2)
        if self.max is not None:
            largest = self.max[:, parts].max(axis=1)
        if self.active is not None:
            active = average(self.active[:, parts])
        return _Statistics(weight.sum(), mean, variance, largest, active)

    def _map(self, change: Callable[[np.ndarray], np.ndarray]) -> _Statistics:
        statistics = (self.mean, self.variance, self.max, self.active)
        return _Statistics(
            change(self.n_windows[None]), *(v if v is None else change(v) for v in statistics)
        )

    def pool(self, name: str) -> np.ndarray:
        """One pool of every region, float32."""
        statistic = STATISTICS[name]
        values: np.ndarray = statistic.finish(*(getattr(self, what) for what in statistic.needs))
        return values.astype(np.float32, copy=False)


def _empty_aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised float32 array that starts at a cache line: no vector load straddles two."""
    line = 64
    size = math.prod(shape) * 4
    memory = np.empty(size + line, np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size].view(np.float32).reshape(shape)


def _as_vector(values: np.ndarray, length: int, name: str) -> np.ndarray:
    values = np.ascontiguousarray(values, dtype=np.float32)
    if values.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite in float32, got NaN or infinity")
    return values
