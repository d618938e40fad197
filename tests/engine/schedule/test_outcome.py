"""A request's summary, step by step by hand."""

from server.engine.outputs import ProposalSource, SourceFigures, SpeculationSummary, TokenSource
from server.engine.schedule.outcome import add_step, num_emitted
from server.engine.schedule.plan import StepSeconds, StepSpeculation

SECONDS = StepSeconds(draft=0.25, verify=1.0, other=0.125)


def after(
    *steps: tuple[StepSpeculation | None, int], start: SpeculationSummary | None = None
) -> SpeculationSummary | None:
    """steps: (what was proposed, tokens kept)"""
    for step, num_kept in steps:
        start = add_step(start, step, num_kept, SECONDS)
    return start


def step(num_drafted: int, *sources: TokenSource) -> StepSpeculation:
    """Trunks are a draft's, leaves were looked up."""
    said: dict[TokenSource, ProposalSource | None] = {
        "trunk": "draft", "leaf": "lookup", "target": None,
    }  # fmt: skip
    proposed: tuple[ProposalSource, ...] = ("draft",) * (num_drafted - 1) + ("lookup",)
    return StepSpeculation(proposed, sources, tuple(said[source] for source in sources))


def test_nothing_where_nothing_was_ever_proposed() -> None:
    assert after((None, 1), (None, 1)) is None


def test_steps_add_up() -> None:
    """A leaf below one trunk token, a miss, a plain step, a trunk of three."""
    summary = after(
        (None, 1),  # before the first proposal: not counted
        (step(6, "trunk", "leaf", "target"), 3),
        (step(4, "target"), 1),
        (None, 1),
        (step(3, "trunk", "trunk", "trunk", "target"), 4),
    )
    assert summary is not None
    assert summary == SpeculationSummary(
        num_steps=4,
        num_drafted=13,
        num_accepted=5,
        num_leaves_accepted=1,
        accepted_per_position=(2, 2, 1),
        by_source={"draft": SourceFigures(10, 4), "lookup": SourceFigures(3, 1)},
        draft_seconds=1.0,
        verify_seconds=4.0,
        other_seconds=0.5,
    )
    assert summary.tokens_per_step == 9 / 4


def test_tokens_that_a_stop_cut_were_not_accepted() -> None:
    summary = after((step(5, "trunk", "trunk", "leaf", "target"), 2))
    assert summary is not None
    assert (summary.num_drafted, summary.num_accepted) == (5, 2)
    assert summary.num_leaves_accepted == 0
    assert summary.by_source == {"draft": SourceFigures(4, 2), "lookup": SourceFigures(1, 0)}
    assert summary.accepted_per_position == (1, 1)


def test_a_first_step_without_any_hit() -> None:
    summary = after((step(5, "target"), 1))
    assert summary is not None
    assert (summary.num_steps, summary.accepted_per_position) == (1, ())
    assert summary.tokens_per_step == 1.0
    assert SpeculationSummary().tokens_per_step == 0.0


def test_tokens_up_to_the_first_that_ends_the_answer_are_emitted() -> None:
    stops = frozenset({7, 9})
    assert num_emitted((), stops) == 0
    assert num_emitted((7,), stops) == 1
    assert num_emitted((1, 2, 9, 3, 7), stops) == 3
    assert num_emitted((1, 2, 3), stops) == 3
