"""Validated bodies → what the engine takes. What only the model can tell is checked here: token
ids against the vocabulary, lengths against the context."""

import asyncio
import random
import re
import uuid
from dataclasses import replace

from server.api.chat.messages import is_long, template_messages
from server.api.chat.schema import ChatRequest
from server.api.completions.prompts import PromptField, echoed, prompt_fields, prompt_tokens
from server.api.completions.schema import CompletionRequest
from server.api.deps import Parts, ServingInfo
from server.api.door.auth import current_owner
from server.api.door.origin import current_origin
from server.api.generation.context_room import max_tokens, room_for
from server.api.generation.generation import Job
from server.api.generation.job_group import JobGroup, PromptJobs, choice_seed
from server.api.generation.prompt_tokens import check_token_ids, encode_text
from server.api.generation.schema.common import SamplingRequest
from server.api.generation.schema.speculation import SpeculationOptions
from server.api.generation.structured import answer_grammar, check_schemas, compile_grammar
from server.api.generation.tools import NO_TOOLS, ToolUse, tool_places, tool_use
from server.api.http.errors import shown
from server.engine.types import Grammar, Request, RequestId, SamplingParams, SpeculationParams
from server.errors import InvalidRequestError, ModelNotFoundError
from server.text.stream import TextStream

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of /v1/completions."""

_MIN_TEMPERATURE = 1e-5
"""Below it logits would overflow when divided; such a temperature means greedy."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


async def chat_jobs(body: ChatRequest, parts: Parts) -> JobGroup:
    """
    Raises:
        RequestError: the body asks for something that can't be done.
    """
    _check_common(body, parts)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError("top_logprobs: needs logprobs to be true", "top_logprobs")
    tools = tool_use(body, drops_others=parts.info.drops_other_tools)
    prompt = await _chat_prompt(body, tools, parts)
    given = _chat_max_tokens(body)
    room = room_for("messages", len(prompt), parts.engine.max_model_len)
    limit = max_tokens(room, given, default=None)
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = _sampling_params(body, limit, num_logprobs, parts.info)
    tools = replace(tools, content=await answer_grammar(body, parts))
    params = replace(params, grammar=await _chat_grammar(body, tools, parts))
    name = _group_name("chatcmpl")
    jobs = _jobs(name, 0, body.n or 1, body, prompt, params, parts, tools, continues_text=False)
    return JobGroup(name, (PromptJobs(jobs, len(jobs)),))


async def _chat_grammar(body: ChatRequest, tools: ToolUse, parts: Parts) -> Grammar | None:
    """What the answer may be: calls, or what is asked of its content."""
    grammar = tools.grammar(parts.chat_template.tool_format)
    if grammar is not None and grammar is not tools.content:
        places = tool_places(body.tools or [])
        schemas = {
            f"{places[tool.name]}.function.parameters": dict(tool.parameters)
            for tool in tools.enforced()
        }
        if parts.grammars.find(grammar) is None:
            await check_schemas(schemas, parts)
        await compile_grammar("tools", grammar, parts)
    return grammar


async def completion_jobs(body: CompletionRequest, parts: Parts) -> JobGroup:
    """
    Raises:
        RequestError: the body asks for something that can't be done.
    """
    _check_common(body, parts)
    _check_completion(body)
    name = _group_name("cmpl")
    prompts: list[PromptJobs] = []
    num_jobs = 0
    for field in prompt_fields(body):
        prompts.append(await _prompt_jobs(name, num_jobs, field, body, parts))
        num_jobs += len(prompts[-1].jobs)
        await asyncio.sleep(0)  # many short prompts take as long as a long one
    return JobGroup(name, tuple(prompts))


def _check_completion(body: CompletionRequest) -> None:
    """What fields say together."""
    if body.max_tokens == 0 and not body.echo:
        raise InvalidRequestError("max_tokens: 0 needs echo to be true", "max_tokens")
    if body.best_of is not None:
        if body.best_of < (body.n or 1):
            raise InvalidRequestError(
                f"best_of: {body.best_of} is less than n, {body.n}", "best_of"
            )
        if body.best_of > 1 and body.stream:
            raise InvalidRequestError("best_of: can't be streamed", "best_of")


async def _prompt_jobs(
    name: str, first: int, field: PromptField, body: CompletionRequest, parts: Parts
) -> PromptJobs:
    """
    Args:
        first: Jobs that other prompts have.
    """
    prompt = await prompt_tokens(field, parts)
    num_choices = body.n or 1
    num_jobs = max(num_choices, body.best_of or 1)
    given = None if body.max_tokens is None else ("max_tokens", body.max_tokens)
    room = room_for(field.name, len(prompt), parts.engine.max_model_len, given)
    limit = max_tokens(room, given, default=DEFAULT_COMPLETION_TOKENS)
    num_logprobs = body.logprobs
    if num_jobs > num_choices and num_logprobs is None:
        num_logprobs = 0  # the best are chosen by them
    params = _sampling_params(body, limit, num_logprobs, parts.info)
    params = replace(params, grammar=await answer_grammar(body, parts))
    if body.echo and body.logprobs is not None:
        params = replace(params, prompt_logprobs=body.logprobs)
    jobs = _jobs(name, first, num_jobs, body, prompt, params, parts, NO_TOOLS, continues_text=True)
    echo = await echoed(field.value, prompt, parts.tokenizer) if body.echo else None
    return PromptJobs(jobs, num_choices, echo)


def _check_common(body: SamplingRequest, parts: Parts) -> None:
    check_model(body.model, parts)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options: needs stream to be true", "stream_options")
    options = body.speculation or SpeculationOptions()
    if options.steps and not body.stream:
        raise InvalidRequestError("speculation.steps: needs stream to be true", "speculation.steps")
    policy = options.policy
    if policy not in (None, "off") and not parts.info.can_speculate:
        raise InvalidRequestError(
            f"speculation.policy: is {policy!r}, but the server was started without a draft",
            "speculation.policy",
        )


def check_model(name: str | None, parts: Parts) -> None:
    """
    Raises:
        ModelNotFoundError: another model is asked for than the one that is served.
    """
    served = parts.info.model_name
    if name is not None and name != served:
        raise ModelNotFoundError(
            f"model {shown(name)} does not exist; {served!r} is served", "model"
        )


async def chat_prompt(body: ChatRequest, parts: Parts) -> list[int]:
    """The token ids that the model is shown, however many.

    Raises:
        RequestError: the body asks for something that can't be done.
    """
    _check_common(body, parts)
    tools = tool_use(body, drops_others=parts.info.drops_other_tools)
    return await _chat_prompt(body, tools, parts)


async def _chat_prompt(body: ChatRequest, tools: ToolUse, parts: Parts) -> list[int]:
    def render() -> str:
        messages = template_messages(body.messages, parts.chat_template.tool_format)
        return parts.chat_template.render(messages, tools.schemas())

    text = await parts.long_work.run(is_long(body.messages), render)
    token_ids = await encode_text("messages", text, parts, add_special_tokens=False)
    if not token_ids:
        raise InvalidRequestError("messages: the chat template makes nothing of them", "messages")
    return token_ids


def _chat_max_tokens(body: ChatRequest) -> tuple[str, int] | None:
    """The field that limits the answer, and its value."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequestError(
            f"max_tokens: is {old}, but max_completion_tokens is {new}", "max_tokens"
        )
    if new is not None:
        return "max_completion_tokens", new
    return None if old is None else ("max_tokens", old)


def _sampling_params(
    body: SamplingRequest, max_tokens: int, num_logprobs: int | None, info: ServingInfo
) -> SamplingParams:
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens: {min_tokens} is more than max_tokens, {max_tokens}", "min_tokens"
        )
    default, vocab_size = info.default_sampling, info.vocab_size
    stop_token_ids = body.stop_token_ids or []
    check_token_ids("stop_token_ids", stop_token_ids, vocab_size)
    temperature = _or(body.temperature, default.temperature)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature if temperature >= _MIN_TEMPERATURE else 0.0,
        # Keeping more than the vocabulary is keeping all.
        top_k=min(max(default.top_k if body.top_k is None else body.top_k, 0), vocab_size),
        top_p=_or(body.top_p, default.top_p),
        min_p=_or(body.min_p, default.min_p),
        seed=random.getrandbits(63) if body.seed is None else body.seed,
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, default.repetition_penalty),
        logit_bias=_logit_bias(body.logit_bias or {}, vocab_size),
        logprobs=num_logprobs,
        min_tokens=min_tokens,
        stop_token_ids=frozenset(stop_token_ids),
        ignore_eos=bool(body.ignore_eos),
    )


def _cache_salt(given: str | None, parts: Parts) -> str | None:
    """A salt that a client gives divides what its own key shares, and opens nobody else's: by
    `cached_tokens` and by the time taken it would show what they have asked."""
    owner = current_owner() if parts.info.salts_by_key else None
    return given if owner is None else f"{owner.hex()} {given or ''}"


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _logit_bias(given: dict[str, float], vocab_size: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in given.items():
        if not _TOKEN_ID.fullmatch(key) or int(key) >= vocab_size:
            raise InvalidRequestError(
                f"logit_bias: key {shown(key)} is no token id in 0..{vocab_size - 1}", "logit_bias"
            )
        bias[int(key)] = value
    return bias


def _speculation_params(
    options: SpeculationOptions, default: SpeculationParams
) -> SpeculationParams:
    return SpeculationParams(
        policy=options.policy or default.policy,
        max_depth=options.max_depth or default.max_depth,
        max_nodes=options.max_nodes or default.max_nodes,
        traced=bool(options.steps),
    )


def _group_name(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"


def _jobs(
    group_name: str,
    first: int,
    count: int,
    body: SamplingRequest,
    prompt: list[int],
    params: SamplingParams,
    parts: Parts,
    tools: ToolUse,
    *,
    continues_text: bool,
) -> tuple[Job, ...]:
    """The jobs of one prompt.

    Args:
        first: Jobs of the same group before them.
    """
    options = body.speculation or SpeculationOptions()
    stop = [body.stop] if isinstance(body.stop, str) else (body.stop or [])
    leader = Request(
        request_id=RequestId(f"{group_name}-{first}" if first else group_name),
        prompt_token_ids=tuple(prompt),
        params=params,
        priority=body.priority or 0,
        speculation=_speculation_params(options, parts.info.default_speculation),
        cache_salt=_cache_salt(body.cache_salt, parts),
        origin=current_origin(),
    )
    followers = [
        replace(
            leader,
            request_id=RequestId(f"{group_name}-{first + index}"),
            params=replace(params, seed=choice_seed(params.seed, index), prompt_logprobs=None),
            shares_prompt_with=leader.request_id,
        )
        for index in range(1, count)
    ]
    return tuple(
        Job(
            request,
            TextStream(
                parts.tokenizer,
                stop=stop,
                min_tokens=params.min_tokens,
                continues_text=continues_text,
                parser=tools.parser(parts.chat_template.tool_format),
            ),
            trace=bool(options.trace),
            shows_token_ids=bool(body.return_token_ids),
            shows_prompt_logprobs=params.prompt_logprobs is not None,
            call_mode=tools.mode,
        )
        for request in (leader, *followers)
    )
