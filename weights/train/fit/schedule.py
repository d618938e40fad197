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


def learning_rate(progress: float, highest: float, warmup: float, decay: float) -> float:
    """Rises in the first `warmup` of the training, stays, and falls in its last `decay`, each in a
    straight line.

    Where it falls, weights settle. Between rise and fall nothing depends on when training ends, so
    a run that gets more time goes on from before the fall (Hu et al., MiniCPM, section 4).
    """
    if progress < warmup:
        return highest * max(progress / warmup, _FLOOR)
    if is_decaying(progress, decay):
        return highest * max((1 - progress) / decay, _FLOOR)
    return highest


def is_decaying(progress: float, decay: float) -> bool:
    """Whether the learning rate falls already."""
    return progress > 1 - decay
