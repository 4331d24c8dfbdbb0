"""Damage to the files of an artifact, and to trees of JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

from scripts.fuzz.mutations import INTEGERS, NAMES, cut_or_flipped


def tamper(rng: Random, folder: Path, other: Path) -> str:
    """Change the artifact in ``folder``, perhaps with files of another one; what was done."""
    names = sorted(path.name for path in folder.iterdir())
    kind = rng.choice(("bytes", "bytes", "bytes", "json", "json", "swap", "gone", "grown", "zeros"))
    name = rng.choice(names)
    path = folder / name
    if kind == "json":
        name = rng.choice([name for name in names if name.endswith(".json")])
        path = folder / name
        tree = json.loads(path.read_text(encoding="utf-8"))
        where = change_json(rng, tree)
        path.write_text(json.dumps(tree), encoding="utf-8")
        return f"{name}: {where}"
    if kind == "swap":
        shutil.copy(other / name, path)
    elif kind == "gone":
        path.unlink()
        if rng.random() < 0.3:
            path.mkdir()
    elif kind == "grown":
        with path.open("ab") as file:
            file.write(bytes(rng.choice((1, 64, 4096))))
    elif kind == "zeros":
        path.write_bytes(bytes(path.stat().st_size))
    else:
        path.write_bytes(cut_or_flipped(rng, path.read_bytes()))
    return f"{name}: {kind}"


def change_json(rng: Random, tree: object) -> str:
    """Change one place of a tree of JSON, chosen level by level; where it was."""
    path = ""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return f"{path} is empty"
        key = rng.choice(keys)
        path += f"/{key}"
        inside = tree[key]
        if isinstance(inside, (dict, list)) and inside and rng.random() < 0.85:
            tree = inside
            continue
        kind = rng.choice(("value", "value", "value", "gone", "swap"))
        if kind == "gone":
            del tree[key]
        elif kind == "swap":
            another = rng.choice(keys)
            tree[key], tree[another] = tree[another], tree[key]
        elif isinstance(inside, int) and rng.random() < 0.6:
            tree[key] = rng.choice(
                (inside + 1, inside - 1, inside * 2, -inside, inside + 64, inside + 4)
            )
        else:
            tree[key] = rng.choice(
                (*INTEGERS, *NAMES, 1.5, None, True, [], {}, [1, 2], "float64", "int64")
            )
        return f"{path} {kind}"
