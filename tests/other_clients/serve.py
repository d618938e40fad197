"""A server around a tiny random model, in a process of its own: its URL is printed, and it ends
with its standard input. A client that can't be installed beside the project talks to it.

Its text is random, so a test that needs a certain answer asks for it by a grammar.
"""

import asyncio
import sys
from dataclasses import replace

from server.engine.async_engine import AsyncEngine
from server.engine.grammar.states import GrammarStates
from server.engine.types import Grammar
from tests.api.harness import INFO, byte_grammars, live_app, make_app
from tests.api.tiny_server import LIMITS, byte_model
from tests.engine.drafting import ngram
from tests.engine.tiny import TinyEngine

MAX_MODEL_LEN = 4096
"""Each byte is a token, and tools are shown in the prompt."""


async def main() -> None:
    blocks = 4 * MAX_MODEL_LEN // LIMITS.block_size
    limits = replace(LIMITS, num_blocks=blocks, max_model_len=MAX_MODEL_LEN)
    grammars = GrammarStates(byte_grammars().get, byte_grammars().vocabulary)
    parts = TinyEngine(limits, ngram, byte_model(MAX_MODEL_LEN), grammars=grammars)
    engine = AsyncEngine(parts.scheduler, parts.runner, lambda _: None, byte_grammars())
    byte_grammars().get(Grammar("choice", '["a"]'))  # imports xgrammar, which takes seconds
    engine.start()
    try:
        async with live_app(make_app(engine, info=replace(INFO, can_speculate=True))) as url:
            print(url, flush=True)  # noqa: T201  what the test reads
            await asyncio.to_thread(sys.stdin.read)
    finally:
        await engine.stop()


if __name__ == "__main__":
    asyncio.run(main())
