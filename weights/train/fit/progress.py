"""What a person sees while a draft is made."""

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from weights.train.fit.checkpoint import RunState
from weights.train.fit.schedule import Budget
from weights.train.fit.trainer import StepResult

_WINDOW = 50
"""Steps that the figures are averaged over."""
_LINE_SECONDS = 30.0
"""Time between lines where no terminal can be written over."""


class Averages:
    """Mean figures of the latest steps."""

    def __init__(self) -> None:
        self._results = deque[tuple[StepResult, float]](maxlen=_WINDOW)
        self._last = time.perf_counter()

    def add(self, result: StepResult) -> None:
        now = time.perf_counter()
        self._results.append((result, now - self._last))
        self._last = now

    @property
    def loss(self) -> float:
        return sum(result.loss for result, _ in self._results) / max(1, len(self._results))

    @property
    def tokens_per_second(self) -> float:
        seconds = sum(spent for _, spent in self._results)
        return sum(result.tokens for result, _ in self._results) / max(seconds, 1e-9)

    @property
    def seconds_per_step(self) -> float:
        return sum(spent for _, spent in self._results) / max(1, len(self._results))

    @property
    def agreement(self) -> tuple[float, ...]:
        """Per delay from 1."""
        rows = zip(*(result.rows for result, _ in self._results), strict=True)
        right = zip(*(result.right for result, _ in self._results), strict=True)
        return tuple(sum(r) / max(1, sum(n)) for r, n in zip(right, rows, strict=True))


class Display(Protocol):
    """Shows a line that is written over."""

    def __call__(self, line: str) -> None: ...


@contextmanager
def live_line(console: Console) -> Generator[Display, None, None]:
    """On a terminal one line that changes; elsewhere a line now and then."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda line: live.update(Text(line))


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console, self._next = console, 0.0

    def __call__(self, line: str) -> None:
        if time.perf_counter() >= self._next:
            self._console.print(line, highlight=False, soft_wrap=True)
            self._next = time.perf_counter() + _LINE_SECONDS


def training_line(state: RunState, averages: Averages, budget: Budget) -> str:
    """Loss, agreement per delay, rate, time left."""
    left = budget.seconds_left(state.step, state.seconds, averages.seconds_per_step)
    agreement = " ".join(f"{share * 100:.0f}" for share in averages.agreement)
    return (
        f"step {state.step:,}, epoch {state.epoch + 1}: loss {averages.loss:.3f}, agreement at "
        f"delay 1, 2, …: {agreement} %, {averages.tokens_per_second:,.0f} tokens/s, "
        f"{_duration(left)} left"
    )


@contextmanager
def feature_bar(console: Console, num_tokens: int) -> Generator[Callable[[int], None], None, None]:
    """A bar over the target's forward; the function it gives takes tokens done."""
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
            f"{_duration(left)} left"
        )

    yield advance


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
