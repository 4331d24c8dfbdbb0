"""AllocateTextures: memory for every texture of a host function, given back in the end."""

import re

import pytest
import tvm
from tvm import tirx
from tvm.ir import PointerType, PrimType, StringImm

from rt3d_tvm.compile.opencl.allocate_textures import AllocateTextures


def declared() -> tirx.DeclBuffer:
    """A texture that asks for its memory."""
    pointer = PointerType(PrimType("float16"), "global.texture")
    asked = tirx.call_intrin(pointer, "tirx.nd_mem_alloc_with_scope", StringImm("global.texture"))
    buffer = tirx.decl_buffer((8,), "float16", scope="global.texture")
    return tirx.DeclBuffer(buffer, data=asked)


@pytest.mark.parametrize("count", [0, 2])
def test_every_texture_of_a_function_is_given_back(count):
    """And a function without one stays as it is."""
    textures = [declared() for _ in range(count)]
    sequence = tirx.SeqStmt([*textures, tirx.Evaluate(1), tirx.Evaluate(2)])
    body = tirx.AttrStmt("default", "device_id", 0, sequence)
    module = tvm.IRModule({"main": tirx.PrimFunc([], body)})
    changed = AllocateTextures()(module)
    called = re.findall(r"device_api.opencl.(\w+)", changed.script())
    assert called == ["alloc_nd"] * count + ["free_nd"] * count
    if not count:
        tvm.ir.assert_structural_equal(changed, module)


def test_a_texture_of_no_device_is_an_error():
    body = tirx.SeqStmt([declared(), tirx.Evaluate(1)])
    with pytest.raises(ValueError, match="no device to take it from"):
        AllocateTextures()(tvm.IRModule({"main": tirx.PrimFunc([], body)}))
