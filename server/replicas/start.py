"""From settings to an engine over replicas that serve."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch
from ray.serve.handle import DeploymentHandle

from server.config import ServerSettings
from server.engine.grammar.compile.service import GrammarCompiler
from server.engine.outputs import FinishedRequest
from server.loading.facts import ModelFacts
from server.loading.machine import pick_dtype
from server.loading.text import ModelText, load_text
from server.replicas.cluster import (
    Available,
    Cluster,
    available_in_cluster,
    is_elsewhere,
)
from server.replicas.deployment import (
    APP,
    Deployed,
    check_name_is_free,
    deploy,
    shared_out,
    undeploy,
)
from server.replicas.engine import ReplicatedEngine
from server.replicas.outputs import OutputReceiver
from server.replicas.routing.directory import directory
from server.replicas.sizes import check_memory, share_out, this_machine
from server.report import Report

_REPLACEMENTS = 3.0
"""A replacement may take so many times as long as the first replicas took."""
_MIN_REPLACEMENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Replicas:
    """Engines in other processes, and what this one needs to know of their model."""

    engine: ReplicatedEngine
    facts: ModelFacts
    text: ModelText
    grammars: GrammarCompiler
    """For what is refused before a replica is asked."""
    close: Callable[[], None]
    """Ends the replicas; takes seconds."""


def start_replicas(
    settings: ServerSettings,
    served_name: str,
    tell_ended: Callable[[tuple[FinishedRequest, ...]], None],
    report: Report,
) -> Replicas:
    """Starts the replicas and returns when they serve.

    Args:
        served_name: The model's in metrics.
        tell_ended: See `ReplicatedEngine`.

    Raises:
        StartupError: they can't be started as asked.
    """
    fewest, most = settings.replica_range
    here = None if is_elsewhere() else this_machine(settings)
    if here is not None:
        share_out(settings, here, most, most)
    device = torch.device("cuda" if here is None or here.num_gpus else "cpu")
    text = load_text(settings, pick_dtype(settings.dtype, device), report)
    if here is not None and not here.num_gpus:
        check_memory(settings, text.files.folder, most)
    shown = str(most) if fewest == most else f"{fewest} to {most}"
    report(f"starting {shown} replicas on Ray …")
    num_cpus = 1 if here is None else max(here.machines[0].num_cpus, most * (settings.threads or 1))
    cluster = Cluster(num_cpus)
    if not cluster.is_local:
        check_name_is_free()
    close = partial(_close, cluster)
    host = "127.0.0.1" if cluster.is_local else ray.util.get_node_ip_address()
    receiver = OutputReceiver(host)
    try:
        deployed = _deploy(settings, served_name, here, report)
    except BaseException:
        close()
        raise
    seconds = max(_MIN_REPLACEMENT_SECONDS, _REPLACEMENTS * deployed.start_seconds)
    return connect(
        settings,
        deployed.handle,
        deployed.facts,
        receiver,
        app=APP,
        text=text,
        replacement_seconds=seconds,
        tell_ended=tell_ended,
        close=close,
    )


def connect(
    settings: ServerSettings,
    handle: DeploymentHandle[Any],
    facts: ModelFacts,
    receiver: OutputReceiver,
    *,
    app: str,
    text: ModelText,
    replacement_seconds: float,
    tell_ended: Callable[[tuple[FinishedRequest, ...]], None],
    close: Callable[[], None],
) -> Replicas:
    """An engine over replicas that serve.

    Args:
        handle: Serve's, of the replicas.
        facts: Of their model.
        receiver: Where their outputs come.
        app: The name that Serve has for them.
        text: Of their model.
        replacement_seconds: See `ReplicatedEngine`.
        tell_ended: See `ReplicatedEngine`.
        close: Ends the replicas.
    """
    engine = ReplicatedEngine(
        handle,
        directory(app),
        receiver,
        facts,
        0 if settings.prefix_caching == "off" else settings.block_size,
        replacement_seconds,
        tell_ended,
    )
    return Replicas(engine, facts, text, GrammarCompiler(text.vocabulary()), close)


def _deploy(
    settings: ServerSettings,
    served_name: str,
    here: Available | None,
    report: Report,
) -> Deployed:
    fewest, most = settings.replica_range
    if here is None:  # a cluster may grow; this machine does not
        share = share_out(settings, available_in_cluster(), fewest, most)
    else:
        share = share_out(settings, here, most, most)
    fraction = None
    if here is not None and share.device == "cpu":
        fraction = settings.kv_memory_fraction / most
    return deploy(shared_out(settings, served_name, share, fraction), report)


def _close(cluster: Cluster) -> None:
    """Ends the replicas in a cluster. A Ray of our own ends with this process, as its kernel sees
    to: `ray.shutdown` would end the process with an error if anything asks Ray meanwhile."""
    if not cluster.is_local:
        undeploy()
