"""Sizes of device steps: a graph is captured for each, so there are few; and which of them pays.

A *tier* is how deep a step drafts and how many nodes of each sequence it verifies. For `auto` the
tier with the best expected tokens per second is taken:

    batch x (1 + the mean sum of the nodes - 1 best gains) / seconds of a step of the tier

where a candidate's gain is the chance that it is reached and right (`Calibration.gains`), and
seconds are measured, first when the graph is captured and then with every step. Plain decoding is a
tier. Pure.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from server.engine.speculation.calibration import Calibration
from server.engine.speculation.priors import (
    FIRST_CHANCE,
    NUM_LATEST,
    PROBE_EVERY,
    REFRESH_EVERY,
)
from server.engine.speculation.proposal import Proposal

Sampling = Literal["greedy", "drawn", "truncated"]
"""What a step's rows need: the largest logit, a draw from all tokens, or a draw from those that
top_k, top_p and min_p leave. Each can do what those before it do, and takes longer."""


class Tier(NamedTuple):
    """What a step proposes for each sequence at most."""

    depth: int
    """Drafted tokens; 0 for plain decoding."""
    nodes: int
    """Verified rows, the root included."""


class StepShape(NamedTuple):
    """What a graph is captured for."""

    batch: int
    """Rows for sequences; those left over are padding rows."""
    tier: Tier
    context: int
    """Most tokens of each sequence's context."""
    sampling: Sampling


PLAIN = Tier(0, 1)
AUTO_TIERS = (PLAIN, Tier(2, 4), Tier(4, 8), Tier(6, 16), Tier(8, 32))
"""Deeper chains with more nodes beside them: both pay where drafts are good and steps are cheap."""
_CONTEXTS = (1024, 4096)
"""Attention's launches grow with the longest context that they are for, up to 16k."""
_RATE = 0.1
"""Share of a difference from the expected seconds by which an observation moves them."""
_LARGEST_SURPRISE = 1.5
"""A step that something held up counts as this many times the usual at most."""


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4 … and the largest."""
    return [*(2**i for i in range(most.bit_length()) if 2**i < most), most]


def at_least(wanted: int, sizes: Iterable[int]) -> int:
    """The smallest size that is enough."""
    return min(size for size in sizes if size >= wanted)


def context_sizes(longest: int) -> list[int]:
    """Sizes up to the longest context; longest: the largest position of a step's nodes plus one."""
    return [*(size for size in _CONTEXTS if size < longest), longest]


class TierCosts:
    """Seconds of a step by batch and tier.

    Args:
        measured: seconds that were measured at an earlier start.
    """

    def __init__(self, measured: Mapping[tuple[int, Tier], float] | None = None) -> None:
        self.seconds = dict(measured or {})

    def __call__(self, batch: int, tier: Tier) -> float:
        """Expected seconds. A batch that was never measured has those of the next larger one, or
        else of the next smaller. A tier that was never measured has 0, so that it is tried."""
        known = sorted(size for size, measured in self.seconds if measured == tier)
        larger = [size for size in known if size >= batch]
        nearest = larger[:1] or known[-1:]
        return self.seconds[nearest[0], tier] if nearest else 0.0

    def measured(self, batch: int, tier: Tier, seconds: float) -> None:
        """Notes the time of a step that did nothing else."""
        self.seconds[batch, tier] = seconds

    def observe(self, batch: int, tier: Tier, seconds: float) -> None:
        """Learns from a step while serving."""
        usual = self.seconds.setdefault((batch, tier), seconds)
        surprise = min(seconds, _LARGEST_SURPRISE * usual) - usual
        self.seconds[batch, tier] = usual + _RATE * surprise


class _Gain(NamedTuple):
    """A candidate's chance of being reached and right."""

    chance: float
    depth: int


class TierChoice:
    """Chooses the tier for `auto`.

    Args:
        tiers: the tiers to choose from, plain decoding among them.
    """

    def __init__(
        self, costs: TierCosts, calibration: Calibration, tiers: Sequence[Tier] = AUTO_TIERS
    ) -> None:
        self.costs = costs
        self.calibration = calibration
        self.tiers = tiers
        deepest = max(tier.depth for tier in tiers)
        first = [_Gain(FIRST_CHANCE**depth, depth) for depth in range(1, deepest + 1)]
        self._latest = deque([first], maxlen=NUM_LATEST)
        self._expected: dict[Tier, float] = {}
        self._num_choices = 0
        self._num_plain = 0

    def observe(self, proposal: Proposal) -> None:
        """Adds a chain that was drafted. Beyond its end it is assumed to go on as its tokens were
        in the mean."""
        length = len(proposal.confidences)
        if length == 0:
            return
        found = list(self.calibration.gains(proposal))
        gains = [_Gain(tokens, depth) for tokens, depth, _ in found]
        survival = next(tokens for tokens, depth, rank in found if (depth, rank) == (length, 0))
        usual = survival ** (1 / length)
        for depth in range(length + 1, max(tier.depth for tier in self.tiers) + 1):
            survival *= usual
            gains.append(_Gain(survival, depth))
        self._latest.append(sorted(gains, reverse=True))

    def __call__(self, batch: int) -> Tier:
        """The tier for the next step of `batch` sequences."""
        if self._num_choices % REFRESH_EVERY == 0:
            self._expected = {tier: self._mean(tier) for tier in self.tiers}
        self._num_choices += 1
        best = max(self.tiers, key=lambda tier: self._rate(batch, tier))
        self._num_plain = self._num_plain + 1 if best.depth == 0 else 0
        if self._num_plain >= PROBE_EVERY:
            self._num_plain = 0
            return min((t for t in self.tiers if t.depth), default=best)
        return best

    def _rate(self, batch: int, tier: Tier) -> float:
        seconds = self.costs(batch, tier)
        return (1 + self._expected[tier]) / seconds if seconds > 0 else math.inf

    def _mean(self, tier: Tier) -> float:
        """Mean number of tokens that a tier's nodes bring a sequence."""
        total = 0.0
        for gains in self._latest:
            within = [gain.chance for gain in gains if gain.depth <= tier.depth]
            total += sum(within[: tier.nodes - 1])
        return total / len(self._latest)
