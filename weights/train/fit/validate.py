"""How well the draft does on held-out text: every row at every delay."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from weights.train.fit.batches import FeatureReader, Located, TrainBatch, group_padded
from weights.train.fit.draft import TrainableDraft
from weights.train.fit.head_loss import batch_loss
from weights.train.fit.parallel import Workers
from weights.train.fit.vocabulary import Vocabulary


class Validation(NamedTuple):
    loss: float
    """Mean over rows and delays."""
    agreement: tuple[float, ...]
    """Per delay from 1: how often the draft's best token is the target's."""
    chain_tokens: float
    """Tokens a greedy step of a chain as long as the longest delay gives: 1 and, from every
    position, the tokens right in a row. Along the text, so that where that was sampled, a chain
    goes on behind tokens the target would not have chosen."""


class Validator:
    def __init__(
        self,
        reader: FeatureReader,
        samples: Sequence[Located],
        micro_tokens: int,
        workers: Workers,
    ) -> None:
        ordered = sorted(samples, key=lambda located: located.sample.num_tokens)
        self.batches = list(group_padded(ordered, micro_tokens))
        self.reader, self.workers = reader, workers

    def __call__(
        self, draft: TrainableDraft, vocabulary: Vocabulary, dtype: torch.dtype
    ) -> Validation | None:
        """None where nothing is held out."""
        if not self.batches:
            return None
        device = draft.embedding.device
        max_delay = draft.config.max_delay
        loss, rows = 0.0, 0
        right, chains, starts = torch.zeros(max_delay), 0.0, 0
        for samples in self.batches:
            batch = self.reader.batch(samples).to(device, dtype)
            looks = self.workers.map(
                partial(_look, draft, vocabulary, dtype, batch), range(1, max_delay + 1)
            )
            loss += sum(total for total, _ in looks)
            rows += int(batch.is_row.sum()) * max_delay
            grid = torch.stack([matches for _, matches in looks])
            right += grid.flatten(1).sum(dim=1).cpu()
            tokens, count = chain_tokens(grid, batch.is_row)
            chains, starts = chains + tokens, starts + count
        per_delay = rows / max_delay
        agreement = tuple((right / max(per_delay, 1)).tolist())
        return Validation(loss / max(rows, 1), agreement, chains / max(starts, 1))


@torch.no_grad()
def _look(
    draft: TrainableDraft,
    vocabulary: Vocabulary,
    dtype: torch.dtype,
    batch: TrainBatch,
    delay: int,
) -> tuple[float, torch.Tensor]:
    """Loss summed, and [B, R] bool: where the draft says what the target would."""
    delays = batch.positions.clamp(max=delay)
    with torch.autocast(vocabulary.device.type, dtype, enabled=dtype != torch.float32):
        x = draft(batch, delays)
    total, is_right = batch_loss(x, vocabulary, batch, delays)
    matches = torch.zeros_like(batch.is_row)
    matches[batch.is_row] = is_right
    return float(total), matches


def chain_tokens(matches: torch.Tensor, is_row: torch.Tensor) -> tuple[float, int]:
    """matches [delays, B, R] -> (sum over starting rows of 1 + tokens right in a row, rows). The
    chain from row r is right at depth d if row r + d - 1 is right at delay d."""
    depth, _, num_rows = matches.shape
    alive = is_row.clone()
    total = float(is_row.sum())
    for delay in range(1, depth + 1):
        ahead = torch.zeros_like(alive)
        shift = delay - 1
        if shift < num_rows:
            ahead[:, : num_rows - shift] = matches[delay - 1][:, shift:]
        alive = alive & ahead
        total += float(alive.sum())
    return total, int(is_row.sum())
