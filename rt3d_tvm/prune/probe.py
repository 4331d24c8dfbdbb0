"""Running a model to learn something of it, and leaving it as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.prune.inputs import ModelInputs

# What a model raises where it does not take an input.
_DECLINED = (
    *(RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError),
    *(AssertionError, ZeroDivisionError),
)


class DoesNotRunError(InputError):
    """The model does not take the inputs, or does not run as it is: outside of autocast, say."""


def inside_wrappers(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and DataParallel's wrappers."""
    inner = model._modules.get("_orig_mod")
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = model.module
    return model if inner is None else inside_wrappers(inner)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and DataParallel's wrappers, whose weights are theirs.

    InputError for what is no module, a ScriptModule, and a lazy layer that has no weights yet.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"a torch.nn.Module is pruned, got a {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"this {type(model).__name__} is a TorchScript module, whose code cannot be seen; "
            "prune the torch.nn.Module that it was made of"
        )
    if (inner := inside_wrappers(model)) is not model:
        return unwrapped(inner)
    for name, module in model.named_modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
                raise InputError(
                    f"layer {name!r} is a {type(module).__name__} without weights yet; run the "
                    "model once on an input, then prune it"
                )
    return model


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer is; the CPU for a model without any."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


class Structure:
    """What is in a model's modules by name: attributes, hooks, parametrizations; no values."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, type(module), dict(module.__dict__), _containers(module))
            for module in model.modules()
        ]

    def restore(self) -> None:
        """Put every module back to what it was; what was changed inside a tensor stays."""
        for module, kind, attributes, containers in self._modules:
            if type(module) is not kind:
                object.__setattr__(module, "__class__", kind)
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for container, content in containers:
                if isinstance(container, list):
                    container[:] = content
                else:
                    container.clear()
                    container.update(content)


def _containers(module: nn.Module) -> list[tuple[dict | list | set, dict | list | set]]:
    values = module.__dict__.values()
    return [(value, value.copy()) for value in values if isinstance(value, (dict, list, set))]


@contextmanager
def on_the_side(model: nn.Module) -> Iterator[None]:
    """Eval mode, uncompiled, and attention and recurrence in single steps; undone afterwards.

    What forward() leaves in attributes is taken away, and torch's random generators go back.
    """
    before = Structure(model)
    fast = torch.backends.mha.get_fastpath_enabled()
    devices = [device_of(model)] if device_of(model).type == "cuda" else []
    with ExitStack() as stack:
        stack.callback(before.restore)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.random.fork_rng(devices))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        # Tensors made in inference mode are of no use outside of it.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled()))
        torch.manual_seed(0)
        model.eval()
        yield


@dataclass(frozen=True)
class Tensors:
    """Stand-ins for a model's parameters and buffers, and whose each is.

    Names whose tensors are one memory, as of tied weights, share a stand-in.
    """

    by_name: Mapping[str, Tensor]
    names: tuple[tuple[str, ...], ...]

    @classmethod
    def on_meta(cls, model: nn.Module) -> Tensors:
        """Without values."""
        return cls._of(model, lambda tensor: torch.empty_like(tensor, device="meta"))

    @classmethod
    def copied(cls, model: nn.Module) -> Tensors:
        """With the same values: a run that writes into them leaves the model alone."""
        return cls._of(model, lambda tensor: tensor.detach().clone())

    @classmethod
    def _of(cls, model: nn.Module, stand_in) -> Tensors:
        names: dict[tuple, list[str]] = {}
        made: dict[tuple, Tensor] = {}
        for name, tensor in own_tensors(model):
            key = memory(tensor)
            if key not in made:
                made[key] = stand_in(tensor)
            names.setdefault(key, []).append(name)
        by_name = {name: made[key] for key, group in names.items() for name in group}
        return cls(by_name, tuple(map(tuple, names.values())))


def own_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name: a module that occurs twice once, tied ones each time."""
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield f"{prefix}.{name}" if prefix else name, tensor


def memory(tensor: Tensor) -> tuple:
    """What tells one piece of memory from another: equal for tied weights."""
    return storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def storage(tensor: Tensor) -> int:
    """The storage that a tensor is a view of; the tensor itself where it has none."""
    if tensor.layout is not torch.strided:
        return -id(tensor)
    return tensor.untyped_storage()._cdata


def call(
    model: nn.Module,
    inputs: ModelInputs,
    *,
    tensors: Tensors | None = None,
    modes: Iterable[AbstractContextManager] = (),
) -> object:
    """The output of a run, inside ``modes``. DoesNotRunError where the model does not take them.

    To be called `on_the_side`.
    """
    with ExitStack() as stack:
        if tensors is not None:
            stack.enter_context(_standing_in(model, tensors))
        for mode in modes:
            stack.enter_context(mode)
        try:
            return model(*inputs.args, **inputs.kwargs)
        except InputError:
            raise
        except _DECLINED as error:
            reason = words_of(error, lines=1)
            raise DoesNotRunError(f"the model does not take {inputs}: {reason}") from error


@contextmanager
def _standing_in(model: nn.Module, tensors: Tensors) -> Iterator[None]:
    before = Structure(model)
    try:
        for prefix, module in model.named_modules():
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None:
                        own[name] = tensors.by_name[f"{prefix}.{name}" if prefix else name]
            if isinstance(module, nn.RNNBase):
                names = module._flat_weights_names
                module.__dict__["_flat_weights"] = [module._parameters.get(n) for n in names]
        yield
    finally:
        before.restore()
