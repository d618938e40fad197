"""Executes one step's plan on the models: the tensor half of the engine."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from server.engine.grammar.state import GrammarState, GrammarStates
from server.engine.schedule.outcome import stop_ids
from server.engine.schedule.plan import (
    PlannedSequence,
    SequenceResult,
    StepPlan,
    StepResult,
    StepSeconds,
)
from server.engine.speculation.tree import TokenTree, lone_root
from server.engine.step.host.accept import Verification, accept
from server.engine.step.host.commit import Walk, move_accepted
from server.engine.step.host.policy import Speculator
from server.engine.step.host.results import chunk_result, walk_result
from server.engine.step.inputs import StepInputs, build_inputs, planned_nodes
from server.engine.step.kv_cache import CopyKV, copy_kv
from server.engine.step.logprobs import score_prompts
from server.engine.step.sampler import SamplerRow
from server.engine.types import RequestId
from server.kernels.tree import LayerCache, TreeBatch


class Model(Protocol):
    """What the runner needs of a target model (`models/llama.py`)."""

    def __call__(
        self, token_ids: torch.Tensor, caches: Sequence[LayerCache], batch: TreeBatch
    ) -> torch.Tensor: ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


class _Verified(NamedTuple):
    """A step after the target's forward and acceptance."""

    inputs: StepInputs
    hidden: torch.Tensor
    """[num_rows, hidden]"""
    walks: list[Walk]
    """Of the sequences that drew tokens."""


class Runner:
    """Holds the model and the KV pool; runs in the engine's thread.

    Args:
        speculator: proposes tokens; None decodes plainly.
        grammars: of the requests that have one; None where none has.
        copy: moves the KV of accepted tokens.
    """

    def __init__(
        self,
        model: Model,
        caches: Sequence[LayerCache],
        block_size: int,
        eos_token_ids: frozenset[int],
        device: torch.device,
        speculator: Speculator | None = None,
        grammars: GrammarStates | None = None,
        copy: CopyKV = copy_kv,
    ) -> None:
        self.model = model
        self.caches = caches
        self.block_size = block_size
        self.eos_token_ids = eos_token_ids
        self.device = device
        self.speculator = speculator
        self.grammars = grammars
        self.copy = copy

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Draft, verify, accept, commit: KV of every planned node, and the next tokens of the
        sequences that want some."""
        times = [time.perf_counter()]
        grammars = self._grammars_of(plan)
        trees = self.speculator.propose(plan, grammars) if self.speculator else {}
        times.append(time.perf_counter())
        verified = self._verify(plan, trees, grammars)
        times.append(time.perf_counter())
        self._commit(plan, verified)
        times.append(time.perf_counter())
        results = self._results(plan, verified)
        seconds = StepSeconds(*(after - before for before, after in itertools.pairwise(times)))
        stats = None
        if self.speculator is not None:
            stats = self.speculator.stats(plan, [walk for _, walk in verified.walks], seconds)
        return StepResult(results, seconds, stats)

    def _results(self, plan: StepPlan, verified: _Verified) -> dict[RequestId, SequenceResult]:
        walks = {planned.request.request_id: walk for planned, walk in verified.walks}
        scored = score_prompts(
            self.model, verified.hidden, plan.sequences, verified.inputs.first_rows
        )
        results: dict[RequestId, SequenceResult] = {}
        for planned, logprobs in zip(plan.sequences, scored, strict=True):
            name = planned.request.request_id
            walk = walks.get(name)
            if walk is None:
                results[name] = chunk_result(planned, logprobs)
            else:
                proposal = self.speculator.proposal_of(name) if self.speculator else None
                results[name] = walk_result(planned, walk, proposal, logprobs)
        return results

    def forget(self, request_id: RequestId) -> None:
        """The request is over."""
        if self.grammars is not None:
            self.grammars.forget(request_id)
        if self.speculator is not None:
            self.speculator.forget(request_id)

    def _grammars_of(self, plan: StepPlan) -> dict[RequestId, GrammarState]:
        """Of the sequences that want a token and have a grammar, each behind its last token."""
        found: dict[RequestId, GrammarState] = {}
        for planned in plan.sequences:
            request = planned.request
            if request.params.grammar is None or not planned.wants_token:
                continue
            if self.grammars is None:
                raise RuntimeError("a request has a grammar, but the engine has none")
            output_ids = planned.token_ids[len(request.prompt_token_ids) :]
            found[request.request_id] = self.grammars.behind(request, output_ids)
        return found

    def _verify(
        self,
        plan: StepPlan,
        trees: dict[RequestId, TokenTree],
        grammars: Mapping[RequestId, GrammarState],
    ) -> _Verified:
        """The target's forward over all trees, then sample-and-match down each of them."""
        nodes = [planned_nodes(p, trees.get(p.request.request_id)) for p in plan.sequences]
        inputs = build_inputs(nodes, self.block_size, self.device)
        hidden = self.model(inputs.token_ids, self.caches, inputs.batch)
        logit_rows, walks = list[int](), list[Walk]()
        for planned, first_row in zip(plan.sequences, inputs.first_rows, strict=True):
            if not planned.wants_token:
                continue
            tree = trees.get(planned.request.request_id) or lone_root(planned.token_ids[-1])
            # The root is the chain's last node; a proposed tree replaces a chain of one.
            root_row = first_row + planned.num_nodes - 1
            grammar = grammars.get(planned.request.request_id)
            walk = Verification(tree, len(logit_rows), self.sampler_row(planned, grammar))
            walks.append((planned, walk))
            logit_rows.extend(range(root_row, root_row + len(tree)))
        if walks:
            rows = torch.tensor(logit_rows, device=self.device)
            accept(self.model.logits(hidden[rows]), [walk for _, walk in walks])
        return _Verified(inputs, hidden, walks)

    def _commit(self, plan: StepPlan, verified: _Verified) -> None:
        """Puts accepted KV in place and lets the drafter complete its own."""
        move_accepted(self.caches, verified.walks, self.block_size, self.copy)
        if self.speculator is not None:
            self.speculator.commit(
                plan, verified.walks, verified.hidden, verified.inputs.first_rows
            )

    def sampler_row(self, planned: PlannedSequence, grammar: GrammarState | None) -> SamplerRow:
        """For the token after a sequence's last known one."""
        params = planned.request.params
        prompt = planned.request.prompt_token_ids
        avoids_eos = grammar is not None and params.ignore_eos
        return SamplerRow(
            params,
            prompt,
            planned.token_ids[len(prompt) :],
            stop_ids(params, self.eos_token_ids),
            grammar,
            self.eos_token_ids - params.stop_token_ids if avoids_eos else frozenset(),
        )
