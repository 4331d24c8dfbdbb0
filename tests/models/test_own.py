"""Models of the user's own: found by their names, refused by their faults, given another head."""

import re
import sys

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.models import build_model, model_spec
from rt3d_tvm.models.head import head_of, replace_head_
from rt3d_tvm.models.weights import WeightsInfo, load_model, save_weights

SHAPE = (1, 3, 4, 16, 16)
NETS = """
import torch
from torch import nn

MODULE, NUMBER = nn.Linear(2, 2), 3


def build():
    return nn.Sequential(nn.Conv3d(3, 4, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 9))


def sized(num_classes, size=8):
    net = build()
    net[3] = nn.Linear(4, num_classes)
    net.size = size
    return net


class Tail(nn.Module):
    def forward(self, x):
        return x.mean((2, 3, 4)) @ torch.ones(3, 5)


def number():
    return 3


def unlucky():
    raise ValueError("no luck\\nat all")
"""


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    """The working directory has the module above, and two that do not import."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "needing.py").write_text("import absent_package\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("nets", "broken", "needing"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:build", r"there is no module 'nowhere' in /.* or among what is installed"),
        ("nets:nothing", r"nets has no 'nothing'; it has Tail, build, number, sized, unlucky"),
        ("nets:NUMBER", r"is a int; a function or class"),
        ("nets:MODULE", r"is a Linear; a function or class"),
        ("nets:number", r"gives a int; a torch\.nn\.Module is expected"),
        ("nets:unlucky", r"nets:unlucky\(\) raises ValueError: no luck \(.*nets\.py, line \d+\)"),
        ("nets:sized", r"raises TypeError: sized\(\) missing .*num_classes"),
        ("nets:4x", r"package\.module:function is accepted"),
        (":build", r"package\.module:function is accepted"),
        ("broken:build", r"importing broken raises ZeroDivisionError: .*broken\.py, line 1"),
        ("needing:build", r"importing needing raises ModuleNotFoundError: .*absent_package"),
    ],
)
def test_a_faulty_name_is_refused_on_one_line(name, message):
    with pytest.raises(InputError, match=message) as refused:
        build_model(name)
    assert "\n" not in str(refused.value)


def test_the_working_directory_comes_first_and_goes_again():
    before = list(sys.path)
    assert isinstance(build_model("nets:build"), nn.Sequential)
    assert sys.path == before


def test_a_function_gets_what_it_has_parameters_for():
    model = build_model("nets:sized", 7, frames=4, size=16)
    assert (model[3].out_features, model.size) == (7, 16)
    assert not model.training
    with pytest.raises(InputError, match=r"width 0\.5: nets:sized has no parameter width"):
        build_model("nets:sized", 7, 0.5)


def test_another_number_of_classes_replaces_the_head_and_says_so():
    said = []
    model = build_model("nets:build", 4, frames=4, size=16, say=said.append)
    assert model(torch.zeros(SHAPE)).shape == (1, 4)
    assert said == ["head 3: 9 classes replaced by 4, not trained yet"]
    assert build_model("nets:build", 9, frames=4, size=16, say=said.append)[3].out_features == 9
    assert len(said) == 1


def test_a_head_that_is_none_is_refused():
    with pytest.raises(InputError, match="has no linear layer or convolution"):
        build_model("nets:Tail", 4, frames=4, size=16)
    features = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten())
    with pytest.raises(InputError, match=r"the last layer of this Sequential, 0, gives 4 values"):
        head_of(features, SHAPE)
    with pytest.raises(InputError, match=r"does not take a clip \[1, 3, 4, 16, 16\]"):
        head_of(nn.Sequential(nn.Conv3d(1, 4, 3)), SHAPE)


@pytest.mark.parametrize(("name", "head"), [("s3d", "classifier.1"), ("c3d", "fc8"), ("mc3", "fc")])
def test_the_heads_of_published_models(name, head):
    model, shape = build_model(name, 5, 0.0625, size=32), model_spec(name).shape_of(size=32)
    assert head_of(model, shape) == head
    replace_head_(model, shape, 3, seed=1)
    assert model(torch.zeros(shape)).shape == (1, 3)


def test_a_weight_file_alone_runs_no_code(tmp_path):
    path = tmp_path / "w.safetensors"
    info = WeightsInfo(model="nets:build", classes=4, frames=4, size=16)
    save_weights(path, build_model("nets:build", 4, frames=4, size=16), info)
    sys.modules.pop("nets")
    with pytest.raises(InputError, match=re.escape("runs where you name it only: --model nets")):
        load_model(path)
    assert "nets" not in sys.modules
    model, read = load_model(path, "nets:build")
    assert read == info
    assert model(torch.zeros(SHAPE)).shape == (1, 4)
