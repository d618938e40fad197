"""Doubles for writing training text: an engine whose answers hang on the request alone, as the
real one's do, and a target around it."""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from hashlib import blake2b

from server.engine.outputs import RequestOutput
from server.engine.types import FinishReason, Request
from server.text.chat_template import ChatTemplate, Message, ToolSchema
from tests.doubles import EOS, EOS_ID, byte_tokenizer, ids
from weights.train.text.target import TextTarget


class KeyedEngine:
    """Answers with letters drawn from (prompt, temperature, seed): 5 to 40 tokens, the last EOS.

    Args:
        answer: what to say instead.
    """

    def __init__(self, answer: Sequence[int] | None = None, max_model_len: int = 256) -> None:
        self.answer = answer
        self.max_model_len = max_model_len
        self.requests: list[Request] = []
        self.most_at_once = 0
        self._num_open = 0

    async def generate(self, request: Request) -> AsyncGenerator[RequestOutput, None]:
        self.requests.append(request)
        self._num_open += 1
        self.most_at_once = max(self.most_at_once, self._num_open)
        try:
            tokens = list(self.answer or keyed_answer(request))[: request.params.max_tokens]
            for index, token_id in enumerate(tokens):
                await asyncio.sleep(0)
                yield _output(request, token_id, index + 1, is_last=index == len(tokens) - 1)
        finally:
            self._num_open -= 1


def keyed_answer(request: Request) -> list[int]:
    params = request.params
    key = f"{request.prompt_token_ids}|{params.temperature}|{params.seed}"
    draws = random.Random(int.from_bytes(blake2b(key.encode()).digest()))
    letters = draws.choices(ids("abcdefgh "), k=draws.randint(5, 40))
    return [*letters, EOS_ID]


class TurnTemplate(ChatTemplate):
    """`[user]text</s>[assistant]`, after a system turn of its own."""

    def __init__(self) -> None:
        """Needs no tokenizer."""

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSchema] = (),
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        turns = "".join(f"[{turn['role']}]{turn['content']}{EOS}" for turn in messages)
        return f"[system]Be kind.{EOS}{turns}" + "[assistant]" * add_generation_prompt


def target(engine: KeyedEngine, template: ChatTemplate | None = None) -> TextTarget:
    """A chat model by default."""
    return TextTarget(engine, byte_tokenizer(), template or TurnTemplate())


def _output(
    request: Request, token_id: int, num_output_tokens: int, *, is_last: bool
) -> RequestOutput:
    has_stop_token = token_id == EOS_ID
    reason: FinishReason = "stop" if has_stop_token else "length"
    return RequestOutput(
        request_id=request.request_id,
        token_ids=(token_id,),
        logprobs=None,
        finish_reason=reason if is_last else None,
        stop_token_id=EOS_ID if has_stop_token else None,
        num_prompt_tokens=len(request.prompt_token_ids),
        num_output_tokens=num_output_tokens,
        num_cached_tokens=0,
    )
