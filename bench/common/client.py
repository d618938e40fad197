"""A client in a process of its own, for load from outside: streams chats and prints what came.

python -m bench.common.client URL STREAMS NEW_TOKENS   ->   {"tokens": …, "seconds": …}
"""

import asyncio
import json
import sys
import time
from typing import Any

import httpx

from bench.common.prompts import PROMPTS


async def stream_chat(client: httpx.AsyncClient, prompt: str, new_tokens: int) -> int:
    """Streams one greedy answer of exactly new_tokens tokens; returns the server's count of
    them."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    last = ""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                last = line
    return int(json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"])


async def run(url: str, streams: int, new_tokens: int) -> dict[str, float]:
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:
        started = time.perf_counter()
        prompts = [PROMPTS[i % len(PROMPTS)] for i in range(streams)]
        counts = await asyncio.gather(*(stream_chat(client, p, new_tokens) for p in prompts))
        return {"tokens": sum(counts), "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
