"""Cells and tables of Markdown. Pure."""

from collections.abc import Iterable, Sequence

from bench.paper.report.resampling import Estimate

NONE = "-"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of `| cell | cell |`."""
    rule = ["---"] * len(header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))


def percent(estimate: Estimate | None) -> str:
    """`64.8 [63.1, 66.4]`"""
    return _interval(estimate, 100, ".1f")


def number(estimate: Estimate | None) -> str:
    """`1.97 [1.90, 2.04]`"""
    return _interval(estimate, 1, ".2f")


def cell(value: float | None) -> str:
    """`1.97`"""
    return NONE if value is None else f"{value:.2f}"


def p_value(value: float | None) -> str:
    """`0.012`"""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _interval(estimate: Estimate | None, scale: float, form: str) -> str:
    if estimate is None:
        return NONE
    value = format(scale * estimate.value, form)
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{scale * estimate.low:{form}}, {scale * estimate.high:{form}}]"
