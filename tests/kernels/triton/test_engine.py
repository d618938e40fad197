"""The engine on Triton's kernels: every policy gives the tokens of plain decoding, which are those
of torch's kernels. Few and short requests: the interpreter takes a millisecond a program."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from server.engine.types import PolicyName, Request, SpeculationParams
from server.kernels import dispatch
from tests.engine.answers import requests
from tests.engine.drafting import POLICIES, glide
from tests.engine.tiny import CONFIG, TinyEngine, tokens

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="the tiny engine is on the CPU: Triton's interpreter alone can run it",
)


def short(policy: PolicyName) -> list[Request]:
    """Greedy, sampled, penalised; one of them with its prompt in two chunks. As long as it takes
    for trees to have a draft accepted in two of the requests."""
    return [
        replace(
            request,
            prompt_token_ids=request.prompt_token_ids[:length],
            params=replace(request.params, max_tokens=5, min_tokens=0),
            speculation=SpeculationParams(policy=policy),
        )
        for request, length in zip(requests()[:3], (9, 4, 14), strict=True)
    ]


@cache
def plain() -> dict[str, list[int]]:
    """Each alone, by torch."""
    return {r.request_id: tokens(TinyEngine().run([r])[r.request_id]) for r in short("off")}


@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_are_those_of_torch_and_of_plain_decoding(
    policy: PolicyName, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(plain()) == 3
    monkeypatch.setattr(dispatch, "TRITON_ON_CPU", True)
    config = replace(CONFIG, max_num_batched_tokens=12)
    engine = TinyEngine(config, None if policy == "off" else glide)
    outputs = engine.run(short(policy))
    assert {name: tokens(outputs[name]) for name in outputs} == plain()
    if policy in ("cape", "beam"):
        accepting = [any(len(o.token_ids) > 1 for o in outputs[name]) for name in outputs]
        assert sum(accepting) == 2
