"""docs/operators.md says what the code does."""

import tvm

from tests.compile.operators_page import NOTES, PAGE, page


def test_the_page_of_operators_is_drawn_from_this_code():
    with tvm.target.Target("llvm"):
        drawn = page()
    assert PAGE.read_text(encoding="utf-8") == drawn, "python -m tests.compile.operators_page"
    assert all(f"| {op} |" in drawn for op in NOTES)
