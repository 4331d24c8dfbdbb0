"""kgs_conv2plus1d: a convolution over H and W and the one along D behind it, in one kernel.

Such pairs are what (2+1)D networks are made of. What lies between the two is the largest tensor of
its block (29 MB in R(2+1)D's first stage) and is read once, so that it only travels to memory and
back. A convolution along D asks for no neighbours over H and W: a row of it, of every plane, needs
the same row of what lies between, and no more. So each unit of work computes one row of all planes
into a buffer of its own, plane by plane, and the second convolution follows as soon as the planes
that it asks for are there: it finds them in the cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.cpu.kgs_conv3d import KGSConv3d, parameters
from topi_sparse.cpu.kgs_tile import At, tile
from topi_sparse.cpu.quantized_kgs_conv3d import QuantizedKGSConv3d, quantized_parameters
from topi_sparse.cpu.quantized_tile import quantized_tile
from topi_sparse.halo import fill_halo
from topi_sparse.layout import PackedLayout, ceil_div
from topi_sparse.prim_func import begin, spatial
from topi_sparse.windows import whole

# The attribute of the PrimFunc under which its own definition stands, as JSON.
PAIR_ATTRIBUTE = "kgs_conv2plus1d"
# Every row reads the weights of both from the L2 cache. Measured with 1 MiB of it: a gain of 5 to
# 20 % up to 550 KB, none at 1 MB.
MAX_WEIGHT_BYTES = 640 * 1024
# Rows are dealt out to threads whole.
MIN_BUSY = 0.85


@dataclass(frozen=True, kw_only=True)
class KGSConv2Plus1D:
    """All that defines one kgs_conv2plus1d kernel.

    spatial   the first convolution, with one location along D
    temporal  the second one, with locations along D only, as if it stood alone

    Both are of one kind: on real numbers or on 8-bit tensors.
    """

    name: ClassVar[str] = PAIR_ATTRIBUTE

    spatial: KGSConv3d
    temporal: KGSConv3d

    def prim_func(self) -> tvm.tirx.PrimFunc:
        """The kernel that this defines, not scheduled yet."""
        return kgs_conv2plus1d(self)

    @property
    def weighted(self) -> tuple[tuple[KGSConv3d, int], ...]:
        """The convolutions with stored weights, and which argument of the kernel those are."""
        of_spatial = [name for name in _parameters(self.into_band) if name != "y"]
        return ((self.spatial, 1), (self.temporal, len(of_spatial)))

    @property
    def between(self) -> PackedLayout:
        """How a band is stored: one row of all planes of what lies between the two."""
        return PackedLayout(c_block=self.spatial.y.c_block, fill=self.spatial.y.fill)

    @property
    def into_band(self) -> KGSConv3d:
        """The first convolution with its result in a band."""
        return replace(self.spatial, y=self.between)

    @property
    def from_band(self) -> KGSConv3d:
        """The second convolution on the input that a band is."""
        _, channels, depth, _, breadth = self.temporal.data
        data = (1, channels, depth, 1, breadth)
        return replace(self.temporal, data=data, x=self.between)

    @property
    def x(self) -> PackedLayout:
        """Layout of the input."""
        return self.spatial.x

    @property
    def y(self) -> PackedLayout:
        """Layout of the result."""
        return self.temporal.y

    @property
    def lead(self) -> int:
        """Planes of what lies between that plane 0 of the result needs behind plane 0 of it."""
        temporal = self.temporal
        return (temporal.kernel[0] - 1) * temporal.dilation[0] - temporal.padding[0]

    def to_json(self) -> str:
        """The definition as JSON, for the PrimFunc's attribute."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> KGSConv2Plus1D:
        """What ``to_json`` wrote."""
        convs = json.loads(text)
        kinds = {
            name: QuantizedKGSConv3d if "result" in convs[name] else KGSConv3d for name in convs
        }
        return cls(**{name: kinds[name].from_json(json.dumps(convs[name])) for name in convs})


def _parameters(conv: KGSConv3d) -> dict[str, tuple]:
    """The shape and type of what the convolution's own kernel is given, in order."""
    quantized = isinstance(conv, QuantizedKGSConv3d)
    return quantized_parameters(conv) if quantized else parameters(conv)


def why_not_paired(spatial: KGSConv3d, temporal: KGSConv3d) -> str | None:
    """Why two convolutions, the second on the first's result, are no pair; None where they are."""
    if spatial.kernel[0] != 1 or spatial.stride[0] != 1 or any(spatial.padding[::3]):
        return f"the first has windows of {spatial.kernel[0]} along D, not 1 at every plane"
    if temporal.kernel[0] == 1:
        return "the second has no window along D"
    if temporal.kernel[1:] != (1, 1) or temporal.stride[1:] != (1, 1):
        return f"the second has windows of {temporal.kernel[1:]} over H and W, not 1 everywhere"
    if temporal.out[3:] != temporal.data[3:]:
        return f"the second pads H and W by {temporal.padding}"
    if math.prod(spatial.interleave + temporal.interleave) > 1:
        return "the results of one interleave"
    if spatial.residual is not None:
        return "something is added between the two"
    if spatial.weight_sets != 1 or temporal.weight_sets != 1:
        return "they are products of a transformed convolution"
    between = spatial.argument_types.get("y", spatial.dtype)
    if type(spatial) is not type(temporal) or between != temporal.dtype:
        return f"the first gives {between}, the second computes in {temporal.dtype}"
    if (temporal.kernel[0] - 1) * temporal.dilation[0] < temporal.padding[0]:
        return "the second has planes that are all padding"
    return None


def why_not_worth(pair: KGSConv2Plus1D, threads: int) -> str | None:
    """Why a pair is slower in one kernel than in two, or None where it is faster."""
    convs = (pair.spatial, pair.temporal)
    weights = sum(conv.weights * np.dtype(conv.dtype).itemsize for conv in convs)
    if weights > MAX_WEIGHT_BYTES:
        return f"its weights, which every row reads, take {weights} of {MAX_WEIGHT_BYTES} bytes"
    rows = pair.temporal.out[0] * pair.temporal.out[3]
    busy = rows / (ceil_div(rows, threads) * threads)
    if busy < MIN_BUSY:
        return f"its {rows} rows keep {threads} threads busy for {busy:.0%} of the time"
    return None


def kgs_conv2plus1d(pair: KGSConv2Plus1D) -> tvm.tirx.PrimFunc:
    """The PrimFunc (x, [blocks, offsets, pointers, bias] twice, [residual,] y) of a pair.

    Each four are those of kgs_conv3d for ``into_band`` and ``from_band``; of 8-bit tensors there
    follow the others of quantized_kgs_conv3d. Blocks: "halo" writes y's fill, "tile" a row of
    everything else.
    """
    first, second = pair.into_band, pair.from_band
    batch, _, _, height, _ = pair.temporal.out
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        args_of = _begin(pair)
        y = args_of["temporal"]["y"]
        with T.sblock("root"):
            result = second.argument_types.get("y", second.dtype)
            fill_halo(pair.y, pair.temporal.out, result, y)
            with T.grid(batch, height) as (outer, loop), T.sblock("tile"):
                n, h = spatial((batch, height), (outer, loop))
                reads = [arg for args in args_of.values() for arg in args.values() if arg is not y]
                T.reads(*map(whole, reads))
                everything = [slice(0, extent) for extent in y.shape]
                T.writes(y[(n, *everything[1:3], h + pair.y.halo_h, *everything[4:])])
                shape = pair.between.shape(second.data)
                between = T.sblock_alloc_buffer(shape, second.dtype, layout=None)
                # Offsets are for all of the buffer. TVM cuts one to what it sees is accessed, but
                # for those whose address is taken.
                T.evaluate(between.data)
                into = {**args_of["spatial"], "y": between}
                out_of = {**args_of["temporal"], "x": between}
                planes, results, step = first.out[2], second.out[2], second.stride[0]
                last = (results - 1) * step + pair.lead
                with T.serial(0, max(planes, last + 1)) as time:
                    with T.If(time < planes), T.Then():
                        _plane(first, into, time, x=(n, h), y=(0, 0), cached=False)
                    ready = tvm.tirx.all(
                        time >= pair.lead, time <= last, (time - pair.lead) % step == 0
                    )
                    with T.If(ready), T.Then():
                        d = (time - pair.lead) // step
                        _plane(second, out_of, d, x=(0, 0), y=(n, h), cached=True)
    return builder.get()


def _begin(pair: KGSConv2Plus1D) -> dict[str, dict]:
    """Name, definition and parameters of the PrimFunc, those of each convolution by its name."""
    of_pair = {"spatial": _parameters(pair.into_band), "temporal": _parameters(pair.temporal)}
    of_pair["spatial"].pop("y")  # stays in the kernel, and so does the other one's x
    of_pair["temporal"].pop("x")
    buffers = {
        f"{name}_{arg}": buffer for name, args in of_pair.items() for arg, buffer in args.items()
    }
    begun = begin(pair.name, pair.to_json(), buffers)
    return {name: {arg: begun[f"{name}_{arg}"] for arg in args} for name, args in of_pair.items()}


def _plane(conv: KGSConv3d, args: Mapping, d, *, x: tuple, y: tuple, cached: bool) -> None:
    """One row of plane ``d``; ``x`` and ``y``: batch and row there.

    Row blocks and strips in the order of kgs_conv3d.
    """
    last = conv.row_blocks_last
    count_p, strips = conv.rows[0], conv.strips[1]
    outer, inner = (strips, count_p) if last else (count_p, strips)
    # One loop over all tiles: TVM moves a test of a loop's variable, as for the last row block, out
    # of the loops within, and then takes the two copies of those for one.
    with T.serial(0, conv.chunks * outer * inner) as loop, T.sblock("register_tile"):
        indices = (loop // inner % outer, loop % inner)
        strip, p = indices if last else reversed(indices)
        T.reads(*(whole(args[name]) for name in args if name != "y"))
        T.writes(whole(args["y"]))
        at = At(x=x, y=y, p=p, d=d, strip=strip, c=loop // (outer * inner))
        if isinstance(conv, QuantizedKGSConv3d):
            quantized_tile(conv, args, at)
        else:
            tile(conv, args, at, cached=cached)
