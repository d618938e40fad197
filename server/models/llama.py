"""The Llama family over the paged cache: Llama and Vicuna (MHA), Mistral (GQA, sliding window),
Qwen2 (q, k, v bias), Qwen3 (q/k norm), SmolLM2.

One formulation for prefill, decoding and speculation: every row is a node of some sequence's
token tree (`kernels/tree.py`). The model does not know which.
"""

from collections.abc import Container, Iterator, Sequence

import torch

from server.kernels import dispatch as kernels
from server.kernels.quantized import PartWeight
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import DecoderEnds, DecoderShape, ForwardFn
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from server.models.decoder_layer import DecoderLayer, LayerParameters, decoder_layout
from server.models.layers import Placement, RMSNorm, Slots
from server.models.quantization import Quantization
from server.models.rope import RotaryEmbedding
from server.models.slices import Slices, columns, slices_of


class LlamaParameters:
    """The parameters that a checkpoint fills: embedding, decoder layers, final norm and head."""

    def __init__(self, config: ModelConfig, placement: Placement) -> None:
        self.config = config
        self.placement = placement
        num_tokens = len(placement.shard.span(config.vocab_size))
        self.embedding = placement.empty(num_tokens, config.hidden_size)
        self.layers = [LayerParameters(config, i, placement) for i in range(config.num_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, placement)
        self.head_weight = self.embedding
        if not config.tie_word_embeddings:
            self.head_weight = placement.empty(num_tokens, config.hidden_size)

    def slots(self) -> Slots:
        """Maps the Hugging Face name of every tensor that the model needs to where it goes."""
        slots = {
            "model.embed_tokens.weight": self.embedding,
            "model.norm.weight": self.norm.weight,
        }
        if not self.config.tie_word_embeddings:
            slots["lm_head.weight"] = self.head_weight
        for layer in self.layers:
            slots |= layer.slots()
        return slots

    def keep_in_blocks(self, names: Container[str]) -> None:
        """Gives memory back, before it is filled, that weights in blocks do not need: the floats of
        those of these names. A tied embedding stays, since tokens are looked up in it."""
        for layer in self.layers:
            for linear in layer.linears:
                linear.keep_in_blocks(names)
        if not self.config.tie_word_embeddings and "lm_head.weight" in names:
            self.head_weight = torch.empty_like(self.head_weight, device="meta")

    def slices(self) -> Slices:
        """The parts of tensors that this rank holds, where it does not hold all."""
        shard, vocab_size = self.placement.shard, self.config.vocab_size
        if shard.is_whole:
            return {}
        tokens = columns(shard.span(vocab_size), vocab_size)
        layout = decoder_layout(self.config, shard) | {"embed_tokens": tokens, "lm_head": tokens}
        return slices_of(self.slots(), layout)

    def ignorable(self, name: str) -> bool:
        """Whether a checkpoint's tensor may be left over: stored rotary tables, and the head's copy
        of a tied embedding."""
        tied_head = self.config.tie_word_embeddings and name == "lm_head.weight"
        return tied_head or name.endswith("rotary_emb.inv_freq")

    def head(self, quantization: Quantization | None = None) -> PartWeight:
        """The head's weight [this rank's tokens, hidden] in the form it is kept in."""
        if quantization is None:
            return self.head_weight
        tied = self.config.tie_word_embeddings
        name = "model.embed_tokens.weight" if tied else "lm_head.weight"
        return quantization.of_one(name, self.head_weight)

    def freeze(self, quantization: Quantization | None = None) -> "CausalLM":
        """The model, with the weights in the machine's fastest layout. Uses the parameters up.

        Args:
            quantization: form of the linear layers; None keeps them as they are.
        """
        config, placement = self.config, self.placement
        if len(self.layers) != config.num_layers:
            raise RuntimeError("these parameters have been frozen already")
        head, fused = self.head(quantization), None
        rotary = RotaryEmbedding(config.rope, config.head_dim, placement.device)
        if placement.shard.is_whole:  # the fused layers know no collectives
            weights = (layer.weights(quantization) for layer in self._used_up())
            ends = DecoderEnds(self.embedding, self.norm.weight, rotary.angles())
            fused = kernels.fused_decoder(decoder_shape(config), ends, head, weights)
        forward = fused or self._in_turn(rotary, quantization)
        apply_head = kernels.logits_linear(head, placement.dtype)
        is_fused = fused is not None
        has_threads = is_fused or kernels.has_native_products(placement.device, placement.dtype)
        return CausalLM(config, placement, forward, apply_head, is_fused, has_threads)

    def _in_turn(self, rotary: RotaryEmbedding, quantization: Quantization | None) -> ForwardFn:
        """A function that runs embedding, layers and norm one after another."""
        config, placement, embedding, norm = self.config, self.placement, self.embedding, self.norm
        attend = kernels.native_attention(placement.device, placement.dtype)
        layers = [DecoderLayer(each, quantization, attend) for each in self._used_up()]

        def run(
            token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
        ) -> torch.Tensor:
            x = placement.shard.lookup(embedding, token_ids, config.vocab_size)
            cos_sin = rotary(batch.positions, placement.dtype)
            for layer, cache in zip(layers, caches, strict=True):
                x = layer(x, cos_sin, cache, batch)
            return norm(x).to(placement.dtype)

        return run

    def _used_up(self) -> Iterator[LayerParameters]:
        """Yields the layers in order and drops each, so that most weights exist only once."""
        while self.layers:
            yield self.layers.pop(0)


def decoder_shape(config: ModelConfig) -> DecoderShape:
    """Sizes of a model's layers, for the native kernels."""
    return DecoderShape(
        num_layers=config.num_layers,
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        qk_norm=config.qk_norm,
        eps=config.rms_norm_eps,
    )
