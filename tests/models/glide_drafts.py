"""Drafts of several shapes, and chains of them by the paged model and by the dense one."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from server.kernels.tree import LayerCache
from server.kernels.types import Caches, CopyHints, DraftStep, OwnTokens
from server.models.config import ModelConfig, RopeConfig
from server.models.glide_parameters import TOKEN_TABLE
from tests.kernels.paged import Nodes, garbage_cache, shuffled_tables, tree_batch
from tests.models.dense_glide import (
    KV,
    VOCABULARY,
    Dense,
    Draft,
    make_draft,
    random_target_kv,
    target_config,
)

BLOCK = 4
VERIFIED, STEPS = 21, 5
"""Tokens whose target KV exists, and draft steps behind them."""
MHA = target_config(num_kv_heads=4)
WINDOWS = target_config(sliding_windows=(None, 9, None, 6, 7))
DRAFTS: dict[str, Draft] = {
    "paper": make_draft(),
    "two-layers": make_draft(num_layers=2),
    "three-glimpses": make_draft(glimpse_layers=((0, 2, -1),)),
    "two-layers-glimpses": make_draft(num_layers=2, glimpse_layers=((1, 3), (4, 0))),
    "two-layers-one-glimpse": make_draft(num_layers=2, glimpse_layers=((), (4,))),
    "no-cross-norm": make_draft(cross_norm=False),
    "biases": make_draft(attention_bias=True, cross_bias=True),
    "no-final-norm": make_draft(final_norm=False),
    "trimmed": make_draft(draft_vocab_size=20),
    "own-tokens": make_draft(draft_vocab_size=20, context_vocab_size=4),
    "own-embedding": make_draft(own_embedding=True),
    "own-head": make_draft(own_head=True),
    "own-trimmed-head": make_draft(own_head=True, draft_vocab_size=20),
    "own-both-narrower": make_draft(own_embedding=True, own_head=True, hidden_size=20),
    "mha-target": make_draft(MHA, num_kv_heads=6),
    "target-window": make_draft(WINDOWS, num_layers=2),
    "target-window-glimpses": make_draft(WINDOWS, glimpse_layers=((0, 1, 4),)),
    "cross-rope": make_draft(cross_rope_theta=10_000.0),
    "own-rope": make_draft(rope=RopeConfig(theta=50.0)),
    "same-head-size": make_draft(head_dim=16),
    "same-head-size-cross-rope": make_draft(head_dim=16, cross_rope_theta=10_000.0),
    "hidden": make_draft(glimpse_hidden=True),
    "hidden-two-layers": make_draft(num_layers=2, glimpse_hidden=True, draft_vocab_size=20),
    "copies": make_draft(copy_hint=True, max_match=3),
    "copies-hidden": make_draft(copy_hint=True, glimpse_hidden=True, draft_vocab_size=20),
    "copies-two-layers": make_draft(num_layers=2, copy_hint=True, own_embedding=True),
    "hidden-wide-target": make_draft(
        target_config(hidden_size=40),
        own_embedding=True, own_head=True, glimpse_hidden=True,
    ),
}  # fmt: skip


class PagedDraft:
    """A draft beside its target's cache, in blocks handed out at random. Slots nobody has written
    hold garbage, in both."""

    def __init__(
        self, draft: Draft, targets: Sequence[Sequence[KV]], dtype: torch.dtype = torch.float32
    ) -> None:
        """targets: per sequence the target's layers."""
        self.model, self.dtype = draft.model(dtype), dtype
        self.tables = shuffled_tables(len(targets), 12, seed=len(targets))
        config, target = draft.config, draft.target
        self.caches = [self._cache(config) for _ in range(config.num_layers)]
        self.target_caches = [self._cache(target) for _ in range(target.num_layers)]
        self.kv = Caches(self.caches, self.target_caches)
        for table, layers in zip(self.tables, targets, strict=True):
            for cache, kv in zip(self.target_caches, layers, strict=True):
                for pool, tokens in zip(cache, kv, strict=True):
                    at = torch.arange(len(tokens))
                    pool[table[at // BLOCK], at % BLOCK] = tokens.to(dtype)

    def _cache(self, shape: object) -> LayerCache:
        sizes = (self.tables.numel(), BLOCK, shape.num_kv_heads, shape.head_dim)  # pyright: ignore[reportAttributeAccessIssue]
        return LayerCache(*(tensor.to(self.dtype) for tensor in garbage_cache(*sizes)))

    def fill(self, *step: Nodes) -> None:
        self.model.fill(_ids(step), tree_batch(self.tables, BLOCK, step), self.kv)

    def draft(
        self, *step: Nodes, verified: Sequence[int], hidden: torch.Tensor | None = None,
        delay: int = 1, own: OwnTokens | None = None, hints: CopyHints | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """hidden: [rows, target hidden size]"""
        batch = tree_batch(self.tables, BLOCK, step)
        rows = DraftStep(_ids(step), batch, tuple(verified), hidden, delay, own, hints)
        return self.model.draft(rows, self.kv)

    def own(self, *token_ids: Sequence[int]) -> OwnTokens:
        """token_ids: per sequence, beyond the draft's vocabulary."""
        ids = tuple(torch.tensor(some, dtype=torch.int64) for some in token_ids)
        return OwnTokens(ids, tuple(map(self.model.head_rows, ids)))

    def own_kv(self, sequence: int, length: int) -> torch.Tensor:
        """[layers, 2, length, kv_heads, head_dim]"""
        at = torch.arange(length)
        table = self.tables[sequence]
        return torch.stack(
            [torch.stack([p[table[at // BLOCK], at % BLOCK] for p in c]) for c in self.caches]
        )


def _ids(step: Sequence[Nodes]) -> torch.Tensor:
    return torch.tensor([token for nodes in step for token in nodes.token_ids])


def text(seed: int = 0, length: int = VERIFIED + STEPS) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (length,), generator=generator).tolist()


def final_hidden(target: ModelConfig, seed: int = 0) -> torch.Tensor:
    return torch.randn(target.hidden_size, generator=torch.Generator().manual_seed(seed + 100))


COPIED = ((7, 2), (-1, 0), (31, 1), (7, 6), (0, 4))
"""What was looked up for the tokens of a chain, -1 for nothing, and how many tokens are equal."""


def copied(*places: int) -> CopyHints:
    """The same for rows."""
    return CopyHints(*map(torch.tensor, zip(*(COPIED[place] for place in places), strict=True)))


def dense_chain(
    draft: Draft, kv: Sequence[KV], tokens: Sequence[int], verified: int, hidden: torch.Tensor
) -> torch.Tensor:
    """Logits of the drafted rows: the tokens from `verified` on, the others being committed."""
    dense, rows = Dense(draft, kv), list[torch.Tensor]()
    for at, token in enumerate(tokens):
        seen = hidden if draft.config.glimpse_hidden and at >= verified else None
        found = COPIED[at - verified] if draft.config.copy_hint and at >= verified else None
        logits = dense.row(token, min(at, verified), seen, max(1, at - verified + 1), found)
        if at >= verified:
            rows.append(logits)
    return torch.stack(rows).float()


def paged_chain(
    paged: PagedDraft, tokens: Sequence[int], verified: int, hidden: torch.Tensor | None,
    chunks: Sequence[int], hints: CopyHints | None = None, sequence: int = 0,
) -> torch.Tensor:  # fmt: skip
    """The same, token by token, after filling the committed ones in chunks.

    hints: what was looked up, [tokens, 1]; by default as in `dense_chain`.
    """
    if hints is None and paged.model.copy_hint:
        hints = CopyHints(*(part[:, None] for part in copied(*range(STEPS))))
    start = 0
    for chunk in chunks:
        paged.fill(Nodes(sequence, start, tokens[start : start + chunk]))
        start += chunk
    assert start == verified
    rows = list[torch.Tensor]()
    for at in range(verified, len(tokens)):
        nodes = Nodes(sequence, at, tokens[at : at + 1])
        seen = None if hidden is None else hidden[None]
        delay = at - verified + 1
        found = None if hints is None else CopyHints(*(part[delay - 1] for part in hints))
        rows.append(paged.draft(nodes, verified=[verified], hidden=seen, delay=delay, hints=found))
    return torch.cat(rows)


def assert_same_logits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.3, "logits too flat to tell drafts apart"
    assert actual.dtype is torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def with_vocabulary(draft: Draft, token_ids: Sequence[int]) -> Draft:
    """The same draft, that says these tokens alone."""
    config = replace(draft.config, draft_vocab_size=len(token_ids), context_vocab_size=0)
    weights = {**draft.weights, TOKEN_TABLE: torch.tensor(token_ids)}
    return replace(draft, config=config, weights=weights)


def assert_own_tokens_are_scored(draft: Draft, dtype: torch.dtype, most_error: float) -> None:
    """Like those of a draft whose vocabulary has them.

    Args:
        most_error: of a logit, as a share of their standard deviation.
    """
    fixed = draft.weights[TOKEN_TABLE].tolist()
    others = [i for i in range(VOCABULARY) if i not in fixed]
    shown = [others[2:4], others[:1], []]
    targets = [random_target_kv(draft.target, VERIFIED, seed) for seed in range(3)]
    paged = PagedDraft(draft, targets, dtype)
    for sequence in range(3):
        paged.fill(Nodes(sequence, 0, text(sequence)[:VERIFIED]))
    roots = [Nodes(sequence, VERIFIED, [text(sequence)[VERIFIED]]) for sequence in range(3)]
    found = paged.draft(*roots, verified=[VERIFIED] * 3, own=paged.own(*shown))
    assert found.shape == (3, 22)
    for sequence, own in enumerate(shown):
        same = PagedDraft(with_vocabulary(draft, [*fixed, *own]), [targets[sequence]], dtype)
        same.fill(Nodes(0, 0, text(sequence)[:VERIFIED]))
        root = Nodes(0, VERIFIED, [text(sequence)[VERIFIED]])
        expected = same.draft(root, verified=[VERIFIED])[0]
        error = (found[sequence, : len(expected)] - expected).abs().max() / expected.std()
        assert error <= most_error
        assert found[sequence, len(expected) :].tolist() == [-math.inf] * (2 - len(own))
