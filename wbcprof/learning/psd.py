"""Predictive Sparse Decomposition as an estimator: one layer, learnt on patch rows.

`wbcprof.learning.learner` states what is learnt and how.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from wbcprof._version import __version__
from wbcprof.checks import unmasked
from wbcprof.files import check_output, tell
from wbcprof.learning.checkpoint import read_checkpoint, write_checkpoint
from wbcprof.learning.learner import Learner, RemotePatches
from wbcprof.learning.sample import PatchRows, PatchStream
from wbcprof.model.layer import MOST_VALUES, Layer, predict
from wbcprof.model.preprocessing import Preprocessing
from wbcprof.model.settings import LayerSettings
from wbcprof.model.sparse import sparse_code
from wbcprof.threads import one_blas_thread, resolve_threads

SAMPLE_PATCHES = 30_000  # that preprocessing and start are fitted on

_FREE = ("max_iter", "tol")  # settings that may change where learning goes on

_Patches = np.ndarray | PatchRows | PatchStream | RemotePatches


class PSD(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """One layer of Predictive Sparse Decomposition: signatures and the encoder that predicts codes.

    Parameters
    ----------
    n_components : int, default=1024
        Number of signatures h.
    alpha : float, default=0.05
        Weight of sparsity in 1/2 ||x - z B||^2 + alpha ||z||_1, at a root-mean-square patch norm
        of 1. Half of the paper's lambda.
    kappa : float, default=0.1
        Weight of the prediction term; 0 learns codes first and foremost, and the encoder follows.
    rho : float, default=1.0
        Weight of the prediction's own task, to rebuild the patch sparsely, in the encoder's step.
    positive : bool, default=True
        Non-negative codes: with mean pooling, signed codes cancel between patches. They go with
        the nonlinearities "rectified" and "sigmoid", signed ones with "tanh" and "soft_threshold".
    nonlinearity : {"rectified", "sigmoid", "tanh", "soft_threshold"}, default="rectified"
        s in F = g * s(X W' + b).
    preprocessing : {"none", "dataset_mean", "patch_mean", "contrast"}, default="dataset_mean"
        See `wbcprof.model.preprocessing.Preprocessing`.
    whiten : bool, default=False
        ZCA-whiten the patches, so that signatures live in whitened space.
    batch_size : int, default=1000
        Patches per step.
    learning_rate : float, default=0.1
        Step of Adam on the encoder, divided by the number of signatures (errors of units add up in
        what they rebuild), and by 1 + 0.3 t in iteration t; ten times that for "sigmoid", whose
        weights are larger.
    max_iter : int, default=100
        Passes over the patches at most.
    tol : float, default=3e-3
        Learning ends when the objective has fallen by less than this fraction in each of two
        iterations in succession.
    random_state : int, RandomState instance or None, default=None
    n_threads : int, optional
        See `wbcprof.threads.resolve_threads`.
    verbose : bool or int, default=False
        Print one line per iteration; 2: with what happened to codes and signatures on the way.
    checkpoint : path, optional
        File that `fit` keeps its state in, written after each iteration and never removed. Where
        it exists, `fit` goes on from it, to the same result as without an interruption. A file of
        other parameters or patches is refused; `max_iter`, `tol` and `n_threads` may differ.

    Attributes
    ----------
    components_ : ndarray of shape (h, m), float32
        Signatures B, rows of unit norm, in preprocessed space.
    encoder_weights_ : ndarray of shape (h, m), float32
    encoder_bias_, encoder_gain_ : ndarray of shape (h,), float32
    encoder_threshold_ : ndarray of shape (h,), float32, or None
        theta of "soft_threshold".
    preprocessing_ : Preprocessing
    history_ : list of dict
        Per iteration: objective and its terms (per patch), relative reconstruction errors
        ||X - Z B|| / ||X|| of codes and prediction, non-zero codes per patch, patches, signatures
        replaced, seconds. The last entry also holds the errors of the encoder and signatures as
        learnt, on up to 4,000 patches: ``error_inferred`` of predicted codes, ``error_optimal`` of
        optimal ones (kappa = 0), and how many of those are non-zero, ``nonzero_optimal``.
    n_iter_ : int
    n_features_in_ : int

    References
    ----------
    Kavukcuoglu, Ranzato, LeCun, Fast inference in sparse coding algorithms with applications to
    object recognition, 2008; Chang et al., IJCV 113, 2015; Mairal et al., Online dictionary
    learning for sparse coding, 2009 (the update of B).

    Examples
    --------
    >>> import numpy as np
    >>> import wbcprof
    >>> from wbcprof.datasets import make_leukocytes
    >>> image = make_leukocytes(1, size=64).images[0]  # generated
    >>> windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3))[::3, ::3]
    >>> patches = windows.reshape(-1, 192) / 255
    >>> psd = wbcprof.PSD(8, max_iter=2, random_state=0).fit(patches)
    >>> codes = psd.transform(patches)
    >>> codes.shape, bool((codes >= 0).all())
    ((361, 8), True)
    """

    def __init__(
        self,
        n_components: int = LayerSettings.n_components,
        *,
        alpha: float = LayerSettings.alpha,
        kappa: float = LayerSettings.kappa,
        rho: float = LayerSettings.rho,
        positive: bool = LayerSettings.positive,
        nonlinearity: str = LayerSettings.nonlinearity,
        preprocessing: str = LayerSettings.preprocessing,
        whiten: bool = LayerSettings.whiten,
        batch_size: int = LayerSettings.batch_size,
        learning_rate: float = LayerSettings.learning_rate,
        max_iter: int = LayerSettings.max_iter,
        tol: float = LayerSettings.tol,
        random_state: int | np.random.RandomState | None = None,
        n_threads: int | None = None,
        verbose: bool | int = False,
        checkpoint: str | os.PathLike[str] | None = None,
    ):
        self.n_components = n_components
        self.alpha = alpha
        self.kappa = kappa
        self.rho = rho
        self.positive = positive
        self.nonlinearity = nonlinearity
        self.preprocessing = preprocessing
        self.whiten = whiten
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.n_threads = n_threads
        self.verbose = verbose
        self.checkpoint = checkpoint

    def fit(self, X: ArrayLike | _Patches, y: object = None) -> PSD:
        """Learn signatures and encoder.

        Parameters
        ----------
        X : array-like of shape (n_patches, m), PatchRows, PatchStream or RemotePatches
            Patch rows.
        y : ignored

        Returns
        -------
        PSD

        Raises
        ------
        ValueError
            NaN or infinite values, patches without signal, or a parameter out of range.

        Warns
        -----
        ConvergenceWarning
            What was learnt rebuilds patches no better than zeros do.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> image = make_leukocytes(1, size=64).images[0]  # generated
        >>> windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3))[::3, ::3]
        >>> patches = windows.reshape(-1, 192) / 255
        >>> psd = wbcprof.PSD(8, max_iter=3, tol=0, random_state=0).fit(patches)
        >>> psd.components_.shape, psd.n_iter_
        ((8, 192), 3)
        >>> psd.history_[-1]["objective"] < psd.history_[0]["objective"]
        True
        """
        return self._fit(X, None, ())

    def fit_from(
        self, X: ArrayLike | _Patches, layer: Layer, history: Sequence[dict[str, float]]
    ) -> PSD:
        """`fit` that starts from a layer, not anew; its preprocessing stays as it is. Iterations
        are added to its `history`, from which their step counts on: `max_iter` more at most."""
        return self._fit(X, layer, history)

    def _fit(
        self, X: ArrayLike | _Patches, layer: Layer | None, history: Sequence[dict[str, float]]
    ) -> PSD:
        settings, threads = self.layer_settings(), resolve_threads(self.n_threads)
        patches = self._check_patches(X, settings, reset=True)
        path = self.checkpoint
        self._n_before = len(history)
        with one_blas_thread():
            identity = {} if path is None else self._identity(patches, settings, layer)
            if path is not None and os.path.exists(path):
                self._resume(path, identity, settings, threads)
            else:
                self._start(patches, settings, threads, layer)
                self.history_: list[dict[str, float]] = [dict(entry) for entry in history]
            while self._n_passes < settings.max_iter and not self._settled(settings.tol):
                self.history_.append(self._pass(patches))
                if self.verbose:
                    line = _describe(len(self.history_), self.history_[-1], self.verbose > 1)
                    tell(line, sys.stdout)
                if path is not None:
                    self._save(path, identity)
            self._finish(patches, threads)
        self._warn_of_failure()
        return self

    def partial_fit(self, X: ArrayLike, y: object = None) -> PSD:
        """One pass over a batch of patches; the first call fits the preprocessing and starts.

        Later calls go on with the same parameters; `tol`, `n_threads` and `verbose` may differ.

        Parameters
        ----------
        X : array-like of shape (n_patches, m)
        y : ignored

        Returns
        -------
        PSD

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> image = make_leukocytes(1, size=64).images[0]  # generated
        >>> windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3))[::3, ::3]
        >>> patches = windows.reshape(-1, 192) / 255
        >>> psd = wbcprof.PSD(8, random_state=0)
        >>> for batch in np.array_split(patches, 3):
        ...     psd = psd.partial_fit(batch)
        >>> psd.n_iter_
        3
        """
        first = not hasattr(self, "_learner")
        settings, threads = self.layer_settings(), resolve_threads(self.n_threads)
        patches = self._check_patches(X, settings, reset=first)
        if not first:
            self._check_unchanged(settings)
        with one_blas_thread():
            if first:
                self._start(patches, settings, threads)
            self._learner.n_threads = threads
            self.history_.append(self._pass(patches))
            self._finish(patches, threads)
        return self

    def layer_settings(self) -> LayerSettings:
        """The parameters that say what is learnt, checked.

        Raises
        ------
        ValueError
            One is out of range, or two do not go together.
        """
        settings = LayerSettings.of(vars(self))
        if self.checkpoint is not None:
            check_output(self.checkpoint)
        if self.checkpoint is not None and not isinstance(self.random_state, int | np.integer):
            raise ValueError(
                f"random_state must be an integer for a checkpoint, got {self.random_state!r}"
            )
        return settings

    def to_layer(
        self, patch_size: int, step: int, pixel_input: str | None, region: int | None
    ) -> Layer:
        """What was learnt, as a layer of a model; see there for the parameters."""
        check_is_fitted(self, "components_")
        return Layer(
            self.components_,
            self.encoder_weights_,
            self.encoder_bias_,
            self.encoder_gain_,
            self.encoder_threshold_,
            self.preprocessing_,
            self._learner.settings,
            patch_size,
            step,
            pixel_input,
            region,
        )

    # ---- what is given ----

    def _check_patches(self, X: Any, settings: LayerSettings, *, reset: bool) -> _Patches:
        if isinstance(X, PatchRows | PatchStream | RemotePatches):
            self.n_features_in_ = X.shape[1]
        else:
            X = validate_data(
                self,
                unmasked(X, "patches"),
                reset=reset,
                dtype=np.float32,
                order="C",
                ensure_min_samples=1 + reset,
            )
        if reset and len(_first_round(X)) < settings.n_components:
            raise ValueError(
                f"{settings.n_components} signatures (n_components of PSD, n_signatures of fit) "
                f"need as many patches in memory, got {len(_first_round(X))}: ask for fewer "
                "signatures, or for more patches"
            )
        if self.n_features_in_ > MOST_VALUES:
            raise ValueError(
                f"patches must have at most {MOST_VALUES} values, since learning needs their "
                f"covariance, got {self.n_features_in_}; use smaller patches or images"
            )
        patches: _Patches = X
        return patches

    def _check_unchanged(self, settings: LayerSettings) -> None:
        now = asdict(settings)
        for name, started_with in asdict(self._learner.settings).items():
            if name not in _FREE and now[name] != started_with:
                raise ValueError(
                    f"learning was started with {name}={started_with!r} and cannot go on with "
                    f"{now[name]!r}; set it back, or call fit to start anew"
                )

    # ---- passes ----

    def _start(
        self, X: _Patches, settings: LayerSettings, n_threads: int, layer: Layer | None = None
    ) -> None:
        """Fit the preprocessing; start B from patches and the encoder from ridge regression; or
        take all three of a layer."""
        rng = check_random_state(self.random_state)
        first = _first_round(X)
        sample = first[np.sort(rng.permutation(len(first))[:SAMPLE_PATCHES])]
        if layer is None:
            self.preprocessing_ = Preprocessing(settings.preprocessing, settings.whiten).fit(sample)
        else:
            self.preprocessing_ = layer.preprocessing
        self._learner = Learner(settings, self.preprocessing_, rng, X.shape[1], n_threads)
        rows = self.preprocessing_.apply(sample)[0]
        if layer is None:
            self._learner.start(rows)
        else:
            self._learner.start_from(layer, rows)
        self.history_ = []

    @property
    def _n_passes(self) -> int:
        """Of this fit, without those that it goes on from."""
        return len(self.history_) - self._n_before

    def _settled(self, tol: float) -> bool:
        last = [entry["objective"] for entry in self.history_[self._n_before :][-3:]]
        return len(last) == 3 and all(a - b < tol * a for a, b in pairwise(last))

    def _pass(self, X: _Patches) -> dict[str, float]:
        """Visit all patches once, in random order; one entry of the history."""
        started = time.perf_counter()
        sums: dict[str, float] = {}
        n = 0
        for n_rows, terms in self._steps(X, self._learner.rate(len(self.history_))):
            sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
            n += n_rows
        energy = sums.pop("energy")
        entry = {name: value / n for name, value in sums.items()}
        entry["objective"] = entry["reconstruction"] + entry["sparsity"] + entry["prediction"]
        entry["error_codes"] = float(np.sqrt(2 * sums["reconstruction"] / energy))
        entry["error_prediction"] = float(np.sqrt(sums["error_prediction"] / energy))
        entry |= {"patches": n, **self._learner.take_replaced()}
        entry["seconds"] = time.perf_counter() - started
        return entry

    def _steps(self, X: _Patches, rate: float) -> Iterator[tuple[int, dict[str, float]]]:
        """Learn from all patches, batch by batch; yields how many, and their terms."""
        learner, size = self._learner, self._learner.settings.batch_size
        if isinstance(X, RemotePatches):
            for measured, statistics in X.batches(learner.coder, len(self.history_), size):
                yield measured.n, learner.step_with(measured, statistics, rate)
            return
        for rows in X.rounds(len(self.history_)) if isinstance(X, PatchStream) else (X,):
            order = learner.rng.permutation(len(rows))
            for start in range(0, len(rows), size):
                batch = rows[order[start : start + size]]
                yield len(batch), learner.step(self.preprocessing_.apply(batch)[0], rate)
            del rows

    def _finish(self, X: _Patches, n_threads: int) -> None:
        """Take what was learnt; measure the errors of prediction and codes."""
        learner = self._learner
        encoder = learner.folded()
        self.components_ = learner.signatures.copy()
        self.encoder_weights_, self.encoder_bias_ = encoder["weights"], encoder["bias"]
        self.encoder_gain_, self.encoder_threshold_ = encoder["gain"], encoder.get("threshold")
        self.n_iter_ = len(self.history_)
        first, report_patches = _first_round(X), 4000
        spread = np.linspace(0, len(first) - 1, min(len(first), report_patches)).astype(int)
        rows = self.preprocessing_.apply(first[spread])[0]
        settings = learner.settings
        optimal = sparse_code(
            rows, self.components_, settings.alpha, positive=settings.positive, n_threads=n_threads
        ).codes
        energy = np.linalg.norm(rows)
        self.history_[-1] |= {
            "error_inferred": float(
                np.linalg.norm(rows - self._predict(rows) @ self.components_) / energy
            ),
            "error_optimal": float(np.linalg.norm(rows - optimal @ self.components_) / energy),
            "nonzero_optimal": optimal.nnz / len(rows),
        }

    def _warn_of_failure(self) -> None:
        no_better_than_nothing = 0.99  # relative error; that of zeros is 1
        for name, advice in (
            ("optimal", f"an alpha below {self.alpha}"),
            ("inferred", f"a learning_rate below {self.learning_rate}"),
        ):
            error = self.history_[-1][f"error_{name}"]
            if not error < no_better_than_nothing:
                warnings.warn(
                    f"{name} codes rebuild patches no better than zeros do (relative error "
                    f"{error:.3g}): use {advice}",
                    ConvergenceWarning,
                    stacklevel=3,
                )
                return

    # ---- checkpoints ----

    def _identity(
        self, X: _Patches, settings: LayerSettings, layer: Layer | None
    ) -> dict[str, Any]:
        """What a checkpoint must agree in: parameters and patches, in JSON's types."""
        assert isinstance(self.random_state, int | np.integer)  # as a checkpoint asks for
        first = _first_round(X)
        values = first.levels if isinstance(first, PatchRows) else first
        return {
            "wbcprof": __version__,
            **{name: value for name, value in asdict(settings).items() if name not in _FREE},
            "random_state": int(self.random_state),
            "patches": list(X.shape),
            "rounds": X.n_rounds if isinstance(X, PatchStream) else 1,
            "signatures gone on from": None if layer is None else _digest(layer.signatures),
            "content of the patches": _digest(values),
        }

    def _save(self, path: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        arrays, values = self._learner.state()
        write_checkpoint(path, arrays, {"identity": identity, **values, "history": self.history_})

    def _resume(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any],
        settings: LayerSettings,
        n_threads: int,
    ) -> None:
        shapes = Learner.state_shapes(settings, self.n_features_in_)
        self._learner, self.history_ = read_checkpoint(
            path,
            identity,
            shapes,
            lambda arrays, values: Learner.from_state(settings, arrays, values, n_threads),
        )
        if self._n_passes > settings.max_iter:
            raise ValueError(
                f"the checkpoint {os.fspath(path)!r} is past max_iter "
                f"({settings.max_iter}): it holds {self._n_passes} iterations"
            )
        self.preprocessing_ = self._learner.preprocessing

    # ---- at work ----

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        return predict(
            rows,
            self.encoder_weights_,
            self.encoder_bias_,
            self.encoder_gain_,
            self.encoder_threshold_,
            self._learner.settings.nonlinearity,
        )

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Feed-forward codes.

        Parameters
        ----------
        X : array-like of shape (n_patches, m)

        Returns
        -------
        ndarray of shape (n_patches, h), float32

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> image = make_leukocytes(1, size=64).images[0]  # generated
        >>> windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3))[::3, ::3]
        >>> patches = windows.reshape(-1, 192) / 255
        >>> psd = wbcprof.PSD(8, max_iter=1, random_state=0).fit(patches)
        >>> psd.transform(patches[:5]).shape
        (5, 8)
        """
        check_is_fitted(self, "components_")
        rows: np.ndarray = validate_data(
            self, unmasked(X, "patches"), reset=False, dtype=np.float32, order="C"
        )
        return self._predict(self.preprocessing_.apply(rows)[0])

    def inverse_transform(self, Z: ArrayLike) -> np.ndarray:
        """Patches rebuilt from codes.

        Parameters
        ----------
        Z : array-like of shape (n_patches, h)

        Returns
        -------
        ndarray of shape (n_patches, m), float32
            In units of the input. A mean or contrast that preprocessing took from each patch is
            not in its code, so it is not put back.

        Examples
        --------
        >>> import numpy as np
        >>> import wbcprof
        >>> from wbcprof.datasets import make_leukocytes
        >>> image = make_leukocytes(1, size=64).images[0]  # generated
        >>> windows = np.lib.stride_tricks.sliding_window_view(image, (8, 8, 3))[::3, ::3]
        >>> patches = windows.reshape(-1, 192) / 255
        >>> psd = wbcprof.PSD(8, max_iter=5, random_state=0).fit(patches)
        >>> rebuilt = psd.inverse_transform(psd.transform(patches))
        >>> rebuilt.shape
        (361, 192)
        >>> bool(np.abs(rebuilt - patches).mean() < np.abs(patches.mean(axis=0) - patches).mean())
        True
        """
        check_is_fitted(self, "components_")
        codes: np.ndarray = check_array(Z, dtype=np.float32)
        if codes.shape[1] != len(self.components_):
            raise ValueError(
                f"columns of Z ({codes.shape[1]}) must match the number of signatures "
                f"({len(self.components_)})"
            )
        n = len(codes)
        centre, spread = np.zeros((n, 1), np.float32), np.ones((n, 1), np.float32)
        return self.preprocessing_.restore(codes @ self.components_, centre, spread)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def _first_round(X: _Patches) -> np.ndarray | PatchRows:
    if isinstance(X, RemotePatches):
        return X.sample
    return next(X.rounds(0)) if isinstance(X, PatchStream) else X


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()


def _describe(iteration: int, entry: dict[str, float], in_full: bool) -> str:
    text = (
        f"iteration {iteration}: objective {entry['objective']:.5f}, relative reconstruction "
        f"error {entry['error_codes']:.3f} from codes, {entry['error_prediction']:.3f} from "
        "prediction"
    )
    if in_full:
        text += (
            f", {entry['nonzero']:.1f} non-zero codes, {entry['dead_replaced']} dead and "
            f"{entry['duplicates_replaced']} duplicate signatures replaced"
        )
    return f"{text}, {entry['seconds']:.1f} s"
