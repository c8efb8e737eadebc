"""Learning one layer: what a batch of patches tells, and what moves when it has told.

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

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from wbcprof import _learn
from wbcprof.learning.sample import PatchRows
from wbcprof.model.arrays import prefixed, under
from wbcprof.model.layer import Layer, activate
from wbcprof.model.preprocessing import Preprocessing
from wbcprof.model.settings import LayerSettings
from wbcprof.model.sparse import LARGEST_NORM, gram_matrix, sparse_code
from wbcprof.threads import product

Arrays = dict[str, np.ndarray]


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
    n_threads: int = 1,
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


class _Adam:
    """Adam (Kingma and Ba, 2015) on a dictionary of arrays, in place."""

    def __init__(self, parameters: dict[str, np.ndarray]):
        self.first = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.steps = 0

    def step(self, parameters: Arrays, gradient: Arrays, rate: float) -> None:
        self.steps += 1
        rate *= np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, value in parameters.items():
            first, second, g = self.first[name], self.second[name], gradient[name]
            first += np.float32(0.1) * (g - first)
            second += np.float32(0.001) * (g * g - second)
            value -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))


class CodeStatistics:
    """The running total: A = Z'Z (h, h) and C = Z'X (h, m) of all batches so far, float32.

    Older batches count less: a factor `_DECAY` for each that came since.
    """

    _DECAY = 0.95

    def __init__(self, h: int, m: int):
        self.A = np.zeros((h, h), np.float32)
        self.C = np.zeros((h, m), np.float32)

    def add(self, codes: csr_array, x: np.ndarray, n_threads: int) -> None:
        """Take the codes of patches x (n, m) in."""
        _learn.add_statistics(codes.indptr, codes.indices, codes.data, x, self.A, self.C, n_threads)

    def __iadd__(self, other: CodeStatistics) -> CodeStatistics:
        self.A += other.A
        self.C += other.C
        return self

    def forget(self) -> None:
        """Let earlier batches decay."""
        self.A *= np.float32(self._DECAY)
        self.C *= np.float32(self._DECAY)

    def clear(self, signature: int) -> None:
        """Forget all that a signature did: another takes its place."""
        self.A[signature] = self.A[:, signature] = self.C[signature] = 0


@dataclass(eq=False)
class Measured:
    """What a batch alone tells learning.

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
    """

    n: int
    terms: dict[str, float]
    gradient: Arrays
    residual: np.ndarray

    def __add__(self, other: Measured) -> Measured:
        n = self.n + other.n
        share, rest = np.float32(self.n / n), np.float32(other.n / n)
        both = Measured(
            n,
            {name: value + other.terms[name] for name, value in self.terms.items()},
            {name: share * g + rest * other.gradient[name] for name, g in self.gradient.items()},
            np.concatenate([self.residual, other.residual]),
        )
        both.keep_worst()
        return both

    def keep_worst(self) -> None:
        """Let go of residuals that no signature can be made of."""
        most = _n_replaced_at_most(len(self.gradient["bias"]))
        self.residual = self.residual[_worst(self.residual, most)]


def _n_replaced_at_most(n_signatures: int) -> int:
    """Of all signatures, in an iteration."""
    return max(1, int(0.03 * n_signatures))


def _worst(residual: np.ndarray, n_replaced: int) -> np.ndarray:
    """Rows that `n_replaced` signatures are drawn from, four for each: the largest, falling."""
    norms = np.linalg.norm(residual, axis=1)
    return np.argsort(-norms, kind="stable")[: 4 * n_replaced]


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
    ) -> Iterator[tuple[Measured, CodeStatistics]]:
        """Pass `index` over all patches: batches of `batch_size` or more, measured by `coder()`."""


class Coder:
    """Signatures and encoder as they are, which measure batches: step 1, and sums for 2 and 3."""

    signatures: np.ndarray
    encoder: Arrays
    mean: np.ndarray
    whitener: np.ndarray

    def __init__(self, settings: LayerSettings, preprocessing: Preprocessing, n_threads: int):
        self.settings, self.preprocessing, self.n_threads = settings, preprocessing, n_threads
        self._gram: np.ndarray | None = None

    def measure(self, x: np.ndarray, statistics: CodeStatistics) -> Measured:
        """Step 1 on a batch of preprocessed patches, whose codes are added to the statistics."""
        settings, encoder = self.settings, self.encoder
        u = self._product(x - self.mean, self.whitener)
        a = self._product(u, encoder["weights"].T)
        a += encoder["bias"]
        s = activate(settings.nonlinearity, a, encoder.get("threshold"))
        prediction = encoder["gain"] * s
        if not _energy(prediction) <= LARGEST_NORM**2:
            raise ValueError(
                f"learning diverged: use a learning_rate below {settings.learning_rate}"
            )
        if self._gram is None:
            self._gram = gram_matrix(self.signatures, settings.kappa, self.n_threads)
        products = self._product(x, self.signatures.T)
        pull = self._product(prediction, self._gram[:, : len(self.signatures)])
        pull -= products
        pull -= np.float32(settings.kappa) * prediction
        codes = self._code(x, settings.kappa, prediction, self._gram, products)
        residual = self._residual(codes, x)
        prediction_error = prediction - codes.toarray()
        energy = _energy(x)
        terms = {
            "reconstruction": 0.5 * _energy(residual),
            "sparsity": settings.alpha * np.abs(codes.data).sum(),
            "prediction": 0.5 * settings.kappa * _energy(prediction_error),
            "error_prediction": energy + np.vdot(prediction, pull) - np.vdot(prediction, products),
            "nonzero": codes.nnz,
            "energy": energy,
        }
        shrink = 0.5 if settings.nonlinearity == "tanh" else 0.1  # of alpha, in what F pays for l1
        gradient = encoder_gradient(
            encoder, u, a, s, prediction_error, pull,
            nonlinearity=settings.nonlinearity, alpha=shrink * settings.alpha,
            kappa=max(settings.kappa, 0.1),  # with kappa = 0 the encoder still follows the codes
            rho=settings.rho, n_threads=self.n_threads,
        )  # fmt: skip
        statistics.add(codes, x, self.n_threads)
        terms = {name: float(value) for name, value in terms.items()}
        return Measured(len(x), terms, gradient, residual)

    def measure_alone(self, patches: np.ndarray) -> tuple[Measured, CodeStatistics]:
        """`measure` of patches as they come, apart from any other: to be added up."""
        statistics = CodeStatistics(*self.signatures.shape)
        measured = self.measure(self.preprocessing.apply(patches)[0], statistics)
        measured.keep_worst()
        return measured, statistics

    def _product(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return product(a, b, self.n_threads)

    def _code(
        self,
        x: np.ndarray,
        kappa: float = 0.0,
        prediction: np.ndarray | None = None,
        gram: np.ndarray | None = None,
        products: np.ndarray | None = None,
    ) -> csr_array:
        """Codes to a relative duality gap of a hundredth, which learning does not notice."""
        if gram is None:
            gram = gram_matrix(self.signatures, kappa, self.n_threads)
        settings = self.settings
        return sparse_code(
            x, self.signatures, settings.alpha, kappa, prediction, positive=settings.positive,
            tol=1e-2, gram=gram, products=products, n_threads=self.n_threads,
        ).codes  # fmt: skip

    def _residual(self, codes: csr_array, x: np.ndarray) -> np.ndarray:
        """X - Z B."""
        residual = x.copy()
        _learn.subtract_rebuilt(
            codes.indptr, codes.indices, codes.data, self.signatures, residual, self.n_threads
        )
        return residual


class Learner(Coder):
    """What learning keeps between batches: signatures, encoder in whitened input, statistics."""

    _UPDATE_EVERY = 2  # batches
    _UPDATE_BLOCK = 64  # signatures
    _START_SLOPE = 0.105  # of the sigmoid at -2, where codes are near zero

    def __init__(
        self,
        settings: LayerSettings,
        preprocessing: Preprocessing,
        rng: np.random.RandomState,
        m: int,
        n_threads: int,
    ):
        super().__init__(settings, preprocessing, n_threads)
        self.rng = rng
        self.statistics = CodeStatistics(settings.n_components, m)
        self._scratch = np.empty((2, self._UPDATE_BLOCK, m), np.float32)
        self._n_gathered = 0
        self._replaced = {"dead_replaced": 0, "duplicates_replaced": 0}

    # ---- the start ----

    def start(self, rows: np.ndarray) -> None:
        """Learn signatures alone: the encoder then starts from codes worth predicting."""
        n_passes, batch = 2, 1500
        h = self.settings.n_components
        norms = np.linalg.norm(rows, axis=1)
        strong = np.flatnonzero(norms >= max(np.quantile(norms, 0.2), np.finfo(np.float32).tiny))
        chosen = self.rng.choice(strong, h, replace=len(strong) < h)
        self.signatures = rows[chosen] / norms[chosen, None]
        for _ in range(n_passes):
            for start in range(0, len(rows), batch):
                x = rows[start : start + batch]
                codes = self._code(x)
                residual = self._residual(codes, x)
                self.statistics.forget()
                self.statistics.add(codes, x, self.n_threads)
                self._update()
                self._replace(residual, duplicates=True)
        self._whiten(rows)
        self._regress(rows)
        self._adam = _Adam(self.encoder)

    def start_from(self, layer: Layer, rows: np.ndarray) -> None:
        """Take signatures and encoder of a layer; their statistics are those of these rows."""
        self.signatures = layer.signatures.copy()
        self._whiten(rows, whole=True)  # so that the encoder is the layer's, to the last bits
        whitener, weights = (a.astype(np.float64) for a in (self.whitener, layer.weights))
        encoder = {
            "weights": np.linalg.solve(whitener, weights.T).T,
            "bias": layer.bias + weights @ self.mean,
            "gain": layer.gain,
        }
        if layer.threshold is not None:
            encoder["threshold"] = layer.threshold
        self.encoder = {name: np.array(a, np.float32, order="C") for name, a in encoder.items()}
        self._adam = _Adam(self.encoder)
        size = self.settings.batch_size
        for start in range(0, len(rows), size):
            self.statistics.forget()
            self.measure(rows[start : start + size], self.statistics)

    def _whiten(self, rows: np.ndarray, whole: bool = False) -> None:
        """u = (x - mean) whitener: the encoder's problem is well conditioned, and, unless `whole`,
        small in u."""
        floor = 0.1  # of the mean eigenvalue
        kept = 0.999  # of the energy, in its leading directions
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = rows - self.mean
        covariance = self._product(centred.T, centred).astype(np.float64) / len(rows)
        values, vectors = np.linalg.eigh(covariance)
        floor *= max(values.mean(), np.finfo(np.float32).tiny)
        root = np.sqrt(np.maximum(values, 0) + floor)
        energy = np.cumsum(np.maximum(values[::-1], 0))
        k = len(values) if whole else 1 + int(np.searchsorted(energy, kept * energy[-1]))
        self.whitener = np.ascontiguousarray((vectors / root)[:, ::-1][:, :k], np.float32)

    def _regress(self, rows: np.ndarray) -> None:
        """Start the encoder from the ridge regression of sparse codes on whitened patches."""
        ridge = 0.1  # of the variance of the whitened input
        threshold = 0.1  # of alpha, before the gain is taken in
        nonlinearity = self.settings.nonlinearity
        u = self._product(rows - self.mean, self.whitener)
        codes = self._code(rows).toarray()
        centre = codes.mean(axis=0)
        normal = self._product(u.T, u)
        normal += np.float32(ridge * len(u)) * np.eye(u.shape[1], dtype=np.float32)
        weights = np.linalg.solve(normal, self._product(u.T, codes - centre)).T
        bias = centre - weights @ u.mean(axis=0)
        h = len(codes.T)
        gain = np.ones(h, np.float32)
        if nonlinearity in ("sigmoid", "tanh"):
            # The gain is the largest code to be reached; the slope at the start is then undone.
            gain = np.quantile(np.abs(codes), 0.995, axis=0).astype(np.float32) + np.float32(1e-3)
            weights, bias = weights / gain[:, None], bias / gain
        if nonlinearity == "sigmoid":
            weights, bias = weights / self._START_SLOPE, np.full(h, -2.0)
        self.encoder = {
            "weights": np.ascontiguousarray(weights, np.float32),
            "bias": np.ascontiguousarray(bias, np.float32),
            "gain": gain,
        }
        if nonlinearity == "soft_threshold":
            self.encoder["threshold"] = np.full(h, threshold * self.settings.alpha, np.float32)
        if nonlinearity in ("rectified", "soft_threshold"):
            # Best gain for each signature, <Z, S> / <S, S>, taken into what it multiplies.
            s = activate(
                nonlinearity, self._product(u, weights.T) + bias, self.encoder.get("threshold")
            )
            best = (codes * s).sum(axis=0) / ((s * s).sum(axis=0) + np.float32(1e-9))
            best = np.clip(best, 0.2, 50)
            for name in self.encoder.keys() - {"gain"}:
                self.encoder[name] = np.ascontiguousarray((self.encoder[name].T * best).T)

    # ---- batches ----

    def rate(self, iteration: int) -> float:
        """Step of Adam in an iteration, counted from 0."""
        settings = self.settings
        rate = settings.learning_rate / settings.n_components / (1 + 0.3 * iteration)
        # The weights of a sigmoid are larger by as much.
        return rate / self._START_SLOPE if settings.nonlinearity == "sigmoid" else rate

    def step(self, x: np.ndarray, rate: float) -> dict[str, float]:
        """Steps 1 to 3 on one batch; returns sums of the objective's terms over it."""
        self.statistics.forget()
        return self._apply(self.measure(x, self.statistics), rate)

    def step_with(
        self, measured: Measured, statistics: CodeStatistics, rate: float
    ) -> dict[str, float]:
        """Steps 2 and 3 on a batch that was measured elsewhere."""
        self.statistics.forget()
        self.statistics += statistics
        return self._apply(measured, rate)

    def _apply(self, measured: Measured, rate: float) -> dict[str, float]:
        encoder = self.encoder
        self._adam.step(encoder, measured.gradient, rate)
        if self.settings.nonlinearity == "soft_threshold":
            np.maximum(encoder["threshold"], 0, out=encoder["threshold"])
        if self.settings.nonlinearity == "sigmoid":
            np.maximum(encoder["gain"], 1e-4, out=encoder["gain"])
        self._n_gathered += 1
        if self._n_gathered == self._UPDATE_EVERY:
            self._update()
            self._replace(measured.residual, duplicates=False)
        return measured.terms

    def _update(self) -> None:
        """Move the signatures."""
        gradient, moved = self._scratch
        A, C = self.statistics.A, self.statistics.C
        _learn.update_signatures(self.signatures, A, C, gradient, moved, self.n_threads)
        self._n_gathered = 0
        self._gram = None

    def _replace(self, residual: np.ndarray, duplicates: bool) -> None:
        """Replace dead, and perhaps duplicate, signatures by badly rebuilt patches of a batch.

        Duplicates are replaced before there is an encoder only: signatures of smooth patches are
        alike by nature, and replacing them without end would leave the encoder behind for ever.
        """
        dead_energy = 1e-4  # of the median energy of a signature's codes
        duplicate_cosine = 0.95
        energy = np.diagonal(self.statistics.A)
        dead = energy <= dead_energy * np.median(energy)
        chosen = np.flatnonzero(dead)
        if duplicates:
            cosine = self._product(self.signatures, self.signatures.T)
            if not self.settings.positive:
                cosine = np.abs(cosine)
            # Of two alike, the one with less energy goes (of equals, the later one).
            rank = np.empty(len(energy), np.intp)
            rank[np.argsort(-energy, kind="stable")] = np.arange(len(energy))
            alike = ((cosine > duplicate_cosine) & (rank[:, None] > rank)).any(axis=1) & ~dead
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
                self.statistics.clear(int(j))
        self._replaced["dead_replaced"] += int(dead[chosen].sum())
        self._replaced["duplicates_replaced"] += int((~dead[chosen]).sum())

    def take_replaced(self) -> dict[str, int]:
        """How many signatures were replaced since this was last asked."""
        counts = self._replaced
        self._replaced = dict.fromkeys(counts, 0)
        return counts

    def coder(self) -> Coder:
        """A copy of what measuring needs, for another process and one thread there."""
        coder = Coder(self.settings, self.preprocessing, 1)
        coder.signatures = self.signatures.copy()
        coder.mean, coder.whitener = self.mean, self.whitener
        coder.encoder = {name: value.copy() for name, value in self.encoder.items()}
        return coder

    def folded(self) -> Arrays:
        """The encoder on preprocessed patches: what whitens its input folded into its weights."""
        encoder = {name: value.copy() for name, value in self.encoder.items()}
        encoder["weights"] = encoder["weights"] @ self.whitener.T
        encoder["bias"] = encoder["bias"] - encoder["weights"] @ self.mean
        return encoder

    # ---- checkpoints ----

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Everything that the next batch depends on, as arrays and as JSON."""
        rng: Mapping[str, Any] = self.rng.get_state(legacy=False)
        more, preprocessing = self.preprocessing.to_arrays()
        arrays = {
            "signatures": self.signatures, "A": self.statistics.A, "C": self.statistics.C,
            "mean": self.mean, "whitener": self.whitener, "rng": rng["state"]["key"],
            **prefixed("encoder.", self.encoder),
            **prefixed("first.", self._adam.first),
            **prefixed("second.", self._adam.second),
            **prefixed("preprocessing.", more),
        }  # fmt: skip
        return arrays, {
            "steps": self._adam.steps,
            "n_gathered": self._n_gathered,
            "rng": [rng["state"]["pos"], rng["has_gauss"], rng["gauss"]],
            "preprocessing": preprocessing,
        }

    @staticmethod
    def state_shapes(settings: LayerSettings, m: int) -> dict[str, tuple[int | str, ...]]:
        """Of the arrays of `state`; "k" is the length of whitened patches."""
        h = settings.n_components
        encoder: dict[str, tuple[int | str, ...]]
        encoder = {"weights": (h, "k"), "bias": (h,), "gain": (h,)}
        if settings.nonlinearity == "soft_threshold":
            encoder["threshold"] = (h,)
        preprocessing = Preprocessing(settings.preprocessing, settings.whiten).shapes(m)
        return {
            "signatures": (h, m), "A": (h, h), "C": (h, m), "mean": (m,), "whitener": (m, "k"),
            "rng": (624,),
            **{
                f"{group}.{name}": shape
                for group in ("encoder", "first", "second")
                for name, shape in encoder.items()
            },
            **{f"preprocessing.{name}": shape for name, shape in preprocessing.items()},
        }  # fmt: skip

    @classmethod
    def from_state(
        cls,
        settings: LayerSettings,
        arrays: Arrays,
        values: dict[str, Any],
        n_threads: int,
    ) -> Learner:
        """The learner whose `state` gave these."""
        m = arrays["signatures"].shape[1]
        preprocessing = Preprocessing.from_arrays(
            under("preprocessing.", arrays), values["preprocessing"], m
        )
        self = cls(settings, preprocessing, np.random.RandomState(), m, n_threads)
        self.signatures, self.mean, self.whitener = (
            arrays[name] for name in ("signatures", "mean", "whitener")
        )
        self.statistics.A, self.statistics.C = arrays["A"], arrays["C"]
        self.encoder = under("encoder.", arrays)
        self._adam = _Adam(self.encoder)
        self._adam.first, self._adam.second = under("first.", arrays), under("second.", arrays)
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
        return self


def _energy(array: np.ndarray) -> np.floating[Any]:
    result: np.floating[Any] = np.vdot(array, array)
    return result
