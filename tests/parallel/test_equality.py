"""Two ranks give the tokens that one process gives: every policy, every kind of draft.

What is drafted, accepted and counted is the same too, so that a draft that is wrong on several
ranks is seen, although no draft can change a token.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import pytest
import torch

from server.engine.drafters.drafter import Drafter
from server.engine.drafters.glide import GlideDrafter
from server.engine.drafters.model import ModelDrafter
from server.engine.outputs import RequestOutput, SpeculationSummary
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.policies import PolicyConfig
from server.engine.step.host.runner import Runner
from server.engine.step.host.speculator import Speculator
from server.engine.step.kv_cache import copy_kv
from server.engine.types import PolicyName, Request, SpeculationParams
from server.kernels.tree import LayerCache
from server.models.causal_lm import CausalLM
from server.models.glide import GlideModel
from server.models.shard import WHOLE, Shard
from server.parallel.remote import RemoteCopies, RemoteGlide, RemoteModel
from server.parallel.workers import Workers
from tests.engine.answers import logprobs, requests
from tests.engine.tiny import CONFIG, CPU, FREE_DRAFTS, TinyEngine, make_request, tokens
from tests.parallel.variants import VARIANTS, models, play, pools

POLICIES: tuple[PolicyName, ...] = ("off", "chain", "cape", "beam", "auto")
SPECULATED = replace(CONFIG, speculates=True)
TIGHT = replace(SPECULATED, num_blocks=64, max_num_batched_tokens=40)
FIRST, *OTHERS = VARIANTS

Ranks = tuple[Workers, Shard]


class RankedEngine(TinyEngine):
    """A tiny engine over a variant.

    Args:
        ranks: None for one process.
    """

    def __init__(self, name: str, config: SchedulerConfig, ranks: Ranks | None) -> None:
        workers, shard = ranks or (None, WHOLE)
        target, draft = models(name, shard)
        caches, own = pools(target, draft, config)
        model = RemoteModel(target, workers) if workers else target
        drafter = _drafter(draft, own, caches, config.block_size, workers)
        speculator = Speculator(drafter, PolicyConfig(), AutoPolicy(FREE_DRAFTS))
        copy = RemoteCopies(workers) if workers else copy_kv
        self.scheduler = Scheduler(config)
        self.runner = Runner(
            model, caches, config.block_size, config.eos_token_ids, CPU, speculator, copy=copy
        )
        self.num_preemptions = self.num_steps = 0


def _drafter(
    draft: GlideModel | CausalLM,
    own: list[LayerCache],
    caches: list[LayerCache],
    block_size: int,
    workers: Workers | None,
) -> Drafter:
    if isinstance(draft, GlideModel):
        draft.copy_hint = False  # as on several ranks
        glide = RemoteGlide(draft, workers) if workers else draft
        return GlideDrafter(glide, own, caches, block_size, CPU)
    model = RemoteModel(draft, workers, "draft_forward", "draft_logits") if workers else draft
    return ModelDrafter(model, own, block_size, CPU)


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    workers = Workers(2, CPU, play)
    try:
        yield workers, workers.join()
    finally:
        workers.close()
        torch.set_num_threads(threads)


@contextmanager
def playing(ranks: Ranks, name: str, config: SchedulerConfig) -> Generator[RankedEngine]:
    """Both ranks with a variant; the worker's blocks are as many as `CONFIG` has, whatever of them
    the scheduler hands out."""
    workers, _ = ranks
    workers.tell({"variant": list(VARIANTS).index(name)})
    yield RankedEngine(name, config, ranks)
    workers.tell({"end": 1})


def asked(policy: PolicyName) -> list[Request]:
    """Greedy, sampled and penalised ones of the shared requests, and one whose prompt is scored."""
    shorter = [
        replace(request, params=replace(request.params, max_tokens=24))
        for request in requests()[:6]
    ]
    scored = make_request("scored", range(30), max_tokens=8, prompt_logprobs=2, logprobs=1)
    params = SpeculationParams(policy=policy)
    return [replace(request, speculation=params) for request in (*shorter, scored)]


Answers = dict[str, list[RequestOutput]]


def answered(engine: TinyEngine, policy: PolicyName, rounds: int = 1) -> Answers:
    """A second round finds what the first has left in the prefix cache."""
    answers: Answers = {}
    for number in range(rounds):
        outputs = engine.run(asked(policy))
        answers |= {f"{name}, round {number}": found for name, found in outputs.items()}
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks
    return answers


@cache
def in_one_process(
    name: str, config: SchedulerConfig, policy: PolicyName, rounds: int = 1
) -> Answers:
    return answered(RankedEngine(name, config, None), policy, rounds)


def discrete(outputs: Sequence[RequestOutput]) -> list[RequestOutput]:
    """Everything but logprobs and seconds."""
    return [
        replace(
            output, logprobs=None, prompt_logprobs=None, speculation=_timeless(output.speculation)
        )
        for output in outputs
    ]


def _timeless(summary: SpeculationSummary | None) -> SpeculationSummary | None:
    if summary is None:
        return None
    return replace(summary, draft_seconds=0.0, verify_seconds=0.0, other_seconds=0.0)


def prompt_logprobs(outputs: Sequence[RequestOutput]) -> list[float]:
    return [entry.logprob for output in outputs for entry in output.prompt_logprobs or ()]


def assert_same(got: Answers, expected: Answers) -> None:
    for name, outputs in expected.items():
        assert tokens(got[name]) == tokens(outputs), name
        assert discrete(got[name]) == discrete(outputs), name
        assert logprobs(got[name]) == pytest.approx(logprobs(outputs), abs=1e-5)
        assert prompt_logprobs(got[name]) == pytest.approx(prompt_logprobs(outputs), abs=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("config", [SPECULATED, TIGHT], ids=["roomy", "few blocks"])
def test_a_draft_with_glimpses(ranks: Ranks, config: SchedulerConfig, policy: PolicyName) -> None:
    with playing(ranks, FIRST, config) as engine:
        got = answered(engine, policy, rounds=2)
    assert_same(got, in_one_process(FIRST, config, policy, rounds=2))
    assert (engine.num_preemptions > 0) == (config is TIGHT)


@pytest.mark.parametrize("policy", ["off", "cape", "auto"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_models(ranks: Ranks, name: str, policy: PolicyName) -> None:
    """One round: the prefix cache knows no model."""
    with playing(ranks, name, SPECULATED) as engine:
        got = answered(engine, policy)
    assert_same(got, in_one_process(name, SPECULATED, policy))


def test_the_comparison_is_not_trivial() -> None:
    """Drafts are accepted, leaves among them, and answers differ."""
    outputs = in_one_process(FIRST, SPECULATED, "cape")
    ends = [out[-1].speculation for out in outputs.values()]
    assert sum(end.num_accepted for end in ends if end) > 10
    assert sum(end.num_leaves_accepted for end in ends if end) > 2
    assert len({tuple(tokens(out)) for out in outputs.values()}) == len(asked("cape"))
    plain = in_one_process(FIRST, SPECULATED, "off")
    assert {name: tokens(out) for name, out in plain.items()} == {
        name: tokens(out) for name, out in outputs.items()
    }
