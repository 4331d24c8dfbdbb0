"""examples/own_operator.py: a kernel from outside is compiled, scheduled and right."""

import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_operator.py"


def test_the_kernel_of_the_example_is_in_the_model(capsys):
    names = runpy.run_path(str(EXAMPLE))
    scheduled = []
    schedule = names["schedule_softmax"]

    def noted(sch, tile, target):
        schedule(sch, tile, target)
        scheduled.append(sch.mod["main"])

    names["main"].__globals__["schedule_softmax"] = noted
    assert names["main"]() == 0
    assert "own_softmax" in capsys.readouterr().out
    assert "T.parallel" in scheduled[0].script()
