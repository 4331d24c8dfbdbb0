"""examples/run_plain.py refuses what the package's own loader refuses."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

from rt3d_tvm.compile.build import compile_onnx
from tests.artifact.networks import clip, expected
from tests.artifact.tampering import damaged, edit_manifest, reseal
from tests.nan_models import diverged

ROOT = Path(__file__).parents[2]
SAMPLE = 40

# Each folder in a process of its own: the status it ends with, and what it says of it.
PROGRAM = """
    import json, os, runpy, sys
    from pathlib import Path
    import numpy as np
    script, *folders = sys.argv[1:]
    load_plain = runpy.run_path(script)["load_plain"]
    x = np.random.default_rng(1).standard_normal((1, 8, 4, 8, 8), dtype="float32")
    answers = {}
    for folder in folders:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                y = load_plain(Path(folder))[1](x)
            except SystemExit as error:
                os.write(write, str(error).encode())
                os._exit(2)
            except BaseException as error:
                os.write(write, repr(error).encode())
                os._exit(1)
            np.save(folder + ".npy", y)
            os._exit(0)
        os.close(write)
        said = os.read(read, 1000).decode()
        answers[folder] = (os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)
    print(json.dumps(answers))
"""


# A folder that another artifact takes: what is there is loaded, under the same path.
AGAIN = """
    import runpy, shutil, sys
    from pathlib import Path
    import numpy as np
    script, folder, other, result = sys.argv[1:]
    load_plain = runpy.run_path(script)["load_plain"]
    x = np.random.default_rng(1).standard_normal((1, 8, 4, 8, 8), dtype="float32")
    _, first = load_plain(Path(folder))
    before = first(x)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    _, second = load_plain(Path(folder))
    np.savez(result, before=before, first=first(x), second=second(x))
"""


def plain_process(program: str, *arguments: object) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            textwrap.dedent(program),
            ROOT / "examples/run_plain.py",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tried(folders: list[Path]) -> dict[str, tuple[int, str]]:
    answers = json.loads(plain_process(PROGRAM, *folders))
    return {Path(folder).name: found for folder, found in answers.items()}


def test_no_damage_is_loaded(pair, tmp_path):
    folders = [Path(shutil.copytree(pair.folder, tmp_path / "whole"))]
    for seed in range(SAMPLE):
        if damaged(pair.folder, pair.other, tmp_path / str(seed), seed):
            folders.append(tmp_path / str(seed))
    found = tried(folders)
    assert found.pop("whole") == [0, ""]
    y, wanted = np.load(tmp_path / "whole.npy"), expected(pair.onnx, clip())
    assert np.max(abs(y - wanted)) <= 1e-5 * np.max(abs(wanted))
    assert {name: how for name, how in found.items() if how[0] != 2} == {}
    assert len(found) > 0.9 * SAMPLE


def test_a_folder_that_another_artifact_took_is_loaded_anew(pair, tmp_path):
    shutil.copytree(pair.folder, tmp_path / "artifact")
    plain_process(AGAIN, tmp_path / "artifact", pair.other, tmp_path / "y.npz")
    found, wanted = np.load(tmp_path / "y.npz"), expected(pair.other_onnx, clip())
    np.testing.assert_array_equal(found["first"], found["before"])
    assert np.max(abs(found["second"] - wanted)) <= 1e-5 * np.max(abs(wanted))


def test_what_has_right_checksums_is_looked_at(pair, tmp_path):
    """Under checksums as if it had been written so: places, index tables, the processor."""
    original = json.loads((pair.folder / "manifest.json").read_text())["weights"]
    numbers = [number for number, entry in enumerate(original) if "within" in entry]

    def entry(number, **fields):
        return lambda manifest: manifest["weights"][number].update(fields)

    changes = {
        "place": entry(0, offset=128),
        "bounds": entry(numbers[0], within=[0, 0]),
        "machine": lambda manifest: manifest["processor"].update(machine="riscv64"),
        "feature": lambda manifest: manifest["processor"]["features"].update(amx_of_2040=2000),
    }
    folders = []
    for name, change in changes.items():
        folders.append(Path(shutil.copytree(pair.folder, tmp_path / name)))
        edit_manifest(folders[-1], change)
        reseal(folders[-1])
    found = tried(folders)
    assert {name: how[0] for name, how in found.items()} == dict.fromkeys(changes, 2)
    assert "not laid out as manifest.json says" in found["place"][1]
    assert "not laid out as manifest.json says" in found["bounds"][1]
    assert "this one has no ['riscv64']" in found["machine"][1]
    assert "this one has no ['amx_of_2040']" in found["feature"][1]


def test_an_output_that_is_no_number_is_not_printed(tmp_path):
    """JSON has no NaN."""
    compile_onnx(diverged(tmp_path / "m.onnx"), tmp_path / "a", allow_non_finite=True)
    command = [sys.executable, ROOT / "examples/run_plain.py", tmp_path / "a"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("a: 5 of its outputs are NaN or infinite\n")
