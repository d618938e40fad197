"""A completion's prompts, one or many, as text or as token ids → jobs for the engine."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

from server.api.completions.schema import MAX_CHOICES, CompletionRequest
from server.api.deps import Parts
from server.api.generation.job_group import JobGroup, PromptJobs
from server.api.generation.prompt_tokens import check_token_ids, encode_text, most_prompt_tokens
from server.api.generation.structured import answer_grammar
from server.api.generation.thinking import NO_THINKING
from server.api.generation.tools import NO_TOOLS
from server.api.generation.translate import (
    answer_length,
    check_common,
    group_name,
    prompt_jobs,
    sampling_params,
)
from server.errors import InvalidRequestError, UnsupportedFieldError
from server.text.infill import Infill
from server.text.prompt_text import PromptText, decode_prompt, place_tokens
from server.text.tokenizer import LONG_TEXT, Tokenizer

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of /v1/completions."""


class _PromptField(NamedTuple):
    """One prompt as it was given."""

    name: str
    """The field's: `prompt`, in a batch `prompt.3`."""
    value: str | list[int]


class _Gap(NamedTuple):
    """What the prompts of a request have behind the answer."""

    infill: Infill
    behind: list[int]

    def around(self, before: list[int]) -> list[int]:
        """A prompt with what comes before the answer."""
        return self.infill.prompt(before, self.behind)


async def completion_jobs(body: CompletionRequest, parts: Parts) -> JobGroup:
    """The jobs of all prompts of a request.

    Raises:
        RequestError: the body asks for something that can't be done.
    """
    check_common(body, parts)
    _check_completion(body)
    gap = await _gap(body, parts)
    name = group_name("cmpl")
    prompts: list[PromptJobs] = []
    num_jobs = 0
    for field in _prompt_fields(body):
        prompts.append(await _prompt_jobs(name, num_jobs, field, body, gap, parts))
        num_jobs += len(prompts[-1].jobs)
        await asyncio.sleep(0)  # many short prompts take as long as a long one
    return JobGroup(name, tuple(prompts))


def _check_completion(body: CompletionRequest) -> None:
    """Checks fields that must fit together."""
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError("max_tokens: 0 needs echo to be true", "max_tokens")
    if body.best_of is not None:
        if body.best_of < (body.n or 1):
            raise InvalidRequestError(
                f"best_of: {body.best_of} is less than n, {body.n}", "best_of"
            )
        if body.best_of > 1 and body.stream:
            raise InvalidRequestError("best_of: can't be streamed", "best_of")


async def _gap(body: CompletionRequest, parts: Parts) -> _Gap | None:
    """The gap that the answer fills; None if it only goes on.

    Raises:
        RequestError: the model can't fill in; another field can't go with it.
    """
    if not body.suffix:
        return None
    for field in ("echo", "truncate_prompt_tokens"):
        if getattr(body, field):
            raise InvalidRequestError(f"{field}: can't be combined with suffix", field)
    infill = parts.infill
    if infill is None:
        what = "the model's tokenizer has no tokens for filling in the middle"
        raise UnsupportedFieldError(f"suffix: {what}", "suffix")
    return _Gap(infill, await encode_text("suffix", body.suffix, parts, encode=infill.encode))


async def _prompt_jobs(
    name: str,
    first: int,
    field: _PromptField,
    body: CompletionRequest,
    gap: _Gap | None,
    parts: Parts,
) -> PromptJobs:
    """The jobs of one prompt.

    Args:
        first: Number of the first of them in the whole request.
    """
    wanted = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    max_model_len = parts.engine.max_model_len
    most = most_prompt_tokens(body.truncate_prompt_tokens, max_model_len, wanted)
    prompt = await _prompt_tokens(field, parts, most, gap)
    num_choices = body.n or 1
    num_jobs = max(num_choices, body.best_of or 1)
    given = None if body.max_tokens is None else ("max_tokens", body.max_tokens)
    limit = answer_length(
        field.name, len(prompt), max_model_len, given, default=DEFAULT_COMPLETION_TOKENS
    )
    num_logprobs = body.logprobs
    if num_jobs > num_choices and num_logprobs is None:
        num_logprobs = 0  # the best are chosen by them
    params = sampling_params(body, limit, num_logprobs, parts.info)
    params = replace(params, grammar=await answer_grammar(body, parts))
    if gap is not None and not params.ignore_eos:
        params = replace(params, stop_token_ids=params.stop_token_ids | gap.infill.end_ids)
    if body.echo and body.logprobs is not None:
        params = replace(params, prompt_logprobs=body.logprobs)
    jobs = prompt_jobs(
        name,
        first,
        num_jobs,
        body,
        prompt,
        params,
        parts,
        NO_TOOLS,
        NO_THINKING,
        continues_text=True,
    )
    shown = field.value if most is None else prompt
    echo = await _echoed(shown, prompt, parts.tokenizer) if body.echo else None
    return PromptJobs(jobs, num_choices, echo)


def _prompt_fields(body: CompletionRequest) -> list[_PromptField]:
    """The prompts of a request, each with the name of its field.

    Raises:
        InvalidRequestError: more answers are asked for than one request may have.
    """
    prompt = body.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [_PromptField("prompt", cast("str | list[int]", prompt))]
    # The schema lets nothing else through.
    batch = cast("list[str] | list[list[int]]", prompt)
    each = max(body.n or 1, body.best_of or 1)
    if len(batch) * each > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt: {len(batch)} prompts with {each} answers each are more than {MAX_CHOICES}",
            "prompt",
        )
    return [_PromptField(f"prompt.{index}", value) for index, value in enumerate(batch)]


async def _prompt_tokens(
    field: _PromptField, parts: Parts, most: int | None, gap: _Gap | None
) -> list[int]:
    """The token ids of a prompt.

    Args:
        most: Of more tokens than this the last ones are kept.

    Raises:
        RequestError: it can't fit the context, or there is nothing to continue.
    """
    name, prompt = field
    if isinstance(prompt, list):
        check_token_ids(name, prompt, parts.info.vocab_size)
        kept = prompt if most is None else prompt[-most:]
        return kept if gap is None else gap.around(kept)
    if gap is not None:
        return gap.around(await encode_text(name, prompt, parts, encode=gap.infill.encode))
    token_ids = await encode_text(name, prompt, parts, most=most)
    if token_ids:
        return token_ids
    if parts.tokenizer.bos_id is None:
        raise InvalidRequestError(f"{name}: is empty, and the model has no start token", name)
    return [parts.tokenizer.bos_id]


async def _echoed(
    prompt: str | list[int], token_ids: list[int], tokenizer: Tokenizer
) -> PromptText:
    """The prompt as the answer shows it.

    Args:
        token_ids: What was made of the prompt; the start token alone of an empty one.
    """
    if prompt == "":
        return PromptText("", (0,) * len(token_ids))
    if isinstance(prompt, str):
        place = partial(place_tokens, tokenizer, prompt, add_special_tokens=True)
    else:
        place = partial(decode_prompt, tokenizer, token_ids)
    return place() if len(prompt) < LONG_TEXT else await asyncio.to_thread(place)
