"""Learning a model from images: random patches, one PSD per layer, a scikit-learn transformer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from wbcprof._version import version
from wbcprof.images import ImageSource, open_images
from wbcprof.layer import Layer
from wbcprof.model import Model, layer_inputs, smallest_side
from wbcprof.patches import PatchStream, pixel_table, positive_integer
from wbcprof.profiles import Profiles
from wbcprof.psd import PSD, RemotePatches
from wbcprof.stain import StainNormaliser, check_stain

_STACK_DEFAULTS = {
    "n_signatures": 256,
    "patch_size": 2,
    "step": 1,
    "region": 4,
    "n_patches": 20_000,
}
_STAIN_IMAGES = 500  # that the colours are learnt from, at most

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "n_signatures": 1024,
        "patch_size": 20,
        "step": 5,
        "pools": ("mean",),
        "levels": (1,),
        "centres": (),
        "learn_centre": 1.0,
        "stain": None,
    },
}
"""Named settings of `Profiler`: its defaults, and what the paper states of its own."""


def preset_parameters(preset: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a preset, `parameters` going before them."""
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {preset!r}")
    return {**PRESETS[preset], **parameters}


class Profiler(TransformerMixin, BaseEstimator):
    """Stacked Predictive Sparse Decomposition, sliding window and pooling over images.

    Parameters
    ----------
    n_signatures : int, default=512
        Signatures of the first layer.
    patch_size : int, default=6
        Side of a patch, px.
    step : int, default=3
        Distance between the windows of a profile, px.
    pools : str or sequence of str, default=("sqrt", "std", "max")
        Statistics of the codes over the windows: "mean" (the paper's), "max", "std", "active"
        (fraction of windows with the code active), "sqrt" (signed square root of the mean);
        several are concatenated.
    levels : sequence of int, default=()
        Spatial pyramid; level L pools over L x L parts of the image, 1 over all of it.
    centres : sequence of float, default=(0.33, 0.61)
        Central discs to pool over, by diameter as a fraction of the image's shorter side: for
        images cut out around one cell each.
    stain : {"background", "reinhard", "macenko"} or None, default="background"
        Bring every image to the colours of those learnt from; see `wbcprof.stain`: the light alone
        ("background"), or the stain too, for images of another laboratory. None takes colours as
        they are.
    pixel_input : {"raw", "inverted", "optical_density"}, default="inverted"
        See `wbcprof.patches.pixel_table`.
    preprocessing, whiten, encoder, positive, alpha, kappa, max_iter, tol
        See `PSD`.
    n_patches : int, default=50_000
        Random patches that signatures are learnt on.
    learn_centre : float, default=0.67
        They come from the middle of the image, this fraction of its height and width.
    stack : sequence of dict, default=()
        Further layers, each learnt on the pooled code maps of the one before, as Stacked PSD
        does. Keys, all optional: ``n_signatures`` (256), ``patch_size`` and ``step`` in cells of
        the map (2, 1), ``region`` (4: codes of 4 x 4 windows are max-pooled into one cell) and
        ``n_patches`` (20,000).
    random_state : int, default=0
    n_threads : int, optional
    verbose : bool, default=False
        Print one line per learning iteration.
    memory_budget : int, default=2**29
        Bytes that the patches may take. Where `n_patches` need more, each iteration draws fresh
        ones, in rounds that fit; memory then does not grow with `n_patches`.
    checkpoint : path, optional
        See `PSD`; stacked layers add ``.layer1`` and so on to the name.

    Attributes
    ----------
    model_ : Model
        What was learnt; it can be saved and used with NumPy alone.
    psd_ : list of PSD
        The fitted layers.

    References
    ----------
    Yan et al., WBC-Profiler, 2018; Chang et al., Stacked Predictive Sparse Decomposition for
    Classification of Histology Sections, IJCV 113, 2015.
    """

    def __init__(
        self,
        n_signatures: int = 512,
        patch_size: int = 6,
        step: int = 3,
        *,
        pools: str | Sequence[str] = ("sqrt", "std", "max"),
        levels: Sequence[int] = (),
        centres: Sequence[float] = (0.33, 0.61),
        stain: str | None = "background",
        pixel_input: str = "inverted",
        preprocessing: str = "dataset_mean",
        whiten: bool = False,
        encoder: str = "rectified",
        positive: bool = True,
        alpha: float = 0.05,
        kappa: float = 0.1,
        n_patches: int = 50_000,
        learn_centre: float = 0.67,
        max_iter: int = 100,
        tol: float = 3e-3,
        stack: Sequence[Mapping[str, Any]] = (),
        random_state: int = 0,
        n_threads: int | None = None,
        verbose: bool = False,
        memory_budget: int = 512 << 20,
        checkpoint: str | os.PathLike | None = None,
    ):
        self.n_signatures = n_signatures
        self.patch_size = patch_size
        self.step = step
        self.pools = pools
        self.levels = levels
        self.centres = centres
        self.stain = stain
        self.pixel_input = pixel_input
        self.preprocessing = preprocessing
        self.whiten = whiten
        self.encoder = encoder
        self.positive = positive
        self.alpha = alpha
        self.kappa = kappa
        self.n_patches = n_patches
        self.learn_centre = learn_centre
        self.max_iter = max_iter
        self.tol = tol
        self.stack = stack
        self.random_state = random_state
        self.n_threads = n_threads
        self.verbose = verbose
        self.memory_budget = memory_budget
        self.checkpoint = checkpoint

    def fit(self, images, y=None, client=None) -> Profiler:
        """Learn signatures and encoders, without labels.

        Parameters
        ----------
        images : folder, path, list of paths, array, or iterable of arrays
            See `wbcprof.images.open_images`. An iterator that can be read only once is held in
            memory.
        y : ignored
        client : distributed.Client, optional
            Learn on the workers of this Dask cluster, which hold the patches and must see image
            files at the same paths. Batches are larger than on one machine, so the model differs
            from that learnt there; it does not depend on the number of workers.

        Returns
        -------
        Profiler

        Raises
        ------
        ValueError
            A parameter is out of range, or no image could be read.
        """
        started = time.perf_counter()
        self._check_parameters()
        sizes = [(s["patch_size"], s["step"]) for s in self._stack_settings()]
        regions = [s["region"] for s in self._stack_settings()]
        steps = [(self.patch_size, self.step), *sizes]
        min_size = smallest_side(
            [(*step, region) for step, region in zip(steps, [*regions, 1], strict=True)]
        )
        source = open_images(images, min_size=min_size)
        if source.n_hint is None:
            source = open_images(
                [cell.pixels for cell in source.read(self.n_threads)], min_size=min_size
            )
        model = Model([], self.pools, self.levels, centres=self.centres)
        if self.stain is not None:
            model.stain = self._learn_stain(source, self.stain)
        self.psd_: list[PSD] = []

        first = {name: getattr(self, name) for name in ("n_signatures", "patch_size", "step")}
        self._learn_layer(model, source, client, **first, n_patches=self.n_patches)
        for settings in self._stack_settings():
            model.layers[-1].region = settings.pop("region")
            self._learn_layer(model, source, client, **settings)
        model.parameters = {k: v for k, v in self.get_params().items() if k != "checkpoint"}
        model.provenance = {
            "wbcprof": version(),
            "learnt": datetime.now(UTC).isoformat(timespec="seconds"),
            "n_images": source.n_hint - len(source.skipped),
            "n_patches": self.psd_[0].history_[-1]["patches"],
            "seconds": round(time.perf_counter() - started, 1),
        }
        self.model_ = model
        return self

    def _learn_stain(self, source: ImageSource, method: str) -> StainNormaliser:
        """Colours of some of the images, spread over all."""
        sample = source.sample(_STAIN_IMAGES, self.n_threads)
        first = list(islice(sample, 1))
        if not first:  # these are all unusable; others may not be, or the error says why
            sample = (cell.pixels for cell in source.read(self.n_threads))
        return StainNormaliser.learn(chain(first, sample), method)

    def _learn_layer(
        self, model, source, client, n_signatures, patch_size, step, n_patches
    ) -> None:
        pixel_input = None if model.layers else self.pixel_input
        table = None if pixel_input is None else pixel_table(pixel_input)
        checkpoint = self.checkpoint
        if checkpoint is not None and model.layers:
            checkpoint = f"{os.fspath(checkpoint)}.layer{len(model.layers)}"
        psd = PSD(
            n_signatures,
            alpha=self.alpha,
            kappa=self.kappa,
            positive=self.positive,
            encoder=self.encoder,
            preprocessing=self.preprocessing,
            whiten=self.whiten,
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=self.random_state,
            n_threads=self.n_threads,
            verbose=self.verbose,
            checkpoint=checkpoint,
        )
        patches: PatchStream | RemotePatches
        drawing = (patch_size, n_patches, self.random_state, table)
        if client is None:
            patches = PatchStream(
                lambda: layer_inputs(model, source, self.learn_centre, patch_size, self.n_threads),
                source.n_hint,
                *drawing,
                self.memory_budget,
            )
            psd.fit(patches)
        else:
            from wbcprof.cluster_patches import patches_on_cluster

            with patches_on_cluster(client, source, model, self.learn_centre, *drawing) as patches:
                psd.fit(patches)
        self.psd_.append(psd)
        model.history.append(psd.history_)
        model.layers.append(
            Layer(
                signatures=psd.components_,
                weights=psd.encoder_weights_,
                bias=psd.encoder_bias_,
                gain=psd.encoder_gain_,
                threshold=psd.encoder_threshold_,
                nonlinearity=self.encoder,
                preprocessing=psd.preprocessing_,
                patch_size=patch_size,
                channels=patches.shape[1] // patch_size**2,
                alpha=self.alpha,
                kappa=self.kappa,
                positive=self.positive,
                pixel_input=pixel_input,
                step=step,
            )
        )

    def _stack_settings(self) -> list[dict[str, int]]:
        return [{**_STACK_DEFAULTS, **settings} for settings in self.stack]

    def _check_parameters(self) -> None:
        positive = ("n_signatures", "patch_size", "step", "n_patches", "max_iter", "memory_budget")
        for name in positive:
            positive_integer(name, getattr(self, name))
        seed = self.random_state
        if (
            isinstance(seed, bool)
            or not isinstance(seed, int | np.integer)
            or not 0 <= seed < 2**32
        ):
            raise ValueError(f"random_state must be an integer from 0 to 2**32 - 1, got {seed!r}")
        if self.step > self.patch_size:
            raise ValueError(
                f"step must be at most the patch size ({self.patch_size} px), so that every pixel "
                f"is seen; got {self.step}"
            )
        if self.stain is not None:
            check_stain(self.stain)
        if not 0 < self.learn_centre <= 1:
            raise ValueError(
                f"learn_centre must lie above 0 and be at most 1, got {self.learn_centre!r}"
            )
        for settings in self.stack:
            unknown = (
                settings if isinstance(settings, str) else set(settings) - set(_STACK_DEFAULTS)
            )
            if unknown:
                raise ValueError(
                    f"a stacked layer takes the keys {sorted(_STACK_DEFAULTS)}, "
                    f"got {sorted(unknown)}"
                )
            for name, value in settings.items():
                positive_integer(f"{name} of a stacked layer", value)

    def transform(self, images) -> np.ndarray:
        """Profiles of shape (n_images, n_features), float32; see `Model.profile`.

        An image that cannot be read is an error here, since rows must match the images one by one.
        """
        check_is_fitted(self)
        source = open_images(images, min_size=self.model_.min_size, on_error="raise")
        return self.model_.profile(source, n_threads=self.n_threads).values

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Names of the features of a profile."""
        check_is_fitted(self)
        return np.array(self.model_.feature_names, dtype=object)


def fit(
    images,
    n_signatures: int | None = None,
    patch_size: int | None = None,
    *,
    preset: str = "default",
    client=None,
    **parameters,
) -> Model:
    """Learn signatures and their encoder from images, without labels.

    Parameters
    ----------
    images : folder, path, list of paths, array, or iterable of arrays
        See `wbcprof.images.open_images`.
    n_signatures, patch_size : int, optional
        Of the first layer; the preset's by default.
    preset : {"default", "paper"}
        "paper": 1024 signatures of 20 x 20 px, step 5, pooled by the mean over the whole image.
    client : distributed.Client, optional
        Learn on the workers of this Dask cluster; see `Profiler.fit`.
    **parameters
        Of `Profiler`, such as ``alpha``; they go before the preset's.

    Returns
    -------
    Model

    Examples
    --------
    >>> model = wbcprof.fit("cells/", n_signatures=256)        # doctest: +SKIP
    >>> profiles = wbcprof.profile("cells/", model)            # doctest: +SKIP
    """
    given = {"n_signatures": n_signatures, "patch_size": patch_size}
    parameters |= {name: value for name, value in given.items() if value is not None}
    profiler = Profiler(**preset_parameters(preset, parameters))
    return profiler.fit(images, client=client).model_


def profile(
    images,
    model: Model,
    step: int | None = None,
    n_threads: int | None = None,
    *,
    labels: Iterable[Any] | None = None,
    inference: str = "feedforward",
    tolerance: float | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Profiles:
    """Profiles of images under a model; see `Model.profile`."""
    if not isinstance(model, Model):
        raise TypeError(
            "model must be a Model, as wbcprof.fit or wbcprof.load gives it, "
            f"got {type(model).__name__}"
        )
    return model.profile(
        images,
        labels=labels,
        step=step,
        inference=inference,
        tolerance=tolerance,
        n_threads=n_threads,
        progress=progress,
    )
