"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Bad input from outside: names the value, the limit and what would be accepted.

    The command line prints it as one line and exits with status 2.
    """
