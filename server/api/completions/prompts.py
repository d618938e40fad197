"""The prompts of `/v1/completions`: one or many, as text or as token ids."""

import asyncio
from functools import partial
from typing import NamedTuple, cast

from server.api.completions.schema import MAX_CHOICES, CompletionRequest
from server.api.deps import Parts
from server.api.generation.prompt_tokens import check_token_ids, encode_text
from server.errors import InvalidRequestError
from server.text.prompt_text import PromptText, decode_prompt, place_tokens
from server.text.tokenizer import LONG_TEXT, Tokenizer


class PromptField(NamedTuple):
    """One prompt as it was given."""

    name: str
    """Of the field: `prompt`, in a batch `prompt.3`."""
    value: str | list[int]


def prompt_fields(body: CompletionRequest) -> list[PromptField]:
    """
    Raises:
        InvalidRequestError: more answers are asked for than one request may have.
    """
    prompt = body.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [PromptField("prompt", cast("str | list[int]", prompt))]
    # The schema lets nothing else through.
    batch = cast("list[str] | list[list[int]]", prompt)
    each = max(body.n or 1, body.best_of or 1)
    if len(batch) * each > MAX_CHOICES:
        raise InvalidRequestError(
            f"prompt: {len(batch)} prompts with {each} answers each are more than {MAX_CHOICES}",
            "prompt",
        )
    return [PromptField(f"prompt.{index}", value) for index, value in enumerate(batch)]


async def prompt_tokens(field: PromptField, parts: Parts) -> list[int]:
    """
    Raises:
        RequestError: it can't fit the context, or there is nothing to continue.
    """
    name, prompt = field
    if isinstance(prompt, list):
        check_token_ids(name, prompt, parts.info.vocab_size)
        return prompt
    token_ids = await encode_text(name, prompt, parts, add_special_tokens=True)
    if token_ids:
        return token_ids
    if parts.tokenizer.bos_id is None:
        raise InvalidRequestError(f"{name}: is empty, and the model has no start token", name)
    return [parts.tokenizer.bos_id]


async def echoed(prompt: str | list[int], token_ids: list[int], tokenizer: Tokenizer) -> PromptText:
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
