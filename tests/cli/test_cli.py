"""Each command of rt3d: what it prints, writes and imports."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from rt3d_tvm import cli
from rt3d_tvm.cli.models import input_shape, torch_model
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.models import MODELS, build_model
from tests.cli.conftest import SMALL

COMMANDS = (
    *("models", "train", "prune", "export", "compile", "verify", "bench", "run", "doctor", "data"),
    *("tune", "quantize"),
    *("remote", "tracker", "rpc-server"),
)


def error_of(argv, capsys):
    """The one line that a command refuses its arguments with."""
    status = cli.main([str(arg) for arg in argv])
    errors = capsys.readouterr().err
    assert status == 2
    assert errors.startswith("rt3d: error: ")
    assert errors.count("\n") == 1
    return errors


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_imports_nothing_heavy(command):
    argv = [command, "--help"] if command else ["--help"]
    program = f"""
import sys
from rt3d_tvm.cli import main
try:
    main({argv!r})
except SystemExit as exit:
    assert exit.code == 0
heavy = {{"torch", "tvm", "onnx", "onnxruntime", "av", "numpy", "rich"}} & set(sys.modules)
assert not heavy, heavy
"""
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert f"usage: rt3d{f' {command}' if command else ''}" in child.stdout


def test_models_are_listed(tmp_path, capsys):
    assert cli.main(["models", "--json", str(tmp_path / "m.json")]) == 0
    assert "R(2+1)D-18" in capsys.readouterr().out
    assert {spec["name"] for spec in json.loads((tmp_path / "m.json").read_text())} == {
        *("c3d", "r2plus1d", "r3d", "mc3", "s3d"),
        *("r2plus1d_34", "r2plus1d_34_mmaction2", "r2plus1d_50"),
        *("x3d_xs", "x3d_s", "x3d_m", "x3d_l"),
        *("vgg16", "resnet50", "mobilenet_v2"),
    }


def test_prune_and_export_report_what_they_did(flow):
    pruned = json.loads((flow / "prune.json").read_text())
    assert abs(pruned["rate"] - 2.5) < 0.05
    exported = json.loads((flow / "export.json").read_text())
    assert exported["operators"]["Conv"] == 8
    assert exported["max_rel_error"] <= exported["tolerance"]


def test_verify_passes_and_says_so(flow, tmp_path, capsys):
    argv = ["verify", flow / "artifact", "--onnx", flow / "m.onnx", "--json", tmp_path / "v.json"]
    assert cli.main([str(arg) for arg in argv]) == 0
    assert "passed" in capsys.readouterr().out
    assert json.loads((tmp_path / "v.json").read_text())["max_rel_error"] <= 1e-4


def test_verify_compares_on_the_clips_of_a_video(flow, tmp_path, capsys):
    argv = ["verify", flow / "artifact", "--onnx", flow / "m.onnx", "--video", flow / "v.mp4"]
    assert "the model does not say how frames become its input" in error_of(argv, capsys)
    argv += ["--model", "c3d", "--clips", "3", "--json", tmp_path / "v.json"]
    assert cli.main([str(arg) for arg in argv]) == 0
    assert "over 3 inputs" in capsys.readouterr().out
    result = json.loads((tmp_path / "v.json").read_text())
    assert result["inputs"] == 3
    assert result["max_rel_error"] <= 1e-4


def test_verify_fails_against_another_model(flow, tmp_path, capsys):
    model = onnx.load(flow / "m.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "fc8.weight":
            values = -onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "other.onnx")
    argv = ["verify", flow / "artifact", "--onnx", tmp_path / "other.onnx"]
    assert cli.main([str(arg) for arg in argv]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_bench_times_every_engine_in_one_run(flow, tmp_path, capsys):
    argv = ["bench", flow / "artifact", "--onnx", flow / "m.onnx", "--runs", "3", "--threads", "1"]
    argv += ["--torch", f"c3d:{flow / 'w.safetensors'}", "--json", tmp_path / "b.json"]
    assert cli.main([str(arg) for arg in argv]) == 0
    assert "1 threads, 3 runs" in capsys.readouterr().out
    timings = json.loads((tmp_path / "b.json").read_text())["timings"]
    assert [timing["engine"] for timing in timings] == ["rt3d", "ONNX Runtime", "PyTorch"]
    assert all(
        len(timing["samples_ms"]) == 3 and min(timing["samples_ms"]) > 0 for timing in timings
    )


def test_bench_takes_weights_from_elsewhere(tmp_path):
    """They say neither whose they are nor for which clips; the model's name and the artifact do."""
    torch.manual_seed(0)
    published, path = build_model("mobilenet_v2", 7), tmp_path / "m.pth"
    torch.save(published.state_dict(), path)
    model, info = torch_model(f"mobilenet_v2:{path}", (1, 3, 64, 64))
    assert (info.classes, input_shape(info)) == (7, (1, 3, 64, 64))
    assert torch.equal(model.classifier[1].weight, published.classifier[1].weight)


def test_run_prints_the_top_five_and_the_stages(flow, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"label{i}\n" for i in range(7)))
    argv = ["run", flow / "artifact", flow / "v.mp4", "--labels", labels, "--model", "c3d"]
    argv += ["--clips", "2", "--json", tmp_path / "r.json"]
    assert cli.main([str(arg) for arg in argv]) == 0
    printed = capsys.readouterr().out
    assert printed.count("label") == 1 + 5
    assert all(stage in printed for stage in ("decode", "preprocess", "inference"))
    result = json.loads((tmp_path / "r.json").read_text())
    chances = [guess["probability"] for guess in result["top"]]
    assert len(chances) == 5
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1 + 1e-9
    assert result["source"]["frames"] == 20
    assert result["clips"] == 2
    assert result["notes"] == []


def test_run_says_what_is_not_known_and_what_the_video_lacks(flow, tmp_path, capsys):
    """Benchmark weights were not trained: nothing says how frames become their input."""
    make_clip(tmp_path / "short.mp4", frames=5, size=48)
    argv = ["run", flow / "artifact", tmp_path / "short.mp4"]
    message = error_of(argv, capsys)
    assert "resize, mean, std is missing; give --model NAME, or --resize, --mean" in message
    assert cli.main([str(arg) for arg in (*argv, "--model", "c3d")]) == 0
    printed = capsys.readouterr().out
    assert "5 frames, a clip has 16: the last one is repeated 11 times" in printed


def test_run_agrees_with_onnx_runtime_on_the_same_frames(flow):
    import onnxruntime

    from rt3d_tvm.classify import classify_video
    from rt3d_tvm.data.clips import read_clips
    from rt3d_tvm.data.kinetics import KINETICS_MEAN, KINETICS_STD
    from rt3d_tvm.data.preprocessing import Preprocessing

    clip = read_clips(flow / "v.mp4", size=32, resize=36).array
    (logits,) = onnxruntime.InferenceSession(flow / "m.onnx").run(None, {"clip": clip})
    used = Preprocessing(frames=16, size=32, resize=36, mean=KINETICS_MEAN, std=KINETICS_STD)
    best = classify_video(flow / "artifact", flow / "v.mp4", preprocessing=used).top[0]
    powers = np.exp(logits[0] - logits[0].max())
    assert best.index == int(powers.argmax())
    assert best.probability == pytest.approx(float(powers.max() / powers.sum()), rel=1e-3)


def test_a_set_of_videos_is_made_and_completed(tmp_path, capsys):
    argv = ["data", "motion", tmp_path / "d", "--videos-per-class", "2", "--size", "32"]
    argv += ["--test-videos-per-class", "1", "--frames", "2", "--json", tmp_path / "d.json"]
    for _ in range(2):
        assert cli.main([str(arg) for arg in argv]) == 0
        assert "12 classes, 24 videos to train and 12 to test on" in capsys.readouterr().out
        assert len(list((tmp_path / "d").rglob("*.mp4"))) == 36
    result = json.loads((tmp_path / "d.json").read_text())
    assert (len(result["classes"]), result["train"], result["test"]) == (12, 24, 12)
    assert result["settings"]["size"] == 32
    assert "holds a set of other settings" in error_of([*argv, "--seed", "1"], capsys)


def run_cli(*arguments, **options):
    """The command line, as a process."""
    command = [sys.executable, "-m", "rt3d_tvm.cli", *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=120, **options)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "link"])
def test_json_on_standard_output_is_there_alone(tmp_path, name):
    """A program reads it whole; the table goes to standard error."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    done = run_cli("models", "--json", name, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == len(MODELS)
    assert "R(2+1)D-18" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_json_on_standard_output_of_a_call(capsys):
    assert cli.main(["models", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == len(MODELS)
    assert "R(2+1)D-18" in err


def test_a_device_that_is_full_is_one_line(tmp_path):
    with Path("/dev/full").open("w") as full:
        for argv in (["models"], ["models", "--json", "-"]):
            done = run_cli(*argv, stdout=full, stderr=subprocess.PIPE)
            assert done.returncode == 2
            assert done.stderr.splitlines()[-1].startswith("rt3d: error: output cannot be written")
    done = run_cli("models", "--json", "/dev/full", capture_output=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "/dev/full: cannot be written: No space left on device" in done.stderr


def test_an_output_that_is_closed_is_no_traceback():
    for closed, status in (("--json /dev/null >&-", 0), ("--json - >&-", 2), ("--json - 2>&-", 0)):
        line = f"{sys.executable} -m rt3d_tvm.cli models {closed}"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (status, False)


def test_weights_go_to_standard_output(tmp_path):
    """What follows it reads nothing but the file."""
    from rt3d_tvm.models.weights import read_info

    with (tmp_path / "w.safetensors").open("wb") as out:
        done = run_cli(
            "prune", *SMALL, "--rate", "2", "-o", "-", stdout=out, stderr=subprocess.PIPE
        )
    assert done.returncode == 0, done.stderr
    assert read_info(tmp_path / "w.safetensors").scheme == "kgs"
    assert "/dev/stdout: kgs 8x4, " in done.stderr


def test_a_message_stays_one_line_whatever_it_holds(tmp_path, capsys):
    line = error_of(["compile", "a\nb\x1b[31m.onnx", "-o", str(tmp_path / "d")], capsys)
    assert "a b [31m.onnx: no such file" in line


def test_a_reader_that_has_enough_ends_the_command_quietly():
    program = f"{sys.executable} -c 'from rt3d_tvm.cli import main; exit(main([\"models\"]))'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} | true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 where all fitted into the pipe before it closed


def test_a_missing_package_is_named_with_its_remedy(flow, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "rt3d_tvm.classify", raising=False)
    monkeypatch.delitem(sys.modules, "rt3d_tvm.data.clips", raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    line = error_of(["run", flow / "artifact", flow / "v.mp4"], capsys)
    assert "needs the package av" in line
    assert "pip install 'rt3d-tvm[video]'" in line


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("rt3d_tvm.measure.doctor.diagnose", interrupted)
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "rt3d: interrupted\n"


def test_a_bug_is_not_taken_for_bad_input(monkeypatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr("rt3d_tvm.measure.doctor.diagnose", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_doctor_fails_where_something_required_is_missing(monkeypatch, tmp_path, capsys):
    from rt3d_tvm.measure.doctor import Check

    found = [
        Check(name="a", ok=False, required=True, found="no", remedy="get it"),
        Check(name="b", ok=False, required=False, found="no", remedy="or not"),
    ]
    monkeypatch.setattr("rt3d_tvm.measure.doctor.diagnose", lambda: found)
    assert cli.main(["doctor", "--json", str(tmp_path / "d.json")]) == 1
    assert "FAIL      a      no     get it" in capsys.readouterr().out
    report = json.loads((tmp_path / "d.json").read_text())
    assert (report["healthy"], [check["name"] for check in report["checks"]]) == (False, ["a", "b"])
    monkeypatch.setattr("rt3d_tvm.measure.doctor.diagnose", lambda: found[1:])
    assert cli.main(["doctor"]) == 0


def test_the_installed_command_is_this_one():
    rt3d = Path(sys.executable).with_name("rt3d")
    if not rt3d.exists():
        pytest.skip("rt3d is not installed beside this interpreter: pip install -e .")
    child = subprocess.run([rt3d, "conquer"], capture_output=True, text=True)
    assert child.returncode == 2
    assert child.stderr.startswith("rt3d: error: argument COMMAND: invalid choice")
    assert child.stderr.count("\n") == 1


def test_a_port_beyond_the_last_one_is_refused(capsys):
    from rt3d_tvm.cli import main

    assert main(["tracker", "--port", "70000"]) == 2
    assert "port 70000: 1 to 65535 is accepted" in capsys.readouterr().err
