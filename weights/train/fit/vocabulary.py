"""The tokens a draft can propose: fixed ids, and those that stand in the sequence already.

Few ids cover most of a text, and most of the others that a target says stand in the text before.
So the head scores, beside its fixed ids, the sequence's own: the first `context_vocab_size`
distinct others, in the order in which they came.

    columns    0 .. V - 1    fixed ids, ascending
               V             no token: where labels go that the draft can't say
               V + 1 ..      the batch's own ids; a row may say those that its sequence has shown
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch

from server.errors import ConfigError
from weights.train.features.labels import SoftLabels
from weights.train.text.samples import Sample, TokenIds

NOT_KNOWN = -1


class OwnTokens(NamedTuple):
    """Ids beyond the fixed ones that stand in a batch's sequences."""

    token_ids: torch.Tensor
    """[U] int64"""
    first_seen: torch.Tensor
    """[B, U] int64: the position at which a sequence shows an id first; `NEVER` if it does not."""


NEVER = np.iinfo(np.int64).max


class BatchHead(NamedTuple):
    """The head's rows that a batch needs."""

    weight: torch.Tensor
    """[V + 1 + U, hidden]: of the fixed ids, of no token (zeros), of the batch's own."""
    num_fixed: int
    """V"""


class KnownLabels(NamedTuple):
    """Soft labels as far as the draft can say them."""

    probs: torch.Tensor
    """[rows, k] float: 0 where the draft lacks the token."""
    columns: torch.Tensor
    """[rows, k] int64: the column of "no token" there."""
    rest: torch.Tensor
    """[rows] float: the target's mass beyond its k best."""
    best: torch.Tensor
    """[rows] int64: column of the target's most probable token; `NOT_KNOWN` where the draft lacks
    it."""


class Vocabulary:
    """A draft's vocabulary in training.

    Args:
        token_ids: [V] int64, ascending: the fixed ids.
        head: [vocab_size, hidden] the target's head, in the precision to multiply in.
        most_own: most of a sequence's own ids that are scored beside the fixed ones.
    """

    def __init__(self, token_ids: torch.Tensor, head: torch.Tensor, most_own: int) -> None:
        self.token_ids, self.most_own = token_ids.to(head.device), most_own
        self._head = head
        self._fixed_rows = torch.cat((head[self.token_ids], torch.zeros_like(head[:1])))
        self._columns = torch.full((len(head),), len(token_ids), device=head.device)
        self._columns[self.token_ids] = torch.arange(len(token_ids), device=head.device)
        self._is_fixed = (self._columns < len(token_ids)).cpu().numpy()

    @property
    def device(self) -> torch.device:
        return self._head.device

    def own(self, sequences: Sequence[TokenIds]) -> OwnTokens:
        """What the sequences of a batch show beyond the fixed ids."""
        firsts = [self._first_seen(ids) for ids in sequences]
        union = sorted(set().union(*firsts))
        seen = [[first.get(token_id, NEVER) for token_id in union] for first in firsts]
        return OwnTokens(
            torch.tensor(union, dtype=torch.int64),
            torch.tensor(seen, dtype=torch.int64).reshape(len(sequences), len(union)),
        )

    def _first_seen(self, ids: TokenIds) -> dict[int, int]:
        if not self.most_own:
            return {}
        others = np.flatnonzero(~self._is_fixed[ids])
        unique, index = np.unique(ids[others], return_index=True)
        order = np.argsort(index)[: self.most_own]
        return dict(zip(unique[order].tolist(), others[index[order]].tolist(), strict=True))

    def head(self, own: OwnTokens) -> BatchHead:
        """The head's rows for a batch whose own tokens these are."""
        rows = self._fixed_rows
        if len(own.token_ids):
            rows = torch.cat((rows, self._head[own.token_ids]))
        return BatchHead(rows, len(self.token_ids))

    def known(self, labels: SoftLabels, is_shown: torch.Tensor, own: OwnTokens) -> KnownLabels:
        """The labels as far as the draft can say them.

        Args:
            is_shown: [rows, U] bool, which of the batch's own ids a row's sequence has shown.
        """
        probs, ids = labels.probs.float(), labels.token_ids.long()
        columns, no_token = self._columns[ids], len(self.token_ids)
        if len(own.token_ids):
            at = torch.searchsorted(own.token_ids, ids).clamp(max=len(own.token_ids) - 1)
            says = (own.token_ids[at] == ids) & is_shown.gather(1, at)
            columns = torch.where(says, no_token + 1 + at, columns)
        is_known = columns != no_token
        best = torch.where(is_known[:, 0], columns[:, 0], NOT_KNOWN)
        return KnownLabels(probs * is_known, columns, labels.rest.float(), best)


def draft_vocabulary(
    samples: Sequence[Sample], size: int, vocab_size: int, always: Collection[int]
) -> torch.Tensor:
    """The ids learnt most often, ascending; equally frequent ones by id, so that text with few
    distinct tokens is filled up with the lowest other ids.

    Args:
        always: ids that are included however rare they are: those that end a turn.

    Returns:
        [size] int64, or the whole vocabulary if that is smaller.

    Raises:
        ConfigError: more ids are always in than there is room for.
    """
    size = min(size, vocab_size)
    if len(always) > size:
        reason = f"the {len(always)} tokens that end a turn need more room"
        raise ConfigError("draft_vocab_size", size, reason)
    counts = np.zeros(vocab_size, dtype=np.int64)
    for sample in samples:
        counts += np.bincount(sample.token_ids[sample.first_loss + 1 :], minlength=vocab_size)
    counts[list(always)] = np.iinfo(np.int64).max
    order = np.argsort(-counts, kind="stable")
    return torch.from_numpy(np.sort(order[:size]))
