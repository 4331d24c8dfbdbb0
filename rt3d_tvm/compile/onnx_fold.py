"""Constants folded: what depends on no input of a model is a stored tensor, and no operator.

Before::

    shape = Shape(x)                       # of a tensor of fixed shape
    batch = Gather(shape, 0)
    to    = Concat(Unsqueeze(batch), [-1])
    y     = Reshape(x, to)

After::

    y     = Reshape(x, to)                 # to is an initializer

Sizes are asked of ONNX's shape inference first, and refused where they are beyond the limits; the
values are computed by ONNX Runtime, and only those that somebody reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.limits import check_computed, itemsize
from rt3d_tvm.compile.onnx_file import invalid, read_by

if TYPE_CHECKING:
    import onnx

# What a constant may have so that shapes are inferred from its values: all that says a shape has.
_MOST_FOR_SHAPES = 1024
# The passes for 8-bit layers look for these before their weights.
_KEPT = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# Other numbers each time.
_RANDOM = (
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
    *("Multinomial", "Bernoulli"),
)
# Of the files that ONNX Runtime is given: every release of the last years reads it.
_IR_VERSION = 10
# They have at most as many numbers as what they read has axes, for each of its elements.
_UNKNOWN_SIZES = ("NonZero", "Compress", "Unique")


def fold_constants(model: onnx.ModelProto, path: Path) -> None:
    """Put initializers in place of all that depends on no input of the model, in place.

    Shapes are fixed ones by then, or those that depend on them stay. Left as they are, too:
    conversions from and to 8 bits, and what ONNX Runtime does not compute. InputError where the
    constants take more memory than is allowed.
    """
    _Folder(model, path).fold()


class _Folder:
    """Walks a graph in order, and knows of each tensor its type, and whether it is a constant."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self.model, self.graph, self.path = model, model.graph, path
        self.opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
        self.types: dict[str, onnx.TypeProto] = {v.name: v.type for v in self.graph.input}
        self.stored: dict[str, onnx.TensorProto] = {}  # constants whose values are known
        self.pending: dict[str, onnx.NodeProto] = {}  # what computes the others
        self.computed_bytes = 0
        self.nodes: list[onnx.NodeProto] = []  # all, with those of branches that are taken

    def fold(self) -> None:
        """Fold the graph."""
        own = {tensor.name for tensor in self.graph.initializer}
        for tensor in self.graph.initializer:
            self._store(tensor.name, tensor)
        kept = self._kept(self.graph.node)
        read = {value.name for value in self.graph.output}
        read.update(name for node in kept for name in read_by(node))
        self._compute([name for name in self.pending if name in read])
        left = {id(node) for name in self.pending if name in read for node in self._sources(name)}
        left.update(map(id, kept))
        nodes = [_copy(node) for node in self.nodes if id(node) in left]
        read.update(name for node in nodes for name in read_by(node))
        new = [self.stored[name] for name in sorted(read - own) if name in self.stored]
        inputs = [_copy(value) for value in self.graph.input if value.name not in own - read]
        for index in reversed(range(len(self.graph.initializer))):
            if self.graph.initializer[index].name not in read:
                del self.graph.initializer[index]
        self.graph.initializer.extend(new)
        for field, those in ((self.graph.node, nodes), (self.graph.input, inputs)):
            del field[:]
            field.extend(those)

    def _kept(self, nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """Those that are not folded; in place of an If, of which it is known, the branch taken."""
        kept = []
        for node in nodes:
            branch = self._branch(node)
            if branch is not None:
                kept += self._kept(branch)
                continue
            self.nodes.append(node)
            if not self._is_constant(node):
                kept.append(node)
        return kept

    def _branch(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """The nodes that an If runs, where its condition is a constant."""
        from onnx import helper, numpy_helper

        if node.op_type != "If" or node.domain not in ("", "ai.onnx"):
            return None
        self._compute([name for name in node.input if name in self.pending])
        if node.input[0] not in self.stored:
            return None
        taken = bool(numpy_helper.to_array(self.stored[node.input[0]]).item())
        name = "then_branch" if taken else "else_branch"
        (graph,) = (each.g for each in node.attribute if each.name == name)
        for tensor in graph.initializer:
            self._store(tensor.name, tensor)
        results = zip(graph.output, node.output, strict=True)
        return [
            *graph.node,
            *(helper.make_node("Identity", [inner.name], [outer]) for inner, outer in results),
        ]

    def _store(self, name: str, tensor: onnx.TensorProto) -> None:
        from onnx import helper

        self.stored[name] = tensor
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        """Whether a node is folded; what it gives is known from here on."""
        if node.domain not in ("", "ai.onnx") or not node.output:
            return False
        if node.op_type == "Constant":
            if [attribute.name for attribute in node.attribute] == ["value"]:
                self._store(node.output[0], _named(node.attribute[0].t, node.output[0]))
            return node.output[0] in self.stored
        if node.op_type in ("Shape", "Size") and self._has_known_shape(node):
            return True
        known = [name for name in node.input if name]
        types = self._inferred(node)
        self.types.update(types)
        if (
            not types
            or node.op_type in (*_KEPT, *_RANDOM)
            or any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
            or not all(name in self.stored or name in self.pending for name in known)
            or self._is_of_8_bits(node)
        ):
            return False
        size = self._bytes(node, types)
        if size is None:
            return False
        self.computed_bytes += size
        check_computed(self.computed_bytes, node, self.path)
        names = [name for name in node.output if name]
        self.pending.update(dict.fromkeys(names, node))
        if node.op_type in _UNKNOWN_SIZES:  # what follows from it has no shape before it is known
            self._compute(names)
        return True

    def _has_known_shape(self, node: onnx.NodeProto) -> bool:
        dims = _dims(self.types.get(node.input[0])) if node.input else None
        if dims is None:
            return False
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        part = dims[numbers.get("start", 0) : numbers.get("end", len(dims))]
        value = np.array(part if node.op_type == "Shape" else prod(dims), np.int64)
        self._store(node.output[0], _tensor(node.output[0], value))
        return True

    def _is_of_8_bits(self, node: onnx.NodeProto) -> bool:
        """Whether it makes real numbers of a quantised weight, as before opset 13 for each axis."""
        from onnx import TensorProto

        if node.op_type != "Cast":
            return False
        source = self.types.get(node.input[0])
        quantised = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)
        to = {attribute.name: attribute.i for attribute in node.attribute}.get("to")
        return (
            source is not None
            and source.tensor_type.elem_type in quantised
            and to == TensorProto.FLOAT
        )

    def _inferred(self, node: onnx.NodeProto) -> dict[str, onnx.TypeProto]:
        """The types of what a node gives, as far as they follow from what it reads."""
        import onnx

        known = [name for name in node.input if name]
        if not self.types.keys() >= set(known):
            return {}
        types = {name: self.types[name] for name in known}
        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets["ai.onnx"], "")
            return onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                types,
                {name: value for name in known if (value := self._small(name)) is not None},
                opset_imports=list(self.model.opset_import),
                ir_version=self.model.ir_version,
            )
        except (onnx.defs.SchemaError, *invalid()):
            return {}  # what is wrong with it is found by ONNX's checker

    def _small(self, name: str) -> onnx.TensorProto | None:
        """The value of a constant that can be a shape; it is computed where it is not yet."""
        dims = _dims(self.types.get(name))
        if dims is None or prod(dims) > _MOST_FOR_SHAPES:
            return None
        if name in self.pending:
            self._compute([name])
        return self.stored.get(name)

    def _bytes(self, node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]) -> int | None:
        """At most so many bytes a constant has; None where that is not known before."""
        if node.op_type in _UNKNOWN_SIZES:
            read = _dims(self.types.get(node.input[0]))
            return None if read is None else 8 * max(len(read), 1) * prod(read) * len(node.output)
        total = 0
        for name in node.output:
            dims = _dims(types.get(name)) if name else []
            if dims is None:
                return None
            total += prod(dims) * itemsize(types[name].tensor_type.elem_type) if name else 0
        return total

    def _compute(self, names: Sequence[str]) -> None:
        """Store the values of pending constants, as far as ONNX Runtime computes them."""
        for wanted in (names, *([name] for name in names)):
            missing = [name for name in wanted if name in self.pending]
            if not missing:
                continue
            for name, value in self._run(missing).items():
                self._store(name, _tensor(name, value))
                del self.pending[name]

    def _run(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The values of constants by ONNX Runtime; nothing where it refuses."""
        from onnx import helper, numpy_helper

        sources = {id(node): node for name in names for node in self._sources(name)}
        nodes = [node for node in self.nodes if id(node) in sources]
        given = {name for node in nodes for name in node.output}
        leaves = {name for node in nodes for name in node.input if name} - given
        graph = helper.make_graph(
            nodes,
            "constants",
            [helper.make_value_info(name, self.types[name]) for name in sorted(leaves)],
            [helper.make_value_info(name, self.types[name]) for name in names],
        )
        feeds = {name: numpy_helper.to_array(self.stored[name]) for name in leaves}
        return dict(zip(names, computed(graph, self.model.opset_import, feeds), strict=False))

    def _sources(self, name: str) -> list[onnx.NodeProto]:
        """The pending nodes that a constant follows from."""
        found: dict[int, onnx.NodeProto] = {}
        waiting = [name]
        while waiting:
            node = self.pending.get(waiting.pop())
            if node is not None and id(node) not in found:
                found[id(node)] = node
                waiting += node.input
        return list(found.values())


def computed(
    graph: onnx.GraphProto,
    opsets: Iterable[onnx.OperatorSetIdProto],
    feeds: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """What ONNX Runtime makes of a graph, on one thread; nothing where it refuses it."""
    import onnxruntime
    from onnx import helper
    from onnxruntime.capi import onnxruntime_pybind11_state as refusals

    model = helper.make_model(graph, opset_imports=list(opsets), ir_version=_IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, dict(feeds))
    except (
        refusals.Fail,
        refusals.InvalidArgument,
        refusals.InvalidGraph,
        refusals.NotImplemented,
        refusals.RuntimeException,
        RuntimeError,
        ValueError,
    ):
        return []


def _dims(kind: onnx.TypeProto | None) -> list[int] | None:
    """The shape of a tensor, where it is known and fixed."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    fixed = all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims)
    return [dim.dim_value for dim in dims] if fixed else None


def _tensor(name: str, value: np.ndarray) -> onnx.TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(value, order="C"), name)


def _named(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    copy = _copy(tensor)
    copy.name = name
    return copy


def _copy(message):
    """One that does not go with the field that it is of."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
