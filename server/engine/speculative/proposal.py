"""What a drafter found for one sequence, before a policy shapes it. Pure."""

from dataclasses import dataclass

NUM_CANDIDATES = 8
"""Tokens a drafter reports per depth: the trunk's and seven alternatives, CaPE's widest."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A drafted chain, and what else might have stood at each depth."""

    candidates: tuple[tuple[int, ...], ...]
    """Per depth 1, 2 …: tokens by falling probability; the first is the trunk's."""
    confidences: tuple[tuple[float, ...], ...]
    """Their probabilities under the draft at temperature 1."""

    @property
    def trunk(self) -> tuple[int, ...]:
        return tuple(tokens[0] for tokens in self.candidates)
