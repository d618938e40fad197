"""The attention function that transformers' layers call instead of their own: it writes the rows'
keys and values to the step's slots, and attends over the paged cache."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface

from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import ScoredAttention, ScoreRules

ATTENTION = "glidecape"
"""Its name among transformers' attention functions."""


class Tuning(NamedTuple):
    """Llama 4's queries of layers without rotary embedding grow with their position."""

    floor_scale: float
    attn_scale: float

    def of(self, positions: torch.Tensor) -> torch.Tensor:
        """[rows] -> factors [rows] float32"""
        steps = ((positions.float() + 1.0) / self.floor_scale).floor()
        return steps.log1p() * self.attn_scale + 1.0


def take_tuning(model: torch.nn.Module) -> dict[int, Tuning]:
    """By layer; the layers then leave it to us. Their own counts a call's rows, which here are of
    several sequences."""
    found: dict[int, Tuning] = {}
    for module in model.modules():
        layer: Any = module
        if getattr(module, "attn_temperature_tuning", False) and not layer.use_rope:
            found[layer.layer_idx] = Tuning(float(layer.floor_scale), float(layer.attn_scale))
            layer.attn_temperature_tuning = False
    return found


@dataclass(frozen=True, slots=True, eq=False)
class LayerRules:
    """What the attention of one layer does."""

    scores: ScoreRules
    """Without sinks, which are weights."""
    has_sinks: bool
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    """Of values, which may be narrower than keys; the pool keeps them with zeros behind."""


@dataclass(frozen=True, slots=True, eq=False)
class PagedStep:
    """What attention needs of a step; the same for all layers."""

    caches: Sequence[LayerCache]
    batch: TreeBatch
    rules: Sequence[LayerRules]
    tunings: Mapping[int, Tuning]
    """By layer, of those that have one."""
    attend: ScoredAttention
    with_sinks: dict[int, ScoreRules]
    """By layer, the rules of those that have sinks, once they have been run."""


STEP: ContextVar[PagedStep] = ContextVar("STEP")
"""The step that is being computed. Not every model passes arguments on to its layers' attention,
but each calls it in the thread that runs the model."""


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    s_aux: torch.Tensor | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers'. What a layer passes beside these has been found out
    before, and is in the step's rules.

    Args:
        query: [1, num_heads, rows, head_dim], rotary applied, as the next two.
        key, value: [1, num_kv_heads, rows, head_dim]
        attention_mask: unused: the step knows who sees whom.
        s_aux: [num_heads], attention sinks.

    Returns:
        ([1, rows, num_heads, head_dim], None)
    """
    step = STEP.get()
    index: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
    dtype = query.dtype
    if index in step.tunings:
        query = query * step.tunings[index].of(step.batch.positions)[:, None].to(dtype)
    rules = step.rules[index].scores
    if s_aux is not None:
        if index not in step.with_sinks:
            step.with_sinks[index] = replace(rules, sinks=s_aux)
        rules = step.with_sinks[index]
    attended = step.attend(query, key, value, step.caches[index], step.batch, rules)
    return attended.to(dtype), None


AttentionInterface.register(ATTENTION, paged_attention)
