"""Validated bodies → what the engine takes. What only the model can tell is checked here: token
ids against the vocabulary, lengths against the context."""

import asyncio
import random
import re
import uuid
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from server.api.deps import Parts
from server.api.errors import shown
from server.api.generation import Job
from server.api.schemas.chat import ChatRequest
from server.api.schemas.common import SamplingRequest
from server.api.schemas.completion import CompletionRequest
from server.api.schemas.speculation import SpeculationOptions
from server.api.structured import answer_grammar
from server.engine.types import Request, RequestId, SamplingParams, SpeculationParams
from server.errors import ContextLengthError, InvalidRequestError, ModelNotFoundError
from server.text.stream import TextStream
from server.text.tokenizer import LONG_TEXT

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of /v1/completions."""

_MIN_TEMPERATURE = 1e-5
"""Below it logits would overflow when divided; such a temperature means greedy."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


async def chat_job(body: ChatRequest, parts: Parts) -> Job:
    """
    Raises:
        RequestError: the body asks for something that can't be done.
    """
    _check_common(body, parts)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequestError("top_logprobs: needs logprobs to be true", "top_logprobs")
    prompt = await _chat_prompt(body, parts)
    given = _chat_max_tokens(body)
    room = _room("messages", len(prompt), parts.engine.max_model_len)
    max_tokens = _max_tokens(room, given, default=None)
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    params = _sampling_params(body, max_tokens, num_logprobs, parts.info.vocab_size)
    params = replace(params, grammar=await answer_grammar(body, parts))
    return _job("chatcmpl", body, prompt, params, parts, continues_text=False)


async def completion_job(body: CompletionRequest, parts: Parts) -> Job:
    """
    Raises:
        RequestError: the body asks for something that can't be done.
    """
    _check_common(body, parts)
    prompt = await _completion_prompt(body.prompt, parts)
    given = None if body.max_tokens is None else ("max_tokens", body.max_tokens)
    room = _room("prompt", len(prompt), parts.engine.max_model_len)
    max_tokens = _max_tokens(room, given, default=DEFAULT_COMPLETION_TOKENS)
    params = _sampling_params(body, max_tokens, body.logprobs, parts.info.vocab_size)
    params = replace(params, grammar=await answer_grammar(body, parts))
    return _job("cmpl", body, prompt, params, parts, continues_text=True)


def _check_common(body: SamplingRequest, parts: Parts) -> None:
    check_model(body.model, parts)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError("stream_options: needs stream to be true", "stream_options")
    policy = body.speculation.policy if body.speculation else None
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


async def _chat_prompt(body: ChatRequest, parts: Parts) -> list[int]:
    messages: list[dict[str, str]] = []
    for message in body.messages:
        # OpenAI's name for system since 2024; templates know only the old one.
        role = "system" if message.role == "developer" else message.role
        name = {} if message.name is None else {"name": message.name}
        messages.append({"role": role, "content": message.text, **name})
    text = parts.chat_template.render(messages)
    token_ids = await _encode("messages", text, parts, add_special_tokens=False)
    if not token_ids:
        raise InvalidRequestError("messages: the chat template makes nothing of them", "messages")
    return token_ids


async def _completion_prompt(prompt: str | list[int], parts: Parts) -> list[int]:
    if isinstance(prompt, list):
        _check_token_ids("prompt", prompt, parts.info.vocab_size)
        return prompt
    token_ids = await _encode("prompt", prompt, parts, add_special_tokens=True)
    if token_ids:
        return token_ids
    if parts.tokenizer.bos_id is None:
        raise InvalidRequestError("prompt: is empty, and the model has no start token", "prompt")
    return [parts.tokenizer.bos_id]


async def _encode(field: str, text: str, parts: Parts, *, add_special_tokens: bool) -> list[int]:
    encode = partial(parts.tokenizer.encode, text, add_special_tokens=add_special_tokens)
    if len(text) < LONG_TEXT:
        token_ids = encode()
    else:
        _check_num_bytes(field, len(text.encode()), parts)
        token_ids = await asyncio.to_thread(encode)
    if max(token_ids, default=0) >= parts.info.vocab_size:
        token = parts.tokenizer.token_string(max(token_ids))
        raise InvalidRequestError(f"{field}: the model does not know the token {token!r}", field)
    return token_ids


def _check_num_bytes(field: str, num_bytes: int, parts: Parts) -> None:
    """Refuses what can't fit however it is tokenised, before seconds are spent on tokenising it."""
    max_model_len, per_token = parts.engine.max_model_len, parts.tokenizer.max_bytes_per_token
    if num_bytes > max_model_len * per_token:
        raise ContextLengthError(
            f"{field}: this model's maximum context length is {max_model_len} tokens of at most"
            f" {per_token} bytes, but the prompt has {num_bytes} bytes",
            field,
        )


def _check_token_ids(field: str, token_ids: list[int], vocab_size: int) -> None:
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"{field}.{index}: token id {token_id} is not in 0..{vocab_size - 1}",
                f"{field}.{index}",
            )


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


class _Room(NamedTuple):
    """What a prompt leaves of the context, in tokens."""

    num_prompt_tokens: int
    max_model_len: int

    @property
    def num_free(self) -> int:
        return self.max_model_len - self.num_prompt_tokens


def _room(field: str, num_prompt_tokens: int, max_model_len: int) -> _Room:
    room = _Room(num_prompt_tokens, max_model_len)
    if room.num_free < 1:
        raise ContextLengthError(
            f"{field}: this model's maximum context length is {max_model_len} tokens, but the"
            f" prompt has {num_prompt_tokens} and leaves no room for an answer",
            field,
        )
    return room


def _max_tokens(room: _Room, given: tuple[str, int] | None, *, default: int | None) -> int:
    """How long the answer may be: a default gives way to the context, a wish doesn't.

    Args:
        given: Field and value, if the client gave one.
        default: None for all that the context has left.
    """
    if given is None:
        return room.num_free if default is None else min(default, room.num_free)
    field, value = given
    if value > room.num_free:
        raise ContextLengthError(
            f"{field}: this model's maximum context length is {room.max_model_len} tokens, but"
            f" {room.num_prompt_tokens + value} were requested ({room.num_prompt_tokens} in the"
            f" prompt, {value} in the answer)",
            field,
        )
    return value


def _sampling_params(
    body: SamplingRequest, max_tokens: int, num_logprobs: int | None, vocab_size: int
) -> SamplingParams:
    min_tokens = body.min_tokens or 0
    if min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens: {min_tokens} is more than max_tokens, {max_tokens}", "min_tokens"
        )
    stop_token_ids = body.stop_token_ids or []
    _check_token_ids("stop_token_ids", stop_token_ids, vocab_size)
    temperature = _or(body.temperature, 1.0)
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature if temperature >= _MIN_TEMPERATURE else 0.0,
        # Keeping more than the vocabulary is keeping all.
        top_k=min(max(body.top_k or 0, 0), vocab_size),
        top_p=_or(body.top_p, 1.0),
        min_p=_or(body.min_p, 0.0),
        seed=random.getrandbits(63) if body.seed is None else body.seed,
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        repetition_penalty=_or(body.repetition_penalty, 1.0),
        logit_bias=_logit_bias(body.logit_bias or {}, vocab_size),
        logprobs=num_logprobs,
        min_tokens=min_tokens,
        stop_token_ids=frozenset(stop_token_ids),
        ignore_eos=bool(body.ignore_eos),
    )


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
    )


def _job(
    prefix: str,
    body: SamplingRequest,
    prompt: list[int],
    params: SamplingParams,
    parts: Parts,
    *,
    continues_text: bool,
) -> Job:
    options = body.speculation or SpeculationOptions()
    request = Request(
        request_id=RequestId(f"{prefix}-{uuid.uuid4().hex}"),
        prompt_token_ids=tuple(prompt),
        params=params,
        priority=body.priority or 0,
        speculation=_speculation_params(options, parts.info.default_speculation),
    )
    stop = [body.stop] if isinstance(body.stop, str) else (body.stop or [])
    text = TextStream(
        parts.tokenizer, stop=stop, min_tokens=params.min_tokens, continues_text=continues_text
    )
    return Job(request, text, trace=bool(options.trace))
