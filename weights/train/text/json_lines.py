"""JSON-lines files: reading what a user brings, and append-only logs that survive a kill.

Knows nothing of what the lines mean.
"""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from server.errors import CheckpointError


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of each line that is not blank; `.gz` is unpacked.

    Raises:
        CheckpointError: the file can't be read, or a line is no JSON object; names the line.
    """
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, parse_line(path, number, line)
    except (OSError, EOFError, zlib.error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        where = f"after line {number}: " if number else ""
        raise CheckpointError(path, f"{where}{reason}") from None


def parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """One line's object.

    Raises:
        CheckpointError: it is none; names the file and the line.
    """
    try:
        value = json.loads(line)  # bytes: UTF-8 is checked here, where the line's number is known
    except (ValueError, RecursionError) as error:
        raise line_error(path, number, f"broken JSON: {error}") from None
    if not isinstance(value, dict):
        raise line_error(path, number, f"expected an object, found {type(value).__name__}")
    return cast(dict[str, Any], value)


def line_error(path: Path, number: int, reason: str) -> CheckpointError:
    """What is wrong with a line, for a person."""
    return CheckpointError(path, f"line {number}: {reason}")


def _open(path: Path) -> Any:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


class AppendLog:
    """A JSON-lines file that only grows. Each line is handed to the system at once, so a killed
    process loses nothing it has added; only a machine that goes down can lose the last seconds.

    Args:
        read: gets each object that is in the file already, with its line number.

    Raises:
        CheckpointError: the file can't be opened, or a line before the last one is broken.
    """

    def __init__(self, path: Path, read: Callable[[int, dict[str, Any]], None]) -> None:
        self.path = path
        try:
            self._repair()
            for number, value in read_json_lines(path):
                read(number, value)
            self._file = path.open("ab")
        except OSError as error:
            raise CheckpointError(path, error.strerror or str(error)) from None

    def append(self, value: Mapping[str, Any]) -> None:
        """Raises CheckpointError where the disk is full."""
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise CheckpointError(self.path, error.strerror or str(error)) from None

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _repair(self) -> None:
        """Cuts off a last line that has no end: the process was killed while it wrote."""
        with self.path.open("a+b") as file:
            end = file.tell()
            while end > 0:
                start = max(end - 2**16, 0)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    file.truncate(start + newline + 1)
                    return
                end = start
            file.truncate(0)
