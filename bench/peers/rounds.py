"""Runs every system on every workload, round by round, one at a time."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.peers.systems import OURS, OURS_PLAIN, System
from bench.peers.worker import WorkerError
from bench.peers.workloads import Prompt, Workload
from server.report import Report


class Runs(Protocol):
    """What the rounds need of a `Worker`."""

    about: dict[str, str]

    def ask(self, job: str, **arguments: Any) -> dict[str, Any]: ...

    def resident_bytes(self) -> int: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Results:
    """Results of all rounds, by the system's name."""

    about: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    rates: dict[str, dict[str, list[float]]] = field(
        default_factory=dict[str, dict[str, list[float]]]
    )
    """System -> workload -> tokens per second, one entry per round."""
    resident_bytes: dict[str, int] = field(default_factory=dict[str, int])
    """Resident memory after the last job."""
    failures: dict[str, str] = field(default_factory=dict[str, str])
    """Why a system has no figures, or fewer rounds than others."""
    compared: int = 0
    """This engine's answers with a draft that were compared with plain ones."""
    changed: int = 0
    """How many of these differ."""


def measure(
    systems: Sequence[System],
    start: Callable[[System], Runs],
    workloads: Sequence[Workload],
    report: Report,
) -> Results:
    """Runs all rounds. A system that fails is reported, and left out from then on.

    Args:
        start: starts a system's worker; raises WorkerError.
    """
    results = Results()
    with ExitStack() as stack:
        workers = _start_all(systems, start, workloads, results, report, stack)
        for index in range(len(workloads[0].rounds)):
            report(f"round {index + 1} of {len(workloads[0].rounds)} …")
            for workload in workloads:
                _run_round(workers, workload, index, results, report)
        for name, worker in workers.items():
            results.resident_bytes[name] = worker.resident_bytes()
    return results


def _start_all(
    systems: Sequence[System],
    start: Callable[[System], Runs],
    workloads: Sequence[Workload],
    results: Results,
    report: Report,
    stack: ExitStack,
) -> dict[str, Runs]:
    """Starts the systems and warms them up."""
    workers: dict[str, Runs] = {}
    for system in systems:
        report(f"loading {system.name} …")
        try:
            worker = start(system)
            stack.callback(worker.close)
            for workload in workloads:  # systems compile and allocate per shape
                worker.ask("generate", prompts=workload.rounds[0], new_tokens=2)
        except WorkerError as error:
            _fail(system.name, error, results, report)
            continue
        workers[system.name] = worker
        results.about[system.name] = worker.about
        results.rates[system.name] = {workload.name: [] for workload in workloads}
    return workers


def _run_round(
    workers: dict[str, Runs], workload: Workload, index: int, results: Results, report: Report
) -> None:
    answers: dict[str, list[list[int]]] = {}
    for name in list(workers):
        try:
            answer = workers[name].ask(
                "generate", prompts=workload.rounds[index], new_tokens=workload.new_tokens
            )
            _check(name, answer["token_ids"], workload.rounds[index], workload.new_tokens)
        except WorkerError as error:
            workers.pop(name).close()
            _fail(name, error, results, report)
            continue
        results.rates[name][workload.name].append(workload.rate(index, answer["seconds"]))
        answers[name] = answer["token_ids"]
    _compare(answers, results)


def _check(
    name: str, answers: Sequence[Sequence[int]], prompts: Sequence[Prompt], new_tokens: int
) -> None:
    """Checks the answers' lengths: a system that stops early would look fast."""
    lengths = [len(answer) for answer in answers]
    if lengths != [new_tokens] * len(prompts):
        raise WorkerError(f"{name}: answers of {lengths} tokens, asked for {new_tokens} each")


def _compare(answers: Mapping[str, list[list[int]]], results: Results) -> None:
    """Counts the answers in which speculation changed a token."""
    plain, ours = answers.get(OURS_PLAIN.name), answers.get(OURS.name)
    if plain is not None and ours is not None:
        results.compared += len(plain)
        results.changed += sum(a != b for a, b in zip(plain, ours, strict=True))


def _fail(name: str, error: WorkerError, results: Results, report: Report) -> None:
    results.failures[name] = str(error)
    report(str(error))
