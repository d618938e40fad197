"""The folder of results: one evaluation writes to it at a time, and none overwrites another's.

eval.jsonl           every round as it was measured (`journal.py`)
eval.json, eval.md   the figures of what is measured so far
earlier-1 …          the same for earlier evaluations: another draft, other settings, …
"""

import os
from itertools import count
from pathlib import Path
from types import TracebackType

from bench.paper.results.journal import Identity, Journal
from server.errors import CheckpointError, ConfigError
from server.report import Report
from weights.files import open_locked, write_whole

JOURNAL, FIGURES, TABLES = "eval.jsonl", "eval.json", "eval.md"


class ResultsFolder:
    """A context manager that holds the folder for one evaluation. It is made before anything is
    measured: hours of work should not end in a missing permission.

    Raises:
        ConfigError: it can't be written, or another evaluation is using it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"{FIGURES}.partial"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError("out", str(path), f"can't be written: {error}") from None
        self._lock = _lock(self.path)

    def __enter__(self) -> "ResultsFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def open_journal(self, identity: Identity, report: Report) -> Journal:
        """The journal of the evaluation with this identity: the one that is there, or a new one.
        Results of another evaluation are kept in a folder beside it, and the user is told.

        Raises:
            CheckpointError: the journal is broken or can't be written.
        """
        journal = Journal(self.path / JOURNAL)
        if journal.identity == identity:
            if journal.rounds:
                report(f"going on with {len(journal.rounds)} prompts measured before")
            return journal
        journal.close()
        self._set_aside(journal, identity, report)
        return Journal(self.path / JOURNAL)

    def write(self, figures: str, tables: str) -> None:
        """Writes what is measured so far. Raises CheckpointError where it can't."""
        write_whole(self.path / FIGURES, figures)
        write_whole(self.path / TABLES, tables)

    def _set_aside(self, journal: Journal, identity: Identity, report: Report) -> None:
        there = [self.path / name for name in (JOURNAL, FIGURES, TABLES)]
        has_results = bool(journal.rounds) or _is_filled(self.path / FIGURES)
        try:
            if not has_results:
                journal.path.unlink()
                return
            numbered = (self.path / f"earlier-{i}" for i in count(1))
            folder = next(path for path in numbered if not path.exists())
            folder.mkdir()
            for path in filter(_is_filled, there):
                path.replace(folder / path.name)
            journal.path.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(self.path, error.strerror or str(error)) from None
        why = _differences(journal.identity, identity)
        report(f"{self.path} has results of another evaluation ({why}): kept in {folder}")


def _differences(before: Identity | None, now: Identity) -> str:
    """Says to a person what differs: `draft: a 01, now b 02`."""
    if before is None:
        return "of a version that kept no rounds"
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return "; ".join(f"{key}: {before.get(key, '-')}, now {now.get(key, '-')}" for key in keys)


def _is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _lock(folder: Path) -> int | None:
    """Locks the folder; None where the file system has no locks."""
    try:
        return open_locked(folder, os.O_RDONLY)
    except BlockingIOError:
        raise ConfigError("out", str(folder), "another evaluation is writing to it") from None
    except OSError:
        return None
