"""A step ahead of the host: newcomers, ends, aborts, shortage, what only the host can draw."""

import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.engine.drafters.glide import GlideDrafter
from server.engine.outputs import StepSpeculationStats
from server.engine.schedule.plan import StepPlan, StepResult
from server.engine.speculation.cape import CapeConfig
from server.engine.speculation.tiers import StepShape, Tier
from server.engine.step.device import accept
from server.engine.step.device.draft import DeviceDraft
from server.engine.step.device.expand import Widths
from server.engine.step.device.seats import POLICIES, DeviceSeats, Seat, SeatMap
from server.engine.step.device.stats import merged
from server.engine.step.device.step import DeviceStep
from server.engine.step.kv_cache import CacheShape, allocate_kv
from server.engine.types import PolicyName, Request, RequestId, SpeculationParams
from server.kernels import reference
from server.kernels.types import Caches
from server.models.glide_parameters import GlideParameters
from server.models.layers import Placement
from server.models.llama import LlamaParameters
from tests.engine.answers import alone
from tests.engine.drafting import glide, speculated, tiny_glide
from tests.engine.step.device.device import DeviceEngine
from tests.engine.step.device.test_exactness import oracle
from tests.engine.tiny import CONFIG, MODEL, TinyEngine, make_request, tokens

META = torch.device("meta")


def requests(count: int, policy: PolicyName = "cape", **params: object) -> list[Request]:
    made = [
        make_request(f"q{i}", range(3 + i, 20 + 2 * i), ignore_eos=True, **params)
        for i in range(count)
    ]
    return [replace(r, speculation=SpeculationParams(policy)) for r in made]


def plainly(request: Request) -> list[int]:
    off = replace(request, speculation=SpeculationParams("off"))
    return tokens(TinyEngine().run([off])[request.request_id])


def test_all_but_the_first_step_are_launched_ahead() -> None:
    """One request: its prompt on the host; then every step is taken as it was launched, and the
    last one launched in vain is the only one."""
    (request,) = requests(1, max_tokens=30)
    engine = DeviceEngine(CONFIG, glide)
    outputs = engine.run([request])[request.request_id]
    assert tokens(outputs) == plainly(request)
    num_steps = len(outputs) - 1
    assert num_steps <= engine.num_on_device <= num_steps + 1
    assert engine.device.num_dropped == 0


def test_newcomers_join_and_others_leave() -> None:
    """A request more every third step, with answers of different lengths."""
    made = [replace(r, params=replace(r.params, max_tokens=5 + 4 * i))
            for i, r in enumerate(requests(8))]  # fmt: skip
    engine = DeviceEngine(CONFIG, glide)
    found: dict[str, list[int]] = {r.request_id: [] for r in made}
    waiting, step = list(made), 0
    while waiting or engine.scheduler.has_work:
        if waiting and step % 3 == 0:
            engine.scheduler.add(waiting.pop(0), time.monotonic())
        for output in engine.step():
            found[output.request_id] += output.token_ids
        step += 1
    assert found == {r.request_id: plainly(r) for r in made}
    assert engine.num_on_device > 30


def test_an_aborted_request_s_blocks_serve_another_at_once() -> None:
    """What was launched ahead for it writes before, and never after, the other's prompt."""
    config = replace(CONFIG, max_model_len=128, num_blocks=48, prefix_caching=False)
    engine = DeviceEngine(config, glide)
    first, second, third = requests(3, max_tokens=24)
    engine.scheduler.add(first, time.monotonic())
    engine.scheduler.add(second, time.monotonic())
    found: dict[str, list[int]] = {second.request_id: [], third.request_id: []}
    for step in range(400):
        if step == 4:
            engine.scheduler.finish(first.request_id, "abort", time.monotonic())
            engine.device.forget(first.request_id)
            engine.scheduler.add(third, time.monotonic())
        for output in engine.step():
            if output.request_id in found:
                found[output.request_id] += output.token_ids
    assert found == {r.request_id: plainly(r) for r in (second, third)}
    assert engine.scheduler.pool.num_free == config.num_blocks


def test_stops_within_a_path_end_the_answer_there() -> None:
    """The device goes on behind a stop; the host cuts there, as it does without graphs."""
    answers = alone()
    for name in ("r0", "r4"):
        (request,) = speculated("chain", (name,))
        whole = tokens(answers[name])
        params = replace(request.params, stop_token_ids=frozenset({whole[9]}))
        engine = DeviceEngine(CONFIG, oracle("T"))
        outputs = engine.run([replace(request, params=params)])[RequestId(name)]
        assert tokens(outputs) == whole[: whole.index(whole[9]) + 1]
        assert outputs[-1].finish_reason == "stop"


@pytest.mark.parametrize("make", [TinyEngine, DeviceEngine])
@pytest.mark.parametrize("name", ["r0", "r4"])
def test_metrics_count_no_token_behind_a_stop(make: type[TinyEngine], name: str) -> None:
    """As the request's own summary, with graphs and without."""
    (request,) = speculated("chain", (name,))
    params = replace(request.params, stop_token_ids=frozenset({tokens(alone()[name])[9]}))
    engine = make(CONFIG, oracle("T"))
    executor, steps = engine.executor or engine.runner, list[StepSpeculationStats]()
    execute = executor.execute

    def noted(plan: StepPlan) -> StepResult:
        result = execute(plan)
        assert result.speculation is not None
        steps.append(result.speculation)
        return result

    executor.execute = noted
    summary = engine.run([replace(request, params=params)])[RequestId(name)][-1].speculation
    total = merged(steps)
    assert summary is not None
    assert total is not None
    assert total.num_accepted_tokens == summary.num_accepted > 0
    assert total.accepted_per_position == summary.accepted_per_position
    assert total.by_source == summary.by_source


@pytest.mark.parametrize("policy", ["off", "chain", "auto"])
def test_a_step_that_was_in_vain_is_done_again(policy: PolicyName) -> None:
    """Every third plan leaves a sequence out: its step ahead is dropped, its state taken back."""
    engine = DeviceEngine(CONFIG, oracle("TTL"))
    made = speculated(policy, ("r0", "r1", "r4", "r5"))
    runner, count = engine.device, 0

    class Forgetful:
        def execute(self, plan: StepPlan) -> StepResult:
            nonlocal count
            count += 1
            if count % 3 == 0 and len(plan.sequences) > 1:
                part = replace(plan, sequences=plan.sequences[1:])
                rest = replace(plan, sequences=plan.sequences[:1])
                done, left = runner.execute(part), runner.execute(rest)
                return replace(done, sequences={**done.sequences, **left.sequences})
            return runner.execute(plan)

        def forget(self, request_id: RequestId) -> None:
            runner.forget(request_id)

    engine.executor = Forgetful()
    got = engine.run(made)
    for name, outputs in got.items():
        assert tokens(outputs) == tokens(alone()[name])
    assert runner.num_dropped > 5


def test_the_draft_reads_the_hidden_state_of_the_step_before() -> None:
    """A draft that glimpses it proposes the same tokens as on the host, steps dropped or not."""
    (request,) = speculated("chain", ("r0",))
    request = replace(request, speculation=replace(request.speculation, traced=True))
    found = list[list[object]]()
    for kind in (TinyEngine, DeviceEngine):
        engine = kind(CONFIG, glide)
        outputs = engine.run([request])[request.request_id]
        found.append([o.trace.nodes for o in outputs if o.trace is not None])
    assert len(found[0]) > 10
    host, device = ([[n.token_id for n in step] for step in steps] for steps in found)  # pyright: ignore[reportGeneralTypeIssues, reportUnknownMemberType, reportUnknownVariableType, reportAttributeAccessIssue]
    assert host == device


def test_the_host_draws_where_the_device_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A nucleus wider than what is sorted."""
    monkeypatch.setattr(accept, "_BEST", 4)
    made = requests(3, "chain", temperature=1.5, top_p=0.97, seed=3)
    made += requests(4, "auto", temperature=0.4, top_p=0.8, seed=5)[3:]
    engine = DeviceEngine(CONFIG, glide)
    alone_on_host = engine.runner.execute
    num_by_host = 0

    def counted(plan: StepPlan) -> StepResult:
        nonlocal num_by_host
        num_by_host += sum(p.num_nodes == 1 for p in plan.sequences)
        return alone_on_host(plan)

    seats = dict[int, Seat]()
    take = SeatMap.take

    def kept(*args: Any) -> Seat:
        seat = take(*args)
        return seats.setdefault(id(seat), seat)

    monkeypatch.setattr(SeatMap, "take", kept)
    monkeypatch.setattr(engine.runner, "execute", counted)
    got = engine.run(made)
    assert {name: tokens(outputs) for name, outputs in got.items()} == {
        r.request_id: plainly(r) for r in made
    }
    assert num_by_host > 20
    assert engine.num_on_device > 20
    # The three that need the host for most of their tokens are soon left to it.
    undecided = [p.num_undecided for p in seats.values()]
    assert sorted(undecided)[-3:] == [8, 8, 8]


def test_nan_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DeviceEngine(CONFIG, None)
    (request,) = requests(1, "off")
    engine.scheduler.add(request, time.monotonic())
    engine.step()
    engine.step()
    broken = torch.full((1, 61), float("nan"))
    model = engine.runner.model
    monkeypatch.setattr(model, "logits", lambda hidden: broken.expand(len(hidden), -1))
    with pytest.raises(ValueError, match="NaN"):
        for _ in range(3):
            engine.step()


def test_more_requests_than_seats_have_ever_been_taken() -> None:
    """Preempted sequences keep theirs until others need them."""
    config = replace(CONFIG, num_blocks=64, max_num_seqs=4)
    engine = DeviceEngine(config, glide)
    made = requests(12, "auto", max_tokens=40)
    got = engine.run(made)
    assert {name: tokens(out) for name, out in got.items()} == {
        r.request_id: plainly(r) for r in made
    }


def meta_step() -> DeviceStep:
    """On tensors without values: whoever asks for one fails."""
    placement = Placement(META, torch.float32)
    parameters = LlamaParameters(MODEL, placement)
    draft = GlideParameters(tiny_glide().config, MODEL, placement).freeze(
        parameters.embedding, parameters.head()
    )
    target = parameters.freeze()
    shape = CacheShape(MODEL.num_layers, MODEL.num_kv_heads, MODEL.head_dim, torch.float32)
    caches = allocate_kv(shape, 65, 4, META)
    own = allocate_kv(CacheShape(*draft.cache_shape, torch.float32), 65, 4, META)
    seats = DeviceSeats(4, 96, (MODEL.hidden_size, torch.float32), META)
    widths = Widths(CapeConfig(), META)
    return DeviceStep(target, caches, seats, 4, DeviceDraft(draft, Caches(own, caches)), widths)


@pytest.mark.parametrize("sampling", ["greedy", "drawn", "truncated"])
@pytest.mark.parametrize("tier", [Tier(0, 1), Tier(4, 16)])
def test_a_step_asks_nothing_of_the_host(
    sampling: str, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could not be captured. torch's own `draw` does, and is not what GPUs draw with."""
    monkeypatch.setattr(reference, "draw", lambda logits, *_: logits.argmax(dim=-1))
    step, shape = meta_step(), StepShape(2, tier, 320, sampling)  # pyright: ignore[reportArgumentType]
    step(shape)  # what is made once is made now
    monkeypatch.setattr(torch, "tensor", no_copy)
    packed = step(shape)
    assert packed.shape == (2, 3 + 2 * (tier.depth + 1) + 3 * tier.nodes + 2 * 8 * tier.depth)


def no_copy(*_: object, **__: object) -> None:
    raise AssertionError("a tensor of the host's values: its copy can't be captured")


def test_asking_would_be_noticed() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.zeros(1, device=META).item()
    with pytest.raises(NotImplementedError, match="meta"):
        torch.zeros(1, device=META).tolist()


def test_everything_else_goes_to_the_host() -> None:
    """Requests whose next token the device does not draw."""
    engine = DeviceEngine(CONFIG, glide)
    (plain,) = requests(1)
    kinds: dict[str, dict[str, object]] = {
        "logprobs": {"logprobs": 0},
        "penalty": {"presence_penalty": 0.1},
        "bias": {"logit_bias": {3: 1.0}},
        "minimum": {"min_tokens": 24},
    }
    assert isinstance(engine.device.drafter, GlideDrafter)
    assert "beam" not in POLICIES
    for changed in kinds.values():
        params = replace(plain.params, **changed)  # pyright: ignore[reportArgumentType]
        request = replace(plain, params=params)
        before = engine.num_on_device
        assert tokens(engine.run([request])[request.request_id]) == plainly(request)
        assert engine.num_on_device == before
    engine.run([plain])
    assert engine.num_on_device > 0
