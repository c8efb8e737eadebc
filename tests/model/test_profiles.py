"""The table of profiles."""

import csv

import numpy as np
import pytest

from wbcprof.model.pooling import Pooling
from wbcprof.model.profiles import Profiles


@pytest.fixture
def profiles():
    values = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    return Profiles(values, Pooling().feature_names(4), ["a", "b", "c"], ["x", None, "y"])


def test_feature_names_follow_the_layout():
    names = Pooling(["mean", "max"], [1, 2]).feature_names(2)
    assert len(names) == len(set(names)) == 2 * 2 * 5
    assert names[:3] == [
        "Cells_Mean_Signature_0001",
        "Cells_Mean_Signature_0002",
        "Cells_Mean_Signature_0001_L2R0C0",
    ]
    assert names[-1] == "Cells_Max_Signature_0002_L2R1C1"


def test_asarray_gives_the_values(profiles):
    assert np.asarray(profiles) is profiles.values or np.shares_memory(
        np.asarray(profiles), profiles.values
    )
    assert np.asarray(profiles, dtype=np.float64).dtype == np.float64
    assert len(profiles) == 3


def test_csv_gives_back_the_same_numbers(profiles, tmp_path):
    profiles.save(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["Metadata_ImageId", "Metadata_Label", *profiles.feature_names]
    assert [row[:2] for row in rows[1:]] == [["a", "x"], ["b", ""], ["c", "y"]]
    values = np.array([row[2:] for row in rows[1:]], dtype=np.float32)
    np.testing.assert_array_equal(values, profiles.values)


def test_parquet_of_kilobytes_and_very_many_rows_is_refused(tmp_path, monkeypatch):
    """One of 624 kB, of 20 million equal rows, took 3.3 GB."""
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr("wbcprof.model.profiles._SMALL_TABLE", 1 << 20)
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(90_000, np.int32)), ["a"])
    table = pa.table({"Metadata_ImageId": texts, "Edge": np.zeros(90_000, np.float32)})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"90000 rows of 2 columns take about 6480000 bytes, exp"):
        Profiles.load(tmp_path / "t.parquet")


def test_parquet_gives_back_the_same_table(profiles, tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    profiles.save(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), profiles.to_pandas())


def test_other_suffixes_are_refused_before_anything_is_written(profiles, tmp_path):
    with pytest.raises(ValueError, match=r"saved as .csv, .parquet or .h5ad, got .*t\.xlsx"):
        profiles.save(tmp_path / "t.xlsx")
    assert not list(tmp_path.iterdir())
