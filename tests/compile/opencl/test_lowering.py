"""What TVM makes of a function with a texture of its own."""

import re

from tvm import tirx
from tvm.tirx.build import split_host_device_mods

from rt3d_tvm.compile.backends import backend_of
from rt3d_tvm.compile.choices.space import built, decisions
from rt3d_tvm.compile.opencl.lowering import tir_pipeline
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.tune.builder import Builder
from tests.opencl_cases import one_case


def test_only_opencl_has_textures():
    names = ("x86-64-avx2", "opencl", "adreno")
    cpu, *gpus = (backend_of(make_target(name)).tir_pipeline() for name in names)
    assert cpu == "default"
    assert gpus == [tir_pipeline()] * 2


def test_a_texture_is_there_before_the_first_kernel_and_given_back_after_the_last():
    target, conv = make_target("opencl"), one_case(texture=True).conv
    lower, finalize_host, _ = tirx.get_tir_pipeline(tir_pipeline())
    module = built(conv, decisions(conv, target)[0], target)
    host, _ = split_host_device_mods(lower(tirx.transform.BindTarget(target)(module)))
    called = re.findall(r'call_packed_lowered\("([^"]+)"', finalize_host()(host).script())
    kernels = ["main_kernel", "main_kernel_1", "main_kernel_2"]
    assert [name for name in called if name in kernels] == kernels
    runtime = [name for name in called if name.startswith("device_api.opencl")]
    assert runtime == ["device_api.opencl.alloc_nd", "device_api.opencl.free_nd"]
    assert called.index(runtime[0]) < called.index(kernels[1])
    assert called[-1] == runtime[1]


def test_a_library_holds_both_ways_to_read_the_input(tmp_path):
    target = make_target("opencl")
    kernels = [one_case(texture=texture).conv for texture in (False, True)]
    with Builder(target, tmp_path) as builder:
        listed = builder.build([(conv, decisions(conv, target)[0]) for conv in kernels])
        buffer, texture = (path.read_bytes() for path in listed)
    for name in (b"device_api.opencl.alloc_nd", b"device_api.opencl.free_nd", b"image2d_array_t"):
        assert name in texture
        assert name not in buffer
