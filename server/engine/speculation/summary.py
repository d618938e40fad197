"""Adds up what speculation did for a request. Pure."""

from dataclasses import replace

from server.engine.schedule.plan import StepSeconds, StepSpeculation
from server.engine.speculation.sources import add_sources, count_sources
from server.engine.types import SpeculationSummary


def add_step(
    summary: SpeculationSummary | None,
    step: StepSpeculation | None,
    num_kept: int,
    seconds: StepSeconds,
) -> SpeculationSummary | None:
    """The summary after one more decoding step.

    Args:
        summary: so far; None as long as nothing was ever proposed for the request.
        step: None where this step proposed nothing.
        num_kept: new tokens that were emitted; a stop may have cut the rest.
    """
    if summary is None and step is None:
        return None
    summary = summary or SpeculationSummary()
    sources = step.sources[:num_kept] if step else ()
    accepted = [source for source in sources if source != "target"]
    figures = count_sources(step.proposed, step.proposed_by[:num_kept]) if step else {}
    return replace(
        summary,
        num_steps=summary.num_steps + 1,
        num_drafted=summary.num_drafted + (len(step.proposed) if step else 0),
        num_accepted=summary.num_accepted + len(accepted),
        num_leaves_accepted=summary.num_leaves_accepted + accepted.count("leaf"),
        accepted_per_position=_count(summary.accepted_per_position, len(accepted)),
        by_source=add_sources(summary.by_source, figures),
        draft_seconds=summary.draft_seconds + seconds.draft,
        verify_seconds=summary.verify_seconds + seconds.verify,
        other_seconds=summary.other_seconds + seconds.other,
    )


def _count(per_position: tuple[int, ...], num_accepted: int) -> tuple[int, ...]:
    """One more step that was right at depths 1 … num_accepted."""
    width = max(len(per_position), num_accepted)
    padded = per_position + (0,) * (width - len(per_position))
    return tuple(count + (i < num_accepted) for i, count in enumerate(padded))
