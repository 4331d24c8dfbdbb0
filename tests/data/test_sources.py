"""What a user may call a video, and what is refused."""

import http.server
import threading
from functools import partial

import av
import pytest

from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.data.sources import CAMERA, FILE, STDIN, STREAM, opened, sources_of
from rt3d_tvm.errors import InputError
from tests.videos import encode, still


@pytest.fixture
def videos(tmp_path):
    for name in ("b.mp4", "a.mp4", "deep/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make_clip(tmp_path / name, frames=3, size=32)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / ".hidden.mp4").write_text("no video")
    return tmp_path


def names(texts, folder):
    return [source.name.removeprefix(f"{folder}/") for source in sources_of(texts)]


def test_folders_and_patterns_are_their_videos_in_order(videos):
    assert names([str(videos)], videos) == ["a.mp4", "b.mp4", "deep/c.mp4"]
    assert names([f"{videos}/*.mp4"], videos) == ["a.mp4", "b.mp4"]
    assert names([f"{videos}/**/*.mp4", f"{videos}/a.mp4"], videos)[-1] == "a.mp4"
    assert names(["none.mp4"], videos) == ["none.mp4"]  # opening it says what is wrong


def test_a_file_that_is_called_like_a_pattern_is_a_file(videos):
    (videos / "a.mp4").rename(videos / "[1].mp4")
    assert names([f"{videos}/[1].mp4"], videos) == ["[1].mp4"]


def test_cameras_streams_and_standard_input_are_known_by_their_names():
    found = sources_of(["camera:0", "rtsp://me:secret@host/x", "http://host/v.mp4", "-"])
    assert [source.kind for source in found] == [CAMERA, STREAM, STREAM, STDIN]
    assert found[0].place == "/dev/video0"
    assert found[1].name == "rtsp://host/x" and "secret" in found[1].place
    assert [source.is_live for source in found] == [True, True, True, False]
    assert sources_of(["x.mp4"])[0].kind == FILE


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["camera:front"], "camera:N is accepted"),
        (["ftp://host/x"], "ftp://host/x: rtsp://, rtsps://, http://, https:// are accepted"),
        (["file:///etc/passwd"], "are accepted"),
        (["-", "-"], "standard input can be read once"),
        (["{here}"], "no video in this folder"),
        (["{here}/*.mp4"], "no file fits this pattern"),
    ],
)
def test_what_is_none_is_refused(texts, message, tmp_path):
    with pytest.raises(InputError, match=message):
        sources_of([text.format(here=tmp_path) for text in texts])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera:99", "camera:99: no such camera"),
        ("rtsp://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x: cannot be opened: Connection refused"),
        ("none.mp4", "no such file"),
    ],
)
def test_what_cannot_be_opened_is_one_line(text, message):
    (source,) = sources_of([text])
    with pytest.raises(InputError, match=message), opened(source):
        pass


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_stream_over_http_is_decoded(videos):
    handler = partial(Quiet, directory=str(videos))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        encode(videos / "v.ts", [still(64, 96)] * 60)
        (source,) = sources_of([f"{address}/v.ts"])
        with opened(source) as (fps, frames):
            assert fps == 25 and len(list(frames)) == 60
        # An address leads to no file of this machine.
        (videos / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{videos}/b.mp4\n")
        (source,) = sources_of([f"{address}/list.m3u8"])
        with pytest.raises(InputError), opened(source) as (_, frames):
            assert list(frames)
        server.shutdown()


def test_a_stream_that_breaks_off_says_so(monkeypatch, videos):
    (source,) = sources_of(["rtsp://host/x"])
    container = av.open(str(videos / "a.mp4"))
    first, error = (
        next(container.demux(video=0)),
        av.error.TimeoutError(110, "Connection timed out"),
    )

    class Breaking:
        streams = container.streams
        __enter__, __exit__ = lambda self: self, lambda self, *_: container.close()

        def demux(self, stream):
            yield first
            raise error

    monkeypatch.setattr("rt3d_tvm.data.sources.av.open", lambda *_, **__: Breaking())
    with (
        pytest.raises(InputError, match="rtsp://host/x: broke off: Connection timed out"),
        opened(source) as (_, frames),
    ):
        list(frames)
