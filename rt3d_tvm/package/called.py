"""A package that can be called: `rt3d_tvm.compile` is a folder of modules and a function as well.

An import puts a folder's module in the place of a function of the same name, so the module itself
has to be what is called.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

API = "rt3d_tvm.api"


class CalledModule(ModuleType):
    """A module that stands for the function of `rt3d_tvm.api` that has its name."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        """As the function, which `help(rt3d_tvm.api)` describes."""
        return self._function()(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function())

    def _function(self):
        name = vars(self).get("called_as") or self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(API), name)


class Root(ModuleType):
    """The package at the top: modules in it that ``__all__`` names can be called."""

    def __setattr__(self, name: str, value: object) -> None:
        """As the import system does with each module that it has loaded."""
        if type(value) is ModuleType and name in self.__all__:
            value.__class__ = CalledModule
            # `rt3d_tvm.report` of release 0.1 is a module of another name now.
            value.__dict__["called_as"] = name
        super().__setattr__(name, value)
