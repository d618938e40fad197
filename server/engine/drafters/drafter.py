"""What proposes tokens, as the engine sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.calibration import Lines
from server.engine.speculation.proposal import Proposal
from server.engine.speculation.tree import TokenTree
from server.engine.types import RequestId


@dataclass(frozen=True, slots=True)
class Committed:
    """Tokens of one sequence whose target KV became final in this step."""

    planned: PlannedSequence
    token_ids: tuple[int, ...]
    """Tokens at positions start, start + 1 …"""
    start: int
    """The first position whose draft KV is not written yet."""
    hidden: torch.Tensor | None
    """[hidden] the target's final hidden state at the last committed position, None while the
    prompt is not complete."""


class EarlyStop(NamedTuple):
    """Ends a chain that is not worth drafting further: its survival, the product of its tokens'
    chances of acceptance, has fallen below a limit."""

    chance: Lines
    least: tuple[float, ...]
    """The limit of each sequence; 0 never ends a chain early."""

    @classmethod
    def never(cls, num_sequences: int) -> "EarlyStop":
        return cls(Lines((1.0,), (0.0,)), (0.0,) * num_sequences)


class Drafter(Protocol):
    """Proposes continuations. Called from the engine's thread only.

    A drafter with KV of its own keeps it under the sequence's block ids, complete for all full
    blocks of committed tokens: `commit` writes what drafting has not. Then a prefix hit, a
    preemption or a chunked prompt needs no special case.
    """

    @property
    def name(self) -> str: ...

    def draft(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
    ) -> list[Proposal]:
        """A chain per sequence, at most depths[i] ≥ 1 tokens long (shorter or empty where it has
        nothing to say). May write draft KV at the positions of the root and of all drafted tokens
        but the last.

        Args:
            stop: ends chains early; drafters to which tokens cost nothing need not heed it.
        """
        ...

    def draft_beams(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], width: int
    ) -> list[TokenTree]:
        """The tree of a beam search of this width per sequence, with every beam ever kept."""
        ...

    def commit(self, committed: Sequence[Committed]) -> None:
        """Completes the draft's own state for tokens that became final."""
        ...

    def forget(self, request_id: RequestId) -> None:
        """Drops what is kept beside the KV for a request that has ended."""
        ...
