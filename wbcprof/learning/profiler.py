"""Learning a model from images: random patches, one PSD per layer, a scikit-learn transformer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from wbcprof._version import __version__
from wbcprof.checks import C_INT, Choice, Integer, Maybe, Real, check, shown
from wbcprof.images.source import ImageSource, open_images
from wbcprof.learning.learner import RemotePatches
from wbcprof.learning.psd import PSD
from wbcprof.learning.sample import LayerInput, PatchStream
from wbcprof.model.layer import Layer
from wbcprof.model.model import Model, smallest_side
from wbcprof.model.pooling import Pooling
from wbcprof.model.preprocessing import PIXEL_INPUTS
from wbcprof.smear.instrument import RULE as PIXEL_SIZE
from wbcprof.smear.instrument import measure_instrument
from wbcprof.smear.normalise import NORMALISERS, RULE, Normaliser, learn_normaliser
from wbcprof.threads import resolve_threads

if TYPE_CHECKING:
    from distributed import Client

RULES = {
    "patch_size": Integer(),
    "step": C_INT,
    "normalise": Maybe(RULE),
    "pixel_input": Choice(PIXEL_INPUTS),
    "n_patches": Integer(),
    "learn_centre": Real(above=0, most=1),
    "augment": Integer(0),
    "pixel_size": PIXEL_SIZE,
    "random_state": Integer(0, 2**32 - 1),
    "memory_budget": Integer(),
}
_STACKED = {
    "n_signatures": 256,
    "patch_size": 2,
    "step": 1,
    "region": 4,
    "n_patches": 20_000,
}
_OF_LAYER = ("n_signatures", "patch_size", "step", "region")
AUTO = "auto"
_REFERENCE_IMAGES = 500  # that the form is learnt from, at most

PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "n_components": 512,
        "patch_size": 6,
        "step": 2,
        "pools": ("sqrt", "std", "max"),
        "levels": (),
        "centres": (0.33, 0.66),
        "learn_centre": 0.67,
        "normalise": "canonical",
        "augment": 3,
    },
    "paper": {
        "n_components": 1024,
        "patch_size": 20,
        "step": 5,
        "pools": ("mean",),
        "levels": (1,),
        "centres": (),
        "learn_centre": 1.0,
        "normalise": None,
        "augment": 0,
    },
}
"""What "auto" means to `Profiler`, and how many signatures it learns without a `psd`: the defaults,
and what the paper states."""

_FREE = ("learning_rate", "batch_size", "max_iter", "tol")
"""Settings of a layer that may be others where learning goes on from it."""

_OF_LEARNING = ("n_patches", "learn_centre", "augment", "memory_budget", "random_state")


class Profiler(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Stacked Predictive Sparse Decomposition, sliding window and pooling over images.

    Parameters
    ----------
    patch_size : int, default="auto"
        Side of a patch, px. "auto", here and below, is 6 by default, 20 in the preset "paper".
    step : int, default="auto"
        Distance between the windows of a profile, px: 2, or 5.
    pools, levels, centres : default="auto"
        What a profile pools, and over which regions; see `wbcprof.model.Pooling`: ("sqrt", "std",
        "max"), () and (0.33, 0.66); or ("mean",), (1,) and (). Discs suit images cut out around one
        cell each.
    normalise : {"canonical", "background", "reinhard", "macenko"} or None, default="auto"
        "canonical", or None. The first finds the leukocyte of every image and brings it to one
        scale, place, light and stain; see `wbcprof.smear.canonical`. The others change colours
        alone and leave scale and place; see `wbcprof.smear.stain`. None takes images as they are.
    pixel_input : {"raw", "inverted", "optical_density"}, default="inverted"
        See `wbcprof.model.preprocessing.pixel_table`.
    n_patches : int, default=50_000
        Random patches that signatures are learnt on.
    learn_centre : float, default="auto"
        0.67, or 1.0. They come from the middle of the image, this fraction of its height and width.
    augment : int, default="auto"
        3, or 0. Jittered copies of every image (see `wbcprof.smear.jitter`) that `wbcprof.train`
        learns types from beside the image, so that they are known in other laboratories too; where
        there are any, half of the images that signatures are learnt from are jittered as well. 0 is
        none.
    pixel_size : float, optional
        Micrometres for each pixel, for what the model says of its instrument; by default measured,
        see `wbcprof.smear.measure_instrument`.
    psd : PSD, optional
        How signatures and encoder of every layer are learnt; ``PSD(512)``, or ``PSD(1024)``. Its
        `random_state`, `n_threads`, `verbose` and `checkpoint` are those of the profiler.
    stack : sequence of dict, default=()
        Further layers, each learnt on the pooled code maps of the one before, as Stacked PSD
        does. Keys, all optional: ``n_signatures`` (256), ``patch_size`` and ``step`` in places of
        the map (2, 1), ``region`` (4: codes of 4 x 4 windows are max-pooled into one place) and
        ``n_patches`` (20,000).
    random_state : int, default=0
    n_threads : int, optional
    verbose : bool or int, default=False
        See `PSD`.
    memory_budget : int, default=2**29
        Bytes that the patches may take. Where `n_patches` need more, each iteration draws fresh
        ones, in rounds that fit; memory then does not grow with `n_patches`.
    checkpoint : path, optional
        See `PSD`; stacked layers add ``.layer1`` and so on to the name.
    preset : {"default", "paper"}, default="default"
        What "auto" means. "paper": 1024 signatures of 20 x 20 px, step 5, from whole images as
        they are, pooled by the mean over the whole image.

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

    Examples
    --------
    Types of images, by a scikit-learn pipeline:

    >>> from sklearn.pipeline import make_pipeline
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> psd = wbcprof.PSD(8, max_iter=1)
    >>> profiler = wbcprof.Profiler(patch_size=8, n_patches=400, psd=psd)
    >>> pipeline = make_pipeline(profiler, wbcprof.TypeClassifier()).fit(cells.images, cells.labels)
    >>> print(*pipeline.predict(cells.images[-2:]))
    neutrophil neutrophil
    """

    def __init__(
        self,
        patch_size: int | str = AUTO,
        step: int | str = AUTO,
        *,
        pools: str | Sequence[str] = AUTO,
        levels: str | Sequence[int] = AUTO,
        centres: str | Sequence[float] = AUTO,
        normalise: str | None = AUTO,
        pixel_input: str = "inverted",
        n_patches: int = 50_000,
        learn_centre: float | str = AUTO,
        augment: int | str = AUTO,
        pixel_size: float | None = None,
        psd: PSD | None = None,
        stack: Sequence[Mapping[str, Any]] = (),
        random_state: int = 0,
        n_threads: int | None = None,
        verbose: bool | int = False,
        memory_budget: int = 512 << 20,
        checkpoint: str | os.PathLike[str] | None = None,
        preset: str = "default",
    ):
        self.patch_size = patch_size
        self.step = step
        self.pools = pools
        self.levels = levels
        self.centres = centres
        self.normalise = normalise
        self.pixel_input = pixel_input
        self.n_patches = n_patches
        self.learn_centre = learn_centre
        self.augment = augment
        self.pixel_size = pixel_size
        self.psd = psd
        self.stack = stack
        self.random_state = random_state
        self.n_threads = n_threads
        self.verbose = verbose
        self.memory_budget = memory_budget
        self.checkpoint = checkpoint
        self.preset = preset

    def fit(
        self,
        images: Any,
        y: object = None,
        client: Client | None = None,
        model: Model | None = None,
    ) -> Profiler:
        """Learn signatures and encoders, without labels; or go on learning those of a model.

        Where learning goes on, all that gives signatures, lambda and features their meaning stays:
        the form that images are brought to, with its reference of light and stain, the
        preprocessing of patches, and how codes are pooled. The layers learn on in turn, from the
        first, each from the codes of the one below as it has become. Signatures follow the images
        given and forget those that are not: give those learnt from again, beside new ones, to
        keep what they taught. Profiles and classifiers of the model before do not go with the one
        after.

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
        model : Model, optional
            Go on from what it has learnt, for `max_iter` iterations at most, whose steps are as
            small as if its own had just ended. `wbcprof.fit` takes its settings from it.

        Returns
        -------
        Profiler

        Raises
        ------
        ValueError
            A parameter is out of range, or not that of the `model`, or no image could be read.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> psd = wbcprof.PSD(8, max_iter=1)
        >>> profiler = wbcprof.Profiler(patch_size=8, n_patches=400, psd=psd)
        >>> profiler.fit(cells.images).model_.signatures.shape
        (8, 8, 8, 3)

        Going on from a model, whose classifier the new one does not have:

        >>> model = profiler.model_
        >>> further = profiler.fit(cells.images, model=model).model_
        >>> len(model.history[0]), len(further.history[0])
        (1, 2)
        """
        started = time.perf_counter()
        given, pooling, stack = self._check_parameters()
        if model is not None:
            self._check_goes_on(model)
        threads = resolve_threads(self.n_threads)
        min_size = self.min_size
        source = open_images(images, min_size=min_size).kept(threads)
        normaliser: Normaliser | None = None
        if model is not None:
            normaliser = model.normaliser
        elif given["normalise"] is not None:
            normaliser = self._learn_normaliser(source, given["normalise"], threads)

        self.psd_: list[PSD] = []
        layers: list[Layer] = []
        for index, settings in enumerate(stack):
            drawn = LayerInput(
                layers=tuple(layers),
                normaliser=normaliser,
                augment=given["augment"] > 0,
                pixel_input=given["pixel_input"] if index == 0 else None,
                region=settings["region"],
                centre=given["learn_centre"],
                patch_size=settings["patch_size"],
                n_patches=settings["n_patches"],
                random_state=given["random_state"],
                depths=None if model is None else model.depths,
            )
            psd = self._psd(index, settings["n_signatures"])
            with self._patches(source, drawn, client, threads) as patches:
                if model is None:
                    psd.fit(patches)
                else:
                    before = (model.history[index : index + 1] or [[]])[0]
                    psd.fit_from(patches, model.layers[index], before)
            self.psd_.append(psd)
            layers.append(
                psd.to_layer(drawn.patch_size, settings["step"], drawn.pixel_input, drawn.region)
            )
        provenance: dict[str, Any] = {
            "wbcprof": __version__,
            "learnt": datetime.now(UTC).isoformat(timespec="seconds"),
            "n_images": source.n - len(source.skipped),
            "n_patches": int(self.psd_[0].history_[-1]["patches"]),
            "seconds": round(time.perf_counter() - started, 1),
        }
        instrument = None if model is None else model.instrument
        if model is None:
            instrument = measure_instrument(
                source, pixel_size=given["pixel_size"], n_threads=threads
            )
        else:
            provenance["gone_on_from"] = {"model": model.fingerprint, **model.provenance}
        self.model_ = Model(
            layers,
            pooling,
            parameters=self._parameters(),
            provenance=provenance,
            history=[psd.history_ for psd in self.psd_],
            normaliser=normaliser,
            instrument=instrument,
            depths=_deeper(source.depths, {} if model is None else model.depths or {}) or None,
        )
        return self

    @property
    def min_size(self) -> int:
        """Smallest image side, px, that all layers to be learnt can read.

        Examples
        --------
        >>> import wbcprof
        >>> wbcprof.Profiler(patch_size=8, normalise=None).min_size
        8
        >>> wbcprof.Profiler(patch_size=8, normalise=None, stack=[{}]).min_size  # sees more
        16
        """
        given, pooling, stack = self._check_parameters()
        side = smallest_side(
            ((settings["patch_size"], settings["step"], settings["region"]) for settings in stack),
            pooling.levels,
        )
        form = given["normalise"]
        return side if form is None else NORMALISERS[form].least_side(side)

    def _own(self) -> dict[str, Any]:
        """Every parameter, with what the preset says for "auto"."""
        Choice(tuple(PRESETS)).check("preset", self.preset)
        preset = PRESETS[self.preset]
        return {
            name: preset[name] if name in preset and _is_auto(value) else value
            for name, value in self.get_params(deep=False).items()
        }

    def _check_parameters(self) -> tuple[dict[str, Any], Pooling, list[dict[str, Any]]]:
        """Parameters, pooling, and the settings of every layer: the keys of `_STACKED`."""
        own = self._own()
        given = check(RULES, **own)
        if given["step"] > given["patch_size"]:
            raise ValueError(
                f"step must be at most the patch size ({given['patch_size']} px), so that every "
                f"pixel is seen; got {given['step']}"
            )
        first = {name: given[name] for name in ("patch_size", "step", "n_patches")}
        settings = self._psd(0).layer_settings()
        stack = [{"n_signatures": settings.n_components, "region": None, **first}]
        is_list = isinstance(self.stack, Sequence) and not isinstance(self.stack, str)
        if not is_list or not all(isinstance(layer, Mapping) for layer in self.stack):
            raise ValueError(
                "stack must be a list of mappings, one for each further layer, such as "
                f"[{{'n_signatures': 64}}], got {shown(self.stack)}"
            )
        for layer in self.stack:
            if unknown := set(layer) - set(_STACKED):
                raise ValueError(
                    f"a stacked layer takes the keys {sorted(_STACKED)}, got {sorted(unknown)}"
                )
            for name, value in layer.items():
                Integer().check(f"{name} of a stacked layer", value)
            stack.append({**_STACKED, **layer})
        return given, Pooling(own["pools"], own["levels"], own["centres"]), stack

    def _check_goes_on(self, model: Model) -> None:
        """Refuse parameters that what the model has learnt does not go with."""
        _, pooling, stack = self._check_parameters()
        stacked = [{name: layer[name] for name in _OF_LAYER} for layer in stack[1:]]
        own = {**self._parameters(), **pooling.to_json(), "stack": stacked}
        for name, there in made_of(model).items():
            here = own[name]
            if name not in _FREE and here != there:
                raise ValueError(
                    f"{name} is {there!r} in the model to go on from, and {here!r} here; give "
                    "the model's, or call wbcprof.fit(images, model=model), which takes it from it"
                )

    def _psd(self, index: int, n_components: int | None = None) -> PSD:
        """An estimator for one layer."""
        default = PRESETS[self.preset]["n_components"]
        psd: PSD = PSD(default) if self.psd is None else clone(self.psd)
        checkpoint = self.checkpoint
        if checkpoint is not None and index > 0:
            checkpoint = f"{os.fspath(checkpoint)}.layer{index}"
        psd.set_params(
            random_state=self.random_state,
            n_threads=self.n_threads,
            verbose=self.verbose,
            checkpoint=checkpoint,
        )
        return psd if n_components is None else psd.set_params(n_components=n_components)

    @contextmanager
    def _patches(
        self, source: ImageSource, drawn: LayerInput, client: Client | None, n_threads: int
    ) -> Iterator[PatchStream | RemotePatches]:
        if client is None:
            yield PatchStream(
                lambda: drawn.read(source, n_threads), source.n, drawn, self.memory_budget
            )
            return
        from wbcprof.learning.cluster import patches_on_cluster

        with patches_on_cluster(client, source, drawn) as patches:
            yield patches

    def _parameters(self) -> dict[str, Any]:
        """What the model was learnt with, by the names that `fit` takes."""
        own = self._own() | self._psd(0).get_params()
        own["n_signatures"] = own.pop("n_components")
        left_out = ("psd", "checkpoint", "preset")
        return {name: value for name, value in own.items() if name not in left_out}

    def _learn_normaliser(self, source: ImageSource, method: str, n_threads: int) -> Normaliser:
        """The form of some of the images, spread over all."""
        sample = source.sample(_REFERENCE_IMAGES, n_threads)
        first = list(islice(sample, 1))
        if not first:  # these are all unusable; others may not be, or the error says why
            sample = (cell.pixels for cell in source.read(n_threads))
        return learn_normaliser(chain(first, sample), method)

    def transform(self, images: Any) -> np.ndarray:
        """Profiles of shape (n_images, n_features), float32; see `Model.profile`.

        An image that cannot be read is an error here, since rows must match the images one by one.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> psd = wbcprof.PSD(8, max_iter=1)
        >>> profiler = wbcprof.Profiler(patch_size=8, n_patches=400, psd=psd)
        >>> profiler.fit(cells.images).transform(cells.images[:3]).shape
        (3, 48)
        """
        check_is_fitted(self)
        source = open_images(images, min_size=self.model_.min_size, on_error="raise")
        return self.model_.profile(source, n_threads=self.n_threads).values

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Names of the features of a profile.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> psd = wbcprof.PSD(8, max_iter=1)
        >>> profiler = wbcprof.Profiler(patch_size=8, n_patches=400, psd=psd)
        >>> profiler.fit(cells.images).get_feature_names_out()[[0, -1]].tolist()
        ['Cells_Sqrt_Signature_0001_Centre33', 'Cells_Max_Signature_0008_Centre66']
        """
        check_is_fitted(self)
        return np.array(self.model_.feature_names, dtype=object)


def make_profiler(preset: str = "default", **parameters: Any) -> Profiler:
    """A profiler by the names that `fit` takes: what `Profiler` does not know goes to its `PSD`,
    and ``n_signatures`` is the ``n_components`` of that.

    Raises
    ------
    ValueError
        The preset is unknown.
    TypeError
        A parameter is unknown to both.
    """
    Choice(tuple(PRESETS)).check("preset", preset)
    if "n_signatures" in parameters:
        n_signatures = parameters.pop("n_signatures")
        parameters["n_components"] = Integer().check("n_signatures", n_signatures)
    known = Profiler().get_params(deep=False).keys()
    own = {name: value for name, value in parameters.items() if name in known}
    rest = {name: value for name, value in parameters.items() if name not in known}
    unknown = rest.keys() - PSD().get_params().keys()
    if unknown:
        raise TypeError(
            f"{', '.join(sorted(unknown))}: no such parameter of wbcprof.Profiler or wbcprof.PSD"
        )
    if rest:
        if own.get("psd") is not None:
            raise TypeError(f"{', '.join(sorted(rest))}: give them to the psd that you give")
        own["psd"] = PSD(**{"n_components": PRESETS[preset]["n_components"], **rest})
    return Profiler(preset=preset, **own)


def made_of(model: Model) -> dict[str, Any]:
    """What a model is made of, by the names that `fit` takes."""
    first = model.layers[0]
    settings = asdict(first.settings)
    settings["n_signatures"] = settings.pop("n_components")
    stack = [{name: getattr(layer, name) for name in _OF_LAYER} for layer in model.layers[1:]]
    return {
        **settings,
        **{name: getattr(first, name) for name in ("patch_size", "step", "pixel_input")},
        **model.pooling.to_json(),
        "normalise": None if model.normaliser is None else model.normaliser.method,
        "stack": stack,
    }


def _learnt_with(model: Model) -> dict[str, Any]:
    """What `fit` learns more of the same model with."""
    told, made = model.parameters, made_of(model)
    stacks = zip(told.get("stack") or made["stack"], made["stack"], strict=True)
    made["stack"] = [{**layer, **of_layer} for layer, of_layer in stacks]
    return {name: told[name] for name in _OF_LEARNING if name in told} | made


def _deeper(some: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    return {kind: max(some.get(kind, 0), others.get(kind, 0)) for kind in {*some, *others}}


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == AUTO


def fit(
    images: Any,
    n_signatures: int | None = None,
    patch_size: int | None = None,
    *,
    preset: str = "default",
    client: Client | None = None,
    model: Model | None = None,
    **parameters: Any,
) -> Model:
    """Learn signatures and their encoder from images, without labels; or go on learning a model's.

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
    model : Model, optional
        Go on from this model, with its settings; see `Profiler.fit`. It stays as it is.
    **parameters
        Of `Profiler`, such as ``step``, or of `PSD`, such as ``alpha``; they go before the
        preset's.

    Returns
    -------
    Model

    Raises
    ------
    ValueError, TypeError
        A parameter is out of range or unknown, or no image could be read.

    Examples
    --------
    Few and small signatures from few patches, so that this runs at once:

    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> model.signatures.shape
    (8, 8, 8, 3)

    The paper's settings, but for those that are given:

    >>> small = {"n_signatures": 8, "n_patches": 400, "max_iter": 1}
    >>> paper = wbcprof.fit(cells.images, preset="paper", **small)
    >>> paper.signatures.shape, paper.feature_names[0]
    ((8, 20, 20, 3), 'Cells_Mean_Signature_0001')

    Going on, with more images:

    >>> more = make_leukocytes(2, size=48, random_state=1)
    >>> further = wbcprof.fit([*cells.images, *more.images], model=model)
    >>> further.fingerprint == model.fingerprint
    False
    """
    given = {"n_signatures": n_signatures, "patch_size": patch_size}
    parameters |= {name: value for name, value in given.items() if value is not None}
    if model is not None:
        if preset != "default":
            raise ValueError(
                f"a preset is for a new model: going on from one keeps its settings, got {preset!r}"
            )
        parameters = _learnt_with(model) | parameters
    return make_profiler(preset, **parameters).fit(images, client=client, model=model).model_
