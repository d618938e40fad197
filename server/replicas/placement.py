"""Waits until an application of Serve runs, and gives up where there is no place for its replicas:
Serve itself would wait for ever."""

import re
import time
from collections.abc import Callable, Mapping
from typing import Protocol

_WAITING = "to be scheduled"
"""In what Serve says of a replica that has no place."""
_SIZES = re.compile(r"Resources required for each replica: .*?(?=\. Use|$)")
_LOOK_SECONDS = 0.1


class DeploymentStatus(Protocol):
    """As `ray.serve.status` has it."""

    @property
    def message(self) -> str: ...


class AppStatus(Protocol):
    """As `ray.serve.status` has it."""

    @property
    def status(self) -> str: ...

    @property
    def message(self) -> str: ...

    @property
    def deployments(self) -> Mapping[str, DeploymentStatus]: ...


def wait_until_running(
    read: Callable[[], AppStatus | None],
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns when the application runs.

    Args:
        read: The status of the application; None where Serve does not know it yet.
        seconds: How long a replica may have no place. A cluster may grow; loading a model takes
            as long as it takes.

    Raises:
        RuntimeError: Serve has given it up, or a replica has had no place for so long.
    """
    has_place = clock()
    while True:
        app = read()
        if app is not None and app.status == "RUNNING":
            return
        if app is not None and app.status == "DEPLOY_FAILED":
            raise RuntimeError(app.message)
        said = "" if app is None else "\n".join(each.message for each in app.deployments.values())
        if _WAITING not in said:
            has_place = clock()
        elif clock() - has_place > seconds:
            sizes = _SIZES.search(said)
            what = sizes[0] if sizes else said
            raise RuntimeError(f"no place for a replica within {seconds:g} seconds. {what}")
        sleep(_LOOK_SECONDS)
