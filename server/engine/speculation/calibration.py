"""How often a proposed token of a given confidence is accepted, learned while serving. Pure.

A draft's probabilities are not the chances of acceptance: under greedy decoding a token with
probability 0.5 may be right four times in five. Counts are kept per kind and confidence bin,
and forget slowly, so that the estimate follows the traffic.
"""

from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from itertools import pairwise
from typing import NamedTuple, get_args

from server.engine.speculation.proposal import Kind, Proposal

NUM_BINS = 10
_PRIOR_WEIGHT = 8.0
"""Observations that what is believed beforehand counts for, until there are real ones."""
TRUNK_POWER = 0.7
"""Of a draft's first choice the confidence to this power is believed beforehand: of the shipped
draft's, over greedy answers, 0.45 is right 58 times of 100, 0.75 is 85 (docs/log.md, "Where a row
costs a third of a step"). Where drafts are tried only now and then, there are too few observations
to learn that from, and drafting would seem not to pay for ever."""
_MEMORY = 0.999
"""What remains of a bin's counts after each new observation: about the last thousand count."""


class Lines(NamedTuple):
    """Chance of acceptance by confidence: a line in each of equal ranges between 0 and 1."""

    offsets: tuple[float, ...]
    slopes: tuple[float, ...]

    def __call__(self, confidence: float) -> float:
        index = min(int(confidence * len(self.offsets)), len(self.offsets) - 1)
        return min(self.offsets[index] + self.slopes[index] * confidence, 1.0)


@dataclass(slots=True)
class _Bin:
    seen: float = 0.0
    accepted: float = 0.0


@dataclass(slots=True)
class Calibration:
    """Chance of acceptance, given that everything above the token was accepted.

    Args:
        trunk_power: of the confidence of a draft's first choice, before anything was observed; with
            1, as for all other kinds, it is taken at its word.
    """

    trunk_power: InitVar[float] = TRUNK_POWER
    _bins: dict[Kind, list[_Bin]] = field(
        default_factory=lambda: {kind: [_Bin() for _ in range(NUM_BINS)] for kind in get_args(Kind)}
    )

    _prior: dict[Kind, Lines] = field(init=False)
    """What is believed beforehand, a line for each bin."""

    def __post_init__(self, trunk_power: float) -> None:
        self._prior = {kind: _power_lines(1.0) for kind in get_args(Kind)}
        self._prior["trunk"] = _power_lines(trunk_power)

    def chance(self, confidence: float, kind: Kind) -> float:
        """Estimated chance, between 0 and 1."""
        entry = self._bin(confidence, kind)
        total = entry.accepted + _PRIOR_WEIGHT * self._prior[kind](confidence)
        return min(total / (entry.seen + _PRIOR_WEIGHT), 1.0)

    def gains(self, proposal: Proposal) -> Iterator[tuple[float, int, int]]:
        """Expected tokens that each candidate brings, its depth from 1, and its rank, 0 for the
        trunk's. The trunk's token is reached and right with the product of the chances down to it;
        one beside it with that of the tokens above times its own chance, which can't be more than
        what the trunk leaves over."""
        survival = 1.0
        depths = zip(proposal.confidences, proposal.kinds, strict=True)
        for depth, (confidences, kinds) in enumerate(depths, start=1):
            first = self.chance(confidences[0], kinds[0])
            yield survival * first, depth, 0
            for rank in range(1, len(confidences)):
                chance = min(self.chance(confidences[rank], kinds[rank]), 1 - first)
                yield survival * chance, depth, rank
            survival *= first

    def lines(self, kind: Kind) -> Lines:
        """The chances of all tokens of a kind, as `chance` gives them."""
        offsets, slopes = list[float](), list[float]()
        for entry, offset, slope in zip(self._bins[kind], *self._prior[kind], strict=True):
            weight = 1 / (entry.seen + _PRIOR_WEIGHT)
            offsets.append((entry.accepted + _PRIOR_WEIGHT * offset) * weight)
            slopes.append(_PRIOR_WEIGHT * slope * weight)
        return Lines(tuple(offsets), tuple(slopes))

    def observe(self, confidence: float, kind: Kind, accepted: bool) -> None:
        """A token was verified whose parent had been accepted."""
        entry = self._bin(confidence, kind)
        entry.seen = entry.seen * _MEMORY + 1.0
        entry.accepted = entry.accepted * _MEMORY + accepted

    def _bin(self, confidence: float, kind: Kind) -> _Bin:
        return self._bins[kind][min(int(confidence * NUM_BINS), NUM_BINS - 1)]


def _power_lines(power: float) -> Lines:
    """The confidence to a power, as a line from end to end of each bin."""
    ends = [(i / NUM_BINS) ** power for i in range(NUM_BINS + 1)]
    slopes = tuple((high - low) * NUM_BINS for low, high in pairwise(ends))
    offsets = tuple(
        low - slope * i / NUM_BINS for i, (low, slope) in enumerate(zip(ends, slopes, strict=False))
    )
    return Lines(offsets, slopes)
