"""Model files: nothing lost, nothing executed, damage named."""

import json
import os
import struct

import numpy as np
import pytest

import wbcprof
from wbcprof.classify import TypeClassifier
from wbcprof.storage import ModelFileError


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "m.wbcprof")
    return tmp_path / "m.wbcprof"


def rewrite(path, change):
    """Change the JSON document of a model file."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    document = json.loads(header["__metadata__"]["wbcprof"])
    document = change(document) or document
    header["__metadata__"]["wbcprof"] = json.dumps(document)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :])


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
        encoder="soft_threshold", positive=False, pools=("mean", "std"), levels=(1, 2),
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
        (lambda d: d.update(format=2), "model format 2.*reads format 1.*newer"),
        (lambda d: d.pop("layers") and None, "not a usable wbcprof model"),
        (lambda d: d.update(layers=[]), "no layers"),
        (lambda d: d["layers"][0].update(patch_size=11), "must be float32 of shape"),
        (lambda d: d["layers"][0].update(step=0), "step must be a positive integer"),
        (lambda d: d["layers"][0].update(nonlinearity="eval"), "nonlinearity must be one of"),
        (lambda d: d["layers"][0].update(pixel_input="lab"), "pixel_input must be one of"),
        (lambda d: d["layers"][0].update(alpha="0.1"), "alpha must be positive and finite"),
        (lambda d: d["layers"][0]["preprocessing"].update(scale=0), "scale must be positive"),
        (lambda d: d["layers"][0].update(positive="x"), "positive must be true or false"),
        (lambda d: d.update(levels=[10**6]), "levels must be positive integers up to 64"),
        (lambda d: d.update(provenance=[]), "provenance must be a JSON dict"),
        (lambda d: d.update(pools=["median"]), "pools must be among"),
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


def test_a_failed_save_leaves_the_old_file(model, path, monkeypatch):
    import safetensors.numpy

    before = path.read_bytes()

    def fail(arrays, filename, metadata):
        open(filename, "wb").write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        model.save(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]
