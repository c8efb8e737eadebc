from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from wbcprof.datasets import LEUKOCYTE_TYPES, make_leukocytes, write_folder


@pytest.fixture(scope="module")
def leukocytes():
    return make_leukocytes(12, size=96)


def per_type(leukocytes, measure):
    """Mean over each type of a number measured on every image as float (H, W, 3)."""
    values = np.array([measure(image.astype(float)) for image in leukocytes.images])
    return {t: values[leukocytes.labels == t].mean() for t in LEUKOCYTE_TYPES}


def middle(image):
    n = len(image)
    return image[n // 3 : n - n // 3, n // 3 : n - n // 3]


def test_types_are_the_six_of_the_paper_in_alphabetical_order():
    assert LEUKOCYTE_TYPES == (
        "atypical_lymphocyte",
        "basophil",
        "eosinophil",
        "lymphocyte",
        "monocyte",
        "neutrophil",
    )


@pytest.mark.parametrize("size", [48, 97, 120, 200])
def test_shapes_dtypes_labels_and_ids(size):
    made = make_leukocytes(2, size=size, types=("neutrophil", "basophil"))
    assert made.images.shape == (4, size, size, 3)
    assert made.images.dtype == np.uint8
    assert made.images.flags.c_contiguous
    assert made.labels.dtype.kind == "U"
    assert made.labels.tolist() == ["neutrophil", "neutrophil", "basophil", "basophil"]
    assert made.ids == [
        "generated_neutrophil_0000",
        "generated_neutrophil_0001",
        "generated_basophil_0000",
        "generated_basophil_0001",
    ]


def test_default_is_twenty_of_each_type_at_120_pixels():
    made = make_leukocytes()
    assert made.images.shape == (120, 120, 120, 3)
    assert all(np.sum(made.labels == t) == 20 for t in LEUKOCYTE_TYPES)


def test_the_result_is_frozen(leukocytes):
    with pytest.raises(dataclasses.FrozenInstanceError):
        leukocytes.labels = None


def test_same_seed_same_images():
    first, second = make_leukocytes(2, random_state=7), make_leukocytes(2, random_state=7)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.ids == second.ids
    assert first.description == second.description


def test_every_image_differs_within_and_between_seeds():
    images = np.concatenate([make_leukocytes(3, random_state=seed).images for seed in (0, 1)])
    assert len({image.tobytes() for image in images}) == len(images) == 36


def test_an_image_depends_on_neither_the_count_nor_the_other_types(leukocytes):
    alone = make_leukocytes(3, size=96, types=("monocyte",))
    np.testing.assert_array_equal(
        alone.images, leukocytes.images[leukocytes.labels == "monocyte"][:3]
    )


def test_images_are_well_exposed(leukocytes):
    """Bright smear, dark nucleus in the middle, and colour: no blank or saturated image."""
    for image, name in zip(leukocytes.images.astype(float), leukocytes.ids, strict=True):
        assert np.percentile(image, 90) > 190, name
        assert np.percentile(middle(image).mean(axis=2), 5) < 150, name
        assert np.mean(image == 255) < 0.25, name


def test_eosinophil_granules_are_redder_than_lymphocyte_cytoplasm(leukocytes):
    redness = per_type(leukocytes, lambda image: np.mean(middle(image) @ (1.0, 0.0, -1.0)))
    others = [redness[t] for t in LEUKOCYTE_TYPES if t != "eosinophil"]
    assert redness["eosinophil"] > redness["lymphocyte"] + 25
    assert redness["eosinophil"] > max(others) + 5


def test_lymphocytes_are_smaller_than_monocytes(leukocytes):
    def stained(image):
        return np.mean(image[..., 0] < 0.75 * np.percentile(image[..., 0], 90))

    area = per_type(leukocytes, stained)
    assert area["lymphocyte"] < 0.8 * area["monocyte"]


def test_neutrophil_cytoplasm_is_paler_than_basophil(leukocytes):
    brightness = per_type(leukocytes, lambda image: middle(image).mean())
    assert brightness["neutrophil"] > brightness["basophil"] + 20


def test_types_can_be_learned_but_not_from_mean_colour_alone():
    svm = pytest.importorskip("sklearn.svm")
    train, test = make_leukocytes(25), make_leukocytes(15, random_state=1)

    def histograms(images):
        bins = (images // 32).astype(int) @ (64, 8, 1)
        return np.sqrt([np.bincount(b.ravel(), minlength=512) / b.size for b in bins])

    def accuracy(features):
        classifier = svm.SVC(C=10.0).fit(features(train.images), train.labels)
        return classifier.score(features(test.images), test.labels)

    assert 0.70 < accuracy(histograms) < 1.0
    assert accuracy(lambda images: images.mean(axis=(1, 2))) < 0.70


def test_the_description_says_generated_and_repeats_the_call(leukocytes):
    assert "generated" in leukocytes.description
    assert "not real data" in leukocytes.description
    assert "make_leukocytes(12, size=96" in leukocytes.description
    assert "random_state=0" in leukocytes.description


@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True, None])
def test_n_per_type_must_be_a_positive_integer(value):
    with pytest.raises(ValueError, match=r"n_per_type must be a positive integer, got"):
        make_leukocytes(value)


@pytest.mark.parametrize("value", [47, 120.0, None])
def test_size_must_be_an_integer_of_at_least_48(value):
    with pytest.raises(ValueError, match=r"size must be an integer of at least 48, got"):
        make_leukocytes(1, size=value)


@pytest.mark.parametrize("value", [-1, 0.5, None])
def test_random_state_must_be_a_seed(value):
    with pytest.raises(ValueError, match=r"random_state must be an integer of at least 0, got"):
        make_leukocytes(1, random_state=value)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (("neutrophil", "platelet"), r"unknown types \['platelet'\]; expected some of .*monocyte"),
        ("platelet", "unknown types"),
        ((), "at least one"),
        (("monocyte", "monocyte"), "each type once"),
    ],
)
def test_types_must_be_known_and_different(types, message):
    with pytest.raises(ValueError, match=message):
        make_leukocytes(1, types=types)


def test_numpy_integers_and_lists_are_accepted():
    made = make_leukocytes(np.int64(1), size=np.int32(48), types="monocyte")
    assert made.images.shape == (1, 48, 48, 3)


def test_write_folder_holds_the_same_pixels_and_says_generated(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    made = make_leukocytes(2, size=48)
    folder = write_folder(made, tmp_path / "new" / "smear")
    assert folder == tmp_path / "new" / "smear"
    readme = (folder / "README.txt").read_text(encoding="utf-8")
    assert "generated" in readme
    assert "not real data" in readme
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(LEUKOCYTE_TYPES)
    assert len(list(folder.rglob("*.png"))) == len(made.ids)
    for image, label, name in zip(made.images, made.labels, made.ids, strict=True):
        with image_module.open(folder / label / f"{name}.png") as file:
            np.testing.assert_array_equal(np.asarray(file), image)


def test_write_folder_accepts_an_empty_folder_and_a_string(tmp_path):
    pytest.importorskip("PIL")
    assert write_folder(make_leukocytes(1, size=48), str(tmp_path)) == tmp_path


def test_write_folder_refuses_a_folder_that_holds_something(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"not empty; name another folder or empty this one"):
        write_folder(make_leukocytes(1, size=48), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_write_folder_refuses_a_file(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(FileExistsError, match="got the file"):
        write_folder(make_leukocytes(1, size=48), tmp_path / "file")
