"""What outputs say about their step: by hand, and against the engine's own figures."""

from dataclasses import replace

import pytest

from server.engine.outputs import RequestOutput, StepTrace, TracedNode
from server.engine.schedule.plan import StepSeconds
from server.engine.speculation.proposal import Proposal, found
from server.engine.speculation.trace import finished_trace, trace_step
from server.engine.speculation.tree import comb, lone_root
from server.engine.types import PolicyName
from tests.engine.drafting import DRAFTERS, speculated
from tests.engine.tiny import CONFIG, TinyEngine

PROPOSAL = Proposal(
    candidates=((11, 12, 13), (21, 22, 23)),
    confidences=((0.9, 0.06, 0.01), (0.5, 0.3, 0.1)),
    kinds=(("trunk", "leaf", "lookup"), ("trunk", "leaf", "leaf")),
)


def test_a_comb_by_hand() -> None:
    """Trunk 11, 21, a leaf 13 beside 11, a leaf 22 beside 21; 11 and 22 were right."""
    trace = trace_step(comb(7, (11, 21), ((13,), (22,))), [0, 1, 4], PROPOSAL)
    assert trace == StepTrace(
        root_token_id=7,
        nodes=(
            TracedNode(11, parent=0, is_leaf=False, source="draft", confidence=0.9),
            TracedNode(21, parent=1, is_leaf=False, source="draft", confidence=0.5),
            TracedNode(13, parent=0, is_leaf=True, source="lookup", confidence=0.01),
            TracedNode(22, parent=1, is_leaf=True, source="draft", confidence=0.3),
        ),
        accepted=(1, 4),
        source="draft",
    )


def test_where_a_proposal_came_from() -> None:
    tree = comb(7, (11,), ())
    assert trace_step(tree, [0], found((11,), (0.5,), "lookup")).source == "lookup"
    assert trace_step(tree, [0], found((11,), (0.5,), "recent")).source == "recent"
    assert trace_step(tree, [0], found((11,), (0.5,), "forced")).source == "grammar"
    assert trace_step(lone_root(7), [0], None) == StepTrace(7, (), (), None)
    beam = trace_step(tree, [0], None)
    assert (beam.source, beam.nodes[0].confidence) == ("beam", None)


def test_what_a_stop_cuts_was_not_accepted() -> None:
    trace = trace_step(comb(7, (11, 21), ()), [0, 1, 2], PROPOSAL)
    seconds = StepSeconds(0.25, 1.0, 0.5)
    finished = finished_trace(trace, ("trunk",), seconds)
    assert finished == replace(
        trace, accepted=(1,), draft_seconds=0.25, verify_seconds=1.0, other_seconds=0.5
    )
    assert finished_trace(None, ("trunk",), seconds) is None


@pytest.mark.parametrize("drafter", ["oracle", "draft_model", "glide"])
@pytest.mark.parametrize("policy", ["off", "chain", "cape", "beam", "auto"])
def test_traces_add_up_to_the_figures(policy: PolicyName, drafter: str) -> None:
    """Every request of the equality matrix, in one batch."""
    if drafter == "oracle" and policy == "beam":
        drafter = "draft_model"  # an oracle has no beams
    requests = [
        replace(r, speculation=replace(r.speculation, traced=True)) for r in speculated(policy)
    ]
    outputs = TinyEngine(CONFIG, DRAFTERS[drafter]).run(requests)
    for of_request in outputs.values():
        _check(of_request)
    all_traces = [o.trace for of_request in outputs.values() for o in of_request]
    proposed = [trace for trace in all_traces if trace is not None and trace.nodes]
    assert bool(proposed) == (policy != "off")
    if policy == "beam":
        assert {trace.source for trace in proposed} == {"beam"}


def _check(outputs: list[RequestOutput]) -> None:
    traces = [output.trace for output in outputs if output.trace is not None]
    assert len(traces) == len(outputs)
    for output, trace in zip(outputs, traces, strict=True):
        _check_path(output, trace)
    summary = outputs[-1].speculation
    if summary is None:
        assert not any(trace.nodes for trace in traces)
        return
    first = next(index for index, trace in enumerate(traces) if trace.nodes)
    assert summary.num_steps == len(traces) - first
    assert summary.num_drafted == sum(len(trace.nodes) for trace in traces)
    assert summary.num_accepted == sum(len(trace.accepted) for trace in traces)
    spent = sum(trace.verify_seconds for trace in traces[first:])
    assert summary.verify_seconds == pytest.approx(spent)


def _check_path(output: RequestOutput, trace: StepTrace) -> None:
    """The accepted nodes hang together, and are the tokens that came, with their sources."""
    above = 0
    for node, token_id, source in zip(
        trace.accepted, output.token_ids, output.sources, strict=False
    ):
        traced = trace.nodes[node - 1]
        assert (traced.parent, traced.token_id) == (above, token_id)
        assert source == ("leaf" if traced.is_leaf else "trunk")
        above = node
    assert len(trace.accepted) == sum(source != "target" for source in output.sources)


def test_nothing_is_said_unasked() -> None:
    outputs = TinyEngine(CONFIG, DRAFTERS["oracle"]).run(speculated("cape"))
    assert all(o.trace is None for of_request in outputs.values() for o in of_request)
