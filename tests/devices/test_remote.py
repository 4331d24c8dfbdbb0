"""A device behind a tracker: this machine as one, and what goes wrong on the way to it."""

import json
import os
import platform
import shutil
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from tvm.rpc import base

from rt3d_tvm import cli
from rt3d_tvm.artifact.load import elf_machine, load
from rt3d_tvm.compile.build import compile_onnx
from rt3d_tvm.data.generate import make_clip
from rt3d_tvm.devices.remote import RemoteDevice
from rt3d_tvm.devices.tracker import list_devices, request_device, wait_for_device
from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.record import SCHEMAS
from tests.artifact.tampering import edit_manifest, reseal
from tests.servers import running, serving
from tests.two_layers import SHAPE, write_two_layers

KEY = "this-machine"


@pytest.fixture(scope="module")
def server(tracker):
    with serving(tracker, KEY, 19290) as address:
        yield address


def test_a_model_that_returns_its_input_does_so_from_a_device(tracker, server, tmp_path):
    """TVM's RPC cannot send back an argument as the result."""
    value = [onnx.helper.make_tensor_value_info(name, 1, (1, 2, 3, 4, 4)) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:]
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    compile_onnx(tmp_path / "m.onnx", tmp_path / "artifact")
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4, 4), dtype="float32")
    with RemoteDevice(tracker, KEY) as device:
        np.testing.assert_array_equal(device.load(tmp_path / "artifact").run(x), x)


def test_a_remote_run_gives_what_a_local_one_does(tracker, server, compiled_c3d):
    shape = compiled_c3d.manifest["inputs"][0]["shape"]
    clips = np.random.default_rng(0).standard_normal((2, *shape), dtype="float32")
    with RemoteDevice(tracker, KEY) as device:
        found = device.describe()
        artifact = device.load(compiled_c3d.folder)
        assert artifact.threads == min(found.processor.big_cores, len(os.sched_getaffinity(0)))
        outputs = [artifact.run(clip) for clip in clips]
        with pytest.raises(InputError, match=r"takes float32 of shape \(1, 3, 16, 32, 32\)"):
            artifact.run(clips[0][:, :, :8])
        with pytest.raises(InputError, match="9999 threads: the device this-machine has"):
            device.load(compiled_c3d.folder, threads=9999)
    local = load(compiled_c3d.folder, threads=artifact.threads)
    np.testing.assert_array_equal(outputs, [local.run(clip) for clip in clips])
    assert found.processor.machine == platform.machine()
    assert found.processor.cores == os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.memory == pytest.approx(memory, rel=0.01)
    size = sum((compiled_c3d.folder / name).stat().st_size for name in ("model.so", "weights.bin"))
    assert artifact.upload_bytes == size


def test_a_session_holds_two_artifacts(tracker, server, compiled_c3d, tmp_path):
    """Each with its own code and weights, also after the other one was loaded."""
    compile_onnx(write_two_layers(tmp_path / "two.onnx"), tmp_path / "two")
    c3d, two, rng = compiled_c3d.folder, tmp_path / "two", np.random.default_rng(0)
    shapes = {c3d: compiled_c3d.manifest["inputs"][0]["shape"], two: SHAPE}
    x = {folder: rng.standard_normal(shape, dtype="float32") for folder, shape in shapes.items()}
    with RemoteDevice(tracker, KEY) as device:
        artifacts = {folder: device.load(folder) for folder in x}
        outputs = {folder: artifact.run(x[folder]) for folder, artifact in artifacts.items()}
        timed = [artifact.time(x[folder], runs=1) for folder, artifact in artifacts.items()]
    assert min(timing.p50_ms for timing in timed) > 0
    for folder, output in outputs.items():
        local = load(folder, threads=artifacts[folder].threads)
        np.testing.assert_array_equal(output, local.run(x[folder]))


def test_the_commands(tracker, server, compiled_c3d, tmp_path, capsys):
    where = ["--tracker", "{}:{}".format(*tracker)]
    out = tmp_path / "out.json"

    def command(*arguments: object) -> dict:
        argv = [str(argument) for argument in (*arguments, "--json", out)]
        assert cli.main(argv) == 0, capsys.readouterr().err
        return json.loads(out.read_text())

    until = time.monotonic() + 60
    # A device is free again a moment after the session of the test before has ended.
    while not (listed := command("remote", "list", *where)["devices"]) or not listed[0]["free"]:
        assert time.monotonic() < until, listed
        time.sleep(0.5)
    assert listed == [
        {
            "key": KEY,
            "devices": 1,
            "free": 1,
            "waiting": 0,
            "addresses": ["{}:{}".format(*server)],
        }
    ]
    assert "arm64" not in command("remote", "ping", *where, "--key", KEY)["targets"]
    remote = ("--remote", where[1], "--key", KEY, "--runs", 3)
    timed = command("bench", compiled_c3d.folder, compiled_c3d.folder, *remote)
    jsonschema.validate(timed, json.loads((SCHEMAS / "bench.json").read_text()))
    assert (timed["device"]["kind"], timed["device"]["key"]) == ("rpc", KEY)
    timing, again = timed["timings"]
    assert len(timing["samples_ms"]) == len(again["samples_ms"]) == 3
    verified = ("verify", compiled_c3d.folder, "--onnx", compiled_c3d.onnx)
    assert command(*verified, *remote[:4])["passed"]
    assert min(timing["samples_ms"]) <= timing["p50_ms"] <= timing["p99_ms"]
    make_clip(tmp_path / "v.mp4", frames=20, size=48)
    video = (compiled_c3d.folder, tmp_path / "v.mp4", "--model", "c3d")
    there = command("remote", "run", *video, *where, "--key", KEY)["top"]
    assert there == command("run", *video)["top"]


def test_refusals_name_what_is_wrong(tracker, server, compiled_c3d, tmp_path, capsys):
    where = "{}:{}".format(*tracker)
    bench = ["bench", compiled_c3d.folder]
    for argv, message in (
        (["remote", "list", "--tracker", "here"], "'here': HOST:PORT is accepted"),
        (["remote", "list", "--tracker", where, "--wait", "-1"], "'-1': seconds are accepted"),
        (["remote", "ping", "--tracker", where, "--key", "phone"], f"keys there: {KEY}"),
        ([*bench, "--remote", where], "--remote needs --key"),
        ([*bench, "--key", KEY], "--remote HOST:PORT names its tracker"),
        ([*bench, "--remote", where, "--key", KEY, "--layers"], "leave --layers out"),
        (["tracker", "--host", "everywhere"], "host 'everywhere': an IP address"),
        (["tracker", "--host", "203.0.113.7"], "none of the ports 9190 to 9289 can be used"),
    ):
        assert cli.main([str(argument) for argument in argv]) == 2
        assert message in capsys.readouterr().err


def test_a_busy_device_is_waited_for_and_named(tracker, server):
    with RemoteDevice(tracker, KEY):
        with pytest.raises(InputError, match="busy: 1 registered, none free within 1 s"):
            RemoteDevice(tracker, KEY, wait_s=1)
        with pytest.raises(InputError, match="no device with key 'phone'"):
            RemoteDevice(tracker, "phone")
    with RemoteDevice(tracker, KEY) as device:
        assert device.address == "{}:{}".format(*server)


def test_artifacts_that_do_not_fit_are_refused(tracker, server, compiled_c3d, tmp_path):
    def changed(name: str, change) -> Path:
        folder = shutil.copytree(compiled_c3d.folder, tmp_path / str(len(list(tmp_path.iterdir()))))
        data = bytearray((folder / name).read_bytes())
        (folder / name).write_bytes(change(data))
        return folder

    def other_machine(data: bytearray) -> bytearray:
        struct.pack_into("<H", data, 18, {"x86_64": 183}.get(platform.machine(), 62))
        return data

    def other_id(data: bytearray) -> bytearray:
        data[40] ^= 1
        return data

    with RemoteDevice(tracker, KEY) as device:
        for folder, message in (
            (changed("model.so", other_machine), r"compiled for \w+, the device this-machine is "),
            (changed("model.so", lambda data: data[:10]), "not a 64-bit ELF library"),
            # The device finds this one out, which ends the session.
            (changed("weights.bin", other_id), "are of two different artifacts"),
        ):
            with pytest.raises(InputError, match=message):
                device.load(folder)
    newer = Path(shutil.copytree(compiled_c3d.folder, tmp_path / "newer"))
    edit_manifest(newer, lambda said: said["processor"].update(features={"amx_of_2040": 2000}))
    reseal(newer)
    with (
        RemoteDevice(tracker, KEY) as device,
        pytest.raises(InputError, match=r"device this-machine has no amx_of_2040; targets that fi"),
    ):
        device.load(newer)
    truncated = changed("model.so", lambda data: data[:4096])
    with RemoteDevice(tracker, KEY) as device, pytest.raises(InputError, match="could not take"):
        device.load(truncated)
    assert elf_machine(compiled_c3d.folder / "model.so") == platform.machine()


class Bridge:
    """A device that is another one behind a line that fails: after so many bytes it goes silent, or
    is cut. It registers under a key of its own."""

    def __init__(self, tracker: tuple[str, int], *, after: int, cut: bool):
        self.key, self._tracker, self._after, self._cut = (
            f"bridge-{after}-{cut}",
            tracker,
            after,
            cut,
        )
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._match_key = base.random_key(self.key)
        self._registration = socket.create_connection(tracker)
        self._registration.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        base.recvall(self._registration, 4)
        port = self._listening.getsockname()[1]
        for message in (
            [base.TrackerCode.UPDATE_INFO, {"key": f"server:{self.key}", "addr": [None, port]}],
            [base.TrackerCode.PUT, self.key, [port, self._match_key], None],
        ):
            base.sendjson(self._registration, message)
            assert base.recvjson(self._registration) == base.TrackerCode.SUCCESS
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._registration.close()
        self._listening.close()

    def _serve(self) -> None:
        client, _ = self._listening.accept()
        base.recvall(client, 4)
        size = struct.unpack("<i", base.recvall(client, 4))[0]
        key = base.recvall(client, size).decode().replace(self._match_key, "{}")
        host, port, match_key = request_device(self._tracker, KEY, wait_s=60)
        device = socket.create_connection((host, port))
        key = key.format(match_key).encode()
        device.sendall(struct.pack("<ii", base.RPC_MAGIC, len(key)) + key)
        back = threading.Thread(target=_forward, args=(device, client, 1 << 40), daemon=True)
        back.start()
        _forward(client, device, self._after)
        if self._cut:
            client.shutdown(socket.SHUT_RDWR)
        else:
            with suppress(OSError):
                while client.recv(1 << 16):
                    pass
        device.shutdown(socket.SHUT_RDWR)


def _forward(source: socket.socket, sink: socket.socket, limit: int) -> None:
    with suppress(OSError):
        while limit > 0 and (data := source.recv(min(1 << 16, limit))):
            sink.sendall(data)
            limit -= len(data)


def test_a_line_that_is_cut_during_the_upload(tracker, server, compiled_c3d):
    bridge = Bridge(tracker, after=50_000, cut=True)
    with (
        RemoteDevice(tracker, bridge.key) as device,
        pytest.raises(InputError, match=r"could not take .* MB of .*: the upload was interrupted"),
    ):
        device.load(compiled_c3d.folder)
    bridge.close()


def test_a_device_that_goes_silent_costs_no_more_than_the_deadline(tracker, server, compiled_c3d):
    bridge = Bridge(tracker, after=50_000, cut=False)
    with RemoteDevice(tracker, bridge.key, deadline_s=20) as device:
        device._deadline_s = 1.0  # what it took to start is over
        began = time.monotonic()
        with pytest.raises(InputError, match=r"no answer within .* s when asked to take"):
            device.load(compiled_c3d.folder)
        assert time.monotonic() - began < 60
        with pytest.raises(InputError, match="this session has ended; open another"):
            device.temperatures()
    bridge.close()
    assert wait_for_device(tracker, KEY).devices == 1
    with RemoteDevice(tracker, KEY) as device:
        assert device.describe().processor.cores == os.cpu_count()


def test_tracker_and_server_are_reached_from_this_machine_only(tracker, server):
    """By default: whoever reaches them can run any code."""
    with socket.create_server(("0.0.0.0", 0)):  # the check below can fail: this port is reachable
        pass
    for _, port in (tracker, server):
        listening = _listening_addresses(port)
        assert listening == {"127.0.0.1"}


def _listening_addresses(port: int) -> set[str]:
    """Addresses that somebody listens on at a port, from the kernel's table."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        host, _, number = address.partition(":")
        if state == "0A" and int(number, 16) == port:
            found.add(socket.inet_ntoa(struct.pack("<I", int(host, 16))))
    return found


def test_the_next_free_port_is_taken(tracker):
    with running("tracker", "--port", str(tracker[1])) as second:
        assert second[1] > tracker[1]
        assert list_devices(second) == []
