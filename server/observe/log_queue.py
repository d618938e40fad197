"""A log handler that never waits: lines are written by a thread of its own.

The reader of a server's log may stop reading. Then a pipe fills up, and a plain handler would block
every thread that logs, the engine's too.
"""

import logging
import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue

MAX_LINES = 10_000
MAX_CHARACTERS = 16 * 2**20
"""Longest sum of the lines that wait: those with prompts can be long."""

_FLUSH_SECONDS = 1.0
"""How long the process waits at its end for the last lines."""


class QueuedHandler(logging.Handler):
    """Formats records at once and leaves the writing to its thread. Where lines come faster than
    they can be written, those beyond the limits are dropped and counted; a line says so where the
    gap is.

    The garbage collector may run anywhere in here, and a finalizer that it runs may log, on the
    same thread. So this class has no lock: the queue's `put` may be entered while it runs, and each
    number is changed by one side alone, by those who log (one thread at a time, which `handle` sees
    to) or by the thread that writes.

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
        self._queue = SimpleQueue[str | Callable[[], None]]()
        """Lines, and what is to be called once all in front of it is written."""
        # Changed by those who log.
        self._num_lines_put = 0
        self._num_characters_put = 0
        self._num_refused = 0
        self._has_alarm = False
        """The queue has an empty line, by which the thread looks for lines that were refused."""
        # Changed by the thread that writes.
        self._num_lines_taken = 0
        self._num_characters_taken = 0
        self._num_lost = 0
        self._num_told = 0
        threading.Thread(target=self._write_all, name="log", daemon=True).start()

    @property
    def num_dropped(self) -> int:
        """Lines that were never written."""
        return self._num_refused + self._num_lost

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception:
            self._num_refused += 1
            return
        num_characters = self._num_characters_put - self._num_characters_taken
        is_full = self._num_lines_put - self._num_lines_taken >= self._max_lines
        if is_full or num_characters + len(line) > self._max_characters:
            self._refuse()
            return
        self._num_lines_put += 1
        self._num_characters_put += len(line)
        self._queue.put(line)

    def flush(self) -> None:
        """Waits until all is written, but not for long."""
        # No event: that is Python code with a lock, in which the other thread might run a finalizer
        # that logs, and wait for a lock that the caller of this holds.
        written = threading.Lock()
        written.acquire()
        self._queue.put(written.release)
        written.acquire(timeout=_FLUSH_SECONDS)

    def _refuse(self) -> None:
        self._num_refused += 1
        # The thread may just have emptied the queue: nothing else would wake it to tell of this.
        if not self._has_alarm:
            self._has_alarm = True
            self._queue.put("")

    def _write_all(self) -> None:
        while True:
            taken = [self._queue.get()]
            taken += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            lines = [each for each in taken if isinstance(each, str)]
            # In this order: what is refused after the alarm is off sets it again.
            self._has_alarm = False
            text = "".join(lines)
            data = (text + self._gap()).encode(errors="backslashreplace")
            self._num_lines_taken += len(lines) - lines.count("")
            self._num_characters_taken += len(text)
            self._write(data)
            for each in taken:
                if not isinstance(each, str):
                    each()

    def _gap(self) -> str:
        """A line about what was dropped after the lines just taken; empty if nothing was."""
        count = self.num_dropped - self._num_told
        if not count:
            return ""
        self._num_told += count
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
                self._num_lost += data.count(b"\n")
                return
