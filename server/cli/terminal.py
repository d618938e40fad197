"""What the commands print: progress on stderr, answers on stdout."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console

from server.errors import GlidecapeError

USAGE_ERROR = 2
"""Exit code where settings, files or ports are wrong."""

stderr = Console(stderr=True, highlight=False)


@contextmanager
def one_line_errors(program: str) -> Generator[None]:
    """Ends the process where something is wrong that its user can mend: one line on stderr, which
    begins with the program's name, and exit code 2."""
    try:
        yield
    except GlidecapeError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(USAGE_ERROR)


def report(line: str) -> None:
    """A line of progress."""
    stderr.print(line, style="dim", markup=False, soft_wrap=True)


def write_answer(text: str) -> None:
    """A piece of an answer, as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()


def write_thinking(text: str) -> None:
    """A piece of what is thought before an answer, as it comes: beside the answer, not in it."""
    stderr.print(text, style="dim", markup=False, soft_wrap=True, end="")


def describe_speculation(
    tokens_per_step: float, num_drafted: int, num_accepted: int, num_leaves: int
) -> str:
    """What it did for an answer, to stand behind the answer's times."""
    figures = f"; {tokens_per_step:.2f} tokens/step"
    if num_drafted:
        figures += f", {num_accepted} of {num_drafted} drafted tokens accepted"
        figures += f" ({num_leaves} leaves)" if num_leaves else ""
    return figures


class Stopwatch:
    """Times an answer as a user sees it: first token, then tokens per second."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first: float | None = None

    def saw_token(self) -> None:
        if self._first is None:
            self._first = time.perf_counter()

    def summary(self, num_tokens: int) -> str:
        """num_tokens: all tokens of the answer. The rate leaves out the first one, whose time is
        the prompt's."""
        now = time.perf_counter()
        if self._first is None or not num_tokens:
            return "no tokens"
        noun = "token" if num_tokens == 1 else "tokens"
        line = f"{num_tokens} {noun}, first after {(self._first - self._started) * 1000:.0f} ms"
        if num_tokens > 1:
            line += f", then {(num_tokens - 1) / max(now - self._first, 1e-9):.1f} tokens/s"
        return line
