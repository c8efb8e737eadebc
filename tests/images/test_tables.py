"""Tables of people: delimiters, encodings, names of columns, gaps and contradictions."""

import warnings
from datetime import date
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from PIL import Image

from wbcprof import Profiles
from wbcprof.analysis.slides import read_slides
from wbcprof.files import TableWarning
from wbcprof.images import open_fields, open_images, read_boxes, read_groups
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


def workbook(path, *sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_workbooks_are_read_as_text(folder):
    rows = [["Image", "cell type", "patient", "date"], [], ["x/a.png", 3.0, 7, date(2024, 5, 1)],
            ["y/b.png", "#N/A", 0.5, True]]  # fmt: skip
    path = workbook(folder / "t.xlsx", rows)
    source = open_images(path)
    assert source.ids() == IDS and source.labels == ["3", None]
    assert read_groups("column:patient", path) == dict(zip(IDS, ["7", "0.5"], strict=True))
    table = read_table(path)
    assert [line for line, _ in table.rows] == [3, 4]
    assert table.rows[0][1]["date"].startswith("2024-05-01")
    path = workbook(folder / "two.xlsx", rows, [["notes"]])
    with pytest.warns(TableWarning, match="has 2 sheets, of which the first, 'Sheet', is read"):
        read_table(path)


def test_what_is_no_workbook_is_one_error(folder, monkeypatch):
    path = workbook(folder / "t.xlsx", [["image", "label"], ["x/a.png", "A"]])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"t.xlsx' is not a readable workbook: "):
        read_table(path)
    first = whole.rindex(b"xl/workbook.xml", 0, whole.rindex(b"PK\1\2"))
    path.write_bytes(whole[:first] + b"\0" * 900 + whole[first:])
    with pytest.raises(ValueError, match=r"t.xlsx' is not a readable workbook: .{1,400}\Z"):
        read_table(path)
    path.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99))
    with pytest.raises(ValueError, match=r"a workbook of old, .xls; save it as .xlsx or CSV"):
        read_table(path)
    path.write_bytes(whole)
    monkeypatch.setattr("wbcprof.files._LARGEST_WORKBOOK", 100)
    with pytest.raises(ValueError, match=r"it unpacks to .* bytes, more than 100"):
        read_table(path)
    monkeypatch.setattr("wbcprof.files.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'wbcprof\[xlsx\]'"):
        read_table(path)


ROW = b'<row r="%d"><c r="%s%d" t="inlineStr"><is><t>%s</t></is></c></row>'


@pytest.mark.parametrize(
    "rows, reason",
    [
        (ROW % (300_000_000, b"A", 300_000_000, b"a"), "has more than 1048576 lines; save it as"),
        (b"".join(ROW % (i, b"ZZZ", i, b"a") for i in range(2, 500)), "has more than 8388608 cell"),
        (ROW % (3, b"ZZZ", 3, b"a") + b"".join(ROW % (i, b"A", i, b"a") for i in range(4, 500)),
         "has more than 8388608 cells; save it as CSV"),
        (b"<row/>" * 3_000_000, r"unpacks from \d+ to 18\d+ bytes, expected 100 times as many"),
        (ROW % (3, b"A", 3, bytes(range(65, 91)) * 1600),
         "a cell has 41600 characters, .* 32767 at most"),
    ],
    ids=["gap", "wide", "one_wide", "packed", "long"],
)  # fmt: skip
def test_small_workbooks_of_very_many_cells_are_refused(folder, rows, reason):
    """One of 5 kB, whose second row has number 300,000,000, took more than 25 s."""
    path, bad = workbook(folder / "t.xlsx", [["image"], ["x/a.png"]]), folder / "bad.xlsx"
    with ZipFile(path) as whole, ZipFile(bad, "w", ZIP_DEFLATED) as edited:
        for part in whole.namelist():
            content = whole.read(part)
            if part.endswith("sheet1.xml"):
                content = content.replace(b"</sheetData>", rows + b"</sheetData>")
            edited.writestr(part, content)
    with pytest.raises(ValueError, match=f"bad.xlsx' is not a readable workbook: .*{reason}"):
        read_table(bad)


def test_cells_that_a_sheet_only_says_it_has_are_no_cells(folder):
    path = workbook(folder / "t.xlsx", [["image", "label", None], ["x/a.png"], ["y/b.png", "B"]])
    assert open_images(path).labels == [None, "B"]


@pytest.mark.parametrize(
    "names",
    [("{root}/x/a.png", "{root}/y/b.png"), ("a.png", "b.png"), ("C:\\cells\\x\\a.png", "y\\b.png"),
     ("train/x/a.png", "./b.png")],
)  # fmt: skip
def test_images_are_found_by_more_or_less_of_their_paths(folder, names):
    table = folder / "t.csv"
    rows = [name.format(root=folder) + f",{i}\n" for i, name in enumerate(names)]
    table.write_text("".join(["image,slide\n", *rows, "other/a.png,9\n"]))
    assert read_groups(table, folder) == dict(zip(IDS, "01", strict=True))
    assert read_by_image(table, ("slide",), IDS)["other/a.png"] == "9"
    fields = open_fields(folder, slides=table)
    assert {field.slide for field in fields} == {"0", "1"}


def test_a_name_that_may_mean_two_images_is_an_error_with_its_line(folder):
    table = folder / "t.csv"
    table.write_text("image,patient\nx/a.png,1\na.png,2\n")
    with pytest.raises(ValueError, match=r"t.csv', line 3: 'a.png' may be the image 'x/a.png' or"):
        read_by_image(table, ("patient",), [*IDS, "z/a.png"])
    with pytest.raises(ValueError, match=r"line 3: 'x/a.png' is of patient '2' here and of '1' in"):
        read_by_image(table, ("patient",), IDS)
    table.write_text("image,patient\na.png,1\nx/a.png,2\n")
    assert read_by_image(table, ("patient",), ["a.png", *IDS]) == {"a.png": "1", "x/a.png": "2"}


def test_rows_that_repeat_others_are_counted(folder):
    table = folder / "t.csv"
    table.write_text("image,label\nx/a.png,A\ny/b.png,B\nx/a.png,A\nx/a.png,A\n")
    with pytest.warns(TableWarning, match="2 of 4 rows say again what is said above, first line 4"):
        read_by_image(table, ("label",))
    with pytest.warns(TableWarning, match="2 of 4 rows name an image again, which is taken again"):
        assert len(open_images(table).ids()) == 4


def test_decimal_commas_are_numbers(folder):
    table = folder / "boxes.csv"
    table.write_text("image;x;y;width;height\na.png;1,5;2;10,25;8\n")
    (box,) = read_boxes(table, folder)["x/a.png"]
    assert (box.left, box.top, box.right, box.bottom) == (1.5, 2, 11.75, 10)
    table.write_text("image;x;y;width;height\na.png;1,500;2;10;8\n")
    with pytest.raises(ValueError, match=r"line 2: .*'1,500', whose comma may part thousands"):
        read_boxes(table, folder)
    table.write_text("Metadata_ImageId;A;B;Metadata_Age\na;0,5;1,250;63,5\nb;3;-1,5e-3;4\n")
    profiles = Profiles.load(table)
    np.testing.assert_array_equal(profiles.values, np.float32([[0.5, 1.25], [3, -0.0015]]))
    table.write_text('Metadata_ImageId,A\na,"1,250"\n')
    with pytest.raises(ValueError, match=r"line 2: '1,250', whose comma may part thousands"):
        Profiles.load(table)


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


@pytest.mark.parametrize("row", ['"x/a.png,A', '"x/a.png"b,A', 'x/a.png,"A'])
def test_an_unbalanced_quote_swallows_nothing(folder, row):
    table = folder / "t.csv"
    table.write_text(f"image,label\n{row}\ny/b.png,B\n")
    with pytest.raises(ValueError, match=r"t.csv' is not a readable CSV file"):
        read_table(table)


def test_respelt_paths_are_one_image(folder):
    text = "image,label\nx/a.png,A\n./x/a.png,\nx/../x//a.png,A\n"
    with pytest.warns(TableWarning, match="2 of 3 rows name an image again.*first line 3"):
        assert labels_of(folder, text) == {"x/a.png": "A"}
    with pytest.raises(ValueError, match=r"line 3: 'x/a.png' is labelled 'B' here and 'A' in line"):
        labels_of(folder, f"image,label\nx/a.png,A\n{folder / 'x' / 'a.png'},B\n".replace(
            f"{folder}/x", "y/../x"))  # fmt: skip


def test_a_path_behind_a_link_is_of_its_own_file(folder):
    (folder / "far" / "sub").mkdir(parents=True)
    (folder / "far" / "b.png").write_bytes(b"another")
    (folder / "b.png").write_bytes(b"one")
    try:
        (folder / "link").symlink_to(folder / "far" / "sub", target_is_directory=True)
    except OSError:
        pytest.skip("needs symbolic links")
    own = {"link/../b.png": "A", "b.png": "B"}
    assert labels_of(folder, "image,label\nlink/../b.png,A\nb.png,B\n") == own


@pytest.mark.parametrize("unknown", ["NA", "nan", "None", "#N/A", "?", "", "<NA>", "unlabelled"])
def test_labels_that_say_that_they_are_unknown_are(folder, unknown):
    text = f"image,label\nx/a.png,{unknown}\ny/b.png,B\n"
    assert labels_of(folder, text) == {"x/a.png": None, "y/b.png": "B"}
    assert read_by_image(folder / "t.csv", ("label",)) == {"y/b.png": "B"}
    pandas = pytest.importorskip("pandas")
    paths = [str(folder / image_id) for image_id in IDS]
    frame = pandas.DataFrame({"path": paths, "label": [unknown, "B"]})
    assert open_images(frame).labels == [None, "B"]


def test_cells_that_are_guarded_are_read_as_written(folder):
    assert labels_of(folder, "image,label\nx/a.png,'-a\ny/b.png,-a\n") == {
        "x/a.png": "-a", "y/b.png": "-a",
    }  # fmt: skip


def test_frames_are_read_as_tables_are(folder):
    pandas = pytest.importorskip("pandas")
    paths = [str(folder / image_id) for image_id in IDS]
    for name in ("Cell Type", "cell-type", "Metadata.Label"):
        frame = pandas.DataFrame({"n": [1, 2], "File Name": paths, name: ["A", None]})
        assert open_images(frame).labels == ["A", None]
    twice = pandas.DataFrame({"path": [paths[0]] * 2, "label": ["A", "A"]})
    with pytest.warns(TableWarning, match="the DataFrame: 1 of 2 rows name an image again"):
        assert open_images(twice).labels == ["A", "A"]
    with pytest.raises(ValueError, match=r"row 1: '.*' is labelled 'B' here and 'A' in row 0"):
        open_images(twice.assign(label=["A", "B"]))


@pytest.mark.parametrize("header", ["path,Path,label", "image,label,Label"])
def test_two_columns_of_one_name_are_refused(folder, header):
    pandas = pytest.importorskip("pandas")
    row = [str(folder / "x/a.png") if "path" in name.lower() or name == "image" else "A"
           for name in header.split(",")]  # fmt: skip
    with pytest.raises(ValueError, match=r"t\.csv': expected one column (path|label), got two"):
        labels_of(folder, f"{header}\n{','.join(row)}\n")
    with pytest.raises(ValueError, match=r"expected one column (path|label), got two"):
        open_images(pandas.DataFrame([row], columns=header.split(",")))
