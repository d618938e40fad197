"""The parameters of a GliDe draft: what a checkpoint fills, and how a model is made of it."""

from dataclasses import replace
from typing import TypeVar

import torch

from server.kernels import dispatch as kernels
from server.kernels.quantized import (
    PartWeight,
    QuantizedWeight,
    bits_per_weight,
    quantize,
    side_by_side,
)
from server.kernels.types import GlideShape, GlideWeights
from server.models.config import ModelConfig
from server.models.decoder_layer import decoder_layout
from server.models.glide import (
    FusedGlide,
    GlideModel,
    LayeredGlide,
    LayerEnds,
    Pairing,
    Rotaries,
)
from server.models.glide_config import GlideConfig, check_fits
from server.models.glide_layer import (
    GlideLayer,
    GlideLayerParameters,
    GlimpseParameters,
    layer_config,
)
from server.models.layers import FusedLinear, Placement, RMSNorm, Slots
from server.models.llama import decoder_shape
from server.models.quantization import DRAFT_QUANTIZATION
from server.models.slices import Slices, columns, rows, slices_of

W = TypeVar("W", bound=PartWeight)

TOKEN_TABLE = "draft_token_ids"
"""Checkpoint name of a trimmed vocabulary's table; int64, unlike everything else."""


class GlideParameters:
    """The parameters of embedding, draft layers, final norm and head.

    Raises:
        UnsupportedModelError: the draft does not fit the target.
    """

    def __init__(self, config: GlideConfig, target: ModelConfig, placement: Placement) -> None:
        check_fits(config, target)
        self.config, self.target, self.placement = config, target, placement
        shard, hidden = placement.shard, config.hidden_size
        self.layers = [
            GlideLayerParameters(config, target, index, placement)
            for index in range(config.num_layers)
        ]
        self.norm = RMSNorm(hidden, config.rms_norm_eps, placement) if config.final_norm else None
        self.embedding: torch.Tensor | None = None
        if config.own_embedding:
            self.embedding = placement.empty(len(shard.span(target.vocab_size)), hidden)
        self.head: torch.Tensor | None = None
        if config.own_head:
            self.head = placement.empty(len(shard.span(config.num_draft_tokens)), hidden)
        self.hidden_proj: FusedLinear | None = None
        self.delay_embedding = placement.empty(config.max_delay, hidden)
        if config.glimpse_hidden:
            parts = {"hidden_proj": hidden}
            self.hidden_proj = FusedLinear(target.hidden_size, parts, False, placement)
        self.copy_proj: FusedLinear | None = None
        self.match_embedding = placement.empty(config.max_match + 1, hidden)
        """[max_match + 1, hidden]: by how many tokens are equal; 0 where nothing was found."""
        if config.copy_hint:
            self.copy_proj = FusedLinear(hidden, {"copy_proj": hidden}, False, placement)
        self.draft_token_ids = torch.arange(config.num_draft_tokens, device=placement.device)
        """[draft_vocab] int64: the token behind each column of the logits."""

    def slots(self) -> Slots:
        """Every checkpoint tensor the draft needs, by name -> where it goes."""
        slots = Slots()
        if self.embedding is not None:
            slots["model.embed_tokens.weight"] = self.embedding
        for layer in self.layers:
            slots |= layer.slots()
        if self.norm is not None:
            slots["model.norm.weight"] = self.norm.weight
        if self.head is not None:
            slots["lm_head.weight"] = self.head
        if self.hidden_proj is not None:
            slots |= self.hidden_proj.slots()
            slots["delay_embedding.weight"] = self.delay_embedding
        if self.copy_proj is not None:
            slots |= self.copy_proj.slots()
            slots["match_embedding.weight"] = self.match_embedding
        if self.config.draft_vocab_size is not None:
            slots[TOKEN_TABLE] = self.draft_token_ids
        return slots

    def slices(self) -> Slices:
        """What of these tensors this rank holds, where it is not all. The glimpse's heads are the
        target's, so that each rank's lie beside the part of the target's KV that it has."""
        shard, config, target = self.placement.shard, self.config, self.target
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

    def freeze(
        self, target_embedding: torch.Tensor | None, target_head: PartWeight | None
    ) -> GlideModel:
        """The model, with the weights in the machine's fastest layout.

        Args:
            target_embedding: [vocab_size, hidden], this rank's part of it where the model is
                sharded; kept as it is (not copied); not needed with an embedding of its own.
            target_head: [vocab_size, hidden] or the rank's part, of which the proposed tokens'
                rows are copied; not needed with a head of its own. Where it is quantized, the
                native draft's own weights become so.
        """
        embedding = self.embedding
        if embedding is None:
            embedding = _shared("embedding", target_embedding)
        head = self._head(target_head)
        pairing = Pairing(
            *(self.config, self.target, self.placement, self.draft_token_ids),
            self._context_head(target_embedding, target_head),
        )
        rotaries = Rotaries.of(self.config, self.target, self.placement.device)
        fused = self._fused(embedding, head, rotaries)
        if fused is not None:
            return FusedGlide(pairing, fused)
        ends = LayerEnds(
            embedding=embedding,
            hidden_proj=None if self.hidden_proj is None else self.hidden_proj.freeze(),
            delays=self.delay_embedding,
            copy_proj=None if self.copy_proj is None else self.copy_proj.freeze(),
            matches=self.match_embedding,
            rotaries=rotaries,
            norm=self.norm,
            apply_head=kernels.logits_linear(head, self.placement.dtype),
        )
        return LayeredGlide(pairing, ends, list(map(GlideLayer, self.layers)))

    def _context_head(
        self, target_embedding: torch.Tensor | None, target_head: PartWeight | None
    ) -> PartWeight | None:
        """The target's head, of which sequences' own tokens need some rows. Ranks that share the
        target out draft with the fixed vocabulary."""
        if not self.config.context_vocab_size or not self.placement.shard.is_whole:
            return None
        # A tied embedding is kept anyway, and unrounded.
        tied = self.target.tie_word_embeddings
        return _shared("head", target_embedding if tied else target_head)

    def _fused(
        self, embedding: torch.Tensor, head: PartWeight, rotaries: Rotaries
    ) -> kernels.NativeGlide | None:
        first, glimpse = self.layers[0], self.layers[0].glimpse
        # The kernel is for drafts that read the target's cache, and knows no collectives.
        if glimpse is None or not self.placement.shard.is_whole:
            return None
        return kernels.fused_glide(
            glide_shape(self.config, self.target),
            head,
            lambda: self._weights(first, glimpse, embedding, head, rotaries),
        )

    def _weights(
        self,
        layer: GlideLayerParameters,
        glimpse: GlimpseParameters,
        embedding: torch.Tensor,
        head: PartWeight,
        rotaries: Rotaries,
    ) -> GlideWeights:
        """What the fused kernel takes; where the head is quantized, all is."""
        quantization = DRAFT_QUANTIZATION if isinstance(head, QuantizedWeight) else None
        hints = [part for part in (self.hidden_proj, self.copy_proj) if part is not None]
        return GlideWeights(
            layer=layer.weights(quantization),
            glimpsed=glimpse.layers,
            windows=glimpse.windows,
            cross_norm=None if glimpse.norm is None else glimpse.norm.weight,
            cross_query=glimpse.query.weight_in(quantization),
            cross_query_bias=glimpse.query.bias,
            cross_output=glimpse.output.weight_in(quantization),
            final_norm=None if self.norm is None else self.norm.weight,
            head=head,
            token_ids=self.draft_token_ids,
            embedding=embedding,
            hint_proj=side_by_side([part.weight_in(quantization) for part in hints]),
            delays=self.delay_embedding,
            matches=self.match_embedding,
            rotary=rotaries.own.angles(),
            cross_rotary=rotaries.cross.angles(),
        )

    def _head(self, target_head: PartWeight | None) -> PartWeight:
        """[draft_vocab, hidden], or this rank's part of it."""
        if self.head is not None:
            quantized = isinstance(target_head, QuantizedWeight)
            return (
                DRAFT_QUANTIZATION.of_one("lm_head.weight", self.head) if quantized else self.head
            )
        head = _shared("head", target_head)
        trimmed = self.config.draft_vocab_size is not None
        if not isinstance(head, QuantizedWeight):
            return self._trimmed(head) if trimmed else head
        rows = head.rows(self.draft_token_ids) if trimmed else head
        if bits_per_weight(rows.kind) <= bits_per_weight(DRAFT_QUANTIZATION.kind):
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
            found = shard.lookup(head, ids, self.target.vocab_size)
            kept = found if rank == shard.rank else kept
        return kept


def glide_shape(config: GlideConfig, target: ModelConfig) -> GlideShape:
    """Sizes of a draft and of what it reads, for the fused kernel."""
    return GlideShape(
        own=decoder_shape(layer_config(config)),
        cross_heads=target.num_heads,
        cross_kv_heads=target.num_kv_heads,
        cross_head_dim=target.head_dim,
        target_hidden=target.hidden_size if config.glimpse_hidden else 0,
        copy_hint=config.copy_hint,
    )


def _shared(what: str, weight: W | None) -> W:
    if weight is None:
        raise ValueError(f"the draft shares the target's {what}; none was given")
    return weight
