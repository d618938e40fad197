"""`python -m weights.train`: trains a draft on text that is there."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from weights.train.config import Precision, TrainConfig


def main(
    text: Annotated[list[Path], typer.Option()],
    out: Annotated[Path, typer.Option()],
    work: Annotated[Path, typer.Option()],
    target: str = "default",
    glimpse_layers: str | None = None,
    glimpse_hidden: bool = False,
    draft_vocab_size: int = 8192,
    minutes: float | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    learning_rate: float = 1.5e-3,
    batch_tokens: int = 512,
    seed: int = 0,
    feature_gib: float | None = None,
    precision: Precision = "auto",
) -> None:
    """Train a draft on text that is there."""
    from server.config import DEFAULT_MODEL
    from weights.train.card import write_card
    from weights.train.load import load_target
    from weights.train.train import train

    layers = tuple(int(x) for x in glimpse_layers.split(",")) if glimpse_layers else None
    config = TrainConfig(
        text=tuple(text), out=out, work=work, glimpse_layers=layers, glimpse_hidden=glimpse_hidden,
        draft_vocab_size=draft_vocab_size, minutes=minutes, epochs=epochs, steps=steps,
        learning_rate=learning_rate, batch_tokens=batch_tokens, seed=seed,
        feature_bytes=None if feature_gib is None else int(feature_gib * 2**30),
        precision=precision,
    )  # fmt: skip
    console = Console(stderr=True)
    name = DEFAULT_MODEL if target == "default" else target
    loaded = load_target(name, config, Path("~/.cache/glidecape"), console.print)
    trained = train(config, loaded.target, loaded.prompt_ids, loaded.stop_token_ids, console)
    write_card(config, name, trained, f"python -m weights.train {shlex.join(sys.argv[1:])}")


typer.run(main)
