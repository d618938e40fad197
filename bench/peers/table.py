"""The figures for people, and as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from bench.machine.limits import Limits
from bench.peers.rounds import Results


def best_peer(results: Results, ours: Sequence[str], workload: str) -> float | None:
    """Tokens per second, the median over rounds, of the fastest system that is none of ours."""
    medians = [
        statistics.median(rates[workload])
        for name, rates in results.rates.items()
        if name not in ours and rates[workload]
    ]
    return max(medians, default=None)


def make_table(results: Results, ours: Sequence[str], workloads: Sequence[str]) -> Table:
    """A row per workload and system; ratios are to the best peer of the workload."""
    table = Table("", "system", "tokens/s", "fewest", "most", "ratio to best peer")
    for workload in workloads:
        best = best_peer(results, ours, workload)
        first = workload
        for name, rates in results.rates.items():
            values = rates[workload]
            if not values:
                continue
            median = statistics.median(values)
            ratio = f"{median / best:.2f}" if best else ""
            spread = f"{min(values):.1f}", f"{max(values):.1f}"
            table.add_row(first, name, f"{median:.1f}", *spread, ratio)
            first = ""
        table.add_section()
    return table


def notes(results: Results, missing: Mapping[str, str]) -> list[str]:
    """Notes under the table, a line each."""
    lines = [
        f"{name} {about['version']}: weights {about['weights']}; {about['way']}; "
        f"{results.resident_bytes[name] / 1e6:.0f} MB resident"
        for name, about in results.about.items()
        if name in results.resident_bytes
    ]
    if results.compared:
        lines.append(f"answers that speculation changed: {results.changed} of {results.compared}")
    lines += [f"failed: {reason}" for reason in results.failures.values()]
    lines += [f"missing: {name}: {reason}" for name, reason in missing.items()]
    return lines


def as_json(
    results: Results, ours: Sequence[str], missing: Mapping[str, str], limits: Limits
) -> dict[str, Any]:
    """All results with every round, for JSON."""
    workloads = {workload for rates in results.rates.values() for workload in rates}
    return {
        "bandwidth_gb_s": limits.bandwidth / 1e9,
        "weight_mb": limits.weight_bytes / 1e6,
        "max_steps_per_s": limits.steps_per_second,
        "systems": results.about,
        "tok_s": results.rates,
        "best_peer_tok_s": {name: best_peer(results, ours, name) for name in sorted(workloads)},
        "resident_mb": {name: size / 1e6 for name, size in results.resident_bytes.items()},
        "speculation": {"compared": results.compared, "changed": results.changed},
        "failures": results.failures,
        "missing": dict(missing),
    }
