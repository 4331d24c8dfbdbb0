"""What pytorchvideo's networks compute with weights that follow from the names, for the tests.

pip install pytorchvideo torchvision
python -m tests.models.record_pytorchvideo  # writes tests/models/pytorchvideo.json
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

RECORD = Path(__file__).with_name("pytorchvideo.json")
# The first of the logits, which all features are in.
LOGITS = 4


def fill_(model):
    """A model in eval mode and float64, each tensor drawn from a stream of its name."""
    for name, value in model.double().state_dict().items():
        stream = np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            drawn = stream.uniform(0.5, 1.5, value.shape)
        else:
            drawn = stream.standard_normal(value.shape)
            drawn *= (2 / value[0].numel()) ** 0.5 if value.dim() > 1 else 0.2
            drawn += value.dim() == 1 and name.endswith("weight")
        value.copy_(torch.from_numpy(drawn))
    return model.eval()


def logits(model, frames, size):
    """The first logits for a clip of noise."""
    clip = np.random.default_rng(0).standard_normal((1, 3, frames, size, size))
    with torch.no_grad():
        return model(torch.from_numpy(clip))[0, :LOGITS].tolist()


def shapes(model):
    """Of parameters and buffers, but for what every BatchNorm has beside its weight."""
    state = model.state_dict()
    norms = {key.removesuffix("running_mean") for key in state if key.endswith("running_mean")}
    return {
        key: list(value.shape)
        for key, value in state.items()
        if key.endswith("weight") or f"{key.rpartition('.')[0]}." not in norms
    }


def digest(found):
    """One line for a long list."""
    lines = "\n".join(f"{key} {shape}" for key, shape in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def main():
    from pytorchvideo.models.r2plus1d import create_r2plus1d
    from pytorchvideo.models.x3d import create_x3d

    # Features of 16 frames at 32 are of 4x1x1.
    r2plus1d = create_r2plus1d(head_pool_kernel_size=(4, 1, 1), head_activation=None)
    x3d = create_x3d(input_clip_length=4, input_crop_size=160, head_activation=None)
    x3d_l = create_x3d(
        input_clip_length=16, input_crop_size=312, depth_factor=5.0, head_activation=None
    )
    found = {}
    for name, model, clips in (
        ("r2plus1d_50", r2plus1d, [(16, 32)]),
        ("x3d_xs", x3d, [(4, 160), (5, 192)]),
    ):
        found[name] = {
            "shapes": shapes(model),
            "logits": [[*clip, logits(fill_(model), *clip)] for clip in clips],
        }
    found["x3d_l"] = {"digest": digest(shapes(x3d_l))}
    RECORD.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
