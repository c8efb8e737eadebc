"""Boxes and masks of other tools: what was written comes back, and what is wrong is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wbcprof.datasets import make_smear, write_smear
from wbcprof.files import TableWarning
from wbcprof.images import Box, ImageWarning, open_fields, open_images, read_boxes

Image = pytest.importorskip("PIL.Image")

WIDTH, HEIGHT = 40, 30
CELL, RED = (4.0, 6.0, 14.0, 18.0), (20.0, 2.0, 32.0, 12.0)
ENTITIES = "".join(f'<!ENTITY b{n} "{f"&b{n - 1};" * 10 if n else "boom" * 10}">' for n in range(9))


@pytest.fixture
def images(tmp_path):
    """A folder of two images, which differ in size."""
    folder = tmp_path / "images"
    (folder / "slide").mkdir(parents=True)
    for name, size in (("one.png", (WIDTH, HEIGHT)), ("slide/two.png", (50, 20))):
        Image.new("RGB", size, "white").save(folder / name)
    return folder


def corners(box):
    return box.left, box.top, box.right, box.bottom


def as_csv(path, rows, columns="path,left,top,right,bottom,kind,label"):
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def as_voc(path, rows, size=(WIDTH, HEIGHT), filename="one.png"):
    things = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, (a, b, c, d) in rows
    )
    size = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>{filename}</filename>{size}{things}</annotation>")
    return path


def as_yolo(path, rows, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(exist_ok=True, parents=True)
    w, h = size
    lines = [
        f"{n} {(a + c) / 2 / w:.8f} {(b + d) / 2 / h:.8f} {(c - a) / w:.8f} {(d - b) / h:.8f}"
        for n, (a, b, c, d) in rows
    ]
    path.write_text("\n".join(lines))
    return path.parent


def as_coco(path, rows, **changes):
    content = {
        "images": [{"id": 7, "file_name": "one.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 1, "name": "WBC"}, {"id": 2, "name": "RBC"}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": category, "bbox": [a, b, c - a, d - b]}
            for n, (category, (a, b, c, d)) in enumerate(rows)
        ],
    }
    path.write_text(json.dumps(content | changes))
    return path


def save(path, labels):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(labels).save(path)
    return path


def assert_both(found):
    """A leukocyte and a red cell of the first image, none of the second."""
    assert list(found) == ["one.png", "slide/two.png"]
    cell, red = found["one.png"]
    assert found["slide/two.png"] == []
    np.testing.assert_allclose(corners(cell), CELL, atol=1e-4)
    np.testing.assert_allclose(corners(red), RED, atol=1e-4)
    assert (cell.image_id, cell.kind, red.kind) == ("one.png", "leukocyte", "red_cell")
    assert (cell.mask, red.label) == (None, None)
    return cell


# ---- round trips ----


def test_generated_smear_comes_back(tmp_path):
    smear = make_smear(3, size=(150, 200), pixel_size=0.3, n_leukocytes=3)
    folder = write_smear(smear, tmp_path / "smear")
    found = read_boxes(folder / "boxes.csv", folder / "images")
    assert list(found) == [f"{name}.png" for name in smear.ids]
    boxes = [box for of_image in found.values() for box in of_image]
    assert len(boxes) == len(smear.truth)
    for box, row in zip(boxes, smear.truth, strict=True):
        assert corners(box) == tuple(row[["left", "top", "right", "bottom"]])
        assert (box.kind, box.label or "") == (row["kind"], row["label"])


def test_masks_of_a_generated_smear_come_back(tmp_path):
    smear = make_smear(3, size=(150, 200), pixel_size=0.3, n_leukocytes=3)
    folder = write_smear(smear, tmp_path / "smear")
    for name, cells in zip(smear.ids, smear.cells, strict=True):
        save(tmp_path / "masks" / f"{name}_cp_masks.png", cells)
    found = read_boxes(tmp_path / "masks", folder / "images")
    for field, of_image in enumerate(found.values()):
        rows = smear.truth[(smear.truth["field"] == field) & (smear.truth["number"] > 0)]
        assert len(of_image) == len(rows)
        for box, row in zip(of_image, rows, strict=True):
            assert corners(box) == tuple(row[["left", "top", "right", "bottom"]])
            part = smear.cells[field][row["top"] : row["bottom"], row["left"] : row["right"]]
            np.testing.assert_array_equal(box.mask, part == row["number"])
            assert box.mask.dtype == bool


def test_csv(images, tmp_path):
    rows = [("one.png", *CELL, "WBC", "monocyte"), ("one.png", *RED, "red cells", "")]
    assert assert_both(read_boxes(as_csv(tmp_path / "b.csv", rows), images)).label == "monocyte"


def test_csv_of_other_columns(images, tmp_path):
    spans = [("one.png", a, b, c - a, d - b) for a, b, c, d in (CELL, RED)]
    table = as_csv(
        tmp_path / "b.csv",
        [(*spans[0], "monocyte"), (*spans[1], "RBC")],
        "Image,x,y,width,height,label",
    )
    assert assert_both(read_boxes(table, images)).label == "monocyte"
    rows = [(*CELL, "one.png", "x"), (*RED, "one.png", "rbc")]
    table = as_csv(tmp_path / "b.csv", rows, "xmin,ymin,xmax,ymax,filename,label")
    assert assert_both(read_boxes(table, images)).label == "x"


def test_csv_of_cells_names_the_field_beside_the_crop(images, tmp_path):
    rows = [("crops/two.png", "one.png", *CELL), ("crops/one.png", "slide/two.png", 1, 2, 3, 4)]
    found = read_boxes(as_csv(tmp_path / "c.csv", rows, "path,field,left,top,right,bottom"), images)
    assert [corners(box) for box in found["one.png"]] == [CELL]
    assert [corners(box) for box in found["slide/two.png"]] == [(1, 2, 3, 4)]


def test_boxes_in_tiles_are_of_the_whole_image(images, tmp_path):
    Image.new("RGB", (600, 500), "white").save(images / "large.png")
    rows = [("large.png", 520.0, 400.0, 590.0, 480.0), ("one", *CELL)]
    table = as_csv(tmp_path / "b.csv", rows, "field,left,top,right,bottom")
    fields = open_fields(images, tile=256, margin=32)
    found = read_boxes(table, fields)
    assert list(found) == ["large.png", "one.png", "slide/two.png"]
    assert [corners(box) for box in found["large.png"]] == [rows[0][1:]]
    assert {field.image_id for field in fields} == found.keys()
    with pytest.raises(TypeError, match="iterator"):
        read_boxes(table, open_fields(iter([images / "one.png"])))


def test_csv_rows_without_numbers_are_of_images_without_boxes(images, tmp_path):
    table = as_csv(tmp_path / "b.csv", [("one.png", "", "", "", "", "", "")])
    assert read_boxes(table, images) == {"one.png": [], "slide/two.png": []}


def test_voc(images, tmp_path):
    rows = [("monocyte", CELL), ("RBC", RED)]
    file = as_voc(tmp_path / "one.xml", rows)
    assert assert_both(read_boxes(file, images)).label == "monocyte"
    (tmp_path / "xml").mkdir()
    as_voc(tmp_path / "xml" / "one.xml", rows, filename="renamed.jpg", size=(0, 0))
    as_voc(tmp_path / "xml" / "two.xml", [], filename="elsewhere.jpg")
    assert assert_both(read_boxes(tmp_path / "xml", images)).label == "monocyte"


YAML = [
    "names: ['monocyte', \"RBC\"]\nnc: 2\n",
    "nc: 2\nnames: [monocyte,\n  RBC]\n",
    "train: ../x\nnames:  # of classes\n  # here\n  - monocyte\n  - 'RBC'\nnc: 2\n",
    "names:\n- monocyte\n- RBC\n",
    "names:\n  1: RBC\n  0: monocyte  # large\nroboflow:\n  license: MIT\n",
    "names: {0: monocyte, 1: RBC}",
    "names: {0: monocyte, 1: 'RBC', 2: \"x, }\"}",
    "names: [monocyte, \"RBC\", 'it''s, or ]', \"lymphocyte, atypical\"]",
]


@pytest.mark.parametrize("yaml", YAML)
def test_yolo_with_a_yaml_of_names(images, tmp_path, yaml):
    folder = as_yolo(tmp_path / "data" / "labels" / "one.txt", [(0, CELL), (1, RED)])
    (tmp_path / "data" / "data.yaml").write_text(yaml)
    assert assert_both(read_boxes(folder, images)).label == "monocyte"


def test_names_of_yaml_hold_commas_and_quotes_in_quotes(images, tmp_path):
    folder = as_yolo(tmp_path / "data" / "one.txt", [(0, CELL), (1, RED)])
    (folder / "data.yaml").write_text("""names: ["lymphocyte, atypical", 'Auer''s rods']""")
    found = read_boxes(folder, images)["one.png"]
    assert [box.label for box in found] == ["lymphocyte, atypical", "Auer's rods"]


def test_yolo_with_classes(images, tmp_path):
    folder = as_yolo(tmp_path / "labels" / "one.txt", [(0, CELL), (1, RED)])
    (folder / "classes.txt").write_text("WBC\nRBC\n")
    (folder / "README.roboflow.txt").write_text("not boxes")
    assert assert_both(read_boxes(folder, images)).label is None


def test_yolo_without_names_has_numbers(images, tmp_path):
    folder = as_yolo(tmp_path / "labels" / "slide" / "two.txt", [(3, CELL)], (50, 20)).parent
    (box,) = read_boxes(folder, images)["slide/two.png"]
    assert (box.label, corners(box)) == ("3", pytest.approx(CELL, abs=1e-4))


def test_coco(images, tmp_path):
    assert_both(read_boxes(as_coco(tmp_path / "coco.json", [(1, CELL), (2, RED)]), images))


@pytest.mark.parametrize(
    ("dtype", "suffix"),
    [(np.uint8, ".png"), (np.uint16, ".png"), (np.uint8, ".tif"), (np.uint16, ".tif"),
     (np.int32, ".tif")],
)  # fmt: skip
def test_label_images(images, tmp_path, dtype, suffix):
    labels = np.zeros((HEIGHT, WIDTH), dtype=dtype)
    labels[3:9, 2:7] = 9
    labels[3:5, 2:4] = 200
    labels[20, 39] = 9  # apart, of the same number
    found = read_boxes(save(tmp_path / f"one_mask{suffix}", labels), images)["one.png"]
    assert [corners(box) for box in found] == [(2, 3, 40, 21), (2, 3, 4, 5)]
    assert found[0].mask.sum() == 6 * 5 - 4 + 1
    assert found[1].mask.all()


@pytest.mark.parametrize("value", [True, np.uint8(1), np.uint8(255), np.uint16(255)])
def test_binary_masks_are_split_into_components(images, tmp_path, value):
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.asarray(value).dtype)
    mask[3:9, 2:7] = mask[9, 7] = value  # by a corner
    mask[20:, 30:] = value
    found = read_boxes(save(tmp_path / "one.png", mask), images)["one.png"]
    assert [corners(box) for box in found] == [(2, 3, 8, 10), (30, 20, 40, 30)]
    assert found[0].mask.sum() == 31


def test_large_numbers_and_empty_masks(images, tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    assert read_boxes(save(tmp_path / "one.tif", labels), images)["one.png"] == []
    labels[2, 3] = 2**31 - 1
    (box,) = read_boxes(save(tmp_path / "one.tif", labels), images)["one.png"]
    assert corners(box) == (3, 2, 4, 3)


def test_boxes_of_arrays_and_of_a_csv_of_images(images, tmp_path):
    arrays = [np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((9, 9), np.uint8)]
    table = as_csv(tmp_path / "b.csv", [("image_000001", 1, 2, 3, 4, "", "")])
    assert [len(boxes) for boxes in read_boxes(table, arrays).values()] == [0, 1]
    stack = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)
    assert len(read_boxes(table, open_images(stack))["image_000001"]) == 1


# ---- names of images ----


@pytest.mark.parametrize(
    "name",
    ["slide/two.png", "two.png", "two", "two.jpg", "old/slide/two.png", r"C:\old\slide\two.png",
     "../slide/two.png", "./slide/two.png", "/data/slide/two"],
)  # fmt: skip
def test_an_image_is_known_by_the_last_parts_of_its_id(images, tmp_path, name):
    table = as_csv(tmp_path / "b.csv", [(name, 1, 2, 3, 4, "", "")])
    assert len(read_boxes(table, images)["slide/two.png"]) == 1


def test_an_id_is_known_whatever_else_ends_like_it(images, tmp_path):
    Image.new("RGB", (9, 9)).save(images / "two.png")
    table = as_csv(tmp_path / "b.csv", [("two.png", 1, 2, 3, 4, "", "")])
    assert len(read_boxes(table, images)["two.png"]) == 1


@pytest.mark.parametrize("name", ["three.png", "other/two.png", "", "wo.png", "two.png.png"])
def test_images_that_are_not_there_are_named(images, tmp_path, name):
    table = as_csv(
        tmp_path / "b.csv", [("two.png", 1, 2, 3, 4, "", ""), (name, 1, 2, 3, 4, "", "")]
    )
    with pytest.raises(ValueError, match=rf"line 3: no image is named '{name}', the first of 2"):
        read_boxes(table, images)


def test_names_that_mean_two_images_are_refused(images, tmp_path):
    (images / "other").mkdir()
    Image.new("RGB", (9, 9)).save(images / "other" / "two.png")
    table = as_csv(tmp_path / "b.csv", [("two.png", 1, 2, 3, 4, "", "")])
    with pytest.raises(ValueError, match=r"'two.png' may be the image 'other/two.png' or 'slide/t"):
        read_boxes(table, images)


# ---- boxes that cannot be ----


def test_boxes_that_reach_beyond_are_clipped_and_counted(images, tmp_path):
    rows = [
        ("one.png", -5, 3, 9, 9, "", ""), ("one.png", 30, 20, 60, 50, "", ""),
        ("one.png", -0.5, 0, 40.9, 30, "", ""),
    ]  # fmt: skip
    with pytest.warns(ImageWarning, match=r"2 of 3 boxes .* clipped; first: .*line 2") as told:
        found = read_boxes(as_csv(tmp_path / "b.csv", rows), images)["one.png"]
    assert len(told) == 1
    assert list(map(corners, found)) == [(0, 3, 9, 9), (30, 20, 40, 30), (0, 0, 40, 30)]


def test_boxes_without_area_are_left_out_and_counted(images, tmp_path):
    rows = [("one.png", 1, 2, 1, 4, "", ""), ("one.png", *CELL, "", ""), ("one.png", 5, 5, 5, 5)]
    with pytest.warns(ImageWarning, match=r"2 of 3 boxes had no area .* left out; first: .*line 2"):
        found = read_boxes(as_csv(tmp_path / "b.csv", rows), images)["one.png"]
    assert list(map(corners, found)) == [CELL]


BAD = [
    ((1, 2, "nan", 4), "a box must be of finite numbers, got left 1, top 2, right nan"),
    ((1, 2, "inf", 4), "finite"),
    ((1, 2, "1e999", 4), "finite"),
    ((1, 2, "wide", 4), "a box must be of numbers, got 'wide'"),
    ((1, 2, "", 4), "a box must be of numbers, got ''"),
    ((9, 2, 3, 4), "left < right and top < bottom, got left 9, top 2, right 3, bottom 4"),
    ((1, 4, 3, 2), "left < right and top < bottom"),
    ((40, 2, 50, 4), "must lie in its image of 40 x 30 px, got left 40"),
    ((-5, 2, 0, 4), "must lie in its image"),
    ((1, 31, 3, 40), "must lie in its image"),
    ((0.1, 0.2, 0.5, 1), "must be in pixels, got '0.1', .* parts of the image; multiply them by"),
]


@pytest.mark.parametrize(("numbers", "message"), BAD)
def test_bad_boxes_are_refused_by_line(images, tmp_path, numbers, message):
    table = as_csv(tmp_path / "b.csv", [("one.png", *numbers, "", "")])
    with pytest.raises(ValueError, match=rf"b\.csv', line 2: .*{message}"):
        read_boxes(table, images)


@pytest.mark.parametrize(("numbers", "message"), BAD)
def test_bad_boxes_are_refused_in_voc(images, tmp_path, numbers, message):
    file = as_voc(tmp_path / "one.xml", [("WBC", CELL), ("WBC", numbers)])
    with pytest.raises(ValueError, match=rf"one\.xml', object 2: .*{message}"):
        read_boxes(file, images)


# ---- files that cannot be read ----


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a first line with a column field or path"),
        (b"path,left,top\n", "expected a first line .* got: path, left, top"),
        (b"left,top,right,bottom\n1,2,3,4\n", "expected a first line with a column field or path"),
        (b"path,left,top,right,bottom\n\x81,1,2,3,4\n", "not a readable CSV"),
        (b"left,top,right,bottom,path\n1,2,3,4\n", "line 2: no image is named ''"),
        (b"path,left,top,right,bottom\none.png,1,2\n", "line 2: a box must be of numbers, got ''"),
        (b'path,left,top,right,bottom\n"' + b"x" * 200_000, "not a readable CSV file"),
    ],
)
def test_damaged_csv(images, tmp_path, content, message):
    (tmp_path / "b.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_boxes(tmp_path / "b.csv", images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "damaged XML: no element found"),
        ("<annotation><object>", "damaged XML"),
        ("<svg/>", "expected the element annotation of Pascal VOC, got svg"),
        (f"<!DOCTYPE x [{ENTITIES}]><annotation>&b8;</annotation>", r"without a document type"),
        ('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>', "DOCTYPE"),
        ("<annotation>&e;</annotation>", "damaged XML: undefined entity"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "damaged XML"),
        ("<annotation><object/></annotation>", "object 1: a box must be of numbers, got None"),
    ],
)
def test_damaged_xml(images, tmp_path, content, message):
    (tmp_path / "one.xml").write_text(content)
    with pytest.raises(ValueError, match=rf"one\.xml'.*{message}"):
        read_boxes(tmp_path / "one.xml", images)


def test_deep_xml_and_json_do_no_harm(images, tmp_path):
    (tmp_path / "one.xml").write_text("<annotation>" + "<a>" * 200_000)
    with pytest.raises(ValueError, match="damaged XML"):
        read_boxes(tmp_path / "one.xml", images)
    (tmp_path / "one.xml").write_text(
        "<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>"
    )
    assert not any(read_boxes(tmp_path / "one.xml", images).values())
    (tmp_path / "c.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"c\.json' is not a JSON file"):
        read_boxes(tmp_path / "c.json", images)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5", "expected class x y width height"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "polygons are not read"),
        ("cell 0.5 0.5 0.1 0.1", "expected class x y"),
        ("-1 0.5 0.5 0.1 0.1", "expected class x y"),
        ("7 0.5 0.5 0.1 0.1", "class 7 has no name; there are 2"),
        ("0 0.5 half 0.1 0.1", "a box must be of numbers, got 'half'"),
        ("0 nan 0.5 0.1 0.1", "finite numbers"),
        ("0 0.5 0.5 -0.1 0.1", "left < right"),
        ("0 20 15 4 4", "must lie in its image"),
    ],
)
def test_bad_lines_of_yolo(images, tmp_path, line, message):
    folder = as_yolo(tmp_path / "labels" / "one.txt", [(0, CELL)])
    with open(folder / "one.txt", "a") as stream:
        stream.write(f"\n\n{line}\n")
    (folder / "classes.txt").write_text("WBC\nRBC\n")
    with pytest.raises(ValueError, match=rf"one\.txt', line 3: .*{message}"):
        read_boxes(folder, images)


@pytest.mark.parametrize(
    "yaml", ["nc: 2\n", "names:\n", "names: [a, b\n", "names: x\n", "names: []"]
)
def test_yaml_without_names(images, tmp_path, yaml):
    folder = as_yolo(tmp_path / "labels" / "one.txt", [(0, CELL)])
    (folder / "data.yaml").write_text(yaml)
    with pytest.raises(
        ValueError, match=r"expected an entry names .* classes\.txt, a line for each"
    ):
        read_boxes(folder, images)


def test_yolo_that_is_no_text(images, tmp_path):
    folder = as_yolo(tmp_path / "labels" / "one.txt", [])
    (folder / "one.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"one\.txt' is not text in UTF-8"):
        read_boxes(folder, images)


BOX = {"image_id": 7, "bbox": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, "expected a COCO file with the list annotations, got None"),
        ({"annotations": [3]}, "annotations must hold objects with bbox, image_id, got 3"),
        ({"annotations": [{"image_id": 7}]}, "annotations must hold objects with bbox"),
        (
            {"annotations": [BOX | {"image_id": 8}]},
            "annotation 0: image_id 8 is the id of no image",
        ),
        ({"annotations": [BOX | {"image_id": [7]}]}, "image_id .* is the id of no image"),
        ({"annotations": [BOX | {"category_id": 9}]}, "category_id 9 is the id of no category"),
        ({"annotations": [BOX | {"bbox": [1, 2, 3]}]}, "bbox must be .*, got"),
        ({"annotations": [BOX | {"bbox": "1234"}]}, "bbox must be .*, got '1234'"),
        ({"annotations": [BOX | {"bbox": [1, 2, None, 4]}]}, "of numbers, got None"),
        ({"annotations": [BOX | {"bbox": [1, 2, float("nan"), 4]}]}, "finite numbers"),
        ({"annotations": [BOX | {"bbox": [1, 2, 10**400, 4]}]}, "a box must be of numbers"),
        ({"annotations": [BOX | {"bbox": [1, 2, -1, 4]}]}, "left < right"),
        ({"images": [{"id": [7], "file_name": "one.png"}]}, "ids must be numbers or text"),
        (
            {"images": [{"id": 7, "file_name": name} for name in ("one.png", "two.png")]},
            "images must have ids of their own, got 7 twice",
        ),
        (
            {"categories": [{"id": 1, "name": name} for name in ("a", "b")]},
            "categories must have ids of their own, got 1 twice",
        ),
        ({"annotations": [BOX | {"bbox": [0, 0.1, 0.5, 0.5]}]}, "must be in pixels"),
        ({"images": [{"id": 7}]}, "images must hold objects with id, file_name"),
        (
            {"images": [{"id": 7, "file_name": "one.png", "width": 80, "height": 60}]},
            "expected the size of the image 'one.png', 40 x 30 px, got 80 x 60",
        ),
    ],
)
def test_bad_coco(images, tmp_path, changes, message):
    changes = {"annotations": [BOX]} | changes
    with pytest.raises(ValueError, match=rf"coco\.json'.*{message}"):
        read_boxes(as_coco(tmp_path / "coco.json", [], **changes), images)


def test_coco_that_is_no_json(images, tmp_path):
    for content in (b"", b"{", b"\xff", b"[1]"):
        (tmp_path / "coco.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"coco\.json'.*(JSON|UTF-8|COCO)"):
            read_boxes(tmp_path / "coco.json", images)


def test_sizes_that_voc_states_must_be_those_of_the_images(images, tmp_path):
    file = as_voc(tmp_path / "one.xml", [("WBC", CELL)], size=(80, 60))
    with pytest.raises(ValueError, match=r"expected the size of the image 'one.png', 40 x 30 px"):
        read_boxes(file, images)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((HEIGHT, WIDTH + 1), np.uint8), "40 x 30 px, got 41 x 30"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "expected one whole number for each pixel"),
        (np.zeros((HEIGHT, WIDTH), np.float32), "expected one whole number for each pixel"),
        (np.full((HEIGHT, WIDTH), -1, np.int32), "labels must be 0 or above, got -1"),
    ],
)
def test_label_images_of_another_form(images, tmp_path, labels, message):
    with pytest.raises(ValueError, match=rf"one\.tif': .*{message}"):
        read_boxes(save(tmp_path / "one.tif", labels), images)


@pytest.mark.parametrize("corners", [(0, 0, WIDTH, HEIGHT), (0, 2, WIDTH, 3)])
def test_boxes_that_cover_an_image_many_times_are_refused(images, tmp_path, corners):
    """Each has a crop as large as its longer side: those of 500 kB took gigabytes."""
    left, *others = corners
    rows = [("one.png", left + n / 1000, *others, "", "") for n in range(17)]
    assert len(read_boxes(as_csv(tmp_path / "b.csv", rows[:16]), images)["one.png"]) == 16
    with pytest.raises(
        ValueError, match=r"line 18: the boxes of 'one.png' cover it more than 16 times; expected"
    ):
        read_boxes(as_csv(tmp_path / "b.csv", rows), images)


@pytest.mark.parametrize(
    "n, message",
    [(1200, "expected 175 objects at most on 1200 pixels, got 1199; give the number of its cell"),
     (150, r"got 1\d\d whose boxes cover the image \d\d+ times; give the number of its cell for")],
)  # fmt: skip
def test_a_photograph_is_no_mask(images, tmp_path, n, message):
    """Every grey level would be an object, each with a mask of the whole image."""
    noise = np.random.default_rng(0).permutation(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % n
    with pytest.raises(ValueError, match=rf"one\.tif': .*{message}"):
        read_boxes(save(tmp_path / "one.tif", noise.astype(np.uint16)), images)


def test_label_images_of_several_frames(images, tmp_path):
    frame = Image.new("L", (WIDTH, HEIGHT))
    frame.save(tmp_path / "one.tif", save_all=True, append_images=[frame])
    with pytest.raises(ValueError, match="got 2 frames of mode L"):
        read_boxes(tmp_path / "one.tif", images)


def test_damaged_label_images(images, tmp_path):
    file = save(tmp_path / "one.png", np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(30, 40))
    content = file.read_bytes()
    for damaged in (b"", b"no image", content[: len(content) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"one\.png': "):
            read_boxes(file, images)


def test_an_image_has_one_mask(images, tmp_path):
    for name in ("one.png", "one_mask.png"):
        save(tmp_path / "masks" / name, np.ones((HEIGHT, WIDTH), np.uint8))
    with pytest.raises(
        ValueError, match=r"the image 'one.png' is also that of '.*one\.png'; leave"
    ):
        read_boxes(tmp_path / "masks", images)


def test_an_image_has_one_annotation(images, tmp_path):
    (tmp_path / "xml").mkdir()
    for name in ("one.xml", "copy.xml"):
        as_voc(tmp_path / "xml" / name, [("WBC", CELL)])
    with pytest.raises(ValueError, match=r"one\.xml': the image 'one.png' is also that of '.*copy"):
        read_boxes(tmp_path / "xml", images)
    for name in ("one.txt", "copy/one.txt"):
        as_yolo(tmp_path / "labels" / name, [(0, CELL)])
    with pytest.raises(ValueError, match=r"one\.txt', line 1: the image 'one.png' is also that of"):
        read_boxes(tmp_path / "labels", images)
    twice = [{"id": 7, "file_name": "one.png"}, {"id": 8, "file_name": "one.png"}]
    with pytest.raises(ValueError, match=r"the image 'one.png' is also that of the entry of id 7"):
        read_boxes(
            as_coco(
                tmp_path / "c.json",
                [],
                images=twice,
                annotations=[
                    {"image_id": image_id, "category_id": 1, "bbox": [1, 2, 9, 9]}
                    for image_id in (7, 8)
                ],
            ),
            images,
        )


def test_boxes_that_repeat_others_are_left_out_and_counted(images, tmp_path):
    rows = [("one.png", *CELL, "WBC", "monocyte"), ("one.png", *RED, "RBC", "")]
    table = as_csv(tmp_path / "b.csv", [*rows, *rows])
    with pytest.warns(TableWarning, match=r"2 of 4 boxes repeat others .*; first: .*line 4"):
        found = read_boxes(table, images)
    assert assert_both(found).label == "monocyte"
    with pytest.warns(TableWarning, match="1 of 2 boxes repeat others .*; first: box 1"):
        assert len(read_boxes([Box("one.png", *CELL), Box("one", *CELL)], images)["one.png"]) == 1
    as_csv(table, [rows[0], ("one.png", *CELL, "", "blast")])
    with pytest.raises(ValueError, match=r"line 3: .*'blast' here and of 'monocyte' in .*line 2"):
        read_boxes(table, images)


def test_masks_of_the_same_corners_are_two(images, tmp_path):
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[3:9, 2:8] = np.triu(np.ones((6, 6), np.uint8)) + 1
    labels[3, 2] = labels[8, 7] = 1
    assert len(read_boxes(save(tmp_path / "one.png", labels), images)["one.png"]) == 2


def test_the_centre_of_a_nucleus_lies_in_its_box(images, tmp_path):
    columns = "path,left,top,right,bottom,x,y,nucleus_px"
    table = as_csv(tmp_path / "b.csv", [("one.png", *CELL, 8, 12, 3.5)], columns)
    (box,) = read_boxes(table, images)["one.png"]
    assert (box.x, box.y, box.nucleus) == (8, 12, 3.5)
    as_csv(table, [("one.png", *CELL, 1, 1, 3.5)], columns)
    with pytest.raises(
        ValueError, match=r"line 2: the centre of a nucleus must lie in its box,.*x 1"
    ):
        read_boxes(table, images)
    for place, message in (
        ({"x": 1.0, "y": 1.0}, "must lie in its box"),
        ({"x": float("nan"), "y": 9.0}, "must lie in its box"),
        ({"x": 9.0}, "must have x and y, or neither"),
        ({"nucleus": -1.0}, "must be larger than 0"),
    ):
        with pytest.raises(ValueError, match=f"box 0: .*{message}"):
            read_boxes([Box("one.png", *CELL, **place)], images)


def test_x_and_y_beside_corners_of_other_tables_are_no_nucleus(images, tmp_path):
    rows = [("one.png", *CELL, 1, 1)]
    table = as_csv(tmp_path / "b.csv", rows, "path,xmin,ymin,xmax,ymax,x,y")
    (box,) = read_boxes(table, images)["one.png"]
    assert (box.x, box.y, box.nucleus) == (None, None, None)


def test_kinds_and_labels_from_python_are_those_of_files(images, tmp_path):
    said = [("WBC", "monocyte"), ("rbc", ""), ("Platelets", ""), ("", "WBC"), ("", "RBC"),
            ("", "?"), ("", "Unknown"), ("wbc", "nan"), ("", "N/A"), ("artefact", "")]  # fmt: skip
    places = [(float(n), 2.0, n + 4.0, 9.0) for n in range(len(said))]
    rows = [("one.png", *place, *both) for place, both in zip(places, said, strict=True)]
    boxes = [
        Box("one.png", *place, kind=kind or "leukocyte", label=label)
        for place, (kind, label) in zip(places, said, strict=True)
    ]
    of_file = read_boxes(as_csv(tmp_path / "b.csv", rows), images)["one.png"]
    of_python = read_boxes(boxes, images)["one.png"]
    assert [(box.kind, box.label) for box in of_file] == [
        ("leukocyte", "monocyte"), ("red_cell", None), ("platelet", None), ("leukocyte", None),
        ("red_cell", None), *[("leukocyte", None)] * 4, ("artefact", None),
    ]  # fmt: skip
    assert [(box.kind, box.label) for box in of_python] == [
        (box.kind, box.label) for box in of_file
    ]


@pytest.mark.parametrize("source", [Box("one.png", *CELL), 5, {"one.png": Box("one.png", *CELL)}])
def test_boxes_from_python_are_lists(images, source):
    with pytest.raises(TypeError, match="boxes must be a path, a list of Box, or a mapping"):
        read_boxes(source, images)


def test_sources_of_another_kind(images, tmp_path):
    with pytest.raises(FileNotFoundError, match="boxes come from a CSV file"):
        read_boxes(tmp_path / "nothing.csv", images)
    (tmp_path / "boxes.ods").write_text("")
    (tmp_path / "empty").mkdir()
    for name in ("boxes.ods", "empty"):
        with pytest.raises(ValueError, match=f"expected a CSV file, .*, got '.*{name}'"):
            read_boxes(tmp_path / name, images)
    as_yolo(tmp_path / "both" / "one.txt", [])
    as_voc(tmp_path / "both" / "one.xml", [])
    with pytest.raises(ValueError, match="a folder of one kind"):
        read_boxes(tmp_path / "both", images)


def test_images_that_can_be_read_once_have_no_boxes(tmp_path):
    table = as_csv(tmp_path / "b.csv", [])
    with pytest.raises(TypeError, match="from an iterator can be read only once"):
        read_boxes(table, iter([np.zeros((9, 9, 3), np.uint8)]))


def test_boxes_of_an_unreadable_image_are_refused(images, tmp_path):
    (images / "one.png").write_text("no image")
    table = as_csv(tmp_path / "b.csv", [("one.png", 1, 2, 3, 4, "", "")])
    with pytest.raises(ValueError, match=r"line 2: the image 'one.png' cannot be read"):
        read_boxes(table, images)
    table = as_csv(tmp_path / "b.csv", [("two.png", 1, 2, 3, 4, "", "")])
    assert len(read_boxes(table, images)["slide/two.png"]) == 1


def test_a_box_is_frozen():
    with pytest.raises(AttributeError):
        Box("one.png", 1, 2, 3, 4).left = 5
