"""Reports of speculation, as answers carry them."""

from collections.abc import Sequence
from functools import reduce
from itertools import zip_longest

from server.api.generation.job import Piece
from server.api.generation.schema.speculation import (
    SourceCounts,
    SourceReport,
    SpeculationReport,
    SpeculationStep,
    StepNode,
    StepToken,
)
from server.engine.outputs import SpeculationSummary
from server.engine.speculation.sources import add_sources
from server.text.tokenizer import Tokenizer


def count_sources(pieces: Sequence[Piece]) -> SourceCounts | None:
    """Where the pieces' tokens came from; None if no trace was asked for."""
    if pieces[-1].sources is None:
        return None
    sources = [source for piece in pieces for source in piece.sources or ()]
    return SourceCounts(
        trunk=sources.count("trunk"), leaf=sources.count("leaf"), target=sources.count("target")
    )


def step_record(tokenizer: Tokenizer, piece: Piece) -> SpeculationStep | None:
    """The step that brought the piece; None if steps were not asked for."""
    if piece.step is None:
        return None
    step, name = piece.step.step, tokenizer.token_string
    tokens = zip(piece.step.token_ids, piece.step.sources, piece.step.text_offsets, strict=True)
    return SpeculationStep(
        tokens=[
            StepToken(
                token=name(token_id),
                bytes=list(tokenizer.token_bytes(token_id)),
                source=source,
                text_offset=offset,
            )
            for token_id, source, offset in tokens
        ],
        root=name(step.root_token_id),
        nodes=[
            StepNode(
                token=name(node.token_id),
                parent=node.parent,
                kind="leaf" if node.is_leaf else "trunk",
                source=node.source,
                confidence=node.confidence,
            )
            for node in step.nodes
        ],
        accepted=list(step.accepted),
        source=step.source,
        draft_seconds=step.draft_seconds,
        verify_seconds=step.verify_seconds,
        other_seconds=step.other_seconds,
    )


def whole_report(answers: Sequence[Sequence[Piece]]) -> SpeculationReport | None:
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
        by_source=reduce(add_sources, (s.by_source for s in summaries)),
        draft_seconds=sum(s.draft_seconds for s in summaries),
        verify_seconds=sum(s.verify_seconds for s in summaries),
        other_seconds=sum(s.other_seconds for s in summaries),
    )


def report(
    summary: SpeculationSummary | None, sources: SourceCounts | None = None
) -> SpeculationReport | None:
    """The report of a summary; None where nothing was speculated."""
    if summary is None:
        return None
    return SpeculationReport(
        steps=summary.num_steps,
        drafted_tokens=summary.num_drafted,
        accepted_tokens=summary.num_accepted,
        leaves_accepted=summary.num_leaves_accepted,
        tokens_per_step=summary.tokens_per_step,
        accepted_per_position=list(summary.accepted_per_position),
        by_source={
            source: SourceReport(drafted_tokens=each.proposed, accepted_tokens=each.accepted)
            for source, each in summary.by_source.items()
        },
        draft_seconds=summary.draft_seconds,
        verify_seconds=summary.verify_seconds,
        other_seconds=summary.other_seconds,
        sources=sources,
    )
