"""The weight that a layer multiplies by: a parameter, or what is computed from some.

torch's parametrizations (weight_norm, spectral_norm, orthogonal, your own), its older weight_norm
and spectral_norm, and the masks of torch.nn.utils.prune compute a weight anew in every forward
pass. A mask on their parameters would be undone there, so it is put behind them: ``mask_`` keeps
the computation and zeroes what comes out, ``bake_`` ends it and leaves a plain parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    SpectralNormStateDictHook,
)
from torch.nn.utils.weight_norm import WeightNorm

from rt3d_tvm.prune.probe import Structure

# What computes a weight in a hook before its module runs.
_Hook: TypeAlias = WeightNorm | SpectralNorm | BasePruningMethod


class LayerWeight:
    """A weight under the name ``attribute`` of ``module``; this one is a parameter as it is."""

    def __init__(self, module: nn.Module, attribute: str, *others: tuple[nn.Module, str]) -> None:
        self.module, self.attribute = module, attribute
        self._others = others

    def in_effect(self) -> Tensor:
        """The weight as it is now, in eval mode; it has a gradient where gradients are on."""
        parameter = self.module._parameters.get(self.attribute)
        return self.module._buffers[self.attribute] if parameter is None else parameter

    def parameters(self) -> list[nn.Parameter]:
        """What an optimizer has of it."""
        places = ((self.module, self.attribute), *self._others)
        found = [module._parameters.get(name) for module, name in places]
        return list({id(p): p for p in found if p is not None}.values())

    @property
    def has_gradient(self) -> bool:
        return any(parameter.grad is not None for parameter in self.parameters())

    def add_gradient_(self, gradient: Tensor) -> None:
        """Add the gradient of a term of the loss, given for the weight in effect."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                # Tied parameters are one weight: the term counts once.
                parameter.grad.add_(gradient)
                return

    def clear_gradient_(self, gone: Tensor) -> None:
        """Zero the gradients of what is pruned."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0.0)

    def mask_(self, gone: Tensor) -> None:
        """Zero what is True in ``gone``, now; `hold_` does so again after a step."""
        weight = self.in_effect()
        with writing(weight):
            # Not a product with a mask: that leaves -0.0 behind.
            weight.masked_fill_(gone.to(weight.device), 0.0)

    def hold_(self, gone: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Zero what is pruned in the weight and in what the optimizer keeps of it."""
        self.mask_(gone)
        for parameter in self.parameters():
            for value in optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(gone, 0.0)

    def unmask_(self) -> None:
        """Let go of the mask; what is zero stays zero."""

    def bake_(self) -> None:
        """Make the weight in effect a plain parameter of the module: a new one, if it was none."""


class ComputedWeight(LayerWeight):
    """A weight that is computed from parameters in every forward pass."""

    def add_gradient_(self, gradient: Tensor) -> None:
        with torch.enable_grad():
            weight = self.in_effect()
        if weight.requires_grad:
            weight.backward(gradient)

    def clear_gradient_(self, gone: Tensor) -> None:
        """Nothing to do: no gradient passes the mask."""

    def hold_(self, gone: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to do: the mask is behind what the optimizer changes."""

    def bake_(self) -> None:
        trained = any(parameter.requires_grad for parameter in self.parameters())
        # Plus 0.0: a product with a mask leaves -0.0 behind.
        plain = nn.Parameter(self.in_effect().detach() + 0.0, requires_grad=trained)
        self._end()
        # Before the bias, as in a layer that was never anything else.
        own = self.module._parameters
        others = dict(own)
        own.clear()
        own.update({self.attribute: plain, **others})

    def _end(self) -> None:
        """Take the computation out of the module."""
        raise NotImplementedError


class ParametrizedWeight(ComputedWeight):
    """By torch.nn.utils.parametrize."""

    def in_effect(self) -> Tensor:
        chain = self._chain
        was_training = {module: module.training for module in chain.modules()}
        chain.eval()  # spectral_norm takes a step of its power iteration in training mode
        try:
            return chain()
        finally:
            for module, mode in was_training.items():
                module.training = mode

    def parameters(self) -> list[nn.Parameter]:
        return list(self._chain.parameters())

    def mask_(self, gone: Tensor) -> None:
        self.unmask_()
        self._chain.append(_Kept(gone))

    def unmask_(self) -> None:
        if isinstance(self._chain[-1], _Kept):
            del self._chain[-1]

    @property
    def _chain(self) -> parametrize.ParametrizationList:
        return self.module.parametrizations[self.attribute]

    def _end(self) -> None:
        module, kind = self.module, type(self.module)
        # One class may serve several modules, copies of each other: theirs is left as it is.
        module.__class__ = kind.__bases__[0]
        del module.parametrizations[self.attribute]
        left = list(module.parametrizations)
        if not left:
            del module._modules["parametrizations"]
        else:
            own = {k: v for k, v in vars(kind).items() if k not in (self.attribute, "__dict__")}
            own.pop("__weakref__", None)
            module.__class__ = type(kind.__name__, kind.__bases__, own)


class _Kept(nn.Module):
    """The last parametrization of a pruned weight. Its mask is in no state dict."""

    def __init__(self, gone: Tensor) -> None:
        super().__init__()
        self.register_buffer("gone", gone, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(self.gone, 0.0)


class HookedWeight(ComputedWeight):
    """By a forward pre-hook of torch's own, which leaves the weight as a plain attribute."""

    _PARTS: ClassVar[dict[type, tuple[str, ...]]] = {
        WeightNorm: ("_g", "_v"),
        SpectralNorm: ("_orig", "_u", "_v"),
        BasePruningMethod: ("_orig", "_mask"),
    }

    @classmethod
    def hook_of(cls, module: nn.Module, attribute: str) -> _Hook | None:
        """The hook that computes this attribute; None where there is none, or more than one."""
        found = [
            hook
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, tuple(cls._PARTS)) and _attribute_of(hook) == attribute
        ]
        return found[0] if len(found) == 1 else None

    def in_effect(self) -> Tensor:
        hook = self.hook_of(self.module, self.attribute)
        if isinstance(hook, SpectralNorm):
            weight = hook.compute_weight(self.module, do_power_iteration=False)
        elif isinstance(hook, WeightNorm):
            weight = hook.compute_weight(self.module)
        else:
            weight = hook.apply_mask(self.module)
        kept = self._kept()
        return weight if kept is None else kept.masked(weight)

    def parameters(self) -> list[nn.Parameter]:
        own = self.module._parameters
        return [own[name] for name in self._names() if own.get(name) is not None]

    def mask_(self, gone: Tensor) -> None:
        self.unmask_()
        kept = _KeptHook(self.attribute, gone)
        self.module.register_forward_pre_hook(kept)
        self._show()

    def unmask_(self) -> None:
        hooks = self.module._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if hook is self._kept()]:
            del hooks[key]
        self._show()

    def _show(self) -> None:
        """The attribute is what the next forward pass would make of it."""
        self.module.__dict__[self.attribute] = self.in_effect()

    def _kept(self) -> _KeptHook | None:
        for hook in self.module._forward_pre_hooks.values():
            if isinstance(hook, _KeptHook) and hook.attribute == self.attribute:
                return hook
        return None

    def _names(self) -> list[str]:
        hook = self.hook_of(self.module, self.attribute)
        parts = next(p for kind, p in self._PARTS.items() if isinstance(hook, kind))
        return [f"{self.attribute}{part}" for part in parts]

    def _end(self) -> None:
        module, names = self.module, self._names()
        ended = (self.hook_of(module, self.attribute), self._kept())
        for hooks in (
            module._forward_pre_hooks,
            module._state_dict_hooks,
            module._load_state_dict_pre_hooks,
        ):
            for key, hook in list(hooks.items()):
                if any(hook is end for end in ended) or _serves(hook, ended[0]):
                    del hooks[key]
        for name in names:
            module._parameters.pop(name, None)
            module._buffers.pop(name, None)
        module.__dict__.pop(self.attribute, None)


class _KeptHook:
    """Zeroes what is pruned in a weight that a hook before it has computed."""

    def __init__(self, attribute: str, gone: Tensor) -> None:
        self.attribute, self.gone = attribute, gone

    def masked(self, weight: Tensor) -> Tensor:
        if self.gone.device != weight.device:
            self.gone = self.gone.to(weight.device)
        return weight.masked_fill(self.gone, 0.0)

    def __call__(self, module: nn.Module, _inputs: object) -> None:
        module.__dict__[self.attribute] = self.masked(module.__dict__[self.attribute])


def computed_weights(module: nn.Module) -> Iterator[ComputedWeight]:
    """Those of one module, not of what is in it."""
    if parametrize.is_parametrized(module):
        for attribute in module.parametrizations:
            yield ParametrizedWeight(module, attribute)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, tuple(HookedWeight._PARTS)):
            attribute = _attribute_of(hook)
            if HookedWeight.hook_of(module, attribute) is hook:
                yield HookedWeight(module, attribute)


def weight_at(model: nn.Module, *names: str) -> LayerWeight:
    """The weight of these dotted names, more than one if it is tied."""
    (module, attribute), *others = [_place(model, name) for name in names]
    if parametrize.is_parametrized(module, attribute):
        return ParametrizedWeight(module, attribute)
    if HookedWeight.hook_of(module, attribute) is not None:
        return HookedWeight(module, attribute)
    return LayerWeight(module, attribute, *others)


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    prefix, _, attribute = name.rpartition(".")
    return model.get_submodule(prefix), attribute


@contextmanager
def plain_weights(model: nn.Module) -> Iterator[None]:
    """For a while every computed weight is a plain parameter, as an exported model wants it."""
    before = Structure(model)
    try:
        for module in list(model.modules()):
            for weight in list(computed_weights(module)):
                weight.bake_()
        yield
    finally:
        before.restore()


def writing(tensor: Tensor):
    """Where a tensor may be written to: those made in inference mode only inside of it."""
    if tensor.is_inference():
        return torch.inference_mode()
    return torch.no_grad() if torch.is_grad_enabled() else nullcontext()


def _attribute_of(hook: _Hook) -> str:
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name


def _serves(hook: object, norm: object) -> bool:
    """Whether a hook of state dicts is there for an old spectral_norm."""
    kinds = (SpectralNormStateDictHook, SpectralNormLoadStateDictPreHook)
    # torch wraps the latter in one that may be given the module.
    hook = getattr(hook, "hook", hook)
    return isinstance(hook, kinds) and hook.fn is norm
