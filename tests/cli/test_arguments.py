"""Arguments that are no numbers, and which command's help a refusal names."""

import argparse

import pytest

from rt3d_tvm import cli
from rt3d_tvm.devices import defaults
from rt3d_tvm.tune import defaults as search


def commands(parser=None, words=()):
    """Every command: its words, and its parser."""
    parser = parser or cli._parser()
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, each in action.choices.items():
            yield from commands(each, (*words, name))


def is_number(action):
    """Whether an option reads "1" as a number."""
    try:
        return bool(action.option_strings) and isinstance(action.type("1"), (int, float))
    except (TypeError, argparse.ArgumentTypeError):  # it has no type, or one that "1" is none of
        return False


NUMBERS = [
    (words, action.option_strings[-1])
    for words, parser in commands()
    for action in parser._actions
    if is_number(action)
]
# Numbers with limits of their own, which are refused with the settings: once there is a folder, a
# model or a plan of a training.
WITH_SETTINGS = {
    *((("groups",), f"--{name}") for name in ("densities", "share")),
    *((("train",), f"--{name}") for name in ("lr", "weight-decay")),
    *((("prune",), f"--{name}") for name in ("rate", "lambda", "lr", "lr-final", "weight-decay")),
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """What a command writes after all is left nowhere else, and is seen."""
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def refusal(argv, capsys):
    assert cli.main(list(argv)) == 2
    error = capsys.readouterr().err
    assert error.startswith("rt3d: error: ")
    assert error.count("\n") == 1
    return error


def test_there_are_numbers_of_every_kind():
    assert {
        *(("verify",), ("tune",), ("run",), ("remote", "list"), ("data", "motion")),
        *(("train",), ("prune",)),
    } <= {words for words, _ in NUMBERS}
    assert set(NUMBERS) >= WITH_SETTINGS
    assert len(NUMBERS) > 30


@pytest.mark.parametrize(("words", "option"), NUMBERS, ids=lambda value: "".join(value))
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "NaN", "1e999", "", "x", "-1", "9" * 5000])
def test_what_is_no_number_is_refused_by_name(words, option, text, capsys):
    error = refusal([*words, f"{option}={text}"], capsys)
    if text == "-1" and (words, option) in WITH_SETTINGS:
        return
    assert f"argument {option}" in error
    assert f"see rt3d {' '.join(words)} --help" in error


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--noise", "inf", "--noise: 'inf'"),
        ("--shake", "nan", "--shake: 'nan'"),
        ("--noise", "-1", "--noise: '-1'"),
        ("--distractors", "-1", "--distractors: '-1'"),
        ("--size", "63", "size 63: an even number"),
    ],
)
def test_settings_of_a_set_are_refused_by_name(option, value, message, tmp_path, capsys):
    assert message in refusal(["data", "motion", str(tmp_path / "d"), option, value], capsys)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
@pytest.mark.parametrize("name", ["noise", "shake"])
def test_settings_from_python_are_refused_as_well(name, value):
    from rt3d_tvm.data.motion import MotionSettings

    with pytest.raises(ValueError, match=f"{name} "):
        MotionSettings(**{name: value})


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_a_refusal_names_the_help_of_its_command(words, capsys):
    error = refusal([*words, "--bogus"], capsys)
    assert f"see rt3d {' '.join(words)} --help" in error


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["compile", "m.onnx", "-o", "d", "--bogus"], "compile"),
        (["models", "extra"], "models"),
        (["remote", "list", "--tracker", "h:1", "extra"], "remote list"),
        (["data", "motion", "d", "--bogus", "3"], "data motion"),
        (["doctor", "--", "extra"], "doctor"),
    ],
)
def test_so_does_one_of_a_command_that_is_otherwise_whole(argv, words, capsys):
    error = refusal(argv, capsys)
    assert "unrecognized arguments" in error
    assert f"see rt3d {words} --help" in error


def test_an_unknown_option_before_the_command_is_that_of_rt3d(capsys):
    assert "see rt3d --help" in refusal(["--bogus", "models"], capsys)


def test_the_deadlines_of_the_commands_are_those_of_the_modules():
    parsers = dict(commands())

    def default(words, name):
        return parsers[words].get_default(name)

    for words in (("bench",), ("remote", "ping"), ("remote", "bench"), ("remote", "run")):
        assert (default(words, "wait"), default(words, "deadline")) == (
            defaults.WAIT_S,
            defaults.DEADLINE_S,
        )
    assert default(("tune",), "deadline") == search.DEADLINE_S
    assert default(("tune",), "trials") == search.TRIALS
    assert default(("remote", "list"), "wait") == defaults.RETURN_S
    assert default(("tracker",), "port") == defaults.TRACKER_PORT
    assert default(("rpc-server",), "port") == defaults.SERVER_PORT
    assert default(("tracker",), "host") == defaults.LOOPBACK
