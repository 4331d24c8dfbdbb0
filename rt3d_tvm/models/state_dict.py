"""The tensors in a weight file: of safetensors, or of torch.save as torchvision publishes them."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rt3d_tvm.arguments import as_path
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.models import build_model, is_own, model_spec
from rt3d_tvm.models.head import head_of
from rt3d_tvm.models.published import NAMINGS, Naming

# How a file of torch.save begins: a zip archive, before release 1.6 a pickle.
_TORCH_FILES = (b"PK\x03\x04", b"\x80\x02")
# What checkpoints hold beside tensors, as mmengine's do: the course of the loss, numbers of numpy.
_RECORDS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    *(f"numpy.{name}" for name in ("ndarray", "dtype")),
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    "builtins.getattr",
)
# Under which a training's checkpoint has the state dict, beside its optimizer and epoch.
_PARTS = ("state_dict", "model_state_dict", "model_state", "model")


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says besides its tensors; a file of torch.save says nothing.

    InputError for a file that is not there or is neither.
    """
    path = as_path(path, "path")
    if _is_of_torch(path):
        return {}
    with _reading(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors by their names, on the CPU.

    Those of a checkpoint are taken where it has them, as ``state_dict`` or ``model``. InputError
    for a file that is not there, is neither of the two, or holds something else. No code in a file
    is run.
    """
    path = as_path(path, "path")
    if not _is_of_torch(path):
        with _reading(path), safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        with torch.serialization.safe_globals([(_Record, name) for name in _RECORDS]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"{path}: damaged, or not tensors alone (no code in a file is run); a state dict as "
            "torch.save writes it is expected"
        ) from error
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: holds a {type(found).__name__}; a state dict is expected")
    parts = [found[name] for name in _PARTS if isinstance(found.get(name), Mapping)]
    found = parts[0] if len(parts) == 1 else found
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        names = ", ".join(map(str, found)) or "nothing"
        raise InputError(
            f"{path}: holds {names[:200]}; a state dict, tensors by their names, is expected: save "
            "that part alone"
        )
    return dict(found)


class _Record:
    """Stands where a file has one of `_RECORDS`: nothing is imported for it, run or kept."""

    def __new__(cls, *_: object) -> _Record:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """Tensors by a model's own names, and the naming they had, None for these names themselves."""

    tensors: dict[str, Tensor]
    naming: Naming | None

    @property
    def named(self) -> str:
        """What a message adds of the naming."""
        return "" if self.naming is None else f" ({self.naming.said})"


def renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Renamed:
    """The tensors by a model's own names, of which as many are found as any way of reading finds.

    A file may have these names or those of one of `NAMINGS`, and before all of them what wrappers
    put there, ``module.`` say. Nothing changes where no way finds any.
    """
    readings = [Renamed(tensors=dict(state), naming=None)]
    for unwrapped in _unwrapped(state):
        readings.append(Renamed(tensors=unwrapped, naming=None))
        for naming in NAMINGS:
            found = naming.translated(unwrapped, own)
            if found is not None:
                readings.append(Renamed(tensors=found, naming=naming))
    best = max(readings, key=lambda reading: sum(name in own for name in reading.tensors))
    return replace(best, tensors=best.tensors | _counts(best.tensors, own))


def _counts(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The counts of batches that a file of torch before 0.4.1 lacks; no output depends on them."""
    norms = [name.rpartition(".")[0] for name in tensors if name.endswith(".running_mean")]
    names = [f"{norm}.num_batches_tracked" for norm in norms]
    return {name: torch.tensor(0) for name in names if name in own and name not in tensors}


def _unwrapped(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors by their names, then without the first part of these while all share it."""
    current = dict(state)
    while current:
        yield current
        if len({name.partition(".")[0] for name in current}) != 1:
            return
        if not all("." in name for name in current):
            return
        current = {name.partition(".")[2]: tensor for name, tensor in current.items()}


def classes_in(
    path: str | Path,
    model: str,
    width: float | None = None,
    *,
    frames: int | None = None,
    size: int | None = None,
) -> int | None:
    """How many classes the weights of a network are for, by its last layer; None without one.

    InputError as `read_state`, and for an unknown network.
    """
    width = 1.0 if width is None else width
    if is_own(model):
        built = build_model(model, width=width, frames=frames, size=size)
        last = f"{head_of(built, model_spec(model).shape_of(frames, size))}.weight"
    else:
        with torch.device("meta"):
            built = build_model(model, width=width)
        last = list(built.state_dict())[-1]
    tensor = renamed(read_state(path), built.state_dict()).tensors.get(last)
    return None if tensor is None or not (is_own(model) or tensor.dim() == 1) else len(tensor)


def _is_of_torch(path: str | Path) -> bool:
    with _reading(path), Path(path).open("rb") as file:
        return file.read(8).startswith(_TORCH_FILES)


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """InputError for a file that cannot be read, or not as safetensors."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"no weight file {path}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {words_of(error)}") from error
