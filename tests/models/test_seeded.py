"""Benchmark weights: deterministic, spread, sensitive to the input; and their files."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import CLIP_MODELS, MODELS, build_model
from rt3d_tvm.models.seeded import calibrate_, noise_clip, seeded_, sensitivity
from rt3d_tvm.models.weights import (
    WeightsInfo,
    load_model,
    load_weights_,
    read_info,
    save_weights,
)
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.schemes import Scheme
from topi_sparse.kernel_group import KernelGroup

CLIP = (1, 3, 16, 64, 64)
GROUP = KernelGroup(g_m=8, g_n=4)


def seeded(name, *, seed=0, width=0.25):
    model = build_model(name, num_classes=11, width=width, frames=CLIP[2], size=CLIP[3])
    return seeded_(model, seed=seed, group=GROUP, input_shape=CLIP)


def pruned(name, scheme="kgs"):
    model, spec = seeded(name), MODELS[name]
    report = project_(
        model,
        scheme=Scheme(name=scheme, group=GROUP),
        rate=spec.paper_rate,
        input_shape=CLIP,
        ignore=spec.classifiers,
    )
    return model, report


def rounding(model, shape):
    """Error of float32 against float64, relative to the largest output."""
    with torch.no_grad():
        clip = noise_clip(shape, seed=7)
        single = model(clip).double()
        exact = model.double()(clip.double())
        model.float()
    return float((single - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_a_second_clip_moves_the_output_and_rounding_does_not(name):
    model = seeded(name)
    assert sensitivity(model, CLIP) >= 1e-2
    assert rounding(model, CLIP) < 5e-5
    with torch.no_grad():
        scores = model(noise_clip(CLIP, seed=3))
    assert 0.05 < float(scores.square().mean().sqrt()) < 50


@pytest.mark.parametrize("name", CLIP_MODELS)
def test_pruned_at_the_papers_rate_the_output_still_moves(name):
    model, _ = pruned(name)
    assert sensitivity(model, CLIP) >= 1e-2


def test_calibration_makes_up_for_pruning_and_keeps_the_zeros():
    model, _ = pruned("r2plus1d", "filter")
    zeros = {key: value == 0 for key, value in model.state_dict().items() if value.dim() == 5}
    faded = sensitivity(model, CLIP)
    calibrate_(model, seed=0, input_shape=CLIP)
    assert sensitivity(model, CLIP) >= 1e-2 > faded
    state = model.state_dict()
    assert all(torch.equal(state[key] == 0, mask) for key, mask in zeros.items())


def test_rows_differ_in_what_survives():
    """Pruned to a third, the row blocks of a wide layer keep unequal shares of their columns."""
    model, _ = pruned("c3d")
    weight = model.conv4b.weight
    kept = Scheme(name="kgs", group=GROUP).norms(weight) > 0
    share = kept.double().flatten(2).mean(2).flatten()
    assert share.max() > 1.5 * share.min()
    energy = weight.square().sum() / seeded("c3d").conv4b.weight.square().sum()
    assert energy > 2 * float(share.mean())


def test_the_same_seed_gives_the_same_weights():
    first, second = (seeded("c3d", width=0.0625).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = seeded("c3d", width=0.0625, seed=1).state_dict()
    assert not torch.equal(first["conv2.weight"], other["conv2.weight"])


def test_weights_are_those_of_every_machine():
    """Known values: a change of numpy's streams or of the recipe changes every benchmark."""
    weight = seeded("c3d", width=0.0625).conv1.weight.flatten()[:3]
    torch.testing.assert_close(
        weight, torch.tensor([0.0961806551, 0.0763789415, 0.0575606488]), rtol=1e-6, atol=0
    )


def test_a_parameter_depends_on_its_name_alone():
    model = build_model("s3d", num_classes=3, width=0.0625)
    before = dict(model.named_parameters())["features.0.0.0.weight"].clone()
    draws = []
    for classes in (3, 5):
        model = build_model("s3d", num_classes=classes, width=0.0625)
        seeded_(model, seed=0, group=GROUP, input_shape=(1, 3, 16, 32, 32))
        draws.append(model.features[0][0][0].weight)
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], before)


@pytest.mark.full
@pytest.mark.parametrize("name", CLIP_MODELS)
def test_full_size_weights_are_sensitive(name):
    spec = MODELS[name]
    model = build_model(name)
    seeded_(model, seed=0, group=KernelGroup(g_m=16, g_n=4), input_shape=spec.input_shape)
    assert sensitivity(model, spec.input_shape) >= 1e-2
    assert rounding(model, spec.input_shape) < 5e-5
    project_(
        model,
        scheme=Scheme(name="kgs", group=KernelGroup(g_m=16, g_n=4)),
        rate=spec.paper_rate,
        input_shape=spec.input_shape,
        ignore=spec.classifiers,
    )
    assert sensitivity(model, spec.input_shape) >= 1e-2


INFO = WeightsInfo(model="c3d", classes=11, width=0.0625, frames=16, size=32, seed=0)


@pytest.fixture
def small():
    return build_model("c3d", 11, 0.0625, frames=16, size=32)


def test_a_weight_file_brings_back_the_model(tmp_path, small):
    path = tmp_path / "w.safetensors"
    info = replace(INFO, scheme="kgs", group="16x4", rate=3.6)
    save_weights(path, small, info)
    model, read = load_model(path)
    assert read == info
    assert not model.training
    saved = small.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_what_does_not_apply_stays_out_of_the_file(tmp_path, small):
    save_weights(tmp_path / "w.safetensors", small, INFO)
    assert read_info(tmp_path / "w.safetensors").rate is None


def test_a_failed_save_leaves_the_old_file(tmp_path, small, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(path, small, INFO)
    before = path.read_bytes()

    def full_disk(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rt3d_tvm.models.weights.save_file", full_disk)
    with pytest.raises(InputError, match="cannot be written: No space"):
        save_weights(path, small, INFO)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_files_that_are_no_weights_are_refused(tmp_path, small):
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="no weight file"):
        load_model(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(InputError, match="not a safetensors file"):
        load_model(path)
    save_weights(path, small, INFO)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a safetensors file"):
        load_model(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(InputError, match="does not say which model"):
        load_model(path)
    save_weights(path, small, replace(INFO, model="c4d"))
    with pytest.raises(InputError, match="c4d"):
        load_model(path)
    with pytest.raises(InputError, match="there is no folder"):
        save_weights(tmp_path / "missing" / "w.safetensors", small, INFO)


def test_weights_of_another_shape_are_refused(tmp_path, small):
    path = tmp_path / "w.safetensors"
    save_weights(path, small, INFO)
    wider = build_model("c3d", 11, 0.125, frames=16, size=32)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(InputError, match=r"does not fit the C3D: it has conv1\.weight of shape"):
        load_weights_(wider, path)
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())


def test_weights_under_other_names_are_refused_and_nothing_is_changed(tmp_path, small):
    state = {name.replace("conv1.w", "stem.w"): v for name, v in small.state_dict().items()}
    save_file({name: torch.zeros_like(value) for name, value in state.items()}, tmp_path / "w")
    model = build_model("c3d", 11, 0.0625, frames=16, size=32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"it lacks conv1\.weight; the model has no stem\.weight"):
        load_weights_(model, tmp_path / "w")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_are_no_numbers_are_not_written(small, tmp_path):
    with torch.no_grad():
        small.conv1.bias[:2] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(InputError, match=r"conv1\.bias \(1 NaN and 1 infinite of \d+\)"):
        save_weights(tmp_path / "w.safetensors", small, INFO)
    assert not list(tmp_path.iterdir())
