"""What a model is called with: one clip of a shape, or example tensors in any arrangement."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rt3d_tvm.errors import InputError

# Tensors, or shapes of clips that are made when they are needed, in tuples, lists and dicts.
Tree = Any
# How far a second input is from an example, in deviations of it.
_NUDGE = 1.0


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """The arguments of one call: by position in ``args``, by name in ``kwargs``.

    A leaf is an example tensor, or the shape of a clip of noise.
    """

    args: tuple[Tree, ...]
    kwargs: Mapping[str, Tree]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        input_shape: Sequence[int] | ModelInputs | None = None,
        example_inputs: Tree = None,
    ) -> ModelInputs:
        """What either of the two says. A tuple is spread over the arguments, a dict over their
        names, a list over the arguments if there are as many; else each is one argument.

        InputError for both or neither, for a shape that is none, and for examples without tensors.
        """
        if isinstance(input_shape, ModelInputs):
            return input_shape
        if (input_shape is None) == (example_inputs is None):
            raise InputError("input_shape or example_inputs is needed, one of them")
        if example_inputs is None:
            return cls((_checked_shape(input_shape),), {})
        if not any(isinstance(leaf, Tensor) for leaf in leaves(example_inputs)):
            raise InputError(
                f"example_inputs holds no tensor, but a {type(example_inputs).__name__}; tensors "
                "in tuples, lists and dicts are accepted"
            )
        return cls._spread(model, example_inputs)

    @classmethod
    def _spread(cls, model: nn.Module, examples: Tree) -> ModelInputs:
        one = cls((examples,), {})
        if isinstance(examples, dict) and all(isinstance(key, str) for key in examples):
            spread = cls((), dict(examples))
        elif isinstance(examples, (tuple, list)):
            spread = cls(tuple(examples), {})
        else:
            return one
        signature = inspect.signature(model.forward)
        try:
            signature.bind(*spread.args, **spread.kwargs)
        except TypeError:
            return one
        needed = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        # forward(frames, mask=None) takes a list of pathways as its one argument.
        if isinstance(examples, list) and len(needed) < 2:
            return one
        return spread

    def __str__(self) -> str:
        shapes = [list(_shape(leaf)) for leaf in leaves((self.args, dict(self.kwargs)))]
        return f"an input {shapes[0]}" if len(shapes) == 1 else f"inputs {shapes}"

    @property
    def plain(self) -> Tree:
        """Shapes as JSON has them: a list of numbers for one clip."""
        if self._one is not None:
            return list(_shape(self._one))
        shapes = _mapped((self.args, dict(self.kwargs)), lambda leaf: list(_shape(leaf)))
        return [*shapes[0], *([shapes[1]] if shapes[1] else [])]

    def noise(self, model: nn.Module, *, second: bool = False) -> ModelInputs:
        """Values for one run: the examples, and noise for shapes. ``second`` ones differ."""
        device, dtype = _device_and_dtype(model)
        generator = torch.Generator().manual_seed(1 if second else 0)

        def value(leaf: object) -> object:
            if isinstance(leaf, torch.Size):
                return torch.randn(leaf, generator=generator).to(device, dtype)
            if not isinstance(leaf, Tensor):
                return leaf
            example = leaf.detach().to(device).clone()
            if second and example.is_floating_point():
                scale = _NUDGE * example.double().std(unbiased=False).clamp(min=1e-3)
                step = scale * torch.randn(example.shape, generator=generator).to(device)
                example = (example.double() + step).to(example.dtype)
            return example

        return self.mapped(value)

    def ones(self, model: nn.Module) -> ModelInputs:
        """A clip of ones in float64, batch 1; examples likewise, of their own batch."""
        device, _ = _device_and_dtype(model)

        def value(leaf: object) -> object:
            if isinstance(leaf, torch.Size):
                return torch.ones((1, *leaf[1:]), dtype=torch.float64, device=device)
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                return torch.ones(leaf.shape, dtype=torch.float64, device=device)
            return leaf.to(device) if isinstance(leaf, Tensor) else leaf

        return self.mapped(value)

    def on_meta(self, model: nn.Module) -> ModelInputs:
        """Without values, on torch's meta device."""
        _, dtype = _device_and_dtype(model)

        def value(leaf: object) -> object:
            if isinstance(leaf, torch.Size):
                return torch.empty(leaf, dtype=dtype, device="meta")
            return leaf.to("meta") if isinstance(leaf, Tensor) else leaf

        return self.mapped(value)

    def of_batch(self, batch: object, device: torch.device) -> ModelInputs:
        """The inputs in what a data loader yields: they alone, or first in a sequence.

        InputError for a batch without tensors arranged as they are here.
        """
        if self._one is not None:
            first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
            if not isinstance(first, Tensor):
                raise InputError(
                    "a batch is a tensor of clips, or a sequence that starts with one; got a "
                    f"{type(first).__name__}"
                )
            return ModelInputs((first.to(device),), {})
        found = self._found_in(batch)
        if found is None:
            raise InputError(
                f"a batch is the model's {self}, or a sequence that starts with them; got a "
                f"{type(batch).__name__}"
            )
        return found.mapped(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf)

    def mapped(self, value: Callable[[object], object]) -> ModelInputs:
        """The same arrangement of other leaves."""
        return ModelInputs(_mapped(self.args, value), _mapped(dict(self.kwargs), value))

    def _found_in(self, batch: Tree) -> ModelInputs | None:
        candidates = [batch]
        if isinstance(batch, (list, tuple)) and batch:
            candidates = [batch[0], batch, batch[: len(self.args)]]
        for candidate in candidates:
            if self.kwargs:
                named = isinstance(candidate, Mapping) and self.kwargs.keys() <= candidate.keys()
                if named and not self.args:
                    return ModelInputs((), {key: candidate[key] for key in self.kwargs})
            elif len(self.args) == 1:
                if _alike(self.args[0], candidate):
                    return ModelInputs((candidate,), {})
            elif _alike(self.args, candidate):
                return ModelInputs(tuple(candidate), {})
        return None

    @property
    def _one(self) -> object | None:
        """The only leaf, where the model takes one tensor."""
        only = self.args[0] if len(self.args) == 1 and not self.kwargs else None
        return only if isinstance(only, (Tensor, torch.Size)) else None


def leaves(tree: Tree) -> Iterator[object]:
    """All that is in tuples, lists and dicts of any depth; attributes of dataclasses too."""
    if isinstance(tree, torch.Size):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from leaves(item)
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)
    elif hasattr(tree, "__dataclass_fields__"):
        for name in tree.__dataclass_fields__:
            yield from leaves(getattr(tree, name))
    else:
        yield tree


def _mapped(tree: Tree, value: Callable[[object], object]) -> Tree:
    if isinstance(tree, dict):
        return {key: _mapped(item, value) for key, item in tree.items()}
    if isinstance(tree, (tuple, list)) and not isinstance(tree, torch.Size):
        items = [_mapped(item, value) for item in tree]
        if isinstance(tree, list):
            return items
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return value(tree)


def _alike(form: Tree, other: Tree) -> bool:
    """Whether two trees have tensors in the same places."""
    if isinstance(form, dict):
        return isinstance(other, Mapping) and all(
            key in other and _alike(item, other[key]) for key, item in form.items()
        )
    if isinstance(form, (tuple, list)) and not isinstance(form, torch.Size):
        return (
            isinstance(other, (tuple, list))
            and len(form) == len(other)
            and all(map(_alike, form, other))
        )
    return isinstance(other, Tensor) or not isinstance(form, (Tensor, torch.Size))


def _shape(leaf: object) -> Sequence[int]:
    if isinstance(leaf, torch.Size):
        return leaf
    return leaf.shape if isinstance(leaf, Tensor) else ()


def _checked_shape(shape: object) -> torch.Size:
    given = shape if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    if not given or not all(isinstance(n, int) and n >= 1 for n in given):
        raise InputError(
            f"input shape {shape}: whole numbers of at least 1 are accepted, such as "
            "(1, 3, 16, 112, 112)"
        )
    return torch.Size(given)


def _device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Of the model's first floating-point parameter, or buffer."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32
