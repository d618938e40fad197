"""`glidecape serve`: the HTTP server."""

import contextlib
import logging
import socket

import uvicorn
from sse_starlette.sse import AppStatus

from server.cli.options import with_settings
from server.cli.terminal import report, stderr
from server.config import ServerSettings
from server.errors import ConfigError


@with_settings(ServerSettings)
def serve(settings: ServerSettings) -> None:
    """Serve a model over HTTP with OpenAI's API."""
    listener = bind(settings.host, settings.port)
    # Loading takes seconds: imports that need torch wait until the port is known to be ours.
    report("loading …")
    from server.build import build_app

    app, model = build_app(settings, report)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=30,
        server_header=False,
    )
    server = uvicorn.Server(config)
    # Open streams are finished after SIGTERM, as other answers are; sse-starlette would cut them.
    AppStatus.disable_automatic_graceful_drain()
    _announce(listener, settings.served_model_name or model.name)
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(message)s")
    # uvicorn has shut down in order when it raises Ctrl-C again.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


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
    except OSError as error:
        key, value = ("port", port) if error.errno is not None and port else ("host", host)
        raise ConfigError(key, value, f"can't listen on {host}:{port}: {error.strerror}") from None
    return listener


def _announce(listener: socket.socket, name: str) -> None:
    host, port = listener.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    stderr.print(f"\n[bold]Serving {name} on {address}[/bold]  (Ctrl-C stops)")
    stderr.print(
        f"  curl {address}/v1/chat/completions -H 'content-type: application/json' \\\n"
        '    -d \'{"messages":[{"role":"user","content":"Why is the sky blue?"}],"stream":true}\'',
        markup=False,
        soft_wrap=True,
    )
