"""Models at a size that compiles in seconds, each exported and compiled once a session."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.export import export_onnx
from rt3d_tvm.prune.benchmark import benchmark_pair
from tests.artifact.networks import write_network
from tests.servers import running
from topi_sparse.kernel_group import KernelGroup

ROOT = Path(__file__).parents[1]
# Width, frames and size of the reduced models: odd channel counts, every operator of the full ones.
REDUCED = {"c3d": (0.125, 16, 32), "r2plus1d": (0.25, 8, 32), "s3d": (0.25, 16, 64)}
REDUCED_PICTURES = {
    "vgg16": (0.125, None, 32),
    "resnet50": (0.125, None, 64),
    "mobilenet_v2": (0.5, None, 64),
}
GROUP = KernelGroup(g_m=8, g_n=4)
SCRIPTS = ROOT / "scripts"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each file to one of xdist's processes as a whole, and the emulated phone's files to one.

    So that no two processes compile the same models for a file, or start a phone each.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        group = "phone" if item.get_closest_marker("phone") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Numbers that a test draws without a seed of its own: the same ones in every run."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@dataclass(frozen=True)
class Compiled:
    """A reduced model, pruned to the paper's rate: its ONNX file, its artifact, the manifest."""

    name: str
    onnx: Path
    folder: Path
    manifest: dict


@pytest.fixture(scope="session", params=list(REDUCED))
def compiled(request, tmp_path_factory) -> Compiled:
    """Each of the three models of clips."""
    return _compiled(request.param, tmp_path_factory)


@pytest.fixture(scope="session", params=list(REDUCED_PICTURES))
def compiled_picture(request, tmp_path_factory) -> Compiled:
    """Each of the networks of pictures."""
    return _compiled(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def compiled_c3d(tmp_path_factory) -> Compiled:
    """The reduced C3D."""
    return _compiled("c3d", tmp_path_factory)


_made: dict[str, Compiled] = {}


def _compiled(name: str, tmp_path_factory) -> Compiled:
    if name not in _made:
        width, frames, size = {**REDUCED, **REDUCED_PICTURES}[name]
        pair = benchmark_pair(
            name, group=GROUP, num_classes=10, width=width, frames=frames, size=size
        )
        folder = tmp_path_factory.mktemp(name)
        export_onnx(pair.pruned, pair.input_shape, folder / "model.onnx")
        manifest = compile_onnx(folder / "model.onnx", folder / "artifact")
        _made[name] = Compiled(name, folder / "model.onnx", folder / "artifact", manifest)
    return _made[name]


@dataclass(frozen=True)
class Pair:
    """Two artifacts of one form with weights and code of their own, and their ONNX files."""

    onnx: Path
    folder: Path
    other_onnx: Path
    other: Path


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    """Not to be changed: damages are done to copies."""
    root = tmp_path_factory.mktemp("pair")
    onnx = write_network(root / "model.onnx")
    compile_onnx(onnx, root / "artifact")
    other = write_network(root / "other.onnx", seed=5, activation="Sigmoid")
    compile_onnx(other, root / "other")
    return Pair(onnx, root / "artifact", other, root / "other")


@pytest.fixture(scope="module")
def tracker() -> Iterator[tuple[str, int]]:
    """A tracker of this module's tests."""
    with running("tracker", "--port", "19190") as address:
        yield address


@dataclass(frozen=True)
class Phone:
    """The emulated phone: its tracker, its key, and the folder of its processes and logs."""

    tracker: tuple[str, int]
    key: str
    state: Path

    def script(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run scripts/phone/emulated_phone.sh on this phone."""
        return _phone_script(self.state, *arguments)


@pytest.fixture(scope="session")
def phone(tmp_path_factory) -> Iterator[Phone]:
    """An emulated phone of these tests' own, over the shared arm64 root."""
    state = tmp_path_factory.mktemp("phone")
    started = _phone_script(state, "start", "--key", "test-phone")
    if started.returncode:
        reason = f"the emulated phone did not start: {' / '.join(started.stderr.splitlines()[-2:])}"
        if os.environ.get("RT3D_REQUIRE_PHONE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    host, port = started.stdout.split()[-3].split(":")
    yield Phone((host, int(port)), "test-phone", state)
    _phone_script(state, "stop")


def _phone_script(state: Path, *arguments: str) -> subprocess.CompletedProcess:
    # The first start of all downloads an arm64 root of some 600 MB.
    return subprocess.run(
        [ROOT / "scripts" / "phone" / "emulated_phone.sh", *arguments],
        env={**os.environ, "PHONE_STATE": str(state), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )


@pytest.fixture
def script(monkeypatch):
    """Load a script as a module; its folder is where it finds the modules beside it."""

    def load(path: str):
        monkeypatch.syspath_prepend(str((SCRIPTS / path).parent))
        spec = importlib.util.spec_from_file_location(Path(path).stem, SCRIPTS / path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load
