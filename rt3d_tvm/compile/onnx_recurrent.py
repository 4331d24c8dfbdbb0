"""Recurrent layers, of which TVM's importer knows none, written out step by step.

Before::

    Y, Y_h = GRU(X, W, R, B)                    # X (T, B, I)

After, for each direction::

    gates = MatMul(Reshape(X, (T * B, I)), W')  # one layer for all steps
    h = Tanh(...)                               # T times: a product with R' and single values
    Y = Concat(h of each step)

The number of steps is a part of the shape, so it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rt3d_tvm.compile.onnx_operators import refuse_nodes

if TYPE_CHECKING:
    import onnx

# Its gates, and the activations that it has by default.
_KINDS: dict[str, tuple[int, tuple[bytes, ...]]] = {
    "GRU": (3, (b"Sigmoid", b"Tanh")),
    "LSTM": (4, (b"Sigmoid", b"Tanh", b"Tanh")),
    "RNN": (1, (b"Tanh",)),
}
_ACTIVATIONS = (b"Sigmoid", b"Tanh", b"Relu")
_DIRECTIONS = {b"forward": (1,), b"reverse": (-1,), b"bidirectional": (1, -1)}
# Each step is code of its own.
_MOST_STEPS = 256


def write_recurrent(model: onnx.ModelProto, shapes: dict[str, list[int]], path: Path) -> None:
    """Write all GRU, LSTM and RNN as other operators; the shapes of layers' operands are added.

    InputError for weights that are computed, lengths of sequences, and rare attributes.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, refused = [], []
    for node in model.graph.node:
        if node.op_type not in _KINDS:
            nodes.append(node)
            continue
        layer = _Recurrent(node, constants, shapes)
        if (reason := layer.why_not()) is not None:
            refused.append((node, reason))
            continue
        nodes += layer.written()
        model.graph.initializer.extend(layer.constants)
    refuse_nodes(refused, path)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class _Recurrent:
    """One node; what is emitted is collected in ``nodes`` and ``constants``."""

    def __init__(self, node: onnx.NodeProto, constants: dict, shapes: dict) -> None:
        from onnx import helper, numpy_helper

        self.node, self.shapes = node, shapes
        self.attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.count, self.defaults = _KINDS[node.op_type]
        self.operands = [*node.input, *[""] * 8][:8]
        self.given = [
            numpy_helper.to_array(constants[name]) if name in constants else None
            for name in self.operands
        ]
        self.directions = _DIRECTIONS.get(self.attributes.get("direction", b"forward"), ())
        self.name = next(name for name in node.output if name)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    @property
    def activations(self) -> list[bytes]:
        """Those of all directions, one after the other."""
        return list(self.attributes.get("activations") or [*self.defaults] * len(self.directions))

    def why_not(self) -> str | None:
        """Why the node is refused, or None."""
        kind, (x, weight, hidden, bias, lengths) = self.node.op_type, self.operands[:5]
        if any(self.given[i] is None for i, name in ((1, weight), (2, hidden), (3, bias)) if name):
            return f"{kind} with weights that are computed; constant ones are accepted"
        if lengths:
            return f"{kind} with lengths of sequences is not accepted; ones of all steps are"
        if not self.directions or any(each not in _ACTIVATIONS for each in self.activations):
            known = ", ".join(each.decode() for each in _ACTIVATIONS)
            return f"{kind} with a direction or activation that is unknown here; {known} are known"
        for name in ("clip", "input_forget", "layout", "activation_alpha", "activation_beta"):
            if self.attributes.get(name):
                return f"{kind} with {name} is not accepted"
        if kind == "LSTM" and self.operands[7]:
            return "LSTM with peepholes is not accepted"
        if self.shapes[x][0] > _MOST_STEPS:
            return f"{kind} of {self.shapes[x][0]} steps; up to {_MOST_STEPS} are accepted"
        return None

    def written(self) -> list[onnx.NodeProto]:
        """The nodes that compute it."""
        steps, batch, _ = self.shapes[self.operands[0]]
        of_all, lasts, cells = [], [], []
        for number, way in enumerate(self.directions):
            states = self.direction(number, way)
            lasts.append(states[-1][0])
            cells.append(states[-1][-1])
            in_time = [state[0] for state in states][::way]
            joint = self.emit("Concat", in_time, axis=0)
            of_all.append(self.reshaped(joint, (steps, 1, batch, -1)))
        results = [(of_all, 1), (lasts, 0), (cells, 0)]
        for name, (parts, axis) in zip(self.node.output, results, strict=False):
            if name:
                self.emit("Concat", parts, output=name, axis=axis)
        return self.nodes

    def direction(self, number: int, way: int) -> list[tuple[str, ...]]:
        """What each step leaves, in the order of computation: h, and of an LSTM its cell."""
        steps, batch, inputs = self.shapes[self.operands[0]]
        _, weight, hidden, bias = (None if v is None else v[number] for v in self.given[:4])
        size = weight.shape[0] // self.count
        biases = np.zeros((2, len(weight)), weight.dtype) if bias is None else bias.reshape(2, -1)
        apart = self.node.op_type == "GRU" and self.attributes.get("linear_before_reset", 0)
        before, within = biases[0].copy(), biases[1].copy()
        kept = 2 * size if apart else len(weight)  # what may be added to all steps at once
        before[:kept] += within[:kept]
        flat = self.reshaped(self.operands[0], (steps * batch, inputs))
        factor = self.constant(f"W{number}", np.ascontiguousarray(weight.T))
        self.shapes |= {flat: [steps * batch, inputs], factor: list(weight.T.shape)}
        gates = self.emit("MatMul", [flat, factor], label=f"{self.node.name}:{number}")
        gates = self.emit("Add", [gates, self.constant(f"B{number}", before)])
        gates = self.reshaped(gates, (steps, batch, len(weight)))
        step = _Step(self, hidden, within[2 * size :] if apart else None, number)
        state = tuple(
            self.begin(place, number, (1, batch, size))
            for place in ((5, 6) if self.node.op_type == "LSTM" else (5,))
        )
        states = []
        for place in range(steps)[::way]:
            now = self.part(gates, place, place + 1, axis=0)
            state = step.after(now, state)
            states.append(state)
        return states

    def begin(self, operand: int, number: int, shape: tuple[int, ...]) -> str:
        """The state before the first step."""
        if not self.operands[operand]:
            return self.constant(f"start{number}_{operand}", np.zeros(shape, "float32"))
        return self.part(self.operands[operand], number, number + 1, axis=0)

    def activation(self, number: int, which: int, name: str) -> str:
        kind = self.activations[number * len(self.defaults) + which].decode()
        return self.emit(kind, [name])

    def part(self, name: str, begin: int, end: int, *, axis: int) -> str:
        sides = (("begin", begin), ("end", end), ("axis", axis))
        names = [self.constant(f"{what}_{n}", np.array([n], np.int64)) for what, n in sides]
        return self.emit("Slice", [name, *names])

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        text = "x".join(map(str, shape))
        return self.emit("Reshape", [name, self.constant(text, np.array(shape, np.int64))])

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        output: str = "",
        label: str = "",
        **attributes: object,
    ) -> str:
        """The name of what a new node gives."""
        from onnx import helper

        output = output or f"{self.name}:{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], label, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        """The name of a constant, which is made once."""
        from onnx import numpy_helper

        name = f"{self.name}:{name}"
        if all(each.name != name for each in self.constants):
            self.constants.append(numpy_helper.from_array(value, name))
        return name


class _Step:
    """One step of a direction: its state from that of before and its gates (1, B, gates x size).

    ``within``: the bias of a GRU's last gate where the reset follows the product.
    """

    def __init__(
        self, layer: _Recurrent, hidden: np.ndarray, within: np.ndarray | None, number: int
    ) -> None:
        self.layer, self.number, self.size = layer, number, hidden.shape[1]
        self.after: Callable[[str, tuple[str, ...]], tuple[str, ...]] = getattr(
            self, layer.node.op_type.lower()
        )
        whole = np.ascontiguousarray(hidden.T)
        self.within = None if within is None else layer.constant(f"b{number}", within)
        if layer.node.op_type == "GRU" and within is None:  # the last gate reads another state
            rest = np.ascontiguousarray(whole[:, 2 * self.size :])
            self.rest = layer.constant(f"R{number}n", rest)
            whole = np.ascontiguousarray(whole[:, : 2 * self.size])
        self.hidden = layer.constant(f"R{number}", whole)

    def gates(self, values: str, count: int) -> Iterator[str]:
        """The gates of a tensor, one by one."""
        for gate in range(count):
            yield self.layer.part(values, gate * self.size, (gate + 1) * self.size, axis=2)

    def act(self, which: int, name: str) -> str:
        return self.layer.activation(self.number, which, name)

    def rnn(self, now: str, state: tuple[str, ...]) -> tuple[str, ...]:
        emit = self.layer.emit
        return (self.act(0, emit("Add", [now, emit("MatMul", [state[0], self.hidden])])),)

    def lstm(self, now: str, state: tuple[str, ...]) -> tuple[str, ...]:
        """c' = f * c + i * g, h' = o * tanh(c'); the gates are i, o, f and g."""
        emit = self.layer.emit
        h, c = state
        i, o, f, g = self.gates(emit("Add", [now, emit("MatMul", [h, self.hidden])]), 4)
        i, o, f = (self.act(0, gate) for gate in (i, o, f))
        new = emit("Mul", [i, self.act(1, g)])
        c = emit("Add", [emit("Mul", [f, c]), new])
        return emit("Mul", [o, self.act(2, c)]), c

    def gru(self, now: str, state: tuple[str, ...]) -> tuple[str, ...]:
        """h' = n + z * (h - n); the gates are z, r and n."""
        emit, (h,) = self.layer.emit, state
        product = emit("MatMul", [h, self.hidden])
        z, r, n = self.gates(now, 3)
        if self.within is None:
            of_z, of_r = self.gates(product, 2)
        else:
            of_z, of_r, of_n = self.gates(product, 3)
        z, r = (self.act(0, emit("Add", pair)) for pair in ((z, of_z), (r, of_r)))
        if self.within is None:
            reset = emit("MatMul", [emit("Mul", [r, h]), self.rest])
        else:
            reset = emit("Mul", [r, emit("Add", [of_n, self.within])])
        n = self.act(1, emit("Add", [n, reset]))
        return (emit("Add", [n, emit("Mul", [z, emit("Sub", [h, n])])]),)
