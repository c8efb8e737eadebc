"""Tables of people: delimiters, encodings, names of columns, gaps and contradictions."""

import warnings

import numpy as np
import pytest
from PIL import Image

from wbcprof.analysis.slides import read_slides
from wbcprof.files import TableWarning
from wbcprof.images import open_images, read_boxes, read_groups
from wbcprof.images.tables import column_name, read_by_image, read_table, tell_of_gaps

IDS = ["x/a.png", "y/b.png"]


@pytest.fixture
def folder(tmp_path):
    for image_id in IDS:
        path = tmp_path / image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(path)
    return tmp_path


def labels_of(folder, text, encoding="utf-8"):
    table = folder / "t.csv"
    table.write_bytes(text.encode(encoding))
    source = open_images(table)
    return dict(zip(source.ids(), source.labels or [], strict=False))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_spreadsheets(folder, delimiter, encoding, end):
    rows = ["image,label", "x/a.png,Zelle \u00e4", "y/b.png,B", ",", ""]
    text = end.join(rows).replace(",", delimiter)
    assert labels_of(folder, text, encoding) == {"x/a.png": "Zelle \u00e4", "y/b.png": "B"}


def test_other_delimiters_in_cells_are_text(folder):
    found = labels_of(folder, 'image;"cell; type";label\nx/a.png;"1;2";"a, b"\ny/b.png;;c\n')
    assert found == {"x/a.png": "a, b", "y/b.png": "c"}


def test_windows_1252_is_read_and_said_once(folder):
    with pytest.warns(TableWarning, match="was read as Windows-1252") as caught:
        found = labels_of(folder, "image,label\nx/a.png,\u00e9osinophile\n", "cp1252")
    assert found == {"x/a.png": "\u00e9osinophile"} and len(caught) == 1


@pytest.mark.parametrize(
    "header",
    ["Image,Label", "FILENAME,CLASS", " path , type ", "File Name,Cell Type", "file-name,cell_type",
     "Image Path,CellType", "\"image\", \"label\"", "Metadata_ImageId,Metadata_Label",
     "Image.ID,class"],
)  # fmt: skip
def test_columns_are_found_by_what_people_call_them(folder, header):
    text = f'number,{header}\n1,x/a.png,A\n2, "y/b.png" ,B\n'
    assert labels_of(folder, text) == {"x/a.png": "A", "y/b.png": "B"}


def test_paths_of_windows_are_paths(folder):
    assert labels_of(folder, "image,label\nx\\a.png,A\n.\\y\\b.png,B\n") == {
        "x/a.png": "A", "y/b.png": "B",
    }  # fmt: skip
    (folder / "g.csv").write_text("image,Patient ID\nx\\a.png,1\n./y/b.png,2\n")
    assert read_groups(folder / "g.csv", folder) == {"x/a.png": "1", "y/b.png": "2"}


def test_two_labels_of_an_image_are_an_error_with_lines(folder):
    text = "image,label\n\nx/a.png,A\ny/b.png,B\nx\\a.png,C\n"
    with pytest.raises(ValueError, match=r"t.csv', line 5: 'x/a.png' is labelled 'C' here and 'A'"):
        labels_of(folder, text)
    with pytest.raises(ValueError, match=r"line 5: 'x/a.png' is of label 'C' .* 'A' in line 3"):
        read_by_image(folder / "t.csv", ("label",))
    assert labels_of(folder, "image,label\nx/a.png,A\nx/a.png,A\n") == {"x/a.png": "A"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,label\nx/a.png,a,b\n", "line 2: expected 2 cells, as in the first line, got 3"),
        ("image,name\nx/a.png,a\n", "a column label, got: image, name"),
        ("image,label,Label\nx/a.png,a,b\n", "expected one column label, got two"),
        ("", "expected a first line with a column path or image"),
    ],
)
def test_what_cannot_be_read_is_one_error(folder, text, reason):
    (folder / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_by_image(folder / "t.csv", ("label",))


def test_short_rows_are_filled_and_long_empty_ones_cut(folder):
    (folder / "t.csv").write_text("image,label\nx/a.png\ny/b.png,B,,,\n")
    rows = [cells for _, cells in read_table(folder / "t.csv").rows]
    assert rows == [{"image": "x/a.png", "label": ""}, {"image": "y/b.png", "label": "B"}]
    assert column_name(" Cell - Type ") == "cell_type"


def test_gaps_are_counted_and_named():
    with pytest.warns(TableWarning) as caught:
        tell_of_gaps({"a": "1", "c": "2", "b": None}, ["a", "b", "d"], "t.csv")
    assert str(caught[0].message) == (
        "t.csv names none for 2 of 3 images, first 'b' and names 1 that are not among the images, "
        "first 'c'"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_of_gaps({"a": "1"}, ["a"], "t.csv")


def test_boxes_are_read_alike(folder):
    text = "FileName;XMin;YMin;XMax;YMax;Class\nx\\a.png;1;2;9;8;monocyte\n"
    (folder / "boxes.csv").write_bytes(text.encode("utf-8-sig"))
    ((image_id, (box,)),) = [
        pair for pair in read_boxes(folder / "boxes.csv", folder).items() if pair[1]
    ]
    assert image_id == "x/a.png" and box.label == "monocyte"
    assert (box.left, box.top, box.right, box.bottom) == (1, 2, 9, 8)


def test_times_of_slides_are_read_alike(folder, model):
    (folder / "times.csv").write_text("Slide\tDate\nx\t2026-01-02\ny\t2026-01-01\n")
    for name in ("x", "y"):
        image = np.random.default_rng(0).integers(0, 256, (72, 72, 3), np.uint8)
        Image.fromarray(image).save(folder / name / "c.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for stray in (folder / "times.csv",):
            stray.rename(folder.parent / f"{folder.name}-times.csv")
        times = folder.parent / f"{folder.name}-times.csv"
        found = list(read_slides(model, folder, times=times))
    assert [slide.name for slide in found] == ["y", "x"]
