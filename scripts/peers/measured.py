"""The tables and the chart of docs/measured.md and of the README, from the JSON in docs/measured.

    python scripts/peers/measured.py                        write them all
    python scripts/peers/measured.py --check                say whether they are as the JSON says
    python scripts/peers/measured.py --take PEERS.json NAME --title TEXT   a new record, then all
    python scripts/peers/measured.py --take ... --precision int8           of the int8 rows

A record has a title, a date, the command that measured it, columns, rows and notes: one sentence
each. PEERS.json is what compare_peers.py writes. Texts stand between the markers of each page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import sys
from pathlib import Path

from figures import DIRECT, INT8_DENSE, PRECISIONS, WITHIN, eta, is_int8, median, sparse_kinds

from rt3d_tvm.files.whole_file import whole_file

ROOT = Path(__file__).parents[2]
RECORDS, PAGE = ROOT / "docs" / "measured", ROOT / "docs" / "measured.md"
README, CHART = ROOT / "README.md", ROOT / "docs" / "speed.png"
# The records in the README, by their markers, and which of their columns; the first is the chart.
SHOWN = {"speed": "2-zen5-3d", "speed in int8": "2-zen5-int8"}
SHOWN_COLUMNS = ("dense", "OpenVINO", "MNN", "ONNX Runtime", "torch.compile")
TITLES = {"c3d": "C3D", "r2plus1d": "R(2+1)D-18", "s3d": "S3D"}
ENGINES = {
    "openvino": "OpenVINO",
    "mnn": "MNN",
    "onnxruntime": "ONNX Runtime",
    "pytorch_compiled": "torch.compile",
    "pytorch": "PyTorch",
}
MARKERS = ("<!-- {}: written by scripts/peers/measured.py -->\n", "<!-- end -->")


def records() -> dict[str, dict]:
    """Every record by its name, in the order of the names."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RECORDS.glob("*.json"))
    }


def table(columns: list[str], rows: list[list], *, best: bool = False) -> str:
    """A Markdown table; ``best``: the least number of each row is bold."""
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for title, *values in rows:
        numbers = [value for value in values if isinstance(value, int | float)]
        cells = [
            f"**{_number(value)}**" if best and value == min(numbers) else _number(value)
            for value in values
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(found: dict[str, dict]) -> str:
    """The sections of docs/measured.md."""
    sections = []
    for record in found.values():
        text = (
            f"## {record['title']}\n\n{record['date']}, milliseconds unless a column says else.\n\n"
        )
        text += f"    {record['command']}\n\n{table(record['columns'], record['rows'])}\n"
        text += "".join(f"- {note}\n" for note in record["notes"])
        sections.append(text)
    return "\n" + "\n".join(sections)


def shown(record: dict) -> tuple[list[str], list[list]]:
    """The columns and rows that the README has of a record: the first KGS and `SHOWN_COLUMNS`."""
    columns = record["columns"]
    kept = [0, 1] + [columns.index(name) for name in SHOWN_COLUMNS if name in columns]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in record["rows"]]


def between(text: str, name: str, content: str) -> str:
    """The text with other content between its markers of that name."""
    begin, end = MARKERS[0].format(name), MARKERS[1]
    if text.count(begin) != 1:
        raise ValueError(
            f"the marker {begin.strip()!r} is there {text.count(begin)} times, not once"
        )
    pattern = re.escape(begin) + r".*?" + re.escape(end)
    return re.sub(pattern, lambda _: begin + content + end, text, count=1, flags=re.S)


def taken(peers: Path, title: str, precision: str = "float32") -> dict:
    """The record of what compare_peers.py wrote into ``peers``, of one precision."""
    document = json.loads(peers.read_text(encoding="utf-8"))
    models = document["models"]
    int8 = precision == "int8"
    rows = [
        row for model in models.values() for row in model["engines"] if is_int8(row["kind"]) == int8
    ]
    kinds = list(
        dict.fromkeys(kind for model in models.values() for kind in sparse_kinds(model, precision))
    )
    dense = {INT8_DENSE: "dense"} if int8 else {"dense": "dense", DIRECT: "dense, direct"}
    engines = {row["engine"] for row in rows if row["samples_ms"]}
    others = [name for name in ENGINES if name in engines]
    cells, etas = [], []
    for name, model in models.items():
        whole, of_convolutions, rate = eta(model, kinds[0]) if kinds else (None, None, None)
        etas.append((of_convolutions, whole))
        values = [median(model, "rt3d", kind) for kind in (*kinds, *dense)]
        values += [median(model, engine, next(iter(dense))) for engine in others]
        rate = model["rate"] if rate is None else rate
        cells.append([f"{TITLES.get(name, name)}, {rate:.1f}×", *map(_rounded, values)])
    return {
        "title": title,
        "date": datetime.date.today().isoformat(),
        "command": f".venv/bin/python {shlex.join(document['machine']['argv'])}",
        "columns": [
            *("model, pruning rate", *map(_kind, kinds), *dense.values()),
            *(ENGINES[name] for name in others),
        ],
        "rows": cells,
        "notes": [*_of_eta(kinds, etas), _of_turns(models, rows)],
    }


def _of_eta(kinds: list[str], etas: list[tuple]) -> list[str]:
    """A note on eta at the first kind, where it was measured of every model."""
    if None in (value for pair in etas for value in pair):
        return []
    over = [[_number(round(each, 2)) for each in column] for column in zip(*etas, strict=True)]
    return [
        f"η at {_kind(kinds[0])} is {', '.join(over[0])} over the convolutions and "
        f"{', '.join(over[1])} over whole models."
    ]


def _of_turns(models: dict[str, dict], rows: list[dict]) -> str:
    """A note on the rows whose median in turns is not the median alone."""
    taken_up = [
        f"{TITLES.get(name, name)} in {row['title']} ({row['turns_over_alone']:.2f})"
        for name, model in models.items()
        for row in model["engines"]
        if row in rows
        and row["turns_over_alone"] is not None
        and abs(row["turns_over_alone"] - 1) > WITHIN
    ]
    if not taken_up:
        return f"Each median in turns is within {WITHIN:.0%} of the engine's median alone."
    return (
        f"The median in turns is within {WITHIN:.0%} of the engine's median alone, but for "
        f"{', '.join(taken_up)}: in turns over alone."
    )


def draw(record: dict, path: Path) -> None:
    """A chart of what the README shows: times of each model, this project's in another colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns, rows = shown(record)
    figure, axes = pyplot.subplots(1, len(rows), figsize=(9, 2.6), sharey=True)
    for axis, (title, *values) in zip(axes, rows, strict=True):
        names = columns[1:]
        colours = ["#c2410c" if i < 2 else "#94a3b8" for i in range(len(names))]
        bars = axis.barh(names, values, color=colours)
        axis.bar_label(bars, [f"{value:g}" for value in values], padding=2, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.set_xlim(0, max(values) * 1.25)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.tick_params(axis="y", length=0, labelsize=9)
    axes[0].invert_yaxis()
    figure.suptitle("Milliseconds for one clip, lower is better", fontsize=10)
    figure.tight_layout()
    # The same bytes for the same figures.
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Write, or check, what is drawn from the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page differs")
    parser.add_argument("--take", nargs=2, metavar=("PEERS.json", "NAME"))
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="with --take")
    parser.add_argument("--title", help="of the record that is taken: what was measured, and where")
    args = parser.parse_args(argv)
    if args.take:
        if not args.title:
            parser.error("--take needs --title")
        record = taken(Path(args.take[0]), args.title, args.precision)
        text = json.dumps(record, indent=1, ensure_ascii=False)
        with whole_file(RECORDS / f"{args.take[1]}.json") as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    found = records()
    texts = {path: path.read_text(encoding="utf-8") for path in (PAGE, README)}
    texts[PAGE] = between(texts[PAGE], "tables", page(found))
    for name, record in SHOWN.items():
        texts[README] = between(texts[README], name, table(*shown(found[record]), best=True))
    if args.check:
        differ = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
        for path in differ:
            print(
                f"{path.relative_to(ROOT)} is not what the records say: run {Path(__file__).name}"
            )
        return 1 if differ else 0
    for path, text in texts.items():
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    draw(found[SHOWN["speed"]], CHART)
    return 0


def _number(value) -> str:
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def _rounded(ms: float | None) -> float | str:
    return "" if ms is None else float(f"{ms:.3g}") if ms < 100 else round(ms)


def _kind(kind: str) -> str:
    """``kgs 16x4``, or ``int8 kgs 16x4``, as tables write it."""
    return (
        kind.removeprefix("int8 ")
        .replace("kgs", "KGS")
        .replace("vanilla", "Vanilla")
        .replace("x", "×")
    )


if __name__ == "__main__":
    sys.exit(main())
