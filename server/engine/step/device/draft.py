"""Chains of all sequences of a step, drafted on the device.

Its twin is `step/host/draft.py`. Here every sequence is drafted as deep as the step's tier, and
nothing is looked up in the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from server.engine.speculation.proposal import NUM_CANDIDATES
from server.engine.speculation.tiers import StepShape
from server.engine.step.device.addresses import Addresses
from server.engine.step.device.seats import Rows
from server.kernels.dispatch import kernels_for
from server.kernels.tree import LayerCache, TreeBatch


class DeviceGlide(Protocol):
    """What is needed of `models/glide.py`; where the host knows no lengths, they are tensors."""

    draft_token_ids: torch.Tensor
    glimpse_hidden: bool

    def draft(
        self,
        token_ids: torch.Tensor,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        batch: TreeBatch,
        verified_lens: torch.Tensor,
        hidden: torch.Tensor | None,
        delay: int,
    ) -> torch.Tensor: ...

    def fill(
        self,
        token_ids: torch.Tensor,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        batch: TreeBatch,
    ) -> None: ...


class Drafted(NamedTuple):
    """A draft's chains: candidates of each depth, the first of which was continued."""

    token_ids: torch.Tensor
    """[batch, depth, candidates] int64, by falling probability."""
    confidences: torch.Tensor
    """[batch, depth, candidates] float32"""


@dataclass(frozen=True, slots=True)
class DeviceDraft:
    """A GliDe draft over its KV and that of the target."""

    model: DeviceGlide
    caches: Sequence[LayerCache]
    target_caches: Sequence[LayerCache]

    def __call__(self, rows: Rows, shape: StepShape, addresses: Addresses) -> Drafted:
        """Chains as deep as the tier, each continuing with the most probable token."""
        found = list[tuple[torch.Tensor, torch.Tensor]]()
        tokens = rows.tokens
        for step in range(shape.tier.depth):
            logits = self._logits(rows, tokens, step, shape, addresses)
            count = min(NUM_CANDIDATES, logits.shape[1])
            columns, confidences = kernels_for(logits).top_candidates(logits, count)
            candidates = self.model.draft_token_ids[columns]
            found.append((candidates, confidences))
            tokens = candidates[:, 0]
        if not found:
            return nothing_drafted(rows, shape)
        token_ids, confidences = zip(*found, strict=True)
        return Drafted(torch.stack(token_ids, dim=1), torch.stack(confidences, dim=1))

    def complete(
        self,
        rows: Rows,
        tokens: torch.Tensor,
        last: torch.Tensor,
        shape: StepShape,
        addresses: Addresses,
    ) -> None:
        """Writes the draft's KV of the last committed tokens: of those above drafting has.

        Args:
            tokens, last: [batch] their ids, and their positions.
        """
        place = last[:, None]
        batch = addresses.batch(rows, place, place, rows.is_live[:, None], last, shape)
        self.model.fill(tokens, self.caches, self.target_caches, batch)

    def _logits(
        self, rows: Rows, tokens: torch.Tensor, step: int, shape: StepShape, addresses: Addresses
    ) -> torch.Tensor:
        """[batch, draft vocabulary] behind the tokens that were drafted last."""
        # Of a chain no more is kept than there are slots for.
        is_kept = rows.is_live & (step < rows.max_nodes)
        place = (rows.contexts + step)[:, None]
        batch = addresses.batch(rows, place, place, is_kept[:, None], place[:, 0], shape)
        hidden = rows.hidden if self.model.glimpse_hidden else None
        return self.model.draft(
            *(tokens, self.caches, self.target_caches, batch, rows.contexts, hidden, step + 1)
        )


def nothing_drafted(rows: Rows, shape: StepShape) -> Drafted:
    """Chains of no tokens, for plain decoding."""
    nothing = rows.tokens.new_empty(shape.batch, 0, NUM_CANDIDATES)
    return Drafted(nothing, nothing.float())
