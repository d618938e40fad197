"""A draft's first weights: the target's last layer, and the queries of the layers it reads."""

import torch

from server.models.config import ModelConfig
from server.models.glide_config import GlideConfig, target_shape
from weights.train.features.target import TrainTarget
from weights.train.fit.draft import TrainableDraft

_FINAL_NORM = 0.25
"""Factor on the target's final norm: an untrained draft is wrong, and its loss is least if it is
not sure."""
_SEED = 0
_HINTS = ("hidden_proj", "delay_embedding", "copy_proj", "match_embedding")
"""How the names of those weights begin that start at zero."""


def draft_config(
    target: ModelConfig,
    glimpse_layers: tuple[int, ...],
    glimpse_hidden: bool,
    max_delay: int,
    draft_vocab_size: int | None,
    context_vocab_size: int = 0,
    copy_hint: bool = False,
) -> GlideConfig:
    """One layer of the target's own shape.

    Raises:
        UnsupportedModelError: a layer the target lacks.
    """
    return GlideConfig(
        hidden_size=target.hidden_size,
        intermediate_size=target.intermediate_size,
        num_layers=1,
        num_heads=target.num_heads,
        num_kv_heads=target.num_kv_heads,
        head_dim=target.head_dim,
        rms_norm_eps=target.rms_norm_eps,
        target=target_shape(target),
        attention_bias=target.attention_bias,
        glimpse_layers=(glimpse_layers,),
        glimpse_hidden=glimpse_hidden,
        max_delay=max_delay,
        cross_bias=target.attention_bias,
        draft_vocab_size=draft_vocab_size,
        context_vocab_size=context_vocab_size,
        copy_hint=copy_hint,
    )


@torch.no_grad()
def warm_start(draft: TrainableDraft, target: TrainTarget) -> None:
    """Fills every weight; the hints start at zero.

    Matrices are scaled down to a root mean square of at most 1 / sqrt(input features). A trained
    model's can be far larger; AdamW moves every weight by about the learning rate a step, and would
    need very many to change them. What they compute is of no use as it is: the draft's one layer
    gets embeddings, the target's last layer got what 29 others made of them. What is kept is the
    directions (measured in `docs/log.md`).
    """
    config = draft.config
    last = f"model.layers.{config.target.num_layers - 1}."
    for name, weight in draft.state_dict().items():
        if name.startswith(_HINTS):
            weight.zero_()
            continue
        source = _found(target, _source(name, config.glimpsed_layers(0), last), weight)
        if name == "model.norm.weight":
            source = source * _FINAL_NORM
        elif weight.dim() > 1:
            largest = weight.shape[1] ** -0.5
            source = source * min(1.0, largest / float(source.square().mean().sqrt()))
        weight.copy_(source)


def _found(target: TrainTarget, name: str, like: torch.Tensor) -> torch.Tensor:
    """The target's weight; where it has none of that name and shape, such as one that joins several
    or that are experts', ones for a norm and else random numbers."""
    found = target.weights.get(name)
    if found is not None and found.shape == like.shape:
        return found
    if like.dim() == 1:
        return torch.ones_like(like) if "norm" in name else torch.zeros_like(like)
    generator = torch.Generator().manual_seed(_SEED)
    random = torch.randn(like.shape, generator=generator) * like.shape[1] ** -0.5
    return random.to(like.device)


def _source(name: str, glimpsed: tuple[int, ...], last: str) -> str:
    """Where a draft's weight comes from.

    model.layers.0.cross_attn.1.q_proj.weight    model.layers.19.self_attn.q_proj.weight
    model.layers.0.cross_attention_layernorm...  model.layers.29.input_layernorm...
    model.layers.0.mlp.up_proj.weight            model.layers.29.mlp.up_proj.weight
    """
    if ".cross_attn." in name:
        part = name.split(".cross_attn.")[1]
        index, part = part.split(".", 1) if len(glimpsed) > 1 else ("0", part)
        return f"model.layers.{glimpsed[int(index)]}.self_attn.{part}"
    own = name.replace("cross_attention_layernorm", "input_layernorm")
    return own.replace("model.layers.0.", last)
