"""The bench's half of the worker protocol (`workers/job_loop.py` has the other).

A worker is stopped (SIGSTOP) whenever it has no job: whatever its threads do between jobs, spinning
included, costs the system under measurement nothing.
"""

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil

LOAD_SECONDS = 300.0
JOB_SECONDS = 600.0
_NOT_RUNNING = psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD
_CHUNK = 2**16
_STDERR_LINES = 5


class WorkerError(RuntimeError):
    """A system could not be loaded, died, took too long, or failed at a job; names it."""


class Worker:
    """One system in a process of its own, loaded and stopped.

    Args:
        name: the system's name, for messages.
        command: the command that starts its worker.
        environment: all environment variables of the process.

    Raises:
        WorkerError: it can't be loaded.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        load_seconds: float = LOAD_SECONDS,
        job_seconds: float = JOB_SECONDS,
    ) -> None:
        self.name = name
        self._job_seconds = job_seconds
        self._pending = b""
        self._stderr = tempfile.TemporaryFile()
        try:
            # A process group of its own: it is stopped with all its children. In our session: if
            # this process dies, the kernel hangs up stopped groups that it leaves behind.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment,
                process_group=0,
            )
        except OSError as error:
            self._stderr.close()
            raise WorkerError(f"{name}: {command[0]}: {error.strerror}") from None
        try:
            self.about: dict[str, str] = self._read(load_seconds)["about"]
            self._stop()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, job: str, **arguments: Any) -> dict[str, Any]:
        """One job's answer; the process runs only until it is here.

        Raises:
            WorkerError: the job failed, or the worker died or took too long.
        """
        line = json.dumps({"job": job, **arguments}).encode() + b"\n"
        self._signal(signal.SIGCONT)
        try:
            if self._process.stdin is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()
        except OSError:
            raise self._died() from None
        try:
            return self._read(self._job_seconds)
        finally:
            self._stop()

    def resident_bytes(self) -> int:
        """Memory of the process and its children."""
        with suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            family = [process, *process.children(recursive=True)]
            return sum(member.memory_info().rss for member in family)
        return 0

    def close(self) -> None:
        """Ends the process, whatever state it is in."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with suppress(OSError):  # what a dead worker has not read
                    stream.close()

    def _stop(self) -> None:
        """Returns when the process has stopped, or has ended."""
        self._signal(signal.SIGSTOP)
        with suppress(psutil.Error):
            while psutil.Process(self._process.pid).status() not in _NOT_RUNNING:
                time.sleep(0.001)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self, seconds: float) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._read_line(time.monotonic() + seconds))
        if "error" in answer:
            raise WorkerError(f"{self.name}: {answer['error']}")
        return answer

    def _read_line(self, deadline: float) -> bytes:
        stdout = self._process.stdout
        if stdout is None:
            raise self._died()
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(deadline - time.monotonic()):
                    raise WorkerError(f"{self.name}: no answer in time")
                chunk = os.read(stdout.fileno(), _CHUNK)
                if not chunk:
                    raise self._died()
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _died(self) -> WorkerError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        last = " | ".join(lines[-_STDERR_LINES:])
        return WorkerError(f"{self.name}: ended with exit code {self._process.poll()}: {last}")
