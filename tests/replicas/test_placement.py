"""How long is waited for Serve."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.replicas.placement import wait_until_running

LOADING = "Deployment 'engine' has 1 replicas that have taken more than 30s to initialize."
WAITING = (
    "Deployment 'engine' has 1 replicas that have taken more than 30s to be scheduled. Resources"
    ' required for each replica: {"CPU": 48}, total resources available: {"CPU": 8}. Use `ray'
    " status` for more details."
)


def app(status: str, said: str = "") -> Any:
    deployments = {"engine": SimpleNamespace(message=said)}
    return SimpleNamespace(status=status, message="it failed", deployments=deployments)


def wait(*seen: Any, seconds: float) -> int:
    """How often it looked; a second passes between two looks."""
    looks: Iterator[int] = iter(range(1000))
    found = [0]

    def read() -> Any:
        found[0] = next(looks)
        return seen[min(found[0], len(seen) - 1)]

    wait_until_running(read, seconds, lambda: float(found[0]), lambda _: None)
    return found[0]


def test_it_waits_for_as_long_as_replicas_load() -> None:
    seen = [None, *[app("DEPLOYING")] * 5, *[app("DEPLOYING", LOADING)] * 100, app("RUNNING")]
    assert wait(*seen, seconds=3) == 106


def test_a_replica_without_a_place_is_given_up_with_both_sizes() -> None:
    with pytest.raises(RuntimeError) as caught:
        wait(app("DEPLOYING"), app("DEPLOYING", WAITING), seconds=3)
    assert str(caught.value) == (
        "no place for a replica within 3 seconds. Resources required for each replica:"
        ' {"CPU": 48}, total resources available: {"CPU": 8}'
    )


def test_a_cluster_has_time_to_grow() -> None:
    seen = [*[app("DEPLOYING", WAITING)] * 3, app("DEPLOYING", LOADING)] * 9
    assert wait(*seen, app("RUNNING"), seconds=3) == len(seen)


def test_what_serve_gives_up_is_given_up() -> None:
    with pytest.raises(RuntimeError, match="it failed"):
        wait(app("DEPLOYING"), app("DEPLOY_FAILED"), seconds=3)


def test_serve_says_it_in_these_words() -> None:
    """In Ray's release that is installed: another one may have other words."""
    ray = find_spec("ray")
    assert ray is not None and ray.origin is not None
    source = (Path(ray.origin).parent / "serve/_private/deployment_state.py").read_text()
    assert "to be scheduled. " in source and "Resources required for each replica: " in source
