"""How frames become a model's input, what its classes are called, and what its pruning cost.

It is kept with the model: `rt3d train` and `rt3d prune` write it into the weight file, `rt3d
export` into the metadata of the ONNX file, `rt3d compile` into manifest.json. Standard library
only: what runs an artifact reads it without torch and without a video decoder.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import TypeGuard, TypeVar

from rt3d_tvm.errors import InputError, words_of

COLOUR_ORDERS = ("rgb", "bgr")
CROPS = (1, 3)
# Far above any model there is; a number beyond it is damage, and would only fill the memory.
_MOST = {"frames": 10_000, "size": 4096, "resize": 4096, "stride": 10_000, "clips": 10_000}
# Control characters and half surrogates, which a terminal takes for something else; and the mark
# that stands inside a file where two were put together.
_NO_TEXT, _BOM = ("Cc", "Cs"), "\ufeff"
_RANGES = {"mean": (0.0, 1.0), "std": (1e-6, 1e6)}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a video becomes clips, as the model's training and its evaluation had it.

    A clip is ``frames`` frames, ``stride`` apart. Each is resized, bilinearly, to ``resize`` (the
    short side, or height and width), and its middle ``size`` x ``size`` is cut out. A pixel goes
    in as ``(value / 255 - mean) / std``, ``mean`` and ``std`` being of red, green and blue; the
    channels lie in ``colour_order``. Of a video, ``clips`` clips, evenly spaced, are each cut out
    at ``crops`` places along the longer side (3: both ends and the middle), and the logits of all
    are averaged.

    InputError for a value of another type or out of range.
    """

    frames: int
    size: int
    resize: int | tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colour_order: str = "rgb"
    stride: int = 1
    clips: int = 1
    crops: int = 1

    def __post_init__(self) -> None:
        checked: dict[str, object] = {
            name: _count(name, getattr(self, name)) for name in _MOST if name != "resize"
        }
        checked |= {"resize": _resize(self.resize), "crops": _count("crops", self.crops)}
        if checked["crops"] not in CROPS:
            raise InputError(f"crops {_shown(self.crops)}: 1 or 3 is accepted")
        if self.colour_order not in COLOUR_ORDERS:
            known = " or ".join(COLOUR_ORDERS)
            raise InputError(f"colour order {_shown(self.colour_order)}: {known} is accepted")
        for name, hint in (("mean", ", of pixels from 0 to 1: 104 of 255 is 0.408"), ("std", "")):
            checked[name] = _three_colours(name, getattr(self, name), *_RANGES[name], hint)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.size > self.short_side:
            raise InputError(
                f"size {self.size}: at most resize, {self.short_side}, is accepted: the crop is "
                "taken out of the resized frame"
            )

    @property
    def short_side(self) -> int:
        """Of a resized frame, in pixels."""
        return self.resize if isinstance(self.resize, int) else min(self.resize)

    def at(self, *, frames: int, size: int) -> Preprocessing:
        """The same for clips of other sizes: what is cut out shows as much of the frame."""
        if size == self.size:
            return replace(self, frames=frames)

        def scaled(side: int) -> int:
            return max(round(side * size / self.size), size)

        if isinstance(self.resize, int):
            resize: int | tuple[int, int] = scaled(self.resize)
        else:
            height, width = self.resize
            resize = scaled(height), scaled(width)
        return replace(self, frames=frames, size=size, resize=resize)

    def dataset_arguments(self) -> dict[str, object]:
        """What `rt3d_tvm.data.datasets.open_dataset` takes to test with the same clips."""
        given = asdict(self)
        given["clips_per_video"] = given.pop("clips")
        return given


@dataclass(frozen=True, kw_only=True)
class PruningAccuracy:
    """The share of so many test videos that were named rightly before a pruning, and after it.

    `rt3d prune` measures it, of the model in PyTorch and in float32. InputError for a value of
    another type or out of range.
    """

    before: float
    after: float
    videos: int

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"accuracy {name} pruning {_shown(value)}: 0 to 1 is accepted")
        count = self.videos
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise InputError(f"videos {_shown(count)}: a whole number from 1 on is accepted")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model says of itself besides its graph. None: it does not say.

    ``labels`` are the names of its classes, in the order of its logits. InputError for one that is
    empty or no text; a name may stand for two classes, as some of ImageNet's do.
    """

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    pruning_accuracy: PruningAccuracy | None = None

    def __post_init__(self) -> None:
        if self.labels is not None:
            object.__setattr__(self, "labels", checked_labels(self.labels))

    def check(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> None:
        """InputError where it does not fit a model of these shapes."""
        fitting = self.preprocessing
        if fitting is not None:
            sides = [3, fitting.frames, fitting.size, fitting.size]
            if len(input_shape) != 5 or list(input_shape[1:]) != sides:
                expected = ", ".join(map(str, sides))
                raise InputError(
                    f"the preprocessing makes clips [clips, {expected}]; the model's input is "
                    f"{list(input_shape)}"
                )
        if self.labels is not None and list(output_shape[-1:]) != [len(self.labels)]:
            raise InputError(
                f"{len(self.labels)} labels for an output {list(output_shape)}; one label for each "
                "of its classes is accepted"
            )

    def as_json(self) -> dict[str, str]:
        """What is known, as JSON by its name: what metadata of texts can hold."""
        return {
            name: json.dumps(value) for name, value in self.as_fields().items() if value is not None
        }

    def as_fields(self) -> dict[str, object]:
        """All of it as a manifest has it, with null for what is not known."""
        known = {} if self.preprocessing is None else asdict(self.preprocessing)
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in known.items()}
        measured = self.pruning_accuracy
        return {
            "preprocessing": listed or None,
            "labels": None if self.labels is None else list(self.labels),
            "pruning_accuracy": None if measured is None else asdict(measured),
        }


NAMES = tuple(field.name for field in fields(Description))
Parsed = TypeVar("Parsed", Preprocessing, PruningAccuracy)


def from_json(texts: Mapping[str, str], where: str) -> Description:
    """The description in a file's metadata; names that are not there are not known.

    ``where`` begins the message of the InputError for what is damaged.
    """
    found = {}
    for name in NAMES:
        if name not in texts:
            continue
        try:
            found[name] = json.loads(texts[name], parse_constant=_no_constant)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{where}: {name}: not JSON: {words_of(error)}") from error
    return from_fields(found, where)


def from_fields(values: Mapping[str, object], where: str) -> Description:
    """The description in a manifest, of which other fields are left alone; as `from_json`."""
    known, measured = values.get("preprocessing"), values.get("pruning_accuracy")
    try:
        return Description(
            preprocessing=None if known is None else _parsed(Preprocessing, "preprocessing", known),
            labels=values.get("labels"),
            pruning_accuracy=None
            if measured is None
            else _parsed(PruningAccuracy, "pruning_accuracy", measured),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def checked_labels(labels: object) -> tuple[str, ...]:
    """The labels as a tuple; InputError for what is no sequence of names that can be shown."""
    if isinstance(labels, str) or not isinstance(labels, Sequence) or not labels:
        raise InputError(f"labels {_shown(labels)}: a list of names is accepted")
    for index, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"label {_shown(label)} of class {index}: a name is accepted")
        if unprintable := [c for c in label if unicodedata.category(c) in _NO_TEXT or c == _BOM]:
            raise InputError(
                f"label {label!a} of class {index} holds the character {unprintable[0]!a}; text is "
                "accepted"
            )
    return tuple(labels)


def changed(
    stored: Preprocessing | None, *, frames: int, size: int, **given: object
) -> Preprocessing:
    """The preprocessing that a model says, with what is given in its stead; None is not given.

    InputError where the model says none and not all that is needed is given.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if stored is not None:
        return replace(stored, **given)
    missing = [name for name in ("resize", "mean", "std") if name not in given]
    if missing:
        raise InputError(
            "the model does not say how frames become its input, and a guess would give wrong "
            f"classes: {', '.join(missing)} is missing; give --model NAME, or --resize, --mean and "
            "--std (in Python: preprocessing)"
        )
    return Preprocessing(frames=frames, size=size, **given)


def _parsed(kind: type[Parsed], what: str, value: object) -> Parsed:
    """What a JSON object says of a dataclass; InputError for fields that it has not, or lacks."""
    names = [field.name for field in fields(kind)]
    if not isinstance(value, Mapping):
        raise InputError(f"{what} {_shown(value)}: an object of {', '.join(names)} is accepted")
    if unknown := [name for name in value if name not in names]:
        raise InputError(f"{what} has a field {_shown(unknown[0])}; known are {', '.join(names)}")
    if missing := [name for name in names if name not in value]:
        raise InputError(f"{what} has no {missing[0]}")
    return kind(**value)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} {_shown(value)}: a whole number is accepted")
    number = int(value)
    if not 1 <= number <= _MOST.get(name, number):
        raise InputError(f"{name} {_shown(value)}: 1 to {_MOST.get(name, 3)} is accepted")
    return number


def _resize(value: object) -> int | tuple[int, int]:
    if not isinstance(value, (list, tuple)):
        return _count("resize", value)
    if len(value) != 2:
        raise InputError(
            f"resize {_shown(value)}: the short side, or height and width, is accepted"
        )
    height, width = value
    return _count("resize", height), _count("resize", width)


def _is_real(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def _three_colours(
    name: str, value: object, least: float, most: float, hint: str
) -> tuple[float, ...]:
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) != 3 or not all(
        _is_real(number) and least <= number <= most for number in numbers
    ):
        raise InputError(
            f"{name} {_shown(value)}: three numbers (red, green, blue) from {least:g} to {most:g} "
            f"are accepted{hint}"
        )
    return tuple(map(float, numbers))


def _shown(value: object) -> str:
    """A value of anybody's, short enough for a message of one line."""
    text = ascii(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
