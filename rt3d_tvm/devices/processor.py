"""What a device is: its processor, cores, clocks and temperatures, as its /sys tells.

Every function takes ``read``, which returns the text of a file on the device or None: nothing has
to be installed there, TVM's RPC server hands out files by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rt3d_tvm.compile.processor_needs import processor_needs
from rt3d_tvm.compile.targets import TARGETS, make_target
from rt3d_tvm.errors import InputError

Read = Callable[[str], "str | None"]

_CPU = "/sys/devices/system/cpu"
_THERMAL = "/sys/class/thermal/thermal_zone"
# A phone has some 100 thermal zones, without gaps.
_MOST_ZONES = 256
# A cluster is of big cores from this part of the fastest one's clock on: on a Snapdragon 865 the
# prime and the gold cores (2.84 and 2.42 GHz), not the silver ones (1.8).
_BIG = 0.75


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Cores that share a clock: how many, their highest clock in GHz, and who sets it."""

    cores: int
    ghz: float
    governor: str | None


@dataclass(frozen=True, kw_only=True)
class Processor:
    """The architecture (x86_64 or aarch64, None where /sys does not tell), the cores, the clusters.

    ``big_cores`` are those of the fast clusters, all of them where clocks are unknown.
    """

    machine: str | None
    cores: int
    big_cores: int
    clusters: tuple[Cluster, ...]
    features: tuple[int, ...]


def read_processor(read: Read) -> Processor:
    """What /sys/devices/system/cpu says. InputError for a server that shows no files at all."""
    present = read(f"{_CPU}/present")
    if present is None:
        raise InputError(
            f"the device does not show {_CPU}/present; a server of TVM's own Python package, "
            "`rt3d rpc-server` or TVM's apps/cpp_rpc does"
        )
    cores = _cpus(present.strip().replace(",", " "))
    clusters = tuple(
        Cluster(
            cores=_cpus(related),
            ghz=int(read(f"{policy}/cpuinfo_max_freq") or 0) / 1e6,
            governor=(read(f"{policy}/scaling_governor") or "").strip() or None,
        )
        for first in range(cores)
        if (related := read(f"{(policy := f'{_CPU}/cpufreq/policy{first}')}/related_cpus"))
    )
    fastest = max((cluster.ghz for cluster in clusters), default=0)
    big = sum(cluster.cores for cluster in clusters if cluster.ghz >= _BIG * fastest)
    machine, features = _modalias(read(f"{_CPU}/modalias") or "")
    if machine is None and read(f"{_CPU}/cpu0/regs/identification/midr_el1"):
        machine = "aarch64"
    return Processor(
        machine=machine,
        cores=cores,
        big_cores=big or cores,
        clusters=clusters,
        features=features,
    )


def fitting_targets(processor: Processor, *, gpu: bool = False) -> tuple[str, ...]:
    """Names of the targets whose code runs on the processor; those that it may run are left out.

    gpu: those too whose kernels run on a GPU beside it.
    """
    needs = {
        name: processor_needs(make_target(name))
        for name, target in TARGETS.items()
        if gpu or "host" not in target
    }
    return tuple(
        name
        for name, code in needs.items()
        if code["machine"] == processor.machine
        and set(code["features"].values()) <= set(processor.features)
    )


def read_temperatures(read: Read) -> dict[str, float]:
    """Degrees Celsius by the name of the thermal zone; empty where the device shows none."""
    found: dict[str, float] = {}
    for number in range(_MOST_ZONES):
        if (kind := read(f"{_THERMAL}{number}/type")) is None:
            break
        text = read(f"{_THERMAL}{number}/temp") or ""
        # A sensor that is switched off gives an error, or something like -274000.
        if re.fullmatch(r"\d{4,6}\s*", text):
            name = kind.strip()
            found[f"{name} {number}" if name in found else name] = int(text) / 1e3
    return found


def hottest(temperatures: dict[str, float]) -> float | None:
    """The hottest zone of the processor; of all zones where none is named after it."""
    of_cpu = [value for name, value in temperatures.items() if "cpu" in name.lower()]
    return max(of_cpu or temperatures.values(), default=None)


def _cpus(text: str) -> int:
    """How many cores a list such as "0-3 7" names."""
    spans = [span.partition("-") for span in text.split()]
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans)


def _modalias(text: str) -> tuple[str | None, tuple[int, ...]]:
    """From "cpu:type:x86,ven0002fam0019mod0011:feature:,0000,0001": x86_64, (0, 1)."""
    match = re.match(r"cpu:type:(x86|aarch64)[^:]*:feature:([,0-9A-F]*)", text)
    if match is None:
        return None, ()
    machine = {"x86": "x86_64"}.get(match[1], match[1])
    return machine, tuple(int(word, 16) for word in match[2].split(",") if word)
