"""What stands between a client and the routes, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response

from server.api.body.limit import BodyLimitMiddleware
from server.api.http.errors import EXCEPTION_HANDLERS, error_response, shown
from server.api.http.lifecycle import Lifecycle, LifecycleMiddleware
from server.api.middleware.admission import Admission, AdmissionLimits
from server.api.middleware.api_keys import ApiKeys
from server.api.middleware.auth import ApiKeyMiddleware
from server.api.middleware.concurrency import ConcurrencyMiddleware
from server.api.middleware.request import (
    ANTHROPIC_ID_HEADER,
    DROPPED_TOOLS_HEADER,
    REQUEST_ID_HEADER,
    RequestMiddleware,
)
from server.api.middleware.security_headers import SecurityHeadersMiddleware
from server.api.middleware.uniform_request import UniformRequestMiddleware
from server.config import ServerSettings
from server.errors import ConfigError, InvalidRequestError
from server.observe.front_metrics import FrontMetrics

LOCALHOST = "localhost"
"""Among the origins: pages of this machine, of any port."""

_THIS_MACHINE = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?"


@dataclass(frozen=True, slots=True)
class MiddlewareConfig:
    """Who may come in, from where, with how much."""

    api_keys: ApiKeys | None
    """None where no key is needed."""
    cors_origins: tuple[str, ...]
    """Origins of web pages that may call the API; `*` for all."""
    max_body_size: int
    """In bytes."""
    limits: AdmissionLimits
    drops_unknown_fields: bool
    """They are logged and left out; else refused."""


def middleware_config(settings: ServerSettings) -> MiddlewareConfig:
    """Makes keys and limits from the settings.

    Raises:
        ConfigError: a bad key, key file or origin; a limit per key where there are no keys.
    """
    api_keys = None
    if settings.api_key or settings.api_key_file is not None:
        file = settings.api_key_file and settings.api_key_file.expanduser()
        api_keys = ApiKeys([key.get_secret_value() for key in settings.api_key], file)
    if settings.max_concurrent_per_key is not None and api_keys is None:
        raise ConfigError(
            "max_concurrent_per_key",
            settings.max_concurrent_per_key,
            "needs api_key or api_key_file",
        )
    for origin in settings.cors_origins:
        _check_origin(origin)
    return MiddlewareConfig(
        api_keys=api_keys,
        cors_origins=settings.cors_origins,
        max_body_size=settings.max_body_size,
        limits=AdmissionLimits(
            max_running=settings.max_concurrent_requests,
            max_waiting=settings.max_queued_requests,
            max_per_key=settings.max_concurrent_per_key,
        ),
        drops_unknown_fields=settings.unknown_fields == "warn",
    )


def _check_origin(origin: str) -> None:
    """Browsers send `scheme://host[:port]`; anything else would silently never match."""
    parts = urlsplit(origin)
    is_origin = parts.scheme and parts.netloc and origin == f"{parts.scheme}://{parts.netloc}"
    if not is_origin and origin not in ("*", "null", LOCALHOST):
        raise ConfigError(
            "cors_origins",
            origin,
            "expected localhost, or such as https://app.example.com, no path",
        )


def middleware_stack(
    config: MiddlewareConfig,
    lifecycle: Lifecycle,
    admission: Admission,
    metrics: FrontMetrics,
    paths: Sequence[str],
) -> list[Middleware]:
    """All layers around the routes, from the outside in.

    Args:
        paths: The routes' paths, by which answers are counted.
    """
    layers = [
        Middleware(UniformRequestMiddleware),
        Middleware(SecurityHeadersMiddleware),
        Middleware(RequestMiddleware, metrics=metrics, paths=frozenset(paths)),
    ]
    if config.cors_origins:
        # Outside of errors and keys: a browser shows a page only what has CORS headers, a 401 and a
        # 500 too, and asks its preflight question without a key.
        layers.append(_cors(config.cors_origins))
    layers.append(Middleware(ExceptionMiddleware, handlers=EXCEPTION_HANDLERS))
    layers.append(Middleware(LifecycleMiddleware, lifecycle=lifecycle))
    if config.api_keys is not None:
        layers.append(Middleware(ApiKeyMiddleware, keys=config.api_keys))
    layers.append(Middleware(BodyLimitMiddleware, max_body_size=config.max_body_size))
    layers.append(Middleware(ConcurrencyMiddleware, admission=admission))
    return layers


class _Cors(CORSMiddleware):
    """Says in the API's own shape why a page's browser may not call."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        method = shown(request_headers["access-control-request-method"])
        refused = error_response(
            InvalidRequestError(
                f"pages of {shown(request_headers['origin'])} may not call this server with method"
                f" {method}; --cors-origins says whose may"
            )
        )
        refused.headers["vary"] = response.headers["vary"]
        return refused


def _cors(origins: Sequence[str]) -> Middleware:
    return Middleware(
        _Cors,
        allow_origins=origins,
        allow_origin_regex=_THIS_MACHINE if LOCALHOST in origins else None,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=("*",),  # OpenAI's client sends headers of its own
        expose_headers=(
            REQUEST_ID_HEADER,
            ANTHROPIC_ID_HEADER,
            DROPPED_TOOLS_HEADER,
            "retry-after",
        ),
    )
