"""int8 multiply-adds of a CPU: four channels of an input by four weights, summed in int32 lanes.

An instruction multiplies 4 bytes of input, the same for all lanes, with 4 weights of each lane::

    vpdpbusd, sdot   sums[m] += x[0] w[m, 0] + x[1] w[m, 1] + x[2] w[m, 2] + x[3] w[m, 3]
    smull            sums[m, 0] += x[0] w[m, 0] + x[1] w[m, 1]
                     sums[m, 1] += x[2] w[m, 2] + x[3] w[m, 3]

The second row is for processors without a dot product. So is pmaddubsw, which does what the first
row says in two steps, of which the first keeps x[0] w[m, 0] + x[1] w[m, 1] in int16. It would
saturate, so no two weights of one sign may be more than 128 together: a column with larger ones is
written as two. Of weights as they are trained that is one column in five of 16 filters, and all is
exact for three instructions that read 8 bits as they are stored.

A matrix product takes two of everything: 8 bytes of input at each of two positions, which are two
kept columns, by 8 weights of each of two filters::

    smmla            sums[m, i] += x[i, 0] w[m, 0] + ... + x[i, 7] w[m, 7]    for m, i in 0, 1

Where each filter has a channel to itself, the four bytes are of one channel: neighbours along W.
Without a dot product they are taken one by one, each in a lane of int32::

    pmaddwd, smlal   sums[c] += x[c] w[c]        of int16, which both are widened to
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm.target import Target
from tvm.target.codegen import target_has_features
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.register_tile import HALF_WIDTH_AVX512

# Channels that an instruction adds up, and the bytes of input that it reads.
CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class DotUnit:
    """The int8 arithmetic of one core.

    instruction  a name of INSTRUCTIONS
    lanes        int32 sums of the widest register
    pipe_lanes   that one of the multiply-add pipes takes at a time
    block        channels of a block of packed activations
    stored       the type of activations: what the instruction takes
    by_element   whether it can take its input from an element of a vector
    """

    instruction: str
    lanes: int
    pipe_lanes: int
    registers: int
    block: int
    stored: str
    by_element: bool = False

    @property
    def products(self) -> Instruction:
        """What multiplies."""
        return INSTRUCTIONS[self.instruction]

    @property
    def parts(self) -> int:
        """Sums of a filter, which are added up in the end."""
        return self.products.parts

    @property
    def is_matrix(self) -> bool:
        """Whether an instruction takes two filters, positions and kept columns."""
        return self.products.columns > 1

    @property
    def depthwise(self) -> str:
        """The instruction for filters that have a channel each."""
        return self.products.depthwise or self.instruction


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What multiplies 8-bit values, by one instruction or a few.

    parts: sums of a filter. issued: instructions. temporaries: registers for what they read besides
    sums and weights. pair_limit: see KGSWeight.from_dense.
    multiply: (sums, inputs, weights, lanes) -> sums. inputs: int32, the 4 bytes in each lane of as
    many filters; weights: int8, 4 a filter.
    one_by_one: the same of int32 lanes that hold an input and a weight each; None where a dot
    product takes four of a channel.
    columns: kept columns that it takes, of as many filters and positions. Above 1 the lanes of
    inputs are (position, column), those of the sums (filter, position). depthwise: the instruction
    that serves where no input is shared, if another one.
    narrowed: (16 values of float32 in four vectors, zero) -> them rounded to the nearest even, plus
    zero, in the range of int8; None where the processor has no instructions of its own for that.
    """

    multiply: Callable
    parts: int = 1
    issued: int = 1
    temporaries: int = 1
    one_by_one: Callable | None = None
    columns: int = 1
    depthwise: str | None = None
    pair_limit: int | None = None
    narrowed: Callable | None = None

    @property
    def packing(self) -> dict[str, int | None]:
        """How KGSWeight packs weights for it."""
        return {"channels": CHANNELS, "together": self.columns, "pair_limit": self.pair_limit}


def _vpdpbusd(sums, inputs, weights, lanes: int):
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    data = tvm.tirx.reinterpret(f"uint8x{4 * lanes}", inputs)
    return tvm.tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, sums, data, weights)


def _sdot(sums, inputs, weights, lanes: int):
    name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
    data = tvm.tirx.reinterpret(f"int8x{4 * lanes}", inputs)
    return tvm.tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, sums, weights, data)


def _smmla(sums, inputs, weights, lanes: int):
    name = "llvm.aarch64.neon.smmla.v4i32.v16i8"
    data = tvm.tirx.reinterpret(f"int8x{4 * lanes}", inputs)
    return tvm.tirx.call_llvm_pure_intrin(f"int32x{lanes}", name, sums, weights, data)


def _pmaddubsw(sums, inputs, weights, lanes: int):
    """Products of uint8 and int8, the two of each half a lane summed in int16, then both halves."""
    names = {4: "ssse3.pmadd.ub.sw.128", 8: "avx2.pmadd.ub.sw", 16: "avx512.pmaddubs.w.512"}
    data = tvm.tirx.reinterpret(f"uint8x{4 * lanes}", inputs)
    pairs = tvm.tirx.call_llvm_pure_intrin(
        f"int16x{2 * lanes}", f"llvm.x86.{names[lanes]}", data, weights
    )
    ones = T.Broadcast(tvm.tirx.const(1, "int16"), 2 * lanes)
    return sums + _summed_pairs(pairs, ones, lanes)


def _summed_pairs(data, weights, lanes: int):
    """pmaddwd: the products of int16, the two of each lane summed in int32."""
    name = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[lanes]
    return tvm.tirx.call_llvm_pure_intrin(f"int32x{lanes}", f"llvm.x86.{name}", data, weights)


def _smull(sums, inputs, weights, lanes: int):
    """Products of int8 in int16, which hold them: weights are at least -127."""
    data = tvm.tirx.reinterpret(f"int8x{2 * lanes}", inputs)
    products = tvm.tirx.call_llvm_pure_intrin(
        f"int16x{2 * lanes}", "llvm.aarch64.neon.smull.v8i16", data, weights
    )
    pairs = tvm.tirx.call_llvm_pure_intrin(
        f"int32x{lanes}", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products
    )
    return sums + pairs


def _pmaddwd_of_lanes(sums, inputs, weights, lanes: int):
    """The upper half of a lane holds the sign of the weight, and of the input, uint8, a zero."""
    data, wide = (tvm.tirx.reinterpret(f"int16x{2 * lanes}", each) for each in (inputs, weights))
    return sums + _summed_pairs(data, wide, lanes)


def _smlal(sums, inputs, weights, _lanes: int):
    """Both are extended int8, of which LLVM makes an ``smlal`` of int16."""
    return sums + inputs * weights


def _sqxtn(values, zero: int):
    """By instructions that saturate at the range of their result: 12 for 16 values."""

    def call(dtype: str, name: str, *args):
        return tvm.tirx.call_llvm_pure_intrin(dtype, f"llvm.aarch64.neon.{name}", *args)

    def joined(parts: list, lanes: int):
        return tvm.tirx.Shuffle(parts, list(range(lanes)))

    whole = [call("int32x4", "fcvtns.v4i32.v4f32", each) for each in values]
    fours = [call("int16x4", "sqxtn.v4i16", each) for each in whole]
    eights = [joined(fours[:2], 8), joined(fours[2:], 8)]
    if zero:
        added = T.Broadcast(tvm.tirx.const(zero, "int16"), 8)
        eights = [call("int16x8", "sqadd.v8i16", each, added) for each in eights]
    return joined([call("int8x8", "sqxtn.v8i8", each) for each in eights], 16)


INSTRUCTIONS = {
    "vpdpbusd": Instruction(multiply=_vpdpbusd),
    # A register of ones, an input and its products.
    "pmaddubsw": Instruction(
        multiply=_pmaddubsw,
        issued=3,
        temporaries=3,
        one_by_one=_pmaddwd_of_lanes,
        pair_limit=128,
    ),
    "sdot": Instruction(multiply=_sdot, narrowed=_sqxtn),
    "smmla": Instruction(multiply=_smmla, columns=2, depthwise="sdot", narrowed=_sqxtn),
    "smull": Instruction(
        multiply=_smull,
        parts=2,
        issued=2,
        temporaries=4,
        one_by_one=_smlal,
        narrowed=_sqxtn,
    ),
}


def dot_unit(target: Target) -> DotUnit | None:
    """The int8 arithmetic of a CPU target, or None where there are no kernels for it."""

    def has(*names: str) -> bool:
        return all(target_has_features(name, target) for name in names)

    half = target.attrs.get("mcpu") in HALF_WIDTH_AVX512
    wide = {"lanes": 16, "registers": 32, "block": 16, "stored": "uint8"}
    narrow = {"lanes": 8, "registers": 16, "block": 8, "stored": "uint8"}
    neon = {"lanes": 4, "registers": 32, "block": 4, "stored": "int8"}
    if has("avx512vnni", "avx512vl"):
        return DotUnit(instruction="vpdpbusd", pipe_lanes=8 if half else 16, **wide)
    if has("avx512bw"):
        return DotUnit(instruction="pmaddubsw", pipe_lanes=8 if half else 16, **wide)
    if has("avxvnni"):
        return DotUnit(instruction="vpdpbusd", pipe_lanes=8, **narrow)
    if has("avx2"):
        return DotUnit(instruction="pmaddubsw", pipe_lanes=8, **narrow)
    if has("neon", "i8mm", "dotprod"):
        return DotUnit(instruction="smmla", pipe_lanes=4, **neon)
    if has("neon", "dotprod"):
        return DotUnit(instruction="sdot", pipe_lanes=4, by_element=True, **neon)
    if has("neon"):
        return DotUnit(instruction="smull", pipe_lanes=4, **neon)
    return None


def broadcast(buffer, index: list, lanes: int):
    """The 4 bytes that begin there in each of ``lanes`` lanes, as int32."""
    *outer, first = index
    four = buffer[(*outer, T.Ramp(first, 1, CHANNELS))]
    return T.Broadcast(tvm.tirx.reinterpret("int32", four), lanes)
