"""How far an evaluation is, and how long it will take: a bar on a terminal, else a line now and
then.
"""

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn

from server.cli.terminal import report, stderr
from weights.train.progress import clock

_LINE_SECONDS = 30.0
"""Seconds between lines where there is no terminal to draw a bar on."""


class RoundProgress:
    """A context manager.

    Args:
        num_rounds: number of prompts.
        num_done: how many of them earlier runs measured; the time left is estimated without them.
    """

    def __init__(self, num_rounds: int, num_done: int) -> None:
        self.num_rounds, self.num_done = num_rounds, num_done
        self._started, self._num_before = time.monotonic(), num_done
        self._last_line = self._started
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
        # A bar that redraws itself from a thread would take time from what is measured.
        self._bar = Progress(*columns, console=stderr, auto_refresh=False)
        self._task = self._bar.add_task("warm-up", total=num_rounds, completed=num_done, line="")

    def __enter__(self) -> "RoundProgress":
        if stderr.is_terminal:
            self._bar.start()
            self._bar.refresh()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if stderr.is_terminal:
            self._bar.stop()

    def begin(self) -> None:
        """Starts the clock after the warm-up."""
        self._started = time.monotonic()

    def advance(self, data_set: str, num_in_set: int, of_set: int) -> None:
        """Notes that the num_in_set-th prompt of a set is done."""
        self.num_done += 1
        now = time.monotonic()
        seconds = (now - self._started) / (self.num_done - self._num_before)
        line = describe(num_in_set, of_set, self.num_done, self.num_rounds, seconds)
        if stderr.is_terminal:
            name, done = data_set, self.num_done
            self._bar.update(self._task, description=name, completed=done, line=line)
            self._bar.refresh()
        elif now - self._last_line >= _LINE_SECONDS or self.num_done == self.num_rounds:
            self._last_line = now
            report(f"{data_set}: {line}")


def describe(num_in_set: int, of_set: int, num_done: int, num_rounds: int, seconds: float) -> str:
    """`12 of 200, 212 of 880 in all, 12.3 s each, 2:16:56 left`; seconds: of a round."""
    left = clock(seconds * (num_rounds - num_done))
    in_all = "" if of_set == num_rounds else f"{num_done} of {num_rounds} in all, "
    return f"{num_in_set} of {of_set}, {in_all}{seconds:.1f} s each, {left} left"
