"""The engine on Triton's kernels: every policy gives the tokens of plain decoding, and of torch's."""

from collections.abc import Iterator

import pytest
import torch

from server.engine.types import PolicyName
from server.kernels import dispatch
from tests.engine.speculative.test_exactness import POLICIES, glide, speculated
from tests.engine.test_equality import alone
from tests.engine.tiny import CONFIG, TinyEngine, tokens

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the tiny engine lives on the CPU: for the interpreter alone"
)
NAMES = ("r0", "r1", "r2", "r3")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plain = alone()  # torch's, made before
    assert plain
    monkeypatch.setattr(dispatch, "TRITON_ON_CPU", True)
    yield


@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_are_those_of_torch_and_of_plain_decoding(policy: PolicyName) -> None:
    requests = [r for r in speculated(policy) if r.request_id in NAMES]
    engine = TinyEngine(CONFIG, None if policy == "off" else glide)
    for name, outputs in engine.run(requests).items():
        assert tokens(outputs) == tokens(alone()[name]), name
