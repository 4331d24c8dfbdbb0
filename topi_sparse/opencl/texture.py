"""Packed activations in a texture, an image2d_array_t of OpenCL C: what a kernel reads through it.

A texel is the vector of four channels at one position, and a layer the plane of one (batch, channel
block, frame), halo and all, as TVM's scope "global.texture" lays out a tensor of the packed layout.
A GPU reads textures through caches of their own, whose lines are blocks of neighbouring texels.
"""

from __future__ import annotations

from math import prod

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from topi_sparse.layout import PackedLayout
from topi_sparse.prim_func import spatial

# TVM's name for such memory; with it come the layout above and the intrinsics below.
SCOPE = "global.texture"
# The name of the block that fills a texture, for schedules.
TEXTURE = "texture"
# Channels of a texel: red, green, blue, alpha.
TEXEL = 4
# What OpenCL 1.2 grants every device: columns and rows of an image, and layers of an array.
MOST_TEXELS, MOST_LAYERS = 8192, 2048
# Bits of the row and of the column in a packed location; the layer has those above them.
BITS = 8


def why_no_texture(layout: PackedLayout, data: tuple[int, ...]) -> str | None:
    """Why a packed tensor of shape ``data`` fits no texture, or None where one holds it."""
    *layers, rows, columns, _ = layout.shape(data)
    if layout.c_block != TEXEL:
        return f"its channel blocks are of {layout.c_block}; a texel holds {TEXEL}"
    if prod(layers) > MOST_LAYERS:
        return f"it has {prod(layers)} planes; a texture has at most {MOST_LAYERS} layers"
    if max(rows, columns) > MOST_TEXELS:
        return f"its planes are of {rows}x{columns}; a texture's of at most {MOST_TEXELS} each way"
    return None


def fill_texture(x, layout: PackedLayout, data: tuple[int, ...], dtype: str):
    """A texture, and block "texture", which copies the packed tensor ``x`` into it."""
    shape = layout.shape(data)
    texture = IRBuilder.name(TEXTURE, T.sblock_alloc_buffer(shape, dtype, scope=SCOPE))
    with T.grid(*shape[:5]) as loops, T.sblock(TEXTURE):
        n, block, d, h, w = spatial(shape[:5], loops)
        at = (n, block, d, h, w)
        T.reads(x[(*at, slice(0, TEXEL))])
        T.writes(texture[(*at, slice(0, TEXEL))])
        layer = (n * shape[1] + block) * shape[2] + d
        texel = x[(*at, T.Ramp(0, 1, TEXEL))]
        T.evaluate(
            tvm.tirx.call_intrin(
                "void",
                "tirx.texture2d_store",
                *(texture.data, w, h, layer, _bits(dtype), texel),
            )
        )
    return texture


def read_texel(texture, dtype: str, column, row, layer):
    """The vector at a place. Outside of the texture the result is undefined."""
    return tvm.tirx.call_intrin(
        f"{dtype}x{TEXEL}",
        "tirx.texture2d_load",
        *(texture.data, column, row, layer, _bits(dtype), T.Ramp(0, 1, TEXEL)),
    )


def locations(layer: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Layer, row and column in one int32; a layer may be negative."""
    return (layer << 2 * BITS | row << BITS | column).astype("int32")


def taken_apart(location) -> tuple:
    """What ``locations`` put together: layer, row, column; of arrays and of expressions."""
    most = (1 << BITS) - 1
    return location >> 2 * BITS, location >> BITS & most, location & most


def _bits(dtype: str) -> int:
    """Of a texel."""
    return 8 * TEXEL * np.dtype(dtype).itemsize
