"""What a drafter found for one sequence, before a policy shapes it. Pure."""

from dataclasses import dataclass
from typing import Literal

Source = Literal["draft", "lookup"]
"""Whether a model drafted a chain, or it was found in the text (`ngram_drafter.py`)."""
NUM_CANDIDATES = 8
"""Tokens a drafter reports per depth: the trunk's and seven alternatives, CaPE's widest."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A drafted chain, and what else might have stood at each depth."""

    candidates: tuple[tuple[int, ...], ...]
    """Per depth 1, 2 …: tokens by falling probability; the first is the trunk's."""
    confidences: tuple[tuple[float, ...], ...]
    """Their probabilities under the draft at temperature 1; for a lookup, what is claimed."""
    source: Source = "draft"
    """Of a lookup there is no draft KV, and its confidences mean something else."""
    num_forced: int = 0
    """Depths at the end that a grammar forces, whoever proposed what is above them."""

    @property
    def trunk(self) -> tuple[int, ...]:
        return tuple(tokens[0] for tokens in self.candidates)

    @property
    def num_proposed(self) -> int:
        """Depths that its source proposed."""
        return len(self.candidates) - self.num_forced
