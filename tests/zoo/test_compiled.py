"""Every architecture compiles, pruned, and none becomes worse than docs/models.md says."""

from __future__ import annotations

import pytest

from tests.zoo.models import ZOO
from tests.zoo.models_page import PAGE, compiled, page, recorded


@pytest.mark.parametrize("name", ZOO)
def test_it_computes_what_onnx_runtime_does(name, tmp_path):
    figures, result = compiled(name, tmp_path)
    assert result.passed, result
    assert result.sensitivity >= 10 * result.limit  # else a small error would prove nothing
    before = recorded()[name]
    assert figures.layers == before.layers
    assert figures.kernels >= before.kernels
    assert figures.layout_changes <= before.layout_changes
    assert set(figures.untested) <= set(before.untested)


def test_the_page_of_models_is_of_its_figures():
    assert list(recorded()) == list(ZOO)
    assert PAGE.read_text(encoding="utf-8") == page(recorded()), "python -m tests.zoo.models_page"
