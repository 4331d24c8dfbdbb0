"""Tampered artifacts: each is refused or computes the same. python -m scripts.fuzz.artifacts.

Loaders: python (rt3d_tvm.artifact), plain (examples/run_plain.py), cpp (examples/cpp, which cmake
and g++ build once into build/fuzz), bundle (rt3d_tvm.bundle, whose files are compared) and opencl
(a device of this machine). Files that a loader does not read are not there.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np

# TVM imports torch where it is installed, which nothing here uses.
sys.modules.setdefault("torch", None)

import tvm_ffi  # noqa: E402

from rt3d_tvm.artifact.calls import CALLS  # noqa: E402
from rt3d_tvm.artifact.format import KERNELS  # noqa: E402
from rt3d_tvm.artifact.load import load  # noqa: E402
from rt3d_tvm.artifact.opencl.artifact import load_opencl  # noqa: E402
from rt3d_tvm.bundle.make import bundle  # noqa: E402
from rt3d_tvm.compile.build import compile_onnx  # noqa: E402
from rt3d_tvm.errors import InputError  # noqa: E402
from scripts.fuzz import session  # noqa: E402
from scripts.fuzz.generator import random_model  # noqa: E402
from scripts.fuzz.outcome import Outcome  # noqa: E402
from scripts.fuzz.tampering import tamper  # noqa: E402

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build" / "fuzz" / "cpp" / "run_clip"
LOADERS = ("python", "plain", "cpp", "bundle", "opencl")
# Seeds of graphs that are tampered with: pruned and dense, with Winograd, a head, a pair.
GRAPHS = (1, 4, 9, 17)
_DEADLINE_S = 120


def fuzzer(loader: str) -> session.Fuzzer:
    """Of artifacts as one of LOADERS takes them."""
    return session.Fuzzer(
        name="artifacts",
        of=loader,
        judge=lambda seed, folder: judged(seed, folder, loader),
        options=("--loader", loader),
    )


def judged(seed: int, folder: Path, loader: str) -> Outcome:
    """Tamper with a copy of an artifact, run it, compare with the artifact as it was made."""
    rng = Random(f"{seed} artifact")
    bases = [_base(folder.parent / "made", number, loader) for number in GRAPHS]
    base, other = rng.sample(bases, 2)
    copy = Path(shutil.copytree(base, folder / "copy"))
    done = tamper(rng, copy, other)
    try:
        y = _RUNS[loader](copy, _input(base))
    except SystemExit as error:  # of run_plain.py
        return Outcome("refused", str(error.code))
    expected = np.load(base.with_suffix(".npy"))
    same = y.shape in (expected.shape, (expected.size,))  # the program writes values alone
    if same and np.allclose(y.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6):
        return Outcome("ok", done)
    return Outcome("wrong", f"{done}: another result, or of shape {y.shape}")


def _base(made: Path, number: int, loader: str) -> Path:
    """An artifact and, beside it, its result; made once."""
    folder = made / str(number)
    result = folder.with_suffix(".npy")
    if not result.exists():
        made.mkdir(exist_ok=True)
        path = made / f"{number}.onnx"
        path.write_bytes(random_model(Random(number), plain=True).SerializeToString())
        compile_onnx(path, folder, target="opencl" if loader == "opencl" else "host")
        if loader not in ("bundle", "opencl"):
            for name in (CALLS, KERNELS):
                (folder / name).unlink(missing_ok=True)
        run = _RUNS[loader] if loader in ("bundle", "opencl") else _python
        np.save(result, run(folder, _input(folder)))
    return folder


def _input(folder: Path) -> np.ndarray:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    shape = manifest["inputs"][0]["shape"]
    return np.random.default_rng(0).standard_normal(shape, dtype="float32")


def _python(folder: Path, x: np.ndarray) -> np.ndarray:
    return load(folder).run(x)


def _opencl(folder: Path, x: np.ndarray) -> np.ndarray:
    return load_opencl(folder).run(x)


def _plain(folder: Path, x: np.ndarray) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("run_plain", ROOT / "examples" / "run_plain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    _, run = module.load_plain(folder)
    (y,) = run(x)
    return y


def _cpp(folder: Path, x: np.ndarray) -> np.ndarray:
    """InputError where the program says in one line why not."""
    clip, logits = folder.parent / "clip.raw", folder.parent / "y.raw"
    x.tofile(clip)
    done = subprocess.run(
        [PROGRAM, folder, clip, "--runs", "1", "--output", logits],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_DEADLINE_S,
        check=False,
    )
    lines = done.stderr.strip().splitlines()
    if done.returncode == 1 and len(lines) == 1:
        raise InputError(lines[0])
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-200:]}")
    return np.fromfile(logits, "float32")


def _bundle(folder: Path, _: np.ndarray) -> np.ndarray:
    """The bytes of all files of the bundle that is made of it."""
    made = folder.parent / "bundle"
    shutil.rmtree(made, ignore_errors=True)
    bundle(folder, made)
    files = sorted(path for path in made.rglob("*") if path.is_file())
    return np.frombuffer(b"".join(path.read_bytes() for path in files), "uint8")


_RUNS: dict[str, Callable[[Path, np.ndarray], np.ndarray]] = {
    "python": _python,
    "plain": _plain,
    "cpp": _cpp,
    "bundle": _bundle,
    "opencl": _opencl,
}


def build_program() -> None:
    """Build examples/cpp. InputError where that cannot be done here."""
    site = Path(tvm_ffi.__file__).parents[1]
    for command in (
        ["cmake", "-S", ROOT / "examples" / "cpp", "-B", PROGRAM.parent, f"-DTVM_SITE={site}"],
        ["cmake", "--build", PROGRAM.parent],
    ):
        if shutil.which("cmake") is None or shutil.which("g++") is None:
            raise InputError("cmake and g++ are needed to build examples/cpp")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InputError(f"examples/cpp cannot be built: {done.stdout} {done.stderr}")


def main() -> int:
    """The command."""
    options = session.parser(__doc__.splitlines()[0])
    options.add_argument("--loader", action="append", choices=LOADERS, help="default: all")
    args = options.parse_args()
    loaders = args.loader or LOADERS
    if "cpp" in loaders:
        build_program()
    return session.main([fuzzer(loader) for loader in loaders], args)


if __name__ == "__main__":
    sys.exit(main())
