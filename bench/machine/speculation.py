"""Plain decoding against each policy, in one run, with a draft that is right at a set rate.

The oracle knows the plain run's tokens. At each depth its trunk token is right with probability
`hit_rate`; where it is wrong, one of its seven alternatives is right with `LEAF_RATE`. It costs
nothing, so the figures show what verification, acceptance and commit cost: a ceiling for any draft
of that quality.
"""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common.engine import encode_question, running
from bench.common.prompts import PROMPTS
from server.engine.drafters.drafter import Committed, EarlyStop
from server.engine.outputs import SpeculationSummary
from server.engine.schedule.plan import PlannedSequence
from server.engine.speculation.proposal import NUM_CANDIDATES, Proposal
from server.engine.speculation.tree import TokenTree, comb
from server.engine.step.host.speculator import Speculator
from server.engine.types import PolicyName, Request, RequestId, SamplingParams, SpeculationParams
from server.loading.model import LoadedModel

POLICIES: tuple[PolicyName, ...] = ("off", "chain", "cape", "auto")
_NUM_PROMPTS = 4
LEAF_RATE = 0.6
_CONFIDENT, _UNSURE = 0.7, 0.45
"""Confidences of right and wrong trunk tokens: the draft is less sure where it is wrong."""


class OracleDrafter:
    """Drafts from the known answers, as the module describes. A request's id up to the first `/`
    names its answer.
    """

    name = "oracle"

    def __init__(self, answers: Mapping[str, Sequence[int]], hit_rate: float) -> None:
        self.answers = answers
        self.hit_rate = hit_rate
        self._random = random.Random(7)

    def draft(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], stop: EarlyStop
    ) -> list[Proposal]:
        return self._draft(sequences, depths)

    def _draft(self, sequences: Sequence[PlannedSequence], depths: Sequence[int]) -> list[Proposal]:
        return [self._propose(s, depth) for s, depth in zip(sequences, depths, strict=True)]

    def draft_beams(
        self, sequences: Sequence[PlannedSequence], depths: Sequence[int], width: int
    ) -> list[TokenTree]:
        proposals = zip(sequences, self._draft(sequences, depths), strict=True)
        return [comb(s.token_ids[-1], proposal.trunk, ()) for s, proposal in proposals]

    def commit(self, committed: Sequence[Committed]) -> None:
        """Nothing is kept."""

    def forget(self, request_id: RequestId) -> None:
        """Nothing is kept."""

    def _propose(self, sequence: PlannedSequence, depth: int) -> Proposal:
        answer = self.answers[sequence.request.request_id.split("/")[0]]
        done = len(sequence.token_ids) - len(sequence.request.prompt_token_ids)
        levels = [self._level(right) for right in answer[done : done + depth]]
        return Proposal(tuple(ids for ids, _ in levels), tuple(p for _, p in levels))

    def _level(self, right: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        wrong = [right + 1 + i if right < 1000 else right - 1 - i for i in range(NUM_CANDIDATES)]
        if self._random.random() < self.hit_rate:
            ids, first = (right, *wrong[:-1]), _CONFIDENT
        elif self._random.random() < LEAF_RATE:
            ids, first = (wrong[0], right, *wrong[1:-1]), _UNSURE
        else:
            ids, first = tuple(wrong), _UNSURE
        rest = [(1 - first) * 0.5**rank for rank in range(1, NUM_CANDIDATES)]
        return ids, (first, *rest)


@dataclass(slots=True)
class PolicyFigures:
    """One policy over all rounds."""

    tokens_per_second: list[float] = field(default_factory=list[float])
    summaries: list[SpeculationSummary] = field(default_factory=list[SpeculationSummary])

    @property
    def tokens_per_step(self) -> float:
        steps = sum(summary.num_steps for summary in self.summaries)
        accepted = sum(summary.num_accepted for summary in self.summaries)
        return (steps + accepted) / steps if steps else 1.0

    def seconds(self, part: str) -> float:
        return sum(getattr(summary, f"{part}_seconds") for summary in self.summaries)


async def measure_policies(
    model: LoadedModel, speculator: Speculator, new_tokens: int, rounds: int, hit_rate: float
) -> dict[PolicyName, PolicyFigures]:
    """Interleaves the policies on the same prompts; every answer must equal the plain one. Starts
    and stops the model's engine.

    Raises:
        RuntimeError: a policy changed a token.
    """
    figures: dict[PolicyName, PolicyFigures] = {policy: PolicyFigures() for policy in POLICIES}
    async with running(model):
        plain = [(await _answer(model, i, "off", new_tokens))[0] for i in range(_NUM_PROMPTS)]
        answers = {str(i): tokens for i, tokens in enumerate(plain)}
        speculator.drafting.drafter = OracleDrafter(answers, hit_rate)
        for _ in range(rounds):
            for policy in POLICIES:
                await _measure_policy(model, policy, plain, figures[policy])
    return figures


async def _measure_policy(
    model: LoadedModel, policy: PolicyName, plain: Sequence[list[int]], figures: PolicyFigures
) -> None:
    started = time.perf_counter()
    for i, expected in enumerate(plain):
        tokens, summary = await _answer(model, i, policy, len(expected))
        if tokens != expected:
            raise RuntimeError(f"policy {policy} changed the answer to prompt {i}")
        if summary is not None:
            figures.summaries.append(summary)
    count = sum(map(len, plain))
    figures.tokens_per_second.append(count / (time.perf_counter() - started))


async def _answer(
    model: LoadedModel, index: int, policy: PolicyName, new_tokens: int
) -> tuple[list[int], SpeculationSummary | None]:
    token_ids = encode_question(model, PROMPTS[index])
    params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
    request = Request(RequestId(f"{index}/{time.monotonic_ns()}"), token_ids, params)
    request = replace(request, speculation=SpeculationParams(policy=policy))
    outputs = [output async for output in model.engine.generate(request)]
    return [t for output in outputs for t in output.token_ids], outputs[-1].speculation


def print_policies(figures: Mapping[PolicyName, PolicyFigures], hit_rate: float) -> None:
    """A table for people."""
    console = Console(highlight=False)
    console.print(f"one stream, oracle draft with {hit_rate:.0%} trunk hits (costs nothing itself)")
    plain = statistics.median(figures["off"].tokens_per_second)
    table = Table("policy", "tokens/s", "ratio", "tokens/step", "draft", "verify", "other")
    for policy, entry in figures.items():
        rate = statistics.median(entry.tokens_per_second)
        parts = [entry.seconds(part) for part in ("draft", "verify", "other")]
        shares = [f"{part / sum(parts):.1%}" if sum(parts) else "" for part in parts]
        ratio = f"{rate / plain:.2f}"
        table.add_row(policy, f"{rate:.1f}", ratio, f"{entry.tokens_per_step:.2f}", *shares)
    console.print(table)


def policies_json(figures: Mapping[PolicyName, PolicyFigures], hit_rate: float) -> dict[str, Any]:
    return {
        "hit_rate": hit_rate,
        "policies": {
            policy: {
                "tok_s": entry.tokens_per_second,
                "tokens_per_step": entry.tokens_per_step,
                **{part: entry.seconds(part) for part in ("draft", "verify", "other")},
            }
            for policy, entry in figures.items()
        },
    }
