"""The options of a build: one frozen value, checked once and handed down as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.target import Target

from rt3d_tvm.arguments import as_flag, as_group
from rt3d_tvm.compile.backends import Backend, backend_of
from rt3d_tvm.compile.targets import DEFAULT_PRECISION, TARGETS, make_target
from rt3d_tvm.errors import InputError
from rt3d_tvm.precision import PRECISIONS, Precision, make_precision
from topi_sparse.kernel_group import KernelGroup


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """What a module is lowered for; made by `CompileOptions.resolve`, or of a TVM target.

    group       the kernel group for all convolutions; None: each gets the one that fits its zeros
    winograd    whether a convolution may be computed by Winograd's transforms
    precision   of activations and weights
    accumulate  the type of the sums where kernels have a choice
    """

    target: Target
    group: KernelGroup | None = None
    winograd: bool = True
    precision: Precision = PRECISIONS["fp32"]
    accumulate: str = "float32"

    @property
    def backend(self) -> Backend:
        """The row that serves the target."""
        return backend_of(self.target)


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """What `compile_onnx` builds and `tune_onnx` searches; the same options give the same kernels.

    target      a name of `targets.TARGETS`, or "host", this machine
    group       the kernel group for all convolutions, such as 8x4; by default each gets the one
                that fits its zeros
    winograd    without it every convolution is computed directly
    precision   fp32, or fp16 where the target computes in it; by default fp16 for adreno, else fp32
    accumulate  in what kernels for OpenCL sum: fp32 (default) or fp16
    strict      refuse operators that nobody has compared with ONNX Runtime, instead of a warning
    batch       how many clips at once, where the file leaves that open; of several numbers the
                artifact serves each, the first is the one that is timed
    """

    target: str = "host"
    group: KernelGroup | str | None = None
    winograd: bool = True
    precision: str | None = None
    accumulate: str | None = None
    strict: bool = False
    batch: int | Sequence[int] | None = None

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that are asked for; none where the file fixes it. InputError for others."""
        if self.batch is None:
            return ()
        several = isinstance(self.batch, Sequence) and not isinstance(self.batch, (str, bytes))
        found = tuple(self.batch) if several else (self.batch,)
        if not found or any(type(each) is not int or each < 1 for each in found):
            raise InputError(
                f"batch {self.batch!r}: a whole number of at least 1 is accepted, or several such "
                "as [1, 2, 4]"
            )
        if len(set(found)) < len(found):
            raise InputError(f"batch {self.batch!r}: a number twice; each once is accepted")
        return found  # type: ignore[return-value]

    def resolve(self) -> Lowering:
        """The target and types that the names stand for; InputError for what does not go."""
        target = make_target(self.target)
        precision = make_precision(self.precision or DEFAULT_PRECISION.get(self.target, "fp32"))
        backend = backend_of(target)
        as_flag(self.strict, "strict")
        batches = self.batches
        if precision.dtype == "float16" and not backend.computes_half(target):
            able = [known for known in sorted(TARGETS) if _computes_half(known)]
            raise InputError(
                f"precision {precision.name}: target {self.target} has no {precision.dtype} "
                f"arithmetic; accepted: fp32 with any target, {precision.name} with "
                f"{', '.join(able)}"
            )
        if self.accumulate is not None and backend.why_no_sums is not None:
            raise InputError(
                f"accumulate {self.accumulate}: target {self.target} {backend.why_no_sums}"
            )
        if len(batches) > 1 and backend.plan is not None:
            raise InputError(
                f"batch {', '.join(map(str, batches))}: an artifact for target {self.target} "
                "serves one; compile an artifact for each"
            )
        return Lowering(
            target=target,
            group=None if self.group is None else as_group(self.group, "group"),
            winograd=as_flag(self.winograd, "winograd"),
            precision=precision,
            accumulate=make_precision(self.accumulate or "fp32").dtype,
        )


def options_of(options: CompileOptions | None, settings: dict) -> CompileOptions:
    """The options of a call: those given, or those that its keywords are fields of."""
    if options is not None and settings:
        raise TypeError(f"{', '.join(settings)}: options are given as one value or as keywords")
    options = options or CompileOptions(**settings)
    if not isinstance(options, CompileOptions):
        raise InputError(f"options {options!r}: CompileOptions are accepted, or keywords")
    return options


def _computes_half(name: str) -> bool:
    target = make_target(name)
    return backend_of(target).computes_half(target)
