"""Layers as a search for OpenCL has them, and records that ask for textures."""

from dataclasses import replace

from rt3d_tvm.compile.backends import device_class
from rt3d_tvm.compile.choices.layer import Choice, Layer
from rt3d_tvm.compile.choices.records import TUNED, TunedRecord, share, workload
from rt3d_tvm.compile.choices.space import decisions
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.precision import make_precision
from rt3d_tvm.tune.tasks import extract_tasks
from tests.layers import layer_of
from tests.opencl_cases import one_case
from topi_sparse.cpu.register_tile import Tile

TARGET = make_target("opencl")


def layer(dtype: str = "float32") -> tuple[Layer, object]:
    """A layer as its default tile has it on a CPU's OpenCL, with its data."""
    drawn_case = one_case(Tile(lanes=16, width=12, chunk=8, channels=4), dtype=dtype)
    return layer_of(drawn_case), drawn_case


def write_textures(onnx_path, work, precision: str = "fp32") -> list[TunedRecord]:
    """A work directory whose records ask for a texture for each kernel, and the records."""
    records = []
    for task in extract_tasks(
        lower(import_onnx(onnx_path), Lowering(target=TARGET, precision=make_precision(precision)))
    ):
        variant, conv = replace(task.layer.default, texture=True), task.layer.conv
        taken, _ = decisions(task.layer.definition(variant), TARGET)
        records.append(
            TunedRecord(
                workload=workload(conv),
                share=share(conv),
                device_class=device_class(TARGET),
                choice=Choice(variant=variant, decisions=taken),
                default_ms=2.0,
                tuned_ms=1.0,
                model=onnx_path.name,
                device="a device with textures",
                versions={},
            )
        )
    work.mkdir()
    (work / TUNED).write_text("".join(f"{record.to_json()}\n" for record in records))
    return records
