"""Takes one of two replicas away while both answer, and prints what came of it as JSON.

    python -m tests.replicas.scaling_down MODEL CACHE TOKENS

A program of its own: Ray's threads live as long as their process.
"""

import asyncio
import json
import os
import sys
import time
from contextlib import aclosing

from ray import serve

from server.config import ServerSettings, load_settings
from server.engine.outputs import RequestOutput
from server.engine.types import Request, RequestId, SamplingParams
from server.replicas.deployment import APP, Resources, application, replica_settings
from server.replicas.engine import ReplicatedEngine
from server.replicas.sizes import this_machine
from server.replicas.start import Replicas, start_replicas

PATIENCE = 120.0


async def answer(engine: ReplicatedEngine, letter: int, max_tokens: int) -> list[RequestOutput]:
    params = SamplingParams(max_tokens, temperature=0.0, ignore_eos=True)
    request = Request(RequestId(f"r{letter}-{max_tokens}"), (letter,) * 64, params)
    async with aclosing(engine.generate(request)) as outputs:
        return [output async for output in outputs]


def scale_down(settings: ServerSettings) -> None:
    """Deploys the same replicas again, but one."""
    one = settings.model_copy(update={"replicas": 1})
    threads = max(1, this_machine(settings).machines[0].num_cpus // 2)
    replica = replica_settings(
        settings,
        "tiny",
        device="cpu",
        threads=threads,
        kv_fraction=settings.kv_memory_fraction / 2,
    )
    serve.run(application(one, replica, Resources(threads, 0)), name=APP, route_prefix=None)


async def scenario(
    replicas: Replicas, settings: ServerSettings, num_tokens: int
) -> dict[str, object]:
    engine = replicas.engine
    engine.start()
    long = [asyncio.create_task(answer(engine, letter, num_tokens)) for letter in (97, 98)]
    while len(engine.busy_replicas) < 2:
        await asyncio.sleep(0.01)
    started = time.monotonic()
    down = asyncio.create_task(asyncio.to_thread(scale_down, settings))
    while len(engine.replicas) == 2 and time.monotonic() < started + PATIENCE:
        await asyncio.sleep(0.01)
    num_open = sum(not task.done() for task in long)
    short = await answer(engine, 99, 4)
    ended = await asyncio.gather(*long)
    await down
    return {
        "open when one was taken away": num_open,
        "tokens": [outputs[-1].num_output_tokens for outputs in [*ended, short]],
        "replicas": len(engine.replicas),
    }


def main() -> None:
    model, cache, num_tokens = sys.argv[1:]
    given = {"model": model, "cache_dir": cache, "replicas": 2, "dtype": "float32"}
    settings = load_settings(
        ServerSettings, **given, kv_memory="64M", max_num_seqs=2, drain_seconds=200
    )
    replicas = start_replicas(settings, "tiny", lambda ended: None, lambda line: None)
    sys.stdout.write(json.dumps(asyncio.run(scenario(replicas, settings, int(num_tokens)))) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
