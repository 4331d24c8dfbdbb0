"""The backend ``rt3d`` of torch.compile: a frozen module's graphs as compiled artifacts.

    fast = torch.compile(model.eval(), backend="rt3d", dynamic=False)
    with torch.inference_mode():
        y = fast(clip)

torch finds the backend by the entry point in setup.py. Parameters and buffers become constants, so
that what is pruned is left out; a call after one of them was written to is refused. Each graph and
each shape of its inputs is compiled once for a process, into a folder that goes with it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from rt3d_tvm.api import compile as compile_module
from rt3d_tvm.api import load
from rt3d_tvm.errors import InputError
from rt3d_tvm.files.staging import scratch_folder

if TYPE_CHECKING:
    from torch import fx

# What ``options`` of torch.compile may have: of `api.load`, of `compile_onnx`.
_OPTIONS = ("threads", "strict")
# torch's mark on what a module owns, as against what its forward is called with.
_STATIC = "_dynamo_static_input_type"
# What does something else in training, and the place of the argument that says so.
_TRAINED = {"batch_norm": 5, "dropout": 2, "dropout1d": 2, "dropout2d": 2, "dropout3d": 2}
_TRAINED |= {"alpha_dropout": 2, "feature_alpha_dropout": 2}


def rt3d(
    graph: fx.GraphModule,
    example_inputs: Sequence[object],
    *,
    options: Mapping[str, object] | None = None,
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Compile a graph of torch's for this machine; returns what runs it.

    options: ``threads`` (default: all cores) and ``strict`` (refuse untested operators). InputError
    for a module in training, for gradients, open shapes, other devices than the CPU, and what
    `api.compile` refuses; torch raises it as a BackendCompilerFailed that ends with its text.
    """
    settings = dict(options or {})
    if unknown := sorted(set(settings) - set(_OPTIONS)):
        raise InputError(f"options {unknown[0]!r}: {' and '.join(_OPTIONS)} are accepted")
    tensors = _frozen(graph, example_inputs)
    constants = {i: each for i, each in enumerate(tensors) if hasattr(each, _STATIC)}
    given = [i for i in range(len(tensors)) if i not in constants]
    if not given:
        raise InputError("a graph without inputs: call the module with the tensors it works on")
    example = tuple(tensors[i].detach() for i in given)
    bound = _Bound(graph, constants, given)
    with contextlib.ExitStack() as files:
        folder = files.enter_context(scratch_folder("rt3d-torch-")) / "artifact"
        strict = bool(settings.get("strict", False))
        compile_module(bound, folder, example_inputs=example, strict=strict)
        artifact = load(folder, threads=settings.get("threads"))
        kept = files.pop_all()
    names, outputs = (
        [each["name"] for each in artifact.manifest[which]] for which in ("inputs", "outputs")
    )
    versions = {i: _version(each) for i, each in constants.items()}

    def run(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if any(_version(args[i]) != version for i, version in versions.items()):
            raise InputError(
                "the module's weights were written to since it was compiled: "
                "torch.compiler.reset() has it compiled again"
            )
        arrays = [args[i].detach().contiguous().numpy() for i in given]
        y = artifact.run(dict(zip(names, arrays, strict=True)) if len(arrays) > 1 else arrays[0])
        several = y if isinstance(y, Mapping) else {outputs[0]: y}
        return tuple(torch.from_numpy(several[name]) for name in outputs)

    weakref.finalize(run, kept.close)
    return run


class _Bound(nn.Module):
    """A graph whose constants are buffers; its forward takes the others in order."""

    def __init__(
        self, graph: fx.GraphModule, constants: Mapping[int, torch.Tensor], given: Sequence[int]
    ) -> None:
        super().__init__()
        self.graph, self.given, self.places = graph, tuple(given), tuple(constants)
        for i, tensor in constants.items():
            self.register_buffer(f"constant{i}", tensor.detach())

    def forward(self, *inputs: torch.Tensor):
        """The graph's results: one tensor where it is one."""
        values = dict(zip(self.given, inputs, strict=True))
        values |= {i: getattr(self, f"constant{i}") for i in self.places}
        results = self.graph(*(values[i] for i in range(len(values))))
        return results[0] if len(results) == 1 else tuple(results)


def _frozen(graph: fx.GraphModule, example_inputs: Sequence[object]) -> list[torch.Tensor]:
    """The inputs; InputError where the graph is no function of them alone, or of open shapes."""
    tensors: list[torch.Tensor] = []
    for each in example_inputs:
        if not isinstance(each, torch.Tensor):
            raise InputError(
                "a size that is left open: torch.compile(..., dynamic=False) compiles each shape"
            )
        if each.device.type != "cpu":
            raise InputError(f"a tensor on {each.device}: this backend compiles for the CPU")
        if torch.is_grad_enabled() and each.requires_grad:
            raise InputError(
                "gradients are asked for: call the module in torch.inference_mode() or no_grad()"
            )
        tensors.append(each)
    for node in graph.graph.nodes:
        name = getattr(node.target, "__name__", "")
        if node.op == "call_function" and name in _TRAINED and _in_training(node, _TRAINED[name]):
            raise InputError(f"{name} in training: call eval() on the module first")
    return tensors


def _in_training(node: fx.Node, place: int) -> bool:
    """Whether a normalisation or a dropout is called as in training; as torch has it by default."""
    default = place == _TRAINED["dropout"]
    return bool(
        node.args[place] if len(node.args) > place else node.kwargs.get("training", default)
    )


def _version(tensor: torch.Tensor) -> tuple[int, int]:
    """What changes when a tensor is written to or replaced; of inference mode only the latter."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version
