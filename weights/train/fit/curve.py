"""The run as figures: `curve.jsonl`, a record per line, and a picture of it.

{"kind": "train", "step", "epoch", "tokens", "seconds", "loss", "agreement", "learning_rate"}
{"kind": "validation", "step", "epoch", "tokens", "seconds", "loss", "agreement",
 "chain_tokens"}
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weights.train.fit.checkpoint import RunState
from weights.train.fit.progress import Averages
from weights.train.fit.validate import Validation


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
