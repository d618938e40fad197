"""Rank 0's models: each call is sent to the workers, then made. The engine sees ordinary models.

All ranks must make the same calls in the same order, so one thread makes them, one after another.
"""

from collections.abc import Sequence
from typing import NoReturn

import torch

from server.engine.step.kv_cache import copy_kv
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import Caches, ChainEnds, DraftStep, Roots
from server.models.causal_lm import CausalLM
from server.models.glide import GlideModel
from server.parallel.calls import Call, CallName
from server.parallel.workers import Workers


class RemoteModel:
    """A language model on all ranks, as the engine's `Model`.

    Args:
        forward, logits: names of its calls.
    """

    def __init__(
        self, model: CausalLM, workers: Workers, forward: CallName = "forward",
        logits: CallName = "logits",
    ) -> None:  # fmt: skip
        self.model, self.workers = model, workers
        self._forward: CallName = forward
        self._logits: CallName = logits

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor:
        call = Call(self._forward, (token_ids, *batch_tensors(batch)), batch_numbers(batch))
        return self.workers.make(call, lambda: self.model(token_ids, caches, batch))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.workers.make(Call(self._logits, (hidden,)), lambda: self.model.logits(hidden))


class RemoteGlide:
    """A GliDe draft on all ranks, as the drafter's `Glide`. It says its fixed vocabulary alone, and
    takes no copy hint."""

    drafts_chains = False
    context_vocab_size = 0
    copy_hint = False

    def __init__(self, model: GlideModel, workers: Workers) -> None:
        self.model, self.workers = model, workers
        self.draft_token_ids = model.draft_token_ids
        self.glimpse_hidden = model.glimpse_hidden

    def draft(self, step: DraftStep, caches: Caches) -> torch.Tensor:
        if isinstance(step.verified_lens, torch.Tensor):
            raise ValueError("the ranks take lengths that the host knows")
        lens = {"verified_lens": step.verified_lens, "delay": (step.delay,)}
        tensors = step.token_ids, *batch_tensors(step.batch), step.hidden
        call = Call("glide", tensors, batch_numbers(step.batch) | lens)
        return self.workers.make(call, lambda: self.model.draft(step, caches))

    def head_rows(self, token_ids: torch.Tensor) -> NoReturn:
        raise RuntimeError("on several ranks the vocabulary is fixed")

    def fill(self, token_ids: torch.Tensor, batch: TreeBatch, caches: Caches) -> None:
        call = Call("fill", (token_ids, *batch_tensors(batch)), batch_numbers(batch))
        self.workers.make(call, lambda: self.model.fill(token_ids, batch, caches))

    def draft_chains(
        self,
        roots: Roots,
        ends: ChainEnds,
        caches: Caches,
        num_candidates: int,
    ) -> NoReturn:
        raise RuntimeError("no kernel drafts whole chains on several ranks")


class RemoteCopies:
    """`copy_kv` on all ranks, each of which moves the heads that it holds."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers

    def __call__(
        self, caches: Sequence[LayerCache], sources: Sequence[int], targets: Sequence[int]
    ) -> None:
        call = Call("copy_kv", (), {"sources": sources, "targets": targets})
        self.workers.make(call, lambda: copy_kv(caches, sources, targets))


def batch_tensors(batch: TreeBatch) -> tuple[torch.Tensor | None, ...]:
    return batch.positions, batch.slots, batch.block_tables, batch.ancestors


def batch_numbers(batch: TreeBatch) -> dict[str, Sequence[int]]:
    return {
        "context_lens": batch.context_lens,
        "node_counts": batch.node_counts,
        "block_size": (batch.block_size,),
    }
