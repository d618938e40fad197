"""GliDe as draft: reads the target's paged KV (paper §3.1). Its model is `models/glide.py`."""

from collections.abc import Sequence
from typing import Protocol

import torch

from server.engine.drafters.context_tokens import ContextTokens, token_columns
from server.engine.drafters.drafter import Committed, EarlyStop
from server.engine.drafters.neural import NeuralDrafter
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.lookup import TextIndexes, source
from server.engine.speculation.proposal import NUM_CANDIDATES, Proposal
from server.engine.step.inputs import StepInputs
from server.engine.types import RequestId
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import (
    Caches,
    Chain,
    ChainEnds,
    CopyHints,
    DraftStep,
    OwnTokens,
    Roots,
)


class Glide(Protocol):
    """What the drafter needs of `models/glide.py`."""

    draft_token_ids: torch.Tensor
    glimpse_hidden: bool
    context_vocab_size: int
    copy_hint: bool

    def head_rows(self, token_ids: torch.Tensor) -> torch.Tensor: ...

    @property
    def drafts_chains(self) -> bool: ...

    def draft_chains(
        self,
        roots: Roots,
        ends: ChainEnds,
        caches: Caches,
        num_candidates: int,
    ) -> list[Chain]: ...

    def draft(self, step: DraftStep, caches: Caches) -> torch.Tensor: ...

    def fill(self, token_ids: torch.Tensor, batch: TreeBatch, caches: Caches) -> None: ...


class GlideDrafter(NeuralDrafter):
    """Drafts with a GliDe model.

    Args:
        caches: the draft's own layers, under the target's block ids.
        target_caches: all layers of the target.
        texts: the sequences' indexes, which others may use too.
    """

    name = "glide"

    def __init__(
        self,
        model: Glide,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        block_size: int,
        device: torch.device,
        texts: TextIndexes | None = None,
    ) -> None:
        super().__init__(block_size, device)
        self.model = model
        self.texts = texts or TextIndexes()
        self.caches = Caches(caches, target_caches)
        self._hidden: dict[RequestId, torch.Tensor] = {}
        """The target's final hidden state at the last committed position."""
        self._context: ContextTokens | None = None
        if model.context_vocab_size:
            self._context = ContextTokens(
                model.draft_token_ids, model.context_vocab_size, model.head_rows
            )

    def commit(self, committed: Sequence[Committed]) -> None:
        super().commit(committed)
        if self.model.glimpse_hidden:
            for entry in committed:
                if entry.hidden is not None:
                    # A copy: a view would keep the hidden states of the whole step in memory.
                    self._hidden[entry.planned.request_id] = entry.hidden.clone()

    def forget(self, request_id: RequestId) -> None:
        super().forget(request_id)
        self._hidden.pop(request_id, None)
        self.texts.forget(request_id)
        if self._context is not None:
            self._context.forget(request_id)

    def hand_over(self, sequences: Sequence[PlannedSequence]) -> list[torch.Tensor | None]:
        """Hands sequences over to the device's steps (`step/device`): completes their draft KV.

        Returns:
            The hidden state at each one's last committed position; None where none is known.
        """
        self._write(self._take_pending(sequences))
        if self._context is not None:
            for sequence in sequences:  # steps on the device say the fixed vocabulary alone
                self._context.forget(sequence.request_id)
        return [self._hidden.pop(s.request_id, None) for s in sequences]

    def draft(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
    ) -> list[Proposal]:
        if not self.model.drafts_chains:
            return super().draft(sequences, depths, stop)
        # The kernel wants the longest chains first.
        order = sorted(range(len(sequences)), key=lambda i: -depths[i])
        roots = self._roots([sequences[i] for i in order], [depths[i] for i in order])
        num_candidates = min(NUM_CANDIDATES, len(self.model.draft_token_ids))
        ends = ChainEnds([stop.least[i] for i in order], stop.chance.offsets, stop.chance.slopes)
        found = self.model.draft_chains(roots, ends, self.caches, num_candidates)
        proposals = {i: Proposal(*drafted) for i, drafted in zip(order, found, strict=True)}
        return [proposals[i] for i in range(len(sequences))]

    def _roots(self, sequences: Sequence[PlannedSequence], depths: Sequence[int]) -> Roots:
        hidden = copied = num_equal = None
        if self.model.glimpse_hidden:
            hidden = [self._hidden[s.request_id] for s in sequences]
        if self.model.copy_hint:
            copied, num_equal = self._looked_up(sequences, range(max(depths)))
        return Roots(
            token_ids=[s.token_ids[-1] for s in sequences],
            starts=[s.num_computed for s in sequences],
            depths=depths,
            block_tables=[s.block_ids for s in sequences],
            block_size=self.block_size,
            hidden=hidden,
            own=self._own_tokens(sequences),
            copied=copied,
            num_equal=num_equal,
            behind=self._behind(sequences),
        )

    def _behind(self, sequences: Sequence[PlannedSequence]) -> list[tuple[int, ...]] | None:
        """Takes the tokens whose KV has to be written before the sequences can be drafted."""
        found = [self._pending.pop(s.request_id, None) for s in sequences]
        if not any(found):
            return None
        for entry, s in zip(found, sequences, strict=True):
            if entry is not None and entry.start + len(entry.token_ids) != s.num_computed:
                raise RuntimeError(f"{s.request_id}: tokens to be written that end elsewhere")
        return [() if entry is None else entry.token_ids for entry in found]

    def _looked_up(
        self, sequences: Sequence[PlannedSequence], places: Sequence[int]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """What lookup finds behind each sequence, and how many tokens are equal before it:
        [places][sequences] each, -1 and 0 where it finds nothing.

        Args:
            places: how many tokens behind the sequence's last one, 0 for the next one.
        """
        found = [(s.token_ids, self.texts.find(s.request_id, s.token_ids)) for s in sequences]
        token_ids = [
            [-1 if match is None else ids[source(match, len(ids), i)] for ids, match in found]
            for i in places
        ]
        num_equal = [[0 if match is None else match.num_equal for _, match in found]] * len(places)
        return token_ids, num_equal

    def _own_tokens(self, sequences: Sequence[PlannedSequence]) -> OwnTokens | None:
        return None if self._context is None else self._context.of(sequences)

    def _logits(
        self,
        inputs: StepInputs,
        rows: torch.Tensor,
        sequences: Sequence[PlannedSequence],
        depth: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        verified_lens = tuple(sequence.num_computed for sequence in sequences)
        hidden = self._hidden_rows(inputs, sequences)
        own = self._own_tokens(sequences)
        hints = None
        if self.model.copy_hint:
            counts = torch.tensor(inputs.batch.node_counts, device=self.device)
            parts = self._looked_up(sequences, (depth - 1,))
            hints = CopyHints(
                *(torch.tensor(p[0], device=self.device).repeat_interleave(counts) for p in parts)
            )
        step = DraftStep(inputs.token_ids, inputs.batch, verified_lens, hidden, depth, own, hints)
        logits, token_ids = self.model.draft(step, self.caches), self.model.draft_token_ids
        if own is None or not own.most:
            return logits[rows], token_ids
        return logits[rows], token_columns(token_ids, own, inputs.batch.node_counts)[rows]

    def _fill(self, inputs: StepInputs) -> None:
        self.model.fill(inputs.token_ids, inputs.batch, self.caches)

    def _hidden_rows(
        self, inputs: StepInputs, sequences: Sequence[PlannedSequence]
    ) -> torch.Tensor | None:
        if not self.model.glimpse_hidden:
            return None
        per_sequence = torch.stack([self._hidden[s.request_id] for s in sequences])
        counts = torch.tensor(inputs.batch.node_counts, device=per_sequence.device)
        return per_sequence.repeat_interleave(counts, dim=0)
