"""Blocks of recurrent layers, and of assignments to single elements."""

from __future__ import annotations

from math import prod

import numpy as np

from scripts.fuzz.graph import Graph, fits
from scripts.fuzz.weights import normal

# Gates of each kind of layer.
_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
_MOST_STEPS, _MOST_UNITS = 5, 8


def recurrent(graph: Graph, x: str) -> str:
    """A few steps of a layer, forwards, backwards or both: all of its results, or the last ones."""
    rng, size = graph.rng, prod(graph.shapes[x])
    steps = rng.choice([n for n in range(1, _MOST_STEPS + 1) if size % n == 0])
    batch = rng.choice([n for n in (1, 2, 3) if size // steps % n == 0])
    inputs, units = size // steps // batch, rng.randint(1, _MOST_UNITS)
    direction = rng.choice(("forward", "reverse", "bidirectional"))
    ways, kind = 1 + (direction == "bidirectional"), rng.choice(list(_GATES))
    rows = _GATES[kind] * units
    if not fits((ways, rows, inputs)):
        return x
    sequence = (steps, batch, inputs)
    operands = [
        graph.add("Reshape", [x, graph.ints(*sequence)], sequence),
        graph.constant(normal(rng, ways, rows, inputs) / np.float32(np.sqrt(inputs))),
        # So that what one step is off by fades in the next ones.
        graph.constant(normal(rng, ways, rows, units) / np.float32(3 * units)),
    ]
    if rng.random() < 0.6:
        operands.append(graph.constant(normal(rng, ways, 2 * rows)))
    more = {"linear_before_reset": rng.choice((0, 1))} if kind == "GRU" else {}
    shapes = [(steps, ways, batch, units), (ways, batch, units)]
    y, last = graph.add_several(
        kind, operands, shapes, hidden_size=units, direction=direction, **more
    )
    if rng.random() < 0.3:
        return last
    shape = (steps, ways * batch, units)
    return graph.add("Reshape", [y, graph.ints(*shape)], shape)


def assigned(graph: Graph, x: str) -> str:
    """Some elements along an axis get other values: a slice of it, or scattered places."""
    rng, shape = graph.rng, graph.shapes[x]
    axis = rng.randrange(len(shape))
    part = [extent if rng.random() < 0.7 else rng.randint(1, extent) for extent in shape]
    part[axis] = rng.randint(1, shape[axis])
    if rng.random() < 0.4:
        first = rng.randint(0, shape[axis] - part[axis])
        places = list(range(first, first + part[axis]))
    else:
        places = rng.sample(range(shape[axis]), part[axis])
    places = [place - shape[axis] if rng.random() < 0.2 else place for place in places]
    along = [-1 if k == axis else 1 for k in range(len(shape))]
    indices = np.broadcast_to(np.array(places, np.int64).reshape(along), part)
    updates = graph.constant(normal(rng, *part))
    named = axis - len(shape) if rng.random() < 0.3 else axis
    return graph.add(
        "ScatterElements", [x, graph.constant(indices.copy()), updates], shape, axis=named
    )
