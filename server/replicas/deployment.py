"""The replicas as a deployment of Ray Serve: started, described, ended."""

import logging
import re
import time
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from server.config import ServerSettings, as_given
from server.errors import StartupError
from server.loading.facts import ModelFacts
from server.loading.machine import pick_dtype
from server.replicas.placement import wait_until_running
from server.replicas.replica import EngineReplica, ReplicaSettings
from server.replicas.routing.choice import IMBALANCE
from server.replicas.sizes import Share
from server.report import Report

APP = "glidecape"
_ROUTER = "server.replicas.routing.router.PrefixRouter"
_STATS_SECONDS = 2.0
_STALE_SECONDS = 3 * _STATS_SECONDS
_HEALTH_SECONDS = 2.0
_HEALTH_TIMEOUT = 30.0
_PLACE_SECONDS = 300.0
"""How long a replica may wait for a place; a machine that is added to a cluster takes minutes."""
_OTHER_CALLS = 64
"""Of all fronts at a time beside their requests: short ones."""
_GRACE_SECONDS = 4.0
"""What a replica may take beyond draining, to end."""
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
_ERROR = re.compile(r"^(?:.*\.)?(?:\w+Error): (.+)$", re.MULTILINE)
_OURS = re.compile(r"^server\.errors\.\w+: (.+)$", re.MULTILINE)


class Resources(NamedTuple):
    """What Ray reserves for a replica."""

    num_cpus: int
    num_gpus: int


class Deployed(NamedTuple):
    """Replicas that serve."""

    handle: DeploymentHandle[Any]
    facts: ModelFacts
    start_seconds: float
    """How long the first ones took to start."""


def shared_out(
    settings: ServerSettings, served_name: str, share: Share, kv_fraction: float | None = None
) -> serve.Application:
    """What Serve is to run, where each replica gets such a share of the machines.

    Args:
        kv_fraction: see `replica_settings`.
    """
    replica = replica_settings(
        settings,
        served_name,
        device=share.device,
        threads=share.num_cpus if share.device == "cpu" else settings.threads,
        kv_fraction=kv_fraction,
    )
    return application(settings, replica, Resources(share.num_cpus, share.num_gpus))


def application(
    settings: ServerSettings, replica: ReplicaSettings, resources: Resources
) -> serve.Application:
    """What Serve is to run."""
    fewest, most = settings.replica_range
    scale: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.autoscale is not None:
        first = settings.replicas if "replicas" in settings.model_fields_set else fewest
        scale = {
            "autoscaling_config": {
                "min_replicas": fewest,
                "max_replicas": most,
                "initial_replicas": first,
                "target_ongoing_requests": max(settings.max_num_seqs // 2, 1),
            }
        }
    router: dict[str, Any] = {
        "request_router_class": _ROUTER,
        "request_router_kwargs": {"imbalance": IMBALANCE, "stale_seconds": _STALE_SECONDS},
        "request_routing_stats_period_s": _STATS_SECONDS,
        "request_routing_stats_timeout_s": _HEALTH_TIMEOUT,
    }
    deploy: Any = serve.deployment(
        name="engine",
        ray_actor_options=resources._asdict(),
        max_ongoing_requests=settings.max_concurrent_requests + _OTHER_CALLS,
        graceful_shutdown_timeout_s=settings.drain_seconds + _GRACE_SECONDS,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=_HEALTH_SECONDS,
        health_check_timeout_s=_HEALTH_TIMEOUT,
        max_constructor_retry_count=1,
        request_router_config=RequestRouterConfig(**router),
        **scale,
    )
    return deploy(EngineReplica).bind(replica)


def replica_settings(
    settings: ServerSettings,
    served_name: str,
    *,
    device: str,
    threads: int | None,
    kv_fraction: float | None,
) -> ReplicaSettings:
    """What each replica is started with: the same, also the precision, which each machine would
    else choose by itself.

    Args:
        threads: Of each; None leaves it to the machine.
        kv_fraction: Share of the free memory for each KV cache; None leaves it to the settings.
    """
    dtype = pick_dtype(settings.dtype, torch.device(device))
    model = as_given(settings) | {"device": device, "dtype": str(dtype).removeprefix("torch.")}
    if threads is not None:
        model["threads"] = threads
    if kv_fraction is not None:
        model["kv_memory_fraction"] = kv_fraction
    return ReplicaSettings(model, served_name, settings.step_timeout)


def check_name_is_free() -> None:
    """Refuses to start where the cluster has such replicas already: Serve would take them for these
    ones, change them, and remove them at the end.

    Raises:
        StartupError: it has.
    """
    if APP in serve.status().applications:
        raise StartupError(
            f"the cluster runs an application {APP!r} already, another server's or what a killed"
            " one has left; `serve shutdown` removes it, with all else that Serve runs there"
        )


def deploy(app: serve.Application, report: Report) -> Deployed:
    """Starts the replicas, and returns when they serve.

    Raises:
        StartupError: they don't start; with the first one's reason.
    """
    started = time.monotonic()
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config=_QUIET)
    target = serve.RunTarget(app, name=APP, route_prefix=None, logging_config=_QUIET)
    try:
        (handle,) = serve.run_many([target], wait_for_applications_running=False)
        wait_until_running(lambda: serve.status().applications.get(APP), _PLACE_SECONDS)
        facts = handle.options(method_name="facts").remote().result(timeout_s=_HEALTH_TIMEOUT)
    except (RuntimeError, TimeoutError, RayError, RayServeException) as error:
        raise StartupError(f"the replicas don't start: {_reason(error)}") from None
    seconds = time.monotonic() - started
    report(f"replicas are ready ({seconds:.0f} s)")
    return Deployed(handle, facts, seconds)


def undeploy() -> None:
    """Ends the replicas, and leaves whatever else Serve runs."""
    with suppress(Exception):
        serve.delete(APP)


def _reason(error: Exception) -> str:
    """The line that tells most: Serve's text has the replica's traceback in it."""
    text = str(error)
    with suppress(Exception):
        status = serve.status().applications[APP]
        text += "\n" + "\n".join(d.message for d in status.deployments.values())
    for pattern in (_OURS, _ERROR):
        found = pattern.findall(text)
        if found:
            return found[-1]
    return next(iter(text.strip().splitlines()), type(error).__name__)
