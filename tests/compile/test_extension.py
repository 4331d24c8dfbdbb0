"""Passes and schedules of others among the phases, in their places."""

import pytest
import tvm

import rt3d_tvm as rt
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import extensible_phases, phases
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError
from tests.artifact.networks import write_network


def noted(log, name):
    @tvm.transform.module_pass(opt_level=0, name=name)
    class Noted:
        def transform_module(self, mod, _context):
            log.append(name)
            return mod

    return Noted()


def test_passes_run_in_their_places(tmp_path):
    log = []
    more = rt.phases().before("legalize", "a", noted(log, "a"))
    more = more.after("a", "b", noted(log, "b")).before("zero_factors", "c", noted(log, "c"))
    more = more.after("schedule", "d", noted(log, "d"))
    place = more.names.index("a")
    assert more.names[place : place + 3] == ("a", "b", "legalize")
    assert (more.names[0], more.names[-1]) == ("c", "d")
    listed = phases(Lowering(target=make_target("host")), extension=more)
    assert [name for name, _ in listed] == list(more.names)
    onnx = write_network(tmp_path / "m.onnx")
    rt.compile(onnx, tmp_path / "artifact", phases=more, dump=tmp_path / "dump")
    assert log == ["c", "a", "b", "d"]
    assert len(list((tmp_path / "dump").glob("*_a.py"))) == 1
    assert rt.verify(tmp_path / "artifact", onnx).passed


def test_another_target_has_them_before_the_same_phase():
    more = extensible_phases().before("schedule", "a", noted([], "a"))
    listed = phases(Lowering(target=make_target("adreno")), extension=more)
    names = [name for name, _ in listed]
    assert names.index("a") == names.index("views") + 1
    assert "check_axes" in names


def test_a_phase_that_is_not_there_and_a_name_that_is_are_refused():
    with pytest.raises(InputError, match="phase 'lower': zero_factors, "):
        rt.phases().before("lower", "a", noted([], "a"))
    with pytest.raises(InputError, match="phase 'clip' is there already"):
        rt.phases().after("legalize", "clip", noted([], "a"))
