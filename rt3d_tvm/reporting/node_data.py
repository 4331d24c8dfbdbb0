"""A report as node data, which Model Explorer lays over the graph of an ONNX file.

The form is that of `model_explorer.node_data_builder` in ai-edge-model-explorer 0.1.34: a graph's
name, and in it a number for each node, by the node's name as the file has it or by that of its
output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

# From nothing to the largest value of the graph.
_GRADIENT = ({"stop": 0, "bgColor": "#f7fbff"}, {"stop": 1, "bgColor": "#f4a261"})


def _of_first(key: str) -> Callable[[Mapping], Iterator[tuple[Mapping, float | None]]]:
    """What a call has as a whole stands at its first layer."""

    def values(call: Mapping) -> Iterator[tuple[Mapping, float | None]]:
        yield call["layers"][0], call[key]

    return values


def _of_last(call: Mapping) -> Iterator[tuple[Mapping, float | None]]:
    """The error is that of a call's result, which its last layer gives."""
    yield call["layers"][-1], call["max_rel_error"]


def _of_each(call: Mapping) -> Iterator[tuple[Mapping, float | None]]:
    for layer in call["layers"]:
        yield layer, layer["density"]


# By name: how Model Explorer shows it, and what it is of a call.
VALUES: dict[str, tuple[str, Callable[[Mapping], Iterator[tuple[Mapping, float | None]]]]] = {
    "ms": ("time, ms", _of_first("ms")),
    "gflops": ("useful GFLOP/s", _of_first("gflops")),
    "density": ("density", _of_each),
    "error": ("max_rel_error", _of_last),
}


def as_node_data(report: Mapping, value: str) -> str:
    """One of `VALUES` at each layer of the first model in its first batch.

    What is not known has no number.
    """
    name, values_of = VALUES[value]
    model = report["models"][0]
    results: dict[str, dict] = {}
    for call in model["batches"][0]["calls"]:
        for layer, number in values_of(call) if call["layers"] else ():
            if number is not None:
                results[layer["node"]] = {"value": float(f"{number:.4g}")}  # it shows all digits
    shown = {"results": results, "name": f"{model['name']}: {name}", "gradient": _GRADIENT}
    return json.dumps({report["file"]["graph"]: shown}, indent=1) + "\n"
