"""`glidecape generate`: one answer without a server."""

import asyncio
import random
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import with_settings
from server.cli.step_tree import step_tree
from server.cli.terminal import Stopwatch, describe_speculation, report, stderr, write_answer
from server.config import ModelSettings, is_utf8
from server.engine.outputs import RequestOutput, StepStats
from server.engine.types import Request, RequestId, SamplingParams
from server.errors import ConfigError

if TYPE_CHECKING:
    from server.loading.model import LoadedModel


@with_settings(ModelSettings)
def generate(
    settings: ModelSettings,
    prompt: Annotated[str, typer.Argument(help="What to answer.")],
    max_tokens: Annotated[int, typer.Option(help="At most this many new tokens.", min=1)] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(help="0 is greedy; default: what --generation-config says.", min=0, max=2),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Print each step's proposal as a tree, then the answer.")
    ] = False,
) -> None:
    """Answer one prompt and exit."""
    if not is_utf8(prompt):
        raise ConfigError("prompt", prompt[:40], "is not valid UTF-8")
    report("loading …")
    from server.loading.model import build_model

    model = build_model(settings, report, _ignore)
    token_ids = _encode(model, prompt, raw)
    room = model.engine.max_model_len - len(token_ids)
    if room < 1 or not token_ids:
        reason = f"{len(token_ids)} tokens, but the context holds {model.engine.max_model_len}"
        raise ConfigError("prompt", prompt[:40], reason)
    sampling = model.facts.default_sampling
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    params = SamplingParams(
        **asdict(sampling),
        max_tokens=min(max_tokens, room),
        seed=random.getrandbits(63) if seed is None else seed,
    )
    speculation = replace(model.facts.speculation, traced=trace)
    request = Request(RequestId("generate"), token_ids, params, speculation=speculation)
    asyncio.run(_stream(model, request, raw))


def _ignore(stats: StepStats) -> None:
    """Drops the step's figures: without a server there are no metrics."""


def _encode(model: "LoadedModel", prompt: str, raw: bool) -> tuple[int, ...]:
    if raw:
        return tuple(model.tokenizer.encode(prompt, add_special_tokens=True))
    text = model.chat_template.render([{"role": "user", "content": prompt}])
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))


async def _stream(model: "LoadedModel", request: Request, raw: bool) -> None:
    from server.text.stream import TextStream

    text = TextStream[None](model.tokenizer, continues_text=raw)
    watch, num_steps = Stopwatch(), 0
    answer = list[str]()
    last = None
    model.engine.start()
    try:
        async with aclosing(model.engine.generate(request)) as outputs:
            async for output in outputs:
                watch.saw_token()
                num_steps += 1
                last = output
                if output.trace is not None:
                    token_bytes = model.tokenizer.token_bytes
                    stderr.print(step_tree(num_steps, output.trace, output.token_ids, token_bytes))
                delta = text.push(
                    output.token_ids,
                    ended=output.finish_reason is not None,
                    has_stop_token=output.stop_token_id is not None,
                )
                # An answer between trees could not be read: it is printed after them.
                if request.speculation.traced:
                    answer.append(delta.text)
                else:
                    write_answer(delta.text)
    finally:
        await model.engine.stop()
        model.close()
    write_answer("".join(answer) + "\n")
    stderr.print(watch.summary(text.num_tokens) + _speculation(last), style="dim")


def _speculation(last: RequestOutput | None) -> str:
    did = last.speculation if last is not None else None
    if did is None:
        return ""
    return describe_speculation(
        did.tokens_per_step, did.num_drafted, did.num_accepted, did.num_leaves_accepted
    )
