"""`glidecape serve`: the HTTP server."""

import signal
import socket
from typing import TYPE_CHECKING, NoReturn

import typer
import uvicorn
from fastapi import FastAPI

from server import __version__
from server.api.http.certificates import check_tls
from server.api.http.connection import http_options
from server.api.http.descriptors import open_files_limit
from server.api.http.limits import connection_limits
from server.api.http.server import HttpServer, at_any_end, end_at_once, leave
from server.api.middleware.api_keys import ApiKeys
from server.cli.options import with_settings
from server.cli.terminal import report, stderr
from server.config import ServerSettings
from server.errors import ConfigError
from server.memory import freeze_loaded
from server.observe.logs import configure_logging

if TYPE_CHECKING:
    from server.build import Served


@with_settings(ServerSettings)
def serve(settings: ServerSettings) -> None:
    """Serve a model over HTTP with OpenAI's API."""
    check_tls(settings.ssl_certfile, settings.ssl_keyfile)
    listener = bind(settings.host, settings.port)
    if settings.is_replicated:
        from server.replicas.cluster import check_ray, is_elsewhere, kill_children

        check_ray()
        if not is_elsewhere():
            at_any_end(kill_children)
    configure_logging(settings.log_level, settings.log_format)
    signal.signal(signal.SIGTERM, end_at_once)  # until there is something to end in order
    # Loading takes seconds: imports that need torch wait until the port is known to be ours.
    report(f"glidecape {__version__}, loading …")
    from server.build import build

    served = build(settings, report)
    freeze_loaded()
    report(f"speculation policy: {served.policy}")
    run(served, settings, listener)


def run(served: "Served", settings: ServerSettings, listener: socket.socket) -> NoReturn:
    """Serves until a signal or the engine's death, and ends the process."""
    app = served.app
    api_keys: ApiKeys | None = app.state.api_keys
    server = HttpServer(
        uvicorn_config(app, settings),
        app.state.lifecycle,
        settings.drain_seconds,
        settings.exit_on_engine_death,
        api_keys and api_keys.read_again,
    )
    announce(settings, listener, served.name)
    server.run(sockets=[listener])
    if served.engine.is_running:
        leave(server.exit_code)
    raise typer.Exit(server.exit_code)


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """How the app is served; the files of TLS have been checked."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        **http_options(connection_limits(settings, open_files_limit())),
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )


def bind(host: str, port: int) -> socket.socket:
    """A socket that accepts connections from now on (they wait while the model loads).

    Raises:
        ConfigError: the port is in use, or the address isn't this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except UnicodeError:  # before anything is asked: no host can be called that
        raise ConfigError("host", host, "is no name of a host") from None
    except OSError as error:
        key, value = ("port", port) if error.errno is not None and port else ("host", host)
        raise ConfigError(key, value, f"can't listen on {host}:{port}: {error.strerror}") from None
    return listener


def announce(settings: ServerSettings, listener: socket.socket, name: str) -> None:
    """Says where the server is, and how to ask it; KEY stands for one of the API keys."""
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    scheme = "https" if settings.ssl_certfile else "http"
    needs_key = settings.api_key or settings.api_key_file
    key = " -H 'authorization: Bearer KEY'" if needs_key else ""
    address = f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
    stderr.print(f"\n[bold]Serving {name} on {address}[/bold]  (Ctrl-C stops)")
    stderr.print(f"  open {address} in a browser, or ask:", markup=False, soft_wrap=True)
    stderr.print(
        f"  curl {address}/v1/chat/completions -H 'content-type: application/json'{key} \\\n"
        '    -d \'{"messages":[{"role":"user","content":"Why is the sky blue?"}],"stream":true}\'',
        markup=False,
        soft_wrap=True,
    )
