"""The GliDe draft (arXiv 2402.02082) over the paged caches of both models.

Its layers read the target's cache up to the last verified token. It knows tensors, not rounds: what
to draft, and for how long, is the engine's business.

The KV a one-layer draft writes depends on token and position alone, so a committed token's never
has to be computed again, and a prompt's costs one projection (`GlideModel.fill`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from server.kernels import dispatch as kernels
from server.kernels.linear import LinearFn
from server.kernels.quantized import QuantizedWeight, Weight, quantize
from server.kernels.tree import LayerCache, TreeBatch, committed_view, strictly_earlier_view
from server.kernels.types import Caches, ChainEnds, Chains, CosSin, Filling, Roots
from server.models.config import ModelConfig, RopeConfig
from server.models.glide_config import GlideConfig, check_fits
from server.models.glide_fused import Ends, glide_shape, take_weights
from server.models.glide_layer import GlideLayer, GlideStep, layer_config
from server.models.layers import FusedLinear, Placement, RMSNorm, Slots
from server.models.llama import decoder_layout, local_config
from server.models.quantization import DRAFT_QUANTIZATION
from server.models.rope import RotaryEmbedding
from server.models.slices import Slices, columns, rows, slices_of

W = TypeVar("W", bound=Weight)

TOKEN_TABLE = "draft_token_ids"
"""Checkpoint name of a trimmed vocabulary's table; int64, unlike everything else."""


class KVShape(NamedTuple):
    """What the draft's own self-attention keeps per token."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


class GlideModel(nn.Module):
    """Embedding, draft layers, final norm and head.

    Raises:
        UnsupportedModelError: the draft does not fit the target.
    """

    def __init__(self, config: GlideConfig, target: ModelConfig, placement: Placement) -> None:
        super().__init__()
        check_fits(config, target)
        self.config, self.placement = config, placement
        shard = placement.shard
        num_kv_heads = local_config(layer_config(config), shard).num_kv_heads
        self.cache_shape = KVShape(config.num_layers, num_kv_heads, config.head_dim)
        self.glimpse_hidden = config.glimpse_hidden
        hidden = config.hidden_size
        self.layers = [
            GlideLayer(config, target, index, placement) for index in range(config.num_layers)
        ]
        self.norm = RMSNorm(hidden, config.rms_norm_eps, placement) if config.final_norm else None
        self.embedding: torch.Tensor | None = None
        if config.own_embedding:
            self.embedding = placement.empty(len(shard.span(target.vocab_size)), hidden)
        self.head_weight: torch.Tensor | None = None
        if config.own_head:
            self.head_weight = placement.empty(len(shard.span(config.num_draft_tokens)), hidden)
        self.hidden_proj: FusedLinear | None = None
        self.delay_embedding = placement.empty(config.max_delay, hidden)
        if config.glimpse_hidden:
            parts = {"hidden_proj": hidden}
            self.hidden_proj = FusedLinear(target.hidden_size, parts, False, placement)
        self.draft_token_ids = torch.arange(config.num_draft_tokens, device=placement.device)
        """[draft_vocab] int64: the token behind each column of the logits."""
        self._make_rotaries(target)
        self._apply_head: LinearFn | None = None
        self._fused: kernels.NativeGlide | None = None
        self._target = target

    def _make_rotaries(self, target: ModelConfig) -> None:
        config, device = self.config, self.placement.device
        own = config.rope or target.rope
        cross = target.rope
        if config.cross_rope_theta is not None:
            cross = RopeConfig(theta=config.cross_rope_theta)
        self.rotary = RotaryEmbedding(own, config.head_dim, device)
        self.cross_rotary = self.rotary
        if (own, config.head_dim) != (cross, target.head_dim):
            self.cross_rotary = RotaryEmbedding(cross, target.head_dim, device)

    def slots(self) -> Slots:
        """Every checkpoint tensor the draft needs, by name -> where it goes."""
        slots = Slots()
        if self.config.own_embedding and self.embedding is not None:
            slots["model.embed_tokens.weight"] = self.embedding.data
        for layer in self.layers:
            slots |= layer.slots()
        if self.norm is not None:
            slots["model.norm.weight"] = self.norm.weight.data
        if self.head_weight is not None:
            slots["lm_head.weight"] = self.head_weight.data
        if self.hidden_proj is not None:
            slots |= self.hidden_proj.slots()
            slots["delay_embedding.weight"] = self.delay_embedding.data
        if self.config.draft_vocab_size is not None:
            slots[TOKEN_TABLE] = self.draft_token_ids
        return slots

    def slices(self) -> Slices:
        """What of these tensors this rank holds, where it is not all. The glimpse's heads are the
        target's, so that each rank's lie beside the part of the target's KV that it has."""
        shard, config, target = self.placement.shard, self.config, self._target
        if shard.is_whole:
            return {}
        heads = shard.span(target.num_heads)
        layout = decoder_layout(layer_config(config), shard) | {
            "cross_attn.q_proj": columns(heads, target.num_heads, target.head_dim),
            "cross_attn.o_proj": rows(heads, target.num_heads, target.head_dim),
            "embed_tokens": columns(shard.span(target.vocab_size), target.vocab_size),
            "lm_head": columns(shard.span(config.num_draft_tokens), config.num_draft_tokens),
        }
        return slices_of(self.slots(), layout)

    def ignorable(self, name: str) -> bool:
        """Checkpoint tensors that carry nothing the draft lacks: stored rotary tables."""
        return name.endswith("rotary_emb.inv_freq")

    def freeze(self, target_embedding: torch.Tensor | None, target_head: Weight | None) -> None:
        """To be called once after loading; moves weights to the machine's fastest layout.

        Args:
            target_embedding: [vocab_size, hidden], this rank's part of it where the model is
                sharded; kept as it is (not copied); not needed with an embedding of its own.
            target_head: [vocab_size, hidden] or the rank's part, of which the proposed tokens'
                rows are copied; not needed with a head of its own. Where it is quantized, the
                native draft's own weights become so.
        """
        if self._apply_head is not None or self._fused is not None:
            raise RuntimeError("the model is frozen already")
        if not self.config.own_embedding:
            self.embedding = _shared("embedding", target_embedding).detach()
        head = self._take_head(target_head)
        self._fused = self._fuse(head)
        if self._fused is not None:
            return
        self._apply_head = kernels.logits_linear(head, self.placement.dtype)
        if self.hidden_proj is not None:
            self.hidden_proj.freeze()
        for layer in self.layers:
            layer.freeze()

    def _fuse(self, head: Weight) -> kernels.NativeGlide | None:
        if any(layer.glimpse is None for layer in self.layers):
            return None  # the kernel is for drafts that read the target's cache
        if not self.placement.shard.is_whole:
            return None  # and knows no collectives
        ends = Ends(
            embedding=_shared("embedding", self.embedding),
            hidden_proj=self.hidden_proj,
            delays=self.delay_embedding,
            final_norm=None if self.norm is None else self.norm.weight,
            head=head,
            token_ids=self.draft_token_ids,
        )
        shape = glide_shape(self.config, self._target)
        return kernels.fused_glide(shape, head, lambda: take_weights(self.layers[0], ends))

    def _take_head(self, target_head: Weight | None) -> Weight:
        """[draft_vocab, hidden], or this rank's part of it."""
        own, self.head_weight = self.head_weight, None
        if own is not None:
            quantized = isinstance(target_head, QuantizedWeight)
            return DRAFT_QUANTIZATION.of((), own.detach()) if quantized else own.detach()
        head = _shared("head", target_head)
        trimmed = self.config.draft_vocab_size is not None
        if not isinstance(head, QuantizedWeight):
            return self._trimmed(head.detach()) if trimmed else head
        rows = head.rows(self.draft_token_ids) if trimmed else head
        if rows.kind == DRAFT_QUANTIZATION.kind:
            return rows
        return quantize(rows.dequantize(), DRAFT_QUANTIZATION.kind)

    def _trimmed(self, head: torch.Tensor) -> torch.Tensor:
        """The proposed tokens' rows, in equal parts wherever the target's rows lie. Frequent
        tokens have low ids in many vocabularies: left where they are, all would be on rank 0.

        Args:
            head: this rank's part of the target's.
        """
        shard, kept = self.placement.shard, head[:0]
        for rank in range(shard.size):
            part = replace(shard, rank=rank).span(len(self.draft_token_ids))
            ids = self.draft_token_ids[part.start : part.stop]
            found = shard.lookup(head, ids, self._target.vocab_size)
            kept = found if rank == shard.rank else kept
        return kept

    def draft(
        self,
        token_ids: torch.Tensor,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        batch: TreeBatch,
        verified_lens: tuple[int, ...] | torch.Tensor,
        hidden: torch.Tensor | None,
        delay: int,
    ) -> torch.Tensor:
        """One drafting step; writes the rows' own KV.

        Args:
            token_ids: [rows] int64.
            caches: The draft's own layers.
            target_caches: All layers of the target.
            batch: For the self-attention: its context is everything committed or drafted before.
            verified_lens: Per sequence, how many tokens of the target's cache the glimpse sees, at
                least 1; a tensor [sequences] where the batch has exact_lens.
            hidden: [rows, target hidden size], the target's final hidden state (normed) at each
                row's last verified position; needed with `glimpse_hidden` alone.
            delay: 1 for the token after the last verified one, 2 for the next …; beyond
                `max_delay` the embedding of that one serves.

        Returns:
            Logits [rows, draft_vocab] float32; column c is token `draft_token_ids[c]`. On ranks
            other than 0 those of their part of the head.
        """
        if self._fused is not None:
            if isinstance(verified_lens, torch.Tensor):
                raise ValueError("native kernels take lengths that the host knows")
            cached = Caches(caches, target_caches)
            rotaries = self._rotaries(batch.positions)
            return self._fused.logits(
                token_ids, cached, batch, verified_lens, rotaries, hidden, delay
            )
        if self._apply_head is None:
            raise RuntimeError("freeze() the model after loading it")
        x = self._embed(token_ids)
        step = self._step(x, target_caches, batch, committed_view(batch, verified_lens))
        hint = self._hint(hidden, delay)
        last = len(self.layers) - 1
        for index, (layer, cache) in enumerate(zip(self.layers, caches, strict=True)):
            x = layer.run(x, cache, step, hint if index == last else None)
        logits = self._apply_head(x if self.norm is None else self.norm(x))
        return self.placement.shard.gather_columns(logits, self.config.num_draft_tokens)

    @property
    def drafts_chains(self) -> bool:
        """Whether this machine has a kernel for `draft_chains`."""
        return self._fused is not None

    def draft_chains(
        self,
        roots: Roots,
        ends: ChainEnds,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        num_candidates: int,
        behind: tuple[torch.Tensor, TreeBatch] | None = None,
    ) -> Chains:
        """As many drafting steps as the deepest chain needs, each continuing with the most
        probable token. Needs `drafts_chains`.

        Args:
            behind: token ids [rows] and batch of committed tokens whose own KV is written first.
        """
        if self._fused is None:
            raise RuntimeError("no kernel drafts whole chains here")
        filling = None if behind is None else self._filling(*behind)
        offsets = torch.arange(int(roots.depths[0]))[:, None]
        rotaries = self._rotaries((roots.starts + offsets).flatten())
        cached = Caches(caches, target_caches)
        return self._fused.chains(roots, ends, cached, rotaries, num_candidates, filling)

    def fill(
        self,
        token_ids: torch.Tensor,
        caches: Sequence[LayerCache],
        target_caches: Sequence[LayerCache],
        batch: TreeBatch,
    ) -> None:
        """Writes the draft's own KV of committed tokens, chunks of a chain per sequence.

        The last layer needs nothing but its keys and values. Layers below it run with a delay of
        1: a row at position p sees the target's KV before p, which must be in its cache.
        """
        if self._fused is not None:
            return self._fused.fill(self._filling(token_ids, batch), caches)
        x = self._embed(token_ids)
        *lower, last = zip(self.layers, caches, strict=True)
        if not lower:
            last[0].write(x, self.rotary(batch.positions, x.dtype), last[1], batch)
            return
        step = self._step(x, target_caches, batch, strictly_earlier_view(batch))
        for layer, cache in lower:
            x = layer.run(x, cache, step, None)
        last[0].write(x, step.cos_sin, last[1], batch)

    def _filling(self, token_ids: torch.Tensor, batch: TreeBatch) -> Filling:
        return Filling(token_ids, batch, self.rotary(batch.positions, torch.float32))

    def _rotaries(self, positions: torch.Tensor) -> tuple[CosSin, CosSin]:
        """Rotary angles of the self-attention and of the glimpse, float32."""
        own = cross = self.rotary(positions, torch.float32)
        if self.cross_rotary is not self.rotary:
            cross = self.cross_rotary(positions, torch.float32)
        return own, cross

    def _embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        if self.embedding is None:
            raise RuntimeError("freeze() the model after loading it")
        shard, vocab_size = self.placement.shard, self._target.vocab_size
        return shard.lookup(self.embedding, token_ids, vocab_size).to(self.placement.dtype)

    def _step(
        self,
        x: torch.Tensor,
        target_caches: Sequence[LayerCache],
        batch: TreeBatch,
        glimpse: TreeBatch,
    ) -> GlideStep:
        cos_sin = cross = self.rotary(batch.positions, x.dtype)
        if self.cross_rotary is not self.rotary:
            cross = self.cross_rotary(batch.positions, x.dtype)
        return GlideStep(cos_sin, cross, batch, glimpse, target_caches)

    def _hint(self, hidden: torch.Tensor | None, delay: int) -> torch.Tensor | None:
        """[rows, hidden]"""
        if self.hidden_proj is None:
            return None
        if hidden is None:
            raise ValueError("this draft glimpses the target's hidden state; none was given")
        row = min(delay, self.config.max_delay) - 1
        return self.hidden_proj(hidden.to(self.placement.dtype)) + self.delay_embedding[row]


def _shared(what: str, weight: W | None) -> W:
    if weight is None:
        raise ValueError(f"the draft shares the target's {what}; none was given")
    return weight
