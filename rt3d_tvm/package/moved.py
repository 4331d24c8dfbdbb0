"""Module names of release 0.1 -> where their modules are now; they import with a warning."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "rt3d_tvm.bench": "rt3d_tvm.measure.bench",
    "rt3d_tvm.build": "rt3d_tvm.compile.build",
    "rt3d_tvm.deploy": "rt3d_tvm.artifact.load",
    "rt3d_tvm.device": "rt3d_tvm.devices.processor",
    "rt3d_tvm.doctor": "rt3d_tvm.measure.doctor",
    "rt3d_tvm.frontend": "rt3d_tvm.compile.frontend",
    "rt3d_tvm.groups": "rt3d_tvm.measure.pruning_group",
    "rt3d_tvm.link": "rt3d_tvm.compile.link",
    "rt3d_tvm.opencl": "rt3d_tvm.artifact.opencl",
    "rt3d_tvm.opencl.lowering": "rt3d_tvm.compile.opencl.lowering",
    "rt3d_tvm.opencl.machine": "rt3d_tvm.devices.opencl_machine",
    "rt3d_tvm.opencl.peak": "rt3d_tvm.measure.opencl_peak",
    "rt3d_tvm.opencl.planner": "rt3d_tvm.compile.opencl.planner",
    "rt3d_tvm.opencl.session": "rt3d_tvm.devices.opencl_session",
    "rt3d_tvm.passes": "rt3d_tvm.compile.passes",
    "rt3d_tvm.passes.allocate_textures": "rt3d_tvm.compile.opencl.allocate_textures",
    "rt3d_tvm.passes.dataflow": "rt3d_tvm.compile.ir.dataflow",
    "rt3d_tvm.passes.kernels": "rt3d_tvm.compile.kernels.candidates",
    "rt3d_tvm.passes.kgs_conv3d": "rt3d_tvm.compile.passes.compact_conv3d",
    "rt3d_tvm.passes.packed_call": "rt3d_tvm.compile.ir.packed_call",
    "rt3d_tvm.passes.share_storages": "rt3d_tvm.compile.memory.share_storages",
    "rt3d_tvm.passes.simt_kernels": "rt3d_tvm.compile.kernels.opencl",
    "rt3d_tvm.peak": "rt3d_tvm.measure.cpu_peak",
    "rt3d_tvm.pipeline": "rt3d_tvm.compile.pipeline",
    "rt3d_tvm.remote": "rt3d_tvm.devices.remote",
    "rt3d_tvm.remote_session": "rt3d_tvm.devices.session",
    "rt3d_tvm.report": "rt3d_tvm.console",
    "rt3d_tvm.rpc_server": "rt3d_tvm.devices.server",
    "rt3d_tvm.scratch_folder": "rt3d_tvm.files.staging",
    "rt3d_tvm.targets": "rt3d_tvm.compile.targets",
    "rt3d_tvm.tracker": "rt3d_tvm.devices.tracker",
    "rt3d_tvm.tune.devices": "rt3d_tvm.tune.fleet",
    "rt3d_tvm.tune.records": "rt3d_tvm.compile.choices.records",
    "rt3d_tvm.tune.space": "rt3d_tvm.compile.choices.space",
    "rt3d_tvm.tune.work": "rt3d_tvm.tune.work_dir",
    "rt3d_tvm.verify": "rt3d_tvm.artifact.verify",
    "rt3d_tvm.whole_file": "rt3d_tvm.files.whole_file",
    "rt3d_tvm.worker": "rt3d_tvm.devices.worker",
}


def new_name(name: str) -> str | None:
    """Where a module of that name is now: itself or the folder it lay in has moved. Else None."""
    if name in MOVED:
        return MOVED[name]
    folder, _, module = name.rpartition(".")
    return f"{MOVED[folder]}.{module}" if folder in MOVED else None


class MovedModules(MetaPathFinder, Loader):
    """Imports a former name as the module that it is now, one object under both names."""

    def find_spec(self, fullname: str, path=None, target=None) -> ModuleSpec | None:
        """A spec for a former name that is still a module; None for any other."""
        new = new_name(fullname)
        if new is None or importlib.util.find_spec(new) is None:
            return None
        return ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its present name, which the import system gives the former one too."""
        new = new_name(spec.name)
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs a second time; the module keeps the spec of its present name."""
        module.__spec__ = module.__spec__.loader_state


def keep_former_names() -> None:
    """Let the former names import; once, whatever the number of calls."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
