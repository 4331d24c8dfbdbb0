"""Code for another processor is refused by name, before any of it runs."""

import json
import platform
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tvm.target import Target

from rt3d_tvm import cli
from rt3d_tvm.artifact import cpu_features
from rt3d_tvm.artifact.cpu_features import FEATURES, check_runs_here, lacking_here, lacking_there
from rt3d_tvm.artifact.load import load
from rt3d_tvm.compile import targets
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.processor_needs import masked_here, processor_needs
from rt3d_tvm.compile.targets import TARGETS, make_target
from rt3d_tvm.errors import InputError
from tests.artifact.networks import clip, expected, write_network
from tests.artifact.tampering import edit_manifest, reseal


@pytest.mark.parametrize(
    ("name", "machine", "some", "none"),
    [
        ("x86-64-avx2", "x86_64", {"avx2", "fma", "bmi2", "abm", "f16c"}, {"avx512f"}),
        ("x86-64-avx512", "x86_64", {"avx512f", "avx512vl", "avx2"}, {"avx512_vnni", "amx_tile"}),
        ("arm64", "aarch64", set(), {"asimddp", "asimdhp"}),
        ("arm64-v8.2", "aarch64", {"asimdhp", "atomics"}, {"asimddp"}),
        ("cortex-a77", "aarch64", {"asimdhp", "asimddp"}, {"sve"}),
        ("adreno", "aarch64", set(), {"asimddp"}),
        ("opencl", "x86_64", set(), {"avx2"}),
    ],
)
def test_what_each_target_needs(name, machine, some, none):
    needs = processor_needs(make_target(name))
    assert needs["machine"] == machine
    assert some <= set(needs["features"])
    assert none.isdisjoint(needs["features"])


def test_attributes_of_a_target_count():
    """A feature is needed because of the processor's name, or of its own; or is left out."""
    plain = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
    assert "avx2" in processor_needs(Target({**plain, "mattr": ["+avx2"]}))["features"]
    without = Target({**plain, "mcpu": "skylake-avx512", "mattr": ["-avx512f"]})
    assert {"avx512f", "avx512bw"}.isdisjoint(processor_needs(without)["features"])
    sapphire = processor_needs(Target({**plain, "mcpu": "sapphirerapids"}))["features"]
    assert {"amx_tile", "avx512_fp16", "avx512_bf16", "avx_vnni"} <= set(sapphire)
    arm = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-v1"}
    assert {"sve", "i8mm", "bf16"} <= set(processor_needs(Target(arm))["features"])


def test_every_target_s_code_for_this_machine_runs_or_says_why(tmp_path):
    onnx = write_network(tmp_path / "m.onnx")
    for name, target in TARGETS.items():
        if target.get("kind") != "llvm":
            continue
        compile_onnx(onnx, tmp_path / name, target=name)
        missing = lacking_here(processor_needs(make_target(name))["features"])
        if processor_needs(make_target(name))["machine"] == platform.machine() and not missing:
            y, wanted = load(tmp_path / name).run(clip()), expected(onnx, clip())
            assert np.max(abs(y - wanted)) <= 1e-5 * np.max(abs(wanted))
        else:
            with pytest.raises(InputError, match="compiled for"):
                load(tmp_path / name)


def test_host_is_what_this_machine_has(pair):
    """An artifact of `host` needs what the kernel shows, and no more."""
    needs = json.loads((pair.folder / "manifest.json").read_text())["processor"]
    assert needs["machine"] == platform.machine()
    if platform.machine() == "x86_64":
        text = Path("/proc/cpuinfo").read_text()
        flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)[1].split()
        assert set(needs["features"]) <= set(flags)
        assert ("avx2" in flags) == ("avx2" in needs["features"])


def test_host_leaves_out_what_a_hypervisor_hides(monkeypatch):
    """LLVM goes by the processor's name: code for it would die where features are masked."""
    real, hidden = cpu_features._cpuinfo_flags, {"avx512f", "avx512_vnni", "bmi2"}
    if platform.machine() != "x86_64":
        pytest.skip("masks x86 features")
    monkeypatch.setattr(cpu_features, "_cpuinfo_flags", lambda path: real(path) - hidden)
    monkeypatch.setattr(targets, "llvm_get_system_cpu", lambda: "cascadelake")
    needs = processor_needs(make_target("host"))["features"]
    assert hidden.isdisjoint(needs)
    assert "avx512bw" not in needs  # is nothing without avx512f
    assert "avx2" in needs
    cascade = Target({"kind": "llvm", "mcpu": "cascadelake"})
    assert {"avx512f", "avx512vnni", "bmi2"} <= set(masked_here(cascade))


def needing(pair, to: Path, **fields) -> Path:
    """A copy of an artifact whose manifest says that it needs something else."""
    folder = Path(shutil.copytree(pair.folder, to))
    edit_manifest(folder, lambda manifest: manifest["processor"].update(fields))
    reseal(folder)
    return folder


def test_a_missing_feature_and_another_machine_are_named(pair, tmp_path):
    features = json.loads((pair.folder / "manifest.json").read_text())["processor"]["features"]
    lacking = {**features, "amx_of_2040": 2000, "sve9": 2001}
    folder = needing(pair, tmp_path / "newer", features=lacking)
    with pytest.raises(InputError, match=r"this processor has no amx_of_2040, sve9; compile for"):
        load(folder)
    folder = needing(pair, tmp_path / "other", machine="riscv64", features={})
    with pytest.raises(InputError, match=r"compiled for riscv64, this machine is \w+; `rt3d remo"):
        load(folder)


@pytest.mark.parametrize("command", ["verify {} --onnx {onnx}", "bench {} --runs 1"])
def test_commands_refuse_it_in_one_line(command, pair, tmp_path, capsys):
    folder = needing(pair, tmp_path / "newer", features={"amx_of_2040": 2000})
    assert cli.main(command.format(folder, onnx=pair.onnx).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("rt3d: error: ") and error.count("\n") == 1
    assert "amx_of_2040" in error


def test_code_of_an_aarch64_processor_without_a_feature(monkeypatch):
    """By the bits that the kernel hands to each process: /proc may be another machine's."""

    class Library:
        """HWCAP with asimdhp (bit 10), HWCAP2 with i8mm (bit 13)."""

        def __init__(self) -> None:
            self.getauxval = type("Function", (), {"__call__": lambda _, what: self.bits[what]})()
            self.bits = {16: 1 << 10, 26: 1 << 13}

    monkeypatch.setattr(cpu_features.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu_features.ctypes, "CDLL", lambda _: Library())
    needs = processor_needs(make_target("cortex-a77"))
    assert lacking_here(needs["features"]) == ["atomics", "asimddp"]
    assert lacking_here({"i8mm": FEATURES["aarch64"]["i8mm"][1]}) == []
    with pytest.raises(InputError, match="this processor has no atomics, asimddp"):
        check_runs_here({"processor": needs, "target": {"name": "cortex-a77"}}, Path("a"))


def test_a_device_that_tells_nothing_is_not_refused():
    needs = processor_needs(make_target("cortex-a77"))
    assert lacking_there(needs, ()) == []
    assert lacking_there(needs, (0, 1, 8, 10)) == ["asimddp"]
    assert lacking_there({"machine": "aarch64", "features": {"i8mm": 64 + 13}}, (0, 1)) == []
    x86 = {"machine": "x86_64", "features": {"avx512f": 0x130, "avx2": 0x125}}
    assert lacking_there(x86, (0x125,)) == ["avx512f"]


def test_a_system_without_cpuinfo_is_not_refused(monkeypatch):
    monkeypatch.setattr(cpu_features, "_cpuinfo_flags", lambda path: set())
    monkeypatch.setattr(cpu_features.platform, "machine", lambda: "x86_64")
    assert lacking_here({"avx512f": 0x130}) == []
    assert cpu_features._cpuinfo_flags(Path("/nowhere")) == set()
