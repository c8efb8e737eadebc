"""A learnt model: one or more layers, and what it does to images: profile, code, reconstruct."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import chain, pairwise, product
from typing import Any, BinaryIO, Unpack

import numpy as np

from wbcprof._shown import Shown
from wbcprof.checks import Choice, Integer
from wbcprof.files import json_value, naming
from wbcprof.images.depth import Depths
from wbcprof.images.source import Cell, ImageSource, open_images
from wbcprof.model.approximation import approximate
from wbcprof.model.arrays import digest_of, prefixed, under
from wbcprof.model.encoder import Encoder
from wbcprof.model.layer import Layer, code_maps
from wbcprof.model.machines import TypeMachines
from wbcprof.model.pooling import Pooling
from wbcprof.model.preprocessing import pixel_table, to_grey_levels, windows
from wbcprof.model.profiles import Profiles
from wbcprof.model.regions import check_windows
from wbcprof.model.settings import Coding, CodingOptions, Inference
from wbcprof.model.storage import read_model, write_model
from wbcprof.smear.canonical import SIDE, CanonicalForm
from wbcprof.smear.instrument import Instrument, instrument_from_json, measure_instrument
from wbcprof.smear.measures import MEASURES, examine
from wbcprof.smear.normalise import Normaliser, normaliser_from_json
from wbcprof.threads import resolve_threads

_BATCH_BYTES = 8 << 20  # images profiled in one kernel call
_TOLERANCE_SAMPLE = 32  # images that an approximate encoder is chosen on
_TILE_ROWS = 2048  # windows coded at a time where codes are kept
_FEW_CELLS = 20  # to adapt to
_CLASSIFIER = "classifier."
_POOLING = ("pools", "levels", "centres")
_MOST_REGIONS = 1 << 13
_MOST_FEATURES = 1 << 22  # of a profile
_MOST_HELD = 1 << 26  # values of the maps of an image
_BATCH_HELD = 1 << 24  # of all images profiled in one kernel call, where there are several


class AdaptationWarning(UserWarning):
    """A model was adapted to cells that say little of their laboratory."""


class ToleranceWarning(UserWarning):
    """Profiles made with a tolerance are further from the exact ones than it allows."""


@dataclass(eq=False, repr=False)
class Model(Shown):
    """Signatures and encoders learnt from images by `wbcprof.fit` or `wbcprof.Profiler`.

    Parameters
    ----------
    layers : list of Layer
        The first reads pixels, each later one the pooled code map of the one before.
    pooling : Pooling
        Statistics of the codes, and the regions that they are taken over.
    instrument : Instrument or None
        With which the images learnt from were taken.
    normaliser : CanonicalForm, StainNormaliser or None
        Every image is first brought to the form, or the colours, of those learnt from.
    parameters : dict
        Every parameter that the model was learnt with.
    provenance : dict
        Package version, number of images and patches, time.
    history : list of list of dict
        Per layer, the terms of the objective at each iteration.
    classifier : TypeMachines or None
        Trained on profiles of this model: a `wbcprof.TypeClassifier`, or what a file keeps of one.
    depths : mapping from "integer" or "float" to int, optional
        Bits of the images learnt from, where they were told by the largest values of the set: what
        is read later, a single image of it, is taken to have these at least.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> model.signatures.shape
    (8, 8, 8, 3)
    >>> model.parameters["alpha"], model.provenance["n_images"]
    (0.05, 12)
    >>> len(model.history[0])  # iterations of the first layer
    1
    """

    layers: list[Layer]
    pooling: Pooling = field(default_factory=Pooling)
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    history: list[list[dict[str, float]]] = field(default_factory=list, repr=False)
    classifier: TypeMachines | None = None
    normaliser: Normaliser | None = None
    instrument: Instrument | None = None
    depths: Depths | None = None

    def _told(self) -> dict[str, Any]:
        patches = (f"{la.n_signatures} signatures of {la.patch_size} px" for la in self.layers)
        return {
            "layers": ", then ".join(patches),
            "features": f"{len(self.feature_names)} ({', '.join(self.pooling.pools)})",
            "images are made": "no" if self.normaliser is None else self.normaliser.method,
            "learnt from": self.provenance.get("n_images"),
            "types": None if self.classifier is None else self.classifier.classes_.tolist(),
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], document: dict[str, Any]) -> Model:
        """The model whose `to_arrays` gave these.

        Raises
        ------
        ValueError, KeyError, TypeError, AttributeError, IndexError
            Something is missing, out of range, or does not fit the rest.
        """
        layers: list[Layer] = []
        for index, values in enumerate(document["layers"]):
            with naming(f"layer {index}"):
                layer = Layer.from_arrays(under(f"layers.{index}.", arrays), values)
                if (layer.pixel_input is None) != (index > 0):
                    raise ValueError("the first layer, and no other, reads pixels")
                if (layer.region is None) != (index == 0):
                    raise ValueError("region is for layers that read code maps")
                if layer.channels != (layers[-1].n_signatures if layers else 3):
                    raise ValueError("it must read RGB pixels, or one channel per signature")
            layers.append(layer)
        if not layers:
            raise ValueError("the model has no layers")
        own = (_CLASSIFIER, *(f"layers.{index}." for index in range(len(layers))))
        unknown = [name for name in arrays if not name.startswith(own)]
        if unknown:
            raise ValueError(f"it holds arrays that belong nowhere: {sorted(unknown)[:3]}")
        for name, kind in {"parameters": dict, "provenance": dict, "history": list}.items():
            if not isinstance(document[name], kind):
                raise ValueError(f"{name} must be a JSON {kind.__name__}")
        for entry in chain.from_iterable(document["history"]):
            if not all(type(value) in (int, float) for value in entry.values()):
                raise ValueError(f"history must hold numbers, got {entry!r}")
        pooling = Pooling(**{name: document["pooling"][name] for name in _POOLING})
        n_features = pooling.count_features(layers[-1].n_signatures)
        if pooling.n_regions > _MOST_REGIONS or n_features > _MOST_FEATURES:
            raise ValueError(
                f"profiles over {pooling.n_regions} regions are larger than a model's may be"
            )
        side = max(SIDE, smallest_side((one.patch_size, one.step, one.region) for one in layers))
        if _values_held(layers, n_features, (side, side), None) > _MOST_HELD:
            raise ValueError(
                f"the code maps of an image of {side} px are larger than a model's may be"
            )
        normaliser, instrument = document["normaliser"], document["instrument"]
        classifier = None
        if document["classifier"] is not None:
            with naming("stored classifier"):
                classifier = TypeMachines.from_arrays(
                    under(_CLASSIFIER, arrays), document["classifier"]
                )
                if classifier.n_features_in_ != n_features:
                    raise ValueError(
                        f"it is of profiles of {classifier.n_features_in_} features, the model's "
                        f"have {n_features} features"
                    )
        model = cls(
            layers,
            pooling,
            document["parameters"],
            document["provenance"],
            document["history"],
            classifier,
            None if normaliser is None else normaliser_from_json(normaliser),
            None if instrument is None else instrument_from_json(instrument),
            _checked_depths(document.get("depths")),
        )
        made_by = None if classifier is None else classifier.made_by_
        if made_by not in (None, model.fingerprint):
            raise ValueError(
                f"the classifier names profiles of the model {made_by}, and this is "
                f"{model.fingerprint}; learn it from profiles of this model"
            )
        if classifier is not None:
            classifier.feature_names_in_ = np.array(model.feature_names, dtype=object)
            classifier.coded_ = Coding().stated(model.layers[0].step)
        return model

    def to_arrays(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """For a file: all arrays, and what else there is as JSON has it."""
        arrays: dict[str, np.ndarray] = {}
        layers = []
        for index, layer in enumerate(self.layers):
            own, document = layer.to_arrays()
            arrays |= prefixed(f"layers.{index}.", own)
            layers.append(document)
        classifier = None
        if self.classifier is not None:
            own, classifier = self.classifier.to_arrays()
            arrays |= prefixed(_CLASSIFIER, own)
        return arrays, {
            "layers": layers,
            "pooling": self.pooling.to_json(),
            "normaliser": None if self.normaliser is None else self.normaliser.to_json(),
            "instrument": None if self.instrument is None else self.instrument.to_json(),
            "parameters": self.parameters,
            "provenance": self.provenance,
            "history": self.history,
            "classifier": classifier,
            **({"depths": dict(self.depths)} if self.depths else {}),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file that `wbcprof.load` reads; it is whole or absent.

        Parameters
        ----------
        path : str or path-like
            Any name; ``.wbcprof`` is customary.

        Raises
        ------
        ModelFileError
            `wbcprof.load` would refuse the file.

        Examples
        --------
        A classifier that the model holds is saved with it:

        >>> from tempfile import TemporaryDirectory
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> profiles = model.profile(cells.images)
        >>> model.classifier = wbcprof.TypeClassifier().fit(profiles, cells.labels)
        >>> with TemporaryDirectory() as home:
        ...     model.save(f"{home}/cells.wbcprof")
        ...     loaded = wbcprof.load(f"{home}/cells.wbcprof")
        >>> print(*loaded.classifier.predict(loaded.profile(cells.images[-2:])))
        neutrophil neutrophil
        """
        write_model(path, *self.to_arrays(), Model.from_arrays)

    def for_workers(self) -> Model:
        """What profiling needs of it, without what was learnt on the way."""
        return Model(self.layers, self.pooling, normaliser=self.normaliser, depths=self.depths)

    @property
    def min_size(self) -> int:
        """Smallest image side, px, that every layer can read.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> model.min_size
        24
        >>> sum(min(image.shape[:2]) >= model.min_size for image in cells.images)
        12
        """
        side = smallest_side(
            [(la.patch_size, la.step, la.region) for la in self.layers], self.pooling.levels
        )
        return side if self.normaliser is None else self.normaliser.least_side(side)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features of a profile, in order; see `wbcprof.model.Pooling`.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> len(model.feature_names)  # 3 pools of 8 signatures over 2 discs
        48
        >>> model.feature_names[0]
        'Cells_Sqrt_Signature_0001_Centre33'
        """
        return self.pooling.feature_names(self.layers[-1].n_signatures)

    @property
    def signatures(self) -> np.ndarray:
        """First-layer signatures as changes of brightness, (h, patch_size, patch_size, channels)
        float32: brought back to units of the pixel input, positive where the image is brighter.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> model.signatures.shape
        (8, 8, 8, 3)
        >>> ax = wbcprof.figures.signature_mosaic(model.signatures)
        """
        layer = self.layers[0]
        rows = layer.signatures
        if layer.preprocessing.unwhitener is not None:
            rows = rows @ layer.preprocessing.unwhitener
        if layer.pixel_input != "raw":
            rows = -rows
        return rows.reshape(-1, layer.patch_size, layer.patch_size, layer.channels)

    def profile(
        self,
        images: Any,
        *,
        labels: Iterable[Any] | None = None,
        n_threads: int | None = None,
        progress: Callable[[int, int | None], None] | None = None,
        **coding: Unpack[CodingOptions],
    ) -> Profiles:
        """Describe every cell by how much of each signature it takes to rebuild it.

        Parameters
        ----------
        images : folder, path, list of paths, array, or iterable of arrays
            See `wbcprof.images.open_images`. One (H, W, 3) array is one image.
        labels : iterable of (str or None), optional
            Types of the images, where known; a folder's sub-folders give them by default.
        n_threads : int, optional
            See `wbcprof.threads.resolve_threads`.
        progress : callable, optional
            Called with (images done, images offered or None).
        step : int, optional
            Distance between windows, px; the model's own by default.
        inference : {"feedforward", "sparse"}
            Codes predicted by the encoder, in one fused pass; or optimal sparse codes, slower.
        tolerance : float, optional
            Allow this relative error of the profiles, ``norm(approximate - exact) / norm(exact)``,
            for speed: squares of pixels are projected onto as few directions as keep it on the
            first images. Those, and one image of every later batch, are profiled exactly too; the
            metadata of the profiles state the error over these as ``relative_error``, and a
            `ToleranceWarning` says where it is larger. Worth it from some hundred images
            on. Exact by default.

        Returns
        -------
        Profiles

        Raises
        ------
        ValueError
            No image could be read, or a parameter is out of range.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> profiles = model.profile(cells.images, labels=cells.labels)
        >>> profiles.values.shape, profiles.ids[0], profiles.labels[0]
        ((12, 48), 'image_000000', 'atypical_lymphocyte')

        Optimal codes instead of predicted ones, at fewer windows:

        >>> optimal = model.profile(cells.images, inference="sparse", step=8)
        >>> optimal.metadata["inference"], optimal.metadata["step"]
        ('sparse', 8)
        """
        return self.profile_source(
            open_images(images, labels, min_size=self.min_size),
            Coding.of(coding),
            resolve_threads(n_threads),
            progress,
        )

    def profile_source(
        self,
        source: ImageSource,
        coding: Coding,
        n_threads: int,
        progress: Callable[[int, int | None], None] | None = None,
        before: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Profiles:
        """`profile` of an open source; `before` is done to pixels before they are normalised."""
        if coding.tolerance is not None and len(self.layers) > 1:
            raise ValueError("tolerance is for feed-forward profiles of one-layer models")
        encoder = self._encoder(coding)
        checked = None
        values: list[np.ndarray] = []
        ids: list[str] = []
        labels: list[str | None] = []
        measures: list[np.ndarray] = []
        held = partial(_values_held, self.layers, len(self.feature_names), step=coding.step)
        for batch in _batches(self.read(source, n_threads, before, measured=before is None), held):
            pixels = np.stack([cell.pixels for cell in batch])
            few = 1
            if coding.tolerance is not None and checked is None:
                few = _TOLERANCE_SAMPLE
                checked = _Checked(self, coding, n_threads)
                encoder = approximate(
                    encoder, pixels[:few], coding.tolerance, self.pooling, n_threads=n_threads
                )
            values.append(self._profile_batch(pixels, encoder, coding, n_threads))
            if checked is not None:
                checked.compare(values[-1][:few], pixels[:few])
            ids += [cell.image_id for cell in batch]
            labels += [cell.label for cell in batch]
            measures += [cell.measures for cell in batch if cell.measures is not None]
            if progress is not None:
                progress(len(ids), source.n_hint)
        metadata = self.metadata(coding)
        if checked is not None:
            metadata["relative_error"] = checked.error()
        return Profiles(
            np.concatenate(values),
            self.feature_names,
            ids,
            labels if any(label is not None for label in labels) else None,
            metadata,
            np.stack(measures) if measures else None,
            source.skipped,
        )

    def adapt(
        self,
        images: Any,
        labels: Iterable[Any] | None = None,
        *,
        pixel_size: float | None = None,
        n_threads: int | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Model:
        """A model of the same types for another laboratory, from its cells.

        All profiles of a laboratory are shifted in about the same direction; that is measured from
        its unlabelled cells, of whatever mix of types they are. Labels of some cells, ten a type
        do much, correct every type by itself. See `wbcprof.model.discriminant`.

        Parameters
        ----------
        images, labels
            As `wbcprof.images.open_images` takes them; a label may be unknown. Fifty cells and more
            are enough where none has a label.
        pixel_size : float, optional
            Micrometres for each pixel there; see `wbcprof.smear.measure_instrument`.
        n_threads : int, optional
        progress : callable, optional
            Called with (images done, images in all or None).

        Returns
        -------
        Model
            The signatures are this model's. ``provenance["adapted"]`` says from how many cells, and
            how far the laboratories are apart; `unadapted` undoes it. Adapting an adapted model
            starts from the model as learnt.

        Raises
        ------
        ValueError
            The model has no classifier, or one that is a support vector machine; a label is none of
            its types.

        Warns
        -----
        AdaptationWarning
            Fewer than 20 cells, or most show no leukocyte.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(8, size=96, types=["lymphocyte", "neutrophil"])  # generated
        >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
        >>> model.classifier = wbcprof.train(model, cells.images, cells.labels)
        >>> veiled = (cells.images // 2 + 100).astype(np.uint8)
        >>> there = model.adapt(np.concatenate([veiled, veiled]))
        >>> there.provenance["adapted"]["n_cells"]
        32
        """
        self._check_adaptable()
        threads = resolve_threads(n_threads)
        source = open_images(images, labels, min_size=self.min_size).kept(threads)
        instrument = measure_instrument(source, pixel_size=pixel_size, n_threads=threads)
        profiles = self.profile_source(source, Coding(), threads, progress)
        there = self.adapted_to(profiles, profiles.labels)
        there.provenance["adapted"]["instrument"] = instrument.to_json()
        return there

    def adapted_to(self, profiles: Profiles, labels: Sequence[str | None] | None) -> Model:
        """`adapt`, to profiles of this model with measures."""
        machines = self._check_adaptable()
        check_made_by(self, profiles)
        names = labels or [None] * len(profiles)
        types = [str(name) for name in machines.classes_.tolist()]
        foreign = sorted({name for name in names if name is not None} - set(types))
        if foreign:
            raise ValueError(
                f"labels must be types of the model, {', '.join(types)}, or unknown; got "
                f"{', '.join(foreign)}: learn a new classifier for other types"
            )
        codes = np.array([-1 if name is None else types.index(name) for name in names])
        classifier, apart = machines.adapted(profiles.values, codes, profiles.measures)
        n_empty = 0
        if profiles.measures is not None:
            n_empty = int(np.isnan(profiles.measures[:, MEASURES.index("NucleusSize")]).sum())
        if len(profiles) < _FEW_CELLS or n_empty > len(profiles) / 2:
            warnings.warn(
                f"the model was adapted to {len(profiles)} images, {n_empty} of which show no "
                f"leukocyte; give {_FEW_CELLS} cells or more",
                AdaptationWarning,
                stacklevel=3,
            )
        from wbcprof._version import __version__  # reads the distribution's metadata

        adapted = {
            "n_cells": len(profiles),
            "n_labelled": int((codes >= 0).sum()),
            "apart": round(apart, 2),
            "wbcprof": __version__,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        provenance = {**self.provenance, "adapted": adapted}
        return replace(self, classifier=classifier, provenance=provenance)

    def _check_adaptable(self) -> TypeMachines:
        machines = self.classifier
        if machines is None or machines.gaussians_ is None:
            raise ValueError(
                "only a model with a classifier of kernel 'discriminant' can be adapted, as "
                "wbcprof.train learns it; this one has "
                + ("none" if machines is None else f"one of kernel {machines.kernel!r}")
            )
        return machines

    def unadapted(self) -> Model:
        """The model as it was learnt, before `adapt`; itself where there is nothing to undo.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(10, size=72, types=["lymphocyte", "neutrophil"])  # generated
        >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
        >>> model.classifier = wbcprof.train(model, cells.images, cells.labels, augment=0)
        >>> there = model.adapt(cells.images)
        >>> "adapted" in there.provenance, "adapted" in there.unadapted().provenance
        (True, False)
        """
        if self.classifier is None:
            return self
        provenance = {name: v for name, v in self.provenance.items() if name != "adapted"}
        return replace(self, classifier=self.classifier.unadapted(), provenance=provenance)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that profiles depend on, 16 hexadecimal digits; profiles, shards and
        classifiers carry it. Layers, pooling and normaliser must not be changed after its first
        use.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
        >>> len(model.fingerprint)
        16
        >>> model.profile(cells.images).metadata["model"] == model.fingerprint
        True
        """
        arrays, document = self.for_workers().to_arrays()
        return digest_of(arrays, json.dumps(document, default=json_value, sort_keys=True))

    def metadata(self, coding: Coding) -> dict[str, Any]:
        """What profiles of this model, so coded, say of themselves."""
        stated = coding.stated(self.layers[0].step)
        return {"model": self.fingerprint, **stated, **self.provenance}

    def read(
        self,
        source: ImageSource,
        n_threads: int,
        before: Callable[[np.ndarray], np.ndarray] | None = None,
        *,
        measured: bool = False,
    ) -> Iterator[Cell]:
        """Cells of a source in the form that the model reads; see `read_cells`."""
        return read_cells(
            source, self.normaliser, n_threads, before, measured=measured, learnt=self.depths
        )

    def _encoder(self, coding: Coding) -> Encoder:
        """The last layer's; a step that is given is that of the first."""
        return self.layers[-1].encoder(coding.step if len(self.layers) == 1 else None)

    def _profile_batch(
        self, images: np.ndarray, encoder: Encoder, coding: Coding, n_threads: int
    ) -> np.ndarray:
        """Profiles of images (n, H, W, 3); `encoder` is that of the last layer."""
        layer = self.layers[-1]
        if layer.region is not None:
            images = code_maps(images, self.layers[:-1], layer.region, coding.step, n_threads)
        height, width = images.shape[1:3]
        check_windows(height, width, layer.patch_size, encoder.step, self.pooling.levels)
        if coding.inference == "feedforward":
            return encoder.encode_pool(images, self.pooling, n_threads=n_threads)
        regions = self.pooling.find_regions(
            images.shape[1], images.shape[2], layer.patch_size, encoder.step
        )
        rows = []
        for image in images:
            codes = codes_of(
                layer, image[regions.pixels], encoder.step, coding.inference, n_threads
            )
            rows.append(self.pooling.pool_codes(codes, regions.masks))
        return np.stack(rows)

    def codes(
        self,
        image: np.ndarray,
        *,
        inference: Inference = "feedforward",
        n_threads: int | None = None,
    ) -> np.ndarray:
        """First-layer codes of every window of one image, in the form that `as_read` gives.

        Parameters
        ----------
        image : ndarray of shape (H, W, 3), uint8
        inference : {"feedforward", "sparse"}
        n_threads : int, optional

        Returns
        -------
        ndarray of shape (rows, columns, h), float32

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> codes = model.codes(cells.images[0])  # 53 x 53 windows of 8 px, 2 px apart, of 112 px
        >>> codes.shape
        (53, 53, 8)
        >>> optimal = model.codes(cells.images[0], inference="sparse")
        >>> bool((optimal == 0).mean() > 0.25)  # sparse: many codes are zero
        True
        """
        layer = self.layers[0]
        coding = Coding(inference=inference)
        threads = resolve_threads(n_threads)
        pixels = self._one_image(image, layer.patch_size)
        return codes_of(layer, pixels, layer.step, coding.inference, threads)

    def reconstruct(
        self,
        image: np.ndarray,
        *,
        inference: Inference = "feedforward",
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
        ndarray, uint8
            Of the shape and in the colours of what `as_read` gives. A strip narrower than the step
            at the right and bottom edge, which no window covers, is covered by windows moved
            inward.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=48)  # generated
        >>> model = wbcprof.fit(
        ...     cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1
        ... )
        >>> rebuilt = [model.reconstruct(image) for image in cells.images[:3]]
        >>> rebuilt[0].shape, rebuilt[0].dtype.name
        ((112, 112, 3), 'uint8')
        >>> read = [model.as_read(image) for image in cells.images[:3]]
        >>> ax = wbcprof.figures.reconstructions(read, rebuilt)
        """
        layer = self.layers[0]
        coding = Coding(step, inference)
        threads = resolve_threads(n_threads)
        size, step = layer.patch_size, coding.step or layer.step
        if step > size:
            raise ValueError(f"step must lie between 1 and the patch size {size}, got {step}")
        pixels = self._one_image(image, size)
        height, width = pixels.shape[:2]
        total, count = np.zeros(pixels.shape, np.float64), np.zeros((height, width, 1))
        # The windows of the grid, then those that end exactly at the bottom and right edges.
        row_grids = [(0, height)] + [(height - size, height)] * ((height - size) % step > 0)
        column_grids = [(0, width)] + [(width - size, width)] * ((width - size) % step > 0)
        for rows, columns in product(row_grids, column_grids):
            region = np.s_[slice(*rows), slice(*columns)]
            for start, codes, centre, spread in _coded_rows(
                layer, pixels[region], step, coding.inference, threads
            ):
                rebuilt = layer.preprocessing.restore(
                    codes.reshape(-1, layer.n_signatures) @ layer.signatures, centre, spread
                ).reshape(*codes.shape[:2], size, size, -1)
                for i, j in np.ndindex(codes.shape[:2]):
                    y, x = (start + i) * step, j * step
                    total[region][y : y + size, x : x + size] += rebuilt[i, j]
                    count[region][y : y + size, x : x + size] += 1
        return to_grey_levels(total / count, layer.pixel_input or "raw")

    def as_read(self, image: np.ndarray) -> np.ndarray:
        """One image in the form that the layers read: its canonical cell, or in other colours.

        Parameters
        ----------
        image : ndarray of shape (H, W, 3), uint8

        Returns
        -------
        ndarray, uint8
            Of shape (112, 112, 3) for canonical cells, else that of the image.

        Examples
        --------
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> cells = make_leukocytes(2, size=72)  # generated
        >>> model = wbcprof.fit(cells.images, n_signatures=8, n_patches=400, max_iter=1)
        >>> model.as_read(cells.images[0]).shape
        (112, 112, 3)
        """
        return self._one_image(image, 1)

    def _one_image(self, image: np.ndarray, min_size: int) -> np.ndarray:
        if self.normaliser is not None:
            min_size = self.normaliser.least_side(min_size)
        (cell,) = self.read(open_images([image], min_size=min_size, on_error="raise"), 1)
        return cell.pixels


def load(path: str | os.PathLike[str] | bytes | BinaryIO) -> Model:
    """Read a model written by `Model.save`.

    Parameters
    ----------
    path : str, path, bytes or binary file
        The file by its name, what it holds, as services keep it in memory, or opened for bytes.

    Raises
    ------
    FileNotFoundError
        No such file.
    ModelFileError
        The file is damaged, truncated, not a wbcprof model, or of a newer format.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> with TemporaryDirectory() as home:
    ...     model.save(f"{home}/cells.wbcprof")
    ...     loaded = wbcprof.load(f"{home}/cells.wbcprof")
    >>> bool((loaded.signatures == model.signatures).all())
    True
    """
    return read_model(path, Model.from_arrays)


def profile(
    images: Any,
    model: Model,
    *,
    labels: Iterable[Any] | None = None,
    n_threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    **coding: Unpack[CodingOptions],
) -> Profiles:
    """Profiles of images under a model; see `Model.profile`.

    Examples
    --------
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> cells = make_leukocytes(2, size=48)  # generated
    >>> model = wbcprof.fit(cells.images, n_signatures=8, patch_size=8, n_patches=400, max_iter=1)
    >>> profiles = wbcprof.profile(cells.images, model, labels=cells.labels)
    >>> len(profiles), len(profiles.feature_names)
    (12, 48)
    >>> profiles.labels[-1]
    'neutrophil'
    """
    if not isinstance(model, Model):
        raise TypeError(
            "model must be a Model, as wbcprof.fit or wbcprof.load gives it, "
            f"got {type(model).__name__}"
        )
    return model.profile(images, labels=labels, n_threads=n_threads, progress=progress, **coding)


def check_made_by(model: Model, profiles: Profiles) -> None:
    """Refuse profiles of another model, or coded otherwise than types are learnt from.

    Raises
    ------
    ValueError
        Features, or what the metadata say of model and coding, are not this model's.
    """
    names = list(profiles.feature_names)
    if names != list(model.feature_names) and sorted(names) == sorted(model.feature_names):
        raise ValueError(
            "expected the features of profiles in the order of this model's, got them in another; "
            "reorder the columns by model.feature_names"
        )
    if names != list(model.feature_names):
        raise ValueError(
            f"expected profiles of this model, of {len(model.feature_names)} features, got "
            f"{len(profiles.feature_names)} of another; profile the images with this model"
        )
    for name, value in model.metadata(Coding()).items():
        found = profiles.metadata.get(name, value)
        if name not in model.provenance and found != value:
            of = "of another model" if name == "model" else "coded otherwise"
            raise ValueError(
                f"the profiles are {of}: {name} {found!r} rather than {value!r}; profile the "
                "images with this model, at its own settings"
            )


def read_cells(
    source: ImageSource,
    normaliser: Normaliser | None,
    n_threads: int,
    before: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    measured: bool = False,
    learnt: Depths | None = None,
) -> Iterator[Cell]:
    """Cells of a source, in the form of a normaliser where there is one; `before` comes first, but
    where it leaves less than the source's least side. `measured`: with their measures; `learnt`:
    see `ImageSource.read`."""
    if normaliser is None and before is None and not measured:
        return source.read(n_threads, learnt=learnt)
    form = normaliser if isinstance(normaliser, CanonicalForm) else None

    def change(pixels: np.ndarray) -> tuple[np.ndarray, str, np.ndarray | None]:
        made = pixels if before is None else before(pixels)
        if min(made.shape[:2]) >= source.min_size:
            pixels = made
        cell, note, measures = pixels, "", None
        if measured:
            cell, note, measures = examine(pixels, form)
        if not (measured and form is not None):
            cell, note = (pixels, "") if normaliser is None else normaliser.change(pixels)
        return cell, note, measures

    return source.read(n_threads, change, learnt)


def _checked_depths(given: Any) -> dict[str, int] | None:
    """The `depths` of a document, which may have none."""
    if given is None:
        return None
    return {
        Choice(("float", "integer")).check("depths", kind): Integer(8, 64).check("depths", bits)
        for kind, bits in sorted(given.items())
    }


def smallest_side(layers: Iterable[tuple[int, int, int | None]], levels: Sequence[int] = ()) -> int:
    """Smallest image side, px, for layers given as (patch_size, step, region), first to last, the
    last of which has windows for every part of these levels of a pyramid."""
    places = max(levels, default=1)  # that the layer above, or pooling, reads
    for patch_size, step, region in reversed(list(layers)):
        side = patch_size + (places - 1) * step
        places = side if region is None else (side - 1) * region + 1
    return places


class _Checked:
    """How far profiles made with a tolerance are from exact ones, over the images compared."""

    def __init__(self, model: Model, coding: Coding, n_threads: int):
        self._model, self._coding, self._n_threads = model, coding, n_threads
        self._squares = np.zeros(2)  # of the difference and of the exact profiles

    def compare(self, profiles: np.ndarray, images: np.ndarray) -> None:
        model, coding = self._model, self._coding
        exact = model._profile_batch(images, model._encoder(coding), coding, self._n_threads)
        self._squares += np.sum((profiles - exact) ** 2), np.sum(exact**2)

    def error(self) -> float:
        """Relative error; warns where it is larger than it may be."""
        difference, norm = self._squares
        error = float(np.sqrt(difference / norm)) if norm > 0 else 0.0
        if error > (self._coding.tolerance or 0):
            warnings.warn(
                f"the profiles differ from exact ones by {error:.1e}, more than the tolerance "
                f"of {self._coding.tolerance:.1e}: the first images are unlike the rest",
                ToleranceWarning,
                stacklevel=4,
            )
        return error


def codes_of(
    layer: Layer, image: np.ndarray, step: int, inference: Inference, n_threads: int
) -> np.ndarray:
    """Codes (rows, columns, h) of every window of an image in the form that a layer reads."""
    tiles = _coded_rows(layer, image, step, inference, n_threads)
    return np.concatenate([codes for _, codes, _, _ in tiles])


def _coded_rows(
    layer: Layer, image: np.ndarray, step: int, inference: Inference, n_threads: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
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


def _values_held(
    layers: Sequence[Layer], n_features: int, shape: Sequence[int], step: int | None
) -> int:
    """Values of the profile of an image of this shape, and of its code maps on the way to it;
    `step` is that of the first layer."""
    held = n_features
    sides = list(shape)
    for layer, above in pairwise(layers):
        windows = [(side - layer.patch_size) // (step or layer.step) + 1 for side in sides]
        sides = [-(-n // (above.region or 1)) for n in windows]
        held += math.prod(sides) * layer.n_signatures
        step = None
    return held


def _batches(cells: Iterator[Cell], held: Callable[[Sequence[int]], int]) -> Iterator[list[Cell]]:
    """Runs of consecutive images of one shape, at most `_BATCH_BYTES` of pixels and `_BATCH_HELD`
    values each, of which so many are `held` of an image."""
    batch: list[Cell] = []
    for cell in cells:
        n = len(batch) + 1
        full = batch and (
            n * cell.pixels.nbytes > _BATCH_BYTES or n * held(cell.pixels.shape[:2]) > _BATCH_HELD
        )
        if full or (batch and batch[0].pixels.shape != cell.pixels.shape):
            yield batch
            batch = []
        batch.append(cell)
    if batch:
        yield batch
