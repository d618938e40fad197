"""What speculation did, as answers say it."""

from collections.abc import Sequence
from itertools import zip_longest

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


def whole_report(answers: Sequence[Sequence[Progress]]) -> SpeculationReport | None:
    """The sum over the answers to one request; see `SpeculationReport`."""
    summaries = [pieces[-1].speculation for pieces in answers]
    traced = [counts for pieces in answers if (counts := count_sources(pieces)) is not None]
    sources = None
    if traced:
        sources = SourceCounts(
            trunk=sum(counts.trunk for counts in traced),
            leaf=sum(counts.leaf for counts in traced),
            target=sum(counts.target for counts in traced),
        )
    return report(_total([summary for summary in summaries if summary is not None]), sources)


def _total(summaries: Sequence[SpeculationSummary]) -> SpeculationSummary | None:
    if not summaries:
        return None
    positions = zip_longest(*(s.accepted_per_position for s in summaries), fillvalue=0)
    return SpeculationSummary(
        num_steps=sum(s.num_steps for s in summaries),
        num_drafted=sum(s.num_drafted for s in summaries),
        num_accepted=sum(s.num_accepted for s in summaries),
        num_leaves_accepted=sum(s.num_leaves_accepted for s in summaries),
        accepted_per_position=tuple(map(sum, positions)),
        draft_seconds=sum(s.draft_seconds for s in summaries),
        verify_seconds=sum(s.verify_seconds for s in summaries),
        other_seconds=sum(s.other_seconds for s in summaries),
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
