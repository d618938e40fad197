"""`glidecape eval`: the paper's figures for a draft."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import with_settings
from server.cli.terminal import report
from server.config import ModelSettings
from server.errors import ConfigError


@with_settings(ModelSettings)
def evaluate(
    settings: ModelSettings,
    more_data: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="More data, as --data.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="JSON lines with messages (or prompt); one data set per file."),
    ] = None,
    draft_model: Annotated[
        str | None, typer.Option(help="A small language model to compare with: folder, .gguf, id.")
    ] = None,
    policies: Annotated[
        str | None,
        typer.Option(
            help="Some of chain,beam4,beam8,cape,auto,draft_model,ngram; default: all but ngram."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Prompts per file; default: all.", min=1)
    ] = None,
    tokens: Annotated[int, typer.Option(help="Most tokens per answer.", min=2)] = 128,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; default: eval-DRAFT.")
    ] = None,
    ablate: Annotated[
        str | None,
        typer.Option(
            help="glimpse-layers: train small drafts on --data (text of glidecape train) that "
            "read other layers of the target, and compare them."
        ),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Put the report into the draft's card.md, too.")
    ] = False,
    steps: Annotated[int, typer.Option(help="Training steps of each with --ablate.", min=1)] = 300,
) -> None:
    """Measure a GliDe draft: acceptance, cost, speedup; the paper's tables, with intervals."""
    files = (*(data or ()), *(more_data or ()))
    report("loading …")
    if ablate is not None:
        if card:
            raise ConfigError("card", card, "--ablate measures no draft that is given")
        from bench.paper.ablate import AblationOptions, run_ablation

        folder = out or Path(f"eval-{ablate}")
        run_ablation(settings, ablate, AblationOptions(files, folder, steps))
        return
    from bench.paper.run import EvalOptions, run_eval

    run_eval(settings, EvalOptions(files, draft_model, limit, tokens, out, policies, card))
