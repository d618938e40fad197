"""`glidecape train`: a draft for a model, in one command; `weights/train/pipeline.py` does it."""

import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli.options import check_names
from server.cli.terminal import report, stderr
from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.errors import ConfigError

_STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""
_COUNT = re.compile(r"(\d+(?:\.\d+)?)([kMG]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def train(
    out: Annotated[Path, typer.Option(help="Folder to write the draft to.")],
    target: Annotated[
        str, typer.Option(help="Model to make a draft for: default name, folder, .gguf, hub id.")
    ] = DEFAULT_MODEL,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSON lines with messages or prompt; default: its own."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(help="Text there is already, JSON lines with response_ids or text_ids."),
    ] = None,
    tokens: Annotated[
        str, typer.Option(help="Tokens to learn from, such as 500k or 20M; text is written until "
                               "there are as many, with 0 none.")
    ] = "20M",
    minutes: Annotated[
        float, typer.Option(help="Time for everything, over all runs; 0 for no limit.", min=0)
    ] = 60,
    from_draft: Annotated[
        Path | None, typer.Option(help="Draft to go on from, of the same target; its shape stays.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Most passes over the text; without a time, 3.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for text, features, checkpoints; default: OUT.work.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="Answers written at once; default: what fits, up to 32, on a "
                                      "GPU 256.", min=1)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=16)] = 160,
    glimpse_layers: Annotated[
        str | None, typer.Option(help="Target layers to read, such as 17,18,29; else found.")
    ] = None,
    glimpse_hidden: Annotated[
        bool | None,
        typer.Option("--glimpse-hidden/--no-glimpse-hidden", show_default="glimpse-hidden",
                     help="Let the draft see the target's last hidden state."),
    ] = None,
    copy_hint: Annotated[
        bool | None,
        typer.Option("--copy-hint/--no-copy-hint", show_default="copy-hint",
                     help="Let the draft see what followed when the last tokens came before."),
    ] = None,
    draft_vocab_size: Annotated[
        int | None, typer.Option(help="Tokens the draft can propose: the most frequent ones.",
                                 min=32, show_default="8192")
    ] = None,
    context_vocab_size: Annotated[
        int | None, typer.Option(help="Other tokens it can propose where the sequence has them.",
                                 min=0, show_default="128")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:  # fmt: skip
    """Train a GliDe draft for a model: text, features, training; resumes where it was stopped."""
    num_tokens = parse_count("tokens", tokens)
    work = work or out.with_name(f"{out.name}.work")
    settings = load_settings(ModelSettings, model=target)
    if settings.tensor_parallel_size != 1:  # in the environment
        size = settings.tensor_parallel_size
        raise ConfigError("tensor_parallel_size", size, "train runs in one process")
    check_names(settings)
    _check_files(num_tokens, prompts, text or [])
    report("loading …")
    from weights.train.config import TrainConfig
    from weights.train.pipeline import TrainJob, make_draft
    from weights.train.text.generate import TEXT_FILE

    options = {
        "glimpse_layers": _layers(glimpse_layers),
        "glimpse_hidden": glimpse_hidden,
        "copy_hint": copy_hint,
        "draft_vocab_size": draft_vocab_size,
        "context_vocab_size": context_vocab_size,
    }
    shape: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    config = TrainConfig(
        text=(*(text or ()), work / TEXT_FILE),
        out=out,
        work=work,
        from_draft=from_draft,
        epochs=epochs,
        seed=seed,
        precision="auto" if settings.dtype == "float16" else settings.dtype,
        **shape,
    )
    command, seconds = f"glidecape {shlex.join(sys.argv[1:])}", minutes * 60 or None
    job = TrainJob(
        settings, config, frozenset(shape), num_tokens, seconds, prompts, at_once, max_new_tokens,
        command,
    )  # fmt: skip
    try:
        make_draft(job, stderr)
    except KeyboardInterrupt:
        report(f"stopped; the same command goes on from {work}")
        raise typer.Exit(_STOPPED) from None


def parse_count(key: str, value: str) -> int:
    """`"20M"` → 20000000.

    Raises:
        ConfigError: the value is no count.
    """
    match = _COUNT.fullmatch(value.strip())
    if match is None:
        raise ConfigError(key, value, "expected a count such as 500k or 20M")
    return round(float(match[1]) * _UNITS[match[2].lower()])


def _layers(value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        reason = "expected numbers such as 9,19,29"
        raise ConfigError("glimpse_layers", value, reason) from None


def _check_files(num_tokens: int, prompts: Path | None, text: list[Path]) -> None:
    if num_tokens == 0 and not text:
        raise ConfigError("tokens", num_tokens, "where no text is written, --text has to give some")
    for key, paths in (("prompts", [prompts]), ("text", text)):
        for path in paths:
            if path is not None and not path.is_file():
                raise ConfigError(key, str(path), "there is no such file")
