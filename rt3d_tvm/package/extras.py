"""What a base install leaves out: runs of a compiled model and devices need none of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A package as Python imports it, the extra that brings it, and the commands that need it.

    distributions: what it may be installed as.
    """

    package: str
    extra: str
    commands: str
    distributions: tuple[str, ...]

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return f"pip install 'rt3d-tvm[{self.extra}]'"


def _extra(package: str, extra: str, commands: str, *distributions: str) -> Extra:
    return Extra(
        package=package,
        extra=extra,
        commands=commands,
        distributions=distributions or (package,),
    )


EXTRAS = (
    _extra("onnx", "compile", "compile, tune, groups, export, quantize"),
    _extra("onnxruntime", "compile", "verify, export, quantize"),
    _extra("torch", "prune", "train, prune, export"),
    _extra("safetensors", "prune", "train, prune, export"),
    _extra("onnxscript", "prune", "export"),
    _extra("av", "video", "run, train, data, quantize"),
    _extra("PIL", "video", "run --overlay", "pillow"),
    _extra("xgboost", "tune", "tune", "xgboost-cpu", "xgboost"),
    _extra("matplotlib", "charts", "prune --data"),
    _extra("pyopencl", "opencl", "run, bench, tune for OpenCL"),
    _extra("ziglang", "bundle", "bundle --program"),
    _extra("jinja2", "report", "report -o", "Jinja2", "jinja2"),
    _extra("openvino", "peers", "bench --onnx beside OpenVINO"),
    _extra("onnx2torch", "peers", "bench --onnx beside PyTorch"),
)


def extra_of(package: str) -> Extra | None:
    """The extra that brings a package; None for one of the base install or of nobody's."""
    return next((extra for extra in EXTRAS if extra.package == package), None)
