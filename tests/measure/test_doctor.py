import re
import runpy
import sys
from pathlib import Path

import pytest

from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.measure import doctor
from rt3d_tvm.package.extras import EXTRAS
from topi_sparse.cpu.dot_unit import dot_unit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in doctor.diagnose()}


def test_this_environment_is_healthy(checks):
    failing = [check for check in checks.values() if check.required and not check.ok]
    assert failing == []
    assert doctor.healthy(list(checks.values()))


def test_every_check_that_is_not_ok_has_a_remedy_of_one_line(checks):
    for check in checks.values():
        assert bool(check.remedy) == (not check.ok), check
        assert "\n" not in check.found + check.remedy


def test_the_optional_ones_are_marked(checks):
    optional = {name for name, check in checks.items() if not check.required}
    assert {
        "threads",
        "8-bit products",
        "OpenCL",
        "qemu-aarch64",
        "arm64 linker",
        "torch",
        "av",
    } <= optional
    assert all(check.state in ("ok", "optional") for check in checks.values())


@pytest.mark.parametrize("file", ["setup.py", "requirements.txt"])
def test_the_pins_are_those_that_are_installed(file):
    text = (ROOT / file).read_text()
    assert dict(re.findall(r"(apache-tvm(?:-ffi)?)==([\w.]+)", text)) == doctor.PINS


def test_a_complete_base_install_is_healthy_and_told_what_extras_bring(monkeypatch):
    base = {*doctor.PINS, *doctor.BASE}
    real = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda name: real(name) if name in base else None)
    checks = {check.name: check for check in doctor.diagnose()}
    assert doctor.healthy(list(checks.values()))
    for name, extra, command in (
        ("onnx", "compile", "compile"),
        ("onnxruntime", "compile", "verify"),
        ("torch", "prune", "prune"),
        ("av", "video", "run"),
        ("xgboost", "tune", "tune"),
        ("matplotlib", "charts", "prune"),
    ):
        assert checks[name].state == "optional"
        assert checks[name].found == f"not installed: of the extra {extra}"
        assert f"pip install 'rt3d-tvm[{extra}]'" in checks[name].remedy
        assert command in checks[name].remedy


@pytest.mark.parametrize("name", doctor.BASE)
def test_a_base_install_without_one_of_its_packages_is_not(monkeypatch, name):
    real = doctor._installed
    monkeypatch.setattr(doctor, "_installed", lambda each: None if each == name else real(each))
    (failing,) = [check for check in doctor._base() if not check.ok]
    assert (failing.name, failing.state) == (name, "FAIL")


def test_either_build_of_xgboost_will_do(monkeypatch):
    for there in ("xgboost", "xgboost-cpu"):
        monkeypatch.setattr(doctor, "_installed", lambda name, there=there: name == there or None)
        assert [check.ok for check in doctor._extras() if check.name == "xgboost"] == [True]


def test_base_and_extras_are_those_of_the_package(monkeypatch):
    """setup.py, asked without setuptools doing anything."""
    told = {}
    monkeypatch.setattr("setuptools.setup", lambda **arguments: told.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    base = {re.split("[=<>]", name)[0] for name in told["install_requires"]}
    assert base == {*doctor.PINS, *doctor.BASE}
    brought = told["extras_require"]
    for extra in EXTRAS:
        names = {re.split("[=<>]", name)[0] for name in brought[extra.extra]}
        assert names & set(extra.distributions), extra
    known = {name for extra in EXTRAS for name in extra.distributions}
    for names in (brought[extra] for extra in brought if extra != "test"):
        assert {re.split("[=<>]", name)[0] for name in names} <= known


def test_a_crash_is_reported_not_suffered(monkeypatch):
    monkeypatch.setattr(doctor, "_SAVE_JSON", "import os, signal; os.kill(os.getpid(), 11)")
    (check,) = doctor._save_json()
    assert (check.state, check.found) == ("FAIL", "crashes with SIGSEGV")
    assert check.remedy.startswith("pip install apache-tvm==")


def test_an_exception_in_the_child_is_its_last_line(monkeypatch):
    monkeypatch.setattr(doctor, "_SAVE_JSON", "raise SystemError('no\\nluck')")
    (check,) = doctor._save_json()
    assert (check.state, check.found) == ("FAIL", "luck")


def test_a_child_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(doctor, "CHILD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(doctor, "_SAVE_JSON", "import time; time.sleep(60)")
    (check,) = doctor._save_json()
    assert check.found == "no answer within 0.2 s"


def test_a_wrong_pin_fails(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda name: "0.1.15")
    assert [check.state for check in doctor._pins()] == ["FAIL", "FAIL"]
    monkeypatch.setattr(doctor, "_installed", lambda name: None)
    assert {check.found for check in doctor._pins()} == {"not installed"}


def test_a_machine_without_a_compiler_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    (check,) = doctor._linker()
    assert check.state == "FAIL"
    assert "no C compiler" in check.found
    assert not doctor.healthy([check])


def test_a_python_too_old_fails(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    (check,) = doctor._python()
    assert (check.state, check.found) == ("FAIL", "3.9.1")


def test_a_machine_without_pyopencl_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda name: None)
    (check,) = doctor._opencl()
    assert (check.state, check.found) == ("optional", "pyopencl is not installed")
    assert "pip install 'rt3d-tvm[opencl]'" in check.remedy


def test_the_instruction_of_8_bit_kernels_is_named(checks):
    check = checks["8-bit products"]
    assert check.found == dot_unit(make_target("host")).instruction
    assert not check.required
    assert check.ok == (check.found in ("vpdpbusd", "sdot"))
