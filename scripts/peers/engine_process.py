"""One engine.py as this process sees it: started, stopped while others run, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from peer_row import IN_PEERS, PEERS, Row

ENGINE = Path(__file__).with_name("engine.py")
# After an engine may run again: its threads wake.
SETTLE_S = 0.05
# Of an engine that was asked to end, until it is made to.
END_S = 30.0


class Engine:
    """An engine.py in a process of its own, or the reason why it does not run.

    Idle threads of some engines spin, and take the cores from whatever is measured: whoever has
    several stops each of them while another one runs. As a context manager it leaves no process
    behind; engine.py sees to it that it ends where this process is killed.
    """

    def __init__(self, row: Row, folder: Path, threads: int, python: Path | None = None) -> None:
        self.row, self.failed, self.version = row, row.missing, ""
        self.samples: list[float] = []
        self.values: list[object] = []
        self.memory: dict[str, float] = {}
        self.slow = False
        self.process: subprocess.Popen | None = None
        name = f"{row.engine}.{row.path.name}"
        self.output, self.log = folder / f"{name}.npy", folder / f"{name}.log"
        python = python or (PEERS / "python" if row.engine in IN_PEERS else sys.executable)
        clip = next((p for p in [folder / "clip.npz"] if p.is_file()), folder / "clip.npy")
        self._command = [python, ENGINE, row.engine, row.path, str(threads), clip, self.output]
        # One process each, which can be stopped: torch.compile would keep workers to compile.
        self._env = {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": "1"}

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._kill()

    def start(self) -> Engine:
        """Start the process, and wait until it has warmed up or ended."""
        if self.failed:
            return self
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self._env},
            )
        if ready := self._answer("version"):
            self.version, self.slow = ready["version"], ready["slow"]
        return self

    def run(self, *, timed: bool = True) -> None:
        """Run once; the sample is kept where ``timed``."""
        if self.failed:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended; the answer says why
            self.process.stdin.write("run\n")
            self.process.stdin.flush()
        answer = self._answer("ms")
        if answer and timed:
            self.samples.append(answer["ms"])
            self.values.append(answer["value"])
            self.memory = answer["memory"]

    def turn(self) -> None:
        """Go on, run once untimed and once timed, and stop; a slow run is its own warm-up."""
        self.resume()
        if not self.slow:
            self.run(timed=False)
        self.run()
        self.stop()

    def stop(self) -> None:
        """Stop every thread (SIGSTOP), and wait until they stand."""
        if self._alive():
            self.process.send_signal(signal.SIGSTOP)
            # WNOWAIT: if it has ended instead, that is left for Popen to find.
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it run again, and settle."""
        if self._alive():
            self.process.send_signal(signal.SIGCONT)
            time.sleep(SETTLE_S)

    def close(self) -> None:
        """End the process, which may be stopped."""
        if self._alive():
            self.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_S)
        self._kill()

    def _alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _kill(self) -> None:
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def _answer(self, key: str) -> dict | None:
        """The next JSON line that has this key; engines print lines of their own as well."""
        for line in self.process.stdout:
            if line.startswith("{") and key in (answer := json.loads(line)):
                return answer
        status = self.process.wait()
        said = self.log.read_text(errors="replace").strip().splitlines()
        self.failed = said[-1] if said else f"ended with status {status}"
        return None
