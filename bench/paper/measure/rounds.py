"""What speculation did in one answer, and the paper's figures of it. Pure.

A *round* is a decoding step in which something was proposed. Position i of a chain is *judged* when
positions 1 … i - 1 were accepted: then the target either accepts it or draws another token, the
round's one *first rejection*. Deeper positions are never judged. So

    conditional acceptance at i  =  accepted at i / judged at i
    acceptance rate α            =  accepted / (accepted + first rejections)
                                 =  sum over i of accepted at i / sum over i of judged at i

α is the maximum-likelihood estimate of the paper's model (each judged token is accepted with one
chance α, independently), which its expected speedup assumes. A round whose answer ends inside the
accepted tokens, by an end token or max_tokens, has no rejection: what lies deeper was not judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One decoding step of one answer. Times in seconds, 0 for plain decoding."""

    num_tokens: int
    """Emitted tokens, the target's own included."""
    num_accepted: int
    """Emitted tokens that had been proposed."""
    depth: int = 0
    """Longest proposed path; 0 where nothing was proposed."""
    num_nodes: int = 1
    """Rows verified, the root included."""
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    other_seconds: float = 0.0

    @property
    def num_judged(self) -> int:
        """Positions of a chain that the target has judged, see the module."""
        was_cut = self.num_accepted == self.num_tokens
        return min(self.num_accepted + (not was_cut), self.depth)


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy answer; the first token is the prompt's, all others came in `steps`."""

    token_ids: tuple[int, ...]
    decode_seconds: float
    """First to last token."""
    steps: tuple[Step, ...]

    @property
    def num_decoded(self) -> int:
        """Tokens after the first one."""
        return len(self.token_ids) - 1

    def seconds(self, part: str) -> float:
        """Seconds of a part: draft, verify or other."""
        return sum(getattr(step, f"{part}_seconds") for step in self.steps)


@dataclass(frozen=True, slots=True)
class PositionCounts:
    """An entry for each position 1, 2 … of a chain."""

    accepted: tuple[int, ...]
    judged: tuple[int, ...]


def position_counts(steps: Sequence[Step]) -> PositionCounts:
    """Adds up an answer's rounds. Example: rounds of depth 3 that accept 3, 1 and 0 tokens

    position   1  2  3
    accepted   2  1  1
    judged     3  2  1
    """
    deepest = max((step.depth for step in steps), default=0)
    accepted, judged = [0] * deepest, [0] * deepest
    for step in steps:
        for i in range(min(step.num_accepted, deepest)):
            accepted[i] += 1
        for i in range(step.num_judged):
            judged[i] += 1
    return PositionCounts(tuple(accepted), tuple(judged))


def expected_speedup(acceptance: float, relative_cost: float, depth: int) -> float:
    """The paper's formula (after Leviathan et al., 2023, theorem 3.8): expected tokens of a round
    over its cost in plain steps, if verifying a chain takes no longer than a plain step.

        E = (1 - α^(γ + 1)) / ((1 - α) (γ c + 1))

    Args:
        acceptance: α, 0 … 1.
        relative_cost: c, one draft step in plain steps.
        depth: γ, drafted tokens.
    """
    tokens = sum(acceptance**i for i in range(depth + 1))
    return tokens / (depth * relative_cost + 1)
