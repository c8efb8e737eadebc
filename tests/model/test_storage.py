"""Model files: nothing lost, nothing executed, damage named."""

import copy
import io
import json
import math
import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import wbcprof
from wbcprof.analysis.classify import TypeClassifier
from wbcprof.model import arrays
from wbcprof.model.storage import FORMAT_VERSION, ModelFileError


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "m.wbcprof")
    return tmp_path / "m.wbcprof"


def rewrite_header(path, change, data=None):
    """Change the safetensors header of a model file, and perhaps what follows it; its digest goes,
    as where someone means it."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"].pop("digest")
    encoded = change(header) or json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    rest = raw[8 + length :] if data is None else data
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + rest)


def rewrite(path, change):
    """Change the JSON document of a model file."""

    def change_document(header):
        document = json.loads(header["__metadata__"]["wbcprof"])
        header["__metadata__"]["wbcprof"] = json.dumps(change(document) or document)

    rewrite_header(path, change_document)


def test_round_trip_gives_the_same_profiles_and_description(model, path, cells):
    loaded = wbcprof.load(path)
    np.testing.assert_array_equal(
        loaded.profile(cells.images).values, model.profile(cells.images).values
    )
    assert loaded.history == model.history
    assert loaded.provenance == model.provenance
    assert loaded.parameters["n_signatures"] == 24


def test_round_trip_of_stack_contrast_whitening_and_classifier(cells, tmp_path):
    model = wbcprof.fit(
        cells.images, 10, 8, max_iter=1, n_patches=900, preprocessing="contrast", whiten=True,
        nonlinearity="soft_threshold", positive=False, pools=("mean", "std"), levels=(1, 2),
        stack=[{"n_signatures": 7, "n_patches": 200}],
    )  # fmt: skip
    profiles = model.profile(cells.images)
    model.classifier = TypeClassifier().fit(profiles.values, cells.labels)
    model.save(tmp_path / "m")
    loaded = wbcprof.load(tmp_path / "m")
    values = loaded.profile(cells.images).values
    np.testing.assert_array_equal(values, profiles.values)
    np.testing.assert_array_equal(
        loaded.classifier.predict_proba(values), model.classifier.predict_proba(values)
    )
    assert loaded.classifier.classes_.tolist() == sorted(set(cells.labels))


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, 0.999])
def test_truncated_files_are_named(path, keep):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelFileError, match=r"m\.wbcprof.*(damaged|truncated)"):
        wbcprof.load(path)


def test_random_damage_never_gives_another_error(path):
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    header = struct.unpack("<Q", raw[:8])[0] + 8
    for _ in range(150):
        broken = bytearray(raw)
        for position in rng.integers(header, size=3):
            broken[position] = rng.integers(256)
        path.write_bytes(bytes(broken))
        try:
            wbcprof.load(path)
        except ModelFileError:
            pass


@pytest.mark.parametrize("offsets", ["[]", "[0]", "null", "{}", '"ab"', "[0, 1e999]", "[0, NaN]"])
def test_malformed_offsets_are_refused(path, offsets):
    """An empty list came out as IndexError (found by fuzzing)."""
    header = f'{{"x": {{"dtype": "F32", "shape": [], "data_offsets": {offsets}}}, '
    header += '"__metadata__": {"wbcprof": "{}"}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(ModelFileError, match="damaged, truncated or not"):
        wbcprof.load(path)


def test_foreign_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "other")
    with pytest.raises(ModelFileError, match="not a wbcprof model"):
        wbcprof.load(tmp_path / "other")
    (tmp_path / "text").write_text("hello, this is some text and not a model at all")
    with pytest.raises(ModelFileError, match="damaged, truncated or not"):
        wbcprof.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError, match="no model file at"):
        wbcprof.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=4), "model format 4.*reads formats up to 3.*newer one"),
        (lambda d: d.pop("normaliser") and None, "not a usable wbcprof model"),
        (lambda d: d["normaliser"].update(method="vahadane"), "the method must be one of"),
        (lambda d: d["normaliser"].update(method="canonical"), "not a usable wbcprof model"),
        (lambda d: d.pop("layers") and None, "not a usable wbcprof model"),
        (lambda d: d.update(layers=[]), "no layers"),
        (
            lambda d: d["layers"][0].update(patch_size=11),
            "signatures of 300 values are no patches of side 11",
        ),
        (lambda d: d["layers"][0].update(step=0), "step must be an integer from 1"),
        (
            lambda d: d["layers"][0]["settings"].update(nonlinearity="eval"),
            "nonlinearity must be one of",
        ),
        (lambda d: d["layers"][0].update(pixel_input="lab"), "pixel_input must be None or one of"),
        (
            lambda d: d["layers"][0]["settings"].update(alpha="0.1"),
            "alpha must be positive and finite",
        ),
        (lambda d: d["layers"][0]["preprocessing"].update(scale=0), "scale must be at least 1.17"),
        (
            lambda d: d["layers"][0]["settings"].update(positive="x"),
            "positive must be True or False",
        ),
        (
            lambda d: d["pooling"].update(levels=[10**6]),
            "levels must be .* an integer from 1 to 64",
        ),
        (lambda d: d.update(provenance=[]), "provenance must be a JSON dict"),
        (lambda d: d["pooling"].update(pools=["median"]), "pools must be .*one of"),
        (lambda d: d["layers"][0].update(patch_size=5), "must read RGB pixels"),
        (lambda d: d["layers"][0].update(pixel_input=None), "and no other, reads pixels"),
        (lambda d: d.update(history=[[{"objective": "1"}]]), "history must hold numbers"),
        (lambda d: d["pooling"].update(levels=[64, 63, 62]), "over 11909 regions are larger"),
        (lambda d: [1, 2], "not a JSON object"),
    ],
)
def test_unusable_content_is_named(path, change, message):
    rewrite(path, change)
    with pytest.raises(ModelFileError, match=message):
        wbcprof.load(path)


def test_nothing_in_a_file_is_executed(path, tmp_path):
    marker = tmp_path / "executed"
    rewrite(path, lambda d: d["parameters"].update(x=f"__import__('os').mkdir({str(marker)!r})"))
    wbcprof.load(path)
    assert not marker.exists()


def test_what_could_not_be_read_again_is_not_written(model, path):
    before = path.read_bytes()
    broken = copy.deepcopy(model)
    broken.layers[0].weights[0, 0] = np.nan
    with pytest.raises(ModelFileError, match=r"m\.wbcprof.*weights holds NaN"):
        broken.save(path)
    broken = copy.deepcopy(model)
    broken.layers[0].signatures = broken.layers[0].signatures[:0]
    with pytest.raises(ModelFileError, match="layer 0: there are no signatures"):
        broken.save(path)
    broken = copy.deepcopy(model)
    broken.history = [[{"objective": 0.1 + i} for i in range(200_000)]]
    with pytest.raises(ValueError, match="beside the arrays"):
        broken.save(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


# ---- files of every format and release, for ever; tests/models/make.py makes them ----

STORED = sorted((Path(__file__).parents[1] / "models").glob("*.wbcprof"))
# Of a profile's largest value: what sums in another order, on other instruction sets, differ by.
TOLERANCE = 1e-5


def test_every_format_has_stored_models():
    formats = {int(path.name.split("-")[1]) for path in STORED}
    assert formats == set(range(1, FORMAT_VERSION + 1))
    assert all(path.stat().st_size < 100_000 for path in STORED)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_models_give_the_profiles_that_they_gave(path, instruction_set):
    golden = np.load(path.with_suffix(".npz"))
    model = wbcprof.load(path)
    profiles = model.profile(golden["images"], n_threads=1).values
    tolerance = TOLERANCE * np.abs(golden["profiles"]).max()
    np.testing.assert_allclose(profiles, golden["profiles"], rtol=0, atol=tolerance)
    for n_threads in (2, 5):
        again = model.profile(golden["images"], n_threads=n_threads).values
        np.testing.assert_array_equal(again, profiles)
    assert model.classifier.classes_.tolist() == golden["types"].tolist()
    probabilities = model.classifier.predict_proba(profiles)
    np.testing.assert_allclose(probabilities, golden["probabilities"], rtol=0, atol=1e-4)


def test_old_files_state_what_their_layers_were_learnt_with():
    for path in (path for path in STORED if path.name.startswith("format-1-")):
        model = wbcprof.load(path)
        for layer in model.layers:
            assert layer.settings.max_iter == model.parameters["max_iter"] == 3
            assert layer.settings.alpha == model.parameters["alpha"]


# ---- files from hostile hands ----


def weights(header):
    return header["layers.0.weights"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: weights(h).update(data_offsets=[0, 2**40]), "describes 1099511627776 bytes"),
        (lambda h: weights(h).update(data_offsets=[2**63, 2**64 - 1]), "describes"),
        (lambda h: h["layers.0.bias"].update(data_offsets=[-8, 88]), "damaged"),
        (lambda h: h["layers.0.gain"].update(data_offsets=[0, 96]), "damaged"),
        (lambda h: h["layers.0.bias"].update(data_offsets=[96, 0]), "damaged"),
        (lambda h: weights(h).update(shape=[2**40, 2**40]), "damaged"),
        (lambda h: weights(h).update(shape=[0, 2**60]), "damaged"),
        (lambda h: weights(h).update(dtype="F64"), "damaged"),
        (lambda h: weights(h).update(dtype="BF16"), "weights is of type 'BF16'"),
        (lambda h: weights(h).update(dtype=["F32"]), "TypeError"),
        (lambda h: weights(h).pop("shape") and None, "damaged"),
        (lambda h: h.update(x={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "nowhere"),
        (lambda h: h.update({"layers.0.x": h.pop("layers.0.mean")}), "mean must be float32"),
        (lambda h: h.update({"layers.00.bias": h.pop("layers.0.bias")}), "bias must be float32"),
        (lambda h: h.update(__metadata__=[]), "header"),
        (lambda h: h.update(__metadata__={"wbcprof": {}}), "header"),
        (lambda h: h["__metadata__"].update(wbcprof="[" * 100_000), "RecursionError"),
        (lambda h: h["__metadata__"].update(wbcprof='{"format": ' + "9" * 5000), "5000 digits"),
        (lambda h: h["__metadata__"].update(wbcprof='{"a": 1, "a": 2}'), "one key twice"),
        (lambda h: b"[" * 100_000, "RecursionError"),
        (lambda h: b'{"a": 1, "a": 1}', "one key twice"),
        (lambda h: b'{"a": "\xff"}', "UnicodeDecodeError"),
        (lambda h: b'{"a": %s}' % (b"9" * 5000), "5000 digits"),
        (lambda h: b"0", "header"),
        (lambda h: b"{" + b" " * (5 << 20) + b"}", "header claims"),
    ],
)
def test_hostile_headers_are_refused(path, change, message):
    rewrite_header(path, change)
    with pytest.raises(ModelFileError, match=message):
        wbcprof.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["signatures", "weights", "bias", "gain", "mean"])
def test_arrays_that_are_not_finite_are_refused(path, name, value):
    rewrite_header(path, lambda header: None)
    raw = bytearray(path.read_bytes())
    length = struct.unpack("<Q", raw[:8])[0]
    _, end = json.loads(raw[8 : 8 + length])[f"layers.0.{name}"]["data_offsets"]
    raw[8 + length + end - 4 : 8 + length + end] = np.float32(value).tobytes()
    path.write_bytes(raw)
    with pytest.raises(ModelFileError, match=f"{name} holds NaN or infinite"):
        wbcprof.load(path)


def test_a_bit_that_flips_is_found(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    alpha = raw.index(b'\\"alpha\\": ') + 11  # a digit of the document
    for at in [alpha, *np.random.default_rng(0).integers(8 + length, len(raw), 20).tolist()]:
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(ModelFileError, match=r"not what was written|one key twice|alpha"):
            wbcprof.load(path)


def test_a_size_is_refused_before_memory_is_taken_for_it(path):
    """Sparse files: terabytes by their own account, nothing on the disk."""
    size = path.stat().st_size
    os.truncate(path, 1 << 40)
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="the file holds"):
        wbcprof.load(path)
    os.truncate(path, size)
    more = {"x": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [size, size + (1 << 40)]}}
    rewrite_header(path, lambda header: header.update(more))
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    os.truncate(path, 8 + length + size + (1 << 40))
    with pytest.raises(ModelFileError, match="at most 2147483648 are allowed"):
        wbcprof.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_millions_of_keys_stay_within_bounds(path):
    keys = ",".join(f'"{i:x}":0' for i in range(150_000))
    rewrite_header(path, lambda header: f'{{"__metadata__":{{{keys}}}}}'.encode())
    tracemalloc.start()
    with pytest.raises(ModelFileError):
        wbcprof.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize("change", ["cut", "longer", "other"])
def test_a_file_that_changes_while_it_is_read_is_refused(path, change, monkeypatch):
    read_header = arrays._read_header

    def change_then_read(encoded):
        if change == "cut":
            os.truncate(path, path.stat().st_size - 1000)
        else:
            with open(path, "ab" if change == "longer" else "r+b") as stream:
                stream.write(b"\0" * 8)
            os.utime(path, (0, 0))
        return read_header(encoded)

    monkeypatch.setattr(arrays, "_read_header", change_then_read)
    with pytest.raises(ModelFileError, match="changed while it was read"):
        wbcprof.load(path)


@pytest.fixture(scope="module")
def classified(model, cells):
    copied = copy.copy(model)
    copied.classifier = TypeClassifier(C=1.0).fit(model.profile(cells.images), cells.labels)
    return copied


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["classifier"].pop("classes") and None, "stored classifier: it lacks classes"),
        (lambda d: d["classifier"].update(classes=["a", "b"]), "coef must be float64 of shape"),
        (
            lambda d: d["classifier"]["classes"].__setitem__(-1, "unsure"),
            "a type is named 'unsure', as cells are that have none",
        ),
        (lambda d: d["classifier"].update(classes=["a"] * 999 + ["x" * 10**5]), "names of the typ"),
        (lambda d: d["classifier"].update(slope=10**19), None),
        (lambda d: d["classifier"].update(slope=0), "slope"),
        (lambda d: d["classifier"].update(kernel="poly"), "kernel"),
        (lambda d: d["classifier"].update(C=[]), "C must be"),
        (lambda d: d.update(classifier=[]), "not a usable wbcprof model"),
        (lambda d: d["pooling"].update(pools=["mean", "max"]), "the model's have 48 features"),
    ],
)
def test_hostile_classifiers_are_refused(classified, tmp_path, cells, change, message):
    classified.save(tmp_path / "c.wbcprof")
    rewrite(tmp_path / "c.wbcprof", change)
    if message is None:
        loaded = wbcprof.load(tmp_path / "c.wbcprof")
        assert np.isfinite(loaded.classifier.predict_proba(loaded.profile(cells.images[:2]))).all()
        return
    with pytest.raises(ModelFileError, match=message):
        _ = wbcprof.load(tmp_path / "c.wbcprof").classifier


def test_random_documents_load_and_profile_or_are_refused(classified, tmp_path, cells):
    """Any node of the document replaced by anything: one kind of error, or finite profiles."""
    path = tmp_path / "c.wbcprof"
    classified.save(path)
    raw = path.read_bytes()
    junk = [None, True, -1, 0, 2, 10**19, 1e-320, 1e300, float("nan"), "", "mean", "\ud800", [],
            {}, [[]], [10**6], {"a": {}}, [0.5], ["mean"] * 10_000, [64] * 50]  # fmt: skip
    rng = np.random.default_rng(0)

    def nodes(value):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield value, key
            if isinstance(value[key], dict | list):
                yield from nodes(value[key])

    def replace(document):
        found = [node for node in nodes(document) if not isinstance(node[1], int)]
        holder, key = found[rng.integers(len(found))]
        holder[key] = junk[rng.integers(len(junk))]

    refused = 0
    for _ in range(300):
        path.write_bytes(raw)
        rewrite(path, replace)
        try:
            loaded = wbcprof.load(path)
            probabilities = loaded.classifier.predict_proba(loaded.profile(cells.images[:1]))
            assert np.isfinite(probabilities).all()
        except ModelFileError:
            refused += 1
    assert 50 < refused < 250


def test_model_from_memory(path, model):
    """As services have it: by its bytes, or a file that is open."""
    content = path.read_bytes()
    for given in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(wbcprof.load(given).signatures, model.signatures)
    with open(path, "rb") as file:
        np.testing.assert_array_equal(wbcprof.load(file).signatures, model.signatures)
    with pytest.raises(ModelFileError, match="'the model' is damaged, truncated or not"):
        wbcprof.load(content[:-9])
    with (
        open(path, encoding="latin-1") as text,
        pytest.raises(TypeError, match=r"open\(path, 'rb'"),
    ):
        wbcprof.load(text)
    with pytest.raises(TypeError, match="as a path, bytes or a file opened for bytes, got int"):
        wbcprof.load(3)


# ---- what a model asks for ----


def test_a_patch_larger_than_what_is_learnt_is_refused(model, tmp_path):
    """Packed and transformed for all sizes of a kernel, a few MB of it are GBs."""
    layer = model.layers[0]
    values = np.zeros((1, 3 * 60**2), np.float32)
    one = {name: getattr(layer, name)[:1] for name in ("bias", "gain")}
    large = replace(layer, signatures=values, weights=values, patch_size=60, **one)
    with pytest.raises(ModelFileError, match="patches have at most 8192 values, got 10800"):
        replace(model, layers=[large], classifier=None).save(tmp_path / "m")


def test_maps_larger_than_a_models_may_be_are_refused(cells, tmp_path, monkeypatch):
    stacked = wbcprof.fit(
        cells.images, 10, 8, max_iter=1, n_patches=900, stack=[{"n_signatures": 6, "region": 2}]
    )
    stacked.save(tmp_path / "m")
    windows = (112 - 8) // stacked.layers[0].step + 1
    held = math.ceil(windows / 2) ** 2 * 10 + len(stacked.feature_names)
    monkeypatch.setattr("wbcprof.model.model._MOST_HELD", held - 1)
    with pytest.raises(ModelFileError, match="the code maps of an image of 112 px are larger"):
        wbcprof.load(tmp_path / "m")
    monkeypatch.setattr("wbcprof.model.model._MOST_HELD", held)
    assert len(wbcprof.load(tmp_path / "m").layers) == 2


def test_few_images_at_once_where_profiles_are_large(model, cells, monkeypatch):
    whole = model.profile(cells.images[:7]).values
    sizes = []
    profile_batch = wbcprof.Model._profile_batch

    def keep(self, images, *more):
        sizes.append(len(images))
        return profile_batch(self, images, *more)

    monkeypatch.setattr(wbcprof.Model, "_profile_batch", keep)
    monkeypatch.setattr("wbcprof.model.model._BATCH_HELD", 3 * 24)
    np.testing.assert_array_equal(model.profile(cells.images[:7]).values, whole)
    assert sizes == [3, 3, 1]


def test_filters_that_would_be_too_many_are_not_transformed(model, monkeypatch):
    encoder = copy.copy(model.layers[0].encoder())
    encoder._forget_prepared()
    assert encoder.choose_form(112, 112).points > 1
    monkeypatch.setattr("wbcprof.model.encoder._MOST_PACKED", 24 * 300)
    encoder._forget_prepared()
    assert encoder.choose_form(112, 112).points == 1
