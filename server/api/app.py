"""The app, made from its parts. Importing this module does nothing."""

import logging

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Lifespan

from server.api.body.unknown_fields import UnknownFieldLog
from server.api.chat import route as chat
from server.api.completions import route as completions
from server.api.deps import Parts
from server.api.http.errors import install_error_handlers
from server.api.http.lifecycle import Lifecycle
from server.api.messages import route as messages
from server.api.middleware.admission import Admission
from server.api.middleware.stack import MiddlewareConfig, middleware_stack
from server.api.openapi.describe import describe_api
from server.api.responses import route as responses
from server.api.service import health, models, not_offered, playground, tokenize


def create_app(
    parts: Parts, middleware: MiddlewareConfig, lifespan: Lifespan[FastAPI] | None = None
) -> FastAPI:
    """An ASGI app that serves one model.

    Args:
        parts: What the routes work with.
        middleware: Keys and limits.
        lifespan: Runs around serving; the place to start and stop the engine.
    """
    # At level debug it writes every chunk: conversations don't belong into logs.
    logging.getLogger("sse_starlette").setLevel(logging.INFO)
    modules = (
        chat,
        completions,
        responses,
        messages,
        models,
        tokenize,
        health,
        playground,
        not_offered,
    )
    routers = [module.router for module in modules]
    routes = [route for router in routers for route in router.routes]
    paths = [route.path for route in routes if isinstance(route, Route)]
    admission = Admission(middleware.limits)
    lifecycle = Lifecycle(parts.engine)
    app = FastAPI(
        title="Glidecape",
        version=parts.info.version,
        redirect_slashes=False,
        docs_url=None,  # ours is among the playground's pages
        redoc_url=None,
        lifespan=lifespan,
        middleware=middleware_stack(middleware, lifecycle, admission, parts.metrics, paths),
    )
    app.state.parts = parts
    app.state.lifecycle = lifecycle
    app.state.api_keys = middleware.api_keys
    app.state.admission = admission
    app.state.unknown_fields = UnknownFieldLog() if middleware.drops_unknown_fields else None
    install_error_handlers(app)
    describe_api(app, needs_key=middleware.api_keys is not None)
    for router in routers:
        app.include_router(router)
    return app
