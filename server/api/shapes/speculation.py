"""What speculation did, as answers say it."""

from collections.abc import Sequence

from server.api.generation import Progress
from server.api.schemas.speculation import SourceCounts, SpeculationReport
from server.engine.types import SpeculationSummary


def count_sources(pieces: Sequence[Progress]) -> SourceCounts | None:
    """Where the pieces' tokens came from; None if no trace was asked for."""
    if pieces[-1].sources is None:
        return None
    sources = [source for piece in pieces for source in piece.sources or ()]
    return SourceCounts(
        trunk=sources.count("trunk"), leaf=sources.count("leaf"), target=sources.count("target")
    )


def report(
    summary: SpeculationSummary | None, sources: SourceCounts | None = None
) -> SpeculationReport | None:
    """None where nothing was speculated."""
    if summary is None:
        return None
    return SpeculationReport(
        steps=summary.num_steps,
        drafted_tokens=summary.num_drafted,
        accepted_tokens=summary.num_accepted,
        leaves_accepted=summary.num_leaves_accepted,
        tokens_per_step=summary.tokens_per_step,
        accepted_per_position=list(summary.accepted_per_position),
        draft_seconds=summary.draft_seconds,
        verify_seconds=summary.verify_seconds,
        other_seconds=summary.other_seconds,
        sources=sources,
    )
