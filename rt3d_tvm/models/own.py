"""A model of the user's own, named as ``package.module:function``, which builds it.

The module is imported from the working directory or from what is installed. Its code runs where a
user names it, never because a file does.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from rt3d_tvm.errors import InputError, words_of


def build_own(
    name: str,
    *,
    num_classes: int | None = None,
    width: float | None = None,
    frames: int | None = None,
    size: int | None = None,
) -> nn.Module:
    """Build the model that ``name`` names, in eval mode, with the weights that it gives it.

    Of the arguments the function gets those that are given and that it has parameters of the same
    name for. InputError for a module or function that is not there or raises, for what is no
    torch module, and for a width that it does not take.
    """
    function = _function(name)
    given: dict[str, object] = {"num_classes": num_classes, "frames": frames, "size": size}
    given |= {"width": None if width == 1.0 else width}
    taken = _parameters(function)
    if given["width"] is not None and "width" not in taken:
        raise InputError(f"width {width}: {name} has no parameter width")
    arguments = {key: value for key, value in given.items() if key in taken and value is not None}
    with _from_working_directory():
        try:
            model = function(**arguments)
        except InputError:
            raise
        except Exception as error:
            said = ", ".join(f"{key}={value}" for key, value in arguments.items())
            raise InputError(f"model {name}: {name}({said}) raises {_told(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {name}: gives a {type(model).__name__}; a torch.nn.Module is expected"
        )
    return model.eval()


def _function(name: str) -> Callable[..., object]:
    module_name, _, attribute = name.partition(":")
    words = [*module_name.split("."), *attribute.split(".")]
    if not all(word.isidentifier() for word in words):
        raise InputError(f"model {name!r}: package.module:function is accepted, such as nets:build")
    with _from_working_directory():
        try:
            found: object = importlib.import_module(module_name)
        except Exception as error:
            raise InputError(f"model {name}: {_why_not_imported(module_name, error)}") from error
    for word in attribute.split("."):
        if not hasattr(found, word):
            names = sorted(each for each in vars(found) if _is_builder(found, each))
            raise InputError(
                f"model {name}: {module_name} has no {word!r}; it has {', '.join(names) or 'none'}"
            )
        found = getattr(found, word)
    if isinstance(found, nn.Module) or not callable(found):
        raise InputError(
            f"model {name}: is a {type(found).__name__}; a function or class that gives a "
            "torch.nn.Module is expected"
        )
    return found


def _is_builder(place: object, name: str) -> bool:
    """Whether a name in a module or class is one of its own functions or classes."""
    value = getattr(place, name)
    is_one = inspect.isfunction(value) or inspect.isclass(value)
    return is_one and name[0] != "_" and value.__module__ == getattr(place, "__name__", None)


def _why_not_imported(module_name: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module_name}.".startswith(f"{missing}."):
        return f"there is no module {missing!r} in {Path.cwd()} or among what is installed"
    return f"importing {module_name} raises {_told(error)}"


def _parameters(function: Callable[..., object]) -> list[str]:
    """The names that it takes as keywords. Of ``**kwargs`` nothing is known: torch's own has it."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # one that is not written in Python
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _told(error: Exception) -> str:
    """What was raised and where, on one line."""
    (place,) = traceback.extract_tb(error.__traceback__)[-1:]
    said = words_of(error, lines=1)
    return f"{type(error).__name__}: {said} ({place.filename}, line {place.lineno})"


@contextmanager
def _from_working_directory() -> Iterator[None]:
    """As `python -m` has it: what lies in the working directory comes first."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be new
    try:
        yield
    finally:
        sys.path.remove(here)
