"""rt3d run on several videos, frame by frame, on standard input, and in real time."""

import csv
import json
import subprocess
import sys

import av
import pytest

from rt3d_tvm import cli
from rt3d_tvm.data.generate import make_clip


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"label{i}\n" for i in range(7)))
    return path


def run(flow, *words, status=0):
    argv = ["run", flow / "artifact", *words, "--model", "c3d"]
    assert cli.main([str(word) for word in argv]) == status


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_video_of_a_folder_has_its_line(flow, labels, tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in "ab":
        make_clip(folder / f"{name}.mp4", frames=20, size=48)
    (folder / "broken.mp4").write_bytes(b"nothing")
    out = ("--json", tmp_path / "r.jsonl", "--csv", tmp_path / "r.csv")
    run(flow, folder, "--labels", labels, "--top", 2, *out, status=1)
    printed = capsys.readouterr()
    assert "2 of 3 videos classified" in printed.out
    assert "broken.mp4: not a video file" in printed.err
    found = lines_of(tmp_path / "r.jsonl")
    assert [each["source"]["path"][-5:] for each in found] == ["a.mp4", "b.mp4"]
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"] * 2
    assert rows[0]["label"] == found[0]["top"][0]["label"]


def test_a_file_is_watched_in_windows_and_drawn_on(flow, labels, tmp_path, capsys):
    out = {"--json": "w.jsonl", "--csv": "w.csv", "--overlay": "w.mp4"}
    words = [each for name, file in out.items() for each in (name, tmp_path / file)]
    run(flow, flow / "v.mp4", "--every", 2, "--labels", labels, "--top", 3, *words)
    *windows, last = lines_of(tmp_path / "w.jsonl")
    assert [window["frame"] for window in windows] == [15, 17, 19]
    assert all(len(window["top"]) == 3 for window in windows)
    assert last["summary"]["frames"] == 20 and last["summary"]["dropped"] == 0
    assert "20 frames, 3 answers, 0 dropped" in capsys.readouterr().out
    assert len((tmp_path / "w.csv").read_text().splitlines()) == 1 + 3 * 3
    with av.open(str(tmp_path / "w.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


def test_a_video_too_short_for_a_clip_says_so(flow, tmp_path, capsys):
    make_clip(tmp_path / "short.mp4", frames=5, size=48)
    run(flow, tmp_path / "short.mp4", "--every", 1)
    assert "ended before a clip was whole: 16 frames" in capsys.readouterr().out


def test_standard_input_is_a_source(flow, tmp_path):
    with av.open(str(tmp_path / "v.ts"), "w") as out, av.open(str(flow / "v.mp4")) as video:
        stream = out.add_stream_from_template(video.streams.video[0])
        for packet in video.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    command = [sys.executable, "-m", "rt3d_tvm.cli", "run", flow / "artifact", "-"]
    done = subprocess.run(
        [*command, "--model", "c3d", "--json", "-"],
        input=(tmp_path / "v.ts").read_bytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0]["source"] == "standard input" and found[0]["frame"] == 15
    assert found[-1]["summary"]["frames"] == 20


def test_real_time_has_a_verdict(flow, tmp_path, capsys):
    out = tmp_path / "r.jsonl"
    argv = ["run", flow / "artifact", "--realtime", "--seconds", "1", "--every", "8"]
    status = cli.main([str(word) for word in (*argv, "--model", "c3d", "--json", out)])
    found = lines_of(out)[-1]["realtime"]
    assert status == (0 if found["keeps"] else 1)
    assert found["windows"] >= 1 and found["came"] <= 30
    verdict = "keeps" if found["keeps"] else "does NOT keep"
    assert f"this machine {verdict} 30 frames a second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "a SOURCE is needed, or --describe"),
        ("VIDEO --realtime", "--realtime makes its own stream"),
        ("VIDEO --overlay o.mp4", "--overlay is of windows over a file: --every N"),
        ("VIDEO --seconds 3", "--seconds is of windows over a file"),
        ("VIDEO --every 2 --clips 3", "--clips is of whole files"),
        ("VIDEO VIDEO --every 2 --overlay o.mp4", "--overlay writes one video; 2 sources"),
        ("VIDEO --every 2 --csv o --json o", "is the file of another argument"),
        ("camera:99", "camera:99: no such camera"),
        ("camera:99 --json none/o", "none"),
        ("VIDEO --every 0", "'0': a whole number"),
    ],
)
def test_what_will_not_do_is_one_line(words, message, flow, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [str(flow / "v.mp4") if word == "VIDEO" else word for word in words.split()]
    assert cli.main(["run", str(flow / "artifact"), "--model", "c3d", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
