"""The app, made from its parts. Importing this module does nothing."""

from fastapi import FastAPI

from server.api.deps import Parts
from server.api.errors import install_error_handlers
from server.api.middleware import RequestMiddleware
from server.api.routes import chat, completions, health, models


def create_app(parts: Parts) -> FastAPI:
    """An ASGI app that serves one model.

    Args:
        parts: What the routes work with. The caller starts and stops the engine.
    """
    app = FastAPI(title="Glidecape", version=parts.info.version, redirect_slashes=False)
    app.state.parts = parts
    app.add_middleware(RequestMiddleware, metrics=parts.metrics)
    install_error_handlers(app)
    for module in (chat, completions, models, health):
        app.include_router(module.router)
    return app
