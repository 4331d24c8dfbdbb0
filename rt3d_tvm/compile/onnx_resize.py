"""Resizes that TVM reads otherwise than ONNX means them, written as weighted sums of Gathers.

TVM's coordinates follow from the two sizes alone. ONNX's follow from the scale that the file gives,
which is another number where a size was rounded; and TVM knows neither antialiasing nor a choice of
axes. What a Resize does along an axis is one matrix, and what ONNX Runtime makes of the identity.

Before::

    y = Resize(x, scales=[1, 1, 1, 1.7], mode="linear")

After::

    y = Mul(Gather(x, i0, axis=3), w0) + Mul(Gather(x, i1, axis=3), w1)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.onnx_fold import computed
from rt3d_tvm.compile.onnx_operators import refuse_nodes

if TYPE_CHECKING:
    import onnx

# Of an axis: the matrix has its square.
_LONGEST = 1 << 13
# Up to so many Gathers are added; more weights for a point are a matrix product.
_MOST_TAPS = 8
_SIZES_BEGIN = 2  # the axes before, of batch and channels, are not resized by TVM
# The ways to find coordinates that TVM has.
_KNOWN = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")


def write_resizes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], path: Path) -> None:
    """Write all Resizes that TVM would not compute as ONNX Runtime does; shapes of all tensors.

    InputError for those with sizes that are computed, crops, or a policy of their own.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, refused = [], []
    for node in model.graph.node:
        if node.op_type != "Resize":
            nodes.append(node)
            continue
        resize = _Resize(node, constants, shapes)
        if (reason := resize.why_not()) is not None:
            refused.append((node, reason))
        elif resize.is_of_tvm():
            nodes.append(resize.without_empty_operands())
        else:
            written = list(resize.written())
            model.graph.initializer.extend(resize.constants)
            nodes += written
    refuse_nodes(refused, path)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class _Resize:
    """One node, its attributes and sizes."""

    def __init__(self, node: onnx.NodeProto, constants: Mapping, shapes: Mapping) -> None:
        from onnx import helper, numpy_helper

        self.node = node
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        operands = [*node.input, "", "", ""][1:4]
        self.computed = [name for name in operands if name and name not in constants]
        given = [numpy_helper.to_array(constants[n]) if n in constants else None for n in operands]
        _, self.scales, self.sizes = (None if g is None or not g.size else g for g in given)
        self.before = list(shapes[node.input[0]])
        self.after = list(shapes[node.output[0]])
        self.axes = [int(axis) % len(self.before) for axis in self.attributes.get("axes", ())]
        self.axes = self.axes or list(range(len(self.before)))
        self.constants: list[onnx.TensorProto] = []

    def text(self, name: str, default: str) -> str:
        return self.attributes.get(name, default.encode()).decode(errors="replace")

    def why_not(self) -> str | None:
        """Why the node is refused, or None."""
        if self.computed:
            return (
                f"Resize with a computed operand {self.computed[0]!r}; constant ones are accepted"
            )
        if self.way == "tf_crop_and_resize":
            return "Resize of a crop (tf_crop_and_resize) is not accepted; Slice and Resize are"
        policy = self.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            return f"Resize with keep_aspect_ratio_policy {policy!r} is not accepted; stretch is"
        longest = max(self.before[axis] for axis in self.axes)
        if longest > _LONGEST and not self.is_of_tvm():
            return f"Resize of an axis of {longest}; up to {_LONGEST} are accepted"
        return None

    @property
    def way(self) -> str:
        return self.text("coordinate_transformation_mode", "half_pixel")

    @property
    def mode(self) -> str:
        return self.text("mode", "nearest")

    def is_of_tvm(self) -> bool:
        """Whether TVM computes it as ONNX Runtime does."""
        rank = len(self.before)
        if "axes" in self.attributes or self.attributes.get("antialias"):
            return False
        if self.way not in _KNOWN or not 3 <= rank <= 5:
            return False
        if (self.mode == "cubic" and rank != 4) or self.attributes.get("exclude_outside"):
            return False
        pairs = list(zip(self.before, self.after, strict=True))
        if any(a != b for a, b in pairs[:_SIZES_BEGIN]):
            return False
        if self.scales is not None and any(
            float(scale) * size != after
            for scale, (size, after) in zip(self.scales, pairs, strict=True)
        ):
            return False
        if self.mode == "nearest" and any(after % size for size, after in pairs):
            return False
        return not (self.way.endswith(("align_corners", "pytorch_half_pixel")) and 1 in self.after)

    def without_empty_operands(self) -> onnx.NodeProto:
        """The node, without what stands for an operand that is not given, as before opset 13."""
        node = type(self.node)()
        node.CopyFrom(self.node)
        for place, value in ((1, None), (2, self.scales), (3, self.sizes)):
            if value is None and place < len(node.input):
                node.input[place] = ""
        return node

    def written(self) -> Iterator[onnx.NodeProto]:
        """The nodes that compute it, axis by axis, those that shrink first."""
        from onnx import helper

        changed = [
            (place, axis)
            for place, axis in enumerate(self.axes)
            if self.before[axis] != self.after[axis] or self.scale(place) != 1
        ]
        changed.sort(key=lambda pair: self.after[pair[1]] / self.before[pair[1]])
        source, output = self.node.input[0], self.node.output[0]
        if not changed:
            yield helper.make_node("Identity", [source], [output], self.node.name)
        for number, (place, axis) in enumerate(changed):
            last = number == len(changed) - 1
            result = output if last else f"{output}:axis{axis}"
            yield from self.along(axis, self.matrix(place, axis), source, result)
            source = result

    def scale(self, place: int) -> float:
        return 1.0 if self.scales is None else float(self.scales[place])

    def matrix(self, place: int, axis: int) -> np.ndarray:
        """What the axis is multiplied by, (size before, size after)."""
        from onnx import TensorProto, helper

        size = self.before[axis]
        skipped = ("axes", "antialias") if not self.attributes.get("antialias") else ("axes",)
        kept = {name: value for name, value in self.attributes.items() if name not in skipped}
        names, feeds = ["x", "", "", "sizes"], {"x": np.eye(size, dtype="float32")[None, None]}
        if self.scales is None:
            feeds["sizes"] = np.array([1, 1, size, self.after[axis]], np.int64)
        else:
            names = ["x", "", "scales"]
            feeds["scales"] = np.array([1, 1, 1, self.scales[place]], np.float32)
        floats, whole = TensorProto.FLOAT, TensorProto.INT64
        graph = helper.make_graph(
            [helper.make_node("Resize", names, ["y"], **kept)],
            "axis",
            [
                helper.make_tensor_value_info(name, whole if name == "sizes" else floats, v.shape)
                for name, v in feeds.items()
            ],
            [helper.make_tensor_value_info("y", floats, None)],
        )
        (found,) = computed(graph, _opset(kept), feeds)
        return found[0, 0]

    def along(
        self, axis: int, matrix: np.ndarray, source: str, result: str
    ) -> Iterator[onnx.NodeProto]:
        """The nodes that multiply one axis by a matrix of few numbers."""
        from onnx import helper

        used = matrix != 0
        taps = max(int(used.sum(axis=0).max()), 1)
        if taps > _MOST_TAPS:
            yield from self.product(axis, matrix, source, result)
            return
        order = np.argsort(~used, axis=0, kind="stable")[:taps]  # those that are used first
        factors = np.take_along_axis(matrix, order, axis=0)
        order = np.where(factors == 0, order[:1], order)
        terms = []
        shape = [-1, *[1] * (len(self.before) - axis - 1)]
        for tap in range(taps):
            term = result if taps == 1 and (factors == 1).all() else f"{result}:tap{tap}"
            index = self.constant(f"{result}:index{tap}", order[tap].astype("int64"))
            yield helper.make_node("Gather", [source, index], [term], axis=axis)
            if term == result:
                return
            factor = self.constant(f"{result}:weight{tap}", factors[tap].reshape(shape))
            scaled = result if taps == 1 else f"{term}:scaled"
            yield helper.make_node("Mul", [term, factor], [scaled])
            terms.append(scaled)
        total = terms[0]
        for tap, term in enumerate(terms[1:], 1):
            name = result if tap == taps - 1 else f"{result}:sum{tap}"
            yield helper.make_node("Add", [total, term], [name])
            total = name

    def product(
        self, axis: int, matrix: np.ndarray, source: str, result: str
    ) -> Iterator[onnx.NodeProto]:
        """The same as a matrix product, with the axis moved to the end and back."""
        from onnx import helper

        rank = len(self.before)
        order = [each for each in range(rank) if each != axis] + [axis]
        back = [order.index(each) for each in range(rank)]
        names = [f"{result}:last", f"{result}:product"]
        factor = self.constant(f"{result}:matrix", matrix)
        yield helper.make_node("Transpose", [source], [names[0]], perm=order)
        yield helper.make_node("MatMul", [names[0], factor], [names[1]])
        yield helper.make_node("Transpose", [names[1]], [result], perm=back)

    def constant(self, name: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name


def _opset(attributes: Mapping[str, object]) -> list[onnx.OperatorSetIdProto]:
    """The first set of operators that has all of the attributes; the second one of Resize."""
    from onnx import helper

    older = attributes.get("coordinate_transformation_mode") == b"tf_half_pixel_for_nn"
    return [helper.make_opsetid("", 11 if older else 19)]
