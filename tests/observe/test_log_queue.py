"""Logging never waits: not for a slow reader, not for one that is gone."""

import logging
import os
import re
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
