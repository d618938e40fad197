"""What lookup finds in the sequences of a batch: the hint of a draft that copies.

The rule is the engine's (`server/engine/speculation/lookup.py`), at every token of a sequence.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from server.engine.speculation.lookup import matches
from server.kernels.types import Copies
from weights.train.text.samples import TokenIds

NOWHERE = -1


class CopySources(NamedTuple):
    """Where the last tokens of sequences occurred before, per token as if it were the last."""

    starts: torch.Tensor
    """[B, T] int64: position of the token that followed; `NOWHERE` if there is none."""
    num_equal: torch.Tensor
    """[B, T] int64: how many tokens before it are equal; 0 if there is none."""

    def behind(self, token_ids: torch.Tensor, roots: torch.Tensor, delays: torch.Tensor) -> Copies:
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
        return Copies(found.where(is_there, NOWHERE), self.num_equal.gather(1, roots))

    def forgetting(self, share: float, generator: torch.Generator) -> "CopySources":
        """The same without what is behind a random share of the tokens: where nothing is looked up
        (steps on a GPU, several ranks) the draft has to do without."""
        is_kept = torch.rand(self.starts.shape, generator=generator) >= share
        return CopySources(self.starts.where(is_kept, NOWHERE), self.num_equal * is_kept)


def copy_sources(sequences: Sequence[TokenIds]) -> CopySources:
    """Looks behind every token of the sequences, which are padded to the longest."""
    found = [matches(ids.tolist()) for ids in sequences]
    starts = [torch.tensor([NOWHERE if m is None else m.start for m in of]) for of in found]
    num_equal = [torch.tensor([0 if m is None else m.num_equal for m in of]) for of in found]
    padded = torch.nn.utils.rnn.pad_sequence
    return CopySources(
        padded(starts, batch_first=True, padding_value=NOWHERE), padded(num_equal, batch_first=True)
    )
