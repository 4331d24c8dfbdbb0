"""What load gives back: the artifact that is there now, for any thread and in forks."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.artifact.format import ArtifactFiles
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.threads import available_cores, set_threads, threads_used
from rt3d_tvm.artifact.verify import verify
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.errors import InputError
from tests.artifact.networks import clip, expected, write_network

ROOT = Path(__file__).parents[2]


def process(program: str, *arguments: object) -> dict:
    """What a Python program prints as JSON; a process of its own ends within a minute."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def near(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Two convolutions of 432 products and one of 216: 1e-5 of the largest value is plenty."""
    return bool(np.max(abs(found - wanted)) <= 1e-5 * np.max(abs(wanted)))


def test_a_folder_compiled_again_is_loaded_anew(tmp_path):
    """Other code for equal weights, other weights for equal code; the first ones stay."""
    x, folder, held = clip(), tmp_path / "artifact", []
    for seed, activation in ((0, "Relu"), (0, "Sigmoid"), (3, "Sigmoid"), (0, "Relu")):
        path = write_network(tmp_path / f"{len(held)}.onnx", seed=seed, activation=activation)
        compile_onnx(path, folder)
        held.append((load(folder), expected(path, x)))
        assert all(near(artifact.run(x), wanted) for artifact, wanted in held)


@pytest.mark.parametrize("name", ["model.so", "weights.bin", "manifest.json"])
def test_a_file_of_another_artifact_is_refused(name, pair, tmp_path):
    folder = Path(shutil.copytree(pair.folder, tmp_path / "mixed"))
    shutil.copy(pair.other / name, folder / name)
    with pytest.raises(InputError, match="are of two different artifacts"):
        load(folder)
    with pytest.raises(InputError):
        verify(folder, pair.onnx)


def test_one_artifact_is_loaded_while_another_takes_the_folder(pair, tmp_path, monkeypatch):
    """Between the manifest and the code; once more where that happens again."""
    folder, real = Path(shutil.copytree(pair.folder, tmp_path / "artifact")), ArtifactFiles.code
    others = [pair.other, pair.folder, pair.other]

    def taken_meanwhile(files: ArtifactFiles) -> bytes:
        if others:
            shutil.rmtree(folder)
            shutil.copytree(others.pop(0), folder)
        return real(files)

    monkeypatch.setattr(ArtifactFiles, "code", taken_meanwhile)
    np.testing.assert_array_equal(load(folder).run(clip()), load(pair.other).run(clip()))
    assert others == []


def test_files_copied_over_a_loaded_artifact_do_not_change_it(pair, tmp_path):
    """Its code is a copy. Its weights are mapped: that is told, and no wrong answer given."""
    folder = Path(shutil.copytree(pair.folder, tmp_path / "artifact"))
    artifact, x = load(folder), clip()
    wanted = artifact.run(x)
    for name in ("model.so", "manifest.json"):
        shutil.copy(pair.other / name, folder / name)
    np.testing.assert_array_equal(artifact.run(x), wanted)
    shutil.copy(pair.other / "weights.bin", folder / "weights.bin")
    with pytest.raises(InputError, match=r"weights\.bin: written to since it was loaded"):
        artifact.run(x)
    np.testing.assert_array_equal(load(folder).run(x), load(pair.other).run(x))


def test_a_library_leaves_the_process_with_its_artifact(pair):
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("memfd:model.so")

    artifact = load(pair.folder)
    artifact.run(clip())
    before, files = mapped(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        load(pair.folder).run(clip())
    assert mapped() <= before
    assert len(list(Path("/proc/self/fd").iterdir())) <= files
    artifact.run(clip())


def test_code_that_finds_no_memory_is_refused(pair):
    """As under `ulimit -f`, which counts files without a name too."""
    program = """
        import json, resource, sys
        sys.modules["torch"] = None
        from rt3d_tvm.artifact.load import load
        from rt3d_tvm.errors import InputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            load(sys.argv[1])
        except InputError as error:
            print(json.dumps(str(error)))
    """
    assert process(program, pair.folder) == "no memory for the code of model.so: File too large"


def test_every_thread_gets_the_answer_to_its_own_input(pair):
    artifact, inputs = load(pair.folder), [clip(seed) for seed in range(4)]
    wanted, wrong = [artifact.run(x) for x in inputs], []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.array_equal(artifact.run(inputs[number]), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_artifact_a_thread(pair):
    """Loaded, run and dropped there, on one thread and on all."""
    wanted, failures = load(pair.folder).run(clip()), []

    def work(threads: int) -> None:
        for _ in range(5):
            artifact = load(pair.folder, threads=threads)
            if artifact.threads != threads or not near(artifact.run(clip()), wanted):
                failures.append(threads)

    threads = [threading.Thread(target=work, args=(count,)) for count in (1, available_cores()) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_threads_of_one_artifact_are_not_those_of_the_next(pair):
    """Each keeps its number, whichever was loaded last."""
    cores = available_cores()
    first, second = load(pair.folder, threads=cores), load(pair.folder, threads=1)
    np.testing.assert_array_equal(first.run(clip()), second.run(clip()))
    assert (first.threads, second.threads) == (cores, 1)


def test_on_one_thread_an_artifact_is_one_thread(pair):
    """Which no core is chosen for: as many as there are cores may run at a time."""

    def there() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    wanted = load(pair.folder).run(clip())
    before = there()
    artifacts = [load(pair.folder, threads=1) for _ in range(3)]
    assert all(near(artifact.run(clip()), wanted) for artifact in artifacts)
    assert there() <= before + 3
    for artifact in artifacts:
        assert artifact.thread.call(1, os.sched_getaffinity, 0) == os.sched_getaffinity(0)
        assert artifact.thread.call(1, threads_used) == 1


HOW = (
    "after a run",
    "before the first run",
    "loads its own",
    "ends like any program",
    "of a fork",
    "multiprocessing",
    "in a thread",
    "while others run",
)
# What children of each kind end with: 0 where they have the parent's numbers.
FORK = """
    import json, multiprocessing, os, sys, threading, time
    sys.modules["torch"] = None  # which importing TVM would import
    import numpy as np
    from rt3d_tvm.artifact.load import load
    folder = sys.argv[1]
    x = np.random.default_rng(1).standard_normal((1, 8, 4, 8, 8), dtype="float32")
    loaded = load(folder)
    wanted = loaded.run(x)

    def is_right(artifact):
        return all(np.array_equal(artifact.run(x), wanted) for _ in range(3))

    def work(artifact, how, end=os._exit):
        own = load(folder) if how == "loads its own" else artifact
        end(0 if is_right(own) else 3)

    def fork(artifact, how, ended):
        child = os.fork()
        if not child:
            if how == "of a fork" and (grandchild := os.fork()):
                work(artifact, how, end=lambda status: None)
                os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
            work(artifact, how, sys.exit if how == "ends like any program" else os._exit)
        for _ in range(200):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return ended.append(os.waitstatus_to_exitcode(status))
            time.sleep(0.05)
        os.kill(child, 9)
        ended.append("hangs")

    answers = {}
    for how in sys.argv[2:]:
        ended = answers[how] = []
        artifact = load(folder) if how == "before the first run" else loaded
        time.sleep(0.3)  # worker threads have stopped spinning, and wait
        if how == "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=work, args=(artifact, how))
            process.start()
            process.join(10)
            ended.append(process.exitcode)
            process.kill()
        elif how == "in a thread":
            thread = threading.Thread(target=fork, args=(artifact, how, ended))
            thread.start()
            thread.join()
        elif how == "while others run":
            stop = threading.Event()
            def others():
                while not stop.is_set():
                    artifact.run(x)
            threads = [threading.Thread(target=others) for _ in range(2)]
            [thread.start() for thread in threads]
            for _ in range(5):
                fork(artifact, how, ended)
            stop.set()
            [thread.join() for thread in threads]
        else:
            fork(artifact, how, ended)
        ended.append(0 if is_right(artifact) else "the parent is wrong")
    print(json.dumps(answers), flush=True)
"""


@pytest.fixture(scope="module")
def forks(pair):
    """What each kind of child, and after it the parent, ended with."""
    return process(FORK, pair.folder, *HOW)


@pytest.mark.parametrize("how", HOW)
def test_a_forked_process_has_the_numbers_of_its_parent(how, forks):
    assert set(forks[how]) == {0}


def test_kernels_called_by_oneself_are_refused_in_a_fork():
    """There the threads are missing; whoever waits for them would wait for ever."""
    set_threads(1)
    child = os.fork()
    if not child:
        with pytest.raises(InputError, match="start it with multiprocessing's spawn"):
            set_threads(1)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_an_interrupted_run_is_not_run_into(pair):
    """Ctrl-C leaves the caller at once; the next call waits for the one that still runs."""
    artifact, x = load(pair.folder), clip()
    wanted = artifact.run(x)
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        go_on.wait(20)

    waiting = threading.Thread(target=artifact.thread.call, args=(artifact.threads, slow))
    waiting.start()
    began.wait(20)
    answers: list[np.ndarray] = []
    calling = threading.Thread(target=lambda: answers.append(artifact.run(x)))
    calling.start()
    time.sleep(0.1)
    assert answers == []
    go_on.set()
    calling.join()
    waiting.join()
    np.testing.assert_array_equal(answers[0], wanted)
