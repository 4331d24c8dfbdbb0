"""Count the multiply-accumulates of a torch model, as it was and with its zeros left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from rt3d_tvm.prune.inputs import ModelInputs
from rt3d_tvm.prune.survey import survey_model


@dataclass(frozen=True, kw_only=True)
class LayerMacs:
    """One layer's work on one input: every weight is used once at each of ``positions``.

    ``kept`` leaves out the weights that are zero. Bias, normalisation and pooling count nothing.
    """

    name: str
    shape: tuple[int, ...]
    positions: int
    dense: int
    kept: int

    @property
    def density(self) -> float:
        return self.kept / self.dense if self.dense else 1.0


def layer_positions(
    model: nn.Module, input_shape: Sequence[int] | ModelInputs | None = None, **inputs: object
) -> dict[str, int]:
    """Output positions (batch included) of each convolution and matrix product, by layer.

    A weight that is used twice has the positions of both uses. Arguments and errors are those of
    `survey_model`.
    """
    survey = survey_model(model, input_shape=input_shape, **inputs)
    return {layer.name: layer.positions for layer in survey.layers}


def count_macs(
    model: nn.Module, input_shape: Sequence[int] | ModelInputs | None = None, **inputs: object
) -> tuple[LayerMacs, ...]:
    """MACs of every convolution and matrix product on one input, in execution order.

    Whatever calls it: a layer, torch.nn.functional or an operator. For weights on the meta device,
    which have no values, ``kept`` equals ``dense``. Arguments and errors are those of
    `survey_model`.
    """
    return tuple(
        LayerMacs(
            name=layer.name,
            shape=layer.shape,
            positions=layer.positions,
            dense=layer.dense,
            kept=layer.kept_macs,
        )
        for layer in survey_model(model, input_shape=input_shape, **inputs).layers
    )
