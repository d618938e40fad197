"""`glidecape data`: fetches what `glidecape eval` measures with."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.terminal import report


def data(
    folder: Annotated[Path, typer.Argument(help="Folder to write the sets to.")] = Path("data"),
    home: Annotated[
        str | None,
        typer.Option(help="A mirror of raw.githubusercontent.com, where that can't be reached."),
    ] = None,
) -> None:
    """Fetch the paper's five evaluation sets."""
    from bench.paper.data.fetch import HOME, SETS, fetch_sets

    fetch_sets(folder, home or HOME, report)
    files = " ".join(str(folder / f"{public.name}.jsonl") for public in SETS)
    report(f"measure a draft with\n  glidecape eval {files} --draft DRAFT --limit 20")
