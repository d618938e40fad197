"""From recorded answers to the paper's figures, per data set and over all of them. Pure.

Over several sets a figure is the mean of the sets' figures, whatever their sizes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.paper.measure.agreement import Agreement
from bench.paper.measure.methods import CHAIN_DEPTH, CHAINS, MethodName
from bench.paper.measure.rounds import Answer, PositionCounts, expected_speedup, position_counts
from bench.paper.report.resampling import Estimate, Pair, estimate, ratio, sign_flip_test


@dataclass(frozen=True, slots=True)
class PromptResult:
    """One prompt under every method."""

    id: str
    num_prompt_tokens: int
    answers: dict[MethodName, Answer]
    agreement: Agreement

    @property
    def plain(self) -> Answer:
        return self.answers["plain"]

    def plain_seconds(self, answer: Answer) -> float:
        """Time of plain decoding for as many tokens; for equal answers, its own time."""
        return self.plain.decode_seconds * answer.num_decoded / self.plain.num_decoded


Results = Sequence[Sequence[PromptResult]]
"""Prompts by data set, whose answers have at least one decoding step."""


@dataclass(frozen=True, slots=True)
class ChainFigures:
    """The paper's table 1 for a method that drafts chains."""

    acceptance: Estimate | None
    """α, see `rounds.py`."""
    acceptance_by_position: tuple[Estimate | None, ...]
    """Chance that a position is accepted, given that all positions before it were."""
    relative_cost: Estimate | None
    """c: seconds per drafted depth over seconds per plain step, both of this run."""
    expected_speedup: Estimate | None
    """What the paper's formula makes of α and c."""


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """The paper's table 2 for one method."""

    tokens_per_step: Estimate | None
    speedup: Estimate | None
    """Plain decoding's time over this method's, for the same tokens; prefill left out."""
    p_value: float | None
    """Sign-flip test of the prompts' log speedups against none, every set with the same weight;
    None for plain."""
    tokens_per_second: float
    draft_ms: float
    """Milliseconds per step, as are the next three."""
    verify_ms: float
    other_ms: float
    nodes_per_step: float
    num_differing: int
    """Answers that differ from plain decoding's in any token."""
    chain: ChainFigures | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods against each other on the same prompts."""

    speedup: Estimate | None
    """The second's time over the first's."""
    p_value: float | None


@dataclass(frozen=True, slots=True)
class SetFigures:
    """Everything about one data set, or the mean of all."""

    num_prompts: int
    methods: dict[MethodName, MethodFigures]
    agreement: tuple[Estimate | None, ...]
    """Greedy form along the target's text, per delay."""
    agreement_overall: Estimate | None
    overlap: tuple[Estimate | None, ...]
    """Sampling form E Σ min(target_probs, draft_probs), per delay."""
    overlap_overall: Estimate | None
    cape_against_chain: Comparison | None


def usable(results: Sequence[PromptResult]) -> list[PromptResult]:
    """Prompts whose every answer has a decoding step; a one-token answer has no decode time."""
    return [r for r in results if all(answer.steps for answer in r.answers.values())]


def set_figures(results: Results) -> SetFigures:
    """The figures of one set, or the mean of all sets."""
    flat = [prompt for group in results for prompt in group]
    names: Sequence[MethodName] = tuple(flat[0].answers) if flat else ()
    has_both = "cape" in names and "chain" in names
    depth = len(flat[0].agreement.counts) if flat else 0
    delays = [[d] for d in range(depth)]
    everywhere = list(range(depth))
    return SetFigures(
        num_prompts=len(flat),
        methods={name: _method(results, name) for name in names},
        agreement=tuple(_agreement(results, _hits, d) for d in delays),
        agreement_overall=_agreement(results, _hits, everywhere),
        overlap=tuple(_agreement(results, _overlap, d) for d in delays),
        overlap_overall=_agreement(results, _overlap, everywhere),
        cape_against_chain=_compare(results, "cape", "chain") if has_both else None,
    )


def _method(results: Results, name: MethodName) -> MethodFigures:
    pairs = _pairs(results, lambda p: (p.plain_seconds(p.answers[name]), _seconds(p, name)))
    flat = [p for group in results for p in group]
    return MethodFigures(
        tokens_per_step=ratio(
            _pairs(results, lambda p: (p.answers[name].num_decoded, len(p.answers[name].steps)))
        ),
        speedup=ratio(pairs),
        p_value=None if name == "plain" else _test(pairs),
        tokens_per_second=_mean(
            results, lambda g: _per(g, name, lambda a: a.num_decoded, lambda a: a.decode_seconds)
        ),
        draft_ms=_part_ms(results, name, "draft"),
        verify_ms=_part_ms(results, name, "verify"),
        other_ms=_part_ms(results, name, "other"),
        nodes_per_step=_mean(
            results,
            lambda g: _per(
                g, name, lambda a: sum(s.num_nodes for s in a.steps), lambda a: len(a.steps)
            ),
        ),
        num_differing=sum(p.answers[name].token_ids != p.plain.token_ids for p in flat),
        chain=_chain(results, name) if name in CHAINS else None,
    )


def _chain(results: Results, name: MethodName) -> ChainFigures:
    counts = [[position_counts(p.answers[name].steps) for p in group] for group in results]
    rows = [
        [_chain_row(prompt, name, of) for prompt, of in zip(group, counted, strict=True)]
        for group, counted in zip(results, counts, strict=True)
    ]
    return ChainFigures(
        acceptance=ratio([[row[:2] for row in group] for group in rows]),
        acceptance_by_position=tuple(
            ratio([[_at(of, i) for of in group] for group in counts]) for i in range(CHAIN_DEPTH)
        ),
        relative_cost=estimate(rows, _relative_cost),
        expected_speedup=estimate(rows, _expected),
    )


ChainRow = tuple[float, float, float, float, float, float]
"""(accepted, judged, draft seconds, drafted depths, plain seconds, plain steps): summed over a
set, all that the formula needs."""


def _chain_row(prompt: PromptResult, name: MethodName, counts: PositionCounts) -> ChainRow:
    answer, plain = prompt.answers[name], prompt.plain
    depths = sum(step.depth for step in answer.steps)
    seconds = answer.seconds("draft")
    steps = len(plain.steps)
    accepted, judged = sum(counts.accepted), sum(counts.judged)
    return accepted, judged, seconds, depths, plain.decode_seconds, steps


def _at(counts: PositionCounts, position: int) -> Pair:
    """(accepted, judged) at a position counted from 0."""
    return sum(counts.accepted[position : position + 1]), sum(
        counts.judged[position : position + 1]
    )


def _relative_cost(totals: Any) -> Any:
    """totals: [..., 6], a `ChainRow` -> c [...]"""
    return (totals[..., 2] / totals[..., 3]) / (totals[..., 4] / totals[..., 5])


def _expected(totals: Any) -> Any:
    """totals: [..., 6], a `ChainRow` -> the formula's speedup [...]"""
    acceptance = totals[..., 0] / totals[..., 1]
    return expected_speedup(acceptance, _relative_cost(totals), CHAIN_DEPTH)


def _compare(results: Results, first: MethodName, second: MethodName) -> Comparison:
    pairs = _pairs(results, lambda p: (_seconds(p, second), _seconds(p, first)))
    return Comparison(ratio(pairs), _test(pairs))


def _hits(agreement: Agreement) -> Sequence[float]:
    return agreement.hits


def _overlap(agreement: Agreement) -> Sequence[float]:
    return agreement.overlap


def _agreement(
    results: Results, part: Callable[[Agreement], Sequence[float]], delays: Sequence[int]
) -> Estimate | None:
    """One figure over all of these delays; they count from 0."""

    def pair(prompt: PromptResult) -> Pair:
        values, counts = part(prompt.agreement), prompt.agreement.counts
        return sum(values[d] for d in delays), sum(counts[d] for d in delays)

    return ratio(_pairs(results, pair))


def _pairs(results: Results, pair: Callable[[PromptResult], Pair]) -> list[list[Pair]]:
    return [[pair(prompt) for prompt in group] for group in results]


def _test(pairs: Sequence[Sequence[Pair]]) -> float | None:
    """The p-value of prompts' log speedups, each weighted so that every set counts alike."""
    return sign_flip_test(
        [math.log(above / below) / len(group) for group in pairs for above, below in group]
    )


def _seconds(prompt: PromptResult, name: MethodName) -> float:
    return prompt.answers[name].decode_seconds


def _per(
    group: Sequence[PromptResult],
    name: MethodName,
    above: Callable[[Answer], float],
    below: Callable[[Answer], float],
) -> float:
    """Ratio of sums over a set's answers; 0 where the denominator is 0."""
    answers = [prompt.answers[name] for prompt in group]
    total = sum(map(below, answers))
    return sum(map(above, answers)) / total if total else 0.0


def _part_ms(results: Results, name: MethodName, part: str) -> float:
    per_step = _mean(
        results, lambda g: _per(g, name, lambda a: a.seconds(part), lambda a: len(a.steps))
    )
    return 1000 * per_step


def _mean(results: Results, figure: Callable[[Sequence[PromptResult]], float]) -> float:
    groups = [figure(group) for group in results if group]
    return fmean(groups) if groups else 0.0
