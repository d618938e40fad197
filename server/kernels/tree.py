"""The tensors that describe one step: a token tree per sequence over its paged KV cache.

Example, block size 4, two sequences. A has 5 committed tokens in blocks 7 and 2 and decodes
one node; B has 2 committed tokens in block 9 and brings a root with two children:

    row        0      | 1     2      3
    sequence   A      | B     B      B
    node       root   | root  left   right
    position   5      | 2     3      3         siblings share a position …
    slot       2*4+1  | 9*4+2 9*4+3  4*4+0     … but not a slot (B continues in block 4)
    ancestors  [1 0 0]| [1 0 0] [1 1 0] [1 0 1]

Every node attends to all committed tokens of its sequence, its ancestors, and itself.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch


class LayerCache(NamedTuple):
    """Paged keys and values of one layer; token t of a sequence lies in block
    `block_table[t // block_size]` at offset `t % block_size`."""

    keys: torch.Tensor
    """[num_blocks, block_size, num_kv_heads, head_dim], rotary already applied."""
    values: torch.Tensor
    """[num_blocks, block_size, num_kv_heads, head_dim]"""


@dataclass(frozen=True, slots=True, eq=False)
class TreeBatch:
    """Rows of one step: the nodes of all sequences' trees, one sequence after another."""

    positions: torch.Tensor
    """[num_rows] int64: token position of each node in its sequence."""
    slots: torch.Tensor
    """[num_rows] int64: block id x block size + offset, where the node's KV is written."""
    block_tables: torch.Tensor
    """[num_sequences, max_blocks] int64, padded with block 0."""
    context_lens: tuple[int, ...]
    """Per sequence: committed tokens, whose KV is in the cache; a node's slot follows them."""
    node_counts: tuple[int, ...]
    """Per sequence: nodes in its tree, at least 1; they sum to num_rows."""
    ancestors: torch.Tensor | None
    """[num_rows, max(node_counts)] bool: row sees node j of its own tree (itself included);
    None when every tree is a chain (prefill, plain decoding)."""
    block_size: int
    exact_lens: torch.Tensor | None = None
    """[num_sequences] int64, where the device alone knows how many tokens are committed:
    context_lens then are limits that only size launches, and all node_counts are equal."""
    prepared: dict[Any, Any] = field(default_factory=dict[Any, Any])
    """What the attention kernels derive from this batch once for all layers."""


def committed_view(batch: TreeBatch, visible_lens: tuple[int, ...] | torch.Tensor) -> TreeBatch:
    """The same rows over another cache of the same blocks, where each row sees the first
    `visible_lens[i]` tokens of its sequence i and nothing else, not even itself. Made once per
    batch and lengths.

    Args:
        visible_lens: one per sequence; a tensor's values are at most the batch's context_lens.
    """
    if isinstance(visible_lens, torch.Tensor):
        return replace(batch, exact_lens=visible_lens, ancestors=_nobody(batch), prepared={})
    key = ("committed", visible_lens)
    if key not in batch.prepared:
        view = replace(batch, context_lens=visible_lens, ancestors=_nobody(batch), prepared={})
        batch.prepared[key] = view
    return batch.prepared[key]


def _nobody(batch: TreeBatch) -> torch.Tensor:
    shape = (len(batch.positions), max(batch.node_counts))
    return torch.zeros(shape, dtype=torch.bool, device=batch.positions.device)


def strictly_earlier_view(batch: TreeBatch) -> TreeBatch:
    """The same chains over another cache of the same blocks, which holds the chains' tokens too.
    The row at position p sees the tokens before p, and not its own."""
    width, device = max(batch.node_counts), batch.positions.device
    if width == 1:
        return replace(batch, ancestors=_nobody(batch), prepared={})
    node = torch.cat([torch.arange(count, device=device) for count in batch.node_counts])
    earlier = torch.arange(width, device=device) < node[:, None]
    return replace(batch, ancestors=earlier, prepared={})
