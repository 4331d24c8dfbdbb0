# ruff: noqa: F811 fixtures are imported, and named again where they are used
"""Searches that are killed, or whose disk is full, over and over: nothing measured is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.searches import onnx_path, rows, trials  # noqa: F401 fixtures

ROOT = Path(__file__).parents[2]
# When a search is given up; on a machine busy with ten other things one took ten minutes.
LIMIT_S = 1800

KILLED = '''
"""Twenty searches, forked off one process that has imported everything, each killed with -9."""
import os, random, signal, sys, time
from pathlib import Path
from rt3d_tvm.tune.watch import Watch
from tests.instant_search import InstantSearch

onnx_path, work, reported = (Path(text) for text in sys.argv[1:])
search = InstantSearch(onnx_path)

def begin():
    descriptor = os.open(reported, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    show = lambda state: os.write(descriptor, b"%d\\n" % state.done)
    search.run(work, trials=10_000, watch=Watch(show=show))

def told():
    return [int(line) for line in reported.read_text().split()] if reported.exists() else []

draw = random.Random(0)
for moment in range(20):
    wanted = len(told()) + draw.randrange(1, 40)
    child = os.fork()
    if child == 0:
        begin()
        os._exit(0)
    if moment % 2:
        time.sleep(draw.uniform(0, 0.6))
    else:  # amid its trials, however busy this machine is
        while len(told()) < wanted:
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
            time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    lines = (work / "trials.jsonl").read_text().splitlines() if work.exists() else []
    whole = sum(1 for line in lines if line.endswith("}"))
    assert whole >= max(told(), default=0), (moment, whole, max(told()))
print(whole)
'''


def test_killed_at_twenty_random_moments_a_search_loses_nothing(onnx_path, tmp_path):
    """With a device and a compiler that take no time, so that there is much to lose."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    work, reported = tmp_path / "work", tmp_path / "reported"
    whole = int(output_of(script, onnx_path, work, reported))
    kept = rows(work)
    assert len(kept) == whole > 20
    choices = [(row["task"], json.dumps(row["choice"])) for row in kept]
    assert len(set(choices)) == len(choices)  # each process knew what those before had measured


FULL = '''
"""Two searches whose log meets a full disk, a limit on its size: for good, and for a while."""
import json, resource, sys
from functools import partial
from pathlib import Path
from rt3d_tvm.errors import InputError
from rt3d_tvm.tune import log as log_module
from rt3d_tvm.tune import work_dir as work_module
from rt3d_tvm.tune.watch import Watch
from tests.instant_search import InstantSearch

onnx_path, lasting, passing = (Path(text) for text in sys.argv[1:])
log_module.PAUSE_S = 0.01
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
search, shown, said = InstantSearch(onnx_path), [], []

def fill(work, state):
    shown.append(state.done)
    if state.done == 3:
        size = (work / "trials.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))

def free(line=""):
    said.append(line)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)

work_module.TrialLog = partial(log_module.TrialLog, patience_s=0.1)
try:
    search.run(lasting, trials=4, watch=Watch(show=partial(fill, lasting)))
except InputError as error:
    ended = str(error)
free()
kept, seen = (lasting / "trials.jsonl").read_text(), shown[-1]
search.run(lasting, trials=4, watch=Watch())

work_module.TrialLog = partial(log_module.TrialLog, patience_s=300.0)
said.clear()
search.run(passing, trials=4, watch=Watch(say=free, show=partial(fill, passing)))
print(json.dumps({"ended": ended, "kept": kept, "shown": seen, "said": said}))
'''


def test_a_disk_that_is_full_for_good_or_for_a_while_costs_a_search_nothing(onnx_path, tmp_path):
    script = tmp_path / "full.py"
    script.write_text(FULL)
    lasting, passing = tmp_path / "lasting", tmp_path / "passing"
    told = json.loads(output_of(script, onnx_path, lasting, passing))
    assert "File too large; what it holds is whole, the same command goes on" in told["ended"]
    assert told["kept"].count("\n") == told["shown"] == 3
    assert (lasting / "trials.jsonl").read_text().startswith(told["kept"])
    assert any("File too large; trying again" in line for line in told["said"])
    for work in (lasting, passing):
        assert len(trials(work)) == 8
        assert (work / "tuned.jsonl").read_text().count("\n") == 2
        assert not (work / "trials.torn.jsonl").exists()


def output_of(script: Path, *arguments: Path) -> str:
    """What a script of searches prints."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TVM_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
