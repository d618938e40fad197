"""Results made by hand."""

from collections.abc import Sequence

from bench.paper.measure.agreement import Agreement
from bench.paper.measure.methods import MethodName
from bench.paper.measure.rounds import Answer, Step
from bench.paper.report.figures import PromptResult


def plain(num_tokens: int, seconds: float) -> Answer:
    """num_tokens: with the prompt's."""
    return Answer(tuple(range(num_tokens)), seconds, (Step(1, 0),) * (num_tokens - 1))


def chain(
    accepted: Sequence[int], seconds: float, draft_seconds: float = 0.0, depth: int = 5
) -> Answer:
    """Rounds that accept so many tokens each, and the target's own."""
    steps = tuple(
        Step(count + 1, count, depth, depth + 1, draft_seconds / len(accepted), 0.25, 0.125)
        for count in accepted
    )
    num_tokens = 1 + sum(step.num_tokens for step in steps)
    return Answer(tuple(range(num_tokens)), seconds, steps)


def result(name: str = "a", **answers: Answer) -> PromptResult:
    agreement = Agreement((4, 3, 2, 1, 0), (3, 2, 1, 0, 0), (2.0, 1.5, 0.5, 0.25, 0.0))
    by_name: dict[MethodName, Answer] = {**answers}  # pyright: ignore[reportAssignmentType]
    return PromptResult(name, 10, by_name, agreement)
