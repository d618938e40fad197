"""The native GliDe draft: as close to the exact one as torch's bfloat16, and whole chains equal to
single steps, bit by bit, whatever else is in the batch."""

import pytest
import torch

from server.models.config import RopeConfig
from server.models.glide_parameters import TOKEN_TABLE
from tests.kernels.native_models import needs_native, without_native_library
from tests.kernels.paged import Nodes
from tests.models.dense_glide import VOCABULARY, Draft, random_target_kv
from tests.models.glide_drafts import (
    VERIFIED,
    PagedDraft,
    assert_own_tokens_are_scored,
    dense_chain,
    final_hidden,
    paged_chain,
    text,
)
from tests.models.native_glide_drafts import (
    assert_chains_are_single_steps,
    chains,
    rms,
    wide_draft,
    wide_target,
)

pytestmark = needs_native()


DRAFTS: dict[str, Draft] = {
    "paper": wide_draft(),
    "three-glimpses": wide_draft(glimpse_layers=((0, 2, -1),)),
    "no-cross-norm": wide_draft(cross_norm=False),
    "biases": wide_draft(attention_bias=True, cross_bias=True),
    "no-final-norm": wide_draft(final_norm=False),
    "trimmed": wide_draft(draft_vocab_size=20),
    "own-both": wide_draft(own_embedding=True, own_head=True, hidden_size=48),
    "mha-target": wide_draft(wide_target(num_kv_heads=4), num_heads=6, num_kv_heads=2),
    "windows": wide_draft(
        wide_target(sliding_windows=(None, 9, None, 6, 7)), glimpse_layers=((0, 1, 4),)
    ),
    "two-rotaries": wide_draft(cross_rope_theta=10_000.0, rope=RopeConfig(theta=50.0)),
    "hidden": wide_draft(glimpse_hidden=True, max_delay=3),
    "copies": wide_draft(copy_hint=True, max_match=3),
    "copies-hidden": wide_draft(
        wide_target(hidden_size=96), copy_hint=True, glimpse_hidden=True, draft_vocab_size=20
    ),
    "everything": wide_draft(
        wide_target(hidden_size=112, head_dim=96, num_kv_heads=1),
        own_embedding=True, own_head=True, glimpse_hidden=True, attention_bias=True,
        cross_bias=True, glimpse_layers=((1, 3),), hidden_size=80, draft_vocab_size=37,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAFTS)
def test_error_is_that_of_torch_in_bfloat16(name: str) -> None:
    draft = DRAFTS[name]
    rounded = {n: w if w.dtype is torch.int64 else w.bfloat16() for n, w in draft.weights.items()}
    exact_weights = {n: w if w.dtype is torch.int64 else w.float() for n, w in rounded.items()}
    exact_draft = Draft(
        draft.config, draft.target, exact_weights,
        draft.target_embedding.bfloat16().float(), draft.target_head.bfloat16().float(),
    )  # fmt: skip
    kv = [(k.bfloat16(), v.bfloat16()) for k, v in random_target_kv(draft.target, VERIFIED)]
    hidden = final_hidden(draft.target).bfloat16()
    exact = dense_chain(
        exact_draft, [(k.float(), v.float()) for k, v in kv], text(), VERIFIED, hidden.float()
    )
    native_draft = PagedDraft(draft, [kv], torch.bfloat16)
    assert native_draft.model.drafts_chains
    native = paged_chain(native_draft, text(), VERIFIED, hidden, [5, VERIFIED - 5])
    with without_native_library():
        torch_draft = PagedDraft(draft, [kv], torch.bfloat16)
        assert not torch_draft.model.drafts_chains
        plain = paged_chain(torch_draft, text(), VERIFIED, hidden, [5, VERIFIED - 5])
    assert 0 < rms(plain - exact) < 0.1 * float(exact.std()), "the yardstick itself is broken"
    assert rms(native - exact) <= 1.5 * rms(plain - exact)


@pytest.mark.parametrize("name", DRAFTS)
def test_chains_are_single_steps_in_any_company(name: str) -> None:
    draft = DRAFTS[name]
    targets = [random_target_kv(draft.target, VERIFIED, seed) for seed in range(3)]
    assert_chains_are_single_steps(draft, PagedDraft(draft, targets, torch.bfloat16))


@pytest.mark.parametrize("ended", [(0,), (1,), (0, 1, 2), (2,)])
def test_chains_end_where_their_survival_is_too_small(ended: tuple[int, ...]) -> None:
    """The limit lies between the survivals at depths 2 and 3: the chain has 3 tokens, one fewer
    than asked for, and those and all other chains are as without limits."""
    draft = DRAFTS["three-glimpses"]
    targets = [random_target_kv(draft.target, VERIFIED, seed) for seed in range(3)]
    paged = PagedDraft(draft, targets, torch.bfloat16)
    roots = [(sequence, VERIFIED, 4) for sequence in range(3)]
    for sequence, verified, _ in roots:
        paged.fill(Nodes(sequence, 0, text(sequence)[:verified]))
    whole = chains(paged, roots, None)
    trunk = whole.confidences[..., 0]
    survivals = torch.where(trunk < 0.5, trunk, 0.5 + 0.5 * trunk).cumprod(dim=0)
    limits = [float(survivals[1:3, i].mean()) if i in ended else 0.0 for i in range(3)]
    found = chains(paged, roots, None, limits)
    assert found.lengths.tolist() == [3 if i in ended else 4 for i in range(3)]
    for i, length in enumerate(found.lengths.tolist()):
        assert torch.equal(found.token_ids[:length, i], whole.token_ids[:length, i])
        assert torch.equal(found.confidences[:length, i], whole.confidences[:length, i])


def test_kv_behind_the_roots_is_written_before_they_are_drafted() -> None:
    draft = DRAFTS["hidden"]
    targets = [random_target_kv(draft.target, VERIFIED, seed) for seed in range(3)]
    hidden = torch.stack([final_hidden(draft.target, seed).bfloat16() for seed in range(3)])
    roots = [(2, VERIFIED, 3), (0, VERIFIED - 1, 3), (1, VERIFIED - 2, 2)]
    nums_behind = [2, 0, 3]
    filled, late = (PagedDraft(draft, targets, torch.bfloat16) for _ in range(2))
    behind = list[list[int]]()
    for (sequence, verified, _), count in zip(roots, nums_behind, strict=True):
        tokens = list(text(sequence)[:verified])
        filled.fill(Nodes(sequence, 0, tokens))
        late.fill(Nodes(sequence, 0, tokens[: verified - count]))
        behind.append(tokens[verified - count :])
    expected = chains(filled, roots, hidden)
    found = chains(late, roots, hidden, behind=behind)
    assert torch.equal(found.token_ids, expected.token_ids)
    assert torch.equal(found.confidences, expected.confidences)
    for sequence, verified, _ in roots:
        assert torch.equal(late.own_kv(sequence, verified), filled.own_kv(sequence, verified))


def test_candidates_of_a_tiny_vocabulary() -> None:
    draft = wide_draft(draft_vocab_size=8)
    paged = PagedDraft(draft, [random_target_kv(draft.target, VERIFIED)], torch.bfloat16)
    paged.fill(Nodes(0, 0, text()[:VERIFIED]))
    tokens, confidences, _ = chains(paged, [(0, VERIFIED, 2)], None)
    assert sorted(tokens[0, 0].tolist()) == sorted(paged.model.draft_token_ids.tolist())
    torch.testing.assert_close(confidences.sum(dim=2), torch.ones(2, 1))


@pytest.mark.parametrize("glimpse_hidden", [False, True])
def test_a_draft_without_a_glimpse_runs_on_single_kernels(glimpse_hidden: bool) -> None:
    draft = wide_draft(glimpse_layers=((),), glimpse_hidden=glimpse_hidden)
    kv = [(k.bfloat16(), v.bfloat16()) for k, v in random_target_kv(draft.target, VERIFIED)]
    paged, hidden = PagedDraft(draft, [kv], torch.bfloat16), final_hidden(draft.target)
    assert not paged.model.drafts_chains
    found = paged_chain(paged, text(), VERIFIED, hidden.bfloat16(), [VERIFIED])
    exact = dense_chain(draft, kv, text(), VERIFIED, hidden)
    assert rms(found - exact) < 0.1 * float(exact.std())


def test_hidden_state_is_demanded() -> None:
    draft = DRAFTS["hidden"]
    paged = PagedDraft(draft, [random_target_kv(draft.target, VERIFIED)], torch.bfloat16)
    with pytest.raises(ValueError, match="hidden state"):
        chains(paged, [(0, VERIFIED, 2)], None)


@pytest.mark.parametrize("final_norm", [True, False])
def test_a_sequences_own_tokens_are_scored_like_those_of_the_vocabulary(final_norm: bool) -> None:
    """But for the rounding of what the head's product reads."""
    draft = wide_draft(draft_vocab_size=20, context_vocab_size=4, final_norm=final_norm)
    assert_own_tokens_are_scored(draft, torch.bfloat16, most_error=0.01)


def test_chains_say_own_tokens() -> None:
    """The second sequence's best token is one of its own; chains are as single steps."""
    draft = wide_draft(draft_vocab_size=20, context_vocab_size=4)
    fixed = draft.weights[TOKEN_TABLE].tolist()
    others = [i for i in range(VOCABULARY) if i not in fixed]
    targets = [random_target_kv(draft.target, VERIFIED, seed) for seed in range(2)]
    paged = PagedDraft(draft, targets, torch.bfloat16)
    roots = [Nodes(sequence, VERIFIED, [text(sequence)[VERIFIED]]) for sequence in range(2)]
    for sequence in range(2):
        paged.fill(Nodes(sequence, 0, text(sequence)[:VERIFIED]))
    everything = paged.draft(roots[1], verified=[VERIFIED], own=paged.own(others))
    best = others[int(everything[0, 20:].argmax())]
    shown = [others[:3], [best]]
    found = chains(paged, [(0, VERIFIED, 3), (1, VERIFIED, 2)], None, own=paged.own(*shown))
    said = set[int]()
    for sequence, depth in ((0, 3), (1, 2)):
        ids = torch.tensor([*fixed, *shown[sequence]])
        token = text(sequence)[VERIFIED]
        for step in range(depth):
            logits = paged.draft(
                Nodes(sequence, VERIFIED + step, [token]), verified=[VERIFIED],
                delay=step + 1, own=paged.own(shown[sequence]),
            )[0]  # fmt: skip
            order = logits.sort(descending=True, stable=True).indices[:8]
            assert found.token_ids[step, sequence].tolist() == ids[order].tolist()
            torch.testing.assert_close(
                found.confidences[step, sequence], logits.softmax(0)[order], rtol=1e-5, atol=1e-7
            )
            token = int(ids[order[0]])
            said |= set(found.token_ids[step, sequence].tolist())
    assert said & {*others}, "no own token is among the candidates"
