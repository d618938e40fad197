"""How routing changes what a prefix cache finds and how soon answers begin, by number of replicas.

    python -m bench.scaling [--replicas 4 --replicas 64 …] [--seed 0]  ->  a table, then a JSON line

Seeded conversations of several turns, which begin with one of a few system prompts, are replayed
against replicas that are simulated: a prefix cache by numbers of blocks, and costs of prompts and
steps. No model runs, nothing is measured. docs/scaling.md says what it shows.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.scaling.costs import Costs
from bench.scaling.fleet import Fleet
from bench.scaling.routers import routers
from bench.scaling.simulate import Outcome, Simulation
from bench.scaling.trace import TraceSettings, conversations

PER_REPLICA = 24
"""Conversations for each replica, where `--conversations` would be fewer."""
WARM_UP = 1 / 3
"""Share of the conversations that only fill the caches: the first ones."""


def simulate(
    trace: TraceSettings, costs: Costs, num_replicas: int
) -> Iterator[tuple[str, Outcome]]:
    """Each router's name and outcome, of the same conversations."""
    trace = replace(trace, conversations=max(trace.conversations, PER_REPLICA * num_replicas))
    num_first = int(WARM_UP * trace.conversations)
    for name in routers(Fleet(1, costs), trace.seed):
        fleet = Fleet(num_replicas, costs)
        router = routers(fleet, trace.seed)[name]
        run = Simulation(trace, costs, fleet, router, num_first)
        yield name, run.run(conversations(trace, num_replicas))


def figures(outcome: Outcome) -> dict[str, float]:
    """The figures of a run, for people and programs."""
    return {
        "hit_rate": outcome.hit_rate,
        "ttft_p50": outcome.first_token(0.5),
        "ttft_p99": outcome.first_token(0.99),
        "busiest": outcome.busiest,
        "requests": sum(outcome.requests),
    }


def table(rows: Sequence[tuple[int, str, dict[str, float]]]) -> Table:
    shown = Table("replicas", "router", "hit rate", "first token, p50", "p99", "busiest / mean")
    for replicas, name, found in rows:
        shown.add_row(
            f"{replicas:,}",
            name,
            f"{100 * found['hit_rate']:.1f} %",
            f"{1000 * found['ttft_p50']:,.0f} ms",
            f"{1000 * found['ttft_p99']:,.0f} ms",
            f"{found['busiest']:.2f}",
        )
    return shown


def _add_flags(parser: argparse.ArgumentParser, defaults: Any) -> None:
    for field in fields(defaults):
        default = getattr(defaults, field.name)
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default)


def _chosen(options: argparse.Namespace, cls: type[Any]) -> Any:
    return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=int, action="append")
    _add_flags(parser, TraceSettings())
    _add_flags(parser, Costs())
    options = parser.parse_args()
    trace, costs = _chosen(options, TraceSettings), _chosen(options, Costs)
    rows = [
        (replicas, name, figures(outcome))
        for replicas in options.replicas or (1, 4, 64, 1000)
        for name, outcome in simulate(trace, costs, replicas)
    ]
    Console().print(table(rows))
    found = [{"replicas": replicas, "router": name, **each} for replicas, name, each in rows]
    print(json.dumps({"trace": asdict(trace), "costs": asdict(costs), "found": found}))


if __name__ == "__main__":
    main()
