"""Random ONNX graphs of every operator that the importer accepts, small and of valid shapes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from random import Random

import onnx

from scripts.fuzz.graph import MOST_ELEMENTS, Graph
from scripts.fuzz.layers import (
    branches,
    conv,
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
    global_mean,
    mean,
    pad,
    pool,
    repeated,
    reshaped,
    shuffled,
    softmax,
    transposed,
    with_constant,
)
from scripts.fuzz.quantized import conversions, quantized_conv

OPSETS = (11, 12, 13, 14, 15, 16, 17, 18, 18, 18, 19, 20, 21, 22, 23)
BLOCKS: dict[str, Callable[[Graph, str], str]] = {
    function.__name__: function
    for function in (
        *(conv, grouped, wide_window, pair, residual, branches, gate),
        *(pool, global_mean, mean, activation, with_constant, batch_norm, softmax),
        *(pad, transposed, reshaped, shuffled, repeated, conversions, quantized_conv),
    )
}
CONVOLUTIONS = (
    "quantized_conv",
    "conv",
    "conv",
    "grouped",
    "wide_window",
    "pair",
    "residual",
    "branches",
    "gate",
)
OTHERS = (*(name for name in BLOCKS if name not in CONVOLUTIONS), "pool", "pool", "with_constant")


def random_model(rng: Random) -> onnx.ModelProto:
    """One input ``x`` of 4 or 5 axes, one output, one to seven blocks in between."""
    rank = 5 if rng.random() < 0.75 else 4
    graph = Graph(rng, rng.choice(OPSETS))
    graph.shapes["x"] = _input_shape(rng, rank)
    x, blocks = "x", rng.choice((1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 5, 7))
    for index in range(blocks):
        # Convolutions are what it is about; without one most of the rest is not this project's.
        likely = 0.85 if index == 0 else 0.35
        names = CONVOLUTIONS if rng.random() < likely else OTHERS
        x = BLOCKS[rng.choice(names)](graph, x)
    if rng.random() < 0.25:
        x = head(graph, x)
    if x == "x":
        x = graph.add("Identity", [x], graph.shapes[x])
    return graph.model(x)


def _input_shape(rng: Random, rank: int) -> tuple[int, ...]:
    channels = rng.choice((1, 2, 3, 3, 3, 4, 5, 8, 13, 16, 24, 45, 64, 230))
    frames = [rng.randint(1, 8)] if rank == 5 else []
    while True:
        plane = [rng.choice((1, 3, 5, 6, 7, 8, 9, 12, 14, 16, 19, 24, 28)) for _ in range(2)]
        shape = (rng.choice((1, 1, 1, 2, 3)), channels, *frames, *plane)
        if prod(shape) <= MOST_ELEMENTS:
            return shape
