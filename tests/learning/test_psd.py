"""Learning: block steps, gradients, estimator behaviour."""

import csv
import signal
import subprocess
import sys

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from wbcprof import _learn, reference
from wbcprof.learning.checkpoint import write_checkpoint
from wbcprof.learning.learner import encoder_gradient
from wbcprof.learning.psd import PSD
from wbcprof.learning.sample import LayerInput, PatchRows, PatchStream, sample_patches
from wbcprof.model.arrays import read_arrays
from wbcprof.model.layer import activate
from wbcprof.model.preprocessing import pixel_table
from wbcprof.model.settings import ONE_SIDED
from wbcprof.model.sparse import sparse_code

PIXEL_INPUT = "inverted"
TABLE = pixel_table(PIXEL_INPUT)
NONLINEARITIES = ("rectified", "sigmoid", "tanh", "soft_threshold")


def unit_rows(rng, h, m):
    rows = rng.normal(size=(h, m))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def patches():
    """Sparse non-negative mixtures of 12 hidden signatures, with a little noise."""
    rng = np.random.default_rng(0)
    hidden = np.abs(unit_rows(rng, 12, 27))
    codes = rng.exponential(size=(1500, 12)) * (rng.random((1500, 12)) < 0.2)
    return (codes @ hidden + 0.01 * rng.normal(size=(1500, 27)) + 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(patches):
    return PSD(16, max_iter=12, batch_size=200, random_state=0).fit(patches)


# ---- theory ----


def compiled_update(B, A, C, n_threads=1):
    signatures = B.astype(np.float32)
    scratch = np.empty((2, 64, B.shape[1]), np.float32)
    _learn.update_signatures(
        signatures, A.astype(np.float32), C.astype(np.float32), *scratch, n_threads
    )
    return signatures


def test_signature_update_never_raises_the_objective_and_stays_on_the_sphere():
    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(400, 30)), np.maximum(rng.normal(size=(400, 50)) - 1, 0)
    Z[:, 3] = 0
    B = unit_rows(rng, 50, 30)
    idle = B[3].copy()
    losses = [np.sum((X - Z @ B) ** 2)]
    for _ in range(4):
        reference.update_signatures(B, Z.T @ Z, Z.T @ X)
        losses.append(np.sum((X - Z @ B) ** 2))
    assert (np.diff(losses) <= 1e-9 * losses[0]).all() and losses[-1] < losses[0]
    np.testing.assert_allclose(np.linalg.norm(B, axis=1), 1)
    np.testing.assert_array_equal(B[3], idle)


@pytest.mark.parametrize(("h", "m"), [(1, 1), (7, 30), (64, 128), (150, 300)])
def test_compiled_signature_update_agrees_with_its_twin(h, m):
    rng = np.random.default_rng(h)
    X, Z = rng.normal(size=(300, m)), np.maximum(rng.normal(size=(300, h)) - 0.5, 0)
    Z[:, h // 2] = 0 if h > 1 else Z[:, 0]
    B = unit_rows(rng, h, m)
    A, C = Z.T @ Z, Z.T @ X
    found = compiled_update(B, A, C)
    np.testing.assert_array_equal(found, compiled_update(B, A, C, n_threads=3))
    expected = B.copy()
    reference.update_signatures(expected, A, C)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sparse_statistics_and_residual_are_the_dense_products():
    rng = np.random.default_rng(4)
    Z = csr_array(np.maximum(rng.normal(size=(90, 150)) - 1, 0).astype(np.float32))
    X = rng.normal(size=(90, 40)).astype(np.float32)
    B = unit_rows(rng, 150, 40).astype(np.float32)
    A, C, R = np.ones((150, 150), np.float32), np.ones((150, 40), np.float32), X.copy()
    _learn.add_statistics(Z.indptr, Z.indices, Z.data, X, A, C, 2)
    _learn.subtract_rebuilt(Z.indptr, Z.indices, Z.data, B, R, 2)
    np.testing.assert_allclose(A, 1 + (Z.T @ Z).toarray(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(C, 1 + Z.T @ X, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(R, X - Z @ B, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [{"start": (0, 1, 3)}, {"start": (-1, 1, 2)}, {"start": (0, 2)}, {"index": 3}, {"index": -1},
     {"m": 5}, {"n_threads": 0}],
)  # fmt: skip
def test_kernels_refuse_what_does_not_fit(wrong):
    """They would read, or write, past the ends of arrays."""

    def learn(start=(0, 1, 2), index=2, m=4, n_threads=1):
        codes = np.array(start, np.int32), np.full(2, index, np.int32), np.ones(2, np.float32)
        x, B, A = (np.ones(shape, np.float32) for shape in ((2, 4), (3, m), (3, 3)))
        yield _learn.add_statistics, (*codes, x, A, B, n_threads)
        yield _learn.subtract_rebuilt, (*codes, B, x, n_threads)

    for kernel, arguments in learn():
        kernel(*arguments)
    for kernel, arguments in learn(**wrong):
        with pytest.raises(ValueError, match="do not fit"):
            kernel(*arguments)


@pytest.mark.parametrize("wrong", [{"block": 0}, {"h": 4}, {"m": 5}, {"n_threads": 0}])
def test_steps_refuse_what_does_not_fit(wrong):
    def step(h=3, m=4, block=2, n_threads=1):
        B, A, C = (np.ones(shape, np.float32) for shape in ((3, 4), (h, h), (3, m)))
        _learn.update_signatures(B, A, C, *np.zeros((2, block, 4), np.float32), n_threads)

    step()
    with pytest.raises(ValueError, match="do not fit"):
        step(**wrong)


@pytest.mark.parametrize("rho", [0.0, 0.7])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_encoder_gradient_agrees_with_finite_differences(nonlinearity, rho):
    rng = np.random.default_rng(2)
    n, m, h, alpha, kappa = 9, 6, 5, 0.1, 1.3
    inputs, X, Z = rng.normal(size=(n, m)), rng.normal(size=(n, m)), rng.normal(size=(n, h))
    B = unit_rows(rng, h, m)
    encoder = {
        "weights": rng.normal(size=(h, m)),
        "bias": rng.normal(size=h),
        "gain": rng.random(h) + 0.5,
    }
    if nonlinearity == "soft_threshold":
        encoder["threshold"] = rng.random(h)

    def forward(e):
        a = inputs @ e["weights"].T + e["bias"]
        return a, activate(nonlinearity, a, e.get("threshold"))

    def loss(e):
        F = e["gain"] * forward(e)[1]
        fit = kappa / 2 * np.sum((Z - F) ** 2)
        return (fit + rho * (np.sum((X - F @ B) ** 2) / 2 + alpha * np.abs(F).sum())) / n

    a, s = forward(encoder)
    F = encoder["gain"] * s
    gradient = encoder_gradient(
        encoder, inputs, a, s, F - Z, (F @ B - X) @ B.T,
        nonlinearity=nonlinearity, alpha=alpha, kappa=kappa, rho=rho,
    )  # fmt: skip
    assert gradient.keys() == encoder.keys()
    for name, value in encoder.items():
        for index in np.ndindex(value.shape):
            numeric = 0
            for sign in (1, -1):
                moved = {key: array.copy() for key, array in encoder.items()}
                moved[name][index] += sign * 1e-6
                numeric += sign * loss(moved) / 2e-6
            assert gradient[name][index] == pytest.approx(numeric, rel=1e-5, abs=1e-7), name


def test_coding_never_raises_the_objective(fitted, patches):
    x = fitted.preprocessing_.apply(patches[:100])[0].astype(float)
    F = fitted._predict(x.astype(np.float32)).astype(float)
    B, alpha, kappa = fitted.components_.astype(float), fitted.alpha, fitted.kappa

    def objective(Z):
        return (
            0.5 * np.sum((x - Z @ B) ** 2, axis=1)
            + alpha * np.abs(Z).sum(axis=1)
            + 0.5 * kappa * np.sum((Z - F) ** 2, axis=1)
        )

    Z = sparse_code(x, B, alpha, kappa, F, positive=True).codes.toarray()
    assert (objective(Z) <= objective(F) * (1 + 1e-6)).all()


# ---- learning ----


def test_objective_falls_and_history_adds_up(fitted):
    history = fitted.history_
    assert history[-1]["objective"] < 0.9 * history[0]["objective"]
    for entry in history:
        total = entry["reconstruction"] + entry["sparsity"] + entry["prediction"]
        assert entry["objective"] == pytest.approx(total)
    assert len(history) == fitted.n_iter_


def test_prediction_rebuilds_nearly_as_well_as_optimal_codes(fitted):
    last = fitted.history_[-1]
    assert last["error_inferred"] < last["error_optimal"] + 0.1


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_every_nonlinearity_learns_to_rebuild(patches, nonlinearity):
    psd = PSD(
        16, nonlinearity=nonlinearity, positive=nonlinearity in ONE_SIDED, max_iter=12,
        batch_size=200, random_state=0,
    ).fit(patches)  # fmt: skip
    assert psd.history_[-1]["error_prediction"] < 0.5
    assert (psd.encoder_threshold_ is not None) == (nonlinearity == "soft_threshold")


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_prediction_is_within_two_points_of_optimal_on_real_patches(real_images, nonlinearity):
    from wbcprof.images.source import open_images

    with open(real_images / "labels.csv", newline="") as stream:
        train = [row["path"] for row in csv.DictReader(stream) if row["split"] == "train"]
    files = [real_images / path for path in sorted(train)[:: len(train) // 60]]
    cells = [cell.pixels for cell in open_images(files)]
    levels = sample_patches(cells, len(cells), 10, 8000, 0)
    last = PSD(
        64, nonlinearity=nonlinearity, positive=nonlinearity in ONE_SIDED, max_iter=10,
        random_state=0,
    ).fit(PatchRows(levels, TABLE)).history_[-1]  # fmt: skip
    assert last["error_prediction"] < last["error_optimal"] + 0.02


def test_signatures_have_unit_norm_and_positive_codes_are_positive(fitted, patches):
    np.testing.assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1, atol=1e-5)
    codes = fitted.transform(patches)
    assert codes.min() >= 0 and codes.dtype == np.float32


def test_inverse_transform_rebuilds_in_units_of_the_input(fitted, patches):
    rebuilt = fitted.inverse_transform(fitted.transform(patches))
    x = fitted.preprocessing_.apply(patches)[0]
    expected = fitted._predict(x) @ fitted.components_
    np.testing.assert_allclose(fitted.preprocessing_.apply(rebuilt)[0], expected, atol=1e-5)
    assert np.linalg.norm(rebuilt - patches) < 0.5 * np.linalg.norm(patches)


def test_same_seed_same_model_for_any_thread_count(patches):
    models = [
        PSD(16, max_iter=3, batch_size=200, random_state=5, n_threads=n).fit(patches)
        for n in (1, 1, 2)
    ]
    for other in models[1:]:
        np.testing.assert_array_equal(models[0].components_, other.components_)
        np.testing.assert_array_equal(models[0].encoder_weights_, other.encoder_weights_)


def test_converged_learning_stops_early(patches):
    assert PSD(4, max_iter=50, tol=0.2, random_state=0).fit(patches).n_iter_ < 50


def test_dead_and_duplicate_signatures_are_replaced_and_counted(patches):
    psd = PSD(40, max_iter=1, random_state=0).fit(patches)
    learner, x = psd._learner, psd.preprocessing_.apply(patches)[0]
    learner.signatures[7] = learner.signatures[3]
    A = learner.statistics.A
    A[7, 7], A[3, 3] = 1e3, 2e3
    A[11] = A[:, 11] = 0
    before = learner.signatures.copy()
    learner.take_replaced()
    learner._replace(x, duplicates=True)  # one at a time: 3 % of 40, the dead first
    assert (learner.signatures[11] != before[11]).any()
    assert learner.take_replaced() == {"dead_replaced": 1, "duplicates_replaced": 0}
    A[11, 11] = 1e3
    for _ in range(40):
        learner._replace(x, duplicates=True)
        np.fill_diagonal(A, np.maximum(np.diagonal(A), 1e3))
    changed = (learner.signatures != before).any(axis=1)
    assert changed[7] and not changed[3]
    assert learner.take_replaced()["duplicates_replaced"] >= 1
    learner._replace(x, duplicates=False)
    assert learner.take_replaced() == {"dead_replaced": 0, "duplicates_replaced": 0}
    np.testing.assert_allclose(np.linalg.norm(learner.signatures, axis=1), 1, atol=1e-5)


def test_partial_fit_continues_where_it_left(patches):
    psd = PSD(8, random_state=0)
    for part in np.array_split(patches, 3):
        psd.partial_fit(part)
    assert len(psd.history_) == 3
    assert psd.transform(patches).shape == (1500, 8)


def test_clone_and_feature_names(fitted, patches):
    assert clone(fitted).get_params() == fitted.get_params()
    names = fitted.get_feature_names_out()
    assert names.tolist() == [f"psd{i}" for i in range(16)]


# ---- interrupted learning ----

LEARNING = dict(n_components=16, batch_size=200, random_state=3, n_threads=1, tol=0.0)
FIT_AND_DIE = """
import os, signal, sys
import numpy as np
import wbcprof.learning.psd as psd

write = psd.write_checkpoint

def write_and_die(*args):
    write(*args)
    if len(args[2]["history"]) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

psd.write_checkpoint = write_and_die
parameters = eval(sys.argv[3])
psd.PSD(**parameters, checkpoint=sys.argv[2]).fit(np.load(sys.argv[1]))
"""


def learnt(psd):
    arrays = [psd.components_, psd.encoder_weights_, psd.encoder_bias_, psd.encoder_gain_]
    history = [{k: v for k, v in entry.items() if k != "seconds"} for entry in psd.history_]
    return arrays, history


def assert_same_model(a, b):
    (arrays_a, history_a), (arrays_b, history_b) = learnt(a), learnt(b)
    for x, y in zip(arrays_a, arrays_b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert history_a == history_b


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_killed_fit_continues_to_the_same_bits(patches, tmp_path):
    np.save(tmp_path / "patches.npy", patches)
    file = tmp_path / "learning.checkpoint"
    parameters = {**LEARNING, "max_iter": 6}
    child = subprocess.run(
        [sys.executable, "-c", FIT_AND_DIE, tmp_path / "patches.npy", file, repr(parameters)],
        cwd=tmp_path,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    resumed = PSD(**parameters, checkpoint=file).fit(patches)
    whole = PSD(**parameters).fit(patches)
    assert_same_model(resumed, whole)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == [file.name]
    again = PSD(**parameters, checkpoint=file).fit(patches)  # done: nothing is learnt
    assert_same_model(again, whole)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("preprocessing", ["none", "contrast"])
def test_learning_in_two_parts_gives_the_same_bits(patches, tmp_path, nonlinearity, preprocessing):
    parameters = {
        **LEARNING,
        "nonlinearity": nonlinearity,
        "positive": nonlinearity in ONE_SIDED,
        "preprocessing": preprocessing,
        "whiten": True,
    }
    file = tmp_path / "state"
    PSD(**parameters, max_iter=2, checkpoint=file).fit(patches)
    resumed = PSD(**parameters, max_iter=4, checkpoint=file).fit(patches)
    assert_same_model(resumed, PSD(**parameters, max_iter=4).fit(patches))


def test_checkpoint_of_another_fit_is_refused(patches, tmp_path):
    file = tmp_path / "state"
    parameters = {**LEARNING, "max_iter": 2, "checkpoint": file}
    PSD(**parameters).fit(patches)
    with pytest.raises(ValueError, match=r"of another fit: alpha was 0.05, now it is 0.1"):
        PSD(**{**parameters, "alpha": 0.1}).fit(patches)
    other = patches.copy()
    other[5, 5] += 1
    with pytest.raises(ValueError, match="of another fit: content of the patches"):
        PSD(**parameters).fit(other)
    with pytest.raises(ValueError, match=r"past max_iter \(1\): it holds 2"):
        PSD(**{**parameters, "max_iter": 1}).fit(patches)
    with pytest.raises(ValueError, match="random_state must be an integer for a checkpoint"):
        PSD(**{**parameters, "random_state": None}).fit(patches)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"{}" * 40])
def test_damaged_checkpoint_is_named(patches, tmp_path, content):
    file = tmp_path / "state"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"state' is damaged or not a checkpoint"):
        PSD(**LEARNING, checkpoint=file).fit(patches)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, d: a.pop("A"), r"too many or too few: \['A'\]"),
        (lambda a, d: a.update(C=a["C"][:, 1:]), "C is float32 of shape"),
        (lambda a, d: a.update(whitener=a["whitener"][:, 1:]), "encoder.weights is float32"),
        (lambda a, d: a.update(mean=a["mean"].astype(float)), "mean is float64"),
        (lambda a, d: a.update(mean=a["mean"] * np.float32(np.nan)), "mean holds NaN"),
        (lambda a, d: d.update(steps=-1), "steps is -1"),
        (lambda a, d: d.update(n_gathered=True), "n_gathered is True"),
        (lambda a, d: d["preprocessing"].update(scale=np.inf), "scale must be .*got inf"),
        (lambda a, d: d["rng"].__setitem__(0, 625), "rng is 625"),
        (lambda a, d: d.update(history={}), "history is not a list"),
        (lambda a, d: d["history"][0].update(objective=np.nan), "history holds"),
        (lambda a, d: d["preprocessing"].pop("scale"), "scale"),
    ],
)
def test_checkpoint_that_learning_could_not_go_on_from_is_refused(
    patches, tmp_path, change, message
):
    file = tmp_path / "state"
    parameters = {**LEARNING, "n_components": 4, "checkpoint": file}
    PSD(**parameters, max_iter=1).fit(patches[:100])
    document, arrays = read_arrays(file, "wbcprof_checkpoint")
    change(arrays, document)
    write_checkpoint(file, arrays, document)
    with pytest.raises(ValueError, match=f"state' is damaged or not a checkpoint.*{message}"):
        PSD(**parameters, max_iter=2).fit(patches[:100])


# ---- patches drawn as they are needed ----


def stream(images, n_patches, memory_budget):
    drawn = LayerInput((), None, False, PIXEL_INPUT, None, 1.0, 3, n_patches, 0)
    return PatchStream(lambda: iter(images), len(images), drawn, memory_budget)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(9)
    return [np.kron(rng.integers(0, 256, (8, 8, 3), np.uint8), np.ones((3, 3, 1), np.uint8))
            for _ in range(6)]  # fmt: skip


def test_patches_within_the_budget_are_drawn_once(images):
    kept = stream(images, 100, 27 * 100)
    assert kept.n_rounds == 1
    (first,), (second,) = kept.rounds(0), kept.rounds(5)
    assert first is second and first.shape == kept.shape == (100, 27)


def test_patches_beyond_the_budget_are_drawn_anew_in_rounds_that_fit(images):
    drawn = stream(images, 100, 27 * 30)
    rounds = [[rows.levels for rows in drawn.rounds(index)] for index in (0, 1, 0)]
    assert [len(levels) for levels in rounds[0]] == [25] * 4
    assert (rounds[0][0] != rounds[0][1]).any() and (rounds[0][0] != rounds[1][0]).any()
    for levels, again in zip(rounds[0], rounds[2], strict=True):
        np.testing.assert_array_equal(levels, again)


def test_streamed_learning_resumes_and_does_not_depend_on_threads(images, tmp_path):
    parameters = dict(n_components=8, batch_size=100, random_state=0, tol=0.0)
    whole = PSD(**parameters, max_iter=3, n_threads=2).fit(stream(images, 600, 27 * 200))
    file = tmp_path / "state"
    PSD(**parameters, max_iter=1, checkpoint=file).fit(stream(images, 600, 27 * 200))
    resumed = PSD(**parameters, max_iter=3, checkpoint=file).fit(stream(images, 600, 27 * 200))
    assert_same_model(resumed, whole)
    with pytest.raises(ValueError, match=r"of another fit: rounds was 3, now it is 1"):
        PSD(**parameters, checkpoint=file).fit(stream(images, 600, 1 << 20))


def test_a_budget_below_a_patch_or_the_signatures_is_refused(images):
    with pytest.raises(ValueError, match=r"must hold a patch at least \(27 bytes\), got 26"):
        stream(images, 100, 26)
    with pytest.raises(ValueError, match=r"16 signatures .* need as many .*, got 10"):
        PSD(16).fit(stream(images, 100, 27 * 10))


# ---- bad input ----


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "n_components must be a positive integer, got 0"),
        ({"alpha": 0}, "alpha must be positive and finite, got 0"),
        ({"alpha": np.nan}, "alpha must be positive"),
        ({"kappa": -1}, "kappa must be at least 0 and finite, got -1"),
        ({"nonlinearity": "relu"}, "nonlinearity must be one of .*got 'relu'"),
        ({"preprocessing": "zca"}, "preprocessing must be one of"),
        ({"n_components": 2000}, r"2000 signatures .* need as many patches in memory, got 1500"),
        ({"max_iter": 0}, "max_iter must be a positive integer"),
        (
            {"nonlinearity": "tanh"},
            r"nonlinearity must be one of \('sigmoid', 'rectified'\) where positive",
        ),
        ({"positive": False}, r"nonlinearity must be one of \('tanh', 'soft_threshold'\)"),
        ({"positive": "no"}, "positive must be True or False, got 'no'"),
        ({"batch_size": 1.5}, "batch_size must be a positive integer, got 1.5"),
    ],
)
def test_parameters_out_of_range_are_named(patches, parameters, message):
    with pytest.raises(ValueError, match=message):
        PSD(**{"n_components": 4, **parameters}).fit(patches)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_patches_are_refused(patches, bad):
    broken = patches.copy()
    broken[3, 4] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        PSD(4).fit(broken)


def test_partial_fit_of_another_width_is_refused(patches):
    psd = PSD(4, random_state=0).partial_fit(patches[:200])
    with pytest.raises(ValueError, match="features"):
        psd.partial_fit(patches[:200, :20])


@pytest.mark.parametrize(
    "change", [{"n_components": 5}, {"nonlinearity": "sigmoid"}, {"kappa": 0.2}]
)
def test_partial_fit_with_other_parameters_is_refused(patches, change):
    psd = PSD(4, random_state=0).partial_fit(patches[:200])
    psd.set_params(n_threads=1).partial_fit(patches[:200])
    with pytest.raises(ValueError, match=f"started with {next(iter(change))}=.* set it back"):
        psd.set_params(**change).partial_fit(patches[:200])
    assert psd.fit(patches[:200]).components_.shape[0] == psd.n_components


@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize("preprocessing", ["dataset_mean", "patch_mean", "contrast"])
def test_patches_without_signal_are_refused(value, preprocessing):
    with pytest.raises(ValueError, match="hold no signal"):
        PSD(4, preprocessing=preprocessing).fit(np.full((50, 27), value))


def test_patches_too_large_for_a_covariance_are_refused():
    with pytest.raises(ValueError, match="at most 8192 values"):
        PSD(2).fit(np.ones((3, 9000)))


def test_constant_patches_among_others_do_no_harm(patches):
    mixed = np.concatenate([patches[:200], np.full((200, 27), 0.3, np.float32)])
    for preprocessing in ("patch_mean", "contrast"):
        psd = PSD(8, preprocessing=preprocessing, max_iter=2, random_state=0).fit(mixed)
        assert np.isfinite(psd.components_).all() and np.isfinite(psd.encoder_weights_).all()
        np.testing.assert_allclose(np.linalg.norm(psd.components_, axis=1), 1, atol=1e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kappa", [0.0, 0.1])
def test_learning_that_diverges_says_so(patches, kappa):
    psd = PSD(4, kappa=kappa, learning_rate=1e20, batch_size=50, random_state=0)
    with pytest.raises(ValueError, match=r"learning diverged: use a learning_rate below 1e\+20"):
        psd.fit(patches[:200])


@pytest.mark.parametrize(
    "nonlinearity, positive", [("rectified", True), ("sigmoid", True), ("tanh", False)]
)
@pytest.mark.parametrize(
    "parameters, said",
    [
        ({"learning_rate": 1e4}, r"^inferred codes .* use a learning_rate below 10000.0$"),
        ({"alpha": 100.0}, r"^optimal codes .* use an alpha below 100.0$"),
    ],
)
def test_useless_codes_are_warned_of(patches, nonlinearity, positive, parameters, said):
    psd = PSD(4, nonlinearity=nonlinearity, positive=positive, random_state=0, max_iter=2)
    psd.set_params(**parameters)
    with pytest.warns(ConvergenceWarning, match=said):
        psd.fit(patches[:400])


def test_codes_of_another_width_are_refused(fitted):
    with pytest.raises(ValueError, match=r"columns of Z \(5\) must match .*\(16\)"):
        fitted.inverse_transform(np.zeros((2, 5)))


def test_what_was_replaced_is_told_to_those_who_ask(capsys):
    patches = np.random.default_rng(0).random((200, 48), np.float32)
    for verbose, told in (
        (False, ""),
        (True, "iteration 1: objective"),
        (2, "signatures replaced"),
    ):
        PSD(4, max_iter=1, random_state=0, verbose=verbose).fit(patches)
        out = capsys.readouterr().out
        assert told in out and bool(out) == bool(told)
        assert ("duplicate" in out) == (verbose == 2)
