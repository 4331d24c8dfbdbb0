"""The side of a session with a device that blocks: runs in a process that `remote` can end.

One process holds one session; its state is this module's, because each call comes by itself. The
device may be this machine: then a kernel that crashes or hangs takes this process with it only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tvm
from tvm import relax, rpc

from rt3d_tvm.artifact.batches import MAIN
from rt3d_tvm.artifact.format import MODEL, ArtifactFiles
from rt3d_tvm.artifact.threads import set_threads
from rt3d_tvm.devices import probes
from rt3d_tvm.devices.processor import Processor, read_processor, read_temperatures
from rt3d_tvm.devices.worker import ignore_interrupts
from rt3d_tvm.errors import InputError

# The affinity mode of TVM's thread pool that takes the fastest cores first.
_BIG_CORES = 1
# What stands in TVM's message, and what it means.
_SHUT_DOWN = "code=kShutdown"
ENDED = "the session ended there: its process died, or the connection was lost"


@dataclass
class _Model:
    """An artifact on ``device``, cores or GPU; its last run was of this function and arguments."""

    vm: relax.VirtualMachine
    device: tvm.runtime.Device
    weights: list[tvm.runtime.Tensor] = field(default_factory=list)
    function: str = MAIN
    arguments: tuple = ()


@dataclass
class _Session:
    """What this process holds on the device; ``device`` is what its kernels run on.

    half: what was found of the GPU's float16, once it was tried.
    """

    rpc: rpc.RPCSession
    device: tvm.runtime.Device
    processor: Processor | None = None
    half: tuple[bool | None, ...] = ()
    models: list[_Model] = field(default_factory=list)
    tensors: dict[str, tvm.runtime.Tensor] = field(default_factory=dict)
    libraries: int = 0


_held: _Session | None = None


def guarded(function: Callable, *args: object) -> tuple[object, str | None]:
    """The value of a call, or the error it ended with in one line."""
    try:
        return function(*args), None
    except (RuntimeError, InputError, OSError, ValueError) as error:
        return None, _reason(error)


def prepare() -> None:
    """Whoever returns from here has imported TVM, which takes longer than a match key.

    From then on Ctrl-C is the affair of the process that started this one, and ends it.
    """
    ignore_interrupts()


def connect(host: str, port: int, match_key: str, session_s: float) -> None:
    """Open the session; the server ends it after ``session_s``, should this side be gone."""
    global _held
    session = rpc.connect(host, port, match_key, session_timeout=session_s)
    _held = _Session(session, session.cpu())


def connect_here(threads: int) -> None:
    """Let this machine be the device."""
    global _held
    logging.getLogger("RPCServer").setLevel(logging.WARNING)  # it tells of every library
    set_threads(threads)
    session = rpc.LocalSession()
    _held = _Session(session, session.cpu())


def processor() -> Processor:
    """The device's processor."""
    _held.processor = _held.processor or read_processor(_read)
    return _held.processor


def temperatures() -> dict[str, float]:
    """The device's temperatures."""
    return read_temperatures(_read)


def use_opencl() -> str:
    """Run kernels on the device's GPU from now on; its name. InputError where there is none."""
    _held.device = _opencl()
    return _gpu_name(_held.device)


def gpu() -> tuple[str, bool | None]:
    """The name of the device's GPU, and whether it computes in float16. InputError as above.

    None where no kernel of ours gets there to find out.
    """
    return _gpu_name(_opencl()), _computes_half()


def describe() -> tuple[Processor, int | None, tuple[str | None, bool | None], dict, float]:
    """Processor, bytes of memory, what `gpu` says, temperatures, seconds of an empty call."""
    found = processor()
    threads = _held.rpc.get_function("runtime.NumThreads")
    started = time.perf_counter()
    threads()
    answer_s = time.perf_counter() - started
    on_gpu: tuple[str | None, bool | None]
    try:
        on_gpu = gpu()
    except (InputError, tvm.error.RPCError):
        on_gpu = None, None
    return found, probes.memory(found, _loaded, _held.rpc.cpu()), on_gpu, temperatures(), answer_s


def upload(folder: Path, threads: int | None) -> tuple[int, int | None, str | None]:
    """Put an artifact on the device and load it; the weights are copied once, into place.

    threads: None for an artifact of OpenCL. Returns the number that `run` knows it by, how many
    threads will run it, or else the name of the GPU that will. InputError, before anything gets
    there, for files that are damaged or do not belong together.
    """
    files = ArtifactFiles.open(folder)
    files.code()
    _, weights = files.weights()
    on_gpu, cores = threads is None, _held.rpc.cpu()
    device = _opencl() if on_gpu else cores  # before its kernels get there: nothing would load them
    library = _loaded(files.folder / MODEL)
    # Before anything runs: TVM makes its threads when it needs the first.
    running = None if on_gpu else use_threads(threads)
    model = _Model(relax.VirtualMachine(library, [device, cores] if on_gpu else cores), device)
    for value in weights:
        tensor = tvm.runtime.empty(value.shape, str(value.dtype), device)
        model.weights.append(tensor.copyfrom(value))
    _held.models.append(model)
    return len(_held.models) - 1, running, _gpu_name(device) if on_gpu else None


def run(number: int, taken: Sequence[np.ndarray], outputs: int, function: str) -> list[np.ndarray]:
    """The outputs of a model's function, so many; the inputs stay on the device for `timed_run`."""
    model = _held.models[number]
    tensors = [tvm.runtime.empty(x.shape, str(x.dtype), model.device).copyfrom(x) for x in taken]
    model.arguments, model.function = (*tensors, *model.weights), function
    if outputs == 1:
        return [model.vm[function](*model.arguments).numpy()]
    # A tuple is no value that TVM's RPC sends: the virtual machine there keeps it.
    model.vm.set_input(function, *model.arguments)
    model.vm.invoke_stateful(function)
    return [each.numpy() for each in model.vm.get_outputs(function)]


def timed_run(number: int) -> float:
    """Seconds of one run on the input of the model's last `run`, by the device's clock.

    On a GPU those of its kernels alone: TVM's timer for OpenCL adds up what its events say.
    """
    model = _held.models[number]
    timer = model.vm.module.time_evaluator(model.function, model.device, number=1, repeat=1)
    return timer(*model.arguments).results[0]


def use_threads(threads: int) -> int:
    """Run kernels on that many threads, the fastest cores first; as many as the server has.

    Returns how many these are.
    """
    _held.rpc.get_function("runtime.config_threadpool")(_BIG_CORES, threads)
    return int(_held.rpc.get_function("runtime.NumThreads")())


def put(name: str, value: np.ndarray) -> None:
    """A tensor on the device, for `time_kernels` to name."""
    allocate(name, value.shape, str(value.dtype))
    _held.tensors[name].copyfrom(value)


def allocate(name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Room for a tensor on the device, for `time_kernels` to name."""
    _held.tensors[name] = tvm.runtime.empty(shape, dtype, _held.device)


def drop(names: Collection[str]) -> None:
    """Free the tensors of those names."""
    for name in names:
        _held.tensors.pop(name, None)


def time_kernels(
    kernels: Sequence[tuple[Path, tuple[str, ...]]], *, turns: int, repeats: int, min_repeat_ms: int
) -> list[list[float]]:
    """Seconds of each run of each kernel, by the device's clock, the kernels in turns.

    A kernel is a library whose function ``main`` takes the tensors of those names.
    """
    timers = []
    for path, names in kernels:
        library = _loaded(path)
        timer = library.time_evaluator(
            "main", _held.device, number=1, repeat=repeats, min_repeat_ms=min_repeat_ms
        )
        timers.append((library["main"], timer, [_held.tensors[name] for name in names]))
    for function, _, tensors in timers:
        function(*tensors)  # makes threads and pages
    seconds: list[list[float]] = [[] for _ in timers]
    for _ in range(turns):
        for taken, (_, timer, tensors) in zip(seconds, timers, strict=True):
            taken.extend(timer(*tensors).results)
    return seconds


def run_kernel(path: Path, names: tuple[str, ...]) -> np.ndarray:
    """The last tensor after a run of a kernel, which starts out as NaN.

    Integers have none: theirs starts out at random, so that what a kernel leaves out differs.
    """
    tensors = [_held.tensors[name] for name in names]
    shape, dtype = tensors[-1].shape, np.dtype(str(tensors[-1].dtype))
    if dtype.kind == "f":
        start = np.full(shape, np.nan, dtype)
    else:
        limits = np.iinfo(dtype)
        start = np.random.default_rng().integers(limits.min, limits.max, shape, dtype, True)
    tensors[-1].copyfrom(start)
    _loaded(path)["main"](*tensors)
    return tensors[-1].numpy()


def _opencl() -> tvm.runtime.Device:
    """The device's GPU; InputError where TVM's runtime there knows none."""
    gpu = _held.rpc.device("opencl")
    if not gpu.exist:
        raise InputError(
            "TVM's runtime there has no OpenCL, or finds no GPU; docs/phone.md, part 6, says how "
            "to build one that has it"
        )
    return gpu


def _gpu_name(gpu: tvm.runtime.Device) -> str:
    """What tells it from others: drivers give one name to all GPUs of a family."""
    units, driver = gpu.multi_processor_count, gpu.driver_version
    return f"{gpu.device_name.strip()}, {units} units, driver {driver.strip()}"


def _loaded(path: Path) -> tvm.runtime.Module:
    """A library, brought to the device and loaded there; its file is removed at once."""
    _held.libraries += 1
    # A name of its own: loaders know libraries by their names.
    name = f"library{_held.libraries}.so"
    _held.rpc.upload(str(path), name)
    library = _held.rpc.load_module(name)
    _held.rpc.remove(name)
    return library


def _read(path: str) -> str | None:
    """The text of a file on the device; None where it cannot be read."""
    try:
        data = _held.rpc.download(path)
    except tvm.error.RPCError:
        return None
    # /sys says that its files are as long as a page; what they do not fill comes back as zeros.
    return bytes(data).rstrip(b"\0").decode("utf-8", errors="replace")


def _computes_half() -> bool | None:
    """Whether the GPU computes in float16; None where no kernel of ours gets there to find out."""
    if not _held.half:
        found, on_gpu = processor(), _opencl()
        half = probes.computes("float16", found, _loaded, on_gpu)
        known = half or probes.computes("float32", found, _loaded, on_gpu)
        _held.half = (half if known else None,)
    return _held.half[0]


def _reason(error: Exception) -> str:
    """What TVM's message says, without the trace of the other side."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("File ", "Stack trace", "Error caught"))]
    reason = (told or lines or [type(error).__name__])[-1]
    return ENDED if _SHUT_DOWN in reason else reason
