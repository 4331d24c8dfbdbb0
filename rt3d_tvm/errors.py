"""The one error that a user's input can cause, a warning, and the words of other libraries."""

import re

# Characters. A library quotes what it read, and a damaged file can hold a word of any length.
_MOST = 300
_ENDING = 80


class InputError(ValueError):
    """Bad input from outside: names the value, the limit and what would be accepted.

    The command line prints it as one line and exits with status 2. A name in it that is longer than
    300 characters loses its middle.
    """

    def __str__(self) -> str:
        return re.sub(rf"\S{{{_MOST},}}", lambda name: _cut(name.group()), super().__str__())


def words_of(error: BaseException, *, lines: int | None = None) -> str:
    """What another library's error says, on one line of at most 300 characters.

    ``lines``: only so many of its lines that are not blank; by default all. The name of its type
    where it says nothing. A longer text loses its middle: its end often says where.
    """
    told = [line.strip() for line in str(error).splitlines() if line.strip()][:lines]
    text = " ".join(" ".join(told).split()) or type(error).__name__
    return _cut(text)


def _cut(text: str) -> str:
    if len(text) <= _MOST:
        return text
    cut = " ... "
    return text[: _MOST - _ENDING - len(cut)] + cut + text[-_ENDING:]


class UntestedOperators(UserWarning):
    """A model that is compiled has operators that nobody has compared with ONNX Runtime."""
