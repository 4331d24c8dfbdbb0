"""The ARM meter's integer multiply-adds: decoded, counted by the self-check, limited, shown."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meter_regions import region
from tests.quantized_models import net, quantized_by_onnxruntime

METER = Path(__file__).parents[2] / "scripts" / "armmeter"
CROSS = "aarch64-linux-gnu-"
# Instructions that keep one pipe busy for a millisecond at 2.84 GHz.
PIPE_MS = 2_840_000


def _tools(*names: str) -> None:
    """Skip where one of the tools is missing."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here")


def _run(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, check=True, **options)
    return done.stdout if isinstance(done.stdout, str) else done.stdout.decode()


# --- the decoder, against binutils' disassembler


HARNESS = """
#include "armmeter.c"
int main(void)
{
    uint32_t word, c[NCLASS];
    while (fread(&word, 4, 1, stdin) == 1) {
        memset(c, 0, sizeof c);
        decode(word, c);
        for (int k = C_insns + 1; k < NCLASS; k++) if (c[k]) printf("%s", class_name[k]);
        puts("");
    }
}
"""


def _vector_words() -> list[int]:
    """Every opcode of the SIMD and floating-point groups, with registers at random.

    All of Q, U, size and bits 21 to 10: bits 20 to 16 are a part of some opcodes.
    """
    rng = random.Random(0)
    return [
        (q_u_0 << 29) | (group << 24) | (high << 16) | (low << 10) | rng.randrange(1024)
        for q_u_0 in range(4)
        for group in (0b01110, 0b01111, 0b11110, 0b11111)
        for high in range(256)
        for low in range(64)
    ]


def _multiply_add_class(mnemonic: str, operands: str) -> str | None:
    """The class by the disassembler's text; None for what multiplies and adds nothing."""
    lanes = re.match(r"v\d+\.(\w+)", operands)
    if mnemonic in ("sdot", "udot", "usdot", "sudot"):
        return "dot_16b" if ".16b," in operands else "dot_8b"
    if mnemonic in ("smmla", "ummla", "usmmla"):
        return "mmla_16b"
    if mnemonic in ("sadalp", "uadalp"):
        return "adalp"
    if re.fullmatch("[su]ml[as]l2?|[su]mull2?", mnemonic):
        return {"8h": "mull_8h", "4s": "mull_4s"}.get(lanes[1])
    if mnemonic in ("fmla", "fmls"):
        return f"fma_{lanes[1]}" if lanes else "fma_scalar"
    if mnemonic in ("fmadd", "fmsub", "fnmadd", "fnmsub"):
        return "fma_scalar"
    return None


def test_the_decoder_sees_what_the_disassembler_sees(tmp_path):
    _tools("gcc", f"{CROSS}objdump")
    (tmp_path / "harness.c").write_text(HARNESS)
    # What calls into QEMU is not linked.
    only_decode = ("-ffunction-sections", "-Wl,--gc-sections")
    program = tmp_path / "harness"
    _run("gcc", "-O1", f"-I{METER}", *only_decode, "-o", program, tmp_path / "harness.c")
    words = _vector_words()
    code = tmp_path / "code"
    code.write_bytes(b"".join(word.to_bytes(4, "little") for word in words))
    decoded = _run(program, input=code.read_bytes()).splitlines()
    listing = _run(f"{CROSS}objdump", "-D", "-z", "-b", "binary", "-m", "aarch64", code)
    lines = [line.split("\t") for line in listing.splitlines() if re.match(r" *[0-9a-f]+:\t", line)]
    assert len(lines) == len(words) == len(decoded)
    seen, wrong = set(), []
    for (_, _, mnemonic, *rest), word, got in zip(lines, words, decoded, strict=True):
        if mnemonic.startswith(".") or any("undefined" in text for text in rest):
            continue
        expected = _multiply_add_class(mnemonic, rest[0] if rest else "")
        seen.add(expected)
        others = (got,) if got in ("simd_other", "fp_scalar") else ()
        if got not in ((expected,) if expected else others):
            wrong.append(f"{word:08x} {mnemonic} {' '.join(rest)}: {got}, not {expected}")
    assert wrong == []
    # Each class was there to be mistaken.
    assert seen - {None} == {
        *("dot_16b", "dot_8b", "mmla_16b", "mull_8h", "mull_4s", "adalp"),
        *("fma_4s", "fma_2s", "fma_8h", "fma_4h", "fma_2d", "fma_scalar"),
    }


# --- the multiply-adds of a file


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_multiply_adds_of_a_quantised_file_are_those_of_the_float_one(script, tmp_path, form):
    """A weight is zero in 8 bits where it was, or below half a step."""
    count = script("armmeter/inference.py").count_macs
    quantised = count(quantized_by_onnxruntime(tmp_path, net(3), format=form))
    real = count(tmp_path / "real.onnx")
    assert (quantised.shape, quantised.dense_macs) == (real.shape, real.dense_macs)
    assert 0.97 * real.kept_macs < quantised.kept_macs <= real.kept_macs < real.dense_macs
    assert (quantised.precision, real.precision) == ("int8", "fp32")


# --- the self-check, under emulation


@pytest.fixture(scope="module")
def selfcheck_program(tmp_path_factory) -> Path:
    """The self-check, built once as setup.sh builds it."""
    _tools("gcc", f"{CROSS}gcc", "qemu-aarch64")
    (flags,) = re.findall(rf"{CROSS}gcc (.*) -o", (METER / "setup.sh").read_text())
    program = tmp_path_factory.mktemp("selfcheck") / "selfcheck"
    _run(f"{CROSS}gcc", *flags.split(), "-o", program, METER / "selfcheck.c")
    return program


def _selfcheck(home: Path, program: Path, plugin: str) -> subprocess.CompletedProcess:
    """`armmeter.py selfcheck` with a plugin of this source."""
    (home / "armmeter.c").write_text(plugin)
    library = home / "libarmmeter.so"
    _run(
        "gcc", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-o", library, home / "armmeter.c"
    )
    shutil.copy2(program, home / "selfcheck")
    return subprocess.run(
        [sys.executable, METER / "armmeter.py", "selfcheck"],
        capture_output=True,
        text=True,
        env={**os.environ, "ARMMETER_HOME": str(home)},
        check=False,
    )


def test_the_selfcheck_counts_int8_products_exactly(tmp_path, selfcheck_program):
    done = _selfcheck(tmp_path, selfcheck_program, (METER / "armmeter.c").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    rows = {
        tuple(re.split(r" {2,}", line)[:2]): line.split()[-3:] for line in done.stdout.splitlines()
    }
    # Rows x columns x depth x steps of the matrices, and one `sdot` in the decoder's loop is 16.
    for part, macs in {
        "sdot": 1 * 1 * 16 * 250,
        "sdot of 8 bytes": 1 * 1 * 8 * 250,
        "sdot by element": 4 * 4 * 4 * 250,
        "udot": 1 * 1 * 16 * 250,
        "usdot": 1 * 1 * 16 * 250,
        "sudot by element": 4 * 4 * 4 * 250,
        "smmla": 2 * 2 * 8 * 250,
        "usmmla": 2 * 2 * 8 * 250,
        "smull, smlal2, sadalp": 1 * 1 * 16 * 250,
        "umull, uadalp": 1 * 1 * 16 * 250,
        "smlal by element": 8 * 4 * 1 * 250,
        "decoder": (2 * 16 + 2 * 8 + 3 * 8 + 4 * 4) * 1000,
    }.items():
        assert rows[part, "int8_macs"] == [str(macs), str(macs), "ok"]


@pytest.mark.parametrize(
    ("right", "broken", "part"),
    [
        ("0x9FC0F400) == 0x0F80E000", "0xDFC0F400) == 0x0F80E000", "sdot by element"),
        ("return C_mmla_16b", "return C_dot_16b", "usmmla"),
        ("vector == 0x0E20C000", "false", "smull, smlal2, sadalp"),
    ],
)
def test_the_selfcheck_finds_a_broken_decoder(tmp_path, selfcheck_program, right, broken, part):
    source = (METER / "armmeter.c").read_text()
    assert source.count(right) == 1
    done = _selfcheck(tmp_path, selfcheck_program, source.replace(right, broken))
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if line.endswith("WRONG")]
    assert any(re.match(rf"{re.escape(part)} +int8_macs", line) for line in wrong)


# --- the limit, and what is shown of it


def test_two_sdot_a_cycle_fill_the_dot_product_pipes(script):
    estimate = script("armmeter/estimate.py").estimate
    full = estimate(region(insns=2 * PIPE_MS, dot_16b=2 * PIPE_MS), "int8")
    assert (full.bound, full.core_ms, full.peak) == ("vector", pytest.approx(1), 32)
    assert (full.float_macs, full.int8_macs) == (0, 32 * PIPE_MS)
    assert (full.fma_share, full.dot_share) == (0, pytest.approx(1))
    assert full.share(16 * PIPE_MS) == pytest.approx(0.5)
    # The pipes are the same: a millisecond of each is two, and half of either.
    both = estimate(region(insns=4 * PIPE_MS, dot_16b=2 * PIPE_MS, fma_4s=2 * PIPE_MS))
    assert (both.core_ms, both.peak) == (pytest.approx(2), 8)
    assert (both.fma_share, both.dot_share) == (pytest.approx(0.5), pytest.approx(0.5))
    # Half a vector takes the whole slot.
    assert estimate(region(dot_8b=2 * PIPE_MS)).dot_share == pytest.approx(0.5)


def test_matrix_instructions_have_a_peak_of_their_own(script):
    estimate = script("armmeter/estimate.py").estimate
    matrix = estimate(region(mmla_16b=2 * PIPE_MS), "int8")
    assert (matrix.core_ms, matrix.peak) == (pytest.approx(1), 64)
    assert matrix.dot_share == pytest.approx(1)


@pytest.mark.parametrize(
    ("kind", "bound", "share"),
    [
        ("mull_8h", "multiply pipe", 8 / 32),
        ("mull_4s", "multiply pipe", 4 / 32),
        ("adalp", "pairwise pipe", 0),
    ],
)
def test_only_one_pipe_widens_products_and_one_adds_pairs(script, kind, bound, share):
    estimate = script("armmeter/estimate.py").estimate
    widening = estimate(region(insns=PIPE_MS, **{kind: PIPE_MS}))
    assert (widening.bound, widening.core_ms) == (bound, pytest.approx(1))
    assert widening.dot_share == pytest.approx(share)
    # Beside as many slots of the other pipe it is no longer alone: both are full.
    paired = estimate(region(insns=PIPE_MS, **{kind: PIPE_MS}, simd_other=2 * PIPE_MS))
    assert (paired.bound, paired.core_ms) == ("vector", pytest.approx(1.5))


def test_tables_show_both_kinds(script, capsys):
    results = script("armmeter/meter_results.py")
    result = {
        "model": "m",
        "engine": "rt3d",
        "kept_macs": 16 * PIPE_MS,
        "rel_error": 1e-5,
        "sensitivity": 1.0,
        "threads": 1,
        "layers": [{"name": "conv", "kept_macs": 8}],
        "calls": [{"function": "f", "layers": ["conv"]}],
        "regions": [region(insns=4 * PIPE_MS, dot_16b=PIPE_MS, fma_4s=3 * PIPE_MS)],
    }
    for show in (lambda: results.show([result]), lambda: results.show_layers(result)):
        show()
        heads, row, *_ = (line.split() for line in capsys.readouterr().out.splitlines())
        shown = dict(zip(heads, row, strict=True))
        # 4 slots on two pipes are 2 cycles: of 8 and of 32 multiply-adds each.
        assert float(shown["fma%"]) == pytest.approx(100 * 12 / 16, abs=0.1)
        assert float(shown["dot%"]) == pytest.approx(100 * 16 / 64, abs=0.1)
        assert float(shown["Gmac"]) == pytest.approx(12 * PIPE_MS / 1e9, rel=0.02)
        assert float(shown["Gmac_i8"]) == pytest.approx(16 * PIPE_MS / 1e9, rel=0.02)


def test_the_file_says_the_shares(script):
    estimate = script("armmeter/estimate.py").estimate
    counts = region(insns=2 * PIPE_MS, dot_16b=2 * PIPE_MS)
    written = json.loads(json.dumps(estimate(counts, "int8").as_json()))
    assert (written["float_macs"], written["int8_macs"]) == (0, 32 * PIPE_MS)
    assert (written["fma_share"], written["dot_share"]) == (0, pytest.approx(1))
    assert written["ms"] == pytest.approx(1)


def test_a_plugin_or_program_of_another_version_is_refused(tmp_path, selfcheck_program):
    source = (METER / "armmeter.c").read_text()
    done = _selfcheck(
        tmp_path,
        selfcheck_program,
        source.replace("X(adalp)", "X(adalq)").replace("C_adalp", "C_adalq"),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "older version, it does not count adalp: run" in done.stderr
    silent = tmp_path / "silent"
    text = (METER / "selfcheck.c").read_text().replace("part ", "")
    silent.with_suffix(".c").write_text(text)
    _run(f"{CROSS}gcc", "-static", "-march=armv8.2-a+fp16+dotprod", "-o", silent, f"{silent}.c")
    done = _selfcheck(tmp_path, silent, source)
    assert (done.returncode, done.stdout) == (2, "")
    assert "selfcheck is of another version: run" in done.stderr


def test_counts_of_an_older_meter_are_refused(script, tmp_path):
    results = script("armmeter/meter_results.py")
    path = tmp_path / "old.json"
    old = region(insns=1)
    del old["dot_16b"], old["adalp"]
    path.write_text(json.dumps({"regions": [old]}))
    with pytest.raises(results.InputError, match=r"older meter, without adalp, dot_16b: delete it"):
        results.load_result(path)
    path.write_text(json.dumps({"regions": [region(insns=1)]}))
    assert results.load_result(path)["regions"] == [region(insns=1)]
