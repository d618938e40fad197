"""The native GliDe draft beside a quantized target: its own weights in 4 bits, and the target's
head, whatever it is stored in."""

from dataclasses import replace

import pytest
import torch

from server.kernels.quantized import QuantizedWeight, RoundedKind, quantize
from server.models.glide import GlideModel
from server.models.glide_parameters import TOKEN_TABLE, GlideParameters
from server.models.layers import Placement
from tests.kernels.native_models import needs_native, without_native_library
from tests.kernels.paged import CPU
from tests.kernels.quantized_models import KINDS
from tests.models.dense_glide import Draft, random_target_kv
from tests.models.glide_drafts import (
    VERIFIED,
    PagedDraft,
    dense_chain,
    final_hidden,
    paged_chain,
    text,
)
from tests.models.native_glide_drafts import (
    assert_chains_are_single_steps,
    rms,
    wide_draft,
    wide_target,
)

TARGET = wide_target(hidden_size=96)
DRAFTS: dict[str, Draft] = {
    "paper": wide_draft(TARGET),
    "three-glimpses": wide_draft(TARGET, glimpse_layers=((0, 2, -1),)),
    "biases": wide_draft(TARGET, attention_bias=True, cross_bias=True, cross_norm=False),
    "trimmed": wide_draft(TARGET, draft_vocab_size=20, final_norm=False),
    "own-both": wide_draft(TARGET, own_embedding=True, own_head=True, hidden_size=64),
    "hidden": wide_draft(TARGET, glimpse_hidden=True, max_delay=3),
    "everything": wide_draft(
        wide_target(hidden_size=128, head_dim=96, num_kv_heads=1),
        own_embedding=True, own_head=True, glimpse_hidden=True, attention_bias=True,
        cross_bias=True, glimpse_layers=((1, 3),), hidden_size=96, draft_vocab_size=37,
    ),
}  # fmt: skip
DRAFT: RoundedKind = "q4_1"
"""What drafts are rounded to."""
CASES = [(name, kind) for name in DRAFTS for kind in KINDS]


def quantized_model(draft: Draft, kind: RoundedKind) -> GlideModel:
    """The draft as it is loaded beside a target whose head is quantized."""
    parameters = GlideParameters(draft.config, draft.target, Placement(CPU, torch.bfloat16))
    for name, slot in parameters.slots().items():
        slot.copy_(draft.weights[name])
    head = quantize(draft.target_head, kind)
    return parameters.freeze(draft.target_embedding.bfloat16(), head)


def dequantized(draft: Draft, kind: RoundedKind) -> Draft:
    """What it computes: the rounded weights as floats."""
    weights = {name: _rounded(name, weight) for name, weight in draft.weights.items()}
    head = quantize(draft.target_head, kind).dequantize()
    if kind != DRAFT:
        head = quantize(head, DRAFT).dequantize()
    embedding = draft.target_embedding.bfloat16().float()
    return Draft(draft.config, draft.target, weights, embedding, head)


def _rounded(name: str, weight: torch.Tensor) -> torch.Tensor:
    if name == TOKEN_TABLE:
        return weight
    weight = weight.bfloat16().float()
    if weight.dim() < 2 or "embed" in name:  # token and delay embeddings are added, not multiplied
        return weight
    return quantize(weight, DRAFT).dequantize()


@needs_native()
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_error_is_at_most_twice_that_of_torch_in_bfloat16(name: str, kind: RoundedKind) -> None:
    """Against the same weights in float32."""
    draft = dequantized(DRAFTS[name], kind)
    kv = [(k.bfloat16(), v.bfloat16()) for k, v in random_target_kv(draft.target, VERIFIED)]
    floats = [(k.float(), v.float()) for k, v in kv]
    hidden = final_hidden(draft.target).bfloat16()
    exact = dense_chain(draft, floats, text(), VERIFIED, hidden.float())
    with without_native_library():
        plain_draft = PagedDraft(draft, [kv], torch.bfloat16)
        plain = paged_chain(plain_draft, text(), VERIFIED, hidden, [5, VERIFIED - 5])
    native = PagedDraft(draft, [kv], torch.bfloat16)
    native.model = quantized_model(DRAFTS[name], kind)
    assert native.model.drafts_chains
    found = paged_chain(native, text(), VERIFIED, hidden, [5, VERIFIED - 5])
    assert 0 < rms(plain - exact) < 0.1 * float(exact.std()), "the yardstick itself is broken"
    assert rms(found - exact) <= 2 * rms(plain - exact)


@needs_native()
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_chains_are_single_steps_in_any_company(name: str, kind: RoundedKind) -> None:
    draft = DRAFTS[name]
    targets = [random_target_kv(draft.target, VERIFIED, seed) for seed in range(3)]
    paged = PagedDraft(draft, targets, torch.bfloat16)
    paged.model = quantized_model(draft, kind)
    assert paged.model.drafts_chains
    assert_chains_are_single_steps(draft, paged)


@needs_native()
@pytest.mark.parametrize("kind", KINDS)
def test_trimmed_logits_are_columns_of_the_whole(kind: RoundedKind) -> None:
    """A row of the head means the same whether others are proposed or not."""
    trimmed = DRAFTS["trimmed"]
    weights = {name: w for name, w in trimmed.weights.items() if name != TOKEN_TABLE}
    whole = replace(trimmed, config=replace(trimmed.config, draft_vocab_size=None), weights=weights)
    kv = random_target_kv(trimmed.target, VERIFIED)
    found = list[torch.Tensor]()
    for draft in (trimmed, whole):
        paged = PagedDraft(draft, [kv], torch.bfloat16)
        paged.model = quantized_model(draft, kind)
        assert paged.model.drafts_chains
        found.append(paged_chain(paged, text(), VERIFIED, None, [VERIFIED]))
    assert torch.equal(found[0], found[1][:, trimmed.weights[TOKEN_TABLE]])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_fallback_is_torch_with_a_dequantized_head(name: str, kind: RoundedKind) -> None:
    """The draft's own layers stay as they are."""
    draft, rounded = DRAFTS[name], dequantized(DRAFTS[name], kind)
    head = {n: w for n, w in rounded.weights.items() if n == "lm_head.weight"}
    meant = replace(rounded, weights={**draft.weights, **head})
    kv, hidden = random_target_kv(draft.target, VERIFIED), final_hidden(draft.target).bfloat16()
    with without_native_library():
        paged = PagedDraft(meant, [kv], torch.bfloat16)
        expected = paged_chain(paged, text(), VERIFIED, hidden, [VERIFIED])
        paged.model = quantized_model(draft, kind)
    assert not paged.model.drafts_chains
    assert torch.equal(paged_chain(paged, text(), VERIFIED, hidden, [VERIFIED]), expected)


def test_blocks_of_the_head_are_not_copied_where_all_are_proposed() -> None:
    draft = DRAFTS["paper"]
    head = quantize(draft.target_head, "q4_1")
    parameters = GlideParameters(draft.config, draft.target, Placement(CPU, torch.bfloat16))
    taken = parameters._head(head)  # pyright: ignore[reportPrivateUsage]
    assert isinstance(taken, QuantizedWeight)
    assert taken.blocks.data_ptr() == head.blocks.data_ptr()
