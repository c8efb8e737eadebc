#!/usr/bin/env python
"""Any shapes and options: the kernels agree with their twins of `wbcprof.reference`."""

import sys

import atheris
import numpy as np
from test_encode_pool import TOLERANCE, assert_close, random_encoder, random_images

with atheris.instrument_imports(include=["wbcprof"]):
    from wbcprof import _core, _learn, reference
    from wbcprof.model.encoder import NONLINEARITIES, Encoder
    from wbcprof.model.forms import list_forms
    from wbcprof.model.pooling import STATISTICS, Pooling
    from wbcprof.model.preprocessing import pack_signatures
    from wbcprof.model.sparse import sparse_code

EDGE = 1e-4  # responses this near to a threshold may count as active or not
TOL, ROUNDING = 1e-3, 1e-4  # of duality gaps


def some(data, values, most):
    """Up to `most` of the values, at least one."""
    return [data.PickValueInList(values) for _ in range(data.ConsumeIntInRange(1, most))]


def encode(data):
    patch, step = data.ConsumeIntInRange(1, 24), data.ConsumeIntInRange(1, 9)
    height, width = (patch + data.ConsumeIntInRange(0, 40) for _ in range(2))
    channels, n_signatures = data.ConsumeIntInRange(1, 5), data.ConsumeIntInRange(1, 70)
    nonlinearity = data.PickValueInList(list(NONLINEARITIES))
    (filters, offset, gain, threshold), options = random_encoder(
        data.ConsumeInt(2) & 0xFFFF, patch, channels, n_signatures, nonlinearity, step=step,
        contrast_epsilon=data.PickValueInList([None, 0.01, 1.0]),
    )  # fmt: skip
    images = random_images(
        data.ConsumeInt(2) & 0xFFFF, data.ConsumeIntInRange(0, 3), height, width, channels,
        data.PickValueInList([np.uint8, np.float32, np.float64, np.float16]),
    )  # fmt: skip
    if data.ConsumeBool():
        images = images[::-1, :, ::-1].transpose(0, 2, 1, 3)
    form = data.PickValueInList([None, *(form.name for form in list_forms(patch, step))])
    encoder = Encoder(filters, offset, gain, threshold, **options, form=form)
    n_threads = data.ConsumeIntInRange(1, 3)
    if data.ConsumeBool():
        region, pool = data.ConsumeIntInRange(1, 7), data.PickValueInList(["max", "mean", "std"])
        got = encoder.encode_map(images, region, pool, n_threads=n_threads)
        for image, codes in zip(images, got, strict=True):
            codes_of_windows, active = reference.encode_windows(
                image, filters, offset, gain, threshold, **options
            )
            for row, column in np.ndindex(codes.shape[:2]):
                inside = tuple(slice(k * region, (k + 1) * region) for k in (row, column))
                part = codes_of_windows[inside].reshape(-1, n_signatures)
                wanted = STATISTICS[pool].of_codes(part, active)
                np.testing.assert_allclose(codes[row, column], wanted, rtol=0, atol=TOLERANCE[pool])
        return
    pools = some(data, list(STATISTICS), 5)
    regions = {
        "levels": some(data, [1, 2, 3, 7], 2) if data.ConsumeBool() else (),
        "centres": some(data, [0.01, 0.33, 0.61, 1.0], 2),
    }
    got = encoder.encode_pool(images, pooling=Pooling(pools, **regions), n_threads=n_threads)
    again = encoder.encode_pool(images, pooling=Pooling(pools, **regions), n_threads=1)
    np.testing.assert_array_equal(got, again)
    if len(images) == 0:
        return

    def twin(names, nearer):
        """Profiles by the twin, of units that need a response smaller by `nearer` to be active."""
        shifted = (offset + nearer, gain, None)
        if threshold is not None:
            shifted = (offset, gain, threshold - nearer)
        return reference.encode_pool(
            images, filters, *shifted, **options, pooling=Pooling(names, **regions)
        )

    parts = np.split(got, len(pools), axis=1)
    for pool, part in zip(pools, parts, strict=True):
        if pool == "active":
            assert (twin([pool], -EDGE) - TOLERANCE[pool] <= part).all()
            assert (part <= twin([pool], EDGE) + TOLERANCE[pool]).all()
        else:
            assert_close(part, twin([pool], 0), [pool])


def matrix(data, n, m):
    """Entries of about 1 / sqrt(m), sometimes with equal, opposite or zero rows."""
    rng = np.random.default_rng(data.ConsumeInt(2) & 0xFFFF)
    rows = (rng.standard_normal((n, m)) / m**0.5).astype(np.float32)
    for factor in (1, -1, 0):
        if n and data.ConsumeProbability() < 0.2:
            rows[rng.integers(n)] = factor * rows[rng.integers(n)]
    return rows


def code(data):
    n, m, h = (data.ConsumeIntInRange(low, high) for low, high in ((0, 40), (1, 40), (1, 80)))
    x, b = matrix(data, n, m), matrix(data, h, m)
    b[~b.any(axis=1)] = 1
    alpha = data.PickValueInList([0.01, 0.05, 0.5, 5.0])
    kappa = data.PickValueInList([0.0, 0.1, 1.0])
    f = matrix(data, n, h) if data.ConsumeBool() else None
    positive, n_threads = data.ConsumeBool(), data.ConsumeIntInRange(1, 3)
    options = {
        "positive": positive, "tol": TOL, "max_iter": data.PickValueInList([1, 7, 1000]),
        "strategy": data.PickValueInList(["auto", "active_set", "greedy"]),
    }  # fmt: skip
    codes, gap, n_unconverged = sparse_code(x, b, alpha, kappa, f, **options, n_threads=n_threads)
    same = sparse_code(x, b, alpha, kappa, f, **options, n_threads=1)
    np.testing.assert_array_equal(codes.toarray(), same.codes.toarray())
    assert n_unconverged == np.count_nonzero(gap > TOL)
    f = np.zeros((n, h)) if f is None else f
    z, x, b, f = (a.astype(np.float64) for a in (codes.toarray(), x, b, f))
    assert not positive or (z >= 0).all()
    q = x @ b.T + kappa * f
    r = q - z @ (b @ b.T) - kappa * z
    energy = (x**2).sum(1) + kappa * (f**2).sum(1)
    for i in range(n):
        true_gap = reference.relative_gap(z[i], q[i], r[i], energy[i], alpha, positive)
        assert abs(true_gap - gap[i]) <= ROUNDING + 0.05 * true_gap, (true_gap, gap[i])


def correlate(data):
    n, m, h = (data.ConsumeIntInRange(low, high) for low, high in ((0, 70), (1, 600), (1, 70)))
    x, b = matrix(data, n, m), matrix(data, h, m)
    packed = pack_signatures(b)
    out = np.full((n, packed.shape[0] * packed.shape[2]), np.nan, np.float32)
    _core.correlate(x, packed, out)
    np.testing.assert_allclose(out[:, :h], reference.correlate(x, b), rtol=0, atol=1e-5)
    assert not out[:, h:].any()


def learn(data):
    n, m, h = (data.ConsumeIntInRange(low, high) for low, high in ((1, 40), (1, 300), (1, 150)))
    x, b = matrix(data, n, m), matrix(data, h, m)
    b[~b.any(axis=1)] = 1
    codes = sparse_code(x, b, 0.1, n_threads=1).codes
    n_threads, z = data.ConsumeIntInRange(1, 3), codes.toarray()
    rows = x.copy()
    csr = codes.indptr, codes.indices, codes.data
    _learn.subtract_rebuilt(*csr, b, rows, n_threads)
    np.testing.assert_allclose(rows, x - z @ b, rtol=0, atol=1e-4)
    squares, products = np.zeros((h, h), np.float32), np.zeros((h, m), np.float32)
    _learn.add_statistics(*csr, x, squares, products, n_threads)
    np.testing.assert_allclose(squares, z.T @ z, rtol=0, atol=1e-4)
    np.testing.assert_allclose(products, z.T @ x, rtol=0, atol=1e-4)
    block = data.ConsumeIntInRange(1, 70)
    twin = b.astype(np.float64)
    reference.update_signatures(twin, squares.astype(np.float64), products.astype(np.float64))
    scratch = np.empty((2, block, m), np.float32)
    _learn.update_signatures(b, squares, products, *scratch, n_threads)
    assert np.isfinite(b).all()

    def objective(signatures):
        return ((x - z @ signatures) ** 2).sum()

    assert objective(b) <= objective(twin) * (1 + 1e-3) + 1e-4


def run_one(content):
    data = atheris.FuzzedDataProvider(content)
    target = data.PickValueInList([encode, encode, code, correlate, learn])
    _core.cap_instruction_set(data.PickValueInList(_core.instruction_sets()))
    target(data)


atheris.Setup(sys.argv, run_one)
atheris.Fuzz()
