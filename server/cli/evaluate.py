"""`glidecape eval`: the paper's figures for a draft."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.evaluate_checks import check_ablation, check_evaluation
from server.cli.options import with_settings
from server.cli.terminal import report
from server.config import ModelSettings
from weights.model_names import check_model_name

_TOKENS, _STEPS = 128, 300


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
    methods: Annotated[
        str | None,
        typer.Option(
            help="Some of chain,beam4,beam8,cape,auto,draft_model,ngram, beside plain decoding; "
            "default: all but ngram."
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Prompts per file, evenly spread over it; default: all.", min=1),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help=f"Most tokens per answer; default: {_TOKENS}.", min=2),
    ] = None,
    trained_on: Annotated[
        list[Path] | None,
        typer.Option(
            help="The draft's training text or its prompts (JSON lines; repeatable): counts the "
            "evaluation prompts that occur in it."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results; default: eval-DRAFT. The same command again goes on "
            "with what is missing there."
        ),
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
    steps: Annotated[
        int | None,
        typer.Option(help=f"Training steps of each with --ablate; default: {_STEPS}.", min=1),
    ] = None,
) -> None:
    """Measure a GliDe draft: acceptance, cost, speedup; the paper's tables, with intervals."""
    files = (*(data or ()), *(more_data or ()))
    if ablate is not None:
        check_ablation(
            settings, draft_model=draft_model, methods=methods, limit=limit, tokens=tokens,
            trained_on=trained_on, card=card,
        )  # fmt: skip
        _ablate(settings, ablate, files, out, steps or _STEPS)
        return
    check_evaluation(settings, steps)
    if draft_model is not None:
        check_model_name(draft_model)
    report("loading …")
    from bench.paper.run import EvalOptions, run_eval

    options = EvalOptions(
        files, draft_model, limit, tokens or _TOKENS, out, methods, card, tuple(trained_on or ())
    )
    run_eval(settings, options)


def _ablate(
    settings: ModelSettings, study: str, files: tuple[Path, ...], out: Path | None, steps: int
) -> None:
    report("loading …")
    from bench.paper.ablate import AblationOptions, run_ablation

    # float16 was refused; the other names are the trainer's, too.
    precision = "auto" if settings.dtype == "float16" else settings.dtype
    folder = out or Path(f"eval-{study}")
    run_ablation(settings, study, AblationOptions(files, folder, steps, precision))
