"""What is proposed for a sequence's next tokens, before a policy makes a tree of it: a chain, and
alternatives at each depth. It comes from a draft, a lookup, a grammar, or a mix of these. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["trunk", "leaf", "lookup", "recent", "forced"]
"""Where a token comes from: the draft's first choice, or another of its candidates; the text of the
sequence (prompt lookup); a recent answer of this server; a grammar that leaves no choice."""
NUM_CANDIDATES = 8
"""Tokens a drafter reports per depth: the trunk's and seven alternatives, CaPE's widest."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A chain, and alternatives beside it."""

    candidates: tuple[tuple[int, ...], ...]
    """Per depth 1, 2 …: tokens, the likeliest first; the first is the trunk's."""
    confidences: tuple[tuple[float, ...], ...]
    """Confidence of each candidate: a draft's probabilities at temperature 1, or a lookup's
    claim."""
    kinds: tuple[tuple[Kind, ...], ...] = ()
    """Kind of each candidate. Left out, all are a draft's."""
    num_written: int = -1
    """Positions from the root on for which drafting has written the draft's KV, as far as they
    are the trunk's. Left out, as many as there are depths: all but the last token's."""

    def __post_init__(self) -> None:
        if not self.kinds and self.candidates:
            made = tuple(("trunk", *["leaf"] * (len(tokens) - 1)) for tokens in self.candidates)
            object.__setattr__(self, "kinds", made)
        if self.num_written < 0:
            object.__setattr__(self, "num_written", len(self.candidates))

    @property
    def trunk(self) -> tuple[int, ...]:
        return tuple(tokens[0] for tokens in self.candidates)

    @property
    def num_forced(self) -> int:
        """Depths at the end that a grammar forces, whatever proposed the tokens above them."""
        return sum(kinds[0] == "forced" for kinds in self.kinds)

    @property
    def num_proposed(self) -> int:
        """Depths that are not forced."""
        return len(self.candidates) - self.num_forced

    def kind(self, depth: int, token_id: int) -> Kind:
        """The kind of a candidate; depth: from 1."""
        return self.kinds[depth - 1][self.candidates[depth - 1].index(token_id)]


def found(token_ids: Sequence[int], claims: Sequence[float], kind: Kind) -> Proposal:
    """A chain that was looked up: drafting has written no KV for it."""
    kinds: tuple[Kind, ...] = (kind,)
    return Proposal(
        tuple((token_id,) for token_id in token_ids),
        tuple((claim,) for claim in claims),
        (kinds,) * len(token_ids),
        num_written=0,
    )


def mix(drafted: Proposal, looked_up: Proposal, chance: Callable[[float, Kind], float]) -> Proposal:
    """One proposal of two. Where their trunks part, the likelier one goes on, and the other's token
    stands beside it:

        drafted    a  b  c        mixed, if d is likelier than b     a  d  e
        looked up  a  d  e                                             b

    Args:
        chance: chance of acceptance by confidence and kind.
    """
    shared = _num_equal(drafted.trunk, looked_up.trunk)
    depths = [_joined(drafted, looked_up, depth, chance) for depth in range(shared)]
    num_written = drafted.num_written
    rest = max(drafted, looked_up, key=lambda proposal: len(proposal.candidates))
    if shared < min(len(drafted.candidates), len(looked_up.candidates)):
        own, other = _at(drafted, shared), _at(looked_up, shared)
        rest = drafted
        if chance(other[1][0], other[2][0]) > chance(own[1][0], own[2][0]):
            rest, num_written = looked_up, min(num_written, shared + 1)
            own, other = other, own
        depths.append(_beside(own, other))
    depths += [_at(rest, depth) for depth in range(len(depths), len(rest.candidates))]
    candidates, confidences, kinds = zip(*depths, strict=True) if depths else ((), (), ())
    return Proposal(candidates, confidences, kinds, num_written)


_Depth = tuple[tuple[int, ...], tuple[float, ...], tuple[Kind, ...]]
"""Candidates, confidences and kinds of one depth."""


def _at(proposal: Proposal, depth: int) -> _Depth:
    return proposal.candidates[depth], proposal.confidences[depth], proposal.kinds[depth]


def _joined(
    drafted: Proposal, looked_up: Proposal, depth: int, chance: Callable[[float, Kind], float]
) -> _Depth:
    """One depth of two proposals with the same trunk token, which keeps the higher confidence."""
    tokens, confidences, kinds = _at(drafted, depth)
    _, claims, sayers = _at(looked_up, depth)
    if chance(claims[0], sayers[0]) > chance(confidences[0], kinds[0]):
        confidences, kinds = claims[:1] + confidences[1:], sayers[:1] + kinds[1:]
    return tokens, confidences, kinds


def _beside(first: _Depth, second: _Depth) -> _Depth:
    """One depth of two: the first one's trunk token, the second one's, then all others, each
    once."""
    entries = [list(zip(*depth, strict=True)) for depth in (first, second)]
    ordered = [entries[0][0], entries[1][0], *entries[0][1:], *entries[1][1:]]
    unique = {entry[0]: entry for entry in reversed(ordered)}
    kept = [entry for entry in ordered if unique.pop(entry[0], None) is not None]
    tokens, confidences, kinds = zip(*kept, strict=True)
    return tokens, confidences, kinds


def _num_equal(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
