"""Tables of what was noted of images."""

import math

import numpy as np
import pytest

import wbcprof
from wbcprof.files import TableWarning
from wbcprof.images import open_images, read_attributes

pytestmark = pytest.mark.filterwarnings("ignore:.*names none for:wbcprof.files.TableWarning")


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    return open_images(pixels)


def _written(tmp_path, text):
    path = tmp_path / "noted.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_words_and_gaps(tmp_path, images):
    path = _written(
        tmp_path,
        "Image;Label;Size;Granules;remark\n"
        "image_000000;a;1,5;fine;x\nimage_000001;b;2;coarse;x\nimage_000002;b;NA;;x\n"
        "elsewhere;b;9;coarse;y\n",
    )
    noted = read_attributes(path, images)
    assert list(noted) == ["size", "granules: fine", "granules: coarse"]
    assert noted["size"] == {"image_000000": 1.5, "image_000001": 2.0}
    assert noted["granules: coarse"] == {"image_000000": 0.0, "image_000001": 1.0}


def test_points_are_numbers(tmp_path, images):
    path = _written(tmp_path, "file,lobes\nimage_000000,2\nimage_000001,3.5\nimage_000003,nan\n")
    assert read_attributes(path, images) == {"lobes": {"image_000000": 2.0, "image_000001": 3.5}}


def test_infinite_is_not_known(tmp_path, images):
    path = _written(tmp_path, "file,x\nimage_000000,2\nimage_000001,inf\nimage_000002,4\n")
    assert all(map(math.isfinite, read_attributes(path, images)["x"].values()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\nimage_000000,a\n", "columns of numbers"),
        ("image,x\nimage_000000,1\nimage_000001,1\n", "differ"),
        ("image,x\nother,1\nmore,2\n", "of the images given"),
        ("image,x\nimage_000000,1\nimage_000000,2\n", "line 2 too"),
        ("x,y\n1,2\n", "a column path or image"),
        ("image,x,X\nimage_000000,1,2\nimage_000001,2,1\n", "one column x, got two"),
    ],
)
def test_what_says_nothing_is_refused(tmp_path, images, text, message):
    with pytest.raises(ValueError, match=message):
        read_attributes(_written(tmp_path, text), images)


def test_many_words_are_remarks(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (13, 8, 8, 3), dtype=np.uint8)
    rows = "".join(f"image_{i:06d},word {i},{i}\n" for i in range(13))
    path = _written(tmp_path, "image,remark,n\n" + rows)
    with pytest.warns(TableWarning, match="left out, .*: remark"):
        assert list(read_attributes(path, pixels)) == ["n"]


@pytest.mark.parametrize("attributes", [{}, [], {"x": {"a": None}}, {"x": {"a": "big"}},
                                        {"x": {"a": np.inf}}, {"x": 3}])  # fmt: skip
def test_a_report_refuses_what_is_no_attribute_at_once(attributes, tmp_path):
    with pytest.raises(ValueError, match="must map"):
        wbcprof.write_report(None, None, tmp_path / "r.html", attributes=attributes)
