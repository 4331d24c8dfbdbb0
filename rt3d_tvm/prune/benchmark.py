"""A network with benchmark weights, dense and pruned: what demos, benchmarks and tests run."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from rt3d_tvm.models import build_model, model_spec
from rt3d_tvm.models.seeded import calibrate_, seeded_
from rt3d_tvm.prune.project import ProjectionReport, project_
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

SEED = 0


@dataclass(frozen=True, eq=False)
class BenchmarkPair:
    """The same network twice, for inputs of ``input_shape``; ``report`` says what was pruned."""

    dense: nn.Module
    pruned: nn.Module
    input_shape: tuple[int, ...]
    report: ProjectionReport


def benchmark_pair(
    name: str,
    *,
    group: KernelGroup,
    scheme: str = "kgs",
    rate: float | None = None,
    num_classes: int | None = None,
    width: float = 1.0,
    frames: int | None = None,
    size: int | None = None,
) -> BenchmarkPair:
    """Seeded weights, pruned in one shot to ``rate`` (the paper's by default), calibrated again.

    The other arguments are those of `build_model`; errors are those of `project_`.
    """
    spec = model_spec(name)
    shape = spec.shape_of(frames, size)
    dense = build_model(name, num_classes, width, frames=frames, size=size)
    seeded_(dense, seed=SEED, group=group, input_shape=shape)
    pruned = copy.deepcopy(dense)
    report = project_(
        pruned,
        scheme=Scheme(name=scheme, group=group),
        rate=spec.rate(rate),
        input_shape=shape,
        ignore=spec.classifiers,
    )
    calibrate_(pruned, seed=SEED, input_shape=shape)
    return BenchmarkPair(dense, pruned, shape, report)
