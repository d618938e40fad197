"""The default model and its draft with steps on the device, on a CPU launched one by one: the same
answers as without, and the draft is as good."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch

from server.config import ModelSettings, load_settings
from server.engine.outputs import RequestOutput
from server.engine.speculation.lookup import TextIndexes
from server.engine.types import PolicyName, Request, RequestId, SamplingParams, SpeculationParams
from server.kernels import dispatch
from server.kernels.cpu import decoder, linear
from server.loading import model as loading
from server.loading.model import LoadedModel, build_model
from tests.engine.tiny import tokens

pytestmark = pytest.mark.real_model

QUESTIONS = (
    "List the days of the week, then list them again in reverse order.",
    "Write a Python function that adds two numbers.",
    "Tell me about the history of Paris.",
)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], LoadedModel]]:
    """Loads it in float32, on torch's kernels; steps on the device or not. Nothing is looked up in
    the text: steps on the device draft without."""
    monkeypatch.setattr(TextIndexes, "find", lambda *_: None)
    monkeypatch.setattr(decoder, "supports", lambda *_: False)
    monkeypatch.setattr(linear, "supports_linear", lambda *_: False)
    monkeypatch.setattr(dispatch, "supports_glide", lambda *_: False)
    settings = load_settings(
        ModelSettings, dtype="float32", quantization="none", max_num_seqs=4, kv_memory="1G"
    )
    number = torch.get_num_threads()

    def loaded(on_device: bool) -> LoadedModel:
        monkeypatch.setattr(loading, "has_graphs", lambda *_: on_device)
        return build_model(settings, lines.append, lambda _: None)

    lines = list[str]()
    yield loaded
    torch.set_num_threads(number)
    assert any("captured" in line for line in lines)


def requests(model: LoadedModel) -> list[Request]:
    made = list[Request]()
    for index, question in enumerate(QUESTIONS):
        messages = [{"role": "user", "content": question}]
        text = model.chat_template.render(messages)
        prompt = tuple(model.tokenizer.encode(text, add_special_tokens=False))
        greedy = SamplingParams(max_tokens=32, temperature=0.0)
        drawn = SamplingParams(max_tokens=32, temperature=0.8, top_p=0.9, seed=index)
        kinds: list[tuple[PolicyName, SamplingParams]]
        kinds = [("chain", greedy), ("cape", greedy), ("auto", drawn)]
        for policy, params in kinds:
            name = RequestId(f"{policy} {index}")
            made.append(Request(name, prompt, params, speculation=SpeculationParams(policy)))
    return made


def answers(model: LoadedModel) -> dict[str, list[RequestOutput]]:
    """All at once."""

    async def run() -> list[list[RequestOutput]]:
        model.engine.start()
        try:
            return await asyncio.gather(*(collect(request) for request in requests(model)))
        finally:
            await model.engine.stop()

    async def collect(request: Request) -> list[RequestOutput]:
        return [output async for output in model.engine.generate(request)]

    found = asyncio.run(run())
    return {r.request_id: outputs for r, outputs in zip(requests(model), found, strict=True)}


def test_steps_on_the_device_give_the_same_answers(load: Callable[[bool], LoadedModel]) -> None:
    by_host, by_device = answers(load(False)), answers(load(True))
    assert {name: tokens(outputs) for name, outputs in by_device.items()} == {
        name: tokens(outputs) for name, outputs in by_host.items()
    }
    assert tokens_a_step(by_device, "chain") > 1.5
    assert tokens_a_step(by_device, "cape") > 1.7
    for policy in ("chain", "cape"):
        ratio = tokens_a_step(by_device, policy) / tokens_a_step(by_host, policy)
        assert 0.95 < ratio < 1.05


def tokens_a_step(found: Mapping[str, list[RequestOutput]], policy: str) -> float:
    """Behind the first token, which is the prompt's."""
    answers = [outputs for name, outputs in found.items() if name.startswith(policy)]
    emitted = sum(len(tokens(outputs)) - 1 for outputs in answers)
    return emitted / sum(len(outputs) - 1 for outputs in answers)
