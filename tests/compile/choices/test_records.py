"""Tuned records: for which kernels they hold, and what a build makes of them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rt3d_tvm
from rt3d_tvm import cli
from rt3d_tvm.artifact.load import load
from rt3d_tvm.artifact.verify import relative_distance
from rt3d_tvm.compile.backends import device_class
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.compile.choices import records as records_module
from rt3d_tvm.compile.choices.layer import Choice, Variant
from rt3d_tvm.compile.choices.records import (
    RecordSet,
    TunedRecord,
    find,
    read_database,
    read_records,
    share,
    shipped_records,
    workload,
    write_records,
)
from rt3d_tvm.compile.choices.space import decisions, variants
from rt3d_tvm.compile.frontend import import_onnx
from rt3d_tvm.compile.options import Lowering
from rt3d_tvm.compile.pipeline import lower
from rt3d_tvm.compile.targets import make_target
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune.tasks import extract_tasks
from tests.two_layers import write_two_layers
from topi_sparse.kernel_group import KernelGroup

TARGET = make_target("host")
CLASS = device_class(TARGET)


@pytest.fixture(scope="module")
def onnx_path(tmp_path_factory):
    return write_two_layers(tmp_path_factory.mktemp("two_layers") / "two.onnx")


@pytest.fixture(scope="module")
def tasks(onnx_path):
    return extract_tasks(lower(import_onnx(onnx_path), Lowering(target=TARGET)))


def record_for(task, choice: Choice, **fields) -> TunedRecord:
    conv = task.layer.conv
    return TunedRecord(
        **{
            "workload": workload(conv),
            "share": share(conv),
            "device_class": CLASS,
            "choice": choice,
            "default_ms": 2.0,
            "tuned_ms": 1.0,
            "model": "c3d.onnx",
            "device": "this machine",
            "versions": {"apache-tvm": "0.27.0.post1"},
            **fields,
        }
    )


def other_choice(task) -> Choice:
    """Row blocks of another height where there are, and the last decisions of their schedule."""
    found = variants(task.layer, TARGET)
    variant = max(reversed(found), key=lambda v: v.g_m != task.layer.default.g_m)
    _, known = decisions(task.layer.definition(variant), TARGET)
    return Choice(variant=variant, decisions=tuple(options[-1] for options in known))


@pytest.fixture(scope="module")
def records(tasks):
    return [record_for(task, other_choice(task)) for task in tasks]


def test_layers_of_one_workload_are_one_task(compiled_c3d):
    tasks = extract_tasks(lower(import_onnx(compiled_c3d.onnx), Lowering(target=TARGET)))
    assert sum(task.calls for task in tasks) == len(compiled_c3d.manifest["layers"])
    assert len({task.name for task in tasks}) == len(tasks)
    assert max(task.calls for task in tasks) > 1


def test_a_record_is_written_as_it_is_read(tmp_path, records):
    write_records(tmp_path / "r.jsonl", records)
    assert read_records(tmp_path / "r.jsonl", "x") == RecordSet(source="x", records=tuple(records))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: not a tuned record"),
        ('{"format": 2}', "line 2: of format 2; this version reads 1"),
        ('{"format": 1}', "line 2: not a tuned record: 'choice'"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, records, line, says):
    path = tmp_path / "r.jsonl"
    path.write_text(f"{records[0].to_json()}\n{line}\n")
    with pytest.raises(InputError, match=says):
        read_records(path, "x")


def test_a_record_holds_for_its_workload_and_about_its_share(tasks, records):
    conv, kept = tasks[1].layer.conv, records[1].share
    sets = [RecordSet(source="x", records=tuple(records))]
    assert find(sets, conv, CLASS) == (records[1], "x (c3d.onnx)")
    assert find(sets, replace(conv, relu=not conv.relu), CLASS) == (records[1], "x (c3d.onnx)")
    assert find(sets, replace(conv, stride=(1, 2, 2)), CLASS) is None
    assert find(sets, replace(conv, group=KernelGroup(g_m=64, g_n=4)), CLASS) is None
    assert find(sets, conv, "aarch64-128bit-128pipes-8cores") is None
    near, far = (replace(records[1], share=kept * factor) for factor in (1.15, 1.25))
    assert find([RecordSet(source="x", records=(far,))], conv, CLASS) is None
    both = (near, records[1], far)
    assert find([RecordSet(source="x", records=both)], conv, CLASS) == (records[1], "x (c3d.onnx)")
    first = RecordSet(source="first", records=(near,))
    assert find([first, *sets], conv, CLASS) == (near, "first (c3d.onnx)")


def test_targets_of_one_class_share_their_records():
    assert device_class(make_target("arm64")) == device_class(make_target("cortex-a77"))
    classes = {device_class(make_target(t)) for t in ("arm64", "x86-64-avx2", "x86-64-avx512")}
    assert len(classes) == 3


def test_a_build_takes_the_tuned_choices_and_computes_the_same(
    tmp_path, tasks, records, onnx_path, capsys
):
    work = tmp_path / "work"
    work.mkdir()
    write_records(work / "tuned.jsonl", records)
    argv = ["compile", onnx_path, "-o", tmp_path / "a", "--database", work]
    argv += ["--json", tmp_path / "m.json"]
    assert cli.main([str(argument) for argument in argv]) == 0
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert [layer["tuned"] for layer in manifest["layers"]] == [f"{work} (c3d.onnx)"] * len(
        manifest["layers"]
    )
    assert str(work) in capsys.readouterr().out
    changed = [
        task for task, record in zip(tasks, records, strict=True)
        if record.choice.variant.g_m != task.layer.conv.group.g_m
    ]  # fmt: skip
    assert changed
    assert [layer["group"] for layer in manifest["layers"]] == [
        f"{record.choice.variant.g_m}x4" for record in records
    ]
    assert [name for call in manifest["calls"] for name in call["layers"]] == [
        layer["name"] for layer in manifest["layers"]
    ]
    x = np.random.default_rng(0).standard_normal(manifest["inputs"][0]["shape"], dtype="float32")
    compile_onnx(onnx_path, tmp_path / "b", shipped=False)
    tuned, default = load(tmp_path / "a"), load(tmp_path / "b")
    assert relative_distance(tuned.run(x), default.run(x)) <= 1e-5


def test_a_group_that_is_asked_for_is_kept(tmp_path, tasks, records, onnx_path):
    group = tasks[1].layer.conv.group
    other = [r for r in records if r.workload["group"] == str(group)]
    write_records(tmp_path / "tuned.jsonl", other)
    manifest = compile_onnx(
        onnx_path, tmp_path / "a", group=group, database=tmp_path, shipped=False
    )
    assert {layer["group"] for layer in manifest["layers"]} == {str(group)}


def test_decisions_of_another_schedule_are_left_aside(tmp_path, tasks, onnx_path):
    choice = Choice(variant=tasks[1].layer.default, decisions=((1, 1),))
    write_records(tmp_path / "tuned.jsonl", [record_for(tasks[1], choice)])
    manifest = compile_onnx(onnx_path, tmp_path / "a", database=tmp_path, shipped=False)
    assert {layer["tuned"] for layer in manifest["layers"]} == {None}


def test_a_database_of_another_device_or_none_is_refused(tmp_path, onnx_path, records, capsys):
    with pytest.raises(InputError, match=r"no tuned.jsonl in it; `rt3d tune` writes one"):
        read_database(tmp_path, TARGET)
    write_records(tmp_path / "tuned.jsonl", records)
    with pytest.raises(InputError, match=f"tuned for {CLASS}; the target is aarch64-128bit"):
        read_database(tmp_path, make_target("arm64"))
    argv = ["compile", str(onnx_path), "-o", str(tmp_path / "a"), "--database"]
    assert cli.main([*argv, str(tmp_path / "none")]) == 2
    assert "none: no tuned.jsonl in it" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_shipped_records_are_used_unless_they_are_left_out(
    tmp_path, records, onnx_path, monkeypatch
):
    monkeypatch.setattr(records_module, "files", lambda package: tmp_path)
    folder = tmp_path / records_module.SHIPPED / CLASS
    folder.mkdir(parents=True)
    assert shipped_records(TARGET).records == ()
    write_records(folder / "c3d.jsonl", records)
    with_them = compile_onnx(onnx_path, tmp_path / "a")
    assert {layer["tuned"] for layer in with_them["layers"]} == {"shipped (c3d.onnx)"}
    without = compile_onnx(onnx_path, tmp_path / "b", shipped=False)
    assert {layer["tuned"] for layer in without["layers"]} == {None}
    shutil.rmtree(folder)
    assert shipped_records(TARGET).records == ()


def test_the_records_that_are_shipped_can_be_read():
    root = Path(rt3d_tvm.__file__).parent / records_module.SHIPPED
    paths = sorted(root.glob("*/*.jsonl"))
    for path in paths:
        found = read_records(path, path.stem).records
        assert found
        assert {record.device_class for record in found} == {path.parent.name}
        assert all(record.tuned_ms <= record.default_ms for record in found)
        assert path.stat().st_size < 100_000


def test_a_tile_that_is_out_of_the_space_is_still_a_kernel(tmp_path, tasks, onnx_path):
    """Records outlive the list of variants that a search draws from."""
    task = tasks[1]
    variant = Variant(g_m=task.layer.default.g_m, width=1, chunk=task.layer.default.chunk)
    taken, _ = decisions(task.layer.definition(variant), TARGET)
    choice = Choice(variant=variant, decisions=taken)
    write_records(tmp_path / "tuned.jsonl", [record_for(task, choice)])
    manifest = compile_onnx(onnx_path, tmp_path / "a", database=tmp_path, shipped=False)
    assert f"{tmp_path} (c3d.onnx)" in {layer["tuned"] for layer in manifest["layers"]}
