"""Speculation changes no token by the native kernels that do not serve by themselves on this
machine; `test_quantized.py` says it of those that do."""

from collections.abc import Iterator

import pytest

from server.kernels.cpu.instruction_sets import VARIABLE
from server.kernels.cpu.library import kernels_in_use
from tests.engine.step.host import test_quantized
from tests.kernels.native_models import INSTRUCTION_SETS_HERE


@pytest.fixture(params=INSTRUCTION_SETS_HERE[1:], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models and answers of their own: those of other tests are other kernels'."""
    monkeypatch.setenv(VARIABLE, request.param)
    test_quantized.models.cache_clear()
    test_quantized.plain.cache_clear()
    assert kernels_in_use() == request.param
    yield
    test_quantized.models.cache_clear()
    test_quantized.plain.cache_clear()


def test_speculation_changes_no_token() -> None:
    """Greedy and seeded, in a batch and alone."""
    test_quantized.test_a_batch_equals_its_requests_alone("q4_1")
    test_quantized.test_a_batch_of_8_speculates("q4_1", "cape", "glide")
    test_quantized.test_each_request_speculates_alone("q4_1", "auto", "glide")
    test_quantized.test_a_batch_of_8_speculates("q8_0", "cape", "oracle")
