import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile

import pytest

from rt3d_tvm.data.skipped import SkipLog


def add(log, index):
    with pytest.warns(UserWarning):
        log.add(index, f"reason {index}")


def test_each_is_noted_and_warned_of_once(recwarn):
    log = SkipLog()
    for _ in range(3):
        log.add(10, "a.avi: no video")
        log.add(9, "b.avi: no video")
    assert log.read() == {9: "b.avi: no video", 10: "a.avi: no video"}
    assert [str(w.message) for w in recwarn] == [
        "skipped: a.avi: no video",
        "skipped: b.avi: no video",
    ]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_share_it_and_leave_it(method, recwarn):
    log = SkipLog()
    child = multiprocessing.get_context(method).Process(target=add, args=(log, 1))
    child.start()
    child.join()
    assert child.exitcode == 0
    log.add(1, "again")
    assert log.read() == {1: "reason 1"}
    assert not [w for w in recwarn if "skipped" in str(w.message)]


def test_a_copy_lives_on_the_original_and_the_folder_goes_with_it():
    log = SkipLog()
    folder = log._folder
    copy = pickle.loads(pickle.dumps(log))
    del copy
    gc.collect()
    assert folder.is_dir()
    del log
    gc.collect()
    assert not folder.exists()


def test_the_folder_of_a_killed_process_goes_with_the_next_log(tmp_path, monkeypatch):
    """A kill leaves it in /tmp, and nothing else would ever remove it."""
    program = "import os; from rt3d_tvm.data.skipped import SkipLog; log = SkipLog(); os.abort()"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)})
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    log = SkipLog()
    assert not left.exists()
    assert len(list(tmp_path.iterdir())) == 1
    del log
    gc.collect()
    assert not list(tmp_path.iterdir())
