"""The server's process as seen from outside: what signals do, and an end in order.

    SIGTERM, Ctrl-C   open requests are finished, for a while; exit code 0
    a second one      ends at once
    SIGHUP            API keys and certificates are read again; nothing is cut
    a dead engine     everyone is answered; exit code 1, so that a supervisor starts it anew

Whatever hangs, the process ends.
"""

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from types import FrameType
from typing import NoReturn

import uvicorn
from sse_starlette.sse import AppStatus

from server.api.http.certificates import read_again
from server.api.http.descriptors import DescriptorWatch
from server.api.http.lifecycle import Lifecycle

_logger = logging.getLogger(__name__)

EXIT_DEAD = 1

LAST_WORDS_SECONDS = 2.0
"""Time for errors to reach the clients whose requests were cut."""

PARTS_SECONDS = 15.0
"""Longest time from the cut to the process's end, where parts of it hang."""

_INTERPRETER_SECONDS = 1.0
"""Time for Python to end threads that are not needed any more, such as one that compiles a
grammar."""

_LAST_CALLS_SECONDS = 1.0
"""How long before that end the last calls are made."""

_LOOK_SECONDS = 0.05


_last_calls = list[Callable[[], None]]()


def at_any_end(call: Callable[[], None]) -> None:
    """Has a call made just before the process ends, also where it ends at once: it ends other
    processes, say. It may run between any two instructions of the main thread."""
    _last_calls.append(call)


class HttpServer(uvicorn.Server):
    """uvicorn's server with an end of its own: uvicorn's takes no second SIGTERM, cuts streams
    without a word, and raises the signal again when all is done.

    Args:
        drain_seconds: Time for open requests after a signal.
        exits_when_dead: End when the engine is dead; else stay, and answer with errors.
        read_keys: Reads the API keys again, on SIGHUP; None where no key is needed.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        drain_seconds: float,
        exits_when_dead: bool,
        read_keys: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_seconds = drain_seconds
        self._exits_when_dead = exits_when_dead
        self._read_keys = read_keys
        self._descriptors = DescriptorWatch()
        self._has_terminal = sys.stderr.isatty()
        # Streams are finished after SIGTERM, as other answers are; sse-starlette would cut them.
        AppStatus.disable_automatic_graceful_drain()

    @property
    def exit_code(self) -> int:
        """The process's exit code, once the server has ended."""
        return EXIT_DEAD if self._lifecycle.is_engine_dead else 0

    # Signals. Their handlers run between any two instructions of the main thread, so they take no
    # locks and log nothing.

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()

        def hang_up(number: int, frame: FrameType | None) -> None:
            if self._has_terminal and not os.isatty(2):
                self._end(number, frame)  # it was closed: Ctrl-C can't stop the server any more
            else:
                loop.call_soon_threadsafe(self._read_again)

        handlers = {signal.SIGINT: self._end, signal.SIGTERM: self._end}
        if sys.platform != "win32":
            handlers[signal.SIGHUP] = hang_up
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit:
            end_at_once(number)
        self.should_exit = True
        _end_surely(self._drain_seconds + PARTS_SECONDS)

    def _read_again(self) -> None:
        _logger.info("SIGHUP: reading keys and certificates again")
        if self._read_keys is not None:
            self._read_keys()
        if self.config.ssl is not None and self.config.ssl_certfile is not None:
            read_again(self.config.ssl, self.config.ssl_certfile, self.config.ssl_keyfile)

    # Serving and ending.

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        is_over = await super().on_tick(counter)
        if counter % 10 == 0:
            self._descriptors.look()
        return is_over or (self._exits_when_dead and self._lifecycle.is_engine_dead)

    async def main_loop(self) -> None:
        """Serves, and then goes on answering until no request is open, or their time is over."""
        await super().main_loop()
        lifecycle = self._lifecycle
        lifecycle.drain()
        if _last_calls:  # what ends the process surely makes no calls any more
            hanging = self._drain_seconds + PARTS_SECONDS - _LAST_CALLS_SECONDS
            _in_a_thread(hanging, _make_last_calls)
        if lifecycle.is_engine_dead:
            _end_surely(PARTS_SECONDS)
        else:
            _logger.info(
                "ending: %d open requests may take %g seconds more; a second signal ends at once",
                *(lifecycle.num_open, self._drain_seconds),
            )
        await self._until(
            lambda: not lifecycle.num_open or lifecycle.is_engine_dead, self._drain_seconds
        )
        if lifecycle.num_open:
            _logger.warning("ending: %d open requests are cut", lifecycle.num_open)
        lifecycle.cut()
        await self._until(lambda: not lifecycle.num_open, LAST_WORDS_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Closes everything. No client is waiting for an answer any more, but some may still have
        to read what was sent."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        await self._until(lambda: not state.connections, LAST_WORDS_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()
        await self._until(lambda: not state.tasks, LAST_WORDS_SECONDS)
        await self.lifespan.shutdown()
        _end_quietly(_INTERPRETER_SECONDS, self.exit_code)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits for a condition, but no longer than this."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition() and loop.time() < deadline:
            await super().on_tick(0)  # answers go on having the right date
            await asyncio.sleep(_LOOK_SECONDS)


def end_at_once(number: int, frame: FrameType | None = None) -> None:
    """Ends the process as a signal does. Not by the signal itself: as the first process of a
    container it would not even notice."""
    _make_last_calls()
    os._exit(128 + number)


def _end_surely(seconds: float) -> None:
    """Ends the process after so long, even where Python itself hangs, and says where."""
    faulthandler.dump_traceback_later(seconds, exit=True)


def _end_quietly(seconds: float, exit_code: int) -> None:
    """Ends the process after so long if the interpreter has not ended by itself."""
    _in_a_thread(seconds, leave, exit_code)


def _in_a_thread(seconds: float, call: Callable[..., object], *arguments: object) -> None:
    """Makes a call after so long, if the process is still there."""
    timer = threading.Timer(seconds, call, arguments)
    timer.daemon = True
    timer.start()


def leave(exit_code: int) -> NoReturn:
    """Ends the process, whatever its threads do."""
    logging.shutdown()
    _make_last_calls()
    os._exit(exit_code)


def _make_last_calls() -> None:
    for call in _last_calls:
        with contextlib.suppress(Exception):
            call()
