"""From recorded answers to the paper's figures, per data set and over all of them. Pure.

Over several sets a figure is the mean of the sets' figures, whatever their sizes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from bench.paper.agreement import Agreement
from bench.paper.methods import CHAIN_DEPTH, CHAINS, MethodName
from bench.paper.resampling import Estimate, Pair, ratio, sign_flip_test
from bench.paper.rounds import Answer, expected_speedup, position_counts


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
        """What plain decoding takes for as many tokens: for equal answers its own time."""
        return self.plain.decode_seconds * answer.num_decoded / self.plain.num_decoded


Results = Sequence[Sequence[PromptResult]]
"""By data set; of answers with at least one decoding step."""


@dataclass(frozen=True, slots=True)
class ChainFigures:
    """The paper's table 1, of a method that drafts chains."""

    acceptance: Estimate | None
    """α, see `rounds.py`."""
    acceptance_by_position: tuple[Estimate | None, ...]
    """Conditional: given that all positions before were accepted."""
    relative_cost: float
    """c: seconds per drafted depth over seconds per plain step, both of this run."""
    expected_speedup: float | None
    """By the paper's formula from α and c."""


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """The paper's table 2, one method."""

    tokens_per_step: Estimate | None
    speedup: Estimate | None
    """Plain decoding's time over this method's, for the same tokens; prefill left out."""
    p_value: float | None
    """Sign-flip test of the prompts' log speedups against none; None for plain."""
    tokens_per_second: float
    draft_ms: float
    """Per step, as the next three."""
    verify_ms: float
    other_ms: float
    nodes_per_step: float
    num_differing: int
    """Answers that are not plain decoding's, token for token."""
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
    """results: one set's, or all sets'."""
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
    acceptance = ratio(_pairs(results, lambda p: _accepted(p, name, None)))
    return ChainFigures(
        acceptance=acceptance,
        acceptance_by_position=tuple(
            ratio(_pairs(results, lambda p, i=i: _accepted(p, name, i))) for i in range(CHAIN_DEPTH)
        ),
        relative_cost=_mean(results, lambda group: _relative_cost(group, name)),
        expected_speedup=_expected(results, name),
    )


def _accepted(prompt: PromptResult, name: MethodName, position: int | None) -> Pair:
    """(accepted, judged) at a position counted from 0; at all of them for None."""
    counts = position_counts(prompt.answers[name].steps)
    wanted = slice(position, None if position is None else position + 1)
    return sum(counts.accepted[wanted]), sum(counts.judged[wanted])


def _relative_cost(group: Sequence[PromptResult], name: MethodName) -> float:
    seconds = _per(
        group, name, lambda a: a.seconds("draft"), lambda a: sum(s.depth for s in a.steps)
    )
    plain = _per(group, "plain", lambda a: a.decode_seconds, lambda a: len(a.steps))
    return seconds / plain


def _expected(results: Results, name: MethodName) -> float | None:
    """Mean over the sets of what the formula says for each."""
    expected = list[float]()
    for group in results:
        acceptance = ratio(_pairs([group], lambda p: _accepted(p, name, None)))
        if acceptance is not None:
            cost = _relative_cost(group, name)
            expected.append(expected_speedup(acceptance.value, cost, CHAIN_DEPTH))
    return fmean(expected) if expected else None


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
    """delays: counted from 0, taken together."""

    def pair(prompt: PromptResult) -> Pair:
        values, counts = part(prompt.agreement), prompt.agreement.counts
        return sum(values[d] for d in delays), sum(counts[d] for d in delays)

    return ratio(_pairs(results, pair))


def _pairs(results: Results, pair: Callable[[PromptResult], Pair]) -> list[list[Pair]]:
    return [[pair(prompt) for prompt in group] for group in results]


def _test(pairs: Sequence[Sequence[Pair]]) -> float | None:
    return sign_flip_test([math.log(above / below) for group in pairs for above, below in group])


def _seconds(prompt: PromptResult, name: MethodName) -> float:
    return prompt.answers[name].decode_seconds


def _per(
    group: Sequence[PromptResult],
    name: MethodName,
    above: Callable[[Answer], float],
    below: Callable[[Answer], float],
) -> float:
    """Ratio of sums over a set's answers; 0 where there is nothing below."""
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
