"""The GliDe draft (arXiv 2402.02082) over the paged caches of both models.

Its layers read the target's cache up to the last verified token. It knows tensors, not rounds: what
to draft, and for how long, is the engine's business.

The KV a one-layer draft writes depends on token and position alone, so a committed token's never
has to be computed again, and a prompt's costs one projection (`GlideModel.fill`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch

from server.kernels.dispatch import NativeGlide
from server.kernels.linear import LinearFn
from server.kernels.quantized import PartWeight, QuantizedWeight
from server.kernels.tree import TreeBatch, committed_view, strictly_earlier_view
from server.kernels.types import (
    Caches,
    Chain,
    ChainEnds,
    CopyHints,
    CosSin,
    DraftStep,
    Filling,
    OwnTokens,
    Roots,
)
from server.models.config import ModelConfig, RopeConfig
from server.models.decoder_layer import local_config
from server.models.glide_config import GlideConfig
from server.models.glide_layer import GlideLayer, GlideStep, layer_config
from server.models.layers import Placement, RMSNorm
from server.models.rope import RotaryEmbedding


class KVShape(NamedTuple):
    """What the draft's own self-attention keeps per token."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


class Pairing(NamedTuple):
    """A draft, its target, and where they run."""

    config: GlideConfig
    target: ModelConfig
    placement: Placement
    draft_token_ids: torch.Tensor
    """[draft_vocab] int64: the token behind each column of the logits."""
    context_head: PartWeight | None
    """[vocab_size, hidden]: the target's head, where the draft may say what a sequence shows; None
    where it may not."""


class GlideModel(ABC):
    """A draft that is ready to run."""

    drafts_chains = False
    """Whether this machine has a kernel for `draft_chains`."""

    def __init__(self, pairing: Pairing) -> None:
        self.config, self.target, self.placement, self.draft_token_ids, self._head = pairing
        own = layer_config(self.config)
        num_kv_heads = local_config(own, self.placement.shard).num_kv_heads
        self.cache_shape = KVShape(own.num_layers, num_kv_heads, own.head_dim)
        self.glimpse_hidden = self.config.glimpse_hidden
        self.copy_hint = self.config.copy_hint
        self.context_vocab_size = 0 if self._head is None else self.config.context_vocab_size

    def head_rows(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Rows of the target's head [n, hidden] for token ids [n]; with a `context_vocab_size`
        alone."""
        if self._head is None:
            raise RuntimeError("this draft has a fixed vocabulary")
        if isinstance(self._head, QuantizedWeight):
            return self._head.rows(token_ids).dequantize().to(self.placement.dtype)
        return self._head[token_ids.to(self._head.device)]

    @abstractmethod
    def draft(self, step: DraftStep, caches: Caches) -> torch.Tensor:
        """One drafting step; writes the rows' own KV.

        Returns:
            Logits [rows, draft_vocab + own.most] float32; column c is token `draft_token_ids[c]`,
            and those behind are the sequence's own, -inf where it has fewer. On ranks other than 0
            those of their part of the head.
        """

    @abstractmethod
    def fill(self, token_ids: torch.Tensor, batch: TreeBatch, caches: Caches) -> None:
        """Writes the draft's own KV of committed tokens, chunks of a chain per sequence.

        The last layer needs nothing but its keys and values. Layers below it run with a delay of
        1: a row at position p sees the target's KV before p, which must be in its cache.
        """

    def draft_chains(
        self,
        roots: Roots,
        ends: ChainEnds,
        caches: Caches,
        num_candidates: int,
    ) -> list[Chain]:
        """As many drafting steps as the deepest chain needs, each continuing with the most
        probable token. Needs `drafts_chains`."""
        raise RuntimeError("no kernel drafts whole chains here")


class FusedGlide(GlideModel):
    """A draft of one layer in native kernels, whole chains in one call."""

    drafts_chains = True

    def __init__(self, pairing: Pairing, native: NativeGlide) -> None:
        super().__init__(pairing)
        self._native = native

    def draft(self, step: DraftStep, caches: Caches) -> torch.Tensor:
        return self._native.logits(step, caches)

    def fill(self, token_ids: torch.Tensor, batch: TreeBatch, caches: Caches) -> None:
        self._native.fill(Filling(token_ids, batch), caches.own)

    def draft_chains(
        self,
        roots: Roots,
        ends: ChainEnds,
        caches: Caches,
        num_candidates: int,
    ) -> list[Chain]:
        return self._native.chains(roots, ends, caches, num_candidates)


class Rotaries(NamedTuple):
    """Rotary angles of a draft's self-attention and of its glimpse; one object where they are the
    same."""

    own: RotaryEmbedding
    cross: RotaryEmbedding

    @classmethod
    def of(cls, config: GlideConfig, target: ModelConfig, device: torch.device) -> "Rotaries":
        own, cross = config.rope or target.rope, target.rope
        if config.cross_rope_theta is not None:
            cross = RopeConfig(theta=config.cross_rope_theta)
        rotary = RotaryEmbedding(own, config.head_dim, device)
        if (own, config.head_dim) == (cross, target.head_dim):
            return cls(rotary, rotary)
        return cls(rotary, RotaryEmbedding(cross, target.head_dim, device))

    def __call__(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[CosSin, CosSin]:
        own = self.own(positions, dtype)
        return own, own if self.cross is self.own else self.cross(positions, dtype)


class LayerEnds(NamedTuple):
    """What a draft has before and behind its layers."""

    embedding: torch.Tensor
    """[vocab, hidden]"""
    hidden_proj: LinearFn | None
    """None for drafts that don't glimpse the target's hidden state."""
    delays: torch.Tensor
    """[max_delay, hidden]"""
    copy_proj: LinearFn | None
    """None for drafts without a copy hint."""
    matches: torch.Tensor
    """[max_match + 1, hidden]"""
    rotaries: Rotaries
    norm: RMSNorm | None
    apply_head: LinearFn


class LayeredGlide(GlideModel):
    """A draft of any number of layers, in single kernels."""

    def __init__(self, pairing: Pairing, ends: LayerEnds, layers: Sequence[GlideLayer]) -> None:
        super().__init__(pairing)
        self.ends = ends
        self.layers = layers

    def draft(self, step: DraftStep, caches: Caches) -> torch.Tensor:
        x = self._embed(step.token_ids)
        shared = self._shared(step.batch, committed_view(step.batch, step.verified_lens), caches)
        hint = self._hint(step)
        last = len(self.layers) - 1
        for index, (layer, cache) in enumerate(zip(self.layers, caches.own, strict=True)):
            x = layer.run(x, cache, shared, hint if index == last else None)
        x = x if self.ends.norm is None else self.ends.norm(x)
        logits = self.ends.apply_head(x)
        logits = self.placement.shard.gather_columns(logits, self.config.num_draft_tokens)
        if step.own is None or not step.own.most:
            return logits
        return torch.cat((logits, _own_logits(x, step.own, step.batch.node_counts)), dim=1)

    def fill(self, token_ids: torch.Tensor, batch: TreeBatch, caches: Caches) -> None:
        x = self._embed(token_ids)
        *lower, last = zip(self.layers, caches.own, strict=True)
        if not lower:
            last[0].write(x, self.ends.rotaries.own(batch.positions, x.dtype), last[1], batch)
            return
        shared = self._shared(batch, strictly_earlier_view(batch), caches)
        for layer, cache in lower:
            x = layer.run(x, cache, shared, None)
        last[0].write(x, shared.cos_sin, last[1], batch)

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        shard, vocab_size = self.placement.shard, self.target.vocab_size
        return shard.lookup(self.ends.embedding, token_ids, vocab_size).to(self.placement.dtype)

    def _shared(self, batch: TreeBatch, glimpse: TreeBatch, caches: Caches) -> GlideStep:
        """glimpse: the rows' view of the target's KV."""
        angles = self.ends.rotaries(batch.positions, self.placement.dtype)
        return GlideStep(*angles, batch, glimpse, caches.target)

    def _hint(self, step: DraftStep) -> torch.Tensor | None:
        """[rows, hidden] or [1, hidden]"""
        seen, copied = self._seen(step.hidden, step.delay), self._copied(step.copy_hints)
        if seen is None or copied is None:
            return seen if copied is None else copied
        return seen + copied

    def _seen(self, hidden: torch.Tensor | None, delay: int) -> torch.Tensor | None:
        """[rows, hidden]"""
        if self.ends.hidden_proj is None:
            return None
        if hidden is None:
            raise ValueError("this draft glimpses the target's hidden state; none was given")
        row = min(delay, self.config.max_delay) - 1
        projected = self.ends.hidden_proj(hidden.to(self.placement.dtype))
        return projected + self.ends.delays[row]

    def _copied(self, hints: CopyHints | None) -> torch.Tensor | None:
        """[rows, hidden], or [1, hidden] where nothing was looked up."""
        if self.ends.copy_proj is None:
            return None
        if hints is None:
            return self.ends.matches[:1]
        embedded = self._embed(hints.token_ids.clamp(min=0))
        embedded = embedded.masked_fill((hints.token_ids < 0)[:, None], 0.0)
        num_equal = hints.num_equal.clamp(max=self.config.max_match)
        return self.ends.copy_proj(embedded) + self.ends.matches[num_equal]


def _own_logits(x: torch.Tensor, own: OwnTokens, node_counts: Sequence[int]) -> torch.Tensor:
    """x [nodes, hidden] -> [nodes, own.most] float32; -inf behind what a sequence has."""
    rows = torch.nn.utils.rnn.pad_sequence(list(own.rows), batch_first=True)
    counts = torch.tensor(node_counts, device=x.device)
    lengths = torch.tensor([len(part) for part in own.rows], device=x.device)
    logits = torch.einsum("nh,nth->nt", x.float(), rows.float().repeat_interleave(counts, dim=0))
    missing = torch.arange(own.most, device=x.device) >= lengths[:, None]
    return logits.masked_fill(missing.repeat_interleave(counts, dim=0), -torch.inf)
