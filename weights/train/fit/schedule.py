"""How far training is, when it ends, and the learning rate on the way."""

import math
from dataclasses import dataclass

_FLOOR = 0.01
"""Learning rate at the end, of the highest."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What ends training; whichever comes first."""

    steps: int | None
    seconds: float | None

    def progress(self, steps: int, seconds: float) -> float:
        """0 at the start, 1 at the end."""
        by_steps = steps / self.steps if self.steps else 0.0
        by_time = seconds / self.seconds if self.seconds else 0.0
        return min(1.0, max(by_steps, by_time))

    def seconds_left(self, steps: int, seconds: float, seconds_per_step: float) -> float:
        """At the present rate."""
        by_steps = (self.steps - steps) * seconds_per_step if self.steps else math.inf
        by_time = self.seconds - seconds if self.seconds else math.inf
        return max(0.0, min(by_steps, by_time))


def learning_rate(progress: float, highest: float, warmup: float) -> float:
    """Linear up to `highest` in the first `warmup` of the training, then a cosine down."""
    if progress < warmup:
        return highest * max(progress / warmup, _FLOOR)
    turn = (progress - warmup) / (1 - warmup)
    return highest * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * min(turn, 1.0))))
