"""The figures of a run: means over its latest steps, as a line, and as `curve.jsonl`, a record per
line, with a picture of it.

{"kind": "train", "step", "epoch", "tokens", "seconds", "loss", "agreement", "learning_rate"}
{"kind": "validation", "step", "epoch", "tokens", "seconds", "loss", "agreement",
 "chain_tokens"}
"""

import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weights.train.fit.checkpoint import RunState
from weights.train.fit.schedule import Budget
from weights.train.fit.trainer import StepResult
from weights.train.fit.validate import Validation
from weights.train.progress import clock

_WINDOW = 50
"""Steps that the figures are averaged over."""


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


def training_line(state: RunState, averages: Averages, budget: Budget) -> str:
    """Loss, agreement per delay, rate, time left."""
    left = budget.seconds_left(state.step, state.seconds, averages.seconds_per_step)
    agreement = " ".join(f"{share * 100:.0f}" for share in averages.agreement)
    return (
        f"step {state.step:,}, epoch {state.epoch + 1}: loss {averages.loss:.3f}, agreement at "
        f"delay 1, 2, …: {agreement} %, {averages.tokens_per_second:,.0f} tokens/s, "
        f"{clock(left)} left"
    )


def validation_line(step: int, result: Validation) -> str:
    agreement = " ".join(f"{share * 100:.1f}" for share in result.agreement)
    return (
        f"held-out text after step {step:,}: loss {result.loss:.3f}, agreement at delay 1, 2, …: "
        f"{agreement} %, a chain of {len(result.agreement)} gives {result.chain_tokens:.2f} "
        "tokens a step"
    )


def train_record(state: RunState, averages: Averages, rate: float) -> dict[str, Any]:
    figures = {"loss": averages.loss, "agreement": list(averages.agreement)}
    return {"kind": "train", **_where(state), **_rounded(figures), "learning_rate": rate}


def validation_record(state: RunState, validation: Validation) -> dict[str, Any]:
    figures = {**validation._asdict(), "agreement": list(validation.agreement)}
    return {"kind": "validation", **_where(state), **_rounded(figures)}


def write_curve(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """`curve.jsonl` in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "curve.jsonl").write_text(lines, encoding="utf-8")


def draw_curve(folder: Path, records: Sequence[dict[str, Any]]) -> bool:
    """`curve.png` in a folder; False where matplotlib is not installed (extra `train`)."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    # A figure of its own canvas, without pyplot: no global state, no window system.
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    judged = "validation" if any(r["kind"] == "validation" for r in records) else "train"
    for kind, style in (("train", "-"), ("validation", "o")):
        chosen = [record for record in records if record["kind"] == kind]
        tokens = [record["tokens"] / 1e6 for record in chosen]
        losses.plot(tokens, [record["loss"] for record in chosen], style, label=kind)
        for delay in range(len(chosen[0]["agreement"]) if chosen else 0):
            share = [record["agreement"][delay] for record in chosen]
            label = f"delay {delay + 1}" if kind == judged else None
            shares.plot(tokens, share, style, color=f"C{delay}", label=label, markersize=4)
    losses.set(xlabel="million tokens", ylabel="loss")
    shares.set(xlabel="million tokens", ylabel="top-1 agreement with the target", ylim=(0, 1))
    losses.legend()
    if any(record["kind"] == judged for record in records):
        shares.legend()
    figure.savefig(folder / "curve.png", dpi=110)
    return True


def _where(state: RunState) -> dict[str, Any]:
    return {
        "step": state.step,
        "epoch": state.epoch,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 1),
    }


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: [round(x, 5) for x in value] if isinstance(value, list) else round(value, 5)
        for name, value in figures.items()
    }
