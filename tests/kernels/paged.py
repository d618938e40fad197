"""Steps over a paged pool whose blocks are handed out in random order and start full of garbage."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.kernels.tree import LayerCache, TreeBatch
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.models.quantization import Quantization

CPU = torch.device("cpu")
GARBAGE = 1e4


@dataclass(frozen=True, slots=True)
class Nodes:
    """What one sequence brings to a step."""

    sequence: int
    context: int
    token_ids: Sequence[int]
    parents: Sequence[int] | None = None
    """Per node the index of its parent, -1 where the parent is committed; None for a chain."""

    def node_parents(self) -> Sequence[int]:
        return range(-1, len(self.token_ids) - 1) if self.parents is None else self.parents


def ancestor_mask(parents: Sequence[int], width: int) -> torch.Tensor:
    """[nodes, width] bool: node sees its ancestors and itself."""
    mask = torch.zeros(len(parents), width, dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] = mask[parent]
        mask[node, node] = True
    return mask


def shuffled_tables(num_sequences: int, num_blocks: int, seed: int) -> torch.Tensor:
    """[num_sequences, num_blocks] int64: every block of the pool, in random order."""
    order = torch.randperm(
        num_sequences * num_blocks, generator=torch.Generator().manual_seed(seed)
    )
    return order.view(num_sequences, num_blocks)


def garbage_cache(num_blocks: int, block_size: int, kv_heads: int, head_dim: int) -> LayerCache:
    """Large finite values: whoever weighs a slot it may not see gives itself away."""
    shape = (2, num_blocks, block_size, kv_heads, head_dim)
    keys, values = (torch.rand(shape) - 0.5) * GARBAGE
    return LayerCache(keys, values)


def tree_batch(tables: torch.Tensor, block_size: int, step: Sequence[Nodes]) -> TreeBatch:
    """tables: [num_sequences, max_blocks] of the whole pool."""
    positions, slots = list[int](), list[int]()
    width = max(len(nodes.token_ids) for nodes in step)
    masks = [ancestor_mask(nodes.node_parents(), width) for nodes in step]
    for nodes, mask in zip(step, masks, strict=True):
        for i in range(len(nodes.token_ids)):
            positions.append(nodes.context + int(mask[i].sum()) - 1)
            block, offset = divmod(nodes.context + i, block_size)
            slots.append(int(tables[nodes.sequence, block]) * block_size + offset)
    chains = all(nodes.parents is None for nodes in step)
    return TreeBatch(
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        block_tables=tables[[nodes.sequence for nodes in step]],
        context_lens=tuple(nodes.context for nodes in step),
        node_counts=tuple(len(nodes.token_ids) for nodes in step),
        ancestors=None if chains else torch.cat(masks),
        block_size=block_size,
    )


class PagedModel:
    """A model with a pool for a few sequences."""

    def __init__(
        self, model: CausalLM, num_sequences: int = 1, max_tokens: int = 96, block_size: int = 4
    ) -> None:
        self.model, self.block_size = model, block_size
        num_blocks = -(-max_tokens // block_size)
        self.tables = shuffled_tables(num_sequences, num_blocks, seed=max_tokens)
        config, dtype = model.config, model.placement.dtype
        same = ((config.num_kv_heads, config.head_dim),) * config.num_layers
        sizes = self.tables.numel(), block_size
        self.caches = [
            LayerCache(*(tensor.to(dtype) for tensor in garbage_cache(*sizes, *shape)))
            for shape in config.kv_shapes or same
        ]

    def step(self, *step: Nodes) -> torch.Tensor:
        """Logits [rows, vocab_size]."""
        batch = tree_batch(self.tables, self.block_size, step)
        token_ids = torch.tensor([token for nodes in step for token in nodes.token_ids])
        return self.model.logits(self.model(token_ids, self.caches, batch))

    def run(self, tokens: Sequence[int], chunks: Sequence[int], sequence: int = 0) -> torch.Tensor:
        """Sequence `sequence` alone, so many tokens a step -> logits [tokens, vocab_size]."""
        rows, start = list[torch.Tensor](), 0
        for chunk in chunks:
            rows.append(self.step(Nodes(sequence, start, tokens[start : start + chunk])))
            start += chunk
        assert start == len(tokens)
        return torch.cat(rows)

    def move(self, sequence: int, source: int, target: int) -> None:
        """Copies the KV of one token index to another, as accepting a leaf does."""
        (from_block, from_offset), (to_block, to_offset) = (
            divmod(index, self.block_size) for index in (source, target)
        )
        table = self.tables[sequence]
        for cache in self.caches:
            for pool in cache:
                pool[table[to_block], to_offset] = pool[table[from_block], from_offset]


def make_model(
    config: ModelConfig,
    weights: dict[str, torch.Tensor],
    dtype: torch.dtype,
    quantization: Quantization | None = None,
) -> CausalLM:
    """A frozen model; `weights` must name exactly its slots."""
    parameters = LlamaParameters(config, Placement(CPU, dtype))
    slots = parameters.slots()
    names = {name for name in weights if not parameters.ignorable(name)}
    assert set(slots) == names
    for name, slot in slots.items():
        slot.copy_(weights[name])
    return parameters.freeze(quantization)
