"""What `glidecape train` shows while the target writes."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from server.cli.terminal import report, stderr

if TYPE_CHECKING:
    from weights.train.text.generate import Progress as TextProgress

_LINE_SECONDS = 30.0
"""Between lines, where there is no terminal to draw a bar on."""


@contextmanager
def text_progress(
    num_tokens: int, seconds: float | None
) -> Generator[Callable[["TextProgress"], None], None, None]:
    """Gives what is to be called with each figure: a bar on a terminal, else a line now and then.

    Args:
        num_tokens: wanted.
        seconds: of the stage, None for no limit.
    """
    if not stderr.is_terminal:
        yield _lines(num_tokens, seconds)
        return
    columns = (TextColumn("text"), BarColumn(), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=stderr) as bar:
        task = bar.add_task("", total=1.0, line="")

        def show(progress: "TextProgress") -> None:
            line = describe(progress, num_tokens, seconds)
            bar.update(task, completed=_share(progress, num_tokens, seconds), line=line)

        yield show


def describe(progress: "TextProgress", num_tokens: int, seconds: float | None) -> str:
    """`1,234 of 20,000 tokens, 340 tokens/s, 0:55 left`."""
    line = f"{progress.num_tokens:,} of {num_tokens:,} tokens, {progress.tokens_per_second:.0f}/s"
    left = _seconds_left(progress, num_tokens, seconds)
    return line if left is None else f"{line}, {clock(left)} left"


def clock(seconds: float) -> str:
    """`1:02:05` or `2:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _seconds_left(progress: "TextProgress", num_tokens: int, seconds: float | None) -> float | None:
    """None where nothing is known yet."""
    ends: list[float] = []
    if progress.tokens_per_second > 0:
        ends.append((num_tokens - progress.num_tokens) / progress.tokens_per_second)
    if seconds is not None:
        ends.append(seconds - progress.seconds)
    return max(min(ends), 0.0) if ends else None


def _share(progress: "TextProgress", num_tokens: int, seconds: float | None) -> float:
    """Done, 0..1: of the tokens or of the time, whichever ends the stage."""
    of_tokens = progress.num_tokens / num_tokens
    of_time = progress.seconds / seconds if seconds else 0.0
    return min(max(of_tokens, of_time), 1.0)


def _lines(num_tokens: int, seconds: float | None) -> Callable[["TextProgress"], None]:
    last = time.monotonic()

    def show(progress: "TextProgress") -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            report(f"text: {describe(progress, num_tokens, seconds)}")

    return show
