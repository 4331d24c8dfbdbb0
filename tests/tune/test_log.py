"""The log: what was appended is there, whatever happens to the process, the file or the disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.log import TrialLog
from rt3d_tvm.tune.work_dir import open_work

ROWS = [{"task": "a", "n": n} for n in range(3)]


def opened(path, told=None) -> TrialLog:
    return TrialLog(path, warn=(told if told is not None else []).append)


def test_rows_come_back(tmp_path):
    log = opened(tmp_path / "t.jsonl")
    for row in ROWS:
        log.append(row)
    log.close()
    told = []
    assert opened(tmp_path / "t.jsonl", told).rows == ROWS
    assert told == []


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b'{"n": 1}\n{"n": 2', [{"n": 1}]),
        (b'{"n": 1}\n{"n": 2}', [{"n": 1}]),  # without its end it may be the start of {"n": 2}3
        (b'{"n": 1}\n\x00\xff\x80garbage\n{"n": 2}\n', [{"n": 1}, {"n": 2}]),
        (b'[1]\n"text"\nNaN\n{"n": 2}\n', [{"n": 2}]),
        (b"\x00" * 512, []),
        (b"", []),
    ],
)
def test_torn_and_garbage_lines_are_put_aside(tmp_path, data, rows):
    path = tmp_path / "t.jsonl"
    path.write_bytes(data)
    told = []
    log = opened(path, told)
    assert log.rows == rows
    assert bool(told) == (log.torn.exists()) == (data != b"")
    log.append({"n": 3})
    log.close()
    told.clear()
    assert opened(path, told).rows == [*rows, {"n": 3}]
    assert told == []
    if data:  # nothing is thrown away
        whole = path.read_bytes() + log.torn.read_bytes()
        assert all(line in whole for line in data.splitlines())


def test_the_names_of_its_files_are_on_disk_before_a_row_is(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", noted)
    (tmp_path / "t.jsonl").write_bytes(b'{"n": 1}\n{"torn')  # replaced by another file
    log = opened(tmp_path / "t.jsonl")
    assert synced[-1] == tmp_path
    log.append({"n": 2})
    assert synced[-1] == tmp_path / "t.jsonl"


def test_one_process_writes_at_a_time(tmp_path):
    log = opened(tmp_path / "t.jsonl")
    with pytest.raises(InputError, match="another process is writing it"):
        opened(tmp_path / "t.jsonl")
    log.close()
    opened(tmp_path / "t.jsonl")


# In a process of its own: the limit holds for every file of a process, also for those that an
# OpenCL driver of another test may be writing.
LIMITED = """
import json, resource, sys
from pathlib import Path
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune import log as log_module
path, relieved = Path(sys.argv[1]), sys.argv[2] == "relieved"
log_module.PAUSE_S = 0.01
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
told = []
def warn(line):
    told.append(line)
    if relieved:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
log = log_module.TrialLog(path, warn=warn, patience_s=300.0 if relieved else 0.1)
log.append({"n": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
error = None
try:
    log.append({"n": 1})
except InputError as refused:
    error = str(refused)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
log.close()
print(json.dumps({"told": told, "error": error}))
"""


def after_a_limit_on_the_size(path, *, relieved: bool) -> dict:
    """What the log said when a write was cut short, by a limit that may go away."""
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), "relieved" if relieved else "stays"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_a_disk_that_is_full_is_waited_for(tmp_path):
    path = tmp_path / "t.jsonl"
    answer = after_a_limit_on_the_size(path, relieved=True)
    assert answer["error"] is None
    assert len(answer["told"]) == 1
    assert "File too large; trying again" in answer["told"][0]
    told = []
    assert opened(path, told).rows == [{"n": 0}, {"n": 1}]
    assert told == []


def test_a_disk_that_stays_full_ends_the_search_with_a_whole_log(tmp_path):
    path = tmp_path / "t.jsonl"
    answer = after_a_limit_on_the_size(path, relieved=False)
    assert "what it holds is whole, the same command goes on" in answer["error"]
    told = []
    assert opened(path, told).rows == [{"n": 0}]
    assert told == []


WRITER = """
import sys
from pathlib import Path
from rt3d_tvm.tune.log import TrialLog
log = TrialLog(Path(sys.argv[1]), warn=lambda line: None)
print("open", flush=True)
for n in range(len(log.rows), 1 << 30):
    log.append({"n": n, "filling": "x" * (n % 5000)})
    print(n, flush=True)
"""


def test_killed_at_twenty_random_moments_it_holds_all_that_was_reported(tmp_path):
    """kill -9, with the next process going on where the last one stopped."""
    path, draw = tmp_path / "t.jsonl", random.Random(0)
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout.readline() == "open\n"
        time.sleep(draw.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        reported = [int(line) for line in process.stdout.read().split()]
        process.wait()
        log = opened(path)
        assert [row["n"] for row in log.rows] == list(range(len(log.rows)))
        assert len(log.rows) > max(reported, default=-1)
        log.close()
    assert len(log.rows) > 20


def test_a_work_directory_is_of_one_search(tmp_path):
    said = []
    versions = {"apache-tvm": "1", "apache-tvm-ffi": "3"}
    session = {"target": "host", "model_sha256": "00", "versions": versions}
    log = open_work(tmp_path / "work", session, warn=said.append)
    log.append(ROWS[0])
    log.close()
    log = open_work(tmp_path / "work", session, warn=said.append)
    assert log.rows == ROWS[:1]
    log.close()
    for change, said_of_it in (
        ({"target": "arm64"}, "target 'host' there, 'arm64' here"),
        ({"model_sha256": "01"}, "model_sha256 '00' there, '01' here"),
        ({"versions": {**versions, "apache-tvm": "2"}}, "versions.apache-tvm '1' there, '2' here"),
    ):
        with pytest.raises(InputError) as refused:
            open_work(tmp_path / "work", {**session, **change}, warn=said.append)
        assert f"something else ({said_of_it}); name another folder" in str(refused.value)
    assert json.loads((tmp_path / "work" / "session.json").read_text()) == session
    assert said == []


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="is not an empty folder"):
        open_work(tmp_path, {}, warn=lambda line: None)
    with pytest.raises(InputError, match="is a file"):
        open_work(tmp_path / "photo.jpg", {}, warn=lambda line: None)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / ".session.json.abc").write_bytes(b"{")  # killed while it was written
    open_work(tmp_path / "work", {}, warn=lambda line: None)
