"""What a step did for a sequence, as the scheduler takes it."""

from collections.abc import Sequence

from server.engine.outputs import TokenLogprobs, TokenSource
from server.engine.schedule.plan import PlannedSequence, SequenceResult, StepSpeculation
from server.engine.speculation.trace import trace_step
from server.engine.step.walk import TreeWalk


def chunk_result(
    planned: PlannedSequence, prompt_logprobs: Sequence[TokenLogprobs]
) -> SequenceResult:
    """The result of a prompt's chunk with more to come."""
    return SequenceResult(planned.num_nodes, (), None, prompt_logprobs=tuple(prompt_logprobs))


def walk_result(
    planned: PlannedSequence,
    walk: TreeWalk,
    prompt_logprobs: Sequence[TokenLogprobs] = (),
) -> SequenceResult:
    """The result of a sequence that drew tokens."""
    has_tree = len(walk.tree) > 1
    speculation = trace = None
    if has_tree:
        proposed_by = (*walk.accepted(), None)
        speculation = StepSpeculation(walk.proposed(), _sources(walk), proposed_by)
    if planned.request.speculation.traced:
        trace = trace_step(walk.tree, walk.path, walk.proposal if has_tree else None)
    return SequenceResult(
        num_committed=planned.num_nodes - 1 + len(walk.path),
        token_ids=tuple(walk.token_ids),
        logprobs=tuple(walk.logprobs) or None,
        speculation=speculation,
        prompt_logprobs=tuple(prompt_logprobs),
        trace=trace,
    )


def _sources(walk: TreeWalk) -> tuple[TokenSource, ...]:
    """Sources of the drawn tokens: those that were nodes, then the target's own."""
    of_nodes: list[TokenSource] = [
        "leaf" if walk.tree.is_leaf(node) else "trunk" for node in walk.path[1:]
    ]
    return (*of_nodes, "target")
