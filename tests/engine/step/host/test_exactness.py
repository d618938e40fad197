"""Speculation never changes a token: every policy and drafter against plain decoding.

Tiny random model in float32, exact tokens, logprobs to 1e-5. The requests and their plain answers
are those of `tests/engine/answers.py`: greedy, sampled, and penalised ones.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from server.engine.drafters.drafter import Drafter
from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import PolicyName, SpeculationParams
from server.kernels.tree import LayerCache, TreeBatch
from tests.engine.answers import alone, assert_equal, requests
from tests.engine.drafters.oracle import OracleDrafter
from tests.engine.drafting import DRAFTERS, ENGINES, POLICIES, ngram, oracle, speculated
from tests.engine.tiny import CONFIG, TinyEngine, tiny_model, tokens


def run(
    policy: PolicyName, drafter: str, config: SchedulerConfig, names: Sequence[str] | None = None
) -> tuple[TinyEngine, dict[str, list[RequestOutput]]]:
    engine = TinyEngine(config, DRAFTERS[drafter])
    outputs = engine.run(speculated(policy, names))
    assert engine.scheduler.pool.num_free == config.num_blocks
    return engine, {str(name): out for name, out in outputs.items()}


PAIRS = [
    (policy, [*DRAFTERS, "oracle"][(row + column) % 5], name)
    for row, policy in enumerate(POLICIES)
    for column, name in enumerate(ENGINES)
]
"""(policy, drafter, engine): a Latin square, in which every two of them meet."""


@pytest.mark.parametrize(("policy", "drafter", "name"), PAIRS)
def test_tokens_equal_plain_decoding(policy: PolicyName, drafter: str, name: str) -> None:
    engine = TinyEngine(ENGINES[name], DRAFTERS[drafter])
    for _ in range(2):  # the second time with whatever the first left in the prefix cache
        assert_equal(engine.run(speculated(policy)))
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks
    if name == "few blocks":
        assert engine.num_preemptions > 0


def test_every_pair_is_among_them() -> None:
    policies, drafters, names = zip(*PAIRS, strict=True)
    assert len({*zip(policies, drafters, strict=True)}) == len(POLICIES) * len(DRAFTERS)
    assert len({*zip(policies, names, strict=True)}) == len(POLICIES) * len(ENGINES)
    assert len({*zip(drafters, names, strict=True)}) == len(DRAFTERS) * len(ENGINES)


@pytest.mark.parametrize("pattern", ["T", "TT", "TTTT", "L", "TL", "TTTL", "x", "Tx", "TTLT"])
@pytest.mark.parametrize("policy", ["chain", "cape", "auto"])
def test_every_pattern_of_hits_alone(policy: PolicyName, pattern: str) -> None:
    """One request at a time, the same pattern each step, and the steps it must save."""
    answers = {r.request_id: tokens(alone()[r.request_id]) for r in requests()}
    for request in speculated(policy, ("r0", "r3", "r5", "r10")):
        engine = TinyEngine(CONFIG, lambda config, caches: OracleDrafter(answers, [pattern]))
        outputs = engine.run([request])[request.request_id]
        assert tokens(outputs) == answers[request.request_id]
        hits = len(pattern) - len(pattern.lstrip("T"))
        leaf = pattern[hits : hits + 1] == "L" and policy != "chain"
        most = max(len(output.token_ids) for output in outputs)
        # The auto policy may propose less; the others yield all they were told.
        expected = min(hits + leaf + 1, len(answers[request.request_id]) - 1)
        assert most <= expected if policy == "auto" else most == expected


def test_a_perfect_draft_saves_steps_and_says_so() -> None:
    """Greedy requests with the target as its own draft: chains of 5 are accepted whole."""
    greedy = [r.request_id for r in requests() if r.params.greedy and not r.params.has_penalties]
    engine, outputs = run("chain", "draft_model", CONFIG, greedy)
    assert engine.num_steps < 14  # 40 tokens in steps of 6, and the prompts
    for name in greedy:
        summary = outputs[name][-1].speculation
        if len(tokens(outputs[name])) < 20:
            continue
        assert summary is not None
        assert summary.tokens_per_step > 5
        assert summary.num_accepted == summary.num_drafted
        assert summary.num_leaves_accepted == 0
        assert summary.accepted_per_position[0] == summary.num_steps


def test_sources_tell_where_tokens_came_from() -> None:
    answers = {r.request_id: tokens(alone()[r.request_id]) for r in requests()}
    engine = TinyEngine(CONFIG, lambda config, caches: OracleDrafter(answers, ["TTL"]))
    (request,) = speculated("cape", ("r0",))
    first, *steps = engine.run([request])[request.request_id]
    assert first.sources == ("target",)
    assert steps[0].sources == ("trunk", "trunk", "leaf", "target")[: len(steps[0].token_ids)]


def test_max_nodes_and_max_depth_are_kept() -> None:
    rows = list[int]()

    def counting(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
        return oracle(config, caches)

    engine = TinyEngine(CONFIG, counting)
    original = engine.runner.model.logits

    class Counted:
        """The model, counting the rows that reach its head."""

        def __call__(
            self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
        ) -> torch.Tensor:
            return tiny_model()(token_ids, caches, batch)

        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            rows.append(len(hidden))
            return original(hidden)

    engine.runner.verify.model = Counted()
    params = SpeculationParams(policy="cape", max_depth=2, max_nodes=6)
    request = replace(requests()[0], speculation=params)
    outputs = engine.run([request])[request.request_id]
    assert tokens(outputs) == tokens(alone()["r0"])
    assert max(rows) == 6
    assert max(len(output.token_ids) for output in outputs) <= 3


@pytest.mark.parametrize(("asked", "deepest"), [(None, 8), (3, 3), (16, 16)])
def test_auto_proposes_as_deep_as_is_asked(asked: int | None, deepest: int) -> None:
    """Where drafts are sure; where nobody says, up to eight."""
    request = replace(requests()[0], speculation=SpeculationParams("auto", max_depth=asked))
    answer = tokens(alone()[request.request_id])
    assert len(answer) > 18

    def sure(config: SchedulerConfig, caches: list[LayerCache]) -> Drafter:
        return OracleDrafter({request.request_id: answer}, ["T" * 16], confidence=0.99)

    outputs = TinyEngine(CONFIG, sure).run([request])[request.request_id]
    assert max(len(output.token_ids) for output in outputs) == deepest + 1


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_not_one_token_too_many(max_tokens: int) -> None:
    for request in speculated("cape", ("r0", "r2")):
        short = replace(
            request, params=replace(request.params, max_tokens=max_tokens, min_tokens=0)
        )
        plain = TinyEngine().run([replace(short, speculation=SpeculationParams())])
        expected = tokens(plain[short.request_id])
        engine = TinyEngine(CONFIG, oracle)
        got = engine.run([short])[short.request_id]
        assert tokens(got) == expected
        assert len(expected) <= max_tokens
        assert got[-1].num_output_tokens == len(expected)


def test_the_contexts_end_inside_a_draft() -> None:
    config = replace(CONFIG, max_model_len=100, num_blocks=25)
    for request in speculated("cape", ("r0", "r4")):
        endless = replace(request, params=replace(request.params, max_tokens=500))
        plain = TinyEngine(config).run([replace(endless, speculation=SpeculationParams())])
        got = TinyEngine(config, oracle).run([endless])
        assert tokens(got[endless.request_id]) == tokens(plain[endless.request_id])


def test_an_exhausted_pool_shrinks_the_proposal() -> None:
    """64 slots, two requests that end at 62: at last there is no slot for any proposal."""
    config = replace(CONFIG, num_blocks=64, block_size=1, max_model_len=64, prefix_caching=False)
    (request,) = speculated("cape", ("r6",))
    short = replace(
        request,
        prompt_token_ids=request.prompt_token_ids[:4],
        params=replace(request.params, max_tokens=58, min_tokens=58),
    )
    plain = TinyEngine(config).run([replace(short, speculation=SpeculationParams())])
    engine = TinyEngine(config, ngram)
    assert tokens(engine.run([short])[short.request_id]) == tokens(plain[short.request_id])
    assert engine.num_preemptions == 0
