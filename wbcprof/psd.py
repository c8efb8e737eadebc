"""Predictive Sparse Decomposition: one layer, learnt on patch rows.

    J = 1/2 ||X - Z B||^2 + alpha ||Z||_1 + kappa/2 ||Z - F||^2,     F = g * s(X W' + b)

over signatures B (unit rows), codes Z, and encoder W, b, g; rows are preprocessed patches. (The
paper's objective is twice this, its lambda is 2 alpha.) Patches are visited in batches. Each batch

1. is coded: Z = argmin J, all else fixed;
2. moves the encoder down the gradient of kappa/2 ||Z - F||^2 + rho (1/2 ||X - F B||^2 +
   alpha ||F||_1), by Adam in whitened coordinates of the input, which fold into W;
3. moves each signature in turn to its exact optimum, from decayed statistics of Z and X.

The term in rho holds the prediction to the task of the codes: to rebuild the patch, sparsely.
"""

from __future__ import annotations

import time

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from .encoder import NONLINEARITIES
from .layer import activate
from .patches import PatchRows, Preprocessing
from .sparse import sparse_code
from .threads import blas_threads, product

_DUPLICATE_COSINE = 0.95
_DEAD_ENERGY = 1e-4  # of the median energy of a signature's codes
_MAX_REPLACED = 0.03  # of all signatures, per iteration
_DECAY = 0.95  # of the statistics of Z and X, per batch
_CODING_GAP = 1e-3  # relative duality gap of the codes while learning
_MIN_ENCODER_KAPPA = 0.1  # with kappa = 0 the encoder still follows the codes
_SAMPLE_PATCHES = 30_000  # that preprocessing and start are fitted on
_UPDATE_BLOCK = 64
_WARM_PASSES, _WARM_BATCH = 2, 1500  # over the sample, for the signatures alone
_RATE_DECAY = 0.3  # of the learning rate, per iteration
_RIDGE = 1e-1  # of the variance of the whitened input
_REPORT_PATCHES = 4000
_INPUT_WHITENING_FLOOR = 0.1  # of the mean eigenvalue of the encoder's input


def update_signatures(signatures: np.ndarray, A: np.ndarray, C: np.ndarray) -> None:
    """Block coordinate descent on 1/2 ||X - Z B||^2 over the rows of B on the unit sphere.

    Parameters
    ----------
    signatures : ndarray of shape (h, m)
        B, changed in place; no row's step raises the objective.
    A : ndarray of shape (h, h)
        Z' Z.
    C : ndarray of shape (h, m)
        Z' X.

    Notes
    -----
    With all other rows fixed, the best unit row j is u / ||u||, u = C_j - A_j B + A_jj b_j. Rows
    without codes (A_jj = 0) stay. The product A_j B is taken for a block of rows at once, then
    corrected for the rows of the block that have moved since.
    """
    used = np.diagonal(A) > 0
    for start in range(0, len(signatures), _UPDATE_BLOCK):
        block = slice(start, start + _UPDATE_BLOCK)
        within = A[block, block]
        gradient = C[block] - A[block] @ signatures
        moved = np.zeros_like(gradient)
        for k, j in enumerate(range(len(signatures))[block]):
            if not used[j]:
                continue
            u = gradient[k] - within[k, :k] @ moved[:k] + A[j, j] * signatures[j]
            norm = np.linalg.norm(u)
            if norm > 0:
                u /= norm
                moved[k] = u - signatures[j]
                signatures[j] = u


def encoder_gradient(
    encoder: dict[str, np.ndarray],
    inputs: np.ndarray,
    a: np.ndarray,
    s: np.ndarray,
    prediction_error: np.ndarray,
    residual: np.ndarray,
    signatures: np.ndarray,
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
    residual : ndarray of shape (n, m)
        F B - X.
    signatures : ndarray of shape (h, m)
        B.

    Returns
    -------
    dict
        With the keys of `encoder`.
    """
    d_prediction = kappa * prediction_error
    if rho:
        sign = np.sign(encoder["gain"] * s)
        d_prediction += rho * product(residual, signatures.T, n_threads) + rho * alpha * sign
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
        self._first = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._second = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._steps = 0

    def step(self, parameters, gradient, rate: float) -> None:
        self._steps += 1
        rate *= np.sqrt(1 - 0.999**self._steps) / (1 - 0.9**self._steps)
        for name, value in parameters.items():
            first, second, g = self._first[name], self._second[name], gradient[name]
            first += np.float32(0.1) * (g - first)
            second += np.float32(0.001) * (g * g - second)
            value -= np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8))


class _Learner:
    """What learning keeps between batches: signatures, encoder in whitened input, statistics."""

    def __init__(self, psd: PSD, rows: np.ndarray, rng: np.random.RandomState):
        self._psd = psd
        self.rng = rng
        h = psd.n_components
        norms = np.linalg.norm(rows, axis=1)
        strong = np.flatnonzero(norms >= max(np.quantile(norms, 0.2), np.finfo(np.float32).tiny))
        chosen = rng.choice(strong, h, replace=len(strong) < h)
        self.signatures = rows[chosen] / norms[chosen, None]
        self._A = np.zeros((h, h), np.float32)
        self._C = np.zeros((h, rows.shape[1]), np.float32)

        # Signatures alone: the encoder then starts from codes worth predicting.
        self._replaced = {"dead_replaced": 0, "duplicates_replaced": 0}
        for _ in range(_WARM_PASSES):
            for start in range(0, len(rows), _WARM_BATCH):
                x = rows[start : start + _WARM_BATCH]
                codes = self._code(x, 0.0, None).toarray()
                self._update(codes, x, _DECAY)
                self._replace(x, codes, duplicates=True)
        self._whiten(rows)
        self._regress(rows)
        self._adam = _Adam(self.encoder)

    def _whiten(self, rows: np.ndarray) -> None:
        """u = (x - mean) whitener: the encoder's problem is well conditioned in u."""
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = rows - self.mean
        covariance = self._product(centred.T, centred).astype(np.float64) / len(rows)
        values, vectors = np.linalg.eigh(covariance)
        floor = _INPUT_WHITENING_FLOOR * max(values.mean(), np.finfo(np.float32).tiny)
        root = np.sqrt(np.maximum(values, 0) + floor)
        self.whitener = ((vectors / root) @ vectors.T).astype(np.float32)

    def _regress(self, rows: np.ndarray) -> None:
        """Start the encoder from the ridge regression of sparse codes on whitened patches."""
        nonlinearity = self._psd.encoder
        u = self._product(rows - self.mean, self.whitener)
        codes = self._code(rows, 0.0, None).toarray()
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
            slope = 0.105  # of the sigmoid at -2, where codes are near zero
            weights, bias = weights / slope, np.full(h, -2.0)
        self.encoder = {
            "weights": np.ascontiguousarray(weights, np.float32),
            "bias": np.ascontiguousarray(bias, np.float32),
            "gain": gain,
        }
        if nonlinearity == "soft_threshold":
            self.encoder["threshold"] = np.full(h, self._psd.alpha / 2, np.float32)
        if nonlinearity in ("rectified", "soft_threshold"):
            # Best gain for each signature, <Z, S> / <S, S>, taken into what it multiplies.
            s = activate(
                nonlinearity, self._product(u, weights.T) + bias, self.encoder.get("threshold")
            )
            best = (codes * s).sum(axis=0) / ((s * s).sum(axis=0) + np.float32(1e-9))
            best = np.clip(best, 0.2, 50)
            for name in self.encoder.keys() - {"gain"}:
                self.encoder[name] = (self.encoder[name].T * best).T

    def _product(self, a, b):
        return product(a, b, self._psd.n_threads)

    def _code(self, x, kappa, prediction):
        psd = self._psd
        return sparse_code(
            x,
            self.signatures,
            psd.alpha,
            kappa,
            prediction,
            positive=psd.positive,
            tol=_CODING_GAP,
            n_threads=psd.n_threads,
        ).codes

    def _update(self, codes, x, decay: float, prediction=None) -> None:
        """Take a batch into the statistics, then move the signatures."""
        if prediction is not None:
            root = np.float32(np.sqrt(self._psd.rho))
            codes = np.concatenate([codes, root * prediction])
            x = np.concatenate([x, root * x])
        self._A *= decay
        self._C *= decay
        self._A += self._product(codes.T, codes)
        self._C += self._product(codes.T, x)
        update_signatures(self.signatures, self._A, self._C)

    def step(self, x: np.ndarray, rate: float) -> dict[str, float]:
        """Steps 1 to 3 on one batch; returns sums of the objective's terms over it."""
        psd, encoder = self._psd, self.encoder
        u = self._product(x - self.mean, self.whitener)
        a = self._product(u, encoder["weights"].T) + encoder["bias"]
        s = activate(psd.encoder, a, encoder.get("threshold"))
        prediction = encoder["gain"] * s
        sparse = self._code(x, psd.kappa, prediction)
        codes = sparse.toarray()
        prediction_error = prediction - codes
        residual = self._product(prediction, self.signatures) - x
        terms = {
            "reconstruction": 0.5 * _energy(self._product(codes, self.signatures) - x),
            "sparsity": psd.alpha * np.abs(sparse.data).sum(),
            "prediction": 0.5 * psd.kappa * _energy(prediction_error),
            "error_prediction": _energy(residual),
            "nonzero": sparse.nnz,
            "energy": _energy(x),
        }
        gradient = encoder_gradient(
            encoder, u, a, s, prediction_error, residual, self.signatures,
            nonlinearity=psd.encoder, alpha=psd.alpha, kappa=max(psd.kappa, _MIN_ENCODER_KAPPA),
            rho=psd.rho, n_threads=psd.n_threads,
        )  # fmt: skip
        self._adam.step(encoder, gradient, rate)
        if psd.encoder == "soft_threshold":
            np.maximum(encoder["threshold"], 0, out=encoder["threshold"])
        if psd.encoder == "sigmoid":
            np.maximum(encoder["gain"], 1e-4, out=encoder["gain"])
        self._update(codes, x, _DECAY, prediction if psd.rho else None)
        self._replace(x, codes, duplicates=False)
        return {name: float(value) for name, value in terms.items()}

    def take_replaced(self) -> dict[str, int]:
        """How many signatures were replaced since this was last asked."""
        counts = self._replaced
        self._replaced = dict.fromkeys(counts, 0)
        return counts

    def _replace(self, x: np.ndarray, codes: np.ndarray, duplicates: bool) -> None:
        """Replace dead, and perhaps duplicate, signatures by badly rebuilt patches of a batch.

        Duplicates are replaced before there is an encoder only: signatures of smooth patches are
        alike by nature, and replacing them without end would leave the encoder behind for ever.
        """
        energy = np.diagonal(self._A)
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
        chosen = chosen[: max(1, int(_MAX_REPLACED * len(energy)))]
        if len(chosen) == 0:
            return
        residual = x - self._product(codes, self.signatures)
        norms = np.linalg.norm(residual, axis=1)
        worst = np.argsort(-norms, kind="stable")[: 4 * len(chosen)]
        worst = self.rng.choice(worst, len(chosen), replace=len(worst) < len(chosen))
        for j, i in zip(chosen, worst, strict=True):
            if norms[i] > 0:
                self.signatures[j] = residual[i] / norms[i]
                self._A[j] = self._A[:, j] = self._C[j] = 0
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
        Non-negative codes: with mean pooling, signed codes cancel between patches.
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
        what they rebuild), and by 1 + 0.3 t in iteration t.
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
        ||X - Z B|| / ||X|| of codes and prediction, non-zero codes per patch, signatures
        replaced, seconds; the last entry also holds ``error_optimal``, that of optimal codes
        (kappa = 0), measured on up to 4,000 patches.
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

    def fit(self, X, y=None) -> PSD:
        """Learn signatures and encoder.

        Parameters
        ----------
        X : array-like of shape (n_patches, m)
            Patch rows.
        y : ignored

        Returns
        -------
        PSD

        Raises
        ------
        ValueError
            NaN or infinite values, patches without signal, or a parameter out of range.
        """
        X = self._check(X, reset=True)
        with blas_threads(1):
            self._start(X)
            still = 0
            for _ in range(self.max_iter):
                entry = self._pass(X)
                previous = self.history_[-1]["objective"] if self.history_ else np.inf
                self.history_.append(entry)
                if self.verbose:
                    print(_describe(len(self.history_), entry), flush=True)
                still = still + 1 if previous - entry["objective"] < self.tol * previous else 0
                if still == 2:
                    break
            self._finish(X)
        return self

    def partial_fit(self, X, y=None) -> PSD:
        """One pass over a batch of patches; the first call fits the preprocessing and starts.

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
        with blas_threads(1):
            if first:
                self._start(X)
            self.history_.append(self._pass(X))
            self._finish(X)
        return self

    def _check(self, X, *, reset: bool):
        for name, least in (("n_components", 1), ("batch_size", 1), ("max_iter", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
        for name in ("alpha", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)!r}")
        for name in ("kappa", "rho", "tol"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)!r}")
        if self.encoder not in NONLINEARITIES:
            raise ValueError(f"encoder must be one of {NONLINEARITIES}, got {self.encoder!r}")
        if isinstance(X, PatchRows):
            self.n_features_in_ = X.shape[1]
        else:
            X = validate_data(self, X, reset=reset, dtype=np.float32, order="C")
        if reset and len(X) < self.n_components:
            raise ValueError(
                f"n_components ({self.n_components}) must be at most the number of patches "
                f"({len(X)})"
            )
        return X

    def _start(self, X) -> None:
        """Fit the preprocessing; start B from patches and the encoder from ridge regression."""
        rng = check_random_state(self.random_state)
        sample = X[np.sort(rng.permutation(len(X))[:_SAMPLE_PATCHES])]
        self.preprocessing_ = Preprocessing(self.preprocessing, self.whiten).fit(sample)
        self._learner = _Learner(self, self.preprocessing_.apply(sample)[0], rng)
        self.history_ = []

    def _pass(self, X) -> dict[str, float]:
        """Visit all patches once, in random order; one entry of the history."""
        started = time.perf_counter()
        learner = self._learner
        order = learner.rng.permutation(len(X))
        rate = self.learning_rate / self.n_components / (1 + _RATE_DECAY * len(self.history_))
        sums: dict[str, float] = {}
        for start in range(0, len(X), self.batch_size):
            batch = X[order[start : start + self.batch_size]]
            terms = learner.step(self.preprocessing_.apply(batch)[0], rate)
            sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
        energy = sums.pop("energy")
        entry = {name: value / len(X) for name, value in sums.items()}
        entry["objective"] = entry["reconstruction"] + entry["sparsity"] + entry["prediction"]
        entry["error_codes"] = float(np.sqrt(2 * sums["reconstruction"] / energy))
        entry["error_prediction"] = float(np.sqrt(entry["error_prediction"] * len(X) / energy))
        entry |= learner.take_replaced()
        entry["seconds"] = time.perf_counter() - started
        return entry

    def _finish(self, X) -> None:
        """Fold the encoder's input whitening; measure the errors of prediction and codes."""
        learner = self._learner
        encoder = learner.encoder
        self.components_ = learner.signatures.copy()
        self.encoder_weights_ = encoder["weights"] @ learner.whitener
        self.encoder_bias_ = encoder["bias"] - self.encoder_weights_ @ learner.mean
        self.encoder_gain_ = encoder["gain"].copy()
        self.encoder_threshold_ = encoder.get("threshold")
        self.n_iter_ = len(self.history_)
        rows = self.preprocessing_.apply(X[:_REPORT_PATCHES])[0]
        optimal = sparse_code(
            rows, self.components_, self.alpha, positive=self.positive, n_threads=self.n_threads
        ).codes
        energy = np.linalg.norm(rows)
        self.history_[-1] |= {
            "error_prediction": float(
                np.linalg.norm(rows - self._predict(rows) @ self.components_) / energy
            ),
            "error_optimal": float(np.linalg.norm(rows - optimal @ self.components_) / energy),
            "nonzero_optimal": optimal.nnz / len(rows),
        }

    def _predict(self, rows: np.ndarray) -> np.ndarray:
        a = rows @ self.encoder_weights_.T + self.encoder_bias_
        return self.encoder_gain_ * activate(self.encoder, a, self.encoder_threshold_)

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

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)


def _describe(iteration: int, entry: dict[str, float]) -> str:
    return (
        f"iteration {iteration}: objective {entry['objective']:.5f}, relative reconstruction "
        f"error {entry['error_codes']:.3f} from codes, {entry['error_prediction']:.3f} from "
        f"prediction, {entry['nonzero']:.1f} non-zero codes, {entry['dead_replaced']} dead and "
        f"{entry['duplicates_replaced']} duplicate signatures replaced, {entry['seconds']:.1f} s"
    )
