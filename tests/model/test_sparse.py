from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, issparse
from sklearn.decomposition import sparse_encode as sklearn_sparse_encode

from wbcprof import _core, reference
from wbcprof.model.layer import predict
from wbcprof.model.preprocessing import correlate, pack_signatures
from wbcprof.model.sparse import gram_matrix, sparse_code, sparse_encode

SIGNS = pytest.mark.parametrize("positive", [False, True], ids=["signed", "positive"])
KAPPAS = pytest.mark.parametrize("kappa", [0.0, 0.7])
STRATEGIES = pytest.mark.parametrize("strategy", ["active_set", "greedy"])


def problem(n=60, m=48, h=70, coherence=0.8, seed=0):
    """Signals made of a few of h signatures, which share a common direction as patches do."""
    rng = np.random.default_rng(seed)
    b = rng.standard_normal((h, m)) + 3 * coherence * rng.random(m)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    codes = rng.random((n, h)) * (rng.random((n, h)) < 5 / h)
    x = codes @ b + 0.05 * rng.standard_normal((n, m))
    x /= np.sqrt((x**2).sum(1).mean())
    return x.astype(np.float32), b.astype(np.float32)


def objective(x, b, z, alpha, kappa=0.0, f=0.0):
    x, b, z = (np.asarray(a, np.float64) for a in (x, b, z))
    error, far = ((x - z @ b) ** 2).sum(1), ((z - f) ** 2).sum(1)
    return 0.5 * error + alpha * np.abs(z).sum(1) + 0.5 * kappa * far


def check_kkt(x, b, z, alpha, kappa=0.0, f=0.0, positive=False, within=2e-3):
    """r_j = alpha sign(z_j) on the support and |r_j| <= alpha off it, up to `within` * alpha."""
    x, b, z = (np.asarray(a, np.float64) for a in (x, b, z))
    r = (x - z @ b) @ b.T + kappa * (f - z)
    assert np.abs(r - alpha * np.sign(z))[z != 0].max(initial=0) <= within * alpha
    assert (r if positive else np.abs(r))[z == 0].max(initial=0) <= (1 + within) * alpha
    if positive:
        assert (z >= 0).all()


@SIGNS
@KAPPAS
@STRATEGIES
def test_every_signal_is_optimal(instruction_set, positive, kappa, strategy):
    x, b = problem()
    f = 0.1 * np.random.default_rng(1).random((len(x), len(b)))
    codes, gap, n_unconverged = sparse_code(
        x, b, 0.05, kappa, f, positive=positive, tol=1e-5, strategy=strategy
    )
    assert n_unconverged == 0 and gap.max() <= 1e-5
    check_kkt(x, b, codes.toarray(), 0.05, kappa, f, positive)


@SIGNS
@KAPPAS
@STRATEGIES
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 5),
    m=st.integers(1, 20),
    h=st.integers(1, 35),
    alpha=st.floats(0.02, 0.5),
    seed=st.integers(0, 99),
)
@example(n=1, m=1, h=1, alpha=0.5, seed=12)  # a code just above zero
@example(n=1, m=1, h=33, alpha=0.02, seed=1)  # sums that cancel: as near as float32 comes
def test_agrees_with_the_twin(positive, kappa, strategy, n, m, h, alpha, seed):
    rng = np.random.default_rng(seed)
    x, b = rng.standard_normal((n, m)), rng.standard_normal((h, m)) * rng.uniform(0.5, 2, (h, 1))
    x, b = (x / m**0.5).astype(np.float32), (b / m**0.5).astype(np.float32)
    f = rng.standard_normal((n, h)).astype(np.float32)
    result = sparse_code(x, b, alpha, kappa, f, positive=positive, tol=5e-5, strategy=strategy)
    codes = result.codes.toarray().astype(np.float64)
    gram = np.abs(b.astype(np.float64) @ b.T + kappa * np.eye(h))
    floor = 1e-7 / alpha * (np.abs(codes) @ gram).max(axis=1)
    assert (result.gap <= np.maximum(5e-5, floor)).all()
    assert result.n_unconverged == (result.gap > 5e-5).sum()
    z, _ = reference.sparse_code(x, b, alpha, kappa, f, positive=positive, tol=1e-7, max_iter=3000)
    ours = objective(x, b, codes, alpha, kappa, f)
    best = objective(x, b, z, alpha, kappa, f)
    slack = 2 * np.maximum(5e-5, result.gap) * best + 1e-6
    np.testing.assert_array_less(ours, best + slack)
    # Strongly convex: kappa / 2 times the squared distance to the optimum is at most what is above.
    assert (kappa / 2 * ((codes - z) ** 2).sum(axis=1) <= slack).all()


@SIGNS
def test_gap_is_the_gap_of_the_twin(positive):
    x, b = problem(n=20)
    codes, gap, _ = sparse_code(x, b, 0.05, positive=positive, tol=1e-2)
    z = codes.toarray().astype(np.float64)
    x, b = x.astype(np.float64), b.astype(np.float64)
    q, r = x @ b.T, (x - z @ b) @ b.T
    for i in range(len(x)):
        want = reference.relative_gap(z[i], q[i], r[i], x[i] @ x[i], 0.05, positive)
        assert gap[i] == pytest.approx(want, abs=2e-5)


@STRATEGIES
def test_any_number_of_threads_gives_the_same_bits(instruction_set, strategy):
    x, b = problem(n=300)
    runs = [sparse_code(x, b, 0.02, n_threads=t, strategy=strategy) for t in (1, 2, 3, 7)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.codes.indptr, runs[0].codes.indptr)
        np.testing.assert_array_equal(run.codes.indices, runs[0].codes.indices)
        np.testing.assert_array_equal(run.codes.data, runs[0].codes.data)
        np.testing.assert_array_equal(run.gap, runs[0].gap)


def test_instruction_sets_agree():
    x, b = problem()
    before = _core.instruction_set()
    values = []
    for name in _core.instruction_sets():
        _core.cap_instruction_set(name)
        values.append(objective(x, b, sparse_encode(x, b, 0.02, tol=1e-5, dense=True), 0.02))
    _core.cap_instruction_set(before)
    for value in values[1:]:
        np.testing.assert_allclose(value, values[0], rtol=2e-5)


@SIGNS
@pytest.mark.parametrize("alpha", [0.01, 0.1])
def test_objective_never_above_that_of_sklearn(positive, alpha):
    x, b = problem()
    ours = sparse_encode(x, b, alpha, positive=positive, dense=True)
    theirs = sklearn_sparse_encode(
        x.astype(np.float64),
        b.astype(np.float64),
        algorithm="lasso_cd",
        alpha=alpha,
        positive=positive,
        max_iter=20000,
    )
    assert (objective(x, b, ours, alpha) <= objective(x, b, theirs, alpha) * (1 + 1e-4)).all()


def test_codes_are_sorted_csr_of_float32():
    x, b = problem()
    codes = sparse_encode(x, b, 0.05)
    assert issparse(codes) and codes.dtype == np.float32 and codes.indices.dtype == np.int32
    rebuilt = csr_array((codes.data, codes.indices, codes.indptr), shape=codes.shape)
    assert rebuilt.has_canonical_format
    assert (codes.data != 0).all()
    np.testing.assert_array_equal(sparse_encode(x, b, 0.05, dense=True), codes.toarray())


@STRATEGIES
def test_zero_and_constant_signals(strategy):
    x, b = problem(n=5)
    x[1], x[3] = 0, 1 / np.sqrt(x.shape[1])
    codes, gap, n_unconverged = sparse_code(x, b, 0.02, strategy=strategy)
    assert n_unconverged == 0 and gap[1] == 0
    assert codes[[1]].nnz == 0
    check_kkt(x, b, codes.toarray(), 0.02, within=0.02)


@SIGNS
@STRATEGIES
def test_singular_gram(positive, strategy):
    x, b = problem(h=40)
    b = np.concatenate([b, b, -b[:5], 0.5 * b[:3] + 0.5 * b[3:6], b[:4] * 2])
    result = sparse_code(x, b, 0.02, positive=positive, strategy=strategy, tol=5e-5)
    assert result.n_unconverged == 0
    check_kkt(x, b, result.codes.toarray(), 0.02, positive=positive, within=0.02)


def test_more_signatures_than_the_active_set_holds():
    rng = np.random.default_rng(0)
    x, b = rng.random((3, 700), np.float32), np.eye(700, dtype=np.float32)
    codes, _, n_unconverged = sparse_code(x, b, 1e-3)
    assert n_unconverged == 0 and np.diff(codes.indptr).min() > 600
    np.testing.assert_allclose(codes.toarray(), np.maximum(x - 1e-3, 0), atol=1e-5)


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_greedy_takes_over_from_a_full_active_set(monkeypatch, limit):
    x, b = problem()
    whole = sparse_code(x, b, 0.05)
    monkeypatch.setattr("wbcprof.model.sparse.MAX_ACTIVE", limit)
    small = sparse_code(x, b, 0.05)
    assert np.diff(whole.codes.indptr).max() > limit and small.n_unconverged == 0
    np.testing.assert_allclose(
        objective(x, b, small.codes.toarray(), 0.05),
        objective(x, b, whole.codes.toarray(), 0.05),
        rtol=2e-4,
    )


def test_iterations_run_out():
    x, b = problem()
    result = sparse_code(x, b, 1e-3, max_iter=2)
    assert result.n_unconverged == np.count_nonzero(result.gap > 1e-4) > 0


def test_tiles_and_given_gram_change_nothing(monkeypatch):
    x, b = problem(n=100)
    whole = sparse_code(x, b, 0.02)
    monkeypatch.setattr("wbcprof.model.sparse.TILE_BYTES", 1)
    tiled = sparse_code(x, b, 0.02, gram=gram_matrix(b), products=x @ b.T)
    np.testing.assert_array_equal(whole.codes.indptr, tiled.codes.indptr)
    np.testing.assert_allclose(whole.codes.data, tiled.codes.data, atol=1e-5)


@pytest.mark.parametrize("n, m, h", [(1, 1, 1), (13, 17, 31), (57, 16, 33), (120, 75, 70)])
def test_correlate_is_the_product_whatever_the_rows_around(instruction_set, n, m, h):
    rng = np.random.default_rng(n)
    patches, signatures = (rng.standard_normal((k, m)).astype(np.float32) for k in (n, h))
    packed = pack_signatures(signatures)
    out = np.full((n, packed.shape[0] * packed.shape[2]), np.nan, np.float32)
    _core.correlate(patches, packed, out)
    np.testing.assert_allclose(
        out[:, :h], reference.correlate(patches, signatures), atol=1e-6 * m, rtol=0
    )
    assert not out[:, h:].any()
    alone = np.empty((1, out.shape[1]), np.float32)
    _core.correlate(patches[-1:], packed, alone)
    np.testing.assert_array_equal(alone[0], out[-1])


def test_gram_matrix_is_mirrored_padded_and_the_same_for_any_thread_count():
    b = np.random.default_rng(0).normal(size=(300, 20)).astype(np.float32)
    gram = gram_matrix(b, 0.5)
    np.testing.assert_allclose(gram[:, :300], b @ b.T + 0.5 * np.eye(300), atol=1e-4)
    np.testing.assert_array_equal(gram[256:, :256], gram[:256, 256:300].T)
    assert gram.shape == (300, 320) and not gram[:, 300:].any()
    np.testing.assert_array_equal(gram, gram_matrix(b, 0.5, n_threads=3))


def test_inputs_stay_as_they_were():
    x, b = problem(n=8)
    prediction = np.ones((8, len(b)), np.float32)
    for a in (x, b, prediction):
        a.setflags(write=False)
    sparse_code(x, b, 0.02, 0.1, prediction)
    sparse_code(np.asfortranarray(x), b[::-1], 0.02)


def test_no_patches():
    _, b = problem()
    assert sparse_encode(np.empty((0, b.shape[1])), b, 0.1).shape == (0, len(b))


def bad_inputs():
    x, b = problem(n=4)

    def with_entry(a, value):
        a = a.copy()
        a[2, 1] = value
        return a

    zero = b.copy()
    zero[3] = 0
    for bad, name in itertools.product((np.nan, np.inf, -np.inf), ("patches", "components")):
        args = dict(patches=x, components=b, alpha=0.1)
        args[name] = with_entry(args[name], bad)
        yield args, f"{name} must be finite"
    yield dict(patches=x, components=zero, alpha=0.1), "zeros in row 3"
    for alpha in (0, -1, np.nan, np.inf):
        yield dict(patches=x, components=b, alpha=alpha), "alpha must be positive"
    for size in (1e16, 1e30):
        yield dict(patches=x * size, components=b, alpha=0.1), "patches must have norms of at most"
    for size in (1e30, 1e-16, 1e-42):
        yield dict(patches=x, components=b * size, alpha=0.1), "components must have norms from"
    yield dict(patches=x, components=b, alpha=1e-50), "alpha must be positive"
    yield (
        dict(patches=x, components=b, alpha=0.1, gram=np.full((70, 96), np.nan, np.float32)),
        "gram must be finite",
    )
    products = np.full((4, len(b)), np.nan)
    yield dict(patches=x, components=b, alpha=0.1, products=products), "products must be finite"
    yield dict(patches=x, components=b, alpha=0.1, kappa=-1), "kappa must be at least 0"
    yield dict(patches=x, components=b[:, :-1], alpha=0.1), "must match columns of patches"
    yield dict(patches=x[0], components=b, alpha=0.1), "2 dimensions"
    yield dict(patches=x, components=b, alpha=0.1, tol=0), "tol must be positive"
    yield (
        dict(patches=x, components=b, alpha=0.1, max_iter=0),
        "max_iter must be an integer from 1 to 2147483647",
    )
    yield dict(patches=x, components=b, alpha=0.1, strategy="best"), "strategy must be"
    yield dict(patches=x, components=b, alpha=0.1, n_threads=0), "n_threads"
    yield dict(patches=x, components=b, alpha=0.1, gram=np.eye(3)), "gram must be float32"
    yield dict(patches=x, components=b, alpha=0.1, products=np.eye(3)), "products must have shape"
    prediction = np.zeros((4, len(b)))
    yield dict(patches=x, components=b, alpha=0.1, kappa=1, prediction=x), "prediction must have"
    prediction = with_entry(prediction, np.nan)
    yield (
        dict(patches=x, components=b, alpha=0.1, kappa=1, prediction=prediction),
        "prediction must be finite",
    )


@pytest.mark.parametrize(("args", "message"), list(bad_inputs()))
def test_bad_input_is_refused(args, message):
    with pytest.raises(ValueError, match=message):
        sparse_code(**args)


@STRATEGIES
@pytest.mark.parametrize("max_iter", [1, 1000])
def test_codes_that_return_to_zero_are_zero(instruction_set, strategy, max_iter):
    """Rounding must not leave -3e-8 where a code of 0 is meant (found by fuzzing)."""
    rng = np.random.default_rng(0)
    x, b = rng.standard_normal((200, 20)), rng.standard_normal((57, 20))
    codes = sparse_code(
        x / 4, b / 4, 0.05, 0.1, positive=True, strategy=strategy, max_iter=max_iter
    ).codes
    assert codes.data.min() > 2e-7


@STRATEGIES
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e14])
def test_codes_grow_with_the_patches(instruction_set, strategy, size):
    """Denormal squares and huge products included."""
    x, b = problem(n=20)
    wanted = sparse_code(x, b, 0.05, strategy=strategy, tol=1e-5).codes.toarray()
    got = sparse_code(x * np.float32(size), b, 0.05 * size, strategy=strategy, tol=1e-5)
    assert got.n_unconverged == 0
    np.testing.assert_allclose(got.codes.toarray() / size, wanted, rtol=0, atol=2e-3)


def test_gram_of_others_is_refused():
    x, b = problem(n=3)
    for wrong in (np.zeros_like(gram_matrix(b)), gram_matrix(2 * b), gram_matrix(b, 0.7)):
        with pytest.raises(ValueError, match="must be that of these components"):
            sparse_code(x, b, 0.05, gram=wrong)


def test_kernels_refuse_what_would_be_read_past_its_end():
    """Plausible numbers came of foreign memory; and indices are trusted of nobody."""
    signatures = np.random.default_rng(0).random((40, 108), np.float32)
    layer_rows = np.ones((3, 107), np.float32)
    for width in (107, 109):
        with pytest.raises(ValueError, match="do not fit"):
            correlate(np.ones((3, width), np.float32), signatures)
    with pytest.raises(ValueError, match="do not fit"):
        predict(layer_rows, signatures, np.zeros(40), np.ones(40), None, "tanh")
    index, value = np.zeros((2, 4), np.int32), np.zeros((2, 4), np.float32)
    for count in ([5, 0], [-1, 1], [1, 1]):
        packed = np.empty(5, np.int32), np.empty(5, np.float32)
        with pytest.raises(ValueError, match="do not fit"):
            _core.pack_rows(index, value, np.array(count, np.int32), *packed)


@pytest.mark.parametrize(
    "wrong",
    [{"width": 5}, {"width": 64}, {"n_threads": 0}, {"n_threads": 2**31 - 1}, {"past": 1},
     {"max_active": -1}, {"h": 0}],
)  # fmt: skip
def test_the_kernel_refuses_what_does_not_fit(wrong):
    """It would read, or write, past the ends of arrays."""

    def code(h=5, width=32, past=0, max_active=5, n_threads=1):
        gram, linear = np.eye(h, width, dtype=np.float32), np.ones((2, width), np.float32)
        linear[:, h:] = past
        problem = _core.Lasso(gram, 0.1, True, False, 1e-4, 100, max_active)
        index, value = np.zeros((2, h), np.int32), np.zeros((2, h), np.float32)
        count, gap = np.zeros(2, np.int32), np.zeros(2, np.float32)
        _core.sparse_code(problem, linear, np.ones(2), index, value, count, gap, n_threads)

    code()
    with pytest.raises(ValueError, match="do not fit"):
        code(**wrong)


def test_no_components_are_refused():
    x, b = problem(n=3)
    for code in (sparse_encode, sparse_code):
        with pytest.raises(ValueError, match="components must be one at least, got none"):
            code(x, b[:0], 0.05)


def test_masked_values_are_refused():
    x, b = problem(n=3)
    with pytest.raises(ValueError, match=r"patches must not be masked, got 144 masked values"):
        sparse_encode(np.ma.array(x, mask=True), b, 0.05)
