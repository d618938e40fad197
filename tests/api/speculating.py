"""A scripted engine that says where its tokens came from, as the real one does."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from server.api.deps import ServingInfo
from server.engine.outputs import RequestOutput, SourceFigures, SpeculationSummary, TokenSource
from server.engine.types import Request, SpeculationParams
from tests.api.harness import INFO
from tests.doubles import ScriptedEngine

SPECULATING: ServingInfo = replace(
    INFO, can_speculate=True, default_speculation=SpeculationParams("cape", None, 24)
)


class SpeculatingEngine(ScriptedEngine):
    """A step's last token is the target's, the one before a leaf, the others from the trunk.

    Unlike the plain one it ends at `max_tokens`. A request with policy `off` is told nothing
    about speculation.
    """

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        summary = SpeculationSummary()
        async with aclosing(super().generate(request)) as outputs:
            async for output in outputs:
                cut = _cut(output, request.params.max_tokens)
                num_tokens = len(cut.token_ids)
                summary = _add(summary, num_tokens)
                if request.speculation.policy == "off":
                    yield replace(cut, sources=("target",) * num_tokens)
                else:
                    yield replace(cut, sources=_sources(num_tokens), speculation=summary)
                if cut.finish_reason is not None:
                    return


def _sources(num_tokens: int) -> tuple[TokenSource, ...]:
    """5 → trunk, trunk, trunk, leaf, target."""
    trunk: list[TokenSource] = ["trunk"] * num_tokens
    return (*trunk, "leaf", "target")[-num_tokens:]


def _cut(output: RequestOutput, max_tokens: int) -> RequestOutput:
    num_over = output.num_output_tokens - max_tokens
    if num_over < 0 or (num_over == 0 and output.finish_reason is not None):
        return output
    count = len(output.token_ids) - num_over
    return replace(
        output,
        token_ids=output.token_ids[:count],
        logprobs=None if output.logprobs is None else output.logprobs[:count],
        finish_reason="length",
        stop_token_id=None,
        num_output_tokens=max_tokens,
    )


def _add(summary: SpeculationSummary, num_tokens: int) -> SpeculationSummary:
    return replace(
        summary,
        num_steps=summary.num_steps + 1,
        num_drafted=summary.num_drafted + 8,
        num_accepted=summary.num_accepted + num_tokens - 1,
        num_leaves_accepted=summary.num_leaves_accepted + (num_tokens > 1),
        accepted_per_position=(3, 1),
        by_source={"draft": SourceFigures(20, 3), "lookup": SourceFigures(4, 1)},
        draft_seconds=0.25,
        verify_seconds=0.5,
        other_seconds=0.125,
    )
