"""Tables of profiles: files and objects that give back what went in, and what others make of them.

pycytominer and scanpy are no part of the test extra: their tests run where they are installed.
"""

import csv
import errno
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wbcprof
from wbcprof.analysis.classify import rank_signatures
from wbcprof.files import TableWarning, csv_text, from_csv_text
from wbcprof.model.pooling import Pooling
from wbcprof.model.profiles import Profiles

SUFFIXES = (".csv", ".parquet", ".h5ad")
METADATA = {
    "step": 3, "tolerance": 1e-3, "inference": "feedforward", "sparse": False,
    "centres": [0.33, 0.61], "parent": None, "stack": [{"step": 1}], "json": "text",
}  # fmt: skip
FORMULAS = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "'=1",
    "''-",
    "'",
    "",
]
TEXTS = [
    *FORMULAS,
    "a",
    "a",
    "nan",
    "None",
    "NA",
    'b,"c"',
    "d\r\ne",
    "'f",
    "é🩸",
    " = ",
    "0",
]


@pytest.fixture
def profiles():
    """Every kind of float32, of text and of label."""
    names = Pooling(["sqrt", "max"], [1, 2], [0.33]).feature_names(2)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, (len(TEXTS), len(names)), dtype=np.uint32)
    # The last is the one float32 that its shortest decimal misses, read by way of a double.
    bits[0, :5] = 0, 1 << 31, 1, 0x7F7FFFFF, 0x15AE43FD
    values = bits.view(np.float32)
    values[~np.isfinite(values)] = 0.1
    labels = [None, *(text or None for text in TEXTS[1:])]  # empty text is no label
    return Profiles(values, names, TEXTS, labels, METADATA)


def assert_same(got: Profiles, expected: Profiles, metadata: bool = True) -> None:
    assert got.values.dtype == np.float32
    assert got.values.tobytes() == expected.values.tobytes()
    assert got.feature_names == expected.feature_names
    assert got.ids == expected.ids and got.labels == expected.labels
    assert got.metadata == (expected.metadata if metadata else {})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_give_back_every_bit(profiles, suffix, tmp_path):
    profiles.save(tmp_path / f"t{suffix}")
    assert_same(Profiles.load(tmp_path / f"t{suffix}"), profiles, metadata=suffix != ".csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("labels", [None, [None] * 3])
def test_labels_may_be_absent_or_all_unknown(labels, suffix, tmp_path):
    plain = Profiles(np.ones((3, 2), np.float32), ["Cells_A", "Cells_B"], ["x"] * 3, labels)
    plain.save(tmp_path / f"t{suffix}")
    assert_same(Profiles.load(tmp_path / f"t{suffix}"), plain)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables_of_no_cells(suffix, tmp_path):
    none = Profiles(np.ones((0, 2), np.float32), ["Cells_A", "Cells_B"], [], [])
    none.save(tmp_path / f"t{suffix}")
    assert_same(Profiles.load(tmp_path / f"t{suffix}"), none)


def test_objects_give_back_every_bit(profiles):
    assert_same(Profiles.from_pandas(profiles.to_pandas()), profiles)
    assert_same(Profiles.from_anndata(profiles.to_anndata()), profiles)


def test_objects_do_not_share_memory_with_the_profiles(profiles):
    before = profiles.values.copy()
    frame, data = profiles.to_pandas(), profiles.to_anndata()
    frame.iloc[:, 2:] = 7.0
    data.X[:] = 7.0
    frame.attrs["wbcprof"]["stack"][0]["step"] = 9
    assert profiles.values.tobytes() == before.tobytes() and METADATA["stack"] == [{"step": 1}]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_of_files_that_are_no_utf8_are_spelt_out(suffix, tmp_path):
    odd = Profiles(np.ones((1, 1), np.float32), ["Cells_A"], ["a\udcff.png"])
    odd.save(tmp_path / f"t{suffix}")
    assert Profiles.load(tmp_path / f"t{suffix}").ids == ["a\\udcff.png"]


def test_metadata_of_numpy_and_paths_are_written_as_json_holds_them(tmp_path):
    metadata = {"tolerance": np.float32(0.5), "of": tmp_path, "n": np.arange(2)}
    for suffix in (".parquet", ".h5ad"):
        plain = Profiles(np.ones((1, 1), np.float32), ["Cells_A"], ["a"], metadata=metadata)
        plain.save(tmp_path / f"t{suffix}")
        loaded = Profiles.load(tmp_path / f"t{suffix}")
        assert loaded.metadata == {"tolerance": 0.5, "of": str(tmp_path), "n": [0, 1]}


def test_profiles_of_a_model_go_through_every_table(model, cells, tmp_path):
    profiles = model.profile(cells.images[:6], labels=cells.labels[:6])
    for suffix in SUFFIXES:
        profiles.save(tmp_path / f"t{suffix}")
        assert_same(Profiles.load(tmp_path / f"t{suffix}"), profiles, metadata=suffix != ".csv")
    assert profiles.to_anndata().uns["wbcprof"]["wbcprof"] == wbcprof.__version__


# ---- CSV and spreadsheets ----


@given(st.text(alphabet="'=+-@\t\r\nax", max_size=6) | st.none())
def test_text_of_csv_is_no_formula_and_comes_back(text):
    cell = csv_text(text)
    assert not cell or cell[0] not in "=+-@\t\r\n"
    assert from_csv_text(cell) == text


def test_no_cell_of_a_csv_table_is_a_formula(profiles, tmp_path):
    profiles.feature_names = [f"=HYPERLINK(A{i})" for i in range(1, 25)]  # of the user's own
    profiles.save(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as stream:
        header, *rows = list(csv.reader(stream))
    assert header[2] == "'=HYPERLINK(A1)"
    for row in rows:
        assert not any(cell[:1] in set("=+-@\t\r\n\uff1d") for cell in row[:2])
    assert [row[0] for row in rows][:4] == ["'=1+1", "'+1", "'-1", "'@SUM(A1)"]
    assert_same(Profiles.load(tmp_path / "t.csv"), profiles, metadata=False)


def test_csv_has_the_shortest_decimals(tmp_path):
    Profiles(np.float32([[0.1, 1e-05]]), ["A", "B"], ["x"]).save(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "x,0.1,1e-05"


def test_csv_that_others_wrote_is_read(profiles, tmp_path):
    pytest.importorskip("pandas")
    profiles.ids = [f"cell {i}" for i in range(len(profiles))]
    profiles.labels = [["'s", "a", None][i % 3] for i in range(len(profiles))]
    frame = profiles.to_pandas().assign(Metadata_Plate="p1")
    frame.to_csv(tmp_path / "t.csv", index=False, encoding="utf-8-sig")
    with open(tmp_path / "t.csv", "a") as stream:
        stream.write("\n")
    loaded = Profiles.load(tmp_path / "t.csv")
    assert (loaded.ids, loaded.labels) == (profiles.ids, profiles.labels)
    assert loaded.feature_names == profiles.feature_names
    np.testing.assert_allclose(loaded.values, profiles.values, rtol=1e-6)


# ---- what is no table, one clear error ----


def complaint(path) -> str:
    with pytest.raises(ValueError) as caught:
        Profiles.load(path)
    assert str(path) in str(caught.value) and "no usable table of profiles" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a column Metadata_ImageId .* got no columns"),
        ("a,b\n1,2\n", "expected a column Metadata_ImageId .* got 'a', 'b'"),
        ("Metadata_ImageId,A\nx,1\ny,?\n", "line 3: could not convert string to float: '\\?'"),
        ("Metadata_ImageId,A\nx,\n", "line 2: could not convert"),
        ("Metadata_ImageId,A\nx,1,2\n", "expected 2 cells in line 2, got 3"),
        ("Metadata_ImageId,A,A\nx,1,2\n", "expected columns of different names, got 'A' twice"),
        ("Metadata_ImageId,A\nx,1\ny,nan\n", "NaN or infinity in 1 of 2, first in that of 'y'"),
        ("Metadata_ImageId\nx\n", "expected float features, one name for each, got 0"),
        ("Metadata_ImageId,A\n,1\n", "expected ids as text, got None"),
        ("Metadata_ImageId,A\n\x81,\xff\n", "neither UTF-8"),
    ],
)
def test_foreign_csv(text, reason, tmp_path):
    import re

    (tmp_path / "t.csv").write_bytes(text.encode("latin-1"))
    assert re.search(reason, complaint(tmp_path / "t.csv"))


def test_foreign_frames_and_parquet(profiles, tmp_path):
    pd = pytest.importorskip("pandas")
    frame = profiles.to_pandas()
    own = pd.DataFrame({"Metadata_ImageId": ["a", "b"], "Edge": [0.5, 0.25]})
    wrong = {
        "expected a column Metadata_ImageId": frame.drop(columns="Metadata_ImageId"),
        "expected float features, one name": frame.iloc[:, :2],
        r"expected float features, got Note \(.*; call metadata Metadata_": own.assign(Note="x"),
        r"expected float features, got N \(int64\)": own.assign(N=1),
        "NaN or infinity in 2 of 2": own.assign(X=np.nan),
        "expected ids as text": frame.assign(Metadata_ImageId=None),
    }
    for reason, table in wrong.items():
        with pytest.raises(ValueError, match=reason):
            Profiles.from_pandas(table)
        table.to_parquet(tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=reason):
            Profiles.load(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="different names, got 'Metadata_Label' twice"):
        Profiles.from_pandas(pd.concat([frame, frame[["Metadata_Label"]]], axis=1))


def through(table, suffix, tmp_path):
    """Profiles of a frame that pandas has written, and what was warned of."""
    path = tmp_path / f"t{suffix}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if suffix == ".csv":
            table.to_csv(path)  # with its index, as people do
        elif suffix == ".parquet":
            table.to_parquet(path)
        found = Profiles.from_pandas(table) if suffix == "" else Profiles.load(path)
    return found, [str(w.message) for w in caught if w.category is TableWarning]


@pytest.mark.parametrize("suffix", ["", ".csv", ".parquet"])
def test_only_features_are_features(profiles, suffix, tmp_path):
    """Rows' numbers, age and patient are none, whatever made the table; numbers are named once."""
    pytest.importorskip("pyarrow")
    profiles.ids = [f"cell {i}" for i in range(len(profiles))]
    profiles.labels = [["'s", "a", None][i % 3] for i in range(len(profiles))]
    frame = profiles.to_pandas()
    got, said = through(frame, suffix, tmp_path)
    assert got.feature_names == profiles.feature_names and not said
    frame = frame.assign(age=np.linspace(20, 80, len(frame)), patient=7, ward="B", male=True)
    frame.insert(0, "Unnamed: 0", range(len(frame)))
    got, said = through(frame, suffix, tmp_path)
    assert got.feature_names == profiles.feature_names and got.labels == profiles.labels
    np.testing.assert_allclose(got.values, profiles.values, rtol=1e-6)
    numbers = "age, patient" if suffix == ".csv" else "age, patient, male"
    assert len(said) == 1 and f"taken for metadata: {numbers};" in said[0]


@pytest.mark.parametrize("suffix", ["", ".csv", ".parquet"])
def test_features_of_others_are_those_of_compartments(suffix, tmp_path):
    pd = pytest.importorskip("pandas")
    names = ["Cells_Area", "Cytoplasm_Area", "Nuclei_Count"]
    table = pd.DataFrame({"Metadata_ImageId": ["a", "b"], "age": [50.0, 60.0],
                          "Cells_Area": [1.5, 2.5], "Cytoplasm_Area": [0.5, 0.25],
                          "Nuclei_Count": [1, 2]})  # fmt: skip
    got, said = through(table, suffix, tmp_path)
    assert got.feature_names == names and got.values.tolist() == [[1.5, 0.5, 1], [2.5, 0.25, 2]]
    assert len(said) == 1 and "taken for metadata: age;" in said[0]


@pytest.mark.parametrize("index", ["", "Unnamed: 0", "Unnamed: 12", "index", "level_0"])
def test_numbers_of_rows_are_never_features(index, tmp_path):
    (tmp_path / "t.csv").write_text(f"{index},Metadata_ImageId,Edge,Granule\n0,a,.5,1\n1,b,.2,2\n")
    got = Profiles.load(tmp_path / "t.csv")
    assert got.feature_names == ["Edge", "Granule"]
    named = Profiles(np.ones((1, 1), np.float32), [index], ["a"])
    with pytest.raises(ValueError, match="or numbers of rows"):
        named.save(tmp_path / "u.csv")


@pytest.mark.parametrize("delimiter", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv_of_spreadsheets(delimiter, encoding, tmp_path):
    text = "Metadata_ImageId,Metadata_Label,Edge\nä.png,x,0.5\n".replace(",", delimiter)
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    got = Profiles.load(tmp_path / "t.csv")
    assert (got.ids, got.labels, got.values.tolist()) == (["ä.png"], ["x"], [[0.5]])


def test_frames_of_others_are_read_where_they_can_be(profiles):
    frame = profiles.to_pandas().astype({name: float for name in profiles.feature_names})
    frame = frame.assign(Metadata_Plate="p1", Metadata_ImageId=range(len(frame)))
    frame["Metadata_Label"] = frame["Metadata_Label"].astype("category")
    got = Profiles.from_pandas(frame.set_index(np.zeros(len(frame))))
    assert got.ids == [str(i) for i in range(len(frame))] and got.labels == profiles.labels
    assert got.values.tobytes() == profiles.values.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_and_missing_files(profiles, suffix, tmp_path):
    path = tmp_path / f"t{suffix}"
    with pytest.raises(FileNotFoundError):
        Profiles.load(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    complaint(path)
    profiles.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    complaint(path)


def test_hdf5_that_is_no_anndata(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "t.h5ad", "w") as file:
        file["images"] = np.zeros(3)
    complaint(tmp_path / "t.h5ad")


def test_h5ad_of_an_unknown_encoding(profiles, tmp_path):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("anndata")
    path = tmp_path / "t.h5ad"
    profiles.save(path)
    with h5py.File(path, "a") as file:
        file["X"].attrs["encoding-type"] = "foreign"
    assert "foreign" in complaint(path)


def test_every_damaged_byte_of_parquet_is_one_error_or_none(profiles, tmp_path):
    """Arrow says of some that they are valid."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    profiles.save(path)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole) - 600, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            Profiles.load(path)
        except ValueError as error:
            assert "no usable table of profiles" in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, LookupError])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whatever_a_library_raises_is_the_one_error(profiles, suffix, kind, tmp_path, monkeypatch):
    path = tmp_path / f"t{suffix}"
    profiles.save(path)

    def fails(path):
        raise kind("broken")

    monkeypatch.setattr(Profiles, f"_read_{suffix[1:]}", fails)
    assert complaint(path).endswith("broken")


def test_trouble_of_the_system_is_no_fault_of_the_table(profiles, tmp_path, monkeypatch):
    profiles.save(tmp_path / "t.csv")

    def fails(path):
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(Profiles, "_read_csv", fails)
    with pytest.raises(OSError, match="too many open files"):
        Profiles.load(tmp_path / "t.csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_no_table_can_hold_is_not_written(suffix, tmp_path):
    good = {"values": np.ones((2, 2), np.float32), "feature_names": ["A", "B"], "ids": ["x", "y"]}
    wrong = [
        ({"values": np.float32([[1, 2], [3, np.nan]])}, "NaN or infinity in 1 of 2, .* of 'y'"),
        ({"values": np.ones((2, 2))}, "float32, got float64"),
        ({"feature_names": ["A", "A"]}, "different names, got 'A' twice"),
        ({"feature_names": ["A"]}, "got 2 features and 1 names"),
        ({"feature_names": ["A", "Metadata_B"]}, "not called as metadata .*, got 'Metadata_B'"),
        ({"ids": ["x"]}, r"Length of ids \(1\) must match number of profiles \(2\)"),
        ({"labels": ["x"]}, r"Length of labels \(1\) must match"),
        ({"labels": ["x", 3]}, "expected labels as text, got 3"),
    ]
    for fields, reason in wrong:
        with pytest.raises(ValueError, match=reason):
            Profiles(**good | fields).save(tmp_path / f"t{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("suffix", "extra", "package"),
    [(".parquet", "tables", "pyarrow"), (".h5ad", "h5ad", "anndata")],
)
def test_a_missing_package_is_named_with_its_extra(suffix, extra, package, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "wbcprof.model.profiles.find_spec", lambda name: None if name == package else 1
    )
    plain = Profiles(np.ones((1, 1), np.float32), ["A"], ["x"])
    reason = rf"{suffix} needs .*{package}: pip install 'wbcprof\[{extra}\]'"
    for use in (plain.save, Profiles.load):
        with pytest.raises(ImportError, match=reason):
            use(tmp_path / f"t{suffix}")


# ---- shards ----


def test_a_folder_of_shards_is_one_table(profiles, tmp_path):
    bounds = [(0, 0), (0, 9), (9, len(TEXTS))]
    for i, (start, stop) in enumerate(bounds):
        part = slice(start, stop)
        Profiles(
            profiles.values[part],
            profiles.feature_names,
            TEXTS[part],
            profiles.labels[part],
            METADATA,
        ).save(tmp_path / f"part-{i:06d}.parquet")
    assert_same(Profiles.load(tmp_path), profiles)


def test_shards_without_labels_among_others(tmp_path):
    for i, labels in enumerate([None, ["x"]]):
        Profiles(np.ones((1, 1), np.float32), ["A"], [str(i)], labels).save(
            tmp_path / f"part-{i}.parquet"
        )
    loaded = Profiles.load(tmp_path)
    assert (loaded.ids, loaded.labels) == (["0", "1"], [None, "x"])


def test_shards_of_different_models_do_not_go_together(tmp_path):
    with pytest.raises(ValueError, match=r"holds no profiles part-\*\.parquet"):
        Profiles.load(tmp_path)
    one = np.ones((1, 1), np.float32)
    Profiles(one, ["A"], ["x"]).save(tmp_path / "part-0.parquet")
    for other, what in ((["B"], "feature_names"), (["A"], "metadata")):
        Profiles(one, other, ["y"], metadata={"step": 3}).save(tmp_path / "part-1.parquet")
        with pytest.raises(ValueError, match=rf"part-1\.parquet' has other {what} than 'part-0"):
            Profiles.load(tmp_path)


def test_parquet_has_text_float32_and_json(profiles, tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    unknown = Profiles(profiles.values, profiles.feature_names, TEXTS, [None] * 23, METADATA)
    unknown.save(tmp_path / "t.parquet")
    schema = parquet.read_schema(tmp_path / "t.parquet")
    assert schema.types == [pa.string()] * 2 + [pa.float32()] * len(profiles.feature_names)
    assert json.loads(schema.metadata[b"wbcprof"]) == METADATA


# ---- AnnData ----


def test_anndata_describes_cells_and_features(profiles):
    pytest.importorskip("anndata")
    data = profiles.to_anndata()
    assert data.X.dtype == np.float32 and data.var_names.tolist() == profiles.feature_names
    assert data.var["pool"].tolist() == ["sqrt"] * 12 + ["max"] * 12
    assert data.var["signature"].tolist() == [1, 2] * 12
    assert data.var["region"].tolist()[:4] == ["", "", "L2R0C0", "L2R0C0"]
    assert data.var["region"].tolist()[10:12] == ["Centre33"] * 2
    assert "rank" not in data.var
    assert data.uns["wbcprof"]["step"] == 3


def test_ids_that_repeat_have_an_index_of_their_own(profiles):
    pytest.importorskip("anndata")
    ids = ["x", "y", "x", "x"]
    data = Profiles(np.ones((4, 1), np.float32), ["A"], ids).to_anndata()
    assert data.obs_names.tolist() == ["x", "y", "x-1", "x-2"]
    assert data.obs["Metadata_ImageId"].tolist() == ids
    assert profiles.to_anndata().obs_names.is_unique


def test_anndata_of_other_features_and_of_others():
    pd = pytest.importorskip("pandas")
    anndata = pytest.importorskip("anndata")
    plain = Profiles(
        np.ones((2, 2), np.float32), ["Cells_Area", "Cells_Mean_Signature_0001"], ["x", "y"]
    )
    assert plain.to_anndata().var.columns.empty
    foreign = anndata.AnnData(np.ones((2, 1)), pd.DataFrame(index=["p", "q"]))
    assert Profiles.from_anndata(foreign).ids == ["p", "q"]


def test_ranks_are_in_the_order_given_and_only_if_asked_for(model, cells):
    pytest.importorskip("anndata")
    profiles = model.profile(cells.images, labels=cells.labels)
    order, _ = rank_signatures(profiles, cells.labels)
    data = profiles.to_anndata(order)
    numbers = data.var["signature"] - 1
    assert all(order[rank - 1] == number for rank, number in zip(data.var["rank"], numbers))
    assert_same(Profiles.from_anndata(data), profiles)


def test_ranks_that_cannot_be(profiles):
    pytest.importorskip("anndata")
    with pytest.raises(ValueError, match="order must hold each of the 2 signatures once"):
        profiles.to_anndata(order=[0] * 24)


# ---- the packages that read them ----


def test_pycytominer_normalises_and_selects_as_they_are(model, cells, tmp_path):
    pycytominer = pytest.importorskip("pycytominer")
    profiles = model.profile(cells.images, labels=cells.labels)
    profiles.save(tmp_path / "t.parquet")
    for table in (profiles.to_pandas(), str(tmp_path / "t.parquet")):
        normalised = pycytominer.normalize(table)
        assert normalised.columns.tolist()[:2] == ["Metadata_ImageId", "Metadata_Label"]
        got = Profiles.from_pandas(normalised)
        assert (got.ids, got.labels) == (profiles.ids, profiles.labels)
        expected = profiles.values.astype(float)
        expected = (expected - expected.mean(axis=0)) / expected.std(axis=0)
        np.testing.assert_allclose(got.values, expected, rtol=0, atol=1e-3)
        selected = pycytominer.feature_select(
            normalised, operation=["variance_threshold", "correlation_threshold"]
        )
        names = Profiles.from_pandas(selected).feature_names
        assert 0 < len(names) <= len(profiles.feature_names)
        assert set(names) <= set(profiles.feature_names)


def test_scanpy_embeds_as_they_are(model, cells, tmp_path):
    scanpy = pytest.importorskip("scanpy")
    profiles = model.profile(cells.images, labels=cells.labels)
    profiles.save(tmp_path / "t.h5ad")
    data = scanpy.read_h5ad(tmp_path / "t.h5ad")
    scanpy.pp.pca(data, n_comps=5)
    scanpy.pp.neighbors(data, n_neighbors=5)
    scanpy.tl.umap(data)
    assert (
        data.obsm["X_umap"].shape == (len(profiles), 2) and np.isfinite(data.obsm["X_umap"]).all()
    )
    data.write_h5ad(tmp_path / "after.h5ad")
    assert_same(Profiles.load(tmp_path / "after.h5ad"), profiles)


def test_text_with_nul_is_refused_by_name_where_the_format_cannot_hold_it(tmp_path, profiles):
    pytest.importorskip("anndata")
    named = replace(profiles, ids=["a\0b", *profiles.ids[1:]])
    with pytest.raises(ValueError, match=r"holds no text with NUL, got 'a\\x00b' as Metadata_Im"):
        named.save(tmp_path / "t.h5ad")
    assert not list(tmp_path.iterdir())


def test_arrays_of_names_are_lists(profiles, tmp_path):
    made = Profiles(
        profiles.values, np.array(profiles.feature_names), np.array(profiles.ids), np.array(["a"])
    )
    assert made.labels == ["a"] and isinstance(made.ids, list)
    assert "a" in repr(made)


def test_a_part_of_profiles_shares_nothing_that_may_be_changed(profiles):
    part = profiles.at([0])
    part.metadata["x"] = 1
    part.feature_names[0] = "other"
    assert "x" not in profiles.metadata and profiles.feature_names[0] != "other"
    with pytest.raises(ValueError, match="rows must not be masked"):
        profiles.at(
            np.ma.masked_array([True] * len(profiles), [True] + [False] * (len(profiles) - 1))
        )
