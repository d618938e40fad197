"""What steps on the device teach the policies, and their figures."""

from collections.abc import Sequence
from dataclasses import fields
from functools import reduce

from server.engine.outputs import StepSpeculationStats
from server.engine.schedule.outcome import num_emitted, stop_ids
from server.engine.schedule.plan import PlannedSequence, StepPlan, StepSeconds
from server.engine.speculation.sources import add_sources
from server.engine.speculation.tiers import PLAIN, TierChoice, TierCosts
from server.engine.step.device.expand import Widths
from server.engine.step.device.packing import Outcome
from server.engine.step.host.speculator import Speculator
from server.engine.step.stats import step_stats
from server.engine.step.walk import TreeWalk

_TOLD_EVERY = 16
"""Steps between two updates of the device's chances of acceptance, which move slowly."""
_OBSERVED = 4
"""Proposals of a step that the choice of tiers learns from: it keeps few, and a step may have
many."""


class Learned:
    """Learns from steps on the device.

    Args:
        speculator: its calibration learns from each step; None where there is no draft.
        choice: learns from what was drafted.
        widths: the device's copy of the calibration.
        eos_token_ids: tokens that end an answer.
    """

    def __init__(
        self,
        speculator: Speculator | None,
        choice: TierChoice,
        widths: Widths,
        eos_token_ids: frozenset[int],
    ) -> None:
        self.speculator = speculator
        self.choice = choice
        self.widths = widths
        self.eos_token_ids = eos_token_ids
        self._num_steps = 0

    def tell(self) -> None:
        """Brings the device's copy of the calibration up to date from time to time; to be called
        before a launch."""
        if self.speculator is not None and self._num_steps % _TOLD_EVERY == 0:
            calibration = self.speculator.auto.calibration
            self.widths.learn(calibration.lines("trunk"), calibration.lines("leaf"))
        self._num_steps += 1

    def from_step(
        self,
        walks: Sequence[tuple[PlannedSequence, TreeWalk, Outcome]],
        seconds: StepSeconds,
        costs: TierCosts,
    ) -> StepSpeculationStats | None:
        """The step's figures; None where there is no draft."""
        if self.speculator is None:
            return None
        observations = list[tuple[float, bool]]()
        for index, (_, walk, outcome) in enumerate(walks):
            if outcome.proposal is not None:
                observations += self.speculator.auto.learn(outcome.proposal, walk.token_ids)
                if index < _OBSERVED:
                    self.choice.observe(outcome.proposal)
        plan = StepPlan(tuple(planned for planned, _, _ in walks), 0, 0, 0)
        nums_emitted = [
            num_emitted(walk.token_ids, stop_ids(planned.request.params, self.eos_token_ids))
            for planned, walk, _ in walks
        ]
        return step_stats(
            plan,
            [walk for _, walk, _ in walks],
            nums_emitted,
            observations,
            seconds,
            lambda num_rows: costs(num_rows, PLAIN),
        )


def merged(stats: Sequence[StepSpeculationStats]) -> StepSpeculationStats | None:
    """Merges the stats of partial steps; None for an empty list."""
    if not stats:
        return None
    total: dict[str, object] = {}
    for field in fields(StepSpeculationStats):
        values = [getattr(part, field.name) for part in stats]
        if field.name == "accepted_per_position":
            longest = max(map(len, values))
            padded = [(*value, *(0,) * (longest - len(value))) for value in values]
            total[field.name] = tuple(map(sum, zip(*padded, strict=True)))
        elif field.name == "by_source":
            total[field.name] = reduce(add_sources, values)
        elif field.name.startswith("expected_") and not all(values):
            total[field.name] = 0.0  # of the whole step, or of nothing
        elif isinstance(values[0], tuple):
            total[field.name] = tuple(entry for value in values for entry in value)
        else:
            total[field.name] = sum(values)
    return StepSpeculationStats(**total)  # pyright: ignore[reportArgumentType]
