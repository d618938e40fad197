"""Answers from one engine, a method at a time, timed in the engine's own thread."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import count

from bench.paper.measure.methods import Method
from bench.paper.measure.rounds import Answer, Step
from server.engine.async_engine import AsyncEngine
from server.engine.outputs import RequestOutput, StepStats
from server.engine.step.host.runner import Runner
from server.engine.types import Request, RequestId, SamplingDefaults, SamplingParams

GREEDY = SamplingDefaults(temperature=0.0)


@dataclass(slots=True)
class StepRecorder:
    """Keeps the steps' figures of the one request that runs; the engine's `observe`."""

    _steps: list[StepStats] = field(default_factory=list[StepStats])

    def observe(self, stats: StepStats) -> None:
        """Called in the engine's thread, before the step's outputs are published."""
        if stats.num_generation_tokens:
            self._steps.append(stats)

    def take(self, outputs: Sequence[RequestOutput]) -> Answer:
        """The answer whose last output has just come.

        Raises:
            RuntimeError: other requests were running.
        """
        steps, self._steps = self._steps, []
        if len(steps) != len(outputs) or not steps[-1].finished:
            raise RuntimeError("the engine served other requests while one was measured")
        return Answer(
            token_ids=tuple(t for output in outputs for t in output.token_ids),
            decode_seconds=steps[-1].finished[0].decode_seconds,
            # The first token is the prompt's: its step is prefill, which the paper leaves out.
            steps=tuple(map(_step, outputs[1:], steps[1:])),
        )


def _step(output: RequestOutput, stats: StepStats) -> Step:
    accepted = sum(source != "target" for source in output.sources)
    did = stats.speculation
    if did is None:  # no drafter: the step was all target
        return Step(len(output.token_ids), accepted)
    return Step(
        num_tokens=len(output.token_ids),
        num_accepted=accepted,
        depth=max(did.depths, default=0),
        num_nodes=max(did.num_nodes, 1),
        draft_seconds=did.draft_seconds,
        verify_seconds=did.verify_seconds,
        other_seconds=did.other_seconds,
    )


class Session:
    """Asks one engine for answers by different methods.

    Args:
        runner: the engine's runner; its speculator is set before each answer.
        recorder: the recorder whose `observe` the engine calls.
        sampling: how tokens are drawn, by one seed, so that all methods give one answer.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        runner: Runner,
        recorder: StepRecorder,
        sampling: SamplingDefaults = GREEDY,
    ) -> None:
        self.engine = engine
        self.runner = runner
        self.recorder = recorder
        self.sampling = sampling
        self._ids = count()

    async def answer(self, method: Method, prompt: tuple[int, ...], new_tokens: int) -> Answer:
        """One answer of at most new_tokens tokens; nothing else may run."""
        self.runner.speculator = method.speculator
        request = Request(
            RequestId(f"eval-{next(self._ids)}"),
            prompt,
            SamplingParams(**asdict(self.sampling), max_tokens=new_tokens),
            speculation=method.params,
        )
        outputs = [output async for output in self.engine.generate(request)]
        return self.recorder.take(outputs)

    async def compare(
        self, methods: Sequence[Method], prompt: tuple[int, ...], new_tokens: int, turn: int
    ) -> dict[str, Answer]:
        """All methods on one prompt, back to back.

        Args:
            turn: rotates their order, so that no method always has the same neighbour.
        """
        shift = turn % len(methods)
        answers: dict[str, Answer] = {}
        for method in (*methods[shift:], *methods[:shift]):
            answers[method.name] = await self.answer(method, prompt, new_tokens)
        return answers
