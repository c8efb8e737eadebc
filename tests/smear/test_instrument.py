"""The instrument behind a set of images: in numbers, in words, stated in files, contradicted."""

import warnings

import numpy as np
import pytest
from PIL import Image

import wbcprof
from wbcprof.datasets import make_leukocytes
from wbcprof.images import open_images
from wbcprof.smear import AcquisitionWarning, measure_instrument
from wbcprof.smear.instrument import instrument_from_json


@pytest.fixture(scope="module")
def images():
    return make_leukocytes(1, size=240).images


def test_pixel_size_is_by_red_cells_unless_given(images):
    found = measure_instrument(images)
    assert found.pixel_size_from == "red cells" and found.n_images == len(images)
    assert found.pixel_size == pytest.approx(7.5 / found.red_cell_diameter)
    half = measure_instrument([image[::2, ::2] for image in images])
    assert half.pixel_size == pytest.approx(2 * found.pixel_size, rel=0.08)
    given = measure_instrument(images, pixel_size=1.1 * found.pixel_size)
    assert given.pixel_size_from == "given"


def test_a_pixel_size_that_the_picture_contradicts_is_warned_of(images):
    with pytest.warns(AcquisitionWarning, match=r"0\.3 um is given, but red cells are \d+ px"):
        assert measure_instrument(images, pixel_size=0.3).pixel_size == 0.3


def test_without_red_cells_it_says_that_it_does_not_know():
    noise = np.random.default_rng(1).integers(0, 6, (3, 150, 150, 3), dtype=np.uint8)
    plain = 226 + noise
    found = measure_instrument(plain)
    assert found.pixel_size is None and found.red_cell_diameter is None
    assert "pixel size unknown (no red cells to measure)" in found.describe()
    black = measure_instrument(noise)
    assert "no empty background" in black.describe() and "focus unknown" in black.describe()


def test_light_and_focus_in_words(images):
    assert "background warm, soft" in measure_instrument(images).describe()
    red, _, blue = measure_instrument(images).background
    neutral = (images * np.array([0.9 * blue / red, 0.85, 0.9])).astype(np.uint8)
    assert "background neutral" in measure_instrument(neutral).describe()
    cold = (images * np.array([0.4, 0.42, 0.56])).astype(np.uint8)
    assert "background cold and dim" in measure_instrument(cold).describe()


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"resolution": 100_000, "resolution_unit": 3}, 0.1),
        ({"resolution": 254_000, "resolution_unit": 2}, 0.1),
        ({"description": '<Pixels PhysicalSizeX="100" PhysicalSizeXUnit="nm"/>'}, 0.1),
        ({"description": '<Pixels PhysicalSizeX="0.1"/>'}, 0.1),
        ({"resolution": 72, "resolution_unit": 2}, None),  # a screen's
        ({}, None),
    ],
)
def test_tiff_files_state_it(tmp_path, images, options, size):
    for k in range(2):
        Image.fromarray(images[k]).save(tmp_path / f"{k}.tif", **options)
    assert open_images(tmp_path).stated_pixel_size() == (size and pytest.approx(size, rel=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AcquisitionWarning)
        found = measure_instrument(tmp_path)
    assert found.pixel_size_from == ("file" if size else "red cells")


def test_files_that_disagree_state_nothing(tmp_path, images):
    for k, resolution in enumerate((100_000, 50_000)):
        Image.fromarray(images[k]).save(
            tmp_path / f"{k}.tif", resolution=resolution, resolution_unit=3
        )
    Image.fromarray(images[0]).save(tmp_path / "z.png")
    assert open_images(tmp_path).stated_pixel_size() is None


def test_it_is_kept_with_the_model(tmp_path, images):
    model = wbcprof.fit(images, n_signatures=8, n_patches=400, max_iter=1, augment=0)
    assert model.instrument == measure_instrument(images)
    model.save(tmp_path / "m.wbcprof")
    assert wbcprof.load(tmp_path / "m.wbcprof").instrument == model.instrument


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixel_size", -1),
        ("background", [1, 2]),
        ("background", [1, 2, 256]),
        ("nucleus_density", [1e9, 0, 0]),
        ("n_images", 0.5),
        ("pixel_size_from", "x"),
        ("pixel_size_from", ""),
        ("pixel_size", None),
        ("pixel_size", 0),
        ("background", [0, 0, 0]),
    ],
)
def test_a_damaged_document_is_refused(images, name, value):
    document = measure_instrument(images).to_json()
    with pytest.raises(ValueError, match=name):
        instrument_from_json({**document, name: value})


def test_bad_pixel_sizes(images):
    for value in (0, -1, np.nan, "0.1", 100):
        with pytest.raises(ValueError, match="pixel_size"):
            measure_instrument(images, pixel_size=value)
