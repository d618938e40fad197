"""A tiny random model and a synchronous engine around it: exact tokens in milliseconds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch

from server.engine.drafters.drafter import Drafter
from server.engine.drafters.ngram import NgramDrafter
from server.engine.grammar.states import GrammarStates
from server.engine.loop import Executes
from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.engine.speculation.auto import AutoPolicy
from server.engine.speculation.costs import CostCurve, LiveCosts, StepCosts
from server.engine.speculation.policies import PolicyConfig
from server.engine.step.host.runner import Runner
from server.engine.step.host.speculator import Speculator
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.types import Request, RequestId, SamplingParams
from server.kernels.tree import LayerCache
from server.models.causal_lm import CausalLM
from server.models.config import ModelConfig, RopeConfig
from server.models.layers import Placement
from server.models.llama import LlamaParameters

CPU = torch.device("cpu")
VOCAB_SIZE = 61
EOS = 60
MODEL = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=VOCAB_SIZE,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position=256,
    tie_word_embeddings=False,
    sliding_windows=(None, 24),
    rope=RopeConfig(theta=10_000.0, original_max_position=256),
    eos_token_ids=(EOS,),
)
CONFIG = SchedulerConfig(
    num_blocks=256,
    block_size=4,
    max_model_len=256,
    max_num_seqs=32,
    max_num_batched_tokens=128,
    prefix_caching=True,
    eos_token_ids=frozenset({EOS}),
)


@cache
def tiny_model() -> CausalLM:
    """Random weights, sharp enough that tokens depend on their whole context."""
    parameters = LlamaParameters(MODEL, Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(7)
    for name, slot in parameters.slots().items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.normal_(0.0, 0.2, generator=generator)
    return parameters.freeze()


def caches_of(model: CausalLM, config: SchedulerConfig) -> list[LayerCache]:
    sizes = (model.config.num_layers, model.config.num_kv_heads, model.config.head_dim)
    shape = CacheShape(*sizes, model.placement.dtype)
    return allocate_kv(shape, config.num_allocated_blocks, config.block_size, CPU)


def tiny_caches(config: SchedulerConfig, num_layers: int = MODEL.num_layers) -> list[LayerCache]:
    shape = CacheShape(num_layers, MODEL.num_kv_heads, MODEL.head_dim, torch.float32)
    return allocate_kv(shape, config.num_allocated_blocks, config.block_size, CPU)


MakeDrafter = Callable[[SchedulerConfig, list[LayerCache]], Drafter]
"""(limits, the target's caches) -> drafter"""


class FixedCosts(LiveCosts):
    """Learns nothing, so that decisions don't depend on how fast a test runs."""

    def observe_verify(self, num_rows: int, seconds: float) -> None: ...

    def observe_draft(self, num_chains: int, num_forwards: int, seconds: float) -> None: ...


FREE_DRAFTS = FixedCosts(
    StepCosts(verify=CostCurve((1, 64), (0.010, 0.020)), draft=CostCurve((1, 64), (0.0001, 0.0002)))
)
"""Costs under which the auto policy always finds something to propose."""


class TinyEngine:
    """Scheduler and runner driven step by step, without threads."""

    executor: Executes | None = None
    """What steps are given to, if not the runner."""

    def __init__(
        self,
        config: SchedulerConfig = CONFIG,
        make_drafter: MakeDrafter | None = None,
        model: CausalLM | None = None,
        lookup: NgramDrafter | None = None,
        grammars: GrammarStates | None = None,
    ) -> None:
        model = model or tiny_model()
        if make_drafter is not None:
            config = replace(config, speculates=True)
        self.scheduler = Scheduler(config)
        caches = caches_of(model, config)
        speculator = None
        if make_drafter is not None:
            drafter = make_drafter(config, caches)
            speculator = Speculator(drafter, PolicyConfig(), AutoPolicy(FREE_DRAFTS), lookup)
        self.runner = Runner(
            model, caches, config.block_size, config.eos_token_ids, CPU, speculator, grammars
        )
        self.num_preemptions = 0
        self.num_steps = 0

    def step(self) -> list[RequestOutput]:
        plan = self.scheduler.schedule(time.monotonic())
        if plan is None:
            return []
        self.num_steps += 1
        self.num_preemptions += plan.num_preemptions
        executor = self.executor or self.runner
        outputs = self.scheduler.update(plan, executor.execute(plan), time.monotonic())
        self.scheduler.check_integrity()
        for output in outputs:
            if output.finish_reason is not None:
                executor.forget(output.request_id)
        return outputs

    def run(self, requests: Sequence[Request]) -> dict[RequestId, list[RequestOutput]]:
        """All requests at once, to their end."""
        for request in requests:
            self.scheduler.add(request, time.monotonic())
        outputs: dict[RequestId, list[RequestOutput]] = {r.request_id: [] for r in requests}
        while self.scheduler.has_work:
            for output in self.step():
                outputs[output.request_id].append(output)
        return outputs


def tokens(outputs: Sequence[RequestOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def make_request(name: str, prompt: Sequence[int], **params: object) -> Request:
    """params: fields of SamplingParams; 24 greedy tokens by default."""
    sampling = replace(SamplingParams(max_tokens=24, temperature=0.0), **params)  # pyright: ignore[reportArgumentType]
    return Request(RequestId(name), tuple(prompt), sampling)
