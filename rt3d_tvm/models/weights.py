"""Weight files: a state dict as safetensors, and what it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.files import whole_file
from rt3d_tvm.models import build_model
from rt3d_tvm.non_finite import NonFinite, in_tensors, refuse


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What a weight file belongs to: the arguments of `build_model`, and where it came from.

    ``seed`` is that of benchmark weights; ``scheme``, ``group`` and ``rate`` are those it was
    pruned with. None: it does not apply, and for ``frames`` and ``size`` the model's own.
    """

    model: str
    classes: int
    width: float = 1.0
    frames: int | None = None
    size: int | None = None
    seed: int | None = None
    scheme: str | None = None
    group: str | None = None
    rate: float | None = None


# The buffers of a norm that are learned.
_STATISTICS = ("running_mean", "running_var")
# How to read a field back from its text; what is not here is a whole number.
_READ = {"model": str, "scheme": str, "group": str, "width": float, "rate": float}


def save_weights(path: str | Path, model: nn.Module, info: WeightsInfo) -> None:
    """Write a model's state dict with its info. The file appears whole or not at all.

    InputError for weights that are NaN or infinite: there is nothing to write.
    """
    refuse(non_finite_weights(model), where=path)
    metadata = {key: str(value) for key, value in asdict(info).items() if value is not None}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(path, state, metadata)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all; InputError where it cannot be written."""
    with whole_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:  # a full disk, in words of its own
            raise InputError(f"{path}: cannot be written: {error}") from error


def non_finite_weights(model: nn.Module) -> list[NonFinite]:
    """The parameters and running statistics of a model that hold a NaN or an infinity.

    Other buffers may: a mask is full of infinities.
    """
    tensors = [
        *model.named_parameters(),
        *(each for each in model.named_buffers() if each[0].rpartition(".")[2] in _STATISTICS),
    ]
    return in_tensors(
        (name, tensor.detach().float().cpu().numpy())
        for name, tensor in tensors
        if tensor.is_floating_point()
    )


def read_info(path: str | Path) -> WeightsInfo:
    """The info in a weight file; InputError for a file that is not one of `save_weights`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise InputError(f"no weight file {path}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    try:
        return WeightsInfo(
            **{
                field.name: _READ.get(field.name, int)(metadata[field.name])
                for field in fields(WeightsInfo)
                if field.name in metadata
            }
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say which model it belongs to ({error}); files of `rt3d prune` do"
        ) from error


def load_model(path: str | Path) -> tuple[nn.Module, WeightsInfo]:
    """Build the model that a weight file belongs to, in eval mode, with its weights.

    InputError for a file that is not one of `save_weights` or whose tensors do not fit.
    """
    info = read_info(path)
    model = build_model(info.model, info.classes, info.width, frames=info.frames, size=info.size)
    load_weights_(model, path)
    return model, info


def load_weights_(model: nn.Module, path: str | Path) -> None:
    """Load the tensors of any safetensors file into a model.

    InputError for a file that cannot be read, and for names or shapes that do not fit.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise InputError(f"no weight file {path}") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} does not fit the {type(model).__name__}: {reason}") from error
