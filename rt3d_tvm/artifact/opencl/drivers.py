"""OpenCL drivers: those of the system, and those that pip has installed, made known to the loader.

A loader finds a driver through a file NAME.icd that holds the path of its library, in one folder.
The packages of pip carry none that is right for where they were installed to, so they are written
here, beside copies of the system's. Nothing of TVM is imported.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

from rt3d_tvm.errors import InputError
from rt3d_tvm.files.whole_file import whole_file
from rt3d_tvm.package.extras import extra_of

if TYPE_CHECKING:
    import pyopencl

# Package -> the file in it that is a driver. PoCL's package needs nothing: it puts its driver and
# an .icd that is right beside pyopencl's own loader.
PACKAGED = {"intel-opencl-rt": "libintelocl.so"}
_REMEDY = "pip install intel-opencl-rt intel-cmplr-lib-rt"
SYSTEM_FOLDER = Path("/etc/OpenCL/vendors")
# Intel's compiler would put neighbouring work-items into the lanes of its vectors, and take apart
# those that the kernels have: their sums ran 2 to 3 times as long.
_SETTINGS = {"CL_CONFIG_CPU_VECTORIZER_MODE": "1"}
# Kernels need nothing newer: OpenCL C 1.2 is what every Adreno since 2013 has.
_PROBE = "__kernel void probe(__global float *x) { x[get_global_id(0)] = 1.0f; }"
# The process that has asked the drivers for devices.
_used_in: int | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """What is said of an OpenCL device; ``broken`` is why it compiles nothing, or None.

    half: whether it computes in float16 (cl_khr_fp16).
    """

    platform: str
    name: str
    version: str
    driver: str
    units: int
    half: bool
    group_items: int
    local_bytes: int
    broken: str | None

    def __str__(self) -> str:
        return f"{self.name} ({self.platform})"


def packaged_drivers() -> dict[str, Path]:
    """The driver libraries of installed packages, by the package's name."""
    found = {}
    for package, library in PACKAGED.items():
        try:
            listed = files(package) or []
        except PackageNotFoundError:
            continue
        for file in listed:
            if file.name == library:
                found[package] = Path(file.locate()).resolve()
    return found


def icd_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of .icd files for the loader: the system's and the packages'.

    Written under the user's cache folder when there is something new. A folder that the user has
    named in OCL_ICD_VENDORS stays the only one.
    """
    if named := environment.get("OCL_ICD_VENDORS"):
        return Path(named)
    contents = {f"{name}.icd": str(path) for name, path in packaged_drivers().items()}
    if SYSTEM_FOLDER.is_dir():
        for path in sorted(SYSTEM_FOLDER.glob("*.icd")):
            contents[path.name] = path.read_text(encoding="utf-8").strip()
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()[:16]
    folder = cache / "rt3d-tvm" / f"opencl-{digest}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, library in contents.items():
            if not (folder / name).is_file():
                with whole_file(folder / name) as temporary:
                    temporary.write_text(library + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); XDG_CACHE_HOME names another place"
        ) from error
    return folder


def name_drivers() -> None:
    """Tell this process and its children where drivers are, and drivers what kernels expect."""
    os.environ["OCL_ICD_VENDORS"] = str(icd_folder())
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def load_pyopencl():
    """The package pyopencl with the drivers found; InputError where it is not installed.

    And in a fork of a process that has used it.
    """
    check_not_forked()
    name_drivers()
    try:
        import pyopencl
    except ModuleNotFoundError as error:
        raise InputError(
            f"running OpenCL here needs pyopencl: {extra_of('pyopencl').remedy}; on x86-64 "
            f"without a GPU {_REMEDY} makes the CPU a device"
        ) from error
    # It calls whatever a compiler prints a warning; errors are raised with their text.
    warnings.simplefilter("ignore", pyopencl.CompilerWarning)
    return pyopencl


def check_not_forked() -> None:
    """InputError in a fork of a process that has used a driver: it would wait for threads there."""
    if _used_in not in (None, os.getpid()):
        raise InputError(
            f"this process is a fork of {_used_in}, which has used OpenCL, whose drivers do not "
            "survive a fork: start it with multiprocessing's spawn, and load the artifact in it"
        )


def devices() -> list[pyopencl.Device]:
    """Every OpenCL device, in the order of the drivers' names."""
    global _used_in
    cl = load_pyopencl()
    _used_in = os.getpid()
    try:
        platforms = cl.get_platforms()
    except cl.LogicError:  # PLATFORM_NOT_FOUND_KHR
        return []
    found = []
    for platform in platforms:
        try:
            found += platform.get_devices()
        except cl.LogicError:  # DEVICE_NOT_FOUND: a driver without its hardware
            continue
    return found


def describe(device: pyopencl.Device) -> DeviceInfo:
    """What the device says of itself, and whether it compiles a kernel of one line."""
    return DeviceInfo(
        platform=device.platform.name.strip(),
        name=device.name.strip(),
        version=device.version.strip(),
        driver=device.driver_version.strip(),
        units=device.max_compute_units,
        half=has_half(device),
        group_items=device.max_work_group_size,
        local_bytes=device.local_mem_size,
        broken=_why_broken(device),
    )


def has_half(device: pyopencl.Device) -> bool:
    """Whether kernels may compute in float16."""
    return "cl_khr_fp16" in device.extensions.split()


def lacks_half(name: str) -> InputError:
    """What is raised for a device of that name that is to compute in float16 and cannot."""
    return InputError(
        f"{name} has no cl_khr_fp16: it cannot compute in float16; compile and tune for it with "
        "--precision fp32"
    )


def choose_device(wanted: str | None = None, *, half: bool = False) -> pyopencl.Device:
    """The first device whose name or platform contains ``wanted`` and that compiles kernels.

    half: whether it has to compute in float16. InputError names the devices there are, and what
    each lacks.
    """
    lacking = []
    for device in devices():
        info = describe(device)
        if wanted and wanted.lower() not in str(info).lower():
            lacking.append(f"{info} is another")
        elif info.broken:
            lacking.append(f"{info} compiles no kernel: {info.broken}")
        elif half and not info.half:
            lacking.append(f"{info} has no cl_khr_fp16, which float16 needs")
        else:
            return device
    asked = f" called {wanted!r}" if wanted else ""
    there = "; ".join(lacking) or f"there is none; {_REMEDY} makes this CPU one"
    raise InputError(f"no OpenCL device{asked} can run this: {there}")


def _why_broken(device: pyopencl.Device) -> str | None:
    """Why it compiles nothing: an old compiler may not know a new processor."""
    cl = load_pyopencl()
    try:
        cl.Program(cl.Context([device]), _PROBE).build(cache_dir=False)
    except cl.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
        return (lines or [str(error).splitlines()[0]])[0]
    return None
