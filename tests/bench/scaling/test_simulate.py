"""Small runs whose answers are known, and what any run keeps to."""

import json
import sys
from collections.abc import Sequence

import pytest

from bench.scaling import __main__ as scaling
from bench.scaling.costs import Costs
from bench.scaling.fleet import Fleet
from bench.scaling.routers import RoundRobin, routers
from bench.scaling.simulate import Outcome, Simulation
from bench.scaling.trace import Conversation, TraceSettings, Turn, conversations

COSTS = Costs(prefill_rate=1000, step_ms=10, sequence_ms=2, chunk_tokens=64, kv_tokens=1_000_000)
TRACE = TraceSettings(system_prompts=1, system_tokens=160)
SMALL = TraceSettings(conversations=200, turns=5)
NAMES = ("round robin", "consistent hash", "text prefix", "block prefix")


def replay(
    asked: Sequence[Conversation], name: str, num_replicas: int, costs: Costs = COSTS
) -> tuple[Outcome, Fleet]:
    fleet = Fleet(num_replicas, costs)
    router = routers(fleet, seed=0)[name]
    return Simulation(TRACE, costs, fleet, router).run(asked), fleet


def conversation(number: int, start: float, *turns: tuple[int, int]) -> Conversation:
    """With a minute between an answer and the next question."""
    return Conversation(number, 0, start, tuple(Turn(user, answer, 60.0) for user, answer in turns))


@pytest.mark.parametrize("name", NAMES)
def test_of_one_conversation_all_but_the_new_turn_is_found(name: str) -> None:
    """Lengths are whole blocks: 160 of the system prompt, 32 asked and 64 answered each time."""
    outcome, _ = replay([conversation(0, 0.0, (32, 64), (32, 64), (32, 64))], name, 1)
    assert outcome.prompt_tokens == 192 + 288 + 384
    assert outcome.cached_tokens == 0 + 256 + 352
    assert outcome.requests == [3]


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("num_replicas", [2, 5])
def test_a_conversation_stays_where_it_was(name: str, num_replicas: int) -> None:
    asked = [conversation(0, 0.0, (32, 64), (32, 64), (32, 64))]
    outcome, _ = replay(asked, name, num_replicas)
    assert outcome.cached_tokens == 256 + 352
    assert sorted(outcome.requests) == [0] * (num_replicas - 1) + [3]


@pytest.mark.parametrize("num_replicas", [2, 3, 4])
def test_round_robin_finds_what_it_left_n_turns_ago(num_replicas: int) -> None:
    turns = [(32, 64)] * 8
    outcome, _ = replay([conversation(0, 0.0, *turns)], "round robin", num_replicas)
    # After turn i there are 160 + 96 (i + 1) tokens; a replica last saw turn i - N, to its end.
    expected = sum(160 + 96 * (i - num_replicas + 1) for i in range(num_replicas, 8))
    assert outcome.cached_tokens == expected


def test_a_first_token_waits_for_the_prompt_and_for_prompts_before_it() -> None:
    """192 tokens at 1000 a second. The second prompt comes 0.1 s later, when the first is not done:
    its own 32 tokens take a step that a sequence shares, which adds 2 ms."""
    asked = [conversation(0, 0.0, (32, 64)), conversation(1, 0.1, (32, 64))]
    outcome, _ = replay(asked, "round robin", 1)
    assert list(outcome.first_tokens) == pytest.approx([0.192, 0.092 + 0.032 + 0.002])


def test_an_answer_takes_its_steps() -> None:
    """The second question comes a minute after 63 steps of 12 ms."""
    asked = [conversation(0, 0.0, (32, 64), (32, 64))]
    fleet = Fleet(1, COSTS)
    Simulation(TRACE, COSTS, fleet, RoundRobin(fleet)).run(asked)
    assert fleet.free_at[0] == pytest.approx(0.192 + 63 * 0.012 + 60 + 0.032)


def test_at_least_a_token_is_computed() -> None:
    """Two conversations ask the same of one replica: the second one's last block is computed."""
    same = [Conversation(0, 0, start, (Turn(32, 1, 0.0),)) for start in (0.0, 100.0)]
    outcome, _ = replay(same, "block prefix", 1)
    assert outcome.cached_tokens == 192 - 16


@pytest.mark.parametrize("name", NAMES)
def test_a_small_cache_holds_what_it_can(name: str) -> None:
    """Bounded memory: no cache is above its size, and what is known of them is what they hold."""
    costs = Costs(kv_tokens=3200)
    settings = TraceSettings(conversations=150, turns=4)
    fleet = Fleet(3, costs)
    router = routers(fleet, seed=0)[name]
    Simulation(settings, costs, fleet, router).run(conversations(settings, 3))
    assert all(0 < cache.num_used <= costs.num_blocks for cache in fleet.caches)
    assert not fleet.loads.any()
    assert fleet.holders.total() == sum(cache.num_used for cache in fleet.caches)


def test_runs_are_the_same_for_a_seed() -> None:
    first, again = (
        [(name, scaling.figures(found)) for name, found in scaling.simulate(SMALL, COSTS, 3)]
        for _ in range(2)
    )
    assert first == again
    other = TraceSettings(seed=1, conversations=200, turns=5)
    assert [found for _, found in first] != [
        scaling.figures(found) for _, found in scaling.simulate(other, COSTS, 3)
    ]


def test_every_router_is_asked_the_same() -> None:
    found = dict(scaling.simulate(SMALL, COSTS, 3))
    assert tuple(found) == NAMES
    assert len({outcome.prompt_tokens for outcome in found.values()}) == 1
    # A third of the conversations fills the caches first.
    assert {sum(outcome.requests) for outcome in found.values()} == {5 * (200 - 66)}
    rates = {name: outcome.hit_rate for name, outcome in found.items()}
    assert rates["round robin"] < min(rates[name] for name in NAMES[1:])


def test_conversations_begin_at_the_asked_rate() -> None:
    """Of 4,000 from a Poisson process: the time is within 8 %, five standard deviations."""
    settings = TraceSettings(conversations=4000, rate=0.5)
    asked = list(conversations(settings, num_replicas=4))
    assert asked[-1].start == pytest.approx(4000 / (4 * 0.5), rel=0.08)
    assert [c.start for c in asked] == sorted(c.start for c in asked)
    assert {c.system_prompt for c in asked} == set(range(settings.system_prompts))


def test_the_command_prints_a_table_and_one_line_of_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--replicas 1 --replicas 2 --conversations 30 --kv-tokens 4096 --rate 0.2 --seed 7"
    monkeypatch.setattr(sys, "argv", ["bench.scaling", *options.split()])
    scaling.main()
    *shown, last = capsys.readouterr().out.splitlines()
    assert sum("block" in line for line in shown) == 2
    told = json.loads(last)
    assert (told["trace"]["rate"], told["trace"]["seed"]) == (0.2, 7)
    assert told["costs"]["kv_tokens"] == 4096
    places = [(row["replicas"], row["router"]) for row in told["found"]]
    # The caches of more replicas are more: so the trace has at least some conversations for each.
    assert places == [(replicas, name) for replicas in (1, 2) for name in NAMES]
