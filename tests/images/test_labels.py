"""Labels as people write them: columns, separators, names of images, several persons, conflicts."""

import numpy as np
import pytest

from wbcprof.analysis import compare_raters
from wbcprof.files import TableWarning
from wbcprof.images import read_labels
from wbcprof.images.source import File, ImageSource, Listed

IDS = ["a/1.png", "a/2.png", "b/3.png", "b/stack.tif#0000", "b/stack.tif#0001"]


@pytest.fixture
def images(tmp_path):
    units = [File(tmp_path / name, name) for name in IDS[:3]]
    units.append(File(tmp_path / "stack.tif", "b/stack.tif", range(2)))
    source = ImageSource(Listed(units), ["of the folder"] * 5, 1, "skip")
    assert source.ids() == IDS
    return source


def write(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "lines",
    [
        ["image,label", "a/1.png,basophil", "b/3.png,monocyte"],
        ["Image Path;Cell-Type;more", "C:\\scans\\a\\1.png;basophil;x", "3.png;monocyte;y"],
        ["filename\tClass", "1.png\tbasophil", "/data/b/3.png\tmonocyte"],
        ["file,type,how", "1.png,basophil,group", "2.png,,", "3.png,monocyte,single"],
        ["file,type", "1.png,basophil", "1.png,basophil", "2.png,n/a", "3.png,monocyte"],
    ],
    ids=["plain", "semicolons", "tabs", "some empty", "said twice"],
)
def test_what_people_have(images, tmp_path, lines):
    found = read_labels(write(tmp_path / "t.csv", *lines), images)
    assert found.labels == ["basophil", None, "monocyte", None, None]
    assert found.by_person == {"t": {"a/1.png": "basophil", "b/3.png": "monocyte"}}
    assert not found.conflicts and not found.strange
    assert found.describe() == ["2 of 5 images have a label: basophil 1, monocyte 1"]


def test_a_file_means_its_pages_but_those_named(images, tmp_path):
    table = write(
        tmp_path / "t.csv", "image,label", "stack.tif,basophil", "stack.tif#0001,monocyte"
    )
    assert read_labels(table, images).labels[3:] == ["basophil", "monocyte"]


def test_one_person_who_says_two_things(images, tmp_path):
    table = write(
        tmp_path / "t.csv", "image,label", "1.png,basophil", "a/1.png,monocyte", "2.png,b"
    )
    with pytest.warns(
        TableWarning, match="1 images are called differently, 1 of them stay without"
    ):
        found = read_labels(table, images)
    assert found.labels == [None, "b", None, None, None]
    assert found.conflicts == {"a/1.png": [("t", "basophil"), ("t", "monocyte")]}
    assert found.by_person == {"t": {"a/2.png": "b"}}
    assert found.describe()[1] == "called differently: 'a/1.png': basophil (t), monocyte (t)"


def test_names_that_are_no_images(images, tmp_path):
    table = write(tmp_path / "t.csv", "image,label", "1.png,basophil", "9.png,monocyte")
    with pytest.warns(
        TableWarning, match=r"1 names are no image's, first '9\.png', where .*a/1.png"
    ):
        found = read_labels(table, images)
    assert found.strange == ["9.png"] and found.labels[0] == "basophil"
    with pytest.raises(ValueError, match=r"none of its 1 rows names one, its first is '9\.png'"):
        read_labels(write(tmp_path / "u.csv", "image,label", "9.png,monocyte"), images)


def test_several_files_and_a_column_of_persons(images, tmp_path):
    ada = write(tmp_path / "Ada.csv", "image,label", "1.png,basophil", "2.png,monocyte")
    ben = write(tmp_path / "Ben.csv", "image,label", "1.png,basophil", "2.png,basophil", "3.png,x")
    with pytest.warns(TableWarning, match=r"first 'a/2.png': monocyte \(Ada\), basophil \(Ben\)"):
        apart = read_labels([ada, ben], images)
    assert apart.labels == ["basophil", None, "x", None, None]
    rows = "1.png,basophil,Ada 2.png,monocyte,Ada 1.png,basophil,Ben 2.png,basophil,Ben 3.png,x,Ben"
    table = write(tmp_path / "both.csv", "image,label,Rater", *rows.split())
    with pytest.warns(TableWarning):
        together = read_labels(table, images)
    assert together.labels == apart.labels and together.by_person == apart.by_person
    cy = write(tmp_path / "Cy.csv", "image,label", "2.png,monocyte")
    with pytest.warns(TableWarning, match="0 of them stay without"):
        assert read_labels([ada, ben, cy], images).labels[1] == "monocyte"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["image,colour", "1.png,red"], "a column label or type"),
        (["image,label", "1.png,"], "expected rows with an image and its label, got none"),
        (["image,label", "stack.tif#0000,a", "png,b"], None),
    ],
)
def test_tables_that_cannot_be_read(images, tmp_path, lines, said):
    table = write(tmp_path / "t.csv", *lines)
    if said is None:
        with pytest.warns(TableWarning):
            read_labels(table, images)
    else:
        with pytest.raises(ValueError, match=said):
            read_labels(table, images)


# ---- how far people agree ----


def test_kappas_of_textbooks():
    """Cohen's of scikit-learn; Fleiss' of his table of 1971, as it is reprinted."""
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 80)
    people = {p: np.where(rng.random(80) < 0.7, truth, rng.integers(0, 3, 80)) for p in "abc"}
    found = compare_raters({p: dict(enumerate(v.tolist())) for p, v in people.items()})
    for i, p in enumerate("abc"):
        for j, q in enumerate("abc"):
            assert found.cohen[i, j] == pytest.approx(cohen_kappa_score(people[p], people[q]))
    assert found.n_complete == 80 and (found.n_shared == 80).all()
    rows = """0 0 0 0 14;0 2 6 4 2;0 0 3 5 6;0 3 9 2 0;2 2 8 1 1;7 7 0 0 0;3 2 6 3 0;2 5 3 2 2;
        6 5 2 1 0;0 2 2 3 7"""
    votes = [list(map(int, row.split())) for row in rows.split(";")]
    said = [[t for t, k in enumerate(row) for _ in range(k)] for row in votes]
    table = compare_raters({f"r{r}": {n: row[r] for n, row in enumerate(said)} for r in range(14)})
    assert table.fleiss == pytest.approx(0.210, abs=5e-4)


def test_disagreements_are_listed_and_gaps_left_out():
    found = compare_raters({"Ada": {"1": "a", "2": "b", "3": None}, "Ben": {"2": "a", "3": "b"}})
    assert found.disagreements == {"2": {"Ada": "b", "Ben": "a"}}
    assert found.n_shared.tolist() == [[2, 1], [1, 2]] and found.n_complete == 1
    assert "Ada and Ben: 1 cells, Cohen's kappa 0.00" in found.to_text()


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="two people at least, got Ada"):
        compare_raters({"Ada": {"1": "a"}})
    with pytest.raises(ValueError, match="no two of Ada, Ben labelled a cell in common"):
        compare_raters({"Ada": {"1": "a"}, "Ben": {"2": "a"}})
    same = compare_raters({"Ada": {"1": "a"}, "Ben": {"1": "a"}})
    assert np.isnan(same.fleiss) and "not defined" in same.to_text()
