"""The app, made from its parts. Importing this module does nothing."""

import logging

from fastapi import FastAPI
from starlette.types import Lifespan

from server.api.deps import Parts
from server.api.errors import install_error_handlers
from server.api.middleware import RequestMiddleware
from server.api.routes import chat, completions, health, models


def create_app(parts: Parts, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """An ASGI app that serves one model.

    Args:
        parts: What the routes work with.
        lifespan: Runs around serving; the place to start and stop the engine.
    """
    # At level debug it writes every chunk: conversations don't belong into logs.
    logging.getLogger("sse_starlette").setLevel(logging.INFO)
    app = FastAPI(
        title="Glidecape", version=parts.info.version, redirect_slashes=False, lifespan=lifespan
    )
    app.state.parts = parts
    app.add_middleware(RequestMiddleware, metrics=parts.metrics)
    install_error_handlers(app)
    for module in (chat, completions, models, health):
        app.include_router(module.router)
    return app
