"""How TVM lowers kernels to OpenCL C: as for an Adreno, which has textures."""

from __future__ import annotations

import tvm
from tvm.s_tir.backend.adreno.pipeline import default_tir_pipeline
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from rt3d_tvm.compile.opencl.allocate_textures import AllocateTextures
from rt3d_tvm.compile.opencl.exact_constants import ExactConstants
from rt3d_tvm.compile.opencl.vector_conditions import VectorConditions

# tvm.tirx.build takes no pipeline but by a name.
_NAME = "rt3d_opencl"


def tir_pipeline() -> str:
    """The name of the pipeline that lowers kernels to OpenCL C, for tvm.tirx.build.

    TVM's own one called "adreno" is the first of these three steps, where tirx.build asks for all;
    and what it makes of a texture inside a function, the next step refuses (see AllocateTextures).
    """
    register_tir_pipeline(
        _NAME, lambda: (default_tir_pipeline(), _finalize_host_passes, _finalize_device_passes)
    )
    return _NAME


def _finalize_host_passes() -> tvm.transform.Pass:
    return tvm.transform.Sequential([AllocateTextures(), finalize_host_passes()])


def _finalize_device_passes() -> tvm.transform.Pass:
    return tvm.transform.Sequential(
        [finalize_device_passes(), VectorConditions(), ExactConstants()]
    )
