"""Executes one step's plan on the model: the tensor half of the engine."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from server.engine.inputs import build_inputs
from server.engine.outcome import stop_ids
from server.engine.plan import PlannedSequence, SequenceResult, StepPlan, StepResult
from server.engine.sampler import Sampled, SamplerRow, sample
from server.engine.types import TokenLogprobs
from server.kernels.tree import LayerCache, TreeBatch


class Model(Protocol):
    """What the runner needs of a target model (`models/llama.py`)."""

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor: ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


class Runner:
    """Holds the model and the KV pool; runs in the engine's thread."""

    def __init__(
        self,
        model: Model,
        caches: Sequence[LayerCache],
        block_size: int,
        eos_token_ids: frozenset[int],
        device: torch.device,
    ) -> None:
        self.model = model
        self.caches = caches
        self.block_size = block_size
        self.eos_token_ids = eos_token_ids
        self.device = device

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Computes every planned node's KV, and the next token of the sequences that want one."""
        inputs = build_inputs(plan, self.block_size, self.device)
        hidden = self.model(inputs.token_ids, self.caches, inputs.batch)
        wanting = [planned for planned in plan.sequences if planned.wants_token]
        sampled = Sampled([], [])
        if wanting:
            logits = self.model.logits(hidden[inputs.logit_rows])
            sampled = sample(logits, [self._sampler_row(planned) for planned in wanting])
        tokens = zip(sampled.token_ids, sampled.logprobs, strict=True)
        return {p.request.request_id: _result(p, tokens) for p in plan.sequences}

    def _sampler_row(self, planned: PlannedSequence) -> SamplerRow:
        params = planned.request.params
        prompt = planned.request.prompt_token_ids
        return SamplerRow(
            params,
            prompt,
            planned.token_ids[len(prompt) :],
            stop_ids(params, self.eos_token_ids),
        )


def _result(
    planned: PlannedSequence, tokens: Iterator[tuple[int, TokenLogprobs | None]]
) -> SequenceResult:
    """Takes the next sampled token if this sequence wanted one."""
    if not planned.wants_token:
        return SequenceResult(planned.num_nodes, (), None)
    token_id, logprobs = next(tokens)
    return SequenceResult(planned.num_nodes, (token_id,), (logprobs,) if logprobs else None)
