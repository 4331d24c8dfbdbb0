"""What a kernel does, counted from its source and its grid: a bound for its time, no measurement.

TVM's OpenCL C is regular: loops from 0, ifs, one statement a line, every access spelled out. Each
block is executed so many times by each work-item as its loops and conditions say; those are
evaluated for all work-items at once, with the tables of kept columns where a loop runs over them.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from rt3d_tvm.artifact.opencl.plan import Launch, Plan
from topi_sparse.opencl.texture import TEXEL

# Adreno 650: float16 multiply-adds as OpenCL benchmarks sustain them, and LPDDR5 of 44 GB/s.
FLOPS, BYTES = 1.66e12, 44e9
_BYTES_OF = {"half": 2, "float": 4, "int": 4, "char": 1, "long": 8}
_FOR = re.compile(r"for \(int (\w+) = 0; \w+ < (.*); \+\+\w+\) \{")
_IF = re.compile(r"if \((.*)\) \{")
_LET = re.compile(r"(?:int|half|float|bool|long)\d* (\w+) = (.*);")
_ARRAY = re.compile(r"(half|float|int)(\d*) (\w+)\[(\d+)\];")
_VECTOR = re.compile(r"(half|float)(\d*) (\w+)(?: = .*)?;")
_PARAMETER = re.compile(r"(?:__global (\w+?)(\d*)\* restrict|\w+ (image2d_array_t)) (\w+)")
# A texel is read or written, in half or in float.
_TEXEL = re.compile(r"\b(?:READ_IMAGE|write_image)([HFhf])\(")
_SUM = re.compile(r"vstore(\d+)\(\(vload\d+\(0, \w+ \+ 0\) \+ \(.* \* \w+\)\), 0, \w+ \+ 0\);")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.RShift: operator.rshift,
    ast.LShift: operator.lshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS = {"max": np.maximum, "min": np.minimum}


@dataclass(frozen=True, kw_only=True)
class CostCard:
    """One launch. ``executed_bytes`` are those of every access to global memory that it executes.

    An access that is the same for all neighbours along x, who have the positions of a plane, counts
    once for them. ``tensor_bytes``: every
    tensor that it is given once, which is what has to come from or go to memory even if each
    access but the first finds a cache. registers: of 32 bit a work-item, if each is free again
    behind the last line that names what is in it.
    """

    kernel: str
    function: str
    work_groups: int
    group_items: int
    flops: int
    executed_bytes: int
    tensor_bytes: int
    registers: int

    def in_8_bits(self, *, exact: bool) -> CostCard:
        """The same on values of 8 bits: half the bytes.

        Each value that is accessed is converted, at the price of a multiply-add. exact: sums of
        int32, whose multiply-adds go at half the rate of float16's, as float32's do. Sums of
        float16 have 11 bits, fewer than one product of two 8-bit numbers.
        """
        flops = self.flops + 2 * (self.executed_bytes // 2)
        return replace(
            self,
            flops=2 * flops if exact else flops,
            executed_bytes=self.executed_bytes // 2,
            tensor_bytes=self.tensor_bytes // 2,
        )

    @property
    def intensity(self) -> float:
        """FLOP for each byte of the tensors."""
        return self.flops / self.tensor_bytes

    @property
    def bound_ms(self) -> float:
        """The least time at the device's limits: arithmetic or memory, whichever is longer."""
        return 1e3 * max(self.flops / FLOPS, self.tensor_bytes / BYTES)

    @property
    def uncached_ms(self) -> float:
        """The same if every executed access went to memory."""
        return 1e3 * max(self.flops / FLOPS, self.executed_bytes / BYTES)


def cost_cards(plan: Plan, weights: list[np.ndarray]) -> list[CostCard]:
    """A card for each launch; ``weights`` are the artifact's, where the tables are."""
    kernels = read_kernels(plan.source)
    cards = []
    for launch in plan.launches:
        kernel = kernels[launch.kernel]
        tables = {
            name: weights[index - plan.inputs].ravel()
            for (name, _), index in zip(kernel.parameters, launch.buffers, strict=True)
            if plan.inputs <= index < plan.inputs + plan.weights
        }
        cards.append(_card(kernel, launch, tables))
    return cards


@dataclass(eq=False)
class Block:
    """Statements that are executed together, and the blocks inside; ``kind`` for, if or else.

    line: where it begins in the kernel. head: the trip count or the condition.
    """

    kind: str
    head: str
    line: int
    lines: list[str] = field(default_factory=list)
    inside: list[Block] = field(default_factory=list)
    variable: str = ""


@dataclass(frozen=True)
class Kernel:
    """A kernel of the source: its parameters with the bytes of an element, its lines and blocks.

    A texture's elements are counted where they are read or written, which tells their type.
    """

    parameters: tuple[tuple[str, int], ...]
    lines: tuple[str, ...]
    body: Block


def read_kernels(source: str) -> dict[str, Kernel]:
    """The kernels of a plan's source; ValueError for a line that TVM is not known to write."""
    kernels = {}
    for text in source.split("__kernel void ")[1:]:
        name, rest = text.split("(", 1)
        head, body = rest.split(") {\n", 1)
        parameters = tuple(
            (name, 0 if texture else _BYTES_OF[kind] * int(lanes or 1))
            for kind, lanes, texture, name in _PARAMETER.findall(head)
        )
        lines = tuple(body.split("\n}\n", 1)[0].split("\n"))
        kernels[name] = Kernel(parameters, lines, _read_blocks(lines))
    return kernels


def _read_blocks(lines: tuple[str, ...]) -> Block:
    stack = [Block("body", "", 0)]
    for number, line in enumerate(map(str.strip, lines)):
        if found := _FOR.fullmatch(line):
            block = Block("for", found[2], number + 1, variable=found[1])
        elif found := _IF.fullmatch(line):
            block = Block("if", found[1], number + 1)
        elif line == "} else {":
            block = Block("else", stack.pop().head, number + 1)
        elif line == "}":
            stack.pop()
            continue
        elif line.endswith("{"):
            raise ValueError(f"not a loop or condition that TVM writes: {line}")
        else:
            stack[-1].lines.append(line)
            continue
        stack[-1].inside.append(block)
        stack.append(block)
    return stack[0]


def executions(
    kernel: Kernel, launch: Launch, tables: Mapping[str, np.ndarray]
) -> dict[int, np.ndarray]:
    """How often each work-item executes each block, by the line at which the block begins.

    Work-items are counted along x, y, z of the items in a group, then of the groups.
    """
    values = dict(tables)
    extents = (*launch.groups[::-1], *launch.items[::-1])
    for name, index in zip(
        ("_g2", "_g1", "_g0", "_l2", "_l1", "_l0"),
        np.unravel_index(np.arange(prod(extents)), extents),
        strict=True,
    ):
        values[name] = index
    counts: dict[int, np.ndarray] = {}

    def walk(block: Block, count: np.ndarray, known: dict) -> None:
        counts[block.line] = counts.get(block.line, 0) + count
        lets = {m[1]: _Let(m[2]) for line in block.lines if (m := _LET.fullmatch(line))}
        known = {**known, **lets}
        for inner in block.inside:
            head = np.asarray(_evaluate(inner.head, known))
            if inner.kind == "for" and inner.inside:  # what is inside may ask which turn it is
                for turn in range(int(head)):
                    walk(inner, count, {**known, inner.variable: turn})
            elif inner.kind == "for":
                walk(inner, count * np.maximum(head, 0), known)
            else:
                walk(inner, count * (head if inner.kind == "if" else ~head), known)

    walk(kernel.body, np.ones(prod(extents), "int64"), values)
    return counts


@dataclass(frozen=True)
class _Let:
    """What a name stands for: evaluated where it is asked for, since most are of no condition."""

    text: str


def _evaluate(text: str, values: Mapping[str, object]):
    """An expression of indices in OpenCL C, for all work-items; KeyError for an unknown name."""
    text = re.sub(r"get_(group|local)_id\((\d)\)", lambda m: f"_{m[1][0]}{m[2]}", text)
    text = re.sub(r"convert_(?:int|long|bool)\(|\((?:int|long|bool)\)", _cast, text)
    python = text.replace("&&", "&").replace("||", "|").replace("/", "//")
    return _value(ast.parse(python.strip(), mode="eval").body, values)


def _cast(match: re.Match) -> str:
    return "(" if match[0].startswith("convert") else ""


def _value(node: ast.expr, values: Mapping[str, object]):
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        found = values[node.id]
        return _evaluate(found.text, values) if isinstance(found, _Let) else found
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = node.left, node.comparators[0]
        return _OPERATORS[type(node.ops[0])](_value(left, values), _value(right, values))
    if isinstance(node, ast.Subscript):
        return _value(node.value, values)[_value(node.slice, values)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _FUNCTIONS[node.func.id](*(_value(arg, values) for arg in node.args))
    raise ValueError(f"not an index that TVM writes: {ast.unparse(node)}")


def _card(kernel: Kernel, launch: Launch, tables: Mapping[str, np.ndarray]) -> CostCard:
    counts = executions(kernel, launch, tables)
    flops = executed = 0

    def walk(block: Block, varying: set[str]) -> None:
        nonlocal flops, executed
        count = counts[block.line]
        items = int(count.sum())
        rows = int(count.reshape(-1, launch.items[0]).max(axis=1).sum())
        varying = set(varying)
        for line in block.lines:
            let = _LET.fullmatch(line)
            differs = _differs(line, varying)
            if let and differs:
                varying.add(let[1])
            for size, where in _accesses(line, kernel.parameters):
                executed += size * (items if _differs(where, varying) else rows)
            if found := _SUM.fullmatch(line):
                flops += 2 * int(found[1]) * items
        for inner in block.inside:
            walk(inner, varying)

    walk(kernel.body, set())
    return CostCard(
        kernel=launch.kernel,
        function=launch.function,
        work_groups=prod(launch.groups),
        group_items=launch.group_items,
        flops=flops,
        executed_bytes=executed,
        tensor_bytes=sum(launch.sizes),
        registers=_registers(kernel),
    )


def _differs(text: str, varying: set[str]) -> bool:
    """Whether an expression may differ between neighbours along x."""
    return "get_local_id(0)" in text or not varying.isdisjoint(re.findall(r"\w+", text))


def _accesses(line: str, parameters: tuple[tuple[str, int], ...]) -> list[tuple[int, str]]:
    """The bytes and the index of every access to global memory, or a texture, in a line."""
    found = [
        (TEXEL * _BYTES_OF["half" if kind in "Hh" else "float"], line)
        for kind in _TEXEL.findall(line)
    ]
    for name, size in parameters:
        for match in re.finditer(rf"\b{name}(?= \+|\[)", line):
            before, after = line[: match.start()], line[match.end() :]
            lanes = 1
            if vector := re.search(r"(?:vload(\d+)\(0, |, 0, )$", before):
                lanes = int(vector[1] or re.match(r"vstore(\d+)", line)[1])
            found.append((size * lanes, _index(after)))
    return found


def _index(after: str) -> str:
    """An index up to the bracket that closes it."""
    depth = 0
    for position, letter in enumerate(after):
        depth += letter in "(["
        depth -= letter in ")]"
        if depth < 0 or (depth == 0 and letter == "]"):
            return after[:position]
    return after


def _registers(kernel: Kernel) -> int:
    """The most that arrays and vectors of a work-item take at a time, in registers of 32 bit."""
    last = {
        name: number
        for number, line in enumerate(kernel.lines)
        for name in re.findall(r"\w+", line)
    }
    change = [0] * len(kernel.lines)
    for number, line in enumerate(map(str.strip, kernel.lines)):
        found = _ARRAY.fullmatch(line) or _VECTOR.fullmatch(line)
        if found:
            kind, lanes, name, *extent = found.groups()
            bits = 8 * _BYTES_OF[kind] * int(lanes or 1) * int(extent[0] if extent else 1)
            change[number] += bits
            change[last[name]] -= bits
    return -(-max(itertools.accumulate(change)) // 32)
