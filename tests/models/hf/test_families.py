"""Every family on our paged cache against transformers' own: same checkpoint, float32, logits
equal."""

from typing import Any, NamedTuple

import pytest
import torch

from server.models.causal_lm import CausalLM
from tests.kernels.paged import Nodes, PagedModel, ancestor_mask
from tests.models.hf.families import FAMILIES, our_model, reference_model
from tests.models.hf.theirs import PARENTS, assert_same, their_logits, tokens

PREFILL, STEPS = 40, 20


class Pair(NamedTuple):
    reference: Any
    model: CausalLM


@pytest.fixture(params=FAMILIES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    reference = reference_model(FAMILIES[request.param])
    reference.save_pretrained(folder)
    return Pair(reference, our_model(folder))


@torch.no_grad()
def their_decoding(reference: Any, token_ids: list[int]) -> torch.Tensor:
    """The same by one prefill, then single steps with transformers' cache."""
    first = reference(torch.tensor([token_ids[:PREFILL]]), use_cache=True)
    rows, cache = [first.logits[0]], first.past_key_values
    for token in token_ids[PREFILL:]:
        step = reference(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
        rows.append(step.logits[0])
    return torch.cat(rows)


def test_prefill_and_decoding(pair: Pair) -> None:
    text = tokens(PREFILL + STEPS)
    expected = their_decoding(pair.reference, text)
    assert_same(PagedModel(pair.model).run(text, [PREFILL] + [1] * STEPS), expected)


def test_chunked_prefill(pair: Pair) -> None:
    text = tokens(60)
    expected = their_logits(pair.reference, text)
    assert_same(PagedModel(pair.model).run(text, [1, 2, 3, 17, 37]), expected)


def test_a_tree_equals_the_chains_of_its_paths(pair: Pair) -> None:
    text, nodes = tokens(PREFILL), tokens(len(PARENTS), seed=6)
    pool = PagedModel(pair.model)
    pool.step(Nodes(0, 0, text))
    found = pool.step(Nodes(0, PREFILL, nodes, PARENTS))
    for node, seen in enumerate(ancestor_mask(PARENTS, len(PARENTS))):
        path = [nodes[i] for i in range(len(nodes)) if seen[i]]
        expected = their_logits(pair.reference, text + path)[-1]
        torch.testing.assert_close(found[node], expected, rtol=1e-4, atol=1e-4)


def test_company_changes_nothing(pair: Pair) -> None:
    """Two sequences of other lengths in one step, one of them a tree."""
    long, short, nodes = tokens(33), tokens(11, seed=7), tokens(len(PARENTS), seed=6)
    pool = PagedModel(pair.model, num_sequences=2)
    first = pool.step(Nodes(0, 0, long[:30]), Nodes(1, 0, short))
    second = pool.step(Nodes(0, 30, long[30:]), Nodes(1, 11, nodes, PARENTS))
    expected = their_logits(pair.reference, long)
    assert_same(torch.cat((first[:30], second[:3])), expected)
    chain = their_logits(pair.reference, short + nodes[:4])
    assert_same(torch.cat((first[30:], second[3:7])), chain)
