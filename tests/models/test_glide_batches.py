"""GliDe drafting of several sequences, of several nodes, and of beams: each row as if alone."""

import pytest
import torch

from tests.kernels.paged import Nodes
from tests.models.dense_glide import make_draft, random_target_kv
from tests.models.glide_drafts import (
    DRAFTS,
    STEPS,
    VERIFIED,
    PagedDraft,
    assert_same_logits,
    dense_chain,
    final_hidden,
    paged_chain,
    text,
)

SHORT = 6
SOME = ("paper", "two-layers-glimpses", "target-window", "mha-target", "hidden-two-layers")


@pytest.mark.parametrize("name", SOME)
def test_two_lengths_in_a_batch(name: str) -> None:
    draft = DRAFTS[name]
    lengths, texts = (VERIFIED, SHORT), (text(), text(1, SHORT + STEPS))
    hidden = torch.stack([final_hidden(draft.target, seed) for seed in (0, 1)])
    kvs = [random_target_kv(draft.target, length, seed) for seed, length in enumerate(lengths)]
    alone = [
        dense_chain(draft, kv, tokens, length, row)
        for kv, tokens, length, row in zip(kvs, texts, lengths, hidden, strict=True)
    ]
    paged = PagedDraft(draft, kvs)
    paged.fill(*(Nodes(i, 0, texts[i][: lengths[i]]) for i in range(2)))
    for step in range(STEPS):
        nodes = [Nodes(i, at := lengths[i] + step, texts[i][at : at + 1]) for i in range(2)]
        logits = paged.draft(*nodes, verified=lengths, hidden=hidden, delay=step + 1)
        assert_same_logits(logits, torch.stack([alone[0][step], alone[1][step]]))


@pytest.mark.parametrize("name", ["paper", "trimmed", "target-window-glimpses", "hidden"])
def test_catching_up_inside_a_draft_step(name: str) -> None:
    """After a wholly accepted draft the last drafted token has no draft KV yet: a one-layer draft
    takes it in with the root, here beside a sequence that has nothing to catch up."""
    draft = DRAFTS[name]
    kvs = [random_target_kv(draft.target, VERIFIED, seed) for seed in (0, 1)]
    hidden = torch.stack([final_hidden(draft.target, seed) for seed in (0, 1)])
    tokens = text(0, VERIFIED + 1), text(1, VERIFIED + 1)
    paged = PagedDraft(draft, kvs)
    paged.fill(Nodes(0, 0, tokens[0][: VERIFIED - 1]), Nodes(1, 0, tokens[1][:VERIFIED]))
    logits = paged.draft(
        Nodes(0, VERIFIED - 1, tokens[0][VERIFIED - 1 :]),
        Nodes(1, VERIFIED, tokens[1][VERIFIED:]),
        verified=(VERIFIED, VERIFIED),
        hidden=hidden[[0, 0, 1]],
    )
    for row, sequence in ((1, 0), (2, 1)):
        expected = dense_chain(draft, kvs[sequence], tokens[sequence], VERIFIED, hidden[sequence])
        assert_same_logits(logits[row : row + 1], expected)


@pytest.mark.parametrize("name", [name for name in DRAFTS if "hidden" not in name])
def test_fill_writes_the_kv_that_drafting_writes(name: str) -> None:
    """Drafting with a delay of 1 throughout, the first token seeing nothing of the target."""
    draft = DRAFTS[name]
    kv, tokens = random_target_kv(draft.target, VERIFIED), text()
    filled, drafted = PagedDraft(draft, [kv]), PagedDraft(draft, [kv])
    filled.fill(Nodes(0, 0, tokens[:VERIFIED]))
    for at in range(VERIFIED):
        drafted.draft(Nodes(0, at, tokens[at : at + 1]), verified=[at])
    torch.testing.assert_close(
        filled.own_kv(0, VERIFIED), drafted.own_kv(0, VERIFIED), rtol=1e-4, atol=1e-5
    )
    after = [paged_steps(paged, tokens) for paged in (filled, drafted)]
    assert_same_logits(*after)


def paged_steps(paged: PagedDraft, tokens: list[int]) -> torch.Tensor:
    rows = [
        paged.draft(Nodes(0, at, tokens[at : at + 1]), verified=[VERIFIED])
        for at in range(VERIFIED, len(tokens))
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("name", ["paper", "trimmed", "hidden"])
def test_drafted_kv_of_one_layer_needs_no_second_writing(name: str) -> None:
    """An accepted token's KV is the same whatever target KV its draft step saw."""
    draft = DRAFTS[name]
    kv, tokens = random_target_kv(draft.target, VERIFIED + STEPS), text()
    hidden = final_hidden(draft.target)
    drafted, filled = PagedDraft(draft, [kv]), PagedDraft(draft, [kv])
    paged_chain(drafted, tokens, VERIFIED, hidden, [VERIFIED])
    filled.fill(Nodes(0, 0, tokens))
    torch.testing.assert_close(
        drafted.own_kv(0, len(tokens)), filled.own_kv(0, len(tokens)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", [*SOME, "three-glimpses", "target-window-glimpses"])
def test_beams_are_separate_chains(name: str) -> None:
    """Two beams behind the root, of which the first one splits, beside a plain chain: the whole
    tree is brought at each step."""
    draft = DRAFTS[name]
    kvs = [
        random_target_kv(draft.target, length, seed)
        for seed, length in enumerate((VERIFIED, SHORT))
    ]
    hidden = torch.stack([final_hidden(draft.target, seed) for seed in (0, 1)])
    tokens, other = text(0, VERIFIED + 1), text(1, SHORT + 1)
    paged = PagedDraft(draft, kvs)
    paged.fill(Nodes(0, 0, tokens[:VERIFIED]), Nodes(1, 0, other[:SHORT]))
    tree, parents = [tokens[-1], 30, 31, 32, 33, 34], [-1, 0, 0, 1, 2, 1]
    beams = {3: [30, 32], 4: [31, 33], 5: [30, 34]}
    paged.draft(
        Nodes(0, VERIFIED, tree[:3], parents[:3]), verified=[VERIFIED], hidden=hidden[[0] * 3]
    )
    logits = paged.draft(
        Nodes(0, VERIFIED, tree, parents),
        Nodes(1, SHORT, [*other[SHORT:], 7, 8]),
        verified=(VERIFIED, SHORT), hidden=hidden[[0] * 6 + [1] * 3], delay=3,
    )  # fmt: skip
    for row, beam in beams.items():
        expected = dense_chain(draft, kvs[0], [*tokens, *beam], VERIFIED, hidden[0])
        assert_same_logits(logits[row], expected[-1])
    expected = dense_chain(draft, kvs[1], [*other, 7, 8], SHORT, hidden[1])
    assert_same_logits(logits[-1], expected[-1])


def test_bfloat16_is_the_same_draft() -> None:
    """bfloat16 itself makes about 1.2 % of noise; another draft would share no logit."""
    draft = make_draft(glimpse_layers=((0, -1),), head_dim=16)
    kv, hidden = random_target_kv(draft.target, VERIFIED), final_hidden(draft.target)
    paged = PagedDraft(draft, [kv], torch.bfloat16)
    actual = paged_chain(paged, text(), VERIFIED, hidden, [VERIFIED])
    expected = dense_chain(draft, kv, text(), VERIFIED, hidden)
    assert actual.dtype is torch.float32
    assert (actual - expected).abs().mean() < 0.02 * expected.abs().mean()
