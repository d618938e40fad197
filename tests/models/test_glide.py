"""GliDe drafting over paged caches against the plain one of `dense_glide.py`."""

from dataclasses import replace

import pytest
import torch

from server.kernels.types import CopyHints
from server.models.glide_parameters import GlideParameters
from server.models.layers import Placement
from tests.kernels.paged import Nodes
from tests.models.dense_glide import (
    CPU,
    VOCABULARY,
    make_draft,
    random_target_kv,
)
from tests.models.glide_drafts import (
    DRAFTS,
    VERIFIED,
    PagedDraft,
    assert_own_tokens_are_scored,
    assert_same_logits,
    dense_chain,
    final_hidden,
    paged_chain,
    text,
)


@pytest.mark.parametrize("chunks", [[VERIFIED], [1, 2, 11, 7]], ids=str)
@pytest.mark.parametrize("name", DRAFTS)
def test_chain_equals_dense(name: str, chunks: list[int]) -> None:
    draft = DRAFTS[name]
    kv, hidden = random_target_kv(draft.target, VERIFIED), final_hidden(draft.target)
    actual = paged_chain(PagedDraft(draft, [kv]), text(), VERIFIED, hidden, chunks)
    assert_same_logits(actual, dense_chain(draft, kv, text(), VERIFIED, hidden))


@pytest.mark.parametrize("chunks", [[VERIFIED], [1, 2, 11, 7]], ids=str)
@pytest.mark.parametrize("name", DRAFTS)
def test_the_newest_target_token_is_seen_and_the_next_is_not(name: str, chunks: list[int]) -> None:
    """The first draft step, with the target's KV going on behind the verified tokens."""
    draft = DRAFTS[name]
    kv, hidden = random_target_kv(draft.target, VERIFIED + 3), final_hidden(draft.target)
    tokens = text()[: VERIFIED + 1]
    actual = paged_chain(PagedDraft(draft, [kv]), tokens, VERIFIED, hidden, chunks)
    assert_same_logits(actual, dense_chain(draft, kv, tokens, VERIFIED, hidden))
    newest = [(k.clone(), v.clone()) for k, v in kv]
    for keys, values in newest:
        keys[VERIFIED - 1] += 1
        values[VERIFIED - 1] += 1
    changed = paged_chain(PagedDraft(draft, [newest]), tokens, VERIFIED, hidden, chunks)
    assert (changed - actual).abs().max() > 1e-3


@pytest.mark.parametrize("glimpse_hidden", [False, True])
def test_without_a_glimpse_the_target_cache_is_not_read(glimpse_hidden: bool) -> None:
    draft = make_draft(glimpse_layers=((),), glimpse_hidden=glimpse_hidden)
    assert not [name for name in draft.weights if "cross" in name]
    hidden = final_hidden(draft.target)
    kvs = [random_target_kv(draft.target, VERIFIED, seed) for seed in (0, 1)]
    actual, other = (
        paged_chain(PagedDraft(draft, [kv]), text(), VERIFIED, hidden, [VERIFIED]) for kv in kvs
    )
    assert_same_logits(actual, dense_chain(draft, kvs[0], text(), VERIFIED, hidden))
    assert torch.equal(actual, other)


def test_each_delay_has_its_own_embedding_and_the_last_serves_beyond() -> None:
    draft = make_draft(glimpse_hidden=True, max_delay=3)
    paged = PagedDraft(draft, [random_target_kv(draft.target, VERIFIED)])
    hidden, tokens = final_hidden(draft.target), text()
    paged.fill(Nodes(0, 0, tokens[:VERIFIED]))
    root = Nodes(0, VERIFIED, tokens[VERIFIED : VERIFIED + 1])
    rows = [
        paged.draft(root, verified=[VERIFIED], hidden=hidden[None], delay=delay)[0]
        for delay in (1, 2, 3, 4, 9)
    ]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (rows[one] - rows[other]).abs().max() > 1e-2
    assert torch.equal(rows[2], rows[3])
    assert torch.equal(rows[2], rows[4])


def test_hidden_state_is_demanded() -> None:
    draft = DRAFTS["hidden"]
    paged = PagedDraft(draft, [random_target_kv(draft.target, VERIFIED)])
    with pytest.raises(ValueError, match="hidden state"):
        paged.draft(Nodes(0, VERIFIED, [1]), verified=[VERIFIED])


@pytest.mark.parametrize("name", ["trimmed", "own-trimmed-head", "paper"])
def test_columns_are_the_listed_tokens(name: str) -> None:
    draft = DRAFTS[name]
    ids = draft.model().draft_token_ids
    expected = draft.weights.get("draft_token_ids", torch.arange(VOCABULARY))
    assert ids.dtype is torch.int64
    assert torch.equal(ids, expected)


def test_trimmed_logits_are_columns_of_the_whole() -> None:
    trimmed = DRAFTS["trimmed"]
    weights = {n: w for n, w in trimmed.weights.items() if n != "draft_token_ids"}
    config = replace(trimmed.config, draft_vocab_size=None)
    whole = replace(trimmed, config=config, weights=weights)
    kv, hidden = random_target_kv(trimmed.target, VERIFIED), final_hidden(trimmed.target)
    few, all_ = (
        paged_chain(PagedDraft(draft, [kv]), text(), VERIFIED, hidden, [VERIFIED])
        for draft in (trimmed, whole)
    )
    torch.testing.assert_close(few, all_[:, trimmed.weights["draft_token_ids"]])


@pytest.mark.parametrize("missing", ["embedding", "head"])
def test_shared_weights_are_demanded(missing: str) -> None:
    draft = DRAFTS["paper"]
    parameters = GlideParameters(draft.config, draft.target, Placement(CPU, torch.float32))
    with pytest.raises(ValueError, match=f"target's {missing}"):
        parameters.freeze(
            None if missing == "embedding" else draft.target_embedding,
            None if missing == "head" else draft.target_head,
        )


def test_a_sequences_own_tokens_are_scored_like_those_of_the_vocabulary() -> None:
    """Three sequences in one step, that show two, one and none."""
    draft = make_draft(draft_vocab_size=20, context_vocab_size=4)
    assert_own_tokens_are_scored(draft, torch.float32, most_error=1e-5)


def test_a_fixed_vocabulary_has_no_head_beyond_it() -> None:
    with pytest.raises(RuntimeError, match="fixed vocabulary"):
        PagedDraft(make_draft(draft_vocab_size=20), []).model.head_rows(torch.tensor([1]))


def test_what_was_looked_up_changes_what_is_drafted() -> None:
    """By its token, and by how many tokens are equal; nothing looked up is as nothing found."""
    draft = make_draft(copy_hint=True, max_match=3)
    paged = PagedDraft(draft, [random_target_kv(draft.target, VERIFIED)])
    paged.fill(Nodes(0, 0, text()[:VERIFIED]))
    root = Nodes(0, VERIFIED, [text()[VERIFIED]])

    def logits(*found: int) -> torch.Tensor:
        hints = CopyHints(*(torch.tensor([number]) for number in found)) if found else None
        return paged.draft(root, verified=[VERIFIED], hints=hints)

    rows = [logits(7, 2), logits(8, 2), logits(7, 1), logits(7, 3), logits(-1, 0)]
    for index, row in enumerate(rows):
        assert all((row - other).abs().max() > 1e-2 for other in rows[:index])
    assert torch.equal(logits(7, 3), logits(7, 6)), "beyond max_match all are alike"
    assert torch.equal(logits(-1, 0), logits())
