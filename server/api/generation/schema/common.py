"""What requests and answers of the generating endpoints share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticCustomError

from server.api.generation.schema.speculation import SpeculationOptions
from server.api.generation.schema.structured import StructuredRequest
from server.api.schema.fields import (
    INT32_MAX,
    Advisory,
    AdvisoryMark,
    Int64,
    Omittable,
    RequestModel,
    Stop,
    Text,
    TokenCount,
    TokenId,
    Unsupported,
)

MAX_LOGPROBS = 20
MAX_N = 128

LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024),
]


Metadata = Annotated[
    dict[Annotated[Text, Field(max_length=64)], Annotated[Text, Field(max_length=512)]],
    Field(max_length=16),
]


def _not_0(value: int) -> int:
    if value == 0:
        raise PydanticCustomError("greater_than_equal", "Input should be at least 1, or -1")
    return value


PromptLimit = Annotated[int, Field(ge=-1, le=INT32_MAX), AfterValidator(_not_0)]
"""Number of tokens of a prompt; -1 for as many as leave room for the answer."""

ThinkingBudget = Annotated[int, Field(ge=0, le=INT32_MAX)]
"""Most tokens of thinking: its end is written when they are spent."""


class StreamOptions(RequestModel):
    include_usage: bool | None = None
    """Send a last chunk with the token counts."""
    continuous_usage_stats: bool | None = None
    """vLLM's: each chunk has the token counts so far."""
    include_obfuscation: Unsupported = None


AdvisoryText = Annotated[Text | None, AdvisoryMark()]
"""Comes back with a response, but has no other effect."""


class AdvisoryFields(RequestModel):
    """What clients tell OpenAI of themselves, their billing and their cache, on any endpoint. It
    asks for nothing that would change the answer."""

    safety_identifier: AdvisoryText = None
    prompt_cache_key: AdvisoryText = None
    prompt_cache_retention: Advisory = None
    prompt_cache_options: Advisory = None
    service_tier: Advisory = None
    client_metadata: Advisory = None
    """Codex's."""


class SamplingFields(AdvisoryFields):
    """How tokens are chosen, under the names that all generating endpoints have for it. Null always
    means the default.

    The ranges of OpenAI, and vLLM's for the fields that OpenAI lacks.
    """

    model: Text | None = None
    stream: bool | None = None
    user: Text | None = None
    """Logged beside the request's id at level debug; has no other effect."""
    priority: Annotated[int, Field(ge=-(2**31), le=INT32_MAX)] | None = None
    """Lower is served earlier."""

    min_tokens: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    """The stop string or stop token that ends the answer is part of it."""
    skip_special_tokens: bool | None = None
    """False: special tokens are part of the text too."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """0 keeps the most probable token alone."""
    top_k: Annotated[int, Field(ge=-1, le=INT32_MAX)] | None = None
    """0 and -1 keep every token."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Int64 | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """1 is off. Bounded on both sides so that no logit overflows."""
    logit_bias: LogitBias | None = None
    """Token id, as a string, → number added to its logit."""

    speculation: SpeculationOptions | None = None
    cache_salt: Annotated[Text, Field(min_length=1, max_length=1024)] | None = None
    """Prefixes are shared only with requests of the same salt."""
    return_token_ids: bool | None = None
    """Say the token ids of prompt and answer."""


class SamplingRequest(SamplingFields, StructuredRequest):
    """Chats and completions."""

    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    truncate_prompt_tokens: PromptLimit | None = None
    """Most tokens of the prompt: its last ones; -1 for as many as leave room for the answer."""
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    """Answers to each prompt."""

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Each chunk of the stream says the token counts so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)


TokenIdsField = Omittable[list[int]]
"""Left out if `return_token_ids` was not asked for."""


FinishReason = Literal["stop", "length"]
"""Why an answer ended that the client got whole."""


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class PromptTokensDetails(BaseModel):
    cached_tokens: int
    """Tokens of the prompt whose KV came from the prefix cache."""


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int
    """Tokens of what the model thought before it answered."""


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
