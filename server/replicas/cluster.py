"""Ray itself: joined where RAY_ADDRESS names a cluster, else started on this machine, where it ends
with this process.
"""

import importlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

import server
from server.errors import ConfigError, StartupError

ADDRESS = "RAY_ADDRESS"
_PROBE_SECONDS = 10.0
_JOIN_SECONDS = 60.0
_OBJECT_STORE_BYTES = 100 * 2**20
"""Of a Ray of our own. Tokens don't go through it; Ray takes no less than 75 MB."""
_TOKENS = (
    "; where the cluster asks for tokens, RAY_AUTH_MODE and RAY_AUTH_TOKEN have to be as there"
)
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it tells nobody of us
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # else a line on stderr for each process that we start
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning, for replicas without a GPU
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",  # not ten times a second: 3 % of a CPU
}


class Machine(NamedTuple):
    """What a machine has for replicas."""

    num_cpus: int
    num_gpus: int


class Available(NamedTuple):
    """What there is for all replicas together."""

    where: str
    """For people."""
    machines: tuple[Machine, ...]

    @property
    def num_gpus(self) -> int:
        return sum(machine.num_gpus for machine in self.machines)

    def num_places(self, num_cpus: int, num_gpus: int) -> int:
        """How many replicas of that size there is room for: a replica lies on one machine."""
        found = 0
        for machine in self.machines:
            by_cpus = machine.num_cpus // num_cpus
            found += min(by_cpus, machine.num_gpus // num_gpus) if num_gpus else by_cpus
        return found


def check_ray() -> None:
    """Imports Ray Serve, which reads its environment then; to be called before anything else here.

    Raises:
        StartupError: it is not installed, or RAY_ADDRESS leads nowhere.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for needed in ("ray.serve", "zmq"):
                importlib.import_module(needed)
    except ImportError as error:
        raise StartupError(
            f"more than one replica needs the extra ray: pip install 'glidecape[ray]' ({error})"
        ) from None
    check_address()


def check_address() -> None:
    """Raises ConfigError where RAY_ADDRESS is none, or nobody listens there."""
    if is_elsewhere() and os.environ[ADDRESS] != "auto":
        _probe(os.environ[ADDRESS])


def available_in_cluster() -> Available:
    """What the machines of the cluster that was joined have, whoever uses it at the moment."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = (Machine(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in found)
    return Available("the cluster", tuple(machines))


def kill_children() -> None:
    """Kills all processes that come of this one. Ray's die by themselves when it ends, but some of
    them only after a minute."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.kill()


def is_elsewhere() -> bool:
    """Whether there is a cluster to be joined."""
    return os.environ.get(ADDRESS, "local") not in ("", "local")


def _probe(address: str) -> None:
    """Asks whether anybody listens; Ray itself would try for a minute, and end the process."""
    if "://" in address:
        raise ConfigError(
            ADDRESS, address, "expected HOST:PORT of a cluster that this machine is in"
        )
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS):
            pass
    except ValueError:
        raise ConfigError(ADDRESS, address, "expected HOST:PORT") from None
    except OSError as error:
        reason = f"no cluster answers within {_PROBE_SECONDS:g} seconds: {error}"
        raise ConfigError(ADDRESS, address, reason) from None


class Cluster:
    """A connection to Ray.

    Args:
        num_cpus: Of a Ray of our own, as far as it shares them out.

    Raises:
        StartupError: Ray does not start, or the cluster does not take us.
    """

    def __init__(self, num_cpus: int) -> None:
        import ray

        address = os.environ.get(ADDRESS) or "local"
        self.is_local = address == "local"
        options: dict[str, Any] = {
            "address": address,
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        if self.is_local:
            # Ray asks every process for a token. It would write one of its own into the home
            # folder, which may be read-only; the processes that it starts inherit this one.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
            options |= {
                "num_cpus": num_cpus,
                "include_dashboard": False,
                "object_store_memory": _OBJECT_STORE_BYTES,
                "runtime_env": {"env_vars": {"PYTHONPATH": _import_path()}},
            }
        try:
            with _own_signals(), nullcontext() if self.is_local else _patience(address):
                ray.init(**options)
        except Exception as error:
            hint = "" if self.is_local else _TOKENS
            raise StartupError(f"Ray ({ADDRESS}={address}): {_first_line(error)}{hint}") from None


def _import_path() -> str:
    """Where this package was imported from: workers must find the same one."""
    own = str(Path(server.__file__).parents[1])
    return os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def _own_signals() -> Generator[None]:
    """Keeps the handlers of signals that Ray would replace."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError):  # not in the main thread, where Ray leaves them alone
                signal.signal(number, handler)


@contextmanager
def _patience(address: str) -> Generator[None]:
    """Ends the process with exit code 2 where Ray waits for too long: it waits for minutes for what
    listens at its address and is no Ray, in a call that can't be interrupted."""

    def give_up() -> None:
        reason = f"it did not answer within {_JOIN_SECONDS:g} seconds"
        sys.stderr.write(f"glidecape: {ConfigError(ADDRESS, address, reason)}\n")
        sys.stderr.flush()
        os._exit(2)

    timer = threading.Timer(_JOIN_SECONDS, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
