"""What a step costs on this machine, by its rows: measured before serving, corrected by every step
since. Pure.

A machine gets slower and faster, contexts get longer, and a step beside HTTP traffic is not a step
in a quiet loop: each observation moves all costs alike. What decides is how they compare, and that
moves slowly: a curve that followed each step that was held up would now and then show a gain where
there is none, and just then the choice would take it.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

_COMMON_RATE, _OWN_RATE = 0.05, 0.03
"""Shares of an observed difference by which the whole curve moves, and its own rows beyond that."""
_LARGEST_SURPRISE = 0.15
"""Limit of the logarithm of observed over expected: a step may have been held up by something else.
One limit for both rates: with two, steps that are held up would keep the whole curve above what its
rows say of themselves, and those that are seen more often would sink beside the others."""
_START_RATE = 0.05
_REFRESH = 16
"""Observations after which decisions are made anew."""


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


class LiveCurve:
    """A cost curve whose points are corrected; see the module."""

    def __init__(self, measured: CostCurve) -> None:
        self._seconds = list(measured.seconds)
        self._curve = measured

    def __call__(self, num_rows: float) -> float:
        return self._curve(num_rows)

    def observe(self, num_rows: int, seconds: float) -> None:
        """Corrects the curve by a step of num_rows rows that took so many seconds."""
        expected = self(num_rows)
        if expected <= 0.0 or seconds <= 0.0:
            return
        surprise = math.log(seconds / expected)
        surprise = min(max(surprise, -_LARGEST_SURPRISE), _LARGEST_SURPRISE)
        for index, share in enumerate(self._shares(num_rows)):
            self._seconds[index] *= math.exp((_COMMON_RATE + _OWN_RATE * share) * surprise)
        self._curve = monotone(self._curve.rows, self._seconds)

    def _shares(self, num_rows: int) -> list[float]:
        """Weight of each point in the cost of a step of num_rows rows."""
        rows = self._curve.rows
        shares = [0.0] * len(rows)
        upper = bisect_left(rows, num_rows)
        if upper == 0 or upper == len(rows):
            shares[min(upper, len(rows) - 1)] = 1.0
            return shares
        right = (num_rows - rows[upper - 1]) / (rows[upper] - rows[upper - 1])
        shares[upper - 1], shares[upper] = 1.0 - right, right
        return shares


class LiveCosts:
    """What steps cost in this server's own traffic."""

    def __init__(self, measured: StepCosts) -> None:
        self.measured = measured
        """The costs as measured before serving."""
        self.verify = LiveCurve(measured.verify)
        """Everything of a step but drafting, by the target's rows."""
        self.draft = measured.draft
        """Seconds for one more token of each chain, by number of chains."""
        self.draft_start = 0.0
        """Seconds that drafting takes beside that, once per step."""
        self.version = 0
        """Goes up when decisions should be made anew."""
        self._num_observed = 0

    def observe_verify(self, num_rows: int, seconds: float) -> None:
        """Learns from a step of decoding sequences alone; seconds: without its drafting."""
        self.verify.observe(num_rows, seconds)
        self._num_observed += 1
        if self._num_observed % _REFRESH == 0:
            self.version += 1

    def observe_draft(self, num_chains: int, num_forwards: int, seconds: float) -> None:
        """Learns from a step's drafting; num_forwards: forwards that the longest chain took."""
        start = max(seconds - num_forwards * self.draft(num_chains), 0.0)
        if self.draft_start == 0.0:
            self.draft_start = start
        # Drafting that was held up by something else counts as twice the usual at most.
        start = min(start, 2 * self.draft_start)
        self.draft_start += _START_RATE * (start - self.draft_start)
