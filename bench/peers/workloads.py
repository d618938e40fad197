"""Workloads: several prompts at once with a number of new tokens each, and one long prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.errors import ConfigError

Prompt = Sequence[int]
"""Token ids."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of job."""

    name: str
    rounds: Sequence[Sequence[Prompt]]
    """The prompts of each round; every system gets the same."""
    new_tokens: int
    counts_prompt: bool = False
    """Whether its rate counts prompt tokens instead of new ones."""

    def rate(self, index: int, seconds: float) -> float:
        """Tokens per second of a round."""
        prompts = self.rounds[index]
        counted = sum(map(len, prompts)) if self.counts_prompt else len(prompts) * self.new_tokens
        return counted / seconds

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, its answer included."""
        return max(len(ids) for prompts in self.rounds for ids in prompts) + self.new_tokens

    @property
    def max_streams(self) -> int:
        return max(map(len, self.rounds))


def make_workloads(
    prompts: Sequence[Prompt],
    streams: Sequence[int],
    new_tokens: int,
    long_prompt: int,
    rounds: int,
) -> list[Workload]:
    """Makes the workloads. Each round takes the next prompts, and after the last the first again.

    Args:
        streams: numbers of prompts at once, one workload each.
        long_prompt: tokens of the prompt whose prefill is measured; 0 leaves that out.

    Raises:
        ConfigError: a number makes no sense.
    """
    if any(count < 1 for count in streams):
        raise ConfigError("streams", ",".join(map(str, streams)), "each must be at least 1")
    workloads = [
        Workload(
            f"{count} stream{'s' if count > 1 else ''}",
            [_take(prompts, index * count, count) for index in range(rounds)],
            new_tokens,
        )
        for count in streams
    ]
    if long_prompt:
        long = [[_long(prompts, index, long_prompt)] for index in range(rounds)]
        workloads.append(Workload(f"prefill of {long_prompt}", long, 1, counts_prompt=True))
    if not workloads:
        raise ConfigError("streams", "", "there is nothing to measure")
    return workloads


def _take(prompts: Sequence[Prompt], start: int, count: int) -> list[Prompt]:
    return [prompts[(start + i) % len(prompts)] for i in range(count)]


def _long(prompts: Sequence[Prompt], start: int, length: int) -> list[int]:
    """A prompt of this length, made of prompts one after the other."""
    ids = list[int]()
    while len(ids) < length:
        ids += prompts[start % len(prompts)]
        start += 1
    return ids[:length]
