"""Agreement along a text: every root and delay against the plain GliDe of `dense_glide.py`,
and against what the engine computes while it serves."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.paper.measure.agreement import Agreement, TeacherForced, overlap
from server.engine.drafters.glide import GlideDrafter
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.types import SpeculationParams
from server.kernels.tree import LayerCache, TreeBatch
from server.kernels.types import Caches, DraftStep
from tests.engine.drafting import tiny_glide
from tests.engine.tiny import CONFIG, CPU, TinyEngine, make_request, tiny_caches, tiny_model, tokens
from tests.models.dense_glide import KV, Draft, random_target_kv
from tests.models.glide_drafts import DRAFTS, dense_chain, text, with_vocabulary

DEPTH = 3
PROMPT, LENGTH = 4, 41
"""More roots than are drafted at once."""


class ScriptedTarget:
    """Writes given keys and values, returns given hidden states."""

    def __init__(self, kv: Sequence[KV], hidden: torch.Tensor, head: torch.Tensor) -> None:
        self.kv, self.hidden, self.head = kv, hidden, head

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor:
        for cache, layer in zip(caches, self.kv, strict=True):
            for pool, values in zip(cache, layer, strict=True):
                pool.view(-1, *pool.shape[2:])[batch.slots] = values[batch.positions]
        return self.hidden[batch.positions]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.head.T


def expected(
    draft: Draft, target: ScriptedTarget, token_ids: Sequence[int], draft_ids: torch.Tensor
) -> Agreement:
    """Root by root, delay by delay, with a dense draft each."""
    counts, hits, overlaps = [0] * DEPTH, [0] * DEPTH, [0.0] * DEPTH
    for root in range(PROMPT, len(token_ids) - 1):
        fed = token_ids[: min(root + DEPTH, len(token_ids) - 1)]
        most = draft.config.context_vocab_size
        own = [i for i in dict.fromkeys(token_ids[: root + 1]) if i not in draft_ids][:most]
        says = with_vocabulary(draft, [*draft_ids.tolist(), *own]) if own else draft
        logits = dense_chain(says, target.kv, fed, root, target.hidden[root - 1])
        for step, row in enumerate(logits):
            right = token_ids[root + step + 1]
            target_probs = target.logits(target.hidden[root + step]).softmax(-1)
            counts[step] += 1
            ids = [*draft_ids.tolist(), *own]
            hits[step] += ids[int(row.argmax())] == right
            pairs = zip(ids, row.softmax(-1).tolist(), strict=True)
            overlaps[step] += sum(min(float(target_probs[x]), p) for x, p in pairs)
    return Agreement(tuple(counts), tuple(hits), tuple(overlaps))


@pytest.mark.parametrize(
    "name",
    ["paper", "two-layers", "three-glimpses", "target-window", "trimmed", "hidden",
     "hidden-two-layers", "own-tokens"],
)  # fmt: skip
def test_every_root_and_delay_equals_the_dense_draft(name: str) -> None:
    draft, token_ids = DRAFTS[name], text(length=LENGTH)
    model, shape = draft.model(), draft.target
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(LENGTH, shape.hidden_size, generator=generator)
    target = ScriptedTarget(random_target_kv(shape, LENGTH), hidden, draft.target_head)
    caches = allocate_kv(
        CacheShape(shape.num_layers, shape.num_kv_heads, shape.head_dim, torch.float32), 1, 1, CPU
    )
    measured = TeacherForced(target, model, caches, DEPTH)
    found = measured.measure(token_ids[:PROMPT], token_ids[PROMPT:])
    wanted = expected(draft, target, token_ids, model.draft_token_ids)
    assert found.counts == wanted.counts == (36, 35, 34)
    assert found.hits == wanted.hits
    assert found.overlap == pytest.approx(wanted.overlap, abs=1e-3)


class Spy:
    """A GliDe that notes its logits by (position, delay, token, verified tokens)."""

    drafts_chains = False
    """Step by step, so that all logits come by."""

    def __init__(self) -> None:
        self.model = tiny_glide()
        self.seen: dict[tuple[int, int, int, int], torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def draft(self, step: DraftStep, caches: Caches) -> torch.Tensor:
        logits = self.model.draft(step, caches)
        positions = step.batch.positions.tolist()
        verified = [int(length) for length in step.verified_lens]
        keys = zip(positions, step.token_ids.tolist(), verified, strict=True)
        for row, (position, token_id, length) in zip(logits, keys, strict=True):
            row = row[row.isfinite()]
            self.seen[position, step.delay, token_id, length] = row
        return logits


def test_it_sees_what_the_engine_sees() -> None:
    """The same logits, for every first token the engine drafts (later ones are fed the draft's own
    guesses, mostly other tokens than the text's)."""
    served, forced = Spy(), Spy()
    shape = CacheShape(*served.model.cache_shape, torch.float32)
    own = allocate_kv(shape, CONFIG.num_blocks, CONFIG.block_size, CPU)
    engine = TinyEngine(
        CONFIG,
        lambda config, caches: GlideDrafter(served, own, caches, config.block_size, CPU),  # pyright: ignore[reportArgumentType]
    )
    prompt = [3, 14, 15, 9, 26, 5]
    request = make_request("r", prompt, max_tokens=30, ignore_eos=True)
    request = replace(request, speculation=SpeculationParams("chain"))
    engine.scheduler.add(request, 0.0)
    answer = list[int]()
    while engine.scheduler.has_work:
        answer += tokens(engine.step())
    measured = TeacherForced(tiny_model(), forced, tiny_caches(CONFIG), 5)  # pyright: ignore[reportArgumentType]
    assert measured.measure(prompt, answer).counts == (29, 28, 27, 26, 25)
    common = served.seen.keys() & forced.seen.keys()
    assert sum(delay == 1 for _, delay, _, _ in common) >= 15
    for key in common:
        torch.testing.assert_close(forced.seen[key], served.seen[key], rtol=1e-4, atol=1e-4)


def test_an_answer_of_one_token_has_nothing_to_predict() -> None:
    measured = TeacherForced(tiny_model(), tiny_glide(), tiny_caches(CONFIG), 2)
    assert measured.measure([1, 2], [3]) == Agreement((0, 0), (0, 0), (0.0, 0.0))


def test_overlap_by_hand() -> None:
    """Vocabulary of 4, of which the draft knows tokens 2 and 0."""
    target_probs = torch.tensor([[0.5, 0.2, 0.3, 0.0], [0.1, 0.9, 0.0, 0.0]])
    draft_probs = torch.tensor([[0.6, 0.4], [1.0, 0.0]])
    found = overlap(target_probs, draft_probs, torch.tensor([[2, 0], [2, 0]]))
    assert found.tolist() == pytest.approx([0.3 + 0.4, 0.0])


def test_a_draft_that_knows_the_distribution_overlaps_fully() -> None:
    probs = torch.tensor([[0.5, 0.2, 0.3]])
    assert overlap(probs, probs, torch.arange(3)[None]).tolist() == pytest.approx([1.0])
