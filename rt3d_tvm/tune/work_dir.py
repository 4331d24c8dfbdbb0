"""The work directory of a search: what it is of, its log, and the records it ends with.

session.json   model, target and versions; a search with others is refused, each named
trials.jsonl   one line per trial (`log`); trials.torn.jsonl takes what a crash left half written
tuned.jsonl    the verified best of every kernel (`records`), written at the end
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from rt3d_tvm.compile.choices.records import TUNED
from rt3d_tvm.console import write_json
from rt3d_tvm.errors import InputError, words_of
from rt3d_tvm.files.folders import check_empty, check_makeable, make_folder
from rt3d_tvm.files.staging import remove_abandoned
from rt3d_tvm.tune.log import TrialLog

SESSION, TRIALS = "session.json", "trials.jsonl"


def check_work(folder: Path) -> None:
    """InputError for a folder that `open_work` cannot use: ask before work that takes long."""
    if not (Path(folder) / SESSION).exists():
        check_empty(folder, (SESSION, TRIALS, TUNED))
    check_makeable(folder)


def open_work(
    folder: Path, session: Mapping[str, object], *, warn: Callable[[str], None]
) -> TrialLog:
    """The log of a search in ``folder``, which is made, or goes on where it stopped.

    InputError for a folder that holds anything else, or a search of another ``session``.
    """
    folder, wanted = Path(folder), json.loads(json.dumps(dict(session)))
    path = folder / SESSION
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            differing = _differences(there, wanted)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read: {words_of(error)}") from error
        if differing:
            raise InputError(
                f"{folder}: holds a search of something else ({'; '.join(differing)}); name "
                "another folder"
            )
    else:
        check_empty(folder, (SESSION, TRIALS, TUNED))
        make_folder(folder)
        write_json(path, wanted)
    remove_abandoned(folder)
    return TrialLog(folder / TRIALS, warn=warn)


def _differences(there: Mapping, here: Mapping, within: str = "") -> list[str]:
    """What differs, field by field: of a target that has twenty, the one that is another."""
    found = []
    for name in {**there, **here}:
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{within}{name}.")
        elif old != new:
            found.append(f"{within}{name} {old!r} there, {new!r} here")
    return found
