"""Interleaving, failures, and what the table says, with scripted workers."""

from typing import Any

import pytest
from rich.console import Console

from bench.machine.limits import Limits
from bench.peers.rounds import Results, measure
from bench.peers.systems import OURS, OURS_PLAIN, PEERS, System
from bench.peers.table import as_json, best_peer, make_table, notes
from bench.peers.worker import WorkerError
from bench.peers.workloads import make_workloads

FIRST, SECOND = PEERS[:2]
OUR_NAMES = [OURS_PLAIN.name, OURS.name]
WARM_UP = 2
"""Tokens of a warm-up's answer."""


class Scripted:
    """Answers with `token`, in `seconds`; writes down who was asked when."""

    def __init__(self, name: str, log: list[tuple[str, int]], seconds: float, token: int) -> None:
        self.about = {"version": "1", "weights": "4 bits", "way": "one by one"}
        self.is_closed = False
        self._name, self._log, self._seconds, self._token = name, log, seconds, token
        self.fails_after: int | None = None
        self.is_short = False

    def ask(self, job: str, **arguments: Any) -> dict[str, Any]:
        assert job == "generate"
        prompts, count = arguments["prompts"], arguments["new_tokens"]
        if count != WARM_UP:
            self._log.append((self._name, len(prompts)))
            if self.fails_after is not None and len(self._log) > self.fails_after:
                raise WorkerError(f"{self._name}: out of memory")
        length = count - 1 if self.is_short and count != WARM_UP else count
        return {"seconds": self._seconds, "token_ids": [[self._token] * length for _ in prompts]}

    def resident_bytes(self) -> int:
        return 200_000_000

    def close(self) -> None:
        self.is_closed = True


class Setup:
    """Four systems; ours take half as long with a draft."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []
        self.workers = {
            system.name: Scripted(system.name, self.log, seconds, 5)
            for system, seconds in ((FIRST, 4.0), (SECOND, 2.0), (OURS_PLAIN, 1.0), (OURS, 0.5))
        }
        self.lines: list[str] = []

    def run(self, streams: tuple[int, ...] = (1, 2), rounds: int = 2) -> Results:
        workloads = make_workloads([(1,), (2,)], streams, 8, 0, rounds)
        systems = (FIRST, SECOND, OURS_PLAIN, OURS)
        return measure(systems, self.start, workloads, self.lines.append)

    def start(self, system: System) -> Scripted:
        return self.workers[system.name]


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_rounds_are_interleaved(setup: Setup) -> None:
    results = setup.run()
    names = [FIRST.name, SECOND.name, OURS_PLAIN.name, OURS.name]
    assert setup.log == [(name, n) for _ in range(2) for n in (1, 2) for name in names]
    assert results.rates[SECOND.name] == {"1 stream": [4.0, 4.0], "2 streams": [8.0, 8.0]}
    assert all(worker.is_closed for worker in setup.workers.values())
    assert (results.compared, results.changed) == (6, 0)


def test_a_system_that_fails_is_left_out_from_there_on(setup: Setup) -> None:
    setup.workers[SECOND.name].fails_after = 4
    results = setup.run()
    assert [name for name, _ in setup.log].count(SECOND.name) == 2
    assert results.rates[SECOND.name] == {"1 stream": [4.0], "2 streams": []}
    assert results.failures == {SECOND.name: f"{SECOND.name}: out of memory"}
    assert SECOND.name not in results.resident_bytes
    assert results.rates[OURS.name]["2 streams"] == [32.0, 32.0]
    text = "\n".join(notes(results, {}))
    assert "failed: llama.cpp: out of memory" in text


def test_a_system_that_does_not_start(setup: Setup) -> None:
    del setup.workers[FIRST.name]

    def start(system: System) -> Scripted:
        if system is FIRST:
            raise WorkerError("transformers: no such model")
        return setup.start(system)

    workloads = make_workloads([(1,)], (1,), 8, 0, rounds=1)
    results = measure((FIRST, OURS), start, workloads, setup.lines.append)
    assert results.failures == {FIRST.name: "transformers: no such model"}
    assert list(results.rates) == [OURS.name]


def test_answers_that_end_early_are_no_measurement(setup: Setup) -> None:
    setup.workers[FIRST.name].is_short = True
    results = setup.run(streams=(2,), rounds=1)
    assert "answers of [7, 7] tokens, asked for 8 each" in results.failures[FIRST.name]
    assert results.rates[FIRST.name] == {"2 streams": []}


def test_changed_answers_are_counted(setup: Setup) -> None:
    setup.workers[OURS.name] = Scripted(OURS.name, setup.log, 0.5, 6)
    results = setup.run()
    assert (results.compared, results.changed) == (6, 6)
    assert "answers that speculation changed: 6 of 6" in notes(results, {})


def test_the_table_compares_with_the_fastest_peer_of_each_row(setup: Setup) -> None:
    results = setup.run()
    assert best_peer(results, OUR_NAMES, "1 stream") == 4.0
    console = Console(width=120)
    with console.capture() as capture:
        console.print(make_table(results, OUR_NAMES, ["1 stream", "2 streams"]))
    rows = [line.split("│")[1:-1] for line in capture.get().splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows[:4]] == [
        ["1 stream", "transformers", "2.0", "2.0", "2.0", "0.50"],
        ["", "llama.cpp", "4.0", "4.0", "4.0", "1.00"],
        ["", "glidecape, plain", "8.0", "8.0", "8.0", "2.00"],
        ["", "glidecape", "16.0", "16.0", "16.0", "4.00"],
    ]
    assert rows[4][0].strip() == "2 streams"


def test_without_peers_there_is_no_ratio(setup: Setup) -> None:
    results = setup.run()
    del results.rates[FIRST.name], results.rates[SECOND.name]
    assert best_peer(results, OUR_NAMES, "1 stream") is None
    assert make_table(results, OUR_NAMES, ["1 stream"]).row_count == 2


def test_json_holds_every_round(setup: Setup) -> None:
    results = setup.run()
    found = as_json(results, OUR_NAMES, {"vLLM": "not installed"}, Limits(2e10, 10**8))
    assert found["max_steps_per_s"] == 200.0
    assert found["tok_s"][OURS.name]["1 stream"] == [16.0, 16.0]
    assert found["best_peer_tok_s"] == {"1 stream": 4.0, "2 streams": 8.0}
    assert found["missing"] == {"vLLM": "not installed"}
    assert found["resident_mb"][OURS.name] == 200.0
