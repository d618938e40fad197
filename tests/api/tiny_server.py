"""The app around a real engine with a tiny random model that speaks bytes."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import httpx
import torch
from fastapi import FastAPI

from server.api.deps import ServingInfo
from server.api.middleware.stack import MiddlewareConfig
from server.engine.async_engine import AsyncEngine
from server.engine.grammar.states import GrammarStates
from server.engine.outputs import StepStats
from server.engine.schedule.planner import SchedulerConfig
from server.engine.schedule.scheduler import Scheduler
from server.models.causal_lm import CausalLM
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from server.text.chat_template import ChatTemplate
from tests.api.harness import INFO, MIDDLEWARE, byte_grammars, in_process, make_app
from tests.doubles import EOS_ID
from tests.engine.drafting import ngram
from tests.engine.tiny import CONFIG, CPU, MODEL, TinyEngine

Json = dict[str, Any]
LIMITS = replace(CONFIG, eos_token_ids=frozenset({EOS_ID}))
SPEAKING = replace(INFO, can_speculate=True)


@cache
def byte_model(max_position: int = MODEL.max_position) -> CausalLM:
    """Random weights over the tokens of `tests.doubles.byte_tokenizer`."""
    config = replace(
        MODEL, vocab_size=EOS_ID + 1, max_position=max_position, eos_token_ids=(EOS_ID,)
    )
    parameters = LlamaParameters(config, Placement(CPU, torch.float32))
    generator = torch.Generator().manual_seed(11)
    for name, slot in parameters.slots().items():
        if "norm" in name:
            slot.fill_(1.0)
        else:
            slot.normal_(0.0, 0.2, generator=generator)
    return parameters.freeze()


@dataclass(frozen=True, slots=True)
class TinyServer:
    scheduler: Scheduler
    app: FastAPI
    steps: list[StepStats]
    client: httpx.AsyncClient

    async def post(self, path: str, **body: object) -> Json:
        response = await self.client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def is_empty(self) -> bool:
        """Nothing runs, and no block is held."""
        return not self.scheduler.has_work and self.scheduler.pool.num_free == LIMITS.num_blocks


@asynccontextmanager
async def tiny_server(
    config: SchedulerConfig = LIMITS,
    info: ServingInfo = SPEAKING,
    middleware: MiddlewareConfig = MIDDLEWARE,
    chat_template: ChatTemplate | None = None,
) -> AsyncGenerator[TinyServer]:
    """When it ends nothing must run any more, and all blocks must be free and whole."""
    grammars = GrammarStates(byte_grammars().get, byte_grammars().vocabulary)
    parts = TinyEngine(config, ngram, byte_model(), grammars=grammars)
    steps: list[StepStats] = []
    engine = AsyncEngine(parts.scheduler, parts.runner, steps.append, byte_grammars())
    engine.start()
    try:
        app = make_app(engine, info=info, middleware=middleware, chat_template=chat_template)
        async with in_process(app) as client:
            yield TinyServer(parts.scheduler, app, steps, client)
    finally:
        await engine.stop()
    engine.check_health()
    parts.scheduler.check_integrity()
    assert not parts.scheduler.has_work
    assert parts.scheduler.pool.num_free == config.num_blocks
