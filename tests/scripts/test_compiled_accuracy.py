"""From training to model.so: compiled, a pruned model answers as it does in torch."""

import pytest

from rt3d_tvm import cli
from rt3d_tvm.data.motion import MotionSettings, write_motion
from scripts.paper.compiled_accuracy import Comparison, compare


@pytest.mark.full
def test_a_pruned_model_is_as_accurate_compiled(tmp_path):
    """A C3D that learnt three steps: its answers spread over classes, right ones are rare."""
    data, dense, pruned = (tmp_path / name for name in ("videos", "d.st", "p.st"))
    settings = MotionSettings(videos_per_class=2, test_videos_per_class=2, size=32, frames=18)
    for _ in write_motion(data, settings):
        pass
    train = ["train", "--model", "c3d", "--width", "0.125", "--size", "16", "--data", data]
    train += ["--epochs", "1", "--batch", "8", "-o", dense]
    prune = ["prune", "--weights", dense, "--data", data, "--rate", "2.6", "--group", "8x4"]
    prune += ["--iterations", "1", "--epochs-per-iteration", "1", "--retrain-epochs", "1"]
    prune += ["--batch", "8", "--steps-per-epoch", "1", "-o", pruned]
    for argv in (train, prune):
        assert cli.main([str(arg) for arg in argv]) == 0
    result = compare(pruned, data, tmp_path)
    assert result.videos == 24
    assert result.agrees
    assert result.differing <= 1


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        ({}, True),
        ({"compiled_right": 49}, True),
        ({"compiled_right": 48}, False),
        ({"max_rel_error": 1.0}, False),
        ({"max_rel_error": float("nan")}, False),
    ],
)
def test_what_counts_as_agreement(change, agrees):
    base = {"videos": 60, "torch_right": 50, "compiled_right": 50, "differing": 1}
    assert Comparison(**{**base, "max_rel_error": 1e-6, **change}).agrees == agrees
