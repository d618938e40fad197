"""`glidecape bench`: measures this machine, and beside it other systems on the same model."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.help import HELP_NAMES, Command, Group, make_typer
from server.cli.options import with_settings
from server.config import ModelSettings
from server.errors import ConfigError


def bench_app() -> typer.Typer:
    """Makes `bench` alone and `bench peers`."""
    app = make_typer(name="bench")
    app.callback(invoke_without_command=True, cls=Group, context_settings=HELP_NAMES)(bench)
    app.command("peers", cls=Command, context_settings=HELP_NAMES)(peers)
    return app


@with_settings(ModelSettings)
def bench(
    settings: ModelSettings,
    context: typer.Context,
    new_tokens: Annotated[int, typer.Option(help="Tokens per answer.", min=8)] = 128,
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.", min=1)] = 3,
    transformers: Annotated[
        bool, typer.Option(help="Measure transformers' generate in the same run.")
    ] = True,
) -> None:
    """Measure speed and memory; prints a table, then one JSON line."""
    if context.invoked_subcommand is not None:
        _refuse_options(context, context.invoked_subcommand)
        return
    from bench.machine.suite import run_suite

    run_suite(settings, new_tokens, rounds, transformers)


@with_settings(ModelSettings)
def peers(
    settings: ModelSettings,
    peers_python: Annotated[
        Path | None,
        typer.Option(
            help="Interpreter of the environment that the peers are installed in; by default "
            ".venv-peers/bin/python, where it exists.",
            metavar="PATH",
        ),
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="JSON lines with messages; repeatable.", metavar="FILE"),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Only this one, by its name in the table; repeatable."),
    ] = None,
    streams: Annotated[str, typer.Option(help="Prompts at once, one workload each.")] = "1,4,16",
    new_tokens: Annotated[int, typer.Option(help="Tokens per answer.", min=2)] = 256,
    long_prompt: Annotated[
        int, typer.Option(help="Tokens of the prompt whose prefill is measured; 0: none.", min=0)
    ] = 2048,
    rounds: Annotated[int, typer.Option(help="Interleaved repetitions.", min=1)] = 3,
) -> None:
    """Measure transformers, llama.cpp, OpenVINO GenAI and vLLM, as far as they are installed, and
    this engine, interleaved on the same model; prints a table, then one JSON line."""
    from bench.peers.suite import PeerOptions, run_peers

    options = PeerOptions(
        python=peers_python,
        prompt_files=prompts or [],
        only=peer or [],
        streams=_counts(streams),
        new_tokens=new_tokens,
        long_prompt=long_prompt,
        rounds=rounds,
    )
    run_peers(settings, options)


def _counts(text: str) -> list[int]:
    """Reads `"1,4"` as [1, 4], and an empty text as no numbers.

    Raises:
        ConfigError: something in it is no number.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ConfigError("streams", text, "expected numbers such as 1,4,16") from None


def _refuse_options(context: typer.Context, command: str) -> None:
    """Refuses options of `bench` itself before a command, which would ignore them."""
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(name, value, f"has to stand behind `{command}`")
