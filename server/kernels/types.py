"""What kernels are given and give back, whatever the backend: sizes, weights, chains, draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from server.kernels.quantized import Weight
from server.kernels.tree import LayerCache, TreeBatch

CosSin = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of rotary angles, [rows, 1, head_dim] each."""
ForwardFn = Callable[[torch.Tensor, Sequence[LayerCache], TreeBatch], torch.Tensor]
"""(token ids [rows], caches, batch) -> final hidden states [rows, hidden], normed; writes the rows'
KV. Token ids lie in the vocabulary, and in trees parents come before their children."""


class RotaryGrowth(NamedTuple):
    """How the base of rotary frequencies grows with the context (NTK scaling); `models/rope.py`."""

    theta: float
    factor: float
    trained: int
    """Tokens of the context that the model was trained with; up to there, nothing grows."""


class RotaryAngles(NamedTuple):
    """What gives the rotary angles of any position: position times frequency."""

    frequencies: torch.Tensor
    """[head_dim / 2] float32"""
    scale: float
    """Factor on cosines and sines."""
    growth: RotaryGrowth | None
    """None for frequencies that are the same everywhere."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreRules:
    """What a layer makes of its scores, query x key."""

    scale: float
    """Factor on every score."""
    window: int | None = None
    """A query sees its last `window` positions, itself included; None sees all."""
    chunk: int | None = None
    """A query sees the positions of its own chunk alone: chunk c is [c x chunk, (c + 1) x chunk);
    None has no chunks."""
    softcap: float | None = None
    """Scores become softcap x tanh(score / softcap); None leaves them."""
    sinks: torch.Tensor | None = None
    """[num_heads]: a score per head that joins the softmax and brings no value."""

    @property
    def is_plain(self) -> bool:
        """Whether `tree_attention` computes it, once the query is scaled."""
        return self.chunk is None and self.softcap is None and self.sinks is None


ScoredAttention = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, LayerCache, TreeBatch, ScoreRules], torch.Tensor
]
"""(query [1, num_heads, rows, head_dim], keys [1, num_kv_heads, rows, head_dim], values [1,
num_kv_heads, rows, value_dim], cache, batch, rules) -> [1, rows, num_heads, value_dim] in the
cache's precision; these are transformers' shapes. Rotary is applied. Writes the rows' keys and
values to the cache, values that are narrower than its slots with zeros behind them, and attends
over it."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """Sizes of a Llama-family decoder."""

    num_layers: int
    hidden: int
    inner: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qk_norm: bool
    eps: float


@dataclass(frozen=True, slots=True)
class DecoderEnds:
    """What a decoder has before and behind its layers."""

    embedding: torch.Tensor
    """[vocab_size, hidden]; not copied."""
    final_norm: torch.Tensor
    """[hidden]"""
    rotary: RotaryAngles


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's weights: matrices [outputs, inputs], norms and biases [outputs]."""

    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    qkv: Weight
    output: Weight
    gate_up: Weight
    down: Weight
    qkv_bias: torch.Tensor | None
    output_bias: torch.Tensor | None
    gate_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    window: int | None


@dataclass(frozen=True, slots=True)
class GlideShape:
    """Sizes of a one-layer draft and of the target's KV that it reads."""

    own: DecoderShape
    cross_heads: int
    cross_kv_heads: int
    cross_head_dim: int
    target_hidden: int
    """Size of the target's hidden state where the draft reads it, else 0."""
    copy_hint: bool
    """Whether the draft takes what was looked up as a hint."""


@dataclass(frozen=True, slots=True)
class GlideWeights:
    """Weights of a one-layer draft. Matrices are [outputs, inputs]; all but the embedding are
    copied."""

    layer: LayerWeights
    glimpsed: Sequence[int]
    """Target layers that are read."""
    windows: Sequence[int | None]
    """Sliding windows of these layers."""
    cross_norm: torch.Tensor | None
    cross_query: Weight
    """The queries of all layers read, one after another."""
    cross_query_bias: torch.Tensor | None
    cross_output: Weight
    final_norm: torch.Tensor | None
    head: Weight
    token_ids: torch.Tensor
    """[rows of the head] int64: each row's token."""
    embedding: torch.Tensor
    hint_proj: Weight | None
    """Inputs: the target's hidden state, then the looked up token's embedding, as far as the draft
    takes them; None where it takes neither."""
    delays: torch.Tensor
    """[max_delay, hidden]"""
    matches: torch.Tensor
    """[max_match + 1, hidden]"""
    rotary: RotaryAngles
    """Of the self-attention."""
    cross_rotary: RotaryAngles
    """Of the glimpse."""


class OwnTokens(NamedTuple):
    """Tokens beyond the draft's fixed ones that sequences show, which it may say there too. A
    tensor per sequence."""

    token_ids: tuple[torch.Tensor, ...]
    """[tokens] int64 each"""
    rows: tuple[torch.Tensor, ...]
    """[tokens, hidden] each: their rows of the target's head."""

    @property
    def most(self) -> int:
        """Most tokens of any sequence."""
        return max((part.shape[0] for part in self.token_ids), default=0)


class CopyHints(NamedTuple):
    """What was looked up for rows: the token that followed when the sequence's last tokens occurred
    before."""

    token_ids: torch.Tensor
    """int64; -1 where nothing was found."""
    num_equal: torch.Tensor
    """int64, the same shape: how many tokens before it are equal; 0 where nothing was found."""


class DraftStep(NamedTuple):
    """The rows of one drafting step."""

    token_ids: torch.Tensor
    """[rows] int64"""
    batch: TreeBatch
    """For the self-attention: its context is everything committed or drafted before."""
    verified_lens: tuple[int, ...] | torch.Tensor
    """Per sequence, how many tokens of the target's KV the glimpse sees, at least 1; a tensor
    [sequences] where the batch has exact_lens."""
    hidden: torch.Tensor | None
    """[rows, target hidden size], the target's final hidden state (normed) at each row's last
    verified position; None for drafts that don't glimpse it."""
    delay: int
    """1 for the token after the last verified one, 2 for the next …; beyond the draft's `max_delay`
    the embedding of that one serves."""
    own: OwnTokens | None = None
    """None for drafts with a fixed vocabulary alone."""
    copy_hints: CopyHints | None = None
    """Of the rows [rows]; None where nothing was looked up."""


class Roots(NamedTuple):
    """Where chains begin, longest chain first. Numbers are Python's: a step's are few, and making
    tensors of them took longer than drafting a token."""

    token_ids: Sequence[int]
    """The last committed token of each sequence …"""
    starts: Sequence[int]
    """… and its position; the target's KV before it is glimpsed."""
    depths: Sequence[int]
    """Tokens to draft, at least 1, not increasing."""
    block_tables: Sequence[Sequence[int]]
    block_size: int
    hidden: Sequence[torch.Tensor] | None
    """[target hidden size] of each sequence."""
    own: OwnTokens | None = None
    """None for drafts with a fixed vocabulary alone."""
    copied: Sequence[Sequence[int]] | None = None
    """By depth, for each sequence: the token that was looked up, -1 for none; None where nothing
    was looked up."""
    num_equal: Sequence[Sequence[int]] | None = None
    """In the same order: how many tokens before it are equal; 0 where nothing was found."""
    behind: Sequence[Sequence[int]] | None = None
    """Of each sequence the committed tokens right before the root whose own KV is not written yet;
    it is written first. None where there are none."""


class ChainEnds(NamedTuple):
    """Where chains end before their depth: behind a token with which the survival, the product of
    the tokens' chances of acceptance, is below a limit."""

    least: Sequence[float]
    """Of each sequence: the limits; 0 for chains that don't end early."""
    offsets: Sequence[float]
    """The chance is offset + slope x confidence, at most 1, in each of equal ranges of the
    confidence between 0 and 1."""
    slopes: Sequence[float]


class Filling(NamedTuple):
    """Committed tokens whose own KV is to be written."""

    token_ids: torch.Tensor
    """[rows] int64"""
    batch: TreeBatch


class Chain(NamedTuple):
    """A drafted chain: at each depth the most probable tokens, of which the first one was
    continued, and their probabilities."""

    candidates: tuple[tuple[int, ...], ...]
    confidences: tuple[tuple[float, ...], ...]


class Caches(NamedTuple):
    """The KV a draft works on."""

    own: Sequence[LayerCache]
    target: Sequence[LayerCache]
    """All layers of the target."""


class TokenDraw(NamedTuple):
    """How a token is drawn from a row of logits."""

    temperature: float
    """Above 0."""
    top_k: int
    """0 for all tokens."""
    top_p: float
    """1 for all."""
    min_p: float
    """0 for all."""
    uniform: float
    """From 0 on, below 1: the share of the kept tokens' mass, in order of their ids, at which the
    drawn one lies."""
