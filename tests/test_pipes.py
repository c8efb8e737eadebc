"""Pipes under the names of files: whoever reads one without a writer waits for ever."""

import os
import signal

import numpy as np
import pytest

import wbcprof
from wbcprof.analysis import Monitor
from wbcprof.images import open_images, read_groups
from wbcprof.images.boxes import read_boxes
from wbcprof.images.tables import read_table

READERS = [
    ("t.csv", wbcprof.Profiles.load),
    ("t.parquet", wbcprof.Profiles.load),
    ("t.h5ad", wbcprof.Profiles.load),
    ("m.wbcprof", wbcprof.load),
    ("state.json", lambda path: Monitor.load(path, wbcprof.Model([]))),
    ("a.npy", open_images),
    ("images.csv", open_images),
    ("people.csv", read_table),
    ("groups.csv", lambda path: read_groups(path, [np.zeros((9, 9, 3), np.uint8)])),
    ("boxes.csv", lambda path: read_boxes(path, [np.zeros((9, 9, 3), np.uint8)])),
    ("boxes.json", lambda path: read_boxes(path, [np.zeros((9, 9, 3), np.uint8)])),
    ("boxes.xml", lambda path: read_boxes(path, [np.zeros((9, 9, 3), np.uint8)])),
    ("state", lambda path: wbcprof.PSD(2, checkpoint=path, random_state=0).fit(np.eye(9))),
]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize(("name", "read"), READERS, ids=[name for name, _ in READERS])
def test_a_pipe_is_refused(name, read, tmp_path):
    os.mkfifo(tmp_path / name)

    def waited(number, frame):
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(5)
    try:
        with pytest.raises((ValueError, FileNotFoundError), match=r"regular file|no model file"):
            read(tmp_path / name)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
