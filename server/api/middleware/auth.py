"""API keys over HTTP: `Authorization: Bearer KEY`, or `X-Api-Key: KEY`."""

from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.middleware.api_keys import ApiKeys, KeyDigest
from server.errors import AuthenticationError

OPEN_PATHS = frozenset(("/", "/health", "/ready", "/version", "/metrics", "/docs", "/openapi.json"))
"""Need no key: load balancers and Prometheus have none, and a browser can't send one with a page.
Every other path needs one, also those that are added later and those that don't exist."""

_OPEN_FOLDER = "/static/"
"""The playground's files."""

_KEY_OWNER = "api_key_owner"
_CURRENT = ContextVar[KeyDigest | None]("api_key_owner", default=None)


class ApiKeyMiddleware:
    """Lets requests with a valid key pass, and any request of an open path.

    Raises:
        AuthenticationError: there is no key, or not a valid one.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_open(scope):
            owner = self._owner(scope)
            scope.setdefault("state", {})[_KEY_OWNER] = owner
            _CURRENT.set(owner)
        await self._app(scope, receive, send)

    def _owner(self, scope: Scope) -> KeyDigest:
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":  # another one may be for a proxy
            key = headers.get("x-api-key", "")
        if not key.strip():
            raise AuthenticationError(
                "no API key: send the header 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
            )
        # Starlette decodes headers as Latin-1; this gives the bytes back.
        owner = self._keys.find(key.strip().encode("latin-1"))
        if owner is None:
            raise AuthenticationError("the API key is not valid here")
        return owner


def _is_open(scope: Scope) -> bool:
    """Whether a request needs no key. One with a body always does: strangers must not fill the
    memory that all bodies share."""
    path, headers = scope["path"], Headers(scope=scope)
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    return not has_body and (path in OPEN_PATHS or path.startswith(_OPEN_FOLDER))


def current_owner() -> KeyDigest | None:
    """The owner of the current request's key; None where no keys are needed."""
    return _CURRENT.get()


def key_owner(scope: Scope) -> KeyDigest | None:
    """The owner of a request's key; None where no keys are needed."""
    return scope.get("state", {}).get(_KEY_OWNER)
