"""Steps on the device never change a token: all policies and engines against plain decoding on the
host, one request at a time. float32, exact tokens."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from server.engine.drafters.drafter import Drafter
from server.engine.outputs import RequestOutput
from server.engine.schedule.planner import SchedulerConfig
from server.engine.types import PolicyName, Request, RequestId, SpeculationParams
from server.kernels import dispatch
from server.kernels.tree import LayerCache
from tests.engine.answers import alone, assert_equal, requests
from tests.engine.drafting import ENGINES, POLICIES, glide, speculated
from tests.engine.step.device.device import DeviceEngine
from tests.engine.step.device.oracle_glide import oracle_drafter
from tests.engine.tiny import CONFIG, MakeDrafter, TinyEngine, make_request, tokens

PATTERNS = ("TTTTTL", "TLTTL", "TxL")
DRAFTING: tuple[PolicyName, ...] = ("chain", "cape", "auto")


def oracle(pattern: str) -> MakeDrafter:
    answers = {str(name): tokens(outputs) for name, outputs in alone().items()}

    def make(config: SchedulerConfig, caches: Sequence[LayerCache]) -> Drafter:
        return oracle_drafter(requests(), answers, pattern, caches, config.block_size)

    return make


def without_logprobs(found: Sequence[Request]) -> list[Request]:
    """Requests that the device can serve but for penalties and the like."""
    return [replace(r, params=replace(r.params, logprobs=None)) for r in found]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_tokens_equal_plain_decoding_on_the_host(policy: PolicyName, name: str) -> None:
    """The first 8 of the shared requests, which are of all kinds, in pools as small as 8 need."""
    config = ENGINES[name]
    config = replace(config, num_blocks=40, max_model_len=160) if "few" in name else config
    engine = DeviceEngine(config, glide)
    for _ in range(2):  # the second time with whatever the first left in the prefix cache
        assert_equal(engine.run(speculated(policy)[:8]))
    assert engine.scheduler.pool.num_free == engine.scheduler.config.num_blocks
    assert (engine.num_on_device == 0) if policy == "beam" else (engine.num_on_device > 20)
    assert (engine.num_preemptions > 0) == ("few" in name)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("policy", DRAFTING)
def test_deep_paths_and_accepted_leaves(policy: PolicyName, pattern: str) -> None:
    """Roomy and crowded engines in turn: every policy and every pattern meets both."""
    crowded = (DRAFTING.index(policy) + PATTERNS.index(pattern)) % 2
    name = "few blocks, chunks of 7" if crowded else "roomy"
    engine = DeviceEngine(ENGINES[name], oracle(pattern))
    got = engine.run(speculated(policy))
    check_tokens(got)
    sources = Counter(s for outputs in got.values() for o in outputs for s in o.sources)
    assert sources["trunk"] > (15 if "x" in pattern else 80)
    if policy != "chain":
        assert sources["leaf"] > 10


def test_wide_trees_reach_the_end_of_the_context() -> None:
    """A step that is launched ahead counts the deepest path, and trees are rounded up to 64."""
    config = replace(CONFIG, max_model_len=120, num_blocks=128)
    prompt = [(7 * i) % 50 for i in range(95)]
    request = make_request("r", prompt, ignore_eos=True, max_tokens=500)
    plain = tokens(TinyEngine(config).run([request])[request.request_id])
    for speculation in (SpeculationParams("cape", 5, 64), SpeculationParams("chain", 16, 64)):
        engine = DeviceEngine(config, glide)
        outputs = engine.run([replace(request, speculation=speculation)])[request.request_id]
        assert tokens(outputs) == plain
        assert len(plain) == 120 - len(prompt)


def check_tokens(got: Mapping[RequestId, list[RequestOutput]]) -> None:
    expected = {str(name): tokens(outputs) for name, outputs in alone().items()}
    assert {str(name): tokens(outputs) for name, outputs in got.items()} == expected


@pytest.mark.parametrize("policy", ["chain", "cape"])
def test_as_many_tokens_a_step_as_on_the_host(policy: PolicyName) -> None:
    """One request at a time; what is accepted is the same, so are the steps it takes."""
    greedy = [r for r in speculated(policy) if r.params.greedy and not r.params.has_penalties]
    assert len(greedy) >= 3
    for request in without_logprobs(greedy):
        lengths = list[list[int]]()
        for engine in (TinyEngine, DeviceEngine):
            outputs = engine(CONFIG, oracle("TTLTx")).run([request])[request.request_id]
            lengths.append([len(output.token_ids) for output in outputs])
        assert lengths[0] == lengths[1]
        assert max(lengths[0]) > 2


def test_on_tritons_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter: few and short requests, of several policies at once; `auto` differs from
    them in scores alone."""
    few = [
        replace(
            make_request(policy, range(3 + i, 9 + 2 * i), max_tokens=4, ignore_eos=True),
            speculation=SpeculationParams(policy, max_depth=2, max_nodes=8),
        )
        for i, policy in enumerate(("off", "chain", "cape"))
    ]
    few[1] = replace(few[1], params=replace(few[1].params, temperature=0.9, seed=4))
    expected = {r.request_id: tokens(TinyEngine().run([r])[r.request_id]) for r in few}
    monkeypatch.setattr(dispatch, "TRITON_ON_CPU", True)
    engine = DeviceEngine(CONFIG, glide)
    assert {name: tokens(outputs) for name, outputs in engine.run(few).items()} == expected
    assert engine.num_on_device > 2
