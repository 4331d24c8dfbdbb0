"""Every tensor on the way through an ONNX file, as ONNX Runtime computes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from rt3d_tvm.artifact.verify import reference_session
from rt3d_tvm.compile.onnx_quantized import constant_tensors, write_as_qdq
from rt3d_tvm.files.staging import scratch_folder
from rt3d_tvm.numerics.distance import relative_distance


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferenceTensor:
    """A tensor of the file; one of 8 bits stands for scale * (value - zero_point)."""

    value: np.ndarray
    zero_point: int = 0

    def like(self, result: np.ndarray) -> bool:
        """Whether a kernel's result may be this tensor: numbers of 8 bits both, or neither."""
        return is_8_bit(result.dtype) == is_8_bit(self.value.dtype)

    def distance(self, result: np.ndarray) -> float:
        """The largest difference to a result of this shape, over the tensor's largest value.

        A target stores 8 bits in the type of its instructions, which may be the file's other one:
        the same numbers, 128 apart.
        """
        if not is_8_bit(self.value.dtype):
            return relative_distance(result, self.value)
        moved = np.iinfo(self.value.dtype).min - np.iinfo(result.dtype).min
        own = self.value.astype("int32") - self.zero_point
        return relative_distance(result.astype("int32") + moved - self.zero_point, own)


class ReferenceGraph:
    """An ONNX file; operators on 8-bit tensors are written as plain ones between conversions."""

    def __init__(self, onnx_path: Path) -> None:
        self._model = onnx.load(onnx_path)
        write_as_qdq(self._model, onnx_path)
        self._makers = {
            name: node for node in self._model.graph.node for name in node.output if name
        }
        self._constants = constant_tensors(self._model)

    def behind(self, tensor: str, layers: Set[str]) -> list[str]:
        """A layer's own tensor and all that is made of it before other layers' tensors."""
        found = [tensor]
        for node in self._model.graph.node:
            if any(name in found for name in node.input) and layers.isdisjoint(node.output):
                found.extend(name for name in node.output if name)
        return found

    def of_8_bits(self, tensor: str) -> bool:
        """Whether a tensor holds 8-bit numbers."""
        return self._quantizer(tensor) is not None

    def computed(
        self, names: Collection[str], taken: Sequence[np.ndarray], *, optimised: bool
    ) -> dict[str, ReferenceTensor]:
        """Tensors of those names for a model's inputs.

        ``optimised``: whether ONNX Runtime may compute quantised layers on integers, as it does
        where none of the tensors lies within one.
        """
        whole = onnx.ModelProto()
        whole.CopyFrom(self._model)
        del whole.graph.output[:]
        whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        with scratch_folder("rt3d-layers-") as scratch:
            path = scratch / "tensors.onnx"
            onnx.save(whole, path)
            session = reference_session(path, optimised=optimised)
            inputs = [each.name for each in session.get_inputs()]
            values = session.run(list(names), dict(zip(inputs, taken, strict=True)))
        return {
            name: ReferenceTensor(value=value, zero_point=self._zero_point(name))
            for name, value in zip(names, values, strict=True)
        }

    def _quantizer(self, tensor: str) -> onnx.NodeProto | None:
        """The QuantizeLinear whose numbers a tensor holds: its own, or those moved or picked."""
        while (node := self._makers.get(tensor)) is not None:
            if node.op_type == "QuantizeLinear":
                return node
            if node.op_type in _LEAVES_8_BITS or not node.input:
                return None
            tensor = node.input[0]
        return None

    def _zero_point(self, tensor: str) -> int:
        node = self._quantizer(tensor)
        if node is None or len(node.input) < 3 or node.input[2] not in self._constants:
            return 0
        return int(numpy_helper.to_array(self._constants[node.input[2]]).reshape(-1)[0])


# What makes other numbers of 8-bit ones.
_LEAVES_8_BITS = ("DequantizeLinear", "Cast", "ConvInteger", "MatMulInteger")


def is_8_bit(dtype: np.dtype) -> bool:
    """Whether numbers are stored in 8 bits."""
    return dtype.kind in "iu" and dtype.itemsize == 1
