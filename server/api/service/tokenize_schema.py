"""`/tokenize` and `/detokenize`, in vLLM's shape."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from server.api.chat.schema import ChatMessage
from server.api.generation.schema.fields import MAX_MESSAGES, RequestModel, Text, TokenId
from server.api.generation.schema.tools import FunctionTools

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
    return_token_strs: bool | None = None


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None
    """As the vocabulary writes them."""


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
