"""What lookup finds in the sequences of a batch: the hint of a draft that copies.

The rule is the engine's (`server/engine/speculation/lookup.py`), at every token of a sequence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from server.engine.speculation.lookup import matches
from server.kernels.types import CopyHints
from weights.train.text.samples import TokenIds

NOWHERE = -1


class CopySources(NamedTuple):
    """Where the last tokens of sequences occurred before, per token as if it were the last."""

    starts: torch.Tensor
    """[B, T] int64: position of the token that followed; `NOWHERE` if there is none."""
    num_equal: torch.Tensor
    """[B, T] int64: how many tokens before it are equal; 0 if there is none."""

    def behind(
        self, token_ids: torch.Tensor, roots: torch.Tensor, delays: torch.Tensor
    ) -> CopyHints:
        """What is expected `delays` tokens behind the tokens at `roots`.

        Args:
            token_ids: [B, T]
            roots, delays: [B, R]

        Returns:
            [B, R] tensors.
        """
        starts = self.starts.gather(1, roots)
        is_there = starts != NOWHERE
        period = torch.where(is_there, roots + 1 - starts, 1)
        found = token_ids.gather(1, starts.clamp(min=0) + (delays - 1) % period)
        return CopyHints(found.where(is_there, NOWHERE), self.num_equal.gather(1, roots))

    def forgetting(self, share: float, generator: torch.Generator) -> "CopySources":
        """The same without what is behind a random share of the tokens: where nothing is looked up
        (steps on a GPU, several ranks) the draft has to do without."""
        is_kept = torch.rand(self.starts.shape, generator=generator) >= share
        return CopySources(self.starts.where(is_kept, NOWHERE), self.num_equal * is_kept)


def sources_of(token_ids: TokenIds) -> CopySources:
    """Looks behind every token of a sequence [tokens]."""
    found = matches(token_ids.tolist())
    return CopySources(
        torch.tensor([NOWHERE if match is None else match.start for match in found]),
        torch.tensor([0 if match is None else match.num_equal for match in found]),
    )


def side_by_side(sources: Sequence[CopySources]) -> CopySources:
    """Those of several sequences, padded to the longest."""
    starts, num_equal = ([s.starts for s in sources], [s.num_equal for s in sources])
    padded = torch.nn.utils.rnn.pad_sequence
    return CopySources(
        padded(starts, batch_first=True, padding_value=NOWHERE).long(),
        padded(num_equal, batch_first=True).long(),
    )
