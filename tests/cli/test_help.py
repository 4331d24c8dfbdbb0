"""Every option says what it is, its default and its unit; the defaults are the modules' own."""

import argparse
from dataclasses import fields

import pytest

from rt3d_tvm.cli.arguments import pause, seconds
from tests.cli.test_arguments import commands

PARSERS = dict(commands())
ACTIONS = [
    pytest.param(action, id=" ".join((*words, (action.option_strings or [action.dest])[-1])))
    for words, parser in PARSERS.items()
    for action in parser._actions
]
# What is done only where it is asked for: without the option there is nothing of the kind.
ASKED_FOR = {
    *(
        "--json",
        "--csv",
        "--trace",
        "--node-data",
        "--overlay",
        "--dump",
        "--compare",
        "--program",
        "--library",
    ),
    *("--data", "--onnx", "--labels", "--torch", "--key", "--adb", "--ssh", "--runner", "--shape"),
    "--output",  # of `rt3d report`; others need it
}
# Names of numbers that have a unit, and the unit.
UNITS = {
    "size": "pixels",
    "resize": "pixels",
    "frames": "frames",
    "every": "frames",
    "stride": "frames",
    "max_temperature": "degrees Celsius",
    "max_drop": "points of accuracy",
    "shake": "share of a frame's side",
    "noise": "of 255",
    "share": "as a share",
    "limit": "as a share",
}


def flag(action):
    return action.nargs == 0


@pytest.mark.parametrize("action", ACTIONS)
def test_every_argument_has_a_help_text(action):
    assert action.help and action.help != argparse.SUPPRESS
    assert len(action.help.split()) > 1
    if action.option_strings and not flag(action) and action.choices is None:
        assert action.metavar, "what stands for the value"


@pytest.mark.parametrize("action", ACTIONS)
def test_every_option_with_a_value_says_its_default_and_unit(action):
    unit = "seconds" if action.type in (seconds, pause) else UNITS.get(action.dest)
    assert unit is None or unit in action.help
    of_clips = action.container.title == "preprocessing"  # whose default the title says
    given = flag(action) or action.required or not action.option_strings or of_clips
    if given or action.option_strings[-1] in ASKED_FOR:
        return
    assert "default" in action.help
    if action.default not in (None, argparse.SUPPRESS):
        said = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
        assert f"default: {said}" in action.help or f"{said} (default)" in action.help


def test_every_unit_is_of_an_option():
    of_all = {action.dest for parser in PARSERS.values() for action in parser._actions}
    assert set(UNITS) <= of_all
    assert {name[2:].replace("-", "_") for name in ASKED_FOR} <= of_all


def settings():
    """The values that help texts write out, beside the classes that hold them."""
    from rt3d_tvm.data.motion import MotionSettings
    from rt3d_tvm.prune.plans import DensePlan, PruningPlan
    from rt3d_tvm.prune.pruner import ALGORITHMS

    yield ("data", "motion"), MotionSettings()
    yield ("train",), DensePlan()
    yield ("prune",), PruningPlan()
    yield ("prune",), ALGORITHMS["reweighted"]()
    yield ("prune",), ALGORITHMS["regularization"]()


def test_defaults_of_settings_are_those_of_their_classes():
    compared = 0
    for words, values in settings():
        said = {action.dest: action.help for action in PARSERS[words]._actions}
        for field in fields(values):
            value = getattr(values, field.name)
            if field.name in said and value is not None:
                compared += 1
                text = f"{value:g}" if isinstance(value, float) else str(value)
                parts = said[field.name].replace(",", "").replace(";", "").split()
                assert text in parts, (words, field.name)
    assert compared > 20


def test_defaults_of_measurements_are_those_of_their_modules():
    from rt3d_tvm.live.realtime import SECONDS
    from rt3d_tvm.measure.pruning_group import DENSITIES, GROUPS, SHARE
    from rt3d_tvm.quantize import COUNT, METHOD

    groups = {action.dest: action.help for action in PARSERS["groups",]._actions}
    assert groups["groups"].endswith(f"default: {' '.join(map(str, GROUPS))}")
    assert groups["densities"].endswith(f"default: {' '.join(map(str, DENSITIES))}")
    assert groups["share"].endswith(f"default: {SHARE}")
    quantize = {action.dest: action.help for action in PARSERS["quantize",]._actions}
    assert quantize["count"].endswith(f"default: {COUNT}")
    assert f"{METHOD} (default)" in quantize["method"]
    run = {action.dest: action.help for action in PARSERS["run",]._actions}
    assert run["seconds"].endswith(f"--realtime: {SECONDS:g}")


# Options that mean another thing in another command, or have another default there.
OF_EACH_COMMAND = {
    *("--batch", "--clips", "--csv", "--data", "--deadline", "--frames", "--group", "--key"),
    *("--labels", "--layers", "--lr", "--model", "--onnx", "--opencl", "--output", "--port"),
    *("--runs", "--seconds", "--seed", "--size", "--target", "--tracker", "--wait"),
    *("--weight-decay", "--weights"),
}


def test_an_option_of_several_commands_has_one_text():
    texts = {}
    for parser in PARSERS.values():
        for action in parser._actions:
            for name in action.option_strings:
                texts.setdefault(name, set()).add(action.help)
    several = {name for name, found in texts.items() if len(found) > 1 and name.startswith("--")}
    assert several == OF_EACH_COMMAND
