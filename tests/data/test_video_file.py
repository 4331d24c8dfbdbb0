"""Just the file that is named is opened, and what is no video of one size is refused."""

import itertools
import os
import re
import shutil
import socket
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from rt3d_tvm.data import video_file
from rt3d_tvm.data.clips import read_clips, read_frames
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.data.video_file import promised_frames
from rt3d_tvm.errors import InputError
from tests.videos import changing, encode, still

PLAIN = {"size": 32, "resize": 32, "frames": 2, "mean": (0,) * 3, "std": (1,) * 3}


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0] = 250
    return encode(tmp_path_factory.mktemp("red") / "red.mp4", [picture] * 5)


NAMES = (
    *("img%d.mp4", "img%03d.mp4", "%%.mp4", "img*.mp4", "img?.mp4", "{img0,img1}.mp4", "[i]mg.mp4"),
    *("-i.mp4", "--help", "file:img0.mp4", "concat:img0.mp4|img1.mp4", "pipe:0", "fd:", "http:a"),
    *("subfile,,start,0,end,9,,:img0.mp4", "data:video;base64,AA", "async:img0.mp4", "a:b.mp4"),
    *("tcp:127.0.0.1:1", "crypto:img0.mp4", "a b\n.mp4", "ä\udcff.mp4", "img%d.png", "x.m3u8"),
    *("x.txt", "x.sdp", "lavfi", "/dev/null.mp4"[5:], "testsrc", "video0"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_name_whatever_it_means_to_ffmpeg(red, tmp_path, monkeypatch, name):
    for i in range(3):
        encode(tmp_path / f"img{i}.mp4", [still(32, 32)] * 3)
    monkeypatch.chdir(tmp_path)
    shutil.copy(red, tmp_path / name)
    for path in (name, tmp_path / name):
        batch = read_clips(path, **PLAIN)
        assert batch.source.frames == 5
        colour = batch.array.mean(axis=(0, 2, 3, 4))
        np.testing.assert_allclose(colour, [0.98, 0, 0], atol=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_is_written_under_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make_clip(Path(name), frames=2, size=32)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert read_clips(name, **PLAIN).source.frames == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_nothing_opens_nothing(red, tmp_path, monkeypatch, name):
    for i in range(3):
        shutil.copy(red, tmp_path / f"img{i}.mp4")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_clips(name, **PLAIN)


def lists_of(video, port):
    """Files that name another, in every way that FFmpeg's readers know."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
    return {
        "absolute.m3u8": hls.format(video),
        "relative.m3u8": hls.format(video.name),
        "protocol.m3u8": hls.format(f"file:{video}"),
        "network.m3u8": hls.format(f"http://127.0.0.1:{port}/v.ts"),
        "key.m3u8": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="file:{video}"\n' + hls.format("a.ts"),
        "script.ffconcat": f"ffconcat version 1.0\nfile '{video}'\n",
        "script.txt": f"file '{video.name}'\n",
        "movie.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011">'
        f"<Period><AdaptationSet><Representation><BaseURL>{video}</BaseURL></Representation>"
        "</AdaptationSet></Period></MPD>",
        "call.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "imf.xml": f'<?xml version="1.0"?><CompositionPlaylist>{video}</CompositionPlaylist>',
        "movie.asx": f'<asx version="3.0"><entry><ref href="{video}"/></entry></asx>',
        "call.sap": f"rtsp://127.0.0.1:{port}/\n",
        "vobsub.idx": f"# VobSub index file, v7\n{video}\n",
    }


@pytest.mark.parametrize("name", lists_of(Path("v.ts"), 0))
@pytest.mark.parametrize("called", [None, "v.mp4"])
def test_a_file_that_names_another_is_refused_and_opens_nothing(tmp_path, name, called, capfd):
    video = encode(tmp_path / "v.ts", [still(32, 32)] * 3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        path = tmp_path / (called or name)
        path.write_text(lists_of(video, listening.getsockname()[1])[name])
        before = video.stat().st_atime_ns
        with pytest.raises(InputError, match=f"{re.escape(path.name)}: (not a|no video)"):
            read_clips(path, **PLAIN)
        with pytest.raises(InputError):
            read_frames(path, choose=np.arange, resize=32)
        with pytest.raises(TimeoutError):
            listening.accept()
        assert video.stat().st_atime_ns == before


def test_a_pipe_and_a_device_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "v.mp4")  # opening it would wait for ever
    for path in (tmp_path / "v.mp4", "/dev/zero"):
        with pytest.raises(InputError, match="not a file"):
            read_clips(path, **PLAIN)


@pytest.mark.parametrize("name", ["a" * 300 + ".mp4", "a\0b.mp4"])
def test_what_cannot_be_a_name_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"name|long"):
        read_clips(tmp_path / name, **PLAIN)


@pytest.mark.parametrize("second", [(48, 32), (64, 48), (96, 128)])
def test_frames_of_two_sizes_are_refused_with_both(tmp_path, second):
    path = changing(tmp_path, (48, 64), second)
    message = f"change their size, from 64x48 to {second[1]}x{second[0]} at frame 20"
    for resize in (32, (32, 40)):
        with pytest.raises(InputError, match=message):
            read_clips(path, size=32, resize=resize)
        with pytest.raises(InputError, match=message):
            read_frames(path, choose=np.arange, resize=resize)


def test_frames_that_cannot_be_resized_are_refused(tmp_path):
    wide = np.zeros((2, 16384, 3), np.uint8)
    path = encode(tmp_path / "v.mkv", [wide] * 2, codec="ffv1")
    for resize in (32, 128):
        with pytest.raises(InputError, match="frames of 16384x2: sides of at most 100 to 1"):
            read_clips(path, size=32, resize=resize)
        with pytest.raises(InputError, match="frames of 16384x2: sides of at most 100 to 1"):
            read_frames(path, choose=np.arange, resize=resize)
    assert read_clips(path, size=32, resize=(32, 32), frames=2).array.shape == (1, 3, 2, 32, 32)
    with pytest.raises(InputError, match="16384x2 cannot be resized to 1048576x1048576: Invalid"):
        read_clips(path, size=32, resize=(1 << 20, 1 << 20))


def test_what_is_wrong_with_the_file_is_said_before_what_is_wrong_with_a_frame(tmp_path):
    path = changing(tmp_path, (2, 400), (48, 64))
    with pytest.raises(InputError, match="change their size, from 400x2 to 64x48"):
        read_clips(path, **{**PLAIN, "clips": 2})


@pytest.mark.parametrize("frames", [0, 3])
def test_a_file_that_decodes_otherwise_the_second_time_is_refused(tmp_path, monkeypatch, frames):
    path = encode(tmp_path / "v.mp4", [still(32, 32)] * 6)
    fewer = lambda path: itertools.islice(video_file.frames_of(path), frames)  # noqa: E731
    monkeypatch.setattr("rt3d_tvm.data.clips.frames_of", fewer)
    monkeypatch.setattr("rt3d_tvm.data.clips.promised_frames", lambda path: 40)
    with pytest.raises(InputError, match=f"6 of its frames decoded at first, then {frames}"):
        read_clips(path, size=32, resize=32)


def test_an_error_of_the_library_s_own_is_an_input_error(tmp_path, monkeypatch):
    path = encode(tmp_path / "v.mp4", [still(32, 32)] * 6)

    class Failing:
        def reformat(self, *_, **__):
            raise av.error.ExternalError(1, "no such conversion")

    monkeypatch.setattr("av.video.reformatter.VideoReformatter", Failing)
    with pytest.raises(InputError, match="frames of 32x32 cannot be resized to 32x32: no such"):
        read_clips(path, **PLAIN)
    with pytest.raises(InputError, match="no such conversion"):
        read_frames(path, choose=np.arange, resize=32)


def test_a_codec_that_nobody_knows_is_refused(tmp_path):
    path = encode(tmp_path / "v.mp4", [still(32, 32)] * 3)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(InputError, match=r"v\.mp4: .*no decoder"):
        read_clips(path, **PLAIN)


def test_a_title_that_is_no_text_is_no_obstacle(tmp_path):
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as out:
        out.metadata["title"] = "Koeln in winter"
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(still(32, 32), format="rgb24")))
        out.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"Koeln", b"K\xf6\xffln"))
    assert read_clips(path, **PLAIN).source.frames == 3


def test_a_promise_of_billions_of_frames_is_not_believed(tmp_path):
    path = encode(tmp_path / "v.avi", [still(32, 32)] * 6, codec="mpeg4")
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32  # how many frames the stream has
    assert struct.unpack_from("<I", data, at) == (6,)
    struct.pack_into("<I", data, at, 0x7FFFFFFF)
    path.write_bytes(data)
    assert promised_frames(path) == 6
    assert len(read_frames(path, choose=np.arange, resize=32)) == 6


def test_the_pictures_of_a_camera_that_say_how_it_was_held(tmp_path):
    """Motion JPEG with EXIF data, which PyAV has no name for."""
    with av.open(str(tmp_path / "v.avi"), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(still(48, 80), format="rgb24")
        out.mux(stream.encode(frame.reformat(format="yuvj420p")))
        out.mux(stream.encode())
    with av.open(str(tmp_path / "v.avi")) as video:
        jpeg = bytes(next(video.demux(video=0)))
    # Tag 0x112, of type short: 6 says that the picture is to be turned clockwise.
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 6, 0)
    block = b"Exif\0\0" + tiff
    held = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
    (tmp_path / "held.mjpeg").write_bytes(3 * held)
    (tmp_path / "plain.mjpeg").write_bytes(3 * jpeg)
    frames = [
        read_frames(tmp_path / f"{name}.mjpeg", choose=lambda n: np.arange(1), resize=48)[0]
        for name in ("plain", "held")
    ]
    np.testing.assert_array_equal(frames[1], np.rot90(frames[0], -1))
