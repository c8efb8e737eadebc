"""How many threads: what is asked for, the affinity mask, the CPU quota of a container."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wbcprof import threads
from wbcprof.threads import _available_cpus, _cpu_quotas, resolve_threads

MOUNT = "31 23 0:28 {top} {point} rw,relatime shared:9 - {kind} {kind} rw,{options}\n"
V1_GROUPS = "9:name=systemd:/\n4:memory:/box\n3:cpuset:/box\n2:cpu,cpuacct:{path}\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A function that writes files below a fake root and says how many CPUs that gives, of 64."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def cpus(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        _cpu_quotas.cache_clear()
        return _available_cpus(tmp_path)

    return cpus


def v2(path, limits):
    """Files of a system with version 2; `limits` are cpu.max per folder below the mount."""
    folder = "sys/fs/cgroup"
    files = {f"{folder}{name}/cpu.max".replace("//", "/"): text for name, text in limits.items()}
    return {"proc/self/cgroup": f"0::{path}\n"} | files


def v1(path, limits, folder="sys/fs/cgroup/cpu"):
    """Files of a system with version 1; `limits` are (quota, period) per folder below the mount."""
    files = {"proc/self/cgroup": V1_GROUPS.format(path=path)}
    for name, values in limits.items():
        for what, value in zip(("quota", "period"), values, strict=True):
            files[f"{folder}{name}/cpu.cfs_{what}_us".replace("//", "/")] = f"{value}\n"
    return files


@pytest.mark.parametrize(
    "text, expected",
    [
        ("200000 100000\n", 2),
        ("50000 100000\n", 1),
        ("250000 100000\n", 3),
        ("1000 100000\n", 1),
        ("6400001 100000\n", 64),
        ("max 100000\n", 64),
    ],
)
def test_quota_of_version_2_rounded_up_and_within_the_affinity_mask(system, text, expected):
    assert system(v2("/", {"/": text})) == expected


def test_smallest_quota_of_version_2_from_the_group_up_to_the_mount(system):
    limits = {
        "/a/b/c": "max 100000\n",
        "/a/b": "500000 100000\n",
        "/a": "300000 100000\n",
        "/a/other": "100000 100000\n",
        "/": "800000 100000\n",
    }
    assert system(v2("/a/b/c", limits)) == 3


@pytest.mark.parametrize("folder", ["sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct"])
@pytest.mark.parametrize(
    "values, expected", [((200000, 100000), 2), ((125000, 50000), 3), ((-1, 100000), 64)]
)
def test_quota_of_version_1(system, folder, values, expected):
    assert system(v1("/", {"/": values}, folder)) == expected


def test_smallest_quota_of_version_1_from_the_group_up_to_the_mount(system):
    limits = {"/a/b": (-1, 100000), "/a": (300000, 100000), "/": (-1, 100000)}
    assert system(v1("/a/b", limits)) == 3


def test_group_that_a_container_sees_under_the_name_it_has_outside(system):
    """Version 1 without a namespace: the container's group is mounted as the root."""
    files = v1("/docker/id", {"/": (200000, 100000)}, "sys/fs/cgroup/cpu,cpuacct")
    assert system(files) == 2


def test_version_1_mounted_elsewhere_from_a_group_of_the_outside(system):
    files = v1("/docker/id/job", {"/job": (200000, 100000), "/": (500000, 100000)}, "elsewhere")
    assert system(files) == 64
    mounts = MOUNT.format(top="/", point="/set", kind="cgroup", options="cpuset")
    mounts += MOUNT.format(
        top="/docker/id", point="/elsewhere", kind="cgroup", options="cpuacct,cpu"
    )
    assert system({"proc/self/mountinfo": mounts}) == 2


def test_version_2_mounted_elsewhere(system):
    mounts = MOUNT.format(top="/", point="/new", kind="cgroup2", options="nsdelegate")
    files = {"proc/self/cgroup": "0::/a\n", "new/a/cpu.max": "200000 100000\n"}
    assert system(files) == 64
    assert system({"proc/self/mountinfo": mounts}) == 2


@pytest.mark.parametrize("group, expected", [("/a", 2), ("/b", 64)])
def test_hybrid_takes_the_quota_from_version_1(system, group, expected):
    """The group of version 2 has no say where the CPU controller is one of version 1."""
    limits = {"/a": (200000, 100000), "/new": (100000, 100000)}
    files = v1(group, limits)
    files["proc/self/cgroup"] += "0::/new\n"
    files["sys/fs/cgroup/unified/new/cgroup.procs"] = "1\n"
    assert system(files) == expected


def test_hybrid_takes_the_quota_from_version_2(system):
    files = {"proc/self/cgroup": "4:memory:/a\n0::/a\n"}
    assert system(files | {"sys/fs/cgroup/unified/a/cpu.max": "200000 100000\n"}) == 2


def test_group_outside_the_namespace_leads_to_no_file_outside_the_mount(system):
    files = v2("/../../a", {"/": "max 100000\n"})
    assert system(files | {"sys/a/cpu.max": "200000 100000\n"}) == 64


def test_without_control_groups_the_affinity_mask_counts(system):
    assert system({}) == 64


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "\n",
        "2",
        "-5 100000",
        "200000 0",
        "0 100000",
        "2 e",
        "1 2 3",
        b"\xff\xfe",
        pytest.param("9" * 9999 + " 1", id="huge"),
    ],
)
def test_garbage_is_no_quota(system, garbage):
    assert system(v2("/a", {"/a": garbage})) == 64
    mounts = garbage if isinstance(garbage, bytes) else f"{garbage} - {garbage}\n" * 2
    assert system({"proc/self/mountinfo": mounts}) == 64
    for group in (garbage, b"0::/a\0b\n", "0::\n", ":\n", "0:cpu\n"):
        assert system({"proc/self/cgroup": group}) == 64


def test_folders_in_place_of_files_are_no_quota(system):
    assert system({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max/file": ""}) == 64
    assert system({"proc/self/mountinfo/file": ""}) == 64


def test_affinity_mask_smaller_than_the_quota(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert system(v2("/", {"/": "800000 100000\n"})) == 2


def test_quota_where_the_system_cannot_say_which_cpus_are_ours(system, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    for cpus, expected in ((7, 7), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        assert system({}) == expected


def test_default_heeds_the_quota_and_what_is_asked_for_does_not(monkeypatch):
    monkeypatch.delenv("WBCPROF_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr("wbcprof.threads._cpu_quotas", lambda _: (9, 5))
    assert resolve_threads() == 5
    assert resolve_threads(7) == 7


def test_no_more_than_there_are_cpus(monkeypatch):
    monkeypatch.setattr("wbcprof.threads._most_threads", lambda: 3)
    assert resolve_threads(3_000_000_000) == 3
    monkeypatch.setenv("WBCPROF_NUM_THREADS", "2000")
    assert resolve_threads() == 3


SHORT_OF_THREADS = """
import resource, sys, threading
import numpy as np
import wbcprof, wbcprof.threads
wbcprof.threads._most_threads = lambda: 64
model = wbcprof.load(sys.argv[1])
images = np.load(sys.argv[2])
expected = model.profile(images, n_threads=1).values
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (40 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
n = wbcprof.threads.resolve_threads(64)
np.testing.assert_array_equal(model.profile(images, n_threads=64).values, expected)
print(n)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc")
def test_threads_that_cannot_be_started_are_done_without(model, cells, tmp_path):
    """OpenMP would end the interpreter."""
    model.save(tmp_path / "m.wbcprof")
    np.save(tmp_path / "images.npy", cells.images[:8])
    run = subprocess.run(
        [sys.executable, "-c", SHORT_OF_THREADS, tmp_path / "m.wbcprof", tmp_path / "images.npy"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == 1


PROFILES_IN_A_HANDLER = """
import os, signal, sys, threading, time
import numpy as np
import wbcprof
from wbcprof.model.encoder import Encoder
images = np.load(sys.argv[2])
expected = wbcprof.load(sys.argv[1]).profile(images, n_threads=1).values
model = wbcprof.load(sys.argv[1])
transform = Encoder._transform_filters
sent, found = [], []

def slowly(self, form):
    if sys.argv[3] == "signal" and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.2)
    return transform(self, form)

Encoder._transform_filters = slowly
signal.signal(signal.SIGUSR1, lambda *_: found.append(model.profile(images).values))
if sys.argv[3] == "signal":
    np.testing.assert_array_equal(model.profile(images).values, expected)
    np.testing.assert_array_equal(found[0], expected)
else:
    thread = threading.Thread(target=model.profile, args=(images,))
    thread.start()
    time.sleep(0.1)
    if child := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    np.testing.assert_array_equal(model.profile(images).values, expected)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("what", ["signal", "fork"])
def test_a_handler_or_a_child_that_profiles_does_not_wait_for_ever(what, model, cells, tmp_path):
    model.save(tmp_path / "m.wbcprof")
    np.save(tmp_path / "images.npy", cells.images[:2])
    words = [tmp_path / "m.wbcprof", tmp_path / "images.npy", what]
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROFILES_IN_A_HANDLER, *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_threads_from_the_environment(monkeypatch):
    monkeypatch.setenv("WBCPROF_NUM_THREADS", "3")
    assert resolve_threads() == 3
    assert resolve_threads(2) == 2
    monkeypatch.setenv("WBCPROF_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="WBCPROF_NUM_THREADS must be a positive integer"):
        resolve_threads()


def test_overlapping_holds_give_back_what_was_before_the_first():
    """Two fits in threads left BLAS at one thread for good, and let go of it too soon."""

    def limits():
        return [pool.num_threads for pool in threads._blas_pools()]

    before = limits()
    threads._set_blas_threads([2] * len(before))
    try:
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            holds = [(pool, threads.one_blas_thread()) for pool in (one, other)]
            for pool, hold in holds:
                pool.submit(hold.__enter__).result()
                assert set(limits()) == {1}
            one.submit(holds[0][1].__exit__, None, None, None).result()
            assert set(limits()) == {1}
            other.submit(holds[1][1].__exit__, None, None, None).result()
            assert set(limits()) == {2}
        with threads.one_blas_thread():
            assert set(limits()) == {1}
        assert set(limits()) == {2}
    finally:
        threads._set_blas_threads(before)


def test_what_answers_no_signal_is_left_where_one_comes(tmp_path):
    code = """
import signal, sys, threading, time
from wbcprof.threads import left_at_once

def work():
    begun.set()
    time.sleep(60)  # in C, as it were: no handler of the main thread's runs

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell asked for it
begun = threading.Event()
def interrupt():
    begun.wait()
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    left_at_once(work)
except KeyboardInterrupt:
    print("left")
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd=tmp_path,
    )
    assert result.stdout == "left\n"


def test_what_is_waited_for_gives_and_raises_as_if_called():
    assert threads.left_at_once(lambda: 3) == 3
    with pytest.raises(KeyError, match="x"):
        threads.left_at_once(lambda: {}["x"])
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(threads.left_at_once, lambda: 4).result() == 4
