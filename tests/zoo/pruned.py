"""An architecture pruned and exported, as far as it can be pruned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rt3d_tvm.export import ExportReport, export_onnx
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.report import ProjectionReport
from rt3d_tvm.prune.schemes import Scheme
from rt3d_tvm.prune.survey import survey_model
from tests.zoo.models import ZOO
from topi_sparse.kernel_group import KernelGroup

RATE = 2.6


def rate_of(model: nn.Module, inputs: object) -> float:
    """The whole model's rate at which what can be pruned is at 2.6x."""
    layers = survey_model(model, example_inputs=inputs).layers
    dense = sum(layer.dense for layer in layers)
    whole = sum(layer.dense for layer in layers if layer.why_whole is not None)
    return dense / (whole + (dense - whole) / RATE)


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """An architecture after `project_`, its weights of before, and its file."""

    name: str
    model: nn.Module
    before: dict[str, torch.Tensor]
    rate: float
    report: ProjectionReport
    export: ExportReport


def pruned(name: str, folder: Path) -> Pruned:
    """Prune an architecture in groups of 8x4 and write it to ``folder``/model.onnx."""
    model, inputs = ZOO[name].build(), ZOO[name].inputs()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rate = rate_of(model, inputs)
    scheme = Scheme(name="kgs", group=KernelGroup(g_m=8, g_n=4))
    report = project_(model, scheme=scheme, rate=rate, example_inputs=inputs)
    export = export_onnx(model, None, folder / "model.onnx", example_inputs=inputs)
    return Pruned(name=name, model=model, before=before, rate=rate, report=report, export=export)
