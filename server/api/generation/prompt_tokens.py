"""Text and ids of clients → token ids that the model knows."""

import asyncio
from collections.abc import Callable
from functools import partial

from server.api.deps import Parts
from server.errors import ContextLengthError, InvalidRequestError
from server.text.tokenizer import LONG_TEXT

_USUAL_BYTES_PER_TOKEN = 16
"""A long text with more bytes for each token of the context hardly ever fits, so that its tokens
are counted before it is encoded as a whole."""


def most_prompt_tokens(given: int | None, max_model_len: int, num_wanted: int) -> int | None:
    """Most tokens of a prompt, of which the last ones are kept; None for all of them.

    Args:
        given: The request's `truncate_prompt_tokens`.
        num_wanted: Tokens that the answer is to have at least.

    Raises:
        InvalidRequestError: it is more than the context.
    """
    if given is None:
        return None
    if given > max_model_len:
        field = "truncate_prompt_tokens"
        raise InvalidRequestError(
            f"{field}: {given} is more than this model's context, {max_model_len}", field
        )
    return given if given > 0 else max(max_model_len - num_wanted, 1)


async def encode_text(
    field: str,
    text: str,
    parts: Parts,
    *,
    add_special_tokens: bool = True,
    most: int | None = None,
    encode: Callable[[str], list[int]] | None = None,
    has_to_fit: bool = True,
) -> list[int]:
    """Encodes a text of the request; a long one in a thread.

    Args:
        field: The request's field, for messages.
        most: Of more tokens than this the last ones are kept.
        encode: Makes token ids of a text; default: the tokenizer.
        has_to_fit: Refuse what can't fit the context; else it is encoded whatever its length.

    Raises:
        RequestError: it has to fit the context and can't, or has a token that the model doesn't
            know.
    """
    if most is not None:
        text = _end_of(text, most, parts)
    if encode is None:
        encode = partial(parts.tokenizer.encode, add_special_tokens=add_special_tokens)
    if len(text) < LONG_TEXT:
        token_ids = encode(text)
    elif not has_to_fit:
        token_ids = await parts.long_work.run(True, partial(encode, text))
    else:
        if most is None:
            await _check_length(field, text, parts)
        token_ids = await asyncio.to_thread(encode, text)
    if most is not None:
        token_ids = token_ids[-most:]
    if max(token_ids, default=0) >= parts.info.vocab_size:
        token = parts.tokenizer.token_string(max(token_ids))
        raise InvalidRequestError(f"{field}: the model does not know the token {token!r}", field)
    return token_ids


def _end_of(text: str, most: int, parts: Parts) -> str:
    """The end of a text with more tokens than are kept. Where it begins makes no difference: it has
    as many tokens again before those, and words are split one by one."""
    length = max(2 * most * parts.tokenizer.max_bytes_per_token, LONG_TEXT)
    return text[-length:]


async def _check_length(field: str, text: str, parts: Parts) -> None:
    num_bytes = len(text.encode())
    _check_num_bytes(field, num_bytes, parts)
    if num_bytes > parts.engine.max_model_len * _USUAL_BYTES_PER_TOKEN:
        await _check_num_tokens(field, text, parts)


def _check_num_bytes(field: str, num_bytes: int, parts: Parts) -> None:
    """Refuses what can't fit however it is tokenised, before seconds are spent on tokenising it."""
    max_model_len, per_token = parts.engine.max_model_len, parts.tokenizer.max_bytes_per_token
    if num_bytes > max_model_len * per_token:
        raise ContextLengthError(
            f"{field}: this model's maximum context length is {max_model_len} tokens of at most"
            f" {per_token} bytes, but the prompt has {num_bytes} bytes",
            field,
        )


async def _check_num_tokens(field: str, text: str, parts: Parts) -> None:
    """Refuses a text that has more tokens than the context, without reading more of it than that
    takes."""
    limit = parts.engine.max_model_len
    has_more = partial(parts.tokenizer.has_more_tokens, text, limit)
    if await parts.long_work.run(True, has_more):
        raise ContextLengthError(
            f"{field}: this model's maximum context length is {limit} tokens, but the prompt has"
            " more, and leaves no room for an answer",
            field,
        )


def check_token_ids(field: str, token_ids: list[int], vocab_size: int) -> None:
    """Refuses token ids that the model doesn't know.

    Raises:
        InvalidRequestError: the model doesn't know one of them.
    """
    if not token_ids or (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        return  # in a tenth of the time
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < vocab_size:
            raise InvalidRequestError(
                f"{field}.{index}: token id {token_id} is not in 0..{vocab_size - 1}",
                f"{field}.{index}",
            )
