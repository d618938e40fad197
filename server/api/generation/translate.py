"""Fields that chats and completions share → what the engine takes.

What only the model can tell is checked here: token ids against the vocabulary, lengths against the
context. Each endpoint's own fields are translated beside its schema.
"""

import random
import re
import uuid
from dataclasses import replace

from server.api.deps import Parts, ServingInfo
from server.api.generation.job import Job
from server.api.generation.job_group import choice_seed
from server.api.generation.prompt_tokens import check_token_ids
from server.api.generation.schema.common import SamplingRequest
from server.api.generation.schema.speculation import SpeculationOptions
from server.api.generation.thinking import ThinkingUse
from server.api.generation.tools import ToolUse
from server.api.http.errors import shown
from server.api.middleware.auth import current_owner
from server.api.middleware.request import current_origin
from server.engine.types import Request, RequestId, SamplingParams, SpeculationParams
from server.errors import ContextLengthError, InvalidRequestError, ModelNotFoundError
from server.text.stream import TextStream

_MIN_TEMPERATURE = 1e-5
"""Below it logits would overflow when divided; such a temperature means greedy."""

_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


def check_common(body: SamplingRequest, parts: Parts) -> None:
    """Checks what requests of all endpoints that generate have in common.

    Raises:
        RequestError: another model is asked for, or fields contradict each other.
    """
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
    """Refuses a request for another model.

    Raises:
        ModelNotFoundError: another model is asked for than the one that is served.
    """
    if name is not None and not parts.info.answers_to(name):
        served = ", ".join(map(repr, parts.info.names))
        raise ModelNotFoundError(f"model {shown(name)} does not exist; {served} is served", "model")


def answer_length(
    prompt_field: str,
    num_prompt_tokens: int,
    max_model_len: int,
    given: tuple[str, int] | None,
    *,
    default: int | None,
) -> int:
    """Most tokens of the answer. A default gives way to the context, a client's wish doesn't.

    Args:
        prompt_field: The field of the prompt, for messages.
        given: Field and value of the wish, if there is one.
        default: Counts without a wish; None for all that the prompt leaves of the context.

    Raises:
        ContextLengthError: the context has no room for the answer.
    """
    most = f"this model's maximum context length is {max_model_len} tokens, but"
    num_free = max_model_len - num_prompt_tokens
    asks_for_none = given is not None and given[1] == 0
    if num_free < (0 if asks_for_none else 1):
        raise ContextLengthError(
            f"{prompt_field}: {most} the prompt has {num_prompt_tokens} and leaves no room for an"
            " answer",
            prompt_field,
        )
    if given is None:
        return num_free if default is None else min(default, num_free)
    field, value = given
    if value > num_free:
        raise ContextLengthError(
            f"{field}: {most} {num_prompt_tokens + value} were requested ({num_prompt_tokens} in"
            f" the prompt, {value} in the answer)",
            field,
        )
    return value


def sampling_params(
    body: SamplingRequest, max_tokens: int, num_logprobs: int | None, info: ServingInfo
) -> SamplingParams:
    """How tokens are drawn: the request's wishes, and the server's defaults for the others.

    Raises:
        InvalidRequestError: a token id is not the model's, or the answer can't be so long.
    """
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
    """The salt of the prefix cache: the API key's, and the client's own within it.

    A client's salt must never open another key's cache: `cached_tokens` and the time taken would
    show what that key has asked.
    """
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


def group_name(prefix: str) -> str:
    """A new id for an answer, and for the group of jobs that make it."""
    return f"{prefix}-{uuid.uuid4().hex}"


def prompt_jobs(
    group_name: str,
    first: int,
    count: int,
    body: SamplingRequest,
    prompt: list[int],
    params: SamplingParams,
    parts: Parts,
    tools: ToolUse,
    thinking: ThinkingUse,
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
                parser=thinking.parser(tools, parts.chat_template.tool_format),
                splitter=thinking.splitter(tools),
                shows_stop=bool(body.include_stop_str_in_output),
                shows_special=body.skip_special_tokens is False,
            ),
            trace=bool(options.trace),
            shows_token_ids=bool(body.return_token_ids),
            shows_prompt_logprobs=params.prompt_logprobs is not None,
            call_mode=tools.mode,
        )
        for request in (leader, *followers)
    )
