"""Chains of all sequences of a step, drafted on the device.

Its twin is `step/host/draft.py`. Here every sequence is drafted as deep as the step's tier, and
nothing is looked up in the text.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from server.engine.drafters.glide import Glide
from server.engine.speculation.proposal import NUM_CANDIDATES
from server.engine.speculation.tiers import StepShape
from server.engine.step.device.addresses import Addresses
from server.engine.step.device.seats import Rows
from server.kernels.dispatch import kernels_for
from server.kernels.types import Caches, DraftStep


class Drafted(NamedTuple):
    """A draft's chains: candidates of each depth, the first of which was continued."""

    token_ids: torch.Tensor
    """[batch, depth, candidates] int64, by falling probability."""
    confidences: torch.Tensor
    """[batch, depth, candidates] float32"""


@dataclass(frozen=True, slots=True)
class DeviceDraft:
    """A GliDe draft over its KV and that of the target."""

    model: Glide
    caches: Caches

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
        """Writes the draft's KV of the last committed tokens; drafting has written that of the
        tokens before them.

        Args:
            tokens, last: [batch] their ids, and their positions.
        """
        place = last[:, None]
        batch = addresses.batch(rows, place, place, rows.is_live[:, None], last, shape)
        self.model.fill(tokens, batch, self.caches)

    def _logits(
        self, rows: Rows, tokens: torch.Tensor, step: int, shape: StepShape, addresses: Addresses
    ) -> torch.Tensor:
        """[batch, draft vocabulary] logits after the tokens that were drafted last."""
        # A chain's KV is kept only as far as there are slots for it.
        is_kept = rows.is_live & (step < rows.max_nodes)
        place = (rows.contexts + step)[:, None]
        batch = addresses.batch(rows, place, place, is_kept[:, None], place[:, 0], shape)
        hidden = rows.hidden if self.model.glimpse_hidden else None
        found = DraftStep(tokens, batch, rows.contexts, hidden, step + 1)
        return self.model.draft(found, self.caches)


def nothing_drafted(rows: Rows, shape: StepShape) -> Drafted:
    """Chains of no tokens, for plain decoding."""
    nothing = rows.tokens.new_empty(shape.batch, 0, NUM_CANDIDATES)
    return Drafted(nothing, nothing.float())
