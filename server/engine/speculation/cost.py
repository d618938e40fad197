"""What a step costs on this machine, as a curve over the number of rows. Pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds by number of rows: straight lines between measured points, never falling, the last
    slope continued."""

    rows: tuple[int, ...]
    """Ascending, at least two."""
    seconds: tuple[float, ...]

    def __call__(self, num_rows: float) -> float:
        upper = min(max(bisect_left(self.rows, num_rows), 1), len(self.rows) - 1)
        x0, x1 = self.rows[upper - 1], self.rows[upper]
        y0, y1 = self.seconds[upper - 1], self.seconds[upper]
        return max(y0 + (y1 - y0) * (num_rows - x0) / (x1 - x0), 0.0)


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Cost curves of target and draft."""

    verify: CostCurve
    """One forward of the target with its head, by rows."""
    draft: CostCurve
    """One draft forward with its head, by rows; zero for drafters without a model."""


def monotone(rows: Sequence[int], seconds: Sequence[float]) -> CostCurve:
    """A curve from noisy measurements: a larger step never counts as cheaper than a smaller one."""
    cleaned = list[float]()
    for value in seconds:
        cleaned.append(max(value, cleaned[-1]) if cleaned else value)
    return CostCurve(tuple(rows), tuple(cleaned))
