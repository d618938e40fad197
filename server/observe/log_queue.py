"""A log handler that never waits: lines are written by a thread of its own.

The reader of a server's log may stop reading. Then a pipe fills up, and a plain handler would block
every thread that logs, the engine's too.
"""

import logging
import os
import select
import threading
import time
from collections import deque

MAX_LINES = 10_000
MAX_CHARACTERS = 16 * 2**20
"""Longest sum of the lines that wait: those with prompts can be long."""

_FLUSH_SECONDS = 1.0
"""How long the process waits at its end for the last lines."""


class QueuedHandler(logging.Handler):
    """Formats records at once and leaves the writing to its thread. Where lines come faster than
    they can be written, those beyond the limits are dropped and counted; a line says so where the
    gap is.

    Args:
        descriptor: of the file that lines are written to. Not Python's own stream, whose lock a
            thread that hangs in it would still hold when the interpreter ends.
    """

    def __init__(
        self, descriptor: int, max_lines: int = MAX_LINES, max_characters: int = MAX_CHARACTERS
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._max_characters = max_characters
        self._lines: deque[str] = deque()
        self._num_characters = 0
        self._is_writing = False
        self._num_dropped = 0
        self._num_told = 0
        self._changed = threading.Condition(threading.Lock())
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    @property
    def num_dropped(self) -> int:
        """Lines that were never written."""
        return self._num_dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception:
            self._drop()
            return
        with self._changed:
            is_full = len(self._lines) >= self._max_lines
            if is_full or self._num_characters + len(line) > self._max_characters:
                self._num_dropped += 1
                return
            self._lines.append(line)
            self._num_characters += len(line)
            self._changed.notify_all()

    def flush(self) -> None:
        """Waits until all is written, but not for long."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        with self._changed:
            while self._lines or self._is_writing:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                while not self._lines:
                    self._changed.wait()
                text = "".join(self._lines)
                self._lines.clear()
                self._num_characters = 0
                self._is_writing = True
                text += self._gap()
            self._write(text.encode(errors="backslashreplace"))

    def _gap(self) -> str:
        """A line about what was dropped after the lines just taken; empty if nothing was."""
        count = self._num_dropped - self._num_told
        self._num_told = self._num_dropped
        if not count:
            return ""
        message = "%d lines of the log were dropped: they came faster than they were read"
        args = ("server.observe.log_queue", logging.WARNING, __file__, 0, message, (count,), None)
        return self.format(logging.LogRecord(*args)) + "\n"

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process that shares the file has made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # the reader is gone
                self._drop(data.count(b"\n"))
                return

    def _drop(self, count: int = 1) -> None:
        with self._changed:
            self._num_dropped += count
