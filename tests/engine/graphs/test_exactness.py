"""Steps on the device never change a token: all policies and engines against plain decoding on the
host, one request at a time. float32, exact tokens."""

import pytest

from server.engine.types import PolicyName
from tests.engine.graphs.device import DeviceEngine
from tests.engine.speculative.test_exactness import ENGINES, POLICIES, glide, speculated
from tests.engine.test_equality import assert_equal


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_equal_plain_decoding_on_the_host(policy: PolicyName, name: str) -> None:
    engine = DeviceEngine(ENGINES[name], glide)
    for _ in range(2):  # the second time with whatever the first left in the prefix cache
        got = engine.run(speculated(policy))
        assert_equal({str(key): value for key, value in got.items()})
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks
    assert engine.num_on_device > 20
    if name == "few blocks":
        assert engine.num_preemptions > 0
