"""Random ONNX graphs of every tested operator, small and of valid shapes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import onnx

from scripts.fuzz.graph import Graph, fits
from scripts.fuzz.layers import (
    branches,
    conv,
    conv_transpose,
    gate,
    grouped,
    head,
    pair,
    residual,
    wide_window,
)
from scripts.fuzz.operators import (
    activation,
    batch_norm,
    compared,
    function,
    global_mean,
    mean,
    pool,
    repeated,
    second_input,
    several,
    softmax,
    with_constant,
)
from scripts.fuzz.quantized import (
    conversions,
    quantized_conv,
    quantized_network,
    quantized_other,
    quantized_pair,
    quantized_pool,
)
from scripts.fuzz.reductions import attention, chosen, einsum, normalised, reduced
from scripts.fuzz.sequences import assigned, recurrent
from scripts.fuzz.shapes import (
    depth_to_space,
    gathered,
    pad,
    reshaped,
    resized,
    scattered,
    shuffled,
    sliced,
    split,
    transposed,
    widened,
)

OPSETS = (11, 12, 13, 14, 15, 16, 17, 18, 18, 18, 19, 20, 21, 22, 23)
BLOCKS: dict[str, Callable[[Graph, str], str]] = {
    function.__name__: function
    for function in (
        *(conv, grouped, wide_window, pair, residual, branches, gate, conv_transpose),
        *(pool, global_mean, mean, activation, with_constant, batch_norm, softmax),
        *(pad, transposed, reshaped, shuffled, repeated, conversions, quantized_conv),
        *(quantized_network, quantized_other, quantized_pair, quantized_pool),
        *(compared, function, several, second_input, attention, chosen, einsum, normalised),
        *(reduced, depth_to_space, gathered, resized, scattered, sliced, split, widened),
        *(assigned, recurrent),
    )
}
CONVOLUTIONS = (
    *("conv", "conv", "conv", "grouped", "wide_window", "pair", "residual", "branches", "gate"),
    *("conv_transpose", "quantized_conv", "quantized_network", "quantized_network"),
)
OTHERS = (
    *(name for name in BLOCKS if name not in CONVOLUTIONS),
    *("pool", "pool", "with_constant", "activation", "normalised", "normalised"),
)


def random_model(rng: Random, *, plain: bool = False) -> onnx.ModelProto:
    """One to seven blocks behind an input ``x`` of 3 to 5 axes.

    Seldom there are other inputs, and other outputs from within the graph; never where ``plain``.
    """
    rank = rng.choice((5, 5, 5, 5, 5, 5, 5, 4, 4, 3))
    graph = Graph(rng, rng.choice(OPSETS))
    x, blocks = (
        graph.input(_input_shape(rng, rank)),
        rng.choice((1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 5, 7)),
    )
    left: list[str] = []
    for index in range(blocks):
        # Convolutions are what it is about; without one most of the rest is not this project's.
        likely = 0.75 if index == 0 else 0.3
        names = CONVOLUTIONS if rng.random() < likely else OTHERS
        if plain:
            names = tuple(name for name in names if name != "second_input")
        left.append(x)
        x = BLOCKS[rng.choice(names)](graph, x)
    if rng.random() < 0.25:
        left.append(x)
        x = head(graph, x)
    if x in graph.inputs:
        x = graph.add("Identity", [x], graph.shapes[x])
    others = sorted(set(left) - {x, *graph.inputs})
    if plain or not others or rng.random() < 0.85:
        return graph.model(x)
    outputs = [x, *rng.sample(others, rng.randint(1, len(others)))]
    rng.shuffle(outputs)
    return graph.model(*outputs)


def _input_shape(rng: Random, rank: int) -> tuple[int, ...]:
    channels = rng.choice((1, 2, 3, 3, 3, 4, 5, 8, 13, 16, 24, 45, 64, 230))
    frames = [rng.randint(1, 8)] if rank == 5 else []
    while True:
        extents = (1, 3, 5, 6, 7, 8, 9, 12, 14, 16, 19, 24, 28)
        plane = [rng.choice(extents) for _ in range(min(2, rank - 2))]
        if rng.random() < 0.1:  # a line
            plane = [1 for _ in plane] if frames else [*plane[:1], *[1 for _ in plane[1:]]]
        shape = (rng.choice((1, 1, 1, 2, 3)), channels, *frames, *plane)
        if fits(shape):
            return shape
