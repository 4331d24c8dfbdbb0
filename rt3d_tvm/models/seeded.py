"""Benchmark weights: a seeded stand-in for trained ones, which are not at hand.

They have the two properties of trained weights that a benchmark of sparse inference leans on.
The magnitudes of kernel groups are spread (lognormal), so that magnitude pruning leaves rows of
unequal length and keeps most of the energy; and the output depends on the input: it moves by
more than a hundredth of its range from one clip to the next, before and after pruning, so that a
wrong kernel cannot hide behind a constant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from topi_sparse.kernel_group import KernelGroup

# Deviations of the log of the scale: of a row block (the filters that share kept columns), of a
# kernel group in it, and of a location in that. The rows of a layer pruned to a quarter then keep
# roughly from a tenth to a half of their columns, and the layer four fifths of its energy.
_SIGMA_ROW, _SIGMA_GROUP, _SIGMA_LOCATION = 0.25, 0.45, 0.55
_SIGMA_GAIN = 0.2
_SIGMA_BIAS = 0.2
# The share of a channel's mean that BatchNorm takes off. With all of it these networks are chaotic:
# from layer to layer small differences grow, and in S3D the rounding of float32 reached 3e-5 of
# the output. With half it stays at 1e-5, and a second clip still moves the output enough.
_MEAN_SHARE = 0.5
# Significant bits of a calibrated value.
_CALIBRATED_BITS = 10
# A channel's variance is estimated as if this many positions with the layer's mean square had been
# seen as well. A filter that was pruned away has none of its own, and in the last layers of a small
# clip a channel varies little or not at all: dividing by that would blow up any other clip.
_PRIOR_POSITIONS = 32
# Clips of noise that a benchmark's ranges in 8 bits are of.
CALIBRATION_CLIPS = 8


def seeded_(
    model: nn.Module, *, seed: int, group: KernelGroup, input_shape: Sequence[int]
) -> nn.Module:
    """Fill a model with benchmark weights, in place, and return it in eval mode.

    Each parameter is drawn from a stream of its own, seeded by ``seed`` and its name, so that it
    depends on no other layer; `calibrate_` then sets the scales.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_draw(name, parameter, seed, group)))
    return calibrate_(model, seed=seed, input_shape=input_shape)


def calibrate_(model: nn.Module, *, seed: int, input_shape: Sequence[int]) -> nn.Module:
    """Set the scales of a model, in place, so that signals neither fade nor grow; eval mode.

    Layer by layer, on one clip of noise: BatchNorm gets its statistics, a layer with a bias (which
    has no BatchNorm behind it) the gain that brings its output to unit RMS. For a model that pools
    over its features the clip may be smaller than those the model is meant for.

    Seeded weights want it again after pruning, in place of the retraining that trained weights
    get: each layer loses some of its output's variance, and over dozens of layers what the input
    does to the output fades. Zeros stay zeros.
    """
    # In float64, and rounded: the last bits of a sum depend on the machine that made it, and the
    # weights must not.
    model.double().eval()
    with torch.no_grad():
        _meet_layers(model, noise_clip(input_shape, seed=seed).double())
    return model.float()


def noise_clip(input_shape: Sequence[int], *, seed: int) -> Tensor:
    """A clip of standard normal noise, float32: what a normalised clip is on average."""
    values = _stream(seed, "clip").standard_normal(tuple(input_shape), dtype=np.float32)
    return torch.from_numpy(values)


def noise_clips(input_shape: Sequence[int], *, seed: int) -> Tensor:
    """`CALIBRATION_CLIPS` clips in one batch: the first of that seed, the others of the next."""
    clips = range(seed, seed + CALIBRATION_CLIPS)
    return torch.cat([noise_clip(input_shape, seed=each) for each in clips])


def _stream(seed: int, name: str) -> np.random.Generator:
    # A hash of our own choice: Python's changes from run to run.
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def _draw(name: str, parameter: Tensor, seed: int, group: KernelGroup) -> np.ndarray:
    stream = _stream(seed, name)
    shape = tuple(parameter.shape)
    if name.endswith("bias"):
        return _SIGMA_BIAS * stream.standard_normal(shape)
    if len(shape) == 1:
        return np.exp(_SIGMA_GAIN * stream.standard_normal(shape))
    # He's gain: a ReLU halves the second moment.
    weight = stream.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return weight if len(shape) == 2 else weight * _group_scales(stream, shape, group)


def _group_scales(stream: np.random.Generator, shape: tuple[int, ...], group: KernelGroup):
    """Lognormal scales of mean square 1, one for each kernel group and location, [M, N, ...]."""
    filters, channels, *locations = shape
    rows, columns = -(-filters // group.g_m), -(-channels // group.g_n)
    ones = [1] * len(locations)
    log_scale = (
        _SIGMA_ROW * stream.standard_normal((rows, 1, *ones))
        + _SIGMA_GROUP * stream.standard_normal((rows, columns, *ones))
        + _SIGMA_LOCATION * stream.standard_normal((rows, columns, *locations))
    )
    variance = _SIGMA_ROW**2 + _SIGMA_GROUP**2 + _SIGMA_LOCATION**2
    # Rounded to float32 here, since exp may differ in its last bit from machine to machine.
    scales = np.exp(log_scale - variance).astype(np.float32)
    scales = np.repeat(np.repeat(scales, group.g_m, axis=0), group.g_n, axis=1)
    return scales[:filters, :channels]


def _meet_layers(model: nn.Module, clip: Tensor) -> None:
    """Set BatchNorm statistics and gains in the order in which a clip meets the layers."""

    def normalise(norm: nn.BatchNorm2d | nn.BatchNorm3d, inputs: tuple[Tensor]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        variance, positions = x.var(1, unbiased=False), x.shape[1]
        prior = _PRIOR_POSITIONS * x.square().mean()
        norm.running_mean.copy_(_rounded(_MEAN_SHARE * x.mean(1)))
        norm.running_var.copy_(
            _rounded((positions * variance + prior) / (positions + _PRIOR_POSITIONS))
        )

    def scale(
        layer: nn.Conv2d | nn.Conv3d | nn.Linear, inputs: tuple[Tensor], output: Tensor
    ) -> Tensor:
        shaped = [1, -1] + [1] * (output.dim() - 2)
        bias = layer.bias.reshape(shaped)
        power = (output - bias).square().mean()
        if power == 0:  # the few channels in front of it are zero: no gain would change that
            return output
        gain = _rounded(1 / power.sqrt())
        layer.weight.mul_(gain)
        return (output - bias) * gain + bias

    hooks = []
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            hooks.append(module.register_forward_pre_hook(normalise))
        elif isinstance(module, (nn.Conv2d, nn.Conv3d, nn.Linear)) and module.bias is not None:
            hooks.append(module.register_forward_hook(scale))
    try:
        model(clip)
    finally:
        for hook in hooks:
            hook.remove()


def _rounded(values: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(values)
    step = 2.0**_CALIBRATED_BITS
    return torch.ldexp((mantissa * step).round() / step, exponent)


def sensitivity(model: nn.Module, input_shape: Sequence[int], *, seed: int = 0) -> float:
    """How far a second clip of noise moves the output: max |y2 - y1| over max |y1|."""
    with torch.no_grad():
        first, second = (model(noise_clip(input_shape, seed=seed + step)) for step in (1, 2))
    return float((second - first).abs().max() / first.abs().max())
