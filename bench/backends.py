"""What does transformers' code cost beside our own? One model by both, and by transformers alone.

    python -m bench.backends [--model MODEL] [--streams 1,16] [--dtype float32]

The engine runs the model by native code and by transformers' (`--model-backend`), each plain and
with the settings' draft, beside transformers' own `generate`: round by round, one at a time, the
same prompts for all. A table of tokens per second, ratios, then one line of JSON.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.console import Console

from bench.machine.limits import measure_limits
from bench.machine.suite import model_folder, weight_bytes
from bench.peers.rounds import Results, measure
from bench.peers.suite import describe_machine, encode_prompts
from bench.peers.systems import OURS, OURS_PLAIN, PEERS, Machine, System, command, environment
from bench.peers.table import as_json, make_table, notes
from bench.peers.worker import Worker
from bench.peers.workloads import Workload, make_workloads
from server.cli.terminal import one_line_errors, report
from server.config import DEFAULT_MODEL, ModelSettings, load_settings
from server.errors import ConfigError, StartupError

PEER = PEERS[0]
PLAIN_BY_OTHER = replace(OURS_PLAIN, name="by transformers' code, plain")
BY_OTHER = replace(OURS, name="by transformers' code")
SYSTEMS = (PEER, OURS_PLAIN, PLAIN_BY_OTHER, OURS, BY_OTHER)
RATIOS: Mapping[str, tuple[System, System]] = {
    "transformers' code to native": (PLAIN_BY_OTHER, OURS_PLAIN),
    "transformers' code to generate": (PLAIN_BY_OTHER, PEER),
    "gain of speculation, native": (OURS, OURS_PLAIN),
    "gain of speculation, transformers' code": (BY_OTHER, PLAIN_BY_OTHER),
}
"""What the figures are for: tokens per second of the first by those of the second."""


def main(
    model: Annotated[str, typer.Option(help="Name, folder or file.")] = DEFAULT_MODEL,
    draft: Annotated[str, typer.Option(help="As for serving.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16; no blocks.")] = "float32",
    streams: Annotated[str, typer.Option(help="Answers at once, a comma list.")] = "1,16",
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=2)] = 64,
    rounds: Annotated[int, typer.Option(help="Rounds; figures are medians.", min=1)] = 3,
) -> None:
    """Measure one model by native code, by transformers' code, and by transformers."""
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError("dtype", dtype, "is float32 or bfloat16 here")
    settings = load_settings(
        ModelSettings, model=model, draft=draft, dtype=dtype, quantization="none"
    )
    prompts = encode_prompts(model_folder(settings), [])
    counts = [int(count) for count in streams.split(",")]
    workloads = make_workloads(prompts, counts, new_tokens, 0, rounds)
    machine = describe_machine(settings, workloads)
    limits = measure_limits(weight_bytes(settings))
    results = measure(SYSTEMS, lambda system: _start(system, machine), workloads, report)
    names = [system.name for system in SYSTEMS if system is not PEER]
    console = Console(highlight=False)
    console.print(make_table(results, names, [workload.name for workload in workloads]))
    found = ratios(results, workloads)
    for line in [*notes(results, {}), *map(_line, found, found.values())]:
        console.print(line, markup=False, soft_wrap=True)
    print(json.dumps(as_json(results, names, {}, limits) | {"ratios": found}))
    if results.failures:
        raise StartupError("; ".join(results.failures.values()))


def _start(system: System, machine: Machine) -> Worker:
    backend = "transformers" if system in (PLAIN_BY_OTHER, BY_OTHER) else "native"
    machine = replace(machine, settings={**machine.settings, "model_backend": backend})
    return Worker(system.name, command(system, machine, None), environment(system))


def ratios(results: Results, workloads: list[Workload]) -> dict[str, dict[str, float]]:
    """By name and workload; those of systems that failed are left out."""
    found: dict[str, dict[str, float]] = {}
    for name, (first, second) in RATIOS.items():
        if first.name not in results.rates or second.name not in results.rates:
            continue
        medians = (
            {w.name: statistics.median(results.rates[system.name][w.name]) for w in workloads}
            for system in (first, second)
        )
        above, below = medians
        found[name] = {w.name: above[w.name] / below[w.name] for w in workloads}
    return found


def _line(name: str, values: Mapping[str, Any]) -> str:
    return f"{name}: " + ", ".join(f"{value:.2f} at {key}" for key, value in values.items())


if __name__ == "__main__":
    with one_line_errors("bench.backends"):
        typer.run(main)
