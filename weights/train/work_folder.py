"""The folder of one `glidecape train`: whose it is, what it has cost so far, and what it holds.

run.json       target, prompts, earlier draft, seed: what must be the same for a run to be resumed
notes.json     seconds each stage has taken, over all runs; the plan of the time
text.jsonl, prompts.jsonl                 stage 1
recorded/                                 features of stage 1's text, until stage 2 takes them over
everything else                           features of stage 2, checkpoints of stage 3
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from server.errors import CheckpointError, ConfigError
from weights.checkpoint import read_json
from weights.files import open_locked, write_whole

Identity = Mapping[str, str | int | None]
"""Setting → value; what the files of a work folder depend on."""

RUN_FILE, _NOTES, _LOCK = "run.json", "notes.json", "lock"
_NOTE_SECONDS = 5.0
"""Between notes of the time spent: what a kill can take from the plan."""


def check_disk(folder: Path, num_bytes: int) -> None:
    """Raises ConfigError where the disk has less room than that."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < num_bytes:
        needed, there = num_bytes / 2**20, free / 2**20
        reason = f"about {needed:,.0f} MiB are needed, the disk has {there:,.0f} MiB free"
        raise ConfigError("work", str(folder), reason)


class WorkFolder:
    """Opened for one run at a time; a context manager.

    Args:
        identity: of the run.

    Raises:
        ConfigError: the folder is another run's, or a run is using it now.
        CheckpointError: it can't be written.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open_locked(path / _LOCK, os.O_RDWR | os.O_CREAT)
        except BlockingIOError:
            raise ConfigError("work", str(path), "another run is using it") from None
        except OSError as error:
            raise CheckpointError(path, error.strerror or str(error)) from None
        try:
            self._check(identity)
        except BaseException:
            os.close(self._lock)
            raise
        self._notes = self._read_notes()

    def __enter__(self) -> "WorkFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._lock)

    def recall(self, name: str) -> float | None:
        """A figure that an earlier run has noted."""
        return self._notes.get(name)

    def note(self, **figures: float) -> None:
        """On disk when this returns."""
        self._notes |= figures
        write_json(self.path / _NOTES, self._notes)

    def _check(self, identity: Identity) -> None:
        path = self.path / RUN_FILE
        if not path.exists():
            write_json(path, identity)
            return
        stored = read_json(path)
        for key, value in identity.items():
            if stored.get(key) != value:
                reason = (
                    f"{self.path} is the work of a run with {key}={stored.get(key)!r}; "
                    "delete it, or choose another --out or --work"
                )
                raise ConfigError(key, value, reason)

    def _read_notes(self) -> dict[str, float]:
        path = self.path / _NOTES
        if not path.exists():
            return {}
        with suppress(CheckpointError, TypeError, ValueError):
            return {name: float(figure) for name, figure in read_json(path).items()}
        return {}  # only the plan of the time hangs on them


class StageClock:
    """Notes the time that a stage has taken, over all runs, so that a run that is started again
    keeps to the same plan.

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


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Replaces a JSON file as a whole. Raises CheckpointError where it can't be written."""
    write_whole(path, json.dumps(value, indent=2) + "\n")
