"""What a device's /sys says, read without the device."""

import pytest

from rt3d_tvm.devices.processor import fitting_targets, hottest, read_processor, read_temperatures
from rt3d_tvm.errors import InputError

CPU = "/sys/devices/system/cpu"
ZONE = "/sys/class/thermal/thermal_zone"
# Written down from a Snapdragon 865's layout: four silver, three gold, one prime core.
PHONE = {
    f"{CPU}/present": "0-7\n",
    f"{CPU}/modalias": "cpu:type:aarch64:feature:,0000,0001,0008,000A,0014\n",
    f"{CPU}/cpufreq/policy0/related_cpus": "0 1 2 3\n",
    f"{CPU}/cpufreq/policy0/cpuinfo_max_freq": "1804800\n",
    f"{CPU}/cpufreq/policy0/scaling_governor": "schedutil\n",
    f"{CPU}/cpufreq/policy4/related_cpus": "4 5 6\n",
    f"{CPU}/cpufreq/policy4/cpuinfo_max_freq": "2419200\n",
    f"{CPU}/cpufreq/policy7/related_cpus": "7\n",
    f"{CPU}/cpufreq/policy7/cpuinfo_max_freq": "2841600\n",
    f"{CPU}/cpufreq/policy7/scaling_governor": "performance\n",
}
# pni, ssse3, fma, sse4_1, sse4_2, movbe, popcnt, avx, f16c, abm, bmi1, avx2, bmi2
HASWELL = "0080,0089,008C,0093,0094,0096,0097,009C,009D,00C5,0123,0125,0128"


def test_clusters_and_big_cores():
    processor = read_processor(PHONE.get)
    assert (processor.machine, processor.cores, processor.big_cores) == ("aarch64", 8, 4)
    assert [(c.cores, round(c.ghz, 2), c.governor) for c in processor.clusters] == [
        (4, 1.8, "schedutil"),
        (3, 2.42, None),
        (1, 2.84, "performance"),
    ]
    assert fitting_targets(processor) == ("arm64", "arm64-dotprod", "arm64-v8.2", "cortex-a77")
    assert fitting_targets(processor, gpu=True)[-1] == "adreno"


@pytest.mark.parametrize(
    ("files", "machine", "cores", "targets"),
    [
        # Without the dot product, no Cortex-A77 code.
        (
            {"modalias": "cpu:type:aarch64:feature:,0001,0008,000A"},
            "aarch64",
            4,
            ("arm64", "arm64-v8.2"),
        ),
        # Without float16 arithmetic, none of the two that have it.
        (
            {"modalias": "cpu:type:aarch64:feature:,0001,0008,0014"},
            "aarch64",
            4,
            ("arm64", "arm64-dotprod"),
        ),
        # With vectors alone, no Haswell code: it shifts by BMI2's instructions.
        (
            {"modalias": "cpu:type:x86,ven0002fam0019mod0001:feature:,0000,008C,0125"},
            "x86_64",
            4,
            (),
        ),
        # An older kernel names no features; the core's id still tells the architecture.
        ({"cpu0/regs/identification/midr_el1": "0x411fd0d0"}, "aarch64", 4, ("arm64",)),
        ({"present": "0,2-4", "modalias": ""}, None, 4, ()),
        (
            {"modalias": f"cpu:type:x86,ven0002fam0019mod0001:feature:,0000,{HASWELL}"},
            "x86_64",
            4,
            ("x86-64-avx2",),
        ),
    ],
)
def test_what_older_and_other_machines_show(files, machine, cores, targets):
    shown = {f"{CPU}/{name}": text for name, text in {"present": "0-3", **files}.items()}
    processor = read_processor(shown.get)
    assert (processor.machine, processor.cores, processor.big_cores) == (machine, cores, cores)
    assert fitting_targets(processor) == targets


def test_this_machine_fits_what_its_cpuinfo_says():
    """The numbers of the features, against the names that the kernel gives them."""
    from pathlib import Path

    def read(path: str) -> str | None:
        return Path(path).read_text() if Path(path).is_file() else None

    if not (read(f"{CPU}/modalias") or "").startswith("cpu:type:x86"):
        pytest.skip("no x86 kernel's modalias here")
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].splitlines()[0].split()
    fits = fitting_targets(read_processor(read))
    assert ("x86-64-avx2" in fits) == ({"avx2", "fma"} <= set(flags))
    assert ("x86-64-avx512" in fits) == ({"avx512f", "avx512bw", "avx512vl"} <= set(flags))


def test_a_device_that_shows_nothing_is_refused():
    with pytest.raises(InputError, match="does not show /sys/devices/system/cpu/present"):
        read_processor({}.get)


def test_temperatures_of_zones_that_are_on():
    shown = {
        f"{ZONE}0/type": "cpu-0-0-usr\n",
        f"{ZONE}0/temp": "41300\n",
        f"{ZONE}1/type": "battery\n",
        f"{ZONE}1/temp": "52000\n",
        f"{ZONE}2/type": "modem\n",
        f"{ZONE}2/temp": "-274000\n",
        f"{ZONE}3/type": "gpu\n",
        f"{ZONE}4/type": "cpu-0-0-usr\n",
        f"{ZONE}4/temp": "39000\n",
    }
    found = read_temperatures(shown.get)
    assert found == {"cpu-0-0-usr": 41.3, "battery": 52.0, "cpu-0-0-usr 4": 39.0}
    assert hottest(found) == 41.3
    assert hottest({"battery": 52.0, "skin": 33.0}) == 52.0
    assert hottest({}) is None
