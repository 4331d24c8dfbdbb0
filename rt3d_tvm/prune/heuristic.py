"""Heuristic pruning (paper, section 4): importance propagated backwards, then greedy removal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.activations import Batches, eval_mode, input_strength
from rt3d_tvm.prune.macs import count_macs
from rt3d_tvm.prune.project import apply_masks_, choose_masks, layer_schemes
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

_LIVE_NORMS = (nn.GroupNorm, nn.LayerNorm, _InstanceNorm)


@dataclass(frozen=True, kw_only=True)
class Heuristic:
    """Remove what contributes least to the next layers' inputs, a few units at a time.

    The importance of weight w[m, n, k] is S[m] * |w| * a[n]: what it hands on of its input
    channel, whose RMS on real clips is a[n], to output channel m, and what the layers after make
    of that channel. S comes from the last layer backwards as in NISP, S[n] = sum of S[m] * |w|
    over the weights that read n, through BatchNorm, pooling, sums and concatenations alike.
    A unit's importance is its weights' mean. As in ThiNet and NISP it ranks the units of one layer
    and all layers give the same share: S says nothing about one layer against another, and a
    threshold on it would empty whole branches.

    Greedy, as ThiNet: in each of ``rounds``, which near the rate in equal factors, the least
    important units go and S is computed again without them, so that a filter nobody reads any
    more is next. a is measured once, on the model as it was.

    InputError for fewer than one round.
    """

    name: ClassVar[str] = "heuristic"

    rounds: int = 4

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"greedy pruning takes at least one round, got {self.rounds}")

    def choose_masks(
        self,
        model: nn.Module,
        batches: Batches,
        *,
        scheme: Scheme,
        rate: float,
        input_shape: Sequence[int],
        ignore: Iterable[str] = (),
        group_sizes: Mapping[str, KernelGroup] | None = None,
        max_batches: int,
    ) -> dict[str, Tensor]:
        """Which weights stay, as `project.choose_masks` has it; the model is left as it was.

        InputError as there, and for batches or a model that importance cannot be taken from.
        """
        layers = {
            "scheme": scheme,
            "input_shape": input_shape,
            "ignore": frozenset(ignore),
            "group_sizes": group_sizes,
        }
        names = layer_schemes(model, **layers)
        strength = input_strength(model, names, batches, max_batches=max_batches)
        whole = {name: model.get_submodule(name).weight.detach().clone() for name in names}
        macs = count_macs(model, input_shape)
        now = sum(layer.dense for layer in macs) / sum(layer.kept for layer in macs)
        masks: dict[str, Tensor] = {}
        try:
            for step in range(1, self.rounds + 1):
                last = step == self.rounds
                masks = choose_masks(
                    model,
                    # A model at or beyond the rate already is for the last round to refuse.
                    rate=rate if last else max(1.0, now * (rate / now) ** (step / self.rounds)),
                    order=1,
                    importance=weight_importance(model, input_shape, strength),
                    exact=last,
                    **layers,
                )
                apply_masks_(model, masks)
        finally:
            with torch.no_grad():
                for name, weight in whole.items():
                    model.get_submodule(name).weight.copy_(weight)
        return masks


def weight_importance(
    model: nn.Module, input_shape: Sequence[int], strength: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """S[m] * |w| * a[n] of each weight (float64), a being the ``strength`` of input channels.

    InputError where S cannot be had, see `channel_importance`.
    """
    output = channel_importance(model, input_shape, strength)
    importance = {}
    for name, a in strength.items():
        module = model.get_submodule(name)
        magnitude = module.weight.detach().double().abs()
        filters = magnitude.shape[0] // module.groups
        # In a grouped convolution weight[m, n] reads the n-th channel of the group of m.
        read = a.reshape(module.groups, -1).repeat_interleave(filters, dim=0)
        shaped = [1] * (magnitude.dim() - 2)
        importance[name] = (
            magnitude * output[name].reshape(-1, 1, *shaped) * read.reshape(*read.shape, *shaped)
        )
    return importance


def channel_importance(
    model: nn.Module, input_shape: Sequence[int], names: Iterable[str]
) -> dict[str, Tensor]:
    """S of the output channels of each named layer, in float64: NISP's propagation.

    It is the gradient of the summed outputs of the same network with the absolute value of every
    parameter, and running means of 0: on an input of ones its activations are positive, ReLU lets
    all of it through, and autograd follows whatever joins and forks the model has. Norms that take
    their statistics from the input are passed over. Float64, because the sums grow by the square
    root of the fan-in with every layer.

    InputError if a sum is not finite, as in a model of more than some 150 layers.
    """
    tensors = {name: p.detach().double().abs() for name, p in model.named_parameters()}
    for name, buffer in model.named_buffers():
        mean = name.endswith("running_mean")
        tensors[name] = torch.zeros_like(buffer) if mean else buffer
        if buffer.is_floating_point():
            tensors[name] = tensors[name].double()

    names = list(names)
    calls: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = []
    for name in names:
        module = model.get_submodule(name)

        def keep(_module, _inputs, output, name=name):
            calls[name].append(output)

        hooks.append(module.register_forward_hook(keep))
    for module in model.modules():
        # Statistics of the input would divide the importance out.
        live = isinstance(module, _BatchNorm) and module.running_mean is None
        if live or isinstance(module, _LIVE_NORMS):
            hooks.append(module.register_forward_hook(lambda _module, inputs, _output: inputs[0]))
    device = next(model.parameters()).device
    ones = torch.ones((1, *input_shape[1:]), dtype=torch.float64, device=device, requires_grad=True)
    try:
        with eval_mode(model), torch.enable_grad():
            total = torch.func.functional_call(model, tensors, (ones,)).sum()
            outputs = [output for name in names for output in calls[name]]
            found = iter(torch.autograd.grad(total, outputs, allow_unused=True))
    finally:
        for hook in hooks:
            hook.remove()

    importance = {}
    for name in names:
        sums = torch.zeros(
            model.get_submodule(name).weight.shape[0], dtype=torch.float64, device=device
        )
        for _ in calls[name]:
            gradient = next(found)
            if gradient is not None:  # None: nothing downstream depends on this output
                sums += gradient.sum(dim=[0, *range(2, gradient.dim())])
        if not bool(torch.isfinite(sums).all()):
            raise InputError(
                f"the importance of layer {name!r} is not finite: the model is too deep"
            )
        importance[name] = sums
    return importance
