"""Logging never waits: not for a slow reader, not for one that is gone."""

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from server.observe.log_queue import QueuedHandler


class Pipe:
    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.is_open = True

    def read_all(self) -> str:
        """To the end: the other end has to be closed by whoever writes last."""
        with os.fdopen(self.read_end, "rb") as file:
            self.is_open = False
            return file.read().decode()

    def read_lines_until(self, ending: str) -> list[str]:
        text = ""
        while not re.search(ending, text):
            text += os.read(self.read_end, 2**16).decode()
        return text.splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    if pipe.is_open:
        os.close(pipe.read_end)


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("name", logging.INFO, "", 0, message, args, None)


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    handler = QueuedHandler(pipe.write_end)
    for number in range(500):
        handler.handle(record("line %d \udc80", number))
    handler.flush()
    lines = pipe.read_lines_until(r"line 499 \\udc80\n")
    assert lines == [f"line {number} \\udc80" for number in range(500)]
    assert handler.num_dropped == 0


@pytest.mark.parametrize("limits", [(100, 10**9), (10**9, 10**5)])
def test_a_log_that_nobody_reads_holds_nobody_up(pipe: Pipe, limits: tuple[int, int]) -> None:
    """A pipe holds 64 KB; this is 8 MB. What is not written is counted, and the log says where."""
    handler = QueuedHandler(pipe.write_end, *limits)
    text = "x" * 1000
    done = threading.Event()

    def log_all() -> None:
        for number in range(8000):
            handler.handle(record("%d %s", number, text))
        done.set()

    threading.Thread(target=log_all, daemon=True).start()
    assert done.wait(60)
    dropped = handler.num_dropped
    assert 0 < dropped < 8000
    numbers, told = list[int](), list[int]()
    while len(numbers) + sum(told) < 8000:  # there can be several gaps; till the last, it is full
        for line in pipe.read_lines_until("\n$"):
            numbers += [int(match[1])] if (match := re.match(r"(\d+) x+$", line)) else []
            told += [int(match[1])] if (match := re.match(r"(\d+) lines of", line)) else []
    handler.handle(record("the end"))
    assert pipe.read_lines_until("\n$") == ["the end"]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + dropped == 8000
    assert sum(told) == dropped == handler.num_dropped


def test_a_reader_that_is_gone(pipe: Pipe) -> None:
    handler = QueuedHandler(pipe.write_end)
    os.close(pipe.read_end)
    pipe.is_open = False
    for number in range(10):
        handler.handle(record("line %d", number))
        handler.flush()
    assert handler.num_dropped >= 10


def test_a_file_that_others_made_non_blocking(pipe: Pipe) -> None:
    os.set_blocking(pipe.write_end, False)
    handler = QueuedHandler(pipe.write_end)
    for number in range(300):
        handler.handle(record("%d %s", number, "y" * 1000))
    lines = pipe.read_lines_until("299 y+\n")
    assert [line.split()[0] for line in lines] == [str(number) for number in range(300)]
    assert handler.num_dropped == 0


def test_a_record_that_can_not_be_formatted_is_counted(
    pipe: Pipe, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = QueuedHandler(pipe.write_end)
    handler.handle(record("%d", "no number"))
    assert handler.num_dropped == 1
    assert capsys.readouterr() == ("", "")


FINALIZERS_LOG = """
import logging, os, sys, threading
from server.observe import log_queue

log = logging.getLogger("test")
log.setLevel("INFO")
interrupted = set()

def trace(frame, event, arg):
    place = (threading.current_thread().name, frame.f_code.co_name, frame.f_lineno)
    if frame.f_code.co_filename != log_queue.__file__:
        return None
    if event == "line" and log.handlers and place not in interrupted:
        interrupted.add(place)
        log.info("interrupts %s %s %d", *place)
    return trace

threading.settrace(trace)
log.addHandler(log_queue.QueuedHandler(sys.stdout.fileno(), max_lines=3))

def log_all():
    for number in range(500):
        log.info("line %d", number)
    log.handlers[0].flush()

thread = threading.Thread(target=log_all, name="main", daemon=True)
thread.start()
thread.join(60)
if thread.is_alive():
    os._exit(1)
for name, function, _ in interrupted:
    print(name, function, file=sys.stderr)
"""
"""A finalizer that logs may run wherever the garbage collector does, which can't be chosen. Here
something logs once at every line of the handler's code, on the thread that is there."""


def test_logging_may_be_interrupted_by_logging() -> None:
    args = [sys.executable, "-c", FINALIZERS_LOG]
    done = subprocess.run(args, capture_output=True, text=True)
    assert done.returncode == 0, "logging waits for itself"
    places = done.stderr.splitlines()
    assert {"main emit", "main flush", "log _write_all", "log _gap", "log _write"} <= set(places)
    lines = done.stdout.splitlines()
    told = [int(match[1]) for line in lines if (match := re.match(r"(\d+) lines of", line))]
    assert len(lines) - len(told) + sum(told) == 500 + len(places)


def test_what_was_dropped_is_told_without_another_line(pipe: Pipe) -> None:
    """Also where the queue has just been emptied, so that nothing else wakes the thread."""
    handler = QueuedHandler(pipe.write_end, max_characters=10)
    handler.handle(record("a line that is too long"))
    (line,) = pipe.read_lines_until("\n$")
    assert line.startswith("1 lines of the log were dropped")
    assert handler.num_dropped == 1
