"""What the multiply-adds of an OpenCL device can do, measured: the scale for useful GFLOP/s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rt3d_tvm.artifact.opencl.drivers import has_half, load_pyopencl
from rt3d_tvm.errors import InputError

if TYPE_CHECKING:
    import pyopencl

# Independent sums a work-item: more than the 8 that two pipes of 4 cycles need. Vectors of them:
# of a GPU's registers, and of a CPU's widest.
_CHAINS, _LANES = 12, (4, 16)
_STEPS, _GROUP_ITEMS, _GROUPS_A_UNIT = 4096, 64, 8
_TYPES = {"float32": "float", "float16": "half"}


def multiply_add_peak(
    device: pyopencl.Device, dtype: str = "float32", *, repeats: int = 5
) -> float:
    """GFLOP/s of multiply-adds of ``dtype`` on registers alone, measured on the device now.

    InputError for float16 on a device that has none.
    """
    cl = load_pyopencl()
    if dtype == "float16" and not has_half(device):
        raise InputError(f"{device.name.strip()} has no cl_khr_fp16: it cannot compute in float16")
    context = cl.Context([device])
    profiling = cl.command_queue_properties.PROFILING_ENABLE
    queue = cl.CommandQueue(context, properties=profiling)
    items = device.max_compute_units * _GROUPS_A_UNIT * _GROUP_ITEMS
    best = 0.0
    for lanes in _LANES:
        program = cl.Program(context, _source(f"{_TYPES[dtype]}{lanes}", dtype)).build()
        values = cl.Buffer(context, cl.mem_flags.READ_WRITE, items * lanes * 4)
        cl.enqueue_fill_buffer(queue, values, b"\0", 0, items * lanes * 4)
        kernel = cl.Kernel(program, "peak")
        kernel.set_args(values)
        flops = 2 * items * lanes * _CHAINS * _STEPS
        for _ in range(repeats):
            event = cl.enqueue_nd_range_kernel(queue, kernel, (items,), (_GROUP_ITEMS,))
            event.wait()
            best = max(best, flops / (event.profile.end - event.profile.start))
    return best


def _source(vector: str, dtype: str) -> str:
    extension = "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n" if dtype == "float16" else ""
    chains = range(_CHAINS)
    start = "\n".join(
        f"  {vector} v{i} = values[get_global_id(0)] + ({vector}){i};" for i in chains
    )
    step = "\n".join(f"    v{i} = mad(v{i}, factor, summand);" for i in chains)
    return f"""{extension}__kernel void peak(__global {vector}* values) {{
{start}
  const {vector} factor = 0.999f, summand = 0.0005f;
  for (int step = 0; step < {_STEPS}; ++step) {{
{step}
  }}
  values[get_global_id(0)] = {" + ".join(f"v{i}" for i in chains)};
}}
"""
