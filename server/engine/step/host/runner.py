"""Executes one step's plan on the models, stage by stage.

    draft     chains for the sequences that may propose something   draft.py
    expand    chains to trees, by policy                            expand.py
    verify    the target's forward over all trees                   verify.py
    accept    down each tree with the target's own draws            accept.py
    commit    accepted KV to its final slots, the draft's own KV    commit.py
    stats     what was learned, and figures for metrics             stats.py

`step/device` runs the same stages without the host in between.
"""

import itertools
import time
from collections.abc import Mapping, Sequence

import torch

from server.engine.grammar.states import AnswerState, GrammarStates
from server.engine.schedule.outcome import num_emitted, stop_ids
from server.engine.schedule.plan import (
    PlannedSequence,
    SequenceResult,
    StepPlan,
    StepResult,
    StepSeconds,
)
from server.engine.step.host.accept import accept
from server.engine.step.host.commit import move_accepted
from server.engine.step.host.speculator import NOTHING, Speculator
from server.engine.step.host.verify import Verified, Verifier
from server.engine.step.kv_cache import CopyKV, copy_kv
from server.engine.step.logprobs import score_prompts
from server.engine.step.model import Model
from server.engine.step.results import chunk_result, walk_result
from server.engine.step.stats import Observation
from server.engine.types import RequestId
from server.kernels.tree import LayerCache


class Runner:
    """Holds the model and the KV pool; runs in the engine's thread.

    Args:
        speculator: proposes tokens; None decodes plainly.
        grammars: grammars of the requests that have one; None where none has.
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
        self.verify = Verifier(model, caches, block_size, eos_token_ids, device)
        self.caches = caches
        self.block_size = block_size
        self.device = device
        self.speculator = speculator
        self.grammars = grammars
        self.copy = copy

    @property
    def model(self) -> Model:
        return self.verify.model

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepResult:
        """Computes the KV of every planned node, and the next tokens of the sequences that want
        some."""
        times = [time.perf_counter()]
        grammars = self._grammars_of(plan)
        speculator = self.speculator
        proposed = speculator.propose(plan, grammars) if speculator is not None else NOTHING
        times.append(time.perf_counter())
        chains = proposed.drafted.chains
        verified = self.verify(plan, proposed.trees, chains, grammars)
        walks = [walk for _, walk in verified.walks]
        if verified.logits is not None:
            accept(verified.logits, walks)
        times.append(time.perf_counter())
        move_accepted(self.caches, verified.walks, self.block_size, self.copy)
        observations = list[Observation]()
        if speculator is not None:
            speculator.commit(plan, verified)
            observations = speculator.learn(proposed, verified.walks)
        times.append(time.perf_counter())
        results = self._results(plan, verified) | self._given_up(grammars)
        seconds = StepSeconds(*(after - before for before, after in itertools.pairwise(times)))
        stats = None
        if speculator is not None:
            nums_emitted = self._nums_emitted(verified, results)
            stats = speculator.stats(plan, proposed, walks, nums_emitted, observations, seconds)
        return StepResult(results, seconds, stats)

    def _given_up(
        self, grammars: Mapping[RequestId, AnswerState]
    ) -> dict[RequestId, SequenceResult]:
        """Results that end the requests whose grammars took more than their share. Their tokens are
        dropped, since they may have been drawn without a mask."""
        if self.grammars is None or not grammars:
            return {}
        return {
            name: SequenceResult(0, (), None, grammar_exceeded=what)
            for name, what in self.grammars.exceeding(grammars.keys()).items()
        }

    def forget(self, request_id: RequestId) -> None:
        """The request is over."""
        if self.grammars is not None:
            self.grammars.forget(request_id)
        if self.speculator is not None:
            self.speculator.forget(request_id)

    def _results(self, plan: StepPlan, verified: Verified) -> dict[RequestId, SequenceResult]:
        walks = {planned.request_id: walk for planned, walk in verified.walks}
        scored = score_prompts(self.model, verified.hidden, plan.sequences, verified.first_rows)
        results: dict[RequestId, SequenceResult] = {}
        for planned, logprobs in zip(plan.sequences, scored, strict=True):
            name = planned.request_id
            walk = walks.get(name)
            if walk is None:
                results[name] = chunk_result(planned, logprobs)
            else:
                results[name] = walk_result(planned, walk, logprobs)
        return results

    def _nums_emitted(
        self, verified: Verified, results: Mapping[RequestId, SequenceResult]
    ) -> list[int]:
        """How many of each walk's tokens are emitted."""
        eos = self.verify.eos_token_ids
        return [
            num_emitted(results[p.request_id].token_ids, stop_ids(p.request.params, eos))
            for p, _ in verified.walks
        ]

    def _grammars_of(self, plan: StepPlan) -> dict[RequestId, AnswerState]:
        """What constrains the sequences that want a token, behind each one's last token."""
        found: dict[RequestId, AnswerState] = {}
        for planned in plan.sequences:
            if not planned.request.params.is_constrained or not planned.wants_token:
                continue
            if self.grammars is None:
                raise RuntimeError("a request is constrained, but the engine knows no grammars")
            found[planned.request_id] = self.grammars.behind(planned.request, _output_ids(planned))
        return found


def _output_ids(planned: PlannedSequence) -> Sequence[int]:
    return planned.token_ids[len(planned.request.prompt_token_ids) :]
