"""Doubles at the seams: small tokenizers, a chat template, and an engine that says what a test
wants."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as BackendTokenizer

from server.engine.outputs import RequestOutput, TokenLogprobs
from server.engine.types import FinishReason, Request, RequestId
from server.errors import EngineDeadError, InvalidRequestError, ShuttingDownError
from server.text.chat_template import ChatTemplate, Message, ToolSchema
from server.text.thinking.switch import ThinkingSwitch
from server.text.tokenizer import Tokenizer
from server.text.tools.formats import FORMATS, FormatName

BOS, EOS = "<s>", "</s>"
BOS_ID, EOS_ID = 256, 257


def byte_backend() -> BackendTokenizer:
    """A byte-level BPE without merges: 256 byte tokens, then BOS (256) and EOS (257)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = BackendTokenizer(
        models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    return backend


def byte_tokenizer(bos_id: int | None = BOS_ID) -> Tokenizer:
    """Each byte of a text is one token."""
    return Tokenizer(byte_backend(), eos_id=EOS_ID, bos_id=bos_id)


def ids(text: str) -> list[int]:
    """Token ids of a text, one for each byte."""
    return byte_backend().encode(text, add_special_tokens=False).ids


def one_by_one(text: str) -> list[list[int]]:
    """Steps of one token each that say a text and end with EOS."""
    return [[token_id] for token_id in [*ids(text), EOS_ID]]


class PlainTemplate(ChatTemplate):
    """`role:content` lines, without the seconds that importing transformers takes."""

    def __init__(self, tool_format: FormatName = "hermes") -> None:
        """Needs no tokenizer."""
        self.tool_format = FORMATS[tool_format]
        self.knows_tools = False
        self.text = "{{ messages }}"
        self.own_thinking_format = self.thinking_format = None
        self.variables = frozenset()
        self.thinking_switch = ThinkingSwitch(self.variables, self.text)

    def _apply(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema],
        ends: Mapping[str, bool],
        variables: Mapping[str, object],
    ) -> str:
        if messages[-1]["role"] == "assistant" and not ends["continue_final_message"]:
            raise InvalidRequestError("messages: the template refuses them", "messages")
        chat = "".join(f"{message['role']}:{message['content']}\n" for message in messages)
        return chat if ends["add_generation_prompt"] else chat.removesuffix("\n")


class ScriptedEngine:
    """Answers every request with the same steps.

    Args:
        steps: Token ids of each step. The request ends after the last one: by a stop token if it
            is EOS, else by length.
        hang_after: Number of steps after which the engine waits until it is let go.
        die_after: Number of steps after which the engine dies.
    """

    def __init__(
        self,
        steps: Sequence[Sequence[int]],
        *,
        hang_after: int | None = None,
        die_after: int | None = None,
        max_model_len: int = 512,
    ) -> None:
        self.steps = steps
        self.hang_after = hang_after
        self.die_after = die_after
        self.max_model_len = max_model_len
        self.is_ready = True
        self.is_dead = False
        self.requests: list[Request] = []
        self.finished: list[tuple[RequestId, FinishReason]] = []
        self.num_open = 0
        self.is_closed = False
        self.hangs = asyncio.Event()
        self.let_go = asyncio.Event()
        self.closed = asyncio.Event()

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        self.requests.append(request)
        self.num_open += 1
        try:
            num_output_tokens = 0
            for index, step in enumerate(self.steps):
                await self._misbehave(index)
                num_output_tokens += len(step)
                is_last = index == len(self.steps) - 1
                yield _output(request, step, num_output_tokens, is_last)
        finally:
            self.num_open -= 1
            self.closed.set()

    def finish(self, request_id: RequestId, reason: FinishReason) -> None:
        self.finished.append((request_id, reason))

    def end_requests(self) -> None:
        self.is_closed = True
        self.let_go.set()

    def check_health(self) -> None:
        if self.is_dead:
            raise EngineDeadError("the engine has stopped")

    async def _misbehave(self, num_steps: int) -> None:
        await asyncio.sleep(0)
        if num_steps == self.die_after:
            self.is_dead = True
            raise EngineDeadError("a tensor of a secret shape")
        if num_steps == self.hang_after:
            self.hangs.set()
            await self.let_go.wait()
        if self.is_closed:
            raise ShuttingDownError


def _output(
    request: Request, step: Sequence[int], num_output_tokens: int, is_last: bool
) -> RequestOutput:
    has_stop_token = is_last and step[-1] == EOS_ID
    reason: FinishReason = "stop" if has_stop_token else "length"
    return RequestOutput(
        request_id=request.request_id,
        token_ids=tuple(step),
        logprobs=None if request.params.logprobs is None else _logprobs(request, step),
        finish_reason=reason if is_last else None,
        stop_token_id=EOS_ID if has_stop_token else None,
        num_prompt_tokens=len(request.prompt_token_ids),
        num_output_tokens=num_output_tokens,
        num_cached_tokens=3,
        prompt_logprobs=_prompt_logprobs(request) if num_output_tokens == len(step) else None,
    )


def _prompt_logprobs(request: Request) -> tuple[TokenLogprobs, ...] | None:
    """Logprob −0.5 for each token but the first."""
    if request.params.prompt_logprobs is None:
        return None
    return tuple(TokenLogprobs(token_id, -0.5, ()) for token_id in request.prompt_token_ids[1:])


def _logprobs(request: Request, step: Sequence[int]) -> tuple[TokenLogprobs, ...]:
    """Logprob −1 for what was said, and alternatives from id 0 on, less and less likely."""
    num_top = request.params.logprobs or 0
    top = tuple((token_id, -2.0 - token_id) for token_id in range(num_top))
    return tuple(TokenLogprobs(token_id, -1.0, top) for token_id in step)
