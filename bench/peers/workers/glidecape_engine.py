"""This project's engine, without HTTP, in the event loop of `glidecape serve`."""

import asyncio
import time
from itertools import count
from typing import Any

import uvloop
from job_loop import System, run

from server import __version__
from server.cli.terminal import report
from server.config import ModelSettings, load_settings
from server.engine.outputs import RequestOutput
from server.engine.types import Request, RequestId, SamplingParams
from server.loading.model import LoadedModel, build_model


def load(options: dict[str, Any]) -> System:
    """options: `settings`, as `ModelSettings` takes them."""
    settings = load_settings(ModelSettings, **options["settings"])
    model = build_model(settings, report, lambda stats: None)
    engine = Engine(model)
    policy = model.facts.speculation.policy
    about = {
        "version": __version__,
        "weights": model.facts.precision,
        "way": "continuous batching"
        + ("" if policy == "off" else f", speculation by policy {policy}"),
    }
    return System(about, {"generate": engine.generate, "score": engine.score})


class Engine:
    """Runs jobs one after the other; started once."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._ids = count()
        self._runner.run(self._start())

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, Any]:
        """See `job_loop`."""
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        started = time.perf_counter()
        outputs = self._runner.run(self._all(prompts, params))
        seconds = time.perf_counter() - started
        token_ids = [[t for output in one for t in output.token_ids] for one in outputs]
        return {"seconds": seconds, "token_ids": token_ids}

    def score(self, windows: list[list[int]]) -> dict[str, Any]:
        """See `job_loop`."""
        params = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=0)
        total = 0.0
        for window in windows:
            ((output, *_),) = self._runner.run(self._all([window], params))
            if output.prompt_logprobs is None:
                raise RuntimeError("the engine returned no prompt logprobs")
            total -= sum(entry.logprob for entry in output.prompt_logprobs)
        return {"nll": total}

    async def _start(self) -> None:
        self._model.engine.start()

    async def _all(
        self, prompts: list[list[int]], params: SamplingParams
    ) -> list[list[RequestOutput]]:
        # Each job has its own salt, so that it finds no earlier job's prompt in the prefix cache.
        salt = str(next(self._ids))
        return await asyncio.gather(*(self._one(ids, params, salt) for ids in prompts))

    async def _one(self, ids: list[int], params: SamplingParams, salt: str) -> list[RequestOutput]:
        request = Request(
            RequestId(f"bench-{next(self._ids)}"),
            tuple(ids),
            params,
            speculation=self._model.facts.speculation,
            cache_salt=salt,
        )
        return [output async for output in self._model.engine.generate(request)]


if __name__ == "__main__":
    run(load)
