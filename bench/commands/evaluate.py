"""`glidecape eval`: the paper's figures for a draft.

An option that would not be used is refused by name before anything is loaded, so that every figure
is of what was asked for.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import with_settings
from server.cli.terminal import report
from server.config import ModelSettings
from server.errors import ConfigError
from weights.model_names import check_model_name

_TOKENS, _STEPS = 128, 300
"""Defaults of --tokens and --steps."""
_OWN_DEPTHS = "speculation_policy", "speculation_depth", "speculation_nodes", "beam_width"
_ABLATION_USES = "model", "cache_dir", "device", "dtype", "quantization"


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
    temperature: Annotated[
        float | None,
        typer.Option(help="0, the default, is greedy; else tokens are drawn.", min=0, max=2),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Nucleus to draw from; default: 1, all.", min=0.01, max=1)
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
            temperature=temperature, top_p=top_p, trained_on=trained_on, card=card,
        )  # fmt: skip
        _ablate(settings, ablate, files, out, steps or _STEPS)
        return
    check_evaluation(settings, steps, temperature, top_p)
    if draft_model is not None:
        check_model_name(draft_model)
    report("loading …")
    from bench.paper.run import EvalOptions, run_eval
    from server.engine.types import SamplingDefaults

    sampling = SamplingDefaults(temperature or 0.0, 1.0 if top_p is None else top_p)
    options = EvalOptions(
        *(files, draft_model, limit, tokens or _TOKENS, out, methods, card),
        *(tuple(trained_on or ()), sampling),
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


def check_evaluation(
    settings: ModelSettings,
    steps: int | None,
    temperature: float | None = None,
    top_p: float | None = None,
) -> None:
    """Checks the options of a measurement.

    Raises:
        ConfigError: names what is not used.
    """
    _refuse(settings, _OWN_DEPTHS, "the methods that are compared have the paper's depths")
    _refuse(settings, ("tensor_parallel_size",), "eval runs target and draft in one process")
    if steps is not None:
        raise ConfigError("steps", steps, "is for --ablate")
    if top_p is not None and not temperature:
        raise ConfigError("top_p", top_p, "greedy answers have none: set temperature")


def check_ablation(settings: ModelSettings, **given: object) -> None:
    """Checks the options of the layer study, which trains as `glidecape train` does.

    Args:
        given: options of the command that only a measurement uses; None and empty ones are not
            given.

    Raises:
        ConfigError: names what is not used, or can't be.
    """
    for name, value in given.items():
        if value:
            raise ConfigError(name, value, "--ablate measures no draft that is given")
    others = [name for name in ModelSettings.model_fields if name not in _ABLATION_USES]
    _refuse(settings, others, "--ablate does not use it")
    _check_device(settings)
    if settings.dtype == "float16":
        raise ConfigError("dtype", settings.dtype, "--ablate trains in float32 or bfloat16")
    if settings.quantization not in ("auto", "none"):
        reason = "--ablate reads the target's weights in dtype"
        raise ConfigError("quantization", settings.quantization, reason)


def _check_device(settings: ModelSettings) -> None:
    from server.loading.machine import pick_device  # torch takes a second to import

    found = pick_device("auto")
    if pick_device(settings.device) != found:
        raise ConfigError("device", settings.device, f"--ablate trains on {found.type} here")


def _refuse(settings: ModelSettings, names: Collection[str], reason: str) -> None:
    """Refuses settings that were given. A default value counts as not given, wherever it was
    written."""
    for name in names:
        value = getattr(settings, name)
        if value != ModelSettings.model_fields[name].default:
            raise ConfigError(name, value, reason)
