"""The demo's whole flow on the full-size models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo.py"


@pytest.mark.full
@pytest.mark.parametrize("model", ["c3d", "r2plus1d", "s3d"])
def test_a_full_size_model_goes_through_the_whole_flow(model, tmp_path):
    """Right numbers, dense and pruned; memory for the weights and the activations, not for more."""
    subprocess.run(
        [sys.executable, DEMO, "--model", model, "--out", tmp_path, "--runs", "1"], check=True
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["max_rel_error"] <= 1e-4
    assert summary["sensitivity"] >= 1e-2
    assert summary["peak_rss_mb"] <= 1.3 * (
        summary["weights_mb"] + summary["planned_activations_mb"]
    )
    for kind in ("dense", "direct", "sparse"):
        manifest = json.loads((tmp_path / kind / "manifest.json").read_text())
        assert not [layer for layer in manifest["layers"] if layer["kernel"] is None]
        assert manifest["layout_changes"] <= 3
        planned = manifest["planned_activation_bytes"]
        assert planned <= 3 * manifest["largest_activation_bytes"]


def test_a_folder_of_something_else_is_kept(script, tmp_path):
    """Neither is a file of the demo's names replaced; one of an earlier demo is gone on with."""
    demo = script("demo.py")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dense.onnx").write_text("mine")
    (tmp_path / "mine" / "summary.json").write_text('{"year": 2026}')
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "summary.json").write_text('{"pruning_rate": 3.6, "sparse_ms": 60}')
    done = subprocess.run(
        [sys.executable, DEMO, "--out", tmp_path / "mine"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"demo: error: {tmp_path / 'mine'}: is not an empty folder; an empty or new one is "
        "expected\n"
    )
    assert (tmp_path / "mine" / "dense.onnx").read_text() == "mine"
    for name in ("new", "new", "old"):
        demo.begin(tmp_path / name)
    (tmp_path / "new" / "dense.onnx").write_text("of the demo")
    demo.begin(tmp_path / "new")
