"""Finds the layers in which a target copies, so that its draft reads those.

Where a text repeats itself, some of a model's heads look from a token to the one that followed its
earlier occurrence, and the model says that token again: induction heads (arXiv 2209.11895). A draft
of one layer can copy only if the keys and values that it reads are of such a layer.

The probe shows the target random tokens, twice in a row:

    a b c d a b c d        from the second b, an induction head looks at the first c
"""

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

from server.kernels import reference
from server.kernels.types import CosSin
from server.models.decoder_layer import LayerParameters
from server.models.layers import FusedLinear
from server.models.llama import LlamaParameters
from server.models.parameters import Parameters
from server.models.rope import RotaryEmbedding

_SEQUENCES = 8
_LENGTH = 32
"""Distinct tokens of a sequence, which are shown twice."""
_SEED = 0
STRONG = 0.3
"""Least share of its attention by which a layer's best head counts as copying."""
MOST_LAYERS = 3
"""Layers that a draft reads unless told otherwise, the last one among them."""


@torch.inference_mode()
def induction_scores(model: Parameters) -> tuple[float, ...]:
    """How well each layer's best head copies: the mean share of its attention that goes from the
    second copy's tokens to the token after their first occurrence, between 0 and 1.

    Args:
        model: loaded; takes some seconds of plain torch on its device.
    """
    length = min(_LENGTH, model.config.vocab_size)
    generator = torch.Generator().manual_seed(_SEED)
    once = torch.stack(
        [
            torch.randperm(model.config.vocab_size, generator=generator)[:length]
            for _ in range(_SEQUENCES)
        ]
    )
    token_ids = once.repeat(1, 2).to(model.placement.device)
    second = torch.arange(length, 2 * length - 1, device=token_ids.device)
    native = isinstance(model, LlamaParameters)
    maps = _attention_maps(model, token_ids) if native else model.attention_maps(token_ids)
    means = (shares[:, :, second, second - length + 1].mean(dim=(0, 2)) for shares in maps)
    return tuple(float(mean.max()) for mean in means)


def copying_layers(scores: Sequence[float]) -> tuple[int, ...]:
    """The layers a draft should read: the best copying ones, and the last one, ascending.

    A target without strong ones, such as one with random weights, gets layers evenly spread: of 30
    layers 9, 19 and 29.
    """
    num_layers = len(scores)
    best = sorted(range(num_layers), key=lambda layer: -scores[layer])
    copying = [layer for layer in best if scores[layer] >= STRONG and layer < num_layers - 1]
    if not copying:
        copying = [max(0, part * num_layers // MOST_LAYERS - 1) for part in range(1, MOST_LAYERS)]
    return tuple(sorted({*copying[: MOST_LAYERS - 1], num_layers - 1}))


def _attention_maps(model: LlamaParameters, token_ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Each layer's attention [sequences, heads, tokens, tokens] over whole sequences
    [sequences, tokens]."""
    num_sequences, length = token_ids.shape
    positions = torch.arange(length, device=token_ids.device).repeat(num_sequences)
    x = F.embedding(token_ids.flatten(), model.embedding)
    rotary = RotaryEmbedding(model.config.rope, model.config.head_dim, token_ids.device)
    cos_sin = rotary(positions, x.dtype)
    for layer in model.layers:
        x, shares = _run_layer(layer, x, cos_sin, num_sequences)
        yield shares


def _run_layer(
    layer: LayerParameters, x: torch.Tensor, cos_sin: CosSin, num_sequences: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """x [sequences * tokens, hidden] -> the same behind the layer, and its attention."""
    config = layer.config
    heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    qkv = _product(layer.qkv, layer.attention_norm(x)).unflatten(-1, (-1, config.head_dim))
    query, keys, values = qkv.split(heads, dim=1)
    if layer.query_norm is not None and layer.key_norm is not None:
        query, keys = layer.query_norm(query), layer.key_norm(keys)
    query, keys = (reference.rotary(part, *cos_sin) for part in (query, keys))
    query, keys, values = (
        part.unflatten(0, (num_sequences, -1)).transpose(1, 2) for part in (query, keys, values)
    )
    group = config.num_heads // config.num_kv_heads
    keys, values = (part.repeat_interleave(group, dim=1) for part in (keys, values))
    scores = (query @ keys.mT).float() * config.head_dim**-0.5
    shares = scores.masked_fill(_hidden(scores, layer.window), -torch.inf).softmax(dim=-1)
    attended = (shares.to(values.dtype) @ values).transpose(1, 2).flatten(0, 1).flatten(1)
    x, normed = layer.mlp_norm.add(x, _product(layer.output, attended))
    inner = reference.silu_mul(_product(layer.gate_up, normed))
    return x + _product(layer.down, inner), shares


def _product(linear: FusedLinear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, linear.weight, linear.bias)


def _hidden(scores: torch.Tensor, window: int | None) -> torch.Tensor:
    """[tokens, tokens] bool: what a token may not see: later ones, and ones before its window."""
    ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
    later = ones.triu(1)
    return later if window is None else later | ones.tril(-window)
