"""How often a proposed token of a given confidence is accepted, learned while serving. Pure.

A draft's probabilities are not the chances of acceptance: under greedy decoding a token with
probability 0.5 may be right four times in five. Counts are kept per kind and confidence bin,
and forget slowly, so that the estimate follows the traffic.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

from server.engine.speculation.proposal import Kind, Proposal

NUM_BINS = 10
_PRIOR_WEIGHT = 8.0
"""Observations that the confidence itself counts for, until there are real ones."""
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
    """Chance of acceptance, given that everything above the token was accepted."""

    _bins: dict[Kind, list[_Bin]] = field(
        default_factory=lambda: {kind: [_Bin() for _ in range(NUM_BINS)] for kind in get_args(Kind)}
    )

    def chance(self, confidence: float, kind: Kind) -> float:
        """Estimated chance, between 0 and 1."""
        entry = self._bin(confidence, kind)
        total = entry.accepted + _PRIOR_WEIGHT * confidence
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
        bins = self._bins[kind]
        weights = [1 / (entry.seen + _PRIOR_WEIGHT) for entry in bins]
        return Lines(
            tuple(e.accepted * weight for e, weight in zip(bins, weights, strict=True)),
            tuple(_PRIOR_WEIGHT * weight for weight in weights),
        )

    def observe(self, confidence: float, kind: Kind, accepted: bool) -> None:
        """A token was verified whose parent had been accepted."""
        entry = self._bin(confidence, kind)
        entry.seen = entry.seen * _MEMORY + 1.0
        entry.accepted = entry.accepted * _MEMORY + accepted

    def _bin(self, confidence: float, kind: Kind) -> _Bin:
        return self._bins[kind][min(int(confidence * NUM_BINS), NUM_BINS - 1)]
