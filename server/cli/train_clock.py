"""The time a stage of `glidecape train` has taken, over all runs of the command."""

import time

from weights.train.work_folder import WorkFolder

_NOTE_SECONDS = 5.0
"""Between notes of the time spent: what a kill can take from the plan."""


class StageClock:
    """Notes the time in the work folder, so that a run that is started again keeps to the same
    plan.

    Args:
        name: of the note.
        began: monotonic seconds.
    """

    def __init__(self, work: WorkFolder, name: str, began: float) -> None:
        self._work, self._name = work, name
        self.earlier = work.recall(name) or 0.0
        """Seconds, of runs before this one."""
        self._began = self._noted = began

    def tick(self) -> None:
        """To be called often."""
        if time.monotonic() - self._noted >= _NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """On disk when this returns."""
        self._noted = time.monotonic()
        self._work.note(**{self._name: self.earlier + self._noted - self._began})
