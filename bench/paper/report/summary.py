"""The table for a README: per data set our figures, the paper's beneath. Pure."""

from collections.abc import Sequence
from statistics import fmean

from bench.paper.measure.methods import LABELS, MethodName
from bench.paper.report import published
from bench.paper.report.cells import NONE, cell, number, percent, table
from bench.paper.report.figures import SetFigures
from bench.paper.report.published import TARGETS, joined

Published = tuple[float, ...]
"""A figure per target of the paper; empty where the paper has none."""


def summary(rows: Sequence[tuple[str, SetFigures]], mean: str) -> str:
    """The table as Markdown. rows: name and figures of each row; mean: the name of the row that is
    the mean of the others."""
    names: list[MethodName] = [n for _, found in rows[:1] for n in found.methods if n != "plain"]
    sets = [name for name, _ in rows if name != mean]
    header = (
        *("data set", "figures", "α %", "c %", "expected speedup", "plain tokens/s"),
        *(f"{LABELS[name]}: speedup; tokens/step" for name in names),
    )
    lines = list[tuple[str, ...]]()
    for data_set, figures in rows:
        lines.append((data_set, "ours", *_chain(figures), *(_ours(figures, n) for n in names)))
        of = sets if data_set == mean else [data_set]
        theirs = _paper_row(of, names)
        if any(entry != NONE for entry in theirs):
            lines.append((data_set, f"paper, {' / '.join(TARGETS)}", *theirs))
    return table(header, lines)


def _chain(figures: SetFigures) -> tuple[str, str, str, str]:
    plain, entry = figures.methods.get("plain"), figures.methods.get("chain")
    rate = f"{plain.tokens_per_second:.1f}" if plain else NONE
    if entry is None or entry.chain is None:
        return NONE, NONE, NONE, rate
    found = entry.chain
    cost = percent(found.relative_cost)
    return percent(found.acceptance), cost, number(found.expected_speedup), rate


def _ours(figures: SetFigures, name: MethodName) -> str:
    entry = figures.methods.get(name)
    if entry is None:
        return NONE
    steps = cell(entry.tokens_per_step and entry.tokens_per_step.value)
    return f"{number(entry.speedup)}; {steps}"


def _paper_row(sets: Sequence[str], names: Sequence[MethodName]) -> tuple[str, ...]:
    acceptance = mean_of(sets, {s: c.acceptance for s, c in published.CHAINS["chain"].items()})
    expected = mean_of(sets, {s: c.expected_speedup for s, c in published.CHAINS["chain"].items()})
    cost = published.RELATIVE_COST["chain"] if acceptance else ()
    return (
        joined(acceptance, ".1f") or NONE,
        joined(cost, ".1f") or NONE,
        joined(expected, ".2f") or NONE,
        NONE,
        *(_paper_speedup(sets, name) for name in names),
    )


def _paper_speedup(sets: Sequence[str], name: MethodName) -> str:
    speedup = joined(mean_of(sets, published.SPEEDUPS.get(name, {})), ".2f") or NONE
    per_step = published.TOKENS_PER_STEP.get(name, {})
    steps = joined(mean_of(sets, {s: (value,) for s, value in per_step.items()}), ".2f")
    return f"{speedup}; {steps}" if steps else speedup


def mean_of(sets: Sequence[str], figures: dict[str, Published]) -> Published:
    """The paper's mean over the same sets as ours; empty unless it has all of them, because a
    mean over other sets would not be comparable."""
    found = [figures.get(name, ()) for name in sets]
    if not found or not all(found):
        return ()
    return tuple(fmean(values) for values in zip(*found, strict=True))
