"""Processes that compile grammars, and how their time is shared out among clients.

Each process is led by a thread, which ends it when a job takes too long. A job that takes more than
`QUICK_SECONDS` is slow. Fewer slow jobs run at once than there are processes, so that a client that
sends slow ones leaves room for all others. Of the clients that wait, the one with the fewest
running jobs is next. Times are CPU time: a busy machine makes no job slow.
"""

import atexit
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from server.engine.grammar.compile.compiler import Tokens
from server.engine.grammar.compile.worker import Answer, Job, Refused
from server.errors import GrammarError

_logger = logging.getLogger(__name__)

NUM_PROCESSES = 2
QUICK_SECONDS = 1.0
COMPILE_SECONDS = 6.0
"""A grammar that takes longer is refused; one of ordinary size takes milliseconds. A call of the
matcher takes a third of this at worst, once: then its request is ended."""
_WALL_FACTOR = 6
"""A job may take this many times its CPU time by the clock: it may sleep, or the machine be
busy."""
_LOOK_SECONDS = 0.1
_NICE = 10
"""Niceness of slow jobs: the engine comes first."""
_TICKS = os.sysconf("SC_CLK_TCK")
_ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(
        (str(Path(__file__).parents[4]), *filter(None, [os.environ.get("PYTHONPATH")]))
    ),
    "OPENBLAS_NUM_THREADS": "1",
}


class _Waiting(NamedTuple):
    number: int
    owner: Hashable
    job: Job
    finish: Callable[[Answer], Any]
    future: "Future[Any]"
    is_slow: bool


class Workers:
    """The compiling processes, which start with the first job.

    Args:
        tokens: returns the vocabulary; called in a leading thread when its process starts.
        seconds: CPU time that a job may take.
        program: the processes' module; its `main` answers jobs.
    """

    def __init__(
        self,
        tokens: Callable[[], Tokens],
        seconds: float = COMPILE_SECONDS,
        quick_seconds: float = QUICK_SECONDS,
        num_processes: int = NUM_PROCESSES,
        program: str = "server.engine.grammar.compile.worker",
    ) -> None:
        self._program = program
        self._tokens = tokens
        self._seconds = seconds
        self._quick_seconds = quick_seconds
        self._num_processes = num_processes
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._waiting = list[_Waiting]()
        self._running = Counter[Hashable]()
        self._num_running = 0
        self._num_slow = 0
        self._had_slow = Counter[Hashable]()
        self._num_threads = 0

    def submit(self, job: Job, owner: Hashable, finish: Callable[[Answer], Any]) -> "Future[Any]":
        """Queues a job.

        Args:
            owner: the client whose share of the processes is used.
            finish: makes the future's result from the answer, in a leading thread.

        Returns:
            A future that can be cancelled: a job that has not begun never does, a slow one is
            ended. It fails with GrammarError where the job takes too long or ends its process.
        """
        future: Future[Any] = Future()
        with self._changed:
            number = next(self._numbers)
            self._waiting.append(_Waiting(number, owner, job, finish, future, False))
            if self._num_running + len(self._waiting) > self._num_threads < self._num_processes:
                self._num_threads += 1
                threading.Thread(target=self._lead, name="grammar", daemon=True).start()
            self._changed.notify()
        return future

    def _lead(self) -> None:
        process = _Process(self._tokens, self._program)
        while True:
            waiting = self._take()
            try:
                self._do(process, waiting)
            finally:
                with self._changed:
                    self._num_running -= 1
                    self._running[waiting.owner] -= 1
                    self._changed.notify_all()

    def _take(self) -> _Waiting:
        with self._changed:
            while True:
                self._waiting = [w for w in self._waiting if not w.future.cancelled()]
                fitting = [w for w in self._waiting if not w.is_slow or self._may_be_slow()]
                if fitting:
                    chosen = min(fitting, key=self._turn)
                    self._waiting.remove(chosen)
                    self._num_slow += chosen.is_slow
                    self._num_running += 1
                    self._running[chosen.owner] += 1
                    return chosen
                self._changed.wait()

    def _turn(self, waiting: _Waiting) -> tuple[int, int, int]:
        owner = waiting.owner
        return self._running[owner], self._had_slow[owner] if waiting.is_slow else 0, waiting.number

    def _may_be_slow(self) -> bool:
        return self._num_slow < max(self._num_processes - 1, 1)

    def _do(self, process: "_Process", waiting: _Waiting) -> None:
        """Leads a job to its end, or puts it back because too many are slow."""
        is_slow = waiting.is_slow
        try:
            process.begin(waiting.job)
            answer = None if is_slow else process.wait(self._quick_seconds)
            if answer is None:
                if not is_slow and not self._becomes_slow(waiting):
                    process.end()
                    return
                is_slow = True
                process.stand_back()
                answer = process.wait(self._seconds, waiting.future.cancelled)
                process.end()  # its niceness must not slow the next job
            if answer is None:
                answer = Refused(f"takes more than {self._seconds:g} seconds to compile")
            _settle(waiting, answer)
        except Exception as error:
            process.end()
            _settle(waiting, error)
        finally:
            if is_slow:
                with self._changed:
                    self._num_slow -= 1

    def _becomes_slow(self, waiting: _Waiting) -> bool:
        """Whether a job that turned slow may go on now; else it begins anew when it is its turn."""
        with self._changed:
            if self._may_be_slow():
                self._num_slow += 1
                self._had_slow[waiting.owner] += 1
                return True
            self._waiting.append(waiting._replace(is_slow=True))
            self._had_slow[waiting.owner] += 1
            return False


def _settle(waiting: _Waiting, outcome: Answer | Exception) -> None:
    if not waiting.future.set_running_or_notify_cancel():
        return
    try:
        if isinstance(outcome, Exception):
            raise outcome
        waiting.future.set_result(waiting.finish(outcome))
    except BaseException as error:
        waiting.future.set_exception(error)


class _Process:
    """A worker process, started when there is something to do."""

    def __init__(self, tokens: Callable[[], Tokens], program: str) -> None:
        self._tokens = tokens
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._seconds_before = 0.0
        self._started = 0.0

    def begin(self, job: Job) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        if self._process is None or self._pipe is None:
            raise RuntimeError("there is no process")
        self._seconds_before = _cpu_seconds(self._process.pid)
        self._started = time.monotonic()
        self._pipe.send(job)

    def wait(
        self, seconds: float, is_unwanted: Callable[[], bool] = lambda: False
    ) -> Answer | None:
        """Waits for the answer; None if the job has taken `seconds` of CPU time since it began, or
        is not wanted any more.

        Raises:
            GrammarError: the process died of it.
        """
        process, pipe = self._process, self._pipe
        if process is None or pipe is None:
            raise RuntimeError("there is no process")
        try:
            while not pipe.poll(_LOOK_SECONDS):
                if is_unwanted():
                    return None
                used = _cpu_seconds(process.pid) - self._seconds_before
                if used > seconds or time.monotonic() - self._started > seconds * _WALL_FACTOR:
                    return None
            return pipe.recv()
        except (EOFError, OSError):
            self.end()
            raise GrammarError("needs too much memory or is nested too deep") from None

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            atexit.unregister(self._process.kill)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def stand_back(self) -> None:
        """Lowers the process's priority: the job takes long, so everything else comes first."""
        if self._process is not None:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)

    def _start(self) -> None:
        self.end()
        self._pipe, theirs = Pipe()
        with theirs:
            handle = theirs.fileno()
            code = f"from {self._program} import main; main({handle})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # its messages could quote the client's text
                pass_fds=(handle,),
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for the server
            )
        atexit.register(self._process.kill)
        self._pipe.send(self._tokens())
        try:
            self._pipe.recv()  # it is ready: its start counts for no job
        except EOFError:
            self.end()
            raise RuntimeError("the process that compiles grammars doesn't start") from None
        _logger.debug("process %d compiles grammars", self._process.pid)


def _cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS
