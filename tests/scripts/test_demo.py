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
