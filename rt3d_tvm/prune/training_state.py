"""What a training goes on from, checked before any of it is used: every fault is an InputError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rt3d_tvm.errors import InputError, words_of

# What torch's optimizers keep in the shape of a parameter.
_SHAPED = (
    *("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg"),
)
# What they cannot take a step without, once they have taken one.
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_NEEDED = {"Adam": _ADAM, "AdamW": _ADAM}
# Characters of a value that are shown.
_LONGEST = 80


def shown(value: object) -> str:
    """A value for a message: on one line, and no longer than it needs to be."""
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def part(path: str | Path, saved: object, name: str, kind: type | tuple[type, ...]) -> Any:
    """One part of a checkpoint, of a kind. InputError where it is missing or something else."""
    value = saved.get(name) if isinstance(saved, Mapping) else None
    if value is None and name not in (saved if isinstance(saved, Mapping) else ()):
        raise damaged(path, f"it has no {name}")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise damaged(path, f"its {name} is a {type(value).__name__}")
    return value


def damaged(path: str | Path, what: str) -> InputError:
    """To be raised for a checkpoint that does not hold what it should."""
    return InputError(f"{path} is damaged: {what}")


def check_model(path: str | Path, model: nn.Module, saved: object) -> dict[str, Tensor]:
    """A state dict that the model takes. InputError for one of another model."""
    tensors = {key: _form(value) for key, value in model.state_dict().items()}
    there = part(path, {"model": saved}, "model", Mapping)
    others = {key: _form(value) for key, value in there.items()}
    for key in [*tensors, *others]:
        if tensors.get(key) != others.get(key):
            raise InputError(
                f"{path} is of another model: there {shown(key)} is {others.get(key, 'missing')}, "
                f"here it is {tensors.get(key, 'missing')}"
            )
    return dict(there)


def optimizer_state(optimizer: Optimizer) -> dict[str, object]:
    """What `check_optimizer` takes."""
    return {"kind": type(optimizer).__name__, **optimizer.state_dict()}


def check_optimizer(path: str | Path, optimizer: Optimizer, saved: object) -> dict[str, object]:
    """A state dict that the optimizer takes. InputError for one of another optimizer."""
    written = part(path, {"optimizer": saved}, "optimizer", Mapping)
    kind = type(optimizer).__name__
    if (there := written.get("kind", kind)) != kind:
        there = shown(there)
        raise InputError(f"{path} was written with optimizer {there}, here it is {kind}")
    groups = part(path, written, "param_groups", Sequence)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    others = [len(part(path, group, "params", Sequence)) for group in groups]
    if sizes != others:
        raise InputError(
            f"{path} was written with an optimizer of {others} parameters in its groups, "
            f"here they are {sizes}"
        )
    for here, there in zip(optimizer.param_groups, groups, strict=True):
        _check_group(path, {name: here[name] for name in optimizer.defaults}, there)
    needed = set(_NEEDED.get(kind, ()))
    if needed and any(group.get("amsgrad") for group in groups):
        needed.add("max_exp_avg_sq")
    flat = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = part(path, written, "state", Mapping)
    numbers = [number for group in groups for number in group["params"]]
    by_number = dict(zip(numbers, flat, strict=True)) if _are_numbers(numbers) else {}
    for number, entries in state.items():
        if number not in by_number or not isinstance(entries, Mapping):
            raise damaged(path, f"its optimizer has a state of parameter {shown(number)}")
        _check_entries(path, by_number[number], entries, needed)
    return {"state": dict(state), "param_groups": list(groups)}


def load_optimizer_(path: str | Path, optimizer: Optimizer, state: Mapping[str, object]) -> None:
    """Load what was checked. InputError for what only the optimizer itself can tell."""
    try:
        optimizer.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise damaged(path, f"its optimizer's state: {shown(error)}") from error


def _check_group(path: str | Path, here: Mapping[str, object], there: Mapping) -> None:
    for name, value in here.items():
        if name not in there:
            raise damaged(path, f"its optimizer has no {name}")
        if _kind(there[name]) != _kind(value):
            other = shown(there[name])
            raise damaged(path, f"its optimizer's {name} is {other}, here it is {value}")


def _kind(value: object) -> object:
    """What two values of an option have in common: of numbers that they are, of tuples how many."""
    if isinstance(value, (tuple, list)):
        return [_kind(item) for item in value]
    if value is None or isinstance(value, bool):
        return "switch"
    if _is_number(value) or getattr(value, "shape", None) == torch.Size([]):
        return "number"
    return type(value)


def _check_entries(path: str | Path, parameter: Tensor, entries: Mapping, needed: set[str]) -> None:
    if entries and (missing := sorted(needed - entries.keys())):
        raise damaged(path, f"its optimizer's state has no {missing[0]}")
    for name, value in entries.items():
        shape = getattr(value, "shape", ())
        if name in _SHAPED and value is not None and shape != parameter.shape:
            raise damaged(path, f"its optimizer's {name} is not of a parameter's shape")
        if name == "step" and _kind(value) != "number":
            raise damaged(path, f"its optimizer's step is {shown(value)}")


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_numbers(values: Sequence[object]) -> bool:
    whole = all(isinstance(value, int) for value in values)
    return whole and len(set(values)) == len(values)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of torch's generators that a training on this device draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def check_random(path: str | Path, saved: object) -> dict[str, Tensor]:
    """What `restore_random` takes. InputError for anything else."""
    states = part(path, {"random": saved}, "random", Mapping)
    own, there = torch.get_rng_state(), part(path, states, "cpu", Tensor)
    for state in states.values():
        if not isinstance(state, Tensor) or state.dtype != torch.uint8:
            raise damaged(path, "its random generators have no state of theirs")
    if there.shape != own.shape:
        raise damaged(path, f"its random generator has {there.numel()} bytes, not {own.numel()}")
    try:
        torch.Generator().set_state(there)
    except RuntimeError as error:
        raise damaged(path, f"its random generator: {words_of(error, lines=1)}") from error
    return dict(states)


def restore_random(device: torch.device, state: Mapping[str, Tensor]) -> None:
    """Put torch's generators back."""
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    torch.set_rng_state(state["cpu"])


def check_history(path: str | Path, saved: object, *, epochs: int) -> list[dict]:
    """The rows of metrics of the epochs so far. InputError for anything else."""
    rows = part(path, saved, "history", list)
    if len(rows) > epochs:
        raise damaged(path, f"it is of {len(rows)} epochs, the training has {epochs}")
    for number, row in enumerate(rows, 1):
        if part(path, row, "epoch", int) != number:
            raise damaged(path, f"its row of epoch {number} is not of that epoch")
        part(path, row, "phase", str)
        for name in ("loss", "train_accuracy", "test_accuracy"):
            check_finite(path, name, row.get(name))
    return rows


def check_finite(path: str | Path, name: str, value: object) -> float:
    """A finite number of at least 0."""
    if not (_is_number(value) and isfinite(value) and value >= 0):
        raise damaged(path, f"its {name} is {shown(value)}")
    return float(value)


def _form(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"{list(value.shape)} {value.dtype}"
