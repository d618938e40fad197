"""`glidecape convert`: published GliDe drafts into ours."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import check_names
from server.cli.terminal import report
from server.config import ModelSettings, load_settings


def convert(
    source: Annotated[
        Path, typer.Argument(help="Draft of the paper's authors or of LongSpec: folder or file.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    target: Annotated[
        str, typer.Option(help="The model it drafts for: folder, .gguf file, hub id, default name.")
    ],
) -> None:
    """Convert a published GliDe draft for --draft."""
    settings = load_settings(ModelSettings, model=target)
    check_names(settings)
    report("reading …")
    from server.loading.machine import pick_device, pick_dtype
    from server.loading.target import locate_target
    from weights.glide import convert as convert_draft

    dtype = pick_dtype(settings.dtype, pick_device(settings.device))
    files = locate_target(settings, dtype, report)
    config = convert_draft(source, out, files.config)
    layers = "1 layer" if config.num_layers == 1 else f"{config.num_layers} layers"
    report(f"wrote {out}: {layers}, hidden size {config.hidden_size}; use it with --draft {out}")
