"""Predictive Sparse Decomposition: one layer, learnt on patch rows.

    J = 1/2 ||X - Z B||^2 + alpha ||Z||_1 + kappa/2 ||Z - F||^2,     F = g * s(X W' + b)

over signatures B (unit rows), codes Z, and encoder W, b, g; rows are preprocessed patches. (The
paper's objective is twice this, its lambda is 2 alpha.) Patches are visited in batches. Each batch

1. is coded: Z = argmin J, all else fixed;
2. moves the encoder down the gradient of kappa/2 ||Z - F||^2 + rho (1/2 ||X - F B||^2 +
   beta ||F||_1), by Adam in whitened coordinates of the input, which fold into W;
3. every second batch, moves each signature in turn to its exact optimum, from decayed statistics
   of Z and X.

The term in rho holds the prediction to the task of the codes: to rebuild the patch, sparsely.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from wbcprof import _learn
from wbcprof._version import version
from wbcprof.checkpoint import read_checkpoint, write_checkpoint
from wbcprof.encoder import NONLINEARITIES
from wbcprof.layer import activate, predict
from wbcprof.patches import PatchRows, PatchStream, Preprocessing, positive_integer
from wbcprof.sparse import LARGEST_NORM, gram_matrix, sparse_code
from wbcprof.threads import blas_threads, product, resolve_threads

_DUPLICATE_COSINE = 0.95
_DEAD_ENERGY = 1e-4  # of the median energy of a signature's codes
_MAX_REPLACED = 0.03  # of all signatures, per iteration
_DRAWN_FROM = 4  # badly rebuilt patches, for each signature that is replaced by one of them
_DECAY = 0.95  # of the statistics of Z and X, per batch
_CODING_GAP = 1e-2  # relative duality gap of the codes while learning
_MIN_ENCODER_KAPPA = 0.1  # with kappa = 0 the encoder still follows the codes
_NO_BETTER_THAN_NOTHING = 0.99  # relative error; that of zeros is 1
SAMPLE_PATCHES = 30_000  # that preprocessing and start are fitted on
_UPDATE_BLOCK = 64
_UPDATE_EVERY = 2
_SHRINK = {"rectified": 0.1, "sigmoid": 0.1, "tanh": 0.5, "soft_threshold": 0.1}  # of alpha, in
# what the prediction pays for its l1 norm
_START_SLOPE = 0.105  # of the sigmoid at -2, where codes are near zero
_START_THRESHOLD = 0.1  # of alpha, before the gain is taken in
_LEARNER_ARRAYS = ("signatures", "A", "C", "mean", "whitener")
_PREPROCESSING_ARRAYS = ("mean", "whitener", "unwhitener")
_FREE_PARAMETERS = {"max_iter", "tol", "n_threads", "verbose", "checkpoint"}  # on resuming
_INPUT_ENERGY = 0.999  # of the encoder's input, kept in its leading directions
_WARM_PASSES, _WARM_BATCH = 2, 1500  # over the sample, for the signatures alone
_RATE_DECAY = 0.3  # of the learning rate, per iteration
_RIDGE = 1e-1  # of the variance of the whitened input
_REPORT_PATCHES = 4000
_MAX_FEATURES = 8192
_INPUT_WHITENING_FLOOR = 0.1  # of the mean eigenvalue of the encoder's input


def encoder_gradient(
    encoder: dict[str, np.ndarray],
    inputs: np.ndarray,
    a: np.ndarray,
    s: np.ndarray,
    prediction_error: np.ndarray,
    pull: np.ndarray,
    *,
    nonlinearity: str,
    alpha: float,
    kappa: float,
    rho: float,
    n_threads: int | None = None,
) -> dict[str, np.ndarray]:
    """Gradient of (kappa/2 ||Z - F||^2 + rho/2 ||X - F B||^2 + rho alpha ||F||_1) / n.

    Parameters
    ----------
    encoder : dict
        ``weights`` (h, m), ``bias`` and ``gain`` (h,), and for "soft_threshold" ``threshold`` (h,).
    inputs : ndarray of shape (n, m)
        What the encoder reads: whitened patches.
    a, s : ndarray of shape (n, h)
        Pre-activations and s(a).
    prediction_error : ndarray of shape (n, h)
        F - Z.
    pull : ndarray of shape (n, h)
        (F B - X) B'.

    Returns
    -------
    dict
        With the keys of `encoder`.
    """
    d_prediction = kappa * prediction_error
    if rho:
        d_prediction += rho * pull
        d_prediction += rho * alpha * np.sign(encoder["gain"] * s)
    d_prediction /= len(inputs)
    if nonlinearity == "sigmoid":
        slope = s * (1 - s)
    elif nonlinearity == "tanh":
        slope = 1 - s * s
    else:
        slope = s != 0
    d_a = d_prediction * encoder["gain"] * slope
    gradient = {
        "weights": product(d_a.T, inputs, n_threads),
        "bias": d_a.sum(axis=0),
        "gain": (d_prediction * s).sum(axis=0),
    }
    if nonlinearity == "soft_threshold":
        gradient["threshold"] = -(d_a * np.sign(a)).sum(axis=0)
    return gradient


def _energy(array: np.ndarray) -> np.floating:
    return np.vdot(array, array)


class _Adam:
    """Adam (Kingma and Ba, 2015) on a dictionary of arrays, in place."""

    def __init__(self, parameters: dict[str, np.ndarray]):
        self.first = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.steps = 0

    def step(self, parameters, gradient, rate: float) -> None:
        self.steps += 1
        rate *= np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, value in parameters.items():
            first, second, g = self.first[name], self.second[name], gradient[name]
            first += np.float32(0.1) * (g - first)
            second += np.float32(0.001) * (g * g - second)
            value -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))


@dataclass(eq=False)
class Measured:
    """What a batch tells learning.

    Attributes
    ----------
    n : int
        Patches.
    terms : dict of float
        Terms of the objective, summed over the patches.
    gradient : dict of ndarray
        Of the encoder, as `encoder_gradient` gives it: a mean over the patches.
    residual : ndarray of shape (k, m)
        Rows of X - Z B, of which signatures are made anew.
    A, C : ndarray of shape (h, h) and (h, m)
        Statistics Z'Z and Z'X that the batch was added to.
    """

    n: int
    terms: dict[str, float]
    gradient: dict[str, np.ndarray]
    residual: np.ndarray
    A: np.ndarray
    C: np.ndarray

    def __add__(self, other: Measured) -> Measured:
        n = self.n + other.n
        share, rest = np.float32(self.n / n), np.float32(other.n / n)
        residual = np.concatenate([self.residual, other.residual])
        return Measured(
            n,
            {name: value + other.terms[name] for name, value in self.terms.items()},
            {name: share * g + rest * other.gradient[name] for name, g in self.gradient.items()},
            residual[_worst(residual, _n_replaced_at_most(len(self.A)))],
            self.A + other.A,
            self.C + other.C,
        )


def _n_replaced_at_most(n_signatures: int) -> int:
    return max(1, int(_MAX_REPLACED * n_signatures))


def _worst(residual: np.ndarray, n_replaced: int) -> np.ndarray:
    """Rows that `n_replaced` signatures are drawn from: the largest, in falling order."""
    norms = np.linalg.norm(residual, axis=1)
    return np.argsort(-norms, kind="stable")[: _DRAWN_FROM * n_replaced]


class RemotePatches(ABC):
    """Patches that other processes hold, as `PSD.fit` wants them.

    Attributes
    ----------
    shape : tuple of int
        (n_patches, m).
    sample : PatchRows
        Some of them, drawn from all images: what learning starts from, and is reported on.
    """

    shape: tuple[int, int]
    sample: PatchRows

    @abstractmethod
    def batches(
        self, coder: Callable[[], Coder], index: int, batch_size: int
    ) -> Iterator[Measured]:
        """Pass `index` over all patches: batches of `batch_size` or more, measured by `coder()`."""


class Coder:
    """Signatures and encoder as they are, which measure batches: step 1, and sums for 2 and 3."""

    signatures: np.ndarray
    encoder: dict[str, np.ndarray]
    mean: np.ndarray
    whitener: np.ndarray

    def __init__(self, psd: PSD):
        self._psd = psd
        self._threads = resolve_threads(psd.n_threads)
        self._gram: np.ndarray | None = None

    def _product(self, a, b):
        return product(a, b, self._psd.n_threads)

    def _code(self, x, kappa=0.0, prediction=None, gram=None, products=None):
        psd = self._psd
        return sparse_code(
            x,
            self.signatures,
            psd.alpha,
            kappa,
            prediction,
            positive=psd.positive,
            tol=_CODING_GAP,
            gram=gram_matrix(self.signatures, kappa, psd.n_threads) if gram is None else gram,
            products=products,
            n_threads=psd.n_threads,
        ).codes

    def _residual(self, codes, x):
        """X - Z B."""
        residual = x.copy()
        _learn.subtract_rebuilt(
            codes.indptr, codes.indices, codes.data, self.signatures, residual, self._threads
        )
        return residual

    def measure(self, x: np.ndarray, A: np.ndarray, C: np.ndarray) -> Measured:
        """Step 1 on a batch of preprocessed patches, whose statistics are added to A and C."""
        psd, encoder = self._psd, self.encoder
        u = self._product(x - self.mean, self.whitener)
        a = self._product(u, encoder["weights"].T)
        a += encoder["bias"]
        s = activate(psd.encoder, a, encoder.get("threshold"))
        prediction = encoder["gain"] * s
        if not _energy(prediction) <= LARGEST_NORM**2:
            raise ValueError(f"learning diverged: use a learning_rate below {psd.learning_rate}")
        if self._gram is None:
            self._gram = gram_matrix(self.signatures, psd.kappa, psd.n_threads)
        products = self._product(x, self.signatures.T)
        pull = self._product(prediction, self._gram[:, : len(self.signatures)])
        pull -= products
        pull -= np.float32(psd.kappa) * prediction
        codes = self._code(x, psd.kappa, prediction, self._gram, products)
        residual = self._residual(codes, x)
        prediction_error = prediction - codes.toarray()
        energy = _energy(x)
        terms = {
            "reconstruction": 0.5 * _energy(residual),
            "sparsity": psd.alpha * np.abs(codes.data).sum(),
            "prediction": 0.5 * psd.kappa * _energy(prediction_error),
            "error_prediction": energy + np.vdot(prediction, pull) - np.vdot(prediction, products),
            "nonzero": codes.nnz,
            "energy": energy,
        }
        gradient = encoder_gradient(
            encoder, u, a, s, prediction_error, pull,
            nonlinearity=psd.encoder, alpha=_SHRINK[psd.encoder] * psd.alpha,
            kappa=max(psd.kappa, _MIN_ENCODER_KAPPA), rho=psd.rho, n_threads=psd.n_threads,
        )  # fmt: skip
        _learn.add_statistics(codes.indptr, codes.indices, codes.data, x, A, C, self._threads)
        terms = {name: float(value) for name, value in terms.items()}
        return Measured(len(x), terms, gradient, residual, A, C)

    def measure_alone(self, patches: np.ndarray) -> Measured:
        """`measure` of patches as they come, apart from any other: to be added up."""
        x = self._psd.preprocessing_.apply(patches)[0]
        h, m = self.signatures.shape
        measured = self.measure(x, np.zeros((h, h), np.float32), np.zeros((h, m), np.float32))
        measured.residual = measured.residual[_worst(measured.residual, _n_replaced_at_most(h))]
        return measured


class _Learner(Coder):
    """What learning keeps between batches: signatures, encoder in whitened input, statistics."""

    def __init__(self, psd: PSD, rng: np.random.RandomState, m: int):
        super().__init__(psd)
        self.parameters = psd.get_params()
        self.rng = rng
        h = psd.n_components
        self.A = np.zeros((h, h), np.float32)
        self.C = np.zeros((h, m), np.float32)
        self._scratch = np.empty((2, _UPDATE_BLOCK, m), np.float32)
        self._n_gathered = 0
        self._replaced = {"dead_replaced": 0, "duplicates_replaced": 0}

    def start(self, rows: np.ndarray) -> None:
        """Learn signatures alone: the encoder then starts from codes worth predicting."""
        h = len(self.A)
        norms = np.linalg.norm(rows, axis=1)
        strong = np.flatnonzero(norms >= max(np.quantile(norms, 0.2), np.finfo(np.float32).tiny))
        chosen = self.rng.choice(strong, h, replace=len(strong) < h)
        self.signatures = rows[chosen] / norms[chosen, None]
        for _ in range(_WARM_PASSES):
            for start in range(0, len(rows), _WARM_BATCH):
                x = rows[start : start + _WARM_BATCH]
                codes = self._code(x)
                residual = self._residual(codes, x)
                self._forget()
                _learn.add_statistics(
                    codes.indptr, codes.indices, codes.data, x, self.A, self.C, self._threads
                )
                self._update()
                self._replace(residual, duplicates=True)
        self._whiten(rows)
        self._regress(rows)
        self._adam = _Adam(self.encoder)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything that the next batch depends on, as arrays and as JSON."""
        rng = self.rng.get_state(legacy=False)
        arrays = {name: getattr(self, name) for name in _LEARNER_ARRAYS}
        arrays["rng"] = rng["state"]["key"]
        for name, value in self.encoder.items():
            arrays[f"encoder.{name}"] = value
            arrays[f"first.{name}"] = self._adam.first[name]
            arrays[f"second.{name}"] = self._adam.second[name]
        return arrays, {
            "steps": self._adam.steps,
            "n_gathered": self._n_gathered,
            "rng": [rng["state"]["pos"], rng["has_gauss"], rng["gauss"]],
        }

    def restore(self, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> None:
        """Undo `state`."""

        def group(prefix):
            return {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }

        for name in _LEARNER_ARRAYS:
            setattr(self, name, arrays[name])
        self.encoder = group("encoder.")
        self._adam = _Adam(self.encoder)
        self._adam.first, self._adam.second = group("first."), group("second.")
        self._adam.steps, self._n_gathered = values["steps"], values["n_gathered"]
        pos, has_gauss, gauss = values["rng"]
        self.rng.set_state(
            {
                "bit_generator": "MT19937",
                "state": {"key": arrays["rng"], "pos": pos},
                "has_gauss": has_gauss,
                "gauss": gauss,
            }
        )

    def _whiten(self, rows: np.ndarray) -> None:
        """u = (x - mean) whitener: the encoder's problem is well conditioned, and small, in u."""
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = rows - self.mean
        covariance = self._product(centred.T, centred).astype(np.float64) / len(rows)
        values, vectors = np.linalg.eigh(covariance)
        floor = _INPUT_WHITENING_FLOOR * max(values.mean(), np.finfo(np.float32).tiny)
        root = np.sqrt(np.maximum(values, 0) + floor)
        energy = np.cumsum(np.maximum(values[::-1], 0))
        k = 1 + int(np.searchsorted(energy, _INPUT_ENERGY * energy[-1]))
        self.whitener = np.ascontiguousarray((vectors / root)[:, ::-1][:, :k], np.float32)

    def _regress(self, rows: np.ndarray) -> None:
        """Start the encoder from the ridge regression of sparse codes on whitened patches."""
        nonlinearity = self._psd.encoder
        u = self._product(rows - self.mean, self.whitener)
        codes = self._code(rows).toarray()
        centre = codes.mean(axis=0)
        normal = self._product(u.T, u) + np.float32(_RIDGE * len(u)) * np.eye(
            u.shape[1], dtype=np.float32
        )
        weights = np.linalg.solve(normal, self._product(u.T, codes - centre)).T
        bias = centre - weights @ u.mean(axis=0)
        h = len(codes.T)
        gain = np.ones(h, np.float32)
        if nonlinearity in ("sigmoid", "tanh"):
            # The gain is the largest code to be reached; the slope at the start is then undone.
            gain = np.quantile(np.abs(codes), 0.995, axis=0).astype(np.float32) + np.float32(1e-3)
            weights, bias = weights / gain[:, None], bias / gain
        if nonlinearity == "sigmoid":
            weights, bias = weights / _START_SLOPE, np.full(h, -2.0)
        self.encoder = {
            "weights": np.ascontiguousarray(weights, np.float32),
            "bias": np.ascontiguousarray(bias, np.float32),
            "gain": gain,
        }
        if nonlinearity == "soft_threshold":
            self.encoder["threshold"] = np.full(h, _START_THRESHOLD * self._psd.alpha, np.float32)
        if nonlinearity in ("rectified", "soft_threshold"):
            # Best gain for each signature, <Z, S> / <S, S>, taken into what it multiplies.
            s = activate(
                nonlinearity, self._product(u, weights.T) + bias, self.encoder.get("threshold")
            )
            best = (codes * s).sum(axis=0) / ((s * s).sum(axis=0) + np.float32(1e-9))
            best = np.clip(best, 0.2, 50)
            for name in self.encoder.keys() - {"gain"}:
                self.encoder[name] = np.ascontiguousarray((self.encoder[name].T * best).T)

    def _forget(self) -> None:
        """Let the statistics of earlier batches decay."""
        self.A *= np.float32(_DECAY)
        self.C *= np.float32(_DECAY)

    def _update(self) -> None:
        """Move the signatures."""
        gradient, moved = self._scratch
        _learn.update_signatures(self.signatures, self.A, self.C, gradient, moved, self._threads)
        self._n_gathered = 0
        self._gram = None

    def step(self, x: np.ndarray, rate: float) -> dict[str, float]:
        """Steps 1 to 3 on one batch; returns sums of the objective's terms over it."""
        self._forget()
        return self._apply(self.measure(x, self.A, self.C), rate)

    def step_with(self, measured: Measured, rate: float) -> dict[str, float]:
        """Steps 2 and 3 on a batch that was measured elsewhere."""
        self._forget()
        self.A += measured.A
        self.C += measured.C
        return self._apply(measured, rate)

    def _apply(self, measured: Measured, rate: float) -> dict[str, float]:
        psd, encoder = self._psd, self.encoder
        self._adam.step(encoder, measured.gradient, rate)
        if psd.encoder == "soft_threshold":
            np.maximum(encoder["threshold"], 0, out=encoder["threshold"])
        if psd.encoder == "sigmoid":
            np.maximum(encoder["gain"], 1e-4, out=encoder["gain"])
        self._n_gathered += 1
        if self._n_gathered == _UPDATE_EVERY:
            self._update()
            self._replace(measured.residual, duplicates=False)
        return measured.terms

    def coder(self) -> Coder:
        """A copy of what measuring needs, for another process and one thread there."""
        free = {"n_threads": 1, "checkpoint": None, "random_state": None}
        psd = PSD(**{**self.parameters, **free})
        psd.preprocessing_ = self._psd.preprocessing_
        coder = Coder(psd)
        coder.signatures, coder.mean, coder.whitener = (
            self.signatures.copy(),
            self.mean,
            self.whitener,
        )
        coder.encoder = {name: value.copy() for name, value in self.encoder.items()}
        return coder

    def take_replaced(self) -> dict[str, int]:
        """How many signatures were replaced since this was last asked."""
        counts = self._replaced
        self._replaced = dict.fromkeys(counts, 0)
        return counts

    def _replace(self, residual: np.ndarray, duplicates: bool) -> None:
        """Replace dead, and perhaps duplicate, signatures by badly rebuilt patches of a batch.

        Duplicates are replaced before there is an encoder only: signatures of smooth patches are
        alike by nature, and replacing them without end would leave the encoder behind for ever.
        """
        energy = np.diagonal(self.A)
        dead = energy <= _DEAD_ENERGY * np.median(energy)
        chosen = np.flatnonzero(dead)
        if duplicates:
            cosine = self._product(self.signatures, self.signatures.T)
            if not self._psd.positive:
                cosine = np.abs(cosine)
            # Of two alike, the one with less energy goes (of equals, the later one).
            rank = np.empty(len(energy), np.intp)
            rank[np.argsort(-energy, kind="stable")] = np.arange(len(energy))
            alike = ((cosine > _DUPLICATE_COSINE) & (rank[:, None] > rank)).any(axis=1) & ~dead
            chosen = np.concatenate([chosen, np.flatnonzero(alike)])
        chosen = chosen[: _n_replaced_at_most(len(energy))]
        if len(chosen) == 0:
            return
        norms = np.linalg.norm(residual, axis=1)
        worst = _worst(residual, len(chosen))
        worst = self.rng.choice(worst, len(chosen), replace=len(worst) < len(chosen))
        for j, i in zip(chosen, worst, strict=True):
            if norms[i] > 0:
                self.signatures[j] = residual[i] / norms[i]
                self.A[j] = self.A[:, j] = self.C[j] = 0
        self._replaced["dead_replaced"] += int(dead[chosen].sum())
        self._replaced["duplicates_replaced"] += int((~dead[chosen]).sum())


class PSD(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
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
        the encoders "rectified" and "sigmoid", signed ones with "tanh" and "soft_threshold".
    encoder : {"rectified", "sigmoid", "tanh", "soft_threshold"}, default="rectified"
        s in F = g * s(X W' + b).
    preprocessing : {"none", "dataset_mean", "patch_mean", "contrast"}, default="dataset_mean"
        See `wbcprof.patches.Preprocessing`.
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
    verbose : bool, default=False
        Print one line per iteration.
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
    """

    def __init__(
        self,
        n_components: int = 1024,
        *,
        alpha: float = 0.05,
        kappa: float = 0.1,
        rho: float = 1.0,
        positive: bool = True,
        encoder: str = "rectified",
        preprocessing: str = "dataset_mean",
        whiten: bool = False,
        batch_size: int = 1000,
        learning_rate: float = 0.1,
        max_iter: int = 100,
        tol: float = 3e-3,
        random_state=None,
        n_threads: int | None = None,
        verbose: bool = False,
        checkpoint: str | os.PathLike | None = None,
    ):
        self.n_components = n_components
        self.alpha = alpha
        self.kappa = kappa
        self.rho = rho
        self.positive = positive
        self.encoder = encoder
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

    def fit(self, X, y=None) -> PSD:
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
        """
        X = self._check(X, reset=True)
        path = self.checkpoint
        with blas_threads(1):
            identity = {} if path is None else self._identity(X)
            if path is not None and os.path.exists(path):
                self._resume(path, identity)
            else:
                self._start(X)
            while len(self.history_) < self.max_iter and not self._settled():
                self.history_.append(self._pass(X))
                if self.verbose:
                    print(_describe(len(self.history_), self.history_[-1]), flush=True)
                if path is not None:
                    self._save(path, identity)
            self._finish(X)
        self._warn_of_failure()
        return self

    def _settled(self) -> bool:
        last = [entry["objective"] for entry in self.history_[-3:]]
        return len(last) == 3 and all(a - b < self.tol * a for a, b in pairwise(last))

    def _warn_of_failure(self) -> None:
        for name, advice in (
            ("optimal", f"an alpha below {self.alpha}"),
            ("inferred", f"a learning_rate below {self.learning_rate}"),
        ):
            error = self.history_[-1][f"error_{name}"]
            if not error < _NO_BETTER_THAN_NOTHING:
                warnings.warn(
                    f"{name} codes rebuild patches no better than zeros do (relative error "
                    f"{error:.3g}): use {advice}",
                    ConvergenceWarning,
                    stacklevel=3,
                )
                return

    def _identity(self, X) -> dict[str, Any]:
        """What a checkpoint must agree in: parameters and patches, in JSON's types."""
        first = _first_round(X)
        values = first.levels if isinstance(first, PatchRows) else first
        parameters = {k: v for k, v in self.get_params().items() if k not in _FREE_PARAMETERS}
        return {
            "wbcprof": version(),
            **json.loads(json.dumps(parameters, default=lambda value: value.item())),
            "patches": list(X.shape),
            "rounds": X.n_rounds if isinstance(X, PatchStream) else 1,
            "content of the patches": hashlib.blake2b(
                np.ascontiguousarray(values).data, digest_size=16
            ).hexdigest(),
        }

    def _save(self, path: str | os.PathLike, identity: dict[str, Any]) -> None:
        arrays, values = self._learner.state()
        for name in _PREPROCESSING_ARRAYS:
            if getattr(self.preprocessing_, name) is not None:
                arrays[f"preprocessing.{name}"] = getattr(self.preprocessing_, name)
        values |= {"scale": self.preprocessing_.scale, "history": self.history_}
        write_checkpoint(path, arrays, {"identity": identity, **values})

    def _state_shapes(self) -> dict[str, tuple[int | str, ...]]:
        """Of the arrays of a checkpoint; "k" is the length of whitened patches."""
        h, m = self.n_components, self.n_features_in_
        learner = {"signatures": (h, m), "A": (h, h), "C": (h, m), "mean": (m,)}
        encoder: dict[str, tuple[int | str, ...]]
        encoder = {"weights": (h, "k"), "bias": (h,), "gain": (h,)}
        if self.encoder == "soft_threshold":
            encoder["threshold"] = (h,)
        preprocessing: dict[str, tuple[int, ...]] = {}
        if self.whiten or self.preprocessing == "dataset_mean":
            preprocessing["preprocessing.mean"] = (m,)
        if self.whiten:
            preprocessing["preprocessing.whitener"] = (m, m)
            preprocessing["preprocessing.unwhitener"] = (m, m)
        return {
            **learner,
            "whitener": (m, "k"),
            "rng": (624,),
            **{
                f"{group}.{name}": shape
                for group in ("encoder", "first", "second")
                for name, shape in encoder.items()
            },
            **preprocessing,
        }

    def _resume(self, path: str | os.PathLike, identity: dict[str, Any]) -> None:
        arrays, values = read_checkpoint(path, identity, self._state_shapes())
        if len(values["history"]) > self.max_iter:
            raise ValueError(
                f"the checkpoint {os.fspath(path)!r} is past max_iter "
                f"({self.max_iter}): it holds {len(values['history'])} iterations"
            )
        self.history_ = values["history"]
        self.preprocessing_ = Preprocessing(self.preprocessing, self.whiten)
        for name in _PREPROCESSING_ARRAYS:
            setattr(self.preprocessing_, name, arrays.get(f"preprocessing.{name}"))
        self.preprocessing_.scale = values["scale"]
        self._learner = _Learner(self, np.random.RandomState(), self.n_features_in_)
        self._learner.restore(arrays, values)

    def partial_fit(self, X, y=None) -> PSD:
        """One pass over a batch of patches; the first call fits the preprocessing and starts.

        Later calls go on with the same parameters; `tol`, `n_threads` and `verbose` may differ.

        Parameters
        ----------
        X : array-like of shape (n_patches, m)
        y : ignored

        Returns
        -------
        PSD
        """
        first = not hasattr(self, "_learner")
        X = self._check(X, reset=first)
        if not first:
            self._check_unchanged()
        with blas_threads(1):
            if first:
                self._start(X)
            self.history_.append(self._pass(X))
            self._finish(X)
        return self

    def _check_unchanged(self) -> None:
        for name, started_with in self._learner.parameters.items():
            value = getattr(self, name)
            if name not in _FREE_PARAMETERS and value != started_with:
                raise ValueError(
                    f"learning was started with {name}={started_with!r} and cannot go on with "
                    f"{value!r}; set it back, or call fit to start anew"
                )

    def _check(self, X, *, reset: bool):
        for name in ("n_components", "batch_size", "max_iter"):
            positive_integer(name, getattr(self, name))
        for name in ("alpha", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        for name in ("kappa", "rho", "tol"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)!r}")
        if self.encoder not in NONLINEARITIES:
            raise ValueError(f"encoder must be one of {NONLINEARITIES}, got {self.encoder!r}")
        if self.checkpoint is not None and not isinstance(self.random_state, int | np.integer):
            raise ValueError(
                f"random_state must be an integer for a checkpoint, got {self.random_state!r}"
            )
        if type(self.positive) is not bool:
            raise ValueError(f"positive must be True or False, got {self.positive!r}")
        one_sided = self.encoder in ("rectified", "sigmoid")
        if one_sided != self.positive:
            fitting = ("rectified", "sigmoid") if self.positive else ("tanh", "soft_threshold")
            raise ValueError(
                f"encoder must be one of {fitting} where positive={self.positive}, so that its "
                f"codes have the sign of those it predicts; got {self.encoder!r}"
            )
        if isinstance(X, PatchRows | PatchStream | RemotePatches):
            self.n_features_in_ = X.shape[1]
        else:
            X = validate_data(
                self, X, reset=reset, dtype=np.float32, order="C", ensure_min_samples=1 + reset
            )
        if reset and len(_first_round(X)) < self.n_components:
            raise ValueError(
                f"n_components ({self.n_components}) must be at most the number of patches in "
                f"memory ({len(_first_round(X))})"
            )
        if self.n_features_in_ > _MAX_FEATURES:
            raise ValueError(
                f"patches must have at most {_MAX_FEATURES} values, since learning needs their "
                f"covariance, got {self.n_features_in_}; use smaller patches or images"
            )
        return X

    def _start(self, X) -> None:
        """Fit the preprocessing; start B from patches and the encoder from ridge regression."""
        rng = check_random_state(self.random_state)
        first = _first_round(X)
        sample = first[np.sort(rng.permutation(len(first))[:SAMPLE_PATCHES])]
        self.preprocessing_ = Preprocessing(self.preprocessing, self.whiten).fit(sample)
        self._learner = _Learner(self, rng, X.shape[1])
        self._learner.start(self.preprocessing_.apply(sample)[0])
        self.history_ = []

    def _pass(self, X) -> dict[str, float]:
        """Visit all patches once, in random order; one entry of the history."""
        started = time.perf_counter()
        rate = self.learning_rate / self.n_components / (1 + _RATE_DECAY * len(self.history_))
        if self.encoder == "sigmoid":
            rate /= _START_SLOPE  # its weights are larger by as much
        sums: dict[str, float] = {}
        n = 0
        for n_rows, terms in self._steps(X, rate):
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

    def _steps(self, X, rate: float) -> Iterator[tuple[int, dict[str, float]]]:
        """Learn from all patches, batch by batch; yields how many, and their terms."""
        learner = self._learner
        if isinstance(X, RemotePatches):
            for measured in X.batches(learner.coder, len(self.history_), self.batch_size):
                yield measured.n, learner.step_with(measured, rate)
            return
        for rows in X.rounds(len(self.history_)) if isinstance(X, PatchStream) else (X,):
            order = learner.rng.permutation(len(rows))
            for start in range(0, len(rows), self.batch_size):
                batch = rows[order[start : start + self.batch_size]]
                yield len(batch), learner.step(self.preprocessing_.apply(batch)[0], rate)
            del rows

    def _finish(self, X) -> None:
        """Fold the encoder's input whitening; measure the errors of prediction and codes."""
        learner = self._learner
        encoder = learner.encoder
        self.components_ = learner.signatures.copy()
        self.encoder_weights_ = encoder["weights"] @ learner.whitener.T
        self.encoder_bias_ = encoder["bias"] - self.encoder_weights_ @ learner.mean
        self.encoder_gain_ = encoder["gain"].copy()
        self.encoder_threshold_ = encoder["threshold"].copy() if "threshold" in encoder else None
        self.n_iter_ = len(self.history_)
        first = _first_round(X)
        spread = np.linspace(0, len(first) - 1, min(len(first), _REPORT_PATCHES)).astype(int)
        rows = self.preprocessing_.apply(first[spread])[0]
        optimal = sparse_code(
            rows, self.components_, self.alpha, positive=self.positive, n_threads=self.n_threads
        ).codes
        energy = np.linalg.norm(rows)
        self.history_[-1] |= {
            "error_inferred": float(
                np.linalg.norm(rows - self._predict(rows) @ self.components_) / energy
            ),
            "error_optimal": float(np.linalg.norm(rows - optimal @ self.components_) / energy),
            "nonzero_optimal": optimal.nnz / len(rows),
        }

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        return predict(
            rows,
            self.encoder_weights_,
            self.encoder_bias_,
            self.encoder_gain_,
            self.encoder_threshold_,
            self.encoder,
        )

    def transform(self, X) -> np.ndarray:
        """Feed-forward codes.

        Parameters
        ----------
        X : array-like of shape (n_patches, m)

        Returns
        -------
        ndarray of shape (n_patches, h), float32
        """
        check_is_fitted(self, "components_")
        X = validate_data(self, X, reset=False, dtype=np.float32, order="C")
        return self._predict(self.preprocessing_.apply(X)[0])

    def inverse_transform(self, Z) -> np.ndarray:
        """Patches rebuilt from codes.

        Parameters
        ----------
        Z : array-like of shape (n_patches, h)

        Returns
        -------
        ndarray of shape (n_patches, m), float32
            In units of the input. A mean or contrast that preprocessing took from each patch is
            not in its code, so it is not put back.
        """
        check_is_fitted(self, "components_")
        Z = check_array(Z, dtype=np.float32)
        if Z.shape[1] != len(self.components_):
            raise ValueError(
                f"columns of Z ({Z.shape[1]}) must match the number of signatures "
                f"({len(self.components_)})"
            )
        n = len(Z)
        centre, spread = np.zeros((n, 1), np.float32), np.ones((n, 1), np.float32)
        return self.preprocessing_.restore(Z @ self.components_, centre, spread)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def _first_round(X):
    if isinstance(X, RemotePatches):
        return X.sample
    return next(X.rounds(0)) if isinstance(X, PatchStream) else X


def _describe(iteration: int, entry: dict[str, float]) -> str:
    return (
        f"iteration {iteration}: objective {entry['objective']:.5f}, relative reconstruction "
        f"error {entry['error_codes']:.3f} from codes, {entry['error_prediction']:.3f} from "
        f"prediction, {entry['nonzero']:.1f} non-zero codes, {entry['dead_replaced']} dead and "
        f"{entry['duplicates_replaced']} duplicate signatures replaced, {entry['seconds']:.1f} s"
    )
