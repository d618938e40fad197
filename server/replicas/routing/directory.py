"""Where a front and its router meet. Serve makes the router itself, in the front's process, and
hands it to nobody.
"""

import threading
import time


class Directory:
    """The replicas of a deployment that requests can be sent to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: tuple[str, ...] = ()
        self._empty_since: float | None = time.monotonic()

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def empty_seconds(self) -> float:
        """For how long there has been none; 0 where there are some."""
        since = self._empty_since
        return 0.0 if since is None else time.monotonic() - since

    def set_names(self, names: tuple[str, ...]) -> None:
        with self._lock:
            self._names = names
            if names:
                self._empty_since = None
            elif self._empty_since is None:
                self._empty_since = time.monotonic()


_directories: dict[str, Directory] = {}


def directory(app: str) -> Directory:
    """The one of an application of Serve; made when it is first asked for."""
    return _directories.setdefault(app, Directory())
