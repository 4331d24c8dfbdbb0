"""Draws the table of docs/phones.md from docs/phones/*.json, one file per measurement of a phone.

python -m scripts.phone.phones            writes the page
python -m scripts.phone.phones --check    ends with 1 where the page is another

A file is what `rt3d bench MODEL --adb --json FILE` writes, unchanged.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rt3d_tvm.errors import InputError
from rt3d_tvm.measure.phone_row import COLUMNS, as_line, phone_row

ROOT = Path(__file__).parents[2]
PAGE, RECORDS = ROOT / "docs" / "phones.md", ROOT / "docs" / "phones"
_BEGIN, _END = "<!-- phones -->\n", "<!-- /phones -->"
NONE = "No phone yet.\n"


def table(records: Path) -> str:
    """The rows of a folder's records; InputError, which names the file, for one that is none."""
    rows = []
    for path in sorted(records.glob("*.json")):
        try:
            rows.append(phone_row(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, OSError) as error:  # InputError is a ValueError
            raise InputError(f"{path}: {error}") from error
    if not rows:
        return NONE
    lines = [as_line(COLUMNS), f"|{'---|' * len(COLUMNS)}", *map(as_line, sorted(rows))]
    return "\n".join(lines) + "\n"


def drawn(text: str, records: Path) -> str:
    """The page with the table of the records; InputError without its two marks."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise InputError(f"the page has no {_BEGIN.strip()} and {_END}")
    return before + begin + table(records) + end + after


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    text = PAGE.read_text(encoding="utf-8")
    try:
        made = drawn(text, RECORDS)
    except InputError as error:
        print(f"phones: {error}", file=sys.stderr)
        return 2
    if args.check and made != text:
        print(f"{PAGE.name} is not what the records say: python -m scripts.phone.phones")
        return 1
    if not args.check:
        PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
