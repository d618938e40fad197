"""The server as an application of a Ray cluster, for `serve deploy` and `serve run`.

    front    the API, behind Serve's own proxies; one, since it keeps the stored responses
    engine   the replicas, as with `glidecape serve --replicas`

Serve's proxies take the connections: settings of address, TLS and connections are refused.
"""

import asyncio
from functools import partial
from typing import Any

import ray
import torch
from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from server.api.middleware.stack import middleware_config
from server.build import replicated_app, served_name, tell_ended
from server.config import ServerSettings, load_settings
from server.errors import ConfigError
from server.loading.machine import pick_dtype
from server.loading.text import load_text
from server.observe.logs import configure_logging
from server.observe.observers import Observers
from server.replicas.cluster import available_in_cluster
from server.replicas.deployment import shared_out
from server.replicas.outputs import OutputReceiver
from server.replicas.sizes import share_out
from server.replicas.start import connect
from server.report import say_nothing

_REPLACEMENT_SECONDS = 600.0
"""How long there may be no replica; nobody here knows how long the first ones took."""
_OTHER_REQUESTS = 1024
"""That the front takes beside those that generate or wait to: most are answered at once."""
_BY_PROXIES = "Serve's proxies take the connections, and have http_options of their own"
REFUSED = {
    **dict.fromkeys(("host", "port", "ssl_certfile", "ssl_keyfile"), _BY_PROXIES),
    **dict.fromkeys(("max_connections", "max_connections_per_client"), _BY_PROXIES),
    **dict.fromkeys(("max_head_size", "head_seconds", "body_seconds"), _BY_PROXIES),
    **dict.fromkeys(("keep_alive_seconds", "send_seconds"), _BY_PROXIES),
    "exit_on_engine_death": "Serve replaces what has died",
    "api_key": "Serve keeps and shows what args say; api_key_file or GLIDECAPE_API_KEY do not",
}
"""Settings that `args` can't have, and why. In the environment, which others may share, they do not
count."""


class Front:
    """The API, in a replica of its own.

    Args:
        args: Settings.
        device: Of the replicas.
        engine: The replicas.
    """

    def __init__(self, args: dict[str, Any], device: str, engine: DeploymentHandle[Any]) -> None:
        self._settings = load_settings(ServerSettings, **args)
        self._device = device
        self._engine = engine
        configure_logging(self._settings.log_level, self._settings.log_format)

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Serve asks for the app here, since it needs what the replicas say of themselves."""
        settings, name = self._settings, served_name(self._settings)
        facts_of: Any = self._engine.facts
        facts = await facts_of.remote()
        dtype = pick_dtype(settings.dtype, torch.device(self._device))
        # Ray's logs have the replicas' own reports.
        text = await asyncio.to_thread(load_text, settings, dtype, say_nothing)
        observers = Observers(settings, name, counts_steps=False)
        replicas = connect(
            settings,
            self._engine,
            facts,
            OutputReceiver(ray.util.get_node_ip_address()),
            app=serve.get_replica_context().app_name,
            text=text,
            replacement_seconds=_REPLACEMENT_SECONDS,
            tell_ended=partial(tell_ended, observers),
            close=_leave,
        )
        return replicated_app(settings, middleware_config(settings), observers, replicas)


def build(args: dict[str, Any]) -> serve.Application:
    """What `import_path: server.serve_app:build` names.

    Args:
        args: Settings, by their names in `server/config.py`.

    Raises:
        ConfigError: a bad setting, or one that counts for nothing here.
    """
    for name, reason in REFUSED.items():
        if name in args:
            raise ConfigError(name, "…" if name == "api_key" else args[name], reason)
    settings = load_settings(ServerSettings, **args)
    # None of them has to have room at once: machines may join later, or when they are asked for,
    # and Serve says what it waits for.
    share = share_out(settings, available_in_cluster(), 0, settings.replica_range[1])
    engine = shared_out(settings, served_name(settings), share)
    num_generating = settings.max_concurrent_requests + settings.max_queued_requests
    as_ingress: Any = serve.ingress()
    front: Any = serve.deployment(
        name="front",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=num_generating + _OTHER_REQUESTS,
        graceful_shutdown_timeout_s=settings.drain_seconds,
    )
    return front(as_ingress(Front)).bind(args, share.device, engine)


def _leave() -> None:
    """Serve ends the replicas."""
