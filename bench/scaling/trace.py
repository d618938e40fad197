"""Conversations that a simulation replays: the same for every router."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What is asked. Lengths and pauses are exponentially distributed around their means, so that
    many are short and a few are long."""

    seed: int = 0
    """Of everything that is random."""
    conversations: int = 2000
    """How many begin."""
    rate: float = 0.05
    """Conversations that begin at each replica in a second, in the mean of a Poisson process."""
    turns: int = 8
    """Questions of each conversation."""
    system_prompts: int = 20
    """Different prompts that conversations begin with; small numbers are commoner (Zipf)."""
    system_tokens: int = 512
    """Length of each."""
    user_tokens: int = 60
    """Mean length of a question."""
    answer_tokens: int = 150
    """Mean length of an answer."""
    think_seconds: float = 15.0
    """Mean pause between an answer and the next question."""


class Turn(NamedTuple):
    """A question, its answer, and the pause before the next one."""

    user_tokens: int
    answer_tokens: int
    think_seconds: float


@dataclass(frozen=True, slots=True)
class Conversation:
    """A system prompt that others have too, and turns of its own."""

    number: int
    system_prompt: int
    start: float
    """Second in which it begins."""
    turns: tuple[Turn, ...]


def conversations(settings: TraceSettings, num_replicas: int) -> Iterator[Conversation]:
    """All of them, in the order in which they begin. Made one by one: they are never all held."""
    draw = random.Random(settings.seed)
    weights = [1 / (number + 1) for number in range(settings.system_prompts)]
    start = 0.0
    for number in range(settings.conversations):
        start += draw.expovariate(settings.rate * num_replicas)
        (system_prompt,) = draw.choices(range(settings.system_prompts), weights)
        turns = tuple(_turn(settings, draw) for _ in range(settings.turns))
        yield Conversation(number, system_prompt, start, turns)


def _turn(settings: TraceSettings, draw: random.Random) -> Turn:
    return Turn(
        1 + int(draw.expovariate(1 / settings.user_tokens)),
        1 + int(draw.expovariate(1 / settings.answer_tokens)),
        draw.expovariate(1 / settings.think_seconds),
    )
