"""What a person sees while a draft is made: bars on a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from server.report import Report
from weights.train.text.generate import Progress as TextProgress

_LINE_SECONDS = 30.0
"""Time between lines where no terminal can be written over."""


def reporter(console: Console) -> Report:
    """Gives what prints a line to stay."""
    return lambda line: console.print(
        line, style="dim", markup=False, highlight=False, soft_wrap=True
    )


def clock(seconds: float) -> str:
    """`1:02:05` or `2:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Display(Protocol):
    """Shows a line that is written over."""

    def __call__(self, line: str) -> None: ...


@contextmanager
def live_line(console: Console) -> Generator[Display, None, None]:
    """Gives a line that changes, on a terminal; elsewhere every line that is due."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda line: live.update(Text(line))


@contextmanager
def text_bar(
    console: Console, num_tokens: int, seconds: float | None
) -> Generator[Callable[[TextProgress], None], None, None]:
    """A bar over the writing of text; gives what takes each new figure.

    Args:
        num_tokens: wanted.
        seconds: of the stage; None for no limit.
    """
    if not console.is_terminal:
        lines = _Lines(console)
        yield lambda progress: lines(f"text: {describe(progress, num_tokens, seconds)}")
        return
    columns = (TextColumn("text"), BarColumn(), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0, line="")

        def show(progress: TextProgress) -> None:
            line = describe(progress, num_tokens, seconds)
            bar.update(task, completed=_share(progress, num_tokens, seconds), line=line)

        yield show


@contextmanager
def feature_bar(console: Console, num_tokens: int) -> Generator[Callable[[int], None], None, None]:
    """A bar over the target's forward; gives what takes each number of tokens done."""
    start, done = time.perf_counter(), 0
    if console.is_terminal:
        columns = (
            TextColumn("target's forward"), BarColumn(), TextColumn("{task.completed:,} tokens"),
            TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=num_tokens)
            yield lambda tokens: progress.advance(task, tokens)
        return
    lines = _Lines(console)

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        rate = done / (time.perf_counter() - start)
        left = (num_tokens - done) / max(rate, 1e-9)
        lines(
            f"target's forward: {done:,} of {num_tokens:,} tokens, {rate:,.0f} tokens/s, "
            f"{clock(left)} left"
        )

    yield advance


def describe(progress: TextProgress, num_tokens: int, seconds: float | None) -> str:
    """`1,234 of 20,000 tokens, 340/s, 0:55 left`."""
    line = f"{progress.num_tokens:,} of {num_tokens:,} tokens, {progress.tokens_per_second:.0f}/s"
    left = _seconds_left(progress, num_tokens, seconds)
    return line if left is None else f"{line}, {clock(left)} left"


def _seconds_left(progress: TextProgress, num_tokens: int, seconds: float | None) -> float | None:
    """None where nothing is known yet."""
    ends: list[float] = []
    if progress.tokens_per_second > 0:
        ends.append((num_tokens - progress.num_tokens) / progress.tokens_per_second)
    if seconds is not None:
        ends.append(seconds - progress.seconds)
    return max(min(ends), 0.0) if ends else None


def _share(progress: TextProgress, num_tokens: int, seconds: float | None) -> float:
    """Done, 0..1: of the tokens or of the time, whichever ends the stage."""
    of_tokens = progress.num_tokens / num_tokens
    of_time = progress.seconds / seconds if seconds else 0.0
    return min(max(of_tokens, of_time), 1.0)


class _Lines:
    """Prints a line where the last one is old enough."""

    def __init__(self, console: Console) -> None:
        self._report, self._next = reporter(console), 0.0

    def __call__(self, line: str) -> None:
        if time.perf_counter() >= self._next:
            self._report(line)
            self._next = time.perf_counter() + _LINE_SECONDS
