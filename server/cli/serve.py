"""`glidecape serve`: the HTTP server."""

import contextlib
import socket
import ssl
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from sse_starlette.sse import AppStatus

from server.api.connection import connection_limits, http_options
from server.cli.options import with_settings
from server.cli.terminal import report, stderr
from server.config import ServerSettings
from server.errors import ConfigError
from server.logs import configure_logging

if sys.platform != "win32":
    import resource


@with_settings(ServerSettings)
def serve(settings: ServerSettings) -> None:
    """Serve a model over HTTP with OpenAI's API."""
    check_tls(settings.ssl_certfile, settings.ssl_keyfile)
    listener = bind(settings.host, settings.port)
    configure_logging(settings.log_level, settings.log_format)
    # Loading takes seconds: imports that need torch wait until the port is known to be ours.
    report("loading …")
    from server.build import build_app

    app, model = build_app(settings, report)
    server = uvicorn.Server(uvicorn_config(app, settings))
    # Open streams are finished after SIGTERM, as other answers are; sse-starlette would cut them.
    AppStatus.disable_automatic_graceful_drain()
    announce(settings, listener, settings.served_model_name or model.name)
    # uvicorn has shut down in order when it raises Ctrl-C again.
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """How the app is served; the files of TLS have been checked."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=30,
        server_header=False,
        **http_options(connection_limits(settings, open_files_limit())),
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
    )


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


def check_tls(certfile: Path | None, keyfile: Path | None) -> None:
    """Tries the files of TLS, so that what is wrong with them is said before a model is loaded.

    Raises:
        ConfigError: a file is missing, or the two don't make a certificate with its key.
    """
    if certfile is None:
        if keyfile is not None:
            raise ConfigError("ssl_keyfile", str(keyfile), "needs ssl_certfile")
        return
    for name, file in (("ssl_certfile", certfile), ("ssl_keyfile", keyfile)):
        if file is not None and not file.is_file():
            raise ConfigError(name, str(file), "no such file")
    try:
        # The password is one that no key has: without it OpenSSL would ask on the terminal.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            certfile, keyfile, password=""
        )
    except OSError as error:  # ssl.SSLError too
        name, file = ("ssl_keyfile", keyfile) if keyfile else ("ssl_certfile", certfile)
        reason = f"no certificate (PEM) with its unencrypted key: {error.strerror or error}"
        raise ConfigError(name, str(file), reason) from None


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
    stderr.print(
        f"  curl {address}/v1/chat/completions -H 'content-type: application/json'{key} \\\n"
        '    -d \'{"messages":[{"role":"user","content":"Why is the sky blue?"}],"stream":true}\'',
        markup=False,
        soft_wrap=True,
    )
