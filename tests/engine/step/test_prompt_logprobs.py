"""Logprobs of a prompt's own tokens: those of the model, whatever chunks, caches and preemptions do
to the prompt. Tiny random model, float32, 1e-5."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from server.engine.outputs import RequestOutput, TokenLogprobs
from server.engine.types import Request
from tests.engine.answers import ENGINES
from tests.engine.tiny import CONFIG, EOS, TinyEngine, make_request, tokens

NUM_TOP = 3


@cache
def prompts() -> tuple[tuple[int, ...], ...]:
    """Two of them begin with the same 20 tokens; one has a single token."""
    rng = random.Random(5)
    own = [[rng.randrange(EOS) for _ in range(length)] for length in (13, 30, 41, 70)]
    return (7,), tuple(own[0]), (*range(20), *own[1]), (*range(20), *own[2]), tuple(own[3])


def requests(**params: object) -> list[Request]:
    return [
        make_request(f"p{index}", prompt, prompt_logprobs=NUM_TOP, max_tokens=3, **params)
        for index, prompt in enumerate(prompts())
    ]


@cache
def expected(index: int) -> tuple[TokenLogprobs, ...]:
    """Each token of the prompt forced to be drawn after those before it: a bias moves what is
    drawn, and not the logprobs, which are those of the model."""
    prompt = prompts()[index]
    forced = [
        make_request(
            f"{end}",
            prompt[:end],
            max_tokens=1,
            logprobs=NUM_TOP,
            logit_bias={prompt[end]: 1000.0},
        )
        for end in range(1, len(prompt))
    ]
    outputs = TinyEngine(replace(CONFIG, prefix_caching=False)).run(forced)
    found = list[TokenLogprobs]()
    for request in forced:
        (output,) = outputs[request.request_id]
        assert output.logprobs is not None
        found += output.logprobs
    return tuple(found)


def assert_scored(index: int, outputs: Sequence[RequestOutput]) -> None:
    first, *others = outputs
    assert all(output.prompt_logprobs is None for output in others)
    assert first.num_cached_tokens == 0  # or their logits would never have been seen
    assert_same(first.prompt_logprobs, expected(index))


def assert_same(found: Sequence[TokenLogprobs] | None, wanted: Sequence[TokenLogprobs]) -> None:
    assert found is not None
    assert [entry.token_id for entry in found] == [entry.token_id for entry in wanted]
    for got, want in zip(found, wanted, strict=True):
        assert got.logprob == pytest.approx(want.logprob, abs=1e-5)
        assert [token_id for token_id, _ in got.top] == [token_id for token_id, _ in want.top]
        values = [logprob for _, logprob in want.top]
        assert [logprob for _, logprob in got.top] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine(name: str) -> None:
    engine = TinyEngine(ENGINES[name])
    for _ in range(2):  # the second time with the prompts in the prefix cache
        outputs = engine.run(requests())
        for index, request in enumerate(requests()):
            assert_scored(index, outputs[request.request_id])


def test_the_answer_is_the_same_as_without() -> None:
    outputs = TinyEngine().run(requests())
    plain = TinyEngine().run(
        [replace(r, params=replace(r.params, prompt_logprobs=None)) for r in requests()]
    )
    assert {name: tokens(out) for name, out in outputs.items()} == {
        name: tokens(out) for name, out in plain.items()
    }
    assert all(out[0].prompt_logprobs is None for out in plain.values())


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_a_prompt_that_loses_its_blocks_half_way(prefix_caching: bool) -> None:
    """Nothing twice, nothing left out; with the cache it goes on where it was, without it begins
    anew."""
    config = replace(
        CONFIG, max_num_seqs=1, max_num_batched_tokens=6, prefix_caching=prefix_caching
    )
    engine = TinyEngine(config)
    request = replace(requests()[4], priority=1)
    engine.scheduler.add(request, 0.0)
    outputs = list[RequestOutput]()
    for index in range(300):
        # At growing intervals: without the cache it must once get through.
        if index in (2, 5, 9, 14, 20):
            urgent = make_request(f"urgent{index}", [index], max_tokens=1)
            engine.scheduler.add(urgent, 0.0)
        outputs += [o for o in engine.step() if o.request_id == request.request_id]
        if not engine.scheduler.has_work:
            break
    assert engine.num_preemptions >= 3
    assert_scored(4, outputs)
    assert len(tokens(outputs)) == 3


def test_the_prompt_alone() -> None:
    """max_tokens 0, up to a prompt that fills the whole context."""
    full = tuple(random.Random(2).randrange(EOS) for _ in range(CONFIG.max_model_len))
    params = {"max_tokens": 0, "prompt_logprobs": 0}
    engine = TinyEngine()
    asked = [make_request("some", prompts()[1], **params), make_request("full", full, **params)]
    outputs = engine.run(asked)
    for request in asked:
        (output,) = outputs[request.request_id]
        assert (output.token_ids, output.finish_reason) == ((), "length")
        assert (output.num_output_tokens, output.logprobs) == (0, None)
        scored = output.prompt_logprobs
        assert scored is not None
        assert [entry.token_id for entry in scored] == list(request.prompt_token_ids[1:])
        assert all(entry.top == () for entry in scored)
    assert engine.scheduler.pool.num_free == CONFIG.num_blocks
    one_too_many = make_request("long", (*full, 1), **params)
    with pytest.raises(ValueError, match="can't be served"):
        engine.scheduler.add(one_too_many, 0.0)


def test_a_scored_prompt_is_found_by_others() -> None:
    engine = TinyEngine()
    engine.run(requests()[-1:])
    plain = make_request("plain", prompts()[-1], max_tokens=3)
    outputs = engine.run([plain])[plain.request_id]
    assert outputs[0].num_cached_tokens == 68  # 17 blocks of 4; the last of 70 tokens are computed
