"""`glidecape bench`: measures this machine."""

from typing import Annotated

import typer

from server.cli.options import with_settings
from server.config import ModelSettings


@with_settings(ModelSettings)
def bench(
    settings: ModelSettings,
    new_tokens: Annotated[int, typer.Option(help="Tokens per answer.", min=8)] = 128,
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.", min=1)] = 3,
    transformers: Annotated[
        bool, typer.Option(help="Measure transformers' generate in the same run.")
    ] = True,
) -> None:
    """Measure speed and memory; prints a table, then one JSON line."""
    from bench.suite import run_suite

    run_suite(settings, new_tokens, rounds, transformers)
