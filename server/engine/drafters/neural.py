"""What GliDe and an independent draft model share: drafting chains and beams over paged KV."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch

from server.engine.drafters.drafter import Committed, EarlyStop
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.proposal import NUM_CANDIDATES, Proposal
from server.engine.speculation.tree import TokenTree
from server.engine.step.inputs import Nodes, StepInputs, build_inputs
from server.engine.types import RequestId
from server.kernels.dispatch import kernels_for


class Candidates(NamedTuple):
    """The most probable next tokens of some rows, best first."""

    token_ids: list[list[int]]
    confidences: list[list[float]]


class NeuralDrafter(ABC):
    """Drafts for all sequences at once, a depth per forward. A `Drafter`."""

    name: ClassVar[str]

    def __init__(self, block_size: int, device: torch.device) -> None:
        self.block_size = block_size
        self.device = device
        self._pending: dict[RequestId, Committed] = {}
        """Tokens whose draft KV is not written yet, all in a block that is not full."""

    @abstractmethod
    def _logits(
        self,
        inputs: StepInputs,
        rows: torch.Tensor,
        sequences: Sequence[PlannedSequence],
        depth: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Runs the draft on the nodes and writes their draft KV.

        Args:
            rows: rows whose logits are wanted.
            sequences: the sequences that the nodes belong to, in order.
            depth: depth of the drafted tokens, 1 and up: how many tokens the target's KV is behind.

        Returns:
            ([len(rows), vocab] float32, ids of the target's tokens [vocab], or by row
            [len(rows), vocab], or None if equal)
        """

    @abstractmethod
    def _fill(self, inputs: StepInputs) -> None:
        """Writes the nodes' draft KV, no logits."""

    def commit(self, committed: Sequence[Committed]) -> None:
        """Writes draft KV when a block is full, since others may find it then. Before that, the
        next draft of the sequence writes it, if there is one."""
        full = list[Committed]()
        for entry in map(self._joined, committed):
            end = entry.start + len(entry.token_ids)
            if end // self.block_size > entry.start // self.block_size:
                full.append(entry)
            elif entry.token_ids:
                self._pending[entry.planned.request_id] = entry
        self._write(full)

    def _joined(self, entry: Committed) -> Committed:
        """The entry with the pending tokens before it. They are void where a preempted request is
        computed anew."""
        pending = self._pending.pop(entry.planned.request_id, None)
        if pending is None or pending.start + len(pending.token_ids) != entry.start:
            return entry
        return replace(entry, token_ids=pending.token_ids + entry.token_ids, start=pending.start)

    def _take_pending(self, sequences: Sequence[PlannedSequence]) -> list[Committed]:
        """Tokens whose KV has to be written before the sequences can be drafted."""
        found = ((s, self._pending.pop(s.request_id, None)) for s in sequences)
        return [replace(entry, planned=s) for s, entry in found if entry is not None]

    def _write(self, entries: Sequence[Committed]) -> None:
        inputs = self._inputs(entries)
        if inputs is not None:
            self._fill(inputs)

    def _inputs(self, entries: Sequence[Committed]) -> StepInputs | None:
        """The rows that write draft KV; None if there is nothing to write."""
        if not entries:
            return None
        nodes = [Nodes(e.planned.block_ids, e.start, e.token_ids) for e in entries]
        return build_inputs(nodes, self.block_size, self.device)

    def forget(self, request_id: RequestId) -> None:
        self._pending.pop(request_id, None)

    def draft(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
    ) -> list[Proposal]:
        self._write(self._take_pending(sequences))
        drafted: list[tuple[list[tuple[int, ...]], list[tuple[float, ...]]]]
        drafted = [([], []) for _ in sequences]
        tokens = [sequence.token_ids[-1] for sequence in sequences]
        survivals = [1.0] * len(sequences)
        for step in range(max(depths, default=0)):
            active = [
                i
                for i, depth in enumerate(depths)
                if depth > step and survivals[i] >= stop.least[i]
            ]
            if not active:
                break
            nodes = [
                Nodes(sequences[i].block_ids, sequences[i].num_computed + step, (tokens[i],))
                for i in active
            ]
            inputs = build_inputs(nodes, self.block_size, self.device)
            rows = torch.arange(len(active), device=self.device)
            found = self._candidates(inputs, rows, [sequences[i] for i in active], step + 1)
            for i, token_ids, confidences in zip(active, *found, strict=True):
                drafted[i][0].append(tuple(token_ids))
                drafted[i][1].append(tuple(confidences))
                tokens[i] = token_ids[0]
                survivals[i] *= stop.chance(confidences[0])
        return [Proposal(tuple(ids), tuple(probabilities)) for ids, probabilities in drafted]

    def draft_beams(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], width: int
    ) -> list[TokenTree]:
        """Runs the whole tree again at every depth: simple, and enough for a baseline."""
        self._write(self._take_pending(sequences))
        beams = [_Beams(sequence.token_ids[-1], width) for sequence in sequences]
        for step in range(max(depths, default=0)):
            active = [i for i, depth in enumerate(depths) if depth > step]
            nodes = [
                Nodes(s.block_ids, s.num_computed, beams[i].token_ids, beams[i].tree())
                for i, s in ((i, sequences[i]) for i in active)
            ]
            inputs = build_inputs(nodes, self.block_size, self.device)
            wanted = [
                first + node
                for i, first in zip(active, inputs.first_rows, strict=True)
                for node in beams[i].newest
            ]
            rows = torch.tensor(wanted, device=self.device)
            found = self._candidates(inputs, rows, [sequences[i] for i in active], step + 1)
            start = 0
            for i in active:
                end = start + len(beams[i].newest)
                beams[i].extend(found.token_ids[start:end], found.confidences[start:end])
                start = end
        return [beam.tree() for beam in beams]

    def _candidates(
        self,
        inputs: StepInputs,
        rows: torch.Tensor,
        sequences: Sequence[PlannedSequence],
        depth: int,
    ) -> Candidates:
        logits, target_ids = self._logits(inputs, rows, sequences, depth)
        count = min(NUM_CANDIDATES, logits.shape[-1])
        indices, confidences = kernels_for(logits).top_candidates(logits, count)
        token_ids = indices
        if target_ids is not None:
            token_ids = target_ids.expand(len(indices), -1).gather(1, indices)
        return Candidates(token_ids.tolist(), confidences.tolist())


class _Beams:
    """A beam search in progress: the tree of all beams kept so far."""

    def __init__(self, root: int, width: int) -> None:
        self.width = width
        self.token_ids = [root]
        self.parents = list[int]()
        self.newest = [0]
        """Nodes at the current depth."""
        self._scores = [1.0]
        """The newest nodes' scores: the product of confidences from the root."""

    def tree(self) -> TokenTree:
        return TokenTree(tuple(self.token_ids), tuple(self.parents))

    def extend(self, token_ids: list[list[int]], confidences: list[list[float]]) -> None:
        """Keeps the `width` most probable continuations of the newest nodes.

        Args:
            token_ids, confidences: candidates below each of these nodes.
        """
        options = [
            (score * confidence, node, token_id)
            for node, score, ids, probabilities in zip(
                self.newest, self._scores, token_ids, confidences, strict=True
            )
            for token_id, confidence in zip(ids, probabilities, strict=True)
        ]
        best = sorted(options, reverse=True)[: self.width]
        self.newest = list(range(len(self.token_ids), len(self.token_ids) + len(best)))
        self._scores = [score for score, _, _ in best]
        for _, node, token_id in best:
            self.token_ids.append(token_id)
            self.parents.append(node)
