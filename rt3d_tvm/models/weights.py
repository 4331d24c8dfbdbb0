"""Weight files: a state dict as safetensors, and what it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from rt3d_tvm.data.preprocessing import Description, from_json
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.files.whole_file import whole_file
from rt3d_tvm.models import build_model, is_own, model_spec
from rt3d_tvm.models.state_dict import Renamed, read_metadata, read_state, renamed
from rt3d_tvm.numerics.non_finite import NonFinite, in_tensors, refuse


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """What a weight file belongs to: the arguments of `build_model`, and where it came from.

    ``seed`` is that of benchmark weights; ``scheme``, ``group`` and ``rate`` are those it was
    pruned with. None: it does not apply, and for ``frames`` and ``size`` the model's own.
    ``description`` is what the training knew of its clips and classes, and what pruning cost.
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
    description: Description = field(default_factory=Description)

    def arguments(self) -> dict[str, object]:
        """All but the description, by name."""
        return {name: getattr(self, name) for name in _ARGUMENTS}

    def check(self) -> None:
        """InputError where the description is not of this model."""
        if self.description == Description():
            return
        shape = model_spec(self.model).shape_of(self.frames, self.size)
        self.description.check(shape, [shape[0], self.classes])


# The buffers of a norm that are learned.
_STATISTICS = ("running_mean", "running_var")
_ARGUMENTS = tuple(each.name for each in fields(WeightsInfo) if each.name != "description")
# How to read a field back from its text; what is not here is a whole number.
_READ = {"model": str, "scheme": str, "group": str, "width": float, "rate": float}


def save_weights(path: str | Path, model: nn.Module, info: WeightsInfo) -> None:
    """Write a model's state dict with its info. The file appears whole or not at all.

    InputError for weights that are NaN or infinite: there is nothing to write; for a description of
    another model; and where nothing can be written.
    """
    refuse(non_finite_weights(model), where=path)
    info.check()
    about = {name: getattr(info, name) for name in _ARGUMENTS}
    stated = {key: str(value) for key, value in about.items() if value is not None}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_tensors(path, state, {**stated, **info.description.as_json()})


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file, whole or not at all; InputError where it cannot be written."""
    with whole_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:  # a full disk, in words of its own
            raise InputError(f"{path}: cannot be written: {words_of(error)}") from error


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


def is_described(path: str | Path) -> bool:
    """Whether a weight file says which model it belongs to, as those of `save_weights` do.

    InputError for a file that holds no weights.
    """
    return {"model", "classes"} <= read_metadata(path).keys()


def read_info(path: str | Path) -> WeightsInfo:
    """The info in a weight file; InputError for a file that is not one of `save_weights`."""
    metadata = read_metadata(path)
    if missing := [name for name in ("model", "classes") if name not in metadata]:
        raise InputError(
            f"{path} does not say which model it belongs to (no {' and no '.join(missing)} in its "
            "metadata); files of `rt3d prune` do"
        )
    try:
        info = WeightsInfo(
            **{
                name: _READ.get(name, int)(metadata[name])
                for name in _ARGUMENTS
                if name in metadata
            }
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not say which model it belongs to ({words_of(error)}); files of "
            "`rt3d prune` do"
        ) from error
    info = replace(info, description=from_json(metadata, str(path)))
    try:
        info.check()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return info


def load_model(path: str | Path, named: str | None = None) -> tuple[nn.Module, WeightsInfo]:
    """Build the model that a weight file belongs to, in eval mode, with its weights.

    One of the user's own is built where ``named`` names it: a file alone runs no code. InputError
    for a file that is not one of `save_weights` or whose tensors do not fit.
    """
    info = read_info(path)
    check_named(info, named, path)
    model = build_model(info.model, info.classes, info.width, frames=info.frames, size=info.size)
    load_weights_(model, path)
    return model, info


def check_named(info: WeightsInfo, named: str | None, path: str | Path) -> None:
    """InputError for a file that says it is of a model of the user's own if nobody else does."""
    if is_own(info.model) and named is None:
        raise InputError(
            f"{path} says that it is of {info.model}; the code of that runs where you name it "
            f"only: --model {info.model}"
        )


def load_weights_(
    model: nn.Module, path: str | Path, *, say: Callable[[str], None] | None = None
) -> None:
    """Load the tensors of any weight file into a model; ``say`` is told whose names they have.

    InputError for a file that cannot be read, and for names or shapes that do not fit.
    """
    own = model.state_dict()
    found = renamed(read_state(path), own)
    state = found.tensors
    # torch copies what fits before it complains of the rest.
    if reason := _misfit(state, own):
        raise InputError(f"{path} does not fit the {type(model).__name__}{found.named}: {reason}")
    model.load_state_dict(state)
    _say_naming(path, found, say)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of a weight file's tensors, by name: those that a model has now, and

    new     those of the model that keep the values they had, each with the reason
    unused  those of the file that the model has not
    naming  the project whose names the file has, None where they are the model's
    """

    taken: tuple[str, ...]
    new: dict[str, str]
    unused: tuple[str, ...]
    naming: str | None = None


def load_fitting_(
    model: nn.Module,
    path: str | Path,
    *,
    head: str,
    partial: bool = False,
    say: Callable[[str], None] | None = None,
) -> Taken:
    """Load a weight file into a model that is to be trained on, which may have another head.

    The tensors of the layer ``head`` may be missing or of other classes; those of other layers
    with ``partial`` only. ``say`` is told whose names they have. InputError for a file that cannot
    be read or of which nothing fits.
    """
    own = model.state_dict()
    found = renamed(read_state(path), own)
    state = found.tensors
    new = {}
    for name, tensor in own.items():
        if name not in state:
            new[name] = "not in the file"
        elif state[name].shape != tensor.shape:
            new[name] = f"{list(tensor.shape)} here, {list(state[name].shape)} in the file"
    taken = tuple(name for name in own if name not in new)
    unused = tuple(name for name in state if name not in own)
    elsewhere = [name for name in new if not name.startswith(f"{head}.")]
    misfit = f"{path} does not fit the {type(model).__name__}{found.named}"
    if not taken:
        raise InputError(
            f"{misfit}: none of its {len(state)} tensors does; it has {_first(list(state))}, the "
            f"model {_first(list(own))}"
        )
    if (elsewhere or unused) and not partial:
        reasons = [_first([f"{name}: {new[name]}" for name in elsewhere])] if elsewhere else []
        reasons += [f"the model has no {_first(list(unused))}"] if unused else []
        raise InputError(
            f"{misfit}: {'; '.join(reasons)}; --partial takes the {len(taken)} of {len(own)} "
            "tensors that fit"
        )
    model.load_state_dict({name: state[name] for name in taken}, strict=False)
    naming = None if found.naming is None else found.naming.source
    _say_naming(path, found, say)
    return Taken(taken=taken, new=new, unused=unused, naming=naming)


def _say_naming(path: str | Path, found: Renamed, say: Callable[[str], None] | None) -> None:
    if say is not None and found.naming is not None:
        say(f"{path}: {found.naming.note}")


def _misfit(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """Why tensors are not those of a model, or None."""
    reasons = []
    if missing := [name for name in own if name not in state]:
        reasons.append(f"it lacks {_first(missing)}")
    if unknown := [name for name in state if name not in own]:
        reasons.append(f"the model has no {_first(unknown)}")
    shapes = [
        f"{name} of shape {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if shapes:
        reasons.append(f"it has {_first(shapes)}")
    return "; ".join(reasons) or None


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
