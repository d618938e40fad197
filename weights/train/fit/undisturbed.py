"""Work that Ctrl-C does not break off half-way."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def undisturbed() -> Generator[None, None, None]:
    """Ctrl-C within the block is raised behind it.

    Only the main thread gets signals; in others, and where Ctrl-C does something else than raise
    KeyboardInterrupt, nothing is changed.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    was_pressed = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal was_pressed
        was_pressed = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if was_pressed:
        raise KeyboardInterrupt
