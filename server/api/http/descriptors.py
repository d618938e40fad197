"""The file descriptors of the process: how many it may have, and a log line when none is left.

Nothing else would show that: the system then resets connections before any code of ours sees them.
"""

import contextlib
import errno
import logging
import os
import sys

if sys.platform != "win32":
    import resource

_logger = logging.getLogger(__name__)


def open_files_limit() -> int:
    """How many files and connections this process may have open: as many as it is allowed to ask
    for, often far more than it has at first."""
    if sys.platform == "win32":
        return 8192  # what its C library can have
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # not everywhere is the hard limit allowed
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class DescriptorWatch:
    """Tries now and then whether there is one; what changed is logged."""

    def __init__(self) -> None:
        self._are_out = False

    def look(self) -> None:
        """Costs microseconds."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and not self._are_out:
                self._are_out = True
                _logger.error(
                    "%s: new connections are reset until others close; a higher limit of open files"
                    " (ulimit -n) allows more",
                    error.strerror,
                )
            return
        if self._are_out:
            self._are_out = False
            _logger.warning("there are file descriptors again: new connections are served")
