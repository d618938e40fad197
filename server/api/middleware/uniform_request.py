"""Requests as the routes know them, of whatever form clients send."""

import re
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SLASHES = re.compile("/{2,}")


class UniformRequestMiddleware:
    """HEAD is GET without the body, on every path. A path's slashes count once, and none at its end
    (`http://host/v1/` as base URL and `/models` make two); a whole URL as target, as proxies get
    it, is its path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["path"] = uniform_path(scope["path"])
        if scope["method"] == "HEAD":
            # A copy: the server below has to know what was asked for.
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self._app(scope, receive, _with_head_allowed(send))


def uniform_path(path: str) -> str:
    """
    "//v1//models/" → "/v1/models", "http://host/v1/models" → "/v1/models"
    """
    if not path.startswith("/") and "://" in path:
        try:
            path = urlsplit(path).path
        except ValueError:  # no URL: a path that no route has
            return path
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path.rstrip("/") or "/"


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_head


def _with_head_allowed(send: Send) -> Send:
    """A 405 names the methods that there are."""

    async def send_allowed(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 405:
            headers = MutableHeaders(scope=message)
            allowed = headers.get("allow", "").split(", ")
            if "GET" in allowed and "HEAD" not in allowed:
                headers["allow"] = ", ".join([*allowed, "HEAD"])
        await send(message)

    return send_allowed
