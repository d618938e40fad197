"""Which part of a checkpoint's tensors a rank loads: the layout of docs/parallel.md by name."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from server.models.shard import Shard


class Slice(NamedTuple):
    """`size` entries from `start` on of a tensor's dimension that has `whole` of them."""

    dim: int
    start: int
    size: int
    whole: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The slice of a tensor, as a view."""
        return tensor.narrow(self.dim, self.start, self.size)

    def whole_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the checkpoint's tensor, given the slice's."""
        sizes = list(shape)
        sizes[self.dim] = self.whole
        return torch.Size(sizes)


Slices = Mapping[str, Slice]
"""Checkpoint name -> what a rank loads of it; names that are not in it are loaded whole."""


def columns(part: range, whole: int, width: int = 1) -> Slice:
    """The slice for some outputs of a linear layer: rows of its weight [outputs, inputs] and bias.

    Args:
        part: heads, or outputs.
        width: outputs per entry of `part`.
    """
    return Slice(0, part.start * width, len(part) * width, whole * width)


def rows(part: range, whole: int, width: int = 1) -> Slice:
    """The slice for some inputs of a linear layer: columns of its weight. Its bias stays whole."""
    return Slice(1, part.start * width, len(part) * width, whole * width)


def attention_slices(
    name: str, shard: Shard, num_heads: int, num_kv_heads: int, head_dim: int
) -> dict[str, Slice]:
    """Slices of the projections below `name`; none where the heads can't be split."""
    if not shard.splits_heads(num_heads, num_kv_heads):
        return {}
    heads, kv_heads = shard.span(num_heads), shard.kv_heads(num_kv_heads)
    return {
        f"{name}.q_proj": columns(heads, num_heads, head_dim),
        f"{name}.k_proj": columns(kv_heads, num_kv_heads, head_dim),
        f"{name}.v_proj": columns(kv_heads, num_kv_heads, head_dim),
        f"{name}.o_proj": rows(heads, num_heads, head_dim),
    }


def mlp_slices(shard: Shard, inner: int) -> dict[str, Slice]:
    """Slices of SwiGLU's projections."""
    part = shard.span(inner)
    return {
        "mlp.gate_proj": columns(part, inner),
        "mlp.up_proj": columns(part, inner),
        "mlp.down_proj": rows(part, inner),
    }


def slices_of(names: Iterable[str], layout: Mapping[str, Slice]) -> Slices:
    """Maps each name that the layout splits to its slice.

    Args:
        layout: slices by projection, without layer numbers and `.weight`: that of
            `model.layers.3.cross_attn.1.q_proj.weight` is under `cross_attn.q_proj`.
    """
    found = dict[str, Slice]()
    for name in names:
        module, _, kind = name.rpartition(".")
        plain = re.sub(r"\.\d+(?=\.)", "", module).removeprefix("model.").removeprefix("layers.")
        part = layout.get(plain)
        if part is not None and not (kind == "bias" and part.dim == 1):
            found[name] = part
    return found
