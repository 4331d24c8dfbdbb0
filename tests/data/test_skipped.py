import gc
import multiprocessing
import pickle

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
