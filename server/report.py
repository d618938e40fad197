"""Progress of work that takes long, told to a person line by line."""

from collections.abc import Callable

Report = Callable[[str], None]
"""Takes a line that says what is under way or what came of it."""


def say_nothing(line: str) -> None:
    """A `Report` where others tell the same."""
