"""`/tokenize`, `/detokenize`, `/tokenizer_info`: what the model makes of a text, without running
it. In vLLM's shape."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from server.api.body.route import BodyRoute
from server.api.chat.messages import checked_continuation, is_long, template_messages
from server.api.chat.schema import ChatMessage
from server.api.deps import Parts, PartsDep
from server.api.generation.prompt_tokens import check_token_ids
from server.api.generation.schema.tools import FunctionTools
from server.api.generation.thinking import thinking_prompt
from server.api.generation.tools import say_dropped, tool_schemas
from server.api.generation.translate import check_model
from server.api.http.errors import ERRORS
from server.api.schema.fields import MAX_MESSAGES, RequestModel, Text, TokenId
from server.errors import InvalidRequestError
from server.text.prompt_text import decode_prompt
from server.text.tokenizer import LONG_TEXT

router = APIRouter(route_class=BodyRoute)

MAX_TOKENIZED = 2**20
"""Characters of a text."""

MAX_DETOKENIZED = 2**18
"""Tokens."""


class TokenizeRequest(RequestModel):
    """A prompt or messages, and not both. Null always means the default."""

    model: Text | None = None
    prompt: Annotated[Text, Field(max_length=MAX_TOKENIZED)] | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] | None = (
        None
    )
    tools: FunctionTools | None = None
    """With messages: those of the chat request, which the model is shown."""
    add_special_tokens: bool | None = None
    """Such as the start token; true by default with a prompt, and false with messages, whose
    template writes them itself."""
    add_generation_prompt: bool | None = None
    """With messages: also the header of the assistant's next turn; true by default."""
    continue_final_message: bool | None = None
    """With messages: up to where the last one ends, without the end of its turn."""
    chat_template_kwargs: dict[str, Any] | None = None
    """With messages: variables of the chat template."""
    return_token_strs: bool | None = None


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None
    """The tokens as the vocabulary writes them."""


class TokenizerInfo(BaseModel):
    """What a client needs to work with the tokens itself, under transformers' names."""

    tokenizer_class: Literal["PreTrainedTokenizerFast"] = "PreTrainedTokenizerFast"
    bos_token: str | None
    eos_token: str | None
    pad_token: None = None
    """Nothing is padded here."""
    model_max_length: int
    chat_template: str | None


class DetokenizeRequest(RequestModel):
    model: Text | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_DETOKENIZED)]


class DetokenizeResponse(BaseModel):
    prompt: str


_OF_CHATS = ("tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")


@router.post("/tokenize", responses=ERRORS)
async def tokenize(
    body: TokenizeRequest, http_response: Response, parts: PartsDep
) -> TokenizeResponse:
    """The tokens of a prompt or a chat, as the completion endpoints see them."""
    check_model(body.model, parts)
    say_dropped(http_response, body.tools)
    is_long_chat = is_long(body.messages or [], body.tools, body.chat_template_kwargs)
    text, add_special_tokens = await parts.long_work.run(is_long_chat, lambda: _text(body, parts))
    if body.add_special_tokens is not None:
        add_special_tokens = body.add_special_tokens

    def answer() -> TokenizeResponse:
        tokens = parts.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        strings = [parts.tokenizer.vocabulary_string(token_id) for token_id in tokens]
        return TokenizeResponse(
            count=len(tokens),
            max_model_len=parts.engine.max_model_len,
            tokens=tokens,
            token_strs=strings if body.return_token_strs else None,
        )

    return await parts.long_work.run(len(text) >= LONG_TEXT, answer)


def _text(body: TokenizeRequest, parts: Parts) -> tuple[str, bool]:
    """The text, and whether special tokens are added to it by default.

    Raises:
        InvalidRequestError: there is no text, or there are two.
    """
    if body.messages is None:
        if body.prompt is None:
            raise InvalidRequestError("prompt: a prompt or messages are needed", "prompt")
        for field in _OF_CHATS:
            if getattr(body, field) is not None:
                raise InvalidRequestError(f"{field}: needs messages", field)
        return body.prompt, True
    if body.prompt is not None:
        raise InvalidRequestError("prompt: is given beside messages", "prompt")
    continues = checked_continuation(
        body.messages, body.continue_final_message, body.add_generation_prompt
    )
    said = thinking_prompt(None, body.chat_template_kwargs, parts.chat_template)
    return parts.chat_template.render(
        template_messages(body.messages, parts.chat_template.tool_format),
        tool_schemas(body.tools or [], drops_others=parts.info.drops_other_tools),
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=continues,
        variables=said.variables,
    ), False


@router.get("/tokenizer_info", responses=ERRORS)
async def tokenizer_info(parts: PartsDep) -> TokenizerInfo:
    """Special tokens and chat template, for clients that make prompts themselves."""
    tokenizer = parts.tokenizer

    def text(token_id: int | None) -> str | None:
        return None if token_id is None else tokenizer.vocabulary_string(token_id)

    return TokenizerInfo(
        bos_token=text(tokenizer.bos_id),
        eos_token=text(tokenizer.eos_id),
        model_max_length=parts.engine.max_model_len,
        chat_template=parts.chat_template.text,
    )


@router.post("/detokenize", responses=ERRORS)
async def detokenize(body: DetokenizeRequest, parts: PartsDep) -> DetokenizeResponse:
    """The text of tokens, special ones included. Bytes that are no UTF-8 become U+FFFD."""
    check_model(body.model, parts)
    check_token_ids("tokens", body.tokens, parts.info.vocab_size)

    def answer() -> DetokenizeResponse:
        return DetokenizeResponse(prompt=decode_prompt(parts.tokenizer, body.tokens).text)

    return await parts.long_work.run(len(body.tokens) >= LONG_TEXT, answer)
