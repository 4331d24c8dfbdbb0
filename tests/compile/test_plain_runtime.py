"""An artifact runs with TVM and numpy alone."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import onnxruntime

ROOT = Path(__file__).parents[2]


def test_it_runs_where_only_tvm_and_numpy_are_installed(compiled, tmp_path):
    """The README's loader in an environment without torch, onnx and this package."""
    site = tmp_path / "site"
    site.mkdir()
    for path in runtime_files():
        (site / path.name).symlink_to(path)
    shape = compiled.manifest["inputs"][0]["shape"]
    clip = np.random.default_rng(1).standard_normal(shape, dtype="float32")
    np.save(tmp_path / "clip.npy", clip)
    script = shutil.copy(ROOT / "examples" / "run_plain.py", tmp_path / "run_plain.py")
    # -S and -I: no site-packages, no PYTHONPATH, not the current folder.
    start = (
        f"import runpy, sys; sys.path.append({str(site)!r});"
        f"sys.argv = ['run_plain.py', {str(compiled.folder)!r}, {str(tmp_path / 'clip.npy')!r}];"
        f"runpy.run_path({str(script)!r}, run_name='__main__');"
        "print([name for name in ('torch', 'onnx', 'rt3d_tvm') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    output, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    session = onnxruntime.InferenceSession(compiled.onnx)
    expected = session.run(None, {"clip": clip})[0]
    assert np.max(abs(np.array(json.loads(output)) - expected)) <= 1e-4 * np.max(abs(expected))


def runtime_files() -> list[Path]:
    """Top-level files of apache-tvm, numpy and all that they require."""
    from packaging.requirements import Requirement

    pending, seen, files = ["apache-tvm", "numpy"], set(), set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        package = distribution(name)
        root = Path(package.locate_file(""))
        files.update(
            root / Path(file).parts[0] for file in package.files or () if ".." not in str(file)
        )
        for text in package.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    return [path for path in files if path.exists() and path.name != "__pycache__"]
