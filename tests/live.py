"""Runs the real command in a process of its own, as a user does."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import httpx

GLIDECAPE = (sys.executable, "-m", "server")


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running `glidecape serve`."""

    url: str
    announcement: str
    """Everything it printed before it was ready."""
    process: subprocess.Popen[str]
    log: list[str]
    """Lines on stderr since then; complete when the server has ended."""

    def metric(self, name: str, labels: str = "") -> float:
        """Sum of a metric's samples whose labels contain `labels`."""
        text = httpx.get(f"{self.url}/metrics").text
        values = re.findall(rf"^glidecape:{name}{{([^}}]*)}} (\S+)$", text, re.MULTILINE)
        return sum(float(value) for found, value in values if labels in found)


@contextmanager
def serve(
    *arguments: str, command: Sequence[str] = (*GLIDECAPE, "serve"), num_threads: int | None = 1
) -> Generator[LiveServer, None, None]:
    """`glidecape serve` on a free port until the block ends; then SIGTERM.

    Args:
        num_threads: Of its kernels. As many as the machine has cores would wait for each other
            wherever another worker's tests have one of the cores. None for as many as it chooses
            itself.
        command: Another server, which has the same options and announces itself as that one.
    """
    threads = {} if num_threads is None else {"OMP_NUM_THREADS": str(num_threads)}
    process = subprocess.Popen(
        [*command, "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | threads,
    )
    if process.stderr is None:
        raise RuntimeError("no stderr")
    printed = ""
    log: list[str] = []
    # A pipe that nobody reads would stop the server when it is full.
    reader = threading.Thread(target=_keep, args=(process.stderr, log))
    try:
        while (match := re.search(r"Serving \S+ on (\S+)", printed)) is None:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"the server ended before it was ready: {printed}")
            printed += line
        while "stream" not in printed:
            printed += process.stderr.readline()
        reader.start()
        yield LiveServer(match[1], printed, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        if reader.ident is not None:
            reader.join()
        process.stderr.close()


def _keep(lines: IO[str], log: list[str]) -> None:
    for line in lines:
        log.append(line)


def run_glidecape(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Any other command to its end."""
    return subprocess.run(
        [*GLIDECAPE, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
