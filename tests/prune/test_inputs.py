"""Models of several inputs and outputs, called with examples in any arrangement."""

import pytest
import torch
from torch import nn

from rt3d_tvm.errors import InputError
from rt3d_tvm.prune.project import project_
from rt3d_tvm.prune.pruner import ALGORITHMS, Pruner
from tests.prune.reparametrised import SHAPE, counted_rate
from tests.prune.small_training import scheme, sgd

SLOW, FAST = torch.randn(SHAPE), torch.randn(1, 3, 8, 8, 8)


class Pathways(nn.Module):
    """Two inputs, and outputs in a tree."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.slow = nn.Conv3d(3, 16, 3, padding=1)
        self.fast = nn.Conv3d(3, 16, (5, 3, 3), stride=(2, 1, 1), padding=(2, 1, 1))
        self.norm = nn.BatchNorm3d(16)
        self.both = nn.Conv3d(16, 16, 3)

    def forward(self, slow, fast):
        features = self.both(torch.relu(self.norm(self.slow(slow) + self.fast(fast))))
        return {"logits": features.mean((2, 3, 4)), "more": [(features, None, 3)]}


class AsList(Pathways):
    """One argument, a list of pathways, and one that need not be given."""

    def forward(self, pathways, scale=None):
        out = super().forward(*pathways)
        return out["logits"], out["more"]


EXAMPLES = {
    "tuple": (Pathways, (SLOW, FAST), (SLOW, FAST)),
    "list": (Pathways, [SLOW, FAST], (SLOW, FAST)),
    "dict": (Pathways, {"slow": SLOW, "fast": FAST}, (SLOW, FAST)),
    "list as one argument": (AsList, [SLOW, FAST], ([SLOW, FAST],)),
    "tuple of a list": (AsList, ([SLOW, FAST],), ([SLOW, FAST],)),
}
BATCHES = {
    "tuple": [(SLOW, FAST, torch.tensor([1])), ((SLOW, FAST), 1), (SLOW, FAST)],
    "list": [(SLOW, FAST, 1)],
    "dict": [{"slow": SLOW, "fast": FAST, "label": 1}, ({"slow": SLOW, "fast": FAST}, 1)],
    "list as one argument": [([SLOW, FAST], 1), [SLOW, FAST]],
    "tuple of a list": [([SLOW, FAST], 1)],
}


@pytest.mark.parametrize("form", EXAMPLES)
def test_models_of_two_inputs_are_projected(form):
    make, examples, arguments = EXAMPLES[form]
    model = make()
    report = project_(model, scheme=scheme(), rate=2.0, example_inputs=examples)
    assert report.rate == pytest.approx(2.0, rel=0.01)
    assert report.rate == pytest.approx(counted_rate(model, *arguments), rel=1e-6)


@pytest.mark.parametrize("algorithm", ["heuristic", "reweighted"])
@pytest.mark.parametrize("form", EXAMPLES)
def test_models_of_two_inputs_are_pruned_in_training(form, algorithm, tmp_path):
    make, examples, arguments = EXAMPLES[form]
    model = make()

    def pruner_of(model):
        return Pruner(
            model,
            sgd(model),
            ALGORITHMS[algorithm](),
            scheme=scheme(),
            rate=2.0,
            example_inputs=examples,
        )

    pruner = pruner_of(model)
    report = pruner.finalize(BATCHES[form])
    assert report.rate == pytest.approx(counted_rate(model, *arguments), rel=1e-6)
    pruner.save(tmp_path / "run")
    other = pruner_of(make())
    other.load(tmp_path / "run")
    assert other.masks.keys() == pruner.masks.keys()
    with pytest.raises(InputError, match="a batch is the model's inputs"):
        pruner_of(make()).finalize([3])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "one of them"),
        ({"input_shape": SHAPE, "example_inputs": SLOW}, "one of them"),
        ({"example_inputs": {"slow": 3}}, "holds no tensor"),
        ({"example_inputs": (SLOW,)}, "missing 1 required positional argument: 'fast'"),
        ({"input_shape": (1, 3, 0, 8, 8)}, "whole numbers of at least 1"),
        ({"input_shape": 5}, "input shape 5"),
        ({"input_shape": "1x3"}, "input shape 1x3"),
        ({"input_shape": (1, 3.5)}, "whole numbers"),
    ],
)
def test_inputs_that_are_none_are_named(inputs, message):
    with pytest.raises(InputError, match=message):
        project_(Pathways(), scheme=scheme(), rate=2.0, **inputs)
