"""How far an architecture is pruned."""

from __future__ import annotations

from torch import nn

from rt3d_tvm.prune.survey import survey_model

RATE = 2.6


def rate_of(model: nn.Module, inputs: object) -> float:
    """The whole model's rate at which what can be pruned is at 2.6x."""
    layers = survey_model(model, example_inputs=inputs).layers
    dense = sum(layer.dense for layer in layers)
    whole = sum(layer.dense for layer in layers if layer.why_whole is not None)
    return dense / (whole + (dense - whole) / RATE)
